"""The wells of a simulated field and how their values move.

Pure: no clock, no network, no library of OPC UA. The same seed and number give the same well, ids and typical values,
however many other wells there are; the same seed and size of the field give the same values too. Driven by `server`,
or by a test.

Values are columns, a row a well and a column a tag, because ten thousand of them a second must cost next to nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

DataType = Literal["Boolean", "Int32", "Float", "Double"]

GOOD: Final = 0
# Status codes of OPC UA Part 4, 7.39.2, and Part 8, 6.3: what sensors report of themselves.
UNCERTAIN_SENSOR_NOT_ACCURATE: Final = 0x40930000
BAD_SENSOR_FAILURE: Final = 0x808C0000

_NAMESPACE: Final = UUID("6f1b7a52-0c52-5d0e-9a55-6f3f0f6b8f0e")


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How much goes wrong in the field.

    ``uncertain`` and ``bad`` are parts of all values. Bad ones come in episodes of ``episode_steps`` values on average,
    as of a sensor that fails and recovers. ``outages_per_hour`` is how often a well loses its power, for ``outage_s``
    seconds.
    """

    uncertain: float = 0.002
    bad: float = 0.0005
    episode_steps: float = 20.0
    outages_per_hour: float = 0.0
    outage_s: float = 10.0


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


def tag_models(count: int) -> tuple[TagModel, ...]:
    """The first ``count`` tags of a well; beyond ten they come again as ``CasingPressure.2`` and so on."""
    rounds, kinds = divmod(count, len(TAG_MODELS))
    again = [replace(tag, name=f"{tag.name}.{number}") for number in range(2, rounds + 2) for tag in TAG_MODELS]
    return (*TAG_MODELS, *again)[: rounds * len(TAG_MODELS) + kinds]


@dataclass(frozen=True, slots=True)
class Well:
    """Who a well is. ``number`` counts from 1; everything depends on seed and number alone."""

    number: int
    seed: int
    tags: tuple[TagModel, ...] = TAG_MODELS

    @property
    def well_id(self) -> UUID:
        """The same in every run."""
        return uuid5(_NAMESPACE, f"{self.seed}/{self.number}")

    @property
    def key(self) -> str:
        """The string identifier of the well's folder."""
        return f"Well{self.number:04d}"

    @property
    def name(self) -> str:
        """For people."""
        return f"Well {self.number:04d}"

    def tag_id(self, tag: TagModel) -> UUID:
        """The id of one of this well's tags."""
        return uuid5(self.well_id, tag.name)

    def node_name(self, tag: TagModel) -> str:
        """The string identifier of the tag's node."""
        return f"{self.key}.{tag.name}"

    def homes(self) -> list[float]:
        """Where each tag of this well belongs: no two wells are alike."""
        rng = random.Random(f"{self.seed}/{self.number}")  # noqa: S311 - a simulation
        return [min(max(tag.typical * rng.uniform(0.7, 1.3), tag.low), tag.high) for tag in self.tags]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What some wells show, a row each and a column a tag.

    ``value`` float64, already as the tag's data type has it (whole, single precision, 0 or 1), of no meaning where
    ``status``, uint32, an OPC UA status code, is Bad.
    """

    value: NDArray[np.float64]
    status: NDArray[np.uint32]


class Field:
    """Wells 1 to ``wells``, of ``tags`` tags each, and where their walks stand."""

    def __init__(self, wells: int, *, seed: int, tags: int = 10, rates: FaultRates | None = None) -> None:
        self.tags = tag_models(tags)
        self.wells = [Well(number, seed, self.tags) for number in range(1, wells + 1)]
        self.rates = rates if rates is not None else FaultRates()
        self._rng = np.random.default_rng(seed)
        self._homes = np.array([well.homes() for well in self.wells])
        self._levels = self._homes.copy()
        self._faulty = np.zeros(self._levels.shape, bool)
        self._low, self._high, self._step, self._pull, self._trips_at = (
            np.array([getattr(tag, name) for tag in self.tags]) for name in ("low", "high", "step", "pull", "trips_at")
        )
        self._boolean, self._whole, self._single = (
            _columns(self.tags, data_type) for data_type in ("Boolean", "Int32", "Float")
        )
        self._ends = 1 / self.rates.episode_steps
        self._begins = self.rates.bad * self._ends / max(1e-9, 1 - self.rates.bad)

    def advance(self, wells: slice) -> Step:
        """Move every walk of those wells by one step."""
        levels, homes = self._levels[wells], self._homes[wells]
        levels += self._pull * (homes - levels)
        levels += self._step * self._rng.standard_normal(levels.shape)
        np.clip(levels, self._low, self._high, out=levels)
        return Step(self._shown(levels), self._statuses(wells))

    def _shown(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        value = levels.copy()
        value[:, self._boolean] = levels[:, self._boolean] > self._trips_at[self._boolean]
        value[:, self._whole] = np.rint(levels[:, self._whole])
        value[:, self._single] = levels[:, self._single].astype(np.float32)
        return value

    def _statuses(self, wells: slice) -> NDArray[np.uint32]:
        faulty = self._faulty[wells]
        chance = self._rng.random(faulty.shape)
        np.copyto(faulty, np.where(faulty, chance >= self._ends, chance < self._begins))
        status = np.zeros(faulty.shape, np.uint32)
        # another part of the same chance: that of an episode's begin is at its lower end
        status[chance >= 1 - self.rates.uncertain] = UNCERTAIN_SENSOR_NOT_ACCURATE
        status[faulty] = BAD_SENSOR_FAILURE
        return status


def _columns(tags: Sequence[TagModel], data_type: DataType) -> NDArray[np.int64]:
    return np.array([number for number, tag in enumerate(tags) if tag.data_type == data_type], np.int64)
