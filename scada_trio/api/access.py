"""Who is let in, who may call what, and how much at a time: one `Access` a server.

Owns the rights in use, and the looking whether they or the certificate have changed in their files; one that cannot be
used changes nothing and is logged once. Who is denied is told to ``on_denied``, which counts and audits.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from scada_trio.api.rights import EVERYTHING, Grant, Right, RightsUnusable, needed_for, read_rights
from scada_trio.audit import Actor, Denial
from scada_trio.config import GrpcAccessSettings
from scada_trio.errors import ConfigError, NotPermitted, TooManyCalls
from scada_trio.tls import LOOK_EVERY_S, FollowedTls, TlsFiles, state_of

log = structlog.get_logger()

_ANONYMOUS: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may."""

    actor: Actor
    grant: Grant


class Access:
    """Made with `open_access`, or as it is: no TLS, everybody may do everything, within the limits."""

    def __init__(
        self, settings: GrpcAccessSettings | None = None, on_denied: Callable[[Denial], None] = lambda denial: None
    ) -> None:
        self.settings = settings or GrpcAccessSettings()
        self.tls = FollowedTls(_tls_files(self.settings), self._handshake_failed)
        self.on_denied = on_denied
        self._grants: Mapping[str, Grant] | None = None
        self._calls: Counter[str] = Counter()
        self._rights_paths = (self.settings.rights_file,) if self.settings.rights_file else ()
        self._rights_state: object = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """For who connects next; None: no TLS."""
        return self.tls.context

    def load(self) -> None:
        """Read the files for the first time; raises `ConfigError`. Blocks."""
        self.tls.load()
        self._rights_state = state_of(self._rights_paths)  # before it is read
        try:
            self._grants = self._load_grants()
        except RightsUnusable as error:
            raise ConfigError("GRPC_RIGHTS_FILE", str(error)) from error

    def caller(self, names: Sequence[str], address: str) -> Caller | None:
        """Who calls, with those names; None where the rights file has none of them."""
        identity = names[0] if names else _ANONYMOUS
        if self._grants is None:
            return Caller(Actor(identity, address), EVERYTHING)
        for name in names:
            if (grant := self._grants.get(name)) is not None:
                return Caller(Actor(name, address), grant)
        return None

    def admit(self, names: Sequence[str], address: str, method: str) -> Caller:
        """Who calls ``method``; raises `NotPermitted` where they may not."""
        caller = self.caller(names, address)
        if caller is None:
            raise NotPermitted("unknown_client")
        if caller.grant.right < needed_for(method):
            raise NotPermitted("right")
        return caller

    @contextmanager
    def counted(self, names: Sequence[str], address: str) -> Iterator[None]:
        """One call of this client under way; raises `TooManyCalls` where it has as many as it may."""
        client = names[0] if names else address
        if self._calls[client] >= self.settings.max_calls_per_client:
            raise TooManyCalls(f"{self.settings.max_calls_per_client} calls of this client run already")
        self._calls[client] += 1
        try:
            yield
        finally:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]

    def denied(self, names: Sequence[str], address: str, method: str, reason: str) -> None:
        """Tell of a call that was refused."""
        identity = names[0] if names else _ANONYMOUS
        self.on_denied(Denial(Actor(identity, address), method.rpartition("/")[2] or method, reason))

    async def follow_files(
        self, on_tls: Callable[[], Awaitable[None]], on_rights: Callable[[], Awaitable[None]]
    ) -> None:
        """Look every 2 s; call ``on_tls`` and ``on_rights`` where something is new. Returns if there is no file."""
        while self.tls.files is not None or self._rights_paths:
            await trio.sleep(LOOK_EVERY_S)
            if await self.tls.look():
                await on_tls()
            found = await trio.to_thread.run_sync(state_of, self._rights_paths)
            if found != self._rights_state:
                self._rights_state = found
                if await self._take_grants():
                    await on_rights()

    async def _take_grants(self) -> bool:
        try:
            self._grants = await trio.to_thread.run_sync(self._load_grants)
        except RightsUnusable as error:
            log.error("GRPC_RIGHTS_FILE has changed and cannot be used; the old rights stay", error=str(error))
            return False
        log.info("rights are taken from the changed GRPC_RIGHTS_FILE", clients=len(self._grants or ()))
        return True

    def _load_grants(self) -> Mapping[str, Grant] | None:
        return None if self.settings.rights_file is None else read_rights(self.settings.rights_file)

    def _handshake_failed(self, reason: str) -> None:
        log.warning("a client was refused in the TLS handshake", reason=reason)
        self.on_denied(Denial(Actor(_ANONYMOUS), "TLS handshake", "handshake"))


def _tls_files(settings: GrpcAccessSettings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


__all__ = ["Access", "Caller", "Right"]
