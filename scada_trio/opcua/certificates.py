"""Is this the certificate of the server that we mean? Checked on x509 objects, step by step as OPC UA Part 4 has them.

Owns the steps of Part 4, 6.1.3 ("determining if a certificate is trusted"), their order, and what each refusal is
called. Knows no file and no socket; starts nothing. The library's own verification is for web servers: it refuses the
usual self-signed certificate of a device, and all of its refusals are one.

A certificate is *pinned* where the trust list has it itself, and not only an authority that issued it. Whoever trusts a
single certificate has said more than a chain, a host name or a revocation list could: there these may be missing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from scada_trio.errors import CertificateRefused
from scada_trio.opcua.faults import one_line
from scada_trio.opcua.policies import Suite

E = TypeVar("E", bound=x509.ExtensionType)

MAX_CERTIFICATE_BYTES: Final = 16_384
MAX_CHAIN: Final = 8
_WEAK_HASHES: Final = ("md5", "sha1")


class Reason(StrEnum):
    """Why a certificate is refused, in the order of the checks; the error type that metrics and status show."""

    INVALID = "certificate_invalid"
    CHAIN_INCOMPLETE = "certificate_chain_incomplete"
    SIGNATURE = "certificate_signature_invalid"
    POLICY = "certificate_policy_check_failed"
    UNTRUSTED = "certificate_untrusted"
    NOT_YET_VALID = "certificate_not_yet_valid"
    EXPIRED = "certificate_expired"
    ISSUER_TIME = "certificate_issuer_time_invalid"
    HOST_NAME = "certificate_host_name_invalid"
    URI = "certificate_uri_invalid"
    USE = "certificate_use_not_allowed"
    ISSUER_USE = "certificate_issuer_use_not_allowed"
    REVOCATION_UNKNOWN = "certificate_revocation_unknown"
    REVOKED = "certificate_revoked"
    ISSUER_REVOKED = "certificate_issuer_revoked"
    MISMATCH = "certificate_mismatch"


CURED_BY_TRUST: Final = frozenset(
    {Reason.CHAIN_INCOMPLETE, Reason.UNTRUSTED, Reason.HOST_NAME, Reason.REVOCATION_UNKNOWN}
)
"""What pinning the certificate would put right."""

MALFORMED: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for bytes that are no certificate."""


@dataclass(frozen=True, slots=True)
class TrustList:
    """What we trust (Part 12, 7.8.2): ``trusted`` by itself, ``issuers`` only to complete a chain to one of those."""

    trusted: tuple[x509.Certificate, ...] = ()
    issuers: tuple[x509.Certificate, ...] = ()
    revocation_lists: tuple[x509.CertificateRevocationList, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """What the certificate has to fit: the policy it is used with, where we connected to, who it says it is.

    ``application_uri`` is that of the server's own description (Part 4, 7.2). ``require_revocation_lists`` refuses an
    issued certificate of whose issuer there is no current list.
    """

    suite: Suite
    host: str
    application_uri: str
    require_revocation_lists: bool = True


@dataclass(frozen=True, slots=True)
class Accepted:
    """A certificate that passed; ``warning`` says what a pinned one was let pass with."""

    certificate: x509.Certificate
    der: bytes
    public_key: RSAPublicKey
    warning: str | None = None


def thumbprint(certificate: x509.Certificate) -> str:
    """The name that OPC UA tools show for a certificate: SHA-1 over its DER, 40 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 -- Part 6, 6.2.2 names it so; nothing rests on it


def split_chain(chain: bytes | None) -> list[bytes]:
    """The DER certificates that a server sends in a row, its own first (Part 6, 6.2.6); the rest where one is cut."""
    found: list[bytes] = []
    rest = chain or b""
    while rest and len(found) < MAX_CHAIN:
        size = _der_size(rest)
        found.append(rest[:size])
        rest = rest[size:]
    return found


def application_uri_of(certificate: x509.Certificate) -> str | None:
    """The URI in the subject alternative name, where Part 6, 6.2.2 puts it."""
    names = _alternative_names(certificate)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


def describe(certificate: x509.Certificate) -> str:
    """Subject and thumbprint, fit for a log line whoever wrote the subject."""
    return f"{subject_of(certificate)} [{thumbprint(certificate)}]"


def subject_of(certificate: x509.Certificate) -> str:
    """The subject in one line of printable text."""
    return one_line(certificate.subject.rfc4514_string()) or "without a subject"


def check(chain: bytes | None, trust: TrustList, expected: Expected, *, now: datetime | None = None) -> Accepted:
    """The server's own certificate of ``chain``, if it passes every check; raises `CertificateRefused` otherwise."""
    now = now or datetime.now(UTC)
    own, *sent = _read_chain(chain)
    pinned = any(own == certificate for certificate in trust.trusted)
    path = _build_path(own, [*sent, *trust.trusted, *trust.issuers], pinned=pinned)
    _check_policy(path, expected.suite)
    if not pinned and not any(certificate in trust.trusted for certificate in path):
        raise refusal(Reason.UNTRUSTED, own, "is not trusted")
    _check_time(path, now)
    warning = _check_host_name(own, expected.host, pinned=pinned)
    _check_uri(own, expected.application_uri)
    _check_use(path)
    _check_revocation(path, trust.revocation_lists, now, required=expected.require_revocation_lists and not pinned)
    public_key = own.public_key()
    assert isinstance(public_key, RSAPublicKey)
    return Accepted(own, own.public_bytes(Encoding.DER), public_key, warning)


def refusal(reason: Reason, certificate: x509.Certificate | None, what: str) -> CertificateRefused:
    """The error of a certificate that is not accepted, with what to do about it."""
    name = "the server's certificate" if certificate is None else f"the server's certificate {describe(certificate)}"
    advice = ""
    if certificate is not None and reason in CURED_BY_TRUST:
        advice = f"; to trust it: scada-trio trust {thumbprint(certificate)}"
    return CertificateRefused(f"{name} {what} (Bad{_camel(reason)}){advice}", reason.value)


def _camel(reason: Reason) -> str:
    """The reason as the name of an OPC UA status code, where there is one."""
    match reason:
        case Reason.NOT_YET_VALID | Reason.EXPIRED:
            return "CertificateTimeInvalid"
        case Reason.SIGNATURE | Reason.MISMATCH:
            return "CertificateInvalid"
        case _:
            return "".join(word.capitalize() for word in reason.value.split("_"))


# ---- structure, chain, signature


def _read_chain(chain: bytes | None) -> list[x509.Certificate]:
    ders = split_chain(chain)
    if not ders:
        raise refusal(Reason.INVALID, None, "is missing")
    try:
        certificates = [read_certificate(der) for der in ders]
    except MALFORMED as error:
        raise refusal(Reason.INVALID, None, "cannot be read") from error
    own = certificates[0]
    if not isinstance(own.public_key(), RSAPublicKey):
        raise refusal(Reason.INVALID, own, "has no RSA key")
    return certificates


def read_certificate(der: bytes) -> x509.Certificate:
    """The certificate, with everything read that is looked at later: the library reads when asked.

    Raises one of `MALFORMED`.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ValueError("too long")
    certificate = x509.load_der_x509_certificate(der)
    certificate.public_key()
    certificate.subject.rfc4514_string()
    certificate.issuer.rfc4514_string()
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.signature_hash_algorithm
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise ValueError("a critical extension is not known")
    return certificate


def _build_path(
    own: x509.Certificate, candidates: Sequence[x509.Certificate], *, pinned: bool
) -> list[x509.Certificate]:
    """``own`` and its issuers up to a self-signed one; a pinned one stands by itself where they are not known."""
    path = [own]
    while not _is_self_issued(path[-1]):
        issuers = [c for c in candidates if c.subject == path[-1].issuer and c not in path]
        signer = next((c for c in issuers if signed_by(path[-1], c)), None)
        if signer is not None and len(path) < MAX_CHAIN:
            path.append(signer)
        elif pinned:
            return path[:1]
        elif issuers:
            raise refusal(Reason.SIGNATURE, own, "bears a signature that is not its issuer's")
        else:
            issuer = one_line(path[-1].issuer.rfc4514_string())
            raise refusal(Reason.CHAIN_INCOMPLETE, own, f"was issued by {issuer}, whose certificate is not known")
    if not signed_by(path[-1], path[-1]):
        raise refusal(Reason.SIGNATURE, own, "bears a signature that is not its issuer's")
    return path


def _is_self_issued(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer`` is named in ``certificate`` and signed it."""
    key = issuer.public_key()
    algorithm = certificate.signature_hash_algorithm
    try:
        if isinstance(algorithm, hashes.SHA1) and isinstance(key, RSAPublicKey):
            # The library verifies none with SHA-1 any more; whether the policy allows it is decided later.
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), algorithm)
            return certificate.issuer == issuer.subject
        certificate.verify_directly_issued_by(issuer)
    except (*MALFORMED, InvalidSignature):
        return False
    return True


# ---- what it has to fit


def _check_policy(path: Sequence[x509.Certificate], suite: Suite) -> None:
    """Key lengths and hashes that the policy asks of the whole chain (Part 7, 6.6)."""
    own, *issuers = path
    key = own.public_key()
    assert isinstance(key, RSAPublicKey)
    if not suite.min_key_bits <= key.key_size <= suite.max_key_bits:
        allowed = f"{suite.min_key_bits} to {suite.max_key_bits}"
        raise refusal(Reason.POLICY, own, f"has a key of {key.key_size} bits; {suite.name} allows {allowed}")
    for issuer in issuers:
        key = issuer.public_key()
        if isinstance(key, RSAPublicKey) and key.key_size < suite.min_key_bits:
            raise refusal(Reason.POLICY, own, f"has an issuer with a key of {key.key_size} bits")
    weak = _WEAK_HASHES[:1] if suite.deprecated else _WEAK_HASHES
    for certificate in path:
        algorithm = certificate.signature_hash_algorithm
        if (
            algorithm is not None
            and algorithm.name in weak
            and (certificate is own or not _is_self_issued(certificate))
        ):
            raise refusal(Reason.POLICY, own, f"is signed with {algorithm.name}; {suite.name} does not allow that")


def _check_time(path: Sequence[x509.Certificate], now: datetime) -> None:
    own, *issuers = path
    if now < own.not_valid_before_utc:
        raise refusal(Reason.NOT_YET_VALID, own, f"is valid from {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only")
    if now > own.not_valid_after_utc:
        raise refusal(Reason.EXPIRED, own, f"expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    for issuer in issuers:
        if not issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc:
            raise refusal(Reason.ISSUER_TIME, own, f"has an issuer, {subject_of(issuer)}, that is not valid now")


def _check_host_name(own: x509.Certificate, host: str, *, pinned: bool) -> str | None:
    """Refuse an issued certificate that does not name the host; a pinned one gets a warning.

    One authority issues to many devices, and the host name is all that tells one from another. A pinned certificate is
    one device's, whatever address a site gave it; Part 4 lets this check be left out.
    """
    names = _alternative_names(own)
    listed: list[str] = []
    if names is not None:
        listed = [*names.get_values_for_type(x509.DNSName)]
        listed += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if _plain_host(host) in {_plain_host(name) for name in listed}:
        return None
    what = f"does not name {host}; it names {one_line(', '.join(listed)) or 'no host'}"
    if not pinned:
        raise refusal(Reason.HOST_NAME, own, what)
    return what


def _plain_host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.rstrip(".").lower()


def _check_uri(own: x509.Certificate, application_uri: str) -> None:
    found = application_uri_of(own)
    if found is None or found != application_uri:
        shown = one_line(application_uri) or "no URI"
        raise refusal(Reason.URI, own, f"is for {one_line(found or '') or 'no URI'}, while the server is {shown}")


def _check_use(path: Sequence[x509.Certificate]) -> None:
    """Key usages (Part 6, 6.2.2); an extension that is not there restricts nothing (RFC 5280, 4.2.1.3, 4.2.1.12)."""
    own, *issuers = path
    usage = _extension(own, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature and (usage.data_encipherment or usage.key_encipherment)):
        raise refusal(Reason.USE, own, "must not be used to sign and to encrypt")
    purposes = _extension(own, x509.ExtendedKeyUsage)
    wanted = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if purposes is not None and not any(purpose in wanted for purpose in purposes):
        raise refusal(Reason.USE, own, "is not that of a server: serverAuth is not among its uses")
    for depth, issuer in enumerate(issuers):
        constraints = _extension(issuer, x509.BasicConstraints)
        usage = _extension(issuer, x509.KeyUsage)
        too_deep = constraints is not None and constraints.path_length is not None and constraints.path_length < depth
        if constraints is None or not constraints.ca or too_deep or (usage is not None and not usage.key_cert_sign):
            raise refusal(Reason.ISSUER_USE, own, f"has an issuer, {subject_of(issuer)}, that may not issue it")


def _check_revocation(
    path: Sequence[x509.Certificate],
    lists: Iterable[x509.CertificateRevocationList],
    now: datetime,
    *,
    required: bool,
) -> None:
    own = path[0]
    for certificate, issuer in pairwise(path):
        known = [found for found in lists if found.issuer == issuer.subject and _list_is_of(found, issuer)]
        whose = "its issuer" if certificate is own else f"the issuer of {subject_of(certificate)}"
        if any(found.get_revoked_certificate_by_serial_number(certificate.serial_number) for found in known):
            reason = Reason.REVOKED if certificate is own else Reason.ISSUER_REVOKED
            raise refusal(reason, own, f"was revoked by {whose}")
        current = [found for found in known if found.next_update_utc is None or found.next_update_utc >= now]
        if required and not current:
            what = "an outdated" if known else "no"
            raise refusal(Reason.REVOCATION_UNKNOWN, own, f"may be revoked: there is {what} revocation list of {whose}")


def _list_is_of(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        return False
    try:
        return found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (*MALFORMED, InvalidSignature):
        return False


# ---- parts of a certificate


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    return _extension(certificate, x509.SubjectAlternativeName)


def _der_size(der: bytes) -> int:
    """Size in bytes of the DER value that ``der`` starts with (X.690, 8.1.3)."""
    length = der[1] if len(der) > 1 else 0
    if length < 0x80:
        return 2 + length
    digits = length & 0x7F
    return 2 + digits + int.from_bytes(der[2 : 2 + digits], "big")
