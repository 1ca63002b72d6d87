"""How this process asks the system for memory and gives it back, and how its threads take turns.

Owns settings of glibc's malloc, of Python's collector and of its lock. The command line calls it before any thread is
started and after everything is imported; `give_back` is started by the service.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from itertools import count
from pathlib import Path
from typing import Final

import trio

_M_ARENA_MAX: Final = -8  # mallopt(3)
_THRESHOLDS: Final = (5_000, 10, 20)
_TURN_S: Final = 0.001
_GIVE_BACK_EVERY_S: Final = 5.0
_FORGET_TURNS: Final = 4  # before the connections, while they come and once they are there
_MADV_DONTNEED: Final = 4  # madvise(2)

# proc(5), smaps: "start-end perms offset device inode path"; private and not writable
_LIBRARY_PART: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \d+ +/\S*\.so[.\d]*\n")
_ANY_PART: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


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


def take_short_turns() -> None:
    """Let a thread that computes hand Python's lock on after 1 ms instead of 5.

    The event loop asks for the lock anew after each call that reads or writes a socket, and waits for a turn of whoever
    has it: eight threads that log in to devices, or the one that renders ten thousand series. While that renders all
    the time, a loop of twenty messages a turn is 6 ms late on average instead of 15, at P99 29 ms instead of 112.
    """
    sys.setswitchinterval(_TURN_S)


async def give_back() -> None:
    """Return free pages to the system every five seconds; returns only when cancelled, at once where malloc cannot.

    What the configuration and a thousand log-ins took for a moment lies between what stays: 11 MB of a heap of 45 that
    malloc keeps for itself. It takes 2 ms, without Python's lock. `forget_loading` is called at once, so that what the
    connections take for a moment does not come on top, and then until they are there.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    for turn in count(1):
        if turn <= _FORGET_TURNS:
            await trio.to_thread.run_sync(forget_loading)
        await trio.sleep(_GIVE_BACK_EVERY_S)
        await trio.to_thread.run_sync(trim, 0)


def forget_loading() -> int:
    """Unmap the pages of shared libraries' files; returns of how many parts. Those in use are mapped again at a touch.

    Linking a library reads most of it once, code and tables for relocation, and what is read stays mapped: 40 MB, of
    which a running service touches half. The pages stay in the system's cache, which takes them back when it needs
    room, mapped or not: what becomes less is what this process is shown to hold. Parts that linking has written to, and
    all that is not a library's, are left alone.
    """
    parts = []
    try:
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if found := _LIBRARY_PART.match(line):
                    parts.append((int(found[1], 16), int(found[2], 16)))
                elif _ANY_PART.match(line):
                    parts.append((0, 0))
                elif line.startswith("Anonymous:") and line.split()[1] != "0":
                    parts[-1] = (0, 0)
    except (AttributeError, OSError, TypeError):
        return 0
    return sum(libc.madvise(start, end - start, _MADV_DONTNEED) == 0 for start, end in parts if start)
