"""Tenants and schemas: ``migrate``, ``tenant add``, ``tenant list``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID, uuid4

import trio
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.running import ask_service, say_silence
from scada_trio.commands.serve import open_checked_master
from scada_trio.config import Settings
from scada_trio.errors import ConfigurationRefused, DatabaseError, InvalidField, ScadaError, leaves
from scada_trio.instance import open_instance
from scada_trio.registry import Registry
from scada_trio.secret_files import read_secret_file
from scada_trio.storage.migrate import MigrationReport, migrate_master, migrate_tenant
from scada_trio.storage.query import TenantReader, open_reader

_NAMES_SHOWN = 20
_COLUMNS: Final = (
    *("id", "name", "status", "connections", "state", "connected", "readings_per_second", "waiting", "last_error"),
)


async def migrate(settings: Settings, console: Console) -> None:
    """Bring master and every tenant to the current schema; goes on past a tenant that fails, and says so at the end."""
    failed: list[str] = []
    async with open_instance(settings) as instance:
        applied = await trio.to_thread.run_sync(migrate_master, instance.master_url)
        console.print(f"master: {_count(applied)}", highlight=False)
        async with open_checked_master(settings, instance) as master:
            specs = await Registry(master, instance.secrets).load()
        with Progress(
            SpinnerColumn(), *Progress.get_default_columns(), TextColumn("{task.fields[tenant]}"), console=console
        ) as progress:
            task = progress.add_task("tenants", total=len(specs), tenant="", visible=len(specs) > 0)
            for spec in specs.values():
                progress.update(task, tenant=spec.name)
                try:
                    if spec.problem:
                        raise ConfigurationRefused(spec.problem)
                    report = await trio.to_thread.run_sync(migrate_tenant, spec.database_url, settings.storage)
                except ScadaError as error:
                    failed.append(spec.name)
                    console.print(f"tenant {spec.name}: failed: {error}", highlight=False, markup=False)
                else:
                    console.print(f"tenant {spec.name}: {_describe(report)}", highlight=False, markup=False)
                    _print_details(console, report)
                progress.advance(task)
    if failed:
        raise ScadaError(f"{len(failed)} of {len(specs)} tenants not migrated: {', '.join(failed)}")


async def add_tenant(settings: Settings, console: Console, name: str, database_url: str | None) -> None:
    """Create or take the tenant's database, migrate it, store the tenant: in that order, so none is stored broken."""
    if not name.strip():
        raise InvalidField("NAME", "is empty")
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        if any(row.name == name for row in await master.list_tenants()):
            raise ConfigurationRefused(f"a tenant named {name!r} exists already; scada-trio tenant list shows it")
        # encrypted first: without a key nothing is created that could not be stored
        if database_url is None and settings.tenant_database_url_file is not None:
            path = settings.tenant_database_url_file
            database_url = await trio.to_thread.run_sync(read_secret_file, "TENANT_DATABASE_URL_FILE", path)
        if database_url is None:
            instance.secrets.encrypt(SecretStr("probe"))
            url = await master.create_database(database_name(name))
        else:
            url = SecretStr(database_url)
        stored = instance.secrets.encrypt(url)
        report = await trio.to_thread.run_sync(migrate_tenant, url, settings.storage)
        tenant_id = uuid4()
        await master.add_tenant(tenant_id, name, stored)
    console.print(f"tenant {name} added: {tenant_id} ({_describe(report)})", highlight=False, markup=False)
    _print_details(console, report)


async def list_tenants(settings: Settings, console: Console, *, form: Format) -> None:
    """Every tenant with its status, and what a running service does with it; ``waiting`` is what its journal holds."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        stored = await master.list_tenants()
    running = await ask_service(settings)
    if form == "table" and not stored:
        console.print("no tenants; add one with: scada-trio tenant add NAME")
        return
    rows = []
    for row in stored:
        live = running.tenants.get(str(row.tenant_id), {})
        state = live.get("state")
        if form == "table":
            state = state or running.absence
        rows.append(
            (
                *(str(row.tenant_id), row.name, row.status, row.connections, state),
                live["connections_by_state"].get("connected", 0) if live else None,
                *(live.get("readings_per_second"), live.get("in_journal"), live.get("last_error")),
            )
        )
    print_rows(console, form, _COLUMNS, rows)
    say_silence(running)


async def find_tenant(registry: Registry, name_or_id: str) -> UUID:
    """The running tenant with that id or that name; raises `ConfigurationRefused` naming what there is."""
    specs = await registry.load()
    for spec in specs.values():
        if name_or_id in (str(spec.tenant_id), spec.name):
            return spec.tenant_id
    names = sorted(spec.name for spec in specs.values())
    known = ", ".join(names[:_NAMES_SHOWN]) or "none"
    if len(names) > _NAMES_SHOWN:
        known += f" and {len(names) - _NAMES_SHOWN} more, see scada-trio tenant list"
    raise ConfigurationRefused(f"no tenant {name_or_id!r} runs here; there are: {known}")


@asynccontextmanager
async def open_tenant_database(settings: Settings, name_or_id: str) -> AsyncIterator[SecretStr]:
    """The URL of a running tenant's database, whose server, where it is ours, runs inside the block."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        registry = Registry(master, instance.secrets)
        spec = (await registry.load())[await find_tenant(registry, name_or_id)]
        if spec.problem:
            raise ConfigurationRefused(f"tenant {spec.name}: {spec.problem}")
        try:
            yield spec.database_url
        except* DatabaseError as group:
            error = next(leaf for leaf in leaves(group) if isinstance(leaf, DatabaseError))
            raise type(error)(f"database of tenant {spec.name}: {error}", error.sqlstate) from error


@asynccontextmanager
async def open_tenant_reader(settings: Settings, name_or_id: str) -> AsyncIterator[TenantReader]:
    """A reader of a running tenant's database, for one call at a time."""
    async with (
        open_tenant_database(settings, name_or_id) as url,
        open_reader(url, limiter=trio.CapacityLimiter(1), **settings.db_timeouts) as reader,
    ):
        yield reader


def database_name(tenant: str) -> str:
    """Of a tenant's database, where we make it."""
    slug = re.sub(r"[^a-z0-9]+", "_", tenant.lower()).strip("_")[:40]
    return f"scada_tenant_{slug or uuid4().hex[:12]}"


def _count(applied: list[str]) -> str:
    return f"{len(applied)} migrations applied" if applied else "up to date"


def _describe(report: MigrationReport) -> str:
    return f"{_count(list(report.applied))}, {report.flavour}"


def _print_details(console: Console, report: MigrationReport) -> None:
    for line in report.changed:
        console.print(f"  changed: {line}", highlight=False, markup=False)
    for line in report.left_alone:
        console.print(f"  left alone: {line}", highlight=False, markup=False)
