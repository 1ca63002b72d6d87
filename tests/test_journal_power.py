"""What a power cut leaves of a journal: the image of a real file system, copied while a process writes to it.

The pages that the kernel has not sent to the device are not in the copy, as they are not on a disk whose power is cut;
the file system's own journal is replayed when the copy is mounted. The process stands still meanwhile, so the copy is
of one moment: a random one between two of its system calls. The device is one that keeps what it says it has.
"""

from __future__ import annotations

import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.fix_journal import Place, drain

ROOT = Path(__file__).parent.parent
IMAGE_BYTES = 48 << 20
CUTS = 5
WITHIN_S = 60.0
"""How long an image may take; only a failing test waits that long."""


@contextmanager
def mounted(image: Path, directory: Path) -> Iterator[None]:
    """Nothing but a sync writes to the device within 300 s."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop,commit=300", image, directory], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no image can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    made = shutil.which("mkfs.ext4")
    if made is None:
        pytest.skip("mkfs.ext4 is not installed")
    subprocess.run([made, "-q", "-F", path], check=True)
    return path


async def cut_often(image: Path, tmp_path: Path, sync: str, rng: random.Random) -> list[tuple[int, int, Path]]:
    """(readings told as accepted before the cut, committed by then, the copy) of each cut."""
    cuts: list[tuple[int, int, Path]] = []
    command = [sys.executable, "-m", "tests.append_forever", str(tmp_path / "live"), sync]
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        told = Told(process)
        for number in range(CUTS):
            wanted = told.accepted + rng.randrange(2_000, 12_000)
            while told.accepted < wanted:
                await told.listen()
            process.send_signal(signal.SIGSTOP)
            while not stands_still(process.pid):  # noqa: ASYNC110 - the kernel does not tell
                await trio.sleep(0.001)
            while told.more():
                await told.listen()
            copy = tmp_path / f"{sync} {number}"
            await trio.to_thread.run_sync(shutil.copyfile, image, copy)
            cuts.append((told.accepted, told.committed, copy))
            process.send_signal(signal.SIGCONT)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    return cuts


class Told:
    """What a process has said so far: readings accepted, and those of them committed."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._output = b""
        self.accepted = self.committed = 0

    def more(self) -> bool:
        """Whether something waits to be heard."""
        return bool(select.select([self._stream.fileno()], [], [], 0)[0])  # type: ignore[attr-defined]

    async def listen(self) -> None:
        received = await self._stream.receive_some()
        assert received, "the process ended"
        lines, _, self._output = (self._output + received).rpartition(b"\n")
        for line in map(int, lines.split()):
            self.accepted, self.committed = max(self.accepted, line), max(self.committed, -line)


def stands_still(pid: int) -> bool:
    """Whether no thread of it is in a system call any more."""
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


async def found(copy: Path, tmp_path: Path) -> tuple[list[float], Place]:
    """What the next process finds on the disk."""
    with mounted(copy, tmp_path / "after"):
        place = Place(tmp_path / "after")
        async with place.open() as journal:
            await journal.resolve(0)
            values = await drain(journal)
    return values, place


@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_what_was_accepted_before_the_power_is_cut(image: Path, tmp_path: Path, sync: str) -> None:
    """With `full` all of it is there, with `normal` all but the latest; either way in order, whole, and once."""
    rng = random.Random(sync)
    with trio.fail_after(WITHIN_S):
        with mounted(image, tmp_path / "live"):
            cuts = await cut_often(image, tmp_path, sync, rng)
        missing: list[int] = []
        for told, committed, copy in cuts:
            values, place = await found(copy, tmp_path)
            first = int(values[0]) if values else 0
            end = first + len(values)
            assert values == [float(value) for value in range(first, end)]
            assert (place.aside, place.losses) == ([], [])  # a cut is no damage
            assert place.ledger.accounts.unexplained == 0
            assert first <= committed
            missing.append(told - end)
    if sync == "full":
        assert max(missing) <= 0
    else:
        assert max(missing) > 0  # else the cut would not show what `full` is for
