"""The order of a load test: everything up, warm, measured, drained, counted.

open_rig ─► all connected ─► warm-up ─► measured ─► cool-down ─► wells paused ─► drained ─► service stopped ─► counted
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import trio
from pydantic import SecretStr

from scada_trio.loadtest.account import Account, settle
from scada_trio.loadtest.child import LoadTestFailed
from scada_trio.loadtest.load import Load
from scada_trio.loadtest.report import Report, measure
from scada_trio.loadtest.rig import Rig, open_rig
from scada_trio.loadtest.sampling import Sample, Sampler
from scada_trio.simulator.record import read_record
from scada_trio.storage.tally import stored_steps

SAMPLE_EVERY_S: Final = 1.0
DRAIN_TIMEOUT_S: Final = 120.0
_CONNECT_S: Final = (30.0, 0.1)  # at least, and for each well
_QUIET_SAMPLES: Final = 3  # and as many as a device may keep its last values for
_PUBLISHING_MS: Final = 1000.0
_WINDOW_SAMPLES: Final = 2

Show = Callable[[Sequence[Sample], str], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Where and how; ``late_s`` is when a reading counts as late, ``environment`` goes over ours for the service."""

    directory: Path
    database_url: SecretStr | None = None
    keep: bool = False
    late_s: float = 15.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def quiet_samples(self) -> int:
        """Samples without a new value after which no device has any left."""
        name = "OPC_PUBLISHING_INTERVAL_MS"
        interval_ms = float(self.environment.get(name) or os.environ.get(name) or _PUBLISHING_MS)
        return _QUIET_SAMPLES + math.ceil(interval_ms / 1000 / SAMPLE_EVERY_S) - 1


async def run_load_test(load: Load, options: Options, *, say: Say, show: Show) -> tuple[Report, list[Sample]]:
    """Carry a test out; the report, and the samples from the first connection to the end of the measured time.

    ``say`` is told what is being done before there are figures, ``show`` gets all samples once a second. Raises
    `LoadTestFailed`, `ConfigError` or `DatabaseError` where it cannot be carried out.
    """
    opened = open_rig(
        load,
        options.directory,
        database_url=options.database_url,
        keep=options.keep,
        environment=options.environment,
        say=say,
    )
    async with opened as rig:
        return await measure_rig(rig, load, options, say=say, show=show)


async def measure_rig(rig: Rig, load: Load, options: Options, *, say: Say, show: Show) -> tuple[Report, list[Sample]]:
    """The same with a rig that runs; its service is stopped by it."""
    run = _Run(load, Sampler(rig), show)
    await run.until_connected()
    await run.take_for(load.warmup_s, "warming up")
    first = len(run.samples) - 1
    await run.take_for(load.duration_s, "measuring")
    measured = run.samples[first:]
    kept = list(run.samples)
    await run.take_for(load.cooldown_s, "cooling down")
    await rig.field.pause()
    await run.until_drained(options.quiet_samples)
    say("stopping the service")
    status = await rig.service.stop()
    say("counting what is stored")
    account = await trio.to_thread.run_sync(partial(_count, rig, measured, options.late_s))
    figures = measure(measured, account, service_errors=rig.service.errors, service_status=status)
    measured_s = measured[-1].at_s - measured[0].at_s
    return Report(load, rig.database, figures, account, measured_s), kept


class _Run:
    """Takes samples and shows them."""

    def __init__(self, load: Load, sampler: Sampler, show: Show) -> None:
        self.samples: list[Sample] = []
        self._load = load
        self._sampler = sampler
        self._show = show
        self._due = trio.current_time()

    async def until_connected(self) -> None:
        """Wait until every well is connected and values come; raises `LoadTestFailed` where that takes too long."""
        least_s, each_s = _CONNECT_S
        with trio.move_on_after(least_s + each_s * self._load.wells):
            while True:
                sample = await self._take("connecting")
                if sample.counter("connected") >= self._load.wells and sample.counter("received") > 0:
                    return
        connected = self.samples[-1].counter("connected") if self.samples else 0
        raise LoadTestFailed(f"only {connected:.0f} of {self._load.wells} wells are connected in time")

    async def take_for(self, seconds: float, phase: str) -> None:
        """Sample for a while, twice at least."""
        until = trio.current_time() + seconds
        taken = 0
        while taken < _WINDOW_SAMPLES or trio.current_time() < until:
            await self._take(phase)
            taken += 1

    async def until_drained(self, quiet_samples: int) -> None:
        """Wait until nothing more comes and nothing waits; a service that does not get there shows in the count."""
        quiet = 0
        with trio.move_on_after(DRAIN_TIMEOUT_S):
            while quiet < quiet_samples:
                before = self.samples[-1]
                sample = await self._take("draining")
                is_quiet = sample.counter("buffered") == 0 and sample.counter("received") == before.counter("received")
                quiet = quiet + 1 if is_quiet else 0

    async def _take(self, phase: str) -> Sample:
        await trio.sleep_until(self._due)
        # after a late one there is half a period at least to the next: a rate over a few milliseconds says nothing
        self._due = max(self._due + SAMPLE_EVERY_S, trio.current_time() + SAMPLE_EVERY_S / 2)
        sample = await self._sampler.take()
        self.samples.append(sample)
        self._show(self.samples, phase)
        return sample


def _count(rig: Rig, measured: Sequence[Sample], late_s: float) -> Account:
    stored = np.concatenate([stored_steps(url, rig.wells) for url in rig.tenant_urls])
    write = measured[-1].scrape.histograms["write"].since(measured[0].scrape.histograms["write"])
    return settle(
        read_record(rig.record),
        stored,
        window_us=(measured[0].unix_us, measured[-1].unix_us),
        commit_s=write.mean or 0.0,
        late_s=late_s,
    )
