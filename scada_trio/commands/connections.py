"""Device connections: ``connection add``, ``connection list``, ``connection remove``.

A running service hears of each change by NOTIFY and is asked for states only; nothing here talks to a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from pydantic import SecretStr
from rich.console import Console

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.running import Running, ask_service, iso_seconds, say_silence
from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.tenants import find_tenant
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec, TenantSpec
from scada_trio.errors import ConfigurationRefused
from scada_trio.instance import open_instance
from scada_trio.registry import Registry
from scada_trio.sampling import UNSET, Sampling
from scada_trio.tagfile import read_tags
from scada_trio.validation import parse_endpoint, parse_security
from scada_trio.web.status import without_user

_COLUMNS: Final = (
    *("id", "tenant_id", "tenant", "name", "endpoint", "security_mode", "security_policy", "tags", "state", "since"),
    *("readings_per_second", "last_error", "problem"),
)
_NOT_IN_TABLE: Final = ("tenant_id", "security_policy")


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


async def list_connections(settings: Settings, console: Console, tenant: str | None, *, form: Format) -> None:
    """Active connections, of one tenant or of all: what is stored, and what a running service does with it."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        registry = Registry(master, instance.secrets)
        wanted = None if tenant is None else await find_tenant(registry, tenant)
        specs = await registry.load()
    running = await ask_service(settings)
    rows = [
        _row(tenant_spec, spec, running)
        for tenant_spec in specs.values()
        for spec in tenant_spec.connections.values()
        if wanted in (None, tenant_spec.tenant_id)
    ]
    if form == "table":
        shown = tuple(name for name in _COLUMNS if name not in _NOT_IN_TABLE)
        print_rows(console, form, shown, [_shown(row, running) for row in rows])
        if not rows:
            console.print("no connections; add one with: scada-trio connection add --help")
            return
    else:
        print_rows(console, form, _COLUMNS, rows)
    say_silence(running)


def _row(tenant: TenantSpec, spec: ConnectionSpec, running: Running) -> tuple[object, ...]:
    live = running.connections.get(str(spec.connection_id), {})
    return (
        *(str(spec.connection_id), str(tenant.tenant_id), tenant.name, spec.name, without_user(spec.endpoint_url)),
        *(str(spec.security_mode), spec.security_policy, len(spec.tags)),
        *(live.get("state"), iso_seconds(live.get("since")), live.get("readings_per_second"), live.get("last_error")),
        spec.problem or _problem_of_tags(spec) or None,
    )


def _shown(row: tuple[object, ...], running: Running) -> list[object]:
    """A row for people: state in words where it is not known, mode and policy in one column."""
    named = dict(zip(_COLUMNS, row, strict=True))
    if named["security_policy"] != "None":
        named["security_mode"] = f"{named['security_mode']} {named['security_policy']}"
    named["state"] = named["state"] or running.absence
    return [value for name, value in named.items() if name not in _NOT_IN_TABLE]


def _problem_of_tags(spec: ConnectionSpec) -> str:
    problems = [f"{tag.node_id} {tag.problem}" for tag in spec.tags if tag.problem is not None]
    return "" if not problems else problems[0] if len(problems) == 1 else f"{len(problems)} tags: {problems[0]}, ..."


async def remove_connection(settings: Settings, console: Console, connection_id: UUID) -> None:
    """Deactivate; its readings stay. Raises `ConfigurationRefused` where no connection ever had that id."""
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        if not await master.deactivate_connection(connection_id):
            raise ConfigurationRefused(
                f"no connection {connection_id}; scada-trio connection list shows those that there are"
            )
    console.print(f"connection removed: {connection_id}", highlight=False)
