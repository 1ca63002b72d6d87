"""``browse``: what a device has, printed as it is found.

Nothing is kept but the line of names that leads to the last node: a tree of any size is printed as it grows.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from typing import Literal, Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from scada_trio.commands.targets import Target, find_target, open_target_walk, run_interruptible
from scada_trio.config import Settings
from scada_trio.errors import ScadaError
from scada_trio.nodes import BrowseOrder, BrowseQuery, FoundNode
from scada_trio.opcua.browse import Walk
from scada_trio.wells import WellRule

Form = Literal["tree", "json", "csv", "tags"]
_COLUMNS = (
    *("path", "node_id", "node_class", "name", "data_type", "array", "readable", "unit", "range_low", "range_high"),
    *("value", "status", "problem"),
)
_TAG_COLUMNS = ("well_id", "node_id", "tag_name", "data_type", "unit", "path")


class Printer(Protocol):
    """Makes the text of some nodes, whole lines."""

    def lines(self, nodes: Sequence[FoundNode]) -> list[str]:
        """Their lines."""
        ...


async def browse(settings: Settings, target: Target, query: BrowseQuery, form: Form, rule: WellRule | None) -> None:
    """Print what is found; raises `DeviceError`, and `ScadaError` where the limit of nodes ended it."""

    async def run() -> None:
        spec = await find_target(settings, target)
        printer: Printer = _Rows(form, rule, spec.tenant_id) if form != "tree" else _Tree(query.order)
        with open_progress() as progress:
            async with open_target_walk(settings, spec, query) as walk:
                await _print_all(walk, printer, progress)
        say_what_is_missing(walk)

    await run_interruptible(run)
    if rule is not None and form == "tags":
        rule.check()


async def _print_all(walk: Walk, printer: Printer, progress: Progress) -> None:
    write = _writer(progress)
    write(printer.lines([]))
    shown = storable = 0
    task = progress.add_task("", total=None)
    while nodes := await walk.take():
        shown += len(nodes)
        storable += sum(node.is_storable for node in nodes)
        write(printer.lines(nodes))
        progress.update(task, description=f"{walk.visited:,} nodes looked at, {shown:,} shown")
    progress.remove_task(task)
    sys.stdout.flush()
    sys.stderr.write(f"{walk.visited:,} nodes looked at, {shown:,} shown, {storable:,} of them can be tags\n")


def open_progress() -> Progress:
    """A line on stderr that shows that something goes on, where stderr is a terminal; a context manager."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say_what_is_missing(walk: Walk) -> None:
    """Tell on stderr of nodes that the device kept to itself; raises `ScadaError` where the limit ended the walk."""
    if walk.unread:
        sys.stderr.write(f"below {walk.unread:,} nodes not all is shown; {walk.first_unread}\n")
    if walk.is_cut:
        raise ScadaError(f"stopped after {walk.visited:,} nodes (--max-nodes)")


def _writer(progress: Progress) -> Callable[[list[str]], None]:
    """Where lines go: above the progress where both are on the same terminal."""
    if progress.disable or not sys.stdout.isatty():
        return sys.stdout.writelines

    def write(lines: list[str]) -> None:
        if lines:
            progress.console.print("".join(lines), end="", highlight=False, markup=False, soft_wrap=True)

    return write


class _Tree:
    """Indented names; names that lead to a node and were not shown themselves come before it."""

    def __init__(self, order: BrowseOrder) -> None:
        self._flat = order is BrowseOrder.BREADTH
        self._last: list[str] = []

    def lines(self, nodes: Sequence[FoundNode]) -> list[str]:
        """See `Printer`."""
        found = []
        for node in nodes:
            if self._flat:
                found.append(f"{node.path}  {_about(node)}\n")
                continue
            names = _steps(node)
            shared = 0
            while shared < min(len(names) - 1, len(self._last)) and names[shared] == self._last[shared]:
                shared += 1
            for depth in range(shared, len(names) - 1):
                found.append(f"{'  ' * depth}{names[depth]}\n")
            self._last = names
            found.append(f"{'  ' * (len(names) - 1)}{names[-1]}  {_about(node)}\n")
        return found


def _steps(node: FoundNode) -> list[str]:
    """The names in a node's path; a name with a slash in it looks like two."""
    return node.path.split("/")


def _about(node: FoundNode) -> str:
    parts = [node.node_id]
    if node.data_type:
        parts.append(f"{node.data_type}[]" if node.is_array else node.data_type)
    if node.unit:
        parts.append(node.unit)
    if node.range is not None:
        parts.append(f"{node.range.low:g}..{node.range.high:g}")
    if node.status is not None:
        parts.append(f"= {node.value}" if node.status == "Good" else f"= {node.value or ''} ({node.status})")
    if node.problem is not None:
        parts.append(f"[not storable: {node.problem}]")
    return "  ".join(parts)


class _Rows:
    """CSV, JSON lines, or the lines of a tag file."""

    def __init__(self, form: Form, rule: WellRule | None, tenant_id: UUID) -> None:
        self._form, self._rule, self._tenant_id = form, rule, tenant_id
        self._parts: list[str] = []
        self._csv = csv.writer(self, lineterminator="\n")
        if form != "json":
            self._csv.writerow(_COLUMNS if form == "csv" else _TAG_COLUMNS)

    def write(self, text: str) -> int:
        """What the csv module calls."""
        self._parts.append(text)
        return len(text)

    def lines(self, nodes: Sequence[FoundNode]) -> list[str]:
        """See `Printer`."""
        for node in nodes:
            if self._form == "tags":
                self._add_tag(node)
            elif self._form == "csv":
                self._csv.writerow(_row(node))
            else:
                cells = zip(_COLUMNS, _row(node), strict=True)
                fields = {column: value for column, value in cells if value is not None}
                self._parts.append(json.dumps(fields, ensure_ascii=False) + "\n")
        parts, self._parts = self._parts, []
        return parts

    def _add_tag(self, node: FoundNode) -> None:
        if self._rule is None:
            self._csv.writerow(("", node.node_id, node.path, node.data_type, node.unit, node.path))
            return
        place = self._rule.place(self._tenant_id, node.path)
        if place is not None:
            self._csv.writerow((place.well_id, node.node_id, place.tag_name, node.data_type, node.unit, node.path))


def _row(node: FoundNode) -> tuple[object, ...]:
    low, high = (None, None) if node.range is None else node.range
    is_variable = bool(node.data_type) or node.is_storable
    return (
        *(node.path, node.node_id, str(node.node_class), node.name, node.data_type or None),
        *((node.is_array, node.is_readable) if is_variable else (None, None)),
        *(node.unit, low, high, node.value, node.status, node.problem),
    )
