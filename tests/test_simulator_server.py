"""The simulated wells as OPC UA servers: for clients of other makers, for broken ones, and for whoever counts."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncua
import numpy as np
import opcua
import pytest
import trio
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.config import DeviceSettings, PkiSettings
from scada_trio.connection import Connection
from scada_trio.desired import ConnectionSpec
from scada_trio.metrics import Metrics
from scada_trio.opcua.pki import Pki
from scada_trio.readings import Delivery, ReadingBlock, TagTable
from scada_trio.simulator.encoding import EPOCH_TICKS, OVERFLOW, Layout, data_change
from scada_trio.simulator.field import TAG_MODELS, FaultRates, Step
from scada_trio.simulator.process import FieldOptions, RunningField, open_field
from scada_trio.simulator.record import DIED, DROPPED, MADE, Recorder, read_record
from scada_trio.simulator.subscription import Item, Subscription, sample
from scada_trio.simulator.wells import SimulatedWell

NODE = Path(__file__).parent / "node"
TYPES = [tag.data_type for tag in TAG_MODELS]
WITHIN_S = 30.0


# ---- bytes


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


# ---- clients of other makers


async def look_around(well: SimulatedWell) -> dict[str, Any]:
    """What asyncua's client finds in a well, until the first tag has changed three times."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()

    class Handler:
        def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
            arrived.put_nowait((node.nodeid.Identifier, data.monitored_item.Value.SourceTimestamp))

    async with asyncua.Client(well.endpoint_url) as client:
        folder = await client.nodes.objects.get_child(f"2:{well.name}")
        nodes = await folder.get_children()
        found = {
            "namespaces": await client.get_namespace_array(),
            "state": (await client.nodes.server_state.read_value()),
            "names": [(await node.read_browse_name()).Name for node in nodes],
            "node_ids": [node.nodeid.to_string() for node in nodes],
            "types": [(await node.read_data_type_as_variant_type()).name for node in nodes],
            "values": [(await node.read_value()) for node in nodes],
            "parent": (await nodes[0].get_parent()).nodeid.Identifier,
            "description": (await nodes[0].read_description()).Text,
            "servers": [server.ApplicationUri for server in await client.find_servers()],
        }
        subscription = await client.create_subscription(50, Handler())
        await subscription.subscribe_data_change(nodes)
        arrivals: list[tuple[str, Any]] = []
        while len([name for name, _ in arrivals if name.endswith("CasingPressure")]) < 3:
            arrivals.append(await asyncio.wait_for(arrived.get(), WITHIN_S))
        found["arrived"] = arrivals
        await subscription.delete()
    return found


def run_asyncio(call: Any, *args: Any) -> Any:
    """In a thread, on a loop of asyncio's own."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(call(*args))


async def test_an_asyncua_client_looks_around_and_subscribes() -> None:
    """asyncua browses, reads and monitors a well as it does any server."""
    options = FieldOptions(1, seed=3, interval_ms=50, rates=FaultRates(uncertain=0, bad=0))
    async with open_field(options) as field:
        (well,) = field.wells
        found = await trio.to_thread.run_sync(run_asyncio, look_around, well)
    assert found["namespaces"][2] == "urn:scada-trio:simulator:wells"
    assert found["state"] == 0
    assert found["names"] == [tag.name for tag in well.tags]
    assert found["node_ids"] == [tag.node_id for tag in well.tags]
    assert found["types"] == [tag.data_type for tag in well.tags]
    assert all(value is not None for value in found["values"])
    assert found["parent"] == "Well0001"
    assert found["description"] == "CasingPressure in psi"
    assert found["servers"] == [f"urn:scada-trio:simulator:{well.well_id}"]
    assert len({time for name, time in found["arrived"] if name.endswith("CasingPressure")}) == 3


async def test_a_node_opcua_client_browses_and_subscribes() -> None:
    """node-opcua browses, reads and monitors a well as it does any server."""
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules/node-opcua").exists():
        pytest.skip("Node.js or its packages are not installed")
    options = FieldOptions(1, tags=12, interval_ms=50, rates=FaultRates(uncertain=0, bad=0))
    async with open_field(options) as field:
        (well,) = field.wells
        command = [node, str(NODE / "opcua_client.mjs"), well.endpoint_url, "ns=2;s=Well0001"]
        with trio.fail_after(2 * WITHIN_S):
            ended = await trio.run_process(command, capture_stdout=True)
    found = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith(b"{")))
    assert found["names"] == [tag.name for tag in well.tags]
    assert found["dataTypes"] == [ua.VariantType[tag.data_type].value for tag in well.tags]
    assert found["enough"]


def ask_for_much(well: SimulatedWell) -> tuple[int, int, list[int]]:
    """Children found in parts, and statuses for what is not there."""
    client = opcua.Client(well.endpoint_url, timeout=10)
    client.connect()
    try:
        wanted = ua.BrowseParameters()
        description = ua.BrowseDescription()
        description.NodeId = ua.NodeId("Well0001", 2)
        description.ReferenceTypeId = ua.NodeId(33, 0)
        description.BrowseDirection = ua.BrowseDirection.Forward
        description.IncludeSubtypes = True
        wanted.NodesToBrowse = [description]
        wanted.RequestedMaxReferencesPerNode = 700
        (result,) = client.uaclient.browse(wanted)
        first = len(result.References)
        following = ua.BrowseNextParameters()
        following.ReleaseContinuationPoints = False
        following.ContinuationPoints = [result.ContinuationPoint]
        (rest,) = client.uaclient.browse_next(following)
        (gone,) = client.uaclient.browse_next(following)
        unknown = client.get_node("ns=2;s=Well0002.Nothing").get_attributes([ua.AttributeIds.Value])
        wrong = client.get_node("ns=2;s=Well0001").get_attributes([ua.AttributeIds.Value])
        statuses = [gone.StatusCode.value, unknown[0].StatusCode.value, wrong[0].StatusCode.value]
        return first, len(rest.References), statuses
    finally:
        client.disconnect()


async def test_what_is_too_much_or_not_there_is_answered_as_the_standard_says() -> None:
    """A folder of a thousand tags is browsed in parts; what does not exist has a status of its own."""
    async with open_field(FieldOptions(1, tags=1000)) as field:
        first, rest, statuses = await trio.to_thread.run_sync(ask_for_much, field.wells[0])
    assert (first, rest) == (700, 300)
    codes = ua.StatusCodes
    assert statuses == [codes.BadContinuationPointInvalid, codes.BadNodeIdUnknown, codes.BadAttributeIdInvalid]


# ---- broken clients


HELLO = struct.pack("<3scIIIIIIi", b"HEL", b"F", 32, 0, 65536, 65536, 0, 0, -1)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (struct.pack("<3scI", b"HEL", b"F", 1 << 30), ua.StatusCodes.BadTcpMessageTooLarge),
        (struct.pack("<3scI", b"XYZ", b"F", 8), ua.StatusCodes.BadTcpMessageTypeInvalid),
        (struct.pack("<3scII", b"MSG", b"F", 12, 99), ua.StatusCodes.BadDecodingError),
        (struct.pack("<3scIIIII", b"MSG", b"F", 24, 99, 0, 1, 1), ua.StatusCodes.BadTcpSecureChannelUnknown),
        (struct.pack("<3scIIi", b"OPN", b"F", 20, 0, 4) + b"#Top", ua.StatusCodes.BadSecurityPolicyRejected),
    ],
)
async def test_a_broken_client_is_told_and_hung_up_on(sent: bytes, code: int) -> None:
    """An error message with its code, then the end; the next client is served."""
    async with open_field(FieldOptions(1)) as field:
        host, port = field.wells[0].endpoint_url.removeprefix("opc.tcp://").rstrip("/").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(HELLO + sent)
            received = b""
            with trio.fail_after(WITHIN_S):
                async for part in stream:
                    received += part
        assert received[:3] == b"ACK"
        assert received[28:31] == b"ERR"
        assert struct.unpack_from("<I", received, 36)[0] == code
        async with await trio.open_tcp_stream(host, int(port)) as second:
            await second.send_all(HELLO)
            with trio.fail_after(WITHIN_S):
                assert (await second.receive_some())[:3] == b"ACK"


# ---- our own client, and the count


@dataclass
class Reader:
    """A connection of the service's own, and what it delivered."""

    table: TagTable
    blocks: list[ReadingBlock]

    @property
    def readings(self) -> ReadingBlock:
        return ReadingBlock.concatenate(self.blocks)


@asynccontextmanager
async def reading(field: RunningField) -> AsyncIterator[Reader]:
    """Connections to all wells of a field."""
    tenant_id, table = uuid4(), TagTable()
    metrics = Metrics().tenant(tenant_id, table)
    reader = Reader(table, [])
    send, receive = trio.open_memory_channel[Delivery](100)

    async def accept() -> None:
        async for delivery in receive:
            reader.blocks.append(delivery.block)
            delivery.accepted()

    settings = DeviceSettings(
        publishing_interval_s=0.05, sampling_interval_s=0.0, queue_size=1000, reconnect_delay_s=0.05, max_attempts=0
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        for well in field.wells:
            connection = Connection(
                ConnectionSpec(uuid4(), tenant_id, well.name, well.endpoint_url, tags=well.tags),
                tags=table,
                deliver=send.clone(),
                limiter=trio.CapacityLimiter(8),
                connecting=trio.CapacityLimiter(8),
                settings=settings,
                metrics=metrics,
                pki=Pki(PkiSettings(Path("no-such-pki"))),
            )
            nursery.start_soon(connection.run)
        yield reader
        nursery.cancel_scope.cancel()


async def until(holds: Any) -> None:
    with trio.fail_after(WITHIN_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another process
            await trio.sleep(0.02)


async def test_the_record_is_exactly_what_a_client_was_sent(tmp_path: Path) -> None:
    """Every value is counted with its time, its sum and its quality: nothing more, nothing less arrives."""
    record = tmp_path / "record"
    rates = FaultRates(uncertain=0.05, bad=0.05)
    async with (
        open_field(FieldOptions(3, interval_ms=20, rates=rates, record=record)) as field,
        reading(field) as reader,
    ):
        await until(lambda: len(reader.readings) > 3_000)
        await field.pause()
        made = read_record(record)
        await until(lambda: len(reader.readings) >= made["items"].sum())
        got = reader.readings
    assert set(made["kind"].tolist()) == {MADE}
    assert made["items"].sum() == len(got)
    wells = {well.well_id: number for number, well in enumerate(field.wells, start=1)}
    of = np.array([wells[reader.table.key(index)[0]] for index in range(len(reader.table))])[got.tag]
    for row in made:
        mine = (of == row["well"]) & (got.time_us == row["time_us"])
        value = got.value[mine]
        assert mine.sum() == row["items"] == 10
        assert np.isnan(value).sum() == row["bad"] == (got.quality[mine] == 2).sum()
        assert np.nansum(value) == pytest.approx(row["sum"], rel=1e-12)
    assert made["bad"].sum() > 0


async def test_wells_that_lose_their_power_come_back(tmp_path: Path) -> None:
    """An outage breaks the link and every session; what was on its way is written down, and values come again."""
    record = tmp_path / "record"
    rates = FaultRates(outages_per_hour=3_000, outage_s=0.3)
    async with (
        open_field(FieldOptions(2, interval_ms=20, rates=rates, record=record)) as field,
        reading(field) as reader,
    ):

        def came_back() -> bool:
            """After a gap in a well's values as long as an outage there are values again."""
            times = np.unique(read_record(record)["time_us"][read_record(record)["well"] == 1])
            gaps = np.flatnonzero(np.diff(times) > 250_000)
            return len(gaps) > 0 and bool((reader.readings.time_us > times[gaps[0]]).any())

        await until(came_back)
    assert set(read_record(record)["kind"].tolist()) <= {MADE, DIED}


async def test_two_clients_of_a_well_are_served_alike() -> None:
    """Each has a session and a subscription of its own, on the same values."""
    async with open_field(FieldOptions(1, interval_ms=50)) as field, reading(field) as one, reading(field) as other:
        await until(lambda: min(len(one.readings), len(other.readings)) > 100)
        await field.pause()
        last = one.readings.time_us.max()
        await until(lambda: other.readings.time_us.max() >= last)
        common = set(one.readings.time_us.tolist()) & set(other.readings.time_us.tolist())
    assert len(common) >= 9


def test_times_are_those_of_opc_ua() -> None:
    """1601 is where the clock starts."""
    assert EPOCH_TICKS == (1970 * 365 + 477 - (1601 * 365 + 388)) * 86_400 * 10**7
