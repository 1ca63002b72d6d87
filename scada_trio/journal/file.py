"""The journal's file: SQLite in WAL mode, one transaction for all that is to be kept. Blocks, for a worker thread.

Owns schema, checksums, locking and the form of a block on disk. Knows no task; `scada_trio.journal` calls it, one call
at a time.

    blocks         a row for some 10,000 readings: the columns of one `ReadingBlock`, deleted once they are committed
    tags           what the tag numbers in them mean, saved with the first block that may use them
    losses         until the tenant's database has them
    subscriptions  what a later process takes over

Sequences begin anew, above all former ones, with every opening: ``epoch << 36``. Where a power cut takes the last
transactions back, a sequence that the database's cursor has passed is therefore never given to other readings. The
epoch is synced to disk before it is used, whatever ``JOURNAL_SYNC`` says.

A row's checksum covers all of the row. SQLite itself notices a damaged page only where it stumbles over it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from uuid import UUID, uuid4

from scada_trio.errors import ConfigError, JournalCorrupt, JournalFull, JournalUnavailable
from scada_trio.journal.rows import (
    BYTES_A_READING,
    Record,
    TagKey,
    block_row,
    checksum,
    loss_row,
    read_loss,
    read_row,
    read_subscription,
    read_tag,
    subscription_row,
    tag_row,
)
from scada_trio.losses import Loss, RememberedSubscription

Sync = Literal["normal", "full"]

EPOCH_BITS: Final = 36
_PAGE_BYTES: Final = 4096
_BUSY_S: Final = 0.2  # only an emptying of the WAL ever waits, for somebody who reads
_CACHE_KIB: Final = 256  # nothing is read twice, and there are many tenants
_WAL_PAGES: Final = 1000  # a checkpoint after so many; bounds the file beside the journal
_VERSION: Final = 1
_APPLICATION_ID: Final = 0x53434A4C  # "SCJL"
_SCHEMA: Final = (
    "CREATE TABLE journal (id INTEGER PRIMARY KEY, journal_id BLOB NOT NULL, epoch INTEGER NOT NULL,"
    " crc INTEGER NOT NULL)",
    "CREATE TABLE tags (number INTEGER PRIMARY KEY, well_id BLOB NOT NULL, node_id BLOB NOT NULL,"
    " crc INTEGER NOT NULL)",
    "CREATE TABLE blocks (sequence INTEGER PRIMARY KEY, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE losses (id INTEGER PRIMARY KEY, loss BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE subscriptions (connection_id BLOB PRIMARY KEY, last_sequence INTEGER NOT NULL,"
    " heard_us INTEGER NOT NULL, subscription BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
)
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


@dataclass(slots=True)
class Work:
    """What one transaction is to do; everything is optional."""

    records: list[Record] = field(default_factory=list)
    tags: list[tuple[int, TagKey]] = field(default_factory=list)
    forget_through: int = 0
    losses: list[tuple[int, Loss]] = field(default_factory=list)
    reported_through: int = 0
    subscriptions: dict[UUID, RememberedSubscription | None] = field(default_factory=dict)
    reached: dict[UUID, tuple[int, int]] = field(default_factory=dict)  # the last number, and when it was heard


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the file: in use, in free pages, and altogether with the WAL beside it."""

    used: int = 0
    free: int = 0
    disk: int = 0


@dataclass(slots=True)
class Contents:
    """What an opened file holds besides its readings, and how many of those."""

    journal_id: UUID
    epoch: int
    readings: int
    last_sequence: int
    tags: list[TagKey]
    losses: list[tuple[int, Loss]]
    subscriptions: dict[UUID, RememberedSubscription]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Readings that were deleted to make room."""

    through: int
    count: int
    from_us: int
    to_us: int


class JournalFile:
    """An open file; every method raises `JournalUnavailable` and then has changed nothing, or `JournalCorrupt`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, sync: Sync = "normal") -> None:
        self.path = path
        self._connection = connection
        self._sync = sync

    @classmethod
    def open(cls, path: Path, sync: Sync = "normal") -> JournalFile:
        """An existing file, for `begin` next. The caller holds the lock (`lock_file`)."""
        with translated(path):
            file = cls(
                path, sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S), sync
            )
        try:
            with translated(path):
                file._prepare()
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def create(cls, path: Path, journal_id: UUID, epoch: int = 0) -> JournalFile:
        """A new file, empty. ``epoch`` is the last one of that id: its cursor must never be ahead of what comes."""
        with translated(path):
            file = cls(path, sqlite3.connect(path, isolation_level=None, check_same_thread=False))
        try:
            with translated(path):
                file._create(journal_id, epoch)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def open_to_read(cls, path: Path) -> JournalFile:
        """For a look from outside, while a service uses it or not."""
        with translated(path):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            return cls(path, sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False))

    def close(self) -> None:
        """What is committed stays; SQLite removes the WAL where nobody else reads."""
        with suppress(sqlite3.Error):
            self._connection.close()

    # --- writing

    def begin(self) -> Contents:
        """What is in the file, with a new epoch that is on disk when this returns."""
        contents = self.contents()
        contents.epoch = max(contents.epoch + 1, int(time.time() // 60), (contents.last_sequence >> EPOCH_BITS) + 1)
        with translated(self.path):
            self._connection.execute("PRAGMA synchronous = full")
            with self._transaction():
                self._store_identity(contents.journal_id, contents.epoch)
            self._connection.execute(f"PRAGMA synchronous = {self._sync}")
        return contents

    def rename(self, journal_id: UUID) -> UUID:
        """Give the journal another id, of which no database has a cursor."""
        epoch = self.contents().epoch
        with translated(self.path), self._transaction():
            self._store_identity(journal_id, epoch)
        return journal_id

    def commit(self, work: Work) -> Space:
        """All of ``work`` in one transaction."""
        with translated(self.path), self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?, ?, ?)", map(tag_row, work.tags))
            if work.forget_through:
                connection.execute("DELETE FROM blocks WHERE sequence <= ?", [work.forget_through])
            connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", map(block_row, work.records))
            connection.executemany("REPLACE INTO losses VALUES (?, ?, ?)", map(loss_row, work.losses))
            if work.reported_through:
                connection.execute("DELETE FROM losses WHERE id <= ?", [work.reported_through])
            for connection_id, remembered in work.subscriptions.items():
                if remembered is None:
                    connection.execute("DELETE FROM subscriptions WHERE connection_id = ?", [connection_id.bytes])
                else:
                    row = subscription_row(connection_id, remembered)
                    connection.execute("REPLACE INTO subscriptions VALUES (?, ?, ?, ?, ?)", row)
            connection.executemany(
                "UPDATE subscriptions SET last_sequence = ?, heard_us = ? WHERE connection_id = ?",
                [(*last, connection_id.bytes) for connection_id, last in work.reached.items()],
            )
            used, free = self._pages()
        return self._space(used, free)

    def drop_oldest(self, after: int, size_bytes: int) -> Dropped:
        """Delete the oldest blocks with a sequence above ``after`` until ``size_bytes`` are free, or none is left."""
        with translated(self.path), self._transaction() as connection:
            through, count, size, first, last = after, 0, 0, 0, 0
            rows = connection.execute(
                "SELECT sequence, from_us, to_us, length(data) FROM blocks WHERE sequence > ? ORDER BY sequence",
                [after],
            )
            for through, from_us, to_us, length in rows:  # noqa: B007 - used after the loop
                first = from_us if count == 0 else min(first, from_us)
                last = to_us if count == 0 else max(last, to_us)
                count += length // BYTES_A_READING
                size += length
                if size >= size_bytes:
                    break
            rows.close()
            connection.execute("DELETE FROM blocks WHERE sequence > ? AND sequence <= ?", [after, through])
        return Dropped(through, count, first, last)

    def give_back(self, size_bytes: int) -> Space:
        """Return at most so many bytes of free pages to the file system; the WAL is emptied too where nobody reads."""
        with translated(self.path):
            # a script, since `execute` takes one step, and that is one page
            self._connection.executescript(f"PRAGMA incremental_vacuum({size_bytes // _PAGE_BYTES})")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            used, free = self._pages()
        return self._space(used, free)

    # --- reading

    def space(self) -> Space:
        """How large it is now."""
        with translated(self.path):
            used, free = self._pages()
        return self._space(used, free)

    def read(self, after: int, count: int) -> list[Record]:
        """The next blocks in order until there are ``count`` readings; raises `JournalCorrupt` where one is damaged."""
        found: list[Record] = []
        with translated(self.path):
            rows = self._connection.execute("SELECT * FROM blocks WHERE sequence > ? ORDER BY sequence", [after])
            with closing(rows):
                for row in rows:
                    found.append(read_row(row))
                    count -= found[-1].count
                    if count <= 0:
                        break
        return found

    def contents(self) -> Contents:
        """All but the readings; raises `JournalCorrupt` where a part of it is damaged."""
        with translated(self.path):
            connection = self._connection
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise JournalUnavailable(f"JOURNAL_DIR: {self.path.name} was made by a newer version of scada-trio")
            row = connection.execute("SELECT journal_id, epoch, crc FROM journal").fetchone()
            if row is None or row[2] != checksum(row[0], row[1]):
                raise JournalCorrupt("the journal's own record is damaged")
            tags = [read_tag(row) for row in connection.execute("SELECT * FROM tags ORDER BY number")]
            if [number for number, _ in tags] != list(range(len(tags))):
                raise JournalCorrupt("a tag is missing")
            length, last = connection.execute("SELECT sum(length(data)), max(sequence) FROM blocks").fetchone()
            losses = [read_loss(row) for row in connection.execute("SELECT * FROM losses ORDER BY id")]
            subscriptions = dict(read_subscription(row) for row in connection.execute("SELECT * FROM subscriptions"))
            return Contents(
                UUID(bytes=row[0]),
                row[1],
                (length or 0) // BYTES_A_READING,
                last or 0,
                [key for _, key in tags],
                losses,
                subscriptions,
            )

    def readings(self, after: int) -> int:
        """How many there are in blocks with a sequence above ``after``."""
        with translated(self.path):
            query = "SELECT sum(length(data)) FROM blocks WHERE sequence > ?"
            return (self._connection.execute(query, [after]).fetchone()[0] or 0) // BYTES_A_READING

    def rows(self, query: str, *values: object) -> Iterator[tuple[object, ...]]:
        """Rows as they stand, for who looks into the file; raises `JournalCorrupt` where SQLite cannot go on."""
        with translated(self.path), closing(self._connection.execute(query, values)) as cursor:
            yield from cursor

    def check(self) -> None:
        """Read all of it; `JournalCorrupt` where a page is out of place: blocks would be missing without a word."""
        (found,) = next(self.rows("PRAGMA quick_check(1)"))
        if found != "ok":
            raise JournalCorrupt(f"{self.path.name}: {found}")

    def valid_frames(self) -> int:
        """Number of the last page that SQLite took from the WAL."""
        with translated(self.path):
            _, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(frames)

    # --- inside

    def _create(self, journal_id: UUID, epoch: int) -> None:
        self._connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        with self._transaction() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            self._store_identity(journal_id, epoch)

    def _prepare(self) -> None:
        connection = self._connection
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise JournalCorrupt("this is not a journal")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {4 * _WAL_PAGES * _PAGE_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA synchronous = {self._sync}")

    def _store_identity(self, journal_id: UUID, epoch: int) -> None:
        row = (journal_id.bytes, epoch, checksum(journal_id.bytes, epoch))
        self._connection.execute("REPLACE INTO journal VALUES (1, ?, ?, ?)", row)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    def _pages(self) -> tuple[int, int]:
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages - free, free

    def _space(self, used: int, free: int) -> Space:
        try:
            wal = self.path.with_name(self.path.name + "-wal").stat().st_size
        except OSError:
            wal = 0
        return Space(used * _PAGE_BYTES, free * _PAGE_BYTES, (used + free) * _PAGE_BYTES + wal)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock that ends with the process; a second holder gets `JournalUnavailable`."""
    with translated(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.0)
    try:
        with translated(path):
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                text = f"JOURNAL_DIR: {path.with_suffix('.sqlite').name} is in use by another process"
                raise JournalUnavailable(text) from error
        yield
    finally:
        connection.close()


def prepare_directory(directory: Path) -> None:
    """Make ``directory``; raises `ConfigError` naming JOURNAL_DIR where nothing can be written there."""
    probe = directory / f".{uuid4()}"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError("JOURNAL_DIR", f"{error.strerror}: {directory}") from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as this project's."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError):
        raise  # a bug
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _CORRUPT:
            raise JournalCorrupt(f"{path.name}: {error}") from error
        if code == sqlite3.SQLITE_FULL:
            raise JournalFull(f"JOURNAL_DIR: the disk is full: {path.name}") from error
        raise JournalUnavailable(f"JOURNAL_DIR: {error}: {path.name}") from error
