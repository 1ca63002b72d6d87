"""What a run comes to: figures, targets, verdict. Pure.

A figure is judged against two targets: what users are promised, and what the service asks of itself on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from scada_trio.loadtest.account import Account
from scada_trio.loadtest.load import Load
from scada_trio.loadtest.sampling import Sample

MB: Final = 1e6
_ENOUGH: Final = 0.99  # of the rate: a window's edges cut steps
SLOPE_AFTER_S: Final = 300.0
"""A shorter run says nothing of growth: allocators and caches are still filling."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the measured time, but for the account, which is of everything. None: nothing to measure it by.

    Seconds, bytes, cores; ``committed_per_s`` are the measured time's readings that were not late, ``written_per_s``
    what was written meanwhile, of whatever time; ``memory_slope`` is bytes in ten minutes, by least squares over the
    second half.
    """

    offered_per_s: float
    committed_per_s: float
    written_per_s: float
    write_mean_s: float | None
    write_p95_s: float | None
    batch_p95_s: float | None
    lag_mean_s: float | None
    lag_p99_s: float | None
    memory_mean: float
    memory_peak: float
    memory_slope: float | None
    service_cores: float
    simulator_cores: float
    machine_busy: float
    batches: int
    write_retries: int
    service_errors: int
    service_status: int


@dataclass(frozen=True, slots=True)
class Judged:
    """One line of the table; a target that is not there is None, and so is a verdict on a figure that is not."""

    name: str
    measured: str
    promised: str | None = None
    promise_kept: bool | None = None
    aimed: str | None = None
    aim_reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run."""

    load: Load
    database: str
    figures: Figures
    account: Account
    measured_s: float

    def judged(self) -> list[Judged]:
        """The table, line by line."""
        figures, account = self.figures, self.account
        rate = self.load.values_per_s
        throughput = figures.committed_per_s >= _ENOUGH * rate and account.unexplained == 0
        slope = None if figures.memory_slope is None else figures.memory_slope / MB
        return [
            Judged(
                "throughput",
                f"{figures.committed_per_s:,.0f} tags/s committed in time",
                f"{rate:,.0f} tags/s",
                throughput,
                "none lost",
                throughput and account.lost == 0,
            ),
            _below("write latency, average", _ms(figures.write_mean_s), 100, 40, " ms"),
            _below("write latency, P95", _ms(figures.write_p95_s), 500, 100, " ms"),
            _below("memory of the service, peak", figures.memory_peak / MB, 256, 130, " MB"),
            _below("memory growth in 10 minutes", slope, None, 1.0, " MB"),
            _below("CPU of the service", figures.service_cores, None, 0.4, " core"),
        ]

    def facts(self) -> list[tuple[str, str]]:
        """What has no target, for whoever wants to know why."""
        figures, account, latency = self.figures, self.account, self.account.latency
        lines = [
            ("offered", f"{figures.offered_per_s:,.0f} tags/s of {self.load.values_per_s:,.0f}"),
            ("written meanwhile", f"{figures.written_per_s:,.0f} tags/s"),
            ("memory of the service, average", f"{figures.memory_mean / MB:,.0f} MB"),
            ("event loop lag", f"average {_text(_ms(figures.lag_mean_s))} ms, P99 {_text(_ms(figures.lag_p99_s))} ms"),
            ("oldest of a batch to commit, P95", f"{_text(figures.batch_p95_s)} s"),
        ]
        if latency is not None:
            lines += [
                (
                    "source time to commit",
                    f"P50 {latency.p50_s:.2f} s, P95 {latency.p95_s:.2f} s, P99 {latency.p99_s:.2f} s, "
                    f"most {latency.max_s:.2f} s",
                ),
                ("late", f"{latency.late:,} over {latency.late_s:.0f} s"),
            ]
        return [
            *lines,
            ("sent, stored", f"{account.sent:,}, {account.stored:,}"),
            (
                "lost",
                f"{account.lost:,} ({account.dropped:,} dropped by full devices, {account.died:,} with devices that "
                f"went down, {account.unexplained:,} unexplained)",
            ),
            ("duplicated, unknown, wrong", f"{account.duplicated:,}, {account.unknown:,}, {account.wrong:,}"),
            ("batches, writes tried again", f"{figures.batches:,}, {figures.write_retries:,}"),
            ("CPU of the simulator", f"{figures.simulator_cores:.2f} core"),
            ("machine busy", f"{figures.machine_busy:.0%} of all cores"),
            ("errors in the service's log", f"{figures.service_errors:,}"),
            ("database", self.database),
        ]

    @property
    def is_true(self) -> bool:
        """Whether what is stored is what was sent, but for what devices lost."""
        account = self.account
        wrong = account.unexplained or account.duplicated or account.unknown or account.wrong
        return not wrong and self.figures.service_status == 0

    @property
    def promises_kept(self) -> bool:
        """Whether all that is promised holds, and the count is true."""
        return self.is_true and all(line.promise_kept is not False for line in self.judged())

    @property
    def aims_reached(self) -> bool:
        """Whether our own targets are met, too."""
        return self.promises_kept and all(line.aim_reached is not False for line in self.judged())

    def as_json(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "load": asdict(self.load),
            "database": self.database,
            "measured_s": self.measured_s,
            "figures": asdict(self.figures),
            "account": asdict(self.account),
            "table": [asdict(line) for line in self.judged()],
            "promises_kept": self.promises_kept,
            "aims_reached": self.aims_reached,
            "samples": [
                {
                    "unix_us": sample.unix_us,
                    "rss_bytes": sample.rss_bytes,
                    "service_cpu_s": sample.service_cpu_s,
                    "simulator_cpu_s": sample.simulator_cpu_s,
                    "machine_busy": sample.machine_busy,
                    **sample.scrape.counters,
                }
                for sample in samples
            ],
        }


def measure(samples: Sequence[Sample], account: Account, *, service_errors: int, service_status: int) -> Figures:
    """The figures of ``samples``, two at least, which bound the measured time."""
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s
    write, batch, lag = (
        last.scrape.histograms[name].since(first.scrape.histograms[name]) for name in ("write", "batch", "lag")
    )
    memory = np.array([sample.rss_bytes for sample in samples], np.float64)
    return Figures(
        offered_per_s=account.sent_in_window / seconds,
        committed_per_s=(account.stored_in_window - (account.latency.late if account.latency else 0)) / seconds,
        written_per_s=(last.counter("written") - first.counter("written")) / seconds,
        write_mean_s=write.mean,
        write_p95_s=write.quantile(0.95),
        batch_p95_s=batch.quantile(0.95),
        lag_mean_s=lag.mean,
        lag_p99_s=lag.quantile(0.99),
        memory_mean=float(memory.mean()),
        memory_peak=float(memory.max()),
        memory_slope=_slope(samples),
        service_cores=(last.service_cpu_s - first.service_cpu_s) / seconds,
        simulator_cores=(last.simulator_cpu_s - first.simulator_cpu_s) / seconds,
        machine_busy=float(np.mean([sample.machine_busy for sample in samples[1:]])),
        batches=int(write.count),
        write_retries=int(last.counter("write_retries") - first.counter("write_retries")),
        service_errors=service_errors,
        service_status=service_status,
    )


def _slope(samples: Sequence[Sample]) -> float | None:
    if samples[-1].at_s - samples[0].at_s < SLOPE_AFTER_S:
        return None
    half = samples[len(samples) // 2 :]
    slope, _ = np.polyfit([sample.at_s for sample in half], [float(sample.rss_bytes) for sample in half], 1)
    return float(slope) * 600.0


def _below(name: str, value: float | None, promised: float | None, aimed: float, unit: str) -> Judged:
    return Judged(
        name,
        _text(value) + (unit if value is not None else ""),
        None if promised is None else f"< {promised:g}{unit}",
        None if promised is None or value is None else value < promised,
        f"< {aimed:g}{unit}",
        None if value is None else value < aimed,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
