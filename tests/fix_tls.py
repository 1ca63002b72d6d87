"""Certificates of an API's server and clients, rights files, and channels that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from scada_trio.api.access import Access
from scada_trio.audit import Denial
from scada_trio.config import GrpcAccessSettings
from tests.fix_pki import Made, make

CLIENT_URI = "urn:test:nestjs"


def pem(made: Made) -> bytes:
    return made.certificate.public_bytes(Encoding.PEM)


def key_pem(made: Made) -> bytes:
    return made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class ApiPki:
    """An authority of clients, one of servers, and the files that the service reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server_ca = make("server authority", ca=True)
        self.client_ca = make("client authority", ca=True)
        self.cert, self.key = directory / "tls.crt", directory / "tls.key"
        self.ca, self.rights = directory / "clients.pem", directory / "rights.toml"
        self.install(self.server("first"))
        self.ca.write_bytes(pem(self.client_ca))
        self.denials: list[Denial] = []

    def server(self, name: str, **options: Any) -> Made:
        """A certificate for ``localhost``."""
        return make(name, uri=None, hosts=("localhost", "127.0.0.1"), issuer=self.server_ca, **options)

    def client(
        self, name: str = "nestjs", *, uri: str | None = CLIENT_URI, hosts: tuple[str, ...] = (), **options: Any
    ) -> Made:
        """A client's certificate."""
        options = {"issuer": self.client_ca, "purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,), **options}
        return make(name, uri=uri, hosts=hosts, **options)

    def install(self, made: Made) -> None:
        """What the server presents from now on."""
        self.cert.write_bytes(pem(made))
        self.key.write_bytes(key_pem(made))

    def grant(self, *clients: tuple[str, str, object]) -> None:
        """The rights file: identity, right, tenants each."""
        entries = [
            f'[[client]]\nidentity = "{identity}"\nright = "{right}"\ntenants = {_toml(tenants)}\n'
            for identity, right, tenants in clients
        ]
        self.rights.write_text("\n".join(entries))

    def access(self, *, rights: bool = True, clients: bool = True, **settings: Any) -> Access:
        """Loaded, with the files of this directory."""
        made = Access(
            GrpcAccessSettings(
                tls_cert=self.cert,
                tls_key=self.key,
                tls_client_ca=self.ca if clients else None,
                rights_file=self.rights if rights else None,
                **settings,
            ),
            self.denials.append,
        )
        made.load()
        return made

    def channel(self, port: int, client: Made | None = None, **options: Any) -> grpc.Channel:
        """A client with that certificate, or with none."""
        credentials = grpc.ssl_channel_credentials(
            pem(self.server_ca), None if client is None else key_pem(client), None if client is None else pem(client)
        )
        return grpc.secure_channel(f"localhost:{port}", credentials, options=list(options.items()))


def _toml(tenants: object) -> str:
    return '"*"' if tenants == "*" else str([str(tenant) for tenant in tenants])  # type: ignore[attr-defined]


@pytest.fixture
def api_pki(tmp_path: Path) -> ApiPki:
    return ApiPki(tmp_path)
