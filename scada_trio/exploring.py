"""Looking at devices for the API: walks that wait for their next page, and trials.

Owns the sessions of the walks, how many there may be and how long one waits. The service runs `Explorer.run`. Worker
threads and sessions are other than those of subscriptions; what is shared with them is the event loop alone.

    call ── browse ──► held walk ◄── task of `run`: opens it, keeps its session alive, closes it
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import trio

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, DeviceUnreachable, InvalidField, TooManyWalks
from scada_trio.nodes import BrowsePage, BrowseQuery, FoundNode, WalkPlace
from scada_trio.opcua.browse import Walk, open_walk
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.trial import try_device
from scada_trio.trial import Trial

_IDLE_S: Final = 60.0
_PAGE_S: Final = 5.0
"""A page that is not full by then is sent as it is: filters may let nothing through for long."""
_WALKS_A_TENANT: Final = 2
_WALKS: Final = 32
_TRIALS_A_TENANT: Final = 4


def _expired() -> InvalidField:
    return InvalidField("page_token", "is too old, its walk has ended; ask from the beginning")


class _HeldWalk:
    """A walk between two pages. ``ready`` comes when ``walk`` is there, or ``error`` is."""

    def __init__(self, spec: ConnectionSpec, query: BrowseQuery) -> None:
        self.spec, self.query = spec, query
        self.key = os.urandom(12).hex()
        self.scope = trio.CancelScope()
        self.ready = trio.Event()
        self.walk: Walk | None = None
        self.error: DeviceError | None = None
        self.turn = trio.Lock()
        self.used_at = trio.current_time()
        self.rest: list[FoundNode] = []
        self.pages = 0
        self.last: BrowsePage | None = None

    async def next_page(self, limit: int) -> BrowsePage:
        """Up to ``limit`` nodes; the caller has the turn."""
        walk = self.walk
        if walk is None:
            raise self.error or _expired()
        done = False
        ends_at = trio.current_time() + _PAGE_S
        while len(self.rest) < limit and trio.current_time() < ends_at and not done:
            found = await walk.take()
            done = not found
            self.rest += found
        nodes, self.rest = self.rest[:limit], self.rest[limit:]
        self.pages += 1
        following = None if done and not self.rest else WalkPlace(self.key, self.pages)
        self.last = BrowsePage(nodes, following, walk.visited, walk.unread)
        return self.last

    def end(self) -> None:
        """Nobody goes on with it; its session is closed."""
        self.walk = None
        self.scope.cancel()

    async def keep(self, walk: Walk) -> None:
        """Keep the session alive until nobody has asked for a page for a minute."""
        while True:
            await trio.sleep_until(min(walk.upkeep_at, self.used_at + _IDLE_S))
            async with self.turn:
                if trio.current_time() >= self.used_at + _IDLE_S:
                    self.walk = None  # closing takes a moment, and nobody may take it up meanwhile
                    return
                await walk.keep_up()


class Explorer:
    """Made and run by the service; any task may call."""

    def __init__(self, settings: DeviceSettings, pki: Pki) -> None:
        self._settings, self._pki = settings, pki
        self._starts, self._started = trio.open_memory_channel[_HeldWalk](_WALKS)
        self._held: dict[str, _HeldWalk] = {}
        self._trials: Counter[UUID] = Counter()

    async def run(self) -> None:
        """Hold the walks; returns only when cancelled, with every session closed."""
        async with trio.open_nursery() as nursery:
            async for held in self._started:
                nursery.start_soon(self._hold, held, name=f"walk of tenant {held.spec.tenant_id}")

    async def browse(self, spec: ConnectionSpec, query: BrowseQuery, limit: int, place: WalkPlace | None) -> BrowsePage:
        """A page; without ``place`` of a new walk. Cancelled, the walk ends. Raises as `Backend.browse`."""
        held = await self._open(spec, query) if place is None else self._held.get(place.key)
        if held is None or held.spec.tenant_id != spec.tenant_id:
            raise _expired()
        try:
            async with held.turn:
                held.used_at = trio.current_time()
                if place is not None and place.pages == held.pages - 1 and held.last is not None:
                    return held.last  # the answer was lost, the client asks again
                if place is not None and place.pages != held.pages:
                    raise _expired()
                page = await held.next_page(limit)
                held.used_at = trio.current_time()
        except (DeviceError, trio.Cancelled):
            held.end()
            raise
        if page.following is None:
            held.end()
        return page

    async def try_device(self, spec: ConnectionSpec, node_ids: Sequence[str]) -> Trial:
        """All steps of a trial; without ``node_ids`` some of the connection's own tags are read."""
        with self._counted_trial(spec.tenant_id):
            return await try_device(
                spec,
                node_ids or [tag.node_id for tag in spec.tags],
                settings=self._settings,
                pki=self._pki,
                limiter=trio.CapacityLimiter(1),
                resolving=trio.CapacityLimiter(1),
            )

    @contextmanager
    def _counted_trial(self, tenant_id: UUID) -> Iterator[None]:
        if self._trials[tenant_id] >= _TRIALS_A_TENANT:
            raise TooManyWalks(f"{_TRIALS_A_TENANT} connections of this tenant are being tested already")
        self._trials[tenant_id] += 1
        try:
            yield
        finally:
            self._trials[tenant_id] -= 1
            if not self._trials[tenant_id]:
                del self._trials[tenant_id]

    async def _open(self, spec: ConnectionSpec, query: BrowseQuery) -> _HeldWalk:
        of_tenant = sum(held.spec.tenant_id == spec.tenant_id for held in self._held.values())
        if of_tenant >= _WALKS_A_TENANT or len(self._held) >= _WALKS:
            raise TooManyWalks(
                f"{of_tenant} devices of this tenant are browsed already; one ends a minute after its last page"
            )
        held = _HeldWalk(spec, query)
        self._held[held.key] = held
        self._starts.send_nowait(held)
        try:
            await held.ready.wait()
        except trio.Cancelled:
            held.end()
            raise
        if held.error is not None:
            raise held.error
        return held

    async def _hold(self, held: _HeldWalk) -> None:
        limiter, resolving = trio.CapacityLimiter(2), trio.CapacityLimiter(1)
        try:
            with held.scope:
                async with open_walk(
                    held.spec,
                    held.query,
                    settings=self._settings,
                    pki=self._pki,
                    limiter=limiter,
                    resolving=resolving,
                ) as walk:
                    held.walk = walk
                    held.ready.set()
                    await held.keep(walk)
        except DeviceError as error:
            held.error = error
        finally:
            held.walk = None
            held.error = held.error or DeviceUnreachable("the walk was ended")
            held.ready.set()
            del self._held[held.key]
