"""Mixed messages that come again: what is remembered of one must never be taken for another."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scada_trio.errors import DeviceProtocolError
from scada_trio.opcua.layouts import HandleMap
from tests.publish_bytes import (
    BAD,
    OVERFLOW,
    SERVER_TICKS,
    SOURCE_TICKS,
    UNCERTAIN,
    VARIANTS,
    assert_agree,
    capture,
    data_change,
    decode,
    identity_handles,
    item,
    masked_item,
    publish,
    reference,
    rows_of,
    scalar,
)

NUMBERS = [VARIANTS[name] for name in ("Double", "Float", "Int32", "Boolean", "UInt64", "Byte")]
A_WELL = (11, 11, 10, 10, 11, 11, 11, 6, 10, 1)


def message(kinds: tuple[int, ...], status: int | None = None, first: int = 1) -> bytes:
    """Items of those types, in order, with handles from ``first``."""
    return publish(
        data_change(
            *(
                item(handle, scalar(kind, 1), status, SOURCE_TICKS, SERVER_TICKS)
                for handle, kind in enumerate(kinds, first)
            )
        )
    )


def assert_same_again(body: bytes, handles: HandleMap, times: int = 4) -> None:
    """As the stock decoder reads it, however often it came before."""
    for _ in range(times):
        assert_agree(decode(body, handles), reference(body))


def test_a_shape_is_kept_of_what_came_twice() -> None:
    """And is shared by connections whose devices are alike."""
    one, other = identity_handles(20), identity_handles(20)
    assert_same_again(message(A_WELL), one, 1)
    assert one.shape is None
    assert_same_again(message(A_WELL), one)
    assert_same_again(message(A_WELL, first=5), other)
    assert one.shape is not None
    assert one.shape is other.shape


@pytest.mark.parametrize("count", [2, 10, 100, 400])
@pytest.mark.parametrize("mask", [1, 13, 15, 63])
def test_messages_of_any_length_read_as_before(count: int, mask: int) -> None:
    """Few items of each layout, many of each, and both."""
    items = [
        masked_item(number % 1000 + 1, mask, NUMBERS[min(number % 7, number % 5)], (0, UNCERTAIN)[number % 3 == 0])
        for number in range(count)
    ]
    handles = identity_handles(1000)
    assert_same_again(publish(data_change(*items)), handles)
    assert handles.shape is not None


def test_another_type_of_the_same_size_is_seen() -> None:
    """The bytes of a Float and of an Int32 lie alike; their types are compared."""
    handles = identity_handles(20)
    assert_same_again(message((11, 10, 6)), handles)
    assert_same_again(message((11, 6, 10)), handles, 1)
    assert_same_again(message((11, 10, 6)), handles, 1)


def test_quality_overflow_and_unknown_handles_are_seen_each_time() -> None:
    """What changes from message to message is no part of the shape."""
    handles = identity_handles(8)
    for status in (0, 0, 0, UNCERTAIN, UNCERTAIN | OVERFLOW, BAD, BAD | OVERFLOW, 0):
        result = decode(message(A_WELL[:8], status), handles)
        assert_agree(result, reference(message(A_WELL[:8], status)))
        assert result.overflowed == (8 if status & OVERFLOW else 0)
        assert (result.behind_dropped is not None) == bool(status & OVERFLOW)
    assert handles.shape is not None
    assert decode(message(A_WELL[:8], 0, first=5), handles).unstorable == {"unknown_handle": 4}


def test_a_factor_that_is_set_later_counts() -> None:
    """The shape knows no tag."""
    handles = identity_handles(20)
    assert_same_again(message((11, 6)), handles)
    handles.set(2, 7, 3.0)
    block = decode(message((11, 6)), handles).block
    assert block is not None
    assert (block.tag.tolist(), block.value.tolist()) == ([10, 7], [1.0, 3.0])


def test_items_without_a_number_are_walked_each_time() -> None:
    """Texts, null values and what is Bad without a value have no shape."""
    handles = identity_handles(1000)
    assert_same_again(capture("asyncua-mixed"), handles)
    assert handles.shape is None
    assert_same_again(publish(data_change(item(1, NUMBERS[0]), item(2, VARIANTS["StatusCode"]))), handles)
    assert handles.shape is None


def test_a_message_that_ends_too_early_is_refused() -> None:
    """Even if the one before was whole: nothing is read beyond the items' end."""
    handles = identity_handles(20)
    body = message((11, 10, 6))
    assert_same_again(body, handles)
    cut = data_change(item(1, NUMBERS[0]), item(2, NUMBERS[1]), item(3, NUMBERS[2]))
    claimed = cut[:8] + struct.pack("<i", 4) + cut[12:]
    for _ in range(2):
        with pytest.raises(DeviceProtocolError):
            decode(publish(claimed), handles)
    for end in range(len(body) - 20, len(body) - 60, -7):
        with pytest.raises(DeviceProtocolError):
            decode(body[:end], handles)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 5, 13, 15])), min_size=1, max_size=40),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
)
def test_any_sequence_of_messages_reads_as_the_stock_decoder_reads_it(
    kinds: list[list[tuple[int, int]]], turns: list[int]
) -> None:
    """Two or three messages in any order, each often enough to be remembered or not."""
    bodies = [
        publish(data_change(*(masked_item(at, mask, NUMBERS[number]) for at, (number, mask) in enumerate(each, 1))))
        for each in kinds
    ]
    handles = identity_handles(50)
    for turn in turns:
        assert_same_again(bodies[turn % len(bodies)], handles, 1)


@pytest.mark.parametrize("count", [20_001, 2_000_000])
def test_a_message_of_more_items_than_were_asked_for_is_not_remembered(count: int) -> None:
    """What is remembered is kept, for many devices: it is no larger than what a good device sends."""
    handles = identity_handles(9)
    body = publish(data_change(item(1), *[item(2, VARIANTS["Byte"])] * (count - 1)))
    for _ in range(2):
        result = decode(body, handles)
        assert result.block is not None
        assert len(result.block) == count - 1
    assert handles.shape is None


def test_a_message_of_a_thousand_layouts_is_not_remembered() -> None:
    """Of each layout a few items: the most that a shape can cost."""
    handles = identity_handles(9)
    kinds = [
        VARIANTS[name]
        for name in ("Boolean", "SByte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "Float", "Double")
    ]
    items = [masked_item(1, mask, kind) for mask in range(1, 64, 2) for kind in kinds for _ in range(4)]
    for _ in range(2):
        assert len(rows_of(decode(publish(data_change(*items)), handles))) == len(items)
    assert handles.shape is None
    few = publish(data_change(*items[:900]))
    for _ in range(2):
        decode(few, handles)
    assert handles.shape is not None
