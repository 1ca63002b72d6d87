"""The tree of commands: which there are, under which name, and the options of all of them."""

from __future__ import annotations

from typing import Annotated

import typer

import scada_trio
from scada_trio.cli import connections, journal, load, quarantine, readings, security, service, storage, tags, tenants
from scada_trio.cli.trust import trust_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Multi-tenant SCADA ingestion: OPC UA subscriptions in, TimescaleDB out, gRPC and Prometheus beside.

    Configured by environment variables (see .env.example). Without DATABASE_URL everything lives in an embedded
    PostgreSQL under DATA_DIR.

    First steps: scada-trio demo. In earnest: scada-trio migrate, tenant add NAME, connection add --help, check, serve.
    """,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scada-trio {scada_trio.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Options of every command."""


app.add_typer(tenants.tenant_app, name="tenant")
app.add_typer(connections.connection_app, name="connection")
app.add_typer(quarantine.quarantine_app, name="quarantine")
app.add_typer(journal.journal_app, name="journal")
app.add_typer(trust_app, name="trust")
app.add_typer(security.secrets_app, name="secrets")
app.add_typer(storage.storage_app, name="storage")

app.command()(service.serve)
app.command()(service.demo)
app.command()(service.migrate)
app.command()(service.check)
app.command()(tags.browse)
app.command("import")(tags.import_tags)
app.command()(readings.query)
app.command()(readings.losses)
app.command()(security.audit)
app.command()(load.simulate)
app.command()(load.loadtest)
