"""The command line: names, options, help, exit codes. What a command does stands in `scada_trio.commands`.

Exit status 0 done, 1 it could not be done, 2 it was asked wrongly or the environment is wrong; one line says why.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import UUID

import trio
import typer

import scada_trio
from scada_trio.cli_load import loadtest, simulate
from scada_trio.cli_run import read_password, run_command
from scada_trio.cli_security import audit, secrets_app
from scada_trio.cli_tags import browse, import_tags, try_connection
from scada_trio.cli_trust import trust_app
from scada_trio.config import Settings
from scada_trio.errors import ConfigError, InvalidField, ScadaError, leaves
from scada_trio.logs import configure_logging
from scada_trio.sampling import MAX_INTERVAL_MS, MAX_QUEUE_SIZE, Sampling
from scada_trio.terminal import out

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Multi-tenant SCADA ingestion: OPC UA subscriptions in, TimescaleDB out, gRPC and Prometheus beside.

    Configured by environment variables (see .env.example). Without DATABASE_URL everything lives in an embedded
    PostgreSQL under DATA_DIR.

    First steps: scada-trio demo. In earnest: scada-trio migrate, tenant add NAME, connection add --help, check, serve.
    """,
)
tenant_app = typer.Typer(no_args_is_help=True, help="Customers, each with a database of its own.")
connection_app = typer.Typer(no_args_is_help=True, help="Links to OPC UA servers and the tags read from them.")
app.add_typer(tenant_app, name="tenant")
app.add_typer(connection_app, name="connection")
quarantine_app = typer.Typer(no_args_is_help=True, help="Readings that a tenant's database refused.")
app.add_typer(quarantine_app, name="quarantine")
journal_app = typer.Typer(no_args_is_help=True, help="Readings that are accepted and not yet in a tenant's database.")
app.add_typer(journal_app, name="journal")
app.add_typer(trust_app, name="trust")
app.add_typer(secrets_app, name="secrets")

app.command()(simulate)
app.command()(loadtest)
app.command()(audit)
app.command()(browse)
app.command("import")(import_tags)
connection_app.command("test")(try_connection)

storage_app = typer.Typer(no_args_is_help=True, help="What a tenant's database holds and how it is kept.")
app.add_typer(storage_app, name="storage")

ReadingIds = Annotated[
    list[int] | None, typer.Option("--id", min=1, max=2**63 - 1, help="Id of a reading; may be repeated.")
]


class OutputFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def main() -> None:
    """Run the command line; every expected failure is one line on stderr."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except (ConfigError, InvalidField) as error:
        _fail(error, 2)
    except ScadaError as error:
        _fail(error, 1)
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        if any(isinstance(error, SystemExit | BrokenPipeError) for error in errors):
            _reader_is_gone()
        if any(isinstance(error, KeyboardInterrupt) for error in errors):
            sys.exit(130)
        if not all(isinstance(error, ScadaError) for error in errors):
            raise
        _fail(errors[0], 2 if isinstance(errors[0], ConfigError | InvalidField) else 1)
    except BrokenPipeError:
        _reader_is_gone()
    except KeyboardInterrupt:
        sys.exit(130)


def _reader_is_gone() -> NoReturn:
    """Whoever read our output, ``head`` say, has enough of it; Python must not try to flush the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail(error: BaseException, status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"scada-trio: {error}\n")
    sys.exit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"scada-trio {scada_trio.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve() -> None:
    """Run the service until SIGTERM or Ctrl-C, then flush everything and exit."""
    from scada_trio.allocator import collect_rarely, use_one_arena
    from scada_trio.commands.serve import serve as command
    from scada_trio.open_files import raise_open_files_limit

    use_one_arena()
    collect_rarely()
    raise_open_files_limit()
    run_command(command, quiet=False)


@app.command()
def demo(
    wells: Annotated[int, typer.Option(min=1, max=100, help="Simulated wells for each of the two tenants.")] = 5,
    interval_ms: Annotated[int, typer.Option(min=50, max=60_000, help="How often each tag gets a new value.")] = 1000,
) -> None:
    """Simulated wells, an embedded database and the service in one terminal; Ctrl-C ends it, data stays."""
    from scada_trio.commands.demo import demo as command

    settings = Settings.load()
    configure_logging(settings.log_level, settings.log_format)
    trio.run(partial(command, settings, wells=wells, interval_ms=interval_ms))


@app.command()
def migrate() -> None:
    """Bring master and tenant databases to the current schema; harmless to repeat, safe to run twice at once."""
    from scada_trio.commands.tenants import migrate as command

    run_command(command, out)


@app.command()
def check() -> None:
    """Tell whether configuration, databases and devices are as they should be: a line each; exit status 1 if not."""
    from scada_trio.commands.check import check as command

    run_command(command, out)


@app.command()
def query(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    well: Annotated[UUID, typer.Option(help="Id of the well.")],
    since: Annotated[str, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time (UTC unless it says); Unix seconds.")],
    until: Annotated[str | None, typer.Option(help="As --since; now if left out.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 50,
    output: Annotated[OutputFormat, typer.Option("--format", help="How to print.")] = OutputFormat.TABLE,
) -> None:
    """Print a well's readings, newest first, straight from the tenant's database."""
    from scada_trio.commands.query import query as command

    run_command(command, out, tenant=tenant, well_id=well, since=since, until=until, limit=limit, form=output.value)


@app.command()
def losses(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    since: Annotated[str | None, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time; Unix seconds.")] = None,
    connection: Annotated[UUID | None, typer.Option(help="Id of a connection; all if left out.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 50,
    output: Annotated[OutputFormat, typer.Option("--format", help="How to print.")] = OutputFormat.TABLE,
) -> None:
    """Print what a tenant lost in spite of everything, newest first: when, why, and how much where it is known."""
    from scada_trio.commands.losses import losses as command

    run_command(command, out, tenant=tenant, since=since, connection_id=connection, limit=limit, form=output.value)


@quarantine_app.command("list")
def quarantine_list(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 50,
    output: Annotated[OutputFormat, typer.Option("--format", help="How to print.")] = OutputFormat.TABLE,
) -> None:
    """Print the readings that the tenant's database refused, newest first, and why."""
    from scada_trio.commands.quarantine import list_quarantine as command

    run_command(command, out, tenant=tenant, limit=limit, form=output.value)


@quarantine_app.command("retry")
def quarantine_retry(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    ids: ReadingIds = None,
    everything: Annotated[bool, typer.Option("--all", help="Every reading in quarantine.")] = False,
) -> None:
    """Write readings again, once the reason is gone; those that go through leave the quarantine."""
    from scada_trio.commands.quarantine import retry_quarantine as command

    run_command(command, out, tenant=tenant, ids=_chosen(ids, everything=everything))


@quarantine_app.command("drop")
def quarantine_drop(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    ids: ReadingIds = None,
    everything: Annotated[bool, typer.Option("--all", help="Every reading in quarantine.")] = False,
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


@journal_app.command("status")
def journal_status(
    tenant: Annotated[str | None, typer.Option(help="Name or id of the tenant; all if left out.")] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="How to print.")] = OutputFormat.TABLE,
) -> None:
    """Print what waits in each tenant's journal: how much, how large, how old."""
    from scada_trio.commands.journal import status as command

    run_command(command, out, tenant=tenant, form=output.value)


@journal_app.command("verify")
def journal_verify(
    tenant: Annotated[str | None, typer.Option(help="Name or id of the tenant; all if left out.")] = None,
) -> None:
    """Check all checksums; exit status 1 where something is damaged."""
    from scada_trio.commands.journal import verify as command

    run_command(command, out, tenant=tenant)


@journal_app.command("export")
def journal_export(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    output: Annotated[Path, typer.Option(help="FILE.csv or FILE.parquet; must not exist.")],
) -> None:
    """Write the readings that wait to a file; the journal keeps them."""
    from scada_trio.commands.journal import export as command

    run_command(command, out, tenant=tenant, output=output)


@tenant_app.command("add")
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


@tenant_app.command("list")
def tenant_list() -> None:
    """List the tenants."""
    from scada_trio.commands.tenants import list_tenants as command

    run_command(command, out)


@connection_app.command("add")
def connection_add(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    endpoint: Annotated[str, typer.Option(help="opc.tcp://HOST:PORT/PATH of the device.")],
    tags: Annotated[
        Path,
        typer.Option(
            help="CSV with a header, or JSON with a list of objects. Columns: well_id, node_id, tag_name, data_type, "
            "unit, scaling_factor, deadband, deadband_percent, sampling_interval_ms, queue_size, discard_oldest, "
            "tag_id; the first two are required.",
        ),
    ],
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    security_mode: Annotated[str, typer.Option(help="None, Sign or SignAndEncrypt.")] = "None",
    security_policy: Annotated[str, typer.Option(help="None, Basic256Sha256, ...")] = "None",
    username: Annotated[str | None, typer.Option(help="User of the device; anonymous if left out.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; left out, it is asked for or read from stdin.")
    ] = None,
    connection_id: Annotated[
        UUID | None, typer.Option("--id", help="Id of the connection; the same again replaces what is stored.")
    ] = None,
    publishing_interval: Annotated[
        float | None, typer.Option(min=1, max=MAX_INTERVAL_MS, metavar="MS", help="How often the device reports.")
    ] = None,
    sampling_interval: Annotated[
        float | None,
        typer.Option(
            min=0, max=MAX_INTERVAL_MS, metavar="MS", help="How often it looks at tags that have no interval."
        ),
    ] = None,
    queue_size: Annotated[
        int | None, typer.Option(min=1, max=MAX_QUEUE_SIZE, help="Values it keeps of each such tag between reports.")
    ] = None,
    discard_oldest: Annotated[
        bool | None,
        typer.Option("--discard-oldest/--discard-newest", help="What a full queue throws away.", show_default=False),
    ] = None,
) -> None:
    """Store a connection; a running service starts it at once."""
    from scada_trio.commands.connections import NewConnection, add_connection

    password = read_password(password_file) if username else None
    new = NewConnection(
        *(tenant, endpoint, tags, name, security_mode, security_policy, username, password, connection_id),
        publishing_interval_ms=publishing_interval,
        sampling=Sampling(sampling_interval, queue_size, discard_oldest),
    )
    run_command(add_connection, out, new)


@connection_app.command("list")
def connection_list(
    tenant: Annotated[str | None, typer.Option(help="Name or id of the tenant; all if left out.")] = None,
) -> None:
    """List the active connections."""
    from scada_trio.commands.connections import list_connections as command

    run_command(command, out, tenant)


@connection_app.command("remove")
def connection_remove(
    connection_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id of the connection.")],
) -> None:
    """Stop and deactivate a connection; its readings stay."""
    from scada_trio.commands.connections import remove_connection as command

    run_command(command, out, connection_id)


@storage_app.command("report")
def storage_report(
    tenant: Annotated[str, typer.Option(help="Name or id of the tenant.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes, seconds, ISO 8601 times.")] = False,
) -> None:
    """Print chunks, sizes, compression, oldest and newest reading, policies and rollups of a tenant's database."""
    from scada_trio.commands.storage import report as command

    run_command(command, out, tenant=tenant, as_json=as_json)
