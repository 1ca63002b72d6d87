"""Makes what the pipelines need under ``.bench/``: virtual environments and node_modules of their own, from locks.

What cannot be installed is a sentence for the report, never an error of the measurement.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.peers.subjects import BENCH, Subject

HERE: Final = Path(__file__).parent
_LOCKS: Final = {
    "python": HERE / "requirements.lock",
    "thingsboard_gateway": HERE / "thingsboard_gateway" / "requirements.lock",
}
_STAMP: Final = ".installed"
_SHOWN_LINES: Final = 2


def missing(subject: Subject) -> str | None:
    """Install what ``subject`` needs unless it is there; why it cannot be measured, or None."""
    if not subject.environment:
        return None
    try:
        if subject.environment in _LOCKS:
            _make_venv(subject.home, _LOCKS[subject.environment])
        else:
            _make_node_modules(subject.home, HERE / subject.environment)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in str(error.stdout).splitlines() if line.strip()]
        return f"`{' '.join(map(str, error.cmd[:4]))} ...` failed: {' / '.join(lines[-_SHOWN_LINES:])}"
    if subject.environment == "thingsboard_gateway" and shutil.which("mosquitto", path=search_path()) is None:
        return "the MQTT broker that it reports to, mosquitto, is not installed (a package of Debian)"
    return None


def search_path() -> str:
    """Where programs are looked for; Debian keeps daemons outside of a user's PATH."""
    return f"{shutil.os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # type: ignore[attr-defined]


def _make_venv(home: Path, lock: Path) -> None:
    if _is_current(home, lock):
        return
    print(f"installing {lock.relative_to(HERE)} into {home} ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)], BENCH)
    _run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)], BENCH)
    (home / _STAMP).write_bytes(lock.read_bytes())


def _make_node_modules(home: Path, source: Path) -> None:
    lock = source / "package-lock.json"
    if not _is_current(home, lock):
        print(f"installing the packages of {source.name} into {home} ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(source, home, ignore=shutil.ignore_patterns("node_modules"))
        _run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], home)
        (home / _STAMP).write_bytes(lock.read_bytes())
    for program in source.glob("*.*js"):
        shutil.copy(program, home)


def _is_current(home: Path, lock: Path) -> bool:
    stamp = home / _STAMP
    return stamp.exists() and stamp.read_bytes() == lock.read_bytes()


def _run(command: list[str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, cwd=directory, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
