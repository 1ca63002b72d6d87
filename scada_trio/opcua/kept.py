"""A session and a subscription as they are on the server, kept over the links that use them.

Owns what a later link needs to go on with them: the ticket of the one; id, items with their handles and the `Intake` of
the other. Sends nothing; the connection holds both, `scada_trio.opcua.subscription` changes the items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from scada_trio.losses import RememberedSubscription
from scada_trio.opcua.intake import Intake
from scada_trio.opcua.notifications import HandleMap
from scada_trio.opcua.parameters import ItemParameters
from scada_trio.opcua.security import Offer
from scada_trio.opcua.sequence import after
from scada_trio.readings import Tag, TagTable
from scada_trio.status import RevisedItem, SubscriptionTerms

Series = tuple[UUID, str]


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """What it takes to go on with a session whose channel broke; ``expires_at`` is a Trio time."""

    expires_at: float
    timeout_ms: float
    authentication_token: Any = field(repr=False)
    server_nonce: Any = field(repr=False)
    offer: Offer = field(repr=False)


@dataclass(slots=True, eq=False)
class Item:
    """One tag's monitored item; ``item_id`` is the server's number for it, None until it exists.

    ``asked`` is None where it is not known: the item is an earlier process's, or a change of it was broken off.
    ``deadband`` is the absolute one that it has as far as is known, in the device's unit; ``unfiltered``: the server
    refused the deadband. ``revised``: sampling interval in ms and queue size as the server has them.
    """

    tag: Tag
    handle: int
    deadband: float | None = None
    item_id: int | None = None
    refused: str | None = None
    unfiltered: bool = False
    asked: ItemParameters | None = None
    revised: tuple[float, int] | None = None

    def agree(self, asked: ItemParameters, result: Any, *, unfiltered: bool) -> None:
        """The server took ``asked`` and made ``result`` of it (OPC UA Part 4, 5.12.2, 5.12.3)."""
        self.asked, self.deadband, self.unfiltered = asked, asked.deadband, unfiltered
        self.revised = _revised(float(result.RevisedSamplingInterval), int(result.RevisedQueueSize))

    @property
    def revision(self) -> RevisedItem | None:
        """What is other than asked for; any interval is right where the device was asked to be as fast as it can."""
        if self.asked is None or self.revised is None:
            return None
        sampling_ms, queue_size = self.revised
        asked_ms = self.asked.sampling_ms or sampling_ms
        if (asked_ms, self.asked.queue_size) == (sampling_ms, queue_size):
            return None
        return RevisedItem(self.tag.node_id, self.asked.sampling_ms, sampling_ms, self.asked.queue_size, queue_size)


@lru_cache(maxsize=64)
def _revised(sampling_ms: float, queue_size: int) -> tuple[float, int]:
    """The same pair for all items that servers treat alike."""
    return sampling_ms, queue_size


@dataclass(slots=True, eq=False)
class KeptSubscription:
    """``keep_alive_s`` is the revised keep-alive period, ``server_started_us`` 0 where the server does not tell.

    ``publishing_ms`` is the interval asked for last and ``terms`` what came of it, None where an earlier process asked.
    ``unsure`` while a call runs that changes items: broken off, it leaves items that nobody knows of.
    """

    endpoint_url: str
    subscription_id: int
    keep_alive_s: float
    intake: Intake
    items_a_call: int
    server_started_us: int = 0
    items: dict[Series, Item] = field(default_factory=dict)
    handles: HandleMap = field(default_factory=HandleMap)
    last_handle: int = 0
    unsure: bool = False
    doubted: bool = False  # the last session published nothing of it
    publishing_ms: float | None = None
    terms: SubscriptionTerms | None = None
    modifies_items: bool = True  # the server has ModifyMonitoredItems

    def agree(self, terms: SubscriptionTerms) -> None:
        """The server granted ``terms``."""
        self.publishing_ms, self.terms, self.keep_alive_s = terms.publishing_ms, terms, terms.keep_alive_s

    def to_remember(self) -> RememberedSubscription:
        """What a later process needs to take it over."""
        items = {
            item.handle: (*series, item.item_id) for series, item in self.items.items() if item.item_id is not None
        }
        return RememberedSubscription(
            self.endpoint_url,
            self.subscription_id,
            self.intake.accepted_until,
            items,
            self.server_started_us,
            self.intake.accepted_us,
            {item.handle: item.deadband for item in self.items.values() if item.deadband is not None},
        )


def recall(
    remembered: RememberedSubscription,
    wanted: Mapping[Series, Tag],
    table: TagTable,
    intake: Intake,
    *,
    keep_alive_s: float,
    items_a_call: int,
) -> KeptSubscription:
    """The subscription of an earlier process. Values of tags that are not ``wanted`` any more are of no use: their
    factor is not known.
    """
    kept = KeptSubscription(
        remembered.endpoint_url,
        remembered.subscription_id,
        keep_alive_s,
        intake,
        items_a_call,
        remembered.server_started_us,
    )
    intake.expected = after(remembered.last_sequence)
    intake.begin(remembered.heard_us)
    for handle, (well_id, node_id, item_id) in remembered.items.items():
        series = (well_id, node_id)
        tag = wanted.get(series)
        item_tag = tag if tag is not None else Tag(UUID(int=0), well_id, node_id)
        kept.items[series] = Item(item_tag, handle, remembered.deadbands.get(handle), item_id)
        kept.last_handle = max(kept.last_handle, handle)
        if tag is not None:
            kept.handles.set(handle, table.index_of(well_id, node_id), tag.factor)
    return kept
