"""Good answers of every service, as a device sends them: what the inputs are bent from."""

from __future__ import annotations

from typing import Any

from opcua import ua
from opcua.ua.ua_binary import struct_to_binary

from scada_trio.opcua.policies import NONE_URI, SUITES
from tests.devices.scripted import user_token
from tests.fuzzing.fakes import CHANNEL, TOKEN, URL
from tests.publish_bytes import CAPTURES

RECORDED = CAPTURES / "services"
"""What real servers answered, ``<maker>-<response>-<number>.bin``; see the README there."""


def recorded(response: str) -> list[bytes]:
    """The recorded answers of this name, of every maker."""
    return [path.read_bytes() for path in sorted(RECORDED.glob(f"*-{response}-*.bin"))]


def encoded(response: Any) -> bytes:
    return bytes(struct_to_binary(response))


def open_answer(nonce: bytes = b"") -> bytes:
    response = ua.OpenSecureChannelResponse()
    response.Parameters.SecurityToken.ChannelId = CHANNEL
    response.Parameters.SecurityToken.TokenId = TOKEN
    response.Parameters.SecurityToken.RevisedLifetime = 3_600_000
    response.Parameters.ServerNonce = nonce
    return encoded(response)


def endpoint(mode: Any = ua.MessageSecurityMode.None_, policy: str = NONE_URI, certificate: bytes = b"") -> Any:
    offered = ua.EndpointDescription()
    offered.EndpointUrl, offered.SecurityMode, offered.SecurityPolicyUri = URL, mode, policy
    offered.Server.ApplicationUri = "urn:test:device"
    offered.ServerCertificate = certificate or None
    offered.UserIdentityTokens = [
        user_token("anonymous", ua.UserTokenType.Anonymous),
        user_token("name", ua.UserTokenType.UserName, SUITES[0].uri),
    ]
    return offered


def endpoints_answer(certificate: bytes) -> bytes:
    response = ua.GetEndpointsResponse()
    secured = ua.MessageSecurityMode.SignAndEncrypt
    response.Endpoints = [endpoint(), endpoint(secured, SUITES[0].uri, certificate)]
    return encoded(response)


def session_answer(*endpoints: Any, certificate: bytes = b"") -> bytes:
    response = ua.CreateSessionResponse()
    created = response.Parameters
    created.SessionId, created.AuthenticationToken = ua.NodeId(1, 1), ua.NodeId(2, 1)
    created.RevisedSessionTimeout, created.ServerNonce = 60_000.0, b"n" * 32
    created.ServerEndpoints, created.ServerCertificate = list(endpoints), certificate or None
    created.ServerSignature.Signature = b"s" * 256
    return encoded(response)


def activated_answer() -> bytes:
    response = ua.ActivateSessionResponse()
    response.Parameters.ServerNonce = b"n" * 32
    return encoded(response)


def subscription_answer(response: Any, keep_alives: int) -> bytes:
    response.Parameters.RevisedPublishingInterval = 1000.0
    response.Parameters.RevisedLifetimeCount, response.Parameters.RevisedMaxKeepAliveCount = 100, keep_alives
    return encoded(response)


def results_answer(response: Any, *results: Any) -> bytes:
    response.Results = list(results)
    return encoded(response)


def created_item(number: int, code: int = 0) -> Any:
    result = ua.MonitoredItemCreateResult()
    result.StatusCode, result.MonitoredItemId = ua.StatusCode(code), number
    result.RevisedSamplingInterval, result.RevisedQueueSize = 100.0, 10
    return result


def modified_item(code: int = 0) -> Any:
    result = ua.MonitoredItemModifyResult()
    result.StatusCode = ua.StatusCode(code)
    return result


def transferred_answer() -> bytes:
    result = ua.TransferResult()
    result.AvailableSequenceNumbers = [1, 2, 3]
    response = ua.TransferSubscriptionsResponse()
    response.Parameters.Results = [result]
    return encoded(response)


def values(*variants: Any) -> bytes:
    return results_answer(ua.ReadResponse(), *(ua.DataValue(variant) for variant in variants))


def reference(number: int, name: str, node_class: Any, kind: int = 35) -> Any:
    found = ua.ReferenceDescription()
    found.ReferenceTypeId, found.NodeId = ua.NodeId(kind, 0), ua.NodeId(number, 1)
    found.BrowseName, found.DisplayName = ua.QualifiedName(name, 1), ua.LocalizedText(name)
    found.NodeClass, found.IsForward = node_class, True
    return found


def branches(response: Any, *branches: list[Any], point: bytes | None = None) -> bytes:
    results = []
    for references in branches:
        result = ua.BrowseResult()
        result.References, result.ContinuationPoint = references, point
        results.append(result)
    if isinstance(response, ua.BrowseNextResponse):
        response.Parameters.Results = results
        return encoded(response)
    return results_answer(response, *results)


def fault(code: int) -> bytes:
    response = ua.ServiceFault()
    response.ResponseHeader.ServiceResult = ua.StatusCode(code)
    return encoded(response)
