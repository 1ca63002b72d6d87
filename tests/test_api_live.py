"""SubscribeReadings with real clients: order, filters, slow readers, ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import grpc
import numpy as np
import pytest
import trio
from pydantic import SecretStr

from scada_trio.readings import ReadingBlock
from tests.fake_backend import ABSENT, TENANT, WELL, FakeBackend
from tests.fix_api import ServedApi, eventually, grpcio_stream
from tests.fix_devices import open_device, tag
from tests.fix_postgres import PostgresServer
from tests.fix_service import open_service

OTHER_WELL = UUID("66666666-6666-4666-8666-666666666666")
FIRST_US = 1_700_000_000_000_000


class Subscriber:
    """A call in a thread of its own; what it received so far waits in ``messages``."""

    def __init__(self, address: str, **fields: Any) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        self._channel = grpc.insecure_channel(address)
        self.call = grpcio_stream(
            self._channel, "SubscribeReadings", timeout_s=60, **{"tenant_id": str(TENANT), **fields}
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for message in self.call:
                self.messages.put(message)
        except grpc.RpcError as error:
            self.messages.put(error)
        else:
            self.messages.put(None)

    async def next(self) -> Any:
        return await trio.to_thread.run_sync(lambda: self.messages.get(timeout=30))

    async def readings(self, count: int) -> list[Any]:
        """The next ``count`` readings; nothing may be missed."""
        found: list[Any] = []
        while len(found) < count:
            message = await self.next()
            assert not isinstance(message, grpc.RpcError), message
            assert message.missed == 0
            found += message.readings
        return found

    def close(self) -> None:
        self.call.cancel()
        self._channel.close()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@contextmanager
def subscribed(address: str, **fields: Any) -> Iterator[Subscriber]:
    subscriber = Subscriber(address, **fields)
    try:
        yield subscriber
    finally:
        subscriber.close()


def block(backend: FakeBackend, node_id: str, count: int, first: int = 0, well_id: UUID = WELL) -> ReadingBlock:
    series = backend.tags.index_of(well_id, node_id)
    numbers = np.arange(first, first + count)
    return ReadingBlock(
        np.full(count, series, np.int32), FIRST_US + numbers, numbers.astype(float), (numbers % 3).astype(np.uint8)
    )


async def test_readings_as_they_are_accepted(api: ServedApi, backend: FakeBackend) -> None:
    backend.hub.publish([block(backend, "ns=2;s=A", 5)])  # before the subscription
    with subscribed(api.address) as subscriber:
        first = await subscriber.next()
        assert (len(first.readings), first.missed) == (0, 0)
        backend.hub.publish([block(backend, "ns=2;s=A", 3, 10), block(backend, "ns=2;s=B", 2, 13, OTHER_WELL)])
        found = [
            (r.well_id, r.tag_node_id, r.timestamp_us, r.timestamp, r.value, r.quality)
            for r in await subscriber.readings(5)
        ]
    qualities = ("Good", "Uncertain", "Bad")
    wells = [str(WELL)] * 3 + [str(OTHER_WELL)] * 2
    nodes = ["ns=2;s=A"] * 3 + ["ns=2;s=B"] * 2
    assert found == [
        (wells[i], nodes[i], FIRST_US + 10 + i, FIRST_US // 1_000_000, 10.0 + i, qualities[(10 + i) % 3])
        for i in range(5)
    ]


async def test_only_what_was_asked_for(api: ServedApi, backend: FakeBackend) -> None:
    with (
        subscribed(api.address, well_ids=[str(OTHER_WELL)]) as by_well,
        subscribed(api.address, tag_node_ids=["ns=2;s=A"]) as by_tag,
        subscribed(api.address, well_ids=[str(WELL)], tag_node_ids=["ns=2;s=B"]) as by_both,
    ):
        for subscriber in (by_well, by_tag, by_both):
            await subscriber.next()
        backend.hub.publish(
            [
                block(backend, f"ns=2;s={name}", 1, i, well)
                for i, (name, well) in enumerate((("A", WELL), ("B", WELL), ("A", OTHER_WELL), ("B", OTHER_WELL)))
            ]
        )
        assert [r.value for r in await by_well.readings(2)] == [2, 3]
        assert [r.value for r in await by_tag.readings(2)] == [0, 2]
        assert [r.value for r in await by_both.readings(1)] == [1]


async def test_a_time_that_no_table_takes_is_left_out(api: ServedApi, backend: FakeBackend) -> None:
    with subscribed(api.address) as subscriber:
        await subscriber.next()
        good = block(backend, "ns=2;s=A", 3)
        backend.hub.publish(
            [ReadingBlock(good.tag, np.array([-1, FIRST_US, 1 << 62], np.int64), good.value, good.quality)]
        )
        assert [r.value for r in await subscriber.readings(1)] == [1]


async def test_a_slow_reader_is_told_what_it_missed(api: ServedApi, backend: FakeBackend) -> None:
    """Nobody waits for it: it gets what it can take, and the rest is counted."""
    published = 0
    with grpc.insecure_channel(api.address) as channel:
        call = grpcio_stream(channel, "SubscribeReadings", timeout_s=60, tenant_id=str(TENANT))
        await trio.to_thread.run_sync(next, call)
        for _ in range(100):
            backend.hub.publish([block(backend, "ns=2;s=A", 5_000, published)])
            published += 5_000
            await trio.sleep(0.005)

        def read() -> tuple[list[float], int]:
            values: list[float] = []
            missed = 0
            for message in call:
                values += [reading.value for reading in message.readings]
                missed += message.missed
                if values and values[-1] == published - 1:
                    return values, missed
            raise AssertionError("the call ended")

        values, missed = await trio.to_thread.run_sync(read)
        call.cancel()
    assert missed > 0
    assert len(values) + missed == published
    assert values == sorted(set(values))


async def test_a_client_that_goes_is_forgotten(api: ServedApi, backend: FakeBackend) -> None:
    with subscribed(api.address) as subscriber:
        await subscriber.next()
        assert len(backend.hub) == 1
    await eventually(lambda: len(backend.hub) == 0)


async def test_a_tenant_that_stops_ends_its_calls(api: ServedApi, backend: FakeBackend) -> None:
    with subscribed(api.address) as subscriber:
        await subscriber.next()
        backend.hub.close()
        error = await subscriber.next()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    with subscribed(api.address) as late:
        assert (await late.next()).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"tenant_id": "north"}, grpc.StatusCode.INVALID_ARGUMENT, "tenant_id"),
        ({"well_ids": ["x"]}, grpc.StatusCode.INVALID_ARGUMENT, "well_ids[0]"),
        ({"tag_node_ids": [""]}, grpc.StatusCode.INVALID_ARGUMENT, "tag_node_ids[0]"),
        ({"tenant_id": str(ABSENT)}, grpc.StatusCode.NOT_FOUND, str(ABSENT)),
    ],
)
async def test_refusals(api: ServedApi, fields: dict[str, Any], code: grpc.StatusCode, text: str) -> None:
    with subscribed(api.address, **fields) as subscriber:
        error = await subscriber.next()
    assert error.code() is code
    assert text in error.details()


async def test_from_a_device_before_the_database_has_it(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """Accepted is live; another tenant with the same well sees nothing of it; a stop ends the call at once."""
    other_url = await trio.to_thread.run_sync(postgres.create_tenant)
    async with (
        open_device("open62541", nodes=["P"]) as device,
        open_service(postgres, aggregation_buffer_ms=60_000) as running,
    ):
        tenant, other = await running.add_tenant(tenant_url), await running.add_tenant(other_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P")])
        await running.connected(tenant, connection)
        address = "{}:{}".format(*running.addresses.grpc)
        with (
            subscribed(address, tenant_id=str(tenant)) as subscriber,
            subscribed(address, tenant_id=str(other)) as stranger,
        ):
            await subscriber.next()
            await stranger.next()
            for number in range(1, 6):
                await device.write("P", float(number))
            found: list[float] = []
            while 5.0 not in found:
                found += [reading.value for reading in (await subscriber.next()).readings]
            assert found[-5:] == [1, 2, 3, 4, 5]
            assert await running.rows(tenant) == []
            assert stranger.messages.empty()
            assert f'scada_live_subscribers{{tenant_id="{tenant}"}} 1.0' in (await running.get("/metrics")).text
            running.stop.set()
            with trio.fail_after(10):
                for one in (subscriber, stranger):
                    assert (await one.next()).code() is grpc.StatusCode.UNAVAILABLE
        await running.done.wait()
        assert [row[2] for row in await running.rows(tenant)][-5:] == [1, 2, 3, 4, 5]
