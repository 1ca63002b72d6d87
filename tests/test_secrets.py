"""Secrets at rest, against vectors that Node's crypto made."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from scada_trio.errors import ScadaError
from scada_trio.secrets import Form, SecretBox, SecretError, form_of

VECTORS = Path(__file__).parent / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "secrets.json").read_text("utf-8"))
KEY = SecretStr("0123456789abcdef0123456789ABCDEF")
OLD_CASE = next(case for case in CASES if case["form"] == "old")
CURRENT_CASE = CASES[0]


def box_of(case: dict[str, Any]) -> SecretBox:
    return SecretBox(SecretStr(case["encryption_key"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reads_what_the_other_services_wrote(case: dict[str, Any]) -> None:
    """What NestJS and the Rust service stored is read back."""
    assert form_of(case["stored"]).value == case["form"]
    assert box_of(case).decrypt(case["stored"]).get_secret_value() == case["plain"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_vectors_are_what_node_makes() -> None:
    """The committed vectors are those of the script beside them."""
    made = subprocess.run(
        ["node", str(VECTORS / "make_vectors.mjs")], capture_output=True, check=True, text=True, encoding="utf-8"
    )
    assert json.loads(made.stdout) == CASES


def test_upper_case_hex_is_read() -> None:
    """Hex is hex in either case."""
    stored = CURRENT_CASE["stored"].upper()
    assert box_of(CURRENT_CASE).decrypt(stored).get_secret_value() == CURRENT_CASE["plain"]


@given(plain=st.text(), key=st.text(min_size=1))
def test_round_trip(plain: str, key: str) -> None:
    """Whatever is encrypted comes back, and is stored in the current form."""
    box = SecretBox(SecretStr(key))
    stored = box.encrypt(SecretStr(plain))
    assert form_of(stored) is Form.CURRENT
    assert box.decrypt(stored).get_secret_value() == plain


def test_two_encryptions_differ() -> None:
    """Equal secrets cannot be recognised by their stored texts."""
    box = SecretBox(KEY)
    assert box.encrypt(SecretStr("same")) != box.encrypt(SecretStr("same"))


@given(position=st.integers(0, 10_000), case=st.sampled_from(CASES), digit=st.integers(1, 15))
def test_tampering_with_the_current_form_is_noticed(position: int, case: dict[str, Any], digit: int) -> None:
    """One changed digit anywhere is an error, never another text."""
    assume(case["form"] == "current")
    stored = case["stored"]
    index = position % len(stored)
    assume(stored[index] != ":")
    changed = stored[:index] + f"{int(stored[index], 16) ^ digit:x}" + stored[index + 1 :]
    with pytest.raises(SecretError, match="wrong ENCRYPTION_KEY, or the text is damaged"):
        box_of(case).decrypt(changed)


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_tampering_with_the_old_form_is_noticed(position: int, flip: int) -> None:
    """One changed byte of an old secret is an error."""
    sealed = bytearray(base64.b64decode(OLD_CASE["stored"]))
    sealed[position % len(sealed)] ^= flip
    changed = base64.b64encode(sealed).decode()
    assume(form_of(changed) is Form.OLD)
    with pytest.raises(SecretError, match="damaged"):
        box_of(OLD_CASE).decrypt(changed)


@pytest.mark.parametrize("case", [CURRENT_CASE, OLD_CASE], ids=["current", "old"])
@pytest.mark.parametrize("key", [None, SecretStr("")], ids=["none", "empty"])
def test_without_a_key_an_encrypted_text_is_an_error(case: dict[str, Any], key: SecretStr | None) -> None:
    """The error says that the key is missing."""
    with pytest.raises(SecretError, match="ENCRYPTION_KEY is not set"):
        SecretBox(key).decrypt(case["stored"])


@pytest.mark.parametrize("case", [CURRENT_CASE, OLD_CASE], ids=["current", "old"])
@pytest.mark.parametrize("key", ["another key", base64.b64encode(bytes(32)).decode()], ids=["text", "base64"])
def test_with_another_key_an_encrypted_text_is_an_error(case: dict[str, Any], key: str) -> None:
    """The error says that the key may be wrong."""
    with pytest.raises(SecretError, match="wrong ENCRYPTION_KEY"):
        SecretBox(SecretStr(key)).decrypt(case["stored"])


def test_encrypting_without_a_key_names_the_variable() -> None:
    """Nothing is stored in clear for want of a key."""
    with pytest.raises(SecretError, match="ENCRYPTION_KEY"):
        SecretBox(None).encrypt(SecretStr("opc-password"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opc-password",
        "postgresql://acme:secret@db/acme",
        "postgres://acme:secret@db/acme",
        "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
        "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08",
        "correcthorsebatterystaplecorrecthorsebatterystap",
        "c0ffee:c0ffee:c0ffee",
        "ff:" * 16,
        "Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFyYmF6Zg=",
        "two words and a newline\n",
        f"{'0' * 32}:{'0' * 32}:abc",
        f"{'0' * 32}:{'0' * 32}:ab\n",
        f"{'٣' * 32}:{'0' * 32}:ab",
    ],
)
@pytest.mark.parametrize("key", [None, KEY], ids=["without key", "with key"])
def test_what_has_no_encrypted_form_is_plain(text: str, key: SecretStr | None) -> None:
    """A plain text, URLs and hexadecimal tokens among them, needs no key and stays as it is."""
    assert form_of(text) is Form.PLAIN
    assert SecretBox(key).decrypt(text).get_secret_value() == text


@given(text=st.text(), key=st.sampled_from([None, KEY]))
def test_any_text_is_plain_or_refused(text: str, key: SecretStr | None) -> None:
    """No text makes decryption fail in another way than by `SecretError`."""
    try:
        assert SecretBox(key).decrypt(text).get_secret_value() == text
    except SecretError:
        assert form_of(text) is not Form.PLAIN


def test_nothing_secret_is_shown() -> None:
    """Neither the key nor the secret is in a repr, an error or what hangs from it."""
    assert repr(SecretBox(KEY)) == str(SecretBox(KEY)) == "<SecretBox with a key>"
    assert repr(SecretBox(None)) == "<SecretBox without a key>"
    stored = SecretBox(SecretStr("another key")).encrypt(SecretStr("opc-password"))
    with pytest.raises(ScadaError) as raised:
        SecretBox(KEY).decrypt(stored)
    assert raised.value.__context__ is None
    assert stored.split(":")[2] not in str(raised.value)
    assert KEY.get_secret_value() not in str(raised.value)


def test_decrypted_bytes_that_are_no_text_are_damage() -> None:
    """What decrypts to something that is not UTF-8 is refused without showing it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sealed = AESGCM(KEY.get_secret_value().encode()).encrypt(bytes(16), b"\xff\xfe", None)
    with pytest.raises(SecretError, match="damaged") as raised:
        SecretBox(KEY).decrypt(f"{'00' * 16}:{sealed[-16:].hex()}:{sealed[:-16].hex()}")
    assert raised.value.__context__ is None


def test_a_secret_that_is_no_unicode_is_refused() -> None:
    """A lone surrogate cannot be stored, and the error does not carry the text."""
    with pytest.raises(SecretError, match="Unicode") as raised:
        SecretBox(KEY).encrypt(SecretStr("secret\ud800"))
    assert raised.value.__context__ is None


def test_a_key_of_bytes_that_are_not_utf8_is_used_as_it_is() -> None:
    """A key that the environment holds in another encoding still works."""
    box = SecretBox(SecretStr("k\udcff"))
    assert box.decrypt(box.encrypt(SecretStr("x"))).get_secret_value() == "x"
