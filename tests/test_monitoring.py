"""The dashboard and the alert rules, asked of a real Prometheus that scrapes a running service."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import trio
from pydantic import SecretStr

from tests.fix_devices import Device, open_device, tag
from tests.fix_postgres import PostgresServer
from tests.fix_prometheus import run_prometheus
from tests.fix_service import open_service

MONITORING = Path(__file__).parent.parent / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana-scada-dashboard.json").read_text())
ALERTS = MONITORING / "alerts.yml"

# What a healthy service has no series of: nothing was lost, retried, refused or overflowed yet.
QUIET = {
    "scada_connection_errors_total",
    "scada_queue_overflows_total",
    "scada_readings_unstorable_total",
    "scada_notifications_undecodable_total",
    "scada_db_write_retries_total",
}


def targets() -> Iterator[tuple[str, str]]:
    """Title and expression of everything that the dashboard asks."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def filled(expression: str) -> str:
    """The expression as Grafana sends it with every variable at All."""
    for variable in ("tenant", "connection", "job"):
        expression = expression.replace(f"${variable}", ".*")
    expression = expression.replace("$__rate_interval", "30s").replace("$__range", "1h")
    assert "$" not in expression, expression
    return expression


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:scada|process)_[a-z_]+\b", re.sub(r"by \([^)]*\)", "", expression))) - {"scada_trio"}


def test_rules_by_their_own_tests(promtool: str) -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_that_fires_it() -> None:
    tests = (MONITORING / "alerts_test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\s+exp_alerts:\s+- exp_labels", tests))
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == fired


def test_dashboard_is_whole() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels:
        assert panel["targets"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {
        *("datasource", "job", "tenant", "connection"),
    }


@pytest.mark.usefixtures("promtool")
async def test_every_query_against_a_running_service(
    postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path
) -> None:
    async with open_device("open62541", nodes=["P"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P")])
        await running.connected(tenant, connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, device)
            await trio.to_thread.run_sync(_ask, tmp_path, "{}:{}".format(*running.addresses.http))
            nursery.cancel_scope.cancel()


async def _write(device: Device) -> None:
    for number in count(1):
        await device.write("P", float(number))
        await trio.sleep(0.05)


def _ask(directory: Path, target: str) -> None:
    with run_prometheus(directory, target, ALERTS) as prometheus:
        prometheus.wait_for("rate(scada_readings_written_total[30s]) > 0")
        prometheus.wait_for("rate(scada_db_write_duration_seconds_count[30s]) > 0")
        for title, expression in targets():
            result = prometheus.query(filled(expression))
            assert result or names(expression) & QUIET, f"{title}: {expression} has no series"
        for variable in DASHBOARD["templating"]["list"]:
            if variable["type"] == "query":
                metric = re.match(r"label_values\((\w+)\b", variable["query"]["query"])
                assert metric is not None
                assert prometheus.query(metric[1])
        rules = prometheus.rules()
        known = prometheus.metrics()
        for expression in (*(expression for _, expression in targets()), *(rule["query"] for rule in rules)):
            for name in names(expression):
                assert name in known or re.sub(r"_(bucket|sum|count|total)$", "", name) in known, name
        assert len(rules) == ALERTS.read_text().count("- alert:")
        assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
