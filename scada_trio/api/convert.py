"""Connections and states between the wire and the service: messages to domain values and back.

Owns every rule about what such a request may say. Knows no task, no loop, no storage; pure functions. Malformed
requests are `InvalidField`, with the path of the field (``tags[3].node_id``).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pydantic import SecretStr

from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import (
    AggregatorStats,
    ConnectionListing,
    ConnectionReport,
    Health,
    TagChange,
    TenantListing,
)
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import InvalidField
from scada_trio.readings import Tag
from scada_trio.sampling import parse_deadband_percent, parse_number, parse_publishing_interval, parse_sampling
from scada_trio.status import RevisedItem, SubscriptionTerms
from scada_trio.validation import (
    MAX_LOGIN_BYTES,
    parse_data_type,
    parse_endpoint,
    parse_node_id,
    parse_security,
    parse_text,
    parse_uuid,
)

_MAX_NAME_BYTES = 1_024
_MAX_INT32 = (1 << 31) - 1


def stats_message(tenant_id: UUID, stats: AggregatorStats) -> scada_pb2.GetAggregatorStatsResponse:
    """The answer to GetAggregatorStats."""
    return scada_pb2.GetAggregatorStatsResponse(
        tenant_id=str(tenant_id),
        buffer_size=min(stats.buffer_size, _MAX_INT32),
        time_since_last_flush_ms=stats.time_since_last_flush_ms,
    )


def health_message(health: Health) -> scada_pb2.HealthCheckResponse:
    """The answer to HealthCheck."""
    return scada_pb2.HealthCheckResponse(
        status=health.status,
        active_connections=health.active_connections,
        active_tenants=health.active_tenants,
    )


def connection_message(report: ConnectionReport) -> scada_pb2.GetConnectionResponse:
    """The answer to GetConnection."""
    status = report.status
    return scada_pb2.GetConnectionResponse(
        connection_id=str(report.spec.connection_id),
        tenant_id=str(report.spec.tenant_id),
        name=report.spec.name,
        endpoint_url=report.spec.endpoint_url,
        state=status.state.value,
        since=int(status.since),
        attempts_failed=min(status.attempts_failed, _MAX_INT32),
        last_error=status.last_error,
        last_error_type=status.last_error_type,
        tags_monitored=status.tags_monitored,
        tags_refused=[scada_pb2.RefusedTag(node_id=tag.node_id, status=tag.status) for tag in status.tags_refused],
        readings=status.readings,
        readings_per_second=status.rate.per_second(),
        last_reading_time=None if status.last_reading_at is None else int(status.last_reading_at),
        unstorable=dict(status.unstorable),
        subscription=_subscription(status.revisions.terms),
        items_revised=status.revisions.items,
        revised_items=map(_revised_item, status.revisions.examples),
        items_unfiltered=status.revisions.unfiltered,
        losses=[
            scada_pb2.Loss(
                reason=loss.reason,
                from_time_us=loss.from_us,
                to_time_us=loss.to_us,
                count=loss.count,
                detail=loss.detail,
            )
            for loss in report.losses
        ],
    )


def _subscription(terms: SubscriptionTerms | None) -> scada_pb2.Subscription | None:
    if terms is None:
        return None
    return scada_pb2.Subscription(
        requested_publishing_interval_ms=terms.publishing_ms,
        revised_publishing_interval_ms=terms.revised_publishing_ms,
        requested_keep_alive_count=terms.keep_alive_count,
        revised_keep_alive_count=terms.revised_keep_alive_count,
        requested_lifetime_count=terms.lifetime_count,
        revised_lifetime_count=terms.revised_lifetime_count,
    )


def _revised_item(item: RevisedItem) -> scada_pb2.RevisedItem:
    return scada_pb2.RevisedItem(
        node_id=item.node_id,
        requested_sampling_interval_ms=item.sampling_ms,
        revised_sampling_interval_ms=item.revised_sampling_ms,
        requested_queue_size=item.queue_size,
        revised_queue_size=item.revised_queue_size,
    )


def connection_spec(request: scada_pb2.AddConnectionRequest) -> ConnectionSpec:
    """What AddConnection asks for; what is absent of name and parameters is empty or None.

    An empty login is none; a password without a username has no use and is dropped.
    """
    mode, policy = parse_security(request.security_mode, request.security_policy)
    username = parse_text("username", request.username, MAX_LOGIN_BYTES) or None
    password = parse_text("password", request.password, MAX_LOGIN_BYTES)
    return ConnectionSpec(
        connection_id=parse_uuid("connection_id", request.connection_id),
        tenant_id=parse_uuid("tenant_id", request.tenant_id),
        name=parse_text("name", request.name, _MAX_NAME_BYTES),
        endpoint_url=parse_endpoint("endpoint_url", request.endpoint_url),
        security_mode=mode,
        security_policy=policy,
        username=username,
        password=SecretStr(password) if username and password else None,
        publishing_interval_ms=parse_publishing_interval(
            "publishing_interval_ms", _told(request).get("publishing_interval_ms")
        ),
        sampling=parse_sampling("", _told(request)),
        tags=_tags(request.tags),
    )


def tag_change(request: scada_pb2.UpdateConnectionTagsRequest) -> TagChange:
    """What UpdateConnectionTags asks for."""
    removed = tuple(parse_uuid(f"remove_tag_ids[{i}]", text) for i, text in enumerate(request.remove_tag_ids))
    if not request.tags and (request.replace or not removed):
        raise InvalidField("tags", "is empty; a connection reads at least one tag")
    tags = _tags(request.tags) if request.tags else ()
    ids = {tag.tag_id for tag in tags}
    for index, tag_id in enumerate(removed):
        if tag_id in ids:
            raise InvalidField(f"remove_tag_ids[{index}]", "is one of tags too")
    return TagChange(tags, removed, replace=request.replace)


def connection_list_message(
    listings: Sequence[ConnectionListing], *, include_tags: bool
) -> scada_pb2.ListConnectionsResponse:
    """The answer to ListConnections."""
    return scada_pb2.ListConnectionsResponse(
        connections=[_connection_summary(listing, include_tags=include_tags) for listing in listings]
    )


def _connection_summary(listing: ConnectionListing, *, include_tags: bool) -> scada_pb2.ConnectionSummary:
    summary = scada_pb2.ConnectionSummary(
        connection_id=str(listing.connection_id),
        name=listing.name,
        endpoint_url=listing.endpoint_url,
        security_mode=listing.security_mode,
        security_policy=listing.security_policy,
        username=listing.username,
        active=listing.active,
        state="inactive",
        tags_configured=len(listing.tags),
        tags=[_tag_mapping(tag) for tag in listing.tags] if include_tags else (),
        publishing_interval_ms=listing.publishing_interval_ms,
        sampling_interval_ms=listing.sampling.interval_ms,
        queue_size=listing.sampling.queue_size,
        discard_oldest=listing.sampling.discard_oldest,
    )
    status = listing.status
    if status is not None:
        summary.state = status.state.value
        summary.since = int(status.since)
        summary.attempts_failed = min(status.attempts_failed, _MAX_INT32)
        summary.tags_monitored = status.tags_monitored
        summary.tags_refused = len(status.tags_refused)
        summary.readings = status.readings
        summary.readings_per_second = status.rate.per_second()
        if status.last_error is not None:
            summary.last_error = status.last_error
        if status.last_error_type is not None:
            summary.last_error_type = status.last_error_type
        if status.last_reading_at is not None:
            summary.last_reading_time = int(status.last_reading_at)
    return summary


def tenant_list_message(listings: Sequence[TenantListing]) -> scada_pb2.ListTenantsResponse:
    """The answer to ListTenants."""
    return scada_pb2.ListTenantsResponse(tenants=map(_tenant_summary, listings))


def _tenant_summary(listing: TenantListing) -> scada_pb2.TenantSummary:
    summary = scada_pb2.TenantSummary(
        tenant_id=str(listing.tenant_id),
        name=listing.name,
        status=listing.status,
        state="stopped",
        connections=listing.connections,
    )
    snapshot = listing.snapshot
    if snapshot is not None:
        summary.state = snapshot.state
        summary.connections_connected = snapshot.connected
        summary.buffer_size = snapshot.accounts.in_journal
        summary.readings_received = snapshot.accounts.received
        summary.readings_committed = snapshot.accounts.committed
        if snapshot.last_error is not None:
            summary.last_error = snapshot.last_error
    return summary


def _tags(mappings: Sequence[scada_pb2.TagMapping]) -> tuple[Tag, ...]:
    if not mappings:
        raise InvalidField("tags", "is empty; a connection reads at least one tag")
    tags = tuple(_tag(f"tags[{index}]", mapping) for index, mapping in enumerate(mappings))
    ids: dict[UUID, int] = {}
    nodes: dict[tuple[UUID, str], int] = {}
    for index, tag in enumerate(tags):
        if (first := ids.setdefault(tag.tag_id, index)) != index:
            raise InvalidField(f"tags[{index}].tag_id", f"is the same as that of tags[{first}]")
        if (first := nodes.setdefault((tag.well_id, tag.node_id), index)) != index:
            raise InvalidField(f"tags[{index}].node_id", f"is the same node of the same well as tags[{first}]")
    return tags


def _told(message: scada_pb2.AddConnectionRequest | scada_pb2.TagMapping) -> dict[str, object]:
    """The fields that are there, by name."""
    return {field.name: value for field, value in message.ListFields()}


def _tag(path: str, mapping: scada_pb2.TagMapping) -> Tag:
    told = _told(mapping)
    deadband = parse_number(f"{path}.deadband", told.get("deadband"))
    return Tag(
        tag_id=parse_uuid(f"{path}.tag_id", mapping.tag_id),
        well_id=parse_uuid(f"{path}.well_id", mapping.well_id),
        node_id=parse_node_id(f"{path}.node_id", mapping.node_id),
        data_type=parse_data_type(f"{path}.data_type", mapping.data_type),
        name=parse_text(f"{path}.name", mapping.name, _MAX_NAME_BYTES),
        unit=parse_text(f"{path}.unit", mapping.unit, _MAX_NAME_BYTES) or None,
        scaling_factor=parse_number(f"{path}.scaling_factor", told.get("scaling_factor")),
        deadband=deadband,
        deadband_percent=parse_deadband_percent(f"{path}.deadband_percent", told.get("deadband_percent"), deadband),
        sampling=parse_sampling(f"{path}.", told),
    )


def _tag_mapping(tag: Tag) -> scada_pb2.TagMapping:
    return scada_pb2.TagMapping(
        tag_id=str(tag.tag_id),
        well_id=str(tag.well_id),
        node_id=tag.node_id,
        data_type=tag.data_type,
        name=tag.name or None,
        unit=tag.unit,
        scaling_factor=tag.scaling_factor,
        deadband=tag.deadband,
        deadband_percent=tag.deadband_percent,
        sampling_interval_ms=tag.sampling.interval_ms,
        queue_size=tag.sampling.queue_size,
        discard_oldest=tag.sampling.discard_oldest,
    )
