"""What the wells made against what the table holds, and when each part of it was committed.

`tally` asks the database; everything else is pure. PostgreSQL keeps the time of each commit
(``track_commit_timestamp``), so latency is told alike for every pipeline: from the time that the well stamped a value
with to the commit of its transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray

from scada_trio.loadtest.account import Account, settle
from scada_trio.simulator.record import MADE
from scada_trio.storage.tally import STORED

# A Date of JavaScript and a message of the gateway know milliseconds, so a step is looked for that close.
TOLERANCE_US: Final = 1_000
_LATE_S: Final = 15.0
_STEPS: Final = """
    SELECT well_id, (extract(epoch FROM timestamp) * 1000000)::bigint, sum(items)::bigint, sum(bad)::bigint, sum(total),
           (extract(epoch FROM max(pg_xact_commit_timestamp(xid))) * 1000000)::bigint
    FROM (SELECT well_id, timestamp, xmin AS xid, count(*) AS items, count(*) FILTER (WHERE quality = 'Bad') AS bad,
                 coalesce(sum(value) FILTER (WHERE value <> 'NaN'), 0) AS total
          FROM scada_readings GROUP BY 1, 2, 3) AS parts
    GROUP BY 1, 2"""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run. Values whose own time lies in it, and values committed in it, of whatever time."""

    seconds: float
    sent: int
    stored: int
    committed: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None

    @property
    def lost(self) -> int:
        """Sent in it and never stored."""
        return self.sent - self.stored

    @property
    def sent_per_s(self) -> float:
        """What the wells offered."""
        return self.sent / self.seconds

    @property
    def committed_per_s(self) -> float:
        """What the database took."""
        return self.committed / self.seconds


def tally(url: str, wells: Mapping[UUID, int]) -> NDArray[np.void]:
    """All that ``scada_readings`` holds, of dtype `STORED`; ``written_us`` is the time of the last commit of a step."""
    with psycopg.connect(url) as connection:
        connection.execute("SET work_mem = '256MB'")
        rows = connection.execute(_STEPS).fetchall()
    return np.array([(wells.get(well, 0), *rest) for well, *rest in rows], STORED)


def aligned(record: NDArray[np.void], stored: NDArray[np.void]) -> NDArray[np.void]:
    """``stored`` with the record's time in the place of one that is at most `TOLERANCE_US` from it."""
    stored = stored.copy()
    for well in np.unique(stored["well"]).tolist():
        made_us = np.unique(record["time_us"][(record["well"] == well) & (record["kind"] == MADE)])
        if not len(made_us):
            continue
        ours = stored["well"] == well
        time_us = stored["time_us"][ours]
        after = np.minimum(np.searchsorted(made_us, time_us), len(made_us) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(
            np.abs(made_us[after] - time_us) <= np.abs(made_us[before] - time_us), made_us[after], made_us[before]
        )
        stored["time_us"][ours] = np.where(np.abs(nearest - time_us) <= TOLERANCE_US, nearest, time_us)
    return stored


def whole_account(record: NDArray[np.void], stored: NDArray[np.void]) -> Account:
    """Of everything; ``stored`` is `aligned`."""
    return settle(record, stored, window_us=(0, 0), commit_s=0.0, late_s=_LATE_S)


def phase_of(record: NDArray[np.void], stored: NDArray[np.void], window_us: tuple[int, int]) -> Phase:
    """What became of one part of a run; ``stored`` is `aligned`."""
    account = settle(record, stored, window_us=window_us, commit_s=0.0, late_s=_LATE_S)
    in_time = (stored["written_us"] >= window_us[0]) & (stored["written_us"] < window_us[1])
    latency = account.latency
    return Phase(
        seconds=(window_us[1] - window_us[0]) / 1e6,
        sent=account.sent_in_window,
        stored=account.stored_in_window,
        committed=int(stored["items"][in_time].sum(dtype=np.int64)),
        p50_s=latency.p50_s if latency else None,
        p95_s=latency.p95_s if latency else None,
        p99_s=latency.p99_s if latency else None,
    )


def lag_s(connection: psycopg.Connection[Any], tags: Mapping[UUID, str], now_s: float) -> float:
    """How old the newest value of the well is that is farthest behind; infinite where one has none yet."""
    oldest = now_s
    for well_id, node_id in tags.items():
        row = connection.execute(
            "SELECT extract(epoch FROM max(timestamp))::float8 FROM scada_readings WHERE well_id = %s"
            " AND tag_node_id = %s",
            [well_id, node_id],
        ).fetchone()
        if row is None or row[0] is None:
            return float("inf")
        oldest = min(oldest, row[0])
    return now_s - oldest
