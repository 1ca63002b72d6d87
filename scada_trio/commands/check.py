"""``check``: is the configuration sound, is each database reachable and migrated, does each device answer.

One line each, as it becomes known; raises at the end if anything is wrong, so that a script can rely on it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import trio
from pydantic import SecretStr
from rich.console import Console

from scada_trio.commands.rows import print_rows
from scada_trio.commands.serve import open_checked_master
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec, TenantSpec
from scada_trio.errors import ConfigurationRefused, DatabaseMisconfigured, ScadaError
from scada_trio.instance import open_instance
from scada_trio.opcua.certificates import describe
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.security import agree
from scada_trio.opcua.transport import open_transport, parse_endpoint
from scada_trio.readings import TagTable
from scada_trio.registry import Registry
from scada_trio.storage.connect import safe_url
from scada_trio.storage.migrate import pending_master, pending_tenant
from scada_trio.storage.tenant_db import open_tenant_writer

_AT_ONCE = 20


class _Report:
    """Prints a line a finding, for people or as JSON, and counts the bad ones."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self._console = console
        self._as_json = as_json
        self.failed = 0

    async def probe(self, what: str, action: Callable[[], Awaitable[str]]) -> bool:
        """Run ``action``; its text, or the text of its error, ends the line."""
        try:
            found = await action()
        except ScadaError as error:
            self.tell(what, str(error), is_good=False)
            return False
        self.tell(what, found)
        return True

    def tell(self, what: str, found: str, *, is_good: bool = True) -> None:
        """Print one finding, which is counted where it is bad."""
        self.failed += not is_good
        if self._as_json:
            print_rows(self._console, "json", ("what", "ok", "detail"), [(what, is_good, found)])
            sys.stdout.flush()
        else:
            self._console.print(f"{'ok   ' if is_good else 'FAIL '} {what}: {found}", highlight=False, markup=False)


async def check(settings: Settings, console: Console, *, as_json: bool = False) -> None:
    """Print the findings; raises `ScadaError` with their number if any is bad."""
    report = _Report(console, as_json=as_json)
    async with AsyncExitStack() as stack:
        instance = await stack.enter_async_context(open_instance(settings))
        report.tell("configuration", "every variable has a usable value")
        specs: dict[UUID, TenantSpec] = {}

        async def master() -> str:
            database = await stack.enter_async_context(open_checked_master(settings, instance))
            specs.update(await Registry(database, instance.secrets).load())
            return f"reachable, {await _migrated(pending_master, instance.master_url)}, {len(specs)} tenants"

        await report.probe(f"master database {safe_url(instance.master_url)}", master)
        pki = Pki(settings.pki)

        async def certificate() -> str:
            await trio.to_thread.run_sync(pki.prepare)
            return describe(pki.own.current().certificate)

        await report.probe("our own certificate", certificate)
        limiter = trio.CapacityLimiter(_AT_ONCE)
        resolving = trio.CapacityLimiter(_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for spec in specs.values():
                nursery.start_soon(_check_tenant, settings, report, limiter, spec)
                for connection in spec.connections.values():
                    nursery.start_soon(_check_device, settings, pki, report, limiter, resolving, spec, connection)
    if report.failed:
        raise ScadaError(f"{report.failed} of the above are not as they should be")


async def _check_tenant(settings: Settings, report: _Report, limiter: trio.CapacityLimiter, spec: TenantSpec) -> None:
    async def database() -> str:
        if spec.problem:
            raise ConfigurationRefused(spec.problem)
        async with open_tenant_writer(  # which opens nothing that is not migrated
            spec.database_url, TagTable(), **settings.db_timeouts
        ):
            pass
        return f"{safe_url(spec.database_url)} reachable, {await _migrated(pending_tenant, spec.database_url)}"

    async with limiter:
        await report.probe(f"tenant {spec.name}", database)


async def _migrated(pending: Callable[[SecretStr], list[str] | None], url: SecretStr) -> str:
    """Raises `DatabaseMisconfigured` naming the migrations that wait."""
    waiting = await trio.to_thread.run_sync(pending, url)
    if waiting is None:
        return "migrations not shown to this login"
    if waiting:
        raise DatabaseMisconfigured(f"{', '.join(waiting)} not applied yet: run scada-trio migrate")
    return "migrated"


async def _check_device(
    settings: Settings,
    pki: Pki,
    report: _Report,
    limiter: trio.CapacityLimiter,
    resolving: trio.CapacityLimiter,
    tenant: TenantSpec,
    spec: ConnectionSpec,
) -> None:
    async def device() -> str:
        if spec.problem:
            raise ConfigurationRefused(spec.problem)
        transport = await open_transport(
            parse_endpoint(spec.endpoint_url), timeout_s=settings.device.connect_timeout_s, resolving=resolving
        )
        transport.sock.close()
        threads = trio.CapacityLimiter(1)
        await agree(spec, settings=settings.device, pki=pki, limiter=threads, resolving=resolving)
        return f"answers, {len(spec.tags)} tags configured"

    async with limiter:
        await report.probe(
            f"connection {spec.name or spec.connection_id} of {tenant.name}, {spec.endpoint_url}", device
        )
