"""A real Prometheus that scrapes what a test serves."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fix_container import free_port


class Prometheus:
    """Answers queries over what it has scraped so far."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result's series; an assertion where Prometheus finds the expression wrong."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def wait_for(self, expression: str, within_s: float = 60.0) -> None:
        """Until the expression has a series."""
        until = time.monotonic() + within_s
        while not self.query(expression):
            assert time.monotonic() < until, f"{expression} stays without a series"
            time.sleep(0.2)

    def metrics(self) -> set[str]:
        """Names of everything that was scraped, as its help text is listed."""
        return set(httpx.get(f"{self.url}/api/v1/metadata", timeout=10).json()["data"])

    def rules(self) -> list[dict[str, Any]]:
        """All alert rules as it has loaded them, with their health."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def run_prometheus(directory: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Scrapes ``target`` (host:port) every 500 ms and evaluates ``rules`` as often."""
    port = free_port()
    settings = directory / "prometheus.yml"
    settings.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        f"rule_files: [{rules}]\n"
        f"scrape_configs: [{{job_name: scada-trio, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={settings}", f"--storage.tsdb.path={directory / 'data'}"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            _wait_ready(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_ready(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{server.url}/-/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program, of the package prometheus."""
    path = shutil.which("promtool")
    if path is None or shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    return path
