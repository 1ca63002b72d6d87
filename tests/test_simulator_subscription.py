"""What a simulated well sends, byte by byte, and what its subscriptions keep, drop and write down."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.simulator.encoding import EPOCH_TICKS, OVERFLOW, Layout, data_change
from scada_trio.simulator.field import TAG_MODELS, Step
from scada_trio.simulator.record import DIED, DROPPED, MADE, Recorder, read_record
from scada_trio.simulator.subscription import Item, Subscription, sample

TYPES = [tag.data_type for tag in TAG_MODELS]


def decoded(data: bytes, items: int) -> list[Any]:
    """A notification read by python-opcua's own decoder."""
    change = struct_from_binary(ua.DataChangeNotification, Buffer(data_change([data], items)[9:]))
    return list(change.MonitoredItems)


def test_items_are_what_the_standard_decoder_reads() -> None:
    """Every type, Good, Uncertain and Bad, with value, status and times, as an independent decoder sees them."""
    layout = Layout.of([(100 + column, column) for column in range(10)], TYPES)
    value = np.array([1.5, -2.5, 0.1, 3.25, 4.0, 5.0, 6.0, -7.0, 8.5, 1.0])
    value[2] = np.float32(0.1)
    status = np.zeros(10, np.uint32)
    status[3], status[4], status[9] = 0x40930000, 0x808C0000, 0x480
    data, ends = layout.encode(value, status, 1_700_000_000_123_456)
    items = decoded(data, 10)
    assert [item.ClientHandle for item in items] == list(range(100, 110))
    assert [item.Value.StatusCode.value for item in items] == status.tolist()
    assert [item.Value.Value.Value for item in items] == [*value[:4].tolist(), None, *value[5:].tolist()]
    assert [item.Value.Value.VariantType.name for item in items] == [*TYPES[:4], "Null", *TYPES[5:]]
    assert {item.Value.SourceTimestamp.isoformat() for item in items} == {"2023-11-14T22:13:20.123456"}
    assert ends[-1] == len(data)
    assert struct.unpack_from("<i", data_change([data], 10), 9)[0] == 10


def steps(subscription: Subscription, count: int, *, first_us: int = 1_000_000) -> None:
    """Sample the first tag, each value its own number."""
    for number in range(count):
        one = Step(np.array([[float(number)]]), np.zeros((1, 1), np.uint32))
        sample([subscription], subscription.layout, one.value[0], one.status[0], first_us + number)


def values_of(message: bytes) -> list[tuple[float, int]]:
    """(value, status) of each item of a NotificationMessage."""
    notification = struct_from_binary(ua.NotificationMessage, Buffer(message))
    found = []
    for change in notification.NotificationData:
        found += [(item.Value.Value.Value, item.Value.StatusCode.value) for item in change.MonitoredItems]
    return found


def subscription_with(queue_size: int, recorder: Recorder) -> Subscription:
    subscription = Subscription(5, 1, TYPES, recorder)
    subscription.change({1: Item(77, 0, queue_size)})
    return subscription


def test_a_full_queue_drops_the_oldest_and_says_so(tmp_path: Path) -> None:
    """The value behind a gap has the overflow bit, and the record has what was dropped."""
    with Recorder(tmp_path / "record") as recorder:
        subscription = subscription_with(3, recorder)
        steps(subscription, 5)
        message, more = subscription.message(0.0)
    assert not more
    assert values_of(message) == [(2.0, int(OVERFLOW)), (3.0, 0), (4.0, 0)]
    dropped = read_record(tmp_path / "record")
    assert dropped[["kind", "well", "time_us", "items"]].tolist() == [
        (DROPPED, 1, 1_000_000, 1),
        (DROPPED, 1, 1_000_001, 1),
    ]


def test_messages_are_kept_until_they_are_acknowledged(tmp_path: Path) -> None:
    """What was sent can be sent again; what is unacknowledged at the end may be lost, and the record says so."""
    with Recorder(tmp_path / "record") as recorder:
        subscription = subscription_with(10, recorder)
        steps(subscription, 1)
        first, _ = subscription.message(0.0)
        keep_alive, _ = subscription.message(0.0)
        steps(subscription, 1, first_us=2_000_000)
        second, _ = subscription.message(0.0)
        assert [struct.unpack_from("<I", message)[0] for message in (first, keep_alive, second)] == [1, 2, 2]
        assert subscription.kept == {1: first, 2: second}
        assert subscription.acknowledge(1)
        assert not subscription.acknowledge(1)
        steps(subscription, 1, first_us=3_000_000)
        subscription.end()
    assert read_record(tmp_path / "record")[["kind", "time_us"]].tolist() == [(DIED, 3_000_000), (DIED, 2_000_000)]


def test_a_message_is_no_longer_than_the_client_allows() -> None:
    """More values than MaxNotificationsPerPublish come in several messages."""
    subscription = subscription_with(10, Recorder(None))
    subscription.limit_message(2)
    steps(subscription, 5)
    sizes = []
    more = True
    while more:
        message, more = subscription.message(0.0)
        sizes.append(len(values_of(message)))
    assert sizes == [2, 2, 1]


def test_a_record_that_is_cut_is_read_up_to_there(tmp_path: Path) -> None:
    """A simulator that was killed leaves half a row at most."""
    with Recorder(tmp_path / "record") as recorder:
        recorder.write(MADE, 1, 2, 3, 1, 4.5)
    with (tmp_path / "record").open("ab") as file:
        file.write(b"half")
    assert read_record(tmp_path / "record").tolist() == [(MADE, 1, 2, 3, 1, 4.5)]


def test_times_are_those_of_opc_ua() -> None:
    """1601 is where the clock starts."""
    assert EPOCH_TICKS == (1970 * 365 + 477 - (1601 * 365 + 388)) * 86_400 * 10**7
