"""Device connections: ``connection add``, ``connection list``, ``connection remove``.

A running service hears of each change by NOTIFY; nothing here talks to it or to a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.tenants import find_tenant
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused
from scada_trio.instance import open_instance
from scada_trio.registry import Registry
from scada_trio.sampling import UNSET, Sampling
from scada_trio.tagfile import read_tags
from scada_trio.validation import parse_endpoint, parse_security


@dataclass(frozen=True, slots=True)
class NewConnection:
    """What a user says of a connection; texts are validated by `add_connection`."""

    tenant: str
    endpoint_url: str
    tags: Path
    name: str = ""
    security_mode: str = "None"
    security_policy: str = "None"
    username: str | None = None
    password: SecretStr | None = None
    connection_id: UUID | None = None
    publishing_interval_ms: float | None = None
    sampling: Sampling = UNSET


async def add_connection(settings: Settings, console: Console, new: NewConnection) -> None:
    """Validate everything, then store; the same ``connection_id`` again replaces what is stored.

    Name and parameters that are not given stay as they are stored.
    """
    connection_id = new.connection_id or uuid4()
    endpoint_url = parse_endpoint("--endpoint", new.endpoint_url)
    mode, policy = parse_security(new.security_mode, new.security_policy)
    tags = read_tags(new.tags, connection_id)
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        spec = ConnectionSpec(
            connection_id=connection_id,
            tenant_id=await find_tenant(Registry(master, instance.secrets), new.tenant),
            name=new.name,
            endpoint_url=endpoint_url,
            security_mode=mode,
            security_policy=policy,
            username=new.username,
            password=new.password,
            publishing_interval_ms=new.publishing_interval_ms,
            sampling=new.sampling,
            tags=tuple(tags),
        )
        password = None if new.password is None else instance.secrets.encrypt(new.password)
        await master.store_connection(spec, password)
    console.print(f"connection stored: {connection_id} ({len(tags)} tags)", highlight=False)


async def list_connections(settings: Settings, console: Console, tenant: str | None) -> None:
    """Active connections, of one tenant or of all, with what is wrong with their rows."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        registry = Registry(master, instance.secrets)
        wanted = None if tenant is None else await find_tenant(registry, tenant)
        specs = await registry.load()
    table = Table("id", "tenant", "name", "endpoint", "security", "tags", "problem")
    for tenant_spec in specs.values():
        if wanted not in (None, tenant_spec.tenant_id):
            continue
        for spec in tenant_spec.connections.values():
            security = (
                spec.security_mode if spec.security_policy == "None" else f"{spec.security_mode} {spec.security_policy}"
            )
            table.add_row(
                str(spec.connection_id),
                tenant_spec.name,
                spec.name,
                spec.endpoint_url,
                security,
                str(len(spec.tags)),
                spec.problem or _problem_of_tags(spec),
            )
    if table.row_count:
        console.print(table)
    else:
        console.print("no connections; add one with: scada-trio connection add --help")


def _problem_of_tags(spec: ConnectionSpec) -> str:
    problems = [f"{tag.node_id} {tag.problem}" for tag in spec.tags if tag.problem is not None]
    return "" if not problems else problems[0] if len(problems) == 1 else f"{len(problems)} tags: {problems[0]}, ..."


async def remove_connection(settings: Settings, console: Console, connection_id: UUID) -> None:
    """Deactivate; its readings stay. Raises `ConfigurationRefused` where no connection ever had that id."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        if not await master.deactivate_connection(connection_id):
            raise ConfigurationRefused(f"no connection {connection_id}")
    console.print(f"connection removed: {connection_id}", highlight=False)
