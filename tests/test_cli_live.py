"""What ``tenant list`` and ``connection list`` say of a running service, and of one that says nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from scada_trio.commands.running import ask_service
from scada_trio.config import Settings
from tests.fix_devices import free_port, open_device
from tests.fix_postgres import PostgresServer
from tests.fix_tls import ApiPki, key_pem, pem
from tests.test_cli import KEY, Cli, bare, tags  # noqa: F401 - fixtures


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_lists_show_what_a_running_service_does(
    bare: Cli,  # noqa: F811
    tags: str,  # noqa: F811
    postgres: PostgresServer,
    api_pki: ApiPki,
    tmp_path: Path,
) -> None:
    """With its password and its own certificate; connected and not, with a rate and the last error."""
    made = api_pki.server("localhost")
    (tmp_path / "tls.crt").write_bytes(pem(made))
    (tmp_path / "tls.key").write_bytes(key_pem(made))
    bare.env |= {
        "DATABASE_URL": postgres.create_database().get_secret_value(),
        "ENCRYPTION_KEY": KEY,
        "METRICS_PORT": str(free_port()),
        "METRICS_USER": "prometheus",
        "METRICS_PASSWORD": "s3cret-word",
        "METRICS_TLS_CERT": str(tmp_path / "tls.crt"),
        "METRICS_TLS_KEY": str(tmp_path / "tls.key"),
    }
    away = f"opc.tcp://127.0.0.1:{free_port()}"
    async with open_device("open62541", nodes=["P"]) as device:

        def operate() -> None:
            bare.ok("migrate")
            assert bare.ok("tenant", "list", "--json") == ""
            assert bare.ok("connection", "list", "--json") == ""
            bare.ok("tenant", "add", "[red]Permian", "--database-url", postgres.create_tenant().get_secret_value())
            for name, url in (("here", device.url), ("away", away)):
                bare.ok(
                    *("connection", "add", "--tenant", "[red]Permian", "--endpoint", url),
                    *("--tags", tags, "--name", name),
                )
            done = bare.run("connection", "list", "--json")
            assert (done.returncode, {row["state"] for row in rows(done.stdout)}) == (0, {None})
            assert done.stderr.startswith("no service answers at https://127.0.0.1:")
            table = bare.run("tenant", "list")
            assert "no service" in table.stdout
            assert "[red]Permian" in table.stdout
            with bare.serving() as serving:
                for message in ("OPC UA connection established", "OPC UA connection failed"):  # in either order
                    if message not in {line["message"] for line in serving.lines}:
                        serving.until(message)
                found = {row["name"]: row for row in rows(bare.ok("connection", "list", "--json"))}
                assert found["here"]["state"] == "connected"
                assert found["here"]["since"].endswith("+00:00")
                assert found["here"]["readings_per_second"] >= 0
                assert found["here"]["last_error"] is None
                assert found["away"]["state"] in {"connecting", "waiting", "failed"}
                assert "127.0.0.1" in found["away"]["last_error"]
                assert "connected" in bare.ok("connection", "list")
                (tenant,) = rows(bare.ok("tenant", "list", "--json"))
                assert (tenant["state"], tenant["connections"], tenant["connected"]) == ("running", 2, 1)
                assert tenant["waiting"] >= 0
                wrong = bare.run("tenant", "list", METRICS_PASSWORD="not-the-word")
                assert (wrong.returncode, "METRICS_PASSWORD" in wrong.stderr) == (0, True)
                assert "not-the-word" not in wrong.stdout + wrong.stderr
                other = api_pki.server("localhost")
                (tmp_path / "other.crt").write_bytes(pem(other))
                (tmp_path / "other.key").write_bytes(key_pem(other))
                stranger = bare.run(
                    *("tenant", "list"),
                    METRICS_TLS_CERT=str(tmp_path / "other.crt"),
                    METRICS_TLS_KEY=str(tmp_path / "other.key"),
                )
                assert (stranger.returncode, "certificate verify failed" in stranger.stderr) == (0, True)

        await trio.to_thread.run_sync(operate)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """Something that answers every question alike, and the port where it does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b"Forbidden", "METRICS_ALLOW"),
        (401, b"Unauthorized", "METRICS_USER"),
        (404, b"nothing here", "is no scada-trio service: status 404"),
        (200, b"<html>", "is no scada-trio service"),
        (200, b"[]", "is no scada-trio service"),
    ],
)
async def test_a_service_that_does_not_tell_is_said(status: int, body: bytes, said: str) -> None:
    """In one line, and nothing is raised."""
    with answering(status, body) as port:
        running = await ask_service(Settings.load(metrics_port=port))
    assert running.silence is not None
    assert said in running.silence
    assert not running.connections


async def test_a_service_that_cannot_be_asked_is_said(tmp_path: Path) -> None:
    """Nobody there, a port that nobody knows, an address for all, a certificate that is gone."""
    assert "Connection refused" in str((await ask_service(Settings.load(metrics_port=free_port()))).silence)
    assert "METRICS_PORT=0" in str((await ask_service(Settings.load(metrics_port=0))).silence)
    everywhere = await ask_service(Settings.load(metrics_host="0.0.0.0", metrics_port=free_port()))
    assert "http://127.0.0.1:" in str(everywhere.silence)
    sixth = await ask_service(Settings.load(metrics_host="::", metrics_port=free_port()))
    assert "http://[::1]:" in str(sixth.silence)
    gone = tmp_path / "gone.crt"
    missing = await ask_service(Settings.load(metrics_tls_cert=gone, metrics_tls_key=gone))
    assert "METRICS_TLS_CERT: No such file" in str(missing.silence)
