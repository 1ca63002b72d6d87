"""Readings and rows that the storage tests share."""

from __future__ import annotations

from uuid import UUID

import numpy as np
from pydantic import SecretStr

from scada_trio.readings import Batch, Quality, ReadingBlock, TagTable
from tests.fix_postgres import fetch

WELL = UUID("22222222-2222-4222-8222-222222222222")
OTHER_WELL = UUID("33333333-3333-4333-8333-333333333333")
BUFFER = UUID("55555555-5555-4555-8555-555555555555")
NOON_US = 1_764_000_000_000_000  # 2025-11-24 16:00 UTC

ROWS = """
    SELECT (extract(epoch FROM timestamp) * 1000000)::bigint, well_id, tag_node_id, value, quality
    FROM scada_readings ORDER BY timestamp, well_id, tag_node_id"""


def block(*readings: tuple[int, int, float, Quality]) -> ReadingBlock:
    """Of (series, time_us, value, quality)."""
    tag, time_us, value, quality = zip(*readings, strict=True) if readings else ((), (), (), ())
    return ReadingBlock(
        np.array(tag, np.int32), np.array(time_us, np.int64), np.array(value, np.float64), np.array(quality, np.uint8)
    )


def many(count: int, series: int, first_us: int = NOON_US) -> ReadingBlock:
    """``count`` Good readings over ``series`` series, a millisecond from one round to the next."""
    index = np.arange(count)
    return ReadingBlock(
        (index % series).astype(np.int32),
        first_us + (index // series) * 1000,
        index.astype(np.float64),
        np.zeros(count, np.uint8),
    )


def tag_table(series: int = 3) -> TagTable:
    tags = TagTable()
    for index in range(series):
        tags.index_of(WELL if index % 2 == 0 else OTHER_WELL, f"ns=2;s=Tag{index}")
    return tags


def batch(sequence: int, readings: ReadingBlock) -> Batch:
    return Batch(sequence, readings)


def count_rows(url: SecretStr) -> int:
    return int(fetch(url, "SELECT count(*) FROM scada_readings")[0][0])
