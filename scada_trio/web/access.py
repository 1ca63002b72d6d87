"""Who may look at metrics: from which networks, with which name and password, and over TLS or not.

Owns nothing that runs; the pages ask `WebAccess.refusal`. `/healthz` does not: probes come from anywhere.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from scada_trio.config import WebAccessSettings
from scada_trio.errors import ConfigError

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class WebAccess:
    """What `Settings.web_access` says; without any, whoever is on this machine."""

    def __init__(self, settings: WebAccessSettings | None = None) -> None:
        settings = settings or WebAccessSettings()
        self._networks = settings.allow or _LOOPBACK
        self._login: bytes | None = None
        if settings.user is not None and settings.password is not None:
            self._login = f"{settings.user}:{settings.password.get_secret_value()}".encode()
        self.tls: tuple[Path, Path] | None = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            self.tls = settings.tls_cert, settings.tls_key

    def refusal(self, request: Request) -> Response | None:
        """What is answered instead, None where they may: 403 for where they are, 401 for who they are."""
        if not self._is_near(request):
            return PlainTextResponse("Forbidden", status_code=403)
        if self._login is not None and not hmac.compare_digest(_login_of(request), self._login):
            challenge = {"WWW-Authenticate": 'Basic realm="scada-trio", charset="UTF-8"'}
            return PlainTextResponse("Unauthorized", status_code=401, headers=challenge)
        return None

    def check_tls(self) -> None:
        """Raises `ConfigError` where certificate and key cannot be used. Blocks."""
        if self.tls is None:
            return
        for variable, path in zip(("METRICS_TLS_CERT", "METRICS_TLS_KEY"), self.tls, strict=True):
            try:
                path.open("rb").close()
            except OSError as error:
                raise ConfigError(variable, f"{error.strerror}: {path}") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self.tls, password=lambda: "")
        except ssl.SSLError:
            raise ConfigError("METRICS_TLS_CERT", "is no PEM certificate of the key in METRICS_TLS_KEY") from None

    def _is_near(self, request: Request) -> bool:
        try:
            address = ip_address(request.client.host.partition("%")[0]) if request.client else None
        except ValueError:
            return False
        if address is None:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _login_of(request: Request) -> bytes:
    """``name:password`` as it was sent; empty where it was not."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(sent.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
