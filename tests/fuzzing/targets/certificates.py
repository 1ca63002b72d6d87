"""Certificates as a device sends them: DER of any kind, chains, and the decision about them.

An input is a byte that says what is trusted, and the chain. Whatever it is, it is refused with a reason, or it is one
of those that are trusted.
"""

from __future__ import annotations

from collections.abc import Iterator

from scada_trio.errors import CertificateRefused
from scada_trio.opcua.certificates import (
    MALFORMED,
    Expected,
    TrustList,
    application_uri_of,
    check,
    describe,
    read_certificate,
    split_chain,
)
from scada_trio.opcua.policies import SUITES
from tests.fix_pki import SERVER_URI, make, make_list, with_sha1
from tests.fuzzing.oracle import Wrong

ISSUER = make("fuzzed issuer", ca=True)
DEVICE = make("fuzzed device certificate")
ISSUED = make("fuzzed issued", issuer=ISSUER)
_LISTS = (make_list(ISSUER),)
_TRUST = (
    TrustList((DEVICE.certificate,)),
    TrustList((ISSUER.certificate,), (), _LISTS),
    TrustList((), (ISSUER.certificate,), _LISTS),
    TrustList((ISSUED.certificate,), (ISSUER.certificate,), _LISTS),
)
_KNOWN = {DEVICE.der, ISSUED.der}


def run(data: bytes) -> None:
    trust, chain = _TRUST[data[0] % len(_TRUST) if data else 0], data[1:]
    for der in split_chain(chain):
        _show(der)
    for suite in (SUITES[0], SUITES[3]):
        try:
            accepted = check(chain, trust, Expected(suite, "127.0.0.1", SERVER_URI, require_revocation_lists=True))
        except CertificateRefused as error:
            error.error_type.encode()
            str(error).encode()
            if "\n" in str(error):
                raise Wrong("a certificate writes lines of its own into the log") from error
        else:
            if accepted.der not in _KNOWN:
                raise Wrong("a certificate of nobody was accepted")


def _show(der: bytes) -> None:
    try:
        certificate = read_certificate(der)
    except MALFORMED:
        return
    describe(certificate).encode()
    application_uri_of(certificate)


def seeds() -> Iterator[bytes]:
    for trust in range(len(_TRUST)):
        yield bytes((trust,)) + DEVICE.der
        yield bytes((trust,)) + ISSUED.der + ISSUER.der
    yield b"\1" + ISSUED.der
    yield b"\0" + with_sha1(DEVICE).der
    yield b"\0" + make("fuzzed weak", bits=1024, key="fuzzed weak").der
    yield b"\0" + DEVICE.der[:400]
    yield b"\0\x30\x80\x00\x00"
    yield b"\0" + b"\x30\x03\x02\x01\x01" * 20
