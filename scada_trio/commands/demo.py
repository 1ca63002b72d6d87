"""``demo``: a field of simulated wells, the embedded database and the very service that ``serve`` runs.

Owns what is special about the demo: its two tenants, their wells, and what the terminal shows.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid5

import structlog
import trio
from rich.console import Console
from rich.status import Status

from scada_trio.commands.serve import open_checked_master, run_until_signal
from scada_trio.config import Settings, StorageSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused
from scada_trio.instance import Instance, open_instance
from scada_trio.logs import configure_logging
from scada_trio.readings import Tag
from scada_trio.service import Addresses, Service
from scada_trio.simulator.process import FieldOptions, SimulatedWell, open_field
from scada_trio.storage.master import MasterDatabase
from scada_trio.storage.migrate import migrate_master, migrate_tenant
from scada_trio.view import run_view

log = structlog.get_logger()

_NAMESPACE = UUID("7c9e4c1a-58a4-4a0c-9a5e-3f1de0a1b6f2")


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo; its ids are made of its name, so that a second run finds the first one's data."""

    name: str
    database: str
    seed: int

    @property
    def tenant_id(self) -> UUID:
        """The same in every run."""
        return uuid5(_NAMESPACE, self.name)


TENANTS = (
    DemoTenant("Permian Basin Operating", "scada_demo_permian", 1),
    DemoTenant("Eagle Ford Resources", "scada_demo_eagle_ford", 2),
)


class _RecentLines(io.StringIO):
    """A log stream that keeps its last lines for the live table."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=20)

    def write(self, text: str) -> int:
        self.lines.extend(line for line in text.splitlines() if line)
        return len(text)


async def demo(settings: Settings, *, wells: int, interval_ms: int) -> None:
    """Run until Ctrl-C; data stays in the database, so that the next run goes on with it.

    On a terminal the logs stand under the live table, elsewhere they are what is printed.
    """
    recent = _RecentLines()
    if sys.stdout.isatty():
        configure_logging(settings.log_level, "console", recent)
    with Console(stderr=True).status("starting database and wells ...") as progress:
        await _run(settings, wells, interval_ms, recent.lines, progress)
    Console(stderr=True).print("stopped; everything is flushed. Run it again and it finds its data.")


async def _run(settings: Settings, wells: int, interval_ms: int, recent: Sequence[str], progress: Status) -> None:
    async with AsyncExitStack() as stack:
        instance = await stack.enter_async_context(open_instance(settings))
        if not instance.embedded:
            await trio.to_thread.run_sync(migrate_master, instance.master_url)
        master = await stack.enter_async_context(open_checked_master(settings, instance))
        first: tuple[DemoTenant, SimulatedWell] | None = None
        for tenant in TENANTS:
            await _ensure_tenant(master, instance, tenant, settings.storage)
            options = FieldOptions(wells, seed=tenant.seed, interval_ms=interval_ms)
            field = await stack.enter_async_context(open_field(options))
            for well in field.wells:
                await master.store_connection(_connection(tenant, well), None)
            log.info("simulated wells started", tenant=tenant.name, wells=len(field.wells))
            first = first or (tenant, field.wells[0])
        assert first is not None
        progress.stop()
        await run_until_signal(settings, instance, master, partial(_show, settings, *first, recent))


async def _ensure_tenant(
    master: MasterDatabase, instance: Instance, tenant: DemoTenant, periods: StorageSettings
) -> None:
    if any(row.tenant_id == tenant.tenant_id for row in await master.list_tenants()):
        url = await master.database_url(tenant.database)
    else:
        try:
            url = await master.create_database(tenant.database)
        except ConfigurationRefused:  # a run that was killed between the two steps
            url = await master.database_url(tenant.database)
        await master.add_tenant(tenant.tenant_id, tenant.name, instance.secrets.encrypt(url))
    report = await trio.to_thread.run_sync(migrate_tenant, url, periods)
    log.info("tenant database migrated", tenant=tenant.name, applied=len(report.applied), flavour=report.flavour)


def _connection(tenant: DemoTenant, well: SimulatedWell) -> ConnectionSpec:
    return ConnectionSpec(
        connection_id=uuid5(tenant.tenant_id, str(well.well_id)),
        tenant_id=tenant.tenant_id,
        name=well.name,
        endpoint_url=well.endpoint_url,
        tags=tuple(Tag(tag.tag_id, well.well_id, tag.node_id, tag.data_type, tag.name, tag.unit) for tag in well.tags),
    )


async def _show(
    settings: Settings,
    tenant: DemoTenant,
    well: SimulatedWell,
    recent: Sequence[str],
    service: Service,
    addresses: Addresses,
) -> None:
    """The live table on a terminal; elsewhere the logs go on and the addresses are one more line of them."""
    footer = describe(settings, tenant, well, addresses)
    if sys.stdout.isatty():
        await run_view(service.snapshots, footer=footer, recent_logs=recent)
    else:
        log.info(
            "demo is running",
            grpc="{}:{}".format(*addresses.grpc),
            metrics="http://{}:{}/metrics".format(*addresses.http),
            query=footer[-1].strip(),
        )
        await trio.sleep_forever()


def describe(settings: Settings, tenant: DemoTenant, well: SimulatedWell, addresses: Addresses) -> Sequence[str]:
    """Addresses and a ready-made query, as lines for a person."""
    data_dir = "" if settings.database_url else f"DATA_DIR={settings.data_dir} "
    return (
        "gRPC     {}:{}  (scada.ScadaService, reflection on)".format(*addresses.grpc),
        "status   http://{}:{}/  (metrics at /metrics)".format(*addresses.http),
        "query it from another terminal:",
        f"  {data_dir}{sys.argv[0]} query --tenant '{tenant.name}' --well {well.well_id} --since 5m",
    )
