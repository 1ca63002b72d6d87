"""The whole service in the test's process, on real databases, with a real gRPC client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import trio
from pydantic import SecretStr

from scada_trio.config import Settings
from scada_trio.metrics import Metrics
from scada_trio.readings import Tag
from scada_trio.secrets import SecretBox
from scada_trio.service import Addresses, Service
from scada_trio.storage.master import MasterDatabase, open_master
from tests.fix_api import grpcio_call
from tests.fix_devices import Device
from tests.fix_pki import place_key
from tests.fix_postgres import PostgresServer, fetch

SECRETS = SecretBox(SecretStr("0123456789abcdef0123456789abcdef"))
WITHIN_S = 60.0
"""How long a test waits for what must come; only a failing test waits that long."""

FAST: dict[str, Any] = {
    "opc_publishing_interval_ms": 50,
    "opc_keep_alive_ms": 500,
    "opc_reconnect_delay_ms": 50,
    "opc_sampling_interval_ms": 0,
    "opc_queue_size": 1000,
    "opc_max_reconnect_attempts": 0,
    "aggregation_buffer_ms": 50,
    "registry_interval_ms": 600_000,  # only what tells it of a change makes it look
    "grpc_port": 0,
    "metrics_port": 0,
}


@dataclass
class RunningService:
    """A service that runs, and what a test asks of it."""

    service: Service
    addresses: Addresses
    settings: Settings
    metrics: Metrics
    master: MasterDatabase
    master_url: SecretStr
    stop: trio.Event
    done: trio.Event
    tenants: dict[UUID, SecretStr] = field(default_factory=dict)

    async def call(self, method: str, /, **fields: Any) -> Any:
        """One gRPC call with the official client."""

        def blocking() -> Any:
            with grpc.insecure_channel("{}:{}".format(*self.addresses.grpc)) as channel:
                return grpcio_call(channel, method, **fields)

        return await trio.to_thread.run_sync(blocking)

    async def get(self, path: str) -> httpx.Response:
        """One HTTP request."""
        async with httpx.AsyncClient() as client:
            return await client.get("http://{}:{}{}".format(*self.addresses.http, path))

    async def add_tenant(self, url: SecretStr, name: str | None = None) -> UUID:
        """Store a tenant and wait until it runs."""
        tenant_id = uuid4()
        await self.master.add_tenant(tenant_id, name or f"tenant {tenant_id}", SECRETS.encrypt(url))
        self.tenants[tenant_id] = url
        await self.until(lambda: getattr(self.snapshot(tenant_id), "state", "starting") != "starting")
        return tenant_id

    async def add_connection(self, tenant_id: UUID, url: str, tags: Iterable[Tag], **fields: Any) -> UUID:
        """Store a connection over gRPC."""
        connection_id = fields.pop("connection_id", None) or uuid4()
        answer = await self.call(
            "AddConnection",
            connection_id=str(connection_id),
            tenant_id=str(tenant_id),
            endpoint_url=url,
            tags=[
                {"tag_id": str(t.tag_id), "well_id": str(t.well_id), "node_id": t.node_id, "data_type": t.data_type}
                for t in tags
            ],
            **fields,
        )
        assert answer.success, answer.error
        return UUID(str(connection_id))

    def snapshot(self, tenant_id: UUID) -> Any:
        """The tenant's snapshot; None where there is none."""
        return next((s for s in self.service.snapshots() if s.tenant_id == tenant_id), None)

    def status(self, tenant_id: UUID, connection_id: UUID) -> Any:
        """The connection's status; None where there is none."""
        snapshot = self.snapshot(tenant_id)
        return None if snapshot is None else snapshot.connections.get(connection_id)

    async def connected(self, tenant_id: UUID, connection_id: UUID, tags: int | None = None) -> None:
        """Wait until the connection monitors, ``tags`` items if given."""

        def holds() -> bool:
            status = self.status(tenant_id, connection_id)
            return status is not None and status.state == "connected" and tags in (None, status.tags_monitored)

        await self.until(holds)

    async def rows(
        self, tenant_id: UUID, node_id: str | None = None, table: str = "scada_readings"
    ) -> list[tuple[Any, ...]]:
        """(time µs, node id, value, quality) of a tenant's stored readings, oldest first."""
        return await trio.to_thread.run_sync(stored, self.tenants[tenant_id], node_id, table)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds``."""

        async def asked() -> bool:
            return holds()

        await self.until_async(asked)

    async def until_async(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``holds``."""
        with trio.fail_after(WITHIN_S):
            while not await holds():  # noqa: ASYNC110 - what is waited for is in other processes
                await trio.sleep(0.02)

    async def until_stored(self, tenant_id: UUID, node_id: str, value: float) -> None:
        """Wait until a reading with that value is in the database."""

        async def holds() -> bool:
            return any(row[2] == value for row in await self.rows(tenant_id, node_id))

        await self.until_async(holds)


def stored(url: SecretStr, node_id: str | None = None, table: str = "scada_readings") -> list[tuple[Any, ...]]:
    """Blocking: as `RunningService.rows`."""
    return fetch(
        url,
        f"SELECT (extract(epoch FROM timestamp) * 1000000)::bigint, tag_node_id, value, quality FROM {table}"
        " WHERE %s::text IS NULL OR tag_node_id = %s ORDER BY timestamp, tag_node_id",
        node_id,
        node_id,
    )


@asynccontextmanager
async def open_service(
    postgres: PostgresServer, master_url: SecretStr | None = None, **settings: Any
) -> AsyncIterator[RunningService]:
    """A service on a master database of ``postgres``; stopped and drained at the end of the block.

    Its journals are in ``journal_dir``, else in a directory that goes with it.
    """
    url = master_url if master_url is not None else await trio.to_thread.run_sync(postgres.create_master)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        if "journal_dir" not in settings:
            settings["journal_dir"] = Path(stack.enter_context(TemporaryDirectory(prefix="scada-trio-journal-")))
        if "pki_dir" not in settings:
            settings["pki_dir"] = Path(stack.enter_context(TemporaryDirectory(prefix="scada-trio-pki-")))
            place_key(settings["pki_dir"])
        loaded = Settings.load(**{**FAST, **settings})
        master = await stack.enter_async_context(open_master(url, connect_timeout_s=10, statement_timeout_s=10))
        nursery = await stack.enter_async_context(trio.open_nursery())
        service = Service(loaded, master, SECRETS, metrics)
        stop, done = trio.Event(), trio.Event()

        async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
            await service.run(stop=stop, task_status=task_status)
            done.set()

        addresses = await nursery.start(run)
        yield RunningService(service, addresses, loaded, metrics, master, url, stop, done)
        stop.set()
        with trio.fail_after(WITHIN_S):
            await done.wait()


async def write_series(device: Device, name: str, first: int, count: int, *, base_us: int) -> None:
    """Write ``count`` values, each its own number, a millisecond of source time apart."""
    for number in range(first, first + count):
        await device.write(name, float(number), source_us=base_us + number * 1000)
