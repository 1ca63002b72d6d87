"""``python -m tests.chaos``: the short form; with ``--minutes`` the long one; with ``--fault`` chosen ones.

Prints what happens, then the table; exit status 0 where every value is accounted for, else 1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console

from tests.chaos import plans, report
from tests.chaos.run import run
from tests.chaos.site import Scale


def main(
    minutes: Annotated[float, typer.Option(help="Length of the long form; 0 plays the short one.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 1,
    fault: Annotated[list[str] | None, typer.Option(help="Play these only, in this order.")] = None,
    values_per_s: Annotated[int, typer.Option(help="What the counting devices make together.")] = 10_000,
    restarts: Annotated[int | None, typer.Option(help="Restarts of a device at the end.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the outcome there.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table in Markdown, too.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave the directory with logs and databases.")] = False,
) -> None:
    """Break everything in turn, and account for every value."""
    console = Console(width=160)
    console.print(f"seed {seed}")
    directory = Path(tempfile.mkdtemp(prefix="scada-trio-chaos-"))
    directory.chmod(0o755)
    plan = plans.only(fault) if fault else plans.long(minutes) if minutes else plans.short
    scale = Scale(values_per_s=values_per_s, small_disk_mb=512 if minutes > 5 else 64)
    many = restarts if restarts is not None else 50 if minutes else 5
    go = partial(run, directory, seed=seed, plan=plan, restarts=many, scale=scale, say=console.print)
    try:
        outcome = trio.run(go)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    console.print(report.table(outcome))
    for finding in outcome.findings:
        console.print(f"- {finding}", style="red", markup=False)
    console.print(f"rows of scada_loss by reason: {outcome.losses}")
    if outcome.left_out:
        console.print(f"left out, since no file system can be mounted here: {', '.join(outcome.left_out)}")
    if markdown:
        console.print(report.markdown(outcome), markup=False)
    if json is not None:
        json.write_text(outcome.to_json() + "\n")
    sys.exit(0 if outcome.passed else 1)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)
app()
