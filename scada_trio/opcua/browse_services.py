"""Browse, BrowseNext and Read in the sizes that a server takes, one blocking call each.

Owns requests, the server's limits and what it says of single nodes. Knows no walk and starts nothing:
`scada_trio.opcua.browse` calls these in worker threads. Raises python-opcua's own errors, which the session's `call`
translates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from opcua import ua

from scada_trio.opcua.client import LinkClient
from scada_trio.opcua.faults import MALFORMED
from scada_trio.opcua.node_ids import format_node_id

Q = TypeVar("Q")
A = TypeVar("A")

_MAX_NODES_A_READ_NODE: Final = 11705  # Server_ServerCapabilities_OperationLimits_MaxNodesPerRead (Part 5, 6.3.11)
_MAX_NODES_A_BROWSE_NODE: Final = 11710  # ... MaxNodesPerBrowse
_MAX_POINTS_NODE: Final = 2735  # Server_ServerCapabilities_MaxBrowseContinuationPoints
_MOST_A_CALL: Final = 1_000
_FIRST_A_CALL: Final = 100
_REFERENCES_A_NODE: Final = 1_000
"""In one answer; the rest comes by BrowseNext. Keeps an answer of a wide folder at some 100 KB."""
_QUICK_S, _SLOW_S = 0.5, 3.0
_HIERARCHICAL: Final = 33
_HAS_SUBTYPE: Final = 45
_HAS_PROPERTY: Final = 46
_RESULT_MASK: Final = 0b011101  # reference type, node class, browse name, display name
_CLASSES: Final = 0b10000111  # objects, variables, methods, views
_TOO_MUCH: Final = frozenset(
    {
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadResponseTooLarge,
        ua.StatusCodes.BadRequestTooLarge,
        ua.StatusCodes.BadEncodingLimitsExceeded,
    }
)
_NO_POINTS: Final = frozenset({ua.StatusCodes.BadNoContinuationPoints, ua.StatusCodes.BadContinuationPointInvalid})


class Reference(NamedTuple):
    """From a node to one below it; ``node_class`` as the wire has it."""

    node_id: str
    name: str
    display_name: str
    node_class: int
    namespace: int
    is_property: bool


class Branch(NamedTuple):
    """What one node has below it; ``status`` is Bad where the server does not tell all."""

    references: list[Reference]
    status: int = 0


class Sizes:
    """How many operations go into one call: few at first, as many as the server takes once it has shown to be quick."""

    def __init__(self, limit: int) -> None:
        self.limit = max(1, min(limit, _MOST_A_CALL))
        self.now = min(self.limit, _FIRST_A_CALL)

    def run(self, items: Sequence[Q], call: Callable[[Sequence[Q]], Iterable[A]]) -> Iterator[A]:
        """The answers to all of ``items``, in order; halves what the server finds too much."""
        done = 0
        while done < len(items):
            part = items[done : done + self.now]
            started = time.monotonic()
            try:
                answers = list(call(part))
            except ua.UaStatusCodeError as error:
                if error.code not in _TOO_MUCH or len(part) == 1:
                    raise
                self.limit = self.now = max(1, len(part) // 2)
                continue
            took_s = time.monotonic() - started
            if took_s > _SLOW_S:
                self.now = max(1, self.now // 2)
            elif took_s < _QUICK_S and len(part) == self.now:
                self.now = min(self.limit, 2 * self.now)
            done += len(part)
            yield from answers


class NodeReader:
    """Asks one server. Made, and used, in worker threads, by one at a time."""

    def __init__(self, client: LinkClient) -> None:
        self._services = client.uaclient
        self._reads = Sizes(_FIRST_A_CALL)
        nodes = [ua.NodeId(number, 0) for number in (_MAX_NODES_A_READ_NODE, _MAX_NODES_A_BROWSE_NODE)]
        points = ua.NodeId(_MAX_POINTS_NODE, 0)
        answers = [_number(value) for value in self.read([(n, ua.AttributeIds.Value) for n in [*nodes, points]])]
        self._reads = Sizes(answers[0] or _MOST_A_CALL)
        self.browses = Sizes(answers[1] or _MOST_A_CALL)
        self._points = Sizes(answers[2] or _MOST_A_CALL)

    def children(self, node_ids: Sequence[Any]) -> list[Branch]:
        """What each node has below it, all of it."""
        return self._browse([_description(node_id, _HIERARCHICAL, forward=True) for node_id in node_ids])

    def supertype(self, node_id: Any) -> str | None:
        """The type that a type is of; None where the server does not say."""
        (branch,) = self._browse([_description(node_id, _HAS_SUBTYPE, forward=False)])
        return branch.references[0].node_id if branch.references else None

    def read(self, wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
        """The DataValue of each (node id, attribute); None where its bytes cannot be read."""
        return list(self._reads.run(wanted, self._read))

    def _read(self, wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
        parameters = ua.ReadParameters()
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        for node_id, attribute in wanted:
            item = ua.ReadValueId()
            item.NodeId, item.AttributeId = node_id, attribute
            parameters.NodesToRead.append(item)
        try:
            answers: list[Any] = self._services.read(parameters)
        except ua.UaStatusCodeError:
            raise
        except MALFORMED:
            if len(wanted) == 1:
                return [None]
            half = len(wanted) // 2
            return [*self._read(wanted[:half]), *self._read(wanted[half:])]
        if len(answers) != len(wanted):
            raise ua.UaError(f"{len(answers)} answers to {len(wanted)} reads")
        return answers

    def _browse(self, descriptions: Sequence[Any]) -> list[Branch]:
        branches = list(self.browses.run(descriptions, self._browse_once))
        for index, branch in enumerate(branches):
            if branch.status in _NO_POINTS:  # the server ran out of them: once more, with all of them for this node
                (branches[index],) = self._browse_once(descriptions[index : index + 1])
        return branches

    def _browse_once(self, descriptions: Sequence[Any]) -> list[Branch]:
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = _REFERENCES_A_NODE
        parameters.NodesToBrowse = list(descriptions)
        results = self._services.browse(parameters)
        if len(results) != len(descriptions):
            raise ua.UaError(f"{len(results)} answers to {len(descriptions)} nodes")
        branches = [Branch(list(_references(result)), result.StatusCode.value) for result in results]
        more = [(index, result.ContinuationPoint) for index, result in enumerate(results) if result.ContinuationPoint]
        while more:
            answers = list(self._points.run([point for _, point in more], self._browse_next))
            following = []
            for (index, _), result in zip(more, answers, strict=True):
                status = result.StatusCode.value
                if status & 0x80000000:
                    branches[index] = Branch(branches[index].references, status)
                branches[index].references.extend(_references(result))
                if result.ContinuationPoint:
                    following.append((index, result.ContinuationPoint))
            more = following
        return branches

    def _browse_next(self, points: Sequence[Any]) -> list[Any]:
        parameters = ua.BrowseNextParameters()
        parameters.ReleaseContinuationPoints = False
        parameters.ContinuationPoints = list(points)
        answers: list[Any] = self._services.browse_next(parameters)
        if len(answers) != len(points):
            raise ua.UaError(f"{len(answers)} answers to {len(points)} continuation points")
        return answers


def _description(node_id: Any, kind: int, *, forward: bool) -> Any:
    wanted = ua.BrowseDescription()
    wanted.NodeId = node_id
    wanted.BrowseDirection = ua.BrowseDirection.Forward if forward else ua.BrowseDirection.Inverse
    wanted.ReferenceTypeId = ua.NodeId(kind, 0)
    wanted.IncludeSubtypes = True
    wanted.NodeClassMask = _CLASSES if forward else 0
    wanted.ResultMask = _RESULT_MASK
    return wanted


def _references(result: Any) -> Iterator[Reference]:
    """Those to nodes of the same server."""
    for found in result.References or ():
        node_id = found.NodeId
        if getattr(node_id, "ServerIndex", 0) or getattr(node_id, "NamespaceUri", ""):
            continue
        kind = found.ReferenceTypeId
        yield Reference(
            format_node_id(node_id),
            found.BrowseName.Name or "",
            found.DisplayName.Text or "",
            int(found.NodeClass),
            node_id.NamespaceIndex,
            kind.NamespaceIndex == 0 and kind.Identifier == _HAS_PROPERTY,
        )


def good_value(answer: Any) -> Any:
    """The value in a DataValue; None where there is none or it is Bad."""
    if answer is None or not answer.StatusCode.is_good() or answer.Value is None:
        return None
    return answer.Value.Value


def _number(answer: Any) -> int:
    value = good_value(answer)
    return value if isinstance(value, int) and value > 0 else 0
