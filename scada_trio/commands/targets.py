"""The device that a command is about: an endpoint as it is typed, or a stored connection; and a walk through it.

Nothing here stores anything. A walk ends on SIGINT and SIGTERM with the session closed on the device.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import trio
from pydantic import SecretStr

from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.tenants import find_tenant
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import ConfigurationRefused
from scada_trio.instance import open_instance
from scada_trio.nodes import BrowseQuery
from scada_trio.opcua.browse import Walk, open_walk
from scada_trio.opcua.pki import Pki
from scada_trio.registry import Registry
from scada_trio.validation import parse_endpoint, parse_security

_NOBODY = UUID(int=0)
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Target:
    """What a user says: ``where`` is an endpoint URL, whose security and login the rest is, or names a connection."""

    where: str
    tenant: str | None = None
    security_mode: str = "None"
    security_policy: str = "None"
    username: str | None = None
    password: SecretStr | None = None
    name: str = ""

    @property
    def is_endpoint(self) -> bool:
        """Whether ``where`` is a URL."""
        return "://" in self.where

    def spec(self, connection_id: UUID = _NOBODY, tenant_id: UUID = _NOBODY) -> ConnectionSpec:
        """The connection that an endpoint and its options mean. Raises `InvalidField`."""
        mode, policy = parse_security(self.security_mode, self.security_policy)
        return ConnectionSpec(
            connection_id,
            tenant_id,
            self.name,
            parse_endpoint("ENDPOINT", self.where),
            mode,
            policy,
            self.username,
            self.password,
        )


async def find_target(settings: Settings, target: Target) -> ConnectionSpec:
    """The connection to talk to; the master database is opened for a stored one only."""
    if target.is_endpoint:
        return target.spec()
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        return await find_connection(Registry(master, instance.secrets), target.where, target.tenant)


async def find_connection(registry: Registry, name_or_id: str, tenant: str | None) -> ConnectionSpec:
    """The active connection with this id or name; `ConfigurationRefused` where there is none, or there are several."""
    wanted = None if tenant is None else await find_tenant(registry, tenant)
    specs = [
        spec
        for tenant_spec in (await registry.load()).values()
        for spec in tenant_spec.connections.values()
        if wanted in (None, tenant_spec.tenant_id)
    ]
    found = [spec for spec in specs if name_or_id.lower() == str(spec.connection_id)]
    found = found or [spec for spec in specs if name_or_id == spec.name]
    if len(found) > 1:
        raise ConfigurationRefused(f"{len(found)} connections are named {name_or_id!r}: give an id, or --tenant")
    if not found:
        names = sorted(spec.name or str(spec.connection_id) for spec in specs)
        known = ", ".join(names[:_NAMES_SHOWN]) or "none"
        if len(names) > _NAMES_SHOWN:
            known += f" and {len(names) - _NAMES_SHOWN} more, see scada-trio connection list"
        raise ConfigurationRefused(f"no active connection {name_or_id!r}; there are: {known}")
    if found[0].problem:
        raise ConfigurationRefused(f"connection {name_or_id}: {found[0].problem}")
    return found[0]


async def open_pki(settings: Settings, spec: ConnectionSpec) -> Pki:
    """The trust store, and our own certificate, which is made where there is none and ``spec`` needs it."""
    pki = Pki(settings.pki)
    await trio.to_thread.run_sync(pki.store.prepare)
    if spec.security_mode is not SecurityMode.NONE:
        await trio.to_thread.run_sync(pki.prepare)
    return pki


@asynccontextmanager
async def open_target_walk(settings: Settings, spec: ConnectionSpec, query: BrowseQuery) -> AsyncIterator[Walk]:
    """A walk through the device of ``spec``, for one command alone."""
    pki = await open_pki(settings, spec)
    limiter, resolving = trio.CapacityLimiter(2), trio.CapacityLimiter(1)
    async with open_walk(spec, query, settings=settings.device, pki=pki, limiter=limiter, resolving=resolving) as walk:
        yield walk


async def run_interruptible(command: Callable[[], Awaitable[None]]) -> None:
    """Await ``command()``; SIGINT and SIGTERM cancel it, and `KeyboardInterrupt` is raised when it has cleaned up."""
    interrupted = False

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                interrupted = True
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        await command()
        nursery.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt
