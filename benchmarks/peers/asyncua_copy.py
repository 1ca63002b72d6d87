"""asyncua into PostgreSQL with psycopg's binary COPY, as both documentations have it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import psycopg

from benchmarks.peers.asyncua_client import follow, log
from benchmarks.peers.pipeline import COLUMNS, RETRY_S, Config, Row, given_config, next_batch

COPY = f"COPY scada_readings ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
TYPES = ["timestamptz", "float8", "uuid", "text", "text"]


async def main(config: Config) -> None:
    """Runs until it is told to stop."""
    rows: deque[Row] = deque()
    async with asyncio.TaskGroup() as tasks:
        for well in config.wells:
            tasks.create_task(follow(well, rows, config))
        while True:
            await write_batches(rows, config)


async def write_batches(rows: deque[Row], config: Config) -> None:
    """On one connection, until that breaks; what it was given last is the first of the next one."""
    batch: list[Row] = []
    try:
        async with await psycopg.AsyncConnection.connect(config.database_url, autocommit=True) as connection:
            while True:
                batch = await next_batch(rows, config)
                await write(connection, batch)
                batch = []
    except psycopg.OperationalError as error:
        rows.extendleft(reversed(batch))
        log.warning("database: %s, again in %g s", str(error).strip(), RETRY_S)
        await asyncio.sleep(RETRY_S)


async def write(connection: psycopg.AsyncConnection[Any], batch: list[Row]) -> None:
    """In one transaction; raises `psycopg.OperationalError` where it may not be there."""
    try:
        async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.set_types(TYPES)
            for row in batch:
                await copy.write_row(row)
    except psycopg.errors.UniqueViolation:
        log.warning("a batch is there already")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(given_config()))
