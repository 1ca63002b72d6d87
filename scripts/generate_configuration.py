"""Makes the tables of docs/configuration.md, and .env.example, from scada_trio.variables.

Run by `make configuration`, and with --check by `make check`. In the document only what stands between two markers,
``<!-- variables: NAME -->`` and ``<!-- end -->``, is made; the rest is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from scada_trio.config import Settings
from scada_trio.variables.about import About

SECTIONS: tuple[type[BaseSettings], ...] = Settings.__bases__  # type: ignore[assignment]  # a class for each subject

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / ".env.example"

HEAD = """\
# Every variable that scada-trio reads, with its unit and its default. What stands behind a # may be left out.
# Copy to .env, then either `set -a; . ./.env; set +a` in a shell or `podman run --env-file .env`.
# An empty value counts as left out. A bad one stops the start with a line that names the variable, exit status 2.
# Made by scripts/generate_configuration.py; docs/configuration.md tells more of each.
"""
TABLE = "| variable | type | unit | default | range | meaning |\n|---|---|---|---|---|---|\n"


def about(name: str, field: FieldInfo) -> About:
    """What is told of a field; raises `ValueError` where nothing is."""
    found = [part for part in field.metadata if isinstance(part, About)]
    if len(found) != 1 or not found[0].text.strip():
        raise ValueError(f"{name.upper()} has no description: give it an About")
    return found[0]


def _choices(field: FieldInfo) -> list[str]:
    if field.annotation is bool:
        return ["true", "false"]
    if typing.get_origin(field.annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(field.annotation)]
    return []


def type_of(field: FieldInfo) -> str:
    """What a value looks like, in a word or two."""
    kind: Any = field.annotation
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if _choices(field):
        return "choice"
    if typing.get_origin(kind) is tuple:
        return "list"
    return {int: "integer", str: "text", SecretStr: "**secret**"}.get(kind, "path")


def range_of(name: str, field: FieldInfo) -> str:
    """What is accepted; empty where anything of its type is."""
    told = about(name, field)
    if told.range:
        return told.range
    if choices := _choices(field):
        return ", ".join(choices)
    least = next((part.ge for part in field.metadata if hasattr(part, "ge")), None)
    most = next((part.le for part in field.metadata if hasattr(part, "le")), None)
    return "" if least is None else f"{least:,} to {most:,}"


def default_of(field: FieldInfo) -> str:
    """As it is typed; empty where there is none."""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "" if field.default is None else str(field.default)


def table(section: type[BaseSettings]) -> str:
    """The rows of one subject."""
    rows = []
    for name, field in section.model_fields.items():
        told = about(name, field)
        unit = "–" if told.unit == "one of" else told.unit
        cells = (f"`{name.upper()}`", type_of(field), unit, default_of(field) or "–", range_of(name, field) or "–")
        rows.append(f"| {' | '.join(cells)} | {told.text} |\n")
    return TABLE + "".join(rows)


def document(text: str) -> str:
    """The document with its tables as they should be; raises `ValueError` where markers are missing."""
    for section in SECTIONS:
        name = section.__name__.removesuffix("Variables").lower()
        pattern = rf"(<!-- variables: {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda match: match[1] + table(section) + match[2], text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise ValueError(f"docs/configuration.md has no place for the variables: {name}")
    return text


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1", markdown).replace("`", "")


def example() -> str:
    """The text of .env.example."""
    parts = [HEAD]
    for section in SECTIONS:
        parts.append(f"\n# --- {section.__doc__.splitlines()[0].rstrip('.') if section.__doc__ else ''}\n")
        for name, field in section.model_fields.items():
            told, default = about(name, field), default_of(field)
            unit = f"One of {range_of(name, field)}" if told.unit == "one of" else told.unit[0].upper() + told.unit[1:]
            lines = textwrap.wrap(f"{unit}. {_plain(told.text)}", width=116, break_on_hyphens=False)
            value = f"{name.upper()}={default}" if default else f"#{name.upper()}={told.example}"
            parts.append("\n" + "".join(f"# {line}\n" for line in lines) + value + "\n")
    return "".join(parts)


def main() -> None:
    """Write both, or compare; exit status 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file is stale")
    checks = parser.parse_args().check
    made = {DOCUMENT: document(DOCUMENT.read_text("utf-8")), EXAMPLE: example()}
    stale = [path for path, text in made.items() if path.read_text("utf-8") != text]
    if checks and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"stale: {names}; run `make configuration`")
    for path in stale:
        path.write_text(made[path], "utf-8")


if __name__ == "__main__":
    main()
