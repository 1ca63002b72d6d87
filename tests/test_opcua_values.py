"""What three makers' servers write is what arrives, through socket, channel and decoder."""

import math
from uuid import UUID

import pytest
import trio

from scada_trio.readings import Quality
from scada_trio.status import ConnectionState
from tests.fix_devices import MAKERS, Rig, open_device, open_rig, same, tag

MOMENT_US = 1_700_000_000_123_456
UNCERTAIN = 0x4090_0000  # UncertainLastUsableValue
BAD = 0x808B_0000  # BadDeviceFailure

NUMBERS: list[tuple[str, list[float | int | bool]]] = [
    ("Boolean", [True, False]),
    ("SByte", [-128, 127]),
    ("Byte", [1, 255]),
    ("Int16", [-32768, 32767]),
    ("UInt16", [1, 65535]),
    ("Int32", [-(2**31), 2**31 - 1]),
    ("UInt32", [1, 2**32 - 1]),
    ("Int64", [-(2**53), 2**62]),
    ("UInt64", [1, 2**63]),
    ("Float", [0.5, -1.25]),
    ("Double", [math.pi, -1e300]),
]


def moment_of(maker: str, time_us: int) -> int:
    """JavaScript's dates end at the millisecond."""
    return time_us // 1000 * 1000 if maker == "node-opcua" else time_us


async def arrives(rig: Rig, node_id: str, time_us: int) -> tuple[int, float, Quality]:
    """The reading of ``node_id`` with this time."""
    return await rig.until(node_id, lambda got_us, _, __: got_us == time_us)


async def test_numbers(maker: str) -> None:
    """Every scalar number and Boolean arrives as written, with its time."""
    async with open_device(maker) as device:
        for kind, _ in NUMBERS:
            await device.add(kind, kind)
        tags = tuple(tag(f"ns=1;s={kind}") for kind, _ in NUMBERS)
        async with open_rig(device.url, tags) as rig:
            await rig.state(ConnectionState.CONNECTED)
            assert rig.connection.status.tags_monitored == len(NUMBERS)
            for place in range(2):
                for number, (kind, values) in enumerate(NUMBERS):
                    source_us = MOMENT_US + (place * 100 + number) * 1_000_001
                    await device.write(kind, values[place], kind=kind, source_us=source_us)
                    got = await arrives(rig, f"ns=1;s={kind}", moment_of(maker, source_us))
                    assert got[1:] == (float(values[place]), Quality.GOOD), kind


async def test_qualities(maker: str) -> None:
    """Uncertain and Bad are kept with their values, and Bad without a value is NaN."""
    cases: list[tuple[float | None, int, float, Quality]] = [
        (1.5, 0, 1.5, Quality.GOOD),
        (3.5, BAD, 3.5, Quality.BAD),
        (2.5, UNCERTAIN, 2.5, Quality.UNCERTAIN),
        (None, BAD, math.nan, Quality.BAD),
    ]
    names = [f"q{number}" for number in range(len(cases))]  # asyncua takes no other type after a null
    tags = tuple(tag(f"ns=1;s={name}") for name in names)
    async with open_device(maker, nodes=names) as device, open_rig(device.url, tags) as rig:
        await rig.state(ConnectionState.CONNECTED)
        for name, (value, status, wanted, quality) in zip(names, cases, strict=True):
            await device.write(name, value, status=status, source_us=MOMENT_US)
            _, got, got_quality = await arrives(rig, f"ns=1;s={name}", moment_of(maker, MOMENT_US))
            if maker == "asyncua" and quality is Quality.BAD:
                wanted = math.nan  # it sends no value with a Bad status, as Part 4, 7.7.1 allows
            assert (same(got, wanted), got_quality) == (True, quality)


async def test_scaling_and_order(maker: str) -> None:
    """Values come scaled, and those of one tag in the order in which they were written."""
    tags = (tag("ns=1;s=a", scaling_factor=0.5),)
    async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, tags) as rig:
        await rig.state(ConnectionState.CONNECTED)
        received: list[float] = []
        async with trio.open_nursery() as nursery:

            async def collect() -> None:
                while not received or received[-1] != 10.0:
                    block = (await rig.take()).block
                    received.extend(value for _, value, _ in rig.readings(block, "ns=1;s=a"))

            nursery.start_soon(collect)
            for value in range(1, 21):
                await device.write("a", float(value))
        assert received == sorted(received)


async def test_unstorable_is_counted(maker: str) -> None:
    """Text is no reading; it is counted by reason and shown."""
    async with open_device(maker) as device:
        await device.add("text", "String")
        await device.write("text", "pump", kind="String")
        async with open_rig(device.url, (tag("ns=1;s=text"),)) as rig:
            await rig.eventually(lambda: rig.connection.status.unstorable["string"] >= 1)


@pytest.mark.parametrize("well", [1, 2])
async def test_one_node_of_two_wells(well: int) -> None:
    """The same node for two wells is two series, each with its own item."""
    tags = (tag("ns=1;s=a", well_id=UUID(int=1)), tag("ns=1;s=a", well_id=UUID(int=2)))
    async with open_device(MAKERS[0], nodes=["a"]) as device, open_rig(device.url, tags) as rig:
        await rig.state(ConnectionState.CONNECTED)
        assert rig.connection.status.tags_monitored == 2
        await device.write("a", 7.0)
        with trio.fail_after(30):
            while True:
                block = (await rig.take()).block
                keys = [rig.tags.key(int(index)) for index in block.tag[block.value == 7.0]]
                if (UUID(int=well), "ns=1;s=a") in keys:
                    break
