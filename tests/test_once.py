"""What the processes of a test run share is made by one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = """
import time
from tests.fix_build_once import Once, once

def test_it(once: Once) -> None:
    def work() -> None:
        with open("made", "a") as file:
            file.write("x")
        time.sleep(0.2)
    once("it", work)
    assert open("made").read() == "x"
"""


def test_two_processes_do_it_once(tmp_path: Path) -> None:
    """Whoever comes later finds it done."""
    for name in ("a", "b"):
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    options = ["-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", "test_a.py", "test_b.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
