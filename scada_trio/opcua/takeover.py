"""How a session comes to its subscription: it has it still, takes it over from the session before, or creates one.

Owns the order of these and what each refusal means. Keeps nothing and starts nothing; the connection calls it after
logging in, and creates anew where it says no.

    session resumed ─────────────────────────────► as it was
    new session ─► same server still? ─► Transfer ─► as it was, unless nothing is published within a bound
                          └──────── no ──┴─────────► create
"""

from __future__ import annotations

from functools import partial
from typing import Final

from opcua import ua

from scada_trio.errors import DeviceError
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.intake import Intake
from scada_trio.opcua.kept import KeptSubscription
from scada_trio.opcua.parameters import publishing_ms
from scada_trio.opcua.services import create_subscription, read_server, transfer_subscription
from scada_trio.opcua.session import Session

_SAME_START_US: Final = 2_000_000
"""Some servers reckon their start from an uptime, and do not tell the same microsecond twice."""

SUBSCRIPTION_GONE: Final = frozenset(
    {int(ua.StatusCodes.BadSubscriptionIdInvalid), int(ua.StatusCodes.BadNoSubscription)}
)
SESSION_GONE: Final = frozenset({int(ua.StatusCodes.BadSessionIdInvalid), int(ua.StatusCodes.BadSessionClosed)})


class TakeoverUnanswered(DeviceError):
    """A server said that a subscription goes on and published nothing of it."""

    error_type = "takeover_unanswered"


async def create(session: Session, intake: Intake) -> KeptSubscription:
    """Create a subscription without items (OPC UA Part 4, 5.13.2). Raises `DeviceError`."""
    create = partial(
        create_subscription, session.client, session.settings, publishing_ms(session.spec, session.settings)
    )
    subscription_id, terms = await session.call("CreateSubscription", create)
    limit, started_us = await session.call("reading the server's limits", lambda: read_server(session.client))
    kept = KeptSubscription(session.spec.endpoint_url, subscription_id, terms.keep_alive_s, intake, limit, started_us)
    kept.agree(terms)
    return kept


async def transfer(session: Session, kept: KeptSubscription) -> str | None:
    """Take ``kept`` over from another session of this user (Part 4, 5.13.7); returns why it cannot be had, else None.

    A server that was started again gives subscription ids again, so one of the same number may be somebody else's.
    Raises the `DeviceError` that the link broke with.
    """
    try:
        limit, started_us = await session.call("reading the server's limits", lambda: read_server(session.client))
        if started_us and kept.server_started_us and abs(started_us - kept.server_started_us) > _SAME_START_US:
            return "the server was started again"
        answer = await session.call(
            "TransferSubscriptions", partial(transfer_subscription, session.client, kept.subscription_id)
        )
    except DeviceError as error:
        if session.unusable:
            raise
        return status_name(error.status) if error.status is not None else str(error)
    if not answer.StatusCode.is_good():
        return status_name(answer.StatusCode.value)
    kept.items_a_call = limit
    kept.intake.acknowledge_again(answer.AvailableSequenceNumbers or ())
    return None
