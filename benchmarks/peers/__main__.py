"""``make bench``: every pipeline in turn on the same server, and the section of docs/performance.md.

    python -m benchmarks.peers [--quick] [--subject NAME ...] [--only fixed|ceiling|memory ...] [--merge]

The service comes first and last in the round at the fixed rate, so that a machine that changes meanwhile does so for
both sides; the ceilings have another order. A whole run writes the documentation; a part of one, a quick one, or one
that Ctrl-C ended, ``.bench/report.md`` alone. All write ``.bench/results.json``; ``--merge`` puts a part in the place
of the same part of the last run on this machine, and writes the documentation of both.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from benchmarks.peers.bare import bare_copy
from benchmarks.peers.harness import RunFailed, open_server
from benchmarks.peers.install import missing
from benchmarks.peers.report import Results, machine, to_markdown, write_section
from benchmarks.peers.runs import Plan, run_ceiling, run_fixed, run_memory
from benchmarks.peers.subjects import BENCH, ROOT, SERVICE, SUBJECTS, TWO_WRITERS, Subject
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.tally import server_version

PARTS: Final = ("fixed", "ceiling", "memory")
QUICK: Final = Plan(
    warm_s=2.0,
    steady_s=5.0,
    outage_s=4.0,
    recover_s=4.0,
    restart_s=3.0,
    climb_s=2.0,
    hold_s=6.0,
    service_hold_s=10.0,
    memory_s=3.0,
    bare_s=4.0,
)
T = TypeVar("T")


def main() -> int:
    """Measure what is asked for; status 1 where a subject could not be measured."""
    options = _parser().parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    plan = QUICK if options.quick else Plan()
    subjects = [SUBJECTS[name] for name in options.subject or SUBJECTS]
    results = measure(subjects, plan, options.only or PARTS)
    BENCH.mkdir(exist_ok=True)
    kept = BENCH / "results.json"
    merged = options.merge and kept.exists()
    if merged:
        results = Results.from_json(json.loads(kept.read_text())).with_part(results)
    kept.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    section = to_markdown(results)
    (BENCH / "report.md").write_text(section + "\n")
    is_part = bool(options.subject or options.only) and not merged
    if not (options.quick or is_part or results.interrupted):
        write_section(ROOT / "docs" / "performance.md", section)
    print(section)
    return 1 if results.left_out else 0


def measure(subjects: list[Subject], plan: Plan, parts: tuple[str, ...]) -> Results:
    """All of it; a subject that cannot be measured is left out, and the reason kept."""
    results = Results(plan, machine())
    there = []
    for subject in subjects:
        if reason := missing(subject):
            results.left_out[subject.name] = reason
        else:
            there.append(subject)
            results.versions[subject.name] = subject.versions()
    with open_server() as server, tempfile.TemporaryDirectory(prefix="scada-trio-bench-work-") as directory:
        results.machine["database"] = server_version(server.url)
        try:
            _measure_parts(there, server, plan, Path(directory), parts, results)
        except KeyboardInterrupt:
            results.interrupted = True
    return results


def _measure_parts(
    there: list[Subject], server: EmbeddedServer, plan: Plan, work: Path, parts: tuple[str, ...], results: Results
) -> None:
    one_of_each = [subject for subject in there if subject is not TWO_WRITERS]
    if "fixed" in parts:
        _round_fixed(one_of_each, server, plan, work, results)
    if "memory" in parts:
        say("memory: all at once")
        results.memory = run_memory(one_of_each, server, plan, work)
    if "ceiling" in parts:
        _round_ceiling(there, server, plan, work, results)


def _round_fixed(there: list[Subject], server: EmbeddedServer, plan: Plan, work: Path, results: Results) -> None:
    for subject in there:
        say(f"{subject.title}: {plan.rate:,.0f}/s, then faults")
        fixed = _tried(results, subject, lambda s=subject: run_fixed(s, server, plan, work))  # type: ignore[misc]
        if fixed is not None:
            results.fixed[subject.name] = fixed
    if SERVICE in there and len(there) > 1:
        say(f"{SERVICE.title}: {plan.rate:,.0f}/s again")
        results.service_again = _tried(results, SERVICE, lambda: run_fixed(SERVICE, server, plan, work, faults=False))


def _round_ceiling(there: list[Subject], server: EmbeddedServer, plan: Plan, work: Path, results: Results) -> None:
    ours = [subject for subject in there if subject.is_service]
    peers = [subject for subject in there if not subject.is_service]
    for subject in [*ours, *peers[1::2], *reversed(peers[::2])]:
        if subject is SERVICE:
            say("bare COPY")
            results.bare_per_s.append(bare_copy(server, plan.bare_s))
        ceiling = _tried(results, subject, lambda s=subject: run_ceiling(s, server, plan, work, say))  # type: ignore[misc]
        if ceiling is not None:
            results.ceiling[subject.name] = ceiling
        if subject is SERVICE:
            say("bare COPY, one connection and two")
            results.bare_per_s += [bare_copy(server, plan.bare_s), bare_copy(server, plan.bare_s, connections=2)]


def _tried(results: Results, subject: Subject, measured: Callable[[], T]) -> T | None:
    try:
        return measured()
    except RunFailed as error:
        say(f"{subject.title}: {error}")
        results.left_out[subject.name] = str(error)
        return None


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="The service beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a few minutes' form; figures are rough")
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS), help="this one alone; may be repeated")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--merge", action="store_true", help="keep the rest of the last run's figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
