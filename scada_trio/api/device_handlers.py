"""BrowseNodes and TestConnection; part of `scada_trio.api.handlers.ScadaHandlers`.

Owns every rule about what such a request may say. No answer has a password in it.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from pydantic import SecretStr

from scada_trio.api import questions
from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import Backend
from scada_trio.api.calls import in_trio, request_of
from scada_trio.api.tokens import PageTokens
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import InvalidField
from scada_trio.nodes import BrowseOrder, BrowseQuery, FoundNode, WalkPlace, parse_query
from scada_trio.queries import Position
from scada_trio.trial import Trial
from scada_trio.validation import (
    MAX_LOGIN_BYTES,
    parse_endpoint,
    parse_node_id,
    parse_security,
    parse_text,
    parse_uuid,
)

log = structlog.get_logger()

_DEFAULT_NODES: Final = 500
_MAX_NODES: Final = 5_000
_MAX_READS: Final = 10
_ORDERS: Final = {
    scada_pb2.BROWSE_ORDER_DEPTH_FIRST: BrowseOrder.DEPTH,
    scada_pb2.BROWSE_ORDER_BREADTH_FIRST: BrowseOrder.BREADTH,
}


class DeviceHandlers:
    """See proto/scada.proto."""

    _backend: Backend
    _tokens: PageTokens

    async def BrowseNodes(self, stream: Any) -> None:  # noqa: N802 - named by the contract
        """One page of what a device has."""
        request: scada_pb2.BrowseNodesRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        device = _device(tenant_id, request.device)
        query = _query(request)
        limit = questions.parse_limit("limit", request.limit, _DEFAULT_NODES, _MAX_NODES)
        place = None
        if request.page_token:
            position = self._tokens.read(request, request.page_token)
            place = WalkPlace(position.node_id or "", position.time_us)
        page = await in_trio(self._backend.browse, tenant_id, device, query, limit, place)
        token = ""
        if page.following is not None:
            token = self._tokens.make(request, Position(page.following.pages, page.following.key))
        await stream.send_message(
            scada_pb2.BrowseNodesResponse(
                nodes=map(_node_message, page.nodes),
                next_page_token=token,
                nodes_visited=page.visited,
                nodes_unread=page.unread,
            )
        )

    async def TestConnection(self, stream: Any) -> None:  # noqa: N802
        """Every step of a trial, good or bad."""
        request: scada_pb2.TestConnectionRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        device = _device(tenant_id, request.device)
        if len(request.node_ids) > _MAX_READS:
            raise InvalidField("node_ids", f"has {len(request.node_ids):,} entries; {_MAX_READS} at most are read")
        node_ids = [parse_node_id(f"node_ids[{index}]", text) for index, text in enumerate(request.node_ids)]
        trial = await in_trio(self._backend.try_device, tenant_id, device, node_ids)
        log.info("connection tested", tenant_id=str(tenant_id), good=trial.is_good)
        await stream.send_message(_trial_message(trial))


def _device(tenant_id: UUID, target: scada_pb2.DeviceTarget) -> ConnectionSpec | UUID:
    """The id of a stored connection, or what an endpoint comes to."""
    if target.connection_id:
        told = [field.name for field, _ in target.ListFields() if field.name != "connection_id"]
        if told:
            raise InvalidField(f"device.{told[0]}", "cannot be given beside connection_id, which has its own")
        return parse_uuid("device.connection_id", target.connection_id)
    if not target.endpoint_url:
        raise InvalidField("device", "is missing; a connection_id or an endpoint_url is expected")
    try:
        mode, policy = parse_security(target.security_mode, target.security_policy)
    except InvalidField as error:
        raise InvalidField(f"device.{error.field}", error.reason) from None
    username = parse_text("device.username", target.username, MAX_LOGIN_BYTES) or None
    password = parse_text("device.password", target.password, MAX_LOGIN_BYTES)
    return ConnectionSpec(
        uuid4(),
        tenant_id,
        "",
        parse_endpoint("device.endpoint_url", target.endpoint_url),
        mode,
        policy,
        username,
        SecretStr(password) if username and password else None,
    )


def _query(request: scada_pb2.BrowseNodesRequest) -> BrowseQuery:
    order = _ORDERS.get(request.order)
    if order is None:
        raise InvalidField("order", f"{request.order} is no order")
    if request.start_node_id:
        parse_node_id("start_node_id", request.start_node_id)
    return parse_query(
        start=request.start_node_id,
        order=order,
        max_depth=request.max_depth,
        paths=request.paths,
        node_classes=request.node_classes,
        data_types=request.data_types,
        namespaces=request.namespaces,
        storable_only=request.storable_only,
        include_server=request.include_server,
        include_properties=request.include_properties,
        values=request.values,
    )


def _node_message(node: FoundNode) -> scada_pb2.BrowsedNode:
    low, high = (None, None) if node.range is None else node.range
    return scada_pb2.BrowsedNode(
        node_id=_sendable(node.node_id),
        path=_sendable(node.path),
        name=_sendable(node.name),
        node_class=node.node_class,
        data_type=_sendable(node.data_type),
        is_array=node.is_array,
        is_readable=node.is_readable,
        problem=node.problem or "",
        unit=node.unit,
        range_low=low,
        range_high=high,
        value=node.value,
        status=node.status,
    )


def _sendable(text: str) -> str:
    """Protobuf takes valid Unicode only, and a device says what it likes."""
    return text.encode(errors="replace").decode()


def _trial_message(trial: Trial) -> scada_pb2.TestConnectionResponse:
    return scada_pb2.TestConnectionResponse(
        success=trial.is_good,
        steps=[
            scada_pb2.TestStep(
                name=step.name,
                outcome=step.outcome,
                detail=_sendable(step.detail),
                duration_ms=step.duration_ms,
                lines=map(_sendable, step.lines),
            )
            for step in trial.steps
        ],
        endpoints=[
            scada_pb2.OfferedEndpoint(
                security_mode=offered.security_mode,
                security_policy=offered.security_policy,
                user_tokens=offered.tokens,
            )
            for offered in trial.endpoints
        ],
        certificate_thumbprint=trial.thumbprint,
        certificate_trusted=trial.is_trusted,
        certificate_refusal=trial.refusal,
    )
