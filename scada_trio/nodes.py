"""What a look into a device's address space asks for, and what it finds: plain values and pure functions.

Shared by the walk in `opcua/`, the commands and the API. A path is the browse names from the start node's children
down, joined by slashes: ``Field/Well-17/Pressure``. Starts nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

from scada_trio.errors import InvalidField
from scada_trio.validation import parse_node_id, parse_text

E = TypeVar("E", bound=enum.StrEnum)

OBJECTS: Final = "i=85"
MAX_PATTERNS: Final = 100
_MAX_PATTERN_BYTES: Final = 1_024
_MAX_DEPTH: Final = 1_000


class NodeClass(enum.StrEnum):
    """The classes that are below a device's Objects folder (OPC UA Part 3, 5)."""

    OBJECT = "Object"
    VARIABLE = "Variable"
    METHOD = "Method"
    VIEW = "View"


class BrowseOrder(enum.StrEnum):
    """Depth first: a node, then all below it. Breadth first: all nodes of a level, then those of the next."""

    DEPTH = "depth"
    BREADTH = "breadth"


class Range(NamedTuple):
    """EURange (Part 8, 5.6.3.2)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FoundNode:
    """One node; what a variable alone has is empty or None on others.

    ``depth`` is 1 for the start node's children. ``value`` is text and ``status`` the name of a status code, both where
    values were asked for. ``problem`` says why the readings of a variable cannot be stored, None where they can.
    """

    node_id: str
    path: str
    name: str
    node_class: NodeClass
    depth: int
    data_type: str = ""
    is_array: bool = False
    is_readable: bool = False
    unit: str | None = None
    range: Range | None = None
    value: str | None = None
    status: str | None = None
    problem: str | None = None

    @property
    def is_storable(self) -> bool:
        """Whether it can be a tag."""
        return self.node_class is NodeClass.VARIABLE and self.problem is None


class WalkPlace(NamedTuple):
    """Where the next page of a walk begins: which walk, and how many pages came before."""

    key: str
    pages: int


@dataclass(frozen=True, slots=True)
class BrowsePage:
    """Some nodes of a walk; ``following`` is None at its end. ``visited``, ``unread``: of the whole walk so far."""

    nodes: Sequence[FoundNode]
    following: WalkPlace | None
    visited: int = 0
    unread: int = 0


class PathPattern:
    """A glob on paths: ``*`` and ``?`` stay within a name, ``**`` stands for any number of names.

    A pattern without a slash is one on the last name alone, wherever it is.
    """

    def __init__(self, text: str) -> None:
        self._steps = text.split("/") if "/" in text else ["**", text]
        self._expressions = [None if step == "**" else re.compile(_expression(step), re.DOTALL) for step in self._steps]

    def matches(self, names: Sequence[str]) -> bool:
        """Whether the path of these names is one of the pattern's."""
        reached = {0}
        for name in names:
            reached = self._advance(reached, name)
        return len(self._steps) in self._skipped(reached)

    def leads_on(self, names: Sequence[str]) -> bool:
        """Whether a path below that of ``names`` may match."""
        reached = {0}
        for name in names:
            reached = self._advance(reached, name)
        return any(step < len(self._steps) for step in self._skipped(reached))

    def _advance(self, reached: set[int], name: str) -> set[int]:
        following: set[int] = set()
        for step in self._skipped(reached):
            if step == len(self._steps):
                continue
            expression = self._expressions[step]
            if expression is None:
                following.add(step)
            elif expression.fullmatch(name):
                following.add(step + 1)
        return following

    def _skipped(self, reached: set[int]) -> set[int]:
        """With the steps behind each ``**``, which may stand for nothing."""
        found = set(reached)
        for step in reached:
            while step < len(self._steps) and self._expressions[step] is None:
                step += 1
                found.add(step)
        return found


def _expression(step: str) -> str:
    """One name's glob; no character sets, brackets are common in names of arrays."""
    return "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in step)


@dataclass(frozen=True)
class BrowseQuery:
    """Where a walk starts, how far it goes, and what of it is shown; empty filters let everything pass.

    ``data_types`` are names, in any case. Properties and the Server object are left out where they are not asked for.
    After ``max_nodes`` nodes, shown or not, the walk ends. Texts are validated by `parse_query`.
    """

    start: str = OBJECTS
    order: BrowseOrder = BrowseOrder.DEPTH
    max_depth: int | None = None
    paths: tuple[str, ...] = ()
    node_classes: frozenset[NodeClass] = frozenset()
    data_types: frozenset[str] = frozenset()
    namespaces: frozenset[int] = frozenset()
    storable_only: bool = False
    include_server: bool = False
    include_properties: bool = False
    values: bool = False
    max_nodes: int = 1_000_000

    @cached_property
    def _patterns(self) -> list[PathPattern]:
        return [PathPattern(text) for text in self.paths]

    def leads_on(self, names: Sequence[str]) -> bool:
        """Whether anything below the node with this path may be shown."""
        if self.max_depth is not None and len(names) >= self.max_depth:
            return False
        return not self._patterns or any(pattern.leads_on(names) for pattern in self._patterns)

    def takes_place(self, names: Sequence[str], node_class: NodeClass, namespace: int) -> bool:
        """Whether a node of this path, class and namespace is shown, as far as these say."""
        return (
            (not self.node_classes or node_class in self.node_classes)
            and (not self.namespaces or namespace in self.namespaces)
            and (not self._patterns or any(pattern.matches(names) for pattern in self._patterns))
        )

    def takes(self, node: FoundNode) -> bool:
        """Whether a node that `takes_place` let pass is shown, with all that is known of it."""
        if self.storable_only and not node.is_storable:
            return False
        return not self.data_types or node.data_type.lower() in self.data_types


def parse_query(
    *,
    start: str = "",
    order: str = "",
    max_depth: int = 0,
    paths: Sequence[str] = (),
    node_classes: Sequence[str] = (),
    data_types: Sequence[str] = (),
    namespaces: Sequence[int] = (),
    storable_only: bool = False,
    include_server: bool = False,
    include_properties: bool = False,
    values: bool = False,
    max_nodes: int = 1_000_000,
) -> BrowseQuery:
    """A query out of what a user says; ``max_depth`` 0 is any. `InvalidField` names the argument."""
    if not 0 <= max_depth <= _MAX_DEPTH:
        raise InvalidField("max_depth", f"{max_depth} is not between 0 and {_MAX_DEPTH:,}")
    for namespace in namespaces:
        if not 0 <= namespace <= 0xFFFF:
            raise InvalidField("namespaces", f"{namespace} is not between 0 and 65535")
    return BrowseQuery(
        start=parse_node_id("start", start) if start else OBJECTS,
        order=_one_of("order", BrowseOrder, order) if order else BrowseOrder.DEPTH,
        max_depth=max_depth or None,
        paths=_texts("paths", paths),
        node_classes=frozenset(_one_of("node_classes", NodeClass, text) for text in node_classes),
        data_types=frozenset(text.lower() for text in _texts("data_types", data_types)),
        namespaces=frozenset(namespaces),
        storable_only=storable_only,
        include_server=include_server,
        include_properties=include_properties,
        values=values,
        max_nodes=max_nodes,
    )


def _texts(field: str, texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) > MAX_PATTERNS:
        raise InvalidField(field, f"has {len(texts):,} entries; {MAX_PATTERNS} at most are taken")
    for text in texts:
        if not parse_text(field, text, _MAX_PATTERN_BYTES).strip("/"):
            raise InvalidField(field, "has an empty entry")
    return tuple(text.strip("/") if text.startswith("/") or text.endswith("/") else text for text in texts)


def _one_of(field: str, kind: type[E], text: str) -> E:
    for member in kind:
        if member.lower() == text.lower():
            return member
    raise InvalidField(field, f"{text[:40]!r} is none of {', '.join(kind)}")
