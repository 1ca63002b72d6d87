"""The curves' own machinery: what is measured, that it is counted, and what tables, pictures and plans make of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from benchmarks.curves import __main__ as program
from benchmarks.curves import documents, sizing
from benchmarks.curves.delay import DelayingProxy
from benchmarks.curves.picture import draw
from benchmarks.curves.point import COLUMNS, Measured, as_json, measure_point
from benchmarks.curves.sweeps import SWEEPS, Point, Sweep
from scada_trio.loadtest.child import LoadTestFailed
from scada_trio.loadtest.load import Load
from scada_trio.loadtest.run import Options
from tests.fix_postgres import PostgresServer

ONE = Measured(
    x=10,
    connections=10,
    tags=10,
    tenants=1,
    offered_per_s=100.0,
    written_per_s=99.5,
    service_cores=0.031,
    postgres_cores=0.002,
    simulator_cores=0.01,
    machine_busy=0.1,
    rss=115e6,
    rss_peak=116e6,
    write_mean_s=0.0145,
    write_p95_s=0.030,
    latency_p50_s=2.5,
    latency_p95_s=5.0,
    lag_p99_s=None,
    batches=2,
    stored=200_000,
    lost=0,
    true=True,
    heap_bytes=20_000_000,
    disk_bytes=44_000_000,
)


# ---- what is measured


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("tags", 10, 10_000),
        ("connections", 1, 2_000),
        ("tenants", 1, 200),
        ("interval", 100, 10_000),
        ("roundtrip", 0, 50),
        ("buffer", 1_000, 50_000),
        ("flush", 1, 30),
        ("pool", 2, 20),
        ("writers", 1, 4),
    ],
)
def test_sweeps_go_as_far_as_they_should(name: str, least: float, most: float) -> None:
    """From few to many, and only the quantity of the axis is another one at each point."""
    points = SWEEPS[name].points
    assert [points[0].x, points[-1].x] == [least, most]
    assert [point.x for point in points] == sorted({point.x for point in points})


@pytest.mark.parametrize("name", ["interval", "batch", "roundtrip", "buffer", "tenants", "pool", "writers"])
def test_what_is_held_is_held(name: str) -> None:
    """The same values a second at every point."""
    assert len({point.load.values_per_s for point in SWEEPS[name].points}) == 1


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=lambda sweep: sweep.name)
def test_a_quick_sweep_is_short(sweep: Sweep) -> None:
    """Two points of a few seconds; columns are those that there are."""
    quick = sweep.quick()
    assert len(quick.points) == 2
    assert all(point.load.duration_s <= 3 for point in quick.points)
    assert set(sweep.columns) <= COLUMNS.keys()


def test_devices_may_keep_their_last_values_for_an_interval() -> None:
    """A run is drained when nothing came for longer than that."""
    slow = Options(Path(), environment={"OPC_PUBLISHING_INTERVAL_MS": "10000"})
    assert (Options(Path()).quiet_samples, slow.quiet_samples) == (3, 12)


async def test_a_point_counts_every_value(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Through the proxy, with callers, two tenants, and devices that report every two seconds."""
    load = Load("x", 4, tags=3, duration_s=4.0, warmup_s=0.5, tenants=2)
    environment = {"OPC_PUBLISHING_INTERVAL_MS": "2000", "AGGREGATION_BUFFER_MS": "300"}
    point = Point(5, load, environment, round_trip_ms=5.0, callers=3)
    measured = await measure_point(own_postgres.server, point, tmp_path, lambda _: None)
    assert measured.true
    assert (measured.lost, measured.stored % 3) == (0, 0)
    assert measured.stored >= 12 * 4
    assert measured.rss > 30e6
    assert measured.service_cores > 0
    assert measured.postgres_cores > 0
    assert measured.disk_bytes > measured.heap_bytes > 0
    assert measured.write_mean_s is not None
    assert measured.write_mean_s > 0.02  # four round trips at least: cursor, COPY, its end, commit
    assert measured.queries_per_s is not None
    assert measured.queries_per_s > 0


async def test_a_service_that_cannot_be_measured_says_why(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Its own words come out of all groups."""
    point = Point(1, Load("x", 1, duration_s=1.0), {"MAX_BUFFER_SIZE": "0"})
    with pytest.RaisesGroup(pytest.RaisesExc(LoadTestFailed, match="MAX_BUFFER_SIZE"), flatten_subgroups=True):
        await measure_point(own_postgres.server, point, tmp_path, lambda _: None)


# ---- the proxy


@asynccontextmanager
async def open_echo() -> AsyncIterator[DelayingProxy]:
    """A proxy in front of a server that sends everything back."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        proxy = DelayingProxy(listener.socket.getsockname()[1])
        await nursery.start(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()


async def test_bytes_come_later_and_all_of_them() -> None:
    """In order, after the round trip at the earliest, and the end of a stream as well."""
    sent = bytes(range(256)) * 4_096
    async with open_echo() as proxy:
        proxy.round_trip_s = 0.2
        stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
        async with stream, trio.open_nursery() as nursery:
            started = trio.current_time()

            async def send() -> None:
                await stream.send_all(sent)
                await stream.send_eof()

            nursery.start_soon(send)
            got = bytes(await stream.receive_some(65_536))
            assert trio.current_time() - started >= 0.2
            while data := bytes(await stream.receive_some(65_536)):
                got += data
            assert got == sent


async def test_a_target_that_is_gone_ends_the_connection() -> None:
    """The client sees the end of the stream, not silence."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with trio.open_nursery() as nursery:
        proxy = DelayingProxy(port)
        await nursery.start(proxy.serve)
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as stream:
            assert not await stream.receive_some(1)
        nursery.cancel_scope.cancel()


# ---- documents and pictures


def test_a_table_has_a_line_a_point() -> None:
    """With units in its head; what was not measured is a dash."""
    text = documents.table(SWEEPS["tags"], [ONE, replace(ONE, x=10_000, service_cores=0.5)])
    head, rule, first, second = text.splitlines()
    assert head.startswith("| tags of each connection | offered, tags/s |")
    assert rule.count("---") == first.count("|") - 1
    assert first == "| 10 | 100 | 100 | 0.03 | 115 | 14.5 | 30.0 | 2.5, 5.0 | – | 0.00 | 200,000; 0 |"
    assert second.startswith("| 10,000 |")


def test_a_section_goes_between_its_markers() -> None:
    """All else stays, and the second time nothing changes; a marker without its end is left alone."""
    text = "a\n<!-- curve:tags:begin -->\nold\n<!-- curve:tags:end -->\nb\n<!-- curve:batch:begin -->\n"
    filled = documents.fill(text, {"tags": r"new \1", "batch": "x", "none": "y"})
    assert filled == text.replace("old", r"new \1")
    assert documents.fill(filled, {"tags": r"new \1"}) == filled


def test_what_is_kept_becomes_documents(tmp_path: Path) -> None:
    """Pictures, tables, costs and plans, from files alone; and no document changes by itself the second time."""
    kept, docs = tmp_path / "kept", tmp_path / "docs"
    docs.mkdir()
    names = ("tags", "connections", "interval", "pool")
    markers = (*names, "costs", "sizing")
    (docs / "a.md").write_text("\n".join(f"<!-- curve:{name}:begin -->\n<!-- curve:{name}:end -->" for name in markers))
    for name in names:
        program.keep(kept, SWEEPS[name], grown(name))
    assert json.loads((kept / "curve-tags.json").read_text())["machine"]["cores"] >= 1
    assert program.read(kept)["tags"] == grown("tags")
    assert program.write_documents(kept, docs) == [docs / "a.md"]
    text = (docs / "a.md").read_text()
    for name in names:
        assert f"](pictures/curve-{name}.svg)" in text
        assert (docs / "pictures" / f"curve-{name}.svg").read_bytes().startswith(b"<?xml")
    assert "| a value, in the service | 3.00 µs of a core |" in text
    assert "| 10,000 | 1,000 × 10 |" in text
    assert program.write_documents(kept, docs) == []


def test_a_picture_is_the_same_again(tmp_path: Path) -> None:
    """So that a document without news has no change; it has no ground of its own, for dark pages."""
    for name in ("one", "two"):
        draw(tmp_path / f"{name}.svg", SWEEPS["pool"], grown("pool"))
    first = (tmp_path / "one.svg").read_text()
    assert first == (tmp_path / "two.svg").read_text()
    assert "queries/s" in first
    assert "fill: #ffffff" not in first


# ---- what it comes to


def grown(name: str) -> list[Measured]:
    """Figures of a machine where a value is 3 µs, a message 100 µs, a connection 40 kB and a tag 500 bytes."""
    measured = []
    for point in SWEEPS[name].points:
        load = point.load
        interval_s = point.x / 1000 if name == "interval" else 1.0
        cores = 0.02 + load.values_per_s * 3e-6 + load.wells / interval_s * 1e-4
        rss = 100e6 + load.wells * (40e3 + load.tags * 500)
        measured.append(
            replace(
                ONE,
                x=point.x,
                connections=load.wells,
                tags=load.tags,
                offered_per_s=load.values_per_s,
                service_cores=cores,
                postgres_cores=load.values_per_s * 4e-6,
                rss=rss,
                queries_per_s=100.0 if point.callers else None,
                query_p95_s=0.02 if point.callers else None,
            )
        )
    return measured


def test_costs_are_the_slopes() -> None:
    """Each from the sweep in which it alone grows."""
    costs = sizing.Costs.of({name: grown(name) for name in sizing.NEEDED})
    assert costs.value_s == pytest.approx(3e-6)
    assert costs.message_s == pytest.approx(1e-4)
    assert costs.row_s == pytest.approx(4e-6)
    assert costs.connection_bytes == pytest.approx(40e3)
    assert costs.tag_bytes == pytest.approx(500)
    assert costs.base_bytes == pytest.approx(100e6)
    assert (costs.row_disk_bytes, costs.row_heap_bytes) == (220, 100)


@pytest.mark.parametrize(
    ("tags_per_s", "tags_each", "processes"),
    [
        (10_000, 1_000, 1),
        (1_000_000, 1_000, 6),  # 3.1 cores at 0.6 of one each
        (1_000_000, 10, 50),  # 100,000 connections at 2,000 each
    ],
)
def test_a_plan_has_enough_processes(tags_per_s: int, tags_each: int, processes: int) -> None:
    """By CPU or by connections, whichever wants more."""
    costs = sizing.Costs(3e-6, 1e-4, 0.02, 40e3, 500, 100e6, 4e-6, 220, 100)
    plan = sizing.Plan.of(tags_per_s, tags_each, costs)
    assert plan.processes == processes
    assert plan.connections * tags_each == tags_per_s
    assert plan.postgres_cores == pytest.approx(tags_per_s * 4e-6)
    assert plan.disk_bytes_a_day == tags_per_s * 86_400 * 220


# ---- the program


@pytest.mark.parametrize(("lost", "true", "status"), [(0, True, 0), (3, True, 1), (0, False, 1)])
def test_a_point_that_lost_something_is_no_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: int, true: bool, status: int
) -> None:
    """Exit status 1; the figures are kept to be looked at."""

    async def measure(sweep: Sweep, measured: list[Measured]) -> None:
        measured.append(replace(ONE, lost=lost, true=true))

    monkeypatch.setattr(program, "measure_sweep", measure)
    assert program.main(["--sweep", "tags", "--kept", str(tmp_path)]) == status
    assert json.loads((tmp_path / "curve-tags.json").read_text())["points"] == [
        as_json(replace(ONE, lost=lost, true=true))
    ]


def test_a_sweep_that_cannot_be_measured_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, from within whatever groups."""

    async def measure(sweep: Sweep, measured: Sequence[Measured]) -> None:
        raise ExceptionGroup("a", [ExceptionGroup("b", [LoadTestFailed("the service is ill")])])

    monkeypatch.setattr(program, "measure_sweep", measure)
    assert program.main(["--sweep", "tags", "--quick"]) == 1
    assert "tags: the service is ill" in capsys.readouterr().err
