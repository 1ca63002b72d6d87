"""Where tenants and their readings are stored, and the keys of stored secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from scada_trio.variables.about import About, Milliseconds


class DatabaseVariables(BaseSettings):
    """Databases and secrets."""

    database_url: Annotated[
        SecretStr | None,
        About(
            "URL",
            "Master database: tenants, connections, tags. Left out: an embedded "
            "PostgreSQL under `DATA_DIR`, migrated by itself.",
            example="postgresql://scada:password@localhost:5432/scada_master",
            range="`postgresql://`, `postgres://`",
        ),
    ] = None
    data_dir: Annotated[
        Path,
        About(
            "directory",
            "Where the embedded PostgreSQL and its `encryption.key` live, and the journals unless `JOURNAL_DIR` "
            "says otherwise.",
        ),
    ] = Path("scada-data")
    encryption_key: Annotated[
        SecretStr | None,
        About(
            "text",
            "Key of the passwords and database URLs that the master database stores: 32 characters are used as "
            "they are, others by their SHA-256; see [ENCRYPTION_KEY](#encryption_key). Left out: nothing can be "
            "stored encrypted, except with the embedded PostgreSQL, which makes a key in `DATA_DIR`.",
        ),
    ] = None
    encryption_key_previous: Annotated[
        SecretStr | None,
        About(
            "text",
            "The key before: what it encrypted is read, and written again with `ENCRYPTION_KEY`; see "
            "[security.md](security.md#changing-the-key).",
        ),
    ] = None
    database_url_file: Annotated[
        Path | None,
        About(
            "file",
            "Holds what `DATABASE_URL` would, as container secrets do; the end of its line does not count. Only "
            "one of the two is given.",
            example="/run/secrets/database_url",
        ),
    ] = None
    encryption_key_file: Annotated[
        Path | None,
        About(
            "file",
            "The same of `ENCRYPTION_KEY`.",
            example="/run/secrets/encryption_key",
        ),
    ] = None
    encryption_key_previous_file: Annotated[
        Path | None,
        About(
            "file",
            "The same of `ENCRYPTION_KEY_PREVIOUS`.",
            example="/run/secrets/encryption_key_previous",
        ),
    ] = None
    tenant_database_url_file: Annotated[
        Path | None,
        About(
            "file",
            "For `scada-trio tenant add` alone: holds the new tenant's database URL, where neither "
            "`--database-url` nor `TENANT_DATABASE_URL` gives it.",
            example="/run/secrets/tenant_database_url",
        ),
    ] = None
    db_max_connections: Annotated[
        int,
        Field(ge=1, le=1000),
        About(
            "connections",
            "Connections for reads in the whole process. Each tenant's writer has its own beside them.",
        ),
    ] = 20
    db_write_connections: Annotated[
        int,
        Field(ge=1, le=4),
        About(
            "connections",
            "Connections of each tenant's writer. With more than one the next batches are sent while one is on its "
            "way, and committed after it.",
        ),
    ] = 1
    db_connect_timeout_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "Time for a connection to a database to open.",
        ),
    ] = 10_000
    db_statement_timeout_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "Time for one statement, a batch's COPY among them. A batch that takes longer is cancelled on the "
            "server and written again.",
        ),
    ] = 30_000
    registry_interval_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "How often the master database is read anew. Changes that notify (`NOTIFY scada_config`, as the "
            "tables' triggers do) and changes over gRPC are seen at once.",
        ),
    ] = 30_000

    @field_validator("database_url")
    @classmethod
    def _postgres_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql:// or postgres://")
        return value
