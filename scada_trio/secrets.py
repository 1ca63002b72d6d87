"""Secrets at rest: passwords and database URLs as the master database holds them.

Owns the two encrypted forms and how a text is told to be one. Knows no database and no environment: the service
makes one `SecretBox` from ``ENCRYPTION_KEY`` and hands it to whoever reads or writes such columns. Starts nothing.

    current  ``IV:TAG:CIPHERTEXT``, each in hex: AES-256-GCM, IV and tag of 16 bytes, as the NestJS application
             writes it. Key: ENCRYPTION_KEY as it is where it has exactly 32 characters and 32 UTF-8 bytes,
             else its SHA-256.
    old      base64 of a 12-byte nonce, the ciphertext and a 16-byte tag, as the Rust service wrote it; read only.
             Key: the 32 bytes of which ENCRYPTION_KEY is the base64.

How a text is told to be encrypted, in this order (`form_of`):

1. It begins with ``postgresql://`` or ``postgres://``: plain.
2. Three fields between colons, all hex digits, the first two of 32 digits, the third of an even number: current.
3. Canonical base64 (RFC 4648 with padding) of 29 bytes or more that has an upper-case letter, a lower-case letter and a
   digit, ``+`` or ``/``: old. A ciphertext lacks one of those once in thousands; a hexadecimal token always does.
4. Anything else is plain.

What has an encrypted form and does not decrypt is an error, never plain text. A plain password that happens to look
like 3 has to be stored encrypted.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from scada_trio.errors import SecretError

__all__ = ["Form", "SecretBox", "SecretError", "form_of"]

IV_BYTES: Final = 16
OLD_NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

_CURRENT: Final = re.compile(r"([0-9a-fA-F]{32}):([0-9a-fA-F]{32}):((?:[0-9a-fA-F]{2})*)", re.ASCII)
_OLD: Final = re.compile(r"(?=.*[A-Z])(?=.*[a-z])(?=.*[0-9+/])[A-Za-z0-9+/]{39,}={0,2}", re.ASCII)
_PLAIN_PREFIXES: Final = ("postgresql://", "postgres://")


class Form(enum.Enum):
    """How a text is stored."""

    PLAIN = "plain"
    CURRENT = "current"
    OLD = "old"


def form_of(text: str) -> Form:
    """The form of ``text`` by its shape alone; the rules are in the module's docstring."""
    if text.startswith(_PLAIN_PREFIXES):
        return Form.PLAIN
    if _CURRENT.fullmatch(text):
        return Form.CURRENT
    if _OLD.fullmatch(text) and len(_canonical_base64(text) or b"") > OLD_NONCE_BYTES + TAG_BYTES:
        return Form.OLD
    return Form.PLAIN


class SecretBox:
    """Reads and writes stored secrets with the key of the service; without one it reads plain texts only.

    With ``previous_key`` what that encrypted is read, too; what is written is encrypted with the key of today.

    Stateless after it is made, so any thread may use it. Its repr shows whether there is a key and nothing else.
    """

    def __init__(self, encryption_key: SecretStr | None, previous_key: SecretStr | None = None) -> None:
        self._random = os.urandom(KEY_BYTES)
        keys = [key.get_secret_value() if key is not None else "" for key in (encryption_key, previous_key)]
        self._key = _current_key(keys[0]) if keys[0] else None
        keys = [key for key in keys if key]
        self._cipher = None if self._key is None else AESGCM(self._key)
        # the key of today first, in either form
        self._ciphers = [AESGCM(_current_key(key)) for key in keys]
        self._old_ciphers = [AESGCM(old) for key in keys if (old := _old_key(key)) is not None]

    def __repr__(self) -> str:
        return f"<SecretBox {'with' if self._cipher else 'without'} a key>"

    def decrypt(self, text: str) -> SecretStr:
        """The secret behind a stored text; a plain text is returned as it is.

        Raises `SecretError` where ``text`` has an encrypted form and there is no ENCRYPTION_KEY, it is the wrong one,
        or the text is damaged (GCM cannot tell those two apart).
        """
        match form_of(text):
            case Form.PLAIN:
                return SecretStr(text)
            case Form.CURRENT:
                iv, tag, ciphertext = (bytes.fromhex(part) for part in text.split(":"))
                return _opened(self._required(self._ciphers), iv, ciphertext + tag)
            case Form.OLD:
                self._required(self._ciphers)
                if not self._old_ciphers:
                    raise SecretError(
                        "the stored secret looks like base64 of the old service, "
                        "whose ENCRYPTION_KEY is the base64 of 32 bytes: wrong ENCRYPTION_KEY"
                    )
                sealed = base64.b64decode(text)
                return _opened(self._old_ciphers, sealed[:OLD_NONCE_BYTES], sealed[OLD_NONCE_BYTES:])

    def is_current(self, text: str) -> bool:
        """Whether a stored text is what `encrypt` would write today: of the current form, and of the key of today."""
        if form_of(text) is not Form.CURRENT or self._cipher is None:
            return False
        iv, tag, ciphertext = (bytes.fromhex(part) for part in text.split(":"))
        try:
            self._cipher.decrypt(iv, ciphertext + tag, None)
        except InvalidTag:
            return False
        return True

    def encrypt(self, plain: SecretStr) -> str:
        """``IV:TAG:CIPHERTEXT`` in lower-case hex with a fresh random IV; raises `SecretError` without a key."""
        if self._cipher is None:
            raise SecretError("a secret cannot be stored: ENCRYPTION_KEY is not set")
        iv = os.urandom(IV_BYTES)
        sealed = self._cipher.encrypt(iv, _encoded(plain), None)
        return f"{iv.hex()}:{sealed[-TAG_BYTES:].hex()}:{sealed[:-TAG_BYTES].hex()}"

    def derive_key(self, purpose: str) -> bytes:
        """32 bytes for ``purpose`` that tell nothing of the key; without a key, random ones of this object's life."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(self._key or self._random)

    @staticmethod
    def _required(ciphers: Sequence[AESGCM]) -> Sequence[AESGCM]:
        if not ciphers:
            raise SecretError("the stored secret is encrypted, and ENCRYPTION_KEY is not set")
        return ciphers


def _opened(ciphers: Sequence[AESGCM], nonce: bytes, sealed: bytes) -> SecretStr:
    for cipher in ciphers:
        with suppress(InvalidTag, UnicodeDecodeError):
            return SecretStr(cipher.decrypt(nonce, sealed, None).decode())
    # Raised out here, not while handling: a decode error carries the decrypted bytes, and context is kept.
    raise SecretError("the stored secret does not decrypt: wrong ENCRYPTION_KEY, or the text is damaged")


def _encoded(plain: SecretStr) -> bytes:
    with suppress(UnicodeEncodeError):
        return plain.get_secret_value().encode()
    raise SecretError("a secret cannot be stored: it is not valid Unicode")


def _current_key(key: str) -> bytes:
    encoded = key.encode(errors="surrogateescape")  # the environment's own bytes, where they are not UTF-8
    if len(key) == KEY_BYTES and len(encoded) == KEY_BYTES:
        return encoded
    return hashlib.sha256(encoded).digest()


def _old_key(key: str) -> bytes | None:
    decoded = _canonical_base64(key.strip())
    return decoded if decoded is not None and len(decoded) == KEY_BYTES else None


def _canonical_base64(text: str) -> bytes | None:
    """The bytes of which ``text`` is the one base64 spelling, or None."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded).decode() == text else None
