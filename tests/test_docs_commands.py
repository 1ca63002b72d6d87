"""Every shell command of the documents is run here, or is named below with the reason why it is not.

They run in the order of each document, in a directory of their own, beside a running service with a real device. What
stands for something of the reader's own, a host or an id, is replaced first; `PLACEHOLDERS` has all of them.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from pydantic import SecretStr

from scada_trio.cli.tree import app
from scada_trio.secrets import SecretBox
from tests.devices.control import FIELD_OPTION
from tests.fix_devices import command_of, free_port
from tests.fix_pki import make
from tests.fix_postgres import PostgresServer, fetch
from tests.test_cli import FAST, KEY, WELL, Cli, drop_tenant_database

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = r"(?:scada-trio|\.venv/bin/scada-trio|make|curl|grpcurl|npm|podman|cd|export|echo|_SCADA_TRIO_COMPLETE=)"
TENANT = "Permian Basin Operating"

NOT_RUN = {
    r"make\b": "installs, or takes minutes: `make -n` tells that the target exists",
    r"grpcurl\b": "tests/test_api_docs.py calls each method with the request of the document",
    r"curl\b": "tests/test_quick_start.py runs the page that they stand on",
    r"(npm|cd examples)\b": "tests/fix_webapp.py installs, builds and starts the application",
    r"podman\b": "needs an engine: tests/test_container.py does what the Containerfile says",
    r"scada-trio serve$": "does not end: the site below runs it all the while, and README's is run in its place",
    r"\.venv/bin/scada-trio simulate\b": "does not end: tests/test_quick_start.py runs it beside",
    r"export SCADA_MASTER_DATABASE_URL": "is for the NestJS application: tests/test_nestjs_example.py",
}
PLACEHOLDERS = {
    "6d0f0f3e-…": WELL,
    "6d0f…": WELL,
    "ENCRYPTION_KEY=...": f"ENCRYPTION_KEY={KEY}",
    "--tenant NAME [--json]": f"--tenant '{TENANT}' --json",
}
ENDPOINTS = re.compile(r"opc\.tcp://[a-z0-9.-]+(:4840)")
MAY_END_WITH_1 = {  # and why, beside what they are run against
    r"connection test .* --security-mode SignAndEncrypt": "the device offers no security",
    r"\| grep -v ": "grep finds nothing where every connection is as it should be",
    r"check$": "by then a connection has a security that the device does not offer",
}


@dataclass(frozen=True)
class Command:
    """A command as a document gives it, on one line."""

    document: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None where it is."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, self.text)), None)


def lines_of(text: str) -> Iterator[str]:
    """Lines of shell: those of blocks marked as such, and of indented blocks those that begin with a program."""
    fenced = r"^( *)```(\w*)\n(.*?)^\1```$"
    for indent, language, block in re.findall(fenced, text, re.MULTILINE | re.DOTALL):
        if language in {"sh", "console", "bash", "shell"}:
            yield from re.sub(rf"^{indent}", "", block, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    rest = re.sub(fenced, "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    yield from re.findall(rf"^ {{4,}}({PROGRAMS}.*)$", rest, re.MULTILINE)


def commands() -> list[Command]:
    found = [
        Command(path.relative_to(ROOT).as_posix(), line.strip().partition("   #")[0].strip())
        for path in DOCUMENTS
        for line in lines_of(path.read_text("utf-8"))
        if line.strip() and not line.strip().startswith("#")
    ]
    return list(dict.fromkeys(found))


COMMANDS = commands()
OURS = [command for command in COMMANDS if re.search(r"(^|\| |/)scada-trio [a-z-]", command.text)]
RUN = [command for command in COMMANDS if command.not_run is None and command.document != "README.md"]


@pytest.mark.parametrize("command", OURS, ids=str)
def test_commands_and_options_exist(command: Command) -> None:
    """Of every command of ours, whether it is run or not."""
    text = re.split(r" [|<>] | \[--", command.text.partition("scada-trio ")[2])[0]
    words = shlex.split(text, comments=True)
    at: Any = typer.main.get_command(app)
    while words and words[0] in getattr(at, "commands", {}):
        at, words = at.commands[words[0]], words[1:]
    assert not hasattr(at, "commands") or words[0].startswith("--") or at.name == "trust", "no such command"
    known = {name for parameter in at.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_nothing_is_left_out_without_need() -> None:
    """Each reason is that of some command, and most commands are run."""
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command.text) for command in COMMANDS), f"nothing is {pattern!r} any more"
    assert len(RUN) > 30


@pytest.mark.parametrize(
    "target", sorted({command.text.split()[1] for command in COMMANDS if command.text.startswith("make ")})
)
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the site


@dataclass
class Site:
    """Where commands run: an environment, a directory, a device."""

    cli: Cli
    device: str
    thumbprint: str

    def text(self, command: str) -> str:
        """The command with what is this site's own in the place of what stands for it."""
        for shown, meant in PLACEHOLDERS.items():
            command = command.replace(shown, meant)
        command = re.sub(r"(scada-trio trust )[0-9a-f]{40}", rf"\g<1>{self.thumbprint}", command)
        return ENDPOINTS.sub(self.device, command)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"{self.text(command)}\nexit $?"],  # so that bash stays, and completion knows the shell
            env=self.cli.env,
            cwd=self.cli.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """Two wells below Field, without security."""
    options = {"port": free_port(), "field": FIELD_OPTION}
    process = subprocess.Popen(
        [*command_of("open62541"), json.dumps(options)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.replace(" ", "").strip() == '{"ready":true}' for line in process.stdout)
        yield f"opc.tcp://127.0.0.1:{options['port']}"
    finally:
        process.kill()
        process.communicate()


def make_cli(directory: Path, **env: str) -> Cli:
    """`scada-trio` on the path, a home of its own."""
    program = directory / "bin" / "scada-trio"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scada_trio "$@"\n')
    program.chmod(0o755)
    own = {
        "DATA_DIR": str(directory / "data"),
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
        "METRICS_PORT": str(free_port()),
    }
    return Cli({**FAST, **own, **env}, directory)


@pytest.fixture(scope="module")
def site(postgres: PostgresServer, device: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Tenants and files as the documents name them, and a service that runs."""
    directory = tmp_path_factory.mktemp("site")
    url = postgres.create_database().get_secret_value()
    cli = make_cli(directory, DATABASE_URL=url, ENCRYPTION_KEY=KEY, PASSWORD="a word for the test")
    (directory / "new-url.txt").write_text("postgresql://scada:hunter2@db2/permian")
    (directory / "wells.csv").write_text(f"name,well_id\nWell-1,{WELL}\nWell-2,{WELL[:-1]}2\n")
    (directory / "tags.csv").write_text(f"well_id,node_id,tag_name\n{WELL},ns=1;s=Well-1.Pressure,Pressure\n")
    rejected = directory / "data" / "pki" / "rejected"
    rejected.mkdir(parents=True)
    stranger = make("rtu-17")
    (rejected / f"{stranger.thumbprint}.der").write_bytes(stranger.der)
    cli.ok("migrate")
    for tenant in (TENANT, "North", "Acme"):
        cli.ok("tenant", "add", tenant, "--database-url", postgres.create_tenant().get_secret_value())
    add = ("connection", "add", "--tenant", TENANT, "--name", "rtu-17", "--tags", "tags.csv", "--endpoint", device)
    cli.ok(*add)
    with cli.serving() as serving:
        serving.until("OPC UA connection established")
        yield Site(cli, device, stranger.thumbprint)


@pytest.mark.parametrize("command", RUN, ids=str)
def test_commands_run(site: Site, command: Command) -> None:
    done = site.run(command.text)
    fails = any(re.search(pattern, command.text) for pattern in MAY_END_WITH_1)
    assert done.returncode in ({0, 1} if fails else {0}), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def documented_fields() -> dict[str, list[str]]:
    """Of docs/commands.md: the fields of each command's JSON."""
    rows = re.findall(
        r"^\| `([a-z ]+)` \| (`.+`) \|$", (ROOT / "docs" / "commands.md").read_text("utf-8"), re.MULTILINE
    )
    return {name: re.findall(r"`(\w+)`", fields) for name, fields in rows}


@pytest.mark.parametrize("name", sorted(documented_fields()))
def test_json_is_json_with_the_documented_fields(site: Site, name: str) -> None:
    """And nothing else is on standard output; losses and refused readings are put there by SQL."""
    own = {
        "connection test": [site.device],
        "query": ["--tenant", TENANT, "--well", WELL, "--since", "1d"],
        "import": ["rtu-17", "--path", "Field/**", "--well", str(uuid4())],
        "losses": ["--tenant", TENANT],
        "quarantine list": ["--tenant", TENANT],
    }
    encrypted = fetch(
        SecretStr(site.cli.env["DATABASE_URL"]), "SELECT database_url FROM tenants WHERE name = %s", TENANT
    )[0][0]
    url = SecretBox(SecretStr(KEY)).decrypt(encrypted)
    with_rows = {
        "losses": "INSERT INTO scada_loss (reason, from_time, to_time) VALUES ('dropped', now(), now())",
        "quarantine list": "INSERT INTO scada_quarantine (timestamp, time_us, well_id, tag_node_id, value, quality,"
        " sqlstate, reason, journal_id, batch_seq)"
        " VALUES (now(), 1, gen_random_uuid(), 'ns=1;s=x', 1, 'Good', '23514', 'a test', gen_random_uuid(), 1)",
    }
    if name in with_rows:
        fetch(url, with_rows[name])
    if name == "query":
        deadline = time.monotonic() + 60
        while not fetch(url, "SELECT 1 FROM scada_readings LIMIT 1"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    done = site.cli.run(*name.split(), *own.get(name, []), "--json")
    assert done.returncode == 0 or name == "check", done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert all(list(row) == documented_fields()[name] for row in rows)


def test_the_way_of_the_readme(postgres: PostgresServer, device: str, tmp_path: Path) -> None:
    """From nothing to a query: its block line by line, with its tag file, and the service where it stands."""
    text = (ROOT / "README.md").read_text("utf-8")
    (tmp_path / "tags.csv").write_text(re.findall(r"```csv\n(.*?)```", text, re.DOTALL)[0])
    block = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "scada-trio serve" in block)
    lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    lines = [line.replace("WELL", WELL) for line in lines]
    site = Site(make_cli(tmp_path), device, "")
    url = postgres.create_database().get_secret_value()
    try:
        while (line := lines.pop(0)) != "scada-trio serve":
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                site.cli.env[name] = {"DATABASE_URL": url, "ENCRYPTION_KEY": KEY}[name]
                assert value
                continue
            done = site.run(line)
            assert done.returncode == 0, (line, done.stdout + done.stderr)
        with site.cli.serving() as serving:
            serving.until("OPC UA connection established")
            assert lines
            for line in lines:
                done = site.run(line)
                assert done.returncode == 0, (line, done.stdout + done.stderr)
    finally:
        drop_tenant_database(site.cli, "permian_basin_operating")
