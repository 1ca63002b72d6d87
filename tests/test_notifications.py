"""The notification decoder against messages of three makers, against the stock decoder, and against nonsense."""

from __future__ import annotations

import struct
import tracemalloc
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opcua import ua

from scada_trio.errors import DeviceError, DeviceProtocolError
from scada_trio.opcua.notifications import HandleMap, PublishFault, PublishResult, decode_publish
from scada_trio.readings import Quality, ReadingBlock
from tests.publish_bytes import (
    BAD,
    EVENTS,
    OVERFLOW,
    PLAIN_HEADER,
    SERVER_TICKS,
    SOURCE_TICKS,
    STATUS_CHANGE,
    UNCERTAIN,
    array,
    assert_agree,
    capture,
    data_change,
    double,
    extension,
    identity_handles,
    item,
    masked_item,
    publish,
    reference,
    rows_of,
    scalar,
)

ARRIVAL_US = 1_700_000_000_000_000
SOURCE_US = SOURCE_TICKS // 10 - 11_644_473_600_000_000
SERVER_US = SERVER_TICKS // 10 - 11_644_473_600_000_000
MAKERS = ("asyncua", "open62541", "node-opcua")
HANDLES = identity_handles(1000)

VARIANTS = {
    "Null": scalar(0, None),
    "Boolean": scalar(1, True),
    "SByte": scalar(2, -5),
    "Byte": scalar(3, 250),
    "Int16": scalar(4, -300),
    "UInt16": scalar(5, 65000),
    "Int32": scalar(6, -70000),
    "UInt32": scalar(7, 4_000_000_000),
    "Int64": scalar(8, -(2**53) - 1),
    "UInt64": scalar(9, 2**64 - 1),
    "Float": scalar(10, 0.1),
    "Double": scalar(11, 0.1),
    "String": scalar(12, "pump"),
    "NullString": scalar(12, None),
    "DateTime": scalar(13, datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None)),
    "Guid": scalar(14, UUID(int=1)),
    "ByteString": scalar(15, b"\0\1"),
    "XmlElement": b"\x10" + struct.pack("<i", 4) + b"<a/>",
    "NodeId": scalar(17, ua.NodeId("a", 3)),
    "ExpandedNodeId": b"\x12\xc1\x05" + struct.pack("<Hi5sI", 300, 5, b"urn:x", 2),
    "StatusCode": scalar(19, ua.StatusCode(BAD)),
    "QualifiedName": scalar(20, ua.QualifiedName("q", 1)),
    "LocalizedText": scalar(21, ua.LocalizedText("Druck", "de")),
    "Structure": scalar(22, ua.Range()),
    "DataValue": scalar(23, ua.DataValue(ua.Variant(1.0))),
    "DiagnosticInfo": b"\x19\x3f" + struct.pack("<iiii", 1, 2, 3, 4) + struct.pack("<i", 2) + b"ab" + bytes(4),
    "Doubles": array(11, [1.0, 2.0]),
    "Strings": array(12, ["a", "bc"]),
    "NoInt32": array(6, []),
    "Variants": array(24, [ua.Variant(1.0), ua.Variant("a"), ua.Variant([1, 2])]),
    "Matrix": array(6, [1, 2, 3, 4]).replace(b"\x86", b"\xc6", 1) + struct.pack("<iii", 2, 2, 2),
}


def decode(body: bytes, handles: HandleMap = HANDLES) -> PublishResult:
    return decode_publish(body, handles, ARRIVAL_US)


def tag_of(handle: int) -> int | None:
    return 10 * handle if 1 <= handle <= 1000 else None


def assert_as_stock(body: bytes) -> None:
    assert_agree(decode(body), reference(body, tag_of, ARRIVAL_US))


# ---- what servers send


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("content", ["mixed", "uniform-10", "uniform-1000", "keep-alive"])
def test_every_maker_reads_as_the_stock_decoder_reads_it(maker: str, content: str) -> None:
    """Whatever a real server sent, the columns hold what python-opcua's own decoder finds, in its order."""
    assert_as_stock(capture(f"{maker}-{content}"))


@pytest.mark.parametrize("maker", MAKERS)
def test_every_type_of_every_maker_has_its_meaning(maker: str) -> None:
    """Eleven types have a number, a Bad item is a reading without one, and the rest is counted by its reason."""
    result = decode(capture(f"{maker}-mixed"))
    rows = rows_of(result)
    numbers = [1, -5, 250, -300, 65000, -70000, 4_000_000_000, -1234567890123, 2**63 + 2**11, 1.5, 3.141592653589793]
    assert [(tag, value, quality) for tag, _, value, quality in rows[:11]] == [
        (10 * handle, number, Quality.GOOD) for handle, number in enumerate(numbers, 1)
    ]
    bad, uncertain = rows[11:14], rows[14]
    assert [(tag, quality) for tag, _, _, quality in bad] == [(260, 2), (270, 2), (280, 2)]
    assert np.isnan(bad[0][2])
    assert np.isnan(bad[2][2])
    assert uncertain[0] == 290
    assert uncertain[2:] == (4.5, Quality.UNCERTAIN)
    assert result.unstorable == {
        **dict.fromkeys(("datetime", "guid", "byte_string", "node_id", "status_code", "qualified_name"), 1),
        **dict.fromkeys(("localized_text", "structure", "null"), 1),
        "array": 4,
        "string": 2,
    }


@pytest.mark.parametrize("maker", MAKERS)
def test_a_keep_alive_has_a_number_and_no_readings(maker: str) -> None:
    """A keep-alive announces the next sequence number and brings nothing."""
    result = decode(capture(f"{maker}-keep-alive"))
    assert result.keep_alive
    assert result.sequence_number in (1, 2)
    assert result.block is None


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
def test_a_service_fault_carries_its_status(maker: str) -> None:
    """A server without a subscription answers Publish with BadNoSubscription."""
    with pytest.raises(PublishFault, match=r"BadNoSubscription \(0x80790000\)") as caught:
        decode(capture(f"{maker}-fault"))
    assert caught.value.status == 0x80790000


# ---- items


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


# ---- handles


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


# ---- the message around the items


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


def test_all_notifications_of_a_message_are_read() -> None:
    """Several data changes, a status change and events may come in one message."""
    body = publish(
        data_change(item(1, double(1.0))),
        extension(STATUS_CHANGE, struct.pack("<IB", 0x800A0000, 0)),
        extension(EVENTS, bytes(4)),
        bytes(3),
        data_change(),
        data_change(item(2, scalar(6, 2)), item(3, double(3.0))),
        more=True,
        sequence=9,
    )
    result = decode(body)
    assert [row[0] for row in rows_of(result)] == [10, 20, 30]
    assert (result.subscription_id, result.sequence_number) == (77, 9)
    assert result.more
    assert not result.keep_alive
    assert result.status_change == 0x800A0000
    assert result.ignored == 2


def test_refused_acknowledgements_are_named() -> None:
    """Of the results of the acknowledgements those are told that are not Good."""
    diagnostics = struct.pack("<iBi", 2, 0x01, 5) + b"\x00"
    result = decode(publish(results=(0, 0x807A0000, 0, 0x80280000), tail=diagnostics))
    assert result.results == (0x807A0000, 0x80280000)
    assert result.keep_alive


ODD_HEADERS = {
    "numeric type id": struct.pack("<BHIqIIBi3s", 2, 0, 829, SERVER_TICKS, 5, 0, 0, -1, bytes(3)),
    "diagnostics": struct.pack("<BBHqIIBiBii", 1, 0, 829, SERVER_TICKS, 5, 0, 0x41, 1, 0x04, 2, -1) + bytes(3),
    "strings": struct.pack("<BBHqIIBii", 1, 0, 829, SERVER_TICKS, 5, 0, 0, 2, 3)
    + b"abc"
    + struct.pack("<i3s", -1, bytes(3)),
    "additional header": struct.pack("<BBHqIIBi", 1, 0, 829, SERVER_TICKS, 5, 0, 0, -1) + extension(298, b"whatever"),
    "uncertain result": struct.pack("<BBHqIIBi3s", 1, 0, 829, SERVER_TICKS, 5, 0x40000000, 0, 0, bytes(3)),
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_whatever_a_response_header_holds_is_stepped_over(header: bytes) -> None:
    """Diagnostics, strings and additional headers come from few servers and change nothing."""
    result = decode(publish(data_change(item(1, double(1.0))), header=header))
    assert rows_of(result) == [(10, ARRIVAL_US, 1.0, 0)]
    assert result.subscription_id == 77


def test_a_bad_service_result_is_a_fault() -> None:
    """A PublishResponse may say itself that the service failed."""
    header = struct.pack("<BBHqIIBi3s", 1, 0, 829, SERVER_TICKS, 5, 0x80250000, 0, -1, bytes(3))
    with pytest.raises(PublishFault, match="BadSessionIdInvalid"):
        decode(publish(header=header))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(100),
        struct.pack("<BBHqIIBi3s", 1, 0, 397, 0, 5, 0, 0, -1, bytes(3)),
        struct.pack("<BBHqIIBi3s", 1, 0, 634, 0, 5, 0, 0, -1, bytes(40)),
        struct.pack("<BBHqIIBi3s", 1, 1, 829, 0, 5, 0, 0, -1, bytes(40)),
        publish(data_change(struct.pack("<IB", 1, 0x40))),
        publish(data_change(item(1, b"\x20"))),
        publish(data_change(item(1, b"\x11\x3f"))),
        publish(data_change(item(1, b"\x18" * 5000))),
        publish(data_change(item(1, b"\x19" + b"\x40" * 5000))),
        publish(data_change(item(1, b"\x17\x01" * 5000))),
    ],
    ids=[
        "empty",
        "zeros",
        "fault without a status",
        "another service",
        "another namespace",
        "unknown fields",
        "unknown type",
        "unknown node id",
        "nested variants",
        "nested diagnostics",
        "nested data values",
    ],
)
def test_what_is_no_publish_answer_is_a_protocol_error(body: bytes) -> None:
    """The session is dropped for bytes that the protocol does not allow."""
    with pytest.raises(DeviceProtocolError):
        decode(body)


# ---- nonsense

SMALL_CAPTURES = [f"{maker}-{content}" for maker in MAKERS for content in ("mixed", "uniform-10")]


@pytest.mark.parametrize("name", SMALL_CAPTURES)
def test_a_message_cut_anywhere_is_a_protocol_error(name: str) -> None:
    """No prefix of a message passes for a message."""
    body = capture(name)
    for length in range(len(body)):
        with pytest.raises(DeviceProtocolError):
            decode(body[:length])


@pytest.mark.parametrize("name", SMALL_CAPTURES)
def test_a_message_with_any_byte_changed_does_no_harm(name: str) -> None:
    """It decodes or it is an error of the device, nothing else."""
    body = capture(name)
    for position in range(len(body)):
        for changed in (bytes((body[position] ^ 0x80,)), b"\xff\xff\xff\xff", b"\x00"):
            _decode_or_device_error(body[:position] + changed + body[position + len(changed) :])


def test_no_length_that_a_message_claims_is_believed() -> None:
    """2^31 - 1 in the place of any field makes the decoder allocate no more than the message is worth."""
    body = capture("node-opcua-mixed")
    tracemalloc.start()
    try:
        for position in range(len(body) - 3):
            _decode_or_device_error(body[:position] + b"\xff\xff\xff\x7f" + body[position + 4 :])
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300, deadline=None)
def test_random_bytes_do_no_harm(noise: bytes, headed: bool) -> None:
    """Bytes from nowhere, bare or behind a good header, are an error of the device at most."""
    _decode_or_device_error(PLAIN_HEADER + noise if headed else noise)


@given(st.sampled_from(SMALL_CAPTURES), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
def test_spliced_messages_do_no_harm(name: str, data: st.DataObject) -> None:
    """Parts of a message cut out, repeated or replaced."""
    body = capture(name)
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    _decode_or_device_error(body[:start] + data.draw(st.binary(max_size=40)) + body[end:])
    _decode_or_device_error(body[:end] + body[start:])


def _decode_or_device_error(body: bytes) -> None:
    try:
        result = decode(body)
    except DeviceError:
        return
    assert result.block is None or len(result.block) <= len(body) // 5
