"""Reading one tenant's readings: a few connections of its own, opened when they are needed, closed when they are idle.

Owns the reading connections; the SQL is in `reading`, `latest`, `aggregates` and `losses`. Knows no API. The tenant
opens a `TenantReader` and closes it; all tenants' readers share a limiter that bounds the connections of the process,
and give their idle ones up for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar, TypeVarTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import trio
from psycopg import pq
from pydantic import SecretStr

from scada_trio.queries import AggregatesPage, AggregatesQuery, ReadingScan, ReadingsQuery
from scada_trio.readings import ReadingRows
from scada_trio.storage.aggregates import read_aggregates
from scada_trio.storage.columns import take_columns
from scada_trio.storage.connect import Connection, is_stale, open_connection, run_cancellable
from scada_trio.storage.latest import read_latest
from scada_trio.storage.losses import StoredLoss, read_losses
from scada_trio.storage.reading import read_page

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_IDLE_S: Final = 60.0
_PER_TENANT: Final = 4


def open_reader(
    url: SecretStr,
    *,
    limiter: trio.CapacityLimiter,
    connect_timeout_s: float,
    statement_timeout_s: float,
    max_connections: int = _PER_TENANT,
    idle_s: float = _IDLE_S,
) -> TenantReader:
    """A reader, to be entered with ``async with``, again after it was left if need be; opens nothing yet.

    ``limiter`` is shared by all readers: its tokens are the connections in use, and with the idle ones there are never
    more than it has. One tenant uses ``max_connections`` at a time at most.
    """
    return TenantReader(
        url,
        limiter=limiter,
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
        max_connections=max_connections,
        idle_s=idle_s,
    )


class TenantReader:
    """Queries on one tenant's database; any number of tasks may call it at once."""

    def __init__(
        self,
        url: SecretStr,
        *,
        limiter: trio.CapacityLimiter,
        connect_timeout_s: float,
        statement_timeout_s: float,
        max_connections: int,
        idle_s: float,
    ) -> None:
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._idle_s = idle_s
        self._open = False
        self._life: AbstractAsyncContextManager[None] | None = None
        self._slots = trio.CapacityLimiter(max_connections)
        self._threads = trio.CapacityLimiter(max_connections)
        self._limiter = limiter
        self._shared = _SHARED.setdefault(limiter, _Shared())

    async def __aenter__(self) -> Self:
        self._life = self._run()
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close the idle connections; a query that is still running closes its own."""
        assert self._life is not None
        return await self._life.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_expired, name="idle reading connections")
            self._open = True
            try:
                yield
            finally:
                self._open = False
                self._shared.close_idle(self)
                nursery.cancel_scope.cancel()

    async def _close_expired(self) -> None:
        while True:
            await trio.sleep(self._idle_s / 2)
            self._shared.close_expired(self, trio.current_time())

    async def read_readings(self, scan: ReadingScan, limit: int, *, fill: bool = True) -> ReadingRows:
        """The next readings of ``scan``, ``limit`` at most, in its order, then by node id; moves the scan on.

        With ``fill`` fewer come only where no more are left, which ``scan.done`` tells; without it, as many as are at
        hand, none at the end only. Raises `DatabaseUnavailable` (``statement_timeout_s`` exceeded, too) and
        `DatabaseMisconfigured`. A cancelled call has stopped the query on the server. No connection is held between
        two calls.
        """
        return await self._call(read_page, scan, limit, fill)

    async def query_readings(self, well_id: UUID, start_us: int, end_us: int, limit: int) -> ReadingRows:
        """The newest ``limit`` readings of a well with ``start_us <= time <= end_us``; as `read_readings`."""
        return await self.read_readings(ReadingScan(ReadingsQuery(well_id, start_us, end_us)), limit)

    async def read_aggregates(self, query: AggregatesQuery) -> AggregatesPage:
        """Buckets of one well; errors as of `read_readings`."""
        return await self._call(read_aggregates, query)

    async def read_latest(
        self, configured: Mapping[UUID, Collection[str]], wanted: Collection[str] | None
    ) -> list[ReadingRows]:
        """The newest reading of each tag of each well; see `scada_trio.storage.latest.read_latest`."""
        return await self._call(read_latest, configured, wanted)

    async def read_losses(
        self, connection_id: UUID | None = None, since_us: int | None = None, limit: int = 100
    ) -> list[StoredLoss]:
        """The newest losses of a connection, or of any, newest first; errors as of `read_readings`."""
        return await self._call(read_losses, connection_id, since_us, limit)

    async def _call(self, query: Callable[[Connection, *Ts], T], *args: *Ts) -> T:
        async with self._slots, self._limiter:
            connection = self._shared.take(self) or await self._connect()
            try:
                return await run_cancellable(connection, query, *args, limiter=self._threads)
            finally:
                if self._open and _usable(connection):
                    self._shared.keep(self, connection, trio.current_time() + self._idle_s)
                else:
                    connection.close()

    async def _connect(self) -> Connection:
        self._shared.make_room(self._limiter)
        connection = await open_connection(
            self._url,
            application_name="scada-trio reader",
            connect_timeout_s=self._connect_timeout_s,
            statement_timeout_s=self._statement_timeout_s,
            limiter=self._threads,
        )
        take_columns(connection)
        return connection


# --- connections of all readers


@dataclass(slots=True)
class _Idle:
    reader: TenantReader
    connection: Connection
    expires_at: float


class _Shared:
    """What the readers of one limiter share: the idle connections, oldest first."""

    def __init__(self) -> None:
        self._idle: deque[_Idle] = deque()

    def take(self, reader: TenantReader) -> Connection | None:
        """The idle connection that ``reader`` used last; None where it has none that is still connected."""
        self._close([entry for entry in self._idle if entry.reader is reader and is_stale(entry.connection)])
        for entry in reversed(self._idle):
            if entry.reader is reader:
                self._idle.remove(entry)
                return entry.connection
        return None

    def keep(self, reader: TenantReader, connection: Connection, expires_at: float) -> None:
        self._idle.append(_Idle(reader, connection, expires_at))

    def make_room(self, limiter: trio.CapacityLimiter) -> None:
        """Close the oldest idle connections until one more fits; to be called by who holds a token."""
        while self._idle and limiter.borrowed_tokens + len(self._idle) > limiter.total_tokens:
            self._idle.popleft().connection.close()

    def close_expired(self, reader: TenantReader, now: float) -> None:
        self._close([entry for entry in self._idle if entry.reader is reader and entry.expires_at <= now])

    def close_idle(self, reader: TenantReader) -> None:
        self._close([entry for entry in self._idle if entry.reader is reader])

    def _close(self, entries: list[_Idle]) -> None:
        for entry in entries:
            self._idle.remove(entry)
            entry.connection.close()


_SHARED: Final[WeakKeyDictionary[trio.CapacityLimiter, _Shared]] = WeakKeyDictionary()


def _usable(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status == pq.TransactionStatus.IDLE
