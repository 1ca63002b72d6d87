"""Schemas: brings the master database and a tenant's to what this version needs, from plain SQL files.

Owns ``migrations/`` and the order in which they run, by yoyo-migrations. Synchronous: call it in a worker thread.
Creates what is missing and alters nothing that it did not create; may run twice, and twice at once. What the settings
say of TimescaleDB's jobs is applied at the end, each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from pydantic import SecretStr
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import read_migrations

from scada_trio.config import StorageSettings
from scada_trio.storage.adoption import ROLLUPS, survey
from scada_trio.storage.connect import Connection, connect, translated
from scada_trio.storage.policies import apply_policies

Flavour = Literal["timescaledb", "native"]

_DIRECTORY: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x5CADA  # advisory lock of whoever migrates this database; freed with its connection
_TABLES: Final = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema"
_TENANT_RELATIONS: Final = (
    *("scada_readings", *(f"scada_readings_{name}" for name in ROLLUPS)),
    *("scada_ingest_cursor", "scada_quarantine", "scada_loss", "scada_maintenance", "scada_heartbeats"),
)
_CONNECT_TIMEOUT_S: Final = 10.0
_STATEMENT_TIMEOUT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The ids of the migrations applied now, in order, and what keeps the readings.

    ``changed`` says which jobs of TimescaleDB were set otherwise, ``left_alone`` what another application made and was
    neither altered nor made again; a line each.
    """

    applied: tuple[str, ...]
    flavour: Flavour
    changed: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()


def migrate_master(url: SecretStr) -> list[str]:
    """Bring the master database up to date; returns what was applied. Blocks; raises `DatabaseError`."""
    with _locked(url):
        return _apply(url, "master")


def migrate_tenant(
    url: SecretStr, periods: StorageSettings | None = None, flavour: Flavour | None = None
) -> MigrationReport:
    """Bring a tenant's database up to date, with the periods of the default settings if none are given.

    Blocks; raises `DatabaseError`. A table or view that was dropped is made again, empty. Without ``flavour``:
    TimescaleDB where its extension can be had, unless an ordinary or natively partitioned ``scada_readings`` is there
    already, which then stays what it is.
    """
    with _locked(url) as connection, translated():
        flavour = flavour or _choose_flavour(connection)
        timescale = flavour == "timescaledb"
        if timescale:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        found = survey(connection, timescale=timescale)
        _forget_if_dropped(connection, found.withheld)
        applied = _apply(url, "tenant")
        applied += _apply(url, "tenant_timescale" if timescale else "tenant_native", found.withheld)
        changed = apply_policies(connection, periods or StorageSettings()) if timescale else []
    return MigrationReport(tuple(applied), flavour, tuple(changed), found.left_alone)


def pending_master(url: SecretStr) -> list[str] | None:
    """The ids of what `migrate_master` would apply; changes nothing. None where this login may not see it.

    Blocks; raises `DatabaseError`.
    """
    connection = _connect(url)
    try:
        with translated():
            return _pending(connection, "master")
    finally:
        connection.close()


def pending_tenant(url: SecretStr) -> list[str] | None:
    """As `pending_master`, of a tenant's database."""
    connection = _connect(url)
    try:
        with translated():
            timescale = _choose_flavour(connection) == "timescaledb"
            withheld = survey(connection, timescale=timescale).withheld
            flavour = "tenant_timescale" if timescale else "tenant_native"
            return _pending(connection, "tenant", flavour, withheld=withheld)
    finally:
        connection.close()


def _pending(connection: Connection, *directories: str, withheld: frozenset[str] = frozenset()) -> list[str] | None:
    done: set[str] = set()
    if _one(connection, "SELECT to_regclass('scada_migrations') IS NOT NULL"):
        if not _one(connection, "SELECT has_table_privilege('scada_migrations', 'SELECT')"):
            return None
        done = {row[0] for row in connection.execute("SELECT migration_id FROM scada_migrations")}
    found = [path.stem for directory in directories for path in sorted((_DIRECTORY / directory).glob("*.sql"))]
    return [name for name in found if name not in done and not name.endswith(_endings(withheld))]


@contextmanager
def _locked(url: SecretStr) -> Iterator[Connection]:
    """A connection that holds the lock: who comes second waits, and then finds everything applied."""
    connection = _connect(url)
    try:
        with translated():
            connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        yield connection
    finally:
        connection.close()


def _choose_flavour(connection: Connection) -> Flavour:
    offered = _one(connection, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')")
    if not offered:
        return "native"
    if _one(connection, "SELECT to_regclass('scada_readings') IS NULL"):
        return "timescaledb"
    if not _one(connection, "SELECT to_regclass('timescaledb_information.hypertables') IS NOT NULL"):
        return "native"
    hypertable = _one(
        connection,
        """SELECT EXISTS (SELECT FROM timescaledb_information.hypertables
           WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = to_regclass('scada_readings'))""",
    )
    return "timescaledb" if hypertable else "native"


def _forget_if_dropped(connection: Connection, withheld: frozenset[str]) -> None:
    """Where something is missing that was made once, forget that it was: every migration makes what is missing only."""
    if _one(connection, "SELECT to_regclass('scada_migrations') IS NULL"):
        return
    last_id = max(migration.id for migration in read_migrations(str(_DIRECTORY / "tenant")))
    done = connection.execute("SELECT FROM scada_migrations WHERE migration_id = %s", [last_id]).fetchone()
    names = [name for name in _TENANT_RELATIONS if name not in withheld]
    missing = connection.execute("SELECT FROM unnest(%s::text[]) AS n WHERE to_regclass(n) IS NULL", [names])
    if done is not None and missing.fetchone() is not None:
        connection.execute("DELETE FROM scada_migrations WHERE migration_id LIKE 'tenant-%'")


def _one(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def _apply(url: SecretStr, directory: str, withheld: frozenset[str] = frozenset()) -> list[str]:
    """Apply what waits, but for the rollups that are ``withheld``."""
    migrations = read_migrations(str(_DIRECTORY / directory))
    names = _endings(withheld)
    with translated(), _Backend(url) as backend:
        waiting = [migration for migration in backend.to_apply(migrations) if not migration.id.endswith(names)]
        for migration in waiting:
            backend.apply_one(migration)
        return [migration.id for migration in waiting]


def _endings(withheld: frozenset[str]) -> tuple[str, ...]:
    """How the ids of migrations end that make these."""
    return tuple(f"-{relation.removeprefix('scada_readings_')}" for relation in withheld)


def _connect(url: SecretStr) -> Connection:
    return connect(
        url,
        application_name="scada-trio migrate",
        connect_timeout_s=_CONNECT_TIMEOUT_S,
        statement_timeout_s=_STATEMENT_TIMEOUT_S,
    )


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's PostgreSQL on our connections, without its lock table: a killed process would leave it locked."""

    log_table = "scada_migration_log"
    version_table = "scada_migration_version"

    def __init__(self, url: SecretStr, migration_table: str = "scada_migrations") -> None:
        super().__init__(url, migration_table)

    def connect(self, dburi: SecretStr) -> Connection:
        return _connect(dburi)

    def list_tables(self, **_: Any) -> list[str]:
        return [row[0] for row in self.connection.execute(_TABLES)]

    @contextmanager
    def lock(self, timeout: float = 10) -> Iterator[None]:
        yield

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # yoyo asks for the login name, which a container may not have, and the host's full name, which may take long
        return {
            "id": str(uuid4()),
            "migration_id": migration.id,
            "migration_hash": migration.hash,
            "username": None,
            "hostname": None,
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }
