"""What goes wrong with a tenant's database while its writer runs: each for real, each over without a restart."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.journal.queue import Journal
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, TagTable
from scada_trio.storage.databases import with_database
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.tenant_db import open_tenant_writer
from scada_trio.writer import Writer
from tests.fix_journal import Place
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import NOON_US, WELL, count_rows, many, tag_table

WITHIN_S = 60.0
END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = %s AND application_name = 'scada-trio writer'"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

# The writer's rows wait at a gate, that of advisory lock 7; nobody else's do.
GATE = """
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') = 'scada-trio writer' THEN
            PERFORM pg_advisory_lock_shared(7);
            PERFORM pg_advisory_unlock_shared(7);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE INSERT ON scada_readings FOR EACH ROW EXECUTE FUNCTION gate()"""
MOVE_CURSOR = "UPDATE scada_ingest_cursor SET updated_at = now()"
ROW_OF_SECOND_BATCH = """
    INSERT INTO scada_readings (well_id, tag_node_id, timestamp, value)
    VALUES (%s, 'ns=2;s=Tag0', to_timestamp(%s), -1)"""


@dataclass
class Running:
    """A writer that runs, on a journal and a database of its own; ``url`` is where it connects next."""

    url: SecretStr
    journal: Journal
    batches: trio.MemorySendChannel[Batch]
    tags: TagTable
    metrics: Metrics = field(default_factory=Metrics)
    writer: Writer = field(init=False)
    sent: int = 0

    def open_sink(self) -> Any:
        return open_tenant_writer(self.url, self.tags, connect_timeout_s=5, statement_timeout_s=30)

    async def send(self, count: int = 100) -> None:
        """Give it a batch of new readings."""
        await self.journal.append([many(count, 3, NOON_US + self.sent * 1000)])
        batch = await self.journal.take(count)
        assert batch is not None
        await self.batches.send(batch)
        self.sent += count

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(WITHIN_S):
            while not holds():  # noqa: ASYNC110 - what is waited for is in the server
                await trio.sleep(0.01)

    async def until_failing(self, state: str, sqlstate: str) -> None:
        """Wait until it is known to have failed with ``sqlstate``, and shows ``state``."""
        label = f'reason="{sqlstate}"'
        await self.until(lambda: label in self.metrics.render().decode())
        await self.until(lambda: self.writer.state == state and self.writer.last_error is not None)
        assert len(self.journal) == 100

    async def until_written(self) -> None:
        """Wait until everything is committed and nothing is wrong any more; each reading is there once."""
        await self.until(lambda: len(self.journal) == 0 and self.writer.last_error is None)
        assert self.writer.state == "ready"


@asynccontextmanager
async def _running(directory: Path, url: SecretStr) -> AsyncIterator[Running]:
    tags = tag_table()
    batches_in, batches = trio.open_memory_channel[Batch](10)
    async with Place(directory).open(tags=tags) as journal, trio.open_nursery() as nursery:
        running = Running(url, journal, batches_in, tags)
        running.writer = Writer(
            journal, batches, running.open_sink, metrics=running.metrics.tenant(uuid4(), tags, journal.ledger)
        )
        nursery.start_soon(running.writer.run)
        yield running
        await running.until_written()
        assert journal.ledger.accounts.unexplained == 0
        batches_in.close()


def _name(url: SecretStr) -> str:
    return url.get_secret_value().rsplit("/", 1)[1]


@contextmanager
def _role(server: SecretStr, url: SecretStr) -> Iterator[tuple[str, SecretStr]]:
    """A role of the application's own that may use the tenant's tables: its name, and the tenant's URL for it."""
    role = f"app_{_name(url)}"
    fetch(server, f"CREATE ROLE {role} LOGIN PASSWORD 'first'")
    fetch(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        yield role, SecretStr(f"postgresql://{role}:first@{url.get_secret_value().split('@')[1]}")
    finally:
        fetch(url, f"DROP OWNED BY {role}")
        fetch(server, f"DROP ROLE {role}")


async def test_a_server_that_turns_read_only(postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """As after a failover, until the address points to the primary: a new connection each time finds out."""
    name = _name(tenant_url)
    async with _running(tmp_path, tenant_url) as running:
        await running.send()
        await running.until_written()
        fetch(postgres.server.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        fetch(postgres.server.url, END_SESSIONS, name)
        await running.send()
        await running.until_failing("database away", "25006")
        fetch(postgres.server.url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await running.until_written()
    assert count_rows(tenant_url) == 200


@pytest.mark.parametrize("mended", ["password", "url"])
async def test_a_changed_password(postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path, mended: str) -> None:
    """Shown as what it is; over when the password is the old one again, or the tenant's URL has the new one."""
    with _role(postgres.server.url, tenant_url) as (role, url):
        async with _running(tmp_path, url) as running:
            await running.send()
            await running.until_written()
            fetch(postgres.server.url, f"ALTER ROLE {role} PASSWORD 'second'")
            fetch(postgres.server.url, END_SESSIONS, _name(tenant_url))
            await running.send()
            await running.until_failing("database misconfigured", "28P01")
            assert "first" not in str(running.writer.last_error)
            if mended == "password":
                fetch(postgres.server.url, f"ALTER ROLE {role} PASSWORD 'first'")
            else:
                running.url = SecretStr(url.get_secret_value().replace(":first@", ":second@"))
            await running.until_written()
        assert count_rows(tenant_url) == 200


async def test_a_dropped_table(tenant_url: SecretStr, tmp_path: Path) -> None:
    """The error names the command that makes it again; what was accepted meanwhile is in the new one."""
    async with _running(tmp_path, tenant_url) as running:
        await running.send()
        await running.until_written()
        fetch(tenant_url, "DROP TABLE scada_readings CASCADE")
        await running.send()
        await running.until_failing("database misconfigured", "42P01")
        assert "run scada-trio migrate" in str(running.writer.last_error)
        await trio.to_thread.run_sync(migrate_tenant, tenant_url)
        await running.until_written()
    assert count_rows(tenant_url) == 100


async def test_no_connection_left(postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """The writer waits for one."""
    with _role(postgres.server.url, tenant_url) as (role, url):
        fetch(postgres.server.url, f"ALTER ROLE {role} CONNECTION LIMIT 1")
        with psycopg.connect(url.get_secret_value()) as taken:
            async with _running(tmp_path, url) as running:
                await running.send()
                await running.until_failing("database away", "53300")
                taken.close()
                await running.until_written()
        assert count_rows(tenant_url) == 100


async def test_a_lock_that_is_not_had_in_time(postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """Where the database limits how long anyone waits for a lock, the batch is tried until it gets it."""
    fetch(postgres.server.url, f"ALTER DATABASE {_name(tenant_url)} SET lock_timeout = '20ms'")
    async with _running(tmp_path, tenant_url) as running:
        with psycopg.connect(tenant_url.get_secret_value()) as other:
            other.execute("LOCK TABLE scada_readings IN ACCESS EXCLUSIVE MODE")
            await running.send()
            await running.until_failing("database away", "55P03")
        await running.until_written()
    assert count_rows(tenant_url) == 100


async def test_a_serialization_failure(postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """Where the database's transactions are of a stricter kind, the one that comes second is tried again."""
    fetch(postgres.server.url, f"ALTER DATABASE {_name(tenant_url)} SET default_transaction_isolation = 'serializable'")
    async with _running(tmp_path, tenant_url) as running:
        await running.send()
        await running.until_written()
        with psycopg.connect(tenant_url.get_secret_value()) as other:
            other.execute("UPDATE scada_ingest_cursor SET updated_at = now()")
            await running.send()
            await running.until(lambda: bool(fetch(tenant_url, WAITING)[0][0]))
        await running.until(lambda: 'reason="40001"' in running.metrics.render().decode())
        await running.until_written()
    assert count_rows(tenant_url) == 200


async def test_a_deadlock(tenant_url: SecretStr, tmp_path: Path) -> None:
    """Another session has a row that the batch wants and waits for one that the batch has: the batch is tried again."""
    fetch(tenant_url, GATE)
    async with _running(tmp_path, tenant_url) as running:
        await running.send()
        await running.until_written()
        with _session(tenant_url) as gate, _session(tenant_url) as other:
            gate.execute("SELECT pg_advisory_lock(7)")
            other.execute("SET deadlock_timeout = '1h'")  # so that it is the writer that PostgreSQL ends
            other.execute("BEGIN")
            other.execute(ROW_OF_SECOND_BATCH, [WELL, (NOON_US + 100_000) / 1e6])
            await running.send()
            await running.until(lambda: fetch(tenant_url, WAITING) == [(1,)])  # in the middle of its COPY
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, partial(other.execute, MOVE_CURSOR))
                await running.until(lambda: fetch(tenant_url, WAITING) == [(2,)])
                gate.execute("SELECT pg_advisory_unlock(7)")
            await running.until(lambda: 'reason="40P01"' in running.metrics.render().decode())
            other.execute("COMMIT")
        await running.until_written()
        accounts = running.journal.ledger.accounts
        assert (accounts.written, accounts.replaced) == (199, 1)
    assert count_rows(tenant_url) == 200
    assert fetch(tenant_url, "SELECT count(DISTINCT (well_id, tag_node_id, timestamp)) FROM scada_readings") == [(200,)]
    assert fetch(tenant_url, "SELECT count(*) FROM scada_readings WHERE value = -1") == [(0,)]


@contextmanager
def _session(url: SecretStr) -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(url.get_secret_value(), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _small_disk(server: PostgresServer) -> Iterator[Path]:
    """A file system of 48 MB that the server may use for its data."""
    place = server.server.server_dir / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        space = place / "tablespace"
        space.mkdir()
        owner = server.server.data.stat()
        os.chown(space, owner.st_uid, owner.st_gid)
        yield space
    finally:
        server.stop()
        subprocess.run(["umount", str(place)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(65536))


async def test_a_full_disk(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Nothing is lost and nothing is stored twice; over when there is space again."""
    server = own_postgres.server.url
    with _small_disk(own_postgres) as space:
        with psycopg.connect(server.get_secret_value(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'".encode())
            connection.execute("CREATE DATABASE small TABLESPACE small")
        url = with_database(server, "small")
        await trio.to_thread.run_sync(migrate_tenant, url)
        async with _running(tmp_path / "journal", url) as running:
            await running.send()
            await running.until_written()
            ballast = space / "ballast"
            _fill(ballast)
            await running.send(50_000)
            await running.until(lambda: 'reason="53100"' in running.metrics.render().decode())
            await running.until(lambda: running.writer.state == "database away")
            assert len(running.journal) == 50_000
            ballast.unlink()
            await running.until_written()
        assert count_rows(url) == 50_100
