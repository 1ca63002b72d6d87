"""Between the wire and the service: messages to domain values and back, errors to statuses.

Owns every rule about what a request may say, and the one table of statuses. Knows no task, no loop, no storage;
pure functions. Malformed requests are `InvalidField`, with the path of the field (``tags[3].node_id``).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import trio
from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from pydantic import SecretStr

from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import AggregatorStats, ConnectionReport, Health
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import (
    ConfigurationRefused,
    DatabaseError,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    InvalidField,
    UnknownConnection,
    UnknownTenant,
    leaves,
)
from scada_trio.readings import ReadingRows, Tag
from scada_trio.validation import (
    MAX_LOGIN_BYTES,
    parse_data_type,
    parse_endpoint,
    parse_node_id,
    parse_security,
    parse_text,
    parse_uuid,
)

_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_MAX_INT32 = (1 << 31) - 1

# The first that matches counts. What is not here is a bug of ours: INTERNAL, and nothing of it leaves the process.
_STATUSES: tuple[tuple[type[Exception], Status], ...] = (
    (InvalidField, Status.INVALID_ARGUMENT),
    (DecodeError, Status.INVALID_ARGUMENT),
    (UnknownTenant, Status.NOT_FOUND),
    (UnknownConnection, Status.NOT_FOUND),
    (ConfigurationRefused, Status.FAILED_PRECONDITION),
    (DatabaseUnavailable, Status.UNAVAILABLE),
    (DatabaseMisconfigured, Status.FAILED_PRECONDITION),
    (DatabaseError, Status.UNAVAILABLE),
    (trio.TooSlowError, Status.DEADLINE_EXCEEDED),
)
_TEXTS: dict[type[Exception], str] = {
    DecodeError: "the request is not a message of this method",
    trio.TooSlowError: "the answer took too long",
}


def as_grpc_error(error: BaseException) -> GRPCError | None:
    """The status that ``error`` is answered with, groups unwrapped; None where it is not in the table."""
    found: GRPCError | None = None
    for leaf in leaves(error):
        status = leaf if isinstance(leaf, GRPCError) else _looked_up(leaf)
        if status is None:
            return None  # a bug beside an expected error is still a bug
        found = found or status
    return found


def _looked_up(error: BaseException) -> GRPCError | None:
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return GRPCError(status, _TEXTS.get(kind, str(error)))
    return None


def interval_us(request: scada_pb2.QueryReadingsRequest) -> tuple[int, int]:
    """Both ends of the interval asked for, included, in µs since 1970 UTC."""
    start_s, end_s = int(request.start_time), int(request.end_time)
    for field, time_s in (("start_time", start_s), ("end_time", end_s)):
        if not 0 <= time_s <= _LAST_SECOND:
            raise InvalidField(field, f"{time_s} is not in the years 1970 to 9999; Unix seconds are expected")
    if end_s < start_s:
        raise InvalidField("end_time", "is before start_time")
    return start_s * 1_000_000, end_s * 1_000_000


def readings_message(rows: ReadingRows) -> scada_pb2.QueryReadingsResponse:
    """The answer to QueryReadings; times are cut to whole seconds.

    Appended one by one with attributes set: half the time of building a list of messages.
    """
    response = scada_pb2.QueryReadingsResponse()
    add = response.readings.add
    well_id = str(rows.well_id)
    times_s = (rows.time_us // 1_000_000).tolist()
    for node_id, time_s, value, quality in zip(
        rows.node_ids, times_s, rows.value.tolist(), rows.qualities, strict=True
    ):
        reading = add()
        reading.well_id = well_id
        reading.tag_node_id = node_id
        reading.timestamp = time_s
        reading.value = value
        reading.quality = quality
    return response


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
        last_reading_time=None if status.last_reading_at is None else int(status.last_reading_at),
        unstorable=dict(status.unstorable),
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


def connection_spec(request: scada_pb2.AddConnectionRequest) -> ConnectionSpec:
    """What AddConnection asks for; ``name`` is empty, since the request has none.

    An empty login is none; a password without a username has no use and is dropped.
    """
    mode, policy = parse_security(request.security_mode, request.security_policy)
    username = parse_text("username", request.username, MAX_LOGIN_BYTES) or None
    password = parse_text("password", request.password, MAX_LOGIN_BYTES)
    return ConnectionSpec(
        connection_id=parse_uuid("connection_id", request.connection_id),
        tenant_id=parse_uuid("tenant_id", request.tenant_id),
        name="",
        endpoint_url=parse_endpoint("endpoint_url", request.endpoint_url),
        security_mode=mode,
        security_policy=policy,
        username=username,
        password=SecretStr(password) if username and password else None,
        tags=_tags(request.tags),
    )


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


def _tag(path: str, mapping: scada_pb2.TagMapping) -> Tag:
    return Tag(
        tag_id=parse_uuid(f"{path}.tag_id", mapping.tag_id),
        well_id=parse_uuid(f"{path}.well_id", mapping.well_id),
        node_id=parse_node_id(f"{path}.node_id", mapping.node_id),
        data_type=parse_data_type(f"{path}.data_type", mapping.data_type),
    )
