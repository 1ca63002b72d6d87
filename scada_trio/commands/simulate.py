"""``simulate``: a field of wells for whoever wants to point something at it."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from rich.console import Console

from scada_trio.loadtest.load import Load
from scada_trio.simulator.process import FieldOptions, RunningField, open_field

_SHOWN: int = 5


async def simulate(
    out: Console, load: Load, *, host: str, base_port: int, record: Path | None, duration_s: float | None
) -> None:
    """Serve until Ctrl-C, or for a while. Standard output gets a line of JSON a well, or a summary on a terminal."""
    options = FieldOptions(
        load.wells,
        tags=load.tags,
        seed=load.seed,
        interval_ms=load.interval_ms,
        host=host,
        base_port=base_port,
        rates=load.rates,
        record=record,
    )
    async with open_field(options) as field:
        _announce(out, load, field)
        with trio.move_on_after(duration_s if duration_s is not None else float("inf")):
            await trio.sleep_forever()


def _announce(out: Console, load: Load, field: RunningField) -> None:
    if not sys.stdout.isatty():
        for well in field.wells:
            sys.stdout.write(well.to_line() + "\n")
        sys.stdout.flush()
        return
    out.print(
        f"{load.wells:,} wells of {load.tags:,} tags at {load.rate_hz:g} Hz: {load.values_per_s:,.0f} tags/s; "
        f"process {field.pid}; Ctrl-C ends it",
        highlight=False,
    )
    for well in field.wells[:_SHOWN]:
        out.print(f"  {well.endpoint_url}  {well.name}  {well.tags[0].node_id} ...", highlight=False)
    if len(field.wells) > _SHOWN:
        out.print(f"  ... {len(field.wells) - _SHOWN:,} more, all of them as JSON when this is piped", highlight=False)
