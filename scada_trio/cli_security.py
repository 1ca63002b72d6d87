"""The commands ``audit`` and ``secrets`` and their options. Registered by `cli`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Literal

import trio
import typer
from pydantic import SecretStr

from scada_trio.config import Settings
from scada_trio.logs import configure_logging
from scada_trio.terminal import out

secrets_app = typer.Typer(no_args_is_help=True, help="Passwords and database URLs that the master database stores.")


@secrets_app.command("rotate")
def secrets_rotate(
    plain: Annotated[bool, typer.Option("--plain", help="Encrypt those that are stored in clear, too.")] = False,
) -> None:
    """Encrypt every stored secret with ENCRYPTION_KEY; what ENCRYPTION_KEY_PREVIOUS encrypted is read."""
    from scada_trio.commands.secrets import rotate as command

    trio.run(partial(command, _settings(), out, plain=plain))


@secrets_app.command("encrypt")
def secrets_encrypt() -> None:
    """Read a secret from standard input and print it as the master database stores it."""
    from scada_trio.commands.secrets import encrypt as command

    if sys.stdin.isatty():
        text = typer.prompt("Secret", hide_input=True, default="", show_default=False)
    else:
        text = sys.stdin.read().rstrip("\r\n")
    print(trio.run(command, _settings(), SecretStr(text)))  # noqa: T201 - one line, for a script


def audit(
    since: Annotated[str | None, typer.Option(help="15m, 2h, 7d ago; an ISO 8601 time; Unix seconds.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since; now if left out.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Id of a tenant.")] = None,
    outcome: Annotated[
        Literal["done", "refused", "denied"] | None, typer.Option(help="What became of it; all if left out.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with all that was before.")] = False,
) -> None:
    """Print who changed the configuration and which calls were denied, newest first."""
    from scada_trio.commands.audit import audit as command

    arguments = {"since": since, "until": until, "tenant": tenant, "outcome": outcome}
    trio.run(partial(command, _settings(), out, limit=limit, as_json=as_json, **arguments))


def _settings() -> Settings:
    settings = Settings.load()
    configure_logging("WARNING", "console", sys.stderr)
    return settings
