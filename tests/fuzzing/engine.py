"""One target under atheris, in a process of its own: ``python -m tests.fuzzing.engine TARGET SECONDS SEED FOLDER``.

The branches of what reads from a device, python-opcua's decoder too, are counted. A finding is written once a place,
and the run goes on.
"""

from __future__ import annotations

import hashlib
import logging
import resource
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import structlog

from tests.fuzzing import oracle, targets

_OURS = "scada_trio.opcua."
_THEIRS = frozenset(
    {
        "opcua.ua.ua_binary",
        "opcua.ua.uatypes",
        "opcua.common.connection",
        "opcua.common.utils",
        "opcua.client.ua_client",
        "opcua.crypto.security_policies",
    }
)
_MAX_INPUT_BYTES = 16_384
_MAX_GROWTH_BYTES = 1 << 30
"""What the process may take beyond what it has at the start; then allocations fail, and that is a finding."""
_DICTIONARY = Path(__file__).parent / "dictionary.txt"


def main(name: str, seconds: int, seed: int, folder: Path) -> None:
    atheris: Any = import_module("atheris")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    target = targets.load(name)
    for function in _functions():
        atheris.instrument_func(function)
    corpus, findings = folder / name / "corpus", folder / name / "findings"
    for directory in (corpus, findings):
        directory.mkdir(parents=True, exist_ok=True)
    for data in [*target.seeds(), *target.corpus(), *target.regressions().values()]:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    _bound_memory()
    seen: set[str] = set()

    def play(data: bytes) -> None:
        finding = oracle.judge(target.run, data)
        if finding is not None and finding.key not in seen:
            seen.add(finding.key)
            (findings / f"{finding.key}.bin").write_bytes(data)
            (findings / f"{finding.key}.txt").write_text(finding.report)
            print(f"FINDING {name}: {finding.key}", flush=True)

    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={_MAX_INPUT_BYTES}",
        f"-dict={_DICTIONARY}",
        f"-artifact_prefix={findings}/",
        "-rss_limit_mb=3000",
        "-timeout=60",  # the oracle's alarm comes first; this one is for what no alarm interrupts
        "-report_slow_units=120",
        "-print_final_stats=1",
        "-reload=0",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], play)
    atheris.Fuzz()


def _functions() -> Iterator[FunctionType]:
    """Every function and method of the modules that are measured."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith(_OURS) or name in _THEIRS}
    for name, module in modules.items():
        owners = [found for found in vars(module).values() if isinstance(found, type) and found.__module__ == name]
        for owner in [module, *owners]:
            for found in vars(owner).values():
                function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                if isinstance(function, FunctionType) and function.__module__ == name:
                    yield function


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
