"""Who did what, and what is stored encrypted: ``audit``, ``secrets rotate``, ``secrets encrypt``."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from scada_trio.cli.options import LimitOption, examples
from scada_trio.cli.run import load_settings, run_command
from scada_trio.terminal import out

secrets_app = typer.Typer(
    no_args_is_help=True,
    help="Passwords and database URLs that the master database stores.",
    epilog=examples("scada-trio secrets rotate"),
)


@secrets_app.command("rotate", epilog=examples("scada-trio secrets rotate --plain"))
def secrets_rotate(
    plain: Annotated[bool, typer.Option("--plain", help="Encrypt those that are stored in clear, too.")] = False,
) -> None:
    """Encrypt every stored secret with ENCRYPTION_KEY; what ENCRYPTION_KEY_PREVIOUS encrypted is read."""
    from scada_trio.commands.secrets import rotate as command

    run_command(command, out, plain=plain)


@secrets_app.command("encrypt", epilog=examples("scada-trio secrets encrypt < new-url.txt"))
def secrets_encrypt() -> None:
    """Read a secret from standard input and print it as the master database stores it."""
    import trio
    from pydantic import SecretStr

    from scada_trio.commands.secrets import encrypt as command

    if sys.stdin.isatty():
        text = typer.prompt("Secret", hide_input=True, default="", show_default=False)
    else:
        text = sys.stdin.read().rstrip("\r\n")
    print(trio.run(command, load_settings(), SecretStr(text)))  # noqa: T201 - one line, for a script


def audit(
    since: Annotated[str | None, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time; Unix seconds.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since; now if left out.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Id of a tenant.")] = None,
    outcome: Annotated[
        Literal["done", "refused", "denied"] | None, typer.Option(help="What became of it; all if left out.")
    ] = None,
    limit: LimitOption = 100,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with all that was before.")] = False,
) -> None:
    """Print who changed the configuration and which calls were denied, newest first."""
    from scada_trio.commands.audit import audit as command

    run_command(command, out, since=since, until=until, tenant=tenant, outcome=outcome, limit=limit, as_json=as_json)
