"""Readings that a database refused: ``quarantine list``, ``retry``, ``drop``."""

from __future__ import annotations

from typing import Annotated

import typer

from scada_trio.cli.options import FormatOption, JsonOption, LimitOption, OutputFormat, TenantOption, examples, form_of
from scada_trio.cli.run import run_command
from scada_trio.errors import InvalidField
from scada_trio.terminal import out

quarantine_app = typer.Typer(
    no_args_is_help=True,
    help="Readings that a tenant's database refused.",
    epilog=examples("scada-trio quarantine list --tenant Permian"),
)

ReadingIds = Annotated[
    list[int] | None, typer.Option("--id", min=1, max=2**63 - 1, help="Id of a reading; may be repeated.")
]
Everything = Annotated[bool, typer.Option("--all", help="Every reading in quarantine.")]


@quarantine_app.command("list", epilog=examples("scada-trio quarantine list --tenant Permian --limit 10 --json"))
def quarantine_list(
    tenant: TenantOption,
    limit: LimitOption = 50,
    output: FormatOption = OutputFormat.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Print the readings that the tenant's database refused, newest first, and why."""
    from scada_trio.commands.quarantine import list_quarantine as command

    run_command(command, out, tenant=tenant, limit=limit, form=form_of(output, as_json))


@quarantine_app.command("retry", epilog=examples("scada-trio quarantine retry --tenant Permian --all"))
def quarantine_retry(tenant: TenantOption, ids: ReadingIds = None, everything: Everything = False) -> None:
    """Write readings again, once the reason is gone; those that go through leave the quarantine."""
    from scada_trio.commands.quarantine import retry_quarantine as command

    run_command(command, out, tenant=tenant, ids=_chosen(ids, everything=everything))


@quarantine_app.command("drop", epilog=examples("scada-trio quarantine drop --tenant Permian --id 17 --id 18 --yes"))
def quarantine_drop(
    tenant: TenantOption,
    ids: ReadingIds = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Throw readings away for good; scada-trio losses shows them from then on."""
    from scada_trio.commands.quarantine import drop_quarantine as command

    chosen = _chosen(ids, everything=everything)
    if not yes:
        what = "all readings" if chosen is None else f"{len(chosen)} readings"
        typer.confirm(f"Drop {what} in the quarantine of {tenant} for good?", abort=True)
    run_command(command, out, tenant=tenant, ids=chosen)


def _chosen(ids: list[int] | None, *, everything: bool) -> list[int] | None:
    """The ids that were given; None: all."""
    if everything == bool(ids):
        raise InvalidField("--id", "give either ids or --all")
    return None if everything else ids
