"""Our own application instance certificate (OPC UA Part 6, 6.2.2): given, or made on the first start and renewed.

A given file may hold our certificate alone, or with those of its issuers, in any order: all are sent then, for a device
that trusts an authority and knows none of the others between it and us.

Owns ``own`` in the PKI directory, its private key, and when a successor is made and used. Knows no connection; starts
nothing. Everything blocks on the disk, and making a key on the processor: call it in a worker thread.

    own/private_key.pem   readable by its owner alone
    own/certificate.der   what we present; give it to the devices
    own/next.der          its successor, of the same key: made 30 days before the other one expires, presented from a
                          day before on, so that there is time to give it to devices that list certificates
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scada_trio.config import PkiSettings
from scada_trio.errors import ConfigError, SecurityRefused
from scada_trio.opcua.certificates import MALFORMED, application_uri_of, describe, signed_by
from scada_trio.opcua.trust import Entry, read_certificate_file, read_certificates_file, write_whole

log = structlog.get_logger()

_LASTS: Final = timedelta(days=5 * 365)
_RENEWED_BEFORE: Final = timedelta(days=30)
_USED_BEFORE: Final = timedelta(days=1)
_BACKDATED: Final = timedelta(hours=1)  # a device's clock may be behind ours


@dataclass(frozen=True, slots=True)
class Identity:
    """What we present to a server, and sign with; ``chain`` is ``der`` and its issuers after it (Part 6, 6.2.6)."""

    certificate: x509.Certificate
    der: bytes
    chain: bytes
    key: rsa.RSAPrivateKey
    application_uri: str


class OwnCertificate:
    """The certificate of ``settings``, or of its directory's ``own``; `prepare` has to come first."""

    def __init__(self, settings: PkiSettings) -> None:
        self._settings = settings
        self._given = settings.certificate_file is not None
        own = settings.directory / "own"
        self._certificate_path = settings.certificate_file or own / "certificate.der"
        self._key_path = settings.private_key_file or own / "private_key.pem"
        self._next_path = own / "next.der"
        self._lock = threading.Lock()
        self._identity: Identity | None = None
        self._stamp: tuple[int, ...] = ()

    def prepare(self) -> Identity:
        """Read key and certificate, or make them where the settings name none. Raises `ConfigError`."""
        if self._given != (self._settings.private_key_file is not None):
            raise ConfigError("OPC_CERTIFICATE_FILE", "is of use only together with OPC_PRIVATE_KEY_FILE")
        variable = "OPC_CERTIFICATE_FILE" if self._given else "PKI_DIR"
        try:
            if not self._given:
                self._make_what_is_missing()
            return self._load()
        except OSError as error:
            raise ConfigError(variable, f"{error.strerror}: {error.filename}") from error
        except MALFORMED as error:
            raise ConfigError(variable, f"{error} ({self._certificate_path}, {self._key_path})") from error

    def current(self) -> Identity:
        """What is presented now; files that were replaced are read anew, and while they do not fit the old stay.

        Raises `SecurityRefused` where there never was anything.
        """
        with self._lock:
            try:
                if self._identity is None or self._stamp != self._stamp_now():
                    return self._load()
            except (OSError, *MALFORMED) as error:
                if self._identity is None:
                    raise SecurityRefused(f"our own certificate cannot be read: {error}", "own_certificate") from error
                log.error("our own certificate cannot be read, the one before stays in use", error=str(error))
            return self._identity

    def keep_valid(self, now: datetime | None = None) -> None:
        """Make or use the successor where it is time, and log what has to be done by people."""
        now = now or datetime.now(UTC)
        ends = self.current().certificate.not_valid_after_utc
        if now < ends - _RENEWED_BEFORE:
            return
        if self._given:
            log.warning("our own certificate expires, give a new one", expires=ends.isoformat())
            return
        try:
            with self._lock:
                if not self._next_path.exists():
                    successor = self._make_certificate(_read_key(self._key_path), now)
                    write_whole(self._next_path, successor.public_bytes(Encoding.DER))
                successor = read_certificate_file(self._next_path)
                if now >= ends - _USED_BEFORE:
                    self._next_path.replace(self._certificate_path)
                    log.warning("our own certificate was renewed", certificate=describe(successor))
                    return
        except (OSError, *MALFORMED) as error:
            log.error("our own certificate cannot be renewed", error=str(error), expires=ends.isoformat())
            return
        log.warning(
            "our own certificate expires; give its successor to devices that list certificates",
            expires=ends.isoformat(),
            successor=describe(successor),
            path=str(self._next_path),
        )

    def entries(self) -> Iterator[Entry]:
        """What is presented, and its successor where there is one."""
        yield Entry("own", self._certificate_path, self.current().certificate)
        if not self._given and self._next_path.exists():
            yield Entry("next", self._next_path, read_certificate_file(self._next_path))

    # ---- reading

    def _load(self) -> Identity:
        stamp = self._stamp_now()
        key = _read_key(self._key_path)
        certificate, *others = read_certificates_file(self._certificate_path)
        if certificate.public_key() != key.public_key():
            raise ValueError("the private key is not that of the certificate")
        application_uri = application_uri_of(certificate)
        if application_uri is None:
            raise ValueError("the certificate has no application URI in its subject alternative name")
        ders = [one.public_bytes(Encoding.DER) for one in _chain(certificate, others)]
        self._identity = Identity(certificate, ders[0], b"".join(ders), key, application_uri)
        self._stamp = stamp
        return self._identity

    def _stamp_now(self) -> tuple[int, ...]:
        states = [self._certificate_path.stat(), self._key_path.stat()]
        return tuple(number for state in states for number in (state.st_mtime_ns, state.st_size, state.st_ino))

    # ---- making

    def _make_what_is_missing(self) -> None:
        self._key_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._key_path.exists():
            key = rsa.generate_private_key(public_exponent=65537, key_size=self._settings.key_bits)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            _write_new(self._key_path, pem)
        self._key_path.chmod(0o600)
        if not self._certificate_path.exists():
            made = self._make_certificate(_read_key(self._key_path), datetime.now(UTC))
            _write_new(self._certificate_path, made.public_bytes(Encoding.DER))
            log.info("our own certificate was made", certificate=describe(made), path=str(self._certificate_path))

    def _make_certificate(self, key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
        """A self-signed certificate as Part 6, 6.2.2 wants it of a client."""
        host = socket.gethostname()
        if self._identity is not None:
            application_uri = self._identity.application_uri  # devices know us by it
        else:
            application_uri = self._settings.application_uri or f"urn:{host}:scada-trio"
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, f"scada-trio@{host}"[:64]),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "scada-trio"),
            ]
        )
        public_key = key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _LASTS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_KEY_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(application_uri), x509.DNSName(host)]),
                critical=False,
            )
        )
        return builder.sign(key, hashes.SHA256())


_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=True,
    key_encipherment=True,
    data_encipherment=True,
    key_agreement=False,
    key_cert_sign=True,  # it is its own issuer
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _chain(own: x509.Certificate, others: list[x509.Certificate]) -> list[x509.Certificate]:
    """``own``, its issuer, the issuer's issuer; ValueError for one of ``others`` that is none of these."""
    chain = [own]
    while others:
        issuer = next((other for other in others if signed_by(chain[-1], other)), None)
        if issuer is None:
            raise ValueError(f"{describe(others[0])} is beside our own certificate and did not issue it")
        chain.append(issuer)
        others.remove(issuer)
    return chain


def _read_key(path: Path) -> rsa.RSAPrivateKey:
    content = path.read_bytes()
    pem = content.lstrip().startswith(b"-----BEGIN")
    key = load_pem_private_key(content, None) if pem else load_der_private_key(content, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("the private key is not an RSA key")
    return key


def _write_new(path: Path, content: bytes) -> None:
    """Write a new file, readable by its owner alone; where another process was first, its file stays."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        with suppress(FileExistsError):
            path.hardlink_to(unfinished)
    finally:
        unfinished.unlink(missing_ok=True)
