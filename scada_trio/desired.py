"""What should run: tenants and connections as the master database describes them.

Plain values without behaviour that the storage package makes, the registry compares and the stages take.
Secrets are `pydantic.SecretStr`: printing a spec shows none.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import SecretStr

from scada_trio.readings import Tag
from scada_trio.sampling import UNSET, Sampling


class SecurityMode(enum.StrEnum):
    """OPC UA message security mode (Part 4, 7.20)."""

    NONE = "None"
    SIGN = "Sign"
    SIGN_AND_ENCRYPT = "SignAndEncrypt"


@dataclass(frozen=True, slots=True)
class ConnectionSpec:
    """One active row of ``scada_connections`` with its tags.

    ``problem`` tells why the row cannot be used (bad URL, password that does not decrypt); such a connection is
    shown as refused and not tried until the row changes. ``sampling`` is that of tags that have none of their own.
    """

    connection_id: UUID
    tenant_id: UUID
    name: str
    endpoint_url: str
    security_mode: SecurityMode = SecurityMode.NONE
    security_policy: str = "None"
    username: str | None = None
    password: SecretStr | None = None
    allow_plaintext_password: bool = False
    publishing_interval_ms: float | None = None
    sampling: Sampling = UNSET
    tags: tuple[Tag, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class TagChange:
    """What becomes of a connection's tags: ``tags`` are added, or changed where their id is there already.

    ``removed`` are ids; with ``replace`` all that are not in ``tags`` go.
    """

    tags: tuple[Tag, ...] = ()
    removed: tuple[UUID, ...] = ()
    replace: bool = False


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """One runnable row of ``tenants`` with its connections; ``problem`` as in `ConnectionSpec`."""

    tenant_id: UUID
    name: str
    database_url: SecretStr
    connections: Mapping[UUID, ConnectionSpec] = field(default_factory=dict)
    problem: str | None = None
