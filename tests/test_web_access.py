"""Who may look at metrics over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from scada_trio.config import Settings, WebAccessSettings
from scada_trio.errors import ConfigError
from scada_trio.metrics import Metrics
from scada_trio.web.access import WebAccess
from scada_trio.web.app import create_app
from scada_trio.web.server import serve_http
from scada_trio.web.status import StatusBoard
from tests.fix_api import LogLines, eventually
from tests.fix_tls import ApiPki, key_pem, pem
from tests.test_api_tls import presented, until_presented

REASONS = {"tenant 7f3a": "waiting for its database"}


async def readiness() -> tuple[bool, Mapping[str, str]]:
    return False, REASONS


async def get(
    access: WebAccess, path: str = "/metrics", *, client: str = "127.0.0.1", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """What a client of that address gets."""
    app = create_app(Metrics(), readiness, StatusBoard(list), access)
    transport = httpx.ASGITransport(app, client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
        return await asking.get(path, headers=headers)


def allowing(*networks: str) -> WebAccess:
    return WebAccess(Settings.load(metrics_allow=",".join(networks)).web_access)


@pytest.mark.parametrize(
    ("access", "client", "status"),
    [
        (WebAccess(), "127.0.0.1", 200),
        (WebAccess(), "::1", 200),
        (WebAccess(), "::ffff:127.0.0.1", 200),
        (WebAccess(), "10.1.2.3", 403),
        (WebAccess(), "no address", 403),
        (allowing("10.0.0.0/8", "2001:db8::/32"), "10.1.2.3", 200),
        (allowing("10.0.0.0/8", "2001:db8::/32"), "::ffff:10.1.2.3", 200),
        (allowing("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", 200),
        (allowing("10.0.0.0/8", "2001:db8::/32"), "fe80::1%eth0", 403),
        (allowing("10.0.0.0/8", "2001:db8::/32"), "11.0.0.1", 403),
        (allowing("192.0.2.7"), "192.0.2.7", 200),
        (allowing("192.0.2.7"), "127.0.0.1", 403),
    ],
)
async def test_metrics_are_shown_to_these_networks(access: WebAccess, client: str, status: int) -> None:
    """Probes get their answer from anywhere; what names tenants goes where metrics go."""
    answer = await get(access, client=client)
    assert answer.status_code == status
    assert ("scada_build_info" in answer.text) == (status == 200)
    assert (await get(access, "/healthz", client=client)).text == "ok"
    ready = await get(access, "/readyz", client=client)
    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "reasons": REASONS if status == 200 else {}}


async def test_a_header_that_names_another_address_is_not_believed() -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}
    assert (await get(WebAccess(), client="10.0.0.1", headers=headers)).status_code == 403


async def test_metrics_ask_for_name_and_password() -> None:
    access = WebAccess(WebAccessSettings(user="prométhée", password=SecretStr("Pl4nted:Metrics")))
    good = httpx.BasicAuth("prométhée".encode(), b"Pl4nted:Metrics")._auth_header  # RFC 7617: UTF-8, as we say
    assert (await get(access, headers={"Authorization": good})).status_code == 200
    bad = httpx.BasicAuth("prometheus", "Pl4nted:Metrics")._auth_header
    for header in ("", bad, "Basic", "Basic %%%", "Bearer abc", good[:-4], good.replace("Basic ", "Basic x")):
        answer = await get(access, headers={"Authorization": header} if header else {})
        assert (answer.status_code, answer.text) == (401, "Unauthorized")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert "Pl4nted" not in str(answer.headers)
    assert (await get(access, "/healthz")).status_code == 200
    assert (await get(access, "/readyz")).json()["reasons"] == {}


@pytest.mark.parametrize("path", ["/", "/status.js", "/status", "/status/events"])
async def test_the_status_page_goes_where_metrics_go(path: str) -> None:
    """It names tenants and devices."""
    access = WebAccess(WebAccessSettings(user="a", password=SecretStr("b")))
    assert (await get(access, path, client="10.0.0.1")).status_code == 403
    assert (await get(access, path)).status_code == 401
    if path != "/status/events":  # which does not end
        headers = {"Authorization": httpx.BasicAuth("a", "b")._auth_header}
        assert (await get(access, path, headers=headers)).status_code == 200


async def test_metrics_over_tls(api_pki: ApiPki, nursery: trio.Nursery, tmp_path: Path) -> None:
    access = WebAccess(WebAccessSettings(tls_cert=api_pki.cert, tls_key=api_pki.key))
    app = create_app(Metrics(), readiness, StatusBoard(list), access)
    host, port = await nursery.start(partial(serve_http, app, host="127.0.0.1", port=0, access=access))
    authority = tmp_path / "authority.pem"
    authority.write_bytes(api_pki.server_ca.certificate.public_bytes(Encoding.PEM))
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(authority))) as client:
        assert (await client.get(f"https://{host}:{port}/metrics")).status_code == 200
        with pytest.raises(httpx.HTTPError):
            await client.get(f"http://{host}:{port}/metrics")
        assert (await client.get(f"https://{host}:{port}/healthz")).text == "ok"


async def test_a_new_certificate_is_presented_and_clients_stay(
    api_pki: ApiPki, nursery: trio.Nursery, log_lines: LogLines
) -> None:
    """A pair that cannot be used leaves the old one, is logged once, and is tried again when it has changed."""
    access = WebAccess(WebAccessSettings(tls_cert=api_pki.cert, tls_key=api_pki.key))
    app = create_app(Metrics(), readiness, StatusBoard(list), access)
    host, port = await nursery.start(partial(serve_http, app, host="127.0.0.1", port=0, access=access))
    second, third = api_pki.server("second"), api_pki.server("third")
    authority = ssl.create_default_context(cadata=pem(api_pki.server_ca).decode())
    async with httpx.AsyncClient(verify=authority, base_url=f"https://{host}:{port}") as client:
        assert (await client.get("/healthz")).text == "ok"
        api_pki.install(second)
        await until_presented(port, second)
        api_pki.cert.write_bytes(pem(third))  # as while two files are copied one after the other
        await eventually(lambda: any("cannot be used" in line["message"] for line in log_lines()))
        certificate, protocol, _ = await trio.to_thread.run_sync(presented, port)
        assert (certificate, protocol) == (second.der, "h2")
        api_pki.install(third)
        await until_presented(port, third)
        [(store, name, ends_at)] = access.tls.expiries()
        assert (store, name) == ("metrics", third.thumbprint)
        assert ends_at == third.certificate.not_valid_after_utc.timestamp()
        assert (await client.get("/healthz")).text == "ok"  # over the connection from before
    assert [line["server"] for line in log_lines() if line["level"] == "ERROR"] == ["METRICS"]
    assert "PRIVATE KEY" not in str(log_lines())


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"metrics_user": "a"}, "METRICS_PASSWORD"),
        ({"metrics_password": "a"}, "METRICS_USER"),
        ({"metrics_tls_cert": "a"}, "METRICS_TLS_KEY"),
        ({"metrics_tls_key": "a"}, "METRICS_TLS_CERT"),
        ({"metrics_allow": "10.0.0.0/33"}, "METRICS_ALLOW"),
        ({"metrics_allow": "everybody"}, "METRICS_ALLOW"),
        ({"metrics_user": "a:b", "metrics_password": "c"}, "METRICS_USER"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], variable: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.load(**settings)
    assert raised.value.variable == variable


def test_files_that_cannot_be_used_stop_the_start(api_pki: ApiPki, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(key_pem(api_pki.client_ca))
    for certificate, key, variable in (
        (tmp_path / "absent", api_pki.key, "METRICS_TLS_CERT"),
        (api_pki.cert, tmp_path / "absent", "METRICS_TLS_KEY"),
        (api_pki.cert, other, "METRICS_TLS_KEY"),
    ):
        with pytest.raises(ConfigError) as raised:
            WebAccess(WebAccessSettings(tls_cert=certificate, tls_key=key)).tls.load()
        assert raised.value.variable == variable
