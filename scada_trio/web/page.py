"""The status page over HTTP: one file of HTML with its style, one of script, and the events that fill it.

Owns the headers that bound what the page may do: it loads nothing but its own script and asks nobody but us, so it
works without internet access, and a name that holds markup is text. Knows no tenant; `create_app` takes the routes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scada_trio.web.access import WebAccess
from scada_trio.web.status import StatusBoard

_HEADERS: Final = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}


def page_routes(board: StatusBoard, access: WebAccess) -> list[Route]:
    """``/``, ``/status.js``, ``/status`` and ``/status/events``, for whom ``access`` lets see the metrics."""
    static = resources.files("scada_trio.web") / "static"
    html = (static / "status.html").read_text("utf-8")
    script = (static / "status.js").read_bytes()
    page_headers = {**_HEADERS, "content-security-policy": _policy(html)}

    async def show_page(_request: Request) -> Response:
        return Response(html, headers=page_headers, media_type="text/html")

    async def show_script(_request: Request) -> Response:
        return Response(script, headers=_HEADERS, media_type="text/javascript")

    async def show_status(_request: Request) -> Response:
        return Response(await board.whole(), headers=_HEADERS, media_type="application/json")

    async def show_events(request: Request) -> Response:
        if request.method == "HEAD":  # or it would be an answer that never ends
            return Response(headers=_HEADERS, media_type="text/event-stream")
        return _EventsResponse(board)

    def allowed(show: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def show_allowed(request: Request) -> Response:
            return access.refusal(request) or await show(request)

        return show_allowed

    pages = {"/": show_page, "/status.js": show_script, "/status": show_status, "/status/events": show_events}
    return [Route(path, allowed(show)) for path, show in pages.items()]


def _policy(html: str) -> str:
    """The Content-Security-Policy of the page: its own script file, and the one style that stands in it."""
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            f"style-src 'sha256-{digest}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


class _EventsResponse(Response):
    """The board's events, for as long as the viewer reads them; 503 where there are enough viewers."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._board.is_full:
            refusal = PlainTextResponse("too many viewers\n", 503, headers={**_HEADERS, "retry-after": "10"})
            await refusal(scope, receive, send)
            return
        with self._board.viewing() as events:
            headers = {**_HEADERS, "x-accel-buffering": "no"}
            await StreamingResponse(events, headers=headers, media_type="text/event-stream")(scope, receive, send)
