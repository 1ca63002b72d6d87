"""Stored secrets: ``secrets rotate``, ``secrets encrypt``. Neither shows one."""

from __future__ import annotations

from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress

from scada_trio.commands.serve import open_checked_master
from scada_trio.config import Settings
from scada_trio.errors import ScadaError, SecretError
from scada_trio.instance import open_instance
from scada_trio.secrets import Form, form_of
from scada_trio.storage.rotation import StoredSecret

_SHOWN = 20


async def rotate(settings: Settings, console: Console, *, plain: bool) -> None:
    """Write every encrypted secret with ENCRYPTION_KEY, those in clear too with ``plain``; harmless to repeat.

    Goes on past one that does not decrypt, and raises `ScadaError` with their number at the end.
    """
    done = current = left = 0
    failed: list[str] = []
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        box = instance.secrets
        box.encrypt(SecretStr(""))  # without a key nothing can be written
        secrets = await master.list_secrets()
        with Progress(console=console) as progress:
            task = progress.add_task("secrets", total=len(secrets), visible=len(secrets) > 0)
            for secret in secrets:
                progress.advance(task)
                if box.is_current(secret.text):
                    current += 1
                elif form_of(secret.text) is Form.PLAIN and not plain:
                    left += 1
                else:
                    try:
                        new = box.encrypt(box.decrypt(secret.text))
                    except SecretError as error:
                        failed.append(f"{_name(secret)}: {error}")
                        continue
                    done += await master.replace_secret(secret, new)
    console.print(f"rotated: {done}, of today's key already: {current}, in clear: {left}", highlight=False)
    for line in failed[:_SHOWN]:
        console.print(f"FAIL  {line}", highlight=False, markup=False)
    if failed:
        raise ScadaError(f"{len(failed)} of {len(secrets)} secrets are as they were")


async def encrypt(settings: Settings, text: SecretStr) -> str:
    """``text`` as the master database stores it. Raises `SecretError` without a key."""
    async with open_instance(settings) as instance:
        if not text.get_secret_value():
            raise ScadaError("there is nothing to encrypt on standard input")
        return instance.secrets.encrypt(text)


def _name(secret: StoredSecret) -> str:
    return f"{secret.column} in {secret.table} {secret.row_id}"
