"""SubscribeReadings, the method that does not end by itself; part of `scada_trio.api.handlers.ScadaHandlers`.

    LiveHub ──► Watcher (bounded) ──► one message at a time ──► HTTP/2 window of the client

A client that reads slowly holds up its own call only: the watcher's bound is what it may cost.
"""

from __future__ import annotations

from typing import Any, Final

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from scada_trio.api import questions
from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import Backend
from scada_trio.api.calls import in_trio, request_of
from scada_trio.api.wire import Encoded, LiveEncoder
from scada_trio.live import LiveClosed, LiveReadings, Watcher
from scada_trio.validation import parse_uuid

_READINGS_A_MESSAGE: Final = 2_000
_GATHER_S: Final = 0.02  # so that small blocks share a message: at most 50 a second for each client


class LiveHandlers:
    """SubscribeReadings; see proto/scada.proto."""

    _backend: Backend

    async def SubscribeReadings(self, stream: Any) -> None:  # noqa: N802 - named by the contract
        """Accepted readings until the client ends the call; UNAVAILABLE where the tenant or the service stops."""
        request: scada_pb2.SubscribeReadingsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        well_ids = questions.well_ids(request.well_ids) if request.well_ids else ()
        node_ids = questions.node_ids(request.tag_node_ids) or ()
        try:
            with self._backend.watch(tenant_id, well_ids, node_ids) as watcher:
                await stream.send_message(scada_pb2.SubscribeReadingsResponse())
                encoder = LiveEncoder(watcher.tags)
                while True:
                    live = await in_trio(_take, watcher)
                    data = encoder.encode(live.readings)
                    if live.missed:
                        data += scada_pb2.SubscribeReadingsResponse(missed=live.missed).SerializeToString()
                    await stream.send_message(Encoded(data))
        except LiveClosed:
            raise GRPCError(Status.UNAVAILABLE, "the tenant or the service is stopping") from None


async def _take(watcher: Watcher) -> LiveReadings:
    await watcher.wait()
    if watcher.waiting < _READINGS_A_MESSAGE:
        await trio.sleep(_GATHER_S)
    return await watcher.take(_READINGS_A_MESSAGE)
