"""The measurements as Markdown and JSON. Pure but for `machine` and `write_section`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import psutil
from pydantic import TypeAdapter

from benchmarks.peers.runs import Ceiling, Fixed, Memory, Plan
from benchmarks.peers.subjects import PEERS, SERVICE, SUBJECTS, TWO_WRITERS

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"
MB: Final = 1e6
_ASYNCUA: Final = ("asyncua_copy", "asyncua_asyncpg")
_AIM_ASYNCUA: Final = 20.0
_AIM_ANY: Final = 5.0
_BARE_RUNS: Final = 3


@dataclass(slots=True)
class Results:
    """Everything that was measured. ``service_again`` is the service at the end of the round that it began.

    ``bare_per_s`` are rows a second of COPY alone: one connection before the service's ceiling, one after it, and two
    connections. ``left_out`` says why a subject is not in it; ``runs`` is how many this is the outcome of.
    """

    plan: Plan
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, Fixed] = field(default_factory=dict)
    service_again: Fixed | None = None
    ceiling: dict[str, Ceiling] = field(default_factory=dict)
    bare_per_s: list[float] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    runs: int = 1

    def to_json(self) -> dict[str, Any]:
        """All of it, with the figures that are derived."""
        plain = asdict(self)
        for name, fixed in self.fixed.items():
            plain["fixed"][name]["values_per_cpu_s"] = fixed.values_per_cpu_s
        for name, ceiling in self.ceiling.items():
            best = ceiling.sustained
            plain["ceiling"][name]["sustained_per_s"] = best.phase.committed_per_s if best else None
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return TypeAdapter(cls).validate_python(plain)

    def with_part(self, later: Self) -> Self:
        """These, but for what ``later`` has measured anew."""
        left_out = {name: why for name, why in self.left_out.items() if name not in later.versions} | later.left_out
        return replace(
            later,
            versions=self.versions | later.versions,
            fixed=self.fixed | later.fixed,
            service_again=later.service_again or self.service_again,
            ceiling=self.ceiling | later.ceiling,
            bare_per_s=later.bare_per_s or self.bare_per_s,
            memory=self.memory | later.memory,
            left_out=left_out,
            runs=self.runs + 1,
        )

    def values_per_cpu_s(self, name: str) -> float | None:
        """At the fixed rate; of the service the mean of its two runs."""
        found = [self.fixed[name]] if name in self.fixed else []
        if name == SERVICE.name and self.service_again is not None:
            found.append(self.service_again)
        return sum(fixed.values_per_cpu_s for fixed in found) / len(found) if found else None

    def times_as_many(self, name: str) -> float | None:
        """How many values the service takes for a CPU second in which that one takes one."""
        ours, theirs = self.values_per_cpu_s(SERVICE.name), self.values_per_cpu_s(name)
        return ours / theirs if ours and theirs else None

    def times_at_ceilings(self, name: str, ours_is: str = SERVICE.name) -> float | None:
        """The same, each at the highest rate that it held; ``ours_is`` one of the ways the service was set up."""
        ours, theirs = (ceiling.sustained if (ceiling := self.ceiling.get(each)) else None for each in (ours_is, name))
        return ours.values_per_cpu_s / theirs.values_per_cpu_s if ours and theirs and theirs.cpu_s else None


def to_markdown(results: Results) -> str:
    """The section, without its markers."""
    parts = [_setting(results)]
    if results.fixed:
        parts.append(_fixed_table(results))
    if results.ceiling:
        parts.append(_ceiling_table(results))
    if results.memory:
        parts.append(_memory_table(results))
    parts += [_faults_table(results), _verdict(results), _left_out(results)]
    return "\n\n".join(part for part in parts if part)


def write_section(path: Path, section: str) -> None:
    """Put ``section`` between the markers of a file, or at its end where it has none."""
    text = path.read_text()
    head, found, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2] if found else "\n"
    head = head if found else head.rstrip("\n") + "\n\n"
    path.write_text(f"{head}{BEGIN}\n{section.strip()}\n{END}{tail}")


def machine() -> dict[str, str]:
    """What it was measured on."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    found = {
        "machine": f"{os.cpu_count()} cores ({_processor()}), {memory}, {platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    if node := shutil.which("node"):
        found["Node.js"] = subprocess.run(
            [node, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


# ---- the parts


def _setting(results: Results) -> str:
    plan = results.plan
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    made_of = "\n".join(f"- {_title(name)}: {versions}" for name, versions in results.versions.items())
    runs = f" In {results.runs} runs, one part after the other." if results.runs > 1 else ""
    return f"{facts}. {plan.wells} connections of {plan.tags:,} tags.{runs}\n\n{made_of}"


def _fixed_table(results: Results) -> str:
    rows = []
    for name, fixed in results.fixed.items():
        steady, times = fixed.steady, results.times_as_many(name)
        rows.append(
            (
                _title(name),
                f"{results.values_per_cpu_s(name) or 0:,.0f}",
                "1" if name == SERVICE.name or times is None else f"{times:,.1f}",
                f"{fixed.cpu_s / steady.seconds:.2f}",
                f"{steady.committed_per_s:,.0f}",
                ", ".join(_seconds(value) for value in (steady.p50_s, steady.p95_s, steady.p99_s)),
                f"{fixed.rss_mean / MB:,.0f}, {fixed.rss_peak / MB:,.0f}",
            )
        )
    heading = (
        "pipeline",
        "values per CPU second",
        "scada-trio takes times as many",
        "cores",
        "committed/s",
        "source time to commit, P50, P95, P99",
        "memory, mean and peak, MB",
    )
    title = f"**At {results.plan.rate:,.0f} values/s**, each for {results.plan.steady_s:.0f} s:"
    return f"{title}\n\n{_table(heading, rows)}"


def _ceiling_table(results: Results) -> str:
    bare = max(results.bare_per_s[:2], default=0.0)
    rows = []
    for name, ceiling in results.ceiling.items():
        best = ceiling.sustained
        behind = min(ceiling.fell_behind, default=None)
        if best is None:
            tried = min(ceiling.holds, key=lambda hold: hold.phase.sent_per_s, default=None)
            held = f"none; {_rate(tried.phase.committed_per_s)} of {_rate(tried.phase.sent_per_s)}" if tried else "none"
            lost = f"{tried.phase.lost:,}" if tried else ""
            rows.append((_title(name), held, "", "", "", "", lost, _rate(behind)))
            continue
        times = results.times_at_ceilings(name)
        rows.append(
            (
                _title(name),
                f"{best.phase.committed_per_s:,.0f}, {best.phase.seconds:.0f} s",
                f"{best.phase.committed_per_s / bare:.2f}" if bare else "",
                f"{best.values_per_cpu_s:,.0f}",
                "1" if name == SERVICE.name or times is None else f"{times:,.1f}",
                f"{_seconds(best.phase.p95_s)}",
                f"{best.phase.lost:,}",
                _rate(behind),
            )
        )
    heading = (
        "pipeline",
        "highest rate held, values/s",
        "of a bare COPY",
        "values per CPU second",
        "scada-trio takes times as many",
        "P95 to commit",
        "lost",
        "lowest rate that was too much",
    )
    text = f"**Ceiling**, the rate raised until the table is behind:\n\n{_table(heading, rows)}"
    if bare_line := _bare(results):
        text += f"\n\n{bare_line}"
    if held := _service_hold(results):
        text += f"\n\n{held}"
    return text


def _bare(results: Results) -> str:
    if len(results.bare_per_s) < _BARE_RUNS:
        return ""
    before, after, two = results.bare_per_s
    return (
        f"Bare binary COPY of the same rows into the same table, built beforehand: {before:,.0f} rows/s before and "
        f"{after:,.0f} after the service's turn on one connection, {two:,.0f} on two."
    )


def _service_hold(results: Results) -> str:
    """What the service does at the rate that its aims are stated for."""
    holds = results.ceiling[SERVICE.name].holds if SERVICE.name in results.ceiling else []
    lines = []
    for hold in holds:
        lag = "–" if hold.lag_p99_s is None else f"{hold.lag_p99_s * 1000:.1f} ms"
        lines.append(
            f"scada-trio at {hold.phase.sent_per_s:,.0f}/s for {hold.phase.seconds:.0f} s: source time to commit P50 "
            f"{_seconds(hold.phase.p50_s)}, P95 {_seconds(hold.phase.p95_s)}, P99 {_seconds(hold.phase.p99_s)}; event "
            f"loop lag P99 {lag}; {hold.cpu_s / hold.phase.seconds:.2f} core; {hold.rss_peak / MB:,.0f} MB."
        )
    return "\n".join(lines)


def _memory_table(results: Results) -> str:
    rows = []
    for name, memory in results.memory.items():
        full = results.fixed.get(name)
        per_tags = f"{(full.rss_mean - memory.few) / 9 / MB:.2f}" if full else ""
        rows.append(
            (
                _title(name),
                f"{memory.few / MB:,.0f}",
                f"{memory.many / MB:,.0f}",
                f"{full.rss_mean / MB:,.0f}" if full else "",
                per_tags,
                f"{(memory.many - memory.few) / 90 / 1000:,.0f}",
            )
        )
    heading = (
        "pipeline",
        "10 × 100 tags, MB",
        "100 × 10, MB",
        "10 × 1,000, MB",
        "1,000 tags more, MB",
        "a connection more, kB",
    )
    return f"**Memory** at 1 Hz, differences of two set-ups:\n\n{_table(heading, rows)}"


def _faults_table(results: Results) -> str:
    rows = []
    for name, fixed in results.fixed.items():
        if fixed.outage is None:
            continue
        restart = fixed.restart
        rows.append(
            (
                _title(name),
                f"{fixed.outage.sent:,}",
                f"{fixed.outage.lost:,}",
                "–" if restart is None else f"{restart.sent:,}",
                "–" if restart is None else f"{restart.lost:,}",
                f"{fixed.unknown:,}, {fixed.wrong:,}",
                "; ".join(fixed.notes) or "–",
            )
        )
    if not rows:
        return ""
    heading = (
        "pipeline",
        "sent around the outage",
        "lost",
        "sent around its own kill",
        "lost",
        "never sent, wrong",
        "what else happened",
    )
    return (
        f"**PostgreSQL killed** (SIGKILL) for {results.plan.outage_s:.0f} s under the same load, and after it has "
        f"recovered **the pipeline itself** killed and started again at once:\n\n{_table(heading, rows)}"
    )


def _verdict(results: Results) -> str:
    """Whether the aims are reached, and every figure in which a peer is better."""
    lines = []
    at_rate = f"at {results.plan.rate:,.0f} values/s"
    two_writers = partial(results.times_at_ceilings, ours_is=TWO_WRITERS.name)
    for where, times_of in (
        (at_rate, results.times_as_many),
        ("each at its highest rate", results.times_at_ceilings),
        ("each at its highest rate, the service with two writers", two_writers),
    ):
        found = [(times, subject.name) for subject in PEERS if (times := times_of(subject.name))]
        asyncua = [times for times, name in found if name in _ASYNCUA]
        if asyncua:
            what = f"CPU efficiency, {_AIM_ASYNCUA:.0f} times the asyncua pipelines, {where}"
            lines.append(_aim(what, min(asyncua), _AIM_ASYNCUA))
        if found:
            times, name = min(found)
            what = f"CPU efficiency, {_AIM_ANY:.0f} times any peer, {where}"
            lines.append(_aim(what, times, _AIM_ANY, f" ({_title(name)})"))
    lines += [f"- {line}" for line in peers_better(results)]
    return "\n".join(lines)


def peers_better(results: Results) -> list[str]:
    """A sentence for each figure in which a peer does better than the service."""
    figures: dict[str, tuple[dict[str, float], bool]] = {
        "values per CPU second": ({n: results.values_per_cpu_s(n) or 0.0 for n in results.fixed}, True),
        "P95 from source time to commit, s": (_given(results.fixed, lambda f: f.steady.p95_s), False),
        "mean memory, MB": ({n: f.rss_mean / MB for n, f in results.fixed.items()}, False),
        "highest rate held, values/s": (
            _given(results.ceiling, lambda c: c.sustained.phase.committed_per_s if c.sustained else None),
            True,
        ),
        "memory of 1,000 tags more, MB": (
            {
                name: (results.fixed[name].rss_mean - memory.few) / 9 / MB
                for name, memory in results.memory.items()
                if name in results.fixed
            },
            False,
        ),
        "memory of a connection more, kB": (
            {name: (memory.many - memory.few) / 90 / 1000 for name, memory in results.memory.items()},
            False,
        ),
        "values lost while PostgreSQL was away": (_given(results.fixed, lambda f: f.outage and f.outage.lost), False),
        "values lost when it was killed itself": (_given(results.fixed, lambda f: f.restart and f.restart.lost), False),
    }
    lines = []
    for figure, (found, more_is_better) in figures.items():
        ours = found.pop(SERVICE.name, None)
        if ours is None:
            continue
        found.pop(TWO_WRITERS.name, None)
        better = {n: v for n, v in found.items() if (v > ours if more_is_better else v < ours)}
        if better:
            named = ", ".join(f"{_title(name)} {value:,.2f}" for name, value in better.items())
            lines.append(f"{figure}: better than scada-trio ({ours:,.2f}): {named}")
    return lines


def _given(found: Mapping[str, Any], of: Any) -> dict[str, float]:
    """The figures that are there."""
    return {name: float(value) for name, each in found.items() if (value := of(each)) is not None}


def _aim(what: str, times: float, aim: float, of: str = "") -> str:
    return f"- {what}: {times:.1f} times{of}, {'reached' if times >= aim else 'missed'}"


def _left_out(results: Results) -> str:
    return "\n".join(f"- {_title(name)} is left out: {reason}" for name, reason in results.left_out.items())


def _title(name: str) -> str:
    return SUBJECTS[name].title if name in SUBJECTS else name


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
