"""deploy/compose.yaml for real: up with podman-compose, from the wells to Prometheus, down and up again.

Debian's PostgreSQL and Prometheus stand in for the images of TimescaleDB and Prometheus (tests/compose), so that no
registry is needed; Grafana is no package of Debian's, and is left out. Ports and passwords apart, the files are as they
are shipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.fix_api import grpcio_call
from tests.fix_container import IMAGE, Podman, debian, free_port, until

ROOT = Path(__file__).parent.parent
STAND_INS = ROOT / "tests" / "compose"
STANDS_FOR = {"database": "timescale/timescaledb:latest-pg17", "prometheus": "prom/prometheus:latest"}
UP_WITHIN_S = 120.0
SERVICES = ("migrate", "scada-trio", "wells", "prometheus")
# Podman 4.3 does not start a container whose requirement has one itself; the order is podman-compose's anyway.
PODMAN = """#!/bin/bash
for option; do [[ $option == --requires=* ]] || options+=("$option"); done
exec {podman} "${{options[@]}}"
"""


class Project:
    """The files of deploy/ in a directory of their own, with ports and passwords of the test."""

    def __init__(self, podman: Podman, directory: Path) -> None:
        self.directory = directory
        self.ports = dict(zip((50051, 9090, 9091, 3000), range(free_port(), 33_000), strict=False))
        self._podman = podman
        for part in ("deploy", "monitoring"):
            shutil.copytree(ROOT / part, directory / part)
        file = directory / "deploy" / "compose.yaml"
        text = file.read_text()
        for port, ours in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}:", f"127.0.0.1:{ours}:")
        file.write_text(text.replace("name: scada-trio\n", "name: scada-trio-test\n"))
        secrets = (directory / "deploy" / "secrets.example").read_text()
        secrets = secrets.replace("change-me-change-me-change-me-xx", "0123456789abcdef0123456789abcdef")
        (directory / "deploy" / "secrets.env").write_text(secrets.replace("change-me", "word-of-the-test"))
        program = directory / "bin" / "podman"
        program.parent.mkdir()
        program.write_text(PODMAN.format(podman=shutil.which("podman")))
        program.chmod(0o755)

    def __call__(self, *command: str, check: bool = True) -> str:
        """podman-compose with the profile that has wells."""
        environment = self._podman.environment
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "podman-compose"), "--file", "deploy/compose.yaml"),
                *("--profile", "demo", *command),
            ],
            cwd=self.directory,
            env={**environment, "PATH": f"{self.directory / 'bin'}{os.pathsep}{environment['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def up(self) -> None:
        """The database, then all others: Podman before 4.6 does not wait for health, nor asks without systemd."""
        self("up", "--detach", "timescaledb")
        until(lambda: self.health("timescaledb") == 0, UP_WITHIN_S)
        self("up", "--detach", *SERVICES)

    def health(self, service: str) -> int:
        """Exit status of a service's own check."""
        return self._podman("healthcheck", "run", self.container(service), check=False).returncode

    @staticmethod
    def container(service: str) -> str:
        return f"scada-trio-test_{service}_1"

    def inspect(self, service: str, what: str) -> str:
        return self._podman("inspect", "--format", f"{{{{{what}}}}}", self.container(service)).stdout.strip()

    def get(self, port: int, path: str, **query: str) -> httpx.Response | None:
        """From a published port; None where nobody answers."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[port]}{path}", params=query, timeout=10)
        except httpx.TransportError:
            return None

    def asked(self, query: str) -> float:
        """What Prometheus answers; 0 where it has no such series."""
        response = self.get(9091, "/api/v1/query", query=query)
        if response is None or response.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it reads what it has first
            return 0.0
        found: list[Any] = response.json()["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def call(self, method: str, **fields: Any) -> Any:
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[50051]}") as channel:
            return grpcio_call(channel, method, **fields)

    def logs(self) -> str:
        """Of every container, the end."""
        names = self._podman(
            "ps", "--all", "--filter", "name=scada-trio-test_", "--format", "{{.Names}}"
        ).stdout.split()
        shown = [(name, self._podman("logs", "--tail", "5", name, check=False)) for name in names]
        return "\n".join(f"{name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}" for name, done in shown)


@pytest.fixture
def project(podman: Podman, image: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Nothing of it runs yet, and nothing of it is left afterwards."""
    base = debian(podman, tmp_path_factory.mktemp("debian"))
    for name, stands_for in STANDS_FOR.items():
        podman(
            *("build", "--quiet", "--format", "docker", "--build-arg", f"BASE={base}"),
            *("--tag", f"docker.io/{stands_for}", "--file", str(STAND_INS / f"{name}.Containerfile"), str(STAND_INS)),
            timeout_s=300,
        )
    podman("tag", IMAGE, "localhost/scada-trio:latest")
    project = Project(podman, tmp_path / "project")
    try:
        yield project
    finally:
        project("down", "--volumes", check=False)
        podman("untag", IMAGE, "localhost/scada-trio:latest", check=False)


def test_compose_from_the_wells_to_prometheus(project: Project) -> None:
    """Ready, reads its wells, is scraped with the alerts loaded, stops in its time, and goes on where it stopped."""
    project.up()
    try:
        until(lambda: project.asked("sum(scada_readings_written_total)") > 100, UP_WITHIN_S)
    except AssertionError:
        raise AssertionError(project.logs()) from None
    assert project.inspect("migrate", ".State.ExitCode") == "0"
    assert project.inspect("scada-trio", ".HostConfig.ReadonlyRootfs") == "true"
    ready, rules = project.get(9090, "/readyz"), project.get(9091, "/api/v1/rules")
    assert ready is not None
    assert ready.status_code == 200
    assert project.health("scada-trio") == 0
    assert rules is not None
    assert {group["name"] for group in rules.json()["data"]["groups"]} == {"scada-trio"}
    (tenant,) = project.call("ListTenants").tenants
    assert (tenant.name, tenant.state, tenant.connections, tenant.connections_connected) == (
        "Simulated field",
        "running",
        10,
        10,
    )
    first = project.call("ListConnections", tenant_id=tenant.tenant_id, include_tags=True).connections[0]
    assert first.endpoint_url.startswith("opc.tcp://wells:48")
    query = {"tenant_id": tenant.tenant_id, "well_ids": [first.tags[0].well_id]}
    before = project.call("LatestReadings", **query).readings
    assert len(before) == 10
    project("stop")
    assert project.inspect("scada-trio", ".State.ExitCode") == "0"
    project("down")  # containers go, volumes stay
    project.up()
    until(lambda: project.asked("sum(scada_readings_written_total)") > 0, UP_WITHIN_S)
    until(
        lambda: project.call("LatestReadings", **query).readings[0].timestamp_us > before[0].timestamp_us, UP_WITHIN_S
    )
    (again,) = project.call("ListTenants").tenants
    assert again.tenant_id == tenant.tenant_id
