"""The tree of commands: which there are, under which name, and the options of all of them."""

from __future__ import annotations

from typing import Annotated

import typer

import scada_trio
from scada_trio.cli import connections, journal, load, quarantine, readings, security, service, storage, tags, tenants
from scada_trio.cli.options import examples
from scada_trio.cli.trust import trust_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Multi-tenant SCADA ingestion: OPC UA subscriptions in, TimescaleDB out, gRPC and Prometheus beside.

    Configured by environment variables (see .env.example). Without DATABASE_URL everything lives in an embedded
    PostgreSQL under DATA_DIR.

    First steps: scada-trio demo. In earnest: scada-trio migrate, tenant add NAME, connection add --help, check, serve.
    """,
    epilog=examples("scada-trio demo", "scada-trio check && scada-trio serve"),
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

app.command(epilog=examples("scada-trio serve"))(service.serve)
app.command(epilog=examples("scada-trio demo --wells 10"))(service.demo)
app.command(epilog=examples("scada-trio migrate"))(service.migrate)
app.command(epilog=examples("scada-trio check", "scada-trio check --json"))(service.check)
app.command(
    epilog=examples(
        "scada-trio browse opc.tcp://rtu-17:4840 --path '**/Pump*/**' --values",
        "scada-trio browse 'RTU 17' --tags > tags.csv",
    )
)(tags.browse)
app.command(
    "import",
    epilog=examples(
        "scada-trio import 'RTU 17' --path 'Field/*/Pressure' --well-from 'Field/(?P<well>[^/]+)/' --new-wells",
        "scada-trio import 'RTU 17' --tags tags.csv --prune --apply",
    ),
)(tags.import_tags)
app.command(
    epilog=examples(
        "scada-trio query --tenant Permian --well 6d0f0f3e-52c1-4c39-9d0e-0d6c9b8a1f11 --since 2h",
        "scada-trio query --tenant Permian --well 6d0f0f3e-52c1-4c39-9d0e-0d6c9b8a1f11 --since 2026-01-31 --json",
    )
)(readings.query)
app.command(epilog=examples("scada-trio losses --tenant Permian --since 7d"))(readings.losses)
app.command(epilog=examples("scada-trio audit --since 1d --outcome denied"))(security.audit)
app.command(epilog=examples("scada-trio simulate --wells 5 --tags 4 --duration 60"))(load.simulate)
app.command(
    epilog=examples(
        "scada-trio loadtest --mode peak --duration 60",
        "scada-trio loadtest --connections 10 --tags 1000 --rate 10",
    )
)(load.loadtest)
