"""`python -m scada_trio.simulator`: announce the wells on standard output and serve them until told to stop.

Prints one line of JSON a well (`wells.SimulatedWell`), then ``{"ready": true}``. Ends with status 0 on SIGTERM, on
SIGINT and when its standard input closes, so that it never outlives the program that started it; a standard input
that is no pipe (a terminal, /dev/null) is not watched. What goes wrong is one line on standard error, exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable

from scada_trio.simulator.field import make_field
from scada_trio.simulator.server import run_walks, serve_field
from scada_trio.simulator.wells import READY_LINE


def main() -> int:
    """Parse the command line and serve; the exit status."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    # A loop of asyncio's own: the package has put trio-asyncio's in the place of the default.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        try:
            runner.run(_serve(options))
        except OSError as error:
            sys.stderr.write(f"cannot listen: {error}\n")
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scada_trio.simulator", description="A field of wells on OPC UA.")
    parser.add_argument("--wells", type=_count, default=5, help="number of wells, an endpoint each (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same field (default 1)")
    parser.add_argument("--base-port", type=int, default=0, help="port of the first well; 0 takes free ones (default)")
    parser.add_argument("--interval-ms", type=_count, default=1000, help="time between values of a tag (default 1000)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


async def _serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    _on_stop(stopped.set)
    wells = make_field(options.wells, seed=options.seed)
    async with serve_field(wells, base_port=options.base_port) as servers:
        walks = asyncio.create_task(run_walks(servers, interval_s=options.interval_ms / 1000))
        for server in servers:
            sys.stdout.write(server.announcement.to_line() + "\n")
        sys.stdout.write(READY_LINE + "\n")
        sys.stdout.flush()
        await stopped.wait()
        walks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await walks


def _on_stop(stop: Callable[[], None]) -> None:
    """Call ``stop`` in the loop for each signal and at the end of standard input."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    if stat.S_ISFIFO(mode := os.fstat(0).st_mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch_stdin, args=(loop, stop), name="standard input", daemon=True).start()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # the loop may be closed by then
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop)


if __name__ == "__main__":
    sys.exit(main())
