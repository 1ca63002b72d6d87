"""How a batch gets into PostgreSQL fastest, by size: COPY BINARY, INSERT from UNNEST, or COPY to a staging table first.

    python -m benchmarks.copy_paths [seconds per figure]

Runs on an embedded server of its own with the service's schema; every write is one committed transaction that moves
the cursor too. Prints a table in Markdown, milliseconds a batch (median) and thousand rows a second.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np

from scada_trio.readings import QUALITY_LABELS, Batch, ReadingBlock, TagTable
from scada_trio.storage.connect import Connection, connect
from scada_trio.storage.copy import RowTemplates, encode_rows
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.late import inspect_table
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.quarantine import MAX_ROWS, Origin
from scada_trio.storage.tenant_db import _Work, _write, _write_merging
from scada_trio.storage.window import TimeWindow

SIZES = (1, 10, 100, 1_000, 10_000)
SERIES = 1_000
Write = Callable[[Batch], None]

CURSOR = """
    INSERT INTO scada_ingest_cursor AS c (journal_id, last_seq) VALUES (%s, %s)
    ON CONFLICT (journal_id) DO UPDATE SET last_seq = excluded.last_seq WHERE c.last_seq < excluded.last_seq"""
UNNEST = """
    INSERT INTO scada_readings (timestamp, value, well_id, tag_node_id, quality)
    SELECT 'epoch'::timestamptz + t * interval '1 microsecond', v, w, n, q
    FROM unnest(%b::int8[], %b::float8[], %b::uuid[], %b::text[], %b::text[]) AS r (t, v, w, n, q)"""


class Readings:
    """Batches whose times never repeat."""

    def __init__(self, tags: TagTable) -> None:
        self._rng = np.random.default_rng(1)
        self._series = len(tags)
        self._time_us = time.time_ns() // 1000
        self._sequence = 0

    def batch(self, size: int) -> Batch:
        self._sequence += 1
        index = np.arange(size)
        tag = (index % self._series).astype(np.int32)
        time_us = self._time_us + (index // self._series) * 1000
        self._time_us += 1_000_000
        return Batch(self._sequence, ReadingBlock(tag, time_us, self._rng.normal(size=size), np.zeros(size, np.uint8)))


def insert_from_unnest(connection: Connection, tags: TagTable, buffer_id: UUID, batch: Batch) -> None:
    block = batch.readings
    keys = [tags.key(tag) for tag in block.tag.tolist()]
    columns = [
        block.time_us.tolist(),
        block.value.tolist(),
        [well_id for well_id, _ in keys],
        [node_id for _, node_id in keys],
        [QUALITY_LABELS[quality] for quality in block.quality.tolist()],
    ]
    with connection.transaction():
        connection.execute(CURSOR, [buffer_id, batch.sequence])
        connection.execute(UNNEST, columns)


def measure(readings: Readings, write: Write, size: int, seconds: float) -> float:
    """Median seconds of one write."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 5:
        batch = readings.batch(size)
        started = time.perf_counter()
        write(batch)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    with tempfile.TemporaryDirectory(prefix="scada-trio-bench-") as directory:
        server = EmbeddedServer(Path(directory) / "postgres")
        server.open()
        try:
            migrate_tenant(server.url)
            run(server, seconds)
        finally:
            server.close()


def run(server: EmbeddedServer, seconds: float) -> None:
    connection = connect(server.url, application_name="benchmark", connect_timeout_s=10, statement_timeout_s=60)
    tags, buffers = TagTable(), (uuid4(), uuid4(), uuid4())
    wells = [uuid4() for _ in range(50)]
    for index in range(SERIES):
        tags.index_of(wells[index % 50], f"ns=2;s=Well{index % 50:02d}.Tag{index:04d}")
    templates, readings = RowTemplates(tags), Readings(tags)
    table = inspect_table(connection)

    def work(batch: Batch, path: int) -> _Work:
        return _Work(batch, Origin(buffers[path], batch.sequence), tags, templates, TimeWindow(), table, MAX_ROWS)

    paths: dict[str, Write] = {
        "COPY BINARY": lambda batch: void(_write(connection, work(batch, 0))),
        "UNNEST": lambda batch: insert_from_unnest(connection, tags, buffers[1], batch),
        "staging": lambda batch: void(
            _write_merging(connection, work(batch, 2), encode_rows(batch.readings, templates), [])
        ),
    }
    print("| rows a batch |" + "".join(f" {name}, ms | thousand rows/s |" for name in paths))
    print("|---|" + "---|---|" * len(paths))
    for size in SIZES:
        connection.execute("TRUNCATE scada_readings")
        cells = []
        for write in paths.values():
            median = measure(readings, write, size, seconds)
            cells.append(f" {median * 1000:.2f} | {size / median / 1000:.1f} |")
        print(f"| {size:,} |" + "".join(cells), flush=True)
    connection.close()


def void(_: object) -> None:
    """Forget a result."""


if __name__ == "__main__":
    main()
