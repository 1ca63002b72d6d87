"""Where gRPC and HTTP are served, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from scada_trio.variables.about import About, Network, Port


class ServerVariables(BaseSettings):
    """Servers."""

    grpc_host: Annotated[
        str,
        About(
            "address",
            "Where gRPC listens; `0.0.0.0` in a container.",
        ),
    ] = "127.0.0.1"
    grpc_port: Annotated[
        Port,
        About(
            "port",
            "0 takes a free one.",
        ),
    ] = 50051
    grpc_max_message_bytes: Annotated[
        int,
        Field(ge=1024, le=1 << 30),
        About(
            "bytes",
            "Largest request that is accepted.",
        ),
    ] = 4 << 20
    grpc_tls_cert: Annotated[
        Path | None,
        About(
            "file",
            "Our certificate and those of its issuers, PEM; TLS 1.2 or later. Read anew when it changes: who "
            "connects then sees it, who is connected stays. What cannot be used is logged and the old one stays.",
            example="/etc/scada-trio/grpc/tls.crt",
        ),
    ] = None
    grpc_tls_key: Annotated[
        Path | None,
        About(
            "file",
            "Its private key, PEM without a password; both or neither.",
            example="/etc/scada-trio/grpc/tls.key",
        ),
    ] = None
    grpc_tls_client_ca: Annotated[
        Path | None,
        About(
            "file",
            "Authorities, PEM: clients need a certificate of one of them. Left out: they need none. Read anew "
            "like the others.",
            example="/etc/scada-trio/grpc/clients.pem",
        ),
    ] = None
    grpc_rights_file: Annotated[
        Path | None,
        About(
            "file",
            "[Which client may do what](security.md#rights-of-clients), TOML; needs `GRPC_TLS_CLIENT_CA`. Read "
            "anew when it changes. Left out: every client that gets in may do everything.",
            example="/etc/scada-trio/grpc/rights.toml",
        ),
    ] = None
    grpc_insecure: Annotated[
        bool,
        About(
            "one of",
            "`true`: other machines are served without TLS. `false`: without TLS `GRPC_HOST` must be an address "
            "of this machine alone.",
        ),
    ] = False
    grpc_max_connections: Annotated[
        int,
        Field(ge=1, le=100_000),
        About(
            "connections",
            "What is served at a time; further ones are closed.",
        ),
    ] = 1_000
    grpc_max_streams: Annotated[
        int,
        Field(ge=1, le=10_000),
        About(
            "calls",
            "What one connection may have under way; clients wait with further ones.",
        ),
    ] = 100
    grpc_max_calls_per_client: Annotated[
        int,
        Field(ge=1, le=100_000),
        About(
            "calls",
            "What one client may have under way over all its connections; a client is an identity, without "
            "certificates an address. Further calls are RESOURCE_EXHAUSTED.",
        ),
    ] = 100
    metrics_host: Annotated[
        str,
        About(
            "address",
            "Where the status page (`/`), `/metrics`, `/healthz` and `/readyz` are served; `0.0.0.0` in a container.",
        ),
    ] = "127.0.0.1"
    metrics_port: Annotated[
        Port,
        About(
            "port",
            "0 takes a free one.",
        ),
    ] = 9090
    metrics_allow: Annotated[
        tuple[Network, ...] | None,
        NoDecode,
        About(
            "networks",
            "Addresses and networks, separated by commas, that may see `/metrics` and what stands behind "
            "`/readyz`. Left out: this machine. `/healthz`, and whether we are ready, is told to everybody.",
            example="10.0.0.0/8,192.168.1.7",
        ),
    ] = None
    metrics_user: Annotated[
        Annotated[str, Field(pattern=r"^[^:\x00-\x1f]+$")] | None,
        About(
            "text",
            "Name that `/metrics` asks for (basic authentication); with a password.",
            example="prometheus",
        ),
    ] = None
    metrics_password: Annotated[
        SecretStr | None,
        About(
            "text",
            "Its password; without TLS it travels in clear.",
        ),
    ] = None
    metrics_password_file: Annotated[
        Path | None,
        About(
            "file",
            "Holds it instead.",
            example="/run/secrets/metrics_password",
        ),
    ] = None
    metrics_tls_cert: Annotated[
        Path | None,
        About(
            "file",
            "Certificate of the HTTP server and those of its issuers, PEM; none: no TLS. Read anew when it changes.",
            example="/etc/scada-trio/metrics/tls.crt",
        ),
    ] = None
    metrics_tls_key: Annotated[
        Path | None,
        About(
            "file",
            "Its private key, PEM without a password; both or neither.",
            example="/etc/scada-trio/metrics/tls.key",
        ),
    ] = None

    @field_validator("metrics_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
