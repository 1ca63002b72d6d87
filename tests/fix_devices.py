"""Real OPC UA servers of three makers, each a process of its own, and a connection to them with what it delivers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import trio

from scada_trio.config import DeviceSettings, PkiSettings
from scada_trio.connection import Connection
from scada_trio.desired import ConnectionSpec
from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.memory import Mark
from scada_trio.metrics import Metrics
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.pki import Pki
from scada_trio.readings import Delivery, Quality, ReadingBlock, Tag, TagTable
from scada_trio.status import ConnectionState

ROOT = Path(__file__).parent.parent
MAKERS = ("asyncua", "open62541", "node-opcua")
STARTS_WITHIN_S = 60.0
ARRIVES_WITHIN_S = 30.0
"""How long a test waits for what must come; only a failing test waits that long."""


def command_of(maker: str) -> list[str]:
    if maker == "node-opcua":
        node = shutil.which("node")
        if node is None:
            pytest.skip("node is not installed")
        return [node, str(ROOT / "tests" / "node" / "opcua_server.mjs")]
    module = {"asyncua": "asyncua_device", "open62541": "o6_device"}[maker]
    return [sys.executable, "-W", "ignore", "-m", f"tests.devices.{module}"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Device:
    """A server process that the test steers. Started by `open_device`, which ends it."""

    def __init__(self, maker: str, **options: Any) -> None:
        self.maker = maker
        self.options = {"port": free_port(), **options}
        self._process: trio.Process | None = None
        self._lines = b""

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.options['port']}"

    async def start(self) -> None:
        """Start, or start again on the same port."""
        command = [*command_of(self.maker), json.dumps(self.options)]
        self._process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        self._lines = b""
        with trio.fail_after(STARTS_WITHIN_S):
            while await self._line() != b'{"ready":true}':
                pass  # a banner, say

    async def tell(self, op: str, **fields: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"op": op, **fields}).encode() + b"\n")
        with trio.fail_after(ARRIVES_WITHIN_S):
            assert await self._answer() == {"ok": True}

    async def write(
        self, name: str, value: Any, *, kind: str = "Double", status: int = 0, source_us: int | None = None
    ) -> None:
        await self.tell("write", node=f"ns=1;s={name}", type=kind, value=value, status=status, source_us=source_us)

    async def add(self, name: str, kind: str = "Double") -> None:
        await self.tell("add", node=f"ns=1;s={name}", type=kind)

    async def _answer(self) -> Any:
        return json.loads(await self._line())

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        while b"\n" not in self._lines:
            received = await self._process.stdout.receive_some()
            assert received, "the server ended"
            self._lines += bytes(received)
        line, _, self._lines = self._lines.partition(b"\n")
        return line.replace(b" ", b"")

    async def kill(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()

    def freeze(self) -> None:
        """Stop it in its tracks: its sockets stay open and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@asynccontextmanager
async def open_device(maker: str, **options: Any) -> AsyncIterator[Device]:
    device = Device(maker, **options)
    try:
        await device.start()
        yield device
    finally:
        await device.kill()


FAST = DeviceSettings(
    connect_timeout_s=10.0,
    session_timeout_s=30.0,
    reconnect_delay_s=0.05,
    max_backoff_s=0.2,
    slow_retry_s=0.3,
    max_attempts=5,
    publishing_interval_s=0.05,
    sampling_interval_s=0.05,
    keep_alive_s=0.5,
    queue_size=50,
)


class Memory:
    """What a journal remembers of a connection, without the file: outlives the connection that is given it."""

    def __init__(self) -> None:
        self.losses: list[Loss] = []
        self.subscriptions: dict[UUID, RememberedSubscription] = {}
        self.connection_id = uuid4()
        self.tags = TagTable()

    def record_loss(self, loss: Loss) -> None:
        self.losses.append(loss)

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        return self.subscriptions.get(connection_id)

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        if remembered is None:
            self.subscriptions.pop(connection_id, None)
        else:
            self.subscriptions[connection_id] = remembered

    def remember_accepted(self, mark: Mark) -> None:
        known = self.subscriptions.get(mark.followed.connection_id)
        if known is not None and not known.is_gone and not mark.followed.ended:
            self.subscriptions[mark.followed.connection_id] = replace(
                known, last_sequence=mark.sequence_number, heard_us=mark.heard_us
            )

    def lost(self, reason: LossReason) -> list[Loss]:
        return [loss for loss in self.losses if loss.reason is reason]


WELL = UUID(int=1)


def tag(node_id: str, *, well_id: UUID = WELL, **fields: Any) -> Tag:
    return Tag(uuid4(), well_id, node_id, **fields)


@dataclass
class Rig:
    """A `Connection` and what stands around it in a tenant; the test is the aggregator."""

    connection: Connection
    tags: TagTable
    metrics: Metrics
    deliveries: trio.MemoryReceiveChannel[Delivery]
    limiter: trio.CapacityLimiter
    memory: Memory | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def spec(self) -> ConnectionSpec:
        return self.connection.spec

    def update(self, **fields: Any) -> None:
        self.connection.update(replace(self.spec, **fields))

    async def take(self, *, accept: bool = True) -> Delivery:
        with trio.fail_after(ARRIVES_WITHIN_S):
            delivery = await self.deliveries.receive()
        if accept:
            self.accept(delivery)
        return delivery

    def accept(self, delivery: Delivery) -> None:
        """What the aggregator does with a delivery, without the file."""
        if self.memory is not None and delivery.mark is not None:
            self.memory.remember_accepted(delivery.mark)
        delivery.accepted()

    async def until(self, node_id: str, fits: Callable[[int, float, Quality], bool]) -> tuple[int, float, Quality]:
        """The first reading of ``node_id`` that fits, as (time_us, value, quality); accepts all on the way."""
        with trio.fail_after(ARRIVES_WITHIN_S):
            while True:
                block = (await self.take()).block
                for reading in self.readings(block, node_id):
                    if fits(*reading):
                        return reading

    async def until_value(self, node_id: str, value: float) -> tuple[int, float, Quality]:
        return await self.until(node_id, lambda _, got, __: got == value)

    def readings(self, block: ReadingBlock, node_id: str) -> list[tuple[int, float, Quality]]:
        return [
            (int(time_us), float(value), Quality(int(quality)))
            for index, time_us, value, quality in zip(block.tag, block.time_us, block.value, block.quality, strict=True)
            if self.tags.key(int(index))[1] == node_id
        ]

    async def state(self, *wanted: ConnectionState) -> None:
        """Wait until the connection is in one of these states, accepting what comes."""
        await self.eventually(lambda: self.connection.status.state in wanted)

    async def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds``, accepting what comes meanwhile."""
        with trio.fail_after(ARRIVES_WITHIN_S):
            while not holds():
                with trio.move_on_after(0.02):
                    self.accept(await self.deliveries.receive())

    def errors(self, error_type: str) -> float:
        """The value of this connection's error counter."""
        labels = {
            "tenant_id": str(self.spec.tenant_id),
            "connection_id": str(self.spec.connection_id),
            "error_type": error_type,
        }
        return self.metrics.registry.get_sample_value("scada_connection_errors_total", labels) or 0.0

    @property
    def active(self) -> float:
        labels = {"tenant_id": str(self.spec.tenant_id)}
        return self.metrics.registry.get_sample_value("scada_active_connections", labels) or 0.0


@asynccontextmanager
async def open_rig(
    url: str,
    tags: tuple[Tag, ...] = (),
    *,
    settings: DeviceSettings = FAST,
    waiting: int = 1000,
    memory: Memory | None = None,
    connecting: trio.CapacityLimiter | None = None,
    pki: Pki | None = None,
    **spec_fields: Any,
) -> AsyncIterator[Rig]:
    """Run a connection to ``url``; on the way out it is cancelled, and must have left nothing behind.

    Without ``pki`` it trusts nobody and has no certificate.
    """
    tenant_id = uuid4()
    table = TagTable() if memory is None else memory.tags
    metrics = Metrics()
    send, receive = trio.open_memory_channel[Delivery](waiting)
    outbox = Outbox(send)
    limiter = trio.CapacityLimiter(4)
    connection = Connection(
        ConnectionSpec(
            uuid4() if memory is None else memory.connection_id, tenant_id, "test", url, tags=tags, **spec_fields
        ),
        tags=table,
        outbox=outbox,
        limiter=limiter,
        connecting=connecting or trio.CapacityLimiter(4),
        settings=settings,
        pki=pki or Pki(PkiSettings(ROOT / "no-such-pki")),
        metrics=metrics.tenant(tenant_id, table),
        memory=memory,
    )
    rig = Rig(connection, table, metrics, receive, limiter, memory)
    with receive:
        async with trio.open_nursery() as nursery:
            rig.scope = nursery.cancel_scope
            nursery.start_soon(outbox.run)
            nursery.start_soon(connection.run)
            if pki is not None:
                nursery.start_soon(pki.store.watch)
            yield rig
            nursery.cancel_scope.cancel()
    assert connection.status.state is ConnectionState.STOPPED
    assert limiter.borrowed_tokens == 0
    assert rig.active == 0


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> str:
    """Each maker of servers in turn."""
    return str(request.param)


def same(left: float, right: float) -> bool:
    """Equal, or both NaN."""
    return bool(np.array_equal(left, right, equal_nan=True))
