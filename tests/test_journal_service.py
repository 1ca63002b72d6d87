"""The journal between real devices and a real PostgreSQL: what a process leaves, the next one writes, once."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import SecretStr

from scada_trio.journal.file import JournalFile
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, ReadingBlock
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from scada_trio.writer import Writer
from tests.fix_devices import open_device, tag
from tests.fix_journal import Place, block
from tests.fix_postgres import PostgresServer, fetch, record_inserts
from tests.fix_service import open_service, write_series

ROOT = Path(__file__).parent.parent
BASE_US = (int(time.time()) - 7200) * 1_000_000  # within the retention, before the device's own first values


def dated(count: int, first: int) -> ReadingBlock:
    """As `block`, at a time that a database takes."""
    undated = block(count, first)
    return replace(undated, time_us=undated.time_us + BASE_US)


def is_written(row: tuple[Any, ...]) -> bool:
    return bool(BASE_US <= row[0] < BASE_US + 3_600_000_000)


def stored_values(url: SecretStr) -> list[float]:
    return [row[0] for row in fetch(url, "SELECT value FROM inserted ORDER BY value")]


async def drain_into(place: Place, url: SecretStr, *, die_after: str | None = None) -> None:
    """What a process does with a journal that has no source; it may die with its second batch."""
    async with place.open(row_readings=100) as journal:
        batches_in, batches = trio.open_memory_channel[Batch](1)
        open_sink = partial(open_tenant_writer, url, journal.tags, connect_timeout_s=10, statement_timeout_s=10)
        if die_after is not None:
            async with open_sink() as sink:
                await journal.resolve(await sink.committed_sequence(journal.journal_id))
                for number in range(2):
                    batch = await journal.take(100)
                    assert batch is not None
                    if number == 1 and die_after == "journal commit":
                        return
                    result = await sink.write(batch, journal.journal_id)
                    if number == 1 and die_after == "database commit":
                        return
                    await journal.committed(batch, result)
        async with trio.open_nursery() as nursery:
            writer = Writer(journal, batches, open_sink, metrics=Metrics().tenant(place.tenant_id, journal.tags))
            nursery.start_soon(writer.run)
            with batches_in:
                while (batch := await journal.take(100)) is not None:
                    await batches_in.send(batch)


@pytest.mark.parametrize("die_after", ["journal commit", "database commit"])
async def test_a_process_that_dies_between_its_two_commits_writes_nothing_twice(
    place: Place, tenant_url: SecretStr, die_after: str
) -> None:
    """Before the COPY the batch is written by the next process, after it the cursor says that it is there."""
    await trio.to_thread.run_sync(record_inserts, tenant_url)
    async with place.open(row_readings=100) as journal:
        await journal.append([dated(100, first) for first in range(0, 1000, 100)])
    await drain_into(place.restarted(), tenant_url, die_after=die_after)
    last = place.restarted()
    await drain_into(last, tenant_url)
    assert await trio.to_thread.run_sync(stored_values, tenant_url) == list(range(1000))
    accounts = last.ledger.accounts
    assert (accounts.in_journal, accounts.unexplained) == (0, 0)
    assert accounts.duplicates == (100 if die_after == "database commit" else 0)


async def test_what_a_stopped_service_could_not_write_the_next_one_writes(
    postgres: PostgresServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """The tenant's database is away when the service stops, and back when it starts again: each reading once."""
    url = await trio.to_thread.run_sync(own_postgres.create_tenant)
    await trio.to_thread.run_sync(record_inserts, url)
    master = await trio.to_thread.run_sync(postgres.create_master)
    same: dict[str, Any] = {"journal_dir": tmp_path / "journal", "journal_memory_readings": 50}
    async with open_device("asyncua", nodes=["N"]) as device:
        async with open_service(postgres, master, **same, shutdown_grace_ms=500) as running:
            tenant = await running.add_tenant(url)
            connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=N")])
            await running.connected(tenant, connection, 1)
            await write_series(device, "N", 1, 50, base_us=BASE_US)
            await running.until_stored(tenant, "ns=1;s=N", 50.0)
            await trio.to_thread.run_sync(own_postgres.stop)
            await write_series(device, "N", 51, 300, base_us=BASE_US)
            await running.until(lambda: running.snapshot(tenant).buffered >= 300)
        await trio.to_thread.run_sync(own_postgres.start)
        async with open_service(postgres, master, **same) as running:
            running.tenants[tenant] = url
            await running.until_stored(tenant, "ns=1;s=N", 350.0)
            await running.connected(tenant, connection, 1)
            await write_series(device, "N", 351, 50, base_us=BASE_US)
            await running.until_stored(tenant, "ns=1;s=N", 400.0)
            await running.until(lambda: running.snapshot(tenant).buffered == 0)
            accounts = running.snapshot(tenant).accounts
            metrics = (await running.get("/metrics")).text
            rows = [row for row in await running.rows(tenant, "ns=1;s=N", "inserted") if is_written(row)]
    assert accounts.unexplained == 0
    assert accounts.recovered >= 300
    assert f'scada_readings_recovered_total{{tenant_id="{tenant}"}} {float(accounts.recovered)}' in metrics
    assert [row[2] for row in rows] == [float(number) for number in range(1, 401)]


async def test_a_journal_that_another_process_holds_is_waited_for(
    postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path
) -> None:
    """The tenant says so; as soon as the other one is gone it runs."""
    async with open_service(postgres, journal_dir=tmp_path) as running:
        place = Place(tmp_path)
        async with place.open():
            await running.master.add_tenant(place.tenant_id, "contended", tenant_url.get_secret_value())
            await trio.to_thread.run_sync(fetch, running.master_url, "NOTIFY scada_config")
            await running.until(lambda: running.snapshot(place.tenant_id) is not None)
            await running.until(lambda: running.snapshot(place.tenant_id).state == "journal away")
            snapshot = running.snapshot(place.tenant_id)
            assert snapshot.last_error.startswith("JOURNAL_DIR: ")
            assert (await running.call("HealthCheck")).status == "unhealthy"  # no other tenant runs
        await running.until(lambda: running.snapshot(place.tenant_id).state == "running")


async def test_readings_are_accounted_for_while_everything_happens(
    postgres: PostgresServer, own_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity holds whenever it is looked at: repeats, an outage, a bug, a damaged file."""
    url = await trio.to_thread.run_sync(own_postgres.create_tenant)
    real, failures = TenantWriter.write, iter([RuntimeError("a bug")])

    async def write(self: TenantWriter, *args: object) -> object:
        for failure in failures:
            raise failure
        return await real(self, *args)  # type: ignore[arg-type]

    seen: set[int] = set()
    settings: dict[str, Any] = {"journal_dir": tmp_path, "journal_memory_readings": 20, "max_buffer_size": 10}
    async with open_device("asyncua", nodes=["N"]) as device, open_service(postgres, **settings) as running:
        monkeypatch.setattr(TenantWriter, "write", write)
        tenant = await running.add_tenant(url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=N")])
        await running.connected(tenant, connection, 1)
        done = trio.Event()

        async def watch() -> None:
            while not done.is_set():
                seen.add(running.snapshot(tenant).accounts.unexplained)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await write_series(device, "N", 1, 100, base_us=BASE_US)
            await write_series(device, "N", 50, 51, base_us=BASE_US)  # again
            await running.until_stored(tenant, "ns=1;s=N", 100.0)
            await running.until(lambda: running.snapshot(tenant).buffered == 0)
            await trio.to_thread.run_sync(own_postgres.stop)
            for held in range(50, 401, 50):  # notifications of their own
                await write_series(device, "N", 51 + held, 50, base_us=BASE_US)
                await running.until(partial(holds, running, tenant, held))
            journal = running.service._tenants[tenant]._journal
            assert journal is not None
            await journal._store.call(lambda file: damage(file, tmp_path / f"{tenant}.sqlite"))
            await trio.to_thread.run_sync(own_postgres.start)
            await running.until_stored(tenant, "ns=1;s=N", 500.0)
            await running.until(lambda: running.snapshot(tenant).buffered == 0)
            done.set()
        accounts = running.snapshot(tenant).accounts
        labels = {"tenant_id": str(tenant), "reason": "journal_corrupt"}
        lost = running.metrics.registry.get_sample_value("scada_readings_lost_total", labels)
        stored = len(await running.rows(tenant, "ns=1;s=N"))
        query, told = "SELECT sum(reading_count) FROM scada_loss WHERE reason = 'journal_corrupt'", [(0,)]
        with trio.fail_after(60):  # damage may be met twice, and each loss is told in the ledger's own time
            while told[0][0] != lost:
                told = await trio.to_thread.run_sync(fetch, url, query)
                await trio.sleep(0.05)
    assert seen == {0}
    assert accounts.lost == lost
    assert accounts.lost > 0
    assert accounts.written == stored
    assert accounts.received == accounts.committed + accounts.lost


def holds(running: Any, tenant: Any, count: int) -> bool:
    return bool(running.snapshot(tenant).buffered >= count)


def damage(file: JournalFile, path: Path) -> None:
    """Turn values of readings that are in the file alone, and in SQLite's cache no more."""
    for part in (path, path.with_name(path.name + "-wal")):
        data = bytearray(part.read_bytes())
        for number in range(250, 450):
            two = block(2, number).value.tobytes()
            where = data.find(two)
            while where >= 0:
                data[where + 3] ^= 1
                where = data.find(two, where + 1)
        with part.open("r+b") as opened:
            opened.write(data)
    file._connection.execute("PRAGMA shrink_memory")


async def test_a_directory_that_cannot_be_written_stops_the_start(postgres: PostgresServer, tmp_path: Path) -> None:
    """With one line that names the variable, and exit status 2."""
    file = tmp_path / "file"
    file.touch()
    url = await trio.to_thread.run_sync(postgres.create_master)
    done = await trio.run_process(
        [sys.executable, "-m", "scada_trio", "serve"],
        env={"PYTHONPATH": str(ROOT), "DATABASE_URL": url.get_secret_value(), "JOURNAL_DIR": str(file / "x")},
        check=False,
        stdout=subprocess.DEVNULL,
        capture_stderr=True,
    )
    assert done.returncode == 2
    assert done.stderr.decode() == f"scada-trio: JOURNAL_DIR: Not a directory: {file / 'x'}\n"
