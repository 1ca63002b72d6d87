"""Serves a field of wells: one OPC UA server a well, all on one asyncio loop.

Runs in a process of its own (`python -m scada_trio.simulator`), with nothing of the service in it: besides the API's
server this is the one place where asyncio appears, because asyncua is written for it. `serve_field` owns the servers
from bind to stop.

asyncua builds the standard address space, 6,000 nodes, for every server: 0.9 s and 39 MB each. Here it is built once;
each server takes the type nodes from it as they are and copies only the instances under the Objects folder.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from asyncua import Server, ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeData
from asyncua.server.internal_server import InternalServer

from scada_trio.readings import Tag
from scada_trio.simulator.field import TAG_MODELS, Sample, TagModel, Well
from scada_trio.simulator.wells import SimulatedWell

NAMESPACE_URI: Final = "urn:scada-trio:simulator:wells"
STOP_TIMEOUT_S: Final = 3.0

_VARIANT_TYPES: Final = {
    "Boolean": ua.VariantType.Boolean,
    "Int32": ua.VariantType.Int32,
    "Float": ua.VariantType.Float,
    "Double": ua.VariantType.Double,
}
_INSTANCES: Final = (ua.NodeClass.Object, ua.NodeClass.Variable, ua.NodeClass.Method)


class WellServer:
    """One well on one endpoint. Made and stopped by `serve_field`."""

    def __init__(self, well: Well, server: Server, nodes: Sequence[ua.NodeId]) -> None:
        self.well = well
        self._server = server
        self._nodes = nodes
        self._write = server.iserver.write_attribute_value

    @classmethod
    async def start(cls, well: Well, standard: AddressSpace, *, port: int) -> WellServer:
        """Build the well's nodes and listen on loopback ``port``, 0 for a free one; `OSError` where it is taken."""
        server = Server(iserver=_CopiedStandard(standard))
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        server.set_server_name(f"scada-trio simulator, {well.name}")
        await server.init()
        await server.set_application_uri(f"urn:scada-trio:simulator:{well.well_id}")
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
        nodes = await _add_nodes(server, well)
        await server.start()
        return cls(well, server, nodes)

    @property
    def announcement(self) -> SimulatedWell:
        """What a client needs to know."""
        well = self.well
        tags = tuple(
            Tag(
                tag_id=well.tag_id(model),
                well_id=well.well_id,
                node_id=node.to_string(),
                data_type=model.data_type,
                name=model.name,
                unit=model.unit,
            )
            for model, node in zip(TAG_MODELS, self._nodes, strict=True)
        )
        return SimulatedWell(well.well_id, well.name, f"opc.tcp://127.0.0.1:{self._server.bserver.port}/", tags)

    async def advance(self) -> None:
        """Write the next value of every tag, all with the time of this call as source timestamp."""
        now = datetime.now(UTC)
        for model, node, sample in zip(TAG_MODELS, self._nodes, self.well.advance(), strict=True):
            await self._write(node, _as_value(model, sample, now))

    async def stop(self) -> None:
        """Close the endpoint and every session on it."""
        self._server.iserver.time_task.cancel()  # else asyncua waits out its last second
        with suppress(asyncio.CancelledError):
            await self._server.stop()


@asynccontextmanager
async def serve_field(wells: Sequence[Well], *, base_port: int) -> AsyncIterator[list[WellServer]]:
    """Serve ``wells`` on the ports from ``base_port`` on, or each on a free one where that is 0; closed on leaving.

    Their values do not move by themselves: `run_walks` does that. Raises `OSError` where a port is taken.
    """
    standard = await _standard_address_space()
    servers: list[WellServer] = []
    try:
        for index, well in enumerate(wells):
            port = base_port + index if base_port else 0
            servers.append(await WellServer.start(well, standard, port=port))
        yield servers
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(server.stop() for server in servers)), STOP_TIMEOUT_S)


async def run_walks(servers: Sequence[WellServer], *, interval_s: float) -> None:
    """Move every well once an interval, the wells spread over it evenly; returns only when cancelled.

    A loop that falls behind by more than an interval leaves steps out instead of catching up in a burst.
    """
    clock = asyncio.get_running_loop().time
    gap_s = interval_s / len(servers)
    due = clock()
    while True:
        for server in servers:
            await server.advance()
            due = max(due + gap_s, clock() - interval_s)
            await asyncio.sleep(max(0.0, due - clock()))


async def _add_nodes(server: Server, well: Well) -> list[ua.NodeId]:
    namespace = await server.register_namespace(NAMESPACE_URI)
    folder = await server.nodes.objects.add_folder(
        ua.NodeId(well.key, namespace), ua.QualifiedName(well.name, namespace)
    )
    nodes = []
    for model, sample in zip(TAG_MODELS, well.advance(), strict=True):
        node = ua.NodeId(well.node_name(model), namespace)
        kind = _VARIANT_TYPES[model.data_type]
        value = ua.Variant(sample.value if sample.value is not None else model.shown(model.typical), kind)
        variable = await folder.add_variable(node, ua.QualifiedName(model.name, namespace), value)
        await variable.write_attribute(
            ua.AttributeIds.Description, ua.DataValue(ua.LocalizedText(f"{model.name} in {model.unit}"))
        )
        nodes.append(node)
    return nodes


def _as_value(model: TagModel, sample: Sample, time: datetime) -> ua.DataValue:
    variant = ua.Variant(sample.value, _VARIANT_TYPES[model.data_type]) if sample.value is not None else ua.Variant()
    return ua.DataValue(variant, StatusCode=ua.StatusCode(sample.status), SourceTimestamp=time, ServerTimestamp=time)


async def _standard_address_space() -> AddressSpace:
    full = InternalServer()
    await full.load_standard_address_space()
    return full.aspace


class _CopiedStandard(InternalServer):  # type: ignore[misc]  # asyncua is not typed
    """An asyncua server core whose standard nodes come from a space that is already built."""

    def __init__(self, standard: AddressSpace) -> None:
        super().__init__()
        self._standard = standard

    async def load_standard_address_space(self, shelf_file: Path | None = None) -> None:
        """Called by ``Server.init`` where it would build the 6,000 nodes anew."""
        nodes = self.aspace._nodes
        nodes.update(self._standard._nodes)
        for node_id in _instances(self._standard):
            nodes[node_id] = _copied(nodes[node_id])


def _instances(space: AddressSpace) -> set[ua.NodeId]:
    """All nodes under the Objects folder: what a running server writes to, and hangs its own nodes on."""
    start = ua.NodeId(ua.ObjectIds.ObjectsFolder)
    found, waiting = {start}, [start]
    while waiting:
        for reference in space[waiting.pop()].references:
            node_id = reference.NodeId
            if reference.IsForward and reference.NodeClass in _INSTANCES and node_id in space and node_id not in found:
                found.add(node_id)
                waiting.append(node_id)
    return found


def _copied(node: NodeData) -> NodeData:
    twin = NodeData(node.nodeid)
    twin.references = list(node.references)
    twin.attributes = {key: AttributeValue(held.value) for key, held in node.attributes.items()}
    if (shown := twin.attributes.get(ua.AttributeIds.Value)) is not None:
        shown.value = copy.deepcopy(shown.value)  # asyncua changes arrays and structures in place
    twin.call = node.call
    return twin
