"""The measured runs: what is done to each pipeline, and what is written down.

fixed      wells at one rate: CPU, memory, latency; then PostgreSQL killed for a while, then the pipeline itself killed
ceiling    the rate raised step by step until the table falls behind, then the highest rates held for a while
memory     two more set-ups of a thousand tags, so that memory per tag and per connection is a difference of two
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers.account import Phase, phase_of, whole_account
from benchmarks.peers.harness import Run, RunFailed, Usage, open_run, sampled_memory
from benchmarks.peers.subjects import Subject
from scada_trio.loadtest.scrape import scrape
from scada_trio.storage.embedded import EmbeddedServer

LAG_LIMIT_S: Final = 3.0
"""A table that is farther behind the wells than this has fallen behind: batches wait for a second, reports for less."""
HOLD_LAG_S: Final = 10.0
"""While a rate is held it may be that far behind, as when PostgreSQL makes a checkpoint, but not at the end of it."""
_CAUGHT_UP_S: Final = 1.8
_KEPT_UP: Final = 0.95  # a batch more or less at either end of twenty seconds
_BEHIND_S: Final = 5.0
_RATIO: Final = 1.5
_PARTS_HELD: Final = (1.2, 1.0, 0.83, 0.67, 0.5, 0.42, 0.33, 0.25)  # of the rate that was good for five seconds
_SETTLE_S: Final = 4.0
_AROUND_KILL_US: Final = 2_000_000
_SERVICE_RATE: Final = 100_000.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much; ``rate`` is values a second of all wells together."""

    wells: int = 10
    tags: int = 1_000
    rate: float = 10_000.0
    warm_s: float = 2.0
    steady_s: float = 10.0
    outage_s: float = 10.0
    recover_s: float = 5.0
    restart_s: float = 3.0
    climb_s: float = 5.0
    most_rate: float = 600_000.0
    hold_s: float = 20.0
    service_hold_s: float = 120.0
    memory_s: float = 6.0
    bare_s: float = 30.0

    def interval_ms(self, rate: float) -> float:
        """Between two values of a tag."""
        return self.wells * self.tags * 1000 / rate


@dataclass(slots=True)
class Fixed:
    """At one rate. ``outage`` and ``restart`` are the values of the time around each; None: not done."""

    subject: str
    steady: Phase
    cpu_s: float
    rss_mean: float
    rss_peak: float
    outage: Phase | None = None
    restart: Phase | None = None
    unknown: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def values_per_cpu_s(self) -> float:
        """Committed, for each CPU second of all of its processes."""
        return self.carried / self.cpu_s if self.cpu_s else 0.0

    @property
    def carried(self) -> int:
        """Values of the steady time: those that were made in it, unless the pipeline was behind with them.

        The edges of a batch would be a twentieth of those that were committed in it.
        """
        steady = self.steady
        is_behind = steady.p99_s is None or steady.p99_s > _BEHIND_S
        return steady.committed if is_behind else steady.stored


@dataclass(slots=True)
class Hold:
    """A rate that was held. ``lag_p99_s`` is the event loop's, of the service alone."""

    phase: Phase
    cpu_s: float
    rss_peak: float
    lag_p99_s: float | None = None

    @property
    def kept_up(self) -> bool:
        """Whether the database had what the wells made, as they made it."""
        return self.phase.committed >= _KEPT_UP * self.phase.sent

    @property
    def values_per_cpu_s(self) -> float:
        """Committed, for each CPU second of all of its processes."""
        return self.phase.committed / self.cpu_s if self.cpu_s else 0.0


@dataclass(slots=True)
class Ceiling:
    """``holds`` by rising rate; ``fell_behind`` are the rates, in values a second, at which the table did."""

    subject: str
    holds: list[Hold] = field(default_factory=list)
    fell_behind: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sustained(self) -> Hold | None:
        """The highest."""
        kept = [hold for hold in self.holds if hold.kept_up]
        return max(kept, key=lambda hold: hold.phase.committed_per_s, default=None)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes at 1 Hz: of 10 connections with 100 tags each, and of 100 connections with 10."""

    few: float
    many: float


# ---- one rate, and faults


def run_fixed(subject: Subject, server: EmbeddedServer, plan: Plan, work: Path, *, faults: bool = True) -> Fixed:
    """One subject at the plan's rate; raises `RunFailed` where it does not come up."""
    interval_ms = plan.interval_ms(plan.rate)
    with open_run(subject, server, wells=plan.wells, tags=plan.tags, interval_ms=interval_ms, work=work) as run:
        run.wait_flowing()
        time.sleep(plan.warm_s)
        with sampled_memory(run) as rss:
            before = run.pipeline.usage()
            time.sleep(plan.steady_s)
            after = run.pipeline.usage()
        notes: list[str] = []
        windows: dict[str, tuple[int, int]] = {}
        time.sleep(LAG_LIMIT_S)  # what was made until now is committed before anything breaks
        if faults and plan.outage_s:
            _outage(run, plan, windows, notes)
        if faults and plan.restart_s:
            _restart(run, plan, windows, notes)
        run.wait_drained()
        record, stored = run.account()
    whole = whole_account(record, stored)
    phases = {name: phase_of(record, stored, window) for name, window in windows.items()}
    return Fixed(
        subject.name,
        phase_of(record, stored, (before.at_us, after.at_us)),
        after.cpu_s - before.cpu_s,
        sum(rss) / len(rss),
        max(rss),
        phases.get("outage"),
        phases.get("restart"),
        whole.unknown,
        whole.wrong,
        notes,
    )


def _outage(run: Run, plan: Plan, windows: dict[str, tuple[int, int]], notes: list[str]) -> None:
    """SIGKILL for the postmaster, and the server started again after a while."""
    start_us = _now_us() - _AROUND_KILL_US
    pid = run.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    time.sleep(plan.outage_s)
    run.server.start()
    time.sleep(plan.recover_s)
    if run.pipeline.ended:
        notes.append(f"its process ended while PostgreSQL was away: {run.pipeline.last_words()}")
    else:
        _wait_for(run, _CAUGHT_UP_S, 20.0)
    windows["outage"] = (start_us, _now_us() - _AROUND_KILL_US)


def _restart(run: Run, plan: Plan, windows: dict[str, tuple[int, int]], notes: list[str]) -> None:
    """SIGKILL for the pipeline, started again at once, as a supervisor would."""
    start_us = _now_us() - _AROUND_KILL_US
    run.pipeline.kill()
    run.pipeline.start()
    try:
        run.wait_flowing(time.time())
    except RunFailed as error:
        notes.append(f"after it was killed and started again: {error}")
    time.sleep(plan.restart_s)
    windows["restart"] = (start_us, _now_us())


# ---- the highest rate


def run_ceiling(subject: Subject, server: EmbeddedServer, plan: Plan, work: Path, say: Say) -> Ceiling:
    """Raise the rate until the table falls behind, then hold what it may just carry."""
    ceiling = Ceiling(subject.name)
    interval_ms = plan.interval_ms(plan.rate)
    with open_run(subject, server, wells=plan.wells, tags=plan.tags, interval_ms=interval_ms, work=work) as run:
        run.wait_flowing()
        climb = _Climb(run, plan, ceiling, say)
        marks = climb.run()
        run.wait_drained()
        record, stored = run.account()
    for before, after, rss_peak, lag_p99_s in marks:
        phase = phase_of(record, stored, (before.at_us, after.at_us))
        ceiling.holds.append(Hold(phase, after.cpu_s - before.cpu_s, rss_peak, lag_p99_s))
    return ceiling


_Mark = tuple[Usage, Usage, float, float | None]


class _Climb:
    """One subject's way up. A mark is a rate that was held: usage at both ends, memory, loop lag."""

    def __init__(self, run: Run, plan: Plan, ceiling: Ceiling, say: Say) -> None:
        self._run = run
        self._plan = plan
        self._ceiling = ceiling
        self._say = say

    def run(self) -> list[_Mark]:
        """All marks, in order."""
        marks: list[_Mark] = []
        good = self._climb()
        is_service = self._run.subject.is_service
        if is_service and good > _SERVICE_RATE and (mark := self._hold(_SERVICE_RATE, self._plan.hold_s)):
            marks.append(mark)
        hold_s = self._plan.service_hold_s if is_service else self._plan.hold_s
        for part in _PARTS_HELD:
            rate = good * part
            if rate > self._plan.most_rate or self._run.pipeline.ended:
                continue
            if mark := self._hold(rate, hold_s):
                marks.append(mark)
                break
        return marks

    def _climb(self) -> float:
        """The last rate of the ladder at which the table did not fall behind."""
        good, rate = self._plan.rate, self._plan.rate * _RATIO
        while rate <= self._plan.most_rate and self._keeps_up(rate, self._plan.climb_s):
            good, rate = rate, rate * _RATIO
        self._calm()
        return good

    def _hold(self, rate: float, seconds: float) -> _Mark | None:
        """Hold a rate; None where the table falls behind."""
        if not self._keeps_up(rate, _SETTLE_S):
            self._calm()
            return None
        scraped = self._scrape()
        with sampled_memory(self._run) as rss:
            before = self._run.pipeline.usage()
            kept = self._keeps_up(rate, seconds, HOLD_LAG_S)
            after = self._run.pipeline.usage()
        lag = scraped() if scraped else None
        self._calm()
        return (before, after, max(rss), lag) if kept else None

    def _keeps_up(self, rate: float, seconds: float, limit_s: float = LAG_LIMIT_S) -> bool:
        self._run.field.set_interval(self._plan.interval_ms(rate))
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            time.sleep(1)
            if self._run.pipeline.ended or self._run.lag_s() > (limit_s if left_s > 1 else LAG_LIMIT_S):
                self._say(f"{self._run.subject.title}: falls behind at {rate:,.0f}/s")
                self._ceiling.fell_behind.append(rate)
                return False
        self._say(f"{self._run.subject.title}: {rate:,.0f}/s for {seconds:.0f} s")
        return True

    def _calm(self) -> None:
        """Back to the first rate until the table has caught up."""
        self._run.field.set_interval(self._plan.interval_ms(self._plan.rate))
        if not _wait_for(self._run, _CAUGHT_UP_S, 60.0):
            self._ceiling.notes.append("did not catch up within a minute at the first rate")

    def _scrape(self) -> Callable[[], float | None] | None:
        """For the service: what tells its loop's lag since now."""
        with suppress(LookupError):
            port = self._run.pipeline.metrics_port()
            earlier = scrape(port).histograms["lag"]
            return lambda: scrape(port).histograms["lag"].since(earlier).quantile(0.99)
        return None


# ---- memory


def run_memory(subjects: Sequence[Subject], server: EmbeddedServer, plan: Plan, work: Path) -> dict[str, Memory]:
    """All subjects at once: a thousand values a second each load neither the machine nor one another."""
    few = _memory_of(subjects, server, 10, 100, plan, work)
    many = _memory_of(subjects, server, 100, 10, plan, work)
    return {name: Memory(few[name], many[name]) for name in few if name in many}


def _memory_of(
    subjects: Sequence[Subject], server: EmbeddedServer, wells: int, tags: int, plan: Plan, work: Path
) -> dict[str, float]:
    found: dict[str, float] = {}
    with ExitStack() as stack:
        runs = [
            stack.enter_context(open_run(subject, server, wells=wells, tags=tags, interval_ms=1000, work=work))
            for subject in subjects
        ]
        for run in runs:
            with suppress(RunFailed):
                run.wait_flowing()
                found[run.subject.name] = 0.0
        time.sleep(plan.memory_s)
        for run in runs:
            if run.subject.name in found:
                found[run.subject.name] = float(run.pipeline.usage().rss_bytes)
    return found


def _wait_for(run: Run, lag_s: float, most_s: float) -> bool:
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        if run.lag_s() <= lag_s:
            return True
        time.sleep(0.5)
    return False


def _now_us() -> int:
    return time.time_ns() // 1000
