"""What large streams do to the service while it takes in readings: event loop lag, memory, and the ingestion itself.

    python -m benchmarks.streaming [--millions 1] [--for-s 60] [--values-per-s 10000]

Ten simulated wells of a thousand tags, the service in a process of its own, an embedded PostgreSQL, one more well with
so many million old readings. First nothing but ingestion, then StreamReadings of all of them again and again beside it,
in turn with a bare fetch of the same rows over a server-side cursor. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import trio
from pydantic import SecretStr

from benchmarks.queries import WELL, Client, fill
from scada_trio.api._generated import scada_pb2
from scada_trio.loadtest.load import Load
from scada_trio.loadtest.report import MB
from scada_trio.loadtest.rig import Rig, open_rig
from scada_trio.loadtest.sampling import Sample, Sampler

WELLS, TAGS = 10, 1000
LAST_US = 1_600_000_000_000_000  # long before anything that is simulated
WARM_S, SAMPLE_S, CURSOR_ROWS = 10.0, 0.25, 2000


@dataclass(frozen=True, slots=True)
class Transfer:
    """One reading of all rows: how long until the first came, until all had come, and how many."""

    first_s: float
    all_s: float
    rows: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=1.0, help="old readings that are streamed")
    parser.add_argument("--for-s", type=float, default=60.0, help="of ingestion alone, and of streams beside it")
    parser.add_argument("--values-per-s", type=float, default=10_000.0)
    parser.add_argument("--no-bare", action="store_true", help="streams only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scada-trio-bench-") as directory:
        trio.run(run, Path(directory), int(given.millions * 1e6), given.for_s, given.values_per_s, not given.no_bare)


async def run(directory: Path, count: int, for_s: float, values_per_s: float, with_bare: bool) -> None:
    """All of it."""
    load = Load("streaming", WELLS, TAGS, values_per_s / WELLS / TAGS)
    async with open_rig(load, directory, database_url=None, keep=False, say=say) as rig:
        (url,) = rig.tenant_urls
        say(f"storing {count:,} old readings")
        await trio.to_thread.run_sync(fill, url, count, LAST_US)
        watch = Watch(rig)
        await watch.until_connected(WELLS)
        await trio.sleep(WARM_S)
        say("ingestion alone")
        alone = await watch.during(partial(trio.sleep, for_s))
        streams: list[Transfer] = []
        bares: list[Transfer] = []
        with grpc.insecure_channel(f"127.0.0.1:{rig.service.grpc_port}") as channel:
            client = Client(channel, await trio.to_thread.run_sync(only_tenant, channel))

            async def reading() -> None:
                until = trio.current_time() + for_s
                while not streams or trio.current_time() < until:
                    streams.append(await trio.to_thread.run_sync(stream, client))

            say("streams beside it")
            beside = await watch.during(reading)
            if with_bare:
                say("bare fetches beside it")
                bares.extend([await trio.to_thread.run_sync(bare, url) for _ in range(3)])
    for transfer in itertools.chain(streams, bares):
        assert transfer.rows == count, f"{transfer.rows:,} of {count:,} rows came"
    print("| | ingestion alone | with streams |\n|---|---|---|")
    for name, figure in FIGURES.items():
        print(f"| {name} | {figure(alone)} | {figure(beside)} |")
    took = statistics.median(t.all_s for t in streams)
    first_ms = statistics.median(t.first_s for t in streams) * 1000
    print(f"\n{len(streams)} streams of {count:,}: {count / took:,.0f} rows/s, first rows after {first_ms:.1f} ms")
    if bares:
        plain = statistics.median(t.all_s for t in bares)
        print(f"bare fetch of the same: {count / plain:,.0f} rows/s; streamed / bare {plain / took:.2f}")


class Watch:
    """Samples of the service at a steady pace."""

    def __init__(self, rig: Rig) -> None:
        self._sampler = Sampler(rig)

    async def take(self) -> Sample:
        """One, now."""
        return await self._sampler.take()

    async def until_connected(self, wells: int) -> None:
        """Wait for all wells."""
        connected = 0.0
        while connected < wells:
            await trio.sleep(SAMPLE_S)
            connected = (await self.take()).counter("connected")

    async def during(self, work: Callable[[], Awaitable[None]]) -> list[Sample]:
        """From before ``work`` to after it."""
        samples = [await self.take()]

        async def sample() -> None:
            while True:
                await trio.sleep(SAMPLE_S)
                samples.append(await self.take())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sample)
            await work()
            nursery.cancel_scope.cancel()
        return [*samples, await self.take()]


def _lag(part: float, samples: Sequence[Sample]) -> str:
    buckets = samples[-1].scrape.histograms["lag"].since(samples[0].scrape.histograms["lag"])
    return f"{(buckets.quantile(part) or 0.0) * 1000:.1f} ms"


def _per_s(name: str, samples: Sequence[Sample]) -> str:
    seconds = samples[-1].at_s - samples[0].at_s
    return f"{(samples[-1].counter(name) - samples[0].counter(name)) / seconds:,.0f}"


def _cores(samples: Sequence[Sample]) -> str:
    first, last = samples[0], samples[-1]
    return f"{(last.service_cpu_s - first.service_cpu_s) / (last.at_s - first.at_s):.2f}"


def _write(samples: Sequence[Sample]) -> str:
    buckets = samples[-1].scrape.histograms["write"].since(samples[0].scrape.histograms["write"])
    return f"{(buckets.mean or 0.0) * 1000:.1f} ms, {(buckets.quantile(0.95) or 0.0) * 1000:.1f} ms"


FIGURES: dict[str, Callable[[Sequence[Sample]], str]] = {
    "event loop lag, P99": partial(_lag, 0.99),
    "event loop lag, P50": partial(_lag, 0.5),
    "received, values/s": partial(_per_s, "received"),
    "committed, values/s": partial(_per_s, "written"),
    "write latency, average and P95": _write,
    "CPU of the service, cores": _cores,
    "memory at the start": lambda samples: f"{samples[0].rss_bytes / MB:.1f} MB",
    "memory at most": lambda samples: f"{max(sample.rss_bytes for sample in samples) / MB:.1f} MB",
    "memory at the end": lambda samples: f"{samples[-1].rss_bytes / MB:.1f} MB",
}


def only_tenant(channel: grpc.Channel) -> str:
    """The id of the rig's tenant."""
    call = channel.unary_unary(
        "/scada.ScadaService/ListTenants",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=scada_pb2.ListTenantsResponse.FromString,
    )
    (tenant,) = call(scada_pb2.ListTenantsRequest(), timeout=60, wait_for_ready=True).tenants
    return str(tenant.tenant_id)


def stream(client: Client) -> Transfer:
    """Everything that `WELL` has, every message parsed."""
    started = time.perf_counter()
    rows = client.stream()
    return Transfer(client.first_s[-1], time.perf_counter() - started, rows)


def bare(url: SecretStr) -> Transfer:
    """The same rows with psycopg, binary, over a cursor of the server, so that they need not be held all at once."""
    with psycopg.connect(url.get_secret_value()) as connection, connection.cursor("rows", binary=True) as cursor:
        cursor.itersize = CURSOR_ROWS
        cursor.execute(
            """SELECT timestamp, well_id, tag_node_id, value, quality FROM scada_readings
               WHERE well_id = %s AND timestamp <= to_timestamp(%s) ORDER BY timestamp DESC, tag_node_id""",
            [WELL, LAST_US / 1e6],
        )
        return _timed(len(rows) for rows in iter(partial(cursor.fetchmany, CURSOR_ROWS), []))


def _timed(counts: Any) -> Transfer:
    started = time.perf_counter()
    first_s, rows = 0.0, 0
    for count in counts:
        first_s = first_s or time.perf_counter() - started
        rows += count
    return Transfer(first_s, time.perf_counter() - started, rows)


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
