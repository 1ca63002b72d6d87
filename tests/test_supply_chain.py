"""What `make audit` says of what the service is made of: licences, the bill of materials, known vulnerabilities."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scada_trio import __version__
from tests.fix_devices import ROOT

TOOLS = ROOT / "build" / "audit" / "bin"
LOCK = ROOT / "requirements.lock"

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(None if error is None else str(error)[:200])
"""


def run(*command: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=600, check=False)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("make", f"PYTHON={sys.executable}", *arguments)


@pytest.fixture(scope="session")
def tools() -> None:
    """The environment of the tools; kept from run to run while its lock is the same."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = make("build/audit/.installed")
    assert done.returncode == 0, done.stdout + done.stderr


def package(environment: Path, name: str, *fields: str) -> None:
    """An installed package, as far as its metadata goes."""
    folder = environment / "lib" / "python3.11" / "site-packages" / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields, ""]))


def licences(lock: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    return run(TOOLS / "python", "scripts/licences.py", lock, environment)


def test_every_licence_is_an_allowed_one(tools: None) -> None:
    done = licences(LOCK, Path(sys.prefix))
    assert (done.returncode, done.stderr) == (0, "")
    names = set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE))
    assert f"licences: {len(names)} packages, 0 not as they should be" in done.stdout


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (["License-Expression: MIT OR GPL-3.0-only"], None),
        (["License-Expression: (MIT OR GPL-3.0-only) AND ISC"], None),
        (["Classifier: License :: OSI Approved :: MIT License", "License: whatever"], None),
        (["License: MIT"], None),
        (["License-Expression: GPL-3.0-only"], "is under GPL-3.0-only, which"),
        (["License-Expression: MIT AND AGPL-3.0-or-later"], "is under MIT AND AGPL-3.0-or-later, which"),
        (["License-Expression: LGPL-3.0-only"], "is under LGPL-3.0-only, which"),  # allowed, but not to this one
        (["License-Expression: Made-Up-1.0"], "says 'Made-Up-1.0', which"),
        (["License: do what you like"], "says 'do what you like', which"),
        (
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            ],
            "says 'OSI Approved :: GNU General Public License v3 (GPLv3)', which",
        ),
        ([], "says no licence"),
        (None, "is not installed"),
    ],
)
def test_a_licence_that_nobody_allowed_fails(
    tools: None, tmp_path: Path, fields: list[str] | None, problem: str | None
) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text(
        "good==1.0 \\\n    --hash=sha256:00\n    # via nobody\nthe-other==1.0 \\\n    --hash=sha256:00\n"
        "elsewhere==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    package(tmp_path, "good", "License-Expression: MIT")
    if fields is not None:
        package(tmp_path, "The_Other", *fields)
    done = licences(lock, tmp_path)
    assert "3 packages" in done.stdout
    assert "not for this platform: elsewhere" in done.stdout
    if problem is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1
        assert done.stderr.startswith(f"the-other: {problem}")


def test_a_reviewed_package_may_not_change_its_licence(tools: None, tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("psycopg==1.0 \\\n    --hash=sha256:00\n")
    package(tmp_path, "psycopg", "License-Expression: LGPL-3.0-only")
    assert licences(tmp_path / "some.lock", tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "lib")
    package(tmp_path, "psycopg", "License-Expression: AGPL-3.0-only")
    assert licences(tmp_path / "some.lock", tmp_path).returncode == 1


def test_the_bill_of_materials_has_every_package_of_the_lock(tools: None) -> None:
    """With its version and the hashes that an install accepts, valid against CycloneDX's schema, the same each time."""
    path = ROOT / "build" / "sbom.cdx.json"
    path.unlink(missing_ok=True)
    done = make("sbom")
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    checked = run(TOOLS / "python", "-c", VALIDATE, text=text)
    assert checked.returncode == 0, checked.stderr
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX"
    component = bill["metadata"]["component"]
    assert (component["name"], component["version"]) == ("scada-trio", __version__)
    assert {(part["name"], part["version"]): hashes_of(part) for part in bill["components"]} == in_lock()
    assert all(part["purl"].startswith(f"pkg:pypi/{part['name']}@") for part in bill["components"])
    make("sbom")
    assert path.read_text() == text

    bill["components"][0]["type"] = "spare part"
    assert run(TOOLS / "python", "-c", VALIDATE, text=json.dumps(bill)).returncode == 1  # the validator looks


def hashes_of(part: Any) -> set[str]:
    return {one["content"] for link in part["externalReferences"] for one in link.get("hashes", ())}


def in_lock() -> dict[tuple[str, str], set[str]]:
    """Hashes by name and version."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in LOCK.read_text().splitlines():
        if pinned := re.match(r"([a-z0-9-]+)==(\S+)", line):
            current = found[pinned[1], pinned[2]] = set()
        elif digest := re.match(r" +--hash=sha256:([0-9a-f]{64})", line):
            current.add(digest[1])
    assert all(found.values())
    return found


def test_vulnerabilities_are_asked_for_by_the_lock_and_what_cannot_be_asked_fails() -> None:
    """The target's commands; whether anything is known is for a machine with the internet to say."""
    commands = make("-n", "vulnerabilities").stdout
    assert re.search(r"pip-audit .*--strict .*--require-hashes .*--disable-pip .*-r requirements\.lock", commands)
    assert re.search(r"cd examples/nestjs && npm audit$", commands, re.MULTILINE)
    assert "||" not in commands.split("pip-audit")[1]


def test_locks_name_no_address() -> None:
    locks = [*ROOT.glob("*.lock"), *ROOT.glob("*/*/package-lock.json")]
    assert len(locks) >= 5
    for lock in locks:
        text = lock.read_text()
        assert "--index-url" not in text
        assert '"resolved"' not in text
        if lock.suffix == ".lock":
            assert "://" not in text
            names = len(re.findall(r"^\S+==", text, re.MULTILINE))
            assert len(re.findall(r"^\S+==.*\\\n    --hash=", text, re.MULTILINE)) == names > 40
