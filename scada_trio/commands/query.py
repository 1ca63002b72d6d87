"""``query``: readings of a well, straight from the tenant's database."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from uuid import UUID

from rich import box
from rich.console import Console
from rich.table import Table

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.tenants import open_tenant_reader
from scada_trio.config import Settings
from scada_trio.errors import InvalidField
from scada_trio.readings import ReadingRows
from scada_trio.times import iso

_COLUMNS = ("timestamp", "well_id", "tag_node_id", "value", "quality")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


async def query(
    settings: Settings,
    console: Console,
    *,
    tenant: str,
    well_id: UUID,
    since: str,
    until: str | None,
    limit: int,
    form: Format,
) -> None:
    """Print the newest ``limit`` readings of the well between ``since`` and ``until``, newest first."""
    now_us = time.time_ns() // 1000
    start_us = parse_time("--since", since, now_us)
    end_us = now_us if until is None else parse_time("--until", until, now_us)
    if end_us < start_us:
        raise InvalidField("--until", "is before --since")
    async with open_tenant_reader(settings, tenant) as reader:
        rows = await reader.query_readings(well_id, start_us, end_us, limit)
    if form == "table":
        _print_table(console, rows)
        return
    values = ((iso(t), rows.well_id, node, value, quality) for node, t, value, quality in _zip(rows))
    print_rows(console, form, _COLUMNS, values)


def parse_time(option: str, text: str, now_us: int) -> int:
    """µs since 1970 of ``15m``, ``2h``, ``7d`` ago, of an ISO 8601 time (UTC unless it says) or of Unix seconds."""
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text):
        return now_us - int(match[1]) * _UNITS_S[match[2]] * 1_000_000
    if re.fullmatch(r"\d{9,11}", text):
        return int(text) * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidField(option, f"{text!r} is no time; give 15m, 2h, 7d, 2026-01-31T12:00 or Unix seconds") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def _print_table(console: Console, rows: ReadingRows) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("tag", overflow="fold")
    table.add_column("value", no_wrap=True, justify="right")
    table.add_column("quality", no_wrap=True)
    for node_id, time_us, value, quality in _zip(rows):
        moment = datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(" ", timespec="milliseconds")
        table.add_row(moment.removesuffix("+00:00"), node_id, f"{value:.6g}", quality)
    if table.row_count:
        console.print(table)
    console.print(f"{table.row_count} readings", highlight=False)


def _zip(rows: ReadingRows) -> zip[tuple[str, int, float, str]]:
    return zip(rows.node_ids, rows.time_us.tolist(), rows.value.tolist(), rows.qualities, strict=True)
