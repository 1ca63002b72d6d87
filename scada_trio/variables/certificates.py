"""Our own certificate, and which of others are accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings

from scada_trio.variables.about import About


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class CertificateVariables(BaseSettings):
    """Certificates."""

    pki_dir: Annotated[
        Path | None,
        About(
            "directory",
            "Where our own certificate is and those of the devices that are trusted. Left out: the directory "
            "`pki` in `DATA_DIR`.",
            example="/var/lib/scada-trio/pki",
        ),
    ] = None
    opc_certificate_file: Annotated[
        Path | None,
        About(
            "file",
            "Our own certificate, DER or PEM, with those of its issuers if it has any. Left out: one is made in "
            "`PKI_DIR` on the first start, lasts five years and is renewed. A given one is read anew when the file "
            "changes, and not renewed.",
            example="/etc/scada-trio/certificate.der",
        ),
    ] = None
    opc_private_key_file: Annotated[
        Path | None,
        About(
            "file",
            "Its RSA key, PEM or DER without a password; needed with `OPC_CERTIFICATE_FILE` and useless without.",
            example="/etc/scada-trio/private_key.pem",
        ),
    ] = None
    opc_application_uri: Annotated[
        Annotated[str, Field(max_length=1024, pattern=r"^[a-z][a-z0-9+.-]*:[!-~]+$")] | None,
        About(
            "URI",
            "What the certificate that is made names us; it stays when the certificate is renewed. Left out: "
            "`urn:HOSTNAME:scada-trio`.",
            example="urn:example.org:scada-trio",
        ),
    ] = None
    opc_certificate_key_bits: Annotated[
        Literal[2048, 4096],
        BeforeValidator(_whole),
        About(
            "bits",
            "Length of the key that is made. The deprecated policies allow 2048 at most.",
        ),
    ] = 2048
    opc_allow_deprecated_policies: Annotated[
        bool,
        About(
            "one of",
            "`true`: connections may use `Basic128Rsa15` and `Basic256`, and passwords may be encrypted with them.",
        ),
    ] = False
    opc_require_revocation_lists: Annotated[
        bool,
        About(
            "one of",
            "`true`: a device's certificate that an authority issued is refused where there is no current "
            "revocation list of that authority. A certificate that is trusted itself needs none.",
        ),
    ] = True
