"""What is in deploy/: of a form that its reader takes, with files, settings and names that there are."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from azure.mgmt.appcontainers import models
from compose_spec import PyOptions

from scada_trio.config import Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
VARIABLES = {name.upper() for name in Settings.model_fields}
SECRETS = DEPLOY / "secrets.example"
OF_OTHERS = {"POSTGRES_PASSWORD", "GF_SECURITY_ADMIN_PASSWORD"}  # of the images of PostgreSQL and Grafana

# podman-systemd.unit(5) of Podman 4.4, the oldest that reads such files: one with another key is not made a unit.
CONTAINER = """
    AddCapability AddDevice Annotation ContainerName DropCapability Environment EnvironmentFile EnvironmentHost Exec
    ExposeHostPort Group HealthCmd HealthInterval HealthOnFailure HealthRetries HealthStartPeriod HealthTimeout Image
    Label Network NoNewPrivileges Notify PodmanArgs PublishPort ReadOnly RemapGid RemapUid RemapUidSize RemapUsers
    RunInit SeccompProfile SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelType Timezone
    Tmpfs User UserNS VolatileTmp Volume"""
QUADLET = {
    "Container": set(CONTAINER.split()),
    "Volume": {"Copy", "Device", "Group", "Label", "Options", "Type", "User"},
    "Unit": {"Description", "Wants", "After"},
    "Service": {"Restart", "TimeoutStopSec", "TimeoutStartSec"},
    "Install": {"WantedBy"},
}


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# --- compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")))


def test_compose_is_of_the_specification() -> None:
    read = PyOptions(apply_merge=True).from_yaml((DEPLOY / "compose.yaml").read_text("utf-8"))
    read.validate()
    assert set(read.service_names()) == {"timescaledb", "migrate", "scada-trio", "wells", "prometheus", "grafana"}


def test_what_compose_mounts_is_there(compose: Mapping[str, Any]) -> None:
    """Files as files, directories as directories: an engine makes a directory of what it does not find."""
    mounted = set()
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                path = (DEPLOY / source).resolve()
                assert path.is_dir() if not Path(target).suffix else path.is_file(), source
                mounted.add(path.relative_to(ROOT).as_posix())
            else:
                assert source in compose["volumes"], source
        for file in service.get("env_file", ()):
            assert file == "secrets.env"
    assert {"monitoring/alerts.yml", "monitoring/grafana-scada-dashboard.json"} <= mounted


def test_compose_passes_settings_that_there_are(compose: Mapping[str, Any]) -> None:
    given = variables(SECRETS)
    assert given.keys() - OF_OTHERS <= VARIABLES
    for name in ("migrate", "scada-trio", "wells"):
        service = compose["services"][name]
        assert set(service.get("environment", {})) <= VARIABLES
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    settings = Settings.load(**{name.lower(): value for name, value in given.items() if name in VARIABLES})
    assert settings.encryption_key is not None
    assert len(settings.encryption_key.get_secret_value()) == 32
    assert f":{given['POSTGRES_PASSWORD']}@timescaledb:5432/" in given["DATABASE_URL"]


def test_compose_waits_longer_than_the_service_takes_to_stop(compose: Mapping[str, Any]) -> None:
    seconds = int(compose["services"]["scada-trio"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["shutdown_grace_ms"].default / 1000 + 5


def test_compose_publishes_on_loopback_alone(compose: Mapping[str, Any]) -> None:
    """gRPC without TLS, and metrics, are for this machine."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_file_of_secrets_is_not_committed() -> None:
    assert "/deploy/secrets.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


# --- Podman


@pytest.mark.parametrize("path", sorted((DEPLOY / "quadlet").iterdir()), ids=lambda path: path.name)
def test_quadlet_keys_are_known(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text("utf-8"))
    for section in unit.sections():
        assert set(unit[section]) <= QUADLET[section], section
    for line in path.read_text("utf-8").splitlines():  # a comment behind a value would be part of it
        assert not re.match(r"\w+=.*\s#", line), line


def test_the_quadlet_mounts_its_own_volume_and_publishes_on_loopback() -> None:
    text = (DEPLOY / "quadlet" / "scada-trio.container").read_text("utf-8")
    (volume,) = re.findall(r"^Volume=([\w.-]+):/data$", text, re.MULTILINE)
    assert (DEPLOY / "quadlet" / volume).is_file()
    ports = re.findall(r"^PublishPort=(.*)$", text, re.MULTILINE)
    assert ports == ["127.0.0.1:50051:50051", "127.0.0.1:9090:9090"]
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop_s) > Settings.model_fields["shutdown_grace_ms"].default / 1000 + 5


# --- Azure


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((DEPLOY / "azure-container-app.yaml").read_text("utf-8")))


def unknown_keys(model: Any, given: Any, where: str) -> Iterator[str]:
    """Paths of keys in ``given`` that the model made of it has no attribute for."""
    if isinstance(given, list):
        for index, item in enumerate(given):
            yield from unknown_keys(model[index], item, f"{where}[{index}]")
    elif isinstance(given, dict):
        fields = getattr(type(model), "_attr_to_rest_field", None)
        assert fields is not None, f"{where} is an object where {type(model).__name__} is expected"
        attributes = {field._rest_name: name for name, field in fields.items()}
        for key, value in given.items():
            if key not in attributes:
                yield f"{where}.{key}"
            else:
                yield from unknown_keys(getattr(model, attributes[key]), value, f"{where}.{key}")


def test_azure_knows_every_key(manifest: dict[str, Any]) -> None:
    """By the models of Azure's own client; a key that is misspelt is ignored by the service."""
    assert list(unknown_keys(models.ContainerApp(manifest), manifest, "")) == []


def test_a_misspelt_key_is_found(manifest: dict[str, Any]) -> None:
    container = manifest["properties"]["template"]["containers"][0]
    wrong = {**manifest, "properties": {"template": {"containers": [{**container, "volumeMount": []}]}}}
    assert list(unknown_keys(models.ContainerApp(wrong), wrong, "")) == [
        ".properties.template.containers[0].volumeMount"
    ]


def test_azure_values_are_of_its_enumerations(manifest: dict[str, Any]) -> None:
    properties = manifest["properties"]
    template, configuration = properties["template"], properties["configuration"]
    assert configuration["activeRevisionsMode"] in {mode.value for mode in models.ActiveRevisionsMode}
    assert configuration["ingress"]["transport"] in {kind.value for kind in models.IngressTransportMethod}
    for volume in template["volumes"]:
        assert volume["storageType"] in {kind.value for kind in models.StorageType}
    for probe in template["containers"][0]["probes"]:
        assert probe["type"] in {kind.value for kind in models.Type}


def test_azure_runs_one_replica_with_settings_that_there_are(manifest: dict[str, Any]) -> None:
    """Two would take the same devices' subscriptions and journals from each other."""
    properties = manifest["properties"]
    assert (properties["template"]["scale"]["minReplicas"], properties["template"]["scale"]["maxReplicas"]) == (1, 1)
    (container,) = properties["template"]["containers"]
    assert {entry["name"] for entry in container["env"]} <= VARIABLES
    secrets = {secret["name"] for secret in properties["configuration"]["secrets"]}
    assert {entry["secretRef"] for entry in container["env"] if "secretRef" in entry} == secrets
    volumes = {volume["name"] for volume in properties["template"]["volumes"]}
    assert {mount["volumeName"] for mount in container["volumeMounts"]} == volumes
    assert {probe["httpGet"]["path"] for probe in container["probes"]} == {"/healthz", "/readyz"}
    assert properties["template"]["terminationGracePeriodSeconds"] > 15


def test_azure_keeps_the_journal_on_a_local_disk(manifest: dict[str, Any]) -> None:
    """SQLite's WAL needs memory that its users share; a share of files has none (docs/container.md)."""
    template = manifest["properties"]["template"]
    kinds = {volume["name"]: volume["storageType"] for volume in template["volumes"]}
    mounts = {mount["mountPath"]: kinds[mount["volumeName"]] for mount in template["containers"][0]["volumeMounts"]}
    assert mounts == {"/data/journal": "EmptyDir", "/data/pki": "AzureFile"}


# --- Prometheus and Grafana


def test_prometheus_takes_its_configuration(promtool: str, tmp_path: Path) -> None:
    """As compose mounts it, with the rules beside it."""
    for source in (DEPLOY / "prometheus" / "prometheus.yml", ROOT / "monitoring" / "alerts.yml"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 rules found" in done.stdout + done.stderr


def test_grafana_finds_prometheus_and_the_dashboard(compose: Mapping[str, Any]) -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "scada-trio.yml").read_text())["providers"]
    targets = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert any(target.startswith(f"{provider['options']['path']}/") for target in targets)
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["scada-trio:9090"]}]
    assert re.search(job["job_name"], "scada-trio"), "the alerts match jobs whose name has scada in it"
