"""``scada-trio journal``: looks into the files, whether a service has them open or not."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from scada_trio.losses import Loss, LossReason
from scada_trio.readings import ReadingBlock, TagTable
from tests.fix_journal import TENANT, WELL, Place

ROOT = Path(__file__).parent.parent
COUNT = 60_000


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "journal")


async def fill(place: Place) -> None:
    tags = TagTable()
    for name in ("A", 'B "quoted", µ'):
        tags.index_of(WELL, f"ns=1;s={name}")
    numbers = np.arange(COUNT)
    values = numbers.astype(np.float64)
    values[7] = math.nan
    everything = ReadingBlock(
        (numbers % 2).astype(np.int32), numbers * 1_000_000, values, (numbers % 3).astype(np.uint8)
    )
    async with place.open(tags=tags, row_readings=10_000) as journal:
        for first in range(0, COUNT, 10_000):
            await journal.append([everything.select((numbers >= first) & (numbers < first + 10_000))])
        journal.record_loss(Loss(LossReason.SEQUENCE_GAP, None, 0, 1))


async def run(place: Place, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "scada_trio", "journal", *arguments],
        env={"PYTHONPATH": str(ROOT), "JOURNAL_DIR": str(place.directory), "COLUMNS": "200", "PATH": ""},
        cwd=place.directory,
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )


async def test_status_tells_what_waits(place: Place) -> None:
    """As JSON for programs and as a table for people, while the journal is open and while it is not."""
    await fill(place)
    async with place.restarted().open() as journal:
        for _ in range(2):
            done = await run(place, "status", "--format", "json")
            (row,) = [json.loads(line) for line in done.stdout.splitlines()]
            assert row.pop("bytes") > COUNT * 21
            assert row == {
                "tenant_id": str(TENANT),
                "journal_id": str(journal.journal_id),
                "readings": COUNT,
                "oldest": "1970-01-01T00:00:00.000000+00:00",
                "newest": "1970-01-01T16:39:59.000000+00:00",
                "unreported_losses": 1,
                "problem": None,
            }
    done = await run(place, "status", "--tenant", str(TENANT))
    assert b"1 journals, 60000 readings" in done.stdout
    done = await run(place, "status", "--tenant", str(WELL))
    assert (done.returncode, b"has no journal" in done.stderr) == (1, True)


async def test_verify_finds_what_is_damaged(place: Place) -> None:
    """The exit status tells, and a line each what it is; the file is not touched."""
    await fill(place)
    assert (await run(place, "verify")).stdout.decode() == f"{TENANT}: sound\n"
    data = bytearray(place.path.read_bytes())
    where = data.index(np.arange(30_000, 30_100).astype(np.float64).tobytes())
    data[where + 5] ^= 1
    place.path.write_bytes(data)
    done = await run(place, "verify")
    assert done.returncode == 1
    assert done.stdout.decode() == f"{TENANT}: 1 blocks with a wrong checksum\n"
    assert done.stderr.decode().count("\n") == 1
    place.path.write_bytes(b"no database at all, " * 1000)
    assert (await run(place, "verify")).returncode == 1
    done = await run(place, "status", "--format", "json")
    assert "not a database" in json.loads(done.stdout)["problem"]


async def test_export_writes_every_reading_once(place: Place, tmp_path: Path) -> None:
    """As CSV, oldest first, from a file that a service has open; the journal keeps them."""
    await fill(place)
    output = tmp_path / "readings.csv"
    async with place.restarted().open() as journal:
        done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output))
        assert done.stdout.decode() == f"{COUNT} readings in {output}\n"
        assert len(journal) == COUNT
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["timestamp", "well_id", "tag_node_id", "value", "quality"]
    assert rows[2] == ["1970-01-01T00:00:01.000000+00:00", str(WELL), 'ns=1;s=B "quoted", µ', "1.0", "Uncertain"]
    assert [row[3] for row in rows[1:]] == ["nan" if n == 7 else f"{float(n)!r}" for n in range(COUNT)]
    done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output))
    assert (done.returncode, b"exists already" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [("readings.txt", 2, "--output: ends with .csv or .parquet"), ("no/dir.csv", 1, "No such")],
)
async def test_export_says_what_it_cannot_do(place: Place, name: str, status: int, text: str) -> None:
    """In one line."""
    await fill(place)
    done = await run(place, "export", "--tenant", str(TENANT), "--output", name)
    assert done.returncode == status
    assert text in done.stderr.decode()
    assert not list(place.directory.glob("*.partial"))


async def test_export_to_parquet_names_the_package_that_it_needs(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CSV needs nothing."""
    from scada_trio.commands import journal as commands
    from scada_trio.errors import ConfigurationRefused

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationRefused, match="pip install pyarrow"), commands._open_parquet(tmp_path / "x", []):
        pass
