"""Databases for a test, and counting what a test has stored in them: every step of every well, as columns.

For the load tester alone. Blocks, for a worker thread; starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from pydantic import SecretStr

from scada_trio.storage.connect import Connection, connect, translated

STORED: Final = np.dtype(
    [("well", "<u4"), ("time_us", "<i8"), ("items", "<u4"), ("bad", "<u4"), ("sum", "<f8"), ("written_us", "<i8")]
)
"""``items`` readings of one well and one time; ``written_us`` is when the transaction of their last one began."""

_TIMEOUT_S: Final = 900.0
_ROWS: Final = 50_000
_STEPS: Final = """
    SELECT well_id, (extract(epoch FROM timestamp) * 1000000)::bigint,
           count(*), count(*) FILTER (WHERE quality = 'Bad'), coalesce(sum(value) FILTER (WHERE value <> 'NaN'), 0),
           (extract(epoch FROM max(created_at)) * 1000000)::bigint
    FROM scada_readings GROUP BY well_id, timestamp
"""


def stored_steps(url: SecretStr, wells: Mapping[UUID, int]) -> NDArray[np.void]:
    """All that is in ``scada_readings``, of dtype `STORED`, grouped by well and time, in no order.

    ``wells`` numbers the wells; readings of others have the number 0. Raises `DatabaseError`.
    """
    parts = [np.empty(0, STORED)]
    with (
        _connected(url) as connection,
        translated(),
        connection.transaction(),
        connection.cursor("steps") as cursor,  # on the server: an hour of a thousand wells is millions of rows
    ):
        cursor.execute(_STEPS)
        while rows := cursor.fetchmany(_ROWS):
            parts.append(np.array([(wells.get(well, 0), *rest) for well, *rest in rows], STORED))
    return np.concatenate(parts)


def drop_database(url: SecretStr, name: str) -> None:
    """Drop a database of the server of ``url``, whoever is connected to it; nothing where it is not there."""
    with _connected(url) as connection, translated():
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def server_version(url: SecretStr) -> str:
    """``PostgreSQL 18.1``, with ``TimescaleDB 2.28`` behind it where the database has that."""
    with _connected(url) as connection, translated():
        version = connection.execute("SELECT current_setting('server_version')").fetchone()
        extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    assert version is not None
    names = [f"PostgreSQL {str(version[0]).split()[0]}"]
    return ", ".join(names if extension is None else [*names, f"TimescaleDB {extension[0]}"])


@contextmanager
def _connected(url: SecretStr) -> Iterator[Connection]:
    connection = connect(
        url, application_name="scada-trio loadtest", connect_timeout_s=10.0, statement_timeout_s=_TIMEOUT_S
    )
    try:
        yield connection
    finally:
        connection.close()
