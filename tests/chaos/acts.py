"""What several faults need: a pause, a device, a tenant, by seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from tests.chaos.site import Device, Site, Tenant

Act = Callable[[Site, random.Random], Awaitable[None]]


class NotInjected(Exception):
    """A fault could not do what it is there for; where two are at work one may take from the other what it needs."""


async def pause(rng: random.Random, least_s: float, most_s: float) -> None:
    """Between the two, by seed."""
    await trio.sleep(rng.uniform(least_s, most_s))


def any_device(site: Site, rng: random.Random) -> Device:
    """Of any maker."""
    return rng.choice(site.devices)


def any_counting(site: Site, rng: random.Random) -> Device:
    """A fast one of our own."""
    return rng.choice([device for device in site.devices if device.counting and not device.tiny_queue])


def any_tenant(site: Site, rng: random.Random) -> Tenant:
    """One of them."""
    return rng.choice(site.tenants)
