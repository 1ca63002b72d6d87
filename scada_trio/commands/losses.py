"""``losses``: what a tenant lost in spite of everything, and why."""

from __future__ import annotations

import time
from uuid import UUID

from rich.console import Console

from scada_trio.commands.query import parse_time
from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.tenants import open_tenant_reader
from scada_trio.config import Settings
from scada_trio.times import iso

_COLUMNS = ("id", "recorded_at", "reason", "connection_id", "from", "to", "readings", "detail")


async def losses(
    settings: Settings,
    console: Console,
    *,
    tenant: str,
    since: str | None,
    connection_id: UUID | None,
    limit: int,
    form: Format,
) -> None:
    """Print the newest ``limit`` losses that reach beyond ``since``, newest first."""
    since_us = None if since is None else parse_time("--since", since, time.time_ns() // 1000)
    async with open_tenant_reader(settings, tenant) as reader:
        found = await reader.read_losses(connection_id, since_us, limit)
    rows = [
        (
            *(row.id, row.recorded_at.isoformat(timespec="milliseconds"), row.loss.reason.value),
            *(row.loss.connection_id, iso(row.loss.from_us), iso(row.loss.to_us), row.loss.count, row.loss.detail),
        )
        for row in found
    ]
    print_rows(console, form, _COLUMNS, rows)
    if form == "table":
        counted = sum(row.loss.count or 0 for row in found)
        console.print(f"{len(found)} losses, {counted} readings as far as they can be counted", highlight=False)
