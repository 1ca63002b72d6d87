"""What the documents say: commands run, links lead somewhere, names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid5

import pytest
from pydantic import SecretStr

from scada_trio.commands import fields
from scada_trio.commands.demo import TENANTS
from scada_trio.config import Settings
from scada_trio.metrics import Metrics
from scada_trio.simulator.field import Well
from tests.fix_postgres import fetch

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
VARIABLES = {name.upper() for name in Settings.model_fields}
OF_OTHERS = re.compile(r"TEST_\w+|TENANT_DATABASE_URL|NO_COLOR")  # of the tests, of one command, of every program
OTHER_NAMES = (
    "CHANGELOG.md",
    "api.md",
    "nestjs.md",
)  # settings that are gone, enumerations, another program's settings


def blocks(path: Path, language: str) -> Iterator[str]:
    """Fenced blocks of one language, without the indentation that a list gives them."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    for indent, block in re.findall(pattern, path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)


def test_statements_run_in_the_master_database(master_url: SecretStr) -> None:
    stored = "INSERT INTO tenants (id, name, database_url, status) VALUES (gen_random_uuid(), %s, 'old', 'ACTIVE')"
    fetch(master_url, stored, "Permian Basin Operating")
    statements = list(blocks(ROOT / "docs" / "operations.md", "sql"))
    assert all(statement.startswith("-- master\n") for statement in statements)
    for statement in statements:
        fetch(master_url, statement)
    assert fetch(master_url, "SELECT database_url, status FROM tenants") == [("...", "ACTIVE")]


# --- names


def anchors(path: Path) -> set[str]:
    """As a forge makes them of headings: lower case, spaces to hyphens, no punctuation."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", path.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in OTHER_NAMES], ids=lambda path: path.name
)
def test_variables_are_settings(path: Path) -> None:
    for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", path.read_text("utf-8")):
        assert name in VARIABLES or OF_OTHERS.fullmatch(name), name


def metric_names() -> set[str]:
    found = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("", "_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found | {"scada_certificate_expiry_timestamp_seconds"}  # which a service adds


def relations() -> set[str]:
    migrations = (ROOT / "scada_trio" / "storage" / "migrations").rglob("*.sql")
    return set(re.findall(r"\bscada_\w+", "\n".join(path.read_text("utf-8") for path in migrations)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_metrics_and_tables_exist(path: Path) -> None:
    known = metric_names() | relations() | {"scada_trio", "scada_migrations", "scada_config"}
    for name in re.findall(r"`(scada_\w+)(?:\{[^`]*\})?`", path.read_text("utf-8")):
        assert name in known, name


def test_the_quick_start_has_the_demos_ids() -> None:
    """docs/nestjs.md asks for a tenant, a well and tags that `make demo` has, at paths that the application serves."""
    text = (ROOT / "docs" / "nestjs.md").read_text("utf-8")
    ids = dict(re.findall(r"^    (TENANT|WELL)=([0-9a-f-]{36})$", text, re.MULTILINE))
    seeds = {str(uuid5(fields._NAMESPACE, tenant.name)): tenant.seed for tenant in TENANTS}
    well = Well(1, seeds[ids["TENANT"]])
    assert ids["WELL"] == str(well.well_id)
    tags = {f"{well.key}.{tag.name}" for tag in well.tags}
    assert set(re.findall(r"ns=2;s=(Well\d+\.\w+)", text)) <= tags
    controllers = "\n".join(path.read_text("utf-8") for path in (ROOT / "examples" / "nestjs" / "src").rglob("*.ts"))
    for path in re.findall(r"localhost:3000/([\w/$]+)", text):
        parts = [part for part in path.split("/") if not part.startswith("$")]
        assert all(part in controllers for part in parts), path


def test_every_alert_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "monitoring" / "alerts.yml").read_text("utf-8"))
    described = re.findall(r"^### (Scada\w+)$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
    assert described == alerts


def test_decisions_are_listed() -> None:
    directory = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (directory / "README.md").read_text("utf-8"))
    assert listed == sorted(path.name for path in directory.glob("0*.md"))
    for name in listed:
        text = (directory / name).read_text("utf-8")
        for part in ("Question", "Decision", "What decided", "Price"):
            assert f"**{part}.**" in text, name
        assert re.search(r"\d", text.partition("**What decided.**")[2]), f"{name} has no figure"
