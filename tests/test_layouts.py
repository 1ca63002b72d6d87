"""What an item's fields mean: number, time, quality, series."""

from __future__ import annotations

import numpy as np
import pytest

from scada_trio.opcua.notifications import HandleMap
from scada_trio.readings import Quality, ReadingBlock
from tests.publish_bytes import (
    ARRIVAL_US,
    BAD,
    SERVER_TICKS,
    SERVER_US,
    SOURCE_TICKS,
    SOURCE_US,
    UNCERTAIN,
    VARIANTS,
    data_change,
    decode,
    double,
    item,
    publish,
    rows_of,
    scalar,
)


def test_values_are_scaled_and_booleans_are_numbers() -> None:
    """A reading is the device's number times the tag's factor, whatever the type."""
    handles = HandleMap()
    handles.set(1, 0, 0.5)
    handles.set(2, 1)
    body = publish(
        data_change(item(1, double(3.0)), item(1, scalar(1, True)), item(1, scalar(9, 5)), item(2, double(3.0)))
    )
    assert [row[2] for row in rows_of(decode(body, handles))] == [1.5, 0.5, 2.5, 3.0]
    handles.set(1, 0, 1.0)
    assert [row[2] for row in rows_of(decode(body, handles))] == [3.0, 1.0, 5.0, 3.0]


def test_infinities_and_signalling_nans_are_values() -> None:
    """No bit pattern of a float makes a warning or an error."""
    handles = HandleMap()
    handles.set(1, 0, 1e300)
    patterns = [bytes.fromhex(text) for text in ("0000807f", "010080ff", "ffff7f7f", "0100c07f")]
    floats = [item(1, b"\x0a" + pattern) for pattern in patterns]
    doubles = [item(1, double(1e300)), item(1, b"\x0b" + bytes.fromhex("010000000000f07f"))]
    for change in (data_change(*floats), data_change(*doubles), data_change(*floats, *doubles)):
        assert decode(publish(change), handles).block is not None
        assert decode(publish(change)).block is not None


def test_large_integers_lose_their_last_digits() -> None:
    """float64 holds integers exactly up to 2^53."""
    body = publish(data_change(item(1, scalar(9, 2**53 + 1)), item(1, scalar(8, -(2**53)))))
    assert [row[2] for row in rows_of(decode(body))] == [2.0**53, -(2.0**53)]


@pytest.mark.parametrize(
    ("source", "server", "expected_us", "clock"),
    [
        (SOURCE_TICKS, SERVER_TICKS, SOURCE_US, "source"),
        (SOURCE_TICKS + 9 - SOURCE_TICKS % 10, None, SOURCE_US, "source"),
        (None, SERVER_TICKS, SERVER_US, "server"),
        (None, None, ARRIVAL_US, "arrival"),
        (0, SERVER_TICKS, SERVER_US, "server"),
        (-1, SERVER_TICKS, SERVER_US, "server"),
        (-(2**63), SERVER_TICKS, SERVER_US, "server"),
        (2**63 - 1, SERVER_TICKS, SERVER_US, "server"),
        (2_650_467_743_990_000_000, SERVER_TICKS, SERVER_US, "server"),
        (2_650_467_743_989_999_999, SERVER_TICKS, 253_402_300_798_999_999, "source"),
        (0, 0, ARRIVAL_US, "arrival"),
        (2**63 - 1, -5, ARRIVAL_US, "arrival"),
        (10, None, -11_644_473_599_999_999, "source"),
    ],
)
def test_time_is_the_source_clock_else_the_server_clock_else_ours(
    source: int | None, server: int | None, expected_us: int, clock: str
) -> None:
    """A time that stands for "none", or that no calendar has, is none."""
    result = decode(publish(data_change(item(1, double(1.0), source=source, server=server))))
    assert rows_of(result) == [(10, expected_us, 1.0, 0)]
    assert (result.server_timed, result.arrival_timed) == (clock == "server", clock == "arrival")


def test_each_item_has_its_own_clock() -> None:
    """One item without a source time takes nothing from its neighbours, and what is not stored is not counted."""
    times = [(SOURCE_TICKS, SERVER_TICKS), (0, SERVER_TICKS), (0, 0), (SOURCE_TICKS, 0)]
    items = [item(1, double(1.0), source=source, server=server) for source, server in times]
    result = decode(publish(data_change(*items, item(5000, double(1.0), source=0, server=0))))
    assert [row[1] for row in rows_of(result)] == [SOURCE_US, SERVER_US, ARRIVAL_US, SOURCE_US]
    assert (result.server_timed, result.arrival_timed) == (1, 1)


@pytest.mark.parametrize(
    ("status", "quality", "overflowed"),
    [
        (0, Quality.GOOD, 0),
        (0x00000480, Quality.GOOD, 1),
        (0x00000080, Quality.GOOD, 0),  # not InfoType DataValue
        (0x00000880, Quality.GOOD, 0),
        (0x40930480, Quality.UNCERTAIN, 1),
        (0x808B0000, Quality.BAD, 0),
        (0xC0000000, Quality.BAD, 0),
        (0xFFFFFFFF, Quality.BAD, 0),
    ],
)
def test_quality_is_the_severity_and_overflow_its_own_bit(status: int, quality: Quality, overflowed: int) -> None:
    """The top two bits are the quality; the overflow bit counts only where the info bits say what they are."""
    result = decode(publish(data_change(item(1, double(1.0), status=0), item(1, double(1.0), status=status))))
    assert [row[3] for row in rows_of(result)] == [Quality.GOOD, quality]
    assert result.overflowed == overflowed


def test_a_lost_device_is_a_run_of_bad_readings() -> None:
    """When a device goes away, every item turns Bad without a value, and each of that is a reading."""
    result = decode(publish(data_change(*[item(handle, status=BAD, source=SOURCE_TICKS) for handle in range(1, 101)])))
    assert result.block is not None
    assert result.block.tag.tolist() == list(range(10, 1001, 10))
    assert np.isnan(result.block.value).all()
    assert (result.block.quality == Quality.BAD).all()
    assert result.unstorable == {}


def test_a_value_without_a_number_is_a_reading_only_where_it_is_bad() -> None:
    """Text, a null or nothing at all is counted by its reason while Good or Uncertain."""
    for variant, reason in ((VARIANTS["String"], "string"), (VARIANTS["Null"], "null"), (None, "null")):
        items = [item(1, variant, status=status) for status in (0, UNCERTAIN, BAD)]
        result = decode(publish(data_change(*items)))
        assert [row[3] for row in rows_of(result)] == [Quality.BAD]
        assert result.unstorable == {reason: 2}


def test_unknown_handles_are_counted_and_left_out() -> None:
    """A tag that was removed may still send; handles never given, however large, are the same."""
    handles = HandleMap()
    handles.set(1, 0)
    handles.set(2, 1)
    handles.remove(2)
    handles.remove(4_000_000_000)
    unknown = (0, 2, 63, 64, 65, 2**31, 2**32 - 1)
    items = [item(handle, double(1.0)) for handle in (1, *unknown, 1)]
    result = decode(publish(data_change(*items, item(2, VARIANTS["String"]), item(2, status=BAD))), handles)
    assert [row[0] for row in rows_of(result)] == [0, 0]
    assert result.unstorable == {"unknown_handle": len(unknown) + 2}
    assert decode(publish(data_change(*items[1:-1])), handles).block is None


@pytest.mark.parametrize("handle", [1, 62, 63, 64, 65, 127, 128, 5000])
def test_the_handle_map_grows(handle: int) -> None:
    """A handle beyond the columns makes them longer, and the ones beside it stay unknown."""
    handles = HandleMap()
    handles.set(handle, 7, 2.0)
    items = [item(number, double(1.5)) for number in (handle, handle + 1, handle - 1)]
    assert [row[0::2] for row in rows_of(decode(publish(data_change(*items)), handles))] == [(7, 3.0)]
    assert len(handles) == 1
    assert handles.scaled
    handles.remove(handle)
    assert len(handles) == 0
    assert not handles.scaled


@pytest.mark.parametrize(("handle", "tag"), [(0, 1), (-1, 1), (1, -1)])
def test_the_handle_map_refuses_what_it_could_not_tell_from_unknown(handle: int, tag: int) -> None:
    """Handles start at 1 and tags at 0."""
    with pytest.raises(ValueError, match="handles start at 1"):
        HandleMap().set(handle, tag)


def test_the_columns_are_as_a_block_has_them() -> None:
    """Shapes, types and byte order are those of `ReadingBlock`, and nothing refers to the message any more."""
    mixed = publish(
        data_change(item(1, double(1.0)), item(2, scalar(10, 1.0)), item(3, VARIANTS["String"], status=BAD))
    )
    for body in (publish(data_change(item(1, double(1.0)), item(2, double(2.0)))), mixed):
        block = decode(body).block
        assert isinstance(block, ReadingBlock)
        columns = (block.tag, block.time_us, block.value, block.quality)
        assert [column.dtype for column in columns] == [np.int32, np.int64, np.float64, np.uint8]
        assert all(
            column.dtype.isnative and column.flags.c_contiguous and len(column) == len(block) for column in columns
        )
        assert not any(np.shares_memory(column, np.frombuffer(body, np.uint8)) for column in columns)
