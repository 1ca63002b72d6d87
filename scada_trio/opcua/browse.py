"""A walk through a device's address space, a few nodes at a time.

Owns the order, the nodes already seen, and what becomes of each node's attributes. `open_walk` opens a session of its
own, so that no subscription shares anything with it but the tenant's limits; whoever opens it takes nodes with
`Walk.take` and closes it by leaving the block.

    pending ── look: Browse, BrowseNext, Read ──► found nodes ──► whoever takes
       ▲                    │
       └──── children ◄─────┘   each node once, however many ways lead to it

What is kept is the pending nodes and the ids of those seen, never the nodes that were found.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import trio
from opcua import ua

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.nodes import BrowseOrder, BrowseQuery, FoundNode, NodeClass, Range
from scada_trio.opcua.browse_services import Branch, NodeReader, Reference, good_value
from scada_trio.opcua.faults import error_of_status, one_line, status_name
from scada_trio.opcua.node_ids import parse_node_id
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.session import Session, open_session
from scada_trio.opcua.types import DataTypes

_SERVER: Final = "i=2253"
_BAD: Final = 0x80000000
_READABLE: Final = 1  # CurrentRead (Part 3, 8.57)
_SCALAR: Final = -1
_ANY_RANK: Final = (-2, -3)
_MAX_TEXT: Final = 200
_ELEMENTS_SHOWN: Final = 8
_CLASSES: Final = {1: NodeClass.OBJECT, 2: NodeClass.VARIABLE, 4: NodeClass.METHOD, 128: NodeClass.VIEW}
_NOTHING: Final = Branch([])


@asynccontextmanager
async def open_walk(
    spec: ConnectionSpec,
    query: BrowseQuery,
    *,
    settings: DeviceSettings,
    pki: Pki,
    limiter: trio.CapacityLimiter,
    resolving: trio.CapacityLimiter,
) -> AsyncIterator[Walk]:
    """Log in to the device of ``spec`` and stand at the start; raises as `open_session` does."""
    async with open_session(spec, settings=settings, pki=pki, limiter=limiter, resolving=resolving) as session:
        await session.log_in()
        walk = Walk(session, query)
        await walk.begin()
        yield walk


class _Place:
    """A node that was seen and is not shown yet."""

    __slots__ = ("branch", "depth", "found", "parent", "reference")

    def __init__(self, reference: Reference, parent: _Place | None) -> None:
        self.reference = reference
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.branch: Branch | None = None  # where it was looked at
        self.found: FoundNode | None = None

    @property
    def names(self) -> list[str]:
        """The path, without the start node."""
        names = []
        place = self
        while place.parent is not None:
            names.append(place.reference.name)
            place = place.parent
        return names[::-1]


class Walk:
    """Made by `open_walk`. ``visited`` nodes were looked at so far.

    ``unread`` counts nodes of which the server did not tell all that is below them, ``first_unread`` says why of the
    first; ``is_cut`` tells that ``max_nodes`` ended the walk.
    """

    def __init__(self, session: Session, query: BrowseQuery) -> None:
        self.visited = 0
        self.unread = 0
        self.first_unread: str | None = None
        self.is_cut = False
        self._session = session
        self._query = query
        start = parse_node_id(query.start)
        root = _Place(Reference(query.start, "", "", 1, start.NamespaceIndex, False), None)
        self._pending = deque([root])
        self._seen = {query.start}

    async def begin(self) -> None:
        """Ask for the server's limits and for the start node. Raises `DeviceError` where there is no such node."""

        def ask() -> None:
            self._reader = NodeReader(self._session.client)
            self._types = DataTypes(self._reader)
            start = parse_node_id(self._query.start)
            (answer,) = self._reader.read([(start, ua.AttributeIds.NodeClass)])
            if answer is not None and not answer.StatusCode.is_good():
                raise error_of_status(answer.StatusCode.value, f"start node {self._query.start}")

        await self._session.call("Read", ask)

    async def take(self) -> list[FoundNode]:
        """The next nodes, in order, as many as one look brought, at most a few thousand; none at the end.

        Raises `DeviceError`. Cancelled, it leaves the session fit to be closed only.
        """
        while self._pending and not self.is_cut:
            await self.keep_up()
            found = await self._session.call("Browse", self._look)
            if found:
                return found
        return []

    @property
    def upkeep_at(self) -> float:
        """Trio time at which whoever does not take must call `keep_up`, lest the session ends."""
        return self._session.upkeep_at

    async def keep_up(self) -> None:
        """Touch the session, renew its channel, where that is due."""
        if trio.current_time() >= self._session.upkeep_at:
            await self._session.keep_up()

    # ---- in the worker thread, one look at a time

    def _look(self) -> list[FoundNode]:
        places = self._next_places()
        self._branch_out(places)
        shown = [place for place in places if self._takes_place(place)]
        for place, node in zip(shown, self._describe(shown), strict=True):
            if self._query.takes(node):
                place.found = node
        return list(self._drain())

    def _next_places(self) -> list[_Place]:
        """Those next in order, depth first those of one parent only, that were not looked at."""
        size = self._reader.browses.now
        if self._query.order is BrowseOrder.BREADTH:
            return list(islice(self._pending, size))
        places: list[_Place] = []
        for place in islice(reversed(self._pending), size):
            if place.branch is not None or (places and place.parent is not places[0].parent):
                break
            places.append(place)
        return places

    def _branch_out(self, places: Sequence[_Place]) -> None:
        """Ask what is below each place, where that matters."""
        asked = [place for place in places if self._is_asked(place)]
        for place in places:
            place.branch = _NOTHING
        branches = self._reader.children([parse_node_id(place.reference.node_id) for place in asked])
        for place, branch in zip(asked, branches, strict=True):
            place.branch = branch
            if branch.status & _BAD:
                self.unread += 1
                path = "/".join(place.names) or self._query.start
                self.first_unread = self.first_unread or f"{path}: {status_name(branch.status)}"

    def _is_asked(self, place: _Place) -> bool:
        node_class = _CLASSES.get(place.reference.node_class)
        if node_class is NodeClass.METHOD or place.reference.is_property:
            return False
        if self._query.leads_on(place.names):
            return True
        return node_class is NodeClass.VARIABLE and self._takes_place(place)  # for its range and unit

    def _takes_place(self, place: _Place) -> bool:
        reference = place.reference
        node_class = _CLASSES.get(reference.node_class)
        if place.parent is None or node_class is None:
            return False
        if reference.is_property and not self._query.include_properties:
            return False
        return self._query.takes_place(place.names, node_class, reference.namespace)

    def _drain(self) -> Iterator[FoundNode]:
        """Show what was looked at, as far as the order allows, and line up what is below it."""
        deep = self._query.order is BrowseOrder.DEPTH
        while self._pending and (place := self._pending[-1 if deep else 0]).branch is not None:
            if deep:
                self._pending.pop()
            else:
                self._pending.popleft()
            self.visited += 1
            if place.found is not None:
                yield place.found
            if self.visited >= self._query.max_nodes and (self._pending or place.branch.references):
                self.is_cut = True
                return
            if self._query.leads_on(place.names):
                children = self._new_children(place, place.branch.references)
                self._pending.extend(reversed(children) if deep else children)

    def _new_children(self, parent: _Place, references: Sequence[Reference]) -> list[_Place]:
        children = []
        for reference in references:
            if reference.node_id in self._seen or (reference.node_id == _SERVER and not self._query.include_server):
                continue
            if reference.is_property and not self._query.include_properties:
                continue
            self._seen.add(reference.node_id)
            children.append(_Place(reference, parent))
        return children

    # ---- attributes

    def _describe(self, places: Sequence[_Place]) -> list[FoundNode]:
        variables = [place for place in places if place.reference.node_class == ua.NodeClass.Variable]
        wanted: list[tuple[Any, Any]] = []
        for place in variables:
            node_id = parse_node_id(place.reference.node_id)
            wanted += [(node_id, attribute) for attribute in self._attributes]
            wanted += [(parse_node_id(found), ua.AttributeIds.Value) for _, found in _properties(place)]
        answers = iter(self._reader.read(wanted) if wanted else ())
        return [self._describe_one(place, answers) for place in places]

    @property
    def _attributes(self) -> tuple[Any, ...]:
        ids = ua.AttributeIds
        attributes = (ids.DataType, ids.ValueRank, ids.AccessLevel, ids.UserAccessLevel)
        return (*attributes, ids.Value) if self._query.values else attributes

    def _describe_one(self, place: _Place, answers: Iterator[Any]) -> FoundNode:
        reference = place.reference
        names = place.names
        node_class = _CLASSES[reference.node_class]
        node_id, name, path = reference.node_id, reference.display_name or reference.name, "/".join(names)
        if node_class is not NodeClass.VARIABLE:
            return FoundNode(node_id, path, name, node_class, len(names))
        data_type, rank, access, user_access, *value = (next(answers) for _ in self._attributes)
        properties = {kind: good_value(next(answers)) for kind, _ in _properties(place)}
        type_id = good_value(data_type)
        kind = self._types.of(type_id) if isinstance(type_id, ua.NodeId) else None
        is_array = _is_array(good_value(rank))
        is_readable = _is_readable(good_value(access), good_value(user_access))
        problem = None
        if not is_readable:
            problem = "not readable"
        elif is_array:
            problem = "array"
        elif kind is not None and kind.is_number is False:
            problem = f"{kind.name} is no number"
        return FoundNode(
            *(node_id, path, name, node_class, len(names)),
            data_type="" if kind is None else kind.name,
            is_array=is_array,
            is_readable=is_readable,
            unit=_unit(properties.get("EngineeringUnits")),
            range=_range(properties.get("EURange")),
            value=value_text(value[0]) if value else None,
            status=status_text(value[0]) if value else None,
            problem=problem,
        )


def _properties(place: _Place) -> Iterator[tuple[str, str]]:
    """Kind and node of the properties that are read with a variable (Part 8, 5.3.2)."""
    assert place.branch is not None
    kinds = set()
    for reference in place.branch.references:
        if reference.is_property and reference.name in ("EURange", "EngineeringUnits") and reference.name not in kinds:
            kinds.add(reference.name)
            yield reference.name, reference.node_id


def _is_array(rank: Any) -> bool:
    """What is Any or ScalarOrOneDimension (Part 3, 5.6.2) may be a number."""
    return rank is not None and int(rank) != _SCALAR and int(rank) not in _ANY_RANK


def _is_readable(access: Any, user_access: Any) -> bool:
    """Whether both allow it, those that the server tells of."""
    levels = [int(level) for level in (access, user_access) if isinstance(level, int)]
    return all(level & _READABLE for level in levels)


def _unit(information: Any) -> str | None:
    """The symbol of an EUInformation, ``psi`` say."""
    text = getattr(getattr(information, "DisplayName", None), "Text", None)
    return one_line(text) or None if isinstance(text, str) else None


def _range(value: Any) -> Range | None:
    low, high = getattr(value, "Low", None), getattr(value, "High", None)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    return Range(float(low), float(high))


def status_text(answer: Any) -> str:
    """The status of a DataValue by name; of None, the one whose bytes could not be read, that."""
    return "unreadable bytes" if answer is None else status_name(answer.StatusCode.value)


def value_text(answer: Any) -> str | None:
    """The value of a DataValue in one short line; None where there is none."""
    if answer is None or answer.Value is None:
        return None
    return _text(answer.Value.Value)


def _text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case list():
            shown = ", ".join(_text(element) or "" for element in value[:_ELEMENTS_SHOWN])
            return one_line(f"[{shown}{', ...' if len(value) > _ELEMENTS_SHOWN else ''}]")
        case bytes():
            return value[: _MAX_TEXT // 2].hex()
        case bool():
            return str(value).lower()
        case int() | float() | str():
            return one_line(str(value))
        case datetime():
            return value.replace(tzinfo=UTC).isoformat()
        case ua.LocalizedText():
            return one_line(value.Text or "")
        case ua.NodeId() | ua.QualifiedName():
            return one_line(value.to_string())
        case uuid.UUID():
            return str(value)
        case _:
            return type(value).__name__
