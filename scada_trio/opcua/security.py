"""Which endpoint and which user token: what we send is decided here, not by the order in which a server lists them.

Owns the choice and its refusals (OPC UA Part 4, 7.40 UserIdentityToken). Knows no socket; starts nothing. `session`
calls it between CreateSession and ActivateSession.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from cryptography import x509
from opcua import ua
from opcua.crypto.security_policies import (
    POLICY_NONE_URI,
    SecurityPolicyBasic128Rsa15,
    SecurityPolicyBasic256,
    SecurityPolicyBasic256Sha256,
)

from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import DeviceRefused
from scada_trio.opcua.client import LinkClient

_TOKEN_POLICIES: Final = (
    SecurityPolicyBasic256Sha256.URI,
    SecurityPolicyBasic256.URI,
    SecurityPolicyBasic128Rsa15.URI,
)
"""Policies that a password can be encrypted with, best first."""


def policy_of(spec: ConnectionSpec) -> ua.SecurityPolicy:
    """The message security that ``spec`` asks for. Raises `DeviceRefused` where it is more than None."""
    if spec.security_mode is not SecurityMode.NONE or spec.security_policy not in ("", "None", POLICY_NONE_URI):
        raise DeviceRefused(
            f"security mode {spec.security_mode.value} with policy {spec.security_policy} is not supported, only None"
        )
    return ua.SecurityPolicy()


def set_user(client: LinkClient, spec: ConnectionSpec, created: Any) -> None:
    """Prepare ``client`` to activate the session as the user of ``spec``; ``created`` is a CreateSessionResult.

    The token policy is chosen among those of the endpoint that the channel uses: an encrypted one before plain text,
    and plain text only where ``spec`` allows it. Raises `DeviceRefused` where the server takes nothing that we send.

    Without message security nobody has shown that the certificate is the server's own: who can change the traffic can
    read the password. That a password is encrypted guards against those who only listen.
    """
    tokens = _endpoint_tokens(created.ServerEndpoints, client.security_policy)
    certificate = _first_certificate(created.ServerCertificate)
    if not spec.username:
        client._policy_ids = [_choose_anonymous(tokens)]
        return
    token = _choose_user_name(tokens, certificate is not None, spec.allow_plaintext_password)
    client._policy_ids = [token]
    client.security_policy.server_certificate = certificate
    client.set_user(spec.username)
    client.set_password(spec.password.get_secret_value() if spec.password is not None else "")


def set_user_again(client: LinkClient, spec: ConnectionSpec, tokens: list[Any], certificate: bytes | None) -> None:
    """Prepare ``client`` to activate an existing session; ``tokens`` and ``certificate`` are what `set_user` chose."""
    client._policy_ids = tokens
    client.security_policy.server_certificate = certificate
    if spec.username:
        client.set_user(spec.username)
        client.set_password(spec.password.get_secret_value() if spec.password is not None else "")


def _endpoint_tokens(endpoints: Iterable[Any], policy: ua.SecurityPolicy) -> list[Any]:
    """Token policies of the endpoint with our mode and policy; the host in its URL is the server's own business."""
    offered = []
    for endpoint in endpoints or ():
        tcp = (endpoint.EndpointUrl or "").startswith("opc.tcp:")
        if tcp and endpoint.SecurityMode == policy.Mode and endpoint.SecurityPolicyUri == policy.URI:
            return list(endpoint.UserIdentityTokens or ())
        offered.append(f"{endpoint.SecurityMode.name} {_short(endpoint.SecurityPolicyUri)}")
    listed = ", ".join(offered[:8]) or "nothing"
    raise DeviceRefused(f"the server has no endpoint with security mode None; it offers {listed}")


def _choose_anonymous(tokens: Sequence[Any]) -> Any:
    for token in tokens:
        if token.TokenType == ua.UserTokenType.Anonymous:
            return token
    raise DeviceRefused(f"the server takes no anonymous user; it asks for {_kinds(tokens)}")


def _choose_user_name(tokens: Sequence[Any], can_encrypt: bool, allow_plaintext: bool) -> Any:
    by_policy = {
        token.SecurityPolicyUri or POLICY_NONE_URI: token
        for token in reversed(tokens)
        if token.TokenType == ua.UserTokenType.UserName
    }
    if not by_policy:
        raise DeviceRefused(f"the server takes no user name; it asks for {_kinds(tokens)}")
    for uri in _TOKEN_POLICIES:
        if can_encrypt and uri in by_policy:
            return by_policy[uri]
    if POLICY_NONE_URI in by_policy:
        if allow_plaintext:
            return by_policy[POLICY_NONE_URI]
        raise DeviceRefused("the server takes the password only in clear text, which this connection does not allow")
    listed = ", ".join(_short(uri) for uri in by_policy)
    raise DeviceRefused(f"the server wants the password encrypted as {listed}, which is not supported here")


def _kinds(tokens: Sequence[Any]) -> str:
    return ", ".join(sorted({token.TokenType.name for token in tokens})) or "nothing known"


def _short(uri: str | None) -> str:
    return (uri or "none").rpartition("#")[2][:60]


def _first_certificate(chain: bytes | None) -> bytes | None:
    """The first of the DER certificates that a server sends in a row (Part 6, 6.2.6); None if there is none."""
    if not chain:
        return None
    der = chain[: _der_size(chain)]
    try:
        x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise DeviceRefused("the server's certificate cannot be read") from error
    return der


def _der_size(der: bytes) -> int:
    """Size in bytes of the DER value that ``der`` starts with (X.690, 8.1.3)."""
    length = der[1] if len(der) > 1 else 0
    if length < 0x80:
        return 2 + length
    digits = length & 0x7F
    return 2 + digits + int.from_bytes(der[2 : 2 + digits], "big")
