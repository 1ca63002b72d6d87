"""What is served over HTTP: metrics for Prometheus, two answers for whoever supervises the process, a page for people.

``/metrics`` all series, or those whose ``name[]`` is given, ``/healthz`` whether the process answers, ``/readyz``
whether traffic should come here, ``/`` the status page with ``/status.js``, ``/status`` what it shows as JSON and
``/status/events`` the same once a second.
Knows neither tenants nor sockets: the service gives it what it shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from scada_trio.metrics import Metrics
from scada_trio.web.access import WebAccess
from scada_trio.web.page import page_routes
from scada_trio.web.status import StatusBoard

Readiness = Callable[[], Awaitable[tuple[bool, Mapping[str, str]]]]

_READINESS_TIMEOUT_S: Final = 5.0


def create_app(
    metrics: Metrics, readiness: Readiness, board: StatusBoard, access: WebAccess | None = None
) -> Starlette:
    """The ASGI application.

    ``readiness`` answers whether the service is ready and, by part, what speaks against it, with no secret in it; it is
    given 5 s. ``access`` says who may see more than that we are alive and whether we are ready: whoever is on this
    machine, if it is left out. ``board`` has what the status page shows.
    """
    access = access or WebAccess()
    scrapes = trio.CapacityLimiter(1)  # one at a time: a second would only make both slower

    async def show_metrics(request: Request) -> Response:
        if (refusal := access.refusal(request)) is not None:
            return refusal
        names = request.query_params.getlist("name[]")
        # rendering takes about 10 µs a series: in a worker thread, so that nothing else waits for it
        text = await trio.to_thread.run_sync(metrics.render, names, abandon_on_cancel=True, limiter=scrapes)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def show_alive(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def show_ready(request: Request) -> Response:
        ready, reasons = False, {"service": "did not answer in time"}
        with trio.move_on_after(_READINESS_TIMEOUT_S):
            ready, found = await readiness()
            reasons = dict(found)
        if access.refusal(request) is not None:
            reasons = {}  # they name tenants
        return JSONResponse({"ready": ready, "reasons": reasons}, status_code=200 if ready else 503)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", show_alive),
            Route("/readyz", show_ready),
            *page_routes(board, access),
        ]
    )
