"""Tags from a file that a user wrote: CSV with a header line, or JSON with a list of objects.

Owns the form of that file and its error messages, which name line and column. Starts nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from scada_trio.errors import InvalidField
from scada_trio.readings import Tag
from scada_trio.sampling import FIELDS, parse_deadband_percent, parse_number, parse_sampling
from scada_trio.tag_diff import new_tag_id
from scada_trio.validation import parse_data_type, parse_node_id, parse_uuid

COLUMNS = (
    *("well_id", "node_id", "tag_name", "data_type", "unit", "scaling_factor", "deadband", "deadband_percent"),
    *(*FIELDS, "tag_id"),
)
_REQUIRED = ("well_id", "node_id")


def read_tags(path: Path, connection_id: UUID) -> list[Tag]:
    """All tags of ``path``; columns as in `COLUMNS`, of which ``well_id`` and ``node_id`` are required.

    A tag without ``tag_id`` gets one made of connection, well and node, so that the same file gives the same tags.
    Raises `InvalidField` naming the place, also for an empty file and for duplicates.
    """
    tags: list[Tag] = []
    seen: dict[tuple[UUID, str], str] = {}
    for place, row in _rows(path):
        tag = _tag(place, row, connection_id)
        first = seen.setdefault((tag.well_id, tag.node_id), place)
        if first != place:
            raise InvalidField(f"{place} node_id", f"{tag.node_id} of this well stands at {first} already")
        tags.append(tag)
    if not tags:
        raise InvalidField(str(path), "no tags in it")
    return tags


def read_text(path: Path) -> str:
    """A user's file, with a byte order mark or without; `InvalidField` naming it where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidField(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidField(str(path), "is not UTF-8 text") from error


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        yield from _json_rows(path, text)
    else:
        yield from _csv_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
    if missing:
        raise InvalidField(f"{path} line 1", f"no column {missing[0]}; the columns are {', '.join(COLUMNS)}")
    try:
        for row in reader:
            yield f"{path} line {reader.line_num}", row
    except csv.Error as error:
        raise InvalidField(f"{path} line {reader.line_num + 1}", str(error)) from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise InvalidField(str(path), f"is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise InvalidField(str(path), "must be a list of objects, one a tag")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InvalidField(f"{path} entry {number}", "must be an object")
        yield f"{path} entry {number}", row


def _tag(place: str, row: Mapping[str, Any], connection_id: UUID) -> Tag:
    def text(column: str) -> str:
        value = row.get(column)
        return "" if value is None else str(value).strip()

    well_id = parse_uuid(f"{place} well_id", text("well_id"))
    node_id = parse_node_id(f"{place} node_id", text("node_id"))
    tag_id = (
        parse_uuid(f"{place} tag_id", text("tag_id")) if text("tag_id") else new_tag_id(connection_id, well_id, node_id)
    )
    deadband = parse_number(f"{place} deadband", row.get("deadband"))
    return Tag(
        tag_id=tag_id,
        well_id=well_id,
        node_id=node_id,
        data_type=parse_data_type(f"{place} data_type", text("data_type")),
        name=text("tag_name"),
        unit=text("unit") or None,
        scaling_factor=parse_number(f"{place} scaling_factor", row.get("scaling_factor")),
        deadband=deadband,
        deadband_percent=parse_deadband_percent(f"{place} deadband_percent", row.get("deadband_percent"), deadband),
        sampling=parse_sampling(f"{place} ", row),
    )
