"""Connections to PostgreSQL: URLs, opening, calls that a Trio cancel reaches, and what each error asks for.

Owns how a URL is read and shown, the settings of every connection, and the one table that maps psycopg's errors to
`scada_trio.errors`. Knows no table. Starts nothing that outlives a call; whoever opens a connection closes it.

psycopg is used synchronously: a call runs in a worker thread (0.2 ms), and a cancelled task asks the server to
cancel, then waits for its thread, so that nothing goes on behind the caller's back.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import outcome
import psycopg
import trio
from psycopg import conninfo
from pydantic import SecretStr

from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured, DatabaseUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A dead peer is noticed in half a minute, not after the kernel's two hours (PostgreSQL manual, 32.1.2).
_TCP: Final = {
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# What other drivers put into a URL and libpq refuses; they say nothing about where the database is.
_FOREIGN_PARAMETERS: Final = frozenset(
    {"connection_limit", "pool_timeout", "pgbouncer", "statement_cache_size", "socket_timeout", "sslaccept"}
)
_CANCEL_TIMEOUT_S: Final = 2.0
_CANCEL_WAITS_S: Final = (0.1, 0.5, 1.0, 2.0)


# --- URLs


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A database URL, read: libpq parameters, and the schema that some drivers' URLs name."""

    parameters: Mapping[str, str]
    schema: str | None

    def __str__(self) -> str:
        """``user@host:port/database``, for messages."""
        value = self.parameters.get
        user = f"{value('user')}@" if value("user") else ""
        port = f":{value('port')}" if value("port") else ""
        return f"{user}{value('host', 'localhost')}{port}/{value('dbname', '')}"


def parse_url(url: SecretStr) -> Target:
    """Raises `DatabaseMisconfigured` for what is no PostgreSQL URL, without repeating any of it.

    Parameters of other drivers (Prisma's ``connection_limit`` and the like) are left out; ``schema`` is kept apart.
    """
    malformed = DatabaseMisconfigured(
        "the database URL is malformed: postgresql://user:password@host:port/database, special characters as %XX"
    )
    text = url.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise malformed
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        schema = query.pop("schema", None)
        kept = {key: value for key, value in query.items() if key not in _FOREIGN_PARAMETERS}
        if kept.get("sslmode") == "no-verify":  # node-postgres' word for it
            kept["sslmode"] = "require"
        if parts.query and (schema is not None or kept != query or "sslmode" in kept):
            text = urlunsplit(parts._replace(query=urlencode(kept, quote_via=quote)))
        raw = conninfo.conninfo_to_dict(text)
    except (ValueError, psycopg.Error):
        raise malformed from None
    parameters = {key: str(value) for key, value in raw.items() if value is not None}
    # A password with an unescaped @ or / ends up in the host, the port or the database name.
    where = (parameters.get("host", ""), parameters.get("dbname", ""), parameters.get("user", ""))
    ports = parameters.get("port", "").split(",")
    if any("@" in part for part in where) or not all(port.isdigit() for port in ports if port):
        raise malformed
    return Target(parameters, schema)


def safe_url(url: SecretStr | str) -> str:
    """``user@host:port/database`` without password or parameters; ``(malformed URL)`` where it cannot be read."""
    try:
        return str(parse_url(SecretStr(url) if isinstance(url, str) else url))
    except DatabaseMisconfigured:
        return "(malformed URL)"


# --- errors

# By SQLSTATE or its class, the longest match wins (PostgreSQL manual, appendix A).
_ERRORS: Final[Mapping[str, type[DatabaseError]]] = {
    "08": DatabaseUnavailable,  # connection exception
    "22": BatchRejected,  # data exception
    "23": BatchRejected,  # integrity constraint violation
    "25006": DatabaseUnavailable,  # read-only: a standby during a failover
    "25P03": DatabaseUnavailable,  # idle in a transaction for too long: the network stood still
    "25P04": DatabaseUnavailable,  # transaction timeout
    "28": DatabaseMisconfigured,  # login refused
    "3D000": DatabaseMisconfigured,  # no such database
    "3F000": DatabaseMisconfigured,  # no such schema
    "40": DatabaseUnavailable,  # serialization failure, deadlock
    "42": DatabaseMisconfigured,  # undefined table or column, missing privilege
    "44": BatchRejected,  # a view's check option
    "53": DatabaseUnavailable,  # out of connections, memory, disk
    "54": BatchRejected,  # a node id too long for the index
    "55P03": DatabaseUnavailable,  # lock not available in time
    "57": DatabaseUnavailable,  # shutting down, starting, statement timeout
    "58": DatabaseUnavailable,  # I/O error on the server
    "P0001": BatchRejected,  # RAISE EXCEPTION in an application's trigger
}
REFUSALS_OF_ROWS: Final = tuple(state for state, kind in _ERRORS.items() if kind is BatchRejected)
_NOT_MIGRATED: Final = frozenset({"42P01", "42703", "42883"})  # no such table, column, function
# libpq tells no SQLSTATE for a connection that was refused; its texts in English do (fe-auth.c, postmaster.c).
_REFUSALS: Final = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("is not permitted to log in", "28000"),
    ("permission denied for database", "42501"),
    ("certificate verify failed", "28000"),
    ("root certificate file", "28000"),
    ("does not match host name", "28000"),
    ("server does not support SSL", "28000"),
    ("too many connections for", "53300"),
    ("too many clients already", "53300"),
    ("remaining connection slots are reserved", "53300"),
)
_MISSING: Final = (("role", "28000"), ("database", "3D000"))


def translate(error: psycopg.Error) -> DatabaseError | None:
    """The error of ours that stands for ``error``, its text one line; None where it is a bug, not a condition."""
    state = error.sqlstate or _state_of_refusal(str(error))
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return DatabaseUnavailable(_one_line(str(error)))
        return None
    kind = _ERRORS.get(state) or _ERRORS.get(state[:2]) or DatabaseMisconfigured
    text = error.diag.message_primary or _one_line(str(error))
    if state in _NOT_MIGRATED:
        text += ": not migrated, run scada-trio migrate"
    return kind(text, state)


@contextmanager
def translated() -> Iterator[None]:
    """Raise psycopg's errors as ours."""
    try:
        yield
    except psycopg.Error as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


def _state_of_refusal(text: str) -> str | None:
    for phrase, state in _REFUSALS:
        if phrase in text:
            return state
    if "does not exist" in text:
        for kind, state in _MISSING:
            if f'{kind} "' in text:
                return state
    return None


def _one_line(text: str) -> str:
    """Without what psycopg puts before libpq's own words, and the question that libpq puts after them."""
    line = " ".join(text.split()).removeprefix("connection failed: ")
    return line.removesuffix(" Is the server running on that host and accepting TCP/IP connections?")


# --- connections


def connect(
    url: SecretStr, *, application_name: str, connect_timeout_s: float, statement_timeout_s: float
) -> Connection:
    """Open a connection in autocommit mode, UTC; blocks, for a worker thread; the caller closes it.

    Parameters of the URL win over the service's own. Raises `DatabaseUnavailable`, `DatabaseMisconfigured`.
    """
    target = parse_url(url)
    parameters: dict[str, Any] = {
        **_TCP,
        "application_name": application_name,
        "connect_timeout": max(2, math.ceil(connect_timeout_s)),  # libpq takes whole seconds, 2 at least
        **target.parameters,
        "client_encoding": "UTF8",
    }
    with translated():
        connection = psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
    try:
        with translated():
            connection.execute(_session_settings(target, statement_timeout_s))
    except BaseException:
        connection.close()
        raise
    return connection


def _session_settings(target: Target, statement_timeout_s: float) -> psycopg.sql.Composed:
    settings = {
        "statement_timeout": str(round(statement_timeout_s * 1000)),
        # A client that died between two statements must not hold its locks until TCP gives up.
        "idle_in_transaction_session_timeout": "60000",
        "TimeZone": "UTC",
        "client_min_messages": "warning",
        # Estimates over many partitions look dear enough for it, and compiling takes longer than any query of ours.
        "jit": "off",
    }
    if target.schema is not None:
        settings["search_path"] = psycopg.sql.Identifier(target.schema).as_string()
    calls = [psycopg.sql.SQL("set_config({}, {}, false)").format(name, value) for name, value in settings.items()]
    return psycopg.sql.SQL("SELECT {}").format(psycopg.sql.SQL(", ").join(calls))


async def open_connection(
    url: SecretStr,
    *,
    application_name: str,
    connect_timeout_s: float,
    statement_timeout_s: float,
    limiter: trio.CapacityLimiter,
) -> Connection:
    """`connect` in a worker thread; the caller closes what it gets.

    A cancelled call returns at once: its thread ends within ``connect_timeout_s`` and closes what it has opened.
    """
    slot = _Slot()
    attempt = partial(
        connect,
        url,
        application_name=application_name,
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
    )
    try:
        return await trio.to_thread.run_sync(slot.fill, attempt, abandon_on_cancel=True, limiter=limiter)
    except trio.Cancelled:
        slot.abandon()
        raise


class _Slot:
    """Where a connecting thread leaves its connection, so that one nobody waits for any more is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self._connection: Connection | None = None

    def fill(self, attempt: Callable[[], Connection]) -> Connection:
        connection = attempt()
        with self._lock:
            self._connection = connection
            if self._abandoned:
                connection.close()
        return connection

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._connection is not None:
                self._connection.close()


def is_stale(connection: Connection) -> bool:
    """Whether an idle connection was lost, as when the server was restarted meanwhile.

    A connection in which nothing is under way has nothing to read but the server's farewell.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


# --- calls


async def call_once(
    url: SecretStr,
    call: Callable[[Connection, Unpack[Ts]], T],
    /,
    *args: *Ts,
    application_name: str,
    connect_timeout_s: float,
    statement_timeout_s: float,
) -> T:
    """``call(connection, *args)`` as `run_cancellable` runs it, on a connection that is opened and closed for it."""
    limiter = trio.CapacityLimiter(1)
    connection = await open_connection(
        url,
        application_name=application_name,
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
        limiter=limiter,
    )
    try:
        return await run_cancellable(connection, call, *args, limiter=limiter)
    finally:
        connection.close()


async def run_cancellable(
    connection: Connection,
    call: Callable[[Connection, Unpack[Ts]], T],
    /,
    *args: *Ts,
    limiter: trio.CapacityLimiter,
) -> T:
    """``call(connection, *args)`` in a worker thread of ``limiter``; raises psycopg's errors as ours.

    Cancelled, it makes the server cancel too and waits for the thread: what ``call`` did in a transaction is rolled
    back and the connection can be used on, or is broken where the server does not answer within a few seconds.
    A call that finished all the same, its commit included, returns its result.
    """
    captured: list[outcome.Outcome[T]] = []
    done = trio.Event()
    work = partial(outcome.capture, call, connection, *args)

    async def run() -> None:
        with trio.CancelScope(shield=True):
            captured.append(await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1)))
        done.set()

    async with limiter, trio.open_nursery() as nursery:
        nursery.start_soon(run, name="database call")
        try:
            await done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await _cancel_on_server(connection, done)
            if isinstance(captured[0], outcome.Error):
                raise
    with translated():
        return captured[0].unwrap()


async def _cancel_on_server(connection: Connection, done: trio.Event) -> None:
    """Cancel until the thread is done; a request that arrives between two statements has no effect, so ask again."""
    for wait_s in _CANCEL_WAITS_S:
        await trio.to_thread.run_sync(_send_cancel, connection, limiter=trio.CapacityLimiter(1))
        with trio.move_on_after(wait_s):
            await done.wait()
            return
    _cut(connection)
    await done.wait()


def _send_cancel(connection: Connection) -> None:
    try:
        connection.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
    except psycopg.Error:
        return  # the server does not answer: `_cut` follows


def _cut(connection: Connection) -> None:
    """Shut the socket, so that the thread that waits for it fails at once."""
    try:
        descriptor = os.dup(connection.fileno())
    except (OSError, psycopg.Error):
        return  # closed already
    with socket.socket(fileno=descriptor) as link:
        try:
            link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
