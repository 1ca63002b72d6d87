"""One subscription and its monitored items, kept equal to what is wanted of a connection.

Owns the changes of items on the server and of the handles that stand for them in notifications. Knows no channel and no
metric; the connection opens it within a session, and what it leaves for the next session is the `KeptSubscription`.

    apply(spec) ── difference ──► modify, delete, create (in batches that the server takes) ──► items, refused

A changed parameter goes to the item that is there (ModifyMonitoredItems, Part 4, 5.12.3), a changed publishing interval
to the subscription (5.13.3): what is deleted takes its queue with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
import trio

from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, DeviceSilent
from scada_trio.opcua.client import LinkClient
from scada_trio.opcua.item_services import Wanted, create_items, delete_items, modify_items
from scada_trio.opcua.kept import Item, KeptSubscription, Series
from scada_trio.opcua.parameters import ItemParameters, item_parameters, publishing_ms
from scada_trio.opcua.publishing import Publisher
from scada_trio.opcua.repeats import LastReadings
from scada_trio.opcua.services import modify_subscription, read_server
from scada_trio.opcua.session import Session
from scada_trio.opcua.takeover import SESSION_GONE, SUBSCRIPTION_GONE, TakeoverUnanswered
from scada_trio.readings import Tag, TagTable
from scada_trio.status import RefusedTag, Revisions

log = structlog.get_logger()

_SILENT_AFTER: Final = 2.5
"""Keep-alive periods without a byte: one may be late, and the third must not pass unnoticed."""

_EXAMPLES: Final = 10
"""Revised items that are shown."""


class Subscription:
    """The live items of one connection, in ``session``; ``provisional`` where ``kept`` was taken over.

    Used in the Trio thread, and given up with the session: what becomes of the subscription is decided when that is
    closed. ``publisher`` is the caller's to start, and its readings go out from then on.

    ``refused`` lists the tags that cannot be used and those that the server did not take, each in the order of the
    tags; ``revisions`` is what the server made of what was asked for.
    """

    def __init__(
        self, session: Session, kept: KeptSubscription, tags: TagTable, last: LastReadings, *, provisional: bool
    ) -> None:
        self.refused: list[RefusedTag] = []
        self.revisions = Revisions()
        self.publisher = Publisher(session, kept, provisional=provisional)
        self._session = session
        self._kept = kept
        self._tags = tags
        self._last = last
        self._opened_at = trio.current_time()
        last.add((tags.index_of(*series) for series in kept.items), created=False)

    def __len__(self) -> int:
        return len(self._kept.items)

    @property
    def item_ids(self) -> Mapping[Series, int | None]:
        """The server's monitored item id of each series."""
        return {series: item.item_id for series, item in self._kept.items.items()}

    # ---- silence

    @property
    def silent_at(self) -> float:
        """Trio time at which the device has been silent for too long, if nothing comes before."""
        if self.publisher.outstanding == 0:
            return math.inf  # nothing was asked, nothing is due
        since = self._session.heard_at if self.publisher.confirmed else self._opened_at
        return since + _SILENT_AFTER * self._kept.keep_alive_s

    async def check_silence(self) -> None:
        """Raise `DeviceSilent` where `silent_at` has passed and nothing waits in the socket either.

        A device that speaks and has published nothing since the subscription was opened is `TakeoverUnanswered`: two
        makers say that a subscription goes on, and mean another session or none.
        """
        if trio.current_time() < self.silent_at:
            return
        if not self.publisher.confirmed:
            await self._session.call("Read", partial(read_server, self._session.client))
            if not self.publisher.confirmed:
                unanswered = TakeoverUnanswered("the server publishes nothing of a subscription that it says goes on")
                self._session.fail(unanswered)
                raise unanswered
            return
        heard_at = self._session.heard_at
        for _ in range(3):  # it may be we who slept: let the pump have a look first
            await trio.lowlevel.checkpoint()
        if self._session.heard_at == heard_at:
            silent_s = trio.current_time() - heard_at
            error = DeviceSilent(
                f"nothing came for {silent_s:.1f} s; a keep-alive was due every {self._kept.keep_alive_s:g} s"
            )
            self._session.fail(error)
            raise error

    # ---- the subscription and its items

    async def apply(self, spec: ConnectionSpec) -> bool:
        """Make publishing interval and items those of ``spec``: what differs is changed, all else is left alone.

        Tags of the same well and node are one series and get one item; the first counts. A changed scaling factor takes
        effect at once. Tags that cannot be used, and those that the server refuses, are in ``refused``; applying them
        again tries the latter again. Returns whether items changed.

        Raises `DeviceError`; the session is of no use then.
        """
        await self._ask_for_interval(spec)
        settings = self._session.settings
        wanted: dict[Series, tuple[Tag, ItemParameters]] = {}
        kinds: dict[ItemParameters, ItemParameters] = {}  # few: what is the same is kept once
        unusable: list[RefusedTag] = []
        for tag in spec.tags:
            if tag.problem is not None:
                unusable.append(RefusedTag(tag.node_id, tag.problem))
            else:
                parameters = item_parameters(tag, spec, settings)
                wanted.setdefault((tag.well_id, tag.node_id), (tag, kinds.setdefault(parameters, parameters)))
        items = self._kept.items
        stale = [item for series, item in items.items() if series not in wanted]
        await self._delete(stale)
        for series, item in items.items():
            self._adopt(item, wanted[series][0])
        changed = [(item, wanted[series][1]) for series, item in items.items() if item.asked != wanted[series][1]]
        await self._delete(await self._modify(changed))
        missing = [found for series, found in wanted.items() if series not in items]
        refused = await self._create(missing)
        self._note_refused([*unusable, *refused])
        self._sum_up()
        return bool(stale) or bool(changed) or len(missing) > len(refused)

    async def _ask_for_interval(self, spec: ConnectionSpec) -> None:
        """Ask for another publishing interval where it is not that of ``spec``, or an earlier process asked."""
        kept, session = self._kept, self._session
        wanted_ms = publishing_ms(spec, session.settings)
        if kept.publishing_ms == wanted_ms:
            return
        modify = partial(modify_subscription, session.client, kept.subscription_id, session.settings, wanted_ms)
        terms = await session.call("ModifySubscription", modify)
        if terms is not None:
            kept.agree(terms)
            return
        kept.publishing_ms = wanted_ms
        if kept.terms is not None:
            kept.terms = replace(kept.terms, publishing_ms=wanted_ms)
        log.warning("device refused another publishing interval", **self._names, publishing_interval_ms=wanted_ms)

    def _adopt(self, item: Item, tag: Tag) -> None:
        """Let ``item`` stand for ``tag`` from now on."""
        if item.item_id is None or item.tag.factor != tag.factor:
            self._kept.handles.set(item.handle, self._tags.index_of(tag.well_id, tag.node_id), tag.factor)
        item.tag = tag

    async def _delete(self, items: Sequence[Item]) -> None:
        while items:
            batch = items[: self._kept.items_a_call]
            ids = [item.item_id for item in batch if item.item_id is not None]
            if ids and not await self._change("DeleteMonitoredItems", partial(delete_items, *self._target, ids)):
                continue
            for item in batch:
                self._kept.handles.remove(item.handle)
                del self._kept.items[item.tag.well_id, item.tag.node_id]
            items = items[len(batch) :]

    async def _modify(self, changes: Sequence[Wanted]) -> list[Item]:
        """Ask for other parameters of items; returns those that have to be made anew, since the server changes none.

        An item of an earlier process that cannot be changed is left as it is where its deadband is right: what else was
        asked for is not known, and its queue would go with it.
        """
        useless: list[Item] = []
        known = {item for item, _ in changes if item.asked is not None}
        while changes:
            batch = changes[: self._kept.items_a_call]
            unchanged = await self._modify_batch(batch)
            if unchanged is None:
                self._halve()
                continue
            for item, parameters in unchanged:
                if item in known or item.item_id is None or item.deadband != parameters.deadband:
                    useless.append(item)
                else:
                    item.asked = parameters
            changes = changes[len(batch) :]
        return useless

    async def _modify_batch(self, batch: Sequence[Wanted]) -> Sequence[Wanted] | None:
        """See `modify_items`; a server that does not know the call changes nothing."""
        if not self._kept.modifies_items:
            return batch
        self._expect_repetitions(item for item, _ in batch)
        for item, _ in batch:
            item.asked = None  # until the server has answered
        try:
            return await self._session.call("ModifyMonitoredItems", partial(modify_items, *self._target, batch))
        except DeviceError as error:
            if self._session.unusable or error.status in (None, *SUBSCRIPTION_GONE, *SESSION_GONE):
                raise
            self._kept.modifies_items = False
            log.info("device does not modify items", **self._names, error=str(error))
            return batch

    async def _create(self, tags: Sequence[tuple[Tag, ItemParameters]]) -> list[RefusedTag]:
        """Create items for ``tags``; returns what the server refused."""
        refused: list[RefusedTag] = []
        while tags:
            batch = [(self._prepare(tag), parameters) for tag, parameters in tags[: self._kept.items_a_call]]
            items = [item for item, _ in batch]
            self._expect_repetitions(items)
            if not await self._change("CreateMonitoredItems", partial(create_items, *self._target, batch)):
                for item in items:
                    self._kept.handles.remove(item.handle)
                continue
            tags = tags[len(batch) :]
            for item in items:
                if item.item_id is not None:
                    index = self._tags.index_of(item.tag.well_id, item.tag.node_id)
                    self._kept.items[self._tags.key(index)] = item  # the same pair of all that keep it
                else:
                    self._kept.handles.remove(item.handle)
            refused += [RefusedTag(item.tag.node_id, item.refused) for item in items if item.refused is not None]
        return refused

    def _prepare(self, tag: Tag) -> Item:
        """Give the item its handle before the server can use it."""
        self._kept.last_handle += 1
        item = Item(tag, self._kept.last_handle)
        self._adopt(item, tag)
        return item

    def _expect_repetitions(self, items: Iterable[Item]) -> None:
        """The next reading of each may be the last one again."""
        self._last.add((self._tags.index_of(item.tag.well_id, item.tag.node_id) for item in items), created=True)

    async def _change(self, context: str, call: Callable[[], bool]) -> bool:
        """Make a call that creates or deletes items; False, and fewer the next time, where it is too large."""
        self._kept.unsure = True
        done = await self._session.call(context, call)
        self._kept.unsure = False
        if not done:
            self._halve()
        return done

    def _halve(self) -> None:
        """The server takes fewer operations a call than it says."""
        if self._kept.items_a_call == 1:
            raise DeviceError("the server finds a call with a single monitored item too large")
        self._kept.items_a_call = max(1, self._kept.items_a_call // 2)

    # ---- what is shown

    def _note_refused(self, refused: list[RefusedTag]) -> None:
        """Show refused tags in ``refused`` and, where they are others than before, in one log line."""
        if refused and refused != self.refused:
            examples = [f"{tag.node_id} {tag.status}" for tag in refused[:3]]
            log.warning("device refused tags", **self._names, tags_refused=len(refused), examples=examples)
        self.refused = refused

    def _sum_up(self) -> None:
        """Count what is other than asked for, in ``revisions`` and, where more filters are refused, in one log line."""
        items = self._kept.items.values()
        revised = [revision for item in items if (revision := item.revision) is not None]
        unfiltered = [item.tag.node_id for item in items if item.unfiltered]
        if len(unfiltered) > self.revisions.unfiltered:
            names = {**self._names, "items": len(unfiltered), "examples": unfiltered[:3]}
            log.warning("device refused deadbands, items report every change", **names)
        self.revisions = Revisions(self._kept.terms, len(revised), tuple(revised[:_EXAMPLES]), len(unfiltered))

    @property
    def _target(self) -> tuple[LinkClient, int]:
        return self._session.client, self._kept.subscription_id

    @property
    def _names(self) -> dict[str, str]:
        spec = self._session.spec
        return {"connection_id": str(spec.connection_id), "tenant_id": str(spec.tenant_id)}
