"""What load is offered. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from scada_trio.simulator.field import FaultRates


class Mode(StrEnum):
    """The three loads that the service is promised for."""

    NORMAL = "normal"
    PEAK = "peak"
    STRESS = "stress"


WELLS: Final = {Mode.NORMAL: 50, Mode.PEAK: 200, Mode.STRESS: 1_000}
TAGS: Final = 10


@dataclass(frozen=True, slots=True)
class Load:
    """``wells`` endpoints of ``tags`` tags, each with ``rate_hz`` values a second, divided among ``tenants``.

    ``cooldown_s`` goes on behind what is measured, whose last batch would else wait for more until it is old.
    """

    name: str
    wells: int
    tags: int = TAGS
    rate_hz: float = 1.0
    duration_s: float = 60.0
    warmup_s: float = 10.0
    tenants: int = 1
    seed: int = 1
    rates: FaultRates = field(default_factory=FaultRates)
    cooldown_s: float = 2.0

    @property
    def values_per_s(self) -> float:
        """What is offered."""
        return self.wells * self.tags * self.rate_hz

    @property
    def interval_ms(self) -> float:
        """Between two values of a tag."""
        return 1000.0 / self.rate_hz

    @property
    def queue_size(self) -> int:
        """Values that a device should keep of a tag: four seconds of them, ten at least."""
        return max(10, math.ceil(4 * self.rate_hz))


def load_of(
    mode: Mode,
    *,
    wells: int | None = None,
    tags: int | None = None,
    rate_hz: float | None = None,
    **rest: float | int | FaultRates,
) -> Load:
    """The load of a mode; what is given beside replaces a part of it."""
    custom = not wells == tags == rate_hz is None
    return Load(
        "custom" if custom else mode.value,
        wells if wells is not None else WELLS[mode],
        tags if tags is not None else TAGS,
        rate_hz if rate_hz is not None else 1.0,
        **rest,  # type: ignore[arg-type]
    )
