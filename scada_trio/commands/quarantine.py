"""Readings that a tenant's database refused: ``quarantine list``, ``quarantine retry``, ``quarantine drop``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rich.console import Console

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.tenants import open_tenant_database
from scada_trio.config import Settings
from scada_trio.errors import ConfigurationRefused
from scada_trio.storage.review import QuarantineReview, open_review
from scada_trio.storage.window import TimeWindow
from scada_trio.times import iso

_COLUMNS = ("id", "quarantined_at", "timestamp", "well_id", "tag_node_id", "value", "quality", "sqlstate", "reason")


async def list_quarantine(settings: Settings, console: Console, *, tenant: str, limit: int, form: Format) -> None:
    """Print the newest ``limit`` rows, newest first."""
    async with _open(settings, tenant) as review:
        found, total = await review.newest(limit)
    rows = [
        (
            *(row.id, row.quarantined_at.isoformat(timespec="milliseconds"), iso(row.time_us), row.well_id),
            *(row.tag_node_id, row.value, row.quality, row.sqlstate, row.reason),
        )
        for row in found
    ]
    print_rows(console, form, _COLUMNS, rows)
    if form == "table":
        console.print(f"{len(rows)} of {total} readings in quarantine", highlight=False)


async def retry_quarantine(settings: Settings, console: Console, *, tenant: str, ids: Sequence[int] | None) -> None:
    """Write rows again; raises `ConfigurationRefused` where some of them are refused again."""
    async with _open(settings, tenant) as review:
        tried, stored = await review.retry(ids)
        _, left = await review.newest(0)
    console.print(f"{tried} readings written again, {stored} went through, {left} are in quarantine", highlight=False)
    _missing(ids, tried, "are not in quarantine, or can never be stored as they came")
    if stored < tried:
        raise ConfigurationRefused(f"{tried - stored} readings are refused still: see scada-trio quarantine list")


async def drop_quarantine(settings: Settings, console: Console, *, tenant: str, ids: Sequence[int] | None) -> None:
    """Throw rows away; they are a loss from then on."""
    async with _open(settings, tenant) as review:
        dropped = await review.drop(ids)
    console.print(f"{dropped} readings dropped", highlight=False)
    _missing(ids, dropped, "are not in quarantine")


def _missing(ids: Sequence[int] | None, found: int, why: str) -> None:
    """Raise `ConfigurationRefused` where some of the ids that were given came to nothing."""
    wanted = found if ids is None else len(set(ids))
    if found < wanted:
        raise ConfigurationRefused(f"{wanted - found} of the given ids {why}")


@asynccontextmanager
async def _open(settings: Settings, tenant: str) -> AsyncIterator[QuarantineReview]:
    async with (
        open_tenant_database(settings, tenant) as url,
        open_review(url, window=TimeWindow.of(settings.storage), **settings.db_timeouts) as review,
    ):
        yield review
