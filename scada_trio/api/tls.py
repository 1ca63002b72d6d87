"""TLS of the gRPC server: which certificate, who is let in, and when the files have changed.

Owns the making of contexts. A new one takes the place of the old for clients that come from then on; whoever is
connected stays. Blocking calls, for a worker thread. Starts nothing.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from scada_trio.errors import ScadaError

HANDSHAKE_S: Final = 10.0
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
    """PEM files; ``client_ca`` None: clients need no certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


@dataclass(frozen=True, slots=True)
class Tls:
    """A context and when its certificate ends, Unix seconds."""

    context: ssl.SSLContext
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
    """A context of TLS 1.2 or later for HTTP/2; ``on_refused`` is told why a handshake failed.

    Raises `TlsUnusable` where the pair does not belong together, has ended or cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.sslobject_class = type("_Handshake", (_Handshake,), {"on_refused": staticmethod(on_refused)})
    ends_at = _end_of(files.certificate)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except OSError as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "is not the PEM key of GRPC_TLS_CERT"
        raise TlsUnusable("GRPC_TLS_KEY", f"{reason}: {files.key}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except OSError as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "holds no PEM certificate"
            raise TlsUnusable("GRPC_TLS_CLIENT_CA", f"{reason}: {files.client_ca}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Tls(context, ends_at)


def _end_of(path: Path) -> float:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise TlsUnusable("GRPC_TLS_CERT", f"{error.strerror}: {path}") from None
    except ValueError:
        raise TlsUnusable("GRPC_TLS_CERT", f"is not a PEM certificate: {path}") from None
    ends_at = certificate.not_valid_after_utc.timestamp()
    if ends_at < time.time():
        raise TlsUnusable("GRPC_TLS_CERT", f"has ended on {certificate.not_valid_after_utc:%Y-%m-%d}: {path}")
    return ends_at


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
