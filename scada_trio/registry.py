"""Desired state: rows of the master database turned into what should run.

Owns the reading of configuration rows: decrypting, validating, and naming what is wrong with a row so that it keeps
nobody else from running. Knows no task; the service asks it and applies the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import structlog
import trio
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec, SecurityMode, TenantSpec
from scada_trio.errors import InvalidField
from scada_trio.readings import Tag
from scada_trio.sampling import UNSET, Sampling, parse_deadband_percent, parse_publishing_interval, parse_sampling
from scada_trio.secrets import SecretBox, SecretError
from scada_trio.storage.master import ConnectionRow, MasterDatabase, MasterRows, TagRow, TenantRow
from scada_trio.validation import parse_endpoint, parse_security

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one reading of the master database came to; ``digests`` as in `MasterRows`.

    ``connections`` by tenant and id are all that ``digests`` are of, those of tenants that do not run included.
    """

    rows: tuple[TenantRow, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)
    connections: Mapping[UUID, Mapping[UUID, ConnectionSpec]] = field(default_factory=dict)
    specs: Mapping[UUID, TenantSpec] = field(default_factory=dict)


class Registry:
    """Reads the master database and makes specs of it, anew only of what has changed meanwhile. For one task."""

    def __init__(self, master: MasterDatabase, secrets: SecretBox) -> None:
        self._master = master
        self._secrets = secrets
        self._reported: frozenset[str] = frozenset()
        self._last = _Reading()

    async def load(self) -> Mapping[UUID, TenantSpec]:
        """All tenants that should run, by id; raises `DatabaseError` where the master database does not answer.

        The same object as the last time where nothing has changed; what did not change in another one is the same.
        """
        last = self._last
        rows = await self._master.load(last.digests)
        for problem in rows.problems:
            if problem not in self._reported:
                log.error("row of the master database left out", problem=problem)
        self._reported = frozenset(rows.problems)
        if rows.connections or rows.tenants != last.rows or rows.digests != last.digests:
            # ten thousand tags take a tenth of a second and more, and nobody's link may wait for them
            self._last = await trio.to_thread.run_sync(_renewed, last, rows, self._secrets)
        return self._last.specs


def build_specs(rows: MasterRows, secrets: SecretBox) -> Mapping[UUID, TenantSpec]:
    """Specs from raw rows. A row at fault becomes a spec with a ``problem``; it never hides another row.

    Equal rows make equal specs, in whatever order they come.
    """
    return _renewed(_Reading(), rows, secrets).specs


def _renewed(last: _Reading, rows: MasterRows, secrets: SecretBox) -> _Reading:
    """Of ``rows``, and of ``last`` the connections that ``rows`` leave out because they are as they were."""
    tags: defaultdict[UUID, list[TagRow]] = defaultdict(list)
    for tag_row in rows.tags:
        tags[tag_row.connection_id].append(tag_row)
    read = {row.connection_id for row in rows.connections}
    kept = {UUID(row_id) for row_id in rows.digests} - read
    connections: defaultdict[UUID, dict[UUID, ConnectionSpec]] = defaultdict(dict)
    for tenant_id, specs_then in last.connections.items():
        connections[tenant_id] = {key: value for key, value in specs_then.items() if key in kept}
    for row in rows.connections:
        connections[row.tenant_id][row.connection_id] = _connection_spec(row, tags[row.connection_id], secrets)
    known = {row.tenant_id: row for row in last.rows}
    specs = {}
    for tenant_row in rows.tenants:
        tenant_id, spec = tenant_row.tenant_id, last.specs.get(tenant_row.tenant_id)
        if spec is None or tenant_row != known[tenant_id] or connections[tenant_id] != spec.connections:
            spec = _tenant_spec(tenant_row, connections[tenant_id], secrets)
        specs[tenant_id] = spec
    return _Reading(rows.tenants, rows.digests, connections, specs)


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


def parameters_of(row: ConnectionRow) -> tuple[float | None, Sampling]:
    """The publishing interval in ms and the sampling that a row means; raises `InvalidField`."""
    interval_ms = parse_publishing_interval("publishing_interval_ms", row.parameters.get("publishing_interval_ms"))
    return interval_ms, parse_sampling("", row.parameters)


def _connection_spec(row: ConnectionRow, tag_rows: Iterable[TagRow], secrets: SecretBox) -> ConnectionSpec:
    problem: str | None = None
    mode, policy = SecurityMode.NONE, "None"
    password: SecretStr | None = None
    publishing_interval_ms: float | None = None
    sampling = UNSET
    try:
        parse_endpoint("endpoint_url", row.endpoint_url)
        mode, policy = parse_security(row.security_mode or "", row.security_policy or "")
        publishing_interval_ms, sampling = parameters_of(row)
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
        # by node first: devices of one make then report their items in the same order, and share what is kept of it
        tags=tuple(sorted(map(tag_of, tag_rows), key=lambda tag: (tag.node_id, tag.tag_id))),
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
