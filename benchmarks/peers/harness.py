"""Everything around a pipeline: one PostgreSQL for all, a database and wells for each, and the measured process.

`open_server` owns the server, `open_run` what one measurement has: an empty database, a field of wells, a pipeline.
Blocks throughout: a plain program that starts others and looks at them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
import psutil
import psycopg
import trio
from numpy.typing import NDArray
from pydantic import SecretStr

from benchmarks.peers.account import aligned, lag_s, tally
from benchmarks.peers.field import RunningField, open_field
from benchmarks.peers.install import search_path
from benchmarks.peers.pipeline import Config, Well
from benchmarks.peers.subjects import ROOT, Subject
from scada_trio.desired import ConnectionSpec
from scada_trio.secrets import SecretBox
from scada_trio.simulator.record import read_record
from scada_trio.simulator.wells import SimulatedWell
from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.master import open_master
from scada_trio.storage.migrate import migrate_master, migrate_tenant
from scada_trio.storage.tally import drop_database

PUBLISHING_MS: Final = 200
QUEUE_SIZE: Final = 200
BATCH_ROWS: Final = 10_000
BATCH_S: Final = 1.0
# A leaf of the index for each series, and what is written meanwhile, fit into them; as anybody would set them up.
SETTINGS: Final = {"track_commit_timestamp": "on", "shared_buffers": "1GB", "max_wal_size": "8GB"}
START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 20.0
_FRESH_S: Final = 5.0
_LOOK_S: Final = 0.5
_KEY: Final = "0123456789abcdef0123456789abcdef"
_numbers: Final = count(1)


class RunFailed(Exception):
    """A pipeline did not come up, or ended by itself; the text is for the report."""


@contextmanager
def open_server() -> Iterator[EmbeddedServer]:
    """The PostgreSQL of all measurements, with the settings that the service gives its own, and commit times kept."""
    with tempfile.TemporaryDirectory(prefix="scada-trio-bench-") as directory:
        Path(directory).chmod(0o755)
        server = EmbeddedServer(Path(directory) / "postgres", SETTINGS)
        server.open()
        try:
            yield server
        finally:
            server.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since the processes began and resident bytes now, of all of a pipeline's processes."""

    at_us: int
    cpu_s: float
    rss_bytes: int


class Pipeline:
    """A pipeline's processes. They may be killed and started again; what they write goes to ``log``."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it; it must not run."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": search_path(), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def usage(self) -> Usage:
        """Of now; zero for a process that is gone."""
        cpu_s, rss = 0.0, 0
        for process in self._processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system + times.children_user + times.children_system
                rss += process.memory_info().rss
        return Usage(time.time_ns() // 1000, cpu_s, rss)

    def kill(self) -> None:
        """SIGKILL for every process of it."""
        for process in self._processes():
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, time to finish, SIGKILL for what is left."""
        processes = self._processes()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "no output"

    def metrics_port(self) -> int:
        """Of the service, as its log tells; raises `LookupError` for another pipeline."""
        for line in self.log.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("metrics_port"):
                    return int(entry["metrics_port"])
        raise LookupError("no metrics_port in its log")

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        return []


@dataclass(slots=True)
class Run:
    """One measurement: everything that runs, and what is to be asked of it."""

    subject: Subject
    server: EmbeddedServer
    field: RunningField
    pipeline: Pipeline
    database_url: str
    record_path: Path
    numbers: dict[UUID, int]

    def lag_s(self) -> float:
        """How far the table is behind the wells; infinite where a well has nothing in it, or the database is away."""
        last = {well.well_id: well.tags[-1].node_id for well in self.field.wells}
        with suppress(psycopg.OperationalError), psycopg.connect(self.database_url, autocommit=True) as connection:
            return lag_s(connection, last, time.time())
        return float("inf")

    def wait_flowing(self, after_s: float = 0.0) -> None:
        """Until values of every well that are fresh, and younger than ``after_s``, are in the table.

        Raises `RunFailed` where it does not come to that.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.lag_s() > min(_FRESH_S, time.time() - after_s):
            if self.pipeline.ended or time.monotonic() > deadline:
                what = "ended" if self.pipeline.ended else f"does not flow after {START_TIMEOUT_S:.0f} s"
                raise RunFailed(f"{what}: {self.pipeline.last_words()}")
            time.sleep(_LOOK_S)

    def wait_drained(self, most_s: float = 30.0) -> None:
        """Until nothing more comes for three seconds; the wells are paused."""
        self.field.pause()
        deadline, last, since = time.monotonic() + most_s, -1, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < 3:
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
            now = int(row[0]) if row else 0
            # checkpoints and the statistics write a little of their own
            if now - last > 20_000:
                last, since = now, time.monotonic()
            time.sleep(_LOOK_S)

    def account(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """What was made and what is stored, aligned."""
        record = read_record(self.record_path)
        return record, aligned(record, tally(self.database_url, self.numbers))


@contextmanager
def open_run(
    subject: Subject, server: EmbeddedServer, *, wells: int, tags: int, interval_ms: float, work: Path
) -> Iterator[Run]:
    """An empty database, wells and the pipeline, started; all gone at the end but for what is in ``work``."""
    name = f"bench_{next(_numbers)}_{subject.name}"
    directory = work / name
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        url = create_database(server.url, name)
        stack.callback(drop_database, server.url, name)
        migrate_tenant(url)
        record = directory / "record.bin"
        running = stack.enter_context(open_field(wells, tags, interval_ms, record))
        config = _config(url, running.wells, directory)
        path = directory / "config.json"
        path.write_text(config.to_json())
        environment: dict[str, str] = {}
        if subject.is_service:
            master_url = create_database(server.url, f"{name}_master")
            stack.callback(drop_database, server.url, f"{name}_master")
            environment = _configure_service(master_url, url, running.wells, directory) | dict(subject.settings)
        pipeline = Pipeline(subject.command(path), environment, directory / "pipeline.log")
        stack.callback(pipeline.stop)
        numbers = {well.well_id: number for number, well in enumerate(running.wells, start=1)}
        yield Run(subject, server, running, pipeline, url.get_secret_value(), record, numbers)


@contextmanager
def sampled_memory(run: Run) -> Iterator[list[int]]:
    """Resident bytes of the pipeline, twice a second for as long as the block takes."""
    samples = [run.pipeline.usage().rss_bytes]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            samples.append(run.pipeline.usage().rss_bytes)

    thread = threading.Thread(target=sample, name="memory samples")
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _config(url: SecretStr, wells: list[SimulatedWell], directory: Path) -> Config:
    return Config(
        database_url=url.get_secret_value(),
        wells=tuple(Well(well.endpoint_url, well.well_id, tuple(tag.node_id for tag in well.tags)) for well in wells),
        publishing_ms=PUBLISHING_MS,
        sampling_ms=0,
        queue_size=QUEUE_SIZE,
        batch_rows=BATCH_ROWS,
        batch_s=BATCH_S,
        directory=directory,
    )


def _configure_service(
    master_url: SecretStr, url: SecretStr, wells: list[SimulatedWell], directory: Path
) -> dict[str, str]:
    """One tenant with all wells; the environment is the defaults but for what every pipeline is told."""
    migrate_master(master_url)
    trio.run(_store_wells, master_url, url, wells)
    return {
        "DATABASE_URL": master_url.get_secret_value(),
        "ENCRYPTION_KEY": _KEY,
        "DATA_DIR": str(directory / "data"),
        "OPC_PUBLISHING_INTERVAL_MS": str(PUBLISHING_MS),
        "OPC_SAMPLING_INTERVAL_MS": "0",
        "OPC_QUEUE_SIZE": str(QUEUE_SIZE),
        "MAX_BUFFER_SIZE": str(BATCH_ROWS),
        "AGGREGATION_BUFFER_MS": str(int(BATCH_S * 1000)),
        "GRPC_PORT": "0",
        "METRICS_PORT": "0",
        "LOG_FORMAT": "json",
    }


async def _store_wells(master_url: SecretStr, url: SecretStr, wells: list[SimulatedWell]) -> None:
    async with open_master(master_url, connect_timeout_s=10, statement_timeout_s=30) as master:
        tenant_id = uuid4()
        await master.add_tenant(tenant_id, "bench", SecretBox(SecretStr(_KEY)).encrypt(url))
        for well in wells:
            spec: Any = ConnectionSpec(uuid4(), tenant_id, well.name, well.endpoint_url, tags=well.tags)
            await master.store_connection(spec, None)
