"""Certificates of every kind, and our own trust store: what a test's device presents, and what we make of it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scada_trio.config import PkiSettings
from scada_trio.opcua.certificates import thumbprint
from scada_trio.opcua.pki import Pki

SERVER_URI = "urn:test:device"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@cache
def key_of(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of this name; making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def usage(*names: str) -> x509.KeyUsage:
    every: tuple[str, ...] = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
    )
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in every})


SERVER_USAGE = usage("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
ISSUER_USAGE = usage("key_cert_sign", "crl_sign")


@dataclass(frozen=True)
class Made:
    """A certificate and its key; ``issuer`` is itself where None."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    issuer: Made | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def thumbprint(self) -> str:
        return thumbprint(self.certificate)

    def files(self, folder: Path, name: str = "device") -> dict[str, str]:
        """Written as a device reads them: its options ``certificate`` and ``key``."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.der", folder / f"{name}.pem"
        certificate.write_bytes(self.der)
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {"certificate": str(certificate), "key": str(key)}


def make(
    name: str = "device",
    *,
    uri: str | None = SERVER_URI,
    hosts: Sequence[str] = ("127.0.0.1",),
    issuer: Made | None = None,
    ca: bool = False,
    path_length: int | None = None,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + 30 * DAY,
    key_usage: x509.KeyUsage | None = SERVER_USAGE,
    purposes: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
    bits: int = 2048,
    algorithm: Any = None,
    key: str | None = None,
    extra: x509.ExtensionType | None = None,
) -> Made:
    """A certificate; without arguments what a well-behaved device presents."""
    own_key = key_of(key or name, bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    names: list[x509.GeneralName] = [] if uri is None else [x509.UniformResourceIdentifier(uri)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    if names and not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if key_usage is not None:
        builder = builder.add_extension(ISSUER_USAGE if ca else key_usage, critical=True)
    if purposes is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    signer = own_key if issuer is None else issuer.key
    own_id = x509.SubjectKeyIdentifier.from_public_key(own_key.public_key())
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(own_id, critical=False).add_extension(signer_id, critical=False)
    return Made(builder.sign(signer, algorithm or hashes.SHA256()), own_key, issuer)


def with_sha1(made: Made) -> Made:
    """The same certificate signed with SHA-1, which the library does not do any more."""
    stronger, weaker = (bytes.fromhex(f"2a864886f70d0101{last}") for last in ("0b", "05"))
    changed = made.der.replace(stronger, weaker)
    signed = x509.load_der_x509_certificate(changed).tbs_certificate_bytes
    signer = made.key if made.issuer is None else made.issuer.key
    signature = signer.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    der = changed[: -len(signature)] + signature
    return Made(x509.load_der_x509_certificate(der), made.key, made.issuer)


def make_list(
    issuer: Made, *revoked: Made, end: datetime.datetime = NOW + 30 * DAY, signer: Made | None = None
) -> x509.CertificateRevocationList:
    """A revocation list of ``issuer``, signed by ``signer`` where that is another."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(min(NOW, end) - DAY).next_update(end)
    for made in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(made.certificate.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign((signer or issuer).key, hashes.SHA256())


class TestPki(Pki):
    """A prepared one, in a directory of the test's own."""

    __test__ = False

    @property
    def directory(self) -> Path:
        return self.settings.directory

    def trust_it(self, made: Made, store: str = "trusted") -> None:
        (self.directory / store / f"{made.thumbprint}.der").write_bytes(made.der)

    def list_it(self, revocations: x509.CertificateRevocationList, store: str = "trusted") -> None:
        (self.directory / store / "list.crl").write_bytes(revocations.public_bytes(Encoding.DER))

    @property
    def rejected(self) -> set[str]:
        return {path.stem for path in (self.directory / "rejected").iterdir()}

    def changed(self, **settings: Any) -> TestPki:
        """Of the same directory, with other settings."""
        return TestPki(replace(self.settings, **settings))


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    """Our own certificate, and nobody trusted; the key is the same in every test."""
    made = TestPki(PkiSettings(tmp_path / "pki", allow_deprecated_policies=True, application_uri="urn:test:client"))
    place_key(made.directory)
    made.prepare()
    return made


def place_key(directory: Path) -> None:
    """Put our own key into a PKI directory, which need not make it then."""
    (directory / "own").mkdir(parents=True)
    pem = key_of("client").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "own" / "private_key.pem").write_bytes(pem)
