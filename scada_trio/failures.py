"""What a connection logs of its ups and downs, so that a thousand devices without power do not fill a disk.

Owns how often the same thing is said: failures, and what a device revised. Knows no device; starts nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import structlog
import trio

from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError
from scada_trio.status import Revisions

log = structlog.get_logger()

_QUIET_S: Final = 300.0
"""The same failure of a device is logged once in this time."""
_EXAMPLES: Final = 3


class FailureLog:
    """One connection's: the first of a kind, then one in ``_QUIET_S``."""

    def __init__(self, spec: ConnectionSpec) -> None:
        self.names = names_of(spec)
        self._said: dict[str, float] = {}
        self._revisions = Revisions()

    def connected(self, *, tags_count: int) -> None:
        """The link is up with ``tags_count`` monitored items."""
        if self._may_say("connected"):
            log.info("OPC UA connection established", **self.names, tags_count=tags_count)

    def failed(self, error: DeviceError, *, attempts: int, retry_in_s: float | None) -> None:
        """An attempt failed or the link broke; ``retry_in_s`` None waits for another configuration."""
        if self._may_say(error.error_type):
            self._said.pop("connected", None)  # so that the log also says when it is over
            retry = None if retry_in_s is None else round(retry_in_s, 1)
            detail = {"error": str(error), "error_type": error.error_type, "attempts": attempts, "retry_in_s": retry}
            log.warning("OPC UA connection failed", **self.names, **detail)

    def taken_over(self, *, resumed: bool) -> None:
        """The subscription of the session before goes on."""
        if self._may_say("taken over"):
            log.info("OPC UA subscription taken over", **self.names, session_resumed=resumed)

    def revised(self, revisions: Revisions) -> None:
        """What the server made of the subscription and its items; said where it is other than the last time."""
        if revisions == self._revisions:
            return
        self._revisions, terms = revisions, revisions.terms
        detail: dict[str, object] = {}
        if terms is not None and terms.revised:
            detail |= asdict(terms)
        if revisions.items:
            examples = [
                f"{item.node_id} sampling {item.sampling_ms:g} -> {item.revised_sampling_ms:g} ms, "
                f"queue {item.queue_size} -> {item.revised_queue_size}"
                for item in revisions.examples[:_EXAMPLES]
            ]
            detail |= {"items_revised": revisions.items, "examples": examples}
        if detail:
            log.info("OPC UA subscription revised by the device", **self.names, **detail)

    def lost(self, event: str, **detail: object) -> None:
        """Readings were lost on the way."""
        if self._may_say(event):
            log.warning(f"OPC UA {event}", **self.names, **detail)

    def unexpected(self, error: Exception) -> None:
        """A bug; always said, with its traceback."""
        log.error("OPC UA connection met an unexpected error", **self.names, exc_info=error)

    def _may_say(self, kind: str) -> bool:
        now = trio.current_time()
        if now - self._said.get(kind, -_QUIET_S) < _QUIET_S:
            return False
        self._said[kind] = now
        return True


def names_of(spec: ConnectionSpec) -> dict[str, str]:
    """The ids of a connection, as they are in every log line of it."""
    return {"connection_id": str(spec.connection_id), "tenant_id": str(spec.tenant_id)}
