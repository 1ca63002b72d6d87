"""What each library costs a process that serves, before it has a connection: resident memory while it is loaded.

    python benchmarks/memory.py [modules shown]

Of each top-level package: MB that became resident while its modules ran, without what they imported from others, and
the part of it that is the process's own; the rest are pages of files. `scada_trio.opcua` has what python-opcua took for
a moment. What connections cost: `benchmarks/connections.py`.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PAGE = 4096
Sizes = tuple[int, int]
"""Resident bytes, and those of them that are of no file."""

own: dict[str, Sizes] = {}
_inside: list[list[int]] = []


def resident() -> Sizes:
    """Of this process, now."""
    pages = Path("/proc/self/statm").read_bytes().split()
    return int(pages[1]) * PAGE, (int(pages[1]) - int(pages[2])) * PAGE


class _Measured(Loader):
    """Loads as ``loader`` does, and notes what that took without the imports inside it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._before: Sizes = (0, 0)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        _inside.append([0, 0])
        self._before = resident()  # a library in C is mapped here
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        finally:
            grown = [now - before for now, before in zip(resident(), self._before, strict=True)]
            inside = _inside.pop()
            own[module.__name__] = (grown[0] - inside[0], grown[1] - inside[1])
            if _inside:
                _inside[-1][0] += grown[0]
                _inside[-1][1] += grown[1]

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _Finder(MetaPathFinder):
    """Finds what the others find."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Measured(spec.loader)
                return spec
        return None


def main() -> None:
    """Load what ``scada-trio serve`` does and print the largest packages, then the largest modules."""
    shown = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    before = resident()
    sys.meta_path.insert(0, _Finder())
    from scada_trio.cli import load_service

    load_service()
    after = resident()
    print(f"{before[0] / 1e6:.0f} MB before, {after[0] / 1e6:.0f} MB after, {after[1] / 1e6:.0f} of them its own")
    packages: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for module, sizes in own.items():
        for place, size in enumerate(sizes):
            packages[module.partition(".")[0]][place] += size
    for table in (packages, own):
        print()
        for name, (size, private) in sorted(table.items(), key=lambda entry: -entry[1][0])[:shown]:
            print(f"{name:<48}{size / 1e6:6.1f} MB{private / 1e6:6.1f} own")


if __name__ == "__main__":
    main()
