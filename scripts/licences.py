"""Holds what is installed from a lock to scripts/licences.toml; run by `make licences`.

It runs in the environment of the tools and reads the metadata of the other one, which needs none of them:

    build/audit/bin/python scripts/licences.py requirements.lock .venv

A package says its licence in `License-Expression`, else in its classifiers (of several each must be allowed), else
in `License`. What says nothing, or nothing that is known, fails as well as what is not allowed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

POLICY = Path(__file__).with_suffix(".toml")
SPDX = get_spdx_licensing()


@dataclass(frozen=True)
class Policy:
    """scripts/licences.toml: SPDX names for all, an SPDX expression by package, SPDX names by what else is said."""

    allowed: frozenset[str]
    package: Mapping[str, str]
    means: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = POLICY) -> Policy:
        """Raises `OSError`, `tomllib.TOMLDecodeError`, and `KeyError` for what is missing."""
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        package = {canonicalize_name(name): entry["licence"] for name, entry in content["package"].items()}
        return cls(frozenset(content["allowed"]), package, content["means"])

    def problem(self, distribution: Distribution) -> str | None:
        """What speaks against it; None where nothing does."""
        said = list(declared(distribution))
        if not said:
            return "says no licence"
        expressions = []
        for text in said:
            try:
                expressions.append(SPDX.parse(self.means.get(text, text), validate=True, strict=True))
            except ExpressionError:
                return f"says {text[:80]!r}, which scripts/licences.toml does not know"
        for expression in expressions:
            agreed = self.package.get(canonicalize_name(distribution.name)) == str(expression)
            if not agreed and not self._allows(expression):
                return f"is under {expression}, which scripts/licences.toml does not allow"
        return None

    def _allows(self, expression: LicenseExpression) -> bool:
        """Whether one of the alternatives (A OR B) holds allowed licences only."""
        kind = type(expression).__name__
        if kind == "OR":
            return any(self._allows(part) for part in expression.args)
        if kind == "AND":
            return all(self._allows(part) for part in expression.args)
        return str(expression) in self.allowed


def declared(distribution: Distribution) -> Iterator[str]:
    """Its licences as it writes them, first line only; each of them holds."""
    metadata: Any = distribution.metadata
    if expression := metadata.get("License-Expression"):
        yield expression
        return
    classifiers = [text.removeprefix("License :: ") for text in metadata.get_all("Classifier") or ()]
    found = [text for text in classifiers if text.startswith("OSI Approved :: ")]
    if not found and (text := (metadata.get("License") or "").strip()):
        found = text.splitlines()[:1]
    yield from found


def locked(lock: Path) -> dict[str, bool]:
    """Names of the lock, and whether they are for this platform and Python."""
    lines = re.findall(r"^([A-Za-z0-9][^\s=]*==.*?)\s*\\?$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    found: dict[str, bool] = {}
    for line in lines:
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate()
        found[canonicalize_name(requirement.name)] = applies or found.get(canonicalize_name(requirement.name), False)
    return found


def main() -> None:
    """Exit status 1 if anything is wrong, with a line for each package that is."""
    parser = argparse.ArgumentParser(description="Hold installed packages to scripts/licences.toml.")
    parser.add_argument("lock", type=Path, help="the lock that says which packages")
    parser.add_argument("environment", type=Path, help="the virtual environment that it was installed into")
    options = parser.parse_args()
    policy = Policy.read()
    folders = [str(path) for path in options.environment.glob("lib/python3.*/site-packages")]
    installed = {canonicalize_name(found.name): found for found in distributions(path=folders)}
    names = locked(options.lock)
    problems = {}
    for name in (name for name, applies in names.items() if applies):
        problem = policy.problem(installed[name]) if name in installed else "is not installed: nobody knows"
        if problem is not None:
            problems[name] = problem
    for name, problem in problems.items():
        sys.stderr.write(f"{name}: {problem}\n")
    elsewhere = ", ".join(name for name, applies in names.items() if not applies)
    sys.stdout.write(f"licences: {len(names)} packages, {len(problems)} not as they should be")
    sys.stdout.write(f"; not for this platform: {elsewhere}\n" if elsewhere else "\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
