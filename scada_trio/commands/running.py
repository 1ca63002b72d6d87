"""What a running service says of its tenants and connections: asked over HTTP, where its status page is.

The page is the way in that needs nothing more than what the service has itself: the address is METRICS_HOST and
METRICS_PORT, the name and password are METRICS_USER and METRICS_PASSWORD, and the one certificate that is accepted is
METRICS_TLS_CERT. METRICS_ALLOW holds for this machine as for every other. gRPC would need a client's certificate, which
a service does not have.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import trio

from scada_trio.config import Settings
from scada_trio.errors import ScadaError
from scada_trio.listening import reached_at

_TIMEOUT_S: Final = 3.0
_MAX_BYTES: Final = 256 << 20  # a connection is about 600 bytes of it


@dataclass(frozen=True, slots=True)
class Running:
    """What the service said, by id, as its document ``/status`` has it; ``silence`` tells why it said nothing."""

    tenants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    silence: str | None = None

    @property
    def absence(self) -> str:
        """The state, for people, of what is not in the answer."""
        return "not running" if self.silence is None else "no service"


class _NoAnswer(ScadaError):
    """The service does not tell; the text says why."""


async def ask_service(settings: Settings) -> Running:
    """Ask the service that these settings are of; what goes wrong is in the answer, nothing is raised."""
    try:
        document = await trio.to_thread.run_sync(_fetch, settings, abandon_on_cancel=True)
    except _NoAnswer as error:
        return Running(silence=str(error))
    tenants = {tenant["id"]: tenant for tenant in document["tenants"]}
    connections = {one["id"]: one for tenant in document["tenants"] for one in tenant["connections"]}
    return Running(tenants, connections)


def say_silence(running: Running) -> None:
    """Tell on stderr why there are no states, where there are none."""
    if running.silence is not None:
        sys.stderr.write(f"{running.silence}\n")


def iso_seconds(at: float | None) -> str | None:
    """Unix seconds as ISO 8601, UTC, to the second."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _fetch(settings: Settings) -> dict[str, Any]:
    access = settings.web_access
    host = reached_at(settings.metrics_host)
    name = f"[{host}]" if ":" in host else host
    where = f"{'https' if access.tls_cert else 'http'}://{name}:{settings.metrics_port}/status"
    if settings.metrics_port == 0:
        raise _NoAnswer("no service can be asked: METRICS_PORT=0 says of no service where it listens")
    headers = {"Accept": "application/json"}
    if access.user is not None and access.password is not None:
        login = f"{access.user}:{access.password.get_secret_value()}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
    connection = http.client.HTTPConnection(host, settings.metrics_port, timeout=_TIMEOUT_S)
    if access.tls_cert is not None:
        context = _trusting(str(access.tls_cert))
        connection = http.client.HTTPSConnection(host, settings.metrics_port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/status", headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _NoAnswer(f"no service answers at {where}: {reason}") from None
    finally:
        connection.close()
    return _document(where, answer.status, body)


def _document(where: str, status: int, body: bytes) -> dict[str, Any]:
    if status == 403:
        raise _NoAnswer(f"the service at {where} does not tell this machine: METRICS_ALLOW does not name it")
    if status == 401:
        raise _NoAnswer(f"the service at {where} wants another METRICS_USER or METRICS_PASSWORD")
    try:
        document = json.loads(body) if status == 200 else None
    except ValueError:
        document = None
    if not isinstance(document, dict) or "tenants" not in document:
        raise _NoAnswer(f"what answers at {where} is no scada-trio service: status {status}")
    return document


def _trusting(certificate: str) -> ssl.SSLContext:
    """A context for the holder of that certificate alone, under whatever name it is reached."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=certificate)
    except OSError as error:
        raise _NoAnswer(
            f"no service can be asked: METRICS_TLS_CERT: {error.strerror or error}: {certificate}"
        ) from None
    return context
