"""Answers whose numbers nobody can believe: refused at once, and not believed where they are odd."""

from __future__ import annotations

import struct
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary, struct_to_binary

from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, DeviceProtocolError
from scada_trio.opcua import wire
from scada_trio.opcua.bounds import FEW_ELEMENTS, MAX_ELEMENTS, allow_few
from scada_trio.opcua.browse_services import NodeReader
from scada_trio.opcua.faults import MALFORMED, translated
from scada_trio.opcua.security import LinkSecurity, Offer, activation
from scada_trio.opcua.services import create_subscription
from tests.fix_devices import FAST
from tests.fuzzing import bodies
from tests.fuzzing.fakes import URL, AnsweringLink, open_client
from tests.fuzzing.oracle import judge
from tests.publish_bytes import SERVER_TICKS, VARIANTS, data_change, decode, item, publish

HEADER = struct.pack("<BBHqIIBi3s", 1, 0, 634, SERVER_TICKS, 5, 0, 0, -1, bytes(3))
MOST = 2**31 - 1


def values(*variants: bytes) -> bytes:
    """A ReadResponse with these variants."""
    return HEADER + struct.pack("<i", len(variants)) + b"".join(b"\x01" + v for v in variants) + bytes(4)


def array(kind: int, length: int, content: bytes = b"") -> bytes:
    return struct.pack("<Bi", kind | 0x80, length) + content


BOMBS = {
    "an array of nothing": values(array(0, MOST)),
    "strings that step back": values(array(12, MOST, struct.pack("<i", -4))),
    "byte strings that step back": values(array(15, MOST, struct.pack("<i", -4))),
    "dimensions without elements": values(b"\xc6" + struct.pack("<iiiii", 1, 7, 2, MOST, MOST)),
    "dimensions that multiply": values(
        b"\xc6" + struct.pack("<iii", 1, 7, 1000) + struct.pack("<1000i", *[MOST] * 1000)
    ),
    "negative dimensions": values(b"\xc6" + struct.pack("<iiiii", 1, 7, 2, -1, -1)),
    "answers without bytes": HEADER + struct.pack("<i", MOST),
    "a string table without end": HEADER[:-7] + struct.pack("<ii", MOST, -4) + bytes(40),
    "an array longer than the message": values(array(24, 1000, bytes(100))),
    "numbers longer than the message": values(array(11, MOST, bytes(100))),
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_no_length_is_believed(body: bytes) -> None:
    """A few bytes that claim to be a huge answer are an error, without time or memory for it."""

    def read(data: bytes) -> None:
        with pytest.raises(MALFORMED):
            struct_from_binary(ua.ReadResponse, Buffer(data))

    assert judge(read, body) is None
    tracemalloc.start()
    try:
        read(body)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_elements_of_nested_arrays_count_together() -> None:
    """A message of small arrays has no more elements than one large array may have."""
    each = array(24, 1000, bytes(1000))
    with pytest.raises(ua.UaError, match="an array of 1000 elements"):
        struct_from_binary(ua.ReadResponse, Buffer(values(*[each] * (MAX_ELEMENTS // 1000 + 1))))
    few = values(*[each] * (FEW_ELEMENTS // 1000))
    with pytest.raises(ua.UaError, match="an array of 1000 elements"):
        struct_from_binary(ua.ReadResponse, allow_few(Buffer(few)))
    assert len(struct_from_binary(ua.ReadResponse, Buffer(few)).Results) == 2


def test_an_error_does_not_quote_the_message() -> None:
    """A message that is cut short is not in the text of its error."""
    with pytest.raises(ua.UaError) as caught:
        struct_from_binary(ua.ReadResponse, Buffer(values(array(12, 3, struct.pack("<i", 9000) + b"secret" * 1000))))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [[[1, 2, 3], [4, 5, 6]], [[[1], [2]], [[3], [4]], [[5], [6]]], []])
def test_a_matrix_keeps_its_shape(value: list[Any]) -> None:
    """What devices send is read as before."""
    variant = ua.Variant(value, ua.VariantType.Int32)
    response = ua.ReadResponse()
    response.Results = [ua.DataValue(variant)]
    (read,) = struct_from_binary(ua.ReadResponse, Buffer(struct_to_binary(response))).Results
    assert read.Value.Value == value


@pytest.mark.parametrize("other", ["another service", "a fault without a reason"])
def test_an_answer_to_something_else_is_none(other: str) -> None:
    """The fields of one answer are not read out of the bytes of another."""
    body = bodies.transferred_answer() if other == "another service" else bodies.fault(0)
    link = AnsweringLink([body])
    link.open()
    with pytest.raises(DeviceProtocolError, match="CreateSubscription: the server answered something else"):
        create_subscription(open_client(link), FAST, 1000.0)


def test_a_structure_that_the_library_cannot_make_is_one_unreadable_value() -> None:
    """A server with publishers has such values; the others that were read with it are there."""
    limits = bodies.values(*[ua.Variant(100, ua.VariantType.UInt32)] * 3)
    number = ua.ObjectIds.FieldMetaData_Encoding_DefaultBinary
    structure = b"\x16" + struct.pack("<BBHBi", 1, 0, number, 1, 8) + bytes(8)
    one, other = values(structure), bodies.values(ua.Variant(2.0))
    link = AnsweringLink([limits, values(structure, VARIANTS["Double"]), one, other])
    link.open()
    read = NodeReader(open_client(link)).read([(ua.NodeId(number), ua.AttributeIds.Value) for number in (1, 2)])
    assert [None if answer is None else answer.Value.Value for answer in read] == [None, 2.0]


# ---- Publish


def test_a_message_of_a_million_odd_values_holds_up_nobody() -> None:
    """Millions of values, each to be looked at by itself, are no notification of ours: 20,000 were asked for."""
    count = wire.MAX_STEPS + 1
    nulls = struct.pack("<Bi", 0x98, count) + bytes(count)
    bodies_ = [
        publish(data_change(*[item(1, VARIANTS["NullString"])] * count)),
        publish(data_change(item(1, nulls), item(2, nulls))),
        publish(*[bytes(3)] * count),
        publish(results=(0x80000000,) * count),
        publish(tail=struct.pack("<i", count) + bytes(count)),
    ]
    for body in bodies_:
        with pytest.raises(DeviceProtocolError, match=f"more than {wire.MAX_STEPS} values"):
            decode(body)


def test_as_many_values_of_one_layout_as_a_message_can_hold_are_read() -> None:
    """The bound is on what has to be looked at one by one."""
    result = decode(publish(data_change(*[item(1, VARIANTS["Double"])] * (wire.MAX_STEPS + 1))))
    assert result.block is not None
    assert len(result.block) == wire.MAX_STEPS + 1


# ---- what is granted


@pytest.mark.parametrize("interval_ms", [float("nan"), float("inf"), 1e300])
def test_an_interval_that_is_none(interval_ms: float) -> None:
    """A subscription that never publishes could never be found silent: it is refused."""
    response = ua.CreateSubscriptionResponse()
    response.Parameters.RevisedPublishingInterval = interval_ms
    link = AnsweringLink([bodies.encoded(response)])
    link.open()
    with pytest.raises(DeviceProtocolError, match="CreateSubscription"), translated("CreateSubscription"):
        create_subscription(open_client(link), FAST, 1000.0)


@pytest.mark.parametrize(
    ("timeout_ms", "granted_s"), [(float("nan"), None), (float("inf"), None), (-1.0, 0.5), (1e-6, 0.5), (4000.0, 4.0)]
)
def test_a_session_timeout_that_is_none(timeout_ms: float, granted_s: float | None) -> None:
    """No number ends the link; a time too short to be met is not a reason to ask without a pause."""
    response = ua.CreateSessionResponse()
    response.Parameters.RevisedSessionTimeout = timeout_ms
    link = AnsweringLink([bodies.encoded(response)])
    link.open()
    client = open_client(link)
    if granted_s is None:
        with pytest.raises(DeviceProtocolError, match="CreateSession"), translated("CreateSession"):
            client.create_session()
    else:
        client.create_session()
        assert client.session_timeout_s == granted_s


@pytest.mark.parametrize(("lifetime_ms", "granted_s"), [(0, 3600.0), (1, 0.5), (4000, 4.0)])
def test_a_channel_that_ends_at_once_is_not_renewed_without_a_pause(lifetime_ms: int, granted_s: float) -> None:
    client = open_client(AnsweringLink([]))
    client.secure_channel_timeout = lifetime_ms
    assert client.channel_lifetime_s == granted_s


def test_a_nonce_of_a_megabyte_is_not_encrypted() -> None:
    """It would cost a step of RSA for each of its blocks, and be sent back."""
    client = SimpleNamespace(_server_nonce=bytes(1 << 20))
    spec = ConnectionSpec(UUID(int=1), UUID(int=2), "test", URL)
    offer = Offer([], None, "")
    with pytest.raises(DeviceError, match="nonce has 1048576 bytes"):
        activation(cast("Any", client), spec, offer, LinkSecurity(ua.SecurityPolicy()), cast("Any", None))
