"""Which master database and which key a process works with: the given ones, or the embedded ones in ``DATA_DIR``.

Opened by every command; owns the embedded PostgreSQL where there is one, and closes it.
"""

from __future__ import annotations

import os
import secrets as random_secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from pydantic import SecretStr

from scada_trio.config import Settings
from scada_trio.errors import ConfigError
from scada_trio.secrets import SecretBox, SecretError
from scada_trio.storage.master import open_master

if TYPE_CHECKING:
    from scada_trio.storage.embedded import EmbeddedServer

log = structlog.get_logger()

_KEY_FILE = "encryption.key"


@dataclass(frozen=True, slots=True)
class Instance:
    """``embedded`` tells whether the database lives in ``DATA_DIR`` and ends with this process."""

    master_url: SecretStr
    secrets: SecretBox
    embedded: bool


@asynccontextmanager
async def open_instance(settings: Settings) -> AsyncIterator[Instance]:
    """The master database of this process, running; an embedded one is migrated too.

    Raises `ConfigError` where ``DATA_DIR`` cannot be used or the embedded server is not installed.
    """
    if settings.database_url is not None:
        yield Instance(settings.database_url, box_of(settings, settings.encryption_key), embedded=False)
        return
    from scada_trio.storage.embedded import open_embedded
    from scada_trio.storage.migrate import migrate_master  # beside: 2 MB that a service with a database does without

    key = settings.encryption_key or await trio.to_thread.run_sync(_load_or_make_key, settings.data_dir)
    async with open_embedded(settings.data_dir / "postgres") as server:
        log.info("DATABASE_URL is not set: using the embedded PostgreSQL", data_dir=str(settings.data_dir.resolve()))
        await trio.to_thread.run_sync(partial(migrate_master, server.url))
        instance = Instance(server.url, box_of(settings, key), embedded=True)
        await _follow_port(settings, instance, server)
        yield instance


def box_of(settings: Settings, key: SecretStr | None) -> SecretBox:
    """Of this key and the one before; raises `ConfigError` where there is only the one before."""
    if key is None and settings.encryption_key_previous is not None:
        raise ConfigError("ENCRYPTION_KEY", "is missing: ENCRYPTION_KEY_PREVIOUS is only the key before")
    return SecretBox(key, settings.encryption_key_previous)


async def _follow_port(settings: Settings, instance: Instance, server: EmbeddedServer) -> None:
    """Tenants whose databases are the embedded server's own are found at its port of today."""
    async with open_master(server.url, **settings.db_timeouts) as master:
        for row in await master.list_tenants():
            try:
                url = instance.secrets.decrypt(row.database_url)
            except SecretError:
                continue  # the registry tells of it
            name = url.get_secret_value().rpartition("/")[2]
            if server.is_own(url) and url != server.database_url(name):
                log.info("tenant database follows the embedded server to its new port", tenant=row.name)
                await master.set_database_url(row.tenant_id, instance.secrets.encrypt(server.database_url(name)))


def _load_or_make_key(data_dir: Path) -> SecretStr:
    """The key that encrypts what the embedded master database stores; made once, readable by its owner alone."""
    path = data_dir / _KEY_FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return SecretStr(path.read_text().strip())
        with os.fdopen(descriptor, "w") as file:
            key = random_secrets.token_hex(16)
            file.write(key + "\n")
        return SecretStr(key)
    except OSError as error:
        raise ConfigError("DATA_DIR", f"{error.strerror}: {error.filename}") from error
