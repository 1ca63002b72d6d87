"""TimescaleDB as far as it goes without a system package: PostgreSQL with the extension, in WebAssembly, in Node.js."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.fix_postgres import fetch

_PROGRAM = Path(__file__).parent / "node" / "timescale.mjs"


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[SecretStr]:
    """Its only database; it takes one session at a time, and knows no login and no cancel request."""
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


@pytest.fixture
def timescale_url(timescale_server: SecretStr) -> SecretStr:
    """The TimescaleDB, emptied."""
    for relation in ("scada_readings_monthly", "scada_readings_daily", "scada_readings_hourly"):
        kinds = fetch(timescale_server, "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", relation)
        if kinds:
            continuous = fetch(
                timescale_server,
                "SELECT true FROM timescaledb_information.continuous_aggregates WHERE view_name = %s",
                relation,
            )
            kind = "MATERIALIZED VIEW" if continuous else "VIEW"
            fetch(timescale_server, f"DROP {kind} {relation} CASCADE")
    tables = fetch(timescale_server, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        fetch(timescale_server, f'DROP TABLE "{table}" CASCADE')
    return timescale_server
