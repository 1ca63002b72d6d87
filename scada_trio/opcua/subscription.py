"""One subscription and its monitored items, kept equal to a set of tags.

Owns the changes of items on the server and of the handles that stand for them in notifications. Knows no channel and no
metric; the connection opens it within a session, and what it leaves for the next session is the `KeptSubscription`.

    apply(tags) ── difference ──► delete, create (in batches that the server takes) ──► items, refused
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
import trio
from opcua import ua

from scada_trio.errors import DeviceError, DeviceSilent
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.kept import Item, KeptSubscription, Series
from scada_trio.opcua.publishing import Publisher
from scada_trio.opcua.repeats import LastReadings
from scada_trio.opcua.services import create_items, delete_items, item_request, raw_deadband, read_server
from scada_trio.opcua.session import Session
from scada_trio.opcua.takeover import TakeoverUnanswered
from scada_trio.readings import Tag, TagTable
from scada_trio.status import RefusedTag

log = structlog.get_logger()

_SILENT_AFTER: Final = 2.5
"""Keep-alive periods without a byte: one may be late, and the third must not pass unnoticed."""

_FILTER_REFUSED: Final = frozenset(
    {
        ua.StatusCodes.BadMonitoredItemFilterInvalid,
        ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ua.StatusCodes.BadFilterNotAllowed,
        ua.StatusCodes.BadDeadbandFilterInvalid,
    }
)


@asynccontextmanager
async def open_subscription(
    session: Session, kept: KeptSubscription, *, tags: TagTable, last: LastReadings, provisional: bool = False
) -> AsyncIterator[Subscription]:
    """Publish ``kept`` in ``session`` while the block runs; ``provisional`` where it was taken over.

    Raises `DeviceError`, never in a group. Nothing is closed on the way out: what becomes of the subscription is
    decided when the session is closed.
    """
    subscription = Subscription(session, kept, tags, last, provisional=provisional)
    ended_by: DeviceError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.publisher.run, name=f"connection {session.spec.connection_id} gaps")
        subscription.publisher.start()
        try:
            yield subscription
        except DeviceError as error:
            ended_by = error
        nursery.cancel_scope.cancel()
    if ended_by is not None:
        raise ended_by


class Subscription:
    """The live items of one connection. Made by `open_subscription`; used in the Trio thread.

    ``refused`` lists the tags that the server did not take, in the order of the tags.
    """

    def __init__(
        self, session: Session, kept: KeptSubscription, tags: TagTable, last: LastReadings, *, provisional: bool
    ) -> None:
        self.refused: list[RefusedTag] = []
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

    # ---- items

    async def apply(self, tags: Iterable[Tag]) -> bool:
        """Make the items those of ``tags``: what differs is deleted and created, every other item is left alone.

        Tags of the same well and node are one series and get one item; the first counts. A changed scaling factor takes
        effect at once, a changed deadband makes a new item. Tags that the server refuses are in ``refused``; applying
        them again tries them again. Returns whether items changed. Raises `DeviceError`; the session is of no use then.
        """
        wanted: dict[Series, Tag] = {}
        for tag in tags:
            wanted.setdefault((tag.well_id, tag.node_id), tag)
        stale = [item for series, item in self._kept.items.items() if not _serves(item, wanted.get(series))]
        self._kept.unsure = True
        await self._delete(stale)
        for series, item in self._kept.items.items():
            self._adopt(item, wanted[series])
        missing = [tag for series, tag in wanted.items() if series not in self._kept.items]
        refused = await self._create(missing)
        self._kept.unsure = False
        self._note_refused(refused)
        return bool(stale) or len(missing) > len(refused)

    def _adopt(self, item: Item, tag: Tag) -> None:
        """Let ``item`` stand for ``tag`` from now on."""
        if item.item_id is None or item.tag.scaling_factor != tag.scaling_factor:
            self._kept.handles.set(item.handle, self._tags.index_of(tag.well_id, tag.node_id), tag.scaling_factor)
        item.tag = tag

    async def _delete(self, items: Sequence[Item]) -> None:
        while items:
            batch = items[: self._kept.items_a_call]
            ids = [item.item_id for item in batch if item.item_id is not None]
            done = await self._session.call(
                "DeleteMonitoredItems", partial(delete_items, self._session.client, self._kept.subscription_id, ids)
            )
            if not done:
                self._halve()
                continue
            for item in batch:
                self._kept.handles.remove(item.handle)
                del self._kept.items[item.tag.well_id, item.tag.node_id]
            items = items[len(batch) :]

    async def _create(self, tags: Sequence[Tag]) -> list[Item]:
        """Create items for ``tags``; returns those that the server refused."""
        refused: list[Item] = []
        unfiltered = 0
        while tags:
            batch = [self._prepare(tag) for tag in tags[: self._kept.items_a_call]]
            self._last.add((self._tags.index_of(item.tag.well_id, item.tag.node_id) for item in batch), created=True)
            done = await self._session.call("CreateMonitoredItems", partial(self._create_batch, batch))
            if not done:
                for item in batch:
                    self._kept.handles.remove(item.handle)
                self._halve()
                continue
            tags = tags[len(batch) :]
            for item in batch:
                if item.item_id is not None:
                    self._kept.items[item.tag.well_id, item.tag.node_id] = item
                    unfiltered += item.unfiltered
                else:
                    self._kept.handles.remove(item.handle)
            refused += [item for item in batch if item.refused is not None]
        if unfiltered:
            log.warning("device refused deadbands, items report every change", **self._names, items=unfiltered)
        return refused

    def _prepare(self, tag: Tag) -> Item:
        """Give the item its handle before the server can use it."""
        self._kept.last_handle += 1
        item = Item(tag, self._kept.last_handle, raw_deadband(tag))
        self._adopt(item, tag)
        return item

    def _halve(self) -> None:
        """The server takes fewer operations a call than it says."""
        if self._kept.items_a_call == 1:
            raise DeviceError("the server finds a call with a single monitored item too large")
        self._kept.items_a_call = max(1, self._kept.items_a_call // 2)

    def _create_batch(self, batch: Sequence[Item]) -> bool:
        """In a worker thread: create the items, once more without deadband where the server refuses that."""
        requests: list[tuple[Item, Any]] = []
        for item in batch:
            try:
                requests.append((item, item_request(item.tag, item.handle, self._session.settings)))
            except ValueError:
                item.refused = "BadNodeIdInvalid"
        again: list[tuple[Item, Any]] = []
        for attempt in (requests, again):
            results = create_items(
                self._session.client, self._kept.subscription_id, [request for _, request in attempt]
            )
            if results is None and attempt is requests:
                return False
            if results is None:
                raise DeviceError("CreateMonitoredItems: the server took a call and then found half of it too large")
            for (item, request), result in zip(attempt, results, strict=True):
                if (
                    attempt is requests
                    and request.RequestedParameters.Filter
                    and result.StatusCode.value in _FILTER_REFUSED
                ):
                    request.RequestedParameters.Filter = None
                    item.unfiltered = True
                    again.append((item, request))
                elif result.StatusCode.is_good():
                    item.item_id = int(result.MonitoredItemId)
                else:
                    item.refused = status_name(result.StatusCode.value)
        return True

    def _note_refused(self, items: Sequence[Item]) -> None:
        """Show refused tags in ``refused`` and, where they are others than before, in one log line."""
        refused = [RefusedTag(item.tag.node_id, item.refused or "") for item in items]
        if refused and refused != self.refused:
            examples = [f"{tag.node_id} {tag.status}" for tag in refused[:3]]
            log.warning("device refused tags", **self._names, tags_refused=len(refused), examples=examples)
        self.refused = refused

    @property
    def _names(self) -> dict[str, str]:
        spec = self._session.spec
        return {"connection_id": str(spec.connection_id), "tenant_id": str(spec.tenant_id)}


def _serves(item: Item, tag: Tag | None) -> bool:
    """Whether the server's item is right for ``tag`` as it is."""
    return tag is not None and item.deadband == raw_deadband(tag)
