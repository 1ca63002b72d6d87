"""``simulate``: a field of wells for whoever wants to point something at it, or for a tenant of the service."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.progress import Progress

from scada_trio.commands.fields import ensure_tenant, store_wells
from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.tenants import database_name
from scada_trio.config import Settings
from scada_trio.instance import open_instance
from scada_trio.loadtest.load import Load
from scada_trio.simulator.process import FieldOptions, RunningField, open_field

_SHOWN: int = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where the wells are reached: ``host`` to listen on, its name for clients, and ports from ``base_port``."""

    host: str = "127.0.0.1"
    base_port: int = 0
    advertise: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """The tenant that reads the wells, and the service's settings, which tell where it is stored."""

    tenant: str
    settings: Settings


async def simulate(
    out: Console,
    load: Load,
    place: Place,
    *,
    record: Path | None = None,
    duration_s: float | None = None,
    reader: Reader | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, or for a while. Prints a line of JSON a well, or a summary on a terminal.

    With ``reader`` the wells are stored as that tenant's connections first; they stay stored. Raises `ConfigError`,
    `ConfigurationRefused`, `DatabaseError`.
    """
    options = FieldOptions(
        load.wells,
        tags=load.tags,
        seed=load.seed,
        interval_ms=load.interval_ms,
        host=place.host,
        base_port=place.base_port,
        advertise=place.advertise,
        rates=load.rates,
        record=record,
    )
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_field(options) as field, trio.open_nursery() as nursery:
            nursery.start_soon(_end_at_signal, signals, nursery.cancel_scope)
            if reader is not None:
                await _configure(reader, field)
            _announce(out, load, field)
            with trio.move_on_after(duration_s if duration_s is not None else float("inf")):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()


async def _end_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _configure(reader: Reader, field: RunningField) -> None:
    settings = reader.settings
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        names = {"name": reader.tenant, "database": database_name(reader.tenant)}
        tenant_id = await ensure_tenant(master, instance, settings.storage, **names)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            await store_wells(master, tenant_id, progress.track(field.wells, description="storing connections"))


def _announce(out: Console, load: Load, field: RunningField) -> None:
    if not sys.stdout.isatty():
        for well in field.wells:
            sys.stdout.write(well.to_line() + "\n")
        sys.stdout.flush()
        return
    out.print(
        f"{load.wells:,} wells of {load.tags:,} tags at {load.rate_hz:g} Hz: {load.values_per_s:,.0f} tags/s; "
        f"process {field.pid}; Ctrl-C ends it",
        highlight=False,
    )
    for well in field.wells[:_SHOWN]:
        out.print(f"  {well.endpoint_url}  {well.name}  {well.tags[0].node_id} ...", highlight=False)
    if len(field.wells) > _SHOWN:
        out.print(f"  ... {len(field.wells) - _SHOWN:,} more, all of them as JSON when this is piped", highlight=False)
