"""The pipelines that are measured: what each is called, how it is started, and what it is made of.

Every one is a command that is given a file with `pipeline.Config` and runs until SIGTERM. `SERVICE` is this service,
`TWO_WRITERS` the same with two connections for each tenant's writer; what they need beside (a master database, an
environment) `harness` makes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BENCH: Final = ROOT / ".bench"


@dataclass(frozen=True, slots=True)
class Subject:
    """``environment`` is the directory under ``.bench/`` that its packages are in, "" for the service's own.

    ``settings`` are of the service alone, beside what every pipeline is told.
    """

    name: str
    title: str
    environment: str
    command: Callable[[Path], list[str]]
    packages: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    is_service: bool = False

    @property
    def home(self) -> Path:
        """Where its packages are."""
        return BENCH / self.environment

    def versions(self) -> str:
        """Of the packages that it is made of."""
        find = _node_version if (self.home / "node_modules").is_dir() else _python_version
        return ", ".join(f"{package} {find(self, package)}" for package in self.packages)

    @property
    def python(self) -> Path:
        """Of its environment."""
        return self.home / "bin" / "python" if self.environment else Path(sys.executable)


def _python(environment: str, module: str) -> Callable[[Path], list[str]]:
    return lambda config: [str(BENCH / environment / "bin" / "python"), "-m", f"benchmarks.peers.{module}", str(config)]


def _node(environment: str) -> Callable[[Path], list[str]]:
    return lambda config: ["node", str(BENCH / environment / "main.mjs"), str(config)]


def _python_version(subject: Subject, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([subject.python, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _node_version(subject: Subject, package: str) -> str:
    return str(json.loads((subject.home / "node_modules" / package / "package.json").read_text())["version"])


SERVICE: Final = Subject(
    "scada_trio",
    "scada-trio",
    "",
    lambda _: [sys.executable, "-m", "scada_trio", "serve"],
    ("opcua", "psycopg", "trio", "numpy"),
    is_service=True,
)
TWO_WRITERS: Final = replace(
    SERVICE, name="scada_trio_two", title="scada-trio, two writers", settings=(("DB_WRITE_CONNECTIONS", "2"),)
)
PEERS: Final = (
    Subject(
        "asyncua_copy", "asyncua + psycopg COPY", "python", _python("python", "asyncua_copy"), ("asyncua", "psycopg")
    ),
    Subject(
        "asyncua_asyncpg", "asyncua + asyncpg", "python", _python("python", "asyncua_asyncpg"), ("asyncua", "asyncpg")
    ),
    Subject(
        "python_opcua_executemany",
        "python-opcua + executemany",
        "python",
        _python("python", "python_opcua_executemany"),
        ("opcua", "psycopg"),
    ),
    Subject(
        "node_opcua_copy",
        "node-opcua + pg-copy-streams",
        "node_opcua_copy",
        _node("node_opcua_copy"),
        ("node-opcua", "pg", "pg-copy-streams"),
    ),
    Subject(
        "thingsboard_gateway",
        "thingsboard-gateway, MQTT, COPY",
        "thingsboard_gateway",
        _python("thingsboard_gateway", "thingsboard_gateway.run"),
        ("thingsboard-gateway", "asyncua", "psycopg"),
    ),
    Subject(
        "node_red",
        "Node-RED + contrib-opcua",
        "node_red",
        _node("node_red"),
        ("node-red", "node-red-contrib-opcua", "pg"),
    ),
)
SUBJECTS: Final = {subject.name: subject for subject in (SERVICE, TWO_WRITERS, *PEERS)}
