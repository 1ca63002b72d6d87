"""What is asked for of a subscription and of each item: the tag's word, else the connection's, else the environment's.

Pure functions; starts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.readings import Tag

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ItemParameters:
    """MonitoringParameters (OPC UA Part 4, 7.21) of one item; at most one of the deadbands is there.

    ``deadband`` is absolute, in the device's unit; ``percent`` is of the node's EURange.
    """

    sampling_ms: float
    queue_size: int
    discard_oldest: bool
    deadband: float | None = None
    percent: float | None = None


def item_parameters(tag: Tag, spec: ConnectionSpec, settings: DeviceSettings) -> ItemParameters:
    """What is asked for of the item of ``tag``, one of ``spec``.

    The queue's places are for values sampled between two reports, and for the time in which we hold Publish back.
    """
    own, general = tag.sampling, spec.sampling
    deadband = raw_deadband(tag)
    return ItemParameters(
        _first(own.interval_ms, general.interval_ms, settings.sampling_interval_s * 1000),
        _first(own.queue_size, general.queue_size, settings.queue_size),
        _first(own.discard_oldest, general.discard_oldest, settings.discard_oldest),
        deadband,
        tag.deadband_percent if deadband is None and tag.deadband_percent else None,
    )


def publishing_ms(spec: ConnectionSpec, settings: DeviceSettings) -> float:
    """The publishing interval asked for."""
    return _first(spec.publishing_interval_ms, None, settings.publishing_interval_s * 1000)


def raw_deadband(tag: Tag) -> float | None:
    """The deadband in the device's unit: the tag's is in scaled units. None where there is none to ask for."""
    if tag.deadband is None or tag.factor == 0.0:
        return None
    raw = tag.deadband / abs(tag.factor)
    return raw if math.isfinite(raw) and raw > 0.0 else None


def _first(own: T | None, general: T | None, last: T) -> T:
    if own is not None:
        return own
    return general if general is not None else last
