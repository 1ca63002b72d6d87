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

from scada_trio.config import DeviceSettings, PkiSettings
from scada_trio.connection import Connection
from scada_trio.desired import ConnectionSpec
from scada_trio.metrics import Metrics
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.pki import Pki
from scada_trio.readings import Delivery, ReadingBlock, TagTable
from scada_trio.simulator.field import FaultRates
from scada_trio.simulator.process import FieldOptions, RunningField, open_field
from scada_trio.simulator.record import DIED, MADE, read_record
from scada_trio.simulator.wells import SimulatedWell

NODE = Path(__file__).parent / "node"
WITHIN_S = 30.0


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
    outbox = Outbox(send)

    async def accept() -> None:
        async for delivery in receive:
            reader.blocks.append(delivery.block)
            delivery.accepted()

    settings = DeviceSettings(
        publishing_interval_s=0.05, sampling_interval_s=0.0, queue_size=1000, reconnect_delay_s=0.05, max_attempts=0
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        nursery.start_soon(outbox.run)
        for well in field.wells:
            connection = Connection(
                ConnectionSpec(uuid4(), tenant_id, well.name, well.endpoint_url, tags=well.tags),
                tags=table,
                outbox=outbox,
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
    rates = FaultRates(outages_per_hour=800, outage_s=0.3)
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
