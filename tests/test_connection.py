"""A link's life with real servers: it comes up, follows its configuration, notices what breaks and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import trio
from pydantic import SecretStr
from structlog.testing import capture_logs

from scada_trio.status import ConnectionState
from tests.fix_devices import FAST, Device, free_port, open_device, open_rig, tag
from tests.fix_pki import SERVER_URI, TestPki, make

A, B, C = tag("ns=1;s=a"), tag("ns=1;s=b"), tag("ns=1;s=c")
PASSWORD = "pump-house-7"


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    """Every test leaves as many sockets as it found."""
    before = len(psutil.Process().net_connections())
    yield
    assert len(psutil.Process().net_connections()) == before


async def test_comes_up_and_is_closed(maker: str) -> None:
    """A connection is connected with its tags, counted as active, and leaves nothing when it is cancelled."""
    async with open_device(maker, nodes=["a"]) as device:
        with capture_logs() as logs:
            async with open_rig(device.url, (A,)) as rig:
                await rig.state(ConnectionState.CONNECTED)
                assert rig.active == 1
                await device.write("a", 4.5)
                await rig.until_value(A.node_id, 4.5)
                status = rig.connection.status
                assert status.readings > 0
                assert status.last_reading_at is not None
        (line,) = [line for line in logs if line["event"] == "OPC UA connection established"]
        assert line["tags_count"] == 1
        assert line["connection_id"] == str(rig.spec.connection_id)
        assert line["tenant_id"] == str(rig.spec.tenant_id)


async def test_no_tags(maker: str) -> None:
    """Without tags the session is held, and silence is not mistaken for death."""
    async with open_device(maker) as device, open_rig(device.url) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await trio.sleep(3 * FAST.keep_alive_s)
        assert rig.connection.status.state is ConnectionState.CONNECTED


async def test_killed_and_restarted(maker: str) -> None:
    """A server that dies is noticed at once, and is used again when it is back."""
    async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, (A,)) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await device.kill()
        await rig.state(ConnectionState.WAITING, ConnectionState.FAILED)
        assert rig.active == 0
        assert rig.errors("unreachable") >= 1
        await device.start()
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 8.5)
        await rig.until_value(A.node_id, 8.5)


async def test_given_up_but_never_dead() -> None:
    """After the maximum of attempts the connection shows as failed, and is connected when the device appears."""
    device = Device("open62541", nodes=["a"])
    try:
        async with open_rig(device.url, (A,)) as rig:
            await rig.state(ConnectionState.FAILED)
            assert rig.connection.status.attempts_failed >= FAST.max_attempts
            assert rig.connection.status.last_error_type == "unreachable"
            await device.start()
            await rig.state(ConnectionState.CONNECTED)
            assert rig.connection.status.last_error is None
    finally:
        await device.kill()


async def test_frozen_and_thawed(maker: str) -> None:
    """A server that stops in its tracks is noticed within three keep-alive periods, and used again when it goes on."""
    settings = replace(FAST, keep_alive_s=2.0)  # half a period of slack for a slow machine
    async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, (A,), settings=settings) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 1.5)
        await rig.until_value(A.node_id, 1.5)
        device.freeze()
        frozen_at = trio.current_time()
        try:
            await rig.eventually(lambda: rig.connection.status.state is not ConnectionState.CONNECTED)
            assert trio.current_time() - frozen_at <= 3 * settings.keep_alive_s
            assert rig.connection.status.last_error_type == "silent"
        finally:
            device.thaw()
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 9.5)
        await rig.until_value(A.node_id, 9.5)


async def test_many_bad_tags(maker: str) -> None:
    """A thousand node ids that do not exist cost one log line, and those that do exist run."""
    bad = tuple(tag(f"ns=1;s=none{number}") for number in range(999))
    settings = replace(FAST, slow_retry_s=300.0)
    async with open_device(maker, nodes=["a"]) as device:
        with capture_logs() as logs:
            async with open_rig(device.url, (*bad, tag("nonsense"), A), settings=settings) as rig:
                await rig.state(ConnectionState.CONNECTED)
                await device.write("a", 4.5)
                await rig.until_value(A.node_id, 4.5)
                status = rig.connection.status
                assert status.tags_monitored == 1
                assert {refused.status for refused in status.tags_refused} == {
                    "BadNodeIdUnknown",
                    "BadNodeIdInvalid",
                }
                assert len(status.tags_refused) == 1000
        (line,) = [line for line in logs if line["event"] == "device refused tags"]
        assert line["tags_refused"] == 1000
        assert len(line["examples"]) <= 3


async def test_refused_tag_is_tried_again() -> None:
    """A tag whose node appears later is monitored without anyone doing anything."""
    async with open_device("asyncua", nodes=["a"]) as device, open_rig(device.url, (A, B)) as rig:
        await rig.state(ConnectionState.CONNECTED)
        assert rig.connection.status.tags_monitored == 1
        await device.add("b")
        await rig.eventually(lambda: rig.connection.status.tags_monitored == 2)
        assert rig.connection.status.tags_refused == []


async def test_tags_change_live(maker: str) -> None:
    """Adding and removing tags leaves the session and every other tag's values as they are."""
    async with open_device(maker, nodes=["a", "b", "c"]) as device, open_rig(device.url, (A, B)) as rig:
        await rig.state(ConnectionState.CONNECTED)
        since = rig.connection.status.since
        rig.update(tags=(A, C))
        await device.write("c", 3.5)
        await rig.until_value(C.node_id, 3.5)
        await device.write("b", 2.5)
        await device.write("a", 1.5)
        seen_b = False
        with trio.fail_after(30):
            while True:
                block = (await rig.take()).block
                seen_b = seen_b or any(value == 2.5 for _, value, _ in rig.readings(block, B.node_id))
                if any(value == 1.5 for _, value, _ in rig.readings(block, A.node_id)):
                    break
        assert not seen_b
        assert rig.connection.status.since == since
        assert rig.errors("unreachable") == 0


async def test_endpoint_changes(maker: str) -> None:
    """Another endpoint is connected to at once, even when the first was given up."""
    settings = replace(FAST, reconnect_delay_s=3000.0, max_backoff_s=3000.0, slow_retry_s=3000.0)
    nowhere = f"opc.tcp://127.0.0.1:{free_port()}"
    async with open_device(maker, nodes=["a"]) as device, open_rig(nowhere, (A,), settings=settings) as rig:
        await rig.state(ConnectionState.WAITING)
        rig.update(endpoint_url=device.url)
        await rig.state(ConnectionState.CONNECTED)


async def test_held_deliveries_hold_publish(maker: str) -> None:
    """While nothing is accepted at most three notifications come, and the session outlives its timeout."""
    settings = replace(FAST, session_timeout_s=1.5)
    async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, (A,), settings=settings) as rig:
        await rig.eventually(lambda: rig.connection.status.state is ConnectionState.CONNECTED)
        held = []
        with trio.move_on_after(2.5 * settings.session_timeout_s):
            for value in range(1, 1000):
                await device.write("a", float(value))
                with trio.move_on_after(settings.publishing_interval_s):
                    held.append(await rig.take(accept=False))
        assert 1 <= len(held) <= 3
        assert rig.connection.status.state is ConnectionState.CONNECTED
        assert rig.errors("unreachable") == rig.errors("silent") == 0
        for delivery in held:
            rig.accept(delivery)
        await device.write("a", 5000.0)
        await rig.until_value(A.node_id, 5000.0)
        assert rig.errors("unreachable") == rig.errors("silent") == 0


# ---- users


async def test_user_and_encrypted_password(pki: TestPki, tmp_path: Path) -> None:
    """A password goes encrypted to a server that is trusted; a wrong one is refused, shown and not repeated."""
    certificate = make()
    pki.trust_it(certificate)
    options = {"users": {"operator": PASSWORD}, "uri": SERVER_URI, **certificate.files(tmp_path)}
    async with open_device("asyncua", nodes=["a"], **options) as device:
        async with open_rig(device.url, (A,), pki=pki, username="operator", password=SecretStr(PASSWORD)) as rig:
            await rig.state(ConnectionState.CONNECTED)
        wrong = SecretStr("wrong-secret")
        with capture_logs() as logs:
            async with open_rig(device.url, (A,), pki=pki, username="operator", password=wrong) as rig:
                await rig.state(ConnectionState.REFUSED)
                assert rig.errors("refused") >= 1
                assert "BadUserAccessDenied" in (rig.connection.status.last_error or "")
                assert "wrong-secret" not in repr(rig.connection.status)
                rig.update(password=SecretStr(PASSWORD))
                await rig.state(ConnectionState.CONNECTED)
        assert "wrong-secret" not in repr(logs)


async def test_node_opcua_user(pki: TestPki) -> None:
    """A password waits until the server's own certificate is trusted, as the status says; a wrong one is refused."""
    async with (
        open_device("node-opcua", nodes=["a"], users={"operator": PASSWORD}) as device,
        open_rig(device.url, (A,), pki=pki, username="operator", password=SecretStr(PASSWORD)) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error_type == "certificate_untrusted"
        (thumbprint,) = pki.rejected
        assert f"scada-trio trust {thumbprint}" in (rig.connection.status.last_error or "")
        pki.store.trust(thumbprint)
        await rig.state(ConnectionState.CONNECTED)
        rig.update(password=SecretStr("wrong-secret"))
        await rig.state(ConnectionState.REFUSED)


async def test_password_in_clear_only_where_allowed() -> None:
    """A server that reads passwords in clear only gets none, unless the connection allows it."""
    users = {"operator": PASSWORD}
    async with (
        open_device("asyncua", nodes=["a"], users=users) as device,
        open_rig(device.url, (A,), username="operator", password=SecretStr(PASSWORD)) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert "clear text" in (rig.connection.status.last_error or "")
        rig.update(allow_plaintext_password=True)
        await rig.state(ConnectionState.CONNECTED)


async def test_anonymous_where_a_user_is_needed() -> None:
    """A server that wants a user refuses the anonymous one, and the status says what it asks for."""
    async with open_device("asyncua", users={"operator": PASSWORD}) as device, open_rig(device.url) as rig:
        await rig.state(ConnectionState.REFUSED)
        assert "UserName" in (rig.connection.status.last_error or "")


async def test_problem_waits_for_another_row() -> None:
    """A row that cannot be used is refused and not tried until it changes."""
    problem = "the password cannot be decrypted"
    async with (
        open_device("open62541", nodes=["a"]) as device,
        open_rig(device.url, (A,), problem=problem) as rig,
    ):
        await rig.state(ConnectionState.REFUSED)
        assert rig.connection.status.last_error == problem
        rig.update(problem=None)
        await rig.state(ConnectionState.CONNECTED)


async def test_limit_of_items_a_call() -> None:
    """Items are created in calls as small as the server asks for."""
    names = [f"n{number}" for number in range(25)]
    tags = tuple(tag(f"ns=1;s={name}") for name in names)
    async with open_device("node-opcua", nodes=names, items_a_call=10) as device, open_rig(device.url, tags) as rig:
        await rig.state(ConnectionState.CONNECTED)
        assert rig.connection.status.tags_monitored == 25


async def test_deadband() -> None:
    """The server holds back what stays within the deadband, which is in scaled units."""
    tags = (tag(A.node_id, scaling_factor=2.0, deadband=10.0),)
    async with open_device("open62541", nodes=["a"]) as device, open_rig(device.url, tags) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 100.0)
        await rig.until_value(A.node_id, 200.0)
        await device.write("a", 104.0)
        await device.write("a", 120.0)
        assert (await rig.until(A.node_id, lambda *_: True))[1] == 240.0
