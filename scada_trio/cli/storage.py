"""What a tenant's database holds: ``storage report``."""

from __future__ import annotations

from typing import Annotated

import typer

from scada_trio.cli.options import TenantOption, examples
from scada_trio.cli.run import run_command
from scada_trio.terminal import out

storage_app = typer.Typer(
    no_args_is_help=True,
    help="What a tenant's database holds and how it is kept.",
    epilog=examples("scada-trio storage report --tenant Permian"),
)


@storage_app.command("report", epilog=examples("scada-trio storage report --tenant Permian --json"))
def storage_report(
    tenant: TenantOption,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes, seconds, ISO 8601 times.")] = False,
) -> None:
    """Print chunks, sizes, compression, oldest and newest reading, policies and rollups of a tenant's database."""
    from scada_trio.commands.storage import report as command

    run_command(command, out, tenant=tenant, as_json=as_json)
