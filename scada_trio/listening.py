"""Listening sockets, and servers that end well: what the gRPC and the HTTP server share.

Owns the translation of "cannot listen" to `ConfigError`, and the shield that gives a cancelled server time to say
goodbye. Knows no protocol. Who calls `open_listening_sockets` closes the sockets.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from scada_trio.errors import ConfigError

_BACKLOG: Final = 128
_EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - where it is reached instead


def reached_at(host: str) -> str:
    """Where what listens on ``host`` is reached from this machine: loopback for one that listens on every address."""
    return _EVERY_ADDRESS.get(host, host)


async def open_listening_sockets(
    host: str, port: int, *, variable_prefix: str, stalled_peer_ms: int = 0
) -> list[socket.socket]:
    """Sockets that listen on every address of ``host``, all on the same port; 0 takes a free one.

    A peer that takes nothing of what is sent to it for ``stalled_peer_ms`` is given up by the kernel (Linux,
    TCP_USER_TIMEOUT in tcp(7)); 0 leaves that to the protocol above.
    Raises `ConfigError` naming ``<prefix>_HOST`` or ``<prefix>_PORT`` where that is impossible.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"{variable_prefix}_HOST", f"the name {host!r} cannot be resolved") from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listen(family, (address[0], taken, *address[2:]), stalled_peer_ms))
    except OSError as error:
        close_all(sockets)
        raise _config_error(variable_prefix, host, port, error) from None
    return sockets


def require_loopback(sockets: list[socket.socket], variable: str, instead: str) -> None:
    """Raises `ConfigError` naming ``variable`` where a socket can be reached from other machines."""
    for sock in sockets:
        host = str(sock.getsockname()[0])
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise ConfigError(variable, f"{host} can be reached from other machines; set {instead}")


def close_all(sockets: list[socket.socket]) -> None:
    """Close every socket; closing one twice does no harm."""
    for sock in sockets:
        sock.close()


def _listen(family: int, address: tuple[object, ...], stalled_peer_ms: int) -> socket.socket:
    # asyncio and grpclib switch Nagle's algorithm off only where a socket says that it is TCP; else a call takes 40 ms
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux" and stalled_peer_ms:  # accepted sockets inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_peer_ms)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _config_error(prefix: str, host: str, port: int, error: OSError) -> ConfigError:
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigError(f"{prefix}_PORT", f"port {port} is already in use")
        case errno.EACCES:
            return ConfigError(f"{prefix}_PORT", f"listening on port {port} is not permitted")
        case errno.EADDRNOTAVAIL:
            return ConfigError(f"{prefix}_HOST", f"{host!r} is not an address of this machine")
        case _:
            return ConfigError(f"{prefix}_HOST", f"cannot listen on {host!r}: {os.strerror(error.errno or 0)}")


@asynccontextmanager
async def shielded_until_cancelled(grace_s: float) -> AsyncIterator[trio.Event]:
    """Run the body out of reach of cancellation; the event tells it that it came, and ``grace_s`` later it is cut off.

    The `trio.Cancelled` arrives when the body is left. An exception of the body arrives in an `ExceptionGroup`.
    """
    cancelled = trio.Event()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as shield:
            nursery.start_soon(_tell_cancelled, cancelled, shield, grace_s, name="watch for cancellation")
            yield cancelled
        nursery.cancel_scope.cancel()


async def _tell_cancelled(cancelled: trio.Event, shield: trio.CancelScope, grace_s: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        shield.deadline = trio.current_time() + grace_s
        cancelled.set()
