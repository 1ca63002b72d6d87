"""Small file systems in memory, and what fills one. Knows nothing of what is on them."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

BALLAST: Final = "ballast"  # the file that fills a disk


@contextmanager
def small_disks(directory: Path, size_mb: int) -> Iterator[list[Path]]:
    """Two of them, the journal's and a tenant's database's; none where this user may not mount any."""
    disks = [directory / "journal-disk", directory / "database-disk"]
    mounted: list[Path] = []
    try:
        for disk in disks:
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", str(disk)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                mounted.append(disk)
        yield disks if len(mounted) == len(disks) else []
    finally:
        for disk in mounted:
            _unmount(disk)


async def fill(disk: Path, rng: random.Random) -> None:
    """No room on ``disk`` for one to three seconds."""
    await trio.to_thread.run_sync(_fill, disk / BALLAST)
    await trio.sleep(rng.uniform(1.0, 3.0))
    (disk / BALLAST).unlink(missing_ok=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        block = bytes(1 << 16)
        try:
            while True:
                file.write(block)
        except OSError:
            return


def _unmount(disk: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", str(disk)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)
