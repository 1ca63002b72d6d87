"""Makes scada_trio/api/_generated from proto/scada.proto; run by `make proto`, and with --check by `make check`.

The generated code is committed, so that an install needs no compiler; --check says whether it is still what
the compiler makes of the .proto file.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("scada_trio/api/_generated")
MADE = ("__init__.py", "scada_pb2.py", "scada_pb2.pyi", "scada_grpc.py")


def generate(target: Path) -> None:
    """Write the generated package below ``target``, as ``target/scada_trio/api/_generated``.

    The .proto file is mapped to the package's own path, so that the modules import each other by their full names.
    """
    plugin = Path(sysconfig.get_path("scripts")) / "protoc-gen-grpclib_python"
    status = protoc.main(
        [
            "protoc",
            f"--plugin=protoc-gen-grpclib_python={plugin}",
            f"--proto_path={PACKAGE}={ROOT / 'proto'}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpclib_python_out={target}",
            f"{PACKAGE}/scada.proto",
        ]
    )
    if status != 0:
        sys.exit(f"protoc ended with status {status}")
    (target / PACKAGE / "__init__.py").write_text(
        '"""Code that scripts/generate_proto.py makes from proto/scada.proto."""\n'
    )


def stale(made: Path) -> list[str]:
    """Names of the files whose committed text differs from the one below ``made``."""
    return [
        name
        for name in MADE
        if not (ROOT / PACKAGE / name).exists()
        or (ROOT / PACKAGE / name).read_text() != (made / PACKAGE / name).read_text()
    ]


def main() -> None:
    """Generate in place, or compare; exit status 1 where the committed code is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the code is stale")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        if names := stale(Path(directory)):
            sys.exit(f"stale: {', '.join(names)}; run `make proto`")


if __name__ == "__main__":
    main()
