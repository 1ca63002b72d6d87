"""Message security with real servers of three makers: every policy of each, users, recovery, and who is refused."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from opcua import ua
from pydantic import SecretStr
from structlog.testing import capture_logs

from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import CertificateRefused
from scada_trio.opcua.certificates import CURED_BY_TRUST, thumbprint
from scada_trio.opcua.policies import SUITES
from scada_trio.opcua.session import open_session
from scada_trio.status import ConnectionState
from tests.fix_devices import FAST, MAKERS, ROOT, Device, Memory, free_port, open_device, open_rig, tag
from tests.fix_pki import DAY, NOW, SERVER_URI, Made, TestPki, make, make_list, usage
from tests.fix_postgres import PostgresServer
from tests.fix_proxy import open_proxy
from tests.fix_service import open_service

STEADY = replace(FAST, publishing_interval_s=0.1, keep_alive_s=1.0)
PATIENT = replace(FAST, reconnect_delay_s=0.05, max_backoff_s=600.0, slow_retry_s=600.0)
A = tag("ns=1;s=a")
BEST: dict[str, Any] = {"security_mode": SecurityMode.SIGN_AND_ENCRYPT, "security_policy": "Basic256Sha256"}
POLICIES = [suite.name for suite in SUITES]
NOT_OFFERED = {
    ("open62541", "Basic256"),
    ("open62541", "Basic128Rsa15"),
    ("node-opcua", "Basic128Rsa15"),  # Node.js decrypts no RSA 1.5 any more
}


def device_with(maker: str, made: Made, folder: Path, **options: Any) -> AbstractAsyncContextManager[Device]:
    """A device that presents ``made`` and offers every mode and policy that it knows."""
    given = {"nodes": ["a"], "uri": SERVER_URI, "pki": str(folder / "server-pki"), **made.files(folder), **options}
    return open_device(maker, **given)


OFFERED = [(maker, policy) for maker in MAKERS for policy in POLICIES]
OFFERED = [pair for pair in OFFERED if pair not in NOT_OFFERED]


@pytest.mark.parametrize("mode", [SecurityMode.SIGN, SecurityMode.SIGN_AND_ENCRYPT])
@pytest.mark.parametrize(("maker", "policy"), OFFERED)
async def test_every_policy(maker: str, policy: str, mode: SecurityMode, pki: TestPki, tmp_path: Path) -> None:
    """Readings come through channels of every mode and policy that a maker's server offers."""
    made = make()
    pki.trust_it(made)
    async with (
        device_with(maker, made, tmp_path) as device,
        open_rig(device.url, (A,), pki=pki, security_mode=mode, security_policy=policy) as rig,
    ):
        await device.write("a", 7.0)
        await rig.until_value(A.node_id, 7.0)


# ---- recovery, as without security


@pytest.mark.parametrize("mode", [SecurityMode.SIGN_AND_ENCRYPT])
async def test_recovery_after_a_cut(maker: str, mode: SecurityMode, pki: TestPki, tmp_path: Path) -> None:
    """A cut link's session is activated again under a new channel, and what came meanwhile comes too."""
    made, memory = make(), Memory()
    pki.trust_it(made)
    async with (
        device_with(maker, made, tmp_path) as device,
        open_proxy(device.options["port"]) as proxy,
        open_rig(proxy.url, (A,), pki=pki, settings=STEADY, memory=memory, **BEST) as rig,
    ):
        for round_ in (1.0, 2.0, 3.0):  # the second activation needs the nonce of the first one's answer
            await rig.state(ConnectionState.CONNECTED)
            await device.write("a", round_)
            await rig.until_value(A.node_id, round_)
            proxy.cut()
            await device.write("a", round_ + 0.5)
            proxy.mend()
            await rig.until_value(A.node_id, round_ + 0.5)
        assert memory.losses == []
        assert rig.errors("session_lost") == 0


async def test_transfer_to_a_new_session(pki: TestPki, tmp_path: Path) -> None:
    """A connection of the next process takes the subscription over, under security too."""
    made, memory = make(), Memory()
    pki.trust_it(made)
    async with device_with("open62541", made, tmp_path) as device:
        async with open_rig(device.url, (A,), pki=pki, settings=STEADY, memory=memory, **BEST) as rig:
            await device.write("a", 1.0)
            await rig.until_value(A.node_id, 1.0)
        await device.write("a", 2.0)
        async with open_rig(device.url, (A,), pki=pki, settings=STEADY, memory=memory, **BEST) as rig:
            await rig.until_value(A.node_id, 2.0)
            assert rig.errors("transfer_refused") == 0
        assert memory.losses == []


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"])
async def test_renewal_of_the_channel(maker: str, policy: str, pki: TestPki, tmp_path: Path) -> None:
    """A channel that lives two seconds is renewed under load: new keys, no value lost, no new link."""
    made = make()
    pki.trust_it(made)
    fields: dict[str, Any] = {"security_mode": SecurityMode.SIGN_AND_ENCRYPT, "security_policy": policy}
    spec = ConnectionSpec(uuid4(), uuid4(), "test", "", **fields)
    async with device_with(maker, made, tmp_path) as device:
        opening = open_session(
            replace(spec, endpoint_url=device.url),
            settings=FAST,
            pki=pki,
            limiter=trio.CapacityLimiter(2),
            resolving=trio.CapacityLimiter(1),
        )
        async with opening as session:
            await session.log_in()
            tokens = set()
            for _ in range(3):
                await session._renew()
                for _ in range(3):
                    nodes = [ua.NodeId(2259)]
                    read = partial(session.client.uaclient.get_attributes, nodes, ua.AttributeIds.Value)
                    (state,) = await session.call("Read", read)
                    assert state.Value.Value == 0
                tokens.add(session.link._connection.security_token.TokenId)
            assert len(tokens) == 3
            pki.store.distrust(made.thumbprint)
            with pytest.raises(CertificateRefused):
                await session._renew()


# ---- certificates that are not accepted

OTHER = make("other device", key="other")
ISSUER = make("Test CA", ca=True)
REFUSED: list[tuple[str, Made, str]] = [
    ("untrusted", make("stranger"), "certificate_untrusted"),
    ("expired", make(end=NOW - DAY / 2), "certificate_expired"),
    ("not yet valid", make(start=NOW + DAY), "certificate_not_yet_valid"),
    ("wrong URI", make(uri="urn:somebody:else"), "certificate_uri_invalid"),
    ("wrong key usage", make(key_usage=usage("key_agreement")), "certificate_use_not_allowed"),
    ("a client's", make(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]), "certificate_use_not_allowed"),
    ("revoked", make(issuer=ISSUER), "certificate_revoked"),
    ("unknown issuer", make(issuer=make("Unknown CA", ca=True)), "certificate_chain_incomplete"),
    ("other host", make(issuer=ISSUER, hosts=["192.0.2.1"]), "certificate_host_name_invalid"),
    ("weak", make(bits=1024, key="weak"), "certificate_policy_check_failed"),
]


@pytest.mark.parametrize(("made", "error_type"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_certificate_that_is_refused(made: Made, error_type: str, pki: TestPki, tmp_path: Path) -> None:
    """Each has its own reason in status, log and metric, and nothing but GetEndpoints is said to its server."""
    if error_type in ("certificate_revoked", "certificate_host_name_invalid"):
        pki.trust_it(ISSUER)
        pki.list_it(make_list(ISSUER, *([made] if error_type == "certificate_revoked" else [])))
    elif error_type not in ("certificate_untrusted", "certificate_chain_incomplete"):
        pki.trust_it(made)
    with capture_logs() as logs:
        async with (
            device_with("asyncua", made, tmp_path) as device,
            open_rig(device.url, (A,), pki=pki, **BEST) as rig,
        ):
            await rig.state(ConnectionState.REFUSED)
            status = rig.connection.status
            assert status.last_error_type == error_type
            assert made.thumbprint in (status.last_error or "")
            assert rig.errors(error_type) >= 1
    assert error_type in {entry.get("error_type") for entry in logs}
    cured = error_type in CURED_BY_TRUST
    assert (f"scada-trio trust {made.thumbprint}" in (status.last_error or "")) == cured
    assert pki.rejected == ({made.thumbprint} if cured else set())


async def test_trust_is_noticed_both_ways(pki: TestPki, tmp_path: Path) -> None:
    """Trusting connects at once, distrusting ends the link, a changed certificate waits to be trusted again."""
    made = make()
    async with (
        device_with("open62541", made, tmp_path) as device,
        open_rig(device.url, (A,), pki=pki, settings=PATIENT, **BEST) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        pki.store.trust(made.thumbprint[:8])
        await rig.state(ConnectionState.CONNECTED)
        pki.store.distrust(made.thumbprint)
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == "certificate_untrusted"
        pki.store.trust(made.thumbprint)
        await rig.state(ConnectionState.CONNECTED)
        await device.kill()
        device.options |= OTHER.files(tmp_path, "other")
        await device.start()
        await rig.state(ConnectionState.REFUSED)
        assert OTHER.thumbprint in (rig.connection.status.last_error or "")
        pki.store.trust(OTHER.thumbprint)
        await rig.state(ConnectionState.CONNECTED)


async def test_an_issued_certificate(maker: str, pki: TestPki, tmp_path: Path) -> None:
    """A device whose authority is trusted needs no word of its own."""
    pki.trust_it(ISSUER)
    pki.list_it(make_list(ISSUER))
    made = make(issuer=ISSUER)
    async with device_with(maker, made, tmp_path) as device, open_rig(device.url, (A,), pki=pki, **BEST) as rig:
        await rig.state(ConnectionState.CONNECTED)
    assert pki.rejected == set()


# ---- policies that are not to be had


async def test_no_downgrade(pki: TestPki) -> None:
    """A server without security does not get a connection that asks for it; the message lists what it offers."""
    async with open_device("asyncua", nodes=["a"]) as device, open_rig(device.url, (A,), pki=pki, **BEST) as rig:
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == "security_not_offered"
        assert "it offers None None" in (rig.connection.status.last_error or "")


@pytest.mark.parametrize(
    ("policy", "error_type"),
    [("Basic256", "security_policy_deprecated"), ("ECC_nistP256", "security_policy_unsupported")],
)
async def test_policies_that_are_not_spoken(policy: str, error_type: str, pki: TestPki) -> None:
    """What is deprecated or unknown is refused before anything is sent, with a list of what is supported."""
    url = f"opc.tcp://127.0.0.1:{free_port()}"
    strict = pki.changed(allow_deprecated_policies=False)
    fields: dict[str, Any] = {"security_mode": SecurityMode.SIGN, "security_policy": policy}
    async with open_rig(url, (A,), pki=strict, **fields) as rig:
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == error_type
        for name in ("Aes256_Sha256_RsaPss", "Aes128_Sha256_RsaOaep", "Basic256Sha256"):
            assert name in (rig.connection.status.last_error or "")


async def test_a_server_that_does_not_trust_us(pki: TestPki, tmp_path: Path) -> None:
    """Its refusal says which certificate of ours it is to be told to trust."""
    made = make()
    pki.trust_it(made)
    trusted = [OTHER.files(tmp_path, "other")["certificate"]]
    async with (
        device_with("open62541", made, tmp_path, trusted=trusted) as device,
        open_rig(device.url, (A,), pki=pki, **BEST) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == "own_certificate_refused"
        assert thumbprint(pki.own.current().certificate) in (rig.connection.status.last_error or "")


# ---- users

PASSWORD = SecretStr("pump-house-7")


@pytest.mark.parametrize("mode", [SecurityMode.SIGN, SecurityMode.SIGN_AND_ENCRYPT])
async def test_users_under_security(maker: str, mode: SecurityMode, pki: TestPki, tmp_path: Path) -> None:
    """User and password log in over a protected channel; a wrong password does not."""
    made = make()
    pki.trust_it(made)
    options = {"users": {"operator": PASSWORD.get_secret_value()}}
    fields: dict[str, Any] = {"security_mode": mode, "security_policy": "Aes256_Sha256_RsaPss", "username": "operator"}
    async with (
        device_with(maker, made, tmp_path, **options) as device,
        open_rig(device.url, (A,), pki=pki, password=PASSWORD, **fields) as rig,
    ):
        await rig.state(ConnectionState.CONNECTED)
        rig.update(password=SecretStr("wrong-secret"))
        await rig.state(ConnectionState.REFUSED)


@pytest.mark.parametrize("fields", [BEST, {}], ids=["SignAndEncrypt", "None"])
async def test_user_certificate(fields: dict[str, Any], pki: TestPki, tmp_path: Path) -> None:
    """A connection with a file of its own logs in as its certificate's owner; another one is refused."""
    made, user, memory = make(), make("user", uri=None, hosts=[]), Memory()
    pki.trust_it(made)
    files = user.files(tmp_path, "user")
    pem = Path(files["key"]).read_bytes() + user.certificate.public_bytes(Encoding.PEM)
    path = pki.directory / "users" / f"{memory.connection_id}.pem"
    path.write_bytes(pem)
    async with (
        device_with("asyncua", made, tmp_path, user_certificates=[files["certificate"]]) as device,
        open_rig(device.url, (A,), pki=pki, memory=memory, **fields) as rig,
    ):
        await rig.state(ConnectionState.CONNECTED)
        path.unlink()
        rig.update(allow_plaintext_password=True)  # another link
        await rig.state(ConnectionState.REFUSED)
        assert "no anonymous user" in (rig.connection.status.last_error or "")


# ---- the whole service


async def test_the_service_with_a_secured_device(postgres: PostgresServer, tmp_path: Path) -> None:
    """Refused, trusted with the command that the status names, connected, written; no restart."""
    made = make()
    tenant_url = await trio.to_thread.run_sync(postgres.create_tenant)
    async with device_with("open62541", made, tmp_path) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        fields = {"security_mode": "SignAndEncrypt", "security_policy": "Aes256_Sha256_RsaPss"}
        connection = await running.add_connection(tenant, device.url, [A], **fields)
        await running.until(lambda: running.status(tenant, connection).state == "refused")
        command = running.status(tenant, connection).last_error.partition("to trust it: scada-trio ")[2]
        environment = {**os.environ, "PKI_DIR": str(running.settings.pki_dir)}
        trusting = [sys.executable, "-m", "scada_trio", *command.split()]
        await trio.run_process(trusting, env=environment, cwd=ROOT, capture_stdout=True)
        await running.connected(tenant, connection, 1)
        await device.write("a", 7.0)
        await running.until_stored(tenant, A.node_id, 7.0)
        metrics = (await running.get("/metrics")).text
    assert f'store="trusted",thumbprint="{made.thumbprint}"' in metrics
    assert 'error_type="certificate_untrusted"' in metrics
