"""``scada-trio journal``: looks into the files, whether a service has them open or not."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio

from scada_trio.journal.file import JournalFile
from scada_trio.losses import Loss, LossReason
from scada_trio.readings import QUALITY_LABELS, ReadingBlock, TagTable
from tests.fix_journal import TENANT, WELL, Place

ROOT = Path(__file__).parent.parent
COUNT = 60_000


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


async def run(place: Place, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """``path`` comes before all others that modules are looked for in."""
    paths = [str(directory) for directory in (path, ROOT) if directory is not None]
    return await trio.run_process(
        [sys.executable, "-m", "scada_trio", "journal", *arguments],
        env={"PYTHONPATH": ":".join(paths), "JOURNAL_DIR": str(place.directory), "COLUMNS": "200", "PATH": ""},
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
    assert f"1 journals, 60000 readings in {place.directory}" in done.stdout.decode()
    done = await run(place, "status", "--tenant", str(WELL))
    assert (done.returncode, b"has no journal" in done.stderr) == (1, True)


async def test_verify_finds_what_is_damaged(place: Place) -> None:
    """The exit status tells, and a line each what it is; the file is not touched."""
    place.directory.mkdir()
    assert (await run(place, "verify")).stdout.decode() == f"no journals in {place.directory}\n"
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


async def test_export_to_parquet_has_what_the_journal_has(place: Place, tmp_path: Path) -> None:
    """Column by column, in order, to the bit; the types say what they are."""
    await fill(place)
    output = tmp_path / "readings.parquet"
    done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output))
    assert (done.returncode, done.stderr) == (0, b"")
    table = pq.read_table(output)
    assert table.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    with closing(JournalFile.open_to_read(place.path)) as file:
        tags = file.contents().tags
        held = ReadingBlock.concatenate(record.block for record in file.read(0, COUNT))
    assert len(held) == table.num_rows == COUNT
    assert np.array_equal(table["timestamp"].cast(pa.int64()).to_numpy(), held.time_us)
    assert np.array_equal(table["value"].to_numpy().view(np.int64), held.value.view(np.int64))
    keys = [tags[number] for number in held.tag.tolist()]
    assert table["well_id"].cast(pa.string()).to_pylist() == [str(well_id) for well_id, _ in keys]
    assert table["tag_node_id"].cast(pa.string()).to_pylist() == [node_id for _, node_id in keys]
    assert table["quality"].cast(pa.string()).to_pylist() == [QUALITY_LABELS[code] for code in held.quality.tolist()]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
async def test_an_empty_journal_is_a_file_without_rows(place: Place, tmp_path: Path, suffix: str) -> None:
    """With its columns, so that a program can read it."""
    async with place.open():
        pass
    output = tmp_path / f"empty.{suffix}"
    done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output))
    assert done.stdout.decode() == f"0 readings in {output}\n"
    columns = pq.read_table(output).column_names if suffix == "parquet" else output.read_text().strip().split(",")
    assert columns == ["timestamp", "well_id", "tag_node_id", "value", "quality"]


async def test_export_to_parquet_without_pyarrow_names_the_extra(place: Place, tmp_path: Path) -> None:
    """In a process that has no pyarrow; nothing is left behind, and CSV needs nothing."""
    await fill(place)
    hidden = tmp_path / "hidden" / "pyarrow"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(name='pyarrow')\n")
    output = tmp_path / "readings.parquet"
    done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output), path=hidden.parent)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "scada-trio: Parquet needs the extra parquet: pip install 'scada-trio[parquet]'; CSV needs nothing\n"
    )
    assert list(tmp_path.glob("readings*")) == []
    output = tmp_path / "readings.csv"
    done = await run(place, "export", "--tenant", str(TENANT), "--output", str(output), path=hidden.parent)
    assert done.returncode == 0
