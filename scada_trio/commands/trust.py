"""Whose certificates we accept: ``trust``, ``trust list``, ``trust remove``.

They change files of the PKI directory; a running service notices by itself within seconds.
"""

from __future__ import annotations

import time

from rich.console import Console

from scada_trio.commands.rows import Format, print_rows
from scada_trio.config import Settings
from scada_trio.opcua.certificates import application_uri_of, describe, subject_of, thumbprint
from scada_trio.opcua.pki import Pki

_COLUMNS = ("thumbprint", "store", "subject", "application_uri", "valid_until", "state")


def trust(settings: Settings, console: Console, name: str) -> None:
    """Trust a rejected certificate, or that of a file. Raises `InvalidField` where there is none."""
    pki = Pki(settings.pki)
    pki.store.prepare()
    entry = pki.store.trust(name)
    console.print(f"trusted: {describe(entry.certificate)}", highlight=False, markup=False)


def remove_trust(settings: Settings, console: Console, name: str) -> None:
    """Trust a certificate no longer. Raises `InvalidField` where none that is trusted has this thumbprint."""
    pki = Pki(settings.pki)
    pki.store.prepare()
    entry = pki.store.distrust(name)
    console.print(f"no longer trusted: {describe(entry.certificate)}", highlight=False, markup=False)


def list_trust(settings: Settings, console: Console, form: Format) -> None:
    """Our own certificate, made where there is none yet, and every other one."""
    pki = Pki(settings.pki)
    pki.prepare()
    rows = []
    for entry in [*pki.own.entries(), *pki.store.entries("trusted", "issuers", "rejected")]:
        certificate = entry.certificate
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        state = "valid" if begins.timestamp() <= time.time() <= ends.timestamp() else "not valid now"
        uri = application_uri_of(certificate)
        rows.append((thumbprint(certificate), entry.store, subject_of(certificate), uri, ends.isoformat(), state))
    print_rows(console, form, _COLUMNS, rows)
