"""The notification decoder against messages of three makers, and against nonsense."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scada_trio.errors import DeviceError, DeviceProtocolError
from scada_trio.opcua.notifications import PublishFault
from scada_trio.readings import Quality
from tests.publish_bytes import (
    ARRIVAL_US,
    EVENTS,
    PLAIN_HEADER,
    SERVER_TICKS,
    STATUS_CHANGE,
    assert_as_stock,
    capture,
    data_change,
    decode,
    double,
    extension,
    item,
    publish,
    rows_of,
    scalar,
)

MAKERS = ("asyncua", "open62541", "node-opcua")
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


# ---- the message around the items


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
