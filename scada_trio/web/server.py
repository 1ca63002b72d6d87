"""The HTTP server: hypercorn on Trio, on sockets that we open. Started by the service; knows no page."""

from __future__ import annotations

import logging
import socket
import ssl
from functools import partial
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from scada_trio.listening import open_listening_sockets, shielded_until_cancelled
from scada_trio.tls import LOOK_EVERY_S, FollowedTls
from scada_trio.web.access import WebAccess

_ANSWERS_END_S: Final = 2.0  # for answers that are on their way when the server is told to stop

# hypercorn shields its writes from cancellation: without this a client that stops reading would hold up the end
_STALLED_PEER_MS: Final = 2_000


async def serve_http(
    app: Any,
    *,
    host: str,
    port: int,
    access: WebAccess | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the ASGI application ``app``; ``started`` passes the host and the bound port.

    Returns only when cancelled: idle clients are closed at once, answers under way have 2 s to end; a client that
    has stopped reading may take 2 s more. Raises `ConfigError` naming METRICS_HOST or METRICS_PORT where it cannot
    listen, METRICS_TLS_CERT or METRICS_TLS_KEY where TLS cannot be served. The files of these are followed.
    """
    access = access or WebAccess()
    await trio.to_thread.run_sync(access.tls.load)
    sockets = await open_listening_sockets(host, port, variable_prefix="METRICS", stalled_peer_ms=_STALLED_PEER_MS)
    bound: int = sockets[0].getsockname()[1]
    config = _config(sockets, access.tls)
    async with shielded_until_cancelled(_ANSWERS_END_S + 0.5) as cancelled, trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, config, shutdown_trigger=cancelled.wait, mode="asgi"), name="hypercorn")
        nursery.start_soon(_follow_files, access.tls, cancelled, name="HTTP files")
        task_status.started((host, bound))


async def _follow_files(tls: FollowedTls, ended: trio.Event) -> None:
    """Until ``ended``, which is told before we are cancelled."""
    while tls.files is not None and not ended.is_set():
        with trio.move_on_after(LOOK_EVERY_S):
            await ended.wait()
        await tls.look()


class _Config(Config):  # type: ignore[misc]
    """Hypercorn's settings, with our TLS in place of its own."""

    def __init__(self, tls: FollowedTls) -> None:
        super().__init__()
        self._tls = tls

    @property
    def ssl_enabled(self) -> bool:
        """See hypercorn."""
        return self._tls.files is not None

    def create_ssl_context(self) -> Any:
        """See hypercorn; a stand-in, of which only this is asked: what a client that has just come is served with."""
        return _CurrentContext(self._tls) if self.ssl_enabled else None


class _CurrentContext:
    """An `ssl.SSLContext` to trio's listener, which asks it once for each client."""

    def __init__(self, tls: FollowedTls) -> None:
        self._tls = tls

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`."""
        context = self._tls.context
        assert context is not None  # loaded before there was a listener
        return context.wrap_bio(*args, **kwargs)


def _config(sockets: list[socket.socket], tls: FollowedTls) -> Config:
    """Hypercorn's settings; it takes ``sockets`` over and closes them."""
    config = _Config(tls)
    config.bind = [f"fd://{sock.detach()}" for sock in sockets]
    config.graceful_timeout = _ANSWERS_END_S
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")  # no handler of its own
    return config
