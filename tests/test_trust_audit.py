"""`scada-trio trust` and the audit log: what changes is written down first, and where it cannot be nothing changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from scada_trio.audit import this_process
from scada_trio.opcua.certificates import describe
from tests.fix_devices import ROOT, free_port
from tests.fix_pki import TestPki, make
from tests.fix_postgres import fetch

MADE = make()
Run = subprocess.CompletedProcess[str]


class Desk:
    """An operator's terminal, on one PKI directory."""

    def __init__(self, pki: TestPki, **env: str) -> None:
        self.pki = pki
        self._env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | env
        self._env |= {"PKI_DIR": str(pki.directory), "COLUMNS": "300"}

    def run(self, *words: str) -> Run:
        command = [sys.executable, "-m", "scada_trio", *words]
        return subprocess.run(command, env=self._env, cwd=ROOT, capture_output=True, text=True, check=False)

    def audit(self) -> list[dict[str, Any]]:
        """The oldest first."""
        done = self.run("audit", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in reversed(done.stdout.splitlines())]

    @property
    def trusted(self) -> set[str]:
        return {path.stem for path in (self.pki.directory / "trusted").iterdir()}


@pytest.fixture
def desk(pki: TestPki, master_url: SecretStr) -> Desk:
    pki.store.reject(MADE.certificate)
    return Desk(pki, DATABASE_URL=master_url.get_secret_value())


def test_trust_and_its_end_are_in_the_audit_log(desk: Desk, tmp_path: Path) -> None:
    """Who, when, which certificate, where it was and where it is; the same again is no change."""
    authority = make("authority", ca=True)
    for words in ([MADE.thumbprint], [authority.files(tmp_path)["certificate"]], ["remove", MADE.thumbprint[:10]]):
        done = desk.run("trust", *words)
        assert done.returncode == 0, done.stderr
    again = desk.run("trust", str(tmp_path / "device.der"))
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "trusted already")
    assert desk.run("trust", "remove", "f" * 40).returncode == 2
    found = desk.audit()
    assert [(entry["action"], entry["entity_id"], entry["outcome"]) for entry in found] == [
        ("trust certificate", MADE.thumbprint, "done"),
        ("trust certificate", authority.thumbprint, "done"),
        ("distrust certificate", MADE.thumbprint, "done"),
    ]
    who = this_process()
    assert {(entry["actor"], entry["address"], entry["entity"]) for entry in found} == {
        (who.identity, who.address, "certificate")
    }
    stores = [((entry["before"] or {}).get("store"), entry["after"]["store"]) for entry in found]
    assert stores == [("rejected", "trusted"), (None, "trusted"), ("trusted", "rejected")]
    assert found[0]["after"]["subject"] == "CN=device"
    assert found[0]["after"]["application_uri"] == "urn:test:device"
    assert desk.trusted == {authority.thumbprint}
    assert "store: rejected -> trusted" in desk.run("audit").stdout


@pytest.mark.parametrize("words", [["trust", MADE.thumbprint], ["trust", "remove", MADE.thumbprint]])
@pytest.mark.parametrize("away", [True, False])
def test_what_cannot_be_written_down_is_not_changed(
    pki: TestPki, master_url: SecretStr, words: list[str], away: bool
) -> None:
    """The master database is away, or takes no entry: the certificate stays as it was, and the message says why."""
    if "remove" in words:
        pki.trust_it(MADE)
    else:
        pki.store.reject(MADE.certificate)
    if not away:
        fetch(master_url, "ALTER TABLE scada_audit_log RENAME TO elsewhere")
    url = f"postgresql://scada:Pl4nted@127.0.0.1:{free_port()}/away" if away else master_url.get_secret_value()
    desk = Desk(pki, DATABASE_URL=url)
    before = desk.trusted, pki.rejected
    done = desk.run(*words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{describe(MADE.certificate)} stays as it was" in done.stderr
    assert "audit log" in done.stderr
    assert ("127.0.0.1" if away else "scada_audit_log") in done.stderr
    assert "Pl4nted" not in done.stderr
    assert (desk.trusted, pki.rejected) == before


def test_a_change_that_comes_to_nothing_is_written_down_as_such(desk: Desk) -> None:
    """A disk that takes no file: the entry of the change is followed by that of its failure."""
    (desk.pki.directory / "trusted" / f"{MADE.thumbprint}.der").mkdir()
    done = desk.run("trust", MADE.thumbprint)
    assert done.returncode == 2
    assert "PKI_DIR: Is a directory" in done.stderr
    assert [entry["outcome"] for entry in desk.audit()] == ["done", "refused"]
    assert "Is a directory" in desk.audit()[1]["detail"]
    assert desk.pki.rejected == {MADE.thumbprint}


def test_without_a_database_of_its_own(pki: TestPki, tmp_path: Path) -> None:
    """The log is in the embedded master database, as for every other command."""
    desk = Desk(pki, DATA_DIR=str(tmp_path / "data"))
    assert desk.run("trust", MADE.files(tmp_path)["certificate"]).returncode == 0
    assert [entry["entity_id"] for entry in desk.audit()] == [MADE.thumbprint]
