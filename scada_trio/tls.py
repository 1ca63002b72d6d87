"""TLS of our servers, gRPC and HTTP: which certificate, who is let in, and when the files have changed.

Owns the making of contexts, and `FollowedTls`: the one that is in use. A new one takes the place of the old for clients
that come from then on; whoever is connected stays. Starts nothing: each server looks every `LOOK_EVERY_S`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from scada_trio.errors import ConfigError, ScadaError

log = structlog.get_logger()

HANDSHAKE_S: Final = 10.0
LOOK_EVERY_S: Final = 2.0
# RFC 9113, 9.2.2 rules out what is not here; TLS 1.3 has its own, all of them good
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsUnusable(ScadaError):
    """Certificate, key or authorities cannot be used; ``variable`` names the setting at fault."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")
        self.variable = variable
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; ``client_ca`` None: clients need no certificate.

    ``server`` is GRPC or METRICS, by which the variables of the files begin; ``protocols`` are for ALPN, best first.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    server: str = "GRPC"
    protocols: tuple[str, ...] = ("h2",)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


@dataclass(frozen=True, slots=True)
class Tls:
    """A context, the thumbprint of its certificate and when that ends, Unix seconds."""

    context: ssl.SSLContext
    thumbprint: str
    ends_at: float


def state_of(paths: Iterable[Path]) -> tuple[object, ...]:
    """Something that differs when one of the files has changed, links and the replacing of whole files included."""
    found: list[object] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def load_tls(files: TlsFiles, on_refused: Callable[[str], None]) -> Tls:
    """A context of TLS 1.2 or later, fit for HTTP/2; ``on_refused`` is told why a handshake failed. Blocks.

    Raises `TlsUnusable` where the pair does not belong together, has ended or cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(list(files.protocols))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.sslobject_class = type("_Handshake", (_Handshake,), {"on_refused": staticmethod(on_refused)})
    certificate_name, key_name, ca_name = (f"{files.server}_TLS_{name}" for name in ("CERT", "KEY", "CLIENT_CA"))
    certificate = _certificate(certificate_name, files.certificate)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except OSError as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else f"is not the PEM key of {certificate_name}"
        raise TlsUnusable(key_name, f"{reason}: {files.key}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except OSError as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "holds no PEM certificate"
            raise TlsUnusable(ca_name, f"{reason}: {files.client_ca}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    thumbprint = certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 -- a name, on which nothing rests
    return Tls(context, thumbprint, certificate.not_valid_after_utc.timestamp())


def _certificate(variable: str, path: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise TlsUnusable(variable, f"{error.strerror}: {path}") from None
    except ValueError:
        raise TlsUnusable(variable, f"is not a PEM certificate: {path}") from None
    ends_at = certificate.not_valid_after_utc
    if ends_at.timestamp() < time.time():
        raise TlsUnusable(variable, f"has ended on {ends_at:%Y-%m-%d}: {path}")
    return certificate


class _Handshake(ssl.SSLObject):
    """Tells of a handshake that fails: asyncio closes the connection and says nothing."""

    on_refused: Callable[[str], None]

    def do_handshake(self) -> Any:
        try:
            return super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.on_refused((error.reason or "unknown").lower().replace("_", " "))
            raise


class FollowedTls:
    """What ``files`` hold, None: no TLS; there is a context after `load`."""

    def __init__(self, files: TlsFiles | None, on_refused: Callable[[str], None] = lambda reason: None) -> None:
        self._tls: Tls | None = None
        self.files = files
        self._on_refused = on_refused
        self._state: object = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """For who connects next; None: no TLS."""
        return None if self._tls is None else self._tls.context

    def expiries(self) -> Iterator[tuple[str, str, float]]:
        """(``grpc`` or ``metrics``, thumbprint, Unix seconds of its end) of the certificate, where there is one."""
        if self.files is not None and self._tls is not None:
            yield self.files.server.lower(), self._tls.thumbprint, self._tls.ends_at

    def load(self) -> None:
        """Read the files for the first time; raises `ConfigError`. Blocks."""
        if self.files is None:
            return
        # looked at before they are read: what changes in between is seen at the next look
        self._state = state_of(self.files.paths)
        try:
            self._tls = load_tls(self.files, self._on_refused)
        except TlsUnusable as error:
            raise ConfigError(error.variable, error.reason) from error

    async def look(self) -> bool:
        """Whether there is a new context; one that cannot be made changes nothing and is logged once."""
        if self.files is None:
            return False
        found = await trio.to_thread.run_sync(state_of, self.files.paths)
        if found == self._state:
            return False
        self._state = found
        server = self.files.server
        try:
            self._tls = await trio.to_thread.run_sync(load_tls, self.files, self._on_refused)
        except TlsUnusable as error:
            log.error(
                "a TLS certificate has changed and cannot be used; the old one stays", server=server, error=str(error)
            )
            return False
        log.info("a TLS certificate is taken from its changed files", server=server)
        return True
