"""The environment: defaults, units, refusals, and the two texts that tell users of it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from scada_trio.config import DeviceSettings, Settings, StorageSettings
from scada_trio.errors import ConfigError

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "generate_configuration.py"
VARIABLES = sorted(name.upper() for name in Settings.model_fields)
# The contract that clients of the old service rely on.
FIXED = {
    "OPC_CONNECTION_TIMEOUT_MS": 10_000,
    "OPC_SESSION_TIMEOUT_MS": 60_000,
    "OPC_MAX_RECONNECT_ATTEMPTS": 5,
    "OPC_RECONNECT_DELAY_MS": 5_000,
    "AGGREGATION_BUFFER_MS": 5_000,
    "MAX_BUFFER_SIZE": 10_000,
    "METRICS_PORT": 9_090,
    "GRPC_PORT": 50_051,
    "DB_MAX_CONNECTIONS": 20,
    "DB_WRITE_CONNECTIONS": 1,
}
UNIT_OF_SUFFIX = {
    "_MS": "milliseconds",
    "_BYTES": "bytes",
    "_READINGS": "readings",
    "_DAYS": "days",
    "_HOURS": "hours",
    "_PORT": "port",
    "_HOST": "address",
    "_BITS": "bits",
    "_FILE": "file",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours is set, whatever the machine's environment holds."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def generator() -> Any:
    """``scripts/generate_configuration.py`` as a module."""
    spec = importlib.util.spec_from_file_location("generate_configuration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()


def example() -> dict[str, str | None]:
    """`.env.example`: values by variable, None behind a #."""
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    found = [match for line in lines if (match := re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line))]
    assert all(line == "" or line.startswith("# ") or "=" in line for line in lines)
    assert len({match[2] for match in found}) == len(found)
    return {match[2]: None if match[1] else match[3] for match in found}


def test_documents_are_made_of_the_settings() -> None:
    """docs/configuration.md and .env.example have every variable, as the code has it."""
    document = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert GENERATOR.document(document) == document, "run `make configuration`"
    assert GENERATOR.example() == (ROOT / ".env.example").read_text("utf-8"), "run `make configuration`"
    assert sorted(example()) == VARIABLES == sorted(re.findall(r"^\| `([A-Z0-9_]+)` \|", document, re.MULTILINE))


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_is_described(variable: str) -> None:
    """What it is for, and the unit that its name says; a secret is called one."""
    field = Settings.model_fields[variable.lower()]
    about = GENERATOR.about(variable, field)
    assert len(about.text) > 10
    assert about.text.endswith(".")
    for suffix, unit in UNIT_OF_SUFFIX.items():
        if variable.endswith(suffix):
            assert about.unit == unit
    assert ("secret" in GENERATOR.type_of(field)) is ("SecretStr" in str(field.annotation))
    assert GENERATOR.range_of(variable, field) or GENERATOR.type_of(field) not in {"integer", "choice"}


def test_a_variable_without_a_description_is_refused() -> None:
    """The tables cannot be made, and so nothing lands; as where the document has no place for a subject."""

    class Bare(BaseSettings):
        mystery_ms: int = 5

    with pytest.raises(ValueError, match="MYSTERY_MS has no description"):
        GENERATOR.table(Bare)
    with pytest.raises(ValueError, match="no place for the variables: database"):
        GENERATOR.document("# Configuration")


def test_a_stale_document_fails_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And is mended by the command that the message names."""
    stale = tmp_path / ".env.example"
    stale.write_text("GRPC_PORT=1\n")
    monkeypatch.setattr(GENERATOR, "EXAMPLE", stale)
    monkeypatch.setattr(GENERATOR, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate_configuration", "--check"])
    with pytest.raises(SystemExit, match=r"stale: \.env\.example; run `make configuration`"):
        GENERATOR.main()
    monkeypatch.setattr(sys, "argv", ["generate_configuration"])
    GENERATOR.main()
    assert stale.read_text() == (ROOT / ".env.example").read_text("utf-8")


def test_the_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment copied from the example is that of a service without one."""
    for name, value in example().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    loaded = Settings.load()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert loaded == Settings.load()


@pytest.mark.parametrize(("variable", "default"), FIXED.items())
def test_fixed_defaults(variable: str, default: int) -> None:
    """What the old service's deployments leave out means what it meant."""
    assert getattr(Settings.load(), variable.lower()) == default


def test_listens_on_loopback_by_default() -> None:
    """Nothing is open to the network unless somebody says so."""
    settings = Settings.load()
    assert settings.grpc_host == settings.metrics_host == "127.0.0.1"


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_value_is_absent(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An orchestrator's empty variable does not become an empty host or directory."""
    monkeypatch.setenv(variable, "")
    assert Settings.load() == Settings.load(**{variable.lower(): Settings.model_fields[variable.lower()].default})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRPC_PORT", "65536"),
        ("GRPC_PORT", "-1"),
        ("METRICS_PORT", "http"),
        ("OPC_RECONNECT_DELAY_MS", "0"),
        ("OPC_RECONNECT_DELAY_MS", "1.5"),
        ("OPC_RECONNECT_DELAY_MS", "5s"),
        ("OPC_MAX_RECONNECT_ATTEMPTS", "-1"),
        ("AGGREGATION_BUFFER_MS", "86400001"),
        ("MAX_BUFFER_SIZE", "0"),
        ("DB_MAX_CONNECTIONS", "many"),
        ("GRPC_MAX_MESSAGE_BYTES", "10"),
        ("RAW_RETENTION_DAYS", "-1"),
        ("CHUNK_INTERVAL_HOURS", "0"),
        ("HOURLY_RETENTION_DAYS", "179"),
        ("READING_MAX_AHEAD_HOURS", "0"),
        ("OPC_CERTIFICATE_KEY_BITS", "1024"),
        ("OPC_APPLICATION_URI", "no uri"),
        ("OPC_ALLOW_DEPRECATED_POLICIES", "perhaps"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("DATABASE_URL", "mysql://scada:hunter2@db/scada"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says which variable is wrong and why; it repeats nothing that might be secret."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as raised:
        Settings.load()
    text = str(raised.value)
    assert raised.value.variable == variable
    assert text.startswith(f"{variable}: ")
    assert "\n" not in text
    assert "hunter2" not in text
    assert "hunter2" not in repr(raised.value.__context__)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing the settings shows neither URL nor key."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://scada:hunter2@db/scada")
    monkeypatch.setenv("ENCRYPTION_KEY", "a key that nobody knows")
    settings = Settings.load()
    assert settings.encryption_key == SecretStr("a key that nobody knows")
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in text
        assert "nobody knows" not in text


def test_an_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets itself stands above the environment, and is checked like it."""
    monkeypatch.setenv("GRPC_PORT", "1234")
    assert Settings.load(grpc_port=0).grpc_port == 0
    with pytest.raises(ConfigError, match="GRPC_PORT"):
        Settings.load(grpc_port=70_000)


@pytest.mark.parametrize(("given", "level"), [("debug", "DEBUG"), ("Warning", "WARNING")])
def test_levels_in_either_case(given: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log levels are understood as people write them."""
    monkeypatch.setenv("LOG_LEVEL", given)
    monkeypatch.setenv("LOG_FORMAT", "Console")
    settings = Settings.load()
    assert (settings.log_level, settings.log_format) == (level, "console")


def test_the_devices_part_is_in_seconds() -> None:
    """What connections take has the defaults of the environment, in seconds."""
    assert Settings.load().device == DeviceSettings()
    settings = Settings.load(opc_keep_alive_ms=1_500, opc_max_reconnect_attempts=0)
    assert settings.device.keep_alive_s == 1.5
    assert settings.device.max_attempts == 0


@pytest.mark.parametrize(
    ("raw", "age", "oldest"), [(730, 0, 730), (730, 30, 30), (30, 730, 30), (0, 0, 0), (0, 90, 90)]
)
def test_a_reading_is_taken_only_while_it_would_be_kept(raw: int, age: int, oldest: int) -> None:
    """The retention of raw readings bounds the age of those that are taken; 0 is no bound."""
    assert Settings.load().storage == StorageSettings()
    assert Settings.load(raw_retention_days=raw, reading_max_age_days=age).storage.oldest_days == oldest
