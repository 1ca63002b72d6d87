"""What goes wrong between us and PostgreSQL, each for real, and what we call it."""

from __future__ import annotations

import threading

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.storage.connect import (
    Connection,
    connect,
    is_stale,
    open_connection,
    parse_url,
    run_cancellable,
    safe_url,
    translated,
)
from scada_trio.storage.databases import create_database, with_database
from tests.fix_postgres import PostgresServer, fetch

SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"


def _connect(url: SecretStr, statement_timeout_s: float = 30) -> Connection:
    return connect(url, application_name="test", connect_timeout_s=5, statement_timeout_s=statement_timeout_s)


def _run(url: SecretStr, query: str, statement_timeout_s: float = 30) -> DatabaseError:
    connection = _connect(url, statement_timeout_s)
    try:
        with pytest.raises(DatabaseError) as caught, translated():
            connection.execute(query.encode())
    finally:
        connection.close()
    assert "\n" not in str(caught.value)
    return caught.value


def _replaced(url: SecretStr, old: str, new: str) -> SecretStr:
    text = url.get_secret_value()
    assert old in text
    return SecretStr(text.replace(old, new))


def _password(url: SecretStr) -> str:
    return url.get_secret_value().split(":")[2].split("@")[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa@ss@host/db",
        "postgresql://u:pa/ss@host/db",
        "postgresql://u:12/pass@host/db",
        "postgresql://u:pa%zzss@host/db",
        "postgresql://u:pass@host/db?no_such_parameter=pass",
        "mysql://u:pass@host/db",
        "postgresql://[u:pass@host/db",
        "pass",
        "",
    ],
)
def test_a_malformed_url_is_refused_without_being_repeated(url: str) -> None:
    """A password with unescaped characters ends up in another part of the URL: no part is shown."""
    with pytest.raises(DatabaseMisconfigured) as caught:
        parse_url(SecretStr(url))
    assert "ss" not in str(caught.value).replace("password", "").replace("postgresql", "")
    assert caught.value.__cause__ is None
    assert safe_url(url) == "(malformed URL)"


def test_a_url_is_shown_without_its_secrets() -> None:
    """User, host, port and database are what an operator needs to see."""
    assert safe_url("postgresql://u:s%40cret@host:5433/db?sslmode=require&sslpassword=secret") == "u@host:5433/db"
    assert safe_url("postgres:///db?host=/run/postgresql&user=u") == "u@/run/postgresql/db"


def test_urls_of_other_drivers_are_understood() -> None:
    """What Prisma and node-postgres put into a URL does not keep libpq from connecting."""
    url = "postgresql://u:p%3Fw@host/db?schema=app&connection_limit=5&pgbouncer=true&sslmode=no-verify"
    target = parse_url(SecretStr(url))
    assert target.schema == "app"
    assert target.parameters == {
        "user": "u",
        "password": "p?w",
        "host": "host",
        "dbname": "db",
        "sslmode": "require",
    }


def test_the_schema_of_a_url_is_where_tables_are_looked_for(postgres: PostgresServer) -> None:
    """``?schema=app`` becomes the search path."""
    url = SecretStr(postgres.create_database().get_secret_value() + "?schema=app")
    connection = _connect(url)
    assert connection.execute("SHOW search_path").fetchone() == ('"app"',)
    connection.close()


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("postgresql://u:p%40@h:1/a?sslmode=require&schema=x", "postgresql://u:p%40@h:1/b%2Fc?sslmode=require"),
        ("postgresql://u:1?2#3@[::1]/a", "postgresql://u:1%3F2%233@[::1]/b%2Fc"),
        ("postgresql://h1:1,h2:2/a", "postgresql:///b%2Fc?host=h1%2Ch2&port=1%2C2"),
        ("postgresql:///a?host=/run/pg&user=u", "postgresql:///b%2Fc?user=u&host=%2Frun%2Fpg"),
        ("postgresql://h", "postgresql://h/b%2Fc"),
    ],
)
def test_another_database_of_the_same_server(url: str, other: str) -> None:
    """Everything of the URL but the database stays."""
    assert with_database(SecretStr(url), "b/c").get_secret_value() == other
    assert parse_url(SecretStr(other)).parameters["dbname"] == "b/c"


def test_a_server_that_is_not_there(own_postgres: PostgresServer) -> None:
    """A stopped server is away: it may come back."""
    url = own_postgres.server.url
    with own_postgres.stopped(), pytest.raises(DatabaseUnavailable) as caught:
        _connect(url)
    assert "refused" in str(caught.value)
    assert _password(url) not in str(caught.value)


def test_a_wrong_password(postgres: PostgresServer) -> None:
    """The server asks for the password and says no: an operator has to act."""
    password = _password(postgres.server.url)
    with pytest.raises(DatabaseMisconfigured) as caught:
        _connect(_replaced(postgres.server.url, password, "wrong-password"))
    assert caught.value.sqlstate == "28P01"
    assert "wrong-password" not in str(caught.value)


def test_a_missing_database_or_role(postgres: PostgresServer) -> None:
    """Both are configuration, not weather."""
    with pytest.raises(DatabaseMisconfigured) as caught:
        _connect(_replaced(postgres.server.url, "/scada_master", "/nowhere"))
    assert caught.value.sqlstate == "3D000"
    role = postgres.create_database()
    fetch(role, "CREATE ROLE nologin_role")
    with pytest.raises(DatabaseMisconfigured):
        _connect(_replaced(role, "//scada:", "//nologin_role:"))


@pytest.mark.parametrize(
    ("query", "kind", "sqlstate"),
    [
        ("SELECT * FROM scada_readings", DatabaseMisconfigured, "42P01"),
        ("SELECT no_such_column FROM pg_class", DatabaseMisconfigured, "42703"),
        ("INSERT INTO pair VALUES (1), (1)", BatchRejected, "23505"),
        ("SELECT 1 / 0", BatchRejected, "22012"),
        ("SELECT 'infinity'::timestamptz + 'x'", BatchRejected, "22007"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$", DatabaseUnavailable, "53100"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$", DatabaseUnavailable, "40P01"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '55P03'; END $$", DatabaseUnavailable, "55P03"),
        ("BEGIN READ ONLY; CREATE TABLE written (a int)", DatabaseUnavailable, "25006"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable, "57P01"),
    ],
)
def test_errors_of_the_server_by_what_they_ask_for(
    postgres: PostgresServer, query: str, kind: type[DatabaseError], sqlstate: str
) -> None:
    """Retry, refuse, or tell the operator: by SQLSTATE."""
    url = postgres.create_database()
    fetch(url, "CREATE TABLE pair (a int PRIMARY KEY)")
    error = _run(url, query)
    assert (type(error), error.sqlstate) == (kind, sqlstate)


def test_a_missing_table_says_what_to_do(postgres: PostgresServer) -> None:
    """The message names the command."""
    assert "run scada-trio migrate" in str(_run(postgres.create_database(), "SELECT * FROM scada_readings"))


def test_a_statement_that_takes_too_long(postgres: PostgresServer) -> None:
    """The server stops it, and it counts as away."""
    error = _run(postgres.create_database(), "SELECT pg_sleep(600)", statement_timeout_s=0.05)
    assert (type(error), error.sqlstate) == (DatabaseUnavailable, "57014")


def test_a_taken_name(postgres: PostgresServer) -> None:
    """A database that is there is never taken over by mistake."""
    with pytest.raises(Exception, match="exists already"):
        create_database(postgres.server.url, "postgres")


async def _wait_for(url: SecretStr, query: str) -> None:
    while not fetch(url, query)[0][0]:  # noqa: ASYNC110 - the server has no event for it
        await trio.sleep(0.01)


async def _open(url: SecretStr) -> Connection:
    return await open_connection(
        url,
        application_name="test",
        connect_timeout_s=5,
        statement_timeout_s=600,
        limiter=trio.CapacityLimiter(1),
    )


def _sleep(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("CREATE TABLE half_done (a int)")
        connection.execute("SELECT pg_sleep(600)")


async def test_a_cancel_reaches_the_server(postgres: PostgresServer) -> None:
    """The statement ends there, its transaction is rolled back, and the connection is good for the next call."""
    url = postgres.create_database()
    connection = await _open(url)
    limiter = trio.CapacityLimiter(1)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_cancellable(connection, _sleep, limiter=limiter))
            await _wait_for(url, SLEEPING)
            nursery.cancel_scope.cancel()
        assert fetch(url, SLEEPING) == [(0,)]
        assert await run_cancellable(connection, _count_tables, limiter=limiter) == 0
        assert limiter.borrowed_tokens == 0
    finally:
        connection.close()


def _count_tables(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'").fetchone()
    assert row is not None
    return int(row[0])


async def test_a_call_that_finished_keeps_its_result(postgres: PostgresServer) -> None:
    """A cancel that comes too late does not hide what was committed."""
    connection = await _open(postgres.create_database())
    committed, released = threading.Event(), threading.Event()
    results: list[str] = []

    def commit(conn: Connection) -> str:
        conn.execute("CREATE TABLE done (a int)")
        committed.set()
        released.wait()
        return "committed"

    async def call() -> None:
        results.append(await run_cancellable(connection, commit, limiter=trio.CapacityLimiter(1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.to_thread.run_sync(committed.wait)
        nursery.cancel_scope.cancel()
        released.set()
    assert results == ["committed"]
    connection.close()


async def test_a_backend_that_is_terminated(postgres: PostgresServer) -> None:
    """The call fails as the database being away, and so does the next one on that connection."""
    url = postgres.create_database()
    connection = await _open(url)
    limiter = trio.CapacityLimiter(1)
    with pytest.RaisesGroup(DatabaseUnavailable):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_cancellable(connection, _sleep, limiter=limiter))
            await _wait_for(url, SLEEPING)
            fetch(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'")
    with pytest.raises(DatabaseUnavailable):
        await run_cancellable(connection, _count_tables, limiter=limiter)
    assert is_stale(connection)
    connection.close()


async def test_a_server_that_is_killed(own_postgres: PostgresServer) -> None:
    """Whoever waits for it is told at once."""
    url = own_postgres.create_database()
    connection = await _open(url)
    idle = await _open(url)
    assert not is_stale(idle)
    with pytest.RaisesGroup(DatabaseUnavailable):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_cancellable(connection, _sleep, limiter=trio.CapacityLimiter(1)))
            await _wait_for(url, SLEEPING)
            await trio.to_thread.run_sync(own_postgres.kill)
    await trio.lowlevel.wait_readable(idle.fileno())
    assert is_stale(idle)
    connection.close()
    idle.close()


async def test_a_cancel_that_the_server_does_not_answer(postgres: PostgresServer) -> None:
    """Where a cancel request has no effect, the socket is shut: the task is not held by a silent peer."""
    url = postgres.create_database()
    connection = await _open(url)
    blocked = threading.Event()

    def deaf(conn: Connection) -> None:
        # a statement that swallows the cancel requests it gets
        blocked.set()
        conn.execute(
            """DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600);
               EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"""
        )

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_cancellable(connection, deaf, limiter=trio.CapacityLimiter(1)))
            await trio.to_thread.run_sync(blocked.wait)
            scope.cancel()
    assert scope.cancelled_caught
    connection.close()
    fetch(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO $$%%'")


async def test_a_cancelled_connect_does_not_wait_and_leaves_nothing() -> None:
    """A listener that never answers holds no task; its thread closes what it has opened."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.move_on_after(0.1) as scope:
        await _open(SecretStr(f"postgresql://u:p@127.0.0.1:{port}/db"))
    assert scope.cancelled_caught
    stream = await listeners[0].accept()
    await stream.aclose()
    await listeners[0].aclose()


def test_psycopg_errors_that_are_bugs_stay_what_they_are() -> None:
    """A programming error is not taken for a condition of the database."""
    with pytest.raises(psycopg.ProgrammingError), translated():
        raise psycopg.ProgrammingError("the number of parameters is wrong")
