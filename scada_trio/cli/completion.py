"""What a shell offers after Tab beyond commands and options: tenants and connections as the master database has them.

It must be quick and say nothing: a database that does not answer within a second, or an embedded one that does not
run, means that nothing is offered.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scada_trio.desired import TenantSpec

Offered = list[tuple[str, str]]

_TIMEOUT_MS: Final = 1_000
_SPECIAL: Final = re.compile(r"([^\w@%+=:,./-])")


def complete_tenant(incomplete: str) -> Offered:
    """Names of tenants, their ids where a name begins otherwise."""
    specs = _stored()
    return _offer(incomplete, ((spec.name, str(spec.tenant_id)) for spec in specs))


def complete_connection(incomplete: str) -> Offered:
    """Names of active connections, their ids where a name begins otherwise or there is none."""
    specs = _stored()
    found = [(link, spec) for spec in specs for link in spec.connections.values()]
    return _offer(incomplete, ((link.name, str(link.connection_id)) for link, _ in found))


def complete_connection_id(incomplete: str) -> Offered:
    """Ids of active connections, each with its name."""
    found = [link for spec in _stored() for link in spec.connections.values()]
    ids = [(str(link.connection_id), link.name or link.endpoint_url) for link in found]
    return [pair for pair in sorted(ids) if pair[0].startswith(incomplete)]


def _offer(incomplete: str, names: Iterable[tuple[str, str]]) -> Offered:
    wanted = re.sub(r"\\(.)", r"\1", incomplete).lstrip("'\"")
    offered = []
    for name, identity in sorted(names):
        if name and name.startswith(wanted):
            offered.append((_typed(name), identity))
        elif wanted and identity.startswith(wanted):
            offered.append((identity, name))
    return offered


def _typed(name: str) -> str:
    """A name as it is typed: bash takes what is offered as it stands, the other shells quote it themselves."""
    return _SPECIAL.sub(r"\\\1", name) if os.environ.get("_SCADA_TRIO_COMPLETE") == "complete_bash" else name


def _stored() -> list[TenantSpec]:
    import trio

    from scada_trio.errors import ScadaError

    try:
        return trio.run(_load)
    except (ScadaError, ExceptionGroup):
        return []


async def _load() -> list[TenantSpec]:
    import trio

    from scada_trio.config import Settings
    from scada_trio.registry import Registry
    from scada_trio.secrets import SecretBox
    from scada_trio.storage.embedded import url_where_it_runs
    from scada_trio.storage.master import open_master

    settings = Settings.load(db_connect_timeout_ms=_TIMEOUT_MS, db_statement_timeout_ms=_TIMEOUT_MS)
    url = settings.database_url or url_where_it_runs(settings.data_dir / "postgres")
    if url is None:
        return []
    with trio.move_on_after(2 * _TIMEOUT_MS / 1000):
        async with open_master(url, **settings.db_timeouts) as master:
            return list((await Registry(master, SecretBox(settings.encryption_key)).load()).values())
    return []
