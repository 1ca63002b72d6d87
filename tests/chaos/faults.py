"""What is done to a site. Each fault breaks something, waits a seeded while, and leaves it as it was.

Nothing is mended by hand: dead processes come back as a supervisor brings them back, and whether the rest recovers is
for the run to see.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import psycopg
import trio

from tests.chaos import journal_damage, service_faults
from tests.chaos.acts import Act, NotInjected, any_counting, any_device, any_tenant, pause
from tests.chaos.disks import fill
from tests.chaos.proxy import Catch, Proxy, Way
from tests.chaos.service_faults import damage_journal, fill_small_journal, kill_service_at_commit, lose_commit
from tests.chaos.site import Site, remove_tags, store_tags


@dataclass(frozen=True, slots=True)
class Fault:
    """``loses_journal``: accepted readings may be lost by it, and must then be in the ledger."""

    name: str
    act: Act
    loses_journal: bool = False
    needs_small_disks: bool = False


# ---- the database


async def kill_postgres(site: Site, rng: random.Random) -> None:
    """And start it again."""
    await site.kill_postgres()
    await pause(rng, 0.2, 3.0)
    await site.start_postgres()


async def freeze_postgres(site: Site, rng: random.Random) -> None:
    """SIGSTOP for all its processes, longer than a statement may take or shorter."""
    site.freeze_postgres()
    await pause(rng, 0.5, 8.0)
    site.thaw_postgres()


async def fill_database_disk(site: Site, rng: random.Random) -> None:
    """No room for another page."""
    await fill(site.disks[1], rng)


# ---- networks


async def cut(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """All connections reset, again and again, and some refused."""
    for _ in range(rng.randint(1, 3)):
        proxy.cut()
        proxy.refusing = rng.random() < 0.5
        await pause(rng, 0.0, 1.0)
        proxy.refusing = False


async def freeze(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """Nothing arrives, nothing breaks; then either it all arrives, or it breaks."""
    proxy.freeze()
    await pause(rng, 0.5, 6.0)
    if rng.random() < 0.5:
        proxy.cut()
    proxy.thaw()


async def delay(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """Everything is late."""
    proxy.delay_s = rng.uniform(0.05, 0.5)
    await pause(rng, 1.0, 4.0)
    proxy.delay_s = 0.0


async def truncate(proxy: Proxy, site: Site, rng: random.Random) -> None:
    """The connection breaks after a byte somewhere in the middle of something, in both directions in turn."""
    for way in Way:
        proxy.truncate(way, rng.randint(1, 200_000))
        await pause(rng, 0.5, 2.0)
    proxy.heal()


async def to_device(
    act: Callable[[Proxy, Site, random.Random], Awaitable[None]], site: Site, rng: random.Random
) -> None:
    """On the way to a device."""
    await act(any_device(site, rng).proxy, site, rng)


async def to_database(
    act: Callable[[Proxy, Site, random.Random], Awaitable[None]], site: Site, rng: random.Random
) -> None:
    """On the way to a tenant's database."""
    await act(any_tenant(site, rng).proxy, site, rng)


# ---- devices


async def kill_device(site: Site, rng: random.Random) -> None:
    """And start it again; what it had not handed over dies with it."""
    device = any_device(site, rng)
    await device.child.kill(down=True)
    await pause(rng, 0.0, 1.5)
    device.child.start()
    await device.child.wait_ready()


async def freeze_device(site: Site, rng: random.Random) -> None:
    """SIGSTOP for a while."""
    device = any_device(site, rng)
    device.child.freeze()
    await pause(rng, 0.5, 5.0)
    device.child.thaw()


async def overflow_queue(site: Site, rng: random.Random) -> None:
    """Nothing comes through to the device with the tiny queue until that is full, and longer."""
    device = next(device for device in site.devices if device.tiny_queue)
    device.proxy.freeze()
    await pause(rng, 1.0, 3.0)
    device.proxy.thaw()


async def jump_clock(site: Site, rng: random.Random) -> None:
    """Source times an hour ahead, then an hour back."""
    device = any_counting(site, rng)
    hour_us = 3_600_000_000
    for step_us in (hour_us, -2 * hour_us, hour_us):
        await device.child.tell(op="jump", us=step_us)
        await pause(rng, 0.3, 1.0)


# ---- configuration


async def reconfigure(site: Site, rng: random.Random) -> None:
    """Tags removed and added again, many times, under load."""
    device = any_counting(site, rng)
    for _ in range(10):
        count = rng.randint(1, device.nodes // 2)
        nodes = rng.sample(range(1, device.nodes), count)  # the first one shows how far a device is
        await trio.to_thread.run_sync(remove_tags, site.master_url, device, nodes)
        await pause(rng, 0.0, 0.3)
        await trio.to_thread.run_sync(store_tags, site.master_url, device, nodes)
        await pause(rng, 0.0, 0.3)


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault("none", lambda site, rng: pause(rng, 0.5, 1.0)),
        Fault("kill -9 service", service_faults.kill_service),
        Fault("kill -9 service in COPY", partial(kill_service_at_commit, Catch.IN_COPY)),
        Fault("kill -9 service between COPY and commit", partial(kill_service_at_commit, Catch.NEVER_ARRIVES)),
        Fault("kill -9 service between commit and journal", partial(kill_service_at_commit, Catch.NEVER_ANSWERED)),
        Fault("connection lost in COPY", partial(lose_commit, Catch.IN_COPY)),
        Fault("connection lost before commit", partial(lose_commit, Catch.NEVER_ARRIVES)),
        Fault("connection lost after commit", partial(lose_commit, Catch.NEVER_ANSWERED)),
        Fault("SIGSTOP service", service_faults.freeze_service),
        Fault("kill -9 service with JOURNAL_SYNC=full", service_faults.sync_every_commit),
        Fault("kill -9 service with two writers", service_faults.write_over_two),
        Fault("kill -9 PostgreSQL", kill_postgres),
        Fault("SIGSTOP PostgreSQL", freeze_postgres),
        Fault("kill -9 service and PostgreSQL", service_faults.kill_service_and_postgres),
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
        Fault("tiny queue of device overflows", overflow_queue),
        Fault("full disk under journal", service_faults.fill_journal_disk, needs_small_disks=True),
        Fault("full journal, hold", partial(fill_small_journal, "hold", "journal full, intake held")),
        Fault(
            "full journal, drop_oldest",
            partial(fill_small_journal, "drop_oldest", "journal full, oldest readings dropped"),
            loses_journal=True,
        ),
        Fault("damaged journal, anywhere", partial(damage_journal, journal_damage.change_anywhere), loses_journal=True),
        Fault("damaged journal, blocks", partial(damage_journal, journal_damage.change_blocks), loses_journal=True),
        Fault("damaged journal, WAL", partial(damage_journal, journal_damage.change_wal), loses_journal=True),
        Fault(
            "damaged journal, subscriptions",
            partial(damage_journal, journal_damage.change_subscriptions),
            loses_journal=True,
        ),
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
    with suppress(psycopg.OperationalError, NotInjected, trio.TooSlowError, trio.BrokenResourceError):
        await fault.act(site, rng)
