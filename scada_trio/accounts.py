"""What became of a tenant's readings, counted: the identity that nothing goes missing unnoticed.

Owned by the tenant, so it outlives a restart of its tasks; its journal is the only one that enters. Starts nothing.

    received + recovered = written + duplicates + replaced + quarantined + lost + in the journal
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from scada_trio.readings import WriteResult


@dataclass(frozen=True, slots=True)
class Accounts:
    """Readings since the process started.

    ``recovered`` an earlier process left in the journal; ``lost`` were accepted and are gone all the same;
    ``in_journal`` are accepted and not yet in the database.
    """

    received: int = 0
    recovered: int = 0
    written: int = 0
    duplicates: int = 0
    replaced: int = 0
    quarantined: int = 0
    lost: int = 0
    in_journal: int = 0

    @property
    def committed(self) -> int:
        """Readings whose fate the database has committed."""
        return self.written + self.duplicates + self.replaced + self.quarantined

    @property
    def unexplained(self) -> int:
        """0, or the identity is broken."""
        return self.received + self.recovered - self.committed - self.lost - self.in_journal


class Ledger:
    """The accounts as they stand. Each entry replaces `accounts` as a whole, so any thread reads a true state of it."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.journal_bytes = 0  # on disk
        self.journal_errors = 0  # transactions that failed and were tried again
        self.last_commit_at: float | None = None  # Unix seconds
        self._last_commit_monotonic = time.monotonic()

    @property
    def ms_since_commit(self) -> int:
        """Milliseconds since the last commit to the database, or since the start where there was none."""
        return int((time.monotonic() - self._last_commit_monotonic) * 1000)

    def received(self, count: int, in_journal: int) -> None:
        """``count`` more are accepted."""
        self.accounts = replace(self.accounts, received=self.accounts.received + count, in_journal=in_journal)

    def recovered(self, count: int, in_journal: int) -> None:
        """``count`` more than this process knew of are in the journal; negative where they were not there after all."""
        self.accounts = replace(self.accounts, recovered=self.accounts.recovered + count, in_journal=in_journal)

    def lost(self, count: int, in_journal: int) -> None:
        """``count`` accepted ones are gone."""
        self.accounts = replace(self.accounts, lost=self.accounts.lost + count, in_journal=in_journal)

    def already_stored(self, count: int, in_journal: int) -> None:
        """An earlier process had committed ``count`` of what it left."""
        self.accounts = replace(self.accounts, duplicates=self.accounts.duplicates + count, in_journal=in_journal)

    def committed(self, result: WriteResult, in_journal: int) -> None:
        """The database has committed a batch."""
        old = self.accounts
        self.accounts = replace(
            old,
            written=old.written + result.inserted,
            duplicates=old.duplicates + result.duplicates,
            replaced=old.replaced + result.replaced,
            quarantined=old.quarantined + result.quarantined,
            lost=old.lost + result.lost,
            in_journal=in_journal,
        )
        self.last_commit_at = time.time()
        self._last_commit_monotonic = time.monotonic()
