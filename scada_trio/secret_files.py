"""Secrets in files, as orchestrators hand them over: which settings they are, and how one is read."""

from __future__ import annotations

from pathlib import Path

from scada_trio.errors import ConfigError

SECRETS = ("database_url", "encryption_key", "encryption_key_previous", "metrics_password")
"""Settings that may come from a file instead, named by ``..._FILE``, as orchestrators hand secrets over."""

_MAX_SECRET_BYTES = 65_536


def read_secret_file(variable: str, path: Path) -> str:
    """What a file holds, without the line's end; raises `ConfigError` naming ``variable``, and repeats none of it."""
    try:
        if path.stat().st_size > _MAX_SECRET_BYTES:
            raise ConfigError(variable, f"is no secret but a large file: {path}")
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(variable, f"{error.strerror}: {path}") from None
    except UnicodeDecodeError:
        text = None
    if not text:  # out here: a decode error carries what was read
        raise ConfigError(variable, f"{'is not UTF-8 text' if text is None else 'is empty'}: {path}")
    return text
