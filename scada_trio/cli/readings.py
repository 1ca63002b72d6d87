"""What became of readings: ``query``, ``losses``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from scada_trio.cli.options import FormatOption, JsonOption, LimitOption, OutputFormat, TenantOption, form_of
from scada_trio.cli.run import run_command
from scada_trio.terminal import out


def query(
    tenant: TenantOption,
    well: Annotated[UUID, typer.Option(help="Id of the well.")],
    since: Annotated[str, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time (UTC unless it says); Unix seconds.")],
    until: Annotated[str | None, typer.Option(help="As --since; now if left out.")] = None,
    limit: LimitOption = 50,
    output: FormatOption = OutputFormat.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Print a well's readings, newest first, straight from the tenant's database."""
    from scada_trio.commands.query import query as command

    form = form_of(output, as_json)
    run_command(command, out, tenant=tenant, well_id=well, since=since, until=until, limit=limit, form=form)


def losses(
    tenant: TenantOption,
    since: Annotated[str | None, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time; Unix seconds.")] = None,
    connection: Annotated[UUID | None, typer.Option(help="Id of a connection; all if left out.")] = None,
    limit: LimitOption = 50,
    output: FormatOption = OutputFormat.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Print what a tenant lost in spite of everything, newest first: when, why, and how much where it is known."""
    from scada_trio.commands.losses import losses as command

    form = form_of(output, as_json)
    run_command(command, out, tenant=tenant, since=since, connection_id=connection, limit=limit, form=form)
