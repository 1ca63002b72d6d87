"""The trust store: a directory of certificates that people can look into and change while the service runs.

Owns the files under ``trusted``, ``issuers``, ``rejected`` and ``users``. Knows no connection; starts nothing.
Everything but `TrustStore.watch` and `changed_since` blocks on the disk: call it in a worker thread.

    trusted/   servers that we trust, and authorities whose servers we trust; their revocation lists (*.crl)
    issuers/   authorities that complete a chain, and whose own servers nobody trusts; their revocation lists
    rejected/  what servers presented and nobody trusts yet; at most so many, the oldest go
    users/     <connection id>.pem, key and certificate of a user who logs in with a certificate
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from scada_trio.errors import ConfigError, DeviceRefused, InvalidField
from scada_trio.opcua.certificates import (
    MALFORMED,
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN,
    TrustList,
    read_certificate,
    split_chain,
    thumbprint,
)

log = structlog.get_logger()

MAX_REJECTED: Final = 100
_STORES: Final = ("trusted", "issuers", "rejected", "users")
_CERTIFICATE_SUFFIXES: Final = (".der", ".pem", ".crt", ".cer")
_MAX_LIST_BYTES: Final = 16 << 20
_LOOK_EVERY_S: Final = 2.0
_MIN_THUMBPRINT: Final = 8

Version = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate in the store."""

    store: str
    path: Path
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """A user who is known by a certificate."""

    certificate: x509.Certificate
    key: RSAPrivateKey


class TrustStore:
    """``directory`` is the PKI directory; made by `prepare`, and by nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._version: Version | None = None
        self._trust = TrustList()
        self._seen: Version | None = None
        self._looked = trio.Event()
        self._changed = trio.Event()
        self._reported: set[Path] = set()

    def prepare(self) -> None:
        """Make the directories, for their owner alone. Raises `ConfigError`."""
        try:
            for name in _STORES:
                (self._directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("PKI_DIR", f"{error.strerror}: {error.filename}") from error

    # ---- what is trusted

    def load(self) -> tuple[TrustList, Version]:
        """What is trusted now, and the version of that. A file that cannot be read is logged once and left out."""
        with self._lock:
            version = self.version()
            if version != self._version:
                lists = [*self._lists("trusted"), *self._lists("issuers")]
                trusted = tuple(entry.certificate for entry in self.entries("trusted"))
                issuers = tuple(entry.certificate for entry in self.entries("issuers"))
                self._trust, self._version = TrustList(trusted, issuers, tuple(lists)), version
            return self._trust, version

    def version(self) -> Version:
        """Changes whenever a file that decides about trust does."""
        found = []
        for name in ("trusted", "issuers", "users"):
            with suppress(OSError), os.scandir(self._directory / name) as files:
                for file in files:
                    with suppress(OSError):
                        state = file.stat()
                        found.append((f"{name}/{file.name}", state.st_mtime_ns, state.st_size))
        return tuple(sorted(found))

    async def watch(self) -> None:
        """Look for changes until cancelled; `changed_since` waits for what this finds."""
        while True:
            version = await trio.to_thread.run_sync(self.version)
            if version != self._seen:
                self._seen = version
                self._changed = _pulse(self._changed)
            self._looked = _pulse(self._looked)
            await trio.sleep(_LOOK_EVERY_S)

    async def changed_since(self, version: object) -> None:
        """Return soon after the store is another than ``version``. Waits for good where nothing runs `watch`."""
        if self._seen != version:  # it was changed, or `watch` has not seen yet what the caller has
            await self._looked.wait()
        while self._seen == version:
            await self._changed.wait()

    def entries(self, *stores: str) -> Iterator[Entry]:
        """Every certificate of these stores."""
        for store in stores:
            for path in self._files(store):
                if path.suffix.lower() in _CERTIFICATE_SUFFIXES:
                    certificate = self._certificate(path)
                    if certificate is not None:
                        yield Entry(store, path, certificate)

    def _lists(self, store: str) -> Iterator[x509.CertificateRevocationList]:
        for path in self._files(store):
            if path.suffix.lower() != ".crl":
                continue
            try:
                content = _read_bounded(path, _MAX_LIST_BYTES)
                pem = content.lstrip().startswith(b"-----BEGIN")
                found = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
                _ = found.issuer, found.next_update_utc
            except (OSError, *MALFORMED) as error:
                self._report(path, error)
            else:
                yield found

    def _files(self, store: str) -> list[Path]:
        try:
            return sorted((self._directory / store).iterdir())
        except OSError:
            return []

    def _certificate(self, path: Path) -> x509.Certificate | None:
        try:
            return read_certificate_file(path)
        except (OSError, *MALFORMED) as error:
            self._report(path, error)
            return None

    def _report(self, path: Path, error: Exception) -> None:
        if path not in self._reported:
            self._reported.add(path)
            reason = error.strerror if isinstance(error, OSError) else "not a certificate or revocation list"
            log.warning("file of the trust store left out", path=str(path), error=reason)

    # ---- changes

    def reject(self, certificate: x509.Certificate) -> None:
        """Keep what a server presented for people to decide about; a disk that takes nothing is logged, and borne."""
        rejected = self._directory / "rejected"
        path = rejected / f"{thumbprint(certificate)}.der"
        try:
            with self._lock:
                if path.exists():
                    path.touch()
                    return
                write_whole(path, certificate.public_bytes(Encoding.DER))
                self._bound(rejected)
        except OSError as error:
            self._report(path, error)

    @staticmethod
    def _bound(rejected: Path) -> None:
        files = sorted(rejected.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for file in files[: max(0, len(files) - MAX_REJECTED)]:
            file.unlink(missing_ok=True)

    def find_candidate(self, name: str) -> Entry:
        """What `trust` would trust: a rejected certificate by its thumbprint, or that of a file.

        ``store`` is ``trusted`` where it is already, empty for a file. Raises `InvalidField` where there is none or
        where the thumbprint fits several.
        """
        given = Path(name)
        if given.suffix.lower() not in _CERTIFICATE_SUFFIXES:
            return self._find(name, "rejected", "trusted")
        try:
            certificate = read_certificate_file(given)
        except OSError as error:
            raise InvalidField("certificate", f"{error.strerror}: {given}") from error
        except MALFORMED as error:
            raise InvalidField("certificate", f"{given} is no certificate") from error
        known = (entry for entry in self.entries("trusted") if entry.certificate == certificate)
        return next(known, Entry("", given, certificate))

    def find_trusted(self, name: str) -> Entry:
        """A trusted certificate by its thumbprint. Raises `InvalidField`."""
        return self._find(name, "trusted")

    def trust(self, found: Entry | str) -> Entry:
        """Trust a certificate from now on, or what `find_candidate` finds by this name. Raises OSError."""
        if isinstance(found, str):
            found = self.find_candidate(found)
        path = self._directory / "trusted" / f"{thumbprint(found.certificate)}.der"
        write_whole(path, found.certificate.public_bytes(Encoding.DER))
        (self._directory / "rejected" / path.name).unlink(missing_ok=True)
        return Entry("trusted", path, found.certificate)

    def distrust(self, found: Entry | str) -> Entry:
        """Trust a certificate no longer; it is among the rejected from now on. As `trust`, of `find_trusted`."""
        if isinstance(found, str):
            found = self.find_trusted(found)
        self.reject(found.certificate)
        for other in self.entries("trusted"):
            if other.certificate == found.certificate:
                other.path.unlink(missing_ok=True)
        return found

    def _find(self, name: str, *stores: str) -> Entry:
        wanted = "".join(name.replace(":", "").split()).lower()
        if len(wanted) < _MIN_THUMBPRINT or set(wanted) - set("0123456789abcdef"):
            raise InvalidField("thumbprint", f"{name!r} is none: at least {_MIN_THUMBPRINT} hexadecimal digits of one")
        found = {
            thumbprint(entry.certificate): entry
            for entry in self.entries(*reversed(stores))
            if thumbprint(entry.certificate).startswith(wanted)
        }
        if len(found) > 1:
            raise InvalidField("thumbprint", f"{name!r} is the beginning of {len(found)}; give more digits")
        if not found:
            raise InvalidField("thumbprint", f"no {' or '.join(stores)} certificate has {name!r}; see: trust list")
        return next(iter(found.values()))

    # ---- users

    def user(self, connection_id: UUID) -> UserIdentity | None:
        """Key and certificate of the user that this connection logs in as; None where it has no such file.

        Raises `DeviceRefused` for a file that is there and cannot be used.
        """
        path = self._directory / "users" / f"{connection_id}.pem"
        try:
            content = _read_bounded(path, 4 * MAX_CERTIFICATE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeviceRefused(f"the user's certificate cannot be read: {error.strerror}: {path}") from error
        try:
            key = load_pem_private_key(content, None)
            certificate = x509.load_pem_x509_certificate(content)
        except MALFORMED as error:
            raise DeviceRefused(f"{path} is no PEM file with a private key and a certificate") from error
        if not isinstance(key, RSAPrivateKey) or key.public_key() != certificate.public_key():
            raise DeviceRefused(f"{path} has no RSA key that fits its certificate")
        return UserIdentity(certificate, key)


def _pulse(event: trio.Event) -> trio.Event:
    """Wake who waits for ``event``; returns the one to wait for from now on."""
    event.set()
    return trio.Event()


def read_certificate_file(path: Path) -> x509.Certificate:
    """The first certificate of a DER or PEM file. Raises OSError, or one of `MALFORMED`."""
    content = _read_bounded(path, MAX_CERTIFICATE_BYTES)
    if content.lstrip().startswith(b"-----BEGIN"):
        content = x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
    return read_certificate(content)


def read_certificates_file(path: Path) -> list[x509.Certificate]:
    """Every certificate of a DER or PEM file, one at least. Raises OSError, or one of `MALFORMED`."""
    content = _read_bounded(path, MAX_CHAIN * MAX_CERTIFICATE_BYTES)
    if content.lstrip().startswith(b"-----BEGIN"):
        ders = [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(content)]
    else:
        ders = split_chain(content)
    if not 1 <= len(ders) <= MAX_CHAIN:
        raise ValueError(f"1 to {MAX_CHAIN} certificates are expected, and there are {len(ders)}")
    return [read_certificate(der) for der in ders]


def _read_bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError("too long")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all: who lists the directory meanwhile sees no half of a file."""
    unfinished = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
