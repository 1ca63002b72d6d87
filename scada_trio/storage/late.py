"""Late and repeated readings: what the writer must know of its table before it sends them.

Owns, for one open writer, the days that have a partition, and where no index tells a repeated reading, which readings
cannot be stored already. Blocks, for the writer's worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors

from scada_trio.readings import ReadingBlock
from scada_trio.storage.connect import Connection
from scada_trio.storage.copy import COPY_COLUMNS

_DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS_AT_ONCE: Final = 32  # partitions made for one batch; the others' readings wait for the hourly maintenance
_LATEST_US: Final = np.iinfo(np.int64).max

# TimescaleDB ends a transaction that has to look into so many compressed rows, and the batch would never go through.
_LIFT_LIMIT: Final = """
    SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name = 'timescaledb.max_tuples_decompressed_per_dml_transaction'"""
_IS_PARTITIONED: Final = """
    SELECT to_regclass('scada_readings_default') IS NOT NULL
        AND to_regprocedure('scada_make_partition(date)') IS NOT NULL"""
_MAKE_PARTITION: Final = "SELECT scada_make_partition(%s)"
_TELLS_REPEATED: Final = f"""
    EXPLAIN INSERT INTO scada_readings ({COPY_COLUMNS}) SELECT {COPY_COLUMNS} FROM scada_readings WHERE false
    ON CONFLICT (well_id, tag_node_id, timestamp) DO NOTHING"""  # noqa: S608 - constants
_NEWEST: Final = """
    SELECT CASE WHEN isfinite(newest) THEN (extract(epoch FROM newest) * 1000000)::bigint END
    FROM (SELECT max(timestamp) AS newest FROM scada_readings) AS m"""
_NEWEST_TIMEOUT: Final = "SET LOCAL statement_timeout = '5s'"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """``days`` where the readings are in partitions of ours, ``horizon`` where no index tells a repeated reading."""

    days: Days | None
    horizon: Horizon | None


def inspect_table(connection: Connection) -> Table:
    """What the table of readings is; for a connection that writes, once."""
    lift_limit(connection)
    row = connection.execute(_IS_PARTITIONED).fetchone()
    days = Days() if row and row[0] else None
    return Table(days, None if tells_repeated(connection) else Horizon(_newest_us(connection)))


def lift_limit(connection: Connection) -> None:
    """Let a transaction look into as many compressed rows as its late readings need."""
    connection.execute(_LIFT_LIMIT)


def tells_repeated(connection: Connection) -> bool:
    """Whether a unique index on series and time is there."""
    try:
        with connection.transaction():
            connection.execute(_TELLS_REPEATED)
    except (errors.InvalidColumnReference, errors.FeatureNotSupported):
        return False
    except errors.InsufficientPrivilege:
        return True  # who may insert only cannot look anything up either
    return True


def _newest_us(connection: Connection) -> int:
    """The time of the newest stored reading, µs since 1970; the end of time where it is not found quickly."""
    try:
        with connection.transaction():
            connection.execute(_NEWEST_TIMEOUT)
            row = connection.execute(_NEWEST).fetchone()
    except (errors.QueryCanceled, errors.InsufficientPrivilege):
        return _LATEST_US
    if row is None or row[0] is None:
        exists = connection.execute("SELECT EXISTS (SELECT FROM scada_readings)").fetchone()
        return _LATEST_US if exists and exists[0] else -_LATEST_US
    return int(row[0])


class Days:
    """Makes the partition of a day before its first reading is sent, so that the default partition stays empty."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def make(self, connection: Connection, readings: ReadingBlock) -> None:
        """Make what ``readings`` need, each in a transaction of its own.

        A day whose partition cannot be made now, as when a long query holds the table, is left to the hourly
        maintenance: the default partition takes its readings.
        """
        if len(readings) == 0:
            return
        new = [day for day in np.unique(readings.time_us // _DAY_US).tolist() if day not in self._seen]
        self._seen.update(new)
        for day in new[-_DAYS_AT_ONCE:]:
            try:
                with connection.transaction():
                    connection.execute("SET LOCAL lock_timeout = '2s'")
                    connection.execute(_MAKE_PARTITION, [(_EPOCH + timedelta(days=day)).date()])
            except psycopg.Error as error:
                if connection.closed or isinstance(error, errors.QueryCanceled):
                    raise
                return


class Horizon:
    """For each series the newest time that may be stored: what is newer is new, anything else has to be looked up.

    At first that is the newest time of the whole table, so that one look is enough for all series. It holds as long as
    nobody else writes newer readings of the same series.
    """

    def __init__(self, newest_us: int) -> None:
        self._newest_us: NDArray[np.int64] = np.full(64, newest_us, np.int64)
        self._first_us = newest_us

    def may_be_stored(self, readings: ReadingBlock) -> NDArray[np.bool_]:
        """For each reading whether it has to be looked up."""
        if len(readings):
            self._reserve(int(readings.tag.max()) + 1)
        may: NDArray[np.bool_] = readings.time_us <= self._newest_us[readings.tag]
        return may

    def advance(self, readings: ReadingBlock) -> None:
        """These are stored now."""
        if len(readings):
            self._reserve(int(readings.tag.max()) + 1)
            np.maximum.at(self._newest_us, readings.tag, readings.time_us)

    def _reserve(self, series: int) -> None:
        have = len(self._newest_us)
        if series > have:
            more = np.full(max(series, 2 * have) - have, self._first_us, np.int64)
            self._newest_us = np.concatenate([self._newest_us, more])
