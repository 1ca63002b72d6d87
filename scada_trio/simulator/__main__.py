"""`python -m scada_trio.simulator`: announce the wells on standard output and serve them until told to stop.

Prints one line of JSON a well (`wells.SimulatedWell`), then ``{"ready": true}``. A line ``pause`` on standard input
holds all values; it is answered by ``{"paused": true}`` once the record of what was made is complete.

Ends with status 0 on SIGTERM, on SIGINT and when its standard input closes, so that it never outlives the program that
started it; a standard input that is no pipe (a terminal, /dev/null) is not watched. What goes wrong is one line on
standard error, exit status 1.
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
from pathlib import Path

from scada_trio.open_files import raise_open_files_limit
from scada_trio.simulator.field import FaultRates, Field
from scada_trio.simulator.record import Recorder
from scada_trio.simulator.server import Walks, serve_field
from scada_trio.simulator.wells import PAUSE_LINE, PAUSED_LINE, READY_LINE


def main() -> int:
    """Parse the command line and serve; the exit status."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    raise_open_files_limit()
    # A loop of asyncio's own: the package has put trio-asyncio's in the place of the default.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        try:
            runner.run(_serve(options))
        except OSError as error:
            sys.stderr.write(f"cannot listen: {error}\n")
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    rates = FaultRates()
    parser = argparse.ArgumentParser(prog="python -m scada_trio.simulator", description="A field of wells on OPC UA.")
    parser.add_argument("--wells", type=_count, default=5, help="number of wells, an endpoint each (default 5)")
    parser.add_argument("--tags", type=_count, default=10, help="number of tags of each (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same field (default 1)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--advertise", help="host name in the endpoints' addresses; that of --host if left out")
    parser.add_argument("--base-port", type=int, default=0, help="port of the first well; 0 takes free ones (default)")
    parser.add_argument("--interval-ms", type=_interval, default=1000.0, help="time between values (default 1000)")
    parser.add_argument("--bad", type=_part, default=rates.bad, help="part of the values that are Bad")
    parser.add_argument("--uncertain", type=_part, default=rates.uncertain, help="part that is Uncertain")
    parser.add_argument("--outages-per-hour", type=float, default=0.0, help="how often each well loses its power")
    parser.add_argument("--outage-s", type=float, default=rates.outage_s, help="and for how long")
    parser.add_argument("--record", type=Path, help="file for what was made (record.py)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _interval(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 3_600_000:
        raise argparse.ArgumentTypeError("must be from 1 to 3600000")
    return number


def _part(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 0.9:
        raise argparse.ArgumentTypeError("must be from 0 to 0.9")
    return number


async def _serve(options: argparse.Namespace) -> None:
    interval_s = options.interval_ms / 1000
    rates = FaultRates(
        uncertain=options.uncertain,
        bad=options.bad,
        outages_per_hour=options.outages_per_hour,
        outage_s=options.outage_s,
    )
    field = Field(options.wells, seed=options.seed, tags=options.tags, rates=rates)
    with Recorder(options.record) as recorder:
        served = serve_field(
            field,
            recorder,
            interval_s=interval_s,
            host=options.host,
            base_port=options.base_port,
            advertise=options.advertise,
        )
        async with served as devices:
            walks = Walks(field, devices, recorder, interval_s=interval_s)

            def pause() -> None:
                walks.running.clear()
                recorder.flush()
                _say(PAUSED_LINE)

            stopped = asyncio.Event()
            _obey(stopped.set, pause)
            for device in devices:
                sys.stdout.write(device.announcement.to_line() + "\n")
            _say(READY_LINE)
            moving = asyncio.create_task(walks.run())
            stopping = asyncio.create_task(stopped.wait())
            done, _ = await asyncio.wait((moving, stopping), return_when=asyncio.FIRST_COMPLETED)
            moving.cancel()
            stopping.cancel()
            if moving in done:
                moving.result()  # it ends only by an error


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _obey(stop: Callable[[], None], pause: Callable[[], None]) -> None:
    """Call ``stop`` in the loop for each signal and at the end of standard input, ``pause`` where that says so."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    if stat.S_ISFIFO(mode := os.fstat(0).st_mode) or stat.S_ISSOCK(mode):
        thread = threading.Thread(target=_read_stdin, args=(loop, stop, pause), name="standard input", daemon=True)
        thread.start()


def _read_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], pause: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # the loop may be closed by then
        while received := os.read(0, 4096):
            if PAUSE_LINE in received:
                loop.call_soon_threadsafe(pause)
        loop.call_soon_threadsafe(stop)


if __name__ == "__main__":
    sys.exit(main())
