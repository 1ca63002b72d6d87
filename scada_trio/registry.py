"""Desired state: rows of the master database turned into what should run.

Owns the reading of configuration rows: decrypting, validating, and naming what is wrong with a row so that it keeps
nobody else from running. Knows no task; the service asks it and applies the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

import structlog
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec, SecurityMode, TenantSpec
from scada_trio.errors import InvalidField
from scada_trio.readings import Tag
from scada_trio.sampling import UNSET, parse_deadband_percent, parse_publishing_interval, parse_sampling
from scada_trio.secrets import SecretBox, SecretError
from scada_trio.storage.master import ConnectionRow, MasterDatabase, MasterRows, TagRow, TenantRow
from scada_trio.validation import parse_endpoint, parse_security

log = structlog.get_logger()


class Registry:
    """Reads the master database and makes specs of it."""

    def __init__(self, master: MasterDatabase, secrets: SecretBox) -> None:
        self._master = master
        self._secrets = secrets
        self._reported: frozenset[str] = frozenset()

    async def load(self) -> Mapping[UUID, TenantSpec]:
        """All tenants that should run, by id; raises `DatabaseError` where the master database does not answer."""
        rows = await self._master.load()
        for problem in rows.problems:
            if problem not in self._reported:
                log.error("row of the master database left out", problem=problem)
        self._reported = frozenset(rows.problems)
        return build_specs(rows, self._secrets)


def build_specs(rows: MasterRows, secrets: SecretBox) -> dict[UUID, TenantSpec]:
    """Specs from raw rows. A row at fault becomes a spec with a ``problem``; it never hides another row.

    Equal rows make equal specs, in whatever order they come.
    """
    tags: defaultdict[UUID, list[TagRow]] = defaultdict(list)
    for tag_row in rows.tags:
        tags[tag_row.connection_id].append(tag_row)
    connections: defaultdict[UUID, dict[UUID, ConnectionSpec]] = defaultdict(dict)
    for row in rows.connections:
        connections[row.tenant_id][row.connection_id] = _connection_spec(row, tags[row.connection_id], secrets)
    return {row.tenant_id: _tenant_spec(row, connections[row.tenant_id], secrets) for row in rows.tenants}


def _tenant_spec(row: TenantRow, connections: Mapping[UUID, ConnectionSpec], secrets: SecretBox) -> TenantSpec:
    problem: str | None = None
    url = SecretStr("")
    if not row.database_url:
        problem = "database_url is empty"
    else:
        try:
            url = secrets.decrypt(row.database_url)
        except SecretError as error:
            problem = f"database_url: {error}"
        else:
            if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
                problem = "database_url must start with postgresql:// or postgres://"
    return TenantSpec(row.tenant_id, row.name, url, connections, problem)


def _connection_spec(row: ConnectionRow, tag_rows: Iterable[TagRow], secrets: SecretBox) -> ConnectionSpec:
    problem: str | None = None
    mode, policy = SecurityMode.NONE, "None"
    password: SecretStr | None = None
    publishing_interval_ms: float | None = None
    sampling = UNSET
    try:
        parse_endpoint("endpoint_url", row.endpoint_url)
        mode, policy = parse_security(row.security_mode or "", row.security_policy or "")
        publishing_interval_ms = parse_publishing_interval(
            "publishing_interval_ms", row.parameters.get("publishing_interval_ms")
        )
        sampling = parse_sampling("", row.parameters)
        if row.password:
            password = secrets.decrypt(row.password)
    except (InvalidField, SecretError) as error:
        problem = str(error) if isinstance(error, InvalidField) else f"password: {error}"
    return ConnectionSpec(
        connection_id=row.connection_id,
        tenant_id=row.tenant_id,
        name=row.name or "",
        endpoint_url=row.endpoint_url,
        security_mode=mode,
        security_policy=policy,
        username=row.username or None,
        password=password,
        allow_plaintext_password=row.allow_plaintext_password,
        publishing_interval_ms=publishing_interval_ms,
        sampling=sampling,
        tags=tuple(sorted(map(tag_of, tag_rows), key=lambda tag: tag.tag_id)),
        problem=problem,
    )


def tag_of(row: TagRow) -> Tag:
    """The tag that a row means."""
    problem: str | None = None
    percent: float | None = None
    sampling = UNSET
    try:
        percent = parse_deadband_percent("deadband_percent", row.parameters.get("deadband_percent"), row.deadband)
        sampling = parse_sampling("", row.parameters)
    except InvalidField as error:
        problem = str(error)
    return Tag(
        tag_id=row.tag_id,
        well_id=row.well_id,
        node_id=row.node_id,
        data_type=row.data_type or "",
        name=row.name or "",
        unit=row.unit,
        scaling_factor=row.scaling_factor,
        deadband=row.deadband,
        deadband_percent=percent,
        sampling=sampling,
        problem=problem,
    )
