"""What is accepted and not yet in a database: ``journal status``, ``verify``, ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scada_trio.cli.options import (
    AnyTenantOption,
    FormatOption,
    JsonOption,
    OutputFormat,
    TenantOption,
    examples,
    form_of,
)
from scada_trio.cli.run import run_command
from scada_trio.terminal import out

journal_app = typer.Typer(
    no_args_is_help=True,
    help="Readings that are accepted and not yet in a tenant's database.",
    epilog=examples("scada-trio journal status"),
)


@journal_app.command("status", epilog=examples("scada-trio journal status --json"))
def journal_status(
    tenant: AnyTenantOption = None, output: FormatOption = OutputFormat.TABLE, as_json: JsonOption = False
) -> None:
    """Print what waits in each tenant's journal: how much, how large, how old."""
    from scada_trio.commands.journal import status as command

    run_command(command, out, tenant=tenant, form=form_of(output, as_json))


@journal_app.command("verify", epilog=examples("scada-trio journal verify --tenant Permian"))
def journal_verify(tenant: AnyTenantOption = None, as_json: JsonOption = False) -> None:
    """Check all checksums; exit status 1 where something is damaged."""
    from scada_trio.commands.journal import verify as command

    run_command(command, out, tenant=tenant, as_json=as_json)


@journal_app.command("export", epilog=examples("scada-trio journal export --tenant Permian --output waiting.csv"))
def journal_export(
    tenant: TenantOption,
    output: Annotated[Path, typer.Option(help="FILE.csv or FILE.parquet; must not exist.")],
) -> None:
    """Write the readings that wait to a file; the journal keeps them."""
    from scada_trio.commands.journal import export as command

    run_command(command, out, tenant=tenant, output=output)
