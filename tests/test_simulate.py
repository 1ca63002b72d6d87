"""The command ``simulate``: alone, and as what a tenant of the service reads."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from tests.fix_container import free_port
from tests.fix_postgres import PostgresServer, fetch

COMMAND = [sys.executable, "-m", "scada_trio", "simulate"]
KEY = "0123456789abcdef0123456789abcdef"
STORED = """
    SELECT t.name, c.name, c.endpoint_url,
        (SELECT count(*) FROM tag_mappings m WHERE m.connection_id = c.id AND m.deleted_at IS NULL)
    FROM scada_connections c JOIN tenants t ON t.id = c.tenant_id ORDER BY c.endpoint_url"""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def environment(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecretStr:
    """That of a service whose master database is migrated; the URL of that."""
    url = postgres.create_master()
    for name, value in {
        "DATABASE_URL": url.get_secret_value(),
        "ENCRYPTION_KEY": KEY,
        "DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    return url


@contextmanager
def simulating(*options: str) -> Iterator[list[dict[str, str]]]:
    """The wells as they are announced; ended by SIGTERM, with status 0."""
    with subprocess.Popen(
        [*COMMAND, "--wells", "2", "--tags", "3", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_wells_are_announced(tmp_path: Path) -> None:
    """Piped, a line of JSON a well; it ends by itself after a while, with a record of what was sent."""
    ended = run("--wells", "3", "--duration", "0.5", "--record", str(tmp_path / "record"))
    assert ended.returncode == 0, ended.stderr
    wells = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len({UUID(well["well_id"]) for well in wells}) == 3
    assert (tmp_path / "record").exists()


def test_a_port_of_the_systems_own_range_is_refused() -> None:
    """A thousand wells from 32000 on would meet what the system gives to others."""
    ended = run("--wells", "1000", "--base-port", "32000")
    assert ended.returncode == 2
    assert "--base-port" in ended.stderr


def test_a_tenant_gets_the_wells_as_connections(environment: SecretStr) -> None:
    """The tenant is made with its database; the next run changes what is stored and adds nothing."""
    ports = [free_port(), free_port() + 100]
    for port in ports:
        with simulating(
            "--host", "0.0.0.0", "--advertise", "localhost", "--base-port", str(port), "--tenant", "Pad 7"
        ) as wells:
            urls = [f"opc.tcp://localhost:{port}/", f"opc.tcp://localhost:{port + 1}/"]
            assert [well["endpoint_url"] for well in wells] == urls
            assert fetch(environment, STORED) == [
                ("Pad 7", well["name"], url, 3) for well, url in zip(wells, urls, strict=True)
            ]
            socket.create_connection(("localhost", port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("localhost", ports[-1]), timeout=5)
    assert len(fetch(environment, "SELECT 1 FROM tenants")) == 1


def test_a_tenant_that_is_there_keeps_its_database(environment: SecretStr, postgres: PostgresServer) -> None:
    """It is found by its name."""
    database = postgres.create_database()
    added = [
        sys.executable,
        "-m",
        "scada_trio",
        "tenant",
        "add",
        "north",
        "--database-url",
        database.get_secret_value(),
    ]
    subprocess.run(added, check=True, capture_output=True, timeout=120)
    before = fetch(environment, "SELECT id, database_url FROM tenants")
    with simulating("--tenant", "north"):
        assert fetch(environment, "SELECT id, database_url FROM tenants") == before
        assert [row[0] for row in fetch(environment, STORED)] == ["north", "north"]


@pytest.mark.parametrize(
    ("options", "env", "status", "named"),
    [
        (["--host", "0.0.0.0"], {}, 2, "--advertise"),
        ([], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, 1, "127.0.0.1"),
        ([], {"ENCRYPTION_KEY": ""}, 1, "ENCRYPTION_KEY"),
    ],
)
def test_what_keeps_a_tenant_from_its_wells_is_one_line(
    environment: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    env: dict[str, str],
    status: int,
    named: str,
) -> None:
    """Nothing is stored, and the wells do not stay."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    ended = run("--wells", "1", "--tenant", "north", *options)
    assert ended.returncode == status, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("scada-trio: ")]
    assert named in line
    assert fetch(environment, "SELECT 1 FROM tenants") == []
