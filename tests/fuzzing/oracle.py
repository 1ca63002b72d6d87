"""What may come of an input: nothing, or a `DeviceError`; within a second of the processor and bounded memory.

The time is the processor's, not the clock's, so that a busy machine finds nothing that is not there. The alarm is no
`Exception`: nothing that a decoder catches hides it.
"""

from __future__ import annotations

import signal
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scada_trio.errors import DeviceError, leaves

LIMIT_S = 1.0
"""Processor time for one input, of 64 KiB at most."""
LIMIT_BYTES = 64 << 20
"""What one input may make a target hold at any moment."""
_PACKAGE = "scada_trio"


class TooSlow(BaseException):
    """The input took longer than `LIMIT_S`."""


class Wrong(BaseException):
    """What came of an input contradicts another way to the same result."""


@dataclass(frozen=True)
class Finding:
    """What an input did that it must not; ``key`` is the same for inputs that do the same in the same place."""

    key: str
    report: str


def judge(
    run: Callable[[bytes], None], data: bytes, *, count_memory: bool = False, limit_s: float = LIMIT_S
) -> Finding | None:
    """Run a target on an input. ``count_memory`` costs thrice the time; without it `MemoryError` tells."""
    try:
        with _limited_time(limit_s):
            if not count_memory:
                run(data)
                return None
            tracemalloc.start()
            try:
                run(data)
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            if peak > LIMIT_BYTES:
                return Finding("memory", f"it held {peak} bytes at one moment; {LIMIT_BYTES} are allowed")
    except DeviceError:
        return None
    except (Exception, BaseExceptionGroup, TooSlow, Wrong) as error:  # noqa: BLE001 -- where the unexpected is wanted
        return _finding(error)
    return None


@contextmanager
def _limited_time(limit_s: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow(f"more than {limit_s:g} s of the processor")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _finding(error: BaseException) -> Finding:
    report = "".join(traceback.format_exception(error))
    error = next(leaves(error))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"/{_PACKAGE}/" in frame.filename] or frames
    last = own[-1]
    where = f"{Path(last.filename).name}:{last.name}"
    # An alarm rings anywhere in a loop: only the function of ours that runs the loop names it.
    line = "" if isinstance(error, TooSlow) else f":{last.lineno}"
    return Finding(f"{type(error).__name__}-{where}{line}", report)
