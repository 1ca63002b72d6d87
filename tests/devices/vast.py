"""A device with as many nodes as wanted, none of which it keeps: what is below a node follows from its number.

Every ``ns=1;i=`` below ``folders`` is a folder of ``leaves`` variables; folder 0 has a chain of ``depth`` folders, too,
at whose end is a variable, and every folder refers back to the Objects folder. It takes ``max_browse`` and ``max_read``
operations a call, and gives ``most`` references at a time.
"""

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from opcua import ua

from tests.devices.scripted import ScriptedDevice

_OBJECT, _VARIABLE = 1, 2
_FOLDERS_FROM = 1_000_000
_LEAVES_FROM = 10_000_000
_CHAIN_FROM = 5_000_000
_GOOD = b"\0\0\0\0"


class VastDevice(ScriptedDevice):
    """``largest`` is the largest call by service, ``held`` the continuation points that were not used up."""

    def __init__(
        self, folders: int, leaves: int, *, depth: int = 0, max_browse: int = 200, max_read: int = 500, most: int = 1000
    ) -> None:
        super().__init__()
        self.folders, self.leaves, self.depth = folders, leaves, depth
        self.max_browse, self.max_read, self.most = max_browse, max_read, most
        self.tells_limits = True
        self.largest: Counter[str] = Counter()
        self.held: dict[bytes, tuple[int, int]] = {}
        self._points = 0
        self.answers |= {"Browse": self._browse, "BrowseNext": self._browse_next, "Read": self._read}

    @property
    def count(self) -> int:
        """All nodes but Objects."""
        return self.folders * (1 + self.leaves) + (self.depth + 1 if self.depth else 0)

    def _children(self, node: int) -> tuple[int, Callable[[int], bytes]]:
        """How many, and the encoding of each."""
        if node == 85:
            return self.folders, lambda index: _reference(_FOLDERS_FROM + index, f"F{index:05}", _OBJECT)
        folder = node - _FOLDERS_FROM
        if 0 <= folder < self.folders:
            deep = 1 if folder == 0 and self.depth else 0
            return self.leaves + 1 + deep, lambda index: self._child_of_folder(folder, index)
        if _CHAIN_FROM <= node < _CHAIN_FROM + self.depth - 1:
            return 1, lambda index: _reference(node + 1, "Deep", _OBJECT)
        if node == _CHAIN_FROM + self.depth - 1:
            return 1, lambda index: _reference(_LEAVES_FROM - 1, "End", _VARIABLE)
        return 0, lambda index: b""

    def _child_of_folder(self, folder: int, index: int) -> bytes:
        if index < self.leaves:
            return _reference(_LEAVES_FROM + folder * self.leaves + index, f"V{index:05}", _VARIABLE)
        if index == self.leaves:
            return _reference(85, "Objects", _OBJECT, namespace=0)
        return _reference(_CHAIN_FROM, "Deep", _OBJECT)

    def _browse(self, parameters: Any) -> Any:
        return self._limited(
            "Browse", self.max_browse, 530, [(n.NodeId.Identifier, 0) for n in parameters.NodesToBrowse]
        )

    def _browse_next(self, parameters: Any) -> Any:
        points = [self.held.pop(bytes(point)) for point in parameters.ContinuationPoints]
        return self._limited("BrowseNext", self.max_browse, 536, points)

    def _limited(self, service: str, limit: int, number: int, wanted: list[tuple[int, int]]) -> Any:
        self.largest[service] = max(self.largest[service], len(wanted))
        if len(wanted) > limit:
            return ua.StatusCodes.BadTooManyOperations
        results = b"".join(self._result(node, first) for node, first in wanted)
        return number, struct.pack("<i", len(wanted)) + results + struct.pack("<i", -1)

    def _result(self, node: int, first: int) -> bytes:
        count, make = self._children(node)
        last = min(count, first + self.most)
        point = b""
        if last < count:
            self._points += 1
            point = struct.pack("<I", self._points)
            self.held[point] = (node, last)
        references = b"".join(make(index) for index in range(first, last))
        return _GOOD + struct.pack("<i", len(point)) + point + struct.pack("<i", last - first) + references

    def _read(self, parameters: Any) -> Any:
        wanted = parameters.NodesToRead
        self.largest["Read"] = max(self.largest["Read"], len(wanted))
        if len(wanted) > self.max_read:
            return ua.StatusCodes.BadTooManyOperations
        values = b"".join(self._value(item.NodeId, int(item.AttributeId)) for item in wanted)
        return 634, struct.pack("<i", len(wanted)) + values + struct.pack("<i", -1)

    def _value(self, node_id: Any, attribute: int) -> bytes:
        if node_id.NamespaceIndex == 0 and attribute == ua.AttributeIds.Value:
            limits = {11705: self.max_read, 11710: self.max_browse} if self.tells_limits else {}
            return b"\x01" + struct.pack("<BI", ua.VariantType.UInt32.value, limits.get(node_id.Identifier, 0))
        match attribute:
            case ua.AttributeIds.DataType:
                return b"\x01\x11\x00\x0b"  # a node id of two bytes: Double
            case ua.AttributeIds.ValueRank:
                return b"\x01" + struct.pack("<Bi", ua.VariantType.Int32.value, -1)
            case ua.AttributeIds.NodeClass:
                return b"\x01" + struct.pack("<Bi", ua.VariantType.Int32.value, _OBJECT)
            case ua.AttributeIds.Value:
                return b"\x01" + struct.pack("<Bd", ua.VariantType.Double.value, 1.0)
            case _:
                return b"\x01\x03\x01"  # a byte: CurrentRead


def _reference(number: int, name: str, node_class: int, *, namespace: int = 1) -> bytes:
    """An Organizes reference to ``i=number`` (Part 4, 7.29)."""
    text = name.encode()
    return (
        b"\x00\x23\x01"
        + struct.pack("<BHI", 2, namespace, number)
        + struct.pack("<Hi", namespace, len(text))
        + text
        + struct.pack("<Bi", 2, len(text))
        + text
        + struct.pack("<I", node_class)
        + b"\x00\x00"
    )
