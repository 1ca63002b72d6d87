"""What the query API costs against a bare psycopg fetch of the same rows, and what it does to the event loop.

    python -m benchmarks.queries [thousand readings, 1000 unless given]

Fills an embedded PostgreSQL with one well of 20 tags at 1 Hz, runs the whole service on it, and calls it with grpcio
from a process of its own, which fetches the same rows with psycopg in turn. Prints a table in Markdown, medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import trio
from pydantic import SecretStr

from scada_trio.api._generated import scada_pb2
from scada_trio.config import Settings
from scada_trio.metrics import Metrics
from scada_trio.secrets import SecretBox
from scada_trio.service import Addresses, Service
from scada_trio.storage.databases import create_database
from scada_trio.storage.embedded import EmbeddedServer
from scada_trio.storage.master import open_master
from scada_trio.storage.migrate import migrate_master, migrate_tenant

TAGS = 20
WELL = UUID("22222222-2222-4222-8222-222222222222")
KEY = SecretStr("0123456789abcdef0123456789abcdef")
LAST_US = 253_402_300_799_999_999
PAGE = 10_000
ROUNDS = 9
SELECT = """
    SELECT timestamp, well_id, tag_node_id, value, quality FROM scada_readings
    WHERE well_id = %s AND timestamp >= to_timestamp(%s) ORDER BY timestamp DESC LIMIT %s"""


def main() -> None:
    if sys.argv[1:2] == ["client"]:
        run_client(**json.loads(sys.argv[2]))
        return
    thousands = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="scada-trio-bench-") as directory:
        server = EmbeddedServer(Path(directory) / "postgres")
        server.open()
        try:
            migrate_master(server.url)
            url = create_database(server.url, "bench_tenant")
            migrate_tenant(url)
            fill(url, thousands * 1000)
            trio.run(run, server.url, url, thousands * 1000, Path(directory) / "journal")
        finally:
            server.close()


def fill(url: SecretStr, count: int, newest_us: int | None = None) -> None:
    """``count`` readings of `WELL`, `TAGS` tags at 1 Hz, the newest at ``newest_us``; None: now."""
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        connection.execute(
            """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
               SELECT coalesce(to_timestamp(%s), date_trunc('second', now())) - n * interval '1 second',
                   %s, 'ns=2;s=Well-01.Tag' || k, random()
               FROM generate_series(0, %s) n, generate_series(1, %s) k""",
            [None if newest_us is None else newest_us / 1e6, WELL, count // TAGS - 1, TAGS],
        )
        connection.execute("VACUUM ANALYZE scada_readings")


async def run(master_url: SecretStr, url: SecretStr, count: int, journal: Path) -> None:
    """The service, and the client beside it."""
    secrets, tenant_id = SecretBox(KEY), uuid4()
    settings = Settings.load(
        database_url=master_url, encryption_key=KEY, grpc_port=0, metrics_port=0, journal_dir=journal
    )
    async with open_master(master_url, connect_timeout_s=10, statement_timeout_s=10) as master:
        await master.add_tenant(tenant_id, "bench", secrets.encrypt(url))
        service, stop = Service(settings, master, secrets, Metrics()), trio.Event()

        async def serve(*, task_status: trio.TaskStatus[Addresses]) -> None:
            await service.run(stop=stop, task_status=task_status)

        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(serve)
            lags: list[float] = []
            nursery.start_soon(watch_loop, lags)
            given = {
                "address": "{}:{}".format(*addresses.grpc),
                "url": url.get_secret_value(),
                "tenant": str(tenant_id),
                "count": count,
            }
            await trio.run_process([sys.executable, "-m", "benchmarks.queries", "client", json.dumps(given)])
            lags.sort()
            print(f"\nevent loop of the service, ms late: P99 {lags[len(lags) * 99 // 100]:.1f}, most {lags[-1]:.1f}")
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + 5


async def watch_loop(lags: list[float]) -> None:
    """How much later than asked for a task that sleeps 5 ms goes on, in ms."""
    while True:
        due = trio.current_time() + 0.005
        await trio.sleep_until(due)
        lags.append((trio.current_time() - due) * 1000)


# --- the client's process


def run_client(address: str, url: str, tenant: str, count: int) -> None:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel, psycopg.connect(url, autocommit=True) as database:
        client = Client(channel, tenant)
        ((newest_us,),) = database.execute(
            "SELECT (extract(epoch FROM max(timestamp)) * 1000000)::bigint FROM scada_readings"
        ).fetchall()
        page_us = newest_us - (PAGE // TAGS - 1) * 1_000_000
        print("| rows | bare psycopg, ms | over gRPC, ms | gRPC / bare |\n|---|---|---|---|")
        for name, start_us in ((f"{PAGE:,}, a range of just these", page_us), (f"the newest {PAGE:,} of all", 0)):
            bare, api = in_turn(partial(fetch, database, start_us, PAGE), partial(client.page, start_us), PAGE)
            print(f"| {name} | {bare * 1000:.1f} | {api * 1000:.1f} | {api / bare:.2f} |", flush=True)
        bare, api = in_turn(lambda: fetch(database, 0, count), client.stream, count, rounds=3)
        print(f"| all {count:,}, streamed | {bare * 1000:.0f} | {api * 1000:.0f} | {api / bare:.2f} |")
        print(f"\nthousand rows a second: bare {count / bare / 1000:.0f}, streamed {count / api / 1000:.0f}")
        print(f"first rows of a stream after {statistics.median(client.first_s) * 1000:.1f} ms")
        print(f"newest readings of {TAGS} tags: {timed(client.latest, TAGS) * 1000:.1f} ms")
        print(f"hourly aggregates of all: {timed(client.aggregates, None) * 1000:.1f} ms")


def in_turn(
    bare: Callable[[], int], api: Callable[[], int], expected: int, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Median seconds of both; one goes after the other, so that a busy machine is so for both."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, seconds in zip((bare, api), took, strict=True):
            started = time.perf_counter()
            assert call() == expected
            seconds.append(time.perf_counter() - started)
    return statistics.median(took[0]), statistics.median(took[1])


def timed(call: Callable[[], int], expected: int | None) -> float:
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        assert call() == expected or expected is None
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def fetch(database: psycopg.Connection[Any], start_us: int, limit: int) -> int:
    with database.cursor(binary=True) as cursor:
        return len(cursor.execute(SELECT, [WELL, start_us / 1_000_000, limit]).fetchall())


class Client:
    """Calls with grpcio; every message is parsed."""

    def __init__(self, channel: grpc.Channel, tenant: str) -> None:
        self._channel = channel
        self._ids: dict[str, Any] = {"tenant_id": tenant, "well_id": str(WELL)}
        self.first_s: list[float] = []

    def page(self, start_us: int) -> int:
        request = scada_pb2.QueryReadingsRequest(**self._ids, start_time_us=start_us, end_time_us=LAST_US)
        return len(self._call("QueryReadings", request, scada_pb2.QueryReadingsResponse).readings)

    def stream(self) -> int:
        request = scada_pb2.StreamReadingsRequest(**self._ids, end_time_us=LAST_US)
        call = self._channel.unary_stream(
            "/scada.ScadaService/StreamReadings",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=scada_pb2.StreamReadingsResponse.FromString,
        )
        started, count = time.perf_counter(), 0
        for message in call(request, timeout=600):
            if not count:
                self.first_s.append(time.perf_counter() - started)
            count += len(message.readings)
        return count

    def latest(self) -> int:
        request = scada_pb2.LatestReadingsRequest(tenant_id=self._ids["tenant_id"], well_ids=[str(WELL)])
        return len(self._call("LatestReadings", request, scada_pb2.LatestReadingsResponse).readings)

    def aggregates(self) -> int:
        request = scada_pb2.QueryAggregatesRequest(
            **self._ids, end_time_us=LAST_US, resolution=scada_pb2.RESOLUTION_HOURLY
        )
        return len(self._call("QueryAggregates", request, scada_pb2.QueryAggregatesResponse).aggregates)

    def _call(self, method: str, request: Any, response_type: Any) -> Any:
        call = self._channel.unary_unary(
            f"/scada.ScadaService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        return call(request, timeout=60, wait_for_ready=True)


if __name__ == "__main__":
    main()
