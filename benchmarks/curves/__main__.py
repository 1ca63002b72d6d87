"""`python -m benchmarks.curves`: measure sweeps, keep their figures, write them into the documents.

    python -m benchmarks.curves --sweep tags --sweep batch    measures two; without --sweep, all
    python -m benchmarks.curves --sweep tags --quick          small and short, to see that it works; keeps nothing
    python -m benchmarks.curves --documents                   measures nothing, writes pictures and tables

Figures are kept in .bench/. Exit status 1 where a value was lost or stored otherwise than it was sent: then the point
says nothing of how fast the service is.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import trio

from benchmarks.curves import documents, sizing
from benchmarks.curves.picture import draw
from benchmarks.curves.point import Measured, as_json, measure_point
from benchmarks.curves.sweeps import SWEEPS, Sweep
from scada_trio.loadtest.child import LoadTestFailed
from scada_trio.open_files import raise_open_files_limit
from scada_trio.storage.embedded import open_embedded

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / ".bench"
DOCUMENTS = ROOT / "docs"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description="How the service's cost grows.")
    parser.add_argument("--sweep", action="append", choices=list(SWEEPS), help="measure this one (default: all)")
    parser.add_argument(
        "--point", action="append", type=float, help="only this one of each; kept in place of the old one"
    )
    parser.add_argument("--quick", action="store_true", help="small and short; keeps nothing")
    parser.add_argument("--documents", action="store_true", help="only write what is kept into docs/")
    parser.add_argument("--kept", type=Path, default=KEPT, help="directory of the figures (default .bench)")
    options = parser.parse_args(arguments)
    raise_open_files_limit()
    if options.documents:
        for path in write_documents(options.kept):
            say(f"wrote {path}")
        return 0
    fine = True
    for name in options.sweep or SWEEPS:
        sweep = SWEEPS[name].quick() if options.quick else SWEEPS[name].only(options.point)
        measured: list[Measured] = []
        try:
            trio.run(partial(measure_sweep, sweep, measured))
        except* LoadTestFailed as failed:
            say(f"{name}: {_first(failed)}")
            fine = False
        print(f"\n{sweep.held}\n\n{documents.table(sweep, measured)}\n", flush=True)
        if not options.quick:
            keep(options.kept, sweep, measured)
        for one in measured:
            if one.lost or not one.true:
                truth = "true" if one.true else "not what was sent"
                say(f"{name} {one.x:g}: {one.lost:,} readings lost, what is stored is {truth}")
                fine = False
    return 0 if fine else 1


async def measure_sweep(sweep: Sweep, measured: list[Measured]) -> None:
    """Add every point to ``measured``, in turn, on one database server."""
    with tempfile.TemporaryDirectory(prefix="scada-trio-curves-") as directory:
        async with open_embedded(Path(directory) / "postgres", sweep.database_settings) as server:
            for point in sweep.points:
                say(f"{sweep.name} {point.x:g}")
                place = Path(directory) / f"{point.x:g}"
                place.mkdir()
                measured.append(await measure_point(server, point, place, lambda _: None))


def keep(directory: Path, sweep: Sweep, measured: Sequence[Measured]) -> None:
    """As JSON, with what it was measured on; points that were measured before and are not now stay."""
    directory.mkdir(exist_ok=True)
    by_x = {one.x: one for one in (*read(directory).get(sweep.name, ()), *measured)}
    machine = {
        "cores": psutil.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    content = {
        "sweep": sweep.name,
        "held": sweep.held,
        "machine": machine,
        "points": [as_json(by_x[x]) for x in sorted(by_x)],
    }
    (directory / f"curve-{sweep.name}.json").write_text(json.dumps(content, indent=1) + "\n")


def read(directory: Path) -> dict[str, list[Measured]]:
    """What is kept, by the names of sweeps."""
    found = {}
    for name in SWEEPS:
        path = directory / f"curve-{name}.json"
        if path.exists():
            found[name] = [Measured(**point) for point in json.loads(path.read_text())["points"]]
    return found


def write_documents(kept: Path, directory: Path = DOCUMENTS) -> list[Path]:
    """Pictures and tables of everything that is kept; the documents that changed."""
    found = read(kept)
    pictures = directory / "pictures"
    pictures.mkdir(exist_ok=True)
    sections = {}
    for name, measured in found.items():
        draw(pictures / f"curve-{name}.svg", SWEEPS[name], measured)
        sections[name] = documents.section(SWEEPS[name], measured, f"pictures/curve-{name}.svg")
    if found.keys() >= sizing.NEEDED:
        sections["costs"], sections["sizing"] = sizing.sections(found)
    return documents.write(sorted(directory.glob("*.md")), sections)


def _first(group: BaseExceptionGroup[LoadTestFailed]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
