"""A run as a picture: throughput, latency, memory and CPU over time. matplotlib comes with the extra ``loadtest``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scada_trio.loadtest.load import Load
from scada_trio.loadtest.report import MB
from scada_trio.loadtest.sampling import Sample
from scada_trio.loadtest.tables import describe


def draw(path: Path, load: Load, samples: Sequence[Sample]) -> None:
    """Write a picture, SVG or PNG by the name of the file; blocks for a second."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    throughput, latency, memory, cpu = figure.subplots(4, 1, sharex=True)
    figure.suptitle(describe(load))
    at_s = np.array([sample.at_s for sample in samples]) - samples[0].at_s
    span_s = np.diff(at_s)

    received, written = (_column(samples, name) for name in ("received", "written"))
    throughput.plot(at_s[1:], np.diff(received) / span_s, label="received", linewidth=1)
    # a batch every few seconds: its rate is that of its last ten seconds
    throughput.plot(at_s[10:], (written[10:] - written[:-10]) / (at_s[10:] - at_s[:-10]), label="committed, 10 s")
    throughput.axhline(load.values_per_s, color="grey", linestyle=":", label="offered")
    _finish(throughput, "tags/s")

    for name, label in (("write", "write"), ("batch", "oldest reading to commit")):
        counts = np.array([sample.scrape.histograms[name].count for sample in samples])
        totals = np.array([sample.scrape.histograms[name].total for sample in samples])
        some = np.flatnonzero(np.diff(counts))
        latency.plot(
            at_s[1:][some], np.diff(totals)[some] / np.diff(counts)[some], label=label, marker=".", linewidth=1
        )
    latency.set_yscale("log")
    _finish(latency, "seconds")

    memory.plot(at_s, [sample.rss_bytes / MB for sample in samples], label="service")
    memory.plot(at_s, [sample.simulator_rss_bytes / MB for sample in samples], label="simulator")
    _finish(memory, "RSS, MB")

    for attribute, label in (("service_cpu_s", "service"), ("simulator_cpu_s", "simulator")):
        cpu.plot(at_s[1:], np.diff([getattr(sample, attribute) for sample in samples]) / span_s, label=label)
    _finish(cpu, "cores")
    cpu.set_xlabel("seconds")
    figure.savefig(path)


def _column(samples: Sequence[Sample], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([sample.counter(name) for sample in samples])


def _finish(axes: Axes, unit: str) -> None:
    axes.set_ylabel(unit)
    if axes.get_yscale() != "log":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
