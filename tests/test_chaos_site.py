"""Faults of the chaos suite beside each other: what one takes away the other gets back. Processes stand in for all."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from scada_trio.storage.embedded import EmbeddedServer
from tests.chaos import processes, service_faults
from tests.chaos.acts import NotInjected
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.processes import Child
from tests.chaos.run import Run, unexpected_lines
from tests.chaos.service_faults import keep_database_away, kill_service
from tests.chaos.site import Site

LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    while True:
        server.accept()
"""
SERVES = """
import os, socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))):
    print('{"ready": "%s"}' % os.environ.get("JOURNAL_POLICY", ""), flush=True)
time.sleep(600)
"""


class Database:
    """A process that listens, with the words that a site has for PostgreSQL."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        self.starts += 1
        self._process = subprocess.Popen([sys.executable, "-c", LISTENS, str(self.port)], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            assert stdout.readline()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def open_small_site(directory: Path) -> AsyncIterator[tuple[Site, Database]]:
    """A service that needs its database to start, and both running."""
    database = Database()
    command = [sys.executable, "-c", SERVES, str(database.port)]
    service = Child("service", command, ready=lambda entry: "ready" in entry)
    try:
        await trio.to_thread.run_sync(database.start)
        async with trio.open_nursery() as nursery:
            server = cast(EmbeddedServer, database)
            site = Site(directory, server, service, [], [], directory, [], nursery)
            nursery.start_soon(service.run)
            await service.wait_ready()
            with trio.fail_after(60):
                yield site, database
            nursery.cancel_scope.cancel()
    finally:
        database.close()


async def test_a_service_that_is_killed_while_the_database_is_kept_away_gets_it_to_start(tmp_path: Path) -> None:
    """Two faults, and neither waits for the other: the database goes again when the service is there."""
    async with open_small_site(tmp_path) as (site, database), trio.open_nursery() as nursery:

        async def served_again(_: int) -> bool:
            if site.service.starts == 1:
                nursery.start_soon(kill_service, site, random.Random(1))
                await site.service.kill()
            return site.service.starts > 1 and database.starts > 1

        await keep_database_away(site, served_again)
        assert database.pid is None
        await site.start_postgres()


async def test_a_database_that_another_fault_starts_is_taken_away_again(tmp_path: Path) -> None:
    """Nothing fills a journal while there is one."""
    async with open_small_site(tmp_path) as (site, database):

        async def twice(_: int) -> bool:
            if database.starts == 1:
                await site.start_postgres()
            return database.starts == 2 and database.pid is None

        await keep_database_away(site, twice)
        assert database.pid is None


async def test_what_does_not_come_gives_the_database_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other fault of the round goes on."""
    monkeypatch.setattr(service_faults, "_AWAY_AT_MOST_S", 0.2)
    async with open_small_site(tmp_path) as (site, database):

        async def never(_: int) -> bool:
            return False

        with pytest.raises(NotInjected, match="to be away for"):
            await keep_database_away(site, never)
        assert database.pid is not None


async def test_settings_end_with_the_fault_that_has_them(tmp_path: Path) -> None:
    """Also where it was not done, and one after the other."""
    async with open_small_site(tmp_path) as (site, _):

        async def change(policy: str, *, fails: bool = False) -> None:
            async with site.service_with(JOURNAL_POLICY=policy):
                await site.service.kill()
                await site.service.wait_ready()
                assert site.service.lines[-1] == {"ready": policy}
                if fails:
                    raise NotInjected

        with pytest.raises(NotInjected):
            await change("hold", fails=True)
        assert site.service.lines[-1] == {"ready": ""}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, "hold")
            nursery.start_soon(change, "drop_oldest")
        assert site.service.lines[-1] == {"ready": ""}


@pytest.mark.parametrize("name", ["impossible start", "impossible start + none"])
async def test_a_service_that_does_not_start_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The run goes on, to its account."""

    async def act(site: Site, rng: random.Random) -> None:
        await site.kill_postgres()
        with monkeypatch.context() as patch:
            patch.setattr(processes, "_STARTS_WITHIN_S", 0.1)
            await kill_service(site, rng)

    monkeypatch.setitem(FAULTS, "impossible start", Fault("impossible start", act))
    async with open_small_site(tmp_path) as (site, database):
        run = Run(site, 1, lambda text: None)
        await run.play([name, "none"])
        assert site.service.ready.is_set()
        assert database.pid is not None
    assert len(run.outcome.findings) == 1
    assert run.outcome.findings[0].startswith(f"after {name}: service does not start")


def test_a_start_without_a_database_is_no_bug() -> None:
    """Anything else that is no line of the log is one."""
    away = 'scada-trio: connection to server at "127.0.0.1", port 1 failed: Connection refused'
    assert unexpected_lines([{"message": away}, {"message": "started", "level": "INFO"}]) == []
    assert unexpected_lines([{"message": "scada-trio: no such thing"}]) != []
    assert unexpected_lines([{"message": "tenant died", "exception": "KeyError: 1"}]) != []
