"""The master database: which tenants, connections and tags there are, and a word when that changes.

Owns one connection, opened at first use and again after it was lost, and the listener's own. The instance's commands
and the service open it with `open_master`. The SQL is in `scada_trio.storage.configuration` and `changes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar, TypeVarTuple
from uuid import UUID

import psycopg
import structlog
import trio
from pydantic import SecretStr

from scada_trio.backoff import full_jitter
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import DatabaseError
from scada_trio.storage import changes, configuration
from scada_trio.storage.configuration import CHANNEL, ConnectionRow, MasterRows, TagRow, TenantRow
from scada_trio.storage.connect import Connection, is_stale, open_connection, run_cancellable, translated
from scada_trio.storage.databases import create_database, with_database
from scada_trio.storage.tag_changes import change_tags

__all__ = ["ConnectionRow", "MasterDatabase", "MasterRows", "TagRow", "TenantRow", "open_master"]

log = structlog.get_logger()
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0


@asynccontextmanager
async def open_master(
    url: SecretStr, *, connect_timeout_s: float, statement_timeout_s: float
) -> AsyncIterator[MasterDatabase]:
    """The master database; connects at the first call and closes at the end of the block."""
    master = MasterDatabase(url, connect_timeout_s=connect_timeout_s, statement_timeout_s=statement_timeout_s)
    try:
        yield master
    finally:
        master.close()


class MasterDatabase:
    """Calls from any number of tasks, one after the other. All raise `DatabaseUnavailable`, `DatabaseMisconfigured`."""

    def __init__(self, url: SecretStr, *, connect_timeout_s: float, statement_timeout_s: float) -> None:
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(2)  # one for calls, one for the listener
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the connection; a later call opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def ping(self) -> None:
        """Returns where the database answers."""
        await self._call(_ping)

    async def check_schema(self) -> None:
        """Raises `DatabaseMisconfigured` naming the table or column that is missing."""
        await self._call(configuration.check_schema)

    async def load(self, known: Mapping[str, bytes] = MappingProxyType({})) -> MasterRows:
        """What should run, from one snapshot, secrets as they are stored.

        ``known`` are digests of an earlier answer: connections that are as they were then are left out.
        """
        return await self._call(configuration.load, known)

    async def list_tenants(self) -> tuple[TenantRow, ...]:
        """Every tenant that is not soft-deleted, by name, whatever its status."""
        return await self._call(configuration.list_tenants)

    async def list_connections(self, tenant_id: UUID) -> tuple[ConnectionRow, ...]:
        """Every connection of a tenant, active or not, by name."""
        return await self._call(configuration.list_connections, tenant_id)

    async def list_tags(self, tenant_id: UUID) -> tuple[TagRow, ...]:
        """Every tag of a tenant's connections, active or not, that is not soft-deleted."""
        return await self._call(configuration.list_tags, tenant_id)

    async def add_tenant(self, tenant_id: UUID, name: str, database_url: str) -> None:
        """Store an active tenant, ``database_url`` as it is; `ConfigurationRefused` where the name is taken."""
        await self._call(changes.add_tenant, tenant_id, name, database_url)

    async def set_database_url(self, tenant_id: UUID, database_url: str) -> None:
        """Store where a tenant's database is now, as it is, and tell the listeners."""
        await self._call(changes.set_database_url, tenant_id, database_url)

    async def store_connection(self, spec: ConnectionSpec, password: str | None) -> None:
        """Store a connection and its tags in one transaction, and tell the listeners.

        It becomes active. What was stored under its id is replaced; tags of it that ``spec`` does not have are
        soft-deleted. ``password`` is stored as it is, instead of ``spec.password``. Raises `UnknownTenant`, and
        `ConfigurationRefused` where an id belongs to another tenant or a table does not take a value.
        """
        await self._call(changes.store_connection, spec, password)

    async def change_tags(self, tenant_id: UUID, connection_id: UUID, change: TagChange) -> int:
        """Store a change of a connection's tags in one transaction, and tell the listeners; how many there are then.

        Active or not, the connection stays what it is. Raises `UnknownConnection` where the tenant has none of that
        id, and `ConfigurationRefused` where a tag is another connection's, one to be removed is not there, two tags
        would be the same node, or none would be left.
        """
        return await self._call(change_tags, tenant_id, connection_id, change)

    async def deactivate_connection(self, connection_id: UUID) -> bool:
        """Mark a connection as not to be run; False where none ever had that id."""
        return await self._call(changes.deactivate_connection, connection_id)

    async def database_url(self, name: str) -> SecretStr:
        """Where another database of the same server is, there or not."""
        return with_database(self._url, name)

    async def create_database(self, name: str) -> SecretStr:
        """Make a database on the same server and return its URL; `ConfigurationRefused` where the name is taken."""
        create = partial(create_database, self._url, name, connect_timeout_s=self._connect_timeout_s)
        return await trio.to_thread.run_sync(create)

    async def run_listener(
        self, on_change: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call ``on_change`` whenever somebody says ``NOTIFY scada_config``; returns only when cancelled.

        Holds a connection and no thread. A lost connection is opened again with back-off, and then ``on_change`` is
        called too, since a word may have been missed. ``started`` comes after the first attempt, good or bad.
        """
        failed = False
        started = _Once(task_status.started)
        delays = full_jitter(_FIRST_DELAY_S, cap_s=_MAX_DELAY_S)
        while True:
            try:
                connection = await self._open("scada-trio listener")
                try:
                    await run_cancellable(connection, _listen, limiter=self._threads)
                    started()
                    if failed:
                        on_change()
                        failed, delays = False, full_jitter(_FIRST_DELAY_S, cap_s=_MAX_DELAY_S)
                    await _follow(connection, on_change)
                finally:
                    connection.close()
            except DatabaseError as error:
                if not failed:
                    log.warning("not told of configuration changes, trying again", error=str(error))
                failed = True
            started()
            await trio.sleep(next(delays))

    async def _call(self, call: Callable[[Connection, *Ts], T], *args: *Ts) -> T:
        async with self._lock:
            if self._connection is not None and is_stale(self._connection):
                self.close()
            if self._connection is None:
                self._connection = await self._open("scada-trio")
            return await run_cancellable(self._connection, call, *args, limiter=self._threads)

    async def _open(self, application_name: str) -> Connection:
        return await open_connection(
            self._url,
            application_name=application_name,
            connect_timeout_s=self._connect_timeout_s,
            statement_timeout_s=self._statement_timeout_s,
            limiter=self._threads,
        )


class _Once:
    """Calls ``action`` the first time that it is called."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


async def _follow(connection: Connection, on_change: Callable[[], None]) -> None:
    """Returns never; raises `DatabaseUnavailable` when the connection is lost."""
    while True:
        await trio.lowlevel.wait_readable(connection.fileno())
        with translated():
            if list(connection.notifies(timeout=0)):
                on_change()


def _ping(connection: Connection) -> None:
    connection.execute("SELECT 1")


def _listen(connection: Connection) -> None:
    connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(CHANNEL)))
