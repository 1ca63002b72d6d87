"""What is done to the service and to its journals: kills at chosen moments, other settings, full and damaged files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from tests.chaos.acts import NotInjected, any_tenant, pause
from tests.chaos.disks import fill
from tests.chaos.journal_damage import blocks_after, newest_block
from tests.chaos.proxy import Catch
from tests.chaos.site import Site

_CAUGHT_WITHIN_S: Final = 60.0
_LOGGED_WITHIN_S: Final = 90.0
_BLOCKS_AT_RISK: Final = 5
_SMALL_JOURNAL: Final = str(1 << 20)  # the least that JOURNAL_MAX_BYTES may be


async def kill_service(site: Site, rng: random.Random) -> None:
    """At a random moment."""
    await pause(rng, 0.0, 0.5)
    await site.service.kill()
    await site.service.wait_ready()


async def kill_service_at_commit(catch: Catch, site: Site, rng: random.Random) -> None:
    """At a byte of the batch's way: in the COPY, before the COMMIT arrives, after it and before its answer arrives."""
    tenant = site.tenants[0]
    await _catch(tenant.proxy.catch(catch))
    await pause(rng, 0.0, 0.3)
    await site.service.kill()
    tenant.proxy.cut()
    tenant.proxy.heal()
    await site.service.wait_ready()


async def lose_commit(catch: Catch, site: Site, rng: random.Random) -> None:
    """The connection breaks around a commit, and the service lives."""
    tenant = any_tenant(site, rng)
    await _catch(tenant.proxy.catch(catch))
    await pause(rng, 0.0, 0.3)
    tenant.proxy.cut()
    tenant.proxy.heal()


async def _catch(caught: trio.Event) -> None:
    with trio.move_on_after(_CAUGHT_WITHIN_S):
        await caught.wait()
        return
    raise NotInjected(f"no batch came by within {_CAUGHT_WITHIN_S:g} s")


async def freeze_service(site: Site, rng: random.Random) -> None:
    """SIGSTOP for a while."""
    site.service.freeze()
    await pause(rng, 0.5, 4.0)
    site.service.thaw()


async def kill_service_and_postgres(site: Site, rng: random.Random) -> None:
    """The service restarts while the database is away, and finds its journal."""
    await site.kill_postgres()
    await pause(rng, 0.5, 2.0)
    async with site.service_down():
        await site.start_postgres()


# ---- other settings


async def sync_every_commit(site: Site, rng: random.Random) -> None:
    """Killed twice with JOURNAL_SYNC=full: coming to it, and under it."""
    async with site.service_with(JOURNAL_SYNC="full"):
        await pause(rng, 0.5, 1.5)
        await kill_service(site, rng)
        await pause(rng, 0.5, 1.0)


async def fill_small_journal(policy: str, message: str, site: Site, rng: random.Random) -> None:
    """The database is away until a journal of JOURNAL_MAX_BYTES is full, and a little longer."""
    async with site.service_with(JOURNAL_POLICY=policy, JOURNAL_MAX_BYTES=_SMALL_JOURNAL):
        mark = len(site.service.lines)
        await site.kill_postgres()
        await _logged(site, mark, message)
        await pause(rng, 0.5, 1.5)
        await site.start_postgres()


# ---- the journal's file


async def fill_journal_disk(site: Site, rng: random.Random) -> None:
    """Nothing can be accepted; devices keep what they have."""
    await fill(site.disks[0], rng)


async def damage_journal(harm: Callable[[Path, int, random.Random], None], site: Site, rng: random.Random) -> None:
    """Blocks wait for a database that is away, the service is killed, and some bytes of what it left change."""
    path = site.journal_dir / f"{site.tenants[0].tenant_id}.sqlite"
    await site.kill_postgres()
    last = await trio.to_thread.run_sync(newest_block, path)  # what comes from here on is in the journal alone
    with trio.move_on_after(_LOGGED_WITHIN_S):
        while await trio.to_thread.run_sync(blocks_after, path, last) < _BLOCKS_AT_RISK:  # noqa: ASYNC110 - a file
            await trio.sleep(0.05)
    async with site.service_down():
        await trio.to_thread.run_sync(harm, path, last, rng)
        await site.start_postgres()


async def _logged(site: Site, mark: int, message: str) -> None:
    def there(line: Any) -> bool:
        return isinstance(line, dict) and str(line.get("message", "")).startswith(message)

    with trio.move_on_after(_LOGGED_WITHIN_S):
        while not any(map(there, site.service.lines[mark:])):  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.05)
        return
    raise NotInjected(f"the service did not log {message!r}")
