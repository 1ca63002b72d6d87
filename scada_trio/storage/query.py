"""Reading one tenant's readings: a few connections of its own, opened when they are needed, closed when they are idle.

Owns the reading connections and the SQL of a query. Knows no API. The tenant opens a `TenantReader` and closes it; all
tenants' readers share a limiter that bounds the connections of the process, and give their idle ones up for each
other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeVar, TypeVarTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import numpy as np
import trio
from psycopg import pq
from psycopg.types.numeric import Int8BinaryLoader
from pydantic import SecretStr

from scada_trio.readings import ReadingRows
from scada_trio.storage.connect import Connection, is_stale, open_connection, run_cancellable
from scada_trio.storage.losses import StoredLoss, read_losses

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_IDLE_S: Final = 60.0
_PER_TENANT: Final = 4
# The newest readings are usually found near the end of the range: look there first, then ever farther back, instead
# of sorting all that the range has.
_WINDOW_US: Final = 60_000_000
_WINDOW_GROWTH: Final = 8
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01 UTC
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US: Final = -62_135_596_800_000_000  # 0001-01-01, Python's first day
_LAST_US: Final = 253_402_300_799_999_999  # 9999-12-31, its last

_SELECT: Final = """
    SELECT timestamp, value, tag_node_id, quality FROM scada_readings
    WHERE well_id = %s AND timestamp >= %s AND timestamp <= %s
    ORDER BY timestamp DESC, tag_node_id LIMIT %s"""


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

    async def query_readings(self, well_id: UUID, start_us: int, end_us: int, limit: int) -> ReadingRows:
        """The newest ``limit`` readings of a well with ``start_us <= time <= end_us``, newest first, then by node id.

        Times in µs since 1970. Raises `DatabaseUnavailable` (``statement_timeout_s`` exceeded, too) and
        `DatabaseMisconfigured`. A cancelled call has stopped the query on the server.
        """
        return await self._call(_read_newest, well_id, start_us, end_us, limit)

    async def read_losses(
        self, connection_id: UUID | None = None, since_us: int | None = None, limit: int = 100
    ) -> list[StoredLoss]:
        """The newest losses of a connection, or of any, newest first; errors as of `query_readings`."""
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
        # µs since 2000 as they come, instead of a datetime each
        connection.adapters.register_loader("timestamptz", Int8BinaryLoader)
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


# --- in the worker thread


def _read_newest(connection: Connection, well_id: UUID, start_us: int, end_us: int, limit: int) -> ReadingRows:
    rows: list[tuple[int, float, str, str]] = []
    with connection.cursor(binary=True) as cursor:
        for lower_us, upper_us in _windows(max(start_us, _FIRST_US), min(end_us, _LAST_US)):
            cursor.execute(_SELECT, [well_id, _datetime(lower_us), _datetime(upper_us), limit - len(rows)])
            rows += cursor.fetchall()
            if len(rows) >= limit:
                break
    times, values, node_ids, qualities = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ReadingRows(
        well_id,
        list(node_ids),
        np.array(times, np.int64) + _POSTGRES_EPOCH_US,
        np.array(values, np.float64),
        list(qualities),
    )


def _windows(start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover ``start_us`` to ``end_us``, both included, from the end back; what is to come is one range."""
    upper_us = end_us
    soon_us = time.time_ns() // 1000 + _WINDOW_US
    if start_us <= soon_us < end_us:
        yield soon_us + 1, end_us
        upper_us = soon_us
    size_us = 2 * _WINDOW_US
    while upper_us >= start_us:
        lower_us = max(start_us, upper_us - size_us)
        yield lower_us, upper_us
        upper_us = lower_us - 1
        size_us *= _WINDOW_GROWTH


def _datetime(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
