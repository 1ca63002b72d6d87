"""A master database's tenants, connections and tags, and tables as another application makes them; plain values."""

from __future__ import annotations

from uuid import UUID, uuid4

from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.readings import Tag
from scada_trio.storage.master import MasterDatabase
from tests.storage_samples import WELL

TENANT = UUID("11111111-1111-4111-8111-111111111111")
OTHER_TENANT = UUID("11111111-1111-4111-8111-222222222222")
CONNECTION = UUID("44444444-4444-4444-8444-444444444444")
SECRET_URL = "0123:4567:89ab"

# What an ORM might have made: enums, varchar ids, columns of its own without a default, no scada trigger.
FOREIGN = """
    CREATE TYPE tenant_status AS ENUM ('ACTIVE', 'TRIAL', 'SUSPENDED', 'DELETED');
    CREATE TYPE mode AS ENUM ('None', 'Sign', 'SignAndEncrypt');
    CREATE TABLE tenants (id varchar(36) PRIMARY KEY, name varchar(100) NOT NULL, slug text, database_url text NOT NULL,
        status tenant_status NOT NULL DEFAULT 'TRIAL', deleted_at timestamp, "createdAt" timestamp NOT NULL,
        "updatedAt" timestamp NOT NULL);
    CREATE TABLE scada_connections (id uuid PRIMARY KEY, tenant_id varchar(36) NOT NULL, name text NOT NULL,
        endpoint_url varchar(500) NOT NULL, security_mode mode NOT NULL, security_policy text NOT NULL, username text,
        password text, is_active boolean NOT NULL DEFAULT true, created_at timestamp NOT NULL, region text);
    CREATE TABLE tag_mappings (id uuid PRIMARY KEY, tenant_id varchar(36), connection_id uuid NOT NULL, well_id uuid,
        tag_name text NOT NULL, opc_node_id text NOT NULL CHECK (opc_node_id <> ''), data_type text, unit text,
        scaling_factor numeric DEFAULT 1, deadband numeric, deleted_at timestamp, alarm_high float8)"""


def open_master_database(url: SecretStr) -> MasterDatabase:
    return MasterDatabase(url, connect_timeout_s=5, statement_timeout_s=30)


def connection_spec(
    *tags: Tag, connection_id: UUID = CONNECTION, tenant_id: UUID = TENANT, name: str = "pad 7"
) -> ConnectionSpec:
    return ConnectionSpec(
        connection_id,
        tenant_id,
        name,
        "opc.tcp://device:4840",
        SecurityMode.SIGN,
        "Basic256Sha256",
        username="operator",
        tags=tags,
    )


def mapped_tag(node_id: str = "ns=2;s=P", **changes: object) -> Tag:
    values: dict[str, object] = {"tag_id": uuid4(), "well_id": WELL, "node_id": node_id, "data_type": "Double"}
    return Tag(**(values | changes))  # type: ignore[arg-type]
