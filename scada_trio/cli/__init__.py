"""The command line: names, options, help, exit statuses. What a command does stands in `scada_trio.commands`.

`main` is the console script. `tree` puts the commands together; every other module has those of one subject, and
imports what a command needs when it runs, so that ``--help`` and completion are quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, NoReturn, cast

from scada_trio.errors import ConfigError, DatabaseUnavailable, DeviceUnreachable, InvalidField, ScadaError, leaves

__all__ = ["load_service", "main"]

_NEXT_STEPS: Final[Mapping[type[ScadaError], str]] = {
    DatabaseUnavailable: "is the database running, and is its URL right? scada-trio check tries each",
    DeviceUnreachable: "is the device running? scada-trio connection test tries it step by step",
}


def main() -> None:
    """Run the command line; every expected failure is one line on stderr.

    Exit status 0 done, 1 it could not be done, 2 it was asked wrongly or the environment is wrong, 130 interrupted.
    """
    try:
        try:
            if sys.argv[1:] == ["serve"]:
                load_service()()
            else:
                from scada_trio.cli.tree import app

                app(prog_name="scada-trio")
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


def load_service() -> Callable[[], None]:
    """What ``serve`` runs, in a process without typer and rich, which only people at a terminal need: 5 MB of 100.

    structlog loads rich where it finds it, to draw tracebacks in a way that we never ask for.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        modules = cast(dict[str, Any], sys.modules)
        modules["rich"] = None  # not to be found
        import_module("structlog")
        del modules["rich"]
    from scada_trio.commands.serve import run

    return run


def _reader_is_gone() -> NoReturn:
    """Whoever read our output, ``head`` say, has enough of it; Python must not try to flush the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail(error: BaseException, status: int) -> NoReturn:
    sys.stdout.flush()
    step = next((text for kind, text in _NEXT_STEPS.items() if isinstance(error, kind)), "")
    sys.stderr.write(f"scada-trio: {error}{'; ' * bool(step)}{step}\n")
    sys.exit(status)
