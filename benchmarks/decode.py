"""Values per CPU second from a Publish answer to COPY rows: `make bench-decode`.

Decodes the recorded messages of three makers' servers as the service does, one `HandleMap` a connection, and encodes
the readings in batches of 10,000; the stock decoder reads the same messages in the same run, since machines differ and
ratios do not. Exit status 1 where messages of 1,000 items fall under `FLOOR`, decoding and encoding together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary
from rich.console import Console
from rich.table import Table

from scada_trio.opcua.notifications import HandleMap, decode_publish
from scada_trio.readings import ReadingBlock, TagTable
from scada_trio.storage.copy import RowTemplates, encode_rows

FLOOR = 1_000_000
BATCH = 10_000
ROUND_S = 0.3
ROUNDS = 5
CAPTURES = Path(__file__).parent.parent / "tests" / "captures"
MAKERS = ("open62541", "node-opcua", "asyncua")
CONTENTS = {"1,000 Doubles": ("uniform-1000", 1000), "10 Doubles": ("uniform-10", 10), "30 of all types": ("mixed", 30)}


@dataclass(frozen=True)
class Load:
    """The same message on as many connections as fill a batch, each with tags of its own."""

    body: bytes
    items: int
    handles: list[HandleMap]
    templates: RowTemplates

    @classmethod
    def of(cls, name: str, items: int) -> Load:
        tags = TagTable()
        handles = []
        for connection in range(BATCH // items):
            handle_map = HandleMap()
            for handle in range(1, items + 1):
                handle_map.set(handle, tags.index_of(UUID(int=connection), f"ns=2;s=d{handle}"))
            handles.append(handle_map)
        return cls((CAPTURES / f"{name}.bin").read_bytes(), items, handles, RowTemplates(tags))

    def stock(self) -> int:
        """Decode some messages as python-opcua does; returns the values decoded."""
        for _ in range(max(1, 1000 // self.items)):
            struct_from_binary(ua.PublishResponse, Buffer(self.body))
        return max(1, 1000 // self.items) * self.items

    def decode(self) -> int:
        """Decode one message a connection; returns the values decoded."""
        for handles in self.handles:
            decode_publish(self.body, handles, 0)
        return len(self.handles) * self.items

    def decode_and_encode(self) -> int:
        """Decode one message a connection and make the rows of them all; returns the values decoded."""
        results = [decode_publish(self.body, handles, 0) for handles in self.handles]
        batch = ReadingBlock.concatenate(result.block for result in results if result.block is not None)
        encoded = encode_rows(batch, self.templates)
        assert encoded.rows == len(batch), "every reading of the load is of another series"
        return len(self.handles) * self.items


def values_per_cpu_second(work: Callable[[], int]) -> float:
    """The best of several rounds: what disturbs a round only makes it slower."""
    work()
    best = 0.0
    for _ in range(ROUNDS):
        values = 0
        started = time.process_time()
        while (spent := time.process_time() - started) < ROUND_S:
            values += work()
        best = max(best, values / spent)
    return best


def main() -> int:
    table = Table(title="values per CPU second, best of several rounds")
    for heading in (
        "message",
        "from",
        "stock decode",
        "decode",
        "× stock",
        "decode + COPY rows",
        "× stock",
        "µs/message",
    ):
        table.add_column(heading, justify="left" if heading in ("message", "from") else "right")
    slow = []
    for content, (suffix, items) in CONTENTS.items():
        for maker in MAKERS:
            load = Load.of(f"{maker}-{suffix}", items)
            stock, decode, both = map(values_per_cpu_second, (load.stock, load.decode, load.decode_and_encode))
            figures = (
                f"{stock:,.0f}",
                f"{decode:,.0f}",
                f"{decode / stock:,.0f}",
                f"{both:,.0f}",
                f"{both / stock:,.0f}",
            )
            table.add_row(content, maker, *figures, f"{1e6 * items / decode:.1f}")
            if items >= 1000 and both < FLOOR:
                slow.append(
                    f"{maker}: {both:,.0f} values per CPU second decoded and encoded, at least {FLOOR:,} wanted"
                )
    Console(width=120).print(table)
    for line in slow:
        print(line, file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
