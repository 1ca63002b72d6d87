"""docs/nestjs.md from top to bottom: the demo, the application, and every request of the page as it is typed there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.fix_devices import ROOT
from tests.fix_service import WITHIN_S
from tests.fix_webapp import open_nest
from tests.test_cli import _public_directory

PAGE = ROOT / "docs" / "nestjs.md"


def requests() -> list[str]:
    """The page's curl commands in order; one goes on until its quotes are closed."""
    found: list[str] = []
    open_one = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if not open_one and not line.startswith("    curl "):
            continue
        open_one = f"{open_one}\n{line[4:]}".strip()
        try:
            shlex.split(open_one)
        except ValueError:  # a quote is open
            continue
        found.append(open_one)
        open_one = ""
    return found


def variables() -> str:
    """What the page sets before it asks."""
    return "\n".join(re.findall(r"^    ((?:TENANT|WELL|FROM|TO)=.+)$", PAGE.read_text("utf-8"), re.MULTILINE))


@contextmanager
def running(*args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A command that does not end by itself; SIGTERM ends it, with status 0."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "scada_trio", *args],
        env={**kept, "PYTHONPATH": str(ROOT), "GRPC_PORT": "0", "METRICS_PORT": "0", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def first_json(process: subprocess.Popen[str], **wanted: str) -> dict[str, Any]:
    """The first line of JSON that has these fields."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if wanted.items() <= found.items():
            return found
    raise AssertionError(f"it ended without {wanted}")


async def test_the_page_is_true(built_nest: None, tmp_path: Path) -> None:
    asked = requests()
    assert len(asked) == 11
    with _public_directory() as data_dir, running("demo", DATA_DIR=str(data_dir), AGGREGATION_BUFFER_MS="200") as demo:
        grpc = (await trio.to_thread.run_sync(lambda: first_json(demo, message="demo is running")))["grpc"]
        with running("simulate", "--wells", "1") as wells:
            device = (await trio.to_thread.run_sync(lambda: first_json(wells)))["endpoint_url"]
            async with open_nest(tmp_path, int(grpc.rpartition(":")[2])) as nest:
                await Page(str(nest.client.base_url).rstrip("/"), device, tmp_path).follow(asked)


class Page:
    """Asks as the page does, one request after another."""

    def __init__(self, application: str, device: str, directory: Path) -> None:
        self.application = application.removeprefix("http://")
        self.device = device
        self.directory = directory
        self.connection = ""

    async def follow(self, asked: list[str]) -> None:
        """Every request, and what must be in its answer."""
        for command in asked:
            if "/live" in command:
                await self.look_at_live(command)
            elif "/export" in command:
                await self.until(command, lambda _: True)
                lines = (self.directory / "readings.ndjson").read_text().splitlines()
                assert lines
                assert {"tagNodeId", "value", "quality"} <= json.loads(lines[0]).keys()
            elif "-d '" in command:
                self.connection = json.loads(await self.ask(command))["connectionId"]
            elif "DELETE" in command:
                assert "statusCode" not in await self.ask(command)
            else:
                await self.until(command, good(command))

    async def look_at_live(self, command: str) -> None:
        """It does not end: ten seconds of it."""
        text = await self.ask(command.replace("curl ", "curl --max-time 10 "), status=28)
        assert text.startswith("event: subscribed\ndata: {}\n\n")
        assert '"tagNodeId":"ns=2;s=Well0001.' in text.partition("event: readings\ndata: [")[2]

    async def until(self, command: str, holds: Any) -> None:
        with trio.fail_after(WITHIN_S):
            while not holds(await self.ask(command)):  # noqa: ASYNC110 - it is in other processes
                await trio.sleep(0.2)

    async def ask(self, command: str, *, status: int = 0) -> str:
        """What curl prints; the addresses of the page are those of this test."""
        command = command.replace("localhost:3000", self.application)
        command = command.replace("opc.tcp://127.0.0.1:4840", self.device)
        script = f"{variables()}\nCONNECTION={self.connection}\n{command}"
        done = await trio.run_process(
            ["bash", "-c", script], cwd=self.directory, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == status, (command, done.stdout, done.stderr)
        text: str = done.stdout.decode()
        assert '"statusCode"' not in text, (command, text)
        return text


def good(command: str) -> Any:
    """Whether an answer is what the page promises of this request."""

    def holds(text: str) -> bool:
        body = json.loads(text)
        if "/health" in command:
            return bool(body["status"] == "ok" and body["info"]["scada"]["activeConnections"] == 10)
        if "$CONNECTION" in command:
            return bool(body["state"] == "connected")
        return bool(next(value for value in body.values() if isinstance(value, list)))

    return holds
