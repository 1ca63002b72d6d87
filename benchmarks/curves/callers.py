"""Applications that query: threads that call QueryReadings one after the other, in a process of their own.

    python -m benchmarks.curves.callers '{"port": 50051, "wells": [[TENANT, WELL], ...], "callers": 8, "seconds": 5}'

Prints what it came to as JSON: calls a second, mean and P95 of a call in seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import grpc
import numpy as np

from scada_trio.api._generated import scada_pb2

SPAN_S = 10
"""Each call asks for the last readings of one well, so many seconds of them."""


def main() -> None:
    given = json.loads(sys.argv[1])
    wells, callers = given["wells"], given["callers"]
    took: list[list[float]] = [[] for _ in range(callers)]
    started = time.perf_counter()
    until = started + given["seconds"]
    threads = [
        threading.Thread(target=call, args=(given["port"], wells[number::callers], until, took[number]))
        for number in range(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = np.concatenate([np.array(one) for one in took])
    if not len(seconds):
        sys.exit("no call was answered")
    result: dict[str, Any] = {
        "queries_per_s": len(seconds) / (time.perf_counter() - started),
        "query_mean_s": float(seconds.mean()),
        "query_p95_s": float(np.quantile(seconds, 0.95)),
    }
    print(json.dumps(result))


def call(port: int, wells: list[list[str]], until: float, took: list[float]) -> None:
    """Query ``wells`` in turn until that time; ``took`` gets the seconds of each call."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(
            "/scada.ScadaService/QueryReadings",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=scada_pb2.QueryReadingsResponse.FromString,
        )
        number = 0
        while time.perf_counter() < until:
            tenant_id, well_id = wells[number % len(wells)]
            now = int(time.time())
            request = scada_pb2.QueryReadingsRequest(
                tenant_id=tenant_id, well_id=well_id, start_time=now - SPAN_S, end_time=now
            )
            began = time.perf_counter()
            method(request, timeout=30, wait_for_ready=True)
            took.append(time.perf_counter() - began)
            number += 1


if __name__ == "__main__":
    main()
