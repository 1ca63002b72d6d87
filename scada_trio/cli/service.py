"""The service and what surrounds it: ``serve``, ``demo``, ``migrate``, ``check``."""

from __future__ import annotations

from typing import Annotated

import typer

from scada_trio.cli.options import JsonOption
from scada_trio.cli.run import run_command
from scada_trio.terminal import out


def serve() -> None:
    """Run the service until SIGTERM or Ctrl-C, then flush everything and exit."""
    from scada_trio.commands.serve import run

    run()


def demo(
    wells: Annotated[int, typer.Option(min=1, max=100, help="Simulated wells for each of the two tenants.")] = 5,
    interval_ms: Annotated[int, typer.Option(min=50, max=60_000, help="How often each tag gets a new value.")] = 1000,
) -> None:
    """Simulated wells, an embedded database and the service in one terminal; Ctrl-C ends it, data stays."""
    from scada_trio.commands.demo import demo as command

    run_command(command, quiet=False, wells=wells, interval_ms=interval_ms)


def migrate() -> None:
    """Bring master and tenant databases to the current schema; harmless to repeat, safe to run twice at once."""
    from scada_trio.commands.tenants import migrate as command

    run_command(command, out)


def check(as_json: JsonOption = False) -> None:
    """Tell whether configuration, databases and devices are as they should be: a line each; exit status 1 if not."""
    from scada_trio.commands.check import check as command

    run_command(command, out, as_json=as_json)
