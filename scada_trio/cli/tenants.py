"""Customers: ``tenant add``, ``tenant list``."""

from __future__ import annotations

from typing import Annotated

import typer

from scada_trio.cli.options import FormatOption, JsonOption, OutputFormat, examples, form_of
from scada_trio.cli.run import run_command
from scada_trio.terminal import out

tenant_app = typer.Typer(
    no_args_is_help=True,
    help="Customers, each with a database of its own.",
    epilog=examples("scada-trio tenant list"),
)


@tenant_app.command("add", epilog=examples("scada-trio tenant add Permian"))
def tenant_add(
    name: Annotated[str, typer.Argument(help="Name of the tenant; unique.")],
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="TENANT_DATABASE_URL",
            help="postgresql:// URL of the tenant's database. Left out, one is created beside the master database.",
        ),
    ] = None,
) -> None:
    """Add a tenant: create or take its database, migrate it, store it."""
    from scada_trio.commands.tenants import add_tenant as command

    run_command(command, out, name, database_url)


@tenant_app.command("list", epilog=examples("scada-trio tenant list --json"))
def tenant_list(output: FormatOption = OutputFormat.TABLE, as_json: JsonOption = False) -> None:
    """List the tenants, and what a running service does with each."""
    from scada_trio.commands.tenants import list_tenants as command

    run_command(command, out, form=form_of(output, as_json))
