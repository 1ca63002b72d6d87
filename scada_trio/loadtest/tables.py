"""What a person sees of a load test: the table while it runs, and the one at its end. Pure; draws on no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from scada_trio.loadtest.load import Load
from scada_trio.loadtest.report import MB, Judged, Report
from scada_trio.loadtest.sampling import Sample

_RECENT: Final = 10  # samples that a rate is taken over
_MARKS: Final = {True: Text("yes", "green"), False: Text("NO", "bold red"), None: Text("–", "dim")}


def describe(load: Load) -> str:
    """In one line."""
    return f"{load.name}: {load.wells:,} wells × {load.tags:,} tags × {load.rate_hz:g} Hz"


def final_table(report: Report) -> Table:
    """Figures against targets."""
    table = Table(
        title=f"{describe(report.load)}, {report.measured_s:.0f} s",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("", "measured", "promised", "kept", "our aim", "reached"):
        table.add_column(heading)
    for line in report.judged():
        table.add_row(*_cells(line))
    return table


def facts_table(report: Report) -> Table:
    """The figures without targets."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for name, value in report.facts():
        table.add_row(Text(name, "dim"), Text(value))
    return table


def live_line(load: Load, samples: Sequence[Sample], phase: str) -> list[tuple[str, str]]:
    """The present figures, as names and values."""
    now = samples[-1]
    then = samples[max(0, len(samples) - 1 - _RECENT)]
    seconds = max(now.at_s - then.at_s, 1e-9)
    write, lag, batch = (
        now.scrape.histograms[name].since(then.scrape.histograms[name]) for name in ("write", "lag", "batch")
    )

    def per_s(name: str) -> float:
        return (now.counter(name) - then.counter(name)) / seconds

    return [
        ("phase", phase),
        ("connected", f"{now.counter('connected'):,.0f} of {load.wells:,}"),
        ("received", f"{per_s('received'):,.0f}/s of {load.values_per_s:,.0f}"),
        ("written", f"{per_s('written'):,.0f}/s"),
        ("waiting", f"{now.counter('buffered'):,.0f}"),
        ("write, average", _ms(write.mean)),
        ("oldest to commit", "–" if batch.mean is None else f"{batch.mean:.1f} s"),
        ("loop lag, average", _ms(lag.mean)),
        ("memory", f"{now.rss_bytes / MB:,.0f} MB"),
        ("CPU, service", f"{(now.service_cpu_s - then.service_cpu_s) / seconds:.2f} core"),
        ("CPU, simulator", f"{(now.simulator_cpu_s - then.simulator_cpu_s) / seconds:.2f} core"),
        ("machine", f"{now.machine_busy:.0%} busy"),
    ]


def live_table(load: Load, samples: Sequence[Sample], phase: str) -> Table:
    """The same as a table."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for name, value in live_line(load, samples, phase):
        table.add_row(Text(name, "dim"), Text(value))
    return table


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"


def _cells(line: Judged) -> list[Text]:
    return [
        Text(line.name),
        Text(line.measured),
        Text(line.promised or ""),
        _MARKS[line.promise_kept] if line.promised else Text(""),
        Text(line.aimed or ""),
        _MARKS[line.aim_reached] if line.aimed else Text(""),
    ]
