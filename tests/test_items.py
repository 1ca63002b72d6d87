"""The walk over mixed messages: every layout, alone, in runs and in mixtures, against the stock decoder."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.publish_bytes import (
    BAD,
    OVERFLOW,
    UNCERTAIN,
    VARIANTS,
    assert_as_stock,
    data_change,
    decode,
    double,
    extension,
    item,
    masked_item,
    publish,
    rows_of,
    scalar,
)


@pytest.mark.parametrize("mask", range(64))
def test_every_mask_and_type_reads_as_the_stock_decoder_reads_it(mask: int) -> None:
    """Each combination of fields with each type has its layout, alone, in a run and in a mixture."""
    mixture = []
    for handle, variant in enumerate(VARIANTS.values(), 1):
        for status in (0, UNCERTAIN, BAD):
            assert_as_stock(publish(data_change(*[masked_item(handle, mask, variant, status)] * 3)))
            mixture.append(masked_item(handle, mask, variant, status))
    assert_as_stock(publish(data_change(*mixture)))


@st.composite
def mixtures(draw: st.DrawFn) -> bytes:
    """A data change of runs of various lengths, layouts, handles and statuses."""
    items: list[bytes] = []
    for _ in range(draw(st.integers(1, 12))):
        variant = draw(st.sampled_from(sorted(VARIANTS.values())))
        mask, status = draw(st.integers(0, 63)), draw(st.sampled_from([0, OVERFLOW, UNCERTAIN, BAD, BAD | OVERFLOW]))
        length = draw(st.sampled_from([1, 1, 2, 3, 40, 300]))
        handle = draw(st.integers(0, 1010))
        items += [masked_item(handle + step, mask, variant, status) for step in range(length)]
    return publish(data_change(*items))


@given(mixtures())
@settings(max_examples=60, deadline=None)
def test_mixtures_read_as_the_stock_decoder_reads_them(body: bytes) -> None:
    """Runs and single items of any layouts, one after the other, come out in their order."""
    assert_as_stock(body)


def test_queued_values_of_one_tag_keep_their_order() -> None:
    """A server's queue sends one item several times; whatever lies between, their order stays."""
    items = []
    for number in range(50):
        items.append(item(1, double(float(number))))
        items.append(item(2, scalar(6, number)))
        if number % 7 == 0:
            items.append(item(1, VARIANTS["String"], status=BAD))
    rows = rows_of(decode(publish(data_change(*items))))
    doubles = [row[2] for row in rows if row[0] == 10 and not np.isnan(row[2])]
    assert doubles == list(range(50))
    assert [row[2] for row in rows if row[0] == 20] == list(range(50))
    assert np.isnan(rows[2][2])


def test_text_that_is_not_utf8_does_not_spoil_the_message() -> None:
    """What cannot be stored need not be readable either."""
    variant = b"\x0c" + struct.pack("<i", 2) + b"\xff\xfe"
    structure = b"\x16" + extension(298, b"not an Argument")
    result = decode(publish(data_change(item(1, variant), item(1, structure), item(2, double(1.0)))))
    assert [row[0] for row in rows_of(result)] == [20]
    assert result.unstorable == {"string": 1, "structure": 1}
