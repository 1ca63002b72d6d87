"""Secrets that can be told from everything else, planted everywhere, and looked for in all that comes out."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import trio
from pydantic import SecretStr

from scada_trio.secrets import SecretBox
from tests.fix_api import connection_fields, grpcio_call
from tests.fix_devices import open_device
from tests.fix_pki import make
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_tls import key_pem, pem

MARK = "Pl4nted"
MARKS = (MARK, base64.b64encode(f"prometheus:{MARK}".encode()).decode()[:20])  # as it stands in a header, too
KEY = f"{MARK}-encryption-key"
_TABLES = """
    SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"""


class Output:
    """All that came out, by where."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.marks = list(MARKS)

    def add(self, where: str, text: object) -> None:
        self.parts[where] = self.parts.get(where, "") + str(text)

    def leaks(self) -> list[str]:
        """Where a secret is, and what stands around it."""
        found = []
        for where, text in self.parts.items():
            at = max(map(text.find, self.marks))
            if at >= 0:
                found.append(f"{where}: {text[max(0, at - 300) : at + 60]}")
        return found


class Site:
    """A service in a process of its own, at level DEBUG, with a secret in each setting."""

    def __init__(self, postgres: PostgresServer, directory: Path) -> None:
        self.postgres, self.directory = postgres, directory
        self.output = Output()
        self.master = self.url_of(postgres.create_master(), "master")
        self.grpc_port, self.http_port = free_port(), free_port()
        self.tls_key, served = directory / "key.pem", make("localhost", uri=None)
        (directory / "certificate.pem").write_bytes(pem(served))
        self.tls_key.write_bytes(key_pem(served))
        self.output.marks += self.tls_key.read_text().splitlines()[2:5]
        self.environment = {
            **os.environ,
            "DATABASE_URL": self.master.get_secret_value(),
            "ENCRYPTION_KEY": KEY,
            "DATA_DIR": str(directory / "data"),
            "GRPC_PORT": str(self.grpc_port),
            "METRICS_PORT": str(self.http_port),
            "METRICS_TLS_CERT": str(directory / "certificate.pem"),
            "METRICS_TLS_KEY": str(self.tls_key),
            "METRICS_USER": "prometheus",
            "METRICS_PASSWORD": f"{MARK}-metrics",
            "LOG_LEVEL": "DEBUG",
            "OPC_RECONNECT_DELAY_MS": "100",
            "REGISTRY_INTERVAL_MS": "500",
            "AGGREGATION_BUFFER_MS": "100",
        }

    def url_of(self, url: SecretStr, name: str) -> SecretStr:
        """The same database with a login whose password is planted."""
        role = f"planted_{name}"
        fetch(self.postgres.server.url, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{MARK}-{name}'")
        return SecretStr(f"postgresql://{role}:{MARK}-{name}@{url.get_secret_value().partition('@')[2]}")

    def run(self, *arguments: str, text: str = "", **environment: str) -> str:
        """A command, to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "scada_trio", *arguments],
            env={**self.environment, **environment},
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.output.add(f"scada-trio {' '.join(arguments)}", done.stdout + done.stderr)
        return done.stdout + done.stderr

    @property
    def log(self) -> Path:
        return self.directory / "service.log"

    @contextmanager
    def serving(self) -> Iterator[None]:
        log = self.log
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "scada_trio", "serve"],
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                until(lambda: "service started" in log.read_text() or process.poll() is not None)
                yield
            finally:
                process.terminate()
                process.wait(60)
        self.output.add("log", log.read_text())
        assert process.returncode == 0, log.read_text()[-3000:]

    def call(self, method: str, **fields: Any) -> Any:
        """An answer, or the error, of which everything is kept."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            try:
                answer: Any = grpcio_call(channel, method, **fields)
            except grpc.RpcError as error:
                answer = (error.code(), error.details(), error.trailing_metadata())
        self.output.add(f"gRPC {method}", answer)
        return answer

    def get(self, path: str, auth: tuple[str, str] | None = None) -> httpx.Response:
        answer = httpx.get(f"https://127.0.0.1:{self.http_port}{path}", auth=auth, verify=False)
        self.output.add(f"HTTP {path}", answer.text + str(answer.headers))
        return answer

    def dump(self, name: str, url: SecretStr) -> None:
        """Every row of every table."""
        for (table,) in fetch(url, _TABLES):
            for (row,) in fetch(url, f"SELECT t::text FROM {table} t"):
                self.output.add(f"database {name}", f"{row}\n")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def until(holds: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def scenario(site: Site, device_url: str) -> None:
    """A day on which everything that has a secret fails, and works."""
    box = SecretBox(SecretStr(KEY))
    good = site.url_of(site.postgres.create_tenant(), "tenant")
    broken = {
        "wrong password": good.get_secret_value().replace(f"{MARK}-tenant", f"{MARK}-wrong"),
        "no such host": f"postgresql://u:{MARK}-host@no-such-host.invalid/x",
        "malformed": f"postgresql://u:{MARK}/@@:{MARK}@@/x",
        "no url": f"mysql://u:{MARK}@localhost/x",
    }
    tenants: dict[str, UUID] = {name: uuid4() for name in ("good", *broken, "other key")}
    stored = {name: box.encrypt(SecretStr(url)) for name, url in {"good": good.get_secret_value(), **broken}.items()}
    stored["other key"] = SecretBox(SecretStr("another")).encrypt(SecretStr(f"postgresql://{MARK}@x/y"))
    for name, id_ in tenants.items():
        fetch(
            site.master,
            "INSERT INTO tenants (id, name, database_url) VALUES (%s, %s, %s)",
            *(id_, name, stored[name]),
        )
    with site.serving():
        tenant = str(tenants["good"])
        login: dict[str, Any] = {"username": "visible-operator", "password": f"{MARK}-device"}
        for number, changes in enumerate(
            (
                {"endpoint_url": device_url, **login},
                {"endpoint_url": device_url, **login, "security_mode": "Sign", "security_policy": "Basic256Sha256"},
                {"endpoint_url": f"opc.tcp://u:{MARK}-endpoint@127.0.0.1:1/x"},
                {"endpoint_url": f"http://u:{MARK}-endpoint@127.0.0.1/x"},
                {"endpoint_url": device_url, **login, "security_mode": "Strange"},
                {"endpoint_url": device_url, "username": "u", "password": MARK * 1000},
                {"endpoint_url": device_url, "username": "u", "password": f"{MARK}\0"},
                {"endpoint_url": "opc.tcp://127.0.0.1:1", **login, "tags": []},
            )
        ):
            tags = [{**tag, "tag_id": str(uuid4())} for tag in connection_fields()["tags"]]
            fields = connection_fields(tenant_id=tenant, connection_id=str(uuid4()), tags=tags)
            answer = site.call("AddConnection", **{**fields, **changes})
            assert number or answer.success, answer
        site.call("AddConnection", **connection_fields(tenant_id=str(uuid4()), **login))
        site.call("AddConnection", **connection_fields(tenant_id=str(tenants["malformed"]), **login))
        site.postgres.stop()
        time.sleep(1.5)
        site.call("AddConnection", **connection_fields(tenant_id=tenant, connection_id=str(uuid4()), **login))
        site.call("QueryReadings", tenant_id=tenant, well_id=str(uuid4()), end_time=1)
        site.get("/readyz", auth=("prometheus", f"{MARK}-metrics"))
        site.run("check")
        site.postgres.start()
        until(lambda: site.call("HealthCheck").status != "unhealthy")
        for id_ in tenants.values():
            site.call("ListConnections", tenant_id=str(id_), include_tags=True)
            site.call("QueryReadings", tenant_id=str(id_), well_id=str(uuid4()), end_time=1)
        for row in site.call("ListConnections", tenant_id=tenant).connections:
            site.call("GetConnection", connection_id=row.connection_id)
        site.call("ListTenants")
        assert site.get("/metrics", auth=("prometheus", f"{MARK}-metrics")).status_code == 200
        for path in ("/metrics", "/readyz", "/healthz", "/nothing"):
            site.get(path, auth=("prometheus", f"{MARK}-guess"))
        site.tls_key.write_text(f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n")
        until(lambda: "a TLS certificate has changed and cannot be used" in site.log.read_text())
    for arguments in (
        ("tenant", "list"),
        ("connection", "list"),
        ("check",),
        ("migrate",),
        ("audit", "--json"),
        ("audit",),
        ("secrets", "rotate"),
        ("journal", "status"),
        ("storage", "report", "--tenant", "wrong password"),
        ("losses", "--tenant", "good"),
    ):
        site.run(*arguments)
    certificate = make().files(site.directory, "trusted")["certificate"]
    site.run("trust", certificate, DATABASE_URL=broken["wrong password"])
    site.run("trust", certificate)
    site.run("serve", METRICS_TLS_KEY=str(site.tls_key))
    site.run("secrets", "encrypt", text=f"{MARK}-typed")
    site.run("tenant", "add", "new", TENANT_DATABASE_URL=broken["wrong password"])
    site.run("tenant", "list", DATABASE_URL=broken["malformed"])
    site.run("tenant", "list", DATABASE_URL=broken["no url"])
    site.run("tenant", "list", DATABASE_URL=broken["wrong password"])
    site.run("secrets", "rotate", ENCRYPTION_KEY=f"{MARK}-next")
    site.dump("master", site.master)
    site.dump("tenant", good)
    for file in site.directory.rglob("*"):
        if file.is_file() and file.suffix not in (".pem", ".der"):
            site.output.add(f"file {file.name}", file.read_bytes().decode("latin-1"))
    for file in site.postgres.server.data.glob("log/*.log"):
        site.output.add("PostgreSQL's log", file.read_text(errors="replace"))


async def test_no_secret_comes_out_anywhere(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Not in logs, metrics, answers, output of commands, files, databases, or the database server's own log."""
    site = await trio.to_thread.run_sync(Site, own_postgres, tmp_path)
    async with open_device("asyncua", nodes=["Pressure"], users={"visible-operator": "right"}) as device:
        await trio.to_thread.run_sync(scenario, site, device.url)
    output = site.output
    assert output.leaks() == []
    # what is looked through is what came out
    assert "visible-operator" in output.parts["database master"]
    assert "visible-operator" in output.parts["scada-trio audit --json"]
    assert '"level": "DEBUG"' in output.parts["log"]
    assert "password authentication failed" in output.parts["log"]
    assert "master database is away" in output.parts["log"]
    assert "is not the PEM key of METRICS_TLS_CERT" in output.parts["log"]
    assert "METRICS_TLS_KEY: is not the PEM key" in output.parts["scada-trio serve"]
    assert "scada_build_info" in output.parts["HTTP /metrics"]
    assert "wrong password: " in output.parts["scada-trio migrate"]
    assert "FATAL" in output.parts["PostgreSQL's log"]
    assert any("stays as it was" in text for name, text in output.parts.items() if name.startswith("scada-trio trust"))
    assert len(output.parts) > 30
