"""Lists of what is stored beside what runs, for the API. Starts nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from scada_trio.api.backend import ConnectionListing
from scada_trio.errors import UnknownTenant
from scada_trio.readings import Tag
from scada_trio.registry import tag_of
from scada_trio.status import ConnectionStatus
from scada_trio.storage.master import MasterDatabase


async def list_connections(
    master: MasterDatabase, tenant_id: UUID, statuses: Mapping[UUID, ConnectionStatus]
) -> Sequence[ConnectionListing]:
    """Every stored connection of a tenant, with its status where it runs; raises `UnknownTenant`."""
    if all(row.tenant_id != tenant_id for row in await master.list_tenants()):
        raise UnknownTenant(f"tenant {tenant_id} does not exist")
    tags: defaultdict[UUID, list[Tag]] = defaultdict(list)
    for tag_row in await master.list_tags(tenant_id):
        tags[tag_row.connection_id].append(tag_of(tag_row))
    return [
        ConnectionListing(
            connection_id=row.connection_id,
            name=row.name or "",
            endpoint_url=row.endpoint_url,
            security_mode=row.security_mode or "",
            security_policy=row.security_policy or "",
            username=row.username or None,
            active=row.is_active,
            tags=tags[row.connection_id],
            status=statuses.get(row.connection_id),
        )
        for row in await master.list_connections(tenant_id)
    ]
