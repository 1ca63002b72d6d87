"""What COPY BINARY does alone: the same rows into the same table, built beforehand, so that PostgreSQL is all there is.

The measure of a ceiling. With two connections it tells what a second writer could gain.
"""

from __future__ import annotations

import threading
import time
from typing import Final
from uuid import UUID, uuid5

import numpy as np
import psycopg

from benchmarks.peers.harness import BATCH_ROWS
from scada_trio.readings import ReadingBlock, TagTable
from scada_trio.storage.copy import COPY_COLUMNS, RowTemplates, encode_rows
from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.tally import drop_database

WELLS: Final = 10
TAGS: Final = 1_000
_BATCHES: Final = 100  # built at a time, a megabyte each
_COPY: Final = f"COPY scada_readings ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_NAMESPACE: Final = UUID("5f0b4ed4-6d5c-4a43-8c5d-6a2f6d1f8a11")


def bare_copy(server: EmbeddedServer, seconds: float, *, connections: int = 1) -> float:
    """Rows per second of ``connections`` that COPY batches of `BATCH_ROWS` at the same time, each its own wells.

    Building the rows is not in it: batches are made `_BATCHES` at a time, and only their COPY is timed.
    """
    name = f"bench_bare_{connections}"
    url = create_database(server.url, name)
    try:
        migrate_tenant(url)
        sources = [_Batches(number) for number in range(connections)]
        links = [psycopg.connect(url.get_secret_value(), autocommit=True) for _ in sources]
        rows, took_s = 0, 0.0
        while took_s < seconds:
            prepared = [source.next() for source in sources]
            started = time.perf_counter()
            threads = [
                threading.Thread(target=_copy_all, args=(link, batches))
                for link, batches in zip(links, prepared, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took_s += time.perf_counter() - started
            rows += sum(len(batches) for batches in prepared) * BATCH_ROWS
        for link in links:
            link.close()
        return rows / took_s
    finally:
        drop_database(server.url, name)


def _copy_all(link: psycopg.Connection[tuple[object, ...]], batches: list[memoryview]) -> None:
    for data in batches:
        with link.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write(data)


class _Batches:
    """Encoded batches of ten wells whose tags have a new value every 20 ms, as at 500,000 values a second."""

    def __init__(self, number: int) -> None:
        self._tags = TagTable()
        wells = [uuid5(_NAMESPACE, f"{number}/{well}") for well in range(WELLS)]
        for well, well_id in enumerate(wells, start=1):
            for tag in range(TAGS):
                self._tags.index_of(well_id, f"ns=2;s=Well{well:04d}.CasingPressure.{tag}")
        self._templates = RowTemplates(self._tags)
        self._rng = np.random.default_rng(number)
        self._time_us = time.time_ns() // 1000

    def next(self) -> list[memoryview]:
        """The next `_BATCHES`."""
        return [self._encode() for _ in range(_BATCHES)]

    def _encode(self) -> memoryview:
        self._time_us += 20_000
        block = ReadingBlock(
            np.arange(WELLS * TAGS, dtype=np.int32),
            np.full(WELLS * TAGS, self._time_us, np.int64),
            self._rng.normal(size=WELLS * TAGS),
            np.zeros(WELLS * TAGS, np.uint8),
        )
        return encode_rows(block, self._templates).data
