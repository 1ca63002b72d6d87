"""Data types by name, and whether their values are numbers that can be stored.

Owns that one question for one server; types of its own are asked for once. Blocks, in the walk's worker thread.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from opcua import ua

from scada_trio.opcua.browse_services import NodeReader, good_value
from scada_trio.opcua.node_ids import format_node_id, parse_node_id

_NUMBERS: Final = frozenset({*range(1, 12), 26, 27, 28, 29})
"""Boolean to Double, the abstract ones above them, and Enumeration, which is an Int32 on the wire (Part 5, 12)."""
_OTHERS: Final = frozenset({*range(12, 24), 25})
_BASE_DATA_TYPE: Final = 24
_MAX_STEPS: Final = 20
_MAX_KNOWN: Final = 10_000


class DataType(NamedTuple):
    """``is_number`` is None where nobody can tell before a value comes."""

    name: str
    is_number: bool | None


class DataTypes:
    """The types of one server."""

    def __init__(self, reader: NodeReader) -> None:
        self._reader = reader
        self._known: dict[str, DataType] = {}

    def of(self, node_id: Any) -> DataType:
        """The type of this id."""
        key = format_node_id(node_id)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = DataType(self._name(node_id), self._is_number(node_id))
        return known

    def _name(self, node_id: Any) -> str:
        if node_id.NamespaceIndex == 0:
            name: str | None = ua.ObjectIdNames.get(node_id.Identifier)
            if name is not None:
                return name
        browse_name = good_value(self._reader.read([(node_id, ua.AttributeIds.BrowseName)])[0])
        return getattr(browse_name, "Name", None) or format_node_id(node_id)

    def _is_number(self, node_id: Any) -> bool | None:
        for _ in range(_MAX_STEPS):
            if node_id.NamespaceIndex == 0:
                if node_id.Identifier in _NUMBERS:
                    return True
                if node_id.Identifier in _OTHERS:
                    return False
                if node_id.Identifier in (0, _BASE_DATA_TYPE):
                    return None
            supertype = self._reader.supertype(node_id)
            if supertype is None:
                return None
            node_id = parse_node_id(supertype)
        return None
