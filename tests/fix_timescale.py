"""TimescaleDB: in WebAssembly in Node.js, without a system package, and on the server of TEST_TIMESCALE_URL."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from pydantic import SecretStr

from scada_trio.storage.databases import create_database
from scada_trio.storage.migrate import migrate_tenant
from tests.fix_postgres import PostgresServer, fetch

_PROGRAM = Path(__file__).parent / "node" / "timescale.mjs"
_SERVER = os.environ.get("TEST_TIMESCALE_URL")
"""postgresql:// URL of a login that may make databases, on a server that has the extension."""
_SERVERS = ["node", "server"] if _SERVER else ["node"]
_numbers = count(1)


@pytest.fixture(scope="session")
def timescale_in_node() -> Iterator[SecretStr]:
    """Its only database; it takes one session at a time, and knows no login, no cancel request and no jobs."""
    node = shutil.which("node")
    if node is None or not (_PROGRAM.parent / "node_modules" / "@unni-craftsman").is_dir():
        pytest.skip("Node.js or its packages are not installed")
    with subprocess.Popen([node, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        word, port = process.stdout.readline().split()
        assert word == "listening"
        yield SecretStr(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
        process.stdin.close()


@pytest.fixture(params=_SERVERS)
def timescale_url(request: pytest.FixtureRequest) -> Iterator[SecretStr]:
    """An empty database with TimescaleDB, whose jobs run only when a test calls them."""
    with _open_database(request, request.param) as url:
        yield url


@pytest.fixture(params=["native", *_SERVERS])
def tenant_of_each_kind(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[SecretStr]:
    """A migrated, empty tenant database on native partitions, and on TimescaleDB."""
    if request.param == "native":
        yield postgres.create_tenant()
        return
    with _open_database(request, request.param) as url:
        assert migrate_tenant(url).flavour == "timescaledb"
        yield url


@contextmanager
def _open_database(request: pytest.FixtureRequest, kind: str) -> Iterator[SecretStr]:
    if kind == "node":
        url: SecretStr = request.getfixturevalue("timescale_in_node")
        _empty(url)
        yield url
        return
    server = SecretStr(str(_SERVER))
    name = f"scada_trio_test_{os.getpid()}_{next(_numbers)}"
    url = create_database(server, name)
    try:
        fetch(url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
        fetch(url, "SELECT _timescaledb_functions.stop_background_workers()")
        yield url
    finally:
        fetch(server, f"DROP DATABASE {name} WITH (FORCE)")


def _empty(url: SecretStr) -> None:
    for relation in ("scada_readings_monthly", "scada_readings_daily", "scada_readings_hourly"):
        kinds = fetch(url, "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", relation)
        if kinds:
            continuous = fetch(
                url,
                "SELECT true FROM timescaledb_information.continuous_aggregates WHERE view_name = %s",
                relation,
            )
            kind = "MATERIALIZED VIEW" if continuous else "VIEW"
            fetch(url, f"DROP {kind} {relation} CASCADE")
    for (table,) in fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        fetch(url, f'DROP TABLE "{table}" CASCADE')
