"""The live table: its figures, and that drawing it gets in nobody's way."""

from __future__ import annotations

import io
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
import trio
import trio.testing
from rich.console import Console, ConsoleDimensions

from scada_trio.accounts import Accounts
from scada_trio.status import ConnectionState, ConnectionStatus, TenantSnapshot
from scada_trio.view import Clock, RateMeter, View, age, error_of, run_view, shortened

NOW = 1_750_000_000.0
CLOCK = Clock(unix_s=NOW, monotonic_s=0.0)


def tenant(number: int = 1, **changes: object) -> TenantSnapshot:
    snapshot = TenantSnapshot(
        tenant_id=UUID(int=number),
        name=f"Tenant {number}",
        state="running",
        connections={UUID(int=1): ConnectionStatus(state=ConnectionState.CONNECTED)},
        last_commit_at=NOW - 2,
        last_error=None,
        accounts=Accounts(received=51_234, written=50_000, in_journal=1_234),
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]


def terminal(width: int = 140, height: int = 30, file: io.StringIO | None = None) -> Console:
    return Console(
        file=file or io.StringIO(), force_terminal=True, width=width, height=height, color_system=None, _environ={}
    )


def drawn(
    tenants: Sequence[TenantSnapshot], footer: Sequence[str] = (), logs: Sequence[str] = (), *, height: int = 30
) -> str:
    console = terminal(height=height)
    with console.capture() as capture:
        console.print(View().draw(tenants, footer, logs, clock=CLOCK, size=ConsoleDimensions(140, height)))
    return capture.get()


def rates(meter: RateMeter, totals: Sequence[tuple[float, int]]) -> list[float]:
    found = []
    for at_s, total in totals:
        meter.update(total, at_s)
        found.append(meter.per_second(at_s))
    return found


def test_a_steady_total_has_a_steady_rate() -> None:
    """50 readings at each refresh, two a second, are 100 a second from the second refresh on."""
    found = rates(RateMeter(), [(step / 2, 50 * step) for step in range(60)])
    assert found[0] == 0
    assert found[1:] == pytest.approx([100] * 59)


def test_batches_far_apart_have_a_steady_rate() -> None:
    """A batch of 700 every 7 s is 100 a second at every refresh between them, too."""
    meter = RateMeter(window_s=5)
    found = rates(meter, [(step / 2, 700 * (step // 14)) for step in range(140)])
    assert found[28:] == pytest.approx([100] * 112)


def test_a_rate_follows_a_change_within_the_window() -> None:
    """Ten times the load shows in full after five seconds."""
    meter = RateMeter(window_s=5)
    rates(meter, [(step / 2, 50 * step) for step in range(21)])
    found = rates(meter, [(10 + step / 2, 1_000 + 500 * step) for step in range(1, 11)])
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1_000)


def test_a_total_that_stands_still_has_a_sinking_rate() -> None:
    """A database that is away shows as fewer and fewer readings a second."""
    meter = RateMeter(window_s=5)
    rates(meter, [(step / 2, 50 * step) for step in range(21)])
    assert meter.per_second(12.0) == pytest.approx(100)
    assert meter.per_second(20.0) == pytest.approx(50)
    assert meter.per_second(1_000.0) < 1


def test_a_total_that_falls_starts_anew() -> None:
    """A tenant that was started again counts from zero and has no negative rate."""
    meter = RateMeter()
    assert rates(meter, [(0, 1_000), (1, 2_000), (2, 10), (3, 110)]) == [0, 1_000, 0, 100]


def test_a_meter_keeps_few_samples() -> None:
    """A view that is up for a week needs no more memory than one of a minute."""
    meter = RateMeter(window_s=5)
    rates(meter, [(step / 2, step) for step in range(10_000)])
    assert len(meter._growth) <= 12


def test_a_row_shows_a_tenant() -> None:
    """Name, state, connections, totals, buffer and the age of the last write stand in one row."""
    row = next(line for line in drawn([tenant()]).splitlines() if "Tenant 1" in line)
    assert re.split(r"\s{2,}", row.strip()) == ["Tenant 1", "running", "1/1", "0", "50,000", "1,234", "2.0 s"]


@pytest.mark.parametrize("state", ["running", "database away"])
def test_a_row_fits_in_80_columns(state: str) -> None:
    """No figure of a busy tenant with a long name is cut on the narrowest terminal in use."""
    busy = tenant(name="A Very Long Company", state=state, accounts=Accounts(written=987_654_321, in_journal=123_456))
    console = terminal(width=80)
    with console.capture() as capture:
        console.print(View().draw([busy], [], [], clock=CLOCK, size=ConsoleDimensions(80, 24)))
    row = next(line for line in capture.get().splitlines() if "A Very" in line)
    assert all(whole in row for whole in (state, "1/1", "987,654,321", "123,456", "2.0 s"))


def test_the_title_sums_up() -> None:
    """The title counts over all tenants, shown or not."""
    away = tenant(2, connections={UUID(int=1): ConnectionStatus(state=ConnectionState.WAITING)})
    assert "2 tenants, 1/2 connected, 0 readings/s, 100,000 committed" in drawn([tenant(1), away])


def test_a_lost_device_is_an_error_of_its_tenant() -> None:
    """What a waiting connection says is shown; what a connected one said earlier is not."""
    waiting = ConnectionStatus(state=ConnectionState.WAITING, last_error="no answer")
    connected = ConnectionStatus(state=ConnectionState.CONNECTED, last_error="an old story")
    assert error_of(tenant(connections={UUID(int=1): connected, UUID(int=2): waiting})) == "no answer"
    assert error_of(tenant(connections={UUID(int=1): connected})) is None
    assert error_of(tenant(last_error="database away", connections={UUID(int=2): waiting})) == "database away"


def test_tenants_that_need_attention_come_first_where_there_is_no_room() -> None:
    """200 tenants on a small screen: the failed one is seen, the others are counted."""
    tenants = [tenant(number) for number in range(1, 201)]
    tenants[150] = tenant(151, state="failed", last_error="it broke")
    text = drawn(tenants, height=20)
    assert "it broke" in text
    assert "and 187 more tenants" in text
    assert len(text.splitlines()) <= 20


def test_logs_and_footer_stand_under_the_table() -> None:
    """Log lines come before addresses; a long address is wrapped and not cut, markup is text."""
    query = "  scada-trio query " + "x" * 200
    text = drawn([tenant()], ["gRPC [red]127.0.0.1[/red]", query], ["a log line", "l" * 300])
    lines = text.splitlines()
    assert next(i for i, line in enumerate(lines) if "a log line" in line) < next(
        i for i, line in enumerate(lines) if "[red]127.0.0.1[/red]" in line
    )
    assert text.count("x") == 200
    assert text.count("l" * 100) == 1
    assert "…" in text


def test_no_tenant_is_a_table_too() -> None:
    """Before the first tenant there is a table without rows."""
    assert "0 tenants" in drawn([])


def test_what_comes_from_devices_cannot_steer_the_terminal() -> None:
    """Control characters are shown as such."""
    text = drawn([tenant(name="evil\x1b[2J", last_error="line one\nline two\x07")], logs=["\x1b]0;title\x07"])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "line one line two" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (-3, "0.0 s"), (0.44, "0.4 s"), (59, "59 s"), (61, "1 min"), (7_300, "2 h"), (500_000, "5 d")],
)
def test_ages(seconds: float | None, text: str) -> None:
    """An age is told in its largest unit."""
    assert age(None if seconds is None else NOW - seconds, NOW) == text


def test_long_errors_are_shortened() -> None:
    """An error takes one line of limited width."""
    assert shortened(None) == ""
    assert shortened("a\n  b") == "a b"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"


async def test_the_view_runs_until_it_is_cancelled() -> None:
    """It shows what is true at each refresh, calls its footer anew, and gives the terminal back."""
    file = io.StringIO()
    committed = [50_000]
    refreshed = trio.Event()

    def snapshots() -> list[TenantSnapshot]:
        committed[0] += 1
        if committed[0] > 50_003:
            refreshed.set()
        return [tenant(accounts=Accounts(written=committed[0]))]

    logs = deque(["started"], maxlen=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run_view(
                snapshots,
                footer=lambda: [f"footer {committed[0]}"],
                interval_s=0.001,
                console=terminal(file=file),
                recent_logs=logs,
            )
        )
        await refreshed.wait()
        nursery.cancel_scope.cancel()
    text = file.getvalue()
    assert "50,001" in text
    assert "50,003" in text
    assert "footer 50001" in text
    assert "started" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


class PausedFile(io.StringIO):
    """A terminal after Ctrl-S: writing waits until it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        if "Tenant" in text:
            self.waiting.set()
            self.goes_on.wait()
        return super().write(text)


async def test_a_paused_terminal_holds_up_nobody() -> None:
    """While a write to the terminal hangs, other tasks go on."""
    file = PausedFile()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_view(lambda: [tenant()], interval_s=0.001, console=terminal(file=file)))
        await trio.to_thread.run_sync(file.waiting.wait)
        await trio.testing.wait_all_tasks_blocked()  # would never return if the view held the loop
        file.goes_on.set()
        nursery.cancel_scope.cancel()
