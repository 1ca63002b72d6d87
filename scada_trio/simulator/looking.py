"""The services by which a client looks around in a simulated well: Read, Browse, paths (Part 4, 5.8 and 5.10).

Called by `services`; what there is to see is in `nodes`.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Any, Final

from opcua import ua

from scada_trio.simulator.device import Device, Session
from scada_trio.simulator.nodes import AddressSpace, Node, Reference, bad_value

_MOST_REFERENCES: Final = 1_000  # in one result
_MOST_CONTINUATIONS: Final = 10  # of a session
_FORWARD: Final = ua.BrowseDirection.Forward
_INVERSE: Final = ua.BrowseDirection.Inverse


def read(device: Device, session: Session, parameters: Any) -> Any:
    """Read."""
    space = AddressSpace(device)
    response = ua.ReadResponse()
    for wanted in parameters.NodesToRead:
        node = space.node(wanted.NodeId)
        unknown = ua.StatusCodes.BadNodeIdUnknown
        response.Results.append(bad_value(unknown) if node is None else space.read(node, wanted.AttributeId))
    return response


def browse(device: Device, session: Session, parameters: Any) -> Any:
    """Browse; what is too much for one result is kept for BrowseNext."""
    most = parameters.RequestedMaxReferencesPerNode or _MOST_REFERENCES
    response = ua.BrowseResponse()
    response.Results = [_browse_one(AddressSpace(device), session, wanted, most) for wanted in parameters.NodesToBrowse]
    return response


def browse_next(device: Device, session: Session, parameters: Any) -> Any:
    """BrowseNext."""
    response = ua.BrowseNextResponse()
    for point in parameters.ContinuationPoints:
        rest = session.browsing.pop(point, None)
        if rest is None:
            result = ua.BrowseResult()
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadContinuationPointInvalid)
        else:
            result = _part(session, [] if parameters.ReleaseContinuationPoints else rest, _MOST_REFERENCES)
        response.Parameters.Results.append(result)
    return response


def translate_browse_paths(device: Device, session: Session, parameters: Any) -> Any:
    """TranslateBrowsePathsToNodeIds."""
    space = AddressSpace(device)
    response = ua.TranslateBrowsePathsToNodeIdsResponse()
    for path in parameters.BrowsePaths:
        result = ua.BrowsePathResult()
        node = space.node(path.StartingNode)
        for element in path.RelativePath.Elements:
            node = None if node is None else _child(space, node, element)
        if node is None:
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadNoMatch)
        else:
            target = ua.BrowsePathTarget()
            target.TargetId, target.RemainingPathIndex = node.node_id, 0xFFFFFFFF
            result.Targets = [target]
        response.Results.append(result)
    return response


def register_nodes(device: Device, session: Session, parameters: Any) -> Any:
    """RegisterNodes: the ids are as good as any."""
    response = ua.RegisterNodesResponse()
    response.Parameters.RegisteredNodeIds = parameters.NodesToRegister
    return response


def _browse_one(space: AddressSpace, session: Session, wanted: Any, most: int) -> Any:
    node = space.node(wanted.NodeId)
    if node is None:
        result = ua.BrowseResult()
        result.StatusCode = ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown)
        return result
    found = [
        _described(space, reference, target)
        for reference in space.references(node)
        if _is_wanted(reference, wanted)
        for target in (space.node(reference.target),)
        if not wanted.NodeClassMask or (target is not None and wanted.NodeClassMask & target.node_class)
    ]
    return _part(session, found, most)


def _is_wanted(reference: Reference, wanted: Any) -> bool:
    if wanted.BrowseDirection == (_INVERSE if reference.forward else _FORWARD):
        return False
    kind = wanted.ReferenceTypeId.Identifier
    return reference.is_of(kind, subtypes=bool(wanted.IncludeSubtypes))


def _described(space: AddressSpace, reference: Reference, target: Node | None) -> Any:
    """A reference; of a target that is not here, a type of the standard, only the id is told."""
    described = ua.ReferenceDescription()
    described.ReferenceTypeId = ua.NodeId(reference.kind, 0)
    described.IsForward = reference.forward
    described.NodeId = reference.target
    if target is not None:
        described.BrowseName = target.browse_name
        described.DisplayName = ua.LocalizedText(target.name)
        described.NodeClass = target.node_class
        described.TypeDefinition = ua.NodeId(target.type_definition, 0)
    return described


def _part(session: Session, found: list[Any], most: int) -> Any:
    result = ua.BrowseResult()
    result.References = found[:most]
    if len(found) > most:
        if len(session.browsing) >= _MOST_CONTINUATIONS:
            for point in list(islice(session.browsing, 1)):
                del session.browsing[point]
        result.ContinuationPoint = os.urandom(8)
        session.browsing[result.ContinuationPoint] = found[most:]
    return result


def _child(space: AddressSpace, node: Node, element: Any) -> Node | None:
    kind = element.ReferenceTypeId.Identifier
    for reference in space.references(node):
        if reference.forward != element.IsInverse and reference.is_of(kind, subtypes=bool(element.IncludeSubtypes)):
            target = space.node(reference.target)
            if target is not None and target.browse_name == element.TargetName:
                return target
    return None
