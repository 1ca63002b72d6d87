"""What the status page shows, and how viewers share it: one document a second while somebody looks, none otherwise.

Owns the document and the events that carry it; `scada_trio.web.page` serves both. Knows tenants by their
`TenantSnapshot` only.
No secret is in it: endpoint addresses go without user info, and errors hold none by the rules of `scada_trio.errors`.

    viewer ─┐
    viewer ─┼─► newer(than) ─► lock ─► sleep until a second has passed, then make the document
    viewer ─┘                    └───► the others find it made

Nothing runs in the background: the first viewer to ask makes the document for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from scada_trio import __version__
from scada_trio.desired import ConnectionSpec
from scada_trio.status import ConnectionState, ConnectionStatus, TenantSnapshot

EVERY_S: Final = 1.0
MAX_VIEWERS: Final = 32
CONNECTIONS_SHOWN: Final = 200
"""Of a tenant, in an event; those in trouble come first. The document without bound is `StatusBoard.whole`."""
_TAGS_SHOWN: Final = 10
_AT_A_TIME: Final = 50  # connections between two looks at what else there is to do: 0.5 ms
_RETRY: Final = b"retry: 2000\n\n"  # a browser that lost us comes again after this many milliseconds


class StatusBoard:
    """``snapshots`` tells how the tenants are, in the Trio thread."""

    def __init__(
        self, snapshots: Callable[[], Sequence[TenantSnapshot]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._snapshots = snapshots
        self._clock = clock
        self._lock = trio.Lock()
        self._whole_lock = trio.Lock()
        self._made_at = self._whole_made_at = float("-inf")
        self._number = 0
        self._event = self._whole = b""
        self._counted: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}
        self._closed = trio.Event()
        self.viewers = 0
        self.made = 0  # documents, whole or not

    @property
    def is_full(self) -> bool:
        """Whether no further viewer is taken."""
        return self.viewers >= MAX_VIEWERS or self._closed.is_set()

    @contextmanager
    def viewing(self) -> Iterator[AsyncIterator[bytes]]:
        """The events for one viewer, from now on; the caller has looked at `is_full`."""
        self.viewers += 1
        try:
            yield _Events(self)
        finally:
            self.viewers -= 1

    def close(self) -> None:
        """End every viewer's events; none is taken from here on."""
        self._closed.set()

    async def newer(self, than: int) -> tuple[int, bytes] | None:
        """The number and the text of an event that is newer than the number ``than``; None once closed.

        It is made at most once a second, whoever asks.
        """
        async with trio.open_nursery() as nursery:
            found: list[tuple[int, bytes]] = []

            async def make() -> None:
                async with self._lock:
                    if self._number <= than:
                        await trio.sleep(max(0.0, self._made_at + EVERY_S - trio.current_time()))
                        text = await self._text(CONNECTIONS_SHOWN)
                        self._made_at = trio.current_time()
                        self._number += 1
                        self._event = b"id: %d\ndata: %s\n\n" % (self._number, text)
                    found.append((self._number, self._event))
                nursery.cancel_scope.cancel()

            nursery.start_soon(make)
            await self._closed.wait()
            nursery.cancel_scope.cancel()
        return found[0] if found else None

    async def whole(self) -> bytes:
        """The document with every connection, as JSON; made at most once a second, whoever asks."""
        async with self._whole_lock:
            if trio.current_time() - self._whole_made_at >= EVERY_S:
                self._whole = await self._text(None)
                self._whole_made_at = trio.current_time()
            return self._whole

    async def _text(self, shown: int | None) -> bytes:
        self.made += 1
        now_s = time.time()
        snapshots = self._snapshots()
        self._measure(snapshots)
        tenants = []
        for snapshot in snapshots:
            tenants.append(await self._tenant(snapshot, shown))
        document = {"version": __version__, "at": now_s, "tenants": tenants}
        # a thousand connections are 5 ms of encoding: in a worker thread, so that nothing else waits for it
        return await trio.to_thread.run_sync(_encoded, document, abandon_on_cancel=True)

    def _measure(self, snapshots: Sequence[TenantSnapshot]) -> None:
        """Readings a second since the last document, or over that second if two come close together."""
        now = self._clock()
        counted, rates = {}, {}
        for snapshot in snapshots:
            name, received = str(snapshot.tenant_id), snapshot.accounts.received
            before, count = self._counted.get(name, (now, received))
            if name not in self._counted:  # the first to look since the start
                links = snapshot.connections.values()
                counted[name], rates[name] = (now, received), sum(status.rate.per_second() for status in links)
            elif now - before < EVERY_S / 2:
                counted[name], rates[name] = (before, count), self._rates.get(name, 0.0)
            else:
                counted[name], rates[name] = (now, received), max(0, received - count) / (now - before)
        self._counted, self._rates = counted, rates

    async def _tenant(self, snapshot: TenantSnapshot, shown: int | None) -> dict[str, Any]:
        by_state: dict[str, int] = {}
        for status in snapshot.connections.values():
            by_state[status.state.value] = by_state.get(status.state.value, 0) + 1
        pairs = sorted(
            snapshot.connections.items(),
            key=lambda pair: (pair[1].state is ConnectionState.CONNECTED, _name(snapshot.specs.get(pair[0]))),
        )
        connections = []
        for connection_id, status in pairs[:shown]:
            connections.append(_connection(str(connection_id), snapshot.specs.get(connection_id), status))
            if len(connections) % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        accounts = snapshot.accounts
        return {
            "id": str(snapshot.tenant_id),
            "name": snapshot.name,
            "state": snapshot.state,
            "last_error": snapshot.last_error,
            "last_commit_at": snapshot.last_commit_at,
            "readings_per_second": round(self._rates.get(str(snapshot.tenant_id), 0.0), 1),
            "received": accounts.received,
            "committed": accounts.committed,
            "in_journal": accounts.in_journal,
            "journal_bytes": snapshot.journal_bytes,
            "journal_full": snapshot.journal_full,
            "quarantined": accounts.quarantined,
            "readings_lost": accounts.lost,
            "losses": _summed(snapshot.connections.values()),
            "tags_refused": sum(len(status.tags_refused) for status in snapshot.connections.values()),
            "connections_by_state": by_state,
            "connections": connections,
        }


class _Events:
    """The events of one viewer; what it is too slow for it does not get. Ends when the board is closed."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board
        self._seen = -1

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> bytes:
        if self._seen < 0:
            self._seen = 0
            return _RETRY
        event = await self._board.newer(self._seen)
        if event is None:
            raise StopAsyncIteration
        self._seen, text = event
        return text


def _summed(statuses: Iterable[ConnectionStatus]) -> dict[str, int]:
    total: dict[str, int] = {}
    for status in statuses:
        for reason, count in status.lost.items():
            total[str(reason)] = total.get(str(reason), 0) + count
    return total


def _name(spec: ConnectionSpec | None) -> str:
    return "" if spec is None else spec.name or spec.endpoint_url


def _connection(connection_id: str, spec: ConnectionSpec | None, status: ConnectionStatus) -> dict[str, Any]:
    refused = status.tags_refused
    return {
        "id": connection_id,
        "name": "" if spec is None else spec.name,
        "endpoint": "" if spec is None else without_user(spec.endpoint_url),
        "security": "" if spec is None else f"{spec.security_mode} {spec.security_policy}",
        "state": status.state.value,
        "since": status.since,
        "attempts_failed": status.attempts_failed,
        "last_error": status.last_error,
        "last_error_type": status.last_error_type,
        "readings": status.readings,
        "readings_per_second": round(status.rate.per_second(), 1),
        "last_reading_at": status.last_reading_at,
        "last_heard_at": status.heard.at,
        "tags_monitored": status.tags_monitored,
        "tags_refused": len(refused),
        "refused": [{"node_id": tag.node_id, "status": tag.status} for tag in refused[:_TAGS_SHOWN]],
        "losses": {str(reason): count for reason, count in status.lost.items()},
    }


def without_user(url: str) -> str:
    """``url`` without user, password, query and fragment; empty where it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if not parts.scheme or not host:
        return ""
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{parts.path}"


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
