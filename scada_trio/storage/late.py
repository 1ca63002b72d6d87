"""Late and repeated readings: what the writer must know of its table before it sends them.

Owns, for one open writer, the days that have a partition, and where no index tells a repeated reading, which readings
cannot be stored already. Blocks, for the writer's worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import numpy as np
import psycopg
import structlog
from numpy.typing import NDArray
from psycopg import errors

from scada_trio.readings import ReadingBlock, TagTable
from scada_trio.storage.connect import Connection
from scada_trio.storage.copy import COPY_COLUMNS
from scada_trio.storage.horizon import Horizon

log = structlog.get_logger()

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
_COST_OF_A_LOOK: Final = """
    EXPLAIN (FORMAT JSON) SELECT FROM scada_readings WHERE well_id = %s AND tag_node_id = %s AND timestamp = %s"""
# In the planner's unit, a page read in order: some 100,000 rows. A batch of 10,000 readings takes 160 such passes.
_MOST_COST: Final = 4_000.0
_INDEX: Final = "CREATE UNIQUE INDEX ON scada_readings (well_id, tag_node_id, timestamp DESC)"
_NEWEST: Final = """
    SELECT CASE WHEN isfinite(newest) THEN (extract(epoch FROM newest) * 1000000)::bigint END
    FROM (SELECT max(timestamp) AS newest FROM scada_readings) AS m"""
_NEWEST_TIMEOUT: Final = "SET LOCAL statement_timeout = '5s'"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """``days`` where the readings are in partitions of ours, ``look_up`` where no index tells a repeated reading."""

    days: Days | None
    look_up: LookUp | None


def inspect_table(connection: Connection) -> Table:
    """What the table of readings is; for a connection that writes, once."""
    lift_limit(connection)
    row = connection.execute(_IS_PARTITIONED).fetchone()
    days = Days() if row and row[0] else None
    return Table(days, None if tells_repeated(connection) else LookUp(_newest_us(connection)))


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


class LookUp:
    """Says which readings are to be looked up in a table whose indexes tell no repeated ones.

    Where nothing leads to a series and time, each look is a pass over a day of readings, and a device whose clock was
    ahead would cost one for every reading: then none is looked up, which the log says once for each writer.
    """

    def __init__(self, newest_us: int) -> None:
        self._horizon = Horizon(newest_us)
        self._warned = False

    def wanted(self, connection: Connection, readings: ReadingBlock, tags: TagTable) -> NDArray[np.bool_]:
        """For each reading whether it has to be looked up; asks the database's planner where one may be stored."""
        may = self._horizon.may_be_stored(readings)
        if not may.any():
            return may
        looked_up = readings.select(may)
        for which in (looked_up.time_us.argmin(), looked_up.time_us.argmax()):
            key = tags.key(int(looked_up.tag[which]))
            if not affordable(connection, *key, _EPOCH + timedelta(microseconds=int(looked_up.time_us[which]))):
                self._warn()
                return np.zeros(len(readings), np.bool_)
        return may

    def advance(self, readings: ReadingBlock) -> None:
        """These are stored now."""
        self._horizon.advance(readings)

    def _warn(self) -> None:
        if not self._warned:
            log.warning("readings that may be stored already are not looked up: too dear without an index", make=_INDEX)
        self._warned = True


def affordable(connection: Connection, well_id: UUID, node_id: str, moment: datetime) -> bool:
    """Whether the planner finds one reading without a pass over many."""
    row = connection.execute(_COST_OF_A_LOOK, [well_id, node_id, moment]).fetchone()
    return row is not None and float(row[0][0]["Plan"]["Total Cost"]) <= _MOST_COST
