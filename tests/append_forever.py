"""A process that appends to a journal until it is killed, and tells of each append once it has returned.

python -m tests.append_forever DIRECTORY [SYNC]
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from tests.fix_journal import Place, block


async def main(directory: Path, sync: str) -> None:
    async with Place(directory).open(sync=sync, row_readings=50, memory_readings=100) as journal:
        first = 0
        while True:
            count = first % 97 + 1
            await journal.append([block(count, first)])
            first += count
            sys.stdout.write(f"{first}\n")
            sys.stdout.flush()
            if first % 5 == 0:  # what a writer does beside it
                await journal.resolve(0)
                batch = await journal.take(100)
                assert batch is not None
                await journal.committed(batch)
                sys.stdout.write(f"-{int(batch.readings.value[-1]) + 1}\n")  # deleted with the next append
                sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "normal")
