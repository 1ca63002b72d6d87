"""The master database: which tenants, connections and tags there are, and a word when that changes.

Owns one connection, opened at first use and again after it was lost, and the listener's own. The instance's commands
and the service open it with `open_master`. The SQL is in `scada_trio.storage.configuration` and `changes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar, TypeVarTuple
from uuid import UUID

import psycopg
import structlog
import trio
from pydantic import SecretStr

from scada_trio.audit import Actor, Denial
from scada_trio.backoff import full_jitter
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import ConfigurationRefused, DatabaseError, UnknownConnection, UnknownTenant
from scada_trio.storage import audit, changes, configuration, rotation
from scada_trio.storage.audit import AuditEntry, AuditQuery
from scada_trio.storage.configuration import CHANNEL, ConnectionRow, MasterRows, TagRow, TenantRow
from scada_trio.storage.connect import Connection, is_stale, open_connection, run_cancellable, translated
from scada_trio.storage.databases import create_database, with_database
from scada_trio.storage.rotation import StoredSecret
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

    # Changes. Each is in the audit log under ``actor``, None: the user of this process; where that cannot be written,
    # nothing is changed.

    async def add_tenant(self, tenant_id: UUID, name: str, database_url: str, actor: Actor | None = None) -> None:
        """Store an active tenant, ``database_url`` as it is; `ConfigurationRefused` where the name is taken."""
        async with self._or_refused(actor, "add tenant", (str(tenant_id), "tenants", str(tenant_id))):
            await self._call(changes.add_tenant, tenant_id, name, database_url, actor)

    async def set_database_url(self, tenant_id: UUID, database_url: str, actor: Actor | None = None) -> None:
        """Store where a tenant's database is now, as it is, and tell the listeners."""
        await self._call(changes.set_database_url, tenant_id, database_url, actor)

    async def store_connection(self, spec: ConnectionSpec, password: str | None, actor: Actor | None = None) -> None:
        """Store a connection and its tags in one transaction, and tell the listeners.

        It becomes active. What was stored under its id is replaced; tags of it that ``spec`` does not have are
        soft-deleted. ``password`` is stored as it is, instead of ``spec.password``. Raises `UnknownTenant`, and
        `ConfigurationRefused` where an id belongs to another tenant (`IdTaken`) or a table does not take a value.
        """
        entity = (str(spec.tenant_id), "scada_connections", str(spec.connection_id))
        async with self._or_refused(actor, "store connection", entity):
            await self._call(changes.store_connection, spec, password, actor)

    async def change_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        """Store a change of a connection's tags in one transaction, and tell the listeners; how many there are then.

        Active or not, the connection stays what it is. Raises `UnknownConnection` where the tenant has none of that
        id, and `ConfigurationRefused` where a tag is another connection's, one to be removed is not there, two tags
        would be the same node, or none would be left.
        """
        entity = (str(tenant_id), "scada_connections", str(connection_id))
        async with self._or_refused(actor, "change tags", entity):
            return await self._call(change_tags, tenant_id, connection_id, change, actor)

    async def deactivate_connection(
        self, connection_id: UUID, tenants: Collection[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        """Mark a connection as not to be run; False where none, of these tenants if given, ever had that id."""
        return await self._call(changes.deactivate_connection, connection_id, tenants, actor)

    async def list_secrets(self) -> list[StoredSecret]:
        """Every stored secret as it is, of rows that are not run as well."""
        return await self._call(rotation.list_secrets)

    async def replace_secret(self, secret: StoredSecret, new: str) -> bool:
        """Store ``new`` in a secret's place; False where the row holds something else by now."""
        return await self._call(rotation.replace_secret, secret, new)

    async def record_done(
        self,
        action: str,
        entity: tuple[str, str],
        before: Mapping[str, object] | None,
        after: Mapping[str, object] | None,
        actor: Actor | None = None,
    ) -> None:
        """Write a change of a file to the audit log; before it is made, so that there is none without its entry."""
        await self._call(audit.record_done, actor, action, entity, before, after)

    async def record_refused(self, action: str, entity: tuple[str, str], detail: str) -> None:
        """Write down that such a change came to nothing."""
        await self._call(audit.record_refused, None, action, (None, *entity), detail)

    async def record_denials(self, denials: Sequence[Denial]) -> None:
        """Write denied calls to the audit log, all or none."""
        await self._call(audit.record_denials, denials)

    async def read_audit(self, query: AuditQuery) -> list[AuditEntry]:
        """Entries of the audit log, the newest first."""
        return await self._call(audit.read_audit, query)

    @asynccontextmanager
    async def _or_refused(
        self, actor: Actor | None, action: str, entity: tuple[str | None, str, str]
    ) -> AsyncIterator[None]:
        """Write down that a change was refused; it is refused whether that can be written or not."""
        try:
            yield
        except (ConfigurationRefused, UnknownTenant, UnknownConnection) as error:
            try:
                await self._call(audit.record_refused, actor, action, entity, str(error))
            except DatabaseError as failed:
                log.warning("a refused change is not in the audit log", action=action, error=str(failed))
            raise

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
