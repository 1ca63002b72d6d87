"""Run the service until a signal: what ``scada-trio serve`` and, with a field of wells beside it, ``demo`` do.

Owns signals and the order of what surrounds the service: instance, master database, service.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from scada_trio.allocator import collect_rarely, take_short_turns, use_one_arena
from scada_trio.config import Settings, StorageSettings
from scada_trio.errors import DatabaseError
from scada_trio.instance import Instance, open_instance
from scada_trio.logs import configure_logging
from scada_trio.metrics import Metrics
from scada_trio.open_files import raise_open_files_limit
from scada_trio.registry import Registry
from scada_trio.service import Addresses, Service
from scada_trio.storage.master import MasterDatabase, open_master

log = structlog.get_logger()

Companion = Callable[[Service, Addresses], Awaitable[None]]


@asynccontextmanager
async def open_checked_master(settings: Settings, instance: Instance) -> AsyncIterator[MasterDatabase]:
    """The master database, reachable and migrated; raises `DatabaseError` otherwise."""
    async with open_master(instance.master_url, **settings.db_timeouts) as master:
        await master.check_schema()
        yield master


def run() -> None:
    """The whole of a process that serves: its memory, settings and logs, then `serve`."""
    use_one_arena()
    collect_rarely()
    take_short_turns()
    raise_open_files_limit()
    settings = Settings.load()
    configure_logging(settings.log_level, settings.log_format)
    trio.run(serve, settings)


async def serve(settings: Settings, *, task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        if instance.embedded:
            await migrate_tenants(master, instance, settings.storage)
        await run_until_signal(settings, instance, master, task_status=task_status)


async def run_until_signal(
    settings: Settings,
    instance: Instance,
    master: MasterDatabase,
    companion: Companion | None = None,
    *,
    task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the service, and ``companion`` beside it until the service begins to stop."""
    stop = trio.Event()
    service = Service(settings, master, instance.secrets, Metrics())
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, stop, nursery.cancel_scope)
        run = partial(service.run, stop=stop)
        async with trio.open_nursery() as serving:
            addresses: Addresses = await serving.start(run, name="service")
            task_status.started(addresses)
            if companion is not None:
                with trio.CancelScope() as beside:
                    serving.start_soon(_cancel_when, stop, beside)
                    await companion(service, addresses)
        nursery.cancel_scope.cancel()


async def migrate_tenants(master: MasterDatabase, instance: Instance, periods: StorageSettings) -> None:
    """Migrate every tenant's database; one that cannot be is logged and left to its own retries."""
    from scada_trio.storage.migrate import migrate_tenant

    for spec in (await Registry(master, instance.secrets).load()).values():
        if spec.problem:
            continue
        try:
            await trio.to_thread.run_sync(migrate_tenant, spec.database_url, periods)
        except DatabaseError as error:
            log.error("tenant database not migrated", tenant_id=str(spec.tenant_id), error=str(error))


async def _watch_signals(stop: trio.Event, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                log.warning("second signal: stopping at once", signal=signal.Signals(number).name)
                everything.cancel()
                return
            log.info("signal received", signal=signal.Signals(number).name)
            stop.set()


async def _cancel_when(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()
