"""What becomes of a connection's tags when others are wanted: added, changed, removed.

Owns the comparison, so that the same wish twice changes nothing the second time. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID, uuid5

from scada_trio.desired import TagChange
from scada_trio.readings import Tag
from scada_trio.sampling import Sampling


@dataclass(frozen=True, slots=True)
class TagDiff:
    """``changed`` pairs what is stored with what will be."""

    added: list[Tag] = field(default_factory=list)
    changed: list[tuple[Tag, Tag]] = field(default_factory=list)
    removed: list[Tag] = field(default_factory=list)
    unchanged: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.added or self.changed or self.removed)

    @property
    def change(self) -> TagChange:
        """What is to be stored."""
        tags = (*self.added, *(after for _, after in self.changed))
        return TagChange(tags, tuple(tag.tag_id for tag in self.removed))


def new_tag_id(connection_id: UUID, well_id: UUID, node_id: str) -> UUID:
    """The id of a tag that nobody gave one: the same for the same connection, well and node."""
    return uuid5(connection_id, f"{well_id} {node_id}")


def compare(
    connection_id: UUID, stored: Sequence[Tag], wanted: Iterable[Tag], *, prune: bool, from_device: bool
) -> TagDiff:
    """What makes ``wanted`` of ``stored``. What a wanted tag does not say stays; without ``prune`` nothing is removed.

    A tag of the same well and node is the same tag, whatever its id. ``from_device``: what the device says is not put
    above what people say. The name that a tag has stays, and so does the unit of one whose values are scaled.
    """
    by_id = {tag.tag_id: tag for tag in stored}
    by_node = {(tag.well_id, tag.node_id): tag for tag in stored}
    diff_added: list[Tag] = []
    diff_changed: list[tuple[Tag, Tag]] = []
    kept: set[UUID] = set()
    unchanged = 0
    for tag in wanted:
        known = by_id.get(tag.tag_id)
        if known is None and tag.tag_id == new_tag_id(connection_id, tag.well_id, tag.node_id):
            known = by_node.get((tag.well_id, tag.node_id))
        if known is None:
            diff_added.append(tag)
            continue
        kept.add(known.tag_id)
        after = _merged(known, tag, from_device=from_device)
        if after == known:
            unchanged += 1
        else:
            diff_changed.append((known, after))
    removed = [tag for tag in stored if tag.tag_id not in kept] if prune else []
    return TagDiff(diff_added, diff_changed, removed, unchanged)


def _merged(known: Tag, tag: Tag, *, from_device: bool) -> Tag:
    name = tag.name or known.name
    unit = tag.unit or known.unit
    if from_device:
        name = known.name if known.name not in ("", known.node_id) else name
        unit = known.unit if known.unit and known.factor != 1.0 else unit
    deadband, percent = tag.deadband, tag.deadband_percent
    if deadband is None and percent is None:
        deadband, percent = known.deadband, known.deadband_percent
    return replace(
        known,
        well_id=tag.well_id,
        node_id=tag.node_id,
        data_type=tag.data_type or known.data_type,
        name=name,
        unit=unit,
        scaling_factor=known.scaling_factor if tag.scaling_factor is None else tag.scaling_factor,
        deadband=deadband,
        deadband_percent=percent,
        sampling=_sampling(known.sampling, tag.sampling),
    )


def _sampling(known: Sampling, told: Sampling) -> Sampling:
    return Sampling(
        known.interval_ms if told.interval_ms is None else told.interval_ms,
        known.queue_size if told.queue_size is None else told.queue_size,
        known.discard_oldest if told.discard_oldest is None else told.discard_oldest,
    )


_SHOWN: Final = ("well_id", "node_id", "name", "data_type", "unit", "scaling_factor", "deadband", "deadband_percent")
COLUMNS: Final = ("change", "tag_id", *_SHOWN)
"""Of `rows`."""


def rows(diff: TagDiff) -> Iterator[tuple[object, ...]]:
    """The difference for programs, a row a tag: what becomes of it, and the tag as it will be, or was."""
    tags = [("added", tag) for tag in diff.added]
    tags += [("changed", after) for _, after in diff.changed]
    tags += [("removed", tag) for tag in diff.removed]
    for change, tag in tags:
        yield (change, tag.tag_id, *(getattr(tag, column) for column in _SHOWN))


def lines(diff: TagDiff) -> Iterator[str]:
    """The difference for people, a line a tag: ``+`` added, ``~`` changed and how, ``-`` removed."""
    for tag in diff.added:
        yield f"+ {_line(tag)}"
    for before, after in diff.changed:
        changes = [
            f"{column} {_text(getattr(before, column))} -> {_text(getattr(after, column))}"
            for column in _SHOWN
            if getattr(before, column) != getattr(after, column)
        ]
        if before.sampling != after.sampling:
            changes.append("sampling")
        yield f"~ {before.node_id}  {before.name}: {', '.join(changes)}"
    for tag in diff.removed:
        yield f"- {_line(tag)}"


def _line(tag: Tag) -> str:
    parts = (tag.node_id, tag.name, tag.data_type, tag.unit, f"well {tag.well_id}")
    return "  ".join(part for part in parts if part)


def _text(value: object) -> str:
    return "none" if value in (None, "") else str(value)
