"""``import``: tags out of a device or a file into a connection, and the running service that follows."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import InvalidField
from scada_trio.readings import Tag
from scada_trio.sampling import Sampling
from scada_trio.tag_diff import compare, lines, new_tag_id
from scada_trio.wells import Place, WellRule
from tests.devices.control import FIELD_OPTION
from tests.devices.scripted import ScriptedDevice
from tests.devices.vast import VastDevice
from tests.fix_devices import ROOT, open_device, tag
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import RunningService, open_service
from tests.test_browse import serving

KEY = "0123456789abcdef0123456789abcdef"
WELLS = {"Well-1": UUID(int=1), "Well-2": UUID(int=2)}
FROM = ("--well-from", r"Field/(?P<well>[^/]+)/")


@dataclass
class Cli:
    """Commands beside a service, on its master database."""

    master_url: SecretStr
    cwd: Path

    async def run(self, *args: str, stdin: str = "") -> tuple[int, str, str]:
        env = {**os.environ, "DATABASE_URL": self.master_url.get_secret_value(), "ENCRYPTION_KEY": KEY}
        done = await trio.run_process(
            [sys.executable, "-m", "scada_trio", *args],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=self.cwd,
            env={**env, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def ok(self, *args: str) -> str:
        status, text, errors = await self.run(*args)
        assert status == 0, (text, errors)
        return text

    async def fails(self, *args: str, status: int = 1) -> str:
        got, text, errors = await self.run(*args)
        assert got == status, (got, text, errors)
        assert "Traceback" not in errors
        return errors.splitlines()[-1]


@pytest.fixture
def well_map(tmp_path: Path) -> str:
    path = tmp_path / "wells.csv"
    path.write_text("name,well_id\n" + "".join(f"{name},{well_id}\n" for name, well_id in WELLS.items()))
    return str(path)


def counts(text: str) -> list[int]:
    """Added, changed, removed, as they are."""
    found = re.search(r"(\d+) added, (\d+) changed, (\d+) removed, (\d+) as they are", text)
    assert found is not None, text
    return [int(number) for number in found.groups()]


def stored(running: RunningService) -> set[tuple[str, str, str, str]]:
    rows = fetch(
        running.master_url,
        "SELECT well_id::text, opc_node_id, tag_name, coalesce(unit, '') FROM tag_mappings WHERE deleted_at IS NULL",
    )
    return {(row[0], row[1], row[2], row[3]) for row in rows}


async def test_a_device_becomes_tags_that_the_service_reads(
    postgres: PostgresServer, tmp_path: Path, well_map: str
) -> None:
    """A dry run stores nothing; --apply does, the service monitors; the same again changes nothing; --prune removes."""
    async with open_device("open62541", nodes=["Old"], field=FIELD_OPTION) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(postgres.create_tenant())
        old = tag("ns=1;s=Old", well_id=WELLS["Well-1"])
        connection = await running.add_connection(tenant, device.url, [old], name="rtu")
        await running.connected(tenant, connection, 1)
        cli = Cli(running.master_url, tmp_path)
        command = ("import", "rtu", *FROM, "--well-map", well_map)
        before = stored(running)
        dry = await cli.ok(*command)
        assert counts(dry) == [6, 0, 0, 0]
        assert f"+ ns=1;s=Well-1.Pressure  Pressure  Double  psi  well {WELLS['Well-1']}" in dry
        assert "nothing is stored yet" in dry
        assert stored(running) == before
        applied = await cli.ok(*command, "--apply")
        assert f"stored: connection {connection}" in applied
        await running.connected(tenant, connection, 7)
        await device.write("Well-2.Pressure", 99.5)
        await running.until_stored(tenant, "ns=1;s=Well-2.Pressure", 99.5)
        again = await cli.ok(*command, "--apply")
        assert counts(again) == [0, 0, 0, 6]
        assert "stored" not in again
        pruned = await cli.ok(*command, "--prune", "--apply")
        assert counts(pruned) == [0, 0, 1, 6]
        assert "- ns=1;s=Old" in pruned
        await running.connected(tenant, connection, 6)
        assert {(row[0], row[1]) for row in stored(running)} == {
            (str(well_id), f"ns=1;s={well}.{name}")
            for well, well_id in WELLS.items()
            for name in ("Pressure", "Running", "Count")
        }


async def test_an_endpoint_becomes_a_connection_once(postgres: PostgresServer, tmp_path: Path) -> None:
    """With its password stored encrypted; found by its URL the next time."""
    async with (
        open_device("node-opcua", users={"operator": "topsecret"}, field=FIELD_OPTION) as device,
        open_service(postgres) as running,
    ):
        tenant = await running.add_tenant(postgres.create_tenant(), "north")
        cli = Cli(running.master_url, tmp_path)
        command = ("import", device.url, "--tenant", "north", "--name", "rtu 7", *FROM, "--new-wells")
        assert "--tenant" in await cli.fails("import", device.url, *FROM, "--new-wells", status=2)
        endpoint = ("--username", "operator", "--apply")
        status, text, errors = await cli.run(*command, *endpoint, stdin="wrong\n")
        assert status == 1
        assert "not trusted" in errors or "BadUser" in errors or "Identity" in errors
        assert "topsecret" not in text + errors
        thumbprint = re.search(r"scada-trio trust ([0-9a-f]{40})", errors)
        assert thumbprint is not None
        await cli.ok("trust", thumbprint[1])
        status, text, errors = await cli.run(*command, *endpoint, stdin="topsecret\n")
        assert (status, counts(text)) == (0, [6, 0, 0, 0]), errors
        assert "topsecret" not in text + errors
        (row,) = fetch(
            running.master_url, "SELECT id::text, name, username, password, tenant_id::text FROM scada_connections"
        )
        assert row[1:3] == ("rtu 7", "operator")
        assert "topsecret" not in row[3]
        assert row[4] == str(tenant)
        status, text, errors = await cli.run(*command, *endpoint, stdin="topsecret\n")
        assert (status, counts(text)) == (0, [0, 0, 0, 6]), errors


async def test_a_file_says_what_the_tags_are(postgres: PostgresServer, tmp_path: Path) -> None:
    """What it says is stored, what it does not say stays; the device is not asked."""
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(postgres.create_tenant())
        kept = tag("ns=1;s=A", well_id=WELLS["Well-1"])
        await running.add_connection(tenant, "opc.tcp://127.0.0.1:1", [kept], name="rtu")
        cli = Cli(running.master_url, tmp_path)
        path = tmp_path / "tags.csv"
        path.write_text(
            "well_id,node_id,tag_name,unit,deadband\n"
            f"{WELLS['Well-1']},ns=1;s=A,Flow,bbl,0.5\n{WELLS['Well-2']},ns=1;s=B,Level,ft,\n"
        )
        text = await cli.ok("import", "rtu", "--tags", str(path), "--apply")
        assert counts(text) == [1, 1, 0, 0]
        assert "~ ns=1;s=A" in text
        assert "unit none -> bbl" in text
        assert stored(running) == {
            (str(WELLS["Well-1"]), "ns=1;s=A", "Flow", "bbl"),
            (str(WELLS["Well-2"]), "ns=1;s=B", "Level", "ft"),
        }
        assert counts(await cli.ok("import", "rtu", "--tags", str(path), "--apply", "--prune")) == [0, 0, 0, 2]


async def test_what_cannot_be_meant_stores_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    """Unknown names, wells without an id, no well at all, a branch that was not seen while pruning."""
    device = VastDevice(3, 2)

    async with serving(device), open_service(postgres) as running:
        tenant = await running.add_tenant(postgres.create_tenant())
        for name in ("one", "twin", "twin"):
            await running.add_connection(tenant, device.url, [tag("ns=1;i=5")], name=name)
        before = stored(running)
        cli = Cli(running.master_url, tmp_path)
        apply = ("--apply",)
        assert "no active connection 'other'" in await cli.fails("import", "other", "--well", str(uuid4()), *apply)
        assert "2 connections are named 'twin'" in await cli.fails("import", "twin", "--well", str(uuid4()), *apply)
        assert "--well" in await cli.fails("import", "one", *apply, status=2)
        assert "no group" in await cli.fails("import", "one", "--well-from", "F(.*)", *apply, status=2)
        pattern = ("--well-from", "(?P<well>F[^/]+)/")
        assert "F00000, F00001, F00002" in await cli.fails("import", "one", *pattern, *apply, status=2)
        assert "can be a tag" in await cli.fails("import", "one", *pattern, "--path", "none/*", *apply)
        refuse_a_branch(device)
        refused = await cli.fails("import", "one", *pattern, "--new-wells", "--prune", *apply)
        assert "nothing is pruned" in refused
        assert stored(running) == before


def refuse_a_branch(device: ScriptedDevice) -> None:
    assert isinstance(device, VastDevice)
    plain = device._result
    bad = (0x801F0000).to_bytes(4, "little") + bytes(8)  # BadUserAccessDenied, no references
    device._result = lambda node, first: bad if node == 1_000_001 else plain(node, first)  # type: ignore[method-assign]


# ---- the comparison

CONNECTION = UUID(int=9)


def made(node_id: str, **fields: object) -> Tag:
    well_id = WELLS["Well-1"]
    return Tag(new_tag_id(CONNECTION, well_id, node_id), well_id, node_id, **fields)  # type: ignore[arg-type]


def test_a_tag_of_the_same_node_is_the_same_tag() -> None:
    """Whatever id an application gave it; a tag that moved to another well is another one."""
    theirs = Tag(uuid4(), WELLS["Well-1"], "i=1", data_type="Double", name="Flow")
    diff = compare(CONNECTION, [theirs], [made("i=1", data_type="Double")], prune=True, from_device=False)
    assert (diff.is_empty, diff.unchanged) == (True, 1)
    diff = compare(CONNECTION, [theirs], [made("i=1", data_type="Float")], prune=True, from_device=False)
    assert [after.tag_id for _, after in diff.changed] == [theirs.tag_id]
    moved = Tag(uuid4(), WELLS["Well-2"], "i=1")
    diff = compare(CONNECTION, [theirs], [moved], prune=True, from_device=False)
    assert (diff.added, diff.removed) == ([moved], [theirs])
    assert compare(CONNECTION, [theirs], [moved], prune=False, from_device=False).removed == []
    assert [line[0] for line in lines(diff)] == ["+", "-"]


def test_a_device_does_not_overrule_people() -> None:
    """Names stay; the unit of scaled values is not the device's."""
    known = made("i=1", data_type="Double", name="Tubing pressure", unit="bar", scaling_factor=0.0689)
    wanted = made("i=1", data_type="Double", name="PT101", unit="psi")
    assert compare(CONNECTION, [known], [wanted], prune=False, from_device=True).is_empty
    diff = compare(CONNECTION, [known], [wanted], prune=False, from_device=False)
    assert (diff.changed[0][1].name, diff.changed[0][1].unit) == ("PT101", "psi")
    unscaled = made("i=1", data_type="Double", name="i=1", unit="bar")
    ((_, after),) = compare(CONNECTION, [unscaled], [wanted], prune=False, from_device=True).changed
    assert (after.name, after.unit) == ("PT101", "psi")


def test_one_deadband_takes_the_others_place() -> None:
    """A node has one filter; what is not said of sampling stays."""
    known = made("i=1", deadband_percent=2.0, sampling=Sampling(100.0, 5, None))
    wanted = made("i=1", deadband=0.5, sampling=Sampling(None, 9, None))
    ((_, after),) = compare(CONNECTION, [known], [wanted], prune=False, from_device=False).changed
    assert (after.deadband, after.deadband_percent) == (0.5, None)
    assert after.sampling == Sampling(100.0, 9, None)


def test_wells_are_found_in_paths(well_map: str) -> None:
    """By a file, by an id in the path, or by one made of the name; the rest of the path names the tag."""
    tenant = uuid4()
    rule = WellRule.parse(None, FROM[1], Path(well_map), new_wells=False)
    assert rule is not None
    assert rule.place(tenant, "Field/Well-1/Pump/Speed") == Place(WELLS["Well-1"], "Pump/Speed")
    assert rule.place(tenant, f"Field/{WELLS['Well-2']}/Flow") == Place(WELLS["Well-2"], "Flow")
    assert rule.place(tenant, "Yard/Well-1/Flow") is None
    rule.check()
    assert rule.place(tenant, "Field/Well-9/Flow") is None
    with pytest.raises(InvalidField, match="no id for Well-9"):
        rule.check()
    new = WellRule.parse(None, FROM[1], None, new_wells=True)
    assert new is not None
    first, second = new.place(tenant, "Field/Well-9/Flow"), new.place(tenant, "Field/Well-9/Level")
    assert first is not None
    assert second is not None
    assert first.well_id == second.well_id
    other = new.place(uuid4(), "Field/Well-9/Flow")
    assert other is not None
    assert other.well_id != first.well_id


@pytest.mark.parametrize(
    ("text", "field"),
    [("well,id\n", "line 1"), ("name,well_id\nA,B\n", "line 2 well_id"), ('name,well_id\n"A,B\n', "line 2")],
)
def test_a_bad_file_of_wells_names_the_place(text: str, field: str, tmp_path: Path) -> None:
    """File and line."""
    path = tmp_path / "wells.csv"
    path.write_text(text)
    with pytest.raises(InvalidField, match=field):
        WellRule.parse(None, FROM[1], path, new_wells=False)


@pytest.mark.parametrize(
    "options",
    [
        {"well_id": uuid4(), "pattern": FROM[1], "file": None, "new_wells": False},
        {"well_id": None, "pattern": None, "file": None, "new_wells": True},
        {"well_id": None, "pattern": "(", "file": None, "new_wells": False},
        {"well_id": None, "pattern": FROM[1], "file": Path("missing.csv"), "new_wells": False},
    ],
)
def test_rules_that_contradict_themselves_are_refused(options: dict[str, object]) -> None:
    """Before anything is asked of a device."""
    with pytest.raises(InvalidField):
        WellRule.parse(**options)  # type: ignore[arg-type]
