"""How this process asks the system for memory.

Owns one setting of glibc's malloc; does nothing where there is another malloc. The command line calls it before any
thread is started.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)


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
