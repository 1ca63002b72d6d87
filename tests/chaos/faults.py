"""What is done to a site. Each fault breaks something, waits a seeded while, and leaves it as it was.

Nothing is mended by hand: dead processes come back as a supervisor brings them back, and whether the rest recovers is
for the run to see.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
import trio

from tests.chaos.proxy import Catch, Proxy, Way
from tests.chaos.site import BALLAST, Device, Site, Tenant, remove_tags, store_tags

_CAUGHT_WITHIN_S: Final = 30.0

Act = Callable[[Site, random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """``loses_journal``: accepted readings may be lost by it, and must then be in the ledger."""

    name: str
    act: Act
    loses_journal: bool = False
    needs_small_disks: bool = False


async def _pause(rng: random.Random, least_s: float, most_s: float) -> None:
    await trio.sleep(rng.uniform(least_s, most_s))


def _device(site: Site, rng: random.Random) -> Device:
    return rng.choice(site.devices)


def _counting(site: Site, rng: random.Random) -> Device:
    return rng.choice([device for device in site.devices if device.counting])


def _tenant(site: Site, rng: random.Random) -> Tenant:
    return rng.choice(site.tenants)


# ---- the service


async def kill_service(site: Site, rng: random.Random) -> None:
    """At a random moment."""
    await _pause(rng, 0.0, 0.5)
    await site.service.kill()
    await site.service.wait_ready()


async def kill_service_at_commit(catch: Catch, site: Site, rng: random.Random) -> None:
    """Between COPY and commit, or between commit and the journal's hearing of it."""
    tenant = site.tenants[0]
    tenant.proxy.catch_commit(catch)
    with trio.fail_after(_CAUGHT_WITHIN_S):
        await tenant.proxy.caught.wait()
    await _pause(rng, 0.0, 0.3)
    await site.service.kill()
    tenant.proxy.cut()
    tenant.proxy.heal()
    await site.service.wait_ready()


async def lose_commit(catch: Catch, site: Site, rng: random.Random) -> None:
    """The connection breaks around a commit, and the service lives."""
    tenant = _tenant(site, rng)
    tenant.proxy.catch_commit(catch)
    with trio.fail_after(_CAUGHT_WITHIN_S):
        await tenant.proxy.caught.wait()
    await _pause(rng, 0.0, 0.3)
    tenant.proxy.cut()
    tenant.proxy.heal()


async def freeze_service(site: Site, rng: random.Random) -> None:
    """SIGSTOP for a while."""
    site.service.freeze()
    await _pause(rng, 0.5, 4.0)
    site.service.thaw()


# ---- the database


async def kill_postgres(site: Site, rng: random.Random) -> None:
    """And start it again."""
    await site.kill_postgres()
    await _pause(rng, 0.2, 3.0)
    await site.start_postgres()


async def freeze_postgres(site: Site, rng: random.Random) -> None:
    """SIGSTOP for all its processes, longer than a statement may take or shorter."""
    site.freeze_postgres()
    await _pause(rng, 0.5, 8.0)
    site.thaw_postgres()


async def kill_service_and_postgres(site: Site, rng: random.Random) -> None:
    """The service restarts while the database is away, and finds its journal."""
    await site.kill_postgres()
    await _pause(rng, 0.5, 2.0)
    await site.service.kill(down=True)
    await site.start_postgres()
    site.service.start()
    await site.service.wait_ready()


async def fill_database_disk(site: Site, rng: random.Random) -> None:
    """No room for another page."""
    ballast = site.disks[1] / BALLAST
    await trio.to_thread.run_sync(_fill, ballast)
    await _pause(rng, 1.0, 3.0)
    ballast.unlink(missing_ok=True)


# ---- networks


async def cut(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """All connections reset, again and again, and some refused."""
    for _ in range(rng.randint(1, 3)):
        proxy.cut()
        proxy.refusing = rng.random() < 0.5
        await _pause(rng, 0.0, 1.0)
        proxy.refusing = False


async def freeze(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """Nothing arrives, nothing breaks; then either it all arrives, or it breaks."""
    proxy.freeze()
    await _pause(rng, 0.5, 6.0)
    if rng.random() < 0.5:
        proxy.cut()
    proxy.thaw()


async def delay(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """Everything is late."""
    proxy.delay_s = rng.uniform(0.05, 0.5)
    await _pause(rng, 1.0, 4.0)
    proxy.delay_s = 0.0


async def truncate(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """The connection breaks after a byte somewhere in the middle of something, in both directions in turn."""
    for way in Way:
        proxy.truncate(way, rng.randint(1, 200_000))
        await _pause(rng, 0.5, 2.0)
    proxy.heal()


async def to_device(
    act: Callable[[Proxy, Site, random.Random], Awaitable[None]], site: Site, rng: random.Random
) -> None:
    """On the way to a device."""
    await act(_device(site, rng).proxy, site, rng)


async def to_database(
    act: Callable[[Proxy, Site, random.Random], Awaitable[None]], site: Site, rng: random.Random
) -> None:
    """On the way to a tenant's database."""
    await act(_tenant(site, rng).proxy, site, rng)


# ---- devices


async def kill_device(site: Site, rng: random.Random) -> None:
    """And start it again; what it had not handed over dies with it."""
    device = _device(site, rng)
    await device.child.kill(down=True)
    await _pause(rng, 0.0, 1.5)
    device.child.start()
    await device.child.wait_ready()


async def freeze_device(site: Site, rng: random.Random) -> None:
    """SIGSTOP for a while."""
    device = _device(site, rng)
    device.child.freeze()
    await _pause(rng, 0.5, 5.0)
    device.child.thaw()


async def jump_clock(site: Site, rng: random.Random) -> None:
    """Source times an hour ahead, then an hour back."""
    device = _counting(site, rng)
    hour_us = 3_600_000_000
    for step_us in (hour_us, -2 * hour_us, hour_us):
        await device.child.tell(op="jump", us=step_us)
        await _pause(rng, 0.3, 1.0)


# ---- the journal


async def fill_journal_disk(site: Site, rng: random.Random) -> None:
    """Nothing can be accepted; devices keep what they have."""
    ballast = site.disks[0] / BALLAST
    await trio.to_thread.run_sync(_fill, ballast)
    await _pause(rng, 1.0, 3.0)
    ballast.unlink(missing_ok=True)


async def corrupt_journal(site: Site, rng: random.Random) -> None:
    """A journal with something in it, some of its bytes changed while the service is down."""
    await site.kill_postgres()
    await _pause(rng, 1.0, 2.0)
    await site.service.kill(down=True)
    path = site.journal_dir / f"{site.tenants[0].tenant_id}.sqlite"
    if path.exists():
        await trio.to_thread.run_sync(_change_bytes, path, rng)
    await site.start_postgres()
    site.service.start()
    await site.service.wait_ready()


# ---- configuration


async def reconfigure(site: Site, rng: random.Random) -> None:
    """Tags removed and added again, many times, under load."""
    device = _counting(site, rng)
    for _ in range(10):
        count = rng.randint(1, device.nodes // 2)
        nodes = rng.sample(range(1, device.nodes), count)  # the first one shows how far a device is
        await trio.to_thread.run_sync(remove_tags, site.master_url, device, nodes)
        await _pause(rng, 0.0, 0.3)
        await trio.to_thread.run_sync(store_tags, site.master_url, device, nodes)
        await _pause(rng, 0.0, 0.3)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        block = bytes(1 << 16)
        try:
            while True:
                file.write(block)
        except OSError:
            return


def _change_bytes(path: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(3):
            file.seek(rng.randrange(size))
            file.write(rng.randbytes(16))
        os.fsync(file.fileno())


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault("none", lambda site, rng: _pause(rng, 0.5, 1.0)),
        Fault("kill -9 service", kill_service),
        Fault("kill -9 service between COPY and commit", partial(kill_service_at_commit, Catch.NEVER_ARRIVES)),
        Fault("kill -9 service between commit and journal", partial(kill_service_at_commit, Catch.NEVER_ANSWERED)),
        Fault("connection lost before commit", partial(lose_commit, Catch.NEVER_ARRIVES)),
        Fault("connection lost after commit", partial(lose_commit, Catch.NEVER_ANSWERED)),
        Fault("SIGSTOP service", freeze_service),
        Fault("kill -9 PostgreSQL", kill_postgres),
        Fault("SIGSTOP PostgreSQL", freeze_postgres),
        Fault("kill -9 service and PostgreSQL", kill_service_and_postgres),
        Fault("full disk under PostgreSQL", fill_database_disk, needs_small_disks=True),
        Fault("cut to database", partial(to_database, cut)),
        Fault("freeze to database", partial(to_database, freeze)),
        Fault("delay to database", partial(to_database, delay)),
        Fault("truncate to database", partial(to_database, truncate)),
        Fault("cut to device", partial(to_device, cut)),
        Fault("freeze to device", partial(to_device, freeze)),
        Fault("delay to device", partial(to_device, delay)),
        Fault("truncate to device", partial(to_device, truncate)),
        Fault("kill -9 device", kill_device),
        Fault("SIGSTOP device", freeze_device),
        Fault("clock of device jumps", jump_clock),
        Fault("full disk under journal", fill_journal_disk, needs_small_disks=True),
        Fault("corrupted journal", corrupt_journal, loses_journal=True),
        Fault("10 reconfigurations", reconfigure),
    )
}


async def mixed(faults: list[Fault], site: Site, rng: random.Random) -> None:
    """Several at a time, each with a sequence of random numbers of its own."""
    seeds = [rng.random() for _ in faults]
    async with trio.open_nursery() as nursery:
        for fault, seed in zip(faults, seeds, strict=True):
            nursery.start_soon(_survive, fault, site, random.Random(seed))


async def _survive(fault: Fault, site: Site, rng: random.Random) -> None:
    """One fault may take from another what it needs: a database to change the configuration in."""
    with suppress(psycopg.OperationalError, trio.TooSlowError, trio.BrokenResourceError):
        await fault.act(site, rng)
