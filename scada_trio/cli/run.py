"""What every command of the command line does: load the settings, set logging up, run; and ask for a password."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scada_trio.errors import InvalidField

if TYPE_CHECKING:
    from pydantic import SecretStr

    from scada_trio.config import Settings


def load_settings(*, quiet: bool = True) -> Settings:
    """The settings, and logging set up: short commands, ``quiet``, log warnings only, to stderr."""
    from scada_trio.config import Settings
    from scada_trio.logs import configure_logging

    settings = Settings.load()
    if quiet:
        configure_logging("WARNING", "console", sys.stderr)
    else:
        configure_logging(settings.log_level, settings.log_format)
    return settings


def run_command(
    command: Callable[..., Coroutine[Any, Any, None]], *args: object, quiet: bool = True, **kwargs: object
) -> None:
    """Run a command with the settings before its other arguments."""
    import trio

    trio.run(partial(command, load_settings(quiet=quiet), *args, **kwargs))


def read_password(file: Path | None) -> SecretStr:
    """The device's password out of a file, else from whoever is asked, else from stdin."""
    from pydantic import SecretStr

    if file is None:
        if not sys.stdin.isatty():  # nobody to be asked: a script gives it
            return SecretStr(sys.stdin.readline().rstrip("\r\n"))
        return SecretStr(typer.prompt("Password", hide_input=True, default="", show_default=False))
    try:
        return SecretStr(file.read_text(encoding="utf-8").rstrip("\r\n"))
    except OSError as error:
        raise InvalidField("--password-file", f"{error.strerror}: {file}") from error
    except UnicodeDecodeError:
        raise InvalidField("--password-file", f"is not UTF-8 text: {file}") from None
