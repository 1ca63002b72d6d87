"""A sweep as a picture: CPU, memory and times over the quantity that grows. SVG, readable on light and dark ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.curves.point import Measured
from benchmarks.curves.sweeps import Sweep
from scada_trio.loadtest.report import MB

_INK: Final = "#7d8590"  # grey that is seen on white and on black
_COLOURS: Final = ("#3b82f6", "#e8710a", "#2da44e")
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scada-trio",
    "font.family": "sans-serif",
    "font.size": 9.0,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}

Line = tuple[str, Callable[[Measured], float | None]]


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1000


_CPU: Final[Sequence[Line]] = (
    ("service", lambda one: one.service_cores),
    ("PostgreSQL", lambda one: one.postgres_cores),
)
_MEMORY: Final[Sequence[Line]] = (("service", lambda one: one.rss / MB),)
_TIMES: Final[Sequence[Line]] = (
    ("source to commit, P95", lambda one: _ms(one.latency_p95_s)),
    ("write, P95", lambda one: _ms(one.write_p95_s)),
    ("loop lag, P99", lambda one: _ms(one.lag_p99_s)),
)
_QUERIES: Final[Sequence[Line]] = (("queries", lambda one: one.queries_per_s),)
_QUERY_TIMES: Final[Sequence[Line]] = (
    ("query, P95", lambda one: _ms(one.query_p95_s)),
    ("write, P95", lambda one: _ms(one.write_p95_s)),
)


def draw(path: Path, sweep: Sweep, measured: Sequence[Measured]) -> None:
    """Write the SVG; blocks for a second."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        figure.patch.set_alpha(0)
        left, middle, right = figure.subplots(1, 3)
        calls = any(one.queries_per_s is not None for one in measured)
        _plot(left, sweep, measured, _CPU, "CPU, cores")
        _plot(middle, sweep, measured, *((_QUERIES, "queries/s") if calls else (_MEMORY, "RSS, MB")))
        _plot(right, sweep, measured, _QUERY_TIMES if calls else _TIMES, "time, ms", log=True)
        figure.suptitle(sweep.held, color=_INK, fontsize=10)
        figure.savefig(path, format="svg", metadata={"Date": None}, transparent=True)


def _short(place: float) -> str:
    """For an axis on which there is little room: 10k for 10,000."""
    return f"{place:g}" if place < 1000 else f"{place / 1000:g}k"


def _plot(
    axes: Axes, sweep: Sweep, measured: Sequence[Measured], lines: Sequence[Line], unit: str, *, log: bool = False
) -> None:
    places = [one.x for one in measured]
    for (label, value), colour in zip(lines, _COLOURS, strict=False):
        pairs = [(one.x, found) for one in measured if (found := value(one)) is not None]
        axes.plot([x for x, _ in pairs], [y for _, y in pairs], marker="o", markersize=4, color=colour, label=label)
    if sweep.logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(places, [_short(place) for place in places])
    axes.minorticks_off()
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(sweep.quantity)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3, color=_INK)
    axes.patch.set_alpha(0)
    axes.legend(fontsize=8, framealpha=0, labelcolor=_INK)
