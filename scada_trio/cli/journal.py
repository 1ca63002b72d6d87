"""What is accepted and not yet in a database: ``journal status``, ``verify``, ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scada_trio.cli.options import AnyTenantOption, FormatOption, OutputFormat, TenantOption
from scada_trio.cli.run import run_command
from scada_trio.terminal import out

journal_app = typer.Typer(no_args_is_help=True, help="Readings that are accepted and not yet in a tenant's database.")


@journal_app.command("status")
def journal_status(tenant: AnyTenantOption = None, output: FormatOption = OutputFormat.TABLE) -> None:
    """Print what waits in each tenant's journal: how much, how large, how old."""
    from scada_trio.commands.journal import status as command

    run_command(command, out, tenant=tenant, form=output.value)


@journal_app.command("verify")
def journal_verify(tenant: AnyTenantOption = None) -> None:
    """Check all checksums; exit status 1 where something is damaged."""
    from scada_trio.commands.journal import verify as command

    run_command(command, out, tenant=tenant)


@journal_app.command("export")
def journal_export(
    tenant: TenantOption,
    output: Annotated[Path, typer.Option(help="FILE.csv or FILE.parquet; must not exist.")],
) -> None:
    """Write the readings that wait to a file; the journal keeps them."""
    from scada_trio.commands.journal import export as command

    run_command(command, out, tenant=tenant, output=output)
