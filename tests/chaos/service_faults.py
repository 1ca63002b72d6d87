"""What is done to the service and to its journals: kills at chosen moments, other settings, full and damaged files."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import trio

from tests.chaos.acts import NotInjected, any_tenant, pause
from tests.chaos.disks import fill
from tests.chaos.journal_damage import blocks_after, newest_block
from tests.chaos.proxy import Catch
from tests.chaos.site import Site

_CAUGHT_WITHIN_S: Final = 60.0
_AWAY_AT_MOST_S: Final = 120.0
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
        pass


# ---- other settings


async def sync_every_commit(site: Site, rng: random.Random) -> None:
    """Killed twice with JOURNAL_SYNC=full: coming to it, and under it."""
    async with site.service_with(JOURNAL_SYNC="full"):
        await pause(rng, 0.5, 1.5)
        await kill_service(site, rng)
        await pause(rng, 0.5, 1.0)


async def write_over_two(site: Site, rng: random.Random) -> None:
    """A link lost and the service killed with DB_WRITE_CONNECTIONS=2: rows are sent ahead of what is not committed."""
    async with site.service_with(DB_WRITE_CONNECTIONS="2"):
        await lose_commit(rng.choice(tuple(Catch)), site, rng)
        await kill_service_at_commit(rng.choice(tuple(Catch)), site, rng)
        await pause(rng, 0.5, 1.0)


async def fill_small_journal(policy: str, message: str, site: Site, rng: random.Random) -> None:
    """The database is away until a journal of JOURNAL_MAX_BYTES is full, and a little longer."""
    before = len(site.service.lines)

    async def full(_: int) -> bool:
        return any(_says(line, message) for line in site.service.lines[before:])

    async with site.service_with(JOURNAL_POLICY=policy, JOURNAL_MAX_BYTES=_SMALL_JOURNAL):
        await keep_database_away(site, full)
        await pause(rng, 0.5, 1.5)
        await site.start_postgres()


def _says(line: Any, message: str) -> bool:
    return isinstance(line, dict) and str(line.get("message", "")).startswith(message)


# ---- the journal's file


async def fill_journal_disk(site: Site, rng: random.Random) -> None:
    """Nothing can be accepted; devices keep what they have."""
    await fill(site.disks[0], rng)


async def damage_journal(harm: Callable[[Path, int, random.Random], None], site: Site, rng: random.Random) -> None:
    """Blocks wait for a database that is away, the service is killed, and some bytes of what it left change."""
    path = site.journal_dir / f"{site.tenants[0].tenant_id}.sqlite"

    async def newest() -> int:
        return await trio.to_thread.run_sync(newest_block, path)

    async def enough(last: int) -> bool:
        return await trio.to_thread.run_sync(blocks_after, path, last) >= _BLOCKS_AT_RISK

    last = await keep_database_away(site, enough, newest)  # what came from there on is in the journal alone
    async with site.service_down():
        await trio.to_thread.run_sync(harm, path, last, rng)


# ---- the database, away for as long as something takes


async def _nothing() -> int:
    return 0


async def keep_database_away(
    site: Site, reached: Callable[[int], Awaitable[bool]], mark: Callable[[], Awaitable[int]] = _nothing
) -> int:
    """Kill PostgreSQL; returns with it down as soon as ``reached`` is true of what ``mark`` gave behind the kill.

    Another fault may start it, or kill the service, which cannot start without it and then fills no journal: it is
    there until the service is, and all begins anew. Raises `NotInjected`, with PostgreSQL running, where it takes too
    long.
    """
    try:
        with trio.fail_after(_AWAY_AT_MOST_S):
            while True:
                marked = await _away_while_served(site, reached, mark)
                if marked is not None:
                    return marked
                await site.start_postgres()
                await site.service.wait_ready()
    except (NotInjected, trio.TooSlowError) as error:
        await site.start_postgres()
        raise NotInjected(f"what the database is to be away for did not come: {error}") from error


async def _away_while_served(
    site: Site, reached: Callable[[int], Awaitable[bool]], mark: Callable[[], Awaitable[int]]
) -> int | None:
    starts = site.service.starts
    await site.kill_postgres()
    marked = await mark()
    while site.postgres.pid is None and site.service.ready.is_set() and site.service.starts == starts:
        if await reached(marked):
            return marked
        await trio.sleep(0.05)
    return None
