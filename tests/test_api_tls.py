"""TLS of the gRPC server: who gets in, and how certificates are replaced under a running server."""

from __future__ import annotations

import socket
import ssl
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from scada_trio.api.access import Access
from scada_trio.config import GrpcAccessSettings, Settings
from scada_trio.errors import ConfigError
from tests.fake_backend import TENANT, FakeBackend
from tests.fix_api import LogLines, ServeApi, eventually, grpcio_call, grpcio_stream
from tests.fix_pki import NOW, Made, make
from tests.fix_tls import ApiPki, key_pem, pem


async def stats(pki: ApiPki, port: int, client: Made | None = None) -> Any:
    """One call over a connection of its own."""

    def blocking() -> Any:
        with pki.channel(port, client) as channel:
            return grpcio_call(channel, "GetAggregatorStats", tenant_id=str(TENANT), timeout_s=20)

    return await trio.to_thread.run_sync(blocking)


async def refused(pki: ApiPki, port: int, client: Made | None) -> grpc.StatusCode:
    def blocking() -> grpc.StatusCode:
        with pki.channel(port, client) as channel:
            call = channel.unary_unary("/scada.ScadaService/GetAggregatorStats")
            try:
                call(b"", timeout=20)
            except grpc.RpcError as error:
                return error.code()
        raise AssertionError("it was answered")

    return await trio.to_thread.run_sync(blocking)


def presented(port: int, **options: Any) -> tuple[bytes, str | None, str | None]:
    """The server's certificate, its ALPN protocol and the TLS version; blocks."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(options.get("alpn", ["h2"]))
    if "version" in options:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, options["version"]
        context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate, tls.selected_alpn_protocol(), tls.version()


async def test_a_call_over_tls_is_answered(serve_api: ServeApi, api_pki: ApiPki) -> None:
    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        assert (await stats(api_pki, served.port)).buffer_size == 42
        _, protocol, version = await trio.to_thread.run_sync(presented, served.port)
        assert (protocol, version) == ("h2", "TLSv1.3")


async def test_a_client_that_does_not_speak_tls_gets_nothing(serve_api: ServeApi, api_pki: ApiPki) -> None:
    def plain(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
            link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            return link.recv(100)

    async with serve_api(access=api_pki.access(rights=False)) as served:
        answer = await trio.to_thread.run_sync(plain, served.port)
        assert answer[:1] in (b"", b"\x15")  # nothing, or a TLS alert
        await eventually(lambda: [denial.reason for denial in api_pki.denials] == ["handshake"])


async def test_old_versions_of_tls_are_refused(serve_api: ServeApi, api_pki: ApiPki) -> None:
    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        with pytest.raises(ssl.SSLError):
            await trio.to_thread.run_sync(lambda: presented(served.port, version=ssl.TLSVersion.TLSv1_1))
        _, _, version = await trio.to_thread.run_sync(lambda: presented(served.port, version=ssl.TLSVersion.TLSv1_2))
        assert version == "TLSv1.2"


async def test_a_client_without_http_2_is_turned_away(serve_api: ServeApi, api_pki: ApiPki) -> None:
    def ask(port: int) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            try:
                while tls.recv(1000):
                    pass
            except (ssl.SSLError, ConnectionError):
                pass
            return b""

    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        assert await trio.to_thread.run_sync(ask, served.port) == b""
        assert [denial.reason for denial in api_pki.denials] == ["no_h2"]


async def test_a_client_needs_a_certificate_of_the_authority(
    serve_api: ServeApi, api_pki: ApiPki, log_lines: LogLines
) -> None:
    stranger = make("stranger", issuer=make("other authority", ca=True), hosts=())
    ended = api_pki.client("ended", start=NOW - timedelta(days=9), end=NOW - timedelta(days=1))
    async with serve_api(access=api_pki.access(rights=False)) as served:
        assert (await stats(api_pki, served.port, api_pki.client())).buffer_size == 42
        for client in (None, stranger, ended):
            assert await refused(api_pki, served.port, client) is grpc.StatusCode.UNAVAILABLE
    assert {denial.reason for denial in api_pki.denials} == {"handshake"}
    reasons = {line["reason"] for line in log_lines() if "handshake" in line["message"]}
    assert "peer did not return a certificate" in reasons
    assert "certificate verify failed" in reasons


async def test_a_new_certificate_is_presented_and_calls_go_on(
    serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend
) -> None:
    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        with api_pki.channel(served.port) as channel:
            live = grpcio_stream(channel, "SubscribeReadings", tenant_id=str(TENANT))
            await trio.to_thread.run_sync(next, live)  # it runs
            second = api_pki.server("second")
            api_pki.install(second)
            await until_presented(served.port, second)
            assert live.is_active()
            call = trio.to_thread.run_sync(
                lambda: grpcio_call(channel, "GetAggregatorStats", tenant_id=str(TENANT)), abandon_on_cancel=True
            )
            assert (await call).buffer_size == 42  # over the connection from before
            live.cancel()
        assert (await stats(api_pki, served.port)).buffer_size == 42


async def until_presented(port: int, made: Made) -> None:
    with trio.fail_after(30):
        while (await trio.to_thread.run_sync(presented, port))[0] != made.der:  # noqa: ASYNC110
            await trio.sleep(0.05)


@pytest.mark.parametrize("broken", ["other key", "half", "gone", "ended"])
async def test_a_pair_that_cannot_be_used_leaves_the_old_one(
    serve_api: ServeApi, api_pki: ApiPki, log_lines: LogLines, broken: str
) -> None:
    first = api_pki.cert.read_bytes()
    second = api_pki.server("second")
    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        if broken == "other key":  # as while two files are copied one after the other
            api_pki.cert.write_bytes(pem(second))
        elif broken == "half":
            api_pki.cert.write_bytes(pem(second)[:300])
        elif broken == "gone":
            api_pki.key.unlink()
        else:
            api_pki.install(api_pki.server("old", start=NOW - timedelta(days=9), end=NOW - timedelta(days=1)))
        await eventually(lambda: any("cannot be used" in line["message"] for line in log_lines()))
        certificate, _, _ = await trio.to_thread.run_sync(presented, served.port)
        assert ssl.DER_cert_to_PEM_cert(certificate).strip() == first.decode().strip()
        assert (await stats(api_pki, served.port)).buffer_size == 42
        api_pki.install(second)
        await until_presented(served.port, second)
    assert [line["level"] for line in log_lines() if "cannot be used" in line["message"]] == ["ERROR"]
    assert "PRIVATE KEY" not in str(log_lines())


async def test_a_renewed_authority_lets_its_clients_in(serve_api: ServeApi, api_pki: ApiPki) -> None:
    new_ca = make("new authority", ca=True)
    client = api_pki.client("new", issuer=new_ca)
    async with serve_api(access=api_pki.access(rights=False)) as served:
        assert await refused(api_pki, served.port, client) is grpc.StatusCode.UNAVAILABLE
        api_pki.ca.write_bytes(pem(new_ca))
        with trio.fail_after(30):
            while True:
                try:
                    await stats(api_pki, served.port, client)
                    break
                except grpc.RpcError:
                    await trio.sleep(0.1)
        assert await refused(api_pki, served.port, api_pki.client()) is grpc.StatusCode.UNAVAILABLE


async def test_the_drain_is_orderly_over_tls(serve_api: ServeApi, api_pki: ApiPki, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    answers: list[Any] = []
    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await stats(api_pki, served.port))

        nursery.start_soon(ask)
        await backend.entered.wait()
        served.stop.set()
        await trio.sleep(0.1)
        backend.hold.set()
        await served.done.wait()
    assert [answer.buffer_size for answer in answers] == [42]


# --- the settings


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"grpc_tls_cert": "a"}, "GRPC_TLS_KEY"),
        ({"grpc_tls_key": "a"}, "GRPC_TLS_CERT"),
        ({"grpc_tls_client_ca": "a"}, "GRPC_TLS_CLIENT_CA"),
        ({"grpc_tls_cert": "a", "grpc_tls_key": "b", "grpc_rights_file": "c"}, "GRPC_RIGHTS_FILE"),
    ],
)
def test_settings_that_need_another_say_so(settings: dict[str, str], variable: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.load(**settings)
    assert raised.value.variable == variable


def test_files_that_cannot_be_used_stop_the_start(api_pki: ApiPki, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(key_pem(make("other")))
    encrypted = tmp_path / "no.pem"
    encrypted.write_text("nothing")
    good: dict[str, Any] = {"tls_cert": api_pki.cert, "tls_key": api_pki.key, "tls_client_ca": api_pki.ca}
    for field, path, variable in (
        ("tls_cert", tmp_path / "absent", "GRPC_TLS_CERT"),
        ("tls_cert", encrypted, "GRPC_TLS_CERT"),
        ("tls_key", other, "GRPC_TLS_KEY"),
        ("tls_key", tmp_path / "absent", "GRPC_TLS_KEY"),
        ("tls_client_ca", encrypted, "GRPC_TLS_CLIENT_CA"),
        ("tls_client_ca", tmp_path / "absent", "GRPC_TLS_CLIENT_CA"),
        ("rights_file", tmp_path / "absent", "GRPC_RIGHTS_FILE"),
    ):
        with pytest.raises(ConfigError) as raised:
            Access(GrpcAccessSettings(**{**good, field: path})).load()
        assert raised.value.variable == variable
        assert "\n" not in str(raised.value)


async def test_without_tls_other_machines_are_not_served(serve_api: ServeApi, backend: FakeBackend) -> None:
    from scada_trio.api.server import serve_grpc

    async def start(access: Access, nursery: trio.Nursery) -> None:
        async def run(*, task_status: trio.TaskStatus[Any]) -> None:
            await serve_grpc(
                *(backend,),
                host="0.0.0.0",
                port=0,
                max_message_bytes=1024,
                drain_s=1,
                stop=trio.Event(),
                token_key=bytes(32),
                access=access,
                task_status=task_status,
            )

        await nursery.start(run)

    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as raised:
            async with trio.open_nursery() as inner:
                await start(Access(), inner)
        assert raised.group_contains(ConfigError, match="GRPC_HOST: 0.0.0.0 can be reached from other machines")
        await start(Access(GrpcAccessSettings(insecure=True)), nursery)
        nursery.cancel_scope.cancel()
