"""A tenant moves to another database, and the service to another directory, as docs/operations.md says.

Its device writes all the while, a number each time; in the end each number is in the new database once.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import trio
from pydantic import SecretStr

from scada_trio.storage.programs import Programs
from tests.fix_devices import Device, free_port, open_device
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import stored, write_series
from tests.test_cli import KEY, WELL, Cli
from tests.test_docs_commands import make_cli

DOCUMENT = Path(__file__).parent.parent / "docs" / "operations.md"
TENANT = "Permian Basin Operating"
NODE = "ns=1;s=P"
EACH = 50


def section() -> tuple[list[str], list[str]]:
    """The statements and the commands of the document's section, in order."""
    text = DOCUMENT.read_text("utf-8")
    part = text.partition("## Move a tenant to another database\n")[2].partition("\n## ")[0]
    assert "`pg_dump OLD | psql NEW`" in part
    found = {kind: re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL) for kind in ("sql", "sh")}
    return found["sql"], [line.strip() for block in found["sh"] for line in block.splitlines() if line.strip()]


def numbers(url: SecretStr) -> list[int]:
    """What the device wrote, in order of its time; without what stood there at first."""
    return [int(value) for _, _, value, _ in stored(url, NODE) if value > 0]


async def until(url: SecretStr, last: int) -> None:
    """Wait until the database has that number."""
    with trio.fail_after(120):
        while last not in await trio.to_thread.run_sync(numbers, url):  # noqa: ASYNC110 - it is in other processes
            await trio.sleep(0.1)


def copy(old: SecretStr, new: SecretStr) -> None:
    """``pg_dump OLD | psql NEW``, with the programs of the server's own version."""
    programs = Programs.find().directory
    dump = subprocess.run([programs / "pg_dump", old.get_secret_value()], check=True, capture_output=True)
    options = ("--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-")
    subprocess.run(
        [programs / "psql", *options, new.get_secret_value()], input=dump.stdout, check=True, stdout=subprocess.DEVNULL
    )


async def test_a_tenant_moves(postgres: PostgresServer, tmp_path: Path) -> None:
    (suspend, resume), shell = section()
    assert shell == ["scada-trio secrets encrypt < new-url.txt", "scada-trio migrate", "scada-trio check"]
    in_thread = trio.to_thread.run_sync
    master = await in_thread(postgres.create_database)
    old, new = await in_thread(postgres.create_tenant), await in_thread(postgres.create_database)
    cli = make_cli(tmp_path, DATABASE_URL=master.get_secret_value(), ENCRYPTION_KEY=KEY, OPC_QUEUE_SIZE="1000")
    (tmp_path / "new-url.txt").write_text(new.get_secret_value())
    (tmp_path / "tags.csv").write_text(f"well_id,node_id,tag_name\n{WELL},{NODE},Pressure\n")
    base_us = (int(time.time()) - 3600) * 1_000_000

    async def ok(*args: str) -> str:
        return await in_thread(partial(cli.ok, *args))

    async with open_device("open62541", nodes=["P"]) as device:
        write = partial(write_some, device, base_us)
        await ok("migrate")
        await ok("tenant", "add", TENANT, "--database-url", old.get_secret_value())
        add = ("connection", "add", "--tenant", TENANT, "--endpoint", device.url, "--tags", "tags.csv")
        await ok(*add, "--publishing-interval", "50", "--sampling-interval", "0")
        with cli.serving() as serving:
            await in_thread(serving.until, "OPC UA connection established")
            await write(1)
            await until(old, EACH)

            await in_thread(fetch, master, suspend)
            await in_thread(serving.until, "tenant stopped")
            await write(1 + EACH)
            (journal,) = [json.loads(line) for line in (await ok("journal", "status", "--json")).splitlines()]
            assert journal["readings"] == 0
            await in_thread(copy, old, new)
            encrypted = (await in_thread(run, cli, shell[0])).strip()
            await in_thread(fetch, master, resume.replace("'...'", f"'{encrypted}'"))
            await in_thread(serving.until, "tenant started")
            for command in shell[1:]:
                await in_thread(run, cli, command)
            await write(1 + 2 * EACH)
            await until(new, 3 * EACH)
        assert await in_thread(numbers, new) == list(range(1, 3 * EACH + 1))
        assert await in_thread(numbers, old) == list(range(1, EACH + 1))

        # and the service, to another machine
        await write(1 + 3 * EACH)
        shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
        moved = Cli({**cli.env, "DATA_DIR": str(tmp_path / "elsewhere"), "METRICS_PORT": str(free_port())}, tmp_path)
        with moved.serving() as serving:
            await in_thread(serving.until, "OPC UA connection established")
            await write(1 + 4 * EACH)
            await until(new, 5 * EACH)
    assert await in_thread(numbers, new) == list(range(1, 5 * EACH + 1))
    assert await ok("losses", "--tenant", TENANT, "--json") == ""
    assert await ok("quarantine", "list", "--tenant", TENANT, "--json") == ""


async def write_some(device: Device, base_us: int, first: int) -> None:
    """The next `EACH` numbers, a millisecond of the device's time apart."""
    await write_series(device, "P", first, EACH, base_us=base_us)


def run(cli: Cli, command: str) -> str:
    """A command as it stands in the document."""
    done = subprocess.run(["sh", "-c", command], env=cli.env, cwd=cli.cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
