"""Who may look at metrics: from which networks, with which name and password, and over TLS or not.

Owns nothing that runs; the pages ask `WebAccess.refusal`. `/healthz` does not: probes come from anywhere.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from ipaddress import ip_address, ip_network
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from scada_trio.config import WebAccessSettings
from scada_trio.tls import FollowedTls, TlsFiles

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class WebAccess:
    """What `Settings.web_access` says; without any, whoever is on this machine."""

    def __init__(self, settings: WebAccessSettings | None = None) -> None:
        settings = settings or WebAccessSettings()
        self._networks = settings.allow or _LOOPBACK
        self._login: bytes | None = None
        if settings.user is not None and settings.password is not None:
            self._login = f"{settings.user}:{settings.password.get_secret_value()}".encode()
        files: TlsFiles | None = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            files = TlsFiles(settings.tls_cert, settings.tls_key, server="METRICS", protocols=("h2", "http/1.1"))
        self.tls = FollowedTls(files)

    def refusal(self, request: Request) -> Response | None:
        """What is answered instead, None where they may: 403 for where they are, 401 for who they are."""
        if not self._is_near(request):
            return PlainTextResponse("Forbidden", status_code=403)
        if self._login is not None and not hmac.compare_digest(_login_of(request), self._login):
            challenge = {"WWW-Authenticate": 'Basic realm="scada-trio", charset="UTF-8"'}
            return PlainTextResponse("Unauthorized", status_code=401, headers=challenge)
        return None

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
