"""A field of simulated wells as what a service reads: a tenant, and a connection for each well.

Used by ``demo`` and ``simulate``. Ids are made of the tenant's and the well's, so that a second run finds the first
one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID, uuid5

import structlog
import trio

from scada_trio.config import StorageSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused
from scada_trio.instance import Instance
from scada_trio.simulator.process import SimulatedWell
from scada_trio.storage.master import MasterDatabase
from scada_trio.storage.migrate import migrate_tenant

log = structlog.get_logger()

_NAMESPACE = UUID("7c9e4c1a-58a4-4a0c-9a5e-3f1de0a1b6f2")


async def ensure_tenant(
    master: MasterDatabase, instance: Instance, periods: StorageSettings, *, name: str, database: str
) -> UUID:
    """The id of the tenant of that name, whose database is migrated.

    Where there is none it is made, with ``database`` on the master database's server, which may be there already from
    a run that was killed between the two. Raises `ConfigurationRefused`, `DatabaseError`, `SecretError`.
    """
    row = next((row for row in await master.list_tenants() if row.name == name), None)
    url = await master.database_url(database) if row is None else instance.secrets.decrypt(row.database_url)
    stored = instance.secrets.encrypt(url)  # without a key nothing is made
    if row is None:
        with suppress(ConfigurationRefused):
            await master.create_database(database)
    report = await trio.to_thread.run_sync(migrate_tenant, url, periods)
    log.info("tenant database migrated", tenant=name, applied=len(report.applied), flavour=report.flavour)
    if row is not None:
        return row.tenant_id
    tenant_id = uuid5(_NAMESPACE, name)
    await master.add_tenant(tenant_id, name, stored)  # last, so that no service meets a tenant without its tables
    return tenant_id


async def store_wells(master: MasterDatabase, tenant_id: UUID, wells: Iterable[SimulatedWell]) -> None:
    """A connection for each; one that is stored is changed. Raises `ConfigurationRefused`, `DatabaseError`."""
    for well in wells:
        connection_id = uuid5(tenant_id, str(well.well_id))
        spec = ConnectionSpec(connection_id, tenant_id, well.name, well.endpoint_url, tags=well.tags)
        await master.store_connection(spec, None)
