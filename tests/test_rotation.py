"""Secrets from files, and a key that is changed: read with either, written with the new one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from pydantic import SecretStr
from rich.console import Console

from scada_trio.commands.secrets import rotate
from scada_trio.config import Settings
from scada_trio.errors import ConfigError, ScadaError, SecretError
from scada_trio.instance import open_instance
from scada_trio.readings import Tag
from scada_trio.secrets import SecretBox
from scada_trio.service import Service
from scada_trio.storage.audit import AuditQuery
from scada_trio.storage.master import open_master
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import open_service
from tests.test_secrets import OLD_CASE

OLD_KEY, NEW_KEY = SecretStr("Pl4nted-old-key-of-32-characters"), SecretStr("Pl4nted-new-key")
URL = SecretStr("postgresql://scada:Pl4nted-Url@localhost/acme")


# --- from files


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "postgresql://scada:Pl4nted@localhost/master"),
        ("encryption_key", "Pl4nted-key"),
        ("encryption_key_previous", "Pl4nted-key-before"),
        ("metrics_password", "Pl4nted-metrics"),
    ],
)
def test_each_secret_may_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """As an orchestrator mounts it, through a link and with or without a line's end."""
    (tmp_path / "data").write_text(value + "\n")
    (tmp_path / "secret").symlink_to("data")
    monkeypatch.setenv(f"{name}_FILE".upper(), str(tmp_path / "secret"))
    others = {"metrics_user": "prometheus"} if name == "metrics_password" else {}
    settings = Settings.load(**others)
    assert getattr(settings, name).get_secret_value() == value
    assert "Pl4nted" not in repr(settings)
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ConfigError, match="is given beside") as raised:
        Settings.load(**others)
    assert raised.value.variable == f"{name}_FILE".upper()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"Pl4nted\xff", "is not UTF-8"),
        (b"x" * 70_000, "large file"),
        (b"mysql://Pl4nted", "must start with postgresql://"),
    ],
)
def test_a_file_that_holds_no_secret_stops_the_start(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as raised:
        Settings.load(database_url_file=path)
    assert "Pl4nted" not in str(raised.value)
    assert raised.value.__context__ is None or "Pl4nted" not in repr(raised.value.__context__)


# --- two keys


def test_what_the_key_before_encrypted_is_read() -> None:
    """In either form, and what is written is of the new key alone."""
    stored = SecretBox(OLD_KEY).encrypt(URL)
    box = SecretBox(NEW_KEY, OLD_KEY)
    assert box.decrypt(stored) == URL
    assert not box.is_current(stored)
    again = box.encrypt(box.decrypt(stored))
    assert SecretBox(NEW_KEY).decrypt(again) == URL
    assert box.is_current(again)
    assert not box.is_current("plain")
    with pytest.raises(SecretError):
        SecretBox(OLD_KEY).decrypt(again)
    rust = SecretBox(NEW_KEY, SecretStr(OLD_CASE["encryption_key"]))
    assert rust.decrypt(OLD_CASE["stored"]).get_secret_value() == OLD_CASE["plain"]
    with pytest.raises(SecretError, match="wrong ENCRYPTION_KEY"):
        SecretBox(NEW_KEY, SecretStr("another")).decrypt(stored)


async def test_the_key_before_needs_a_key(master_url: SecretStr) -> None:
    settings = Settings.load(database_url=master_url, encryption_key_previous=OLD_KEY)
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY: is missing"):
        async with open_instance(settings):
            pass


# --- rotate


async def rotated(settings: Settings, *, plain: bool = False) -> str:
    """What the command prints."""
    printed = io.StringIO()
    try:
        await rotate(settings, Console(file=printed, width=300), plain=plain)
    finally:
        assert "Pl4nted" not in printed.getvalue()
    return printed.getvalue()


async def test_every_secret_is_written_with_the_new_key(master_url: SecretStr) -> None:
    """Of deleted tenants and inactive connections, too; plain ones where that is asked for; harmless to repeat."""
    before, after = SecretBox(OLD_KEY), SecretBox(NEW_KEY)
    tenants = [(uuid4(), before.encrypt(URL)), (uuid4(), before.encrypt(URL)), (uuid4(), URL.get_secret_value())]
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        for number, (tenant, stored) in enumerate(tenants):
            await master.add_tenant(tenant, f"tenant {number}", stored)
    fetch(master_url, "UPDATE tenants SET deleted_at = now() WHERE id = %s", tenants[1][0])
    for password in (before.encrypt(SecretStr("Pl4nted-Password")), after.encrypt(SecretStr("new")), None, ""):
        fetch(
            master_url,
            "INSERT INTO scada_connections (id, tenant_id, name, endpoint_url, password, is_active)"
            " VALUES (%s, %s, 'x', 'opc.tcp://a', %s, false)",
            *(uuid4(), tenants[0][0], password),
        )
    settings = Settings.load(database_url=master_url, encryption_key=NEW_KEY, encryption_key_previous=OLD_KEY)
    assert "rotated: 3, of today's key already: 1, in clear: 1" in await rotated(settings)
    assert "rotated: 0, of today's key already: 4, in clear: 1" in await rotated(settings)
    assert "rotated: 1, of today's key already: 4, in clear: 0" in await rotated(settings, plain=True)
    urls = [url for (url,) in fetch(master_url, "SELECT database_url FROM tenants")]
    assert [after.decrypt(url) for url in urls] == [URL] * 3
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        entries = await master.read_audit(AuditQuery())
    assert [entry.action for entry in entries].count("rotate secret") == 4
    assert "Pl4nted" not in str(entries)


async def test_a_secret_of_neither_key_stops_no_other(master_url: SecretStr) -> None:
    lost = SecretBox(SecretStr("a third")).encrypt(URL)
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(uuid4(), "lost", lost)
        await master.add_tenant(uuid4(), "kept", SecretBox(OLD_KEY).encrypt(URL))
    settings = Settings.load(database_url=master_url, encryption_key=NEW_KEY, encryption_key_previous=OLD_KEY)
    with pytest.raises(ScadaError, match="1 of 2 secrets are as they were"):
        await rotated(settings)
    assert fetch(master_url, "SELECT database_url FROM tenants WHERE name = 'lost'") == [(lost,)]
    with pytest.raises(SecretError, match="ENCRYPTION_KEY is not set"):
        await rotated(Settings.load(database_url=master_url))


async def test_what_changed_meanwhile_is_not_overwritten(master_url: SecretStr) -> None:
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(uuid4(), "acme", SecretBox(OLD_KEY).encrypt(URL))
        (secret,) = await master.list_secrets()
        assert secret.text not in repr(secret)
        fetch(master_url, "UPDATE tenants SET database_url = 'newer'")
        assert not await master.replace_secret(secret, "older")
        assert fetch(master_url, "SELECT database_url FROM tenants") == [("newer",)]


async def test_a_running_service_does_not_blink(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """A secret that is stored otherwise and means the same is no change; a wrong one is that connection's alone."""
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        endpoint = "opc.tcp://127.0.0.1:1"
        tags = [[Tag(uuid4(), uuid4(), f"i={number}", "Double")] for number in range(2)]
        kept, broken = [
            await running.add_connection(tenant, endpoint, tags[number], username="u", password="p")
            for number in range(2)
        ]
        running_before = running.service._tenants[tenant]
        box: SecretBox = running.service._secrets
        again = box.encrypt(SecretStr("p"))
        fetch(running.master_url, "UPDATE scada_connections SET password = %s WHERE id = %s", again, kept)
        fetch(running.master_url, "UPDATE tenants SET database_url = %s", box.encrypt(tenant_url))
        wrong = SecretBox(SecretStr("another")).encrypt(SecretStr("p"))
        fetch(running.master_url, "UPDATE scada_connections SET password = %s WHERE id = %s", wrong, broken)
        await running.until(lambda: running.status(tenant, broken).state == "refused")
        assert "wrong ENCRYPTION_KEY" in running.status(tenant, broken).last_error
        assert running.status(tenant, kept).state != "refused"
        assert running.service._tenants[tenant] is running_before
    assert isinstance(running.service, Service)


# --- the commands as they are typed


def command(
    master_url: SecretStr, *arguments: str, text: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scada_trio", *arguments],
        env={**os.environ, "DATABASE_URL": master_url.get_secret_value(), "LOG_LEVEL": "DEBUG", **environment},
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_commands_encrypt_rotate_and_audit(master_url: SecretStr) -> None:
    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return command(master_url, *arguments, **options)

    done = await trio.to_thread.run_sync(lambda: run("secrets", "encrypt", text="Pl4nted\n", ENCRYPTION_KEY="old"))
    stored = done.stdout.strip()
    assert SecretBox(SecretStr("old")).decrypt(stored).get_secret_value() == "Pl4nted"
    fetch(
        master_url,
        "INSERT INTO tenants (id, name, database_url, status) VALUES (%s, 'acme', %s, 'SUSPENDED')",
        *(uuid4(), stored),
    )
    keys = {"ENCRYPTION_KEY": "new", "ENCRYPTION_KEY_PREVIOUS": "old"}
    done = await trio.to_thread.run_sync(lambda: run("secrets", "rotate", **keys))
    assert "rotated: 1" in done.stdout, done.stderr
    audited = await trio.to_thread.run_sync(lambda: run("audit", "--since", "1h", "--json"))
    entries = [json.loads(line) for line in audited.stdout.splitlines()]
    assert [(entry["action"], entry["after"]["database_url"]) for entry in entries] == [
        ("rotate secret", "(changed)"),
        ("insert", "(set)"),
    ]
    assert entries[0]["actor"].startswith("os:")
    table = await trio.to_thread.run_sync(lambda: run("audit", "--since", "1h", COLUMNS="250"))
    assert "database_url: (set) -> (changed)" in table.stdout
    none = await trio.to_thread.run_sync(lambda: run("audit", "--outcome", "denied"))
    assert "nothing in the audit log" in none.stdout
    failed = await trio.to_thread.run_sync(lambda: run("secrets", "encrypt", text="Pl4nted"))
    assert (failed.returncode, failed.stdout) == (1, "")
    for outcome in (done, audited, table, failed):
        assert "Pl4nted" not in outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr


async def test_a_tenant_is_added_from_a_file(master_url: SecretStr, tenant_url: SecretStr, tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(tenant_url.get_secret_value() + "\n")
    keys = {"ENCRYPTION_KEY": "key", "TENANT_DATABASE_URL_FILE": str(path)}
    done = await trio.to_thread.run_sync(lambda: command(master_url, "tenant", "add", "acme", **keys))
    assert done.returncode == 0, done.stderr
    ((stored,),) = fetch(master_url, "SELECT database_url FROM tenants")
    assert SecretBox(SecretStr("key")).decrypt(stored) == tenant_url
    path.unlink()
    done = await trio.to_thread.run_sync(lambda: command(master_url, "tenant", "add", "other", **keys))
    assert done.returncode == 2
    assert done.stderr.startswith("scada-trio: TENANT_DATABASE_URL_FILE: No such file")
