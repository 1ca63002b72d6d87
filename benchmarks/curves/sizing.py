"""What the curves come to: the cost of a value, a message, a connection, a tag, and by them what more would take. Pure.

Costs are slopes, by least squares over a sweep in which one quantity grows; what does not grow is the rest. The plan
multiplies them: it says what must be there at least, on cores like those that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from benchmarks.curves.point import Measured

NEEDED: Final = frozenset({"tags", "connections", "interval"})

BUSY: Final = 0.6
"""Of a core that is planned with; the rest is for peaks, restarts and queries."""
CONNECTIONS_A_PROCESS: Final = 2_000
"""The most that was measured."""
_DAY_S: Final = 86_400
_FEWEST_STORED: Final = 100_000  # below, half-filled pages count for too much
LOADS: Final = (
    (10_000, 10),
    (10_000, 1_000),
    (1_000_000, 10),
    (1_000_000, 1_000),
    (10_000_000, 10),
    (10_000_000, 1_000),
)
"""Tags a second, and tags of each device, which reports once a second."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a core, and bytes."""

    value_s: float
    message_s: float
    idle_cores: float
    connection_bytes: float
    tag_bytes: float
    base_bytes: float
    row_s: float
    row_disk_bytes: float
    row_heap_bytes: float

    @classmethod
    def of(cls, found: Mapping[str, Sequence[Measured]]) -> Self:
        """By the sweeps `NEEDED`."""
        tags, connections, interval = (found[name] for name in ("tags", "connections", "interval"))
        value_s, _ = _slope([(one.offered_per_s, one.service_cores) for one in tags])
        message_s, _ = _slope([(one.connections * 1000 / one.x, one.service_cores) for one in interval])
        tag_bytes, _ = _slope([(one.connections * one.tags, one.rss) for one in tags])
        a_connection, base = _slope([(one.connections, one.rss) for one in connections])
        row_s, _ = _slope([(one.offered_per_s, one.postgres_cores) for one in tags])
        large = [one for one in tags if one.stored >= _FEWEST_STORED] or list(tags)[-1:]
        rows = sum(one.stored for one in large)
        return cls(
            value_s=value_s,
            message_s=message_s,
            idle_cores=min(one.service_cores for one in connections),
            connection_bytes=a_connection - connections[0].tags * tag_bytes,
            tag_bytes=tag_bytes,
            base_bytes=base,
            row_s=row_s,
            row_disk_bytes=sum(one.disk_bytes for one in large) / rows,
            row_heap_bytes=sum(one.heap_bytes for one in large) / rows,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load takes at least; ``memory_bytes`` of all service processes together."""

    tags_per_s: int
    tags_each: int
    connections: int
    service_cores: float
    processes: int
    memory_bytes: float
    postgres_cores: float
    disk_bytes_a_day: float

    @classmethod
    def of(cls, tags_per_s: int, tags_each: int, costs: Costs) -> Self:
        """Each device sends one message a second."""
        connections = math.ceil(tags_per_s / tags_each)
        cores = tags_per_s * costs.value_s + connections * costs.message_s
        processes = max(1, math.ceil(cores / BUSY), math.ceil(connections / CONNECTIONS_A_PROCESS))
        memory = (
            processes * costs.base_bytes
            + connections * costs.connection_bytes
            + connections * tags_each * costs.tag_bytes
        )
        return cls(
            tags_per_s,
            tags_each,
            connections,
            cores + processes * costs.idle_cores,
            processes,
            memory,
            tags_per_s * costs.row_s,
            tags_per_s * _DAY_S * costs.row_disk_bytes,
        )


def sections(found: Mapping[str, Sequence[Measured]]) -> tuple[str, str]:
    """The tables of costs and of plans in Markdown."""
    costs = Costs.of(found)
    return costs_table(costs), plans_table([Plan.of(*load, costs) for load in LOADS])


def costs_table(costs: Costs) -> str:
    """A line a cost."""
    rows = (
        ("a value, in the service", f"{costs.value_s * 1e6:.2f} µs of a core", "sweep `tags`"),
        ("a message of a device, in the service", f"{costs.message_s * 1e6:.0f} µs of a core", "sweep `interval`"),
        ("a row, in PostgreSQL", f"{costs.row_s * 1e6:.2f} µs of a core", "sweep `tags`"),
        (
            "a process of the service, idle",
            f"{costs.idle_cores:.2f} core, {costs.base_bytes / 1e6:.0f} MB",
            "`connections`",
        ),
        ("a connection", f"{costs.connection_bytes / 1e3:.0f} kB", "sweep `connections`"),
        ("a tag", f"{costs.tag_bytes / 1e3:.2f} kB", "sweep `tags`"),
        ("a row on disk", f"{costs.row_disk_bytes:.0f} bytes, {costs.row_heap_bytes:.0f} without its index", "`tags`"),
    )
    return "\n".join(["| of | cost | from |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def plans_table(plans: Sequence[Plan]) -> str:
    """A line a plan."""
    head = (
        *("tags/s", "devices × tags, 1 Hz", "service, cores", "processes", "memory of all", "PostgreSQL, cores"),
        "disk a day, not compressed",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for plan in plans:
        cells = (
            f"{plan.tags_per_s:,}",
            f"{plan.connections:,} × {plan.tags_each:,}",
            _cores(plan.service_cores),
            f"{plan.processes:,}",
            _bytes(plan.memory_bytes),
            _cores(plan.postgres_cores),
            _bytes(plan.disk_bytes_a_day),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _slope(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and the value at 0 of the line through ``pairs``, two at least; a cost is not negative."""
    slope, at_zero = np.polyfit([x for x, _ in pairs], [y for _, y in pairs], 1)
    return max(0.0, float(slope)), float(at_zero)


def _cores(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.1f} {unit}" if value < 10 * size else f"{value / size:,.0f} {unit}"
    return f"{value / 1e3:,.0f} kB"
