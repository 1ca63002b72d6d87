"""Who we are to devices, and which of them are who they claim to be: own certificate and trust store of one process.

Owns both and their upkeep. The service makes it, prepares it, runs `Pki.run`, and hands it to every connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
import trio

from scada_trio.config import PkiSettings
from scada_trio.errors import CertificateRefused
from scada_trio.opcua.certificates import (
    CURED_BY_TRUST,
    Accepted,
    Expected,
    check,
    describe,
    read_certificate,
    split_chain,
    thumbprint,
)
from scada_trio.opcua.identity import OwnCertificate
from scada_trio.opcua.policies import Suite
from scada_trio.opcua.trust import TrustStore

log = structlog.get_logger()

_UPKEEP_S: Final = 6 * 3600.0


class Pki:
    """``own`` is what we present, ``store`` what we accept. Methods that are not ``async`` block on the disk."""

    def __init__(self, settings: PkiSettings) -> None:
        self.settings = settings
        self.own = OwnCertificate(settings)
        self.store = TrustStore(settings.directory)
        self._warned: set[tuple[str, str]] = set()

    def prepare(self) -> None:
        """Make the directories, and a certificate where none is given and none is there. Raises `ConfigError`."""
        self.store.prepare()
        self.own.prepare()

    def check(self, chain: bytes | None, suite: Suite, *, host: str, application_uri: str) -> Accepted:
        """The server's certificate, checked against the trust store as it is now.

        Raises `CertificateRefused`; where somebody may want to trust the certificate, it is among the rejected then.
        """
        trust, version = self.store.load()
        required = self.settings.require_revocation_lists
        try:
            accepted = check(chain, trust, Expected(suite, host, application_uri, require_revocation_lists=required))
        except CertificateRefused as error:
            error.trust_version = version
            if error.error_type in CURED_BY_TRUST:
                self.store.reject(read_certificate(split_chain(chain)[0]))
            raise
        if accepted.warning is not None:
            self._warn(accepted, host)
        return accepted

    def _warn(self, accepted: Accepted, host: str) -> None:
        about = (thumbprint(accepted.certificate), host)
        if about not in self._warned:
            self._warned.add(about)
            log.warning(
                "trusted certificate does not fit its host",
                certificate=describe(accepted.certificate),
                host=host,
                warning=accepted.warning,
            )

    def expiries(self) -> Iterator[tuple[str, str, float]]:
        """(store, thumbprint, Unix seconds of its end) of each certificate that is of use."""
        for entry in [*self.own.entries(), *self.store.entries("trusted", "issuers")]:
            yield entry.store, thumbprint(entry.certificate), entry.certificate.not_valid_after_utc.timestamp()

    async def run(self) -> None:
        """Follow the trust store, and renew our own certificate in time; returns only when cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.store.watch, name="trust store watch")
            while True:
                await trio.to_thread.run_sync(self.own.keep_valid)
                await trio.sleep(_UPKEEP_S)
