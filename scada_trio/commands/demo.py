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

import structlog
import trio
from rich.console import Console
from rich.status import Status

from scada_trio.commands.fields import ensure_tenant, store_wells
from scada_trio.commands.serve import open_checked_master, run_until_signal
from scada_trio.config import Settings
from scada_trio.instance import open_instance
from scada_trio.logs import configure_logging
from scada_trio.service import Addresses, Service
from scada_trio.simulator.process import FieldOptions, SimulatedWell, open_field
from scada_trio.storage.migrate import migrate_master
from scada_trio.view import run_view

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo; the next run finds it by its name."""

    name: str
    database: str
    seed: int


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
            names = {"name": tenant.name, "database": tenant.database}
            tenant_id = await ensure_tenant(master, instance, settings.storage, **names)
            options = FieldOptions(wells, seed=tenant.seed, interval_ms=interval_ms)
            field = await stack.enter_async_context(open_field(options))
            await store_wells(master, tenant_id, field.wells)
            log.info("simulated wells started", tenant=tenant.name, wells=len(field.wells))
            first = first or (tenant, field.wells[0])
        assert first is not None
        progress.stop()
        await run_until_signal(settings, instance, master, partial(_show, settings, *first, recent))


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
