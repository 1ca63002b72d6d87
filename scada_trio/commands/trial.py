"""``connection test``: a device tried step by step, a line each."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from rich.console import Console

from scada_trio.commands.rows import print_rows
from scada_trio.commands.targets import Target, find_target, open_pki, run_interruptible
from scada_trio.config import Settings
from scada_trio.errors import ScadaError
from scada_trio.opcua.trial import MAX_NODES, try_device
from scada_trio.trial import Outcome, Step
from scada_trio.validation import parse_node_id

_COLUMNS = ("step", "outcome", "detail", "duration_ms", "lines")
_MARKS = {Outcome.OK: "ok", Outcome.FAILED: "FAIL", Outcome.SKIPPED: "-"}


async def try_connection(
    settings: Settings, console: Console, target: Target, node_ids: Sequence[str], *, as_json: bool = False
) -> None:
    """Print the steps; raises `ScadaError` where one failed. Without ``node_ids`` some of the stored tags are read."""
    for node_id in node_ids:
        parse_node_id("--node", node_id)

    async def run() -> None:
        spec = await find_target(settings, target)
        pki = await open_pki(settings, spec)
        trial = await try_device(
            spec,
            node_ids or [tag.node_id for tag in spec.tags[:MAX_NODES]],
            settings=settings.device,
            pki=pki,
            limiter=trio.CapacityLimiter(2),
            resolving=trio.CapacityLimiter(1),
        )
        if as_json:
            print_rows(console, "json", _COLUMNS, [_row(step) for step in trial.steps])
        for step in trial.steps if not as_json else ():
            took = "" if step.outcome is Outcome.SKIPPED else f"  {step.duration_ms:,.0f} ms"
            console.print(f"{_MARKS[step.outcome]:<5} {step.name}: {step.detail}{took}", highlight=False, markup=False)
            for line in step.lines:
                console.print(f"        {line}", highlight=False, markup=False)
        if not trial.is_good:
            failed = next(step for step in trial.steps if step.outcome is Outcome.FAILED)
            raise ScadaError(f"{failed.name} failed")

    await run_interruptible(run)


def _row(step: Step) -> tuple[object, ...]:
    took = None if step.outcome is Outcome.SKIPPED else round(step.duration_ms, 1)
    return step.name, step.outcome.value, step.detail, took, list(step.lines)
