"""The methods that read a tenant's readings; part of `scada_trio.api.handlers.ScadaHandlers`.

No answer holds up the loop for long: readings are laid out in slices of at most 50,000 (5 ms), other large answers
are made in a worker thread. A stream asks the database for the next page when the client has taken the last one, and
holds no connection while it waits.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import trio

from scada_trio.api import questions
from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import Backend
from scada_trio.api.calls import in_trio, request_of
from scada_trio.api.tokens import PageTokens
from scada_trio.api.wire import Encoded, encode_readings
from scada_trio.queries import Position, ReadingScan
from scada_trio.validation import parse_uuid

_READINGS_A_MESSAGE: Final = 2_000
_READINGS_A_PAGE: Final = 8_000


class QueryHandlers:
    """QueryReadings, StreamReadings, QueryAggregates and LatestReadings; see proto/scada.proto."""

    def __init__(self, backend: Backend, tokens: PageTokens) -> None:
        self._backend = backend
        self._tokens = tokens

    async def QueryReadings(self, stream: Any) -> None:  # noqa: N802 - named by the contract
        """One page of readings, newest first unless asked otherwise."""
        request: scada_pb2.QueryReadingsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        query = questions.readings_query(request)
        limit = questions.parse_limit("limit", request.limit, questions.DEFAULT_LIMIT, questions.MAX_LIMIT)
        scan = ReadingScan(query, self._position(request))
        rows = await in_trio(self._backend.read_readings, tenant_id, scan, limit, True)
        data = encode_readings(rows)
        if not scan.done and scan.position is not None:
            token = self._tokens.make(request, scan.position)
            data += scada_pb2.QueryReadingsResponse(next_page_token=token).SerializeToString()
        await stream.send_message(Encoded(data))

    async def StreamReadings(self, stream: Any) -> None:  # noqa: N802
        """All readings of a range, in messages of at most 2,000."""
        request: scada_pb2.StreamReadingsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        scan = ReadingScan(questions.stream_query(request))
        limit = _READINGS_A_MESSAGE  # a small page first, so that the client soon has something to show
        while not scan.done:
            rows = await in_trio(self._backend.read_readings, tenant_id, scan, limit, False)
            limit = _READINGS_A_PAGE
            for first in range(0, len(rows), _READINGS_A_MESSAGE):
                await stream.send_message(Encoded(encode_readings(rows.slice(first, first + _READINGS_A_MESSAGE))))

    async def QueryAggregates(self, stream: Any) -> None:  # noqa: N802
        """Means, extremes and counts by bucket."""
        request: scada_pb2.QueryAggregatesRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        query = questions.aggregates_query(request, self._position(request))
        page = await in_trio(self._backend.read_aggregates, tenant_id, query)
        token = ""
        if page.more:
            last = page.aggregates[-1]
            token = self._tokens.make(request, Position(last.bucket_us, last.node_id))
        make = partial(questions.aggregates_message, page, query.resolution, token)
        await stream.send_message(await in_trio(trio.to_thread.run_sync, make))

    async def LatestReadings(self, stream: Any) -> None:  # noqa: N802
        """The newest reading of each tag."""
        request: scada_pb2.LatestReadingsRequest = await request_of(stream)
        tenant_id = parse_uuid("tenant_id", request.tenant_id)
        well_ids = questions.well_ids(request.well_ids)
        node_ids = questions.node_ids(request.tag_node_ids)
        wells = await in_trio(self._backend.read_latest, tenant_id, well_ids, node_ids)
        await stream.send_message(Encoded(b"".join(map(encode_readings, wells))))

    def _position(self, request: scada_pb2.QueryReadingsRequest | scada_pb2.QueryAggregatesRequest) -> Position | None:
        return self._tokens.read(request, request.page_token) if request.page_token else None
