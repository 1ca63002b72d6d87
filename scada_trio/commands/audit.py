"""``audit``: who changed the configuration, and which calls were denied."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console

from scada_trio.commands.query import parse_time
from scada_trio.commands.rows import print_rows
from scada_trio.commands.serve import open_checked_master
from scada_trio.config import Settings
from scada_trio.instance import open_instance
from scada_trio.storage.audit import AuditEntry, AuditQuery
from scada_trio.times import moment

_COLUMNS = ("at", "actor", "address", "action", "entity", "outcome", "what")


async def audit(
    settings: Settings,
    console: Console,
    *,
    since: str | None,
    until: str | None,
    tenant: str | None,
    outcome: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print entries, the newest first: a table, or a JSON object a line."""
    query = AuditQuery(_time("--since", since), _time("--until", until), tenant, outcome, limit)
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        entries = await master.read_audit(query)
    if as_json:
        for entry in entries:
            sys.stdout.write(json.dumps(asdict(entry), default=_plain) + "\n")
        return
    print_rows(console, "table", _COLUMNS, [_row(entry) for entry in entries])
    if not entries:
        console.print("nothing in the audit log of that time")


def _row(entry: AuditEntry) -> tuple[object, ...]:
    times = f" ({entry.count} times)" if entry.count > 1 else ""
    return (
        entry.at.isoformat(sep=" ", timespec="seconds"),
        entry.actor,
        entry.address,
        entry.action,
        " ".join(filter(None, (entry.entity, entry.entity_id))),
        entry.outcome,
        (entry.detail or _differences(entry.before or {}, entry.after or {})) + times,
    )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if not before:
        return ", ".join(f"{key}={value}" for key, value in after.items() if value not in (None, ""))
    if not after:
        return "deleted"
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in sorted(changed))


def _time(option: str, text: str | None) -> datetime | None:
    return None if text is None else moment(parse_time(option, text, time.time_ns() // 1000))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
