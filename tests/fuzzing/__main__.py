"""``python -m tests.fuzzing``: every target for an equal part of the time; with ``--target`` chosen ones.

Needs atheris, which is in no lock since it has wheels for Linux on x86-64 only. Prints a table at the end; each finding
is a file that plays it again (``--replay``) and one that says what it did. The corpus stays in the directory: the next
run goes on from it. Exit status 0 where nothing was found, else 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.fuzzing.targets import NAMES

_ROOT = Path(__file__).parent.parent.parent
_STARTS_WITHIN_S = 120
_ATHERIS = "atheris==3.0.0"


def main(
    minutes: Annotated[float, typer.Option(help="All targets together.")] = 20.0,
    target: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}; all without.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random but keys and certificates.")] = 1,
    directory: Annotated[Path | None, typer.Option(help="For corpus and findings; a new one without.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Play this input on the one target, and nothing else.")] = None,
) -> None:
    """Look for bytes of a device that do harm."""
    console = Console(width=120)
    names = target or list(NAMES)
    unknown = set(names) - set(NAMES)
    if unknown or (replay is not None and len(names) != 1):
        raise typer.BadParameter(f"one of {', '.join(NAMES)} is wanted", param_hint="--target")
    if replay is not None:
        _replay(names[0], replay)
        return
    if find_spec("atheris") is None:
        console.print(f"atheris is not installed: pip install {_ATHERIS}")
        sys.exit(2)
    folder = (directory or Path(tempfile.mkdtemp(prefix="scada-trio-fuzzing-"))).resolve()
    console.print(f"seed {seed}, corpus and findings in {folder}")
    table = Table("target", "seconds", "inputs", "branches", "findings")
    found = 0
    for name in names:
        seconds = max(1, round(minutes * 60 / len(names)))
        status, log = _fuzz(name, seconds, seed, folder)
        findings = sorted(path.stem for path in (folder / name / "findings").glob("*") if path.suffix != ".txt")
        if status:
            findings.append(f"the fuzzer ended with status {status}: {folder / name}.log")
        found += len(findings)
        last = (re.findall(r"#(\d+)\s+DONE\s+cov: (\d+)", log) or [("?", "?")])[-1]
        table.add_row(name, str(seconds), *last, "\n".join(findings) or "none")
    console.print(table)
    sys.exit(1 if found else 0)


def _fuzz(name: str, seconds: int, seed: int, folder: Path) -> tuple[int, str]:
    """One target in a process of its own: its exit status, and what it printed, which is kept as its log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzzing.engine", name, str(seconds), str(seed), str(folder)]
    with log.open("wb") as output:
        done = subprocess.run(
            command, cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + _STARTS_WITHIN_S, check=False
        )
    return done.returncode, log.read_text(errors="replace")


def _replay(name: str, path: Path) -> None:
    from tests.fuzzing import oracle, targets

    finding = oracle.judge(targets.load(name).run, path.read_bytes(), count_memory=True)
    print("nothing" if finding is None else f"{finding.key}\n{finding.report}")
    sys.exit(0 if finding is None else 1)


if __name__ == "__main__":
    typer.run(main)
