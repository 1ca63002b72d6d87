"""The journal's file as Trio sees it: one call in a thread at a time, retries, and what waits for the next transaction.

Owns the open `JournalFile`, and what a connection wants remembered. Knows no order of readings: that is
`scada_trio.journal`'s, which makes this and closes it.

    a disk that is full or away   the caller waits, nothing is accepted meanwhile
    the same, with nothing left   the file is deleted and made anew: deleting rows takes room, too
    a damaged file                set aside, exchanged for one with what could be read, the call repeated
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, TypeVar, TypeVarTuple
from uuid import UUID

import structlog
import trio

from scada_trio.accounts import Ledger
from scada_trio.backoff import full_jitter
from scada_trio.config import JournalSettings
from scada_trio.errors import JournalCorrupt, JournalFull, JournalUnavailable
from scada_trio.journal.file import JournalFile, Space, Work
from scada_trio.journal.rows import Record
from scada_trio.journal.salvage import Known, Opened, exchange_file, start_over
from scada_trio.losses import Loss, RecordLoss, RememberedSubscription
from scada_trio.memory import Mark
from scada_trio.readings import TagTable

log = structlog.get_logger()

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_TIDY_S: Final = 1.0  # what is committed, recorded or remembered is on disk after this long without an append
_KEEP_FREE_BYTES: Final = 8 << 20  # free pages that the file keeps for what comes
_GIVE_BACK_BYTES: Final = 16 << 20  # in one turn, so that an append waits milliseconds
_RETRY_S: Final = 0.25
_MAX_RETRY_S: Final = 5.0


class RunSync(Protocol):
    """`trio.to_thread.run_sync`, or what takes its place."""

    async def __call__(self, sync_fn: Callable[[*_Ts], _T], /, *args: *_Ts) -> _T:
        """Call it and wait for it, even when cancelled."""
        ...


class OwnThread:
    """One worker thread at a time, which no other journal waits for."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, sync_fn: Callable[[*_Ts], _T], /, *args: *_Ts) -> _T:
        """As `RunSync`."""
        return await trio.to_thread.run_sync(sync_fn, *args, limiter=self._limiter)


class JournalStore:
    """``busy`` is held over `commit`, `call` and `exchange` and what follows from them; ``space`` is the file's size.

    ``known`` tells what need not be read from a damaged file, ``empty`` whether nothing in it is needed any more;
    ``exchanged`` is told of the new one.
    """

    def __init__(
        self,
        path: Path,
        opened: Opened,
        tags: TagTable,
        ledger: Ledger,
        settings: JournalSettings,
        *,
        on_loss: RecordLoss,
        run_sync: RunSync,
        known: Callable[[], Known],
        empty: Callable[[], bool],
        exchanged: Callable[[Opened], None],
    ) -> None:
        self.busy = trio.Lock()
        self.space = Space()
        self.shrunk = trio.Event()
        self.error: str | None = None
        self.losses = list(opened.contents.losses)
        self.subscriptions = dict(opened.contents.subscriptions)
        self.forgotten_us = opened.forgotten_us
        self._path = path
        self._file: JournalFile | None = opened.file
        self._tags = tags
        self._tags_saved = len(opened.contents.tags)
        self._ledger = ledger
        self._settings = settings
        self._on_loss = on_loss
        self._run_sync = run_sync
        self._known = known
        self._empty = empty
        self._full = False
        self._exchanged = exchanged
        self._next_loss = opened.next_loss
        self._forget_through = 0
        self._reported_through = 0
        self._new_losses: list[tuple[int, Loss]] = []
        self._changed: set[UUID] = set()  # connections whose subscription is to be written, or deleted
        self._moved: set[UUID] = set()  # those of which only the last number is
        self._dirty = trio.Event()
        self.saw(opened.space)
        self._report_damage(opened)

    async def run(self) -> None:
        """Write what no append took along, and give free space back; returns only when cancelled."""
        while True:
            await self._dirty.wait()
            await trio.sleep(_TIDY_S)
            self._dirty = trio.Event()
            await self.tidy()

    async def tidy(self) -> None:
        """The same once; where the file is away it says so and leaves it to the next time."""
        try:
            if self._stuck:
                await self._start_over()
            async with self.busy:
                if self.has_work:
                    await self.commit([])
            before = self.space.free + 1
            while _KEEP_FREE_BYTES < self.space.free < before:
                before = self.space.free
                async with self.busy:
                    self.saw(await self.call(lambda file: file.give_back(_GIVE_BACK_BYTES)))
        except JournalUnavailable as error:
            self._note(error)
            self._dirty.set()

    async def close(self) -> None:
        """Write what is to be written, if it can be, and close the file."""
        async with self.busy:
            try:
                if self.has_work:
                    await self.commit([])
            except (JournalUnavailable, JournalCorrupt) as error:
                log.warning("journal closed with work undone, the next start does it", error=str(error))
            finally:
                if self._file is not None:
                    await self._run_sync(self._file.close)

    # --- calls to the file

    @property
    def has_work(self) -> bool:
        """Whether anything waits for the next transaction."""
        return bool(self._forget_through or self._reported_through or self._new_losses or self._changed or self._moved)

    async def insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat ``step`` until the file lets it; cancelled meanwhile, it has not happened."""
        for delay in full_jitter(_RETRY_S, cap_s=_MAX_RETRY_S):
            try:
                if self._stuck:
                    await self._start_over()
                await step()
            except JournalUnavailable as error:
                self._note(error)
            else:
                return
            await trio.sleep(delay)

    async def commit(self, records: list[Record], marks: Iterable[Mark] = ()) -> None:
        """One transaction for ``records``, the ``marks`` that come with them, and all that waits.

        Raises `JournalUnavailable`: then all goes on waiting, and the marks were never there.
        """
        reached = {mark.followed.connection_id: mark for mark in marks if self._concerns(mark)}
        changed, moved = self._changed, self._moved
        self._changed, self._moved = set(), set()
        tags = [(number, self._tags.key(number)) for number in range(self._tags_saved, len(self._tags))]
        work = Work(
            records,
            tags,
            self._forget_through,
            list(self._new_losses),
            self._reported_through,
            {connection_id: self.subscriptions.get(connection_id) for connection_id in changed},
            {i: (last.last_sequence, last.heard_us) for i in moved if (last := self.subscriptions.get(i))}
            | {i: (mark.sequence_number, mark.heard_us) for i, mark in reached.items()},
        )
        try:
            space = await self.call(lambda file: file.commit(work))
        except BaseException:
            self._changed |= changed
            self._moved |= moved
            raise
        for mark in reached.values():
            self._reach(mark)
        self._tags_saved = max(self._tags_saved, tags[-1][0] + 1 if tags else 0)
        written = {number for number, _ in work.losses}
        self._new_losses = [numbered for numbered in self._new_losses if numbered[0] not in written]
        if self._forget_through == work.forget_through:
            self._forget_through = 0
        if self._reported_through == work.reported_through:
            self._reported_through = 0
        self.saw(space)

    async def call(self, operation: Callable[[JournalFile], _T]) -> _T:
        """``operation`` in the thread, once more where the file turns out to be damaged and was exchanged."""
        if self._file is None:  # it was set aside, and there was no room for another one
            await self.exchange("the file is missing")
        assert self._file is not None
        try:
            result = await self._run_sync(operation, self._file)
        except JournalCorrupt as error:
            await self.exchange(str(error))
            result = await self._run_sync(operation, self._file)
        if self.error is not None:
            log.info("journal is well again")
            self.error = None
            self._full = False
        return result

    async def exchange(self, damage: str) -> None:
        """Set the file aside and go on with what can be read of it."""
        if self._file is not None:
            file, self._file = self._file, None
            await self._run_sync(file.close)
        self._adopt(await self._run_sync(exchange_file, self._path, self._settings.sync, self._known(), damage))

    @property
    def _stuck(self) -> bool:
        """Whether the disk is full, and all readings in the file are committed."""
        return self._full and self._empty()

    async def _start_over(self) -> None:
        async with self.busy:
            if self._stuck:
                if self._file is not None:
                    file, self._file = self._file, None
                    await self._run_sync(file.close)
                self._adopt(await self._run_sync(start_over, self._path, self._settings.sync, self._known()))

    def _adopt(self, opened: Opened) -> None:
        """Go on with another file: what it does not have of what is known is to be written again."""
        self._file = opened.file
        self._full = False
        self._tags_saved = len(opened.contents.tags)
        saved = {number for number, _ in opened.contents.losses}
        self._new_losses = [numbered for numbered in self.losses if numbered[0] not in saved]
        self._changed |= self.subscriptions.keys()
        self._next_loss = max(self._next_loss, opened.next_loss)
        self._exchanged(opened)
        self.saw(opened.space)
        self._report_damage(opened)

    def saw(self, space: Space) -> None:
        """Take note of the file's size."""
        shrunk = space.used < self.space.used
        self.space = space
        self._ledger.journal_bytes = space.disk
        if shrunk:
            self.shrunk.set()
            self.shrunk = trio.Event()

    def _note(self, error: JournalUnavailable) -> None:
        self._ledger.journal_errors += 1
        if self.error is None:
            log.error("journal is away, nothing is accepted meanwhile", error=str(error))
        self.error = str(error)
        self._full = isinstance(error, JournalFull)

    def _report_damage(self, opened: Opened) -> None:
        if opened.damage is None:
            return
        known = sum(loss.count or 0 for loss in opened.losses)
        log.error(
            "journal was damaged: set aside, what can be read is kept",
            damage=opened.damage,
            file=opened.aside.name if opened.aside else None,
            readings_lost=known,
            more_lost=any(loss.count is None for loss in opened.losses),
        )
        self.losses = [numbered for numbered in self.losses if numbered[0] not in opened.recorded]
        for number, loss in zip(opened.recorded, opened.losses, strict=True):  # once more: a count may be known now
            self._note_loss(number, loss)

    # --- what waits for the next transaction

    def forget(self, through: int) -> None:
        """Blocks up to there are committed."""
        self._forget_through = max(self._forget_through, through)
        self._dirty.set()

    def record_loss(self, loss: Loss) -> None:
        """See `Journal.record_loss`."""
        self._note_loss(self._next_loss, loss)
        self._next_loss += 1

    def _note_loss(self, number: int, loss: Loss) -> None:
        self.losses.append((number, loss))
        self._new_losses.append((number, loss))
        self._on_loss(loss)
        self._dirty.set()

    def losses_reported(self, last_id: int) -> None:
        """See `Journal.losses_reported`."""
        self.losses = [numbered for numbered in self.losses if numbered[0] > last_id]
        self._new_losses = [numbered for numbered in self._new_losses if numbered[0] > last_id]
        self._reported_through = max(self._reported_through, last_id)
        self._dirty.set()

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """See `Journal.remember_subscription`."""
        if remembered is None:
            self.subscriptions.pop(connection_id, None)
        else:
            self.subscriptions[connection_id] = remembered
        self._changed.add(connection_id)
        self._dirty.set()

    def remember_accepted(self, mark: Mark) -> None:
        """See `scada_trio.memory.ConnectionMemory`."""
        if self._reach(mark):
            self._moved.add(mark.followed.connection_id)
            self._dirty.set()

    def _concerns(self, mark: Mark) -> bool:
        """Whether ``mark`` is of what is remembered."""
        remembered = self.subscriptions.get(mark.followed.connection_id)
        return remembered is not None and not remembered.is_gone and not mark.followed.ended

    def _reach(self, mark: Mark) -> bool:
        if not self._concerns(mark):
            return False
        connection_id = mark.followed.connection_id
        self.subscriptions[connection_id] = replace(
            self.subscriptions[connection_id], last_sequence=mark.sequence_number, heard_us=mark.heard_us
        )
        return True
