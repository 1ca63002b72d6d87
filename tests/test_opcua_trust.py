"""The trust store, our own certificate, and the commands that change the one and show both."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import SecretStr
from structlog.testing import capture_logs

from scada_trio.config import PkiSettings
from scada_trio.errors import ConfigError, DeviceRefused, InvalidField
from scada_trio.metrics import Metrics
from scada_trio.opcua.certificates import application_uri_of, thumbprint
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.trust import MAX_REJECTED
from tests.fix_pki import DAY, NOW, Made, TestPki, make, make_list

ROOT = Path(__file__).parent.parent


# ---- our own certificate


@pytest.mark.parametrize("bits", [2048, 4096])
def test_own_certificate_as_part_6_wants_it(tmp_path: Path, bits: int) -> None:
    """Made on the first start, and not again; its key is for its owner's eyes."""
    settings = PkiSettings(tmp_path / "pki", application_uri="urn:plant:scada", key_bits=bits)
    Pki(settings).prepare()
    identity = Pki(settings).own.prepare()
    key_file = tmp_path / "pki" / "own" / "private_key.pem"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    certificate = identity.certificate
    assert identity.key.key_size == bits
    assert application_uri_of(certificate) == identity.application_uri == "urn:plant:scada"
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.content_commitment
    assert usage.key_encipherment
    assert usage.data_encipherment
    assert not usage.crl_sign
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)


def test_a_key_that_others_could_read(pki: TestPki) -> None:
    """The next start takes it from them."""
    key_file = pki.directory / "own" / "private_key.pem"
    key_file.chmod(0o644)
    pki.own.prepare()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_renewal_ahead_of_expiry(pki: TestPki) -> None:
    """A successor of the same key and URI is made a month before, said, and used from a day before on."""
    before = pki.own.current()
    ends = before.certificate.not_valid_after_utc
    pki.own.keep_valid(ends - 31 * DAY)
    assert [entry.store for entry in pki.own.entries()] == ["own"]
    with capture_logs() as logs:
        pki.own.keep_valid(ends - 29 * DAY)
        pki.own.keep_valid(ends - 28 * DAY)
    own, successor = pki.own.entries()
    assert (own.certificate, successor.store) == (before.certificate, "next")
    assert {entry["log_level"] for entry in logs} == {"warning"}
    assert thumbprint(successor.certificate) in logs[0]["successor"]
    pki.own.keep_valid(ends - DAY / 2)
    after = pki.own.current()
    assert after.certificate == successor.certificate
    assert after.key.public_key() == before.key.public_key()
    assert after.application_uri == before.application_uri
    assert after.certificate.not_valid_after_utc > ends


def test_a_given_certificate(tmp_path: Path) -> None:
    """It is used as it is, read anew when it is replaced, and not renewed; one that does not fit stops the start."""
    files = make("client", uri="urn:given").files(tmp_path, "given")
    settings = PkiSettings(tmp_path / "pki", Path(files["certificate"]), Path(files["key"]))
    pki = Pki(settings)
    pki.prepare()
    assert pki.own.current().application_uri == "urn:given"
    assert not (tmp_path / "pki" / "own").exists()
    with capture_logs() as logs:
        pki.own.keep_valid(NOW + 29 * DAY)
    assert "give a new one" in logs[0]["event"]
    newer = make("client", uri="urn:given", end=NOW + 60 * DAY)
    newer.files(tmp_path, "given")
    assert pki.own.current().certificate == newer.certificate
    Path(files["certificate"]).write_bytes(b"half of")
    with capture_logs() as logs:
        assert pki.own.current().certificate == newer.certificate
    assert logs[0]["log_level"] == "error"


@pytest.mark.parametrize(
    ("made", "other_key", "text"),
    [
        (make("client", uri=None), False, "no application URI"),
        (make("client", uri="urn:x"), True, "not that of the certificate"),
    ],
)
def test_a_given_certificate_that_does_not_fit(made: Made, other_key: bool, text: str, tmp_path: Path) -> None:
    """The start is stopped with the variable and the reason."""
    files = made.files(tmp_path)
    if other_key:
        files["key"] = make("another", key="another").files(tmp_path, "another")["key"]
    settings = PkiSettings(tmp_path / "pki", Path(files["certificate"]), Path(files["key"]))
    with pytest.raises(ConfigError, match=text) as raised:
        Pki(settings).prepare()
    assert raised.value.variable == "OPC_CERTIFICATE_FILE"


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    """Half of an identity is none, and neither is a directory that cannot be made."""
    files = make().files(tmp_path)
    with pytest.raises(ConfigError, match="OPC_PRIVATE_KEY_FILE"):
        Pki(PkiSettings(tmp_path / "pki", Path(files["certificate"]))).prepare()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="PKI_DIR"):
        Pki(PkiSettings(tmp_path / "file")).prepare()


def test_expiry_is_a_metric(pki: TestPki) -> None:
    """Our own certificate, trusted ones and issuers, each with the time of its end."""
    made, issuer = make(), make("Test CA", ca=True)
    pki.trust_it(made)
    pki.trust_it(issuer, "issuers")
    metrics = Metrics()
    metrics.watch_certificates(pki.expiries)
    for store, certificate in (("own", pki.own.current().certificate), ("trusted", made.certificate)):
        labels = {"store": store, "thumbprint": thumbprint(certificate)}
        value = metrics.registry.get_sample_value("scada_certificate_expiry_timestamp_seconds", labels)
        assert value == certificate.not_valid_after_utc.timestamp()
    assert b'store="issuers"' in metrics.render()


# ---- the store


def test_rejected_is_bounded(pki: TestPki) -> None:
    """A stranger who presents ever new certificates fills no disk; the newest stay, and one seen again is new."""
    template = make("stranger")
    first = template
    pki.store.reject(first.certificate)
    for number in range(MAX_REJECTED):
        path = pki.directory / "rejected" / f"{number:040x}.der"
        path.write_bytes(template.der)
        os.utime(path, (number, number))
    newest = make("newest", key="stranger")
    pki.store.reject(newest.certificate)
    assert len(pki.rejected) == MAX_REJECTED
    assert {first.thumbprint, newest.thumbprint} < pki.rejected
    assert f"{0:040x}" not in pki.rejected


def test_files_that_are_no_certificates(pki: TestPki) -> None:
    """They are left out and said once; the others count."""
    made = make()
    pki.trust_it(made)
    (pki.directory / "trusted" / "note.txt").write_text("not a certificate")
    (pki.directory / "trusted" / "broken.der").write_bytes(b"\x30\x03\x02\x01\x01")
    (pki.directory / "trusted" / "broken.crl").write_bytes(b"junk")
    (pki.directory / "issuers" / "ca.pem").write_bytes(make("CA", ca=True).certificate.public_bytes(Encoding.PEM))
    pki.list_it(make_list(make("CA", ca=True)), "issuers")
    with capture_logs() as logs:
        trust, version = pki.store.load()
        (pki.directory / "trusted" / "another.txt").touch()
        assert pki.store.load()[1] != version
    assert [c.public_bytes(Encoding.DER) for c in trust.trusted] == [made.der]
    assert len(trust.issuers) == len(trust.revocation_lists) == 1
    assert sorted(Path(entry["path"]).name for entry in logs) == ["broken.crl", "broken.der"]


def test_a_disk_that_takes_nothing(pki: TestPki) -> None:
    """A rejected certificate that cannot be kept is a line in the log."""
    (pki.directory / "rejected").rmdir()
    (pki.directory / "rejected").touch()
    with capture_logs() as logs:
        pki.store.reject(make().certificate)
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_names_of_certificates(pki: TestPki) -> None:
    """A thumbprint is understood as tools print it, its beginning where that fits one only."""
    made = make()
    pki.store.reject(made.certificate)
    spaced = ":".join(made.thumbprint[at : at + 2] for at in range(0, 40, 2)).upper()
    assert pki.store.trust(spaced).certificate == made.certificate
    assert pki.rejected == set()
    for wrong in ("", "abc", "not hexadecimal", "0" * 40, made.thumbprint + "00", "no/such/file.der"):
        with pytest.raises(InvalidField):
            pki.store.trust(wrong)
    assert pki.store.distrust(made.thumbprint[:8]).certificate == made.certificate
    assert pki.rejected == {made.thumbprint}
    with pytest.raises(InvalidField):
        pki.store.distrust(made.thumbprint)


async def test_changes_are_noticed(pki: TestPki) -> None:
    """Who waits for another trust store than the one that he knows is woken by it, and not before."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pki.store.watch)
        version = pki.store.version()
        with trio.move_on_after(0.2) as waited:
            await pki.store.changed_since(version)
        assert waited.cancelled_caught
        pki.trust_it(make())
        with trio.fail_after(30):
            await pki.store.changed_since(version)
            await pki.store.changed_since("of long ago")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("content", [b"", b"junk", make().certificate.public_bytes(Encoding.PEM)])
def test_a_user_file_of_no_use(content: bytes, pki: TestPki) -> None:
    """It is not passed over: the connection would log in as nobody."""
    (pki.directory / "users" / f"{UUID(int=7)}.pem").write_bytes(content)
    with pytest.raises(DeviceRefused, match="pem"):
        pki.store.user(UUID(int=7))
    assert pki.store.user(UUID(int=8)) is None


# ---- the commands


def test_commands(pki: TestPki, master_url: SecretStr, tmp_path: Path) -> None:
    """``trust THUMBPRINT``, ``trust FILE``, ``trust list`` and ``trust remove``, as an operator has them."""
    made, issuer = make(), make("Test CA", ca=True)
    pki.store.reject(made.certificate)
    file = issuer.files(tmp_path, "ca")["certificate"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PKI_DIR": str(pki.directory), "COLUMNS": "200"}
        env["DATABASE_URL"] = master_url.get_secret_value()
        command = [sys.executable, "-m", "scada_trio", "trust", *words]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)

    listed = run("list", "--format", "csv").stdout
    assert f"{made.thumbprint},rejected,CN=device,urn:test:device" in listed
    assert thumbprint(pki.own.current().certificate) in listed
    assert made.thumbprint in run(made.thumbprint).stdout
    assert run(file).returncode == 0
    assert f"{issuer.thumbprint},trusted" in run("list", "--format", "csv").stdout
    assert run("remove", made.thumbprint[:10]).returncode == 0
    wrong = run("f" * 40)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert pki.rejected == {made.thumbprint}
