"""Somebody between us and the device who reads and changes everything: he gets no password, and no session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.object_ids import ObjectIds
from opcua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary
from pydantic import SecretStr

from scada_trio.desired import SecurityMode
from scada_trio.errors import CertificateRefused
from scada_trio.opcua.certificates import Accepted
from scada_trio.opcua.faults import MALFORMED
from scada_trio.opcua.policies import NONE_URI, SUITES, ChannelSecurity
from scada_trio.opcua.security import LinkSecurity, offer_of
from scada_trio.opcua.transport import FrameBuffer
from scada_trio.status import ConnectionState
from tests.devices.scripted import ScriptedDevice, user_token
from tests.fix_devices import open_device, open_rig, tag
from tests.fix_pki import SERVER_URI, Made, TestPki, make
from tests.fix_proxy import Proxy

A = tag("ns=1;s=a")
SECURED: dict[str, Any] = {"security_mode": SecurityMode.SIGN_AND_ENCRYPT, "security_policy": "Basic256Sha256"}
USER: dict[str, Any] = {"username": "operator", "password": SecretStr("pump-house-7")}
OPTIONS: dict[str, Any] = {"nodes": ["a"], "users": {"operator": "pump-house-7"}, "uri": SERVER_URI}
DEVICE = make()
INTRUDER = make(key="intruder")  # names the same host and application
_BODY_AT = 24

Rewrite = Callable[[Any], None]


class Intruder(Proxy):
    """Changes answers on channels without security; ``services`` and ``sent`` are what the client said to him."""

    def __init__(self, target_port: int, rewrites: dict[str, Rewrite]) -> None:
        super().__init__(target_port)
        self.rewrites = rewrites
        self.rewritten = 0
        self.services: list[str] = []
        self.sent = b""

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            server = await trio.open_tcp_stream("127.0.0.1", self.target_port)
            async with stream, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, stream, server, nursery.cancel_scope)
                nursery.start_soon(self._change, server, stream, nursery.cancel_scope)

    async def _listen(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while received := await source.receive_some():
                self.sent += received
                if received[:3] == b"MSG":
                    with suppress(*MALFORMED, StopIteration):  # what is encrypted has no name
                        self.services.append(self._name(received[_BODY_AT:]))
                await sink.send_all(received)
        scope.cancel()

    async def _change(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        frames = FrameBuffer()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while received := await source.receive_some():
                for frame in frames.feed(bytes(received)):
                    await sink.send_all(self._rewrite(frame))
        scope.cancel()

    def _rewrite(self, frame: bytes) -> bytes:
        if frame[:4] != b"MSGF":
            return frame
        try:
            name = self._name(frame[_BODY_AT:])
        except (*MALFORMED, StopIteration):  # encrypted
            return frame
        if name not in self.rewrites:
            return frame
        message = struct_from_binary(getattr(ua, name), Buffer(frame[_BODY_AT:]))
        self.rewrites[name](message)
        self.rewritten += 1
        body = bytes(struct_to_binary(message))
        return frame[:4] + (_BODY_AT + len(body)).to_bytes(4, "little") + frame[8:_BODY_AT] + body

    @staticmethod
    def _name(body: bytes) -> str:
        code = nodeid_from_binary(Buffer(body)).Identifier
        return next(str(name) for name, known in vars(ObjectIds).items() if known == code).partition("_")[0]


@asynccontextmanager
async def open_intruder(target_port: int, **rewrites: Rewrite) -> AsyncIterator[Intruder]:
    intruder = Intruder(target_port, rewrites)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, intruder.serve, 0)
        intruder.port = listeners[0].socket.getsockname()[1]
        yield intruder
        nursery.cancel_scope.cancel()


def swap_endpoints(message: Any) -> None:
    for endpoint in message.Endpoints:
        endpoint.ServerCertificate = INTRUDER.der


def strip_endpoints(message: Any) -> None:
    message.Endpoints = [e for e in message.Endpoints if e.SecurityMode == ua.MessageSecurityMode.None_]


def swap_session(message: Any) -> None:
    message.Parameters.ServerCertificate = INTRUDER.der
    for endpoint in message.Parameters.ServerEndpoints:
        endpoint.ServerCertificate = INTRUDER.der


def strip_tokens(message: Any) -> None:
    for endpoint in message.Parameters.ServerEndpoints:
        for token in endpoint.UserIdentityTokens:
            token.SecurityPolicyUri = NONE_URI


@pytest.mark.parametrize(
    ("rewrites", "fields", "error_type"),
    [
        ({"GetEndpointsResponse": swap_endpoints}, SECURED, "certificate_untrusted"),
        ({"GetEndpointsResponse": strip_endpoints}, SECURED, "security_not_offered"),
        ({"CreateSessionResponse": swap_session}, {}, "certificate_untrusted"),
        ({"CreateSessionResponse": strip_tokens}, {}, "refused"),
    ],
    ids=["other certificate", "no security", "other certificate in CreateSession", "password in clear"],
)
async def test_answers_that_were_changed(
    rewrites: dict[str, Rewrite], fields: dict[str, Any], error_type: str, pki: TestPki, tmp_path: Path
) -> None:
    """Whoever changes what an unprotected channel carries is noticed before a user shows who he is."""
    made = make()
    pki.trust_it(made)
    async with (
        open_device("asyncua", **OPTIONS, **made.files(tmp_path)) as device,
        open_intruder(device.options["port"], **rewrites) as intruder,
        open_rig(intruder.url, (A,), pki=pki, **fields, **USER) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert intruder.rewritten >= 1
        assert rig.connection.status.last_error_type == error_type
        assert "ActivateSessionRequest" not in intruder.services
        assert b"pump-house-7" not in intruder.sent
        assert b"SecurityPolicy#Basic256Sha256" not in intruder.sent  # no channel was tried either
        intruder.rewrites.clear()
        rig.update(endpoint_url=device.url)
        await rig.state(ConnectionState.CONNECTED)


async def test_a_server_in_place_of_the_device(pki: TestPki, tmp_path: Path) -> None:
    """Another server at the device's address, with a certificate of the same names, gets nothing."""
    pki.trust_it(make())
    async with (
        open_device("asyncua", **OPTIONS, **INTRUDER.files(tmp_path)) as device,
        open_intruder(device.options["port"]) as intruder,
        open_rig(intruder.url, (A,), pki=pki, **SECURED, **USER) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == "certificate_untrusted"
        assert set(intruder.services) == {"GetEndpointsRequest"}
        assert b"operator" not in intruder.sent


@pytest.mark.parametrize("certificate", [INTRUDER.der, b"\x30\x03\x02\x01\x01", b"junk", None])
async def test_a_server_that_asks_for_a_password(certificate: bytes | None, pki: TestPki) -> None:
    """Without security a password goes to nobody whose certificate is not trusted, whatever he presents."""
    device = ScriptedDevice()
    kind = ua.UserTokenType.UserName
    device.tokens = [user_token("name", kind, SUITES[0].uri), user_token("clear", kind, NONE_URI)]
    plain_answer = device._CreateSession

    def create_session(parameters: Any) -> Any:
        response = plain_answer(parameters)
        response.Parameters.ServerCertificate = certificate
        response.Parameters.ServerEndpoints[0].Server.ApplicationUri = SERVER_URI
        return response

    device.answers["CreateSession"] = create_session
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, (A,), pki=pki, **USER) as rig:
            await rig.state(ConnectionState.REFUSED)
            assert device.identity is None
            assert "ActivateSession" not in device.calls
            rig.update(allow_plaintext_password=True)  # now he may have it: encrypted where that is possible at all
            await device.until(lambda: device.identity is not None)
            identity: Any = device.identity
            assert identity.PolicyId == ("name" if certificate == INTRUDER.der else "clear")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("presented", "uri", "error_type"),
    [
        (INTRUDER, SERVER_URI, "certificate_mismatch"),
        (None, SERVER_URI, "certificate_mismatch"),
        (DEVICE, "urn:another", "certificate_uri_invalid"),
    ],
)
def test_a_session_of_another_server(presented: Made | None, uri: str, error_type: str) -> None:
    """The certificate of CreateSession is the channel's, and so is the application, or there is no session."""
    accepted = Accepted(DEVICE.certificate, DEVICE.der, DEVICE.key.public_key())
    policy = ChannelSecurity(
        SUITES[0],
        ua.MessageSecurityMode.Sign,
        own_certificate=INTRUDER.der,
        own_key=INTRUDER.key,
        certificate=DEVICE.der,
        public_key=accepted.public_key,
    )
    endpoint = ua.EndpointDescription()
    endpoint.EndpointUrl, endpoint.SecurityMode = "opc.tcp://127.0.0.1", policy.Mode
    endpoint.SecurityPolicyUri, endpoint.Server.ApplicationUri = policy.URI, uri
    created = SimpleNamespace(ServerEndpoints=[endpoint], ServerCertificate=presented and presented.der)
    with pytest.raises(CertificateRefused) as raised:
        offer_of(created, LinkSecurity(policy, accepted=accepted))
    assert raised.value.error_type == error_type
