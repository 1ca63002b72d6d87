"""Rights by client certificate: what each may do, and what nobody can learn of others."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
import trio
from h2.connection import H2Connection
from h2.events import RemoteSettingsChanged
from h2.settings import SettingCodes

from scada_trio.api._generated import scada_pb2
from scada_trio.api.access import Access
from scada_trio.api.rights import (
    NEEDED,
    Grant,
    Right,
    RightsUnusable,
    identities_of,
    needed_for,
    read_rights,
)
from scada_trio.audit import Actor
from scada_trio.config import GrpcAccessSettings
from scada_trio.errors import IdTaken
from tests.fake_backend import ABSENT, CONNECTION, TENANT, WELL, FakeBackend
from tests.fix_api import MESSAGES, LogLines, ServeApi, connection_fields, eventually, grpcio_call, grpcio_stream
from tests.fix_pki import Made, make
from tests.fix_tls import CLIENT_URI, ApiPki

OTHER = UUID("55555555-5555-4555-8555-555555555555")
STREAMING = {"StreamReadings", "SubscribeReadings"}
WHO = f"URI:{CLIENT_URI}"


def request_fields(method: str) -> dict[str, Any]:
    """A request about the tenant of the fake backend that is good."""
    if method == "AddConnection":
        return connection_fields()
    request = MESSAGES[method][0].DESCRIPTOR.fields_by_name
    fields: dict[str, Any] = {}
    for name, value in (("tenant_id", TENANT), ("connection_id", CONNECTION), ("well_id", WELL)):
        if name in request:
            fields[name] = str(value)
    if method == "LatestReadings":
        fields["well_ids"] = [str(WELL)]
    if method == "QueryAggregates":
        fields["resolution"] = 1
    if method == "UpdateConnectionTags":
        fields["tags"] = connection_fields()["tags"]
    if "device" in request:
        fields["device"] = {"connection_id": str(CONNECTION)}
    return {name: value for name, value in fields.items() if name in request}


async def ask(pki: ApiPki, port: int, method: str, client: Made | None = None, **fields: Any) -> Any:
    """The answer, or the status code."""

    def blocking() -> Any:
        with pki.channel(port, client or pki.client()) as channel:
            try:
                if method in STREAMING:
                    answers = grpcio_stream(channel, method, **fields)
                    first = next(answers, None)
                    answers.cancel()
                    return first
                return grpcio_call(channel, method, **fields)
            except grpc.RpcError as error:
                return error

    answer = await trio.to_thread.run_sync(blocking)
    return answer.code() if isinstance(answer, grpc.RpcError) else answer


def first_answer(channel: grpc.Channel, method: str, **fields: Any) -> Any:
    return next(grpcio_stream(channel, method, **fields))


def test_every_method_has_its_right() -> None:
    """Nobody can forget to enter a new one; it would need ADMIN."""
    methods = scada_pb2.DESCRIPTOR.services_by_name["ScadaService"].methods_by_name
    assert set(NEEDED) == set(methods)
    assert needed_for("/scada.ScadaService/Unheard") is Right.ADMIN


@pytest.mark.parametrize("right", list(Right))
async def test_each_right_has_the_ones_below_it(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend, right: Right
) -> None:
    api_pki.grant((WHO, right.name.lower(), [TENANT]))
    async with serve_api(access=api_pki.access()) as served:
        for method, needed in NEEDED.items():
            answer = await ask(api_pki, served.port, method, **request_fields(method))
            denied = answer is grpc.StatusCode.PERMISSION_DENIED
            assert denied == (needed > right), (method, answer)
    assert {denial.reason for denial in api_pki.denials} <= {"right"}
    assert len(api_pki.denials) == sum(needed > right for needed in NEEDED.values())


@pytest.mark.parametrize("method", ["BrowseNodes", "TestConnection"])
async def test_an_endpoint_that_is_not_stored_is_for_administrators(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend, method: str
) -> None:
    """Whoever may write could else send the service, and passwords, anywhere."""
    fields: dict[str, Any] = {"tenant_id": str(TENANT), "device": {"endpoint_url": "opc.tcp://192.0.2.1:4840"}}
    for right, allowed in ((Right.WRITE, False), (Right.ADMIN, True)):
        api_pki.grant((WHO, right.name.lower(), [TENANT]))
        async with serve_api(access=api_pki.access()) as served:
            answer = await ask(api_pki, served.port, method, **fields)
            assert (answer is not grpc.StatusCode.PERMISSION_DENIED) is allowed
            assert (backend.browsed is not None) is allowed


async def test_who_is_not_in_the_file_may_do_nothing(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend
) -> None:
    api_pki.grant(("URI:urn:test:somebody", "admin", "*"))
    async with serve_api(access=api_pki.access()) as served:
        for method in NEEDED:
            answer = await ask(api_pki, served.port, method, **request_fields(method))
            assert answer is grpc.StatusCode.PERMISSION_DENIED, method

        def raw(path: str, body: bytes) -> grpc.StatusCode | None:
            with api_pki.channel(served.port, api_pki.client()) as channel:
                try:
                    list(channel.stream_stream(path)(iter([body]), timeout=20))
                except grpc.RpcError as error:
                    return error.code()
            return None

        for path in (
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            assert await trio.to_thread.run_sync(raw, path, b"") is grpc.StatusCode.PERMISSION_DENIED
    assert not backend.entered.is_set()
    assert {(denial.reason, denial.actor.identity) for denial in api_pki.denials} == {("unknown_client", WHO)}
    assert {denial.actor.address for denial in api_pki.denials} == {"127.0.0.1"}


async def test_another_tenant_is_denied_whether_it_exists_or_not(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend
) -> None:
    """The same status, text and details, and the service behind is not asked."""
    api_pki.grant((WHO, "admin", [OTHER]))
    answers: set[tuple[Any, ...]] = set()
    async with serve_api(access=api_pki.access()) as served:
        for tenant in (TENANT, ABSENT):
            for method in NEEDED:
                fields = request_fields(method)
                if "tenant_id" not in fields:
                    continue
                fields["tenant_id"] = str(tenant)

                def blocking(method: str = method, fields: dict[str, Any] = fields) -> tuple[Any, ...]:
                    call = first_answer if method in STREAMING else grpcio_call
                    with (
                        api_pki.channel(served.port, api_pki.client()) as channel,
                        pytest.raises(grpc.RpcError) as raised,
                    ):
                        call(channel, method, **fields)
                    return raised.value.code(), raised.value.details(), tuple(raised.value.trailing_metadata())

                answers.add(await trio.to_thread.run_sync(blocking))
    ((code, text, _),) = answers
    assert (code, text) == (grpc.StatusCode.PERMISSION_DENIED, "this client may not do that")
    assert not backend.entered.is_set()


async def test_connections_of_other_tenants_are_not_there(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend
) -> None:
    api_pki.grant((WHO, "admin", [OTHER]), ("CN:all", "admin", "*"))
    everybody = api_pki.client("all", uri=None)
    async with serve_api(access=api_pki.access()) as served:
        port = served.port
        assert (await ask(api_pki, port, "AddConnection", everybody, **connection_fields())).success
        there, absent = [
            await ask(api_pki, port, "GetConnection", connection_id=str(id_)) for id_ in (CONNECTION, ABSENT)
        ]
        assert there is absent is grpc.StatusCode.NOT_FOUND
        removed = [await ask(api_pki, port, "RemoveConnection", connection_id=str(id_)) for id_ in (CONNECTION, ABSENT)]
        assert [answer.success for answer in removed] == [False, False]
        assert CONNECTION not in backend.removed
        assert list((await ask(api_pki, port, "ListTenants")).tenants) == []
        health = await ask(api_pki, port, "HealthCheck")
        assert (health.active_connections, health.active_tenants) == (0, 0)
        assert len((await ask(api_pki, port, "ListTenants", everybody)).tenants) == 2
        assert (await ask(api_pki, port, "HealthCheck", everybody)).active_tenants == 1
        assert (await ask(api_pki, port, "RemoveConnection", everybody, connection_id=str(CONNECTION))).success
    assert backend.actors == [Actor("CN:all", "127.0.0.1")] * 2


async def test_an_id_of_another_tenant_is_as_a_tenant_that_is_not_theirs(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend
) -> None:
    api_pki.grant((WHO, "admin", [TENANT]), ("CN:all", "admin", "*"))
    backend.fault = IdTaken("connection belongs to another tenant")
    async with serve_api(access=api_pki.access()) as served:
        answer = await ask(api_pki, served.port, "AddConnection", **connection_fields())
        assert answer is grpc.StatusCode.PERMISSION_DENIED
        answer = await ask(
            api_pki, served.port, "AddConnection", api_pki.client("all", uri=None), **connection_fields()
        )
        assert (answer.success, answer.error) == (False, "connection belongs to another tenant")


# --- the file


async def test_changed_rights_count_at_once_and_end_what_runs(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend, log_lines: LogLines
) -> None:
    api_pki.grant((WHO, "read", [TENANT]), ("CN:other", "read", "*"))
    other = api_pki.client("other", uri=None)
    async with serve_api(access=api_pki.access()) as served:
        with api_pki.channel(served.port, api_pki.client()) as channel, api_pki.channel(served.port, other) as second:
            live = grpcio_stream(channel, "SubscribeReadings", tenant_id=str(TENANT))
            kept = grpcio_stream(second, "SubscribeReadings", tenant_id=str(TENANT))
            await trio.to_thread.run_sync(next, live)
            await trio.to_thread.run_sync(next, kept)
            api_pki.rights.write_text("[[client]]\nidentity = ")
            await eventually(lambda: any("the old rights stay" in line["message"] for line in log_lines()))
            assert live.is_active()
            api_pki.grant((WHO, "read", [OTHER]), ("CN:other", "read", "*"))
            with pytest.raises(grpc.RpcError) as raised:
                await trio.to_thread.run_sync(next, live)
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert kept.is_active()
            kept.cancel()
        answer = await ask(api_pki, served.port, "GetAggregatorStats", tenant_id=str(TENANT))
        assert answer is grpc.StatusCode.PERMISSION_DENIED
    assert [denial.reason for denial in api_pki.denials] == ["revoked", "tenant"]


GOOD = '[[client]]\nidentity = "DNS:a"\nright = "read"\ntenants = "*"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "is not TOML"),
        ("[client]\n", r"\[\[client\]\] is expected"),
        ("client = [1]\n", r"\[\[client\]\] is expected"),
        (GOOD + "[other]\n", "'other', which means nothing here"),
        (GOOD.replace('right = "read"\n', ""), "client 1: right is missing"),
        (GOOD.replace('"read"', '"reed"'), "client 1: right is one of read, write, admin"),
        (GOOD.replace('"read"', "3"), "client 1: right is one of read, write, admin"),
        (GOOD.replace("DNS:a", "a"), "client 1: identity begins with URI:, DNS: or CN:"),
        (GOOD.replace("DNS:a", "CN:"), "client 1: identity begins with URI:, DNS: or CN:"),
        (GOOD.replace('"*"', '"**"'), 'client 1: tenants is "\\*" or a list of ids'),
        (GOOD.replace('"*"', '["a"]'), 'client 1: tenants is "\\*" or a list of ids'),
        (GOOD.replace('"*"', "[1]"), 'client 1: tenants is "\\*" or a list of ids'),
        (GOOD + "admin = true\n", "client 1: 'admin' means nothing here"),
        (GOOD + GOOD, "client 2: DNS:a is named twice"),
    ],
)
def test_a_file_that_cannot_be_meant_says_where(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rights.toml"
    path.write_text(text)
    with pytest.raises(RightsUnusable, match=reason):
        read_rights(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rights.toml"
    path.write_text(GOOD + GOOD.replace("DNS:a", "CN:b").replace('"*"', f'["{TENANT}"]').replace("read", "Admin"))
    assert read_rights(path) == {"DNS:a": Grant(Right.READ), "CN:b": Grant(Right.ADMIN, frozenset({TENANT}))}
    path.write_text("")
    assert read_rights(path) == {}
    path.write_bytes(b"\xff")
    with pytest.raises(RightsUnusable, match="is not UTF-8 text"):
        read_rights(path)


def test_a_certificate_names_its_holder() -> None:
    """URIs and DNS names, and the common name only where there are none: it is the least trustworthy of them."""
    assert identities_of(make("cn", uri="urn:a", hosts=("b.example", "10.0.0.1")).der) == ["URI:urn:a", "DNS:b.example"]
    assert identities_of(make("cn", uri=None, hosts=()).der) == ["CN:cn"]
    assert identities_of(make("URI:urn:a", uri=None, hosts=()).der) == ["CN:URI:urn:a"]
    assert identities_of(None) == ()


# --- limits


async def test_a_client_has_so_many_calls_at_a_time(serve_api: ServeApi, api_pki: ApiPki) -> None:
    """Over however many connections; another client is not held up."""
    api_pki.grant((WHO, "read", "*"), ("CN:other", "read", "*"))
    async with serve_api(access=api_pki.access(max_calls_per_client=2)) as served:
        channels = [
            api_pki.channel(served.port, api_pki.client(), **{"grpc.use_local_subchannel_pool": 1}) for _ in "ab"
        ]
        live = [grpcio_stream(channel, "SubscribeReadings", tenant_id=str(TENANT)) for channel in channels]
        for call in live:
            await trio.to_thread.run_sync(next, call)
        assert await ask(api_pki, served.port, "HealthCheck") is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = await ask(api_pki, served.port, "HealthCheck", api_pki.client("other", uri=None))
        assert other.status == "healthy"
        live[0].cancel()
        await eventually_answers(api_pki, served.port)
        for channel in channels:
            channel.close()
    assert {denial.reason for denial in api_pki.denials} == {"too_many_calls"}


async def test_one_connection_too_many_is_turned_away(serve_api: ServeApi, api_pki: ApiPki) -> None:
    api_pki.grant((WHO, "read", "*"))
    async with serve_api(access=api_pki.access(max_connections=1)) as served:
        with api_pki.channel(served.port, api_pki.client()) as channel:
            await trio.to_thread.run_sync(lambda: grpcio_call(channel, "HealthCheck"))
            await trio.to_thread.run_sync(knock, api_pki, served.port)
            assert {denial.reason for denial in api_pki.denials} == {"too_many_connections"}
            await trio.to_thread.run_sync(lambda: grpcio_call(channel, "HealthCheck"))
        await eventually_answers(api_pki, served.port)


def knock(pki: ApiPki, port: int) -> None:
    with pki.channel(port, pki.client()) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/scada.ScadaService/HealthCheck")(b"", timeout=10)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def eventually_answers(pki: ApiPki, port: int) -> None:
    with trio.fail_after(30):
        while not isinstance(await ask(pki, port, "HealthCheck"), scada_pb2.HealthCheckResponse):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_connection_has_so_many_streams(serve_api: ServeApi) -> None:
    """As the server says (RFC 9113, 6.5.2), and keeps to: one more ends the connection."""

    def told(port: int) -> tuple[list[int], bool]:
        client = H2Connection()
        client.initiate_connection()
        request = [(":method", "POST"), (":path", "/x"), (":scheme", "http"), (":authority", "a")]
        with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
            link.sendall(client.data_to_send())
            limits: list[int] = []
            while 3 not in limits:
                for event in client.receive_data(link.recv(65536)):
                    if isinstance(event, RemoteSettingsChanged):
                        limits += [
                            changed.new_value
                            for setting, changed in event.changed_settings.items()
                            if setting == SettingCodes.MAX_CONCURRENT_STREAMS
                        ]
            client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000  # one who does not listen
            client.remote_settings.acknowledge()
            for _ in range(4):
                client.send_headers(
                    client.get_next_available_stream_id(),
                    [*request, ("content-type", "application/grpc"), ("te", "trailers")],
                )
            link.sendall(client.data_to_send())
            try:
                while link.recv(65536):
                    pass
            except TimeoutError:
                return limits, False
            except ConnectionError:
                pass
            return limits, True

    access = Access(GrpcAccessSettings(max_streams=3))
    async with serve_api(access=access) as served:
        limits, closed = await trio.to_thread.run_sync(told, served.port)
    assert limits[-1] == 3
    assert closed
