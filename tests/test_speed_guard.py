"""A guard against slowness creeping in: how much is done for a message, not how long it takes on this machine.

Between the socket and COPY no Python object is made for a reading, so a message of a thousand values takes as many
bytecode instructions as one of ten, and no more memory for each than its columns. What numpy does inside is seen by a
ratio to a plain loop over the same bytes, in turn with it and with generous bounds.
"""

from __future__ import annotations

import gc
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from scada_trio.journal import rows
from scada_trio.metrics import Metrics
from scada_trio.readings import ReadingBlock, TagTable
from scada_trio.storage.copy import RowTemplates, encode_rows
from tests.publish_bytes import (
    SERVER_TICKS,
    SOURCE_TICKS,
    UNCERTAIN,
    data_change,
    decode,
    identity_handles,
    item,
    publish,
    scalar,
)

DOUBLE = (11,)
A_WELL = (11, 11, 10, 10, 11, 11, 11, 6, 10, 1)
"""Types of a simulated well's tags: Doubles, Floats, an Int32, a Boolean."""
COLUMNS_BYTES = 21
"""Of a reading: series, time, value, quality."""
OBJECT_BYTES = 24
"""The least that a Python object takes that holds a number."""


def message(count: int, kinds: tuple[int, ...], status: int | None = None) -> bytes:
    """``count`` items of those types in turn."""
    return publish(
        data_change(
            *(
                item(number + 1, scalar(kinds[number % len(kinds)], 1), status, SOURCE_TICKS, SERVER_TICKS)
                for number in range(count)
            )
        )
    )


def decoding(body: bytes) -> Callable[[], object]:
    """Decodes ``body`` as a subscription does to which such messages came before."""
    handles = identity_handles(1000)
    for _ in range(4):
        decode(body, handles)
    return lambda: decode(body, handles)


def instructions(call: Callable[[], object]) -> int:
    """Bytecode instructions of a call, all Python functions that it calls included."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    call()  # caches are filled
    before = sys.gettrace()
    for _ in range(2):  # Python 3.12 begins to tell of instructions with the second time
        count = 0
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
    return count


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call had at a time, numpy's and what it returns included."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = call()
        _, peak = tracemalloc.get_traced_memory()
        del kept
        return peak - before
    finally:
        tracemalloc.stop()


# ---- the guard itself


def test_the_guard_sees_what_it_is_there_for() -> None:
    """A loop over readings grows with them, and so do objects made inside of C."""
    short, long = (lambda: [float(n) for n in range(10)]), (lambda: [float(n) for n in range(1000)])
    assert instructions(long) > 50 * instructions(short) > 0
    column = np.arange(1000.0)
    assert peak_bytes(column.tolist) > 1000 * OBJECT_BYTES
    assert peak_bytes(column.copy) < 1000 * OBJECT_BYTES


# ---- instructions


@pytest.mark.parametrize("status", [None, 0, UNCERTAIN])
def test_a_message_of_a_thousand_values_takes_no_more_instructions_than_one_of_ten(status: int | None) -> None:
    """All of one type, with a status or without."""
    counts = {instructions(decoding(message(count, DOUBLE, status))) for count in (10, 100, 1000)}
    assert len(counts) == 1


def test_nor_does_a_message_of_many_types_that_came_before() -> None:
    """What it takes beyond one of a single type is for its parts, not for its values."""
    uniform = instructions(decoding(message(10, DOUBLE)))
    mixed = {instructions(decoding(message(count, A_WELL))) for count in (10, 20, 30)}
    assert len(mixed) == 1
    assert mixed.pop() < 1.5 * uniform
    # a thousand: three types are gathered by column, one by one the rest is rewritten
    assert instructions(decoding(message(1000, A_WELL))) < 4 * uniform


def block(count: int) -> ReadingBlock:
    """Readings of 500 series."""
    number = np.arange(count)
    return ReadingBlock(
        (number % 500).astype(np.int32),
        1_790_000_000_000_000 + number,
        number.astype(np.float64),
        np.zeros(count, np.uint8),
    )


def table() -> TagTable:
    tags = TagTable()
    for number in range(500):
        tags.index_of(UUID(int=1), f"ns=2;s=tag{number:03}")
    return tags


TEMPLATES = RowTemplates(table())
TENANT = Metrics().tenant(UUID(int=7), table())
NONE = np.empty(0, np.int32)
STAGES: dict[str, Callable[[ReadingBlock], object]] = {
    "into the journal": lambda readings: rows.encode(readings),
    "out of the journal": lambda readings: rows.decode(rows.encode(readings)),
    "into a batch": lambda readings: ReadingBlock.concatenate([readings] * 5),
    "into rows of COPY": lambda readings: encode_rows(readings, TEMPLATES),
    "counted when committed": lambda readings: TENANT.committed(readings.tag, NONE),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_as_many_instructions_for_a_block_as_for_a_large_one(stage: str) -> None:
    """From the journal to the row."""
    work = STAGES[stage]
    work(block(1000))
    small, large = block(1000), block(20_000)
    assert instructions(lambda: work(large)) == instructions(lambda: work(small)) > 0


# ---- memory


@pytest.mark.parametrize("status", [None, UNCERTAIN])
def test_a_value_takes_its_columns_and_no_object(status: int | None) -> None:
    """Beyond what a message takes itself."""
    few, many = (peak_bytes(decoding(message(count, DOUBLE, status))) for count in (10, 1000))
    assert (many - few) / 990 < COLUMNS_BYTES + OBJECT_BYTES / 2  # measured: 21, and 23 with statuses


@pytest.mark.parametrize("count", [10, 1000])
def test_a_message_leaves_as_many_objects_whatever_its_length(count: int) -> None:
    """The block and its columns."""
    call = decoding(message(count, DOUBLE))
    gc.collect()
    gc.disable()
    try:
        kept = [call() for _ in range(3)]
        before = sys.getallocatedblocks()
        kept += [call() for _ in range(10)]
        made = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert len(kept) == 13
    assert made / 10 < 20  # measured: 8


# ---- what numpy does


ITEM = struct.Struct("<IBBdqq")


def loop(body: bytes, count: int) -> list[tuple[int, int, float, int]]:
    """The reference: one value after the other, nothing checked."""
    start = body.index(struct.pack("<IBB", 1, 13, 11))
    readings = []
    for number in range(count):
        handle, _, _, value, source, _ = ITEM.unpack_from(body, start + number * ITEM.size)
        readings.append((10 * handle, source // 10 - 11_644_473_600_000_000, value, 0))
    return readings


def ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """CPU time of ``one`` by that of ``other``, the best of many turns of each."""
    best = [float("inf"), float("inf")]
    for _ in range(40):
        for at, call in enumerate((one, other)):
            started = time.thread_time()
            for _ in range(20):
                call()
            best[at] = min(best[at], time.thread_time() - started)
    return best[0] / best[1]


@pytest.mark.parametrize(
    ("count", "bound"),
    [
        (1000, 0.4),  # measured: 0.12
        (10, 20.0),  # measured: 6; numpy's calls cost more than ten values do
    ],
)
def test_decoding_is_fast_against_a_plain_loop(count: int, bound: float) -> None:
    body = message(count, DOUBLE)
    assert ratio(decoding(body), lambda: loop(body, count)) < bound


def test_many_types_cost_little_more_than_one() -> None:
    """Ten values of a well against ten Doubles; walked item by item it was 2.5 times as much."""
    assert ratio(decoding(message(10, A_WELL)), decoding(message(10, DOUBLE))) < 2.0


def test_rows_are_laid_out_fast_against_a_plain_loop() -> None:
    """COPY rows of a batch against packing each of them."""
    readings = block(2000)
    tag, time_us, value = readings.tag.tolist(), readings.time_us.tolist(), readings.value.tolist()
    form = struct.Struct("!hiqid")

    def pack() -> bytes:
        return b"".join(
            form.pack(5, 8, moment, 8, number) + b"%03d" % series
            for series, moment, number in zip(tag, time_us, value, strict=True)
        )

    assert ratio(lambda: encode_rows(readings, TEMPLATES), pack) < 0.7  # measured: 0.18
