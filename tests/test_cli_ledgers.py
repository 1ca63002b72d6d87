"""``losses`` and ``quarantine`` as an operator has them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from uuid import UUID

import pytest
import trio
from pydantic import SecretStr

from scada_trio.losses import Loss, LossReason
from scada_trio.readings import Quality
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import BUFFER, NOON_US, batch, block, tag_table
from tests.test_cli import KEY, Cli

LINK = UUID("66666666-6666-4666-8666-666666666666")


@pytest.fixture
def tenant(postgres: PostgresServer) -> SecretStr:
    """The database of a tenant that refuses values of 50 and more."""
    url = postgres.create_tenant()
    fetch(url, 'ALTER TABLE scada_readings ADD CONSTRAINT "[plausible]" CHECK (value < 50)')
    return url


@pytest.fixture
def cli(postgres: PostgresServer, tenant: SecretStr, tmp_path: Path) -> Cli:
    """A master database that knows it as Acme."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env = {**kept, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "200", "ENCRYPTION_KEY": KEY}
    env["DATABASE_URL"] = postgres.create_master().get_secret_value()
    commands = Cli(env, tmp_path)
    commands.ok("tenant", "add", "Acme", "--database-url", tenant.get_secret_value())
    return commands


async def test_a_quarantine_is_looked_through_and_emptied(cli: Cli, tenant: SecretStr) -> None:
    """list says why, retry takes back what goes through, drop asks first and leaves a loss behind."""
    readings = block(*((0, NOON_US + number, 48.0 + number, Quality.GOOD) for number in range(6)))
    async with open_tenant_writer(tenant, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write(batch(1, readings), BUFFER)

    def operate() -> None:
        listed = cli.ok("quarantine", "list", "--tenant", "Acme")
        assert '"[plausible]"' in listed
        assert "4 of 4 readings in quarantine" in listed
        rows = [
            json.loads(line)
            for line in cli.ok("quarantine", "list", "--tenant", "Acme", "--format", "json").splitlines()
        ]
        assert [(row["value"], row["sqlstate"]) for row in rows] == [(value, "23514") for value in (53, 52, 51, 50)]
        assert rows[-1]["timestamp"] == "2025-11-24T16:00:00.000002+00:00"
        last = str(rows[0]["id"])
        assert "1 readings are refused still" in cli.fails("quarantine", "retry", "--tenant", "Acme", "--id", last)
        assert "give either ids or --all" in cli.fails("quarantine", "retry", "--tenant", "Acme", status=2)
        fetch(tenant, 'ALTER TABLE scada_readings DROP CONSTRAINT "[plausible]"')
        retried = cli.ok("quarantine", "retry", "--tenant", "Acme", "--id", last, "--id", str(rows[1]["id"]))
        assert "2 readings written again, 2 went through, 2 are in quarantine" in retried
        refused = cli.run("quarantine", "drop", "--tenant", "Acme", "--all", stdin="n\n")
        assert refused.returncode == 1
        assert "Drop all readings in the quarantine of Acme for good?" in refused.stdout
        for command, *yes in (("retry",), ("drop", "--yes")):
            unknown = ("quarantine", command, "--tenant", "Acme", "--id", "999", *yes)
            assert "1 of the given ids" in cli.fails(*unknown)
        assert "2 of 2" in cli.ok("quarantine", "list", "--tenant", "Acme")
        assert "2 readings dropped" in cli.ok("quarantine", "drop", "--tenant", "Acme", "--all", "--yes")
        assert "dropped from quarantine, SQLSTATE 23514" in cli.ok("losses", "--tenant", "Acme")

    await trio.to_thread.run_sync(operate)
    assert fetch(tenant, "SELECT value FROM scada_readings ORDER BY 1") == [(48.0,), (49.0,), (52.0,), (53.0,)]


def test_a_database_that_is_away_is_one_line_that_names_the_tenant(cli: Cli, postgres: PostgresServer) -> None:
    """Whatever was asked of it; an empty answer has no table."""
    url = postgres.create_tenant()
    cli.ok("tenant", "add", "Gone", "--database-url", url.get_secret_value())
    name = url.get_secret_value().rsplit("/", 1)[1]
    fetch(postgres.server.url, f"DROP DATABASE {name}")
    since = ("--well", str(LINK), "--since", "1h")
    for command in (("quarantine", "list"), ("quarantine", "retry", "--all"), ("losses",), ("query", *since)):
        line = cli.fails(*command, "--tenant", "Gone")
        assert line.startswith("scada-trio: database of tenant Gone: connection to server at")
        assert line.endswith(f'database "{name}" does not exist')
    assert cli.ok("losses", "--tenant", "Acme") == "0 losses, 0 readings as far as they can be counted\n"
    assert cli.ok("query", "--tenant", "Acme", *since) == "0 readings\n"


async def test_losses_are_printed(cli: Cli, tenant: SecretStr) -> None:
    """By connection and time, for people and for programs."""
    gap = Loss(LossReason.SEQUENCE_GAP, LINK, NOON_US, NOON_US + 1, None, "numbers 7 to 9")
    full = Loss(LossReason.JOURNAL_FULL, None, NOON_US, NOON_US + 10_000_000, 12)
    async with open_tenant_writer(tenant, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write_losses([(1, gap), (2, full)], BUFFER)

    def operate() -> None:
        printed = cli.ok("losses", "--tenant", "Acme")
        assert "2 losses, 12 readings as far as they can be counted" in printed
        rows = list(csv.DictReader(cli.ok("losses", "--tenant", "Acme", "--format", "csv").splitlines()))
        assert [(row["reason"], row["readings"]) for row in rows] == [("journal_full", "12"), ("sequence_gap", "")]
        of_link = cli.ok("losses", "--tenant", "Acme", "--connection", str(LINK), "--format", "json").splitlines()
        assert [json.loads(line)["detail"] for line in of_link] == ["numbers 7 to 9"]
        late = cli.ok("losses", "--tenant", "Acme", "--since", "2025-11-24T16:00:05", "--format", "json")
        assert len(late.splitlines()) == 1
        assert "no tenant 'Nobody' runs here" in cli.fails("losses", "--tenant", "Nobody")

    await trio.to_thread.run_sync(operate)
