"""A process that keeps a million readings for a database that is away, and then hands them over.

    python -m tests.spool_a_million DIRECTORY

prints by how many bytes it grew, how many readings came back in order, and how large the file was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil
import trio

from tests.fix_journal import Place, block


async def main(directory: Path) -> None:
    place = Place(directory)
    process = psutil.Process()
    async with place.open(memory_readings=50_000, row_readings=1000) as journal:
        await journal.append([block(1000)])
        batch = await journal.take(1000)
        assert batch is not None
        await journal.committed(batch)
        before = peak = process.memory_info().rss
        for first in range(0, 1_000_000, 1000):
            await journal.append([block(1000, first)])
        peak = max(peak, process.memory_info().rss)
        file_bytes = place.path.stat().st_size
        expected = 0
        while (batch := await journal.take(1000)) is not None:
            assert np.array_equal(batch.readings.value, np.arange(expected, expected + len(batch)))
            expected += len(batch)
            await journal.committed(batch)
            peak = max(peak, process.memory_info().rss)
        sys.stdout.write(f"{peak - before} {expected} {file_bytes}\n")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
