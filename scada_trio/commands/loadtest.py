"""``loadtest``: what a terminal shows of a load test, and the files that it leaves."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from pydantic import SecretStr
from rich.console import Console
from rich.live import Live
from rich.text import Text

from scada_trio.errors import ConfigError
from scada_trio.loadtest.load import Load
from scada_trio.loadtest.picture import draw
from scada_trio.loadtest.report import Report
from scada_trio.loadtest.run import Options, run_load_test
from scada_trio.loadtest.sampling import Sample
from scada_trio.loadtest.tables import facts_table, final_table, live_line, live_table

_LINE_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says besides the load. ``output`` is a directory for the files."""

    output: Path
    picture: str = "svg"
    database_url: SecretStr | None = None
    work_dir: Path | None = None
    keep: bool = False
    late_s: float = 15.0
    strict: bool = False


async def loadtest(out: Console, load: Load, wanted: Wanted) -> bool:
    """Run a test, print it, leave its files; whether the targets are met."""
    try:
        wanted.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--output", f"{error.strerror}: {wanted.output}") from error
    directory = wanted.work_dir or Path(tempfile.mkdtemp(prefix="scada-trio-loadtest-"))
    directory.mkdir(parents=True, exist_ok=True)
    options = Options(directory, wanted.database_url, wanted.keep, wanted.late_s)
    try:
        with _Display(load) as display:
            report, samples = await run_load_test(load, options, say=display.say, show=display.show)
    finally:
        if wanted.work_dir is None and not wanted.keep:
            shutil.rmtree(directory, ignore_errors=True)
    _print(out, report)
    stem = wanted.output / f"{load.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    await trio.to_thread.run_sync(_save, stem, wanted.picture, report, samples)
    out.print(f"{stem}.json, {stem}.{wanted.picture}", highlight=False)
    return report.aims_reached if wanted.strict else report.promises_kept


def _print(out: Console, report: Report) -> None:
    out.print(final_table(report))
    out.print(facts_table(report))
    if not report.is_true:
        out.print("[bold red]what is stored is not what was sent, or the service did not end as it should[/]")
    verdict = "all that is promised holds" if report.promises_kept else "[bold red]not all that is promised holds[/]"
    aims = "our own aims are reached" if report.aims_reached else "our own aims are not all reached"
    out.print(f"{verdict}; {aims}")


def _save(stem: Path, suffix: str, report: Report, samples: Sequence[Sample]) -> None:
    stem.with_suffix(".json").write_text(json.dumps(report.as_json(samples), indent=1, default=str) + "\n")
    draw(stem.with_suffix(f".{suffix}"), report.load, samples)


class _Display:
    """A live table on a terminal, elsewhere a line every ten seconds; on standard error, the result goes elsewhere."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._said_at = float("-inf")

    def __enter__(self) -> _Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """What is being done."""
        if self._console.is_terminal:
            self._live.update(Text(text + " ..."), refresh=True)
        else:
            self._console.print(text, highlight=False)

    def show(self, samples: Sequence[Sample], phase: str) -> None:
        """The present figures."""
        if self._console.is_terminal:
            self._live.update(live_table(self._load, samples, phase), refresh=True)
        elif time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self._said_at = time.monotonic()
            line = ", ".join(f"{name} {value}" for name, value in live_line(self._load, samples, phase))
            self._console.print(line, highlight=False, soft_wrap=True)
