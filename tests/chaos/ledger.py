"""The arithmetic: what devices made and handed over, what the database has, what it says is lost.

    owed        values that must be somewhere: those in a notification that a counting device sent, or that its queue
                dropped, or that died with a subscription; of the other makers all between the first stored and the last
    written     owed values in the database, however often
    duplicated  rows written of a value beyond its first; that the unique index turns them away does not count
    repeated    the same where the device itself sent it once more, because it was asked to; a new subscription of the
                other makers tells its first value again
    in ledger   owed values that are not there, within a range of ``scada_loss`` of their connection
    unexplained owed values that are not there otherwise; and rows that no device made
    given up    those in the ledger that were acknowledged to a counting device, within a loss of the journal itself:
                its file was damaged, or it was full and set to drop the oldest
    broken      acknowledged to a counting device, not there, and not given up: in the ledger or not, never

Knows the log of control.py and the tables; nothing of processes and faults.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from pydantic import SecretStr

SLACK_US: Final = 1_000_000
"""How far a lost value may be outside of the range that the ledger gives: its times are the client's."""
OF_THE_JOURNAL: Final = frozenset({"journal_corrupt", "journal_full"})
"""Reasons for which accepted readings may be gone."""
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_ROW: Final = np.dtype([("fields", ">i2"), ("n1", ">i4"), ("time", ">i8"), ("n2", ">i4"), ("value", ">f8")])
_HEADER_BYTES: Final = 19


@dataclass
class Account:
    """Counts of one fault's rounds, or of all."""

    injected: int = 0
    sent: int = 0
    written: int = 0
    duplicated: int = 0
    repeated: int = 0
    in_ledger: int = 0
    given_up: int = 0
    unexplained: int = 0
    broken: int = 0

    def add(self, other: Account) -> None:
        """Add to every count."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class LossRow:
    """A row of ``scada_loss``."""

    reason: str
    connection_id: UUID | None
    from_us: int
    to_us: int
    count: int | None = None


@dataclass
class DeviceLog:
    """What a device logged: times by tick, and of the counting ones what is owed and acknowledged, by variable."""

    source_us: NDArray[np.int64]
    wall_us: NDArray[np.int64]
    owed: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    acknowledged: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    again: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def ticks(self) -> int:
        """One more than the last tick."""
        return len(self.source_us)


def read_log(path: Path) -> DeviceLog:
    """Read the whole log of a device."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ticks = np.array([line[1:] for line in lines if line[0] == "tick"], np.int64).reshape(-1, 3)
    size = int(ticks[:, 0].max(initial=0)) + 1
    log = DeviceLog(np.zeros(size, np.int64), np.zeros(size, np.int64))
    log.source_us[ticks[:, 0]], log.wall_us[ticks[:, 0]] = ticks[:, 1], ticks[:, 2]
    reader = _HandedReader(log, size, _abandoned(lines))
    for line in lines:
        reader.take(line)
    return log


def _abandoned(lines: Sequence[list[Any]]) -> dict[str, int]:
    """The last tick for which a subscription counts: after that the client had items of another one, and kept to it.

    It lives on at the device for a while, and its queue overflows, with values of tags that were removed meanwhile.
    """
    began: dict[str, tuple[int, int]] = {}  # by subscription: line and tick of its first items
    used: dict[str, int] = {}  # by subscription: the line at which it handed something over last
    tick = 0
    for number, line in enumerate(lines):
        match line:
            case ["tick", tick, *_]:
                pass
            case ["set", set_id, [_, *_]]:
                began.setdefault(set_id.partition(".")[0], (number, tick))
            case ["handed", subscription, *_]:
                used[str(subscription)] = number
    abandoned = {}
    for subscription, (number, _) in began.items():
        later = [began_at for line_number, began_at in began.values() if line_number > used.get(subscription, number)]
        if later:
            abandoned[subscription] = min(later)
    return abandoned


class _HandedReader:
    """What a counting device handed over, line by line.

    A value of a variable that the client does not monitor any more is not owed, and neither is one that was not yet
    acknowledged when it stopped to: whoever removes a tag gives up what is on its way.
    """

    def __init__(self, log: DeviceLog, size: int, abandoned: dict[str, int]) -> None:
        self._log = log
        self._size = size
        self._abandoned = abandoned
        self._sets: dict[str, list[int]] = {}
        self._current: dict[str, list[int]] = {}
        self._left: dict[tuple[str, int], int] = {}  # subscription, node → the set from which it was gone
        self._handed: dict[tuple[int, int], tuple[int, int, str]] = {}

    def take(self, line: list[Any]) -> None:
        match line:
            case ["set", set_id, nodes]:
                self._change(set_id, nodes)
            case ["handed", subscription, number, first, last, set_id]:
                self._handed[subscription, number] = (first, last, set_id)
                self._mark(self._log.owed, self._monitored(set_id), first, last)
            case ["dropped" | "died", first, last, set_id]:
                last = min(last, self._abandoned.get(set_id.partition(".")[0], last))
                self._mark(self._log.owed, self._monitored(set_id), first, last)
            case ["again", subscription, number]:
                first, last, set_id = self._handed[subscription, number]
                self._mark(self._log.again, self._sets[set_id], first, last)
            case ["ack", subscription, numbers]:
                for number in numbers:
                    first, last, set_id = self._handed[subscription, number]
                    self._mark(self._log.acknowledged, self._sets[set_id], first, last)

    def _change(self, set_id: str, nodes: list[int]) -> None:
        subscription, _, number = set_id.partition(".")
        for node in set(self._current.get(subscription, ())).difference(nodes):
            self._left[subscription, node] = int(number)
            if node in self._log.owed:
                self._log.owed[node] &= self._log.acknowledged.get(node, False)
        self._sets[set_id] = self._current[subscription] = nodes

    def _monitored(self, set_id: str) -> Sequence[int]:
        """Variables of a set that have been monitored ever since."""
        subscription, _, number = set_id.partition(".")
        return [node for node in self._sets[set_id] if self._left.get((subscription, node), 0) <= int(number)]

    def _mark(self, marks: dict[int, NDArray[np.bool_]], nodes: Sequence[int], first: int, last: int) -> None:
        for node in nodes:
            if node not in marks:
                marks[node] = np.zeros(self._size, np.bool_)
            marks[node][first : last + 1] = True


def read_losses(url: SecretStr) -> list[LossRow]:
    """All losses that a tenant's database knows; none where it has no such table yet."""
    with psycopg.connect(url.get_secret_value()) as connection:
        found = connection.execute("SELECT to_regclass('scada_loss')").fetchone()
        if found is None or found[0] is None:
            return []
        rows = connection.execute(
            "SELECT reason, connection_id, (extract(epoch FROM from_time) * 1000000)::bigint,"
            " (extract(epoch FROM to_time) * 1000000)::bigint,"
            " reading_count FROM scada_loss"
        ).fetchall()
    return [LossRow(*row) for row in rows]


def index_rows(url: SecretStr) -> None:
    """Before `read_rows` of ``chaos_rows``, which nobody reads while it is written."""
    with psycopg.connect(url.get_secret_value()) as connection:
        connection.execute("CREATE INDEX IF NOT EXISTS chaos_rows_series ON chaos_rows (well_id, tag_node_id)")


def read_rows(url: SecretStr, table: str, well_id: UUID, node_id: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Values and source times in µs of one variable: in ``scada_readings``, or in ``chaos_rows`` as it was written."""
    query = f"SELECT timestamp, value FROM {table} WHERE well_id = '{well_id}' AND tag_node_id = '{node_id}'"
    statement = f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()
    with (
        psycopg.connect(url.get_secret_value()) as connection,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        data = b"".join(bytes(part) for part in copy)
    rows = np.frombuffer(data, _ROW, count=(len(data) - _HEADER_BYTES - 2) // _ROW.itemsize, offset=_HEADER_BYTES)
    return rows["value"].astype(np.int64), rows["time"].astype(np.int64) + _POSTGRES_EPOCH_US


@dataclass
class Rounds:
    """The rounds: of which fault, and which values are theirs, by when they were made (µs of the wall clock).

    A value that is on its way when the next fault comes is that fault's.
    """

    began_us: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def begin(self, name: str, arrived_us: int) -> None:
        """The next round; what was made before ``arrived_us`` has arrived."""
        self.began_us.append(arrived_us)
        self.names.append(name)

    def index_of(self, wall_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The round in which each of these moments is."""
        starts = np.array(self.began_us, np.int64)
        return np.clip(np.searchsorted(starts, wall_us, side="right") - 1, 0, len(starts) - 1)


@dataclass
class Series:
    """The variables of one device; ``subscriptions`` bounds how often a new one may have repeated a value."""

    log: DeviceLog
    losses: Sequence[LossRow]
    counting: bool
    subscriptions: int
    exact_us: int = 1

    def settle(
        self, node: int, values: NDArray[np.int64], times_us: NDArray[np.int64], rounds: Rounds, accounts: list[Account]
    ) -> dict[str, NDArray[np.int64]]:
        """Add one variable to the accounts of the rounds; returns the ticks at fault by what is wrong with them."""
        log = self.log
        wrong: dict[str, NDArray[np.int64]] = {}
        made = values > 0  # 0 is what a device of another maker starts with
        values, times_us = values[made], times_us[made]
        known = values < log.ticks
        right = known.copy()
        right[known] = np.abs(log.source_us[values[known]] - times_us[known]) < self.exact_us
        if not right.all():
            accounts[-1].unexplained += int(np.count_nonzero(~right))
            wrong["made by nobody"] = values[~right]
        counts = np.bincount(values[right], minlength=log.ticks)
        owed = self._owed(node, counts)
        there = counts > 0
        missing = owed & ~there
        lost = missing & self._covered(self.losses)
        extra = np.maximum(counts - 1, 0)
        repeated = np.minimum(extra, self._may_repeat(node, extra))
        extra = extra - repeated
        acknowledged = log.acknowledged.get(node, np.zeros(log.ticks, np.bool_))
        given_up = acknowledged & missing & self._covered([x for x in self.losses if x.reason in OF_THE_JOURNAL])
        columns = {
            "sent": owed,
            "written": owed & there,
            "duplicated": extra,
            "repeated": repeated,
            "in_ledger": lost,
            "given_up": given_up,
            "unexplained": missing & ~lost,
            "broken": acknowledged & missing & ~given_up,
        }
        rounds_of = rounds.index_of(log.wall_us)
        for name, column in columns.items():
            sums = np.bincount(rounds_of, weights=column, minlength=len(accounts))
            for account, count in zip(accounts, sums.tolist(), strict=True):
                setattr(account, name, getattr(account, name) + int(count))
        wrong |= {name: np.flatnonzero(columns[name]) for name in ("duplicated", "unexplained", "broken")}
        return {name: ticks for name, ticks in wrong.items() if len(ticks)}

    def _owed(self, node: int, counts: NDArray[Any]) -> NDArray[np.bool_]:
        if self.counting:
            return self.log.owed.get(node, np.zeros(self.log.ticks, np.bool_))
        owed = self.log.wall_us > 0
        first = np.flatnonzero(counts)
        owed[: int(first[0]) if len(first) else None] = False
        return owed

    def _may_repeat(self, node: int, extra: NDArray[Any]) -> NDArray[Any]:
        """How many rows more than one the device itself may have caused, by tick."""
        if self.counting:
            return self.log.again.get(node, np.zeros(self.log.ticks, np.bool_)).astype(np.int64)
        few = int(extra.sum()) <= self.subscriptions  # the last value of a device that is paused comes with each
        return extra if few else np.zeros(self.log.ticks, np.int64)

    def _covered(self, losses: Sequence[LossRow]) -> NDArray[np.bool_]:
        """The ticks within a range of ``losses``."""
        covered = np.zeros(self.log.ticks, np.bool_)
        for loss in losses:
            for times in (self.log.source_us, self.log.wall_us):
                covered |= (times >= loss.from_us - SLACK_US) & (times <= loss.to_us + SLACK_US)
        return covered


def ranges_of(ticks: NDArray[Any], most: int = 6) -> str:
    """Ticks as ranges: 3-7, 9."""
    parts = np.split(ticks, np.flatnonzero(np.diff(ticks) > 1) + 1)
    text = ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts[:most])
    return text + (f" and {len(parts) - most} more ranges" if len(parts) > most else "")
