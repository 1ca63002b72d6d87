"""A damaged journal: set aside under another name, with everything that can still be read saved into a new file.

Blocks, for a worker thread; `scada_trio.journal` opens its files through it. Nothing is deleted:
``<name>.corrupt-<UTC time>`` is for whoever wants to look.

    X.sqlite ──► X.sqlite.new ──► X.sqlite.ready ── from here on it will be so ──► X.sqlite
                                  X.sqlite, -wal, -shm ──► X.sqlite.corrupt-20260131T120000Z, -wal, -shm

Sequences and the journal's id stay what they were, so that the database's cursor goes on meaning what it meant.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import numpy as np

from scada_trio.errors import JournalCorrupt, JournalUnavailable
from scada_trio.journal.file import EPOCH_BITS, Contents, JournalFile, Space, Sync, Work
from scada_trio.journal.reader import JournalReader
from scada_trio.journal.rows import (
    Record,
    TagKey,
    read_loss,
    read_subscription,
    read_tag,
)
from scada_trio.journal.wal import WalBefore, last_written_us
from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.readings import ReadingBlock

_SIDE_FILES: Final = ("-wal", "-shm")
_TOGETHER: Final = 100_000  # readings of one transaction
_SINCE_US: Final = 60_000_000  # before the last use of the file, where nothing tells when a device was last heard
_QUEUED_US: Final = 3_600_000_000  # no device keeps for longer what nobody has asked for
_NUMBERS_OF_A_PROCESS: Final = 1 << (EPOCH_BITS - 1)
_PARSE_ERRORS: Final = (JournalCorrupt, ValueError, TypeError, KeyError, AssertionError)


@dataclass(slots=True)
class Known:
    """What the process that used the file has in memory of it: it need not be read, and is written as it is.

    ``epoch`` is that of its sequences. ``tags`` are all of the tenant's, in the order of their numbers. Blocks of
    ``records`` take the place of all in the file up to ``through``.
    """

    journal_id: UUID | None = None
    epoch: int = 0
    tags: Sequence[TagKey] = ()
    records: Sequence[Record] = ()
    through: int = 0


@dataclass(slots=True)
class Salvaged:
    """``losses`` tell what is gone, by time; counts where they are known. ``recorded``: their numbers in the file.

    ``forgotten_us``: since when it may lack subscriptions without a trace, None where it does not.
    """

    aside: Path
    losses: list[Loss] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    forgotten_us: int | None = None


@dataclass(slots=True)
class Opened:
    """``damage`` is why the file was set aside, with what that cost; None where it was sound.

    ``losses`` are in the file already, under the numbers in ``recorded``: a process that is killed now leaves them.
    Numbers rise with time, since those up to one are reported together: the next is `next_loss`.
    """

    file: JournalFile
    contents: Contents
    space: Space
    damage: str | None = None
    aside: Path | None = None
    losses: list[Loss] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    forgotten_us: int | None = None

    @property
    def next_loss(self) -> int:
        """Above the number of every loss that is in the file."""
        return max([self.contents.epoch << EPOCH_BITS, *self.recorded]) + 1


def open_file(path: Path, sync: Sync, known: Known) -> Opened:
    """The tenant's journal, made if need be; a damaged one is set aside. Raises `JournalUnavailable`."""
    cut: list[Loss] = []
    try:
        _finish(path)
        if not path.exists():
            _make(path, uuid4())
        return _open_sound(path, sync, known, cut)
    except JournalCorrupt as error:
        return exchange_file(path, sync, known, str(error), cut)
    except OSError as error:
        raise JournalUnavailable(f"JOURNAL_DIR: {error.strerror}: {path.name}") from error


def _make(path: Path, journal_id: UUID, epoch: int = 0) -> None:
    """By renaming, so that an empty file is never one that was just being made."""
    new = path.with_name(path.name + ".new")
    _remove(new)
    JournalFile.create(new, journal_id, epoch).close()
    new.rename(path)


def start_over(path: Path, sync: Sync, known: Known) -> Opened:
    """Delete the file, whose readings are all committed, and make another one of the same id.

    The way out where the disk is so full that not even deleting rows is possible.
    """
    try:
        _remove(path)
        _make(path, known.journal_id or uuid4(), known.epoch)
        return _open_sound(path, sync, Known())
    except OSError as error:
        raise JournalUnavailable(f"JOURNAL_DIR: {error.strerror}: {path.name}") from error


def exchange_file(path: Path, sync: Sync, known: Known, damage: str, cut: Sequence[Loss] = ()) -> Opened:
    """Set the file aside and open the one that takes its place. ``cut`` is what a damaged WAL cost besides."""
    salvaged = set_aside(path, known, cut)
    opened = _open_sound(path, sync, known)
    opened.damage, opened.aside = damage, salvaged.aside
    opened.losses, opened.recorded = salvaged.losses, salvaged.recorded
    opened.forgotten_us = salvaged.forgotten_us
    return opened


def _open_sound(path: Path, sync: Sync, known: Known, cut: list[Loss] | None = None) -> Opened:
    """``cut`` is told what a damaged WAL cost, in case the file itself is damaged, too: closing it deletes the WAL."""
    wal = WalBefore.of(path)
    if path.stat().st_size == 0:
        raise JournalCorrupt("the file is empty")
    file = JournalFile.open(path, sync)
    try:
        kept = None
        if wal.is_cut(file.valid_frames()):
            kept = _keep_wal(path, wal, file)  # before the next transaction overwrites it
            if cut is not None:
                cut += kept.losses
        file.check()
        opened = Opened(file, file.begin(), file.space())
        shared = min(len(known.tags), len(opened.contents.tags))
        if list(known.tags[:shared]) != opened.contents.tags[:shared]:
            raise JournalCorrupt("its tag numbers are not those of this process")
    except BaseException:
        file.close()
        raise
    if kept is not None:
        opened.damage, opened.aside = "the WAL is damaged", kept.aside
        opened.forgotten_us = kept.losses[0].from_us
        opened.losses, opened.recorded = kept.losses, _record(file, opened.next_loss, kept.losses)
    return opened


def _record(file: JournalFile, first: int, losses: Sequence[Loss]) -> list[int]:
    """Put ``losses`` into the file, numbered from ``first`` on."""
    numbered = list(enumerate(losses, first))
    file.commit(Work(losses=numbered))
    return [number for number, _ in numbered]


def set_aside(path: Path, known: Known, cut: Sequence[Loss] = ()) -> Salvaged:
    """Replace the damaged file; raises `JournalUnavailable` and leaves it as it was where there is no room for that."""
    new = path.with_name(path.name + ".new")
    _remove(new)
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    salvaged = Salvaged(aside, list(cut))
    try:
        with JournalReader(path) as reader:
            _copy(reader, new, known, salvaged, cut)
        new.rename(path.with_name(path.name + ".ready"))
        _exchange(path, aside)
    except OSError as error:
        raise JournalUnavailable(f"JOURNAL_DIR: {error.strerror}: {path.name}") from error
    return salvaged


def _finish(path: Path) -> None:
    """What a process that died in `set_aside` or while it made a file has left behind."""
    if path.with_name(path.name + ".ready").exists():
        _exchange(path, path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))
    _remove(path.with_name(path.name + ".new"))


def _exchange(path: Path, aside: Path) -> None:
    for suffix in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    path.with_name(path.name + ".ready").rename(path)


def _remove(path: Path) -> None:
    for suffix in ("", *_SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _copy(reader: JournalReader, new: Path, known: Known, salvaged: Salvaged, cut: Sequence[Loss]) -> None:
    journal_id, epoch = reader.identity()
    epoch = max(known.epoch, epoch)
    file = JournalFile.create(new, known.journal_id or journal_id or uuid4(), epoch)
    try:
        tags = list(known.tags)
        translate = _tag_translation(reader, tags)
        file.commit(Work(tags=list(enumerate(tags)), records=list(known.records)))
        _copy_blocks(reader, file, translate, known.through, salvaged)
        file.commit(_small_tables(reader))
        if cut or not reader.is_whole("subscriptions"):
            salvaged.forgotten_us = min([loss.from_us for loss in cut] or [last_written_us(reader.path) - _SINCE_US])
        # behind those of the process that used the file, and in front of the epoch to come
        salvaged.recorded = _record(file, (epoch << EPOCH_BITS) + _NUMBERS_OF_A_PROCESS, salvaged.losses)
    finally:
        file.close()


def _tag_translation(reader: JournalReader, tags: list[TagKey]) -> Callable[[Record], tuple[Record, int]]:
    """What turns a block's tag numbers into those of ``tags``, which grows; and tells how many readings have none."""
    numbers = {key: number for number, key in enumerate(tags)}
    table: dict[int, int] = {}
    for row in reader.table("tags", "number"):
        with suppress(*_PARSE_ERRORS):
            number, key = read_tag(row)
            if key not in numbers:
                numbers[key] = len(tags)
                tags.append(key)
            table[number] = numbers[key]
    new_number = np.full(max(table, default=-1) + 1, -1, np.int32)
    for number, new in table.items():
        new_number[number] = new

    def translate(record: Record) -> tuple[Record, int]:
        block = record.block
        inside = (block.tag >= 0) & (block.tag < len(new_number))
        tag = np.where(inside, new_number[np.where(inside, block.tag, 0)] if len(new_number) else -1, -1)
        tag = tag.astype(np.int32)
        kept = tag >= 0
        if kept.all():
            return Record(record.sequence, ReadingBlock(tag, block.time_us, block.value, block.quality)), 0
        columns = ReadingBlock(tag[kept], block.time_us[kept], block.value[kept], block.quality[kept])
        return Record(record.sequence, columns), int(np.count_nonzero(~kept))

    return translate


def _copy_blocks(
    reader: JournalReader,
    file: JournalFile,
    translate: Callable[[Record], tuple[Record, int]],
    after: int,
    salvaged: Salvaged,
) -> None:
    rows, hole = reader.index()
    together: list[Record] = []
    count = 0
    damaged: list[tuple[int, int, int]] = []  # earliest and latest time, readings
    for sequence, from_us, to_us, readings in rows:
        if sequence <= after:
            continue
        record = reader.record(sequence)
        if record is None:
            damaged.append((from_us, to_us, readings))
            continue
        kept, without_tag = translate(record)
        if without_tag:
            damaged.append((from_us, to_us, without_tag))
        if kept.count:
            together.append(kept)
            count += kept.count
        if count >= _TOGETHER:
            file.commit(Work(records=together))
            together, count = [], 0
    file.commit(Work(records=together))
    if damaged:
        first, last = min(row[0] for row in damaged), max(row[1] for row in damaged)
        lost = sum(row[2] for row in damaged)
        salvaged.losses.append(Loss(LossReason.JOURNAL_CORRUPT, None, first, last, lost, salvaged.aside.name))
    if hole is None and not damaged and not reader.is_sound():
        hole = (0, None)  # a whole part of the tree may be out of reach, and nothing tells of it
    if hole is not None:
        written_us = last_written_us(reader.path)
        from_us, to_us = hole[0], written_us if hole[1] is None else hole[1]
        loss = Loss(LossReason.JOURNAL_CORRUPT, None, min(from_us, to_us), to_us, None, salvaged.aside.name)
        salvaged.losses.append(loss)


def _small_tables(reader: JournalReader) -> Work:
    """Of a subscription that cannot be read what is left is since when its connection's readings are missing."""
    losses: list[tuple[int, Loss]] = []
    subscriptions: dict[UUID, RememberedSubscription | None] = {}
    for row in reader.table("losses", "id"):
        with suppress(*_PARSE_ERRORS):
            losses.append(read_loss(row))
    for row in reader.table("subscriptions", "connection_id"):
        try:
            connection_id, remembered = read_subscription(row)
        except _PARSE_ERRORS:
            subscriptions |= _gone(row, last_written_us(reader.path))
        else:
            subscriptions[connection_id] = remembered
    return Work(losses=sorted(losses, key=lambda numbered: numbered[0]), subscriptions=subscriptions)


def _gone(row: tuple[object, ...], written_us: int) -> dict[UUID, RememberedSubscription | None]:
    connection_id, _, heard_us, *_ = row
    if not isinstance(connection_id, bytes) or len(connection_id) != 16:
        return {}
    if not isinstance(heard_us, int) or not 0 < heard_us <= written_us:
        heard_us = written_us - _SINCE_US
    return {UUID(bytes=connection_id): RememberedSubscription.gone(heard_us)}


def _keep_wal(path: Path, wal: WalBefore, file: JournalFile) -> Salvaged:
    """Copy a WAL aside of which SQLite will not use everything; what it holds may be lost, how much is not known."""
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-wal")
    try:
        shutil.copyfile(path.with_name(path.name + "-wal"), aside)
    except OSError as error:
        raise JournalUnavailable(f"JOURNAL_DIR: {error.strerror}: {path.name}") from error
    newest_us = _value(file, "SELECT max(to_us) FROM blocks")
    query = "SELECT min(heard_us) FROM subscriptions WHERE heard_us > ?"
    return Salvaged(aside, [wal.loss(newest_us, _value(file, query, wal.written_us - _QUEUED_US), aside.name)])


def _value(file: JournalFile, query: str, *values: object) -> object:
    """What the file says, None where it cannot be read there."""
    try:
        return next(file.rows(query, *values))[0]
    except JournalCorrupt:
        return None
