"""The only reader of the environment.

Every variable is a field of `Settings`, in the unit that its name says; the sub-objects that stages take are
made here, in seconds. A bad value is a `ConfigError` that names the variable and repeats no secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypedDict

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from scada_trio.errors import ConfigError
from scada_trio.secret_files import SECRETS, read_secret_file
from scada_trio.variables import (
    BatchVariables,
    CertificateVariables,
    DatabaseVariables,
    DeviceVariables,
    JournalVariables,
    ProcessVariables,
    RetentionVariables,
    ServerVariables,
)
from scada_trio.variables.about import Network


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """How a connection treats its device; seconds."""

    connect_timeout_s: float = 10.0
    session_timeout_s: float = 60.0
    max_attempts: int = 5
    reconnect_delay_s: float = 5.0
    publishing_interval_s: float = 1.0
    sampling_interval_s: float = 1.0
    keep_alive_s: float = 5.0
    queue_size: int = 10
    discard_oldest: bool = True
    slow_retry_s: float = 300.0
    max_backoff_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PkiSettings:
    """Our own certificate and whose others are trusted; `Settings` says what each means."""

    directory: Path
    certificate_file: Path | None = None
    private_key_file: Path | None = None
    application_uri: str | None = None
    key_bits: int = 2048
    allow_deprecated_policies: bool = False
    require_revocation_lists: bool = True


@dataclass(frozen=True, slots=True)
class GrpcAccessSettings:
    """Who may call; `Settings` says what each means."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    rights_file: Path | None = None
    insecure: bool = False
    max_connections: int = 1_000
    max_streams: int = 100
    max_calls_per_client: int = 100


@dataclass(frozen=True, slots=True)
class WebAccessSettings:
    """Who may look at metrics; `Settings` says what each means."""

    allow: tuple[Network, ...] = ()
    user: str | None = None
    password: SecretStr | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """How a tenant's journal is kept; `Settings` says what each means."""

    directory: Path
    sync: Literal["normal", "full"] = "normal"
    max_bytes: int = 4 << 30
    policy: Literal["hold", "drop_oldest"] = "hold"
    memory_readings: int = 200_000
    row_readings: int = 10_000


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How long a tenant's readings are kept and in what form, and which times are taken.

    Days; 0 keeps for good, or never compresses. ``max_age_days`` 0: as long as raw readings are kept.
    """

    raw_days: int = 730
    compress_after_days: int = 7
    chunk_hours: int = 24
    hourly_days: int = 0
    daily_days: int = 0
    monthly_days: int = 0
    max_age_days: int = 0
    max_ahead_hours: int = 168

    @property
    def oldest_days(self) -> int:
        """How old a reading may be to be stored; 0: of any age."""
        return min((days for days in (self.max_age_days, self.raw_days) if days), default=0)


class DatabaseTimeouts(TypedDict):
    """What every function that opens a database takes, as ``**settings.db_timeouts``."""

    connect_timeout_s: float
    statement_timeout_s: float


class Settings(
    DatabaseVariables,
    DeviceVariables,
    CertificateVariables,
    BatchVariables,
    JournalVariables,
    RetentionVariables,
    ServerVariables,
    ProcessVariables,
):
    """Environment of the service; `scada_trio.variables` has what each variable means."""

    # Empty is absent, as orchestrators mean it: an empty GRPC_HOST must not come to listen everywhere.
    model_config = SettingsConfigDict(
        case_sensitive=False, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, object]) -> dict[str, object]:
        for name in SECRETS:
            if path := values.get(f"{name}_file"):
                if values.get(name):
                    raise ConfigError(f"{name}_file".upper(), f"is given beside {name.upper()}; one of them is enough")
                values[name] = read_secret_file(f"{name}_file".upper(), Path(str(path)))
        return values

    @field_validator("database_url", "encryption_key", "encryption_key_previous", "metrics_password", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def device(self) -> DeviceSettings:
        """The device's part, in seconds."""
        return DeviceSettings(
            connect_timeout_s=self.opc_connection_timeout_ms / 1000,
            session_timeout_s=self.opc_session_timeout_ms / 1000,
            max_attempts=self.opc_max_reconnect_attempts,
            reconnect_delay_s=self.opc_reconnect_delay_ms / 1000,
            publishing_interval_s=self.opc_publishing_interval_ms / 1000,
            sampling_interval_s=self.opc_sampling_interval_ms / 1000,
            keep_alive_s=self.opc_keep_alive_ms / 1000,
            queue_size=self.opc_queue_size,
            discard_oldest=self.opc_discard_oldest,
        )

    @property
    def db_timeouts(self) -> DatabaseTimeouts:
        """The time limits of a database connection, in seconds."""
        return DatabaseTimeouts(
            connect_timeout_s=self.db_connect_timeout_ms / 1000,
            statement_timeout_s=self.db_statement_timeout_ms / 1000,
        )

    @property
    def pki(self) -> PkiSettings:
        """Certificates and what is accepted of them."""
        return PkiSettings(
            directory=self.pki_dir if self.pki_dir is not None else self.data_dir / "pki",
            certificate_file=self.opc_certificate_file,
            private_key_file=self.opc_private_key_file,
            application_uri=self.opc_application_uri,
            key_bits=self.opc_certificate_key_bits,
            allow_deprecated_policies=self.opc_allow_deprecated_policies,
            require_revocation_lists=self.opc_require_revocation_lists,
        )

    @property
    def grpc_access(self) -> GrpcAccessSettings:
        """Who may call; raises `ConfigError` where one setting needs another."""
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            variable = "GRPC_TLS_CERT" if self.grpc_tls_cert is None else "GRPC_TLS_KEY"
            raise ConfigError(variable, "is missing: certificate and key are given together")
        if self.grpc_tls_client_ca is not None and self.grpc_tls_cert is None:
            raise ConfigError("GRPC_TLS_CLIENT_CA", "needs GRPC_TLS_CERT and GRPC_TLS_KEY")
        if self.grpc_rights_file is not None and self.grpc_tls_client_ca is None:
            raise ConfigError("GRPC_RIGHTS_FILE", "needs GRPC_TLS_CLIENT_CA: rights go by the clients' certificates")
        return GrpcAccessSettings(
            tls_cert=self.grpc_tls_cert,
            tls_key=self.grpc_tls_key,
            tls_client_ca=self.grpc_tls_client_ca,
            rights_file=self.grpc_rights_file,
            insecure=self.grpc_insecure,
            max_connections=self.grpc_max_connections,
            max_streams=self.grpc_max_streams,
            max_calls_per_client=self.grpc_max_calls_per_client,
        )

    @property
    def web_access(self) -> WebAccessSettings:
        """Who may look at metrics; raises `ConfigError` where one setting needs another."""
        for prefix, one, other in (("METRICS_TLS_", "CERT", "KEY"), ("METRICS_", "USER", "PASSWORD")):
            given = [getattr(self, f"{prefix}{name}".lower()) is not None for name in (one, other)]
            if given[0] != given[1]:
                missing, there = (other, one) if given[0] else (one, other)
                raise ConfigError(f"{prefix}{missing}", f"is missing: it belongs to {prefix}{there}")
        return WebAccessSettings(
            allow=self.metrics_allow or (),
            user=self.metrics_user,
            password=self.metrics_password,
            tls_cert=self.metrics_tls_cert,
            tls_key=self.metrics_tls_key,
        )

    @property
    def journal(self) -> JournalSettings:
        """The journal's part; a row of its file is no longer than a batch."""
        return JournalSettings(
            directory=self.journal_dir if self.journal_dir is not None else self.data_dir / "journal",
            sync=self.journal_sync,
            max_bytes=self.journal_max_bytes,
            policy=self.journal_policy,
            memory_readings=self.journal_memory_readings,
            row_readings=min(self.max_buffer_size, 10_000),
        )

    @property
    def storage(self) -> StorageSettings:
        """The tenants' databases' part."""
        return StorageSettings(
            raw_days=self.raw_retention_days,
            compress_after_days=self.compress_after_days,
            chunk_hours=self.chunk_interval_hours,
            hourly_days=self.hourly_retention_days,
            daily_days=self.daily_retention_days,
            monthly_days=self.monthly_retention_days,
            max_age_days=self.reading_max_age_days,
            max_ahead_hours=self.reading_max_ahead_hours,
        )

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Read the environment; ``overrides`` win over it.

        Raises `ConfigError` for the first bad variable, in one line.
        """
        try:
            settings = cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            variable = str(first["loc"][0]).upper() if first["loc"] else "environment"
            raise ConfigError(variable, first["msg"].removeprefix("Value error, ")) from None
        _ = settings.grpc_access, settings.web_access  # what belongs together is there
        return settings
