"""What a device is asked for: how often it looks and reports, what it queues, what it filters.

Owns names, limits and form of these parameters (OPC UA Part 4, 5.12.2 and 5.13.2), so that a row, a file and a request
mean the same by them. Plain values and pure functions; values come as text or as numbers, and `InvalidField` names
the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scada_trio.errors import InvalidField

MAX_INTERVAL_MS: Final = 86_400_000  # a day
MAX_QUEUE_SIZE: Final = 1_000_000
FIELDS: Final = ("sampling_interval_ms", "queue_size", "discard_oldest")

_FLAGS: Final = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of monitored items; None leaves one to the level above: tag, connection, environment.

    ``interval_ms`` 0 is as often as the device can; ``discard_oldest`` says which end of a full queue is thrown away.
    """

    interval_ms: float | None = None
    queue_size: int | None = None
    discard_oldest: bool | None = None


UNSET: Final = Sampling()


def parse_sampling(prefix: str, fields: Mapping[str, object]) -> Sampling:
    """The `FIELDS` of ``fields``, each of which may be absent, None or empty; ``prefix`` stands before their names."""
    interval_ms = parse_number(f"{prefix}sampling_interval_ms", fields.get("sampling_interval_ms"), 0, MAX_INTERVAL_MS)
    queue_size = parse_number(f"{prefix}queue_size", fields.get("queue_size"), 1, MAX_QUEUE_SIZE)
    if queue_size is not None and queue_size != int(queue_size):
        raise InvalidField(f"{prefix}queue_size", f"{queue_size:g} is not a whole number")
    discard_oldest = _parse_flag(f"{prefix}discard_oldest", fields.get("discard_oldest"))
    if interval_ms is queue_size is discard_oldest is None:
        return UNSET
    return Sampling(interval_ms, None if queue_size is None else int(queue_size), discard_oldest)


def parse_publishing_interval(field: str, value: object) -> float | None:
    """Milliseconds between two reports."""
    return parse_number(field, value, 1, MAX_INTERVAL_MS)


def parse_deadband_percent(field: str, value: object, deadband: float | None) -> float | None:
    """Percent of the node's EURange; 0 is none. ``deadband`` is the absolute one of the same tag: one of the two."""
    percent = parse_number(field, value, 0, 100)
    if percent and deadband:
        raise InvalidField(field, "cannot be given beside deadband, a node has one filter")
    return percent


def parse_number(field: str, value: object, least: float = -math.inf, most: float = math.inf) -> float | None:
    """A finite number from ``least`` to ``most``; None where there is none."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidField(field, f"{text[:40]!r} is not a number")
    if not least <= number <= most:
        raise InvalidField(field, f"{number:,.15g} is not between {least:,} and {most:,}")
    return number


def _parse_flag(field: str, value: object) -> bool | None:
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    flag = _FLAGS.get(text.lower())
    if flag is None:
        raise InvalidField(field, f"{text[:40]!r} is neither true nor false")
    return flag
