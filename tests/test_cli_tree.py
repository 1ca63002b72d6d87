"""Every command of the tree: help with an example, --json where it lists, completion, colours, exit statuses."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from scada_trio.cli.completion import complete_connection, complete_connection_id, complete_tenant
from scada_trio.cli.tree import app
from tests.fix_devices import free_port
from tests.fix_postgres import PostgresServer
from tests.test_cli import KEY, WELL, Cli, bare, tags  # noqa: F401 - fixtures

ROOT = Path(__file__).parent.parent
TREE: Any = typer.main.get_command(app)
LISTS_NOTHING = {
    *("serve", "demo", "migrate", "simulate", "loadtest", "journal export", "quarantine retry"),
    *("quarantine drop", "tenant add", "connection add", "connection remove", "trust add", "trust remove"),
    *("secrets rotate", "secrets encrypt"),
}
ESCAPE = "\x1b"


def walk(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    yield " ".join(name), command
    for inner, child in sorted(getattr(command, "commands", {}).items()):
        yield from walk(child, (*name, inner))


COMMANDS = list(walk(TREE))
LEAVES = [(name, command) for name, command in COMMANDS if not hasattr(command, "commands")]


def opts(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def find(words: list[str]) -> tuple[Any, list[str]]:
    at = TREE
    while words and words[0] in getattr(at, "commands", {}):
        at, words = at.commands[words[0]], words[1:]
    return at, words


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name or "scada-trio" for name, _ in COMMANDS])
def test_help_has_an_example_that_can_be_typed(name: str, command: Any) -> None:
    """Its options exist and its values are of their form."""
    lines = [line.replace("\\[", "[") for line in command.epilog.split("\n\n") if line.startswith("scada-trio")]
    assert lines
    for part in " && ".join(lines).split(" && "):
        words = shlex.split(part.partition(" > ")[0].partition(" < ")[0])
        assert words[0] == "scada-trio"
        at, rest = find(words[1:])
        assert not name or at in dict(walk(command)).values()
        if hasattr(at, "commands"):  # trust THUMBPRINT
            _, at, rest = at.resolve_command(at.make_context(name, rest[:]), rest)
        at.make_context(name, rest)  # which parses, and fails where something is missing


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_every_command_says_what_it_does(name: str, command: Any) -> None:
    """In a sentence; and each of its options has a word."""
    assert command.help
    assert all(parameter.help for parameter in command.params if "--help" not in parameter.opts)


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_everything_that_lists_has_json(name: str, command: Any) -> None:
    """What does not list is named above."""
    assert ("--json" in opts(command)) is (name not in LISTS_NOTHING)


def test_the_document_has_every_command_that_lists() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert {name for name, _ in LEAVES} - LISTS_NOTHING == set(re.findall(r"^\| `([a-z ]+)` \|", text, re.MULTILINE))


# --- completion


def complete(cli: Cli, shell: str, *words: str) -> str:
    """What a shell is offered for the last of ``words``."""
    asked = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": " ".join(words)},
        "fish": {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    return cli.ok(_SCADA_TRIO_COMPLETE=f"complete_{shell}", **asked[shell])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(bare: Cli, shell: str) -> None:  # noqa: F811
    """Commands, those of groups, and options; without a database no names, and no error."""
    assert "connection" in complete(bare, shell, "scada-trio", "conn")
    assert {"add", "list", "remove", "test"} <= set(
        re.findall(r"\w+", complete(bare, shell, "scada-trio", "connection", ""))
    )
    assert "--publishing-interval" in complete(bare, shell, "scada-trio", "connection", "add", "--pub")
    away = f"postgresql://scada@127.0.0.1:{free_port()}/nowhere"
    bare.env["DATABASE_URL"] = away
    assert "Permian" not in complete(bare, shell, "scada-trio", "query", "--tenant", "Per")
    script = bare.ok(_SCADA_TRIO_COMPLETE=f"source_{shell}")
    assert "_SCADA_TRIO_COMPLETE=complete_" in script
    assert "scada-trio" in script


def test_names_are_completed(
    bare: Cli,  # noqa: F811
    tags: str,  # noqa: F811
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tenants and connections; bash types what is offered as it stands, so a space comes with its backslash."""
    bare.env |= {"DATABASE_URL": postgres.create_database().get_secret_value(), "ENCRYPTION_KEY": KEY}
    bare.ok("migrate")
    bare.ok("tenant", "add", "Permian Basin", "--database-url", postgres.create_tenant().get_secret_value())
    added = bare.ok(
        *("connection", "add", "--tenant", "Permian Basin", "--name", "rtu 1", "--tags", tags),
        *("--endpoint", "opc.tcp://127.0.0.1:4840"),
    )
    identity = re.findall(r"[0-9a-f-]{36}", added)[0]
    assert complete(bare, "bash", "scada-trio", "query", "--tenant", "Per").strip() == "Permian\\ Basin"
    for name in ("DATABASE_URL", "ENCRYPTION_KEY"):
        monkeypatch.setenv(name, bare.env[name])
    assert [name for name, _ in complete_tenant("Per")] == ["Permian Basin"]
    assert complete_tenant("Eagle") == []
    assert complete_connection("") == [("rtu 1", identity)]
    assert complete_connection(identity[:4]) == [(identity, "rtu 1")]
    assert complete_connection_id("") == [(identity, "rtu 1")]
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:pass@word@:host/x")
    assert complete_connection("") == []
    monkeypatch.setenv("DATABASE_URL", "mysql://nothing")
    assert complete_tenant("") == []


def test_a_shell_takes_what_is_offered(bare: Cli, tmp_path: Path) -> None:  # noqa: F811
    """bash itself, with the script that it is given."""
    script = tmp_path / "scada-trio.bash"
    script.write_text(bare.ok(_SCADA_TRIO_COMPLETE="source_bash"))
    program = tmp_path / "bin" / "scada-trio"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scada_trio "$@"\n')
    program.chmod(0o755)
    shell = (
        f". {script}; COMP_WORDS=(scada-trio tenant l) COMP_CWORD=2; "
        "_scada_trio_completion scada-trio; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    env = {**bare.env, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", shell], env=env, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["list"]


# --- colours


def on_a_terminal(*args: str, **env: str) -> str:
    """What a command writes to a terminal that knows colours."""
    ours, theirs = pty.openpty()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "scada_trio", *args],
        env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not read:
            break
        text += read
    os.close(ours)
    process.wait(60)
    return text.decode()


COLOUR = re.compile(r"\x1b\[(\d+;)*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@pytest.mark.parametrize("args", [(), ("tenant",), ("connection",), ("connection", "add"), ("query",), ("serve",)])
def test_help_teaches(bare: Cli, args: tuple[str, ...]) -> None:  # noqa: F811 - the fixture
    """Every command explains itself."""
    text = bare.ok(*args, "--help")
    assert len(text) > 200
    assert "Usage" in text


@pytest.mark.parametrize("args", [("--help",), ("query",), ("serve",)])
def test_colours_are_for_terminals(bare: Cli, args: tuple[str, ...]) -> None:  # noqa: F811
    """Help, a mistake, the line of a wrong environment: plain in a pipe; and no colour where NO_COLOR is set."""
    done = bare.run(*args, GRPC_PORT="many")
    assert done.stdout + done.stderr
    assert ESCAPE not in done.stdout + done.stderr
    if args != ("serve",):
        assert COLOUR.search(on_a_terminal(*args))
    assert not COLOUR.search(on_a_terminal(*args, NO_COLOR="1", GRPC_PORT="many"))


# --- exit statuses, as docs/commands.md has them


def test_exit_statuses_of_commands(bare: Cli) -> None:  # noqa: F811
    """0 done, 1 it could not be done, 2 asked wrongly."""
    assert bare.run("--version").returncode == 0
    away = {"DATABASE_URL": f"postgresql://scada:x@127.0.0.1:{free_port()}/nowhere", "ENCRYPTION_KEY": KEY}
    assert bare.run("tenant", "list", **away).returncode == 1
    assert bare.run("connection", "test", f"opc.tcp://127.0.0.1:{free_port()}").returncode == 1
    drop = ("quarantine", "drop", "--tenant", "T", "--all")
    assert bare.run(*drop, stdin="n\n", **away).returncode == 1
    for wrong in (
        ("no-such-command",),
        ("tenant", "list", "--loud"),
        ("query", "--tenant", "T"),
        ("query", "--tenant", "T", "--well", "no-id", "--since", "1h"),
        ("query", "--tenant", "T", "--well", WELL, "--since", "1h", "--limit", "0"),
        ("query", "--tenant", "T", "--well", WELL, "--since", "1h", "--json", "--format", "csv"),
        ("quarantine", "retry", "--tenant", "T"),
    ):
        done = bare.run(*wrong, **away)
        assert done.returncode == 2, wrong
        assert done.stderr
        assert "Traceback" not in done.stderr
    assert "scada-trio query --help" in bare.run("query", "--tenant", "T", **away).stderr
    assert bare.run("tenant", "list", DATABASE_URL="mysql://nothing").returncode == 2


def test_errors_say_what_to_do_next(bare: Cli) -> None:  # noqa: F811
    """A database or device that is away names the command that tells more; an option is called as it is typed."""
    away = f"127.0.0.1:{free_port()}"
    assert "scada-trio check tries each" in bare.fails("tenant", "list", DATABASE_URL=f"postgresql://scada@{away}/x")
    assert "scada-trio connection test" in bare.fails("browse", f"opc.tcp://{away}")
    for option, value in (("--path", ""), ("--type", ""), ("--depth", "1000000"), ("--start", "nonsense")):
        assert bare.fails("browse", f"opc.tcp://{away}", option, value, status=2).startswith(f"scada-trio: {option}: ")
    assert "Did you mean 'tenant'?" in bare.run("tenat").stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_a_command(bare: Cli, number: signal.Signals, status: int) -> None:  # noqa: F811
    """That waits for a database: Ctrl-C is 130, SIGTERM is the system's own."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://scada@127.0.0.1:{silent.getsockname()[1]}/x"
        process = subprocess.Popen(
            [sys.executable, "-m", "scada_trio", "tenant", "list"],
            env={**bare.env, "DATABASE_URL": url, "DB_CONNECT_TIMEOUT_MS": "2000"},
            stderr=subprocess.PIPE,
            # a shell starts what is in its background without Ctrl-C, and it would be handed on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        with silent.accept()[0]:
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert b"Traceback" not in errors
