"""examples/nestjs as a team would have it: installed, built, running; and a client of what it serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import SecretStr

from tests.fix_api import eventually, node
from tests.fix_build_once import Once
from tests.fix_devices import ROOT, free_port
from tests.fix_pki import ISSUER_USAGE, make
from tests.fix_service import WITHIN_S

EXAMPLE = ROOT / "examples" / "nestjs"
KEY = "0123456789abcdef0123456789abcdef"
WELL = uuid4()


def npm() -> str:
    found = shutil.which("npm")
    if found is None:
        pytest.skip("npm is not installed")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built_nest(once: Once) -> None:
    """The example's dist/; node_modules/ is kept from run to run while the lock is the same."""
    once("nest", _build_nest)


def _build_nest() -> None:
    stamp = EXAMPLE / "node_modules" / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < (EXAMPLE / "package-lock.json").stat().st_mtime:
        run(npm(), "ci", "--no-audit", "--no-fund")
        stamp.touch()
    shutil.rmtree(EXAMPLE / "dist", ignore_errors=True)
    run(npm(), "run", "build")


def start_nest(settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The application in an environment of ``settings`` alone, for one that it does not start in."""
    return subprocess.run(
        [node(), "dist/main.js"],
        cwd=EXAMPLE,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


@dataclass
class Nest:
    """The running application and a client of it."""

    process: subprocess.Popen[bytes]
    client: httpx.AsyncClient
    log: Path

    async def ask(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        """The body of the answer, which must have that status."""
        response = await self.client.request(method, path, **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def until(self, path: str, holds: Any, *, status: int = 200, **params: Any) -> Any:
        """The first answer with that status of which ``holds``."""
        with trio.fail_after(WITHIN_S):
            while True:
                response = await self.client.get(path, params=params)
                if response.status_code == status and holds(body := response.json()):
                    return body
                await trio.sleep(0.05)

    @asynccontextmanager
    async def stream(self, path: str, **params: Any) -> AsyncIterator[httpx.Response]:
        """An answer that is read piece by piece, in worker threads; its connection is closed at the end."""
        with httpx.Client(base_url=self.client.base_url, timeout=WITHIN_S) as client:
            request = client.build_request("GET", path, params=params)
            response = await trio.to_thread.run_sync(lambda: client.send(request, stream=True))
            try:
                assert response.status_code == 200, response.read()
                yield response
            finally:
                response.close()

    @asynccontextmanager
    async def live(self, **params: Any) -> AsyncIterator[Live]:
        """Live readings; the subscription stands when the block begins."""
        async with self.stream("/scada/live", **params) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            live = Live(response.iter_lines())
            assert await live.next() == ("subscribed", {})
            yield live


class Live:
    """Server-Sent Events as (name, data)."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any]:
        return await trio.to_thread.run_sync(self._next)

    def _next(self) -> tuple[str, Any]:
        name = ""
        for line in self._lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))
        raise EOFError

    async def until(self, wanted: str) -> Any:
        """The data of the next event of that name."""
        with trio.fail_after(WITHIN_S):
            while (event := await self.next())[0] != wanted:
                pass
        return event[1]


@asynccontextmanager
async def open_nest(
    tmp_path: Path, grpc_port: int, master_url: SecretStr | None = None, /, **settings: object
) -> AsyncIterator[Nest]:
    """The application on a free port; at the end it stops on SIGTERM, whatever is open, and has logged no error."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if "SCADA" not in name and name != "ENCRYPTION_KEY"}
    env |= {"PORT": str(port), "SCADA_GRPC_URL": f"127.0.0.1:{grpc_port}", "NO_COLOR": "1"}
    if master_url is not None:
        env |= {"SCADA_MASTER_DATABASE_URL": master_url.get_secret_value(), "ENCRYPTION_KEY": KEY}
    env |= {name: str(value) for name, value in settings.items()}
    log = tmp_path / "nest.log"
    with log.open("wb") as output:
        process = subprocess.Popen([node(), "dist/main.js"], cwd=EXAMPLE, env=env, stdout=output, stderr=output)
    try:
        await eventually(lambda: "successfully started" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN_S) as client:
            yield Nest(process, client, log)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (0, -signal.SIGTERM), log.read_text()
    assert "ERROR" not in log.read_text(), log.read_text()


def mapping(node_id: str, **fields: Any) -> dict[str, Any]:
    return {"wellId": str(WELL), "nodeId": node_id, **fields}


@asynccontextmanager
async def tls_before(port: int, folder: Path) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """What ends TLS before the service and asks for a client's certificate; its port, and the client's settings."""
    authority = make("authority", uri=None, ca=True, key_usage=ISSUER_USAGE, purposes=None)
    files = {}
    for name, purpose in (("proxy", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
        made = make(name, uri=None, issuer=authority, purposes=(purpose,))
        files[name] = made.files(folder, name)
        Path(files[name]["certificate"]).write_bytes(made.certificate.public_bytes(Encoding.PEM))
    ca = folder / "authority.pem"
    ca.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(files["proxy"]["certificate"], files["proxy"]["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])

    async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while received := await source.receive_some():
                await sink.send_all(received)
        scope.cancel()

    async def serve(client: trio.SSLStream[trio.SocketStream]) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, client, server, nursery.cancel_scope)
            nursery.start_soon(copy, server, client, nursery.cancel_scope)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
        settings = {"SCADA_GRPC_TLS": "true", "SCADA_GRPC_TLS_CA": str(ca)}
        settings |= {
            "SCADA_GRPC_TLS_CERT": files["client"]["certificate"],
            "SCADA_GRPC_TLS_KEY": files["client"]["key"],
        }
        yield listener.transport_listener.socket.getsockname()[1], settings
        nursery.cancel_scope.cancel()
