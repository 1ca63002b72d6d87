"""The live table of ``scada-trio demo`` and of ``serve`` on a terminal: a row a tenant, redrawn twice a second.

Owns what a person sees while the service runs. Knows tenants by their `TenantSnapshot` only, no task and no database;
the command that owns the terminal starts `run_view` and sends the logs somewhere else meanwhile.

Drawing is done in a worker thread: a terminal that takes its time, or is paused with Ctrl-S, holds up no reading.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from uuid import UUID

import trio
from rich import box
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scada_trio.status import ConnectionState, TenantSnapshot

RATE_WINDOW_S: Final = 5.0
LOG_LINES: Final = 5
ERROR_LINES: Final = 5
ERROR_WIDTH: Final = 160
_FRAME_LINES: Final = 6  # title, header, rule, blank lines and the line that counts the rows left out
_STATE_WIDTH: Final = 18
_FIGURES_WIDTH: Final = 54  # of all columns but the first two, with totals of nine digits
_STATE_STYLES: Final = {"running": "green", "starting": "yellow", "stopping": "yellow"}
_OTHER_STATE_STYLE: Final = "bold red"

Lines = Callable[[], Sequence[str]] | Sequence[str]


async def run_view(
    snapshots: Callable[[], Sequence[TenantSnapshot]],
    *,
    footer: Lines = (),
    interval_s: float = 0.5,
    console: Console | None = None,
    recent_logs: Sequence[str] = (),
) -> None:
    """Draw the table every ``interval_s`` seconds; returns only when cancelled, and leaves the last table on screen.

    ``snapshots`` and a callable ``footer`` are called in the Trio thread before each drawing. The last lines of
    ``recent_logs``, a deque that a logging handler may append to from any thread, stand under the table.
    """
    screen = console or Console()
    view = View()
    with Live(console=screen, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            lines = footer() if callable(footer) else footer
            logs = list(recent_logs)[-LOG_LINES:]
            clock = Clock(unix_s=time.time(), monotonic_s=time.monotonic())
            drawn = view.draw(snapshots(), lines, logs, clock=clock, size=screen.size)
            await trio.to_thread.run_sync(_show, live, drawn)
            await trio.sleep(interval_s)


def _show(live: Live, drawn: RenderableType) -> None:
    live.update(drawn, refresh=True)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of one drawing: of day for ages, and one that never goes back for rates."""

    unix_s: float
    monotonic_s: float


class RateMeter:
    """Readings a second from a total that grows in leaps, a batch at a time.

    The rate is taken between the moments at which the total grew, over the last ``window_s`` seconds or the last leap
    where that is longer: a batch every five seconds shows as a steady rate, not as one that comes and goes. A total
    that no longer grows shows as a rate that sinks. Seconds are of a monotonic clock.
    """

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._growth: deque[tuple[float, int]] = deque()

    def update(self, total: int, at_s: float) -> None:
        """Note the total as it is now; one that is smaller than before starts anew."""
        if self._growth and total < self._growth[-1][1]:
            self._growth.clear()
        if not self._growth or total > self._growth[-1][1]:
            self._growth.append((at_s, total))
        while len(self._growth) > 2 and self._growth[1][0] <= self._growth[-1][0] - self._window_s:
            self._growth.popleft()

    def per_second(self, now_s: float) -> float:
        """The rate as of ``now_s``; 0 until the total has grown."""
        if len(self._growth) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._growth[0], self._growth[-1]
        return (last - first) / max(last_s - first_s, now_s - last_s, 1e-9)


class View:
    """Makes the table from snapshots; keeps what rates need from one drawing to the next. Draws on no terminal."""

    def __init__(self) -> None:
        self._meters: dict[UUID, RateMeter] = {}

    def draw(
        self,
        tenants: Sequence[TenantSnapshot],
        footer: Sequence[str],
        logs: Sequence[str],
        *,
        clock: Clock,
        size: ConsoleDimensions,
    ) -> RenderableType:
        """The table with what stands under it, for a terminal of ``size``.

        Where there are more tenants than lines, those that do not run or have lost a connection come first. A line of
        the footer is wrapped, so that it can be copied whole; a line of the log is cut.
        """
        self._measure(tenants, clock.monotonic_s)
        below = [*_error_lines(tenants), *(_cut(line, "dim") for line in logs)]
        footer_height = sum(max(1, -(-len(line) // max(1, size.width))) for line in footer)
        room = max(1, size.height - len(below) - footer_height - _FRAME_LINES)
        shown = sorted(tenants, key=_is_well)[:room] if len(tenants) > room else tenants
        table = _table(self._title(tenants, clock.monotonic_s))
        state_width = max((min(len(tenant.state), _STATE_WIDTH) for tenant in shown), default=0)
        name_width = min(max(size.width - _FIGURES_WIDTH - state_width, 8), 32)
        for tenant in shown:
            table.add_row(Text(shortened(tenant.name, name_width)), *self._row(tenant, clock))
        if len(shown) < len(tenants):
            below.insert(0, Text(f"and {len(tenants) - len(shown)} more tenants", style="dim"))
        return Group(table, *below, *(Text(printable(line), overflow="fold") for line in footer))

    def _measure(self, tenants: Sequence[TenantSnapshot], now_s: float) -> None:
        meters = {tenant.tenant_id: self._meters.get(tenant.tenant_id) or RateMeter() for tenant in tenants}
        for tenant in tenants:
            meters[tenant.tenant_id].update(tenant.accounts.committed, now_s)
        self._meters = meters  # without those of tenants that are gone

    def _rate(self, tenant: TenantSnapshot, now_s: float) -> float:
        return self._meters[tenant.tenant_id].per_second(now_s)

    def _title(self, tenants: Sequence[TenantSnapshot], now_s: float) -> str:
        rate = sum(self._rate(tenant, now_s) for tenant in tenants)
        connected = sum(tenant.connected for tenant in tenants)
        connections = sum(len(tenant.connections) for tenant in tenants)
        committed = sum(tenant.accounts.committed for tenant in tenants)
        return (
            f"{len(tenants)} tenants, {connected}/{connections} connected, "
            f"{rate:,.0f} readings/s, {committed:,} committed"
        )

    def _row(self, tenant: TenantSnapshot, clock: Clock) -> list[Text]:
        connections = len(tenant.connections)
        return [
            Text(shortened(tenant.state, _STATE_WIDTH), style=_STATE_STYLES.get(tenant.state, _OTHER_STATE_STYLE)),
            Text(f"{tenant.connected}/{connections}", style="" if tenant.connected == connections else "yellow"),
            Text(f"{self._rate(tenant, clock.monotonic_s):,.0f}"),
            Text(f"{tenant.accounts.committed:,}"),
            Text(f"{tenant.buffered:,}"),
            Text(age(tenant.last_commit_at, clock.unix_s)),
        ]


def _table(title: str) -> Table:
    # Fits in 80 columns, since a cut number would mislead: short headings, and errors are lines of their own.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tenant", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("online", "rate/s", "committed", "buffer", "written"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _error_lines(tenants: Sequence[TenantSnapshot]) -> list[Text]:
    """A line each for the first tenants with an error."""
    errors = ((tenant.name, error_of(tenant)) for tenant in tenants)
    lines = (_cut(f"{name}: {shortened(error)}", "red") for name, error in errors if error)
    return list(islice(lines, ERROR_LINES))


def _cut(line: str, style: str) -> Text:
    return Text(printable(line), style=style, no_wrap=True, overflow="ellipsis")


def _is_well(tenant: TenantSnapshot) -> bool:
    return tenant.state == "running" and tenant.connected == len(tenant.connections)


def error_of(tenant: TenantSnapshot) -> str | None:
    """The tenant's own last error, else one of a connection that is not connected."""
    if tenant.last_error:
        return tenant.last_error
    away = (status for status in tenant.connections.values() if status.state is not ConnectionState.CONNECTED)
    return next((status.last_error for status in away if status.last_error), None)


def shortened(text: str | None, width: int = ERROR_WIDTH) -> str:
    """One printable line of at most ``width`` characters."""
    line = printable(" ".join((text or "").split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def printable(text: str) -> str:
    """``text`` without control characters, so that a device's name or error cannot steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def age(at: float | None, now: float) -> str:
    """Time from ``at`` to ``now``, both Unix seconds, in its largest unit: ``0.4 s``, ``3 min``; a dash for never."""
    if at is None:
        return "–"
    seconds = max(0.0, now - at)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
