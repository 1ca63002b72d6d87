"""`scada-trio check` of databases that an older version migrated."""

from __future__ import annotations

import io
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from pydantic import SecretStr
from rich.console import Console

from scada_trio.commands.check import check
from scada_trio.config import Settings
from scada_trio.errors import ScadaError
from scada_trio.storage.master import open_master
from scada_trio.storage.migrate import migrate_master, migrate_tenant
from tests.fix_pki import place_key
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import SECRETS

FORGET = "DELETE FROM scada_migrations WHERE migration_id = %s"


async def checked(master_url: SecretStr, folder: Path) -> list[str]:
    """The lines; the last one says how many are bad."""
    settings = Settings.load(
        database_url=master_url, encryption_key="0123456789abcdef0123456789abcdef", pki_dir=folder / "pki"
    )
    output = io.StringIO()
    try:
        await check(settings, Console(file=output, width=400))
    except ScadaError as error:
        return [*output.getvalue().splitlines(), str(error)]
    return [*output.getvalue().splitlines(), "good"]


@pytest.fixture
async def tenant_url(postgres: PostgresServer, master_url: SecretStr, tmp_path: Path) -> SecretStr:
    """The database of the only tenant."""
    place_key(tmp_path / "pki")
    url = await trio.to_thread.run_sync(postgres.create_tenant)
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(uuid4(), "Acme", SECRETS.encrypt(url))
    return url


async def test_migrations_that_wait_are_named_with_what_mends_it(
    master_url: SecretStr, tenant_url: SecretStr, tmp_path: Path
) -> None:
    """Each database's own; the tenants are checked all the same, and after `migrate` everything is good."""
    assert (await checked(master_url, tmp_path))[-1] == "good"
    fetch(master_url, FORGET, "master-0003-audit")
    fetch(tenant_url, FORGET, "tenant-0004-heartbeats")
    lines = await checked(master_url, tmp_path)
    assert lines[-1].startswith("2 of the above")
    bad = [line for line in lines if line.startswith("FAIL")]
    assert len(bad) == 2
    assert "master database" in bad[0]
    assert bad[0].endswith(": master-0003-audit not applied yet: run scada-trio migrate")
    assert bad[1].endswith("tenant Acme: tenant-0004-heartbeats not applied yet: run scada-trio migrate")
    await trio.to_thread.run_sync(migrate_master, master_url)
    await trio.to_thread.run_sync(migrate_tenant, tenant_url)
    assert (await checked(master_url, tmp_path))[-1] == "good"
