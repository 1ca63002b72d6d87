"""The walk through a device's address space: three makers, wide and deep spaces, servers with limits, and endings."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from opcua import ua

from scada_trio.config import PkiSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, DeviceUnreachable, InvalidField
from scada_trio.nodes import BrowseOrder, BrowseQuery, FoundNode, NodeClass, PathPattern, Range, parse_query
from scada_trio.opcua.browse import Walk, open_walk
from scada_trio.opcua.pki import Pki
from tests.devices.control import FIELD, FIELD_OPTION
from tests.devices.scripted import SILENCE, ScriptedDevice
from tests.devices.vast import VastDevice
from tests.fix_devices import FAST, ROOT, open_device
from tests.fix_proxy import open_proxy

OURS = {"namespaces": [1]}


@asynccontextmanager
async def walking(url: str, query: BrowseQuery | None = None, **settings: Any) -> AsyncIterator[Walk]:
    """A walk that leaves no thread behind."""
    limiter = trio.CapacityLimiter(1)
    async with open_walk(
        ConnectionSpec(uuid4(), uuid4(), "test", url),
        query or parse_query(),
        settings=replace(FAST, **settings),
        pki=Pki(PkiSettings(ROOT / "no-such-pki")),
        limiter=limiter,
        resolving=trio.CapacityLimiter(1),
    ) as walk:
        yield walk
    assert limiter.borrowed_tokens == 0


async def all_of(url: str, **query: Any) -> list[FoundNode]:
    found: list[FoundNode] = []
    async with walking(url, parse_query(**query)) as walk:
        while nodes := await walk.take():
            found += nodes
        assert walk.unread == 0, walk.first_unread
    return found


@asynccontextmanager
async def serving(device: ScriptedDevice) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        yield
        nursery.cancel_scope.cancel()


async def run_cli(*args: str, cwd: Path) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of a command in a process of its own."""
    done = await trio.run_process(
        [sys.executable, "-m", "scada_trio", *args],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_what_a_device_has_is_found(maker: str) -> None:
    """Paths, types, units and ranges; arrays, texts and what cannot be read are marked; the loop ends."""
    async with open_device(maker, field=FIELD_OPTION) as device:
        found = await all_of(device.url, values=True, **OURS)
    by_path = {node.path: node for node in found if node.path.startswith("Field")}
    assert len(by_path) == len([node for node in found if node.path.startswith("Field")]) == 15
    assert [node.path for node in found if node.path in by_path][:5] == [
        "Field",
        "Field/Well-1",
        "Field/Well-1/Pressure",
        "Field/Well-1/Running",
        "Field/Well-1/Count",
    ]
    pressure = by_path["Field/Well-2/Pressure"]
    assert pressure == FoundNode(
        "ns=1;s=Well-2.Pressure",
        "Field/Well-2/Pressure",
        "Pressure",
        NodeClass.VARIABLE,
        3,
        data_type="Double",
        is_readable=True,
        unit="psi",
        range=Range(0.0, 500.0),
        value="12.5",
        status="Good",
    )
    assert by_path["Field"].node_class is NodeClass.OBJECT
    assert (by_path["Field/Well-1/Running"].data_type, by_path["Field/Well-1/Running"].value) == ("Boolean", "true")
    assert by_path["Field/Well-1/Count"].problem is None
    assert by_path["Field/Well-1/Model"].problem == "String is no number"
    profile = by_path["Field/Well-1/Profile"]
    assert (profile.is_array, profile.problem, profile.value) == (True, "array", "[1.0, 2.0]")
    command = by_path["Field/Well-1/Command"]
    assert (command.is_readable, command.problem) == (False, "not readable")


async def test_both_orders_find_the_same(maker: str) -> None:
    """Breadth first goes by levels, depth first by branches."""
    async with open_device(maker, field=FIELD_OPTION) as device:
        deep = await all_of(device.url, paths=["Field", "Field/**"])
        wide = await all_of(device.url, paths=["Field", "Field/**"], order="breadth")
        server = await all_of(
            device.url, start="i=2253", max_depth=1, node_classes=["variable"], include_properties=True
        )
    assert sorted(node.path for node in deep) == sorted(node.path for node in wide)
    assert [node.depth for node in wide] == [1, 2, 2, *[3] * 12]
    assert [node.depth for node in deep] == [1, 2, *[3] * 6, 2, *[3] * 6]
    assert {"ServerStatus", "NamespaceArray"} <= {node.path for node in server}


async def test_filters_let_through_what_they_say(maker: str) -> None:
    """By path, class, data type, depth and use; what is filtered out is still walked through."""
    async with open_device(maker, field=FIELD_OPTION) as device:

        async def paths(**query: Any) -> list[str]:
            return [node.path for node in await all_of(device.url, **OURS, **query) if "Field" in node.path]

        assert await paths(paths=["Field/*/P*"]) == [
            f"Field/Well-{well}/{name}" for well in (1, 2) for name in ("Pressure", "Profile")
        ]
        assert await paths(paths=["Pressure"], storable_only=True) == [f"Field/Well-{w}/Pressure" for w in (1, 2)]
        assert await paths(data_types=["boolean", "UINT32"]) == [
            f"Field/Well-{well}/{name}" for well in (1, 2) for name in ("Running", "Count")
        ]
        assert await paths(node_classes=["Object"]) == ["Field", "Field/Well-1", "Field/Well-2"]
        assert await paths(max_depth=1) == ["Field"]
        assert await paths(storable_only=True, paths=["Field/Well-1/**"]) == [
            f"Field/Well-1/{name}" for name in ("Pressure", "Running", "Count")
        ]


@pytest.mark.parametrize(
    ("pattern", "path", "matches", "leads_on"),
    [
        ("Field/*/Pressure", "Field/W1/Pressure", True, False),
        ("Field/*/Pressure", "Field/W1", False, True),
        ("Field/*/Pressure", "Yard/W1", False, False),
        ("Pres*", "Field/W1/Pressure", True, True),
        ("Field/**", "Field/W1/Pressure", True, True),
        ("Field/**", "Field", True, True),
        ("**/Pump?/**/Speed", "A/B/Pump1/Speed", True, True),
        ("**/Pump?/**/Speed", "A/B/Pump12/Speed", False, True),
        ("A[1]/x.y", "A[1]/x.y", True, False),
        ("A[1]/x.y", "A1/xzy", False, False),
        ("a*b*c/d", "aXbYc/d", True, False),
    ],
)
def test_globs(pattern: str, path: str, matches: bool, leads_on: bool) -> None:
    """A star stays within a name, two stars do not, brackets mean themselves."""
    compiled = PathPattern(pattern)
    assert compiled.matches(path.split("/")) is matches
    assert compiled.leads_on(path.split("/")) is leads_on


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start": "Field"}, "start"),
        ({"order": "wide"}, "order"),
        ({"max_depth": -1}, "max_depth"),
        ({"paths": [""]}, "paths"),
        ({"paths": ["x"] * 101}, "paths"),
        ({"node_classes": ["Thing"]}, "node_classes"),
        ({"namespaces": [70_000]}, "namespaces"),
    ],
)
def test_a_query_that_means_nothing_names_its_field(query: dict[str, Any], field: str) -> None:
    """Before any device is asked."""
    with pytest.raises(InvalidField) as raised:
        parse_query(**query)
    assert raised.value.field == field


async def test_a_start_that_is_not_there_is_said(maker: str) -> None:
    """And not taken for an empty branch."""
    async with open_device(maker) as device:
        with pytest.raises(DeviceError, match="start node ns=1;s=Nowhere: the server answered BadNodeIdUnknown"):
            await all_of(device.url, start="ns=1;s=Nowhere")


async def test_operation_limits_of_a_server_are_kept() -> None:
    """node-opcua refuses a call that is larger than it says."""
    limits = {"maxNodesPerBrowse": 2, "maxNodesPerRead": 3}
    async with open_device("node-opcua", field=FIELD_OPTION, limits=limits) as device:
        found = await all_of(device.url, paths=["Field/**"], node_classes=["Variable"])
    assert len(found) == 12


@pytest.mark.parametrize("tells_limits", [True, False])
@pytest.mark.parametrize("order", list(BrowseOrder))
async def test_limits_that_nobody_told_of_are_found(order: BrowseOrder, tells_limits: bool) -> None:
    """BadTooManyOperations halves the call; references that did not fit come by BrowseNext, all points are used up."""
    device = VastDevice(40, 130, depth=30, max_browse=7, max_read=9, most=50)
    device.tells_limits = tells_limits
    async with serving(device):
        found = await all_of(device.url, order=order)
    assert len({node.node_id for node in found}) == len(found) == device.count
    assert max(node.depth for node in found) == 32
    assert not device.held
    if tells_limits:
        assert (device.largest["Browse"], device.largest["Read"]) == (7, 9)


async def test_a_hundred_thousand_nodes_in_little_memory(tmp_path: Path) -> None:
    """Streamed by a process of its own: what it keeps is the ids it has seen and what is next, not what it found."""
    device = VastDevice(1000, 100, depth=200, max_browse=1000, max_read=1000)
    code = (
        "import resource, sys, scada_trio.cli as cli\n"
        "try: cli.main()\n"
        "finally: sys.stderr.write(f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n')"
    )
    peaks = []
    async with serving(device):
        for path in ("none/*", "**"):
            done = await trio.run_process(
                [sys.executable, "-c", code, "browse", device.url, "--csv", "--path", path],
                capture_stdout=True,
                capture_stderr=True,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            peaks.append(int(done.stderr.split()[-1]) / 1024)
            rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
            assert len(rows) == (0 if path == "none/*" else device.count)
    assert device.count == 101_201
    assert len({row["node_id"] for row in rows}) == device.count
    assert peaks[1] - peaks[0] < 120, f"{peaks} MB"


async def test_the_limit_of_nodes_ends_a_walk(tmp_path: Path) -> None:
    """What was found is printed, and the exit status tells that there is more."""
    device = VastDevice(20, 20)
    async with serving(device):
        status, text, errors = await run_cli("browse", device.url, "--json", "--max-nodes", "100", cwd=tmp_path)
    assert status == 1
    assert len(text.splitlines()) == 99  # and the start
    assert "stopped after 100 nodes (--max-nodes)" in errors


async def test_a_device_that_dies_in_the_middle_ends_the_walk() -> None:
    """With the error of the link, at once."""
    async with open_device("open62541", field=FIELD_OPTION) as device, open_proxy(device.options["port"]) as proxy:
        taken = []

        async def walk_and_cut() -> None:
            async with walking(proxy.url, parse_query(order="breadth", include_server=True)) as walk:
                while nodes := await walk.take():
                    taken.append(nodes)
                    proxy.cut()

        with trio.fail_after(30), pytest.raises(DeviceUnreachable):
            await walk_and_cut()
    assert len(taken) == 1


async def test_a_device_that_falls_silent_ends_the_walk(tmp_path: Path) -> None:
    """One line and exit status 1; the rows that came before are printed."""
    device = VastDevice(50, 50)
    asked = 0

    def browse(parameters: Any) -> Any:
        nonlocal asked
        asked += 1
        return VastDevice._browse(device, parameters) if asked < 4 else SILENCE

    device.answers["Browse"] = browse
    os.environ["OPC_CONNECTION_TIMEOUT_MS"] = "500"
    try:
        async with serving(device):
            status, text, errors = await run_cli("browse", device.url, "--csv", cwd=tmp_path)
    finally:
        del os.environ["OPC_CONNECTION_TIMEOUT_MS"]
    assert status == 1
    assert len(text.splitlines()) > 10
    assert errors.splitlines()[-1].startswith("scada-trio: Browse: no answer in time; is the device running?")


async def test_a_branch_that_may_not_be_seen_is_counted(tmp_path: Path) -> None:
    """The others are shown all the same."""
    device = VastDevice(5, 2)

    def browse(parameters: Any) -> Any:
        number, body = VastDevice._browse(device, parameters)
        if len(parameters.NodesToBrowse) == 5:
            bad = ua.StatusCodes.BadUserAccessDenied.to_bytes(4, "little") + b"\0" * 4 + b"\0" * 4
            one = device._result(1_000_000, 0)
            body = body.replace(one, bad, 1)
        return number, body

    device.answers["Browse"] = browse
    async with serving(device):
        status, text, errors = await run_cli("browse", device.url, cwd=tmp_path)
    assert status == 0
    assert text.count("V0000") == 8
    assert "below 1 nodes not all is shown; F00000: BadUserAccessDenied" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_closes_the_session(number: signal.Signals, tmp_path: Path) -> None:
    """Also while the device owes an answer; no traceback, exit status 130."""
    device = VastDevice(5, 5)
    device.answers["Browse"] = SILENCE
    async with serving(device):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "scada_trio", "browse", device.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            await device.until(lambda: "Browse" in device.calls)
            process.send_signal(number)
            assert process.stderr is not None
            assert b"".join([chunk async for chunk in process.stderr]) == b""
            assert await process.wait() == 130
            await device.until(lambda: "CloseSession" in device.calls)
        finally:
            if process.returncode is None:
                process.kill()


async def test_a_reader_that_has_enough_ends_the_walk(tmp_path: Path) -> None:
    """``scada-trio browse ... | head``: no traceback, and the session is closed."""
    device = VastDevice(200, 200)
    async with serving(device):
        command = f"{sys.executable} -m scada_trio browse {device.url} | head -3"
        done = await trio.run_process(
            ["/bin/sh", "-c", command],
            capture_stdout=True,
            capture_stderr=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        await device.until(lambda: "CloseSession" in device.calls)
    assert len(done.stdout.splitlines()) == 3
    assert b"Traceback" not in done.stderr


async def test_every_form_says_the_same(tmp_path: Path) -> None:
    """Tree, JSON, CSV and tag file; a filter's hits stand below the names that lead to them."""
    async with open_device("asyncua", field=FIELD_OPTION) as device:
        _, tree, errors = await run_cli("browse", device.url, "--path", "Pressure", "--values", cwd=tmp_path)
        assert tree.splitlines() == [
            "Field",
            "  Well-1",
            "    Pressure  ns=1;s=Well-1.Pressure  Double  psi  0..500  = 12.5",
            "  Well-2",
            "    Pressure  ns=1;s=Well-2.Pressure  Double  psi  0..500  = 12.5",
        ]
        assert "2 shown, 2 of them can be tags" in errors
        _, rows, _ = await run_cli("browse", device.url, "--path", "Field/Well-1/*", "--csv", cwd=tmp_path)
        _, objects, _ = await run_cli("browse", device.url, "--path", "Field/Well-1/*", "--json", cwd=tmp_path)
        well = str(uuid4())
        _, tags, _ = await run_cli(
            "browse", device.url, "--path", "Field/Well-1/*", "--tags", "--well", well, cwd=tmp_path
        )
        status, _, _ = await run_cli("browse", device.url, "--json", "--csv", cwd=tmp_path)
        assert status == 2
    assert [row["path"] for row in csv.DictReader(io.StringIO(rows))] == [
        f"Field/Well-1/{tag['name']}" for tag in FIELD
    ]
    assert len(objects.splitlines()) == 6
    assert [row["tag_name"] for row in csv.DictReader(io.StringIO(tags))] == [
        f"Field/Well-1/{name}" for name in ("Pressure", "Running", "Count")
    ]
    assert {row["well_id"] for row in csv.DictReader(io.StringIO(tags))} == {well}
