"""Devices whose certificates are accepted: ``trust add``, ``list``, ``remove``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scada_trio.cli.options import FormatOption, JsonOption, OutputFormat, examples, form_of
from scada_trio.cli.run import load_settings, run_command
from scada_trio.terminal import out


class _TrustGroup(TyperGroup):
    """``trust THUMBPRINT`` is ``trust add THUMBPRINT``: what a refused connection tells people to type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["add", *args]
        return super().resolve_command(ctx, args)


trust_app = typer.Typer(
    cls=_TrustGroup,
    no_args_is_help=True,
    help="Devices whose certificates are accepted: trust THUMBPRINT, trust list.",
    epilog=examples("scada-trio trust list", "scada-trio trust 3f9ac1d2"),
)

TrustedName = Annotated[
    str, typer.Argument(metavar="THUMBPRINT", help="Of the certificate; its first 8 or more digits will do.")
]


@trust_app.command("add", epilog=examples("scada-trio trust add 3f9ac1d2", "scada-trio trust add plc-authority.pem"))
def trust_add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="THUMBPRINT|FILE",
            help="Thumbprint of a certificate that was rejected, its first 8 or more digits; or a .der or .pem file.",
        ),
    ],
) -> None:
    """Trust a device, or an authority and every device that it issued a certificate to."""
    from scada_trio.commands.trust import trust as command

    run_command(command, out, name)


@trust_app.command("list", epilog=examples("scada-trio trust list --json"))
def trust_list(output: FormatOption = OutputFormat.TABLE, as_json: JsonOption = False) -> None:
    """List our own certificate, those that are trusted, issuers, and those that were rejected."""
    from scada_trio.commands.trust import list_trust as command

    command(load_settings(), out, form_of(output, as_json))


@trust_app.command("remove", epilog=examples("scada-trio trust remove 3f9ac1d2"))
def trust_remove(name: TrustedName) -> None:
    """Trust a certificate no longer; connections that rely on it end."""
    from scada_trio.commands.trust import remove_trust as command

    run_command(command, out, name)
