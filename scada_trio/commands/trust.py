"""Whose certificates we accept: ``trust``, ``trust list``, ``trust remove``.

They change files of the PKI directory; a running service notices by itself within seconds. A change is written to the
audit log before it is made: where that fails, nothing is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from rich.console import Console

from scada_trio.commands.rows import Format, print_rows
from scada_trio.commands.serve import open_checked_master
from scada_trio.config import Settings
from scada_trio.errors import ConfigError, DatabaseError, ScadaError
from scada_trio.instance import open_instance
from scada_trio.opcua.certificates import application_uri_of, describe, subject_of, thumbprint
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.trust import Entry

_COLUMNS = ("thumbprint", "store", "subject", "application_uri", "valid_until", "state")
_ENTITY: Final = "certificate"


async def trust(settings: Settings, console: Console, name: str) -> None:
    """Trust a rejected certificate, or that of a file.

    Raises `InvalidField` where there is none, and `ScadaError` where the change cannot be written down or made.
    """
    pki = Pki(settings.pki)
    pki.store.prepare()
    found = pki.store.find_candidate(name)
    about = describe(found.certificate)
    if found.store == "trusted":
        console.print(f"trusted already: {about}", highlight=False, markup=False)
        return
    await _change(settings, "trust certificate", found, "trusted", partial(pki.store.trust, found))
    console.print(f"trusted: {about}", highlight=False, markup=False)


async def remove_trust(settings: Settings, console: Console, name: str) -> None:
    """Trust a certificate no longer.

    Raises `InvalidField` where none that is trusted has this thumbprint; else as `trust`.
    """
    pki = Pki(settings.pki)
    pki.store.prepare()
    found = pki.store.find_trusted(name)
    await _change(settings, "distrust certificate", found, "rejected", partial(pki.store.distrust, found))
    console.print(f"no longer trusted: {describe(found.certificate)}", highlight=False, markup=False)


async def _change(settings: Settings, action: str, found: Entry, store: str, make: Callable[[], object]) -> None:
    """Write down that ``found`` goes to ``store``, then let ``make`` do it."""
    certificate = found.certificate
    about = {
        "subject": subject_of(certificate),
        "application_uri": application_uri_of(certificate),
        "valid_until": certificate.not_valid_after_utc.isoformat(),
    }
    entity = (_ENTITY, thumbprint(certificate))
    before = {"store": found.store, **about} if found.store else None
    try:
        async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
            await master.record_done(action, entity, before, {"store": store, **about})
            try:
                await trio.to_thread.run_sync(make)
            except OSError as error:
                reason = f"{error.strerror}: {error.filename}"
                await master.record_refused(action, entity, reason)
                raise ConfigError("PKI_DIR", reason) from error
    except DatabaseError as error:
        raise ScadaError(
            f"{describe(certificate)} stays as it was, since the change cannot be written to the audit log: {error}"
        ) from error


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
