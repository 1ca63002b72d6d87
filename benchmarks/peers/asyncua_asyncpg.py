"""asyncua into PostgreSQL with asyncpg's COPY, as both documentations have it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import asyncpg

from benchmarks.peers.asyncua_client import follow, log
from benchmarks.peers.pipeline import COLUMNS, RETRY_S, Config, Row, given_config, next_batch


async def main(config: Config) -> None:
    """Runs until it is told to stop."""
    rows: deque[Row] = deque()
    async with (
        asyncpg.create_pool(config.database_url, min_size=1, max_size=1) as pool,
        asyncio.TaskGroup() as tasks,
    ):
        for well in config.wells:
            tasks.create_task(follow(well, rows, config))
        while True:
            await write(pool, await next_batch(rows, config))


async def write(pool: Any, batch: list[Row]) -> None:
    """Until the batch is there."""
    while True:
        try:
            async with pool.acquire() as connection:
                await connection.copy_records_to_table("scada_readings", records=batch, columns=COLUMNS)
        except asyncpg.UniqueViolationError:
            log.warning("a batch is there already")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("database: %r, again in %g s", error, RETRY_S)
            await asyncio.sleep(RETRY_S)
            continue
        return


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(given_config()))
