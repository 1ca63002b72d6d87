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

    # devices report once a second and batches are written every few seconds: rates are those of the last ones
    for name, label, last in (("received", "received, 3 s", 3), ("written", "committed, 10 s", 10)):
        total = np.array([sample.counter(name) for sample in samples])
        throughput.plot(at_s[last:], (total[last:] - total[:-last]) / (at_s[last:] - at_s[:-last]), label=label)
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


def _finish(axes: Axes, unit: str) -> None:
    axes.set_ylabel(unit)
    if axes.get_yscale() != "log":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
