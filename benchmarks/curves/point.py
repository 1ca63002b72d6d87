"""Measures one point: all of it up and every tag monitored, then what `scada_trio.loadtest` measures, then sizes.

The service is a process of its own, and so are the wells and each of PostgreSQL's; what they use is sampled, and what
was sent is compared with what is stored.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import trio
from pydantic import SecretStr

from benchmarks.curves.delay import DelayingProxy
from benchmarks.curves.sweeps import Point
from scada_trio.loadtest.child import LoadTestFailed
from scada_trio.loadtest.report import MB, Report
from scada_trio.loadtest.rig import Rig, open_rig
from scada_trio.loadtest.run import Options, measure_rig
from scada_trio.loadtest.sampling import Sample
from scada_trio.storage.embedded import EmbeddedServer

_LATE_S: Final = 120.0
_MONITORED_S: Final = 120.0
_CALLS_END_S: Final = 2.0  # before the measured time does
_SIZE: Final = """
    SELECT coalesce(sum(pg_relation_size(relid)), 0)::bigint, coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
    FROM pg_partition_tree('scada_readings') WHERE isleaf"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds, bytes, cores. ``heap_bytes`` and ``disk_bytes``, that with indexes, are of all ``stored`` readings."""

    x: float
    connections: int
    tags: int
    tenants: int
    offered_per_s: float
    written_per_s: float
    service_cores: float
    postgres_cores: float
    simulator_cores: float
    machine_busy: float
    rss: float
    rss_peak: float
    write_mean_s: float | None
    write_p95_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    lag_p99_s: float | None
    batches: int
    stored: int
    lost: int
    true: bool
    heap_bytes: int
    disk_bytes: int
    queries_per_s: float | None = None
    query_mean_s: float | None = None
    query_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a figure."""

    heading: str
    text: Callable[[Measured], str]


def _number(value: float | None, factor: float = 1.0) -> str:
    if value is None:
        return "–"
    value *= factor
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}"


COLUMNS: Final[Mapping[str, Column]] = {
    "offered": Column("offered, tags/s", lambda one: f"{one.offered_per_s:,.0f}"),
    "written": Column("written, tags/s", lambda one: f"{one.written_per_s:,.0f}"),
    "cores": Column("service, cores", lambda one: f"{one.service_cores:.2f}"),
    "postgres": Column("PostgreSQL, cores", lambda one: f"{one.postgres_cores:.2f}"),
    "rss": Column("service, RSS MB", lambda one: f"{one.rss / MB:,.0f}"),
    "write": Column("write, ms", lambda one: _number(one.write_mean_s, 1000)),
    "write_p95": Column("write P95, ms", lambda one: _number(one.write_p95_s, 1000)),
    "latency": Column(
        "source to commit, P50 and P95, s", lambda one: f"{_number(one.latency_p50_s)}, {_number(one.latency_p95_s)}"
    ),
    "lag": Column("loop lag P99, ms", lambda one: _number(one.lag_p99_s, 1000)),
    "batches": Column("batches", lambda one: f"{one.batches:,}"),
    "stored": Column("stored; lost", lambda one: f"{one.stored:,}; {one.lost:,}"),
    "queries": Column("queries/s", lambda one: _number(one.queries_per_s)),
    "query": Column("query, ms", lambda one: _number(one.query_mean_s, 1000)),
    "query_p95": Column("query P95, ms", lambda one: _number(one.query_p95_s, 1000)),
}


async def measure_point(server: EmbeddedServer, point: Point, directory: Path, say: Callable[[str], None]) -> Measured:
    """Carry a point out on ``server``, files in ``directory``; its databases stay there.

    Raises, in an exception group, `LoadTestFailed` where it cannot be carried out.
    """
    async with trio.open_nursery() as nursery:
        url, proxy = server.database_url("postgres"), None
        if point.round_trip_ms is not None:
            proxy = DelayingProxy(server.port)
            await nursery.start(proxy.serve)
            url = SecretStr(url.get_secret_value().replace(f":{server.port}/", f":{proxy.port}/"))
        watch = _Watch(point, server, proxy)
        opened = open_rig(point.load, directory, database_url=url, keep=True, environment=point.environment, say=say)
        async with opened as rig:
            wells = await _until_monitored(rig, point.load.wells * point.load.tags)
            if point.callers:
                nursery.start_soon(watch.call, rig.service.grpc_port, wells)
            options = Options(directory, late_s=_LATE_S, environment=point.environment)
            report, _ = await measure_rig(rig, point.load, options, say=say, show=watch.show)
            sizes = await trio.to_thread.run_sync(_sizes, rig.tenant_urls)
        nursery.cancel_scope.cancel()
    return _measured(point, report, watch, *sizes)


class _Watch:
    """What is done and noted beside the load test as its phases come."""

    def __init__(self, point: Point, server: EmbeddedServer, proxy: DelayingProxy | None) -> None:
        self.postgres_cpu: list[tuple[float, float]] = []
        """Time and CPU seconds, with each sample of the measured time."""
        self.called: dict[str, float] = {}
        self._point = point
        self._proxy = proxy
        assert server.pid is not None
        self._postgres = psutil.Process(server.pid)
        self._measuring = trio.Event()

    def show(self, samples: Sequence[Sample], phase: str) -> None:
        if self._proxy is not None and phase == "warming up":
            self._proxy.round_trip_s = (self._point.round_trip_ms or 0.0) / 1000
        if phase == "warming up":
            self.postgres_cpu = [self._cpu_now(samples[-1])]
        elif phase == "measuring":
            self.postgres_cpu.append(self._cpu_now(samples[-1]))
            self._measuring.set()

    async def call(self, port: int, wells: Sequence[tuple[str, str]]) -> None:
        """Let the callers call while it is measured."""
        await self._measuring.wait()
        given = {
            "port": port,
            "wells": wells,
            "callers": self._point.callers,
            "seconds": max(1.0, self._point.load.duration_s - _CALLS_END_S),
        }
        command = [sys.executable, "-m", "benchmarks.curves.callers", json.dumps(given)]
        done = await trio.run_process(command, capture_stdout=True)
        self.called = json.loads(done.stdout)

    def _cpu_now(self, sample: Sample) -> tuple[float, float]:
        """Of the server and of its processes that there are: those of the writers live as long as the service."""
        total = 0.0
        for process in (self._postgres, *self._postgres.children()):
            try:
                total += sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        return sample.at_s, total


async def _until_monitored(rig: Rig, tags: int) -> list[tuple[str, str]]:
    """Wait until devices report on all ``tags``; tenant and well of every connection."""
    wells = {well.name: str(well.well_id) for well in rig.field.wells}
    with trio.move_on_after(_MONITORED_S):
        while True:
            status = await trio.to_thread.run_sync(_status, rig.service.metrics_port)
            found = [(tenant["id"], link) for tenant in status["tenants"] for link in tenant["connections"]]
            if sum(link["tags_monitored"] for _, link in found) >= tags:
                return [(tenant_id, wells[link["name"]]) for tenant_id, link in found]
            await trio.sleep(0.5)
    raise LoadTestFailed(f"the devices do not report on all {tags:,} tags after {_MONITORED_S:.0f} s")


def _status(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10) as answer:
        return json.load(answer)


def _sizes(urls: Sequence[SecretStr]) -> tuple[int, int]:
    """Bytes of the readings' tables, and with their indexes."""
    heap = disk = 0
    for url in urls:
        with psycopg.connect(url.get_secret_value()) as connection:
            row = connection.execute(_SIZE).fetchone()
            assert row is not None
            heap, disk = heap + row[0], disk + row[1]
    return heap, disk


def _measured(point: Point, report: Report, watch: _Watch, heap_bytes: int, disk_bytes: int) -> Measured:
    figures, account, load = report.figures, report.account, point.load
    (first_s, first_cpu), (last_s, last_cpu) = watch.postgres_cpu[0], watch.postgres_cpu[-1]
    latency = account.latency
    return Measured(
        x=point.x,
        connections=load.wells,
        tags=load.tags,
        tenants=load.tenants,
        offered_per_s=figures.offered_per_s,
        written_per_s=figures.written_per_s,
        service_cores=figures.service_cores,
        postgres_cores=(last_cpu - first_cpu) / (last_s - first_s),
        simulator_cores=figures.simulator_cores,
        machine_busy=figures.machine_busy,
        rss=figures.memory_mean,
        rss_peak=figures.memory_peak,
        write_mean_s=figures.write_mean_s,
        write_p95_s=figures.write_p95_s,
        latency_p50_s=latency.p50_s if latency else None,
        latency_p95_s=latency.p95_s if latency else None,
        lag_p99_s=figures.lag_p99_s,
        batches=figures.batches,
        stored=account.stored,
        lost=account.lost,
        true=report.is_true,
        heap_bytes=heap_bytes,
        disk_bytes=disk_bytes,
        **watch.called,
    )


def as_json(measured: Measured) -> dict[str, Any]:
    """For a file; `Measured(**...)` reads it."""
    return asdict(measured)
