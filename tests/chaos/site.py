"""What the chaos happens to: PostgreSQL, the service, devices of four makers, and a proxy in front of each of them.

`open_site` starts everything and ends it; the faults reach in through its fields.

    tenant fast     counting-1, -2, -tiny ── proxy ──► service ── proxy ──► database fast
    tenant makers   asyncua, open62541, node-opcua ── proxy ──►   ── proxy ──► database makers, on a small disk

The unique index hides a reading that is written twice, so a trigger keeps every row of every committed transaction in
``chaos_rows``, those that the index turns away, too. What a supervisor does with dead processes the harness does:
service, devices and PostgreSQL are started again, and nothing else is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import trio
from pydantic import SecretStr

from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.migrate import migrate_master
from tests.chaos.databases import create_tenant_database, fetch
from tests.chaos.disks import BALLAST, small_disks
from tests.chaos.processes import ROOT, Child, signal_family
from tests.chaos.proxy import Proxy

TINY: Final = "counting-tiny"
POLL_S: Final = 0.1
_RESTARTS_WITHIN_S: Final = 120.0
_SERVICE: Final = {
    "OPC_PUBLISHING_INTERVAL_MS": "100",
    "OPC_SAMPLING_INTERVAL_MS": "0",
    "OPC_KEEP_ALIVE_MS": "500",
    "OPC_QUEUE_SIZE": "10000",
    "OPC_CONNECTION_TIMEOUT_MS": "3000",
    "OPC_SESSION_TIMEOUT_MS": "30000",
    "OPC_MAX_RECONNECT_ATTEMPTS": "0",
    "OPC_RECONNECT_DELAY_MS": "200",
    "AGGREGATION_BUFFER_MS": "200",
    "DB_STATEMENT_TIMEOUT_MS": "5000",
    "DB_CONNECT_TIMEOUT_MS": "2000",
    "REGISTRY_INTERVAL_MS": "2000",
    "GRPC_PORT": "0",
    "METRICS_PORT": "0",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is of everything."""

    values_per_s: int = 10_000
    counting_devices: int = 2
    counting_nodes: int = 100
    maker_nodes: int = 10
    maker_ticks_per_s: float = 10.0
    tiny_queue_ticks: int = 4
    small_disk_mb: int = 64

    @property
    def counting_ticks_per_s(self) -> float:
        """Ticks of one counting device."""
        return self.values_per_s / (self.counting_devices * self.counting_nodes)


@dataclass
class Tenant:
    """A tenant, its database and the proxy in front of that."""

    name: str
    url: SecretStr
    proxy: Proxy
    tenant_id: UUID = field(default_factory=uuid4)


@dataclass
class Device:
    """A device: one connection of its tenant, one well, ``nodes`` variables."""

    name: str
    tenant: Tenant
    child: Child
    proxy: Proxy
    log: Path
    nodes: int
    connection_id: UUID = field(default_factory=uuid4)
    well_id: UUID = field(default_factory=uuid4)

    @property
    def counting(self) -> bool:
        """Whether it is the device of our own, which logs what it hands over."""
        return self.name.startswith("counting")

    @property
    def tiny_queue(self) -> bool:
        """Whether it keeps next to nothing while nobody asks."""
        return self.name == TINY


@dataclass
class Site:
    """Everything there is. Fields are for the faults."""

    directory: Path
    postgres: EmbeddedServer
    service: Child
    tenants: list[Tenant]
    devices: list[Device]
    journal_dir: Path
    disks: list[Path]  # small file systems: the journal's, a tenant's; empty where none can be mounted
    nursery: trio.Nursery
    _postgres: trio.Lock = field(default_factory=trio.Lock)  # held by who starts it or kills it
    _stopping: trio.Lock = field(default_factory=trio.Lock)
    _settings: trio.Lock = field(default_factory=trio.Lock)

    @property
    def proxies(self) -> list[Proxy]:
        """All of them."""
        return [device.proxy for device in self.devices] + [tenant.proxy for tenant in self.tenants]

    # ---- the service

    @asynccontextmanager
    async def service_down(self) -> AsyncIterator[None]:
        """Killed, down inside the block, ready after it, with the database that it needs to start. One at a time."""
        async with self._stopping:
            await self.service.kill(down=True)
            try:
                yield
            finally:
                self.service.start()
            await self.start_postgres()
            await self.service.wait_ready()

    @asynccontextmanager
    async def service_with(self, **environment: str) -> AsyncIterator[None]:
        """Killed, and started again with other settings; after the block killed once more, to have its own again.

        One at a time, and also where the block raises: the next round is not to have these settings.
        """
        async with self._settings:
            try:
                async with self.service_down():
                    self.service.environment.update(environment)
                yield
            finally:
                for name in environment:
                    self.service.environment.pop(name, None)
                with trio.move_on_after(_RESTARTS_WITHIN_S, shield=True):
                    async with self.service_down():
                        pass

    # ---- the database

    async def query(self, url: SecretStr, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement, past every proxy; raises psycopg's errors."""
        return await trio.to_thread.run_sync(fetch, url, statement, values)

    @property
    def master_url(self) -> SecretStr:
        """Of the master database."""
        return self.postgres.url

    async def kill_postgres(self) -> None:
        """SIGKILL for the postmaster; returns when it and its children are gone."""
        async with self._postgres:
            pid = self.postgres.pid
            if pid is not None:
                signal_family(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
            while self.postgres.pid is not None:  # noqa: ASYNC110 - it is another process
                await trio.sleep(0.02)

    async def start_postgres(self) -> None:
        """On the same port, if it does not run."""
        async with self._postgres:
            if self.postgres.pid is None:
                await trio.to_thread.run_sync(self.postgres.start)

    def freeze_postgres(self) -> None:
        """SIGSTOP for all of its processes."""
        if self.postgres.pid is not None:
            signal_family(self.postgres.pid, signal.SIGSTOP)

    def thaw_postgres(self) -> None:
        """SIGCONT for all of its processes."""
        if self.postgres.pid is not None:
            signal_family(self.postgres.pid, signal.SIGCONT)

    async def restore(self) -> None:
        """Everything runs, thawed, with whole networks and room on the disks."""
        for proxy in self.proxies:
            proxy.heal()
        for disk in self.disks:
            (disk / BALLAST).unlink(missing_ok=True)
        self.thaw_postgres()
        await self.start_postgres()
        for child in (self.service, *(device.child for device in self.devices)):
            child.thaw()
            child.start()
            await child.wait_ready()

    # ---- how far it is

    async def newest(self, device: Device, node: int) -> int:
        """The largest value of a variable in the database; 0 where there is none or no answer."""
        statement = "SELECT max(value) FROM scada_readings WHERE well_id = %s AND tag_node_id = %s"
        try:
            rows = await self.query(device.tenant.url, statement, device.well_id, node_id(node))
        except psycopg.Error:
            return 0
        return int(rows[0][0] or 0)

    async def stored_up_to(self, ticks: dict[str, int], *, within_s: float) -> list[str]:
        """Wait until every device's first variable has reached a tick; the names of those that did not."""
        late = {device.name: device for device in self.devices}
        with trio.move_on_after(within_s):
            while late:
                for name, device in list(late.items()):
                    if await self.newest(device, 0) >= ticks[name]:
                        del late[name]
                await trio.sleep(POLL_S if late else 0)
        return sorted(late)

    async def recovered(self, *, within_s: float) -> list[str]:
        """Wait until a value that is made from now on is in the database, of every device; names of those without."""
        await trio.sleep(POLL_S)
        awaited = {device.name: last_tick(device) + 1 for device in self.devices}
        return await self.stored_up_to(awaited, within_s=within_s)

    async def pause_devices(self) -> None:
        """No device makes values any more; one that ends by itself is not started again, since it would."""
        for device in self.devices:
            await device.child.wait_ready()
            await device.child.tell(op="pause")
            device.child.stay_away()


def last_tick(device: Device) -> int:
    """The last value that a device made."""
    with device.log.open("rb") as file:
        size = 4096
        while True:
            file.seek(0, os.SEEK_END)
            end = file.tell()
            file.seek(max(0, end - size))
            ticks = [line for line in file.read().split(b"\n")[1:] if line.startswith(b'["tick"')]
            if ticks or size >= end:
                return int(json.loads(ticks[-1])[1]) if ticks else 0
            size *= 4


def node_id(number: int) -> str:
    """Of a device's variable."""
    return f"ns=1;s=C{number}"


@asynccontextmanager
async def open_site(directory: Path, scale: Scale) -> AsyncIterator[Site]:
    """Start everything in ``directory`` and wait until every device's values arrive; end everything at the end."""
    with small_disks(directory, scale.small_disk_mb) as disks:
        postgres = EmbeddedServer(directory / "postgres", {"fsync": "off", "max_connections": "50"})
        await trio.to_thread.run_sync(postgres.open)
        try:
            async with trio.open_nursery() as nursery:
                site = await _build(directory, scale, postgres, disks, nursery)
                yield site
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: postgres.stop("immediate"))
                postgres.close()


async def _build(
    directory: Path, scale: Scale, postgres: EmbeddedServer, disks: list[Path], nursery: trio.Nursery
) -> Site:
    await trio.to_thread.run_sync(migrate_master, postgres.url)
    tenants = []
    for name in ("fast", "makers"):
        disk = disks[1] if disks and name == "makers" else None
        url = await trio.to_thread.run_sync(create_tenant_database, postgres, name, disk)
        proxy = Proxy(lambda: postgres.port)
        await nursery.start(proxy.serve)
        tenants.append(Tenant(name, url, proxy))
    devices = []
    for name, command in _device_commands(scale):
        tenant = tenants[0] if name.startswith("counting") else tenants[1]
        device = _device(name, command, tenant, directory, scale)
        await nursery.start(device.proxy.serve)
        nursery.start_soon(device.child.run)
        devices.append(device)
    for device in devices:
        await device.child.wait_ready()
    await trio.to_thread.run_sync(_store_configuration, postgres, tenants, devices)
    journal_dir = disks[0] if disks else directory / "journal"
    service = Child(
        "service",
        [sys.executable, "-m", "scada_trio", "serve"],
        ready=lambda entry: entry.get("message") == "service started",
        environment={
            **_SERVICE,
            "DATABASE_URL": postgres.url.get_secret_value(),
            "DATA_DIR": str(directory / "data"),
            "JOURNAL_DIR": str(journal_dir / "journals"),
        },
        output=directory / "service.log",
    )
    nursery.start_soon(service.run)
    await service.wait_ready()
    return Site(directory, postgres, service, tenants, devices, journal_dir / "journals", disks, nursery)


# ---- databases


def _store_configuration(postgres: EmbeddedServer, tenants: Sequence[Tenant], devices: Sequence[Device]) -> None:
    for tenant in tenants:
        url = tenant.url.get_secret_value().replace(f":{postgres.port}/", f":{tenant.proxy.port}/")
        statement = "INSERT INTO tenants (id, name, database_url) VALUES (%s, %s, %s)"
        fetch(postgres.url, statement, (tenant.tenant_id, tenant.name, url))
    for device in devices:
        fetch(
            postgres.url,
            "INSERT INTO scada_connections (id, tenant_id, name, endpoint_url) VALUES (%s, %s, %s, %s)",
            (device.connection_id, device.tenant.tenant_id, device.name, f"opc.tcp://127.0.0.1:{device.proxy.port}"),
        )
        store_tags(postgres.url, device, range(device.nodes))


def store_tags(url: SecretStr, device: Device, nodes: Sequence[int]) -> None:
    """Blocking: add tags of a device's variables; the service is notified by a trigger."""
    fetch(
        url,
        "INSERT INTO tag_mappings (id, tenant_id, connection_id, well_id, tag_name, opc_node_id)"
        " SELECT gen_random_uuid(), %s, %s, %s, node, node FROM unnest(%s::text[]) AS node",
        (device.tenant.tenant_id, device.connection_id, device.well_id, [node_id(node) for node in nodes]),
    )


def remove_tags(url: SecretStr, device: Device, nodes: Sequence[int]) -> None:
    """Blocking: remove them again."""
    statement = "DELETE FROM tag_mappings WHERE connection_id = %s AND opc_node_id = ANY(%s)"
    fetch(url, statement, (device.connection_id, [node_id(node) for node in nodes]))


# ---- devices


def _device_commands(scale: Scale) -> Iterator[tuple[str, list[str]]]:
    python = [sys.executable, "-W", "ignore", "-m"]
    for number in range(1, scale.counting_devices + 1):
        yield f"counting-{number}", [*python, "tests.chaos.devices.counting"]
    yield TINY, [*python, "tests.chaos.devices.counting"]
    yield "asyncua", [*python, "tests.chaos.devices.asyncua_counter"]
    yield "open62541", [*python, "tests.chaos.devices.o6_counter"]
    node = shutil.which("node")
    if node is not None and (ROOT / "tests/node/node_modules/node-opcua").exists():
        yield "node-opcua", [node, "tests/chaos/devices/node_counter.mjs"]


def _device(name: str, command: list[str], tenant: Tenant, directory: Path, scale: Scale) -> Device:
    port, log = _free_port(), directory / f"{name}.log"
    fast = name.startswith("counting") and name != TINY
    nodes = scale.counting_nodes if fast else scale.maker_nodes
    ticks_per_s = scale.counting_ticks_per_s if fast else scale.maker_ticks_per_s
    options = {"port": port, "nodes": nodes, "ticks_per_s": ticks_per_s, "log": str(log)}
    if name == TINY:
        options["queue_ticks"] = scale.tiny_queue_ticks
    child = Child(name, [*command, json.dumps(options)], ready=lambda entry: entry == {"ready": True})
    return Device(name, tenant, child, Proxy(lambda: port), log, nodes)


def _free_port() -> int:
    """Below those that systems give to clients: one of these may get it while its device is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
