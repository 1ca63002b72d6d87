"""``journal``: what is accepted and not yet in a tenant's database, read from the files themselves.

Works while the service is stopped, and only reads while it runs. A file's last second may show what is committed
already: deleting follows.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
import trio
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.tenants import find_tenant
from scada_trio.config import Settings
from scada_trio.errors import ConfigurationRefused, InvalidField, JournalCorrupt, JournalUnavailable, ScadaError
from scada_trio.instance import open_instance
from scada_trio.journal.file import JournalFile
from scada_trio.journal.rows import TagKey, read_row
from scada_trio.readings import QUALITY_LABELS, ReadingBlock
from scada_trio.registry import Registry
from scada_trio.times import iso

_STATUS: Final = ("tenant_id", "journal_id", "readings", "bytes", "oldest", "newest", "unreported_losses", "problem")
_COLUMNS: Final = ("timestamp", "well_id", "tag_node_id", "value", "quality")
_AT_ONCE: Final = 100_000


async def status(settings: Settings, console: Console, *, tenant: str | None, form: Format) -> None:
    """A line for each journal."""
    paths = await _paths(settings, tenant)
    rows = [await trio.to_thread.run_sync(_status_row, path) for path in paths]
    print_rows(console, form, _STATUS, rows)
    if form == "table":
        waiting = sum(row[2] for row in rows if isinstance(row[2], int))
        where = settings.journal.directory
        console.print(f"{len(rows)} journals, {waiting} readings in {where}", highlight=False, markup=False)


async def verify(settings: Settings, console: Console, *, tenant: str | None, as_json: bool = False) -> None:
    """Check every checksum, and SQLite's own structures; raises `ScadaError` where something is damaged."""
    damaged = 0
    paths = await _paths(settings, tenant)
    if not paths and not as_json:
        console.print(f"no journals in {settings.journal.directory}", highlight=False, markup=False)
    for path in paths:
        problems = await trio.to_thread.run_sync(_problems, path)
        damaged += bool(problems)
        if as_json:
            print_rows(console, "json", ("tenant_id", "sound", "problems"), [(path.stem, not problems, problems)])
        else:
            console.print(f"{path.stem}: {'; '.join(problems) or 'sound'}", highlight=False, markup=False)
    if damaged:
        raise ScadaError(f"{damaged} journals are damaged; the service sets them aside and keeps what can be read")


async def export(settings: Settings, console: Console, *, tenant: str, output: Path) -> None:
    """Write the readings that wait, oldest first, to a file that must not exist yet; the journal keeps them."""
    (path,) = await _paths(settings, tenant)
    writers = {".csv": _open_csv, ".parquet": _open_parquet}
    if output.suffix.lower() not in writers:
        raise InvalidField("--output", f"ends with {' or '.join(writers)}: {output.name}")
    if await trio.Path(output).exists():
        raise ConfigurationRefused(f"{output} exists already: give another name, nothing is overwritten")
    progress = Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        disable=not console.is_terminal,
    )
    with progress:
        count = await trio.to_thread.run_sync(_export, path, output, writers[output.suffix.lower()], progress)
    console.print(f"{count} readings in {output}", highlight=False, markup=False)


async def _paths(settings: Settings, tenant: str | None) -> list[Path]:
    """The journals, or a tenant's; a name is looked up in the master database, an id is not."""
    directory = settings.journal.directory
    if tenant is None:
        return sorted(directory.glob("*.sqlite"))
    try:
        tenant_id = UUID(tenant)
    except ValueError:
        async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
            tenant_id = await find_tenant(Registry(master, instance.secrets), tenant)
    path = directory / f"{tenant_id}.sqlite"
    if not await trio.Path(path).exists():
        raise ConfigurationRefused(f"tenant {tenant} has no journal in {directory}")
    return [path]


def _status_row(path: Path) -> tuple[object, ...]:
    try:
        with closing(JournalFile.open_to_read(path)) as file:
            contents, space = file.contents(), file.space()
            ((oldest, newest),) = file.rows("SELECT min(from_us), max(to_us) FROM blocks")
    except (JournalCorrupt, JournalUnavailable) as error:
        return (path.stem, None, None, path.stat().st_size, None, None, None, str(error))
    times = (iso(time_us) if isinstance(time_us, int) else None for time_us in (oldest, newest))
    return (path.stem, contents.journal_id, contents.readings, space.disk, *times, len(contents.losses), None)


def _problems(path: Path) -> list[str]:
    problems: list[str] = []
    damaged = 0
    try:
        with closing(JournalFile.open_to_read(path)) as file:
            file.contents()
            for row in file.rows("SELECT * FROM blocks ORDER BY sequence"):
                try:
                    read_row(row)
                except JournalCorrupt:
                    damaged += 1
            problems += [str(row[0]) for row in file.rows("PRAGMA integrity_check(10)") if row[0] != "ok"]
    except (JournalCorrupt, JournalUnavailable) as error:
        problems.append(str(error))
    if damaged:
        problems.insert(0, f"{damaged} blocks with a wrong checksum")
    return problems


# --- export, in a worker thread

_WriteBlock = Callable[[ReadingBlock], None]


def _export(path: Path, output: Path, open_writer: Callable[..., Any], progress: Progress) -> int:
    partial = output.with_name(output.name + ".partial")
    try:
        with closing(JournalFile.open_to_read(path)) as file:
            contents = file.contents()
            task = progress.add_task("exporting", total=contents.readings)
            with open_writer(partial, contents.tags) as write:
                count, after = 0, 0
                while records := file.read(after, _AT_ONCE):  # a short look each, so that the service is not held up
                    block = ReadingBlock.concatenate(record.block for record in records)
                    write(block)
                    count += len(block)
                    after = records[-1].sequence
                    progress.update(task, completed=count)
        partial.rename(output)
    except OSError as error:
        raise ScadaError(f"{error.strerror or error}: {output}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


@contextmanager
def _open_csv(path: Path, tags: list[TagKey]) -> Iterator[_WriteBlock]:
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)

        def write(block: ReadingBlock) -> None:
            columns = (block.tag.tolist(), block.time_us.tolist(), block.value.tolist(), block.quality.tolist())
            for tag, time_us, value, quality in zip(*columns, strict=True):
                well_id, node_id = tags[tag]
                writer.writerow((iso(time_us), well_id, node_id, repr(value), QUALITY_LABELS[quality]))

        yield write


@contextmanager
def _open_parquet(path: Path, tags: list[TagKey]) -> Iterator[_WriteBlock]:
    try:
        pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigurationRefused(
            "Parquet needs the extra parquet: pip install 'scada-trio[parquet]'; CSV needs nothing"
        ) from None
    text = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(zip(_COLUMNS, (pa.timestamp("us", tz="UTC"), text, text, pa.float64(), text), strict=True))
    wells = pa.array([str(well_id) for well_id, _ in tags], pa.string())
    nodes = pa.array([node_id for _, node_id in tags], pa.string())
    with pq.ParquetWriter(path, schema) as writer:

        def write(block: ReadingBlock) -> None:
            columns = [
                pa.array(block.time_us, pa.int64()).cast(schema.field(0).type),
                pa.DictionaryArray.from_arrays(pa.array(block.tag), wells),
                pa.DictionaryArray.from_arrays(pa.array(block.tag), nodes),
                pa.array(block.value),
                pa.DictionaryArray.from_arrays(pa.array(block.quality.astype(np.int32)), pa.array(QUALITY_LABELS)),
            ]
            writer.write_table(pa.table(columns, schema=schema))

        yield write
