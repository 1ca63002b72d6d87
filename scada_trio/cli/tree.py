"""The tree of commands: which there are, under which name, and the options of all of them."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

import scada_trio
from scada_trio.cli import connections, journal, load, quarantine, readings, security, service, storage, tags, tenants
from scada_trio.cli.options import examples
from scada_trio.cli.trust import trust_app

RUN, SET_UP, LOOK, TRY = "Run it", "Set up", "Look", "Try it under load"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Multi-tenant SCADA ingestion: OPC UA subscriptions in, TimescaleDB out, gRPC and Prometheus beside.

    Configured by environment variables: docs/configuration.md. Without DATABASE_URL there is a PostgreSQL in DATA_DIR.

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
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.add_typer(tenants.tenant_app, name="tenant", rich_help_panel=SET_UP)
app.add_typer(connections.connection_app, name="connection", rich_help_panel=SET_UP)
app.add_typer(quarantine.quarantine_app, name="quarantine", rich_help_panel=LOOK)
app.add_typer(journal.journal_app, name="journal", rich_help_panel=LOOK)
app.add_typer(trust_app, name="trust", rich_help_panel=SET_UP)
app.add_typer(security.secrets_app, name="secrets", rich_help_panel=SET_UP)
app.add_typer(storage.storage_app, name="storage", rich_help_panel=LOOK)

app.command(rich_help_panel=RUN, epilog=examples("scada-trio serve"))(service.serve)
app.command(rich_help_panel=RUN, epilog=examples("scada-trio demo --wells 10"))(service.demo)
app.command(rich_help_panel=SET_UP, epilog=examples("scada-trio migrate"))(service.migrate)
app.command(rich_help_panel=RUN, epilog=examples("scada-trio check", "scada-trio check --json"))(service.check)
app.command(
    rich_help_panel=SET_UP,
    epilog=examples(
        "scada-trio browse opc.tcp://rtu-17:4840 --path '**/Pump*/**' --values",
        "scada-trio browse 'RTU 17' --tags > tags.csv",
    ),
)(tags.browse)
app.command(
    "import",
    rich_help_panel=SET_UP,
    epilog=examples(
        "scada-trio import 'RTU 17' --path 'Field/*/Pressure' --well-from 'Field/(?P<well>[^/]+)/' --new-wells",
        "scada-trio import 'RTU 17' --tags tags.csv --prune --apply",
    ),
)(tags.import_tags)
app.command(
    rich_help_panel=LOOK,
    epilog=examples(
        "scada-trio query --tenant Permian --well 6d0f0f3e-52c1-4c39-9d0e-0d6c9b8a1f11 --since 2h",
        "scada-trio query --tenant Permian --well 6d0f0f3e-52c1-4c39-9d0e-0d6c9b8a1f11 --since 2026-01-31 --json",
    ),
)(readings.query)
app.command(rich_help_panel=LOOK, epilog=examples("scada-trio losses --tenant Permian --since 7d"))(readings.losses)
app.command(rich_help_panel=LOOK, epilog=examples("scada-trio audit --since 1d --outcome denied"))(security.audit)
app.command(rich_help_panel=TRY, epilog=examples("scada-trio simulate --wells 5 --tags 4 --duration 60"))(load.simulate)
app.command(
    rich_help_panel=TRY,
    epilog=examples(
        "scada-trio loadtest --mode peak --duration 60",
        "scada-trio loadtest --connections 10 --tags 1000 --rate 10",
    ),
)(load.loadtest)


def _fill_paragraphs(typer_app: typer.Typer) -> None:
    """Let help be as wide as the terminal: typer keeps the ends of lines beyond a docstring's first paragraph."""
    for command in typer_app.registered_commands:
        text = inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    for group in typer_app.registered_groups:
        if group.typer_instance is not None:
            _fill_paragraphs(group.typer_instance)


_fill_paragraphs(app)
