"""What is fuzzed: a module each with ``run(data)``, which raises what the oracle judges, and ``seeds()``.

The modules are loaded when asked for: what they import must be instrumented before.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

NAMES = ("frames", "channel", "publish", "services", "certificates", "link")
REGRESSIONS = Path(__file__).parent.parent / "regressions"
CORPUS = Path(__file__).parent.parent / "corpus"


@dataclass(frozen=True)
class Target:
    """``run`` plays an input; ``seeds`` are inputs that reach far."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]

    def regressions(self) -> dict[str, bytes]:
        """The inputs that once did harm, by name."""
        return {path.stem: path.read_bytes() for path in sorted((REGRESSIONS / self.name).glob("*.bin"))}

    def corpus(self) -> list[bytes]:
        """Inputs that a long run came to, each of which takes a branch that the seeds do not."""
        path = CORPUS / f"{self.name}.zip"
        if not path.exists():
            return []
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in archive.namelist()]


def load(name: str) -> Target:
    """The target of this name."""
    module = import_module(f"tests.fuzzing.targets.{name}")
    return Target(name, module.run, module.seeds)
