"""Each check of a certificate, in its order, with certificates that fail that one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from scada_trio.errors import CertificateRefused
from scada_trio.opcua.certificates import (
    MAX_CERTIFICATE_BYTES,
    Accepted,
    Expected,
    Reason,
    TrustList,
    check,
    split_chain,
)
from scada_trio.opcua.policies import Suite, suite_of_name
from tests.fix_pki import DAY, NOW, SERVER_URI, Made, make, make_list, usage, with_sha1

ROOT = make("Root CA", ca=True)
MIDDLE = make("Middle CA", ca=True, issuer=ROOT)
LEAF = make(issuer=MIDDLE)
ALONE = make()
LISTS = (make_list(ROOT), make_list(MIDDLE))


def suite(name: str = "Basic256Sha256") -> Suite:
    found = suite_of_name(name)
    assert found is not None
    return found


def trusting(*trusted: Made, issuers: tuple[Made, ...] = (), lists: Any = LISTS) -> TrustList:
    return TrustList(tuple(m.certificate for m in trusted), tuple(m.certificate for m in issuers), tuple(lists))


def look(made: Made, trust: TrustList, *sent: Made, **expected: Any) -> Accepted:
    fields: dict[str, Any] = {"suite": suite(), "host": "127.0.0.1", "application_uri": SERVER_URI, **expected}
    return check(made.der + b"".join(m.der for m in sent), trust, Expected(**fields), now=NOW)


def reason(made: Made, trust: TrustList, *sent: Made, **expected: Any) -> str:
    with pytest.raises(CertificateRefused) as raised:
        look(made, trust, *sent, **expected)
    assert made.thumbprint in str(raised.value)
    return raised.value.error_type


def test_what_is_accepted() -> None:
    """A pinned one; one whose authority is trusted, the issuers between being sent or stored; either CA will do."""
    assert look(ALONE, trusting(ALONE)).der == ALONE.der
    assert look(LEAF, trusting(ROOT), MIDDLE).certificate == LEAF.certificate
    assert look(LEAF, trusting(ROOT, issuers=(MIDDLE,))).warning is None
    assert look(LEAF, trusting(MIDDLE, issuers=(ROOT,))).public_key == LEAF.key.public_key()


@pytest.mark.parametrize("chain", [None, b"", b"junk", b"\x30\x82\xff\xff", ALONE.der[:-1], ALONE.der + b"\x30\x00"])
def test_structure(chain: bytes | None) -> None:
    """What is no certificate is invalid, and so is one with no RSA key or a critical extension that nobody knows."""
    with pytest.raises(CertificateRefused) as raised:
        check(chain, trusting(ALONE), Expected(suite(), "127.0.0.1", SERVER_URI), now=NOW)
    assert raised.value.error_type == Reason.INVALID


def test_structure_of_odd_certificates() -> None:
    """A critical extension that nobody knows, a key that is not RSA, and one that is endless, are invalid."""
    odd = make(extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"))
    long = make(hosts=[f"host{number}" for number in range(MAX_CERTIFICATE_BYTES // 8)])
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    curve = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY).sign(key, hashes.SHA256())
    for der in (odd.der, long.der, curve.public_bytes(Encoding.DER)):
        with pytest.raises(CertificateRefused) as raised:
            check(der, TrustList(), Expected(suite(), "127.0.0.1", SERVER_URI), now=NOW)
        assert raised.value.error_type == Reason.INVALID


@given(st.binary(max_size=200), st.integers(0, len(ALONE.der) - 1))
def test_any_bytes_are_refused_or_read(junk: bytes, at: int) -> None:
    """Whatever a stranger sends, there is a refusal with a reason and no other error."""
    broken = ALONE.der[:at] + junk + ALONE.der[at + len(junk) :]
    for chain in (junk, broken, ALONE.der + junk):
        with suppress(CertificateRefused):
            check(chain, trusting(ALONE), Expected(suite(), "127.0.0.1", SERVER_URI), now=NOW)


def test_chain_and_signature() -> None:
    """An issuer who is not known, and a signature by somebody who only bears the issuer's name."""
    assert reason(LEAF, trusting(ROOT)) == Reason.CHAIN_INCOMPLETE
    assert reason(LEAF, trusting(MIDDLE)) == Reason.CHAIN_INCOMPLETE
    impostor = make("Middle CA", ca=True, issuer=ROOT, key="impostor")
    assert reason(make(issuer=impostor), trusting(ROOT, issuers=(MIDDLE,))) == Reason.SIGNATURE
    broken = make("Root CA", issuer=make("Root CA", ca=True, key="another root"), key="Root CA", ca=True)
    assert reason(broken, trusting(ROOT)) == Reason.SIGNATURE
    assert look(LEAF, trusting(LEAF)).certificate == LEAF.certificate  # pinned, it stands by itself


@pytest.mark.parametrize(
    ("made", "policy", "fits"),
    [
        (make(bits=1024, key="short"), "Basic256Sha256", False),
        (make(bits=1024, key="short"), "Basic256", True),
        (make(bits=3072, key="long"), "Basic256Sha256", True),
        (make(bits=3072, key="long"), "Basic128Rsa15", False),
        (with_sha1(make()), "Aes256_Sha256_RsaPss", False),
        (with_sha1(make()), "Basic256", True),
        (make(algorithm=hashes.SHA384()), "Aes128_Sha256_RsaOaep", True),
    ],
)
def test_policy(made: Made, policy: str, fits: bool) -> None:
    """Key lengths and hashes are those that the policy allows."""
    if fits:
        assert look(made, trusting(made), suite=suite(policy))
    else:
        assert reason(made, trusting(made), suite=suite(policy)) == Reason.POLICY


def test_policy_of_issuers() -> None:
    """A chain is as good as its weakest link."""
    weak = make("Weak CA", ca=True, bits=1024, key="short")
    assert reason(make(issuer=weak), trusting(weak)) == Reason.POLICY


def test_trust() -> None:
    """Issuers complete a chain; they are not trusted for it."""
    assert reason(ALONE, trusting()) == Reason.UNTRUSTED
    assert reason(LEAF, trusting(issuers=(ROOT, MIDDLE))) == Reason.UNTRUSTED
    assert reason(make(key="same names"), trusting(ALONE)) == Reason.UNTRUSTED


def test_time() -> None:
    """Too early, too late, and an issuer's turn."""
    early, late = make(start=NOW + DAY), make(end=NOW - DAY / 2)
    assert reason(early, trusting(early)) == Reason.NOT_YET_VALID
    assert reason(late, trusting(late)) == Reason.EXPIRED
    old = make("Old CA", ca=True, end=NOW - DAY / 2)
    assert reason(make(issuer=old), trusting(old)) == Reason.ISSUER_TIME


@pytest.mark.parametrize("host", ["127.0.0.1", "[2001:DB8::1]", "2001:db8:0::1", "PLC-7.field.example."])
def test_host_names_that_fit(host: str) -> None:
    """Names in either case, addresses in every form."""
    made = make(issuer=MIDDLE, hosts=["127.0.0.1", "2001:db8::1", "plc-7.Field.example"])
    assert look(made, trusting(ROOT), MIDDLE, host=host).warning is None


def test_host_names_that_do_not_fit() -> None:
    """An issued certificate is refused at another host, a pinned one is let pass with a warning."""
    assert reason(LEAF, trusting(ROOT), MIDDLE, host="192.0.2.1") == Reason.HOST_NAME
    assert "192.0.2.1" in (look(ALONE, trusting(ALONE), host="192.0.2.1").warning or "")


def test_uri() -> None:
    """The application URI is the server's own, also where the certificate is pinned."""
    nameless = make(uri=None)
    assert reason(ALONE, trusting(ALONE), application_uri="urn:other") == Reason.URI
    assert reason(ALONE, trusting(ALONE), application_uri="") == Reason.URI
    assert reason(nameless, trusting(nameless)) == Reason.URI


def test_use() -> None:
    """Signing and encrypting as a server; an extension that is missing restricts nothing."""
    for made in (make(key_usage=usage("digital_signature")), make(key_usage=usage("key_encipherment"))):
        assert reason(made, trusting(made)) == Reason.USE
    free = make(key_usage=None, purposes=None)
    assert look(free, trusting(free))


def test_use_of_issuers() -> None:
    """Whoever issues is an authority, and not deeper than its own issuer allows."""
    no_authority = make("Somebody", key="somebody", issuer=ROOT)
    assert reason(make(issuer=no_authority), trusting(ROOT), no_authority) == Reason.ISSUER_USE
    shallow = make("Shallow CA", ca=True, path_length=0)
    below = make("Below CA", ca=True, issuer=shallow)
    assert reason(make(issuer=below), trusting(shallow), below) == Reason.ISSUER_USE


def test_revocation() -> None:
    """A list that names it, or its issuer, no list, an outdated one, one that somebody else signed."""
    trust, sent = (ROOT,), MIDDLE
    assert reason(LEAF, trusting(*trust, lists=[LISTS[0], make_list(MIDDLE, LEAF)]), sent) == Reason.REVOKED
    assert reason(LEAF, trusting(*trust, lists=[make_list(ROOT, MIDDLE), LISTS[1]]), sent) == Reason.ISSUER_REVOKED
    assert reason(LEAF, trusting(*trust, lists=[LISTS[0]]), sent) == Reason.REVOCATION_UNKNOWN
    old = make_list(MIDDLE, end=NOW - DAY / 2)
    assert reason(LEAF, trusting(*trust, lists=[LISTS[0], old]), sent) == Reason.REVOCATION_UNKNOWN
    forged = make_list(MIDDLE, signer=ROOT)
    assert reason(LEAF, trusting(*trust, lists=[LISTS[0], forged]), sent) == Reason.REVOCATION_UNKNOWN
    assert look(LEAF, trusting(*trust, lists=[]), sent, require_revocation_lists=False)
    named = trusting(*trust, lists=[make_list(MIDDLE, LEAF, end=NOW - DAY / 2)])
    assert reason(LEAF, named, sent, require_revocation_lists=False) == Reason.REVOKED
    pinned = trusting(LEAF, issuers=(MIDDLE, ROOT), lists=[make_list(MIDDLE, LEAF)])
    assert reason(LEAF, pinned) == Reason.REVOKED


def test_the_order_of_the_checks() -> None:
    """A certificate with everything wrong is first of all not trusted, then expired, then of another application."""
    made = make(end=NOW - DAY / 2, uri="urn:other", key_usage=usage("key_agreement"))
    assert reason(made, trusting()) == Reason.UNTRUSTED
    assert reason(made, trusting(made)) == Reason.EXPIRED
    made = make(uri="urn:other", key_usage=usage("key_agreement"))
    assert reason(made, trusting(made)) == Reason.URI
    assert reason(made, trusting(made), application_uri="urn:other") == Reason.USE


def test_chains_are_cut_and_bounded() -> None:
    """Certificates in a row are told apart by their own lengths."""
    assert split_chain(LEAF.der + MIDDLE.der) == [LEAF.der, MIDDLE.der]
    assert len(split_chain(b"\x30\x00" * 1000)) <= 8
    assert split_chain(None) == []
