"""What is done once although several processes run the tests."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import Protocol

import pytest


class Once(Protocol):
    """Does ``work`` under a name, unless another process has done it in this run; waits while one does it."""

    def __call__(self, name: str, work: Callable[[], None]) -> None: ...


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Processes of one run have a directory in common, above their own."""
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if mine.name.startswith("popen-") else mine

    def run(name: str, work: Callable[[], None]) -> None:
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = shared / f"{name}.done"
            if not done.exists():
                work()
                done.touch()

    return run
