"""Links to devices: ``connection add``, ``list``, ``remove``, ``test``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from scada_trio.cli.completion import complete_connection, complete_connection_id
from scada_trio.cli.options import (
    AnyTenantOption,
    FormatOption,
    JsonOption,
    LoginOptions,
    OutputFormat,
    OwnerOption,
    TenantOption,
    examples,
    form_of,
    with_groups,
)
from scada_trio.cli.run import run_command
from scada_trio.sampling import MAX_INTERVAL_MS, MAX_QUEUE_SIZE, Sampling
from scada_trio.terminal import out

connection_app = typer.Typer(
    no_args_is_help=True,
    help="Links to OPC UA servers and the tags read from them.",
    epilog=examples("scada-trio connection list --tenant Permian"),
)


@connection_app.command(
    "add",
    epilog=examples(
        "scada-trio connection add --tenant Permian --endpoint opc.tcp://rtu-17:4840 --tags tags.csv",
        "scada-trio connection add --tenant Permian --endpoint opc.tcp://rtu-17:4840 --tags tags.csv "
        "--security-mode SignAndEncrypt --security-policy Basic256Sha256 --username scada --password-file password.txt",
    ),
)
@with_groups
def connection_add(
    tenant: TenantOption,
    endpoint: Annotated[str, typer.Option(help="opc.tcp://HOST:PORT/PATH of the device.")],
    tags: Annotated[
        Path,
        typer.Option(
            help="CSV with a header, or JSON with a list of objects. Columns: well_id, node_id, tag_name, data_type, "
            "unit, scaling_factor, deadband, deadband_percent, sampling_interval_ms, queue_size, discard_oldest, "
            "tag_id; the first two are required.",
        ),
    ],
    login: LoginOptions,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
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

    new = NewConnection(
        *(tenant, endpoint, tags, name, login.security_mode, login.security_policy, login.username, login.password()),
        connection_id=connection_id,
        publishing_interval_ms=publishing_interval,
        sampling=Sampling(sampling_interval, queue_size, discard_oldest),
    )
    run_command(add_connection, out, new)


@connection_app.command("list", epilog=examples("scada-trio connection list --json"))
def connection_list(
    tenant: AnyTenantOption = None, output: FormatOption = OutputFormat.TABLE, as_json: JsonOption = False
) -> None:
    """List the active connections, and what a running service says of each: state, since when, last error, rate."""
    from scada_trio.commands.connections import list_connections as command

    run_command(command, out, tenant, form=form_of(output, as_json))


@connection_app.command("remove", epilog=examples("scada-trio connection remove 0b9a3a0e-6a5c-4a55-9f5e-6b6a1d1f7c11"))
def connection_remove(
    connection_id: Annotated[
        UUID, typer.Argument(metavar="ID", help="Id of the connection.", autocompletion=complete_connection_id)
    ],
) -> None:
    """Stop and deactivate a connection; its readings stay."""
    from scada_trio.commands.connections import remove_connection as command

    run_command(command, out, connection_id)


@connection_app.command(
    "test",
    epilog=examples(
        "scada-trio connection test opc.tcp://rtu-17:4840",
        "scada-trio connection test 'RTU 17' --tenant Permian --node 'ns=2;s=Pressure'",
    ),
)
@with_groups
def connection_test(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONNECTION|ENDPOINT", help="Name or id, or opc.tcp://...", autocompletion=complete_connection
        ),
    ],
    login: LoginOptions,
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Node to read; without, some of the connection's tags.")
    ] = None,
    tenant: OwnerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a device step by step: reached, endpoints, certificate, login, read; exit status 1 where one fails.

    The options of security and login are those of an endpoint; a stored connection has its own.
    """
    from scada_trio.commands.trial import try_connection as command

    run_command(command, out, login.target(target, tenant), tuple(node or ()), as_json=as_json)
