"""Which client may do what: the rights file, and the identity that a certificate gives.

Owns the form of ``GRPC_RIGHTS_FILE`` and how a certificate names its holder. Knows no socket; pure but
for reading the file.

    [[client]]
    identity = "DNS:nestjs.example.org"         # or "URI:...", "CN:..."
    right = "admin"                             # read, write, admin: each has the ones before it
    tenants = "*"                               # or a list of their ids

A certificate names its holder by the URIs and DNS names of its subject alternative name, else by the common name of its
subject; the first of them that the file has counts. The kind of the name is part of the identity, so that a common
name cannot pass for a URI.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from cryptography import x509
from cryptography.x509.oid import NameOID

from scada_trio.errors import ScadaError

Tenants = frozenset[UUID] | None
"""The tenants that somebody may see; None: all, those to come included."""

_KINDS: Final = ("URI:", "DNS:", "CN:")
_FIELDS: Final = frozenset({"identity", "right", "tenants"})


class RightsUnusable(ScadaError):
    """The rights file cannot be read or says something that cannot be meant."""


class Right(enum.IntEnum):
    """What a client may do; each includes those below it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """A right, for these tenants."""

    right: Right
    tenants: Tenants = None


EVERYTHING: Final = Grant(Right.ADMIN)

# What is not here needs ADMIN: a method that somebody forgot to enter is not open to all.
NEEDED: Final[Mapping[str, Right]] = {
    **dict.fromkeys(
        (
            *("QueryReadings", "StreamReadings", "SubscribeReadings", "QueryAggregates", "LatestReadings"),
            *("GetAggregatorStats", "HealthCheck", "GetConnection", "ListConnections", "ListTenants"),
        ),
        Right.READ,
    ),
    # of an endpoint that is not stored, the last two need ADMIN: see `scada_trio.api.limited`
    **dict.fromkeys(("UpdateConnectionTags", "RestartConnection", "BrowseNodes", "TestConnection"), Right.WRITE),
    # where the service connects to, and with which credentials
    **dict.fromkeys(("AddConnection", "RemoveConnection"), Right.ADMIN),
}


def needed_for(path: str) -> Right:
    """The right that ``/package.Service/Method`` needs; health checks and reflection are everybody's who has any."""
    service, _, method = path.strip("/").rpartition("/")
    return NEEDED.get(method, Right.ADMIN) if service == "scada.ScadaService" else Right.READ


def read_rights(path: Path) -> Mapping[str, Grant]:
    """Grants by identity; raises `RightsUnusable` with what is wrong and where. Blocks."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RightsUnusable(f"{error.strerror}: {path}") from error
    except UnicodeDecodeError:
        raise RightsUnusable(f"is not UTF-8 text: {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise RightsUnusable(f"is not TOML: {error}") from error
    clients = content.pop("client", [])
    if content:
        raise RightsUnusable(f"has {next(iter(content))!r}, which means nothing here; [[client]] is expected")
    if not isinstance(clients, list) or not all(isinstance(client, dict) for client in clients):
        raise RightsUnusable("has [client]; [[client]] is expected")
    grants: dict[str, Grant] = {}
    for number, client in enumerate(clients, 1):
        identity, grant = _entry(f"client {number}", client)
        if identity in grants:
            raise RightsUnusable(f"client {number}: {identity} is named twice")
        grants[identity] = grant
    return grants


def _entry(where: str, client: dict[str, Any]) -> tuple[str, Grant]:
    if unknown := sorted(client.keys() - _FIELDS):
        raise RightsUnusable(f"{where}: {unknown[0]!r} means nothing here")
    if missing := sorted(_FIELDS - client.keys()):
        raise RightsUnusable(f"{where}: {missing[0]} is missing")
    identity, right = client["identity"], client["right"]
    if not isinstance(identity, str) or not identity.startswith(_KINDS) or identity in _KINDS:
        raise RightsUnusable(f"{where}: identity begins with URI:, DNS: or CN:")
    if not isinstance(right, str) or right.upper() not in Right.__members__:
        raise RightsUnusable(f"{where}: right is one of read, write, admin")
    return identity, Grant(Right[right.upper()], _tenants(where, client["tenants"]))


def _tenants(where: str, value: object) -> Tenants:
    if value == "*":
        return None
    try:
        if not isinstance(value, list):
            raise ValueError
        return frozenset(UUID(tenant) for tenant in value)
    except (ValueError, AttributeError, TypeError):
        raise RightsUnusable(f'{where}: tenants is "*" or a list of ids') from None


def identities_of(certificate: bytes | None) -> Sequence[str]:
    """What a client's certificate (DER) calls its holder, the most telling first; nothing without a certificate."""
    if certificate is None:
        return ()
    parsed = x509.load_der_x509_certificate(certificate)
    names: list[str] = []
    try:
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += [f"URI:{uri}" for uri in extension.get_values_for_type(x509.UniformResourceIdentifier)]
        names += [f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)]
    except (x509.ExtensionNotFound, ValueError):  # none, or none that can be read
        pass
    if not names:
        names = [f"CN:{name.value!s}" for name in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return names
