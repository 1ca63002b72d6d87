"""The comparison with other pipelines: that it counts right, judges right, and that a short real run comes out true."""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from benchmarks.peers import __main__ as bench
from benchmarks.peers import install, subjects
from benchmarks.peers.account import Phase, aligned, phase_of, whole_account
from benchmarks.peers.bare import bare_copy
from benchmarks.peers.field import open_field
from benchmarks.peers.harness import RunFailed, open_run
from benchmarks.peers.pipeline import Config, Row, Well, next_batch_blocking, quality_of, read_config
from benchmarks.peers.report import BEGIN, END, Results, peers_better, to_markdown, write_section
from benchmarks.peers.runs import Ceiling, Fixed, Hold, Memory, Plan, run_ceiling
from benchmarks.peers.subjects import PEERS, SERVICE, SUBJECTS, TWO_WRITERS, Subject
from scada_trio.simulator.record import MADE, ROW
from scada_trio.storage.tally import STORED
from tests.fix_postgres import PostgresServer

US = 1_000_000
START_US = 1_790_000_000 * US


def made(well: int, second: float, items: int = 10) -> tuple[int, int, int, int, int, float]:
    return (MADE, well, START_US + int(second * US), items, 0, 5.5)


def stored(
    well: int, second: float, *, items: int = 10, after_s: float = 1.0, off_us: int = 0
) -> tuple[int, int, int, int, float, int]:
    at_us = START_US + int(second * US)
    return (well, at_us + off_us, items, 0, 5.5, at_us + int(after_s * US))


# ---- the count


def test_times_that_were_cut_to_milliseconds_are_found_again() -> None:
    """A pipeline that keeps milliseconds has lost nothing by that; a time of another step stays what it is."""
    record = np.array([made(1, 1.0004), made(1, 2.0), made(2, 1.5)], ROW)
    found = np.array([stored(1, 1.0004, off_us=-400), stored(1, 2.0, off_us=5_000), stored(2, 1.5)], STORED)
    account = whole_account(record, aligned(record, found))
    assert (account.sent, account.stored, account.lost, account.unknown, account.wrong) == (30, 30, 10, 10, 0)
    assert found["time_us"][0] == START_US + US  # what was given is not changed


def test_a_well_that_was_never_made_keeps_its_times() -> None:
    """It is unknown, not an error."""
    record = np.array([made(1, 1)], ROW)
    found = np.array([stored(1, 1), stored(7, 1, items=3)], STORED)
    assert whole_account(record, aligned(record, found)).unknown == 3


def test_a_phase_tells_what_was_sent_in_it_and_what_was_committed_in_it() -> None:
    """The one by the values' own time, the other by the time of the commit."""
    record = np.array([made(1, second) for second in range(10)], ROW)
    found = np.array([stored(1, second, after_s=2) for second in range(10) if second != 4], STORED)
    phase = phase_of(record, found, (START_US + 2 * US, START_US + 6 * US))
    assert (phase.seconds, phase.sent, phase.stored, phase.lost) == (4.0, 40, 30, 10)
    assert phase.committed == 40  # those of the seconds 0 to 3
    assert (phase.sent_per_s, phase.committed_per_s) == (10.0, 10.0)
    assert phase.p95_s == pytest.approx(2.0)


def test_a_phase_without_values_has_no_latency() -> None:
    """Nothing is made up where nothing was committed."""
    record = np.array([made(1, 1)], ROW)
    phase = phase_of(record, np.empty(0, STORED), (START_US, START_US + 2 * US))
    assert (phase.sent, phase.lost, phase.committed, phase.p50_s) == (10, 10, 0, None)


# ---- figures and report


def phase(sent: int, lost: int = 0, *, committed: int | None = None, p99_s: float = 1.0) -> Phase:
    taken = sent - lost if committed is None else committed
    return Phase(10.0, sent, sent - lost, taken, 0.5, 0.9, p99_s)


def fixed(name: str, cpu_s: float, *, rss_mb: float = 100.0, lost: int = 0) -> Fixed:
    rss = rss_mb * 1e6
    return Fixed(name, phase(100_000), cpu_s, rss, rss, phase(100_000, lost), phase(50_000, lost))


def results() -> Results:
    found = Results(Plan(), {"machine": "2 cores"}, dict.fromkeys(("scada_trio", "asyncua_copy"), "x 1.0"))
    found.fixed = {
        "scada_trio": fixed("scada_trio", 0.1),
        "asyncua_copy": fixed("asyncua_copy", 3.0, rss_mb=60, lost=7),
        "node_opcua_copy": fixed("node_opcua_copy", 1.0, rss_mb=250),
    }
    found.service_again = fixed("scada_trio", 0.1)
    found.ceiling = {
        "asyncua_copy": Ceiling("asyncua_copy", [Hold(phase(400_000), 9.0, 9e7)], [60_000.0]),
        "scada_trio": Ceiling("scada_trio", [Hold(phase(3_000_000), 3.0, 14e7, 0.004)], [500_000.0]),
    }
    found.bare_per_s = [380_000.0, 400_000.0, 600_000.0]
    found.memory = {"scada_trio": Memory(91e6, 100e6), "asyncua_copy": Memory(51e6, 69e6)}
    found.left_out = {"node_red": "npm is not installed"}
    return found


def test_a_part_takes_the_place_of_the_same_part() -> None:
    """What was not measured anew stays; the reason why something was left out goes with it."""
    first = Results.from_json(json.loads(json.dumps(results().to_json())))
    assert first == results()
    later = Results(Plan(), {"machine": "2 cores"}, {"node_red": "node-red 4"})
    later.fixed = {"node_red": fixed("node_red", 2.0)}
    both = first.with_part(later)
    assert set(both.fixed) == {"scada_trio", "asyncua_copy", "node_opcua_copy", "node_red"}
    assert (both.ceiling, both.bare_per_s, both.left_out, both.runs) == (first.ceiling, first.bare_per_s, {}, 2)
    assert "In 2 runs" in to_markdown(both)


def test_efficiency_is_that_of_both_runs_of_the_service() -> None:
    """The service is measured first and last, so that it is compared with the machine as it was for the others."""
    found = results()
    found.service_again = fixed("scada_trio", 0.2)
    assert found.values_per_cpu_s("scada_trio") == pytest.approx((1_000_000 + 500_000) / 2)
    assert found.times_as_many("asyncua_copy") == pytest.approx(750_000 / (100_000 / 3))
    assert found.times_as_many("node_red") is None


def test_a_pipeline_that_is_behind_is_credited_with_what_it_committed() -> None:
    """Else it would be paid for values that it took its time for later."""
    slow = replace(fixed("asyncua_copy", 2.0), steady=phase(100_000, committed=60_000, p99_s=9.0))
    assert (slow.carried, slow.values_per_cpu_s) == (60_000, 30_000.0)
    assert fixed("asyncua_copy", 2.0).carried == 100_000
    assert fixed("asyncua_copy", 0.0).values_per_cpu_s == 0.0


def test_the_ceiling_is_the_highest_rate_that_the_database_kept_up_with() -> None:
    """A rate at which less was committed than made is none."""
    holds = [Hold(phase(100), 1, 1), Hold(phase(300), 1, 1), Hold(phase(900, committed=500), 1, 1)]
    assert Ceiling("x", holds).sustained is holds[1]
    assert Ceiling("x", holds[2:]).sustained is None


def test_the_report_has_every_figure_and_says_where_a_peer_is_better() -> None:
    """Nobody has to look for the column in which the service loses."""
    text = to_markdown(results())
    assert "| scada-trio | 1,000,000 | 1 | 0.01 | 10,000 | 0.50 s, 0.90 s, 1.00 s | 100, 100 |" in text
    assert "| asyncua + psycopg COPY | 33,333 | 30.0 |" in text
    assert "| scada-trio | 300,000, 10 s | 0.75 | 1,000,000 | 1 | 0.90 s | 0 | 500,000 |" in text
    assert "| asyncua + psycopg COPY | 40,000, 10 s | 0.10 | 44,444 | 22.5 | 0.90 s | 0 | 60,000 |" in text
    assert "| asyncua + psycopg COPY | 100,000 | 7 | 50,000 | 7 | 0, 0 | – |" in text
    assert "380,000 rows/s before and 400,000 after the service's turn on one connection, 600,000 on two" in text
    assert "event loop lag P99 4.0 ms" in text
    assert "20 times the asyncua pipelines, at 10,000 values/s: 30.0 times, reached" in text
    assert "5 times any peer, at 10,000 values/s: 10.0 times (node-opcua + pg-copy-streams), reached" in text
    assert "20 times the asyncua pipelines, each at its highest rate: 22.5 times, reached" in text
    assert "Node-RED + contrib-opcua is left out: npm is not installed" in text
    better = peers_better(results())
    assert "mean memory, MB: better than scada-trio (100.00): asyncua + psycopg COPY 60.00" in better
    assert not any(line.startswith(("values per CPU second", "highest rate")) for line in better)


def test_an_aim_that_is_missed_is_said_to_be() -> None:
    """The report judges as it measures."""
    found = results()
    found.fixed["asyncua_copy"] = fixed("asyncua_copy", 0.05)
    text = to_markdown(found)
    assert "20 times the asyncua pipelines, at 10,000 values/s: 0.5 times, missed" in text
    assert "values per CPU second: better than scada-trio (1,000,000.00): asyncua + psycopg COPY 2,000,000.00" in text


def test_a_rate_that_was_held_with_losses_is_none() -> None:
    """A device that drops what it is not asked for in time leaves the table current and holed."""
    found = results()
    holed = Hold(Phase(10.0, 400_000, 200_000, 200_000, 0.5, 0.9, 1.0), 9.0, 9e7)
    found.ceiling = {"asyncua_copy": Ceiling("asyncua_copy", [holed])}
    assert "| asyncua + psycopg COPY | none; 20,000 of 40,000 |  |  |  |  | 200,000 | – |" in to_markdown(found)
    found.ceiling = {"asyncua_copy": Ceiling("asyncua_copy", fell_behind=[15_000.0])}
    assert "| asyncua + psycopg COPY | none |  |  |  |  |  | 15,000 |" in to_markdown(found)


def test_a_part_of_the_measurement_makes_a_report_too() -> None:
    """`--only` and `--subject` leave parts empty."""
    found = results()
    found.fixed, found.memory, found.bare_per_s = {}, {}, []
    text = to_markdown(found)
    assert "**Ceiling**" in text
    assert "**Memory**" not in text
    assert "values/s**, each" not in text
    assert "PostgreSQL killed" not in text


def test_what_was_measured_before_an_interrupt_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C after a quarter of an hour does not throw it away; the documentation is left alone."""

    def interrupted(*_: object, **__: object) -> Fixed:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.peers.__main__.structlog.configure", lambda **_: None)
    monkeypatch.setattr(bench, "run_fixed", interrupted)
    monkeypatch.setattr(bench, "BENCH", tmp_path)
    monkeypatch.setattr(bench, "ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(bench, "SUBJECTS", {"scada_trio": SERVICE})
    monkeypatch.setattr(sys, "argv", ["peers"])
    assert bench.main() == 0
    assert json.loads((tmp_path / "results.json").read_text())["interrupted"] is True
    assert "opcua 0.98" in (tmp_path / "report.md").read_text()


def test_results_are_plain_json_with_what_is_derived() -> None:
    """For whoever wants to draw them."""
    found = json.loads(json.dumps(results().to_json()))
    assert found["fixed"]["asyncua_copy"]["values_per_cpu_s"] == pytest.approx(33_333.3, rel=1e-3)
    assert found["ceiling"]["scada_trio"]["sustained_per_s"] == 300_000


def test_the_section_replaces_the_former_one_and_nothing_else(tmp_path: Path) -> None:
    """What people wrote around it stays."""
    page = tmp_path / "performance.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nBelow.\n")
    write_section(page, "new\n")
    assert page.read_text() == f"# Title\n\n{BEGIN}\nnew\n{END}\n\nBelow.\n"
    page.write_text("# Title\n")
    write_section(page, "first")
    assert page.read_text() == f"# Title\n\n{BEGIN}\nfirst\n{END}\n"


# ---- the pipelines


def config(directory: Path) -> Config:
    well = Well("opc.tcp://127.0.0.1:4840/", uuid4(), ("ns=2;s=a", "ns=2;s=b"))
    return Config("postgresql://x", (well,), 200, 0, 200, 3, 0.2, directory)


def test_a_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every pipeline is told the same."""
    path, written = tmp_path / "config.json", config(tmp_path)
    path.write_text(written.to_json())
    assert read_config(path) == written


def test_a_batch_is_full_or_old(tmp_path: Path) -> None:
    """The rule is the same for all."""
    row: Row = (datetime.now(UTC), 1.0, uuid4(), "ns=2;s=a", "Good")
    rows = deque([row] * 4)
    assert len(next_batch_blocking(rows, config(tmp_path))) == 3
    assert len(next_batch_blocking(rows, config(tmp_path))) == 1  # after it has waited
    assert not rows


def test_quality_is_the_upper_two_bits_of_a_status() -> None:
    """Whatever else the code says."""
    assert [quality_of(code) for code in (0, 0x480, 0x40930000, 0x808C0000)] == ["Good", "Good", "Uncertain", "Bad"]


def test_what_cannot_be_installed_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that does not exist, a program that is not there: a sentence in the report."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("./no-such-package --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(install, "BENCH", tmp_path)
    monkeypatch.setattr(subjects, "BENCH", tmp_path / "bench")
    monkeypatch.setattr(install, "HERE", tmp_path)
    monkeypatch.setattr(install, "_LOCKS", {"python": lock})
    absent = Subject("absent", "Absent", str(tmp_path / "venv"), lambda _: [], ())
    monkeypatch.setitem(install._LOCKS, absent.environment, lock)
    reason = install.missing(absent)
    assert reason is not None
    assert "pip install" in reason.replace("-m pip ...", "pip install")
    monkeypatch.setenv("PATH", "")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "package-lock.json").write_text("{}")
    assert install.missing(replace(absent, environment="other")) == "npm is not installed"


def test_every_peer_has_its_program_and_its_lock() -> None:
    """No lock names a registry, every line of Python's has its hash."""
    for subject in PEERS:
        lock = install._LOCKS.get(subject.environment, install.HERE / subject.environment / "package-lock.json")
        text = lock.read_text()
        assert "resolved" not in text
        assert "--index-url" not in text
        assert text.count("--hash=sha256:") >= text.count("==") or lock.suffix == ".json"
    assert set(SUBJECTS) == {SERVICE.name, TWO_WRITERS.name, *(subject.name for subject in PEERS)}


# ---- real runs

HERE = Subject(
    "asyncua_copy",
    "asyncua + psycopg COPY",
    "",  # the packages of the tests are those of this pipeline
    lambda path: [sys.executable, "-m", "benchmarks.peers.asyncua_copy", str(path)],
    ("asyncua", "psycopg"),
)
SHORT = Plan(
    wells=2,
    tags=20,
    rate=80.0,
    warm_s=0.5,
    steady_s=3.0,
    outage_s=2.0,
    recover_s=2.0,
    restart_s=1.0,
    climb_s=1.0,
    most_rate=200.0,
    hold_s=3.0,
)


def test_a_field_changes_its_rate_under_its_clients(tmp_path: Path) -> None:
    """Its wells answer before and after, and say how fast they are."""
    with open_field(2, 10, 1000, tmp_path / "record.bin") as field:
        assert [len(well.tags) for well in field.wells] == [10, 10]
        field.set_interval(50)
        field.pause()
    assert (tmp_path / "record.bin").exists()


def test_a_pipeline_that_ends_is_an_error_with_its_last_words(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """It is left out of the report, and why is known."""
    code = "print('no such luck'); raise SystemExit(1)"
    broken = replace(HERE, command=lambda _: [sys.executable, "-c", code])
    with (
        pytest.raises(RunFailed, match="ended: no such luck"),
        open_run(broken, own_postgres.server, wells=1, tags=1, interval_ms=1000, work=tmp_path) as run,
    ):
        run.wait_flowing()


def test_a_short_measurement_accounts_for_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service and one peer, PostgreSQL killed under both and both killed themselves: the service loses nothing."""
    monkeypatch.setattr(bench, "missing", lambda _: None)
    found = bench.measure([SERVICE, HERE], SHORT, ("fixed",))
    assert found.left_out == {}
    ours, theirs = found.fixed["scada_trio"], found.fixed["asyncua_copy"]
    assert found.service_again is not None
    for fixed in (ours, theirs, found.service_again):
        assert fixed.steady.sent == fixed.steady.stored > 0
        assert fixed.cpu_s > 0
        assert fixed.rss_peak >= fixed.rss_mean > 10e6
        assert fixed.steady.p99_s is not None
        assert fixed.steady.p99_s > 0
        assert (fixed.unknown, fixed.wrong, fixed.notes) == (0, 0, [])
    assert ours.outage is not None
    assert ours.restart is not None
    assert (ours.outage.lost, ours.restart.lost) == (0, 0)
    assert ours.outage.sent > 0
    assert theirs.restart is not None
    assert theirs.restart.lost > 0  # what it had in memory, and what came until it was back
    assert "scada-trio" in to_markdown(found)


def test_a_short_climb_finds_a_rate_that_is_held(tmp_path: Path, own_postgres: PostgresServer) -> None:
    """Up the ladder, a rate held, and the lines of its progress; bare COPY is a rate too."""
    own_postgres.server._settings = {**own_postgres.server._settings, "track_commit_timestamp": "on"}
    own_postgres.stop()
    own_postgres.start()
    said: list[str] = []
    ceiling = run_ceiling(HERE, own_postgres.server, SHORT, tmp_path, said.append)
    assert ceiling.holds
    assert ceiling.holds[0].phase.lost == 0
    assert any("120/s for 1 s" in line for line in said)
    assert bare_copy(own_postgres.server, 0.1, connections=2) > 0
