"""The wells of a simulated field and how their values move.

Pure: no clock, no network, no library of OPC UA. The same seed and number give the same well, ids and values,
however many other wells there are. Started and driven by `server`, or by a test.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID, uuid5

DataType = Literal["Boolean", "Int32", "Float", "Double"]

GOOD: Final = 0
# Status codes of OPC UA Part 4, 7.39.2, and Part 8, 6.3: what sensors report of themselves.
UNCERTAIN_SENSOR_NOT_ACCURATE: Final = 0x40930000
BAD_SENSOR_FAILURE: Final = 0x808C0000

UNCERTAIN_RATE: Final = 0.002  # of all values
BAD_RATE: Final = 0.0005

_NAMESPACE: Final = UUID("6f1b7a52-0c52-5d0e-9a55-6f3f0f6b8f0e")


@dataclass(frozen=True, slots=True)
class TagModel:
    """One measured point: a random walk in ``low`` .. ``high`` that is drawn back to ``typical``.

    ``step`` is the standard deviation of one step and ``pull`` the part of the way home of each, so a walk stays within
    about ``step / sqrt(2 * pull)`` of where it belongs. A Boolean is true where its walk is above ``trips_at``.
    """

    name: str
    unit: str
    data_type: DataType
    low: float
    high: float
    typical: float
    step: float
    pull: float = 0.01
    trips_at: float = 0.0

    def next(self, level: float, home: float, rng: random.Random) -> float:
        """The level after ``level`` of a well whose own typical value is ``home``."""
        moved = level + self.pull * (home - level) + rng.gauss(0.0, self.step)
        return min(max(moved, self.low), self.high)

    def shown(self, level: float) -> bool | int | float:
        """``level`` as the tag's data type has it."""
        if self.data_type == "Boolean":
            return level > self.trips_at
        return round(level) if self.data_type == "Int32" else level


# A beam-pumped oil well with its tank, in the units of a field in the Permian basin.
TAG_MODELS: Final = (
    TagModel("CasingPressure", "psi", "Double", 0, 1_500, 280, 1.5),
    TagModel("TubingPressure", "psi", "Double", 0, 2_000, 340, 2.0),
    TagModel("LinePressure", "psi", "Float", 0, 500, 85, 0.6),
    TagModel("WellheadTemperature", "degF", "Float", -20, 250, 118, 0.15),
    TagModel("OilFlowRate", "bbl/d", "Double", 0, 600, 96, 0.8),
    TagModel("GasFlowRate", "Mcf/d", "Double", 0, 3_000, 410, 3.0),
    TagModel("WaterFlowRate", "bbl/d", "Double", 0, 2_500, 230, 1.6),
    TagModel("TankLevel", "in", "Int32", 0, 240, 112, 0.5, pull=0.001),
    TagModel("MotorCurrent", "A", "Float", 0, 120, 43, 0.9, pull=0.05),
    TagModel("VibrationSwitch", "tripped", "Boolean", 0, 2, 0.45, 0.08, pull=0.03, trips_at=1.0),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a tag shows: ``value`` is None where ``status``, an OPC UA status code, is Bad."""

    value: bool | int | float | None
    status: int = GOOD


class Well:
    """One well: its identity, and the walks of its tags.

    ``number`` counts from 1. Ids and node ids depend on seed and number alone, so a second run finds the same wells.
    """

    def __init__(self, number: int, *, seed: int) -> None:
        self.number = number
        self.well_id = uuid5(_NAMESPACE, f"{seed}/{number}")
        self.key = f"Well{number:04d}"
        self.name = f"Well {number:04d}"
        self._rng = random.Random(f"{seed}/{number}")  # noqa: S311 - a simulation
        # no two wells are alike: each tag of this one keeps to a home of its own
        self._homes = [min(max(tag.typical * self._rng.uniform(0.7, 1.3), tag.low), tag.high) for tag in TAG_MODELS]
        self._levels = list(self._homes)

    def tag_id(self, tag: TagModel) -> UUID:
        """The id of one of this well's tags."""
        return uuid5(self.well_id, tag.name)

    def node_name(self, tag: TagModel) -> str:
        """The string identifier of the tag's node."""
        return f"{self.key}.{tag.name}"

    def advance(self) -> Iterator[Sample]:
        """Move every walk by one step and give the samples in the order of `TAG_MODELS`."""
        for index, tag in enumerate(TAG_MODELS):
            level = self._levels[index] = tag.next(self._levels[index], self._homes[index], self._rng)
            chance = self._rng.random()
            if chance < BAD_RATE:
                yield Sample(None, BAD_SENSOR_FAILURE)
            elif chance < BAD_RATE + UNCERTAIN_RATE:
                yield Sample(tag.shown(level), UNCERTAIN_SENSOR_NOT_ACCURATE)
            else:
                yield Sample(tag.shown(level))


def make_field(wells: int, *, seed: int) -> list[Well]:
    """Wells 1 to ``wells``."""
    return [Well(number, seed=seed) for number in range(1, wells + 1)]
