"""What a load test needs around the service: databases of its own, wells, and the configuration that joins them.

Owns the databases from creation to removal. Of a server that is given it uses only databases that it makes itself.

    open_rig: database server ─► simulated wells ─► configuration ─► service
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID, uuid4

import trio
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec
from scada_trio.loadtest.child import ServiceChild, open_service
from scada_trio.loadtest.load import Load
from scada_trio.secrets import SecretBox
from scada_trio.simulator.process import FieldOptions, RunningField, SimulatedWell, open_field
from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import open_embedded
from scada_trio.storage.master import open_master
from scada_trio.storage.migrate import migrate_master, migrate_tenant
from scada_trio.storage.tally import drop_database, server_version

_DATABASE_TIMEOUT_S: Final = 30.0

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything that runs. ``tenant_urls`` and ``wells`` tell where what was sent must be found."""

    field: RunningField
    service: ServiceChild
    record: Path
    tenant_urls: list[SecretStr]
    wells: dict[UUID, int]
    database: str


@asynccontextmanager
async def open_rig(
    load: Load,
    directory: Path,
    *,
    database_url: SecretStr | None,
    keep: bool,
    say: Say,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """All of it running and configured; files are in ``directory``, databases are dropped at the end unless ``keep``.

    ``database_url`` is any database of a server whose login may create databases; None: a server of our own in
    ``directory``. ``environment`` goes over ours for the service. Raises `ConfigError`, `DatabaseError`,
    `LoadTestFailed`.
    """
    async with AsyncExitStack() as stack:
        if database_url is None:
            say("starting an embedded PostgreSQL")
            server = await stack.enter_async_context(open_embedded(directory / "postgres"))
            server_url = server.url
        else:
            server_url = database_url
        names = [f"scada_loadtest_{secrets.token_hex(4)}_{number}" for number in range(load.tenants + 1)]
        if database_url is not None and not keep:
            stack.push_async_callback(_drop_all, server_url, names)
        say("creating databases")
        master_url, *tenant_urls = [await _in_thread(create_database, server_url, name) for name in names]
        await _in_thread(migrate_master, master_url)
        for url in tenant_urls:
            await _in_thread(migrate_tenant, url)
        say(f"starting {load.wells} wells")
        record = directory / "record.bin"
        options = FieldOptions(
            load.wells, tags=load.tags, seed=load.seed, interval_ms=load.interval_ms, rates=load.rates, record=record
        )
        field = await stack.enter_async_context(open_field(options))
        key = SecretStr(secrets.token_hex(16))
        await _configure(master_url, tenant_urls, field.wells, SecretBox(key), say)
        say("starting the service")
        variables = _environment(load, master_url, key, directory) | dict(environment or {})
        service = await stack.enter_async_context(open_service(variables, directory / "service.log"))
        wells = {well.well_id: number for number, well in enumerate(field.wells, start=1)}
        yield Rig(field, service, record, tenant_urls, wells, await _in_thread(server_version, tenant_urls[0]))


async def _configure(
    master_url: SecretStr, tenant_urls: list[SecretStr], wells: list[SimulatedWell], box: SecretBox, say: Say
) -> None:
    timeout_s = _DATABASE_TIMEOUT_S
    async with open_master(master_url, connect_timeout_s=timeout_s, statement_timeout_s=timeout_s) as master:
        tenants = []
        for number, url in enumerate(tenant_urls, start=1):
            tenants.append(uuid4())
            await master.add_tenant(tenants[-1], f"load test {number}", box.encrypt(url))
        for number, well in enumerate(wells):
            if number % 50 == 0:
                say(f"storing connections: {number} of {len(wells)}")
            tenant_id = tenants[number % len(tenants)]
            spec = ConnectionSpec(uuid4(), tenant_id, well.name, well.endpoint_url, tags=well.tags)
            await master.store_connection(spec, None)


def _environment(load: Load, master_url: SecretStr, key: SecretStr, directory: Path) -> dict[str, str]:
    """Of the service: what the test must have, and for devices faster than 1 Hz what fits them unless it is set."""
    fitting = {
        "OPC_SAMPLING_INTERVAL_MS": str(min(1000, int(load.interval_ms))),
        "OPC_QUEUE_SIZE": str(load.queue_size),
    }
    return {
        **{name: value for name, value in fitting.items() if not os.environ.get(name)},
        "DATABASE_URL": master_url.get_secret_value(),
        "ENCRYPTION_KEY": key.get_secret_value(),
        "DATA_DIR": str(directory / "data"),
        "JOURNAL_DIR": str(directory / "journal"),
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": "0",
        "METRICS_HOST": "127.0.0.1",
        "METRICS_PORT": "0",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
    }


async def _drop_all(server_url: SecretStr, names: list[str]) -> None:
    with trio.CancelScope(shield=True):
        for name in names:
            await _in_thread(drop_database, server_url, name)


async def _in_thread(call: Callable[..., T], *args: object) -> T:
    return await trio.to_thread.run_sync(partial(call, *args))
