"""The load test itself: that it counts right, judges right, and that a short real run comes out true."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from pydantic import SecretStr

from scada_trio.loadtest.account import Account, Latency, settle
from scada_trio.loadtest.load import Load, Mode, load_of
from scada_trio.loadtest.picture import draw
from scada_trio.loadtest.report import SLOPE_AFTER_S, Report, measure
from scada_trio.loadtest.sampling import Sample
from scada_trio.loadtest.scrape import COUNTERS, Buckets, Scrape, read_metrics, scrape
from scada_trio.simulator.record import DIED, DROPPED, MADE, ROW
from scada_trio.storage.tally import STORED, drop_database, server_version, stored_steps
from tests.fix_postgres import PostgresServer, fetch

US = 1_000_000
START_US = 1_790_000_000 * US
WINDOW = (START_US, START_US + 100 * US)


# ---- the load


def test_modes_are_what_is_promised() -> None:
    """500, 2,000 and 10,000 tags a second."""
    assert {mode.value: load_of(mode).values_per_s for mode in Mode} == {"normal": 500, "peak": 2_000, "stress": 10_000}
    assert [load_of(mode).name for mode in Mode] == ["normal", "peak", "stress"]


def test_parts_of_a_mode_can_be_replaced() -> None:
    """What is given makes another load, under another name."""
    load = load_of(Mode.NORMAL, wells=10, tags=1000, rate_hz=30.0, duration_s=5.0)
    assert (load.name, load.values_per_s, load.duration_s) == ("custom", 300_000, 5.0)
    assert (round(load.interval_ms, 2), load.queue_size) == (33.33, 120)


# ---- the count


Row = tuple[Any, ...]


def made(well: int, second: int, *, kind: int = MADE) -> Row:
    return (kind, well, START_US + second * US, 10, 0, 5.5)


def stored(well: int, second: int, *, items: int = 10, bad: int = 0, total: float = 5.5, after_s: float = 2.0) -> Row:
    at_us = START_US + second * US
    return (well, at_us, items, bad, total, at_us + int(after_s * US))


def account_of(rows: list[Row], found: list[Row]) -> Account:
    return settle(np.array(rows, ROW), np.array(found, STORED), window_us=WINDOW, commit_s=0.5, late_s=10.0)


def test_what_was_sent_and_stored_is_whole() -> None:
    """Nothing is missing, and the time to the commit is that of the readings, the write included."""
    rows = [made(well, second) for well in (1, 2) for second in range(50)]
    found = [stored(well, second, after_s=1 + second / 10) for well in (2, 1) for second in reversed(range(50))]
    account = account_of(rows, found)
    assert (account.sent, account.stored, account.sent_in_window, account.stored_in_window) == (1000,) * 4
    wrong = (account.lost, account.duplicated, account.unknown, account.wrong, account.unexplained)
    assert wrong == (0,) * 5
    latency = account.latency
    assert latency is not None
    assert latency.p50_s == pytest.approx(1.5 + 2.4)
    assert latency.p95_s == pytest.approx(1.5 + 4.7)
    assert latency.max_s == pytest.approx(1.5 + 4.9)
    assert latency.late == 0


def test_each_fault_is_counted_as_what_it_is() -> None:
    """Lost in part or whole, by whose fault; twice, from nowhere, changed, and late."""
    rows = [
        *(made(1, second) for second in range(8)),
        made(1, 1),  # a second subscription to the same well
        made(1, 2, kind=DROPPED),
        made(1, 3, kind=DIED),
        made(1, 7, kind=DIED),  # in doubt, and it arrived
    ]
    found = [
        stored(1, 0, after_s=60),
        stored(1, 1, items=7),
        stored(1, 4, total=5.6),
        stored(1, 5, bad=1),
        stored(1, 6, items=12),
        stored(1, 7),
        stored(0, 0, items=3),
    ]
    account = account_of(rows, found)
    assert (account.sent, account.stored) == (80, 62)
    assert (account.lost, account.dropped, account.died, account.unexplained) == (23, 10, 10, 3)
    assert (account.duplicated, account.unknown, account.wrong) == (2, 3, 20)
    assert account.latency is not None
    assert account.latency.late == 10


def test_only_the_measured_time_makes_the_rate() -> None:
    """What is before and after it counts for the account alone."""
    rows = [made(1, second) for second in (-5, 0, 99, 100)]
    account = account_of(rows, [stored(1, second) for second in (-5, 0, 99, 100)])
    assert (account.sent, account.sent_in_window, account.stored_in_window) == (40, 20, 20)


@pytest.mark.parametrize(("rows", "found", "lost"), [([], [], 0), ([made(1, 0)], [], 10), ([], [stored(1, 0)], 0)])
def test_an_empty_side_is_no_error(rows: list[Row], found: list[Row], lost: int) -> None:
    """A service that stored nothing has lost everything."""
    account = account_of(rows, found)
    assert account.lost == lost
    assert account.unknown == account.stored


async def test_the_database_is_counted_by_well_and_time(postgres: PostgresServer) -> None:
    """Sums leave out what has no value, Bad is counted, and wells that nobody sent for are told apart."""
    url = postgres.create_tenant()
    mine, other = uuid4(), uuid4()
    row = "INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value, quality) VALUES (now(), %s, %s, %s, %s)"
    statements = [(mine, "a", 1.5, "Good"), (mine, "b", 2.0, "Uncertain"), (mine, "c", float("nan"), "Bad")]
    block = "; ".join(row.replace("%s", "{}") for _ in [*statements, 0]).format(
        *(literal(value) for values in [*statements, (other, "a", 9.0, "Good")] for value in values)
    )
    fetch(url, "DO $$ BEGIN " + block + "; END $$")  # in one transaction: one time
    found = stored_steps(url, {mine: 7})
    assert sorted(found[["well", "items", "bad", "sum"]].tolist()) == [(0, 1, 0, 9.0), (7, 3, 1, 3.5)]
    assert (found["written_us"] == found["time_us"]).all()


def literal(value: object) -> str:
    return str(value) + "::float8" if isinstance(value, float) and value == value else f"'{value}'"


async def test_a_database_of_a_test_is_dropped_whoever_is_in_it(postgres: PostgresServer) -> None:
    """Gone, and gone already is no error."""
    url = postgres.create_database()
    name = url.get_secret_value().rpartition("/")[2]
    assert server_version(url).startswith("PostgreSQL ")
    for _ in range(2):
        drop_database(postgres.server.url, name)
    rows = fetch(postgres.server.url, "SELECT count(*) FROM pg_database WHERE datname = %s", name)
    assert rows == [(0,)]


# ---- metrics


def test_quantiles_are_those_of_prometheus() -> None:
    """Linear within a bucket; beyond the last finite bound there is nothing to say but that bound."""
    buckets = Buckets(10, 3.0, {0.1: 5, 0.2: 9, float("inf"): 10})
    assert buckets.mean == pytest.approx(0.3)
    assert buckets.quantile(0.5) == pytest.approx(0.1)
    assert buckets.quantile(0.7) == pytest.approx(0.15)
    assert buckets.quantile(0.99) == pytest.approx(0.2)
    assert Buckets().quantile(0.5) is Buckets().mean is None


def test_a_histogram_since_another_has_what_came_between() -> None:
    """Two scrapes make the figures of the time between them."""
    before = Buckets(5, 1.0, {0.1: 5, float("inf"): 5})
    after = Buckets(8, 2.5, {0.1: 5, float("inf"): 8})
    assert after.since(before) == Buckets(3, 1.5, {0.1: 0, float("inf"): 3})


def test_tenants_are_added_up() -> None:
    """The figures are of the whole service."""
    text = """
# TYPE scada_readings_written_total counter
scada_readings_written_total{tenant_id="a"} 3
scada_readings_written_total{tenant_id="b"} 4
# TYPE scada_db_write_duration_seconds histogram
scada_db_write_duration_seconds_bucket{tenant_id="a",le="0.1"} 1
scada_db_write_duration_seconds_bucket{tenant_id="b",le="0.1"} 2
scada_db_write_duration_seconds_bucket{tenant_id="b",le="+Inf"} 2
scada_db_write_duration_seconds_count{tenant_id="a"} 1
scada_db_write_duration_seconds_count{tenant_id="b"} 2
scada_db_write_duration_seconds_sum{tenant_id="b"} 0.5
"""
    found = read_metrics(text)
    assert found.counters["written"] == 7
    assert found.counters["received"] == 0
    assert found.histograms["write"] == Buckets(3, 0.5, {0.1: 3, float("inf"): 2})


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_that_answers_with_something_else_is_an_error() -> None:
    """A 500 is no metrics, and nobody there is an OSError."""
    with answering(500) as port, pytest.raises(ValueError, match="answers 500"):
        scrape(port)
    with pytest.raises(OSError, match="refused"):
        scrape(port)


# ---- verdicts


def sample(second: float, *, rss_mb: float = 100.0, cores: float = 0.3, write_s: float = 0.02) -> Sample:
    writes = second
    bounds = (0.01, 0.025, 0.05, 0.1, 0.5, float("inf"))
    histogram = Buckets(writes, writes * write_s, {bound: writes if write_s <= bound else 0.0 for bound in bounds})
    counters = dict.fromkeys(COUNTERS, 0.0) | {"written": 500 * second, "received": 500 * second}
    return Sample(
        second,
        START_US + int(second * US),
        Scrape(counters, {"write": histogram, "batch": histogram, "lag": histogram}),
        int(rss_mb * 1e6),
        cores * second,
        0.1 * second,
        int(50e6),
        0.5,
    )


def report_of(
    seconds: int = 100, *, rss_mb: float = 100.0, growth_mb: float = 0.0, account: Account | None = None, **rest: float
) -> Report:
    """A run of ``normal`` with 500 tags/s, as told."""
    samples = [sample(second, rss_mb=rss_mb + growth_mb * second / 600, **rest) for second in range(seconds + 1)]
    count = 500 * seconds
    whole = Account(count, count, 0, 0, 0, 0, 0, 0, count, count, None)
    figures = measure(samples, account or whole, service_errors=0, service_status=0)
    return Report(
        load_of(Mode.NORMAL, duration_s=float(seconds)), "PostgreSQL", figures, account or whole, float(seconds)
    )


def test_a_good_run_keeps_every_promise() -> None:
    """All figures are those of the samples, and all verdicts are yes."""
    report = report_of()
    figures = report.figures
    assert figures.committed_per_s == figures.written_per_s == 500
    assert figures.service_cores == pytest.approx(0.3)
    assert figures.write_mean_s == pytest.approx(0.02)
    assert figures.memory_slope is None  # too short to tell
    assert report.promises_kept
    assert report.aims_reached


@pytest.mark.parametrize(
    ("fault", "kept", "line"),
    [
        ({"write_s": 0.09}, True, "write latency, average"),
        ({"write_s": 0.2}, False, "write latency, average"),
        ({"cores": 0.6}, True, "CPU of the service"),
        ({"growth_mb": 20.0, "seconds": int(SLOPE_AFTER_S) + 100}, True, "memory growth in 10 minutes"),
        ({"rss_mb": 140.0}, True, "memory of the service, peak"),
        ({"rss_mb": 260.0}, False, "memory of the service, peak"),
    ],
)
def test_each_target_is_judged(fault: dict[str, Any], kept: bool, line: str) -> None:
    """A figure beyond the promise is a failure, one beyond our aim only is that."""
    report = report_of(**fault)
    judged = {entry.name: entry for entry in report.judged()}[line]
    assert judged.aim_reached is False
    assert judged.promise_kept in ((True, None) if kept else (False,))
    assert report.promises_kept is kept
    assert not report.aims_reached


WHOLE = Account(50_000, 50_000, 0, 0, 0, 0, 0, 0, 50_000, 50_000, None)


@pytest.mark.parametrize(
    ("account", "kept"),
    [
        (WHOLE, True),
        (replace(WHOLE, lost=10, dropped=4, died=6), True),
        (replace(WHOLE, lost=10, dropped=4), False),
        (replace(WHOLE, duplicated=1), False),
        (replace(WHOLE, unknown=1), False),
        (replace(WHOLE, wrong=1), False),
        (replace(WHOLE, stored_in_window=49_000), False),
        (replace(WHOLE, latency=Latency(1.0, 2.0, 3.0, 4.0, late=100, late_s=15.0)), True),
        (replace(WHOLE, latency=Latency(9.0, 20.0, 30.0, 40.0, late=1_000, late_s=15.0)), False),
    ],
)
def test_a_count_that_is_not_true_is_a_failure(account: Account, kept: bool) -> None:
    """Fast and wrong is wrong; what devices lost themselves is theirs."""
    assert report_of(account=account).promises_kept is kept


def test_growth_is_measured_over_the_second_half() -> None:
    """A megabyte a minute is ten in ten minutes."""
    slope = report_of(600, growth_mb=10.0).figures.memory_slope
    assert slope == pytest.approx(10e6, rel=1e-3)


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_run_is_drawn(tmp_path: Path, suffix: str, begins: bytes) -> None:
    """As SVG or PNG, by the name of the file."""
    path = tmp_path / f"run.{suffix}"
    draw(path, load_of(Mode.NORMAL), [sample(second) for second in range(30)])
    assert path.read_bytes().startswith(begins)


# ---- a short run of the real thing


def run_loadtest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "scada_trio", "loadtest", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment}
    )


def test_a_short_run_counts_every_value(tmp_path: Path, postgres: PostgresServer) -> None:
    """Twenty wells, two tenants, a given server: nothing lost, nothing twice, and its databases are gone afterwards."""
    url = postgres.server.url.get_secret_value()
    ended = run_loadtest(
        *("--wells", "20", "--duration", "5", "--warmup", "1", "--tenants", "2", "--bad", "0.02"),
        *("--output", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work"), "--late", "60"),
        LOADTEST_DATABASE_URL=url,
        AGGREGATION_BUFFER_MS="200",
    )
    (file,) = (tmp_path / "out").glob("*.json")
    found = json.loads(file.read_text())
    account = found["account"]
    assert account["sent"] == account["stored"] >= 20 * 10 * 5
    assert [account[key] for key in ("lost", "duplicated", "unknown", "wrong")] == [0, 0, 0, 0]
    assert account["latency"]["late"] == 0
    assert found["figures"]["lag_mean_s"] is not None
    assert found["figures"]["batch_p95_s"] > 0
    assert found["figures"]["service_status"] == 0
    assert ended.returncode == (0 if found["promises_kept"] else 1), ended.stderr
    assert "tags/s committed in time" in ended.stdout
    assert file.with_suffix(".svg").read_bytes().startswith(b"<?xml")
    left = fetch(SecretStr(url), "SELECT count(*) FROM pg_database WHERE datname LIKE 'scada_loadtest_%'")
    assert left == [(0,)]


def test_a_service_that_does_not_start_is_told_with_its_own_words(tmp_path: Path, postgres: PostgresServer) -> None:
    """One line, exit status 1, and no database stays."""
    ended = run_loadtest(
        *("--wells", "1", "--duration", "1", "--output", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work")),
        LOADTEST_DATABASE_URL=postgres.server.url.get_secret_value(),
        MAX_BUFFER_SIZE="0",
    )
    assert ended.returncode == 1
    assert "MAX_BUFFER_SIZE" in ended.stderr.splitlines()[-1]
    left = fetch(postgres.server.url, "SELECT count(*) FROM pg_database WHERE datname LIKE 'scada_loadtest_%'")
    assert left == [(0,)]


def test_loads_know_what_they_offer() -> None:
    """The figures that everything is judged by."""
    load = Load("x", 7, tags=3, rate_hz=2.0)
    assert (load.values_per_s, load.interval_ms) == (42.0, 500.0)
