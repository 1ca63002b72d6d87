"""What another application made before us in a tenant's database: told apart from ours, left alone, and named.

Ours carry a comment. `migrate` asks before it makes anything; blocks, reads the catalogue only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, LiteralString

from scada_trio.storage.connect import Connection

ROLLUPS: Final = ("hourly", "daily", "monthly")

_OURS: Final = "SELECT coalesce(obj_description(to_regclass(%s), 'pg_class'), '') LIKE '%% kept by scada-trio'"
_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
_KIND: Final = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('scada_readings')"
_KINDS: Final = {"r": "an ordinary table", "p": "a partitioned table", "v": "a view", "f": "a foreign table"}
_INDEXES: Final = """
    SELECT c.relname::text, i.indisunique AND i.indpred IS NULL AND array(
            SELECT attname::text FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = ANY (i.indkey::int2[])
            ORDER BY 1) = ARRAY['tag_node_id', 'timestamp', 'well_id']
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass('scada_readings')
    ORDER BY 1"""
_CHUNKS: Final = """
    SELECT time_interval::text FROM timescaledb_information.dimensions
    WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = to_regclass('scada_readings')
        AND dimension_number = 1"""
_POLICIES: Final = """
    SELECT proc_name::text, coalesce(config ->> 'compress_after', config ->> 'drop_after')
    FROM timescaledb_information.jobs
    WHERE proc_name IN ('policy_compression', 'policy_retention')
        AND format('%I.%I', hypertable_schema, hypertable_name)::regclass = to_regclass('scada_readings')"""
_IS_AGGREGATE: Final = """
    SELECT EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
        WHERE format('%%I.%%I', view_schema, view_name)::regclass = to_regclass(%s))"""
_LACKS: Final = """
    SELECT wanted FROM unnest(ARRAY['bucket', 'well_id', 'tag_node_id', 'avg', 'min', 'max', 'stddev', 'count',
        'uncertain_count', 'bad_count', 'total_count']) AS wanted
    WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = wanted AND attnum > 0)
    LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Survey:
    """``withheld`` names the relations that are not to be made or touched; ``left_alone`` says why, a line each."""

    withheld: frozenset[str]
    left_alone: tuple[str, ...]


def is_ours(connection: Connection, relation: str) -> bool:
    """Whether a migration of this service made the table or view."""
    return bool(_one(connection, _OURS, relation))


def survey(connection: Connection, *, timescale: bool) -> Survey:
    """What there is of other applications among the names that a migration makes."""
    withheld: set[str] = set()
    lines: list[str] = []
    if _one(connection, _EXISTS, "scada_readings") and not is_ours(connection, "scada_readings"):
        lines += _describe_readings(connection, timescale=timescale)
    blocked: str | None = None  # why nothing can be built on the rollup below
    for name in ROLLUPS:
        relation = f"scada_readings_{name}"
        if _one(connection, _EXISTS, relation):
            if not is_ours(connection, relation):
                withheld.add(relation)
                lines.append(f"{relation} is another application's: used as it is")
                blocked = _unfit(connection, relation) if timescale else None
            else:
                blocked = None
        elif blocked is not None:
            withheld.add(relation)
            lines.append(f"{relation} cannot be made: {blocked}")
    return Survey(frozenset(withheld), tuple(lines))


def _describe_readings(connection: Connection, *, timescale: bool) -> list[str]:
    kind = str(_one(connection, _KIND))
    chunks = _one(connection, _CHUNKS) if timescale else None
    if chunks is not None:
        policies: dict[str, str] = dict(connection.execute(_POLICIES).fetchall())
        compression = policies.get("policy_compression")
        retention = policies.get("policy_retention")
        kept = ", ".join(
            (
                f"chunks of {chunks}",
                f"compressed after {compression}" if compression else "no compression policy",
                f"dropped after {retention}" if retention else "no retention policy",
            )
        )
        what = "a hypertable"
    else:
        what, kept = _KINDS.get(kind, "no table"), "no partitions, no compression, no retention of ours"
    lines = [f"scada_readings is {what} of another application and stays as it is: {kept}"]
    indexes = connection.execute(_INDEXES).fetchall()
    names = ", ".join(name for name, _ in indexes) or "none"
    lines.append(f"its indexes stay: {names}")
    if not any(unique for _, unique in indexes):
        lines.append(
            "it has no unique index on (well_id, tag_node_id, timestamp): repeated readings are looked up instead"
        )
    return lines


def _unfit(connection: Connection, relation: str) -> str | None:
    """Why no continuous aggregate of ours can be built on it."""
    if not _one(connection, _IS_AGGREGATE, relation):
        return f"{relation} is no continuous aggregate"
    lacks = _one(connection, _LACKS, relation)
    return f"{relation} has no column {lacks}" if lacks else None


def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
