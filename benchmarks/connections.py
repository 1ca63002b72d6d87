"""Many connections in one process: threads, memory and CPU.

`python benchmarks/connections.py [--restart] [connections] [tags]`; with --restart all devices go down and come back.

The devices run in a process of their own, each connection with one notification of all of its tags a second. The client
is `scada_trio.connection.Connection` as a tenant starts it; whoever takes the deliveries accepts them at once.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import structlog
import trio

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scada_trio.config import DeviceSettings, PkiSettings  # noqa: E402
from scada_trio.connection import Connection  # noqa: E402
from scada_trio.desired import ConnectionSpec  # noqa: E402
from scada_trio.metrics import Metrics, TenantMetrics  # noqa: E402
from scada_trio.opcua.outbox import Outbox  # noqa: E402
from scada_trio.opcua.pki import Pki  # noqa: E402
from scada_trio.readings import Delivery, Tag, TagTable  # noqa: E402
from scada_trio.status import ConnectionState  # noqa: E402
from tests.devices.scripted import ScriptedDevice  # noqa: E402

MEASURED_S = 15.0
AWAY_S = 60.0


async def serve_devices() -> None:
    """Print the port, then serve every client as a device of its own."""

    async def serve(stream: trio.SocketStream) -> None:
        device = ScriptedDevice()
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(publish, device)
            await device.serve_client(stream)
            nursery.cancel_scope.cancel()

    async def publish(device: ScriptedDevice) -> None:
        while True:
            await trio.sleep(1.0)
            if device.items:
                await device.notify({handle: time.time() % 100 for handle in device.items.values()})

    async def announce() -> None:
        port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=4096)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.serve_listeners(serve, listeners)

    await announce()


class Client:
    """All connections of one tenant, and the one task that accepts what they deliver."""

    def __init__(self, url: str, connections: int, tags_each: int) -> None:
        self.tenant_id = uuid4()
        self.table = TagTable()
        self.metrics = Metrics()
        self.readings = 0
        self.connections: list[Connection] = []
        send, self.receive = trio.open_memory_channel[Delivery](256)
        self.outbox = Outbox(send)
        tenant = self.metrics.tenant(self.tenant_id, self.table)
        limiter = trio.CapacityLimiter(8)
        connecting = self.connecting = trio.CapacityLimiter(32)
        for _ in range(connections):
            self.connections.append(self.make(url, tags_each, tenant, limiter, connecting))

    def make(
        self,
        url: str,
        tags_each: int,
        tenant: TenantMetrics,
        limiter: trio.CapacityLimiter,
        connecting: trio.CapacityLimiter,
    ) -> Connection:
        tags = tuple(Tag(uuid4(), UUID(int=1), f"ns=1;s=tag{number}") for number in range(tags_each))
        return Connection(
            ConnectionSpec(uuid4(), self.tenant_id, "bench", url, tags=tags),
            tags=self.table,
            outbox=self.outbox,
            limiter=limiter,
            connecting=connecting,
            settings=DeviceSettings(),
            pki=Pki(PkiSettings(ROOT / "no-such-pki")),
            metrics=tenant,
        )

    async def accept(self) -> None:
        async for delivery in self.receive:
            self.readings += len(delivery.block)
            delivery.accepted()

    @property
    def connected(self) -> int:
        return sum(connection.status.state is ConnectionState.CONNECTED for connection in self.connections)


def start_devices(port: int = 0) -> tuple[subprocess.Popen[bytes], int]:
    """The devices' process and the port that they listen on."""
    devices = subprocess.Popen([sys.executable, __file__, "devices", str(port)], stdout=subprocess.PIPE)
    assert devices.stdout is not None
    return devices, int(devices.stdout.readline())


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


async def measure_restart(connections: int, tags_each: int, away_s: float) -> None:
    """How long after the devices are back all are connected, and how many log in at the same time."""
    devices, port = start_devices()
    client = Client(f"opc.tcp://127.0.0.1:{port}", connections, tags_each)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.accept)
            nursery.start_soon(client.outbox.run)
            for connection in client.connections:
                nursery.start_soon(connection.run)
            while client.connected < connections:  # noqa: ASYNC110 - connections have no event for that
                await trio.sleep(0.1)
            end(devices)
            await trio.sleep(away_s)
            failed = sum(c.status.state is ConnectionState.FAILED for c in client.connections)
            devices, _ = start_devices(port)
            began, most, cpu = time.perf_counter(), 0, time.process_time()
            while client.connected < connections:
                most = max(most, client.connecting.borrowed_tokens)
                await trio.sleep(0.01)
            took_s = time.perf_counter() - began
            print(f"{connections} connections, devices away for {away_s:.0f} s, {failed} given up by then")
            print(f"all connected {took_s:.1f} s after they were back, {most} logging in at once at most")
            print(f"{(time.process_time() - cpu) / took_s:.2f} core")
            nursery.cancel_scope.cancel()
    finally:
        end(devices)


async def measure(port: int, connections: int, tags_each: int) -> None:
    process = psutil.Process()
    client = Client(f"opc.tcp://127.0.0.1:{port}", connections, tags_each)
    before_mb = process.memory_info().rss / 1e6
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.accept)
        nursery.start_soon(client.outbox.run)
        for connection in client.connections:
            nursery.start_soon(connection.run)
        while client.connected < connections:  # noqa: ASYNC110 - connections have no event for that
            await trio.sleep(0.1)
        connected_s = time.perf_counter() - started
        await trio.sleep(12.0)  # trio lets its idle worker threads go after 10 s
        readings, cpu, began = client.readings, time.process_time(), time.perf_counter()
        await trio.sleep(MEASURED_S)
        took = time.perf_counter() - began
        rss_mb = process.memory_info().rss / 1e6
        print(f"{connections} connections of {tags_each} tags: all connected after {connected_s:.1f} s")
        print(f"threads {threading.active_count()}, sockets {len(process.net_connections())}")
        print(f"RSS {rss_mb:.0f} MB, {(rss_mb - before_mb) * 1000 / connections:.0f} KB a connection")
        rate = (client.readings - readings) / took
        print(f"{rate:.0f} readings/s at {(time.process_time() - cpu) / took:.3f} core")
        began = time.perf_counter()
        nursery.cancel_scope.cancel()
    print(f"all closed after {time.perf_counter() - began:.1f} s")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["devices"]:
        trio.run(serve_devices)
        return
    restart = arguments[:1] == ["--restart"]
    connections, tags_each = [int(value) for value in arguments[restart:]] or (1000, 10)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50 if restart else 30))
    if restart:
        trio.run(measure_restart, connections, tags_each, AWAY_S)
        return
    devices, port = start_devices()
    try:
        trio.run(measure, port, connections, tags_each)
    finally:
        end(devices)


if __name__ == "__main__":
    main()
