"""What a client sees that looks around in a simulated well: its nodes, attributes and references (Part 3, Part 5).

Owns the part of the standard address space that clients ask for, which all wells share, and makes a well's own nodes
when they are asked for: a thousand wells would otherwise keep ten thousand that nobody browses.

    Root ── Objects ── Server ── ServerStatus, NamespaceArray, ServerCapabilities ── OperationLimits
                  └─── Well 0001 ── CasingPressure, TubingPressure, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opcua import ua

from scada_trio.simulator.device import NAMESPACE, WELLS_URI, Device
from scada_trio.simulator.field import DataType, TagModel

ORGANIZES: Final = 35
HAS_TYPE: Final = 40
HAS_PROPERTY: Final = 46
HAS_COMPONENT: Final = 47
_SUPERTYPES: Final = {
    ORGANIZES: (33, 31),
    HAS_TYPE: (32, 31),
    HAS_PROPERTY: (44, 34, 33, 31),
    HAS_COMPONENT: (44, 34, 33, 31),
}
_OBJECT: Final = ua.NodeClass.Object
_VARIABLE: Final = ua.NodeClass.Variable
_FOLDER_TYPE: Final = 61
_DATA_VARIABLE_TYPE: Final = 63
_PROPERTY_TYPE: Final = 68
_OBJECTS: Final = 85
_DATA_TYPES: Final = {"Boolean": 1, "Int32": 6, "Float": 10, "Double": 11}
_PYTHON_TYPES: Final[dict[DataType, type[bool | int | float]]] = {
    "Boolean": bool,
    "Int32": int,
    "Float": float,
    "Double": float,
}

Value = Callable[[Device], Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """One as seen from its node; ``kind`` is the number of its type in namespace 0."""

    kind: int
    forward: bool
    target: Any  # a NodeId

    def is_of(self, kind: int, *, subtypes: bool) -> bool:
        """Whether a client that asks for ``kind``, 0 for any, is given this."""
        return kind in (0, self.kind) or (subtypes and kind in _SUPERTYPES[self.kind])


@dataclass(frozen=True, slots=True)
class Node:
    """``value`` makes the DataValue of a variable; ``data_type`` and ``type_definition`` are of namespace 0."""

    node_id: Any
    name: str
    type_definition: int
    node_class: Any = _OBJECT
    description: str = ""
    value: Value | None = None
    data_type: int = 0
    is_array: bool = False
    namespace: int = 0

    @property
    def browse_name(self) -> Any:
        """With its namespace."""
        return ua.QualifiedName(self.name, self.namespace)


class AddressSpace:
    """The nodes of one device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def node(self, node_id: Any) -> Node | None:
        """A node; None where there is none."""
        if node_id.NamespaceIndex == 0:
            return _STANDARD.get(node_id.Identifier)
        well = self._device.well
        if node_id.NamespaceIndex != NAMESPACE or not isinstance(node_id.Identifier, str):
            return None
        if node_id.Identifier == well.key:
            return Node(_own(well.key), well.name, _FOLDER_TYPE, namespace=NAMESPACE)
        column = self._device.columns.get(node_id.Identifier)
        return None if column is None else self._tag(well.tags[column], column)

    def references(self, node: Node) -> Iterator[Reference]:
        """All of a node's references."""
        well = self._device.well
        yield Reference(HAS_TYPE, True, ua.NodeId(node.type_definition, 0))
        if node.namespace == 0:
            for kind, forward, other in _REFERENCES.get(node.node_id.Identifier, ()):
                yield Reference(kind, forward, ua.NodeId(other, 0))
            if node.node_id.Identifier == _OBJECTS:
                yield Reference(ORGANIZES, True, _own(well.key))
        elif node.node_class == _OBJECT:
            yield Reference(ORGANIZES, False, ua.NodeId(_OBJECTS, 0))
            for tag in well.tags:
                yield Reference(HAS_COMPONENT, True, _own(well.node_name(tag)))
        else:
            yield Reference(HAS_COMPONENT, False, _own(well.key))

    def read(self, node: Node, attribute: int) -> Any:
        """An attribute as a DataValue; one with a Bad status where the node does not have it (Part 4, 5.10.2)."""
        ids = ua.AttributeIds
        if attribute == ids.Value and node.value is not None:
            return node.value(self._device)
        common = {
            ids.NodeId: (node.node_id, ua.VariantType.NodeId),
            ids.NodeClass: (int(node.node_class), ua.VariantType.Int32),
            ids.BrowseName: (node.browse_name, ua.VariantType.QualifiedName),
            ids.DisplayName: (ua.LocalizedText(node.name), ua.VariantType.LocalizedText),
            ids.Description: (ua.LocalizedText(node.description), ua.VariantType.LocalizedText),
            ids.WriteMask: (0, ua.VariantType.UInt32),
            ids.UserWriteMask: (0, ua.VariantType.UInt32),
        }
        own = self._of_variable(node) if node.node_class == _VARIABLE else {ids.EventNotifier: (0, ua.VariantType.Byte)}
        found = {**common, **own}.get(attribute)
        if found is None:
            return bad_value(ua.StatusCodes.BadAttributeIdInvalid)
        return good_value(*found)

    def _of_variable(self, node: Node) -> dict[Any, tuple[Any, Any]]:
        ids = ua.AttributeIds
        interval_ms = self._device.interval_s * 1000 if node.namespace else 0.0
        return {
            ids.DataType: (ua.NodeId(node.data_type, 0), ua.VariantType.NodeId),
            ids.ValueRank: (1 if node.is_array else -1, ua.VariantType.Int32),
            ids.AccessLevel: (1, ua.VariantType.Byte),  # CurrentRead
            ids.UserAccessLevel: (1, ua.VariantType.Byte),
            ids.MinimumSamplingInterval: (interval_ms, ua.VariantType.Double),
            ids.Historizing: (False, ua.VariantType.Boolean),
        }

    def _tag(self, tag: TagModel, column: int) -> Node:
        return Node(
            _own(self._device.well.node_name(tag)),
            tag.name,
            _DATA_VARIABLE_TYPE,
            _VARIABLE,
            f"{tag.name} in {tag.unit}",
            lambda device: _tag_value(device, tag, column),
            _DATA_TYPES[tag.data_type],
            namespace=NAMESPACE,
        )


def good_value(value: Any, kind: Any) -> Any:
    """A DataValue with the time of this call."""
    found = ua.DataValue(ua.Variant(value, kind))
    found.SourceTimestamp = found.ServerTimestamp = _naive_now()
    return found


def bad_value(code: int) -> Any:
    """A DataValue without a value."""
    found = ua.DataValue()
    found.StatusCode = ua.StatusCode(code)
    return found


def _tag_value(device: Device, tag: TagModel, column: int) -> Any:
    status, value = device.status[column], device.value[column]
    found = bad_value(status)
    if status < 0x80000000:
        found.Value = ua.Variant(_PYTHON_TYPES[tag.data_type](value), ua.VariantType[tag.data_type])
    found.SourceTimestamp = datetime.fromtimestamp(device.shown_at_us / 1e6, UTC).replace(tzinfo=None)
    found.ServerTimestamp = _naive_now()
    return found


def _own(identifier: str) -> Any:
    return ua.NodeId(identifier, NAMESPACE)


def _naive_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _server_status(device: Device) -> Any:
    status = ua.ServerStatusDataType()
    status.StartTime, status.CurrentTime = device.started_at.replace(tzinfo=None), _naive_now()
    status.State = ua.ServerState.Running
    status.BuildInfo.ProductUri, status.BuildInfo.ProductName = "urn:scada-trio:simulator", "scada-trio simulator"
    return status


def _constant(value: Any) -> Value:
    return lambda device: value


# number: name, parent, reference from it, type definition, data type, array, value and its type
_Row = tuple[int, str, int, int, int, int, bool, Value | None, Any]
_ROWS: Final[list[_Row]] = [
    (84, "Root", 0, 0, _FOLDER_TYPE, 0, False, None, None),
    (85, "Objects", 84, ORGANIZES, _FOLDER_TYPE, 0, False, None, None),
    (86, "Types", 84, ORGANIZES, _FOLDER_TYPE, 0, False, None, None),
    (87, "Views", 84, ORGANIZES, _FOLDER_TYPE, 0, False, None, None),
    (2253, "Server", 85, ORGANIZES, 2004, 0, False, None, None),
    (2254, "ServerArray", 2253, HAS_PROPERTY, _PROPERTY_TYPE, 12, True, lambda d: [d.uri], ua.VariantType.String),
    (
        *(2255, "NamespaceArray", 2253, HAS_PROPERTY, _PROPERTY_TYPE, 12, True),
        lambda d: ["http://opcfoundation.org/UA/", d.uri, WELLS_URI],
        ua.VariantType.String,
    ),
    (2256, "ServerStatus", 2253, HAS_COMPONENT, 2138, 862, False, _server_status, ua.VariantType.ExtensionObject),
    (
        *(2257, "StartTime", 2256, HAS_COMPONENT, _DATA_VARIABLE_TYPE, 294, False),
        lambda d: d.started_at.replace(tzinfo=None),
        ua.VariantType.DateTime,
    ),
    (
        *(2258, "CurrentTime", 2256, HAS_COMPONENT, _DATA_VARIABLE_TYPE, 294, False),
        lambda d: _naive_now(),
        ua.VariantType.DateTime,
    ),
    (2259, "State", 2256, HAS_COMPONENT, _DATA_VARIABLE_TYPE, 852, False, _constant(0), ua.VariantType.Int32),
    (2267, "ServiceLevel", 2253, HAS_PROPERTY, _PROPERTY_TYPE, 3, False, _constant(255), ua.VariantType.Byte),
    (2268, "ServerCapabilities", 2253, HAS_COMPONENT, 2013, 0, False, None, None),
    (11704, "OperationLimits", 2268, HAS_COMPONENT, 11564, 0, False, None, None),
    *(
        (number, name, 11704, HAS_PROPERTY, _PROPERTY_TYPE, 7, False, _constant(1_000), ua.VariantType.UInt32)
        for number, name in (
            (11705, "MaxNodesPerRead"),
            (11710, "MaxNodesPerBrowse"),
            (11712, "MaxNodesPerTranslateBrowsePathsToNodeIds"),
            (11714, "MaxMonitoredItemsPerCall"),
        )
    ),
]


def _standard_node(row: _Row) -> Node:
    number, name, _, _, definition, data_type, is_array, value, kind = row
    node_id = ua.NodeId(number, 0)
    if value is None:
        return Node(node_id, name, definition)
    shown = value
    return Node(
        node_id, name, definition, _VARIABLE, "", lambda device: good_value(shown(device), kind), data_type, is_array
    )


def _standard_references() -> dict[int, list[tuple[int, bool, int]]]:
    found: dict[int, list[tuple[int, bool, int]]] = {}
    for number, _, parent, kind, *_ in _ROWS:
        if parent:
            found.setdefault(parent, []).append((kind, True, number))
            found.setdefault(number, []).append((kind, False, parent))
    return found


_STANDARD: Final = {row[0]: _standard_node(row) for row in _ROWS}
_REFERENCES: Final = _standard_references()
