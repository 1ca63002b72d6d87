"""python-opcua into PostgreSQL with psycopg's executemany, as both documentations have it."""

from __future__ import annotations

import logging
import time
from collections import deque
from datetime import UTC
from typing import Any

import psycopg
from opcua import Client

from benchmarks.peers.pipeline import COLUMNS, RETRY_S, Config, Row, Well, given_config, next_batch_blocking, quality_of

log = logging.getLogger("pipeline")
INSERT = f"INSERT INTO scada_readings ({', '.join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s)"


class Handler:
    """Puts each value into the queue of rows."""

    def __init__(self, well: Well, rows: deque[Row]) -> None:
        self._well_id = well.well_id
        self._rows = rows

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """Called by python-opcua for each value, in the connection's thread."""
        read = data.monitored_item.Value
        self._rows.append(
            (
                read.SourceTimestamp.replace(tzinfo=UTC),
                float("nan") if value is None else float(value),
                self._well_id,
                node.nodeid.to_string(),
                quality_of(read.StatusCode.value),
            )
        )


def main(config: Config) -> None:
    """Runs until it is told to stop."""
    rows: deque[Row] = deque()
    for well in config.wells:
        client = Client(well.endpoint_url, timeout=10)
        client.connect()
        subscription = client.create_subscription(config.publishing_ms, Handler(well, rows))
        nodes = [client.get_node(node_id) for node_id in well.node_ids]
        subscription.subscribe_data_change(nodes, queuesize=config.queue_size)
    while True:
        write_batches(rows, config)


def write_batches(rows: deque[Row], config: Config) -> None:
    """On one connection, until that breaks; what it was given last is the first of the next one."""
    batch: list[Row] = []
    try:
        with psycopg.connect(config.database_url) as connection:
            while True:
                batch = next_batch_blocking(rows, config)
                write(connection, batch)
                batch = []
    except psycopg.OperationalError as error:
        rows.extendleft(reversed(batch))
        log.warning("database: %s, again in %g s", str(error).strip(), RETRY_S)
        time.sleep(RETRY_S)


def write(connection: psycopg.Connection[Any], batch: list[Row]) -> None:
    """In one transaction; raises `psycopg.OperationalError` where it may not be there."""
    try:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(INSERT, batch)
    except psycopg.errors.UniqueViolation:
        log.warning("a batch is there already")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(given_config())
