"""Databases of the site, past every proxy: tenants' with what the arithmetic needs, and one statement at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from pydantic import SecretStr

from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.migrate import migrate_tenant

_WRITTEN: Final = (
    "CREATE TABLE chaos_rows (timestamp timestamptz, well_id uuid, tag_node_id text, value float8)"
    " TABLESPACE pg_default",
    "CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.chaos_rows"
    " VALUES (NEW.timestamp, NEW.well_id, NEW.tag_node_id, NEW.value); RETURN NEW; END $$",
    "CREATE TRIGGER chaos_note BEFORE INSERT ON scada_readings FOR EACH ROW EXECUTE FUNCTION chaos_note()",
    "CREATE INDEX chaos_newest ON scada_readings (well_id, tag_node_id, value)",
)


def create_tenant_database(postgres: EmbeddedServer, name: str, disk: Path | None) -> SecretStr:
    """Blocking: a migrated one with ``chaos_rows``, on ``disk`` where there is one; its URL."""
    url = create_database(postgres.url, f"chaos_{name}")
    if disk is not None:
        postgres._programs.give(disk)
        fetch(postgres.url, f"CREATE TABLESPACE {name} LOCATION '{disk}'")
        fetch(postgres.url, f"ALTER DATABASE chaos_{name} SET default_tablespace = {name}")
    migrate_tenant(url)
    for statement in _WRITTEN:
        fetch(url, statement)
    return url


def fetch(url: SecretStr, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Blocking: rows of a statement on a connection of its own, committed; raises psycopg's errors."""
    with psycopg.connect(url.get_secret_value(), autocommit=True, connect_timeout=5) as connection:
        connection.execute("SET statement_timeout = '60s'")
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []
