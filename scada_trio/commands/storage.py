"""``storage report``: what a tenant's database holds and how it is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from rich.console import Console

from scada_trio.commands.rows import print_rows
from scada_trio.commands.tenants import open_tenant_database
from scada_trio.config import Settings
from scada_trio.storage.report import StorageReport, read_report

_POLICIES = ("relation", "what", "setting", "every", "last_run", "status", "next_run", "runs", "failures", "last_error")


async def report(settings: Settings, console: Console, *, tenant: str, as_json: bool) -> None:
    """Print the report as tables, or as one JSON object."""
    async with open_tenant_database(settings, tenant) as url:
        found = await read_report(url, settings.storage, **settings.db_timeouts)
    if as_json:
        fields = {**asdict(found), "compression_ratio": found.compression_ratio}
        sys.stdout.write(json.dumps(fields, default=_plain) + "\n")
        return
    print_rows(console, "table", ("readings", ""), _summary(found))
    if found.policies:
        print_rows(
            console,
            "table",
            _POLICIES,
            [
                (
                    *(policy.relation, policy.what, policy.setting or "no bound", policy.every, _time(policy.last_run)),
                    *(policy.last_status if policy.enabled else "disabled", _time(policy.next_run), policy.runs),
                    *(policy.failures, policy.last_error),
                )
                for policy in found.policies
            ],
        )
    print_rows(
        console,
        "table",
        ("rollup", "kind", "materialised_until", "size"),
        [
            (
                rollup.name,
                rollup.kind + ("" if rollup.ours else " of another application"),
                _time(rollup.materialised_until) or ("nothing" if rollup.kind != "view" else "computed when asked for"),
                None if rollup.bytes is None else _size(rollup.bytes),
            )
            for rollup in found.rollups
        ],
    )


def _summary(found: StorageReport) -> Iterable[Sequence[object]]:
    yield "kept in", found.kind + ("" if found.ours else " of another application")
    if found.timescaledb is not None:
        yield "TimescaleDB", found.timescaledb
    yield "repeated readings", "told by a unique index" if found.tells_repeated else "looked up"
    if found.chunks:
        yield "chunks" if found.kind == "hypertable" else "partitions", found.chunks
    if found.kind == "hypertable":
        yield "compressed chunks", found.compressed_chunks
    yield "rows, estimated", f"{found.rows_estimate:,}"
    yield "oldest reading", _time(found.oldest) + ("" if found.oldest_exact else " or later") or "none"
    yield "newest reading", _time(found.newest) + ("" if found.newest_exact else " or earlier") or "none"
    yield "size", _size(found.total_bytes)
    yield "of tables", _size(found.table_bytes)
    yield "of indexes", _size(found.index_bytes)
    for index in found.indexes:
        yield f"of {index.name}", _size(index.bytes)
    if found.compression_ratio is not None and found.compressed_from_bytes and found.compressed_to_bytes:
        sizes = f"{_size(found.compressed_from_bytes)} to {_size(found.compressed_to_bytes)}"
        yield "compression", f"{found.compression_ratio:.1f} : 1 ({sizes})"


def _time(at: datetime | None) -> str:
    return "" if at is None else at.isoformat(sep=" ", timespec="seconds")


def _size(size: int) -> str:
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(type(value).__name__)
