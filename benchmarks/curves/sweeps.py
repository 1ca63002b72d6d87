"""Which points are measured: each sweep lets one quantity grow and holds the others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from scada_trio.loadtest.load import Load

MEASURED_S: Final = 8.0
WARM_S: Final = 3.0
_QUICK_S: Final = (3.0, 1.0)
_QUICK_POINTS: Final = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: ``x`` of the quantity, the load, and the service's settings.

    ``round_trip_ms`` leads the service's way to the databases through a proxy that takes so long there and back; None:
    no proxy. ``callers`` query its API meanwhile, one call after the other each.
    """

    x: float
    load: Load
    environment: Mapping[str, str] = field(default_factory=dict)
    round_trip_ms: float | None = None
    callers: int = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """``quantity`` with its unit is the name of the axis, ``held`` says what stays the same.

    ``columns`` are the keys of `point.COLUMNS` that its table shows.
    """

    name: str
    quantity: str
    held: str
    points: Sequence[Point]
    columns: Sequence[str]
    logarithmic: bool = True
    database_settings: Mapping[str, str] = field(default_factory=dict)

    def only(self, places: Sequence[float] | None) -> Sweep:
        """Those of its points; all of them where there are none given."""
        return replace(self, points=[point for point in self.points if not places or point.x in places])

    def quick(self) -> Sweep:
        """The smallest points, just long enough to see that everything works; no figures to be kept."""
        seconds, warm_s = _QUICK_S
        points = [
            replace(point, load=replace(point.load, duration_s=seconds, warmup_s=warm_s))
            for point in sorted(self.points, key=lambda point: point.load.values_per_s)[:_QUICK_POINTS]
        ]
        return replace(self, points=points)


_COSTS: Final = ("offered", "written", "cores", "rss", "write", "write_p95", "latency", "lag", "postgres", "stored")
_QUERIES: Final = ("queries", "query", "query_p95", "cores", "write", "write_p95", "postgres", "stored")


def _load(wells: int, tags: int, rate_hz: float = 1.0, *, tenants: int = 1, seconds: float = MEASURED_S) -> Load:
    return Load("curve", wells, tags, rate_hz, seconds, WARM_S, tenants)


def _tags() -> Sweep:
    points = [Point(tags, _load(10, tags)) for tags in (10, 100, 1_000, 3_000, 10_000)]
    return Sweep("tags", "tags of each connection", "10 connections, 1 Hz", points, _COSTS)


def _connections() -> Sweep:
    points = [Point(wells, _load(wells, 10)) for wells in (1, 10, 100, 500, 1_000, 2_000)]
    return Sweep("connections", "connections", "10 tags of each, 1 Hz", points, _COSTS)


def _tenants() -> Sweep:
    points = [Point(tenants, _load(200, 10, tenants=tenants)) for tenants in (1, 10, 50, 200)]
    held = "200 connections of 10 tags in all, 1 Hz, a database for each tenant"
    return Sweep("tenants", "tenants", held, points, _COSTS, database_settings={"max_connections": "500"})


def _interval() -> Sweep:
    points = []
    for interval_ms in (100, 300, 1_000, 3_000, 10_000):
        # a report of 10 s is waited for twice, and the devices' queues hold more than one
        load = _load(100, 10, 10.0, seconds=max(MEASURED_S, 2 * interval_ms / 1000))
        load = replace(load, warmup_s=WARM_S + interval_ms / 1000)
        environment = {"OPC_PUBLISHING_INTERVAL_MS": str(interval_ms), "OPC_QUEUE_SIZE": "400"}
        points.append(Point(interval_ms, load, environment))
    held = "100 connections of 10 tags, 10 Hz"
    return Sweep("interval", "publishing interval, ms", held, points, _COSTS)


def _batch() -> Sweep:
    points = [
        Point(size, _load(10, 1_000, 2.0), {"MAX_BUFFER_SIZE": str(size)}) for size in (100, 1_000, 10_000, 100_000)
    ]
    held = "10 connections of 1,000 tags, 2 Hz, AGGREGATION_BUFFER_MS 5000"
    return Sweep("batch", "MAX_BUFFER_SIZE, readings", held, points, _COSTS)


def _roundtrip() -> Sweep:
    points = [Point(delay_ms, _load(10, 1_000, 3.0), round_trip_ms=delay_ms) for delay_ms in (0, 5, 20, 50)]
    held = "10 connections of 1,000 tags, 3 Hz"
    return Sweep("roundtrip", "round trip to the database, ms", held, points, _COSTS, logarithmic=False)


def _buffer() -> Sweep:
    points = [Point(size, _load(10, 1_000, 10.0), {"MAX_BUFFER_SIZE": str(size)}) for size in (1_000, 10_000, 50_000)]
    held = "10 connections of 1,000 tags, 10 Hz"
    return Sweep("buffer", "MAX_BUFFER_SIZE, readings", held, points, (*_COSTS, "batches"))


def _flush() -> Sweep:
    points = [
        Point(seconds, _load(50, 10, seconds=max(12.0, 1.5 * seconds)), {"AGGREGATION_BUFFER_MS": str(seconds * 1000)})
        for seconds in (1, 5, 30)
    ]
    held = "50 connections of 10 tags, 1 Hz"
    return Sweep("flush", "AGGREGATION_BUFFER_MS, s", held, points, (*_COSTS, "batches"))


def _pool(name: str, round_trip_ms: float | None, held: str) -> Sweep:
    # one tenant's queries use four connections at most, so that it takes some tenants to use twenty
    points = [
        Point(
            connections,
            _load(80, 10, tenants=8),
            {"DB_MAX_CONNECTIONS": str(connections)},
            round_trip_ms,
            callers=24,
        )
        for connections in (2, 5, 10, 20)
    ]
    return Sweep(name, "DB_MAX_CONNECTIONS", held, points, _QUERIES)


def _pool_near() -> Sweep:
    return _pool("pool", None, "24 callers of 8 tenants, 80 connections of 10 tags, 1 Hz; database on the same machine")


def _pool_far() -> Sweep:
    return _pool("pool-far", 20.0, "the same, 20 ms to the database and back")


def _writers() -> Sweep:
    points = [
        Point(writers, _load(10, 1_000, 10.0), {"DB_WRITE_CONNECTIONS": str(writers)}, round_trip_ms=20.0)
        for writers in (1, 2, 4)
    ]
    held = "10 connections of 1,000 tags, 10 Hz, 20 ms to the database and back"
    return Sweep("writers", "DB_WRITE_CONNECTIONS", held, points, (*_COSTS, "batches"), logarithmic=False)


_MAKERS: Final[Sequence[Callable[[], Sweep]]] = (
    *(_tags, _connections, _tenants, _interval, _batch, _roundtrip),
    *(_buffer, _flush, _pool_near, _pool_far, _writers),
)
SWEEPS: Final[Mapping[str, Sweep]] = {sweep.name: sweep for sweep in (make() for make in _MAKERS)}
