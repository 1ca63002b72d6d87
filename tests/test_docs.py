"""What the documents say: commands run, links lead somewhere, names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr

from scada_trio.cli import app
from scada_trio.config import Settings
from scada_trio.metrics import Metrics
from tests.fix_postgres import PostgresServer, fetch
from tests.test_cli import FAST, KEY, Cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
VARIABLES = {name.upper() for name in Settings.model_fields}
OF_OTHERS = re.compile(r"TEST_\w+|TENANT_DATABASE_URL|NO_COLOR")  # of the tests, of one command, of every program
OTHER_NAMES = (
    "CHANGELOG.md",
    "api.md",
    "nestjs.md",
)  # settings that are gone, enumerations, another program's settings
RUN_FOR_REAL = ("operations.md", "troubleshooting.md")
NOT_RUN = {"serve"}  # which does not end by itself; the set-up runs it


@dataclass(frozen=True)
class Command:
    """A command as a document gives it, on one line."""

    document: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def blocks(path: Path, language: str) -> Iterator[str]:
    """Fenced blocks of one language, without the indentation that a list gives them."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    for indent, block in re.findall(pattern, path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)


def commands() -> list[Command]:
    return [
        Command(path.relative_to(ROOT).as_posix(), line.strip())
        for path in DOCUMENTS
        for block in blocks(path, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("scada-trio ")
    ]


@pytest.mark.parametrize("command", commands(), ids=str)
def test_commands_and_options_exist(command: Command) -> None:
    words = shlex.split(command.text, comments=True)[1:]
    root: Any = typer.main.get_command(app)
    at = root
    while words and words[0] in getattr(at, "commands", {}):
        at, words = at.commands[words[0]], words[1:]
    assert at is not root or words[0].startswith("--"), "no such command"
    known = {name for parameter in at.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


# --- for real


@pytest.fixture(scope="module")
def site(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A tenant as the documents name it, whose service has run; `scada-trio` is on the path."""
    directory = tmp_path_factory.mktemp("site")
    program = directory / "bin" / "scada-trio"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scada_trio "$@"\n')
    program.chmod(0o755)
    (directory / "new-url.txt").write_text("postgresql://scada:secret@db2/permian")
    cli = Cli(
        {
            **FAST,
            "DATABASE_URL": postgres.create_database().get_secret_value(),
            "ENCRYPTION_KEY": KEY,
            "DATA_DIR": str(directory / "data"),
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
        },
        directory,
    )
    cli.ok("migrate")
    cli.ok("tenant", "add", "Permian Basin Operating")
    with cli.serving() as serving:
        serving.until("tenant started")
    return cli


@pytest.mark.parametrize(
    "command",
    [
        command
        for command in commands()
        if command.document.endswith(RUN_FOR_REAL) and command.text.split()[1] not in NOT_RUN
    ],
    ids=str,
)
def test_commands_run(site: Cli, command: Command) -> None:
    done = subprocess.run(
        ["sh", "-c", command.text], env=site.env, cwd=site.cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "secret" not in done.stdout


def test_statements_run_in_the_master_database(site: Cli) -> None:
    url = SecretStr(site.env["DATABASE_URL"])
    (before,) = fetch(url, "SELECT database_url, status FROM tenants")
    statements = list(blocks(ROOT / "docs" / "operations.md", "sql"))
    assert all(statement.startswith("-- master\n") for statement in statements)
    for statement in statements:
        fetch(url, statement)
    assert fetch(url, "SELECT database_url, status FROM tenants") == [("...", "ACTIVE")]
    fetch(url, "UPDATE tenants SET database_url = %s, status = %s", *before)


# --- names


def anchors(path: Path) -> set[str]:
    """As a forge makes them of headings: lower case, spaces to hyphens, no punctuation."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", path.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in OTHER_NAMES], ids=lambda path: path.name
)
def test_variables_are_settings(path: Path) -> None:
    for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", path.read_text("utf-8")):
        assert name in VARIABLES or OF_OTHERS.fullmatch(name), name


def metric_names() -> set[str]:
    found = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("", "_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found | {"scada_certificate_expiry_timestamp_seconds"}  # which a service adds


def relations() -> set[str]:
    migrations = (ROOT / "scada_trio" / "storage" / "migrations").rglob("*.sql")
    return set(re.findall(r"\bscada_\w+", "\n".join(path.read_text("utf-8") for path in migrations)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_metrics_and_tables_exist(path: Path) -> None:
    known = metric_names() | relations() | {"scada_trio", "scada_migrations", "scada_config"}
    for name in re.findall(r"`(scada_\w+)(?:\{[^`]*\})?`", path.read_text("utf-8")):
        assert name in known, name


def test_every_alert_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "monitoring" / "alerts.yml").read_text("utf-8"))
    described = re.findall(r"^### (Scada\w+)$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
    assert described == alerts


def test_decisions_are_listed() -> None:
    directory = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (directory / "README.md").read_text("utf-8"))
    assert listed == sorted(path.name for path in directory.glob("0*.md"))
    for name in listed:
        text = (directory / name).read_text("utf-8")
        for part in ("Question", "Decision", "What decided", "Price"):
            assert f"**{part}.**" in text, name
        assert re.search(r"\d", text.partition("**What decided.**")[2]), f"{name} has no figure"
