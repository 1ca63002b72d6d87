"""The half that both asyncua pipelines share: subscribe to every well, reconnect as asyncua's own example does."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import UTC
from typing import Any

from asyncua import Client, ua

from benchmarks.peers.pipeline import Config, Row, Well, quality_of

log = logging.getLogger("pipeline")


class Handler:
    """Puts each value into the queue of rows."""

    def __init__(self, well: Well, rows: deque[Row]) -> None:
        self._well_id = well.well_id
        self._names = {ua.NodeId.from_string(node_id): node_id for node_id in well.node_ids}
        self._rows = rows

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """Called by asyncua for each value."""
        read = data.monitored_item.Value
        self._rows.append(
            (
                read.SourceTimestamp.replace(tzinfo=UTC),
                float("nan") if value is None else float(value),
                self._well_id,
                self._names[node.nodeid],
                quality_of(read.StatusCode.value),
            )
        )


async def follow(well: Well, rows: deque[Row], config: Config) -> None:
    """Keep one well subscribed; returns only when cancelled."""
    while True:
        client = Client(well.endpoint_url, timeout=10)
        try:
            async with client:
                subscription = await client.create_subscription(config.publishing_ms, Handler(well, rows))
                await subscription.subscribe_data_change(
                    [client.get_node(node_id) for node_id in well.node_ids],
                    queuesize=config.queue_size,
                    sampling_interval=config.sampling_ms,
                )
                while True:
                    await asyncio.sleep(1)
                    await client.check_connection()
        except (OSError, TimeoutError, ua.UaError) as error:
            log.warning("%s: %r, connecting again in 2 s", well.endpoint_url, error)
            await asyncio.sleep(2)
