"""A run: rounds of a fault and the recovery from it, then the account of every value.

Started by ``python -m tests.chaos`` and by tests/test_chaos.py.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import trio
from numpy.typing import NDArray

from scada_trio.errors import leaves
from tests.chaos.acts import NotInjected
from tests.chaos.faults import FAULTS, Fault, mixed
from tests.chaos.ledger import (
    OF_THE_JOURNAL,
    Account,
    LossRow,
    Rounds,
    Series,
    index_rows,
    ranges_of,
    read_log,
    read_losses,
    read_rows,
)
from tests.chaos.processes import NotReady
from tests.chaos.site import Device, Scale, Site, last_tick, node_id, open_site

RECOVERS_WITHIN_S: Final = 120.0
SETTLES_WITHIN_S: Final = 30.0
_MS_US: Final = 1_000
_NO_DATABASE: Final = tuple(
    f"scada-trio: {error}"
    for error in (
        "connection to server at ",
        "connection timeout expired",
        "consuming input failed",
        "server closed the connection unexpectedly",
        "terminating connection due to ",
        "canceling statement due to statement timeout",
        "the database system is ",
    )
)
"""How `scada-trio serve` ends where the master database is away, starts, stops or is frozen."""


@dataclass
class Outcome:
    """What came out of a run. ``passed`` is the whole of it."""

    seed: int
    seconds: float = 0.0
    accounts: dict[str, Account] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    @property
    def total(self) -> Account:
        """All rounds together."""
        total = Account()
        for account in self.accounts.values():
            total.add(account)
        return total

    @property
    def passed(self) -> bool:
        """Every value exactly once or in the ledger, everything recovered, nothing unexpected in the service's log."""
        return not self.findings

    def to_json(self) -> str:
        """All of it."""
        report = {
            "passed": self.passed,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "faults": {name: asdict(account) for name, account in self.accounts.items()},
            "total": asdict(self.total),
            "loss_rows": self.losses,
            "findings": self.findings,
            "left_out": self.left_out,
            "service_rss_mb": self.rss_mb,
            "service_descriptors": self.descriptors,
        }
        return json.dumps(report, indent=2)


Say = Callable[[str], None]


class Run:
    """The rounds of one run on a site."""

    def __init__(self, site: Site, seed: int, say: Say) -> None:
        self.site = site
        self.outcome = Outcome(seed)
        self.rounds = Rounds()
        self._rng = random.Random(seed)
        self._say = say
        self._journal_harmed = False
        self._arrived_us = 0  # what was made before is stored, or lost in a round that is over

    async def play(self, plan: Iterable[str]) -> None:
        """Play the rounds; a name may be several faults joined by " + "."""
        for name in plan:
            faults = [FAULTS[part] for part in name.split(" + ")]
            if any(fault.needs_small_disks for fault in faults) and not self.site.disks:
                if name not in self.outcome.left_out:
                    self.outcome.left_out.append(name)
                continue
            await self._round(name, faults)

    async def _round(self, name: str, faults: list[Fault]) -> None:
        began = trio.current_time()
        self.rounds.begin(name, self._arrived_us)
        self._journal_harmed |= any(fault.loses_journal for fault in faults)
        try:
            if len(faults) == 1:
                await faults[0].act(self.site, self._rng)
            else:
                await mixed(faults, self.site, self._rng)
        except* NotInjected as group:
            self.outcome.findings += [f"{name} was not done: {error}" for error in group.exceptions]
        except* NotReady as group:
            self.outcome.findings += [f"after {name}: {error}" for error in leaves(group)]
        await self.site.restore()
        injected = trio.current_time()
        self._arrived_us = time.time_ns() // 1000
        late = await self.site.recovered(within_s=RECOVERS_WITHIN_S)
        if late:
            self.outcome.findings.append(f"after {name}: {', '.join(late)} did not recover")
        self._sample()
        took = f"{injected - began:.1f} s, recovered after {trio.current_time() - injected:.1f} s"
        self._say(f"{len(self.rounds.names):3}. {name}: {took}{', LATE: ' + ', '.join(late) if late else ''}")

    def _sample(self) -> None:
        if self.site.service.pid is not None:
            rss, descriptors = self.site.service.resources()
            self.outcome.rss_mb.append(round(rss / 1e6, 1))
            self.outcome.descriptors.append(descriptors)

    async def restart_device(self, times: int) -> None:
        """The same device killed again and again: what the service keeps of it must not grow."""
        device = self.site.devices[0]
        await self.site.service.wait_ready()
        self.rounds.begin(f"{times} restarts of a device", self._arrived_us)
        sizes: list[tuple[int, int]] = []
        for _ in range(times):
            await device.child.kill()
            await device.child.wait_ready()
            await self.site.recovered(within_s=RECOVERS_WITHIN_S)
            sizes.append(self.site.service.resources())
        early, late = sizes[times // 3], sizes[-1]  # caches are full by then
        sizes_text = f"{early[0] / 1e6:.0f} → {late[0] / 1e6:.0f} MB, {early[1]} → {late[1]} descriptors"
        self._say(f"     {times} restarts of a device: {sizes_text}")
        if late[1] > early[1] + 5:
            self.outcome.findings.append(f"file descriptors grew from {early[1]} to {late[1]} over {times} restarts")
        if late[0] > early[0] * 1.3 + 10e6:
            self.outcome.findings.append(f"memory grew from {early[0]} to {late[0]} bytes over {times} restarts")

    async def settle(self) -> None:
        """Let everything arrive, then account for every value."""
        site, outcome = self.site, self.outcome
        await site.pause_devices()
        late = await site.stored_up_to({d.name: last_tick(d) for d in site.devices}, within_s=RECOVERS_WITHIN_S)
        if late:
            outcome.findings.append(f"the last values of {', '.join(late)} did not arrive")
        with trio.move_on_after(SETTLES_WITHIN_S):
            while not await self._account():  # noqa: ASYNC110 - what is waited for is in the database
                await trio.sleep(1)  # the ledger is written a little later than the readings
        outcome.findings += [f"the service logged: {line}" for line in unexpected_lines(site.service.lines)]

    async def _account(self) -> bool:
        accounts, losses, findings = await trio.to_thread.run_sync(self._arithmetic)
        outcome = self.outcome
        outcome.accounts, outcome.losses = {}, losses
        for name, account in zip(self.rounds.names, accounts, strict=True):
            account.injected = 1
            outcome.accounts.setdefault(name, Account()).add(account)
        outcome.findings = [line for line in outcome.findings if not line.startswith("value")] + findings
        return not findings

    def _arithmetic(self) -> tuple[list[Account], dict[str, int], list[str]]:
        accounts = [Account() for _ in self.rounds.names]
        reasons: dict[str, int] = {}
        findings: list[str] = []
        for tenant in self.site.tenants:
            index_rows(tenant.url)
            losses = read_losses(tenant.url)
            for loss in losses:
                reasons[loss.reason] = reasons.get(loss.reason, 0) + 1
            before = sum(account.given_up for account in accounts)
            for device in self.site.devices:
                if device.tenant is tenant:
                    mine = [loss for loss in losses if loss.connection_id in (None, device.connection_id)]
                    findings += self._settle_device(device, mine, accounts)
            given_up = sum(account.given_up for account in accounts) - before
            findings += doubts_about(given_up, losses, harmed=self._journal_harmed)
        return accounts, reasons, findings

    def _settle_device(self, device: Device, losses: Sequence[LossRow], accounts: list[Account]) -> list[str]:
        """Add a device's values to the accounts; a line for each kind of fault in them."""
        rounds, log = self.rounds, read_log(device.log)
        subscriptions = self.site.service.starts + device.child.starts + len(rounds.names)
        series = Series(log, losses, device.counting, subscriptions, 1 if device.counting else _MS_US)
        wrong: dict[str, dict[int, NDArray[np.int64]]] = {}
        for node in range(device.nodes):
            values, times_us = read_rows(device.tenant.url, "chaos_rows", device.well_id, node_id(node))
            stored, _ = read_rows(device.tenant.url, "scada_readings", device.well_id, node_id(node))
            if not np.array_equal(np.sort(stored), np.unique(values)):
                wrong.setdefault("not stored as written", {})[node] = np.setxor1d(stored, values)
            for kind, ticks in series.settle(node, values, times_us, rounds, accounts).items():
                wrong.setdefault(kind, {})[node] = ticks
        found = []
        for kind, by_node in wrong.items():
            ticks = np.unique(np.concatenate(list(by_node.values())))
            of_rounds = np.unique(rounds.index_of(log.wall_us[np.minimum(ticks, log.ticks - 1)])).tolist()
            names = [f"{index + 1} ({rounds.names[index]})" for index in of_rounds]
            found.append(
                f"values of {device.name}: {kind} {ranges_of(ticks)} of variables"
                f" {ranges_of(np.array(sorted(by_node)))} in rounds {', '.join(names)}"
            )
        return found


def doubts_about(given_up: int, losses: Sequence[LossRow], *, harmed: bool) -> list[str]:
    """What speaks against a journal that gave up acknowledged values: nobody harmed it, or it counted fewer."""
    if given_up and not harmed:
        return [f"values given up although nobody harmed a journal: {given_up}"]
    counts = [loss.count for loss in losses if loss.reason in OF_THE_JOURNAL]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts) and given_up > sum(known):
        return [f"values given up are {given_up}, and the journal counted {sum(known)}"]
    return []


def unexpected_lines(lines: Sequence[object]) -> list[str]:
    """What a service logs when it meets a bug: exceptions, and what is no log line at all.

    One that is started while there is no master database ends with a line that says so.
    """
    found = []
    for line in lines:
        if isinstance(line, dict) and ("exception" in line or set(line) == {"message"}):
            if str(line["message"]).startswith(_NO_DATABASE):
                continue
            text = str(line.get("exception") or line["message"]).strip().splitlines()
            found.append(f"{line['message']}: {text[-1] if text else ''}")
    return sorted(set(found))


async def run(
    directory: Path,
    *,
    seed: int,
    plan: Callable[[random.Random], Iterator[str]],
    restarts: int,
    scale: Scale,
    say: Say = print,
) -> Outcome:
    """A whole run in ``directory``, which the caller removes."""
    began = trio.current_time()
    async with open_site(directory, scale) as site:
        current = Run(site, seed, say)
        late = await site.recovered(within_s=RECOVERS_WITHIN_S)
        if late:
            current.outcome.findings.append(f"no values at the start from {', '.join(late)}")
        await current.play(plan(random.Random(seed)))
        if restarts:
            await current.restart_device(restarts)
        await current.settle()
    current.outcome.seconds = trio.current_time() - began
    return current.outcome
