"""The command line as a user has it: processes of their own, exit statuses, one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from scada_trio.secrets import SecretBox
from tests.fix_devices import free_port, open_device
from tests.fix_postgres import PostgresServer, fetch

KEY = "0123456789abcdef0123456789abcdef"
WELL = "6d0f0f3e-52c1-4c39-9d0e-0d6c9b8a1f11"
FAST = {
    "OPC_PUBLISHING_INTERVAL_MS": "50",
    "OPC_SAMPLING_INTERVAL_MS": "0",
    "AGGREGATION_BUFFER_MS": "50",
    "GRPC_PORT": "0",
    "METRICS_PORT": "0",
}


@dataclass
class Cli:
    """Runs commands in an environment that holds nothing but what is given."""

    env: dict[str, str]
    cwd: Path

    def run(self, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scada_trio", *args],
            env={**self.env, **env},
            cwd=self.cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ok(self, *args: str, **env: str) -> str:
        done = self.run(*args, **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "Warning" not in done.stderr
        return done.stdout

    def fails(self, *args: str, status: int = 1, **env: str) -> str:
        """One line on stderr, and the expected exit status."""
        done = self.run(*args, **env)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stdout
        return lines[0]

    @contextmanager
    def serving(self, **env: str) -> Iterator[Serving]:
        """``serve`` in the background, ended by SIGTERM; it must exit with 0."""
        process = subprocess.Popen(
            [sys.executable, "-m", "scada_trio", "serve"],
            env={**self.env, **env},
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        serving = Serving(process)
        try:
            yield serving
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=60)
            serving.lines += [json.loads(line) for line in rest.splitlines()]
            assert process.returncode == 0, serving.lines
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


class Serving:
    """A running service and the log lines that it has printed, each parsed from JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []

    def until(self, message: str) -> dict[str, object]:
        """Read the log up to the line with that message."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == message:
                return self.lines[-1]
        raise AssertionError(f"the service ended without {message!r}: {self.lines}")


@pytest.fixture
def bare(tmp_path: Path) -> Cli:
    """No configuration at all, but for what a process needs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    root = str(Path(__file__).parent.parent)
    return Cli({**kept, "PYTHONPATH": root, "COLUMNS": "200", **FAST}, tmp_path)


@pytest.fixture
def cli(bare: Cli, postgres: PostgresServer) -> Cli:
    """An empty master database that is not migrated yet, and a key."""
    bare.env |= {"DATABASE_URL": postgres.create_database().get_secret_value(), "ENCRYPTION_KEY": KEY}
    return bare


@pytest.fixture
def tags(tmp_path: Path) -> str:
    """A tag file with one tag."""
    path = tmp_path / "tags.csv"
    path.write_text(f"well_id,node_id,tag_name,unit\n{WELL},ns=1;s=P,Pressure,psi\n")
    return str(path)


def drop_tenant_database(cli: Cli, name: str) -> None:
    fetch(SecretStr(cli.env["DATABASE_URL"]), f'DROP DATABASE IF EXISTS "scada_tenant_{name}" (FORCE)')


async def test_from_nothing_to_readings_with_the_commands_alone(cli: Cli, tags: str) -> None:
    """migrate, tenant add, connection add, check, serve, query: the way of the README."""
    name = f"Permian {uuid4().hex[:8]}"
    slug = name.lower().replace(" ", "_")
    try:
        async with open_device("open62541", nodes=["P"]) as device:
            assert "migrations applied" in cli.ok("migrate")
            assert "up to date" in cli.ok("migrate")
            assert "native" in cli.ok("tenant", "add", name)
            assert name in cli.ok("tenant", "list")
            added = cli.ok(
                "connection", "add", "--tenant", name, "--endpoint", device.url, "--tags", tags, "--name", "rtu"
            )
            connection = re.search(r"[0-9a-f-]{36}", added)
            assert connection is not None
            assert connection[0] in cli.ok("connection", "list", "--tenant", name)
            checked = cli.ok("check")
            assert checked.count("ok  ") == 5
            with cli.serving() as serving:
                started = serving.until("service started")
                serving.until("OPC UA connection established")
                await device.write("P", 123.25)
                metrics = ""
                async with httpx.AsyncClient() as http:
                    while "scada_readings_ingested_total{" not in metrics:
                        metrics = (await http.get(f"http://127.0.0.1:{started['metrics_port']}/metrics")).text
            answered = [
                json.loads(line)
                for line in cli.ok(
                    "query", "--tenant", name, "--well", WELL, "--since", "1h", "--format", "json"
                ).splitlines()
            ]
            assert {row["tag_node_id"] for row in answered} == {"ns=1;s=P"}
            assert 123.25 in {row["value"] for row in answered}
            assert "Pressure" not in json.dumps(answered)
            assert "ns=1;s=P" in cli.ok("query", "--tenant", name, "--well", WELL, "--since", "1h")
            assert cli.ok("query", "--tenant", name, "--well", WELL, "--since", "1h", "--format", "csv").startswith(
                "timestamp,well_id"
            )
            cli.ok("connection", "remove", connection[0])
            assert connection[0] not in cli.ok("connection", "list")
        for line in serving.lines:
            assert {"timestamp", "level", "message"} <= line.keys()
            assert KEY not in json.dumps(line)
        stopped = next(line for line in serving.lines if line["message"] == "tenant stopped")
        assert UUID(str(stopped["tenant_id"]))
    finally:
        drop_tenant_database(cli, slug)


def test_two_migrations_at_once_are_safe(cli: Cli) -> None:
    """Whoever comes second waits and finds everything done."""
    command = [sys.executable, "-m", "scada_trio", "migrate"]
    processes = [
        subprocess.Popen(command, env=cli.env, cwd=cli.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted("up to date" in output for output in outputs) == [False, True]


def test_without_a_database_url_the_embedded_one_is_used_and_said(bare: Cli) -> None:
    """serve runs with no configuration at all, keeps its data in DATA_DIR, and commands share it while it runs."""
    # not below pytest's directory, which is closed to the user that runs PostgreSQL where we are root
    with _public_directory() as data_dir:
        with bare.serving(DATA_DIR=str(data_dir)) as serving:
            assert serving.until("DATABASE_URL is not set: using the embedded PostgreSQL")
            serving.until("service started")
            assert "native" in bare.ok("tenant", "add", "Embedded", DATA_DIR=str(data_dir))
            serving.until("tenant started")
        assert "Embedded" in bare.ok("tenant", "list", DATA_DIR=str(data_dir))
        assert (data_dir / "encryption.key").stat().st_mode & 0o777 == 0o600


def test_tenants_of_the_embedded_server_follow_it_to_another_port(bare: Cli) -> None:
    """Its port may be taken at the next start; what it stores of itself must not be lost with it."""
    with _public_directory() as data_dir:
        bare.ok("tenant", "add", "Moved", DATA_DIR=str(data_dir))
        port_file = data_dir / "postgres" / "port"
        port_file.write_text(f"{free_port()}\n")
        checked = bare.ok("check", DATA_DIR=str(data_dir))
        assert f":{port_file.read_text().strip()}/scada_tenant_moved" in checked


@contextmanager
def _public_directory() -> Iterator[Path]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="scada-trio-cli-"))
    try:
        yield directory / "data"
    finally:
        shutil.rmtree(directory)


def test_check_names_what_is_wrong_and_fails(cli: Cli, postgres: PostgresServer, tags: str) -> None:
    """A line for each part; the exit status is for scripts."""
    cli.ok("migrate")
    url = postgres.create_tenant().get_secret_value()
    cli.ok("tenant", "add", "Checked", "--database-url", url)
    port = free_port()
    cli.ok("connection", "add", "--tenant", "Checked", "--endpoint", f"opc.tcp://127.0.0.1:{port}", "--tags", tags)
    fetch(SecretStr(url), "DROP TABLE scada_readings CASCADE")
    done = cli.run("check")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line[:4].strip() for line in lines].count("FAIL") == 2
    assert any("not migrated" in line and "scada-trio migrate" in line for line in lines)
    assert any(f"cannot connect to 127.0.0.1:{port}" in line for line in lines)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"GRPC_PORT": "many"}, "GRPC_PORT"),
        ({"MAX_BUFFER_SIZE": "-1"}, "MAX_BUFFER_SIZE"),
        ({"AGGREGATION_BUFFER_MS": "1.5.2"}, "AGGREGATION_BUFFER_MS"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
        ({"DATABASE_URL": "mysql://user:topsecret@host/db"}, "DATABASE_URL"),
    ],
)
def test_a_bad_value_in_the_environment_stops_the_start(bare: Cli, env: dict[str, str], named: str) -> None:
    """One line that names the variable, exit status 2, and no secret in it."""
    line = bare.fails("serve", status=2, **env)
    assert named in line
    assert "topsecret" not in line


def test_a_master_database_that_cannot_be_used_is_one_line(cli: Cli) -> None:
    """Unreachable, refused, absent, malformed and not migrated: each says which it is, without the password."""
    url = cli.env["DATABASE_URL"]
    password = re.search(r":([^:@/]+)@", url)
    assert password is not None
    away = re.sub(r":\d+/", f":{free_port()}/", url)
    assert "refused" in cli.fails("serve", DATABASE_URL=away)
    assert "authentication failed" in cli.fails("serve", DATABASE_URL=url.replace(password[1], "not-the-password"))
    assert "does not exist" in cli.fails("serve", DATABASE_URL=url.rpartition("/")[0] + "/nowhere")
    assert "malformed" in cli.fails("serve", DATABASE_URL="postgresql://user:pass@word@:host/x")
    assert "scada-trio migrate" in cli.fails("serve")
    for command in (["tenant", "list"], ["connection", "list"], ["check"]):
        done = cli.run(*command, DATABASE_URL=away)
        assert done.returncode == 1
        assert password[1] not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(cli: Cli) -> None:
    """And the exit status of a wrong environment."""
    cli.ok("migrate")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in cli.fails("serve", status=2, GRPC_PORT=port)
        assert "METRICS_PORT" in cli.fails("serve", status=2, METRICS_PORT=port)


def test_mistakes_of_a_user_are_one_line_each(cli: Cli, tags: str, postgres: PostgresServer) -> None:
    """Unknown tenants, bad ids, URLs, modes, times and files; nothing is stored."""
    cli.ok("migrate")
    url = postgres.create_tenant().get_secret_value()
    cli.ok("tenant", "add", "Known", "--database-url", url)
    add = ("connection", "add", "--tenant", "Known", "--tags", tags, "--endpoint")
    good = "opc.tcp://127.0.0.1:4840"
    assert "Known" in cli.fails("tenant", "add", "Known", "--database-url", url)
    assert "there are: Known" in cli.fails("connection", "add", "--tenant", "X", "--tags", tags, "--endpoint", good)
    assert "opc.tcp" in cli.fails(*add, "http://device", status=2)
    assert "Loud" in cli.fails(*add, good, "--security-mode", "Loud", status=2)
    assert "missing.csv" in cli.fails(*add[:-3], "--tags", "missing.csv", "--endpoint", good, status=2)
    assert "--since" in cli.fails("query", "--tenant", "Known", "--well", WELL, "--since", "yesterday", status=2)
    query = ("query", "--tenant", "Known", "--well", WELL, "--since", "1h")
    assert "before" in cli.fails(*query, "--until", "2h", status=2)
    assert "no connection" in cli.fails("connection", "remove", str(uuid4()))
    assert "does not exist" in cli.fails("tenant", "add", "Broken", "--database-url", url + "-missing")
    assert "Broken" not in cli.ok("tenant", "list")
    assert "NAME: is empty" in cli.fails("tenant", "add", " ", status=2)
    assert "no connections" in cli.ok("connection", "list")


def test_a_tenant_without_a_key_cannot_be_stored(cli: Cli, postgres: PostgresServer) -> None:
    """Nothing is written in clear: the line names the variable that is missing."""
    cli.ok("migrate")
    url = postgres.create_tenant().get_secret_value()
    assert "ENCRYPTION_KEY" in cli.fails("tenant", "add", "Plain", "--database-url", url, ENCRYPTION_KEY="")
    assert "no tenants" in cli.ok("tenant", "list")


def test_a_wrong_key_is_said_of_the_tenant_it_concerns(cli: Cli, postgres: PostgresServer) -> None:
    """The others go on; the service starts."""
    cli.ok("migrate")
    cli.ok("tenant", "add", "Mine", "--database-url", postgres.create_tenant().get_secret_value())
    done = cli.run("check", ENCRYPTION_KEY="another key")
    assert done.returncode == 1
    assert "FAIL  tenant Mine: database_url:" in done.stdout
    assert "ENCRYPTION_KEY" in done.stdout


def test_a_password_comes_from_a_file_or_a_prompt_never_from_the_arguments(
    cli: Cli, tags: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    """It is stored encrypted, and shown nowhere."""
    cli.ok("migrate")
    cli.ok("tenant", "add", "T", "--database-url", postgres.create_tenant().get_secret_value())
    (tmp_path / "password").write_text("s3cret-word\n")
    endpoint = ("--endpoint", "opc.tcp://127.0.0.1:4840", "--tags", tags, "--tenant", "T", "--username", "operator")
    cli.ok("connection", "add", *endpoint, "--password-file", str(tmp_path / "password"))
    assert "password-file" in cli.fails("connection", "add", *endpoint, "--password-file", "missing", status=2)
    (tmp_path / "no-text").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in cli.fails("connection", "add", *endpoint, "--password-file", "no-text", status=2)
    stored = fetch(SecretStr(cli.env["DATABASE_URL"]), "SELECT username, password FROM scada_connections")
    assert stored[0][0] == "operator"
    assert "s3cret-word" not in stored[0][1]
    assert stored[0][1].count(":") == 2
    assert "s3cret-word" not in cli.ok("connection", "list")
    piped = cli.run("connection", "add", *endpoint, stdin="other-word\n")
    assert (piped.returncode, piped.stderr) == (0, "")
    stored = fetch(SecretStr(cli.env["DATABASE_URL"]), "SELECT password FROM scada_connections ORDER BY created_at")
    box = SecretBox(SecretStr(KEY))
    assert [box.decrypt(row[0]).get_secret_value() for row in stored] == ["s3cret-word", "other-word"]


@pytest.mark.parametrize(
    "args", [("check",), ("query", "--tenant", "T", "--well", WELL, "--since", "1h", "--format", "csv")]
)
def test_a_reader_that_has_enough_is_no_error(
    cli: Cli, postgres: PostgresServer, tags: str, args: tuple[str, ...]
) -> None:
    """As with ``| head -1``: no traceback."""
    cli.ok("migrate")
    cli.ok("tenant", "add", "T", "--database-url", postgres.create_tenant().get_secret_value())
    for _ in range(3):
        cli.ok("connection", "add", "--tenant", "T", "--endpoint", f"opc.tcp://127.0.0.1:{free_port()}", "--tags", tags)
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "scada_trio", *args],
            env=cli.env,
            cwd=cli.cwd,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_the_version_is_told(bare: Cli) -> None:
    """For whoever files a report."""
    assert re.fullmatch(r"scada-trio \d+\.\d+\.\d+\n", bare.ok("--version"))
