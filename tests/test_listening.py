"""Listening sockets, and the shield that lets a server end well."""

from __future__ import annotations

import socket

import pytest
import trio

from scada_trio.errors import ConfigError
from scada_trio.listening import close_all, open_listening_sockets, shielded_until_cancelled


async def test_every_address_of_a_name_gets_the_same_port() -> None:
    sockets = await open_listening_sockets("localhost", 0, variable_prefix="X")
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert all(sock.proto == socket.IPPROTO_TCP for sock in sockets), "libraries would leave Nagle's algorithm on"
    finally:
        close_all(sockets)


async def test_a_port_in_use_leaves_no_socket_open() -> None:
    sockets = await open_listening_sockets("127.0.0.1", 0, variable_prefix="X")
    port = sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match=rf"^X_PORT: port {port} is already in use$"):
        await open_listening_sockets("127.0.0.1", port, variable_prefix="X")
    close_all(sockets)
    close_all(await open_listening_sockets("127.0.0.1", port, variable_prefix="X"))


async def test_the_body_hears_of_cancellation_and_may_finish(autojump_clock: trio.testing.MockClock) -> None:
    finished = False
    with trio.CancelScope() as scope:
        async with shielded_until_cancelled(5.0) as cancelled:
            scope.cancel()
            await cancelled.wait()
            await trio.sleep(4.9)
            finished = True
    assert finished
    assert scope.cancelled_caught


async def test_the_body_is_cut_off_after_its_grace(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with trio.CancelScope() as scope:
        async with shielded_until_cancelled(5.0) as cancelled:
            scope.cancel()
            await cancelled.wait()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(5.0)


async def test_a_body_that_ends_by_itself_is_not_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with shielded_until_cancelled(5.0):
            pass
    assert not scope.cancelled_caught
