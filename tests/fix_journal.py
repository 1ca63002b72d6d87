"""Journals in a directory of the test's own, and blocks to put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple
from uuid import UUID, uuid4

import numpy as np
import pytest
import trio

from scada_trio.accounts import Ledger
from scada_trio.config import JournalSettings
from scada_trio.journal.queue import Journal, open_journal
from scada_trio.journal.store import RunSync
from scada_trio.losses import Loss
from scada_trio.readings import ReadingBlock, TagTable

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

TENANT = UUID("77777777-7777-4777-8777-777777777777")
WELL = UUID("33333333-3333-4333-8333-333333333333")


def block(count: int, first: int = 0, tag: int = 0) -> ReadingBlock:
    """Readings whose times and values are ``first``, ``first + 1``, ..."""
    values = np.arange(first, first + count)
    return ReadingBlock(
        np.full(count, tag, np.int32), values.astype(np.int64), values.astype(np.float64), np.zeros(count, np.uint8)
    )


async def run_inline(sync_fn: Callable[[*_Ts], _T], /, *args: *_Ts) -> _T:
    """In place of a worker thread, for tests on a clock that does not wait for threads."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


@dataclass
class Place:
    """Where a tenant's journal is, and what outlives its openings."""

    directory: Path
    tenant_id: UUID = TENANT
    ledger: Ledger = field(default_factory=Ledger)
    losses: list[Loss] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.directory / f"{self.tenant_id}.sqlite"

    @property
    def aside(self) -> list[Path]:
        """Files that were set aside."""
        return sorted(self.directory.glob("*.corrupt-*"))

    def restarted(self) -> Place:
        """The same place as another process finds it."""
        return Place(self.directory, self.tenant_id)

    @asynccontextmanager
    async def open(
        self, *, inline: bool = False, run_sync: RunSync | None = None, tags: TagTable | None = None, **settings: Any
    ) -> AsyncIterator[Journal]:
        self.directory.mkdir(exist_ok=True)
        loaded = JournalSettings(self.directory, **settings)
        run_sync = run_inline if inline else run_sync
        table = TagTable() if tags is None else tags
        async with open_journal(
            self.tenant_id, table, self.ledger, loaded, on_loss=self.losses.append, run_sync=run_sync
        ) as journal:
            if len(table) == 0:
                table.index_of(WELL, "ns=1;s=A")
            yield journal


async def drain(journal: Journal, max_readings: int = 10_000) -> list[float]:
    """Take and commit everything; the values in order."""
    values: list[float] = []
    while (batch := await journal.take(max_readings)) is not None:
        values += batch.readings.value.tolist()
        await journal.committed(batch)
    return values


def new_place(directory: Path) -> Place:
    """A place of its own under ``directory``."""
    return Place(directory, uuid4())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A journal in the test's own directory."""
    return Place(tmp_path / "journal")


def overwrite(path: Path, offset: int, count: int = 16) -> None:
    """Turn some bytes of a file into others."""
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(count)
        file.seek(offset)
        file.write(bytes(value ^ 0x5A for value in old))
