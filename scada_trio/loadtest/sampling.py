"""One sample a second of a run: the service's metrics, and what the operating system knows of the processes.

`Sampler` is called by the run; psutil comes with the extra ``loadtest``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import trio

from scada_trio.loadtest.child import LoadTestFailed
from scada_trio.loadtest.rig import Rig
from scada_trio.loadtest.scrape import Scrape, scrape


@dataclass(frozen=True, slots=True)
class Sample:
    """``at_s`` is monotonic, ``unix_us`` the time of day; CPU in seconds since each process began, RSS in bytes."""

    at_s: float
    unix_us: int
    scrape: Scrape
    rss_bytes: int
    service_cpu_s: float
    simulator_cpu_s: float
    simulator_rss_bytes: int
    machine_busy: float  # part of all cores, since the sample before

    def counter(self, name: str) -> float:
        """One of `scrape.COUNTERS`."""
        return self.scrape.counters[name]


class Sampler:
    """Takes samples of a rig."""

    def __init__(self, rig: Rig) -> None:
        self._port = rig.service.metrics_port
        self._service = psutil.Process(rig.service.pid)
        self._simulator = psutil.Process(rig.field.pid)
        psutil.cpu_percent()  # from here on

    async def take(self) -> Sample:
        """The state of this moment; raises `LoadTestFailed` where the service does not answer."""
        return await trio.to_thread.run_sync(self._take)

    def _take(self) -> Sample:
        try:
            scraped = scrape(self._port)
            return Sample(
                time.monotonic(),
                time.time_ns() // 1000,
                scraped,
                self._service.memory_info().rss,
                sum(self._service.cpu_times()[:2]),
                sum(self._simulator.cpu_times()[:2]),
                self._simulator.memory_info().rss,
                psutil.cpu_percent() / 100,
            )
        except (OSError, ValueError, psutil.Error) as error:
            raise LoadTestFailed(f"no figures of the service: {error}") from error
