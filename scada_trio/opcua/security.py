"""Which endpoint, which certificate, which user token: what we send is decided here, not by what a server lists first.

Owns the choice and its refusals (OPC UA Part 4, 5.4.4, 5.6.3, 7.41). Knows no socket; starts nothing. `session` calls
it before it connects, between CreateSession and ActivateSession, and when the trust store changes.

    agree ─► GetEndpoints ─► the configured mode and policy, no other ─► certificate checked ─► channel to its owner
    offer_of ─► CreateSession names that same certificate ─► activation ─► token policy, password to its owner alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from opcua import ua

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import CertificateRefused, DeviceError, DeviceProtocolError, DeviceRefused, SecurityRefused
from scada_trio.opcua.certificates import (
    MALFORMED,
    Accepted,
    Reason,
    application_uri_of,
    describe,
    read_certificate,
    refusal,
    split_chain,
)
from scada_trio.opcua.client import LinkClient
from scada_trio.opcua.discovery import get_endpoints
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.policies import (
    NONE_URI,
    SUITES,
    ChannelSecurity,
    Suite,
    encrypt_password,
    short_name,
    sign,
    suite_of_name,
)
from scada_trio.opcua.transport import parse_endpoint
from scada_trio.opcua.trust import UserIdentity

APPLICATION_URI: Final = "urn:scada-trio:client"
"""Who we say that we are where no certificate says it."""
_MODES: Final = {
    SecurityMode.NONE: ua.MessageSecurityMode.None_,
    SecurityMode.SIGN: ua.MessageSecurityMode.Sign,
    SecurityMode.SIGN_AND_ENCRYPT: ua.MessageSecurityMode.SignAndEncrypt,
}
_MAX_NONCE_BYTES: Final = 1_024  # 32 are usual; each block of it is a step of RSA where a password is encrypted
_OUR_CERTIFICATE: Final = frozenset(
    {
        ua.StatusCodes.BadSecurityChecksFailed,
        ua.StatusCodes.BadCertificateUntrusted,
        ua.StatusCodes.BadCertificateInvalid,
        ua.StatusCodes.BadCertificateChainIncomplete,
        ua.StatusCodes.BadCertificateTimeInvalid,
        ua.StatusCodes.BadCertificateUseNotAllowed,
        ua.StatusCodes.BadCertificateUriInvalid,
        ua.StatusCodes.BadCertificateRevoked,
    }
)
"""What a server says that does not accept our certificate; most say the first, so as to tell a stranger nothing."""


@dataclass(frozen=True, slots=True)
class LinkSecurity:
    """How one link is protected, and who we are on it: ``own_uri``, and ``own_name`` for people.

    ``recheck`` raises `CertificateRefused` once ``accepted``, the server's certificate, is accepted no more.
    """

    policy: ua.SecurityPolicy
    own_uri: str = APPLICATION_URI
    own_name: str = ""
    accepted: Accepted | None = None
    recheck: Callable[[], object] = field(default=lambda: None)

    @property
    def protects(self) -> bool:
        """Whether messages are signed at least."""
        return self.accepted is not None

    async def watch(self, pki: Pki, *, limiter: trio.CapacityLimiter) -> None:
        """Check the certificate whenever the trust store changes; ends by `CertificateRefused`, or cancelled."""

        def recheck() -> object:
            version = pki.store.version()  # before: what changes meanwhile is looked at once more
            self.recheck()
            return version

        while True:
            await pki.store.changed_since(await trio.to_thread.run_sync(recheck, limiter=limiter))


@dataclass(frozen=True, slots=True)
class Offer:
    """What CreateSession said, and every activation of that session goes by."""

    tokens: Sequence[Any]
    chain: bytes | None
    application_uri: str


_UNPROTECTED: Final = LinkSecurity(ua.SecurityPolicy())  # it has no state: one for all links

# ---- the channel


async def agree(
    spec: ConnectionSpec,
    *,
    settings: DeviceSettings,
    pki: Pki,
    limiter: trio.CapacityLimiter,
    resolving: trio.CapacityLimiter,
) -> LinkSecurity:
    """Ask the server what it offers and take what ``spec`` says, exactly; mode None asks nothing.

    Raises `SecurityRefused` where it is not offered or not spoken here, `CertificateRefused`, what GetEndpoints met.
    """
    if spec.security_mode is SecurityMode.NONE:
        return _UNPROTECTED
    suite = _suite_of(spec, pki)
    endpoint = parse_endpoint(spec.endpoint_url)
    offered = await get_endpoints(endpoint, timeout_s=settings.connect_timeout_s, resolving=resolving)
    secure = partial(_secure, spec, suite, offered, endpoint.host, pki)
    return await trio.to_thread.run_sync(secure, limiter=limiter)


def _suite_of(spec: ConnectionSpec, pki: Pki) -> Suite:
    suite = suite_of_name(spec.security_policy)
    if suite is None:
        raise SecurityRefused(
            f"security policy {short_name(spec.security_policy)} is not supported; supported are {_supported(pki)}",
            "security_policy_unsupported",
        )
    if suite.deprecated and not pki.settings.allow_deprecated_policies:
        raise SecurityRefused(
            f"security policy {suite.name} is deprecated and not allowed: use one of {_supported(pki)}, or set "
            "OPC_ALLOW_DEPRECATED_POLICIES=true",
            "security_policy_deprecated",
        )
    return suite


def _supported(pki: Pki) -> str:
    return ", ".join(suite.name for suite in _allowed(pki))


def _allowed(pki: Pki) -> list[Suite]:
    """The policies in use here, best first."""
    return [suite for suite in SUITES if pki.settings.allow_deprecated_policies or not suite.deprecated]


def _secure(spec: ConnectionSpec, suite: Suite, offered: Iterable[Any], host: str, pki: Pki) -> LinkSecurity:
    mode = _MODES[spec.security_mode]
    endpoint = _find(offered, mode, suite.uri)
    chain = endpoint.ServerCertificate
    application_uri = _application_uri(endpoint)
    recheck = partial(pki.check, chain, suite, host=host, application_uri=application_uri)
    accepted = recheck()
    identity = pki.own.current()
    own_bits = identity.key.key_size
    if not suite.min_key_bits <= own_bits <= suite.max_key_bits:
        raise SecurityRefused(
            f"our own key has {own_bits} bits; {suite.name} allows {suite.min_key_bits} to {suite.max_key_bits}",
            "own_certificate",
        )
    policy = ChannelSecurity(
        suite,
        mode,
        own_certificate=identity.der,
        own_chain=identity.chain,
        own_key=identity.key,
        certificate=accepted.der,
        public_key=accepted.public_key,
    )
    return LinkSecurity(policy, identity.application_uri, describe(identity.certificate), accepted, recheck)


def _find(endpoints: Iterable[Any], mode: Any, policy_uri: str) -> Any:
    """The endpoint with this mode and policy; the host in its URL is the server's own business."""
    offered = []
    for endpoint in endpoints or ():
        tcp = (endpoint.EndpointUrl or "").startswith("opc.tcp:")
        if tcp and endpoint.SecurityMode == mode and endpoint.SecurityPolicyUri == policy_uri:
            return endpoint
        offered.append(f"{endpoint.SecurityMode.name.rstrip('_')} {short_name(endpoint.SecurityPolicyUri)}")
    listed = ", ".join(dict.fromkeys(offered[:16])) or "nothing"
    wanted = mode.name.rstrip("_") if policy_uri == NONE_URI else f"{mode.name} and policy {short_name(policy_uri)}"
    raise SecurityRefused(
        f"the server has no endpoint with security mode {wanted}; it offers {listed}", "security_not_offered"
    )


def _application_uri(endpoint: Any) -> str:
    return str(endpoint.Server.ApplicationUri or "")


def explained(error: DeviceError, security: LinkSecurity) -> DeviceError:
    """What a server answered to our opening a protected channel, with the thing to do where it refuses us."""
    if error.status not in _OUR_CERTIFICATE:
        return error
    explanation = SecurityRefused(
        f"{error}; the server may have to be told to trust our certificate {security.own_name}",
        "own_certificate_refused",
    )
    explanation.status = error.status
    return explanation


# ---- the session


def offer_of(created: Any, security: LinkSecurity) -> Offer:
    """What a CreateSessionResult offers on this channel.

    Raises `SecurityRefused` where it lists no endpoint like the channel's, and `CertificateRefused` where it names
    another certificate, or another server, than the channel was opened to.
    """
    policy = security.policy
    endpoint = _find(created.ServerEndpoints, policy.Mode, policy.URI)
    application_uri = _application_uri(endpoint)
    accepted = security.accepted
    if accepted is not None:
        ders = split_chain(created.ServerCertificate)
        if ders[:1] != [accepted.der]:
            raise refusal(Reason.MISMATCH, accepted.certificate, "is not the one that the session was created with")
        if application_uri != application_uri_of(accepted.certificate):
            raise refusal(Reason.URI, accepted.certificate, "is not that of the application that created the session")
    return Offer(list(endpoint.UserIdentityTokens or ()), created.ServerCertificate, application_uri)


def activation(client: LinkClient, spec: ConnectionSpec, offer: Offer, security: LinkSecurity, pki: Pki) -> Any:
    """The ActivateSessionParameters (Part 4, 5.6.3) that log the user of ``spec`` in; blocks on the trust store.

    Raises `DeviceProtocolError` for a nonce that is none, `DeviceRefused` where the server takes nothing that may be
    sent: never a password that somebody else could read, unless the connection allows it in clear text.
    """
    policy = security.policy
    nonce = client._server_nonce
    if len(nonce or b"") > _MAX_NONCE_BYTES:
        raise DeviceProtocolError(f"the server's nonce has {len(nonce)} bytes")
    parameters = ua.ActivateSessionParameters()
    parameters.LocaleIds.append("en")
    if security.protects:
        parameters.ClientSignature.Algorithm = policy.AsymmetricSignatureURI
        signed = policy.server_certificate + (nonce or b"")
        parameters.ClientSignature.Signature = policy.asymmetric_cryptography.signature(signed)
    desk = _Desk(spec, offer, security, pki)
    identity = None if spec.username else pki.store.user(spec.connection_id)
    if spec.username:
        parameters.UserIdentityToken = desk.name_token(spec.username, nonce)
    elif identity is not None:
        parameters.UserIdentityToken, parameters.UserTokenSignature = desk.certificate_token(identity, nonce)
    else:
        parameters.UserIdentityToken = desk.anonymous_token()
    return parameters


class _Desk:
    """Where a user shows who he is: one offer, one connection."""

    def __init__(self, spec: ConnectionSpec, offer: Offer, security: LinkSecurity, pki: Pki) -> None:
        self._spec, self._offer, self._security, self._pki = spec, offer, security, pki

    def anonymous_token(self) -> Any:
        for token in self._offer.tokens:
            if token.TokenType == ua.UserTokenType.Anonymous:
                chosen = ua.AnonymousIdentityToken()
                chosen.PolicyId = token.PolicyId
                return chosen
        raise DeviceRefused(f"the server takes no anonymous user; it asks for {_kinds(self._offer.tokens)}")

    def name_token(self, name: str, nonce: bytes | None) -> Any:
        """User name and password, encrypted with the best policy that is offered before anything in clear text."""
        by_uri = self._by_policy(ua.UserTokenType.UserName)
        if not by_uri:
            raise DeviceRefused(f"the server takes no user name; it asks for {_kinds(self._offer.tokens)}")
        password = self._spec.password.get_secret_value() if self._spec.password is not None else ""
        chosen = ua.UserNameIdentityToken()
        chosen.UserName = name
        suite = self._best(by_uri)
        key = None if suite is None else self._password_key(suite, can_be_clear=NONE_URI in by_uri)
        if suite is not None and key is not None:
            chosen.PolicyId = by_uri[suite.uri].PolicyId
            chosen.Password = encrypt_password(suite, key, password, nonce)
            chosen.EncryptionAlgorithm = suite.encryption_uri
            return chosen
        if NONE_URI not in by_uri:
            listed = ", ".join(short_name(uri) for uri in by_uri)
            raise DeviceRefused(
                f"the server wants the password encrypted as {listed}; supported are {_supported(self._pki)}"
            )
        if not self._is_confidential and not self._spec.allow_plaintext_password:
            raise DeviceRefused("the server takes a password in clear text only, which the connection does not allow")
        chosen.PolicyId = by_uri[NONE_URI].PolicyId
        chosen.Password = password.encode()
        chosen.EncryptionAlgorithm = None
        return chosen

    def certificate_token(self, identity: UserIdentity, nonce: bytes | None) -> tuple[Any, Any]:
        """The user's certificate, and the signature that shows that we have its key (Part 4, 7.41.2.5)."""
        by_uri = self._by_policy(ua.UserTokenType.Certificate)
        suite = self._best(by_uri)
        if suite is None:
            raise DeviceRefused(
                "the server takes no user certificate with a policy that is supported "
                f"({_supported(self._pki)}); it asks for {_kinds(self._offer.tokens)}"
            )
        accepted = self._security.accepted or self._check(suite)
        token = ua.X509IdentityToken()
        token.PolicyId = by_uri[suite.uri].PolicyId
        token.CertificateData = identity.certificate.public_bytes(Encoding.DER)
        signature = ua.SignatureData()
        signature.Algorithm = suite.signature_uri
        signature.Signature = sign(suite, identity.key, accepted.der + (nonce or b""))
        return token, signature

    @property
    def _is_confidential(self) -> bool:
        """Whether the channel itself keeps what is sent from others."""
        return bool(self._security.policy.Mode == ua.MessageSecurityMode.SignAndEncrypt)

    def _by_policy(self, kind: Any) -> dict[str, Any]:
        """The server's token policies of this kind; one without a policy has that of the channel."""
        return {
            token.SecurityPolicyUri or self._security.policy.URI: token
            for token in reversed(self._offer.tokens)
            if token.TokenType == kind
        }

    def _best(self, by_uri: dict[str, Any]) -> Suite | None:
        return next((suite for suite in _allowed(self._pki) if suite.uri in by_uri), None)

    def _password_key(self, suite: Suite, *, can_be_clear: bool) -> RSAPublicKey | None:
        """Whom the password is encrypted to: the channel's other end, else a server whose certificate is trusted.

        Without message security anybody may have put his own certificate into the answer. Where clear text is allowed
        any certificate is better than none, against those who only listen; None where there is not even one.
        """
        if self._security.accepted is not None:
            return self._security.accepted.public_key
        try:
            return self._check(suite).public_key
        except CertificateRefused:
            if not self._spec.allow_plaintext_password:
                if not self._offer.chain and can_be_clear:
                    return None
                raise
        try:
            key = read_certificate(split_chain(self._offer.chain)[0]).public_key()
        except (IndexError, *MALFORMED):
            return None
        return key if isinstance(key, RSAPublicKey) else None

    def _check(self, suite: Suite) -> Accepted:
        host = parse_endpoint(self._spec.endpoint_url).host
        return self._pki.check(self._offer.chain, suite, host=host, application_uri=self._offer.application_uri)


def _kinds(tokens: Sequence[Any]) -> str:
    return ", ".join(sorted({token.TokenType.name for token in tokens})) or "nothing known"
