"""Real PostgreSQL servers: one for all tests of a session, and one of its own for a test that stops or kills it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.migrate import migrate_master, migrate_tenant

_numbers = count(1)


class PostgresServer:
    """A server that can be stopped, killed and started; `stop` and `kill` return when it is gone."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server

    @property
    def port(self) -> int:
        return self.server.port

    def create_database(self) -> SecretStr:
        """An empty database; its URL."""
        return create_database(self.server.url, f"test_{next(_numbers)}")

    def create_tenant(self) -> SecretStr:
        """A migrated tenant database."""
        url = self.create_database()
        migrate_tenant(url)
        return url

    def create_master(self) -> SecretStr:
        """A migrated master database."""
        url = self.create_database()
        migrate_master(url)
        return url

    def stop(self) -> None:
        self.server.stop("fast")

    def start(self) -> None:
        """On the same port as before."""
        self.server.start()

    def kill(self) -> None:
        """SIGKILL for the postmaster; its children end by themselves."""
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while self.server.pid is not None:
            time.sleep(0.01)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stopped inside the block, running after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()


def fetch(url: SecretStr, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of a query on a connection of its own, committed."""
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def record_inserts(url: SecretStr) -> None:
    """Keep each row that is inserted, or would be but for an index, in ``inserted``.

    What is written twice is there twice; in the transaction of the insert, so what is rolled back is not.
    """
    fetch(url, "CREATE TABLE inserted (LIKE scada_readings)")
    fetch(
        url,
        """CREATE FUNCTION record_insert() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO inserted VALUES (NEW.*); RETURN NEW; END $$""",
    )
    fetch(
        url,
        "CREATE TRIGGER record BEFORE INSERT ON scada_readings FOR EACH ROW EXECUTE FUNCTION record_insert()",
    )


@contextmanager
def _server() -> Iterator[PostgresServer]:
    # not pytest's own directory: that is made private again by every run, also under the feet of another one
    directory = Path(tempfile.mkdtemp(prefix="scada-trio-postgres-"))
    directory.chmod(0o755)
    server = EmbeddedServer(directory / "server", {"fsync": "off"})
    server.open()
    try:
        yield PostgresServer(server)
    finally:
        server.stop("immediate")
        server.close()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Shared by all tests: make a database in it, leave it running."""
    with _server() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A test's own, to do harm to."""
    with _server() as server:
        yield server


@pytest.fixture
def tenant_url(postgres: PostgresServer) -> SecretStr:
    """A migrated, empty tenant database."""
    return postgres.create_tenant()


@pytest.fixture
def master_url(postgres: PostgresServer) -> SecretStr:
    """A migrated, empty master database."""
    return postgres.create_master()
