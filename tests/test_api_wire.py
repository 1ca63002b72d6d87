"""Readings as bytes: what any protobuf parser makes of them."""

from __future__ import annotations

from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scada_trio.api._generated import scada_pb2
from scada_trio.api.wire import encode_readings
from scada_trio.readings import QUALITY_LABELS, ReadingRows

WELL = UUID("22222222-2222-4222-8222-222222222222")
LAST_US = 253_402_300_799_999_999
ROW = st.tuples(
    st.integers(0, LAST_US) | st.sampled_from([0, 1, 127, 128, LAST_US]),
    st.text(st.characters(codec="utf-8"), max_size=200),
    st.floats(allow_nan=True) | st.sampled_from([0.0, -0.0]),
    st.sampled_from(QUALITY_LABELS),
)


@given(st.lists(ROW, max_size=50))
def test_a_parser_reads_what_was_laid_out(rows: list[tuple[int, str, float, str]]) -> None:
    """Every time, text and number, the empty and the zero ones included."""
    answer = scada_pb2.QueryReadingsResponse.FromString(encode_readings(ReadingRows.of(WELL, rows)))
    assert [
        (r.well_id, r.tag_node_id, r.timestamp, r.timestamp_us, np.float64(r.value).tobytes(), r.quality)
        for r in answer.readings
    ] == [
        (str(WELL), node_id, time_us // 1_000_000, time_us, np.float64(value).tobytes(), quality)
        for time_us, node_id, value, quality in rows
    ]


def test_no_readings_are_no_bytes() -> None:
    assert encode_readings(ReadingRows.of(WELL, [])) == b""
