"""The methods of ``scada.ScadaService`` and of ``grpc.health.v1.Health``.

grpclib calls each in a task of its asyncio loop; each reads its request, asks the `Backend` in Trio, and sends one
answer. Errors are raised as they are: the server turns them into statuses. Knows no socket and no listener.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthBase
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from scada_trio.api import convert
from scada_trio.api._generated import scada_pb2
from scada_trio.api._generated.scada_grpc import ScadaServiceBase
from scada_trio.api.backend import Backend
from scada_trio.api.calls import in_trio, request_of
from scada_trio.api.device_handlers import DeviceHandlers
from scada_trio.api.live_handlers import LiveHandlers
from scada_trio.api.query_handlers import QueryHandlers
from scada_trio.errors import ConfigurationRefused, DatabaseError, UnknownTenant
from scada_trio.validation import parse_uuid

SERVICE_NAME: Final = "scada.ScadaService"
_WATCH_EVERY_S: Final = 1.0

log = structlog.get_logger()


class ScadaHandlers(QueryHandlers, LiveHandlers, DeviceHandlers, ScadaServiceBase):
    """The service's own methods; see proto/scada.proto."""

    async def GetAggregatorStats(self, stream: Any) -> None:  # noqa: N802
        """Numbers of one tenant's buffer."""
        request: scada_pb2.GetAggregatorStatsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        stats = await in_trio(self._backend.aggregator_stats, tenant_id)
        await stream.send_message(convert.stats_message(tenant_id, stats))

    async def AddConnection(self, stream: Any) -> None:  # noqa: N802
        """Store and start a connection; what cannot be carried out is told in the answer, not as a status."""
        request: scada_pb2.AddConnectionRequest = await request_of(stream)
        spec = convert.connection_spec(request)
        ids = {"tenant_id": str(spec.tenant_id), "connection_id": str(spec.connection_id)}
        try:
            await in_trio(self._backend.add_connection, spec)
        except (ConfigurationRefused, UnknownTenant, DatabaseError) as error:
            log.warning("connection not added", **ids, error=str(error))
            response = scada_pb2.AddConnectionResponse(success=False, error=str(error))
        else:
            log.info("connection added", **ids, tags_count=len(spec.tags))
            response = scada_pb2.AddConnectionResponse(success=True)
        await stream.send_message(response)

    async def RemoveConnection(self, stream: Any) -> None:  # noqa: N802
        """Stop a connection; ``success`` is false where no connection ever had that id."""
        request: scada_pb2.RemoveConnectionRequest = await request_of(stream)
        connection_id = parse_uuid("connection_id", request.connection_id)
        known = await in_trio(self._backend.remove_connection, connection_id)
        log.info("connection removed" if known else "no such connection", connection_id=str(connection_id))
        await stream.send_message(scada_pb2.RemoveConnectionResponse(success=known))

    async def HealthCheck(self, stream: Any) -> None:  # noqa: N802
        """The state of the whole."""
        await request_of(stream)
        await stream.send_message(convert.health_message(await in_trio(self._backend.health)))

    async def GetConnection(self, stream: Any) -> None:  # noqa: N802
        """One active connection: state, refusals, losses."""
        request: scada_pb2.GetConnectionRequest = await request_of(stream)
        connection_id = parse_uuid("connection_id", request.connection_id)
        report = await in_trio(self._backend.connection_report, connection_id)
        await stream.send_message(convert.connection_message(report))

    async def ListConnections(self, stream: Any) -> None:  # noqa: N802
        """Every connection of a tenant, active or not."""
        request: scada_pb2.ListConnectionsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        listings = await in_trio(self._backend.list_connections, tenant_id)
        await stream.send_message(convert.connection_list_message(listings, include_tags=request.include_tags))

    async def ListTenants(self, stream: Any) -> None:  # noqa: N802
        """Every tenant."""
        await request_of(stream)
        await stream.send_message(convert.tenant_list_message(await in_trio(self._backend.list_tenants)))

    async def UpdateConnectionTags(self, stream: Any) -> None:  # noqa: N802
        """Add, change, remove or replace tags of a connection."""
        request: scada_pb2.UpdateConnectionTagsRequest = await request_of(stream)
        connection_id = parse_uuid("connection_id", request.connection_id)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        change = convert.tag_change(request)
        count = await in_trio(self._backend.update_tags, tenant_id, connection_id, change)
        log.info(
            "tags changed",
            tenant_id=str(tenant_id),
            connection_id=str(connection_id),
            tags_stored=len(change.tags),
            tags_removed=len(change.removed),
            replace=change.replace,
            tags_count=count,
        )
        await stream.send_message(scada_pb2.UpdateConnectionTagsResponse(tags_configured=count))

    async def RestartConnection(self, stream: Any) -> None:  # noqa: N802
        """Drop a connection's session and make a new one."""
        request: scada_pb2.RestartConnectionRequest = await request_of(stream)
        connection_id = parse_uuid("connection_id", request.connection_id)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        await in_trio(self._backend.restart_connection, tenant_id, connection_id)
        log.info("connection restarted", tenant_id=str(tenant_id), connection_id=str(connection_id))
        await stream.send_message(scada_pb2.RestartConnectionResponse())


class HealthHandlers(HealthBase):  # type: ignore[misc]
    """gRPC health checking (grpc.health.v1): NOT_SERVING while unhealthy or stopping, for both names we answer to."""

    def __init__(self, backend: Backend, stop: trio.Event) -> None:
        self._backend = backend
        self._stop = stop

    async def Check(self, stream: Any) -> None:  # noqa: N802
        """The state now; NOT_FOUND for a service that is not ours."""
        request: HealthCheckRequest = await request_of(stream)
        if request.service not in ("", SERVICE_NAME):
            raise GRPCError(Status.NOT_FOUND, "no such service")
        await stream.send_message(HealthCheckResponse(status=await in_trio(self._serving)))

    async def Watch(self, stream: Any) -> None:  # noqa: N802
        """The state now and whenever it changes, until the server stops."""
        request: HealthCheckRequest = await request_of(stream)
        ours = request.service in ("", SERVICE_NAME)
        sent = None
        while True:
            stopping = self._stop.is_set()
            status = await in_trio(self._serving) if ours else HealthCheckResponse.SERVICE_UNKNOWN
            if status != sent:
                await stream.send_message(HealthCheckResponse(status=status))
                sent = status
            if stopping:
                return
            await in_trio(self._until_stop_or_next_look)

    async def _serving(self) -> HealthCheckResponse.ServingStatus.ValueType:
        if self._stop.is_set() or (await self._backend.health()).status == "unhealthy":
            return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING

    async def _until_stop_or_next_look(self) -> None:
        with trio.move_on_after(_WATCH_EVERY_S):
            await self._stop.wait()
