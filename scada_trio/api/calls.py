"""What every method does first: take its request, and step from asyncio into Trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio_asyncio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

T = TypeVar("T")


async def in_trio(function: Callable[..., Awaitable[T]], *args: object) -> T:
    """Await a Trio function from an asyncio task; cancelling the one cancels the other."""
    result: T = await trio_asyncio.trio_as_aio(function)(*args)
    return result


async def request_of(stream: Any) -> Any:
    """The one request of a call."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the call has no request message")
    return request
