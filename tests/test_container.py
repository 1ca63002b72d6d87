"""The image as it is shipped: built, run read-only as nobody, scraped, queried, stopped, killed, upgraded in place."""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
import trio
from pydantic import SecretStr

from scada_trio.storage.databases import create_database
from tests.fix_api import grpcio_call
from tests.fix_container import Container, Podman, free_port, run_container, until
from tests.fix_devices import WELL, Device, open_device
from tests.fix_postgres import PostgresServer, fetch

KEY = "0123456789abcdef0123456789abcdef"


class Site:
    """A database server, and how a container reaches it."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.master: SecretStr = create_database(postgres.server.url, f"master_{uuid4().hex[:8]}")
        self.tenant: SecretStr = create_database(postgres.server.url, f"tenant_{uuid4().hex[:8]}")
        self.grpc_port = free_port()
        self.metrics_port = free_port() + 1
        self.environment = {
            "DATABASE_URL": self.master.get_secret_value(),
            "ENCRYPTION_KEY": KEY,
            "GRPC_HOST": "127.0.0.1",
            "METRICS_HOST": "127.0.0.1",
            "GRPC_PORT": str(self.grpc_port),
            "METRICS_PORT": str(self.metrics_port),
            "AGGREGATION_BUFFER_MS": "200",
            "OPC_RECONNECT_DELAY_MS": "200",
        }

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10)

    def call(self, method: str, **fields: Any) -> Any:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            return grpcio_call(channel, method, **fields)

    def count(self) -> int:
        return int(fetch(self.tenant, "SELECT count(*) FROM scada_readings")[0][0])

    def add_tenant(self, podman: Podman, image: str, volume: str) -> UUID:
        """With the image's own command line; the tenant's id."""
        once(podman, image, volume, self, "migrate")
        environment = {**self.environment, "TENANT_DATABASE_URL": self.tenant.get_secret_value()}
        once(podman, image, volume, self, "tenant", "add", "north", env=environment)
        return UUID(str(fetch(self.master, "SELECT id::text FROM tenants")[0][0]))


def once(podman: Podman, image: str, volume: str, site: Site, *command: str, env: dict[str, str] | None = None) -> str:
    settings = [part for key, value in (env or site.environment).items() for part in ("--env", f"{key}={value}")]
    done = podman(
        *("run", "--rm", "--network", "host", "--read-only", "--cap-drop", "all", "--volume", f"{volume}:/data"),
        *settings,
        image,
        *command,
    )
    return done.stdout


def test_nothing_of_the_build_is_in_the_image(podman: Podman, image: str) -> None:
    shown = podman(
        *("run", "--rm", "--read-only", "--network", "none", "--entrypoint", "/bin/sh", image, "-c"),
        "id -u; command -v gcc cc make pip hatchling; ls /opt; touch /opt/x /etc/x 2>&1; touch /data/x && echo written",
    ).stdout.splitlines()
    assert shown[0] == "10001"
    assert shown[1] == "scada-trio"
    assert shown[-1] == "written"
    assert sum("Read-only file system" in line for line in shown) == 2
    settings = podman("image", "inspect", "--format", "{{.Config.User}} {{.Config.StopSignal}}", image).stdout
    assert settings.split() == ["10001:10001", "SIGTERM"]


def test_help_and_a_missing_setting(podman: Podman, image: str) -> None:
    assert "serve" in podman("run", "--rm", "--read-only", "--network", "none", image, "--help").stdout
    done = podman("run", "--rm", "--network", "none", "--env", "METRICS_PORT=high", image, check=False)
    assert done.returncode == 2
    assert "METRICS_PORT" in done.stderr


async def test_a_day_of_a_container(podman: Podman, image: str, volume: str, postgres: PostgresServer) -> None:
    """Ready, ingests, is scraped and queried, stops cleanly; killed, it goes on from its volume and loses nothing."""
    site = await trio.to_thread.run_sync(Site, postgres)
    async with open_device("open62541", nodes=["P"]) as device, trio.open_nursery() as nursery:
        nursery.start_soon(_write, device)
        await trio.to_thread.run_sync(partial(_day, site, podman, image, volume, device.url))
        nursery.cancel_scope.cancel()


async def _write(device: Device) -> None:
    for number in count(1):
        await device.write("P", float(number))
        await trio.sleep(0.05)


def _day(site: Site, podman: Podman, image: str, volume: str, device_url: str) -> None:
    tenant_id = site.add_tenant(podman, image, volume)
    with run_container(podman, volume=volume, environment=site.environment, image=image) as container:
        container.wait_for("service started")
        until(lambda: site.get("/readyz").status_code == 200)
        answer = site.call(
            "AddConnection",
            connection_id=str(uuid4()),
            tenant_id=str(tenant_id),
            endpoint_url=device_url,
            tags=[{"tag_id": str(uuid4()), "well_id": str(WELL), "node_id": "ns=1;s=P", "data_type": "Double"}],
        )
        assert answer.success, answer.error
        until(lambda: site.count() > 20)
        assert container.health() == 0
        assert f'scada_active_connections{{tenant_id="{tenant_id}"}} 1.0' in site.get("/metrics").text
        now = int(time.time())
        answer = site.call(
            "QueryReadings", tenant_id=str(tenant_id), well_id=str(WELL), start_time=now - 600, end_time=now + 60
        )
        assert len(answer.readings) > 20
        assert answer.readings[0].value > answer.readings[-1].value

        _kill_and_start(site, container)
        assert container.stop() == 0
        assert container.wait_for("tenant stopped")["readings_in_journal"] == 0
        container.wait_for("service stopped")
        assert KEY not in container.logs()
    _no_reading_twice(site)


def _kill_and_start(site: Site, container: Container) -> None:
    """What waited in the volume's journal at a SIGKILL is written by the next start."""
    before = site.count()
    container.kill()
    assert container.health() != 0
    container.start()
    until(lambda: site.count() > before + 20)
    until(lambda: container.health() == 0)


def _no_reading_twice(site: Site) -> None:
    query = "SELECT count(*), count(DISTINCT (well_id, tag_node_id, timestamp)) FROM scada_readings"
    rows, distinct = fetch(site.tenant, query)[0]
    assert rows == distinct


@pytest.mark.parametrize("setting", ["DATABASE_URL", "ENCRYPTION_KEY"])
def test_no_secret_in_the_image(podman: Podman, image: str, setting: str) -> None:
    assert setting not in podman("image", "inspect", "--format", "{{.Config.Env}}", image).stdout
