"""Which well a device's node belongs to: one id for all, or a name found in the path and the id of that name.

Owns that rule and the file of names. Pure, but for reading the file.

A name becomes an id by a file, since the wells are somebody else's: readings under ids that their application does
not know would be found by nobody. Where no such application is, ``new_wells`` makes the id of tenant and name, so that
a well on two devices is one well, and importing again changes nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid5

from scada_trio.errors import InvalidField
from scada_trio.tagfile import read_text
from scada_trio.validation import parse_uuid

_NAMES_SHOWN = 5


class Place(NamedTuple):
    """A node's well, and the name of its tag: the path without what led to the well."""

    well_id: UUID
    tag_name: str


@dataclass
class WellRule:
    """``unmapped`` gathers the names that have no id."""

    well_id: UUID | None = None
    pattern: re.Pattern[str] | None = None
    ids: dict[str, UUID] = field(default_factory=dict)
    new_wells: bool = False
    unmapped: set[str] = field(default_factory=set)

    @staticmethod
    def parse(well_id: UUID | None, pattern: str | None, file: Path | None, *, new_wells: bool) -> WellRule | None:
        """The rule that a user's options make; None where there are none. `InvalidField` names the option."""
        if well_id is not None and pattern is not None:
            raise InvalidField("--well-from", "cannot be given beside --well")
        if pattern is None and (file is not None or new_wells):
            raise InvalidField("--well-from", "is missing: it says where the names of wells are")
        if well_id is None and pattern is None:
            return None
        return WellRule(
            well_id,
            None if pattern is None else _compiled(pattern),
            {} if file is None else dict(_read_map(file)),
            new_wells=new_wells,
        )

    def place(self, tenant_id: UUID, path: str) -> Place | None:
        """Where the node with this path belongs; None where the pattern finds no name, or the name has no id."""
        if self.pattern is None:
            return None if self.well_id is None else Place(self.well_id, path)
        match = self.pattern.search(path)
        if match is None or not match["well"]:
            return None
        name = match["well"]
        well_id = self.ids.get(name)
        if well_id is None and self.new_wells:
            well_id = uuid5(tenant_id, f"well {name}")
        if well_id is None:
            try:
                well_id = parse_uuid("well", name)
            except InvalidField:
                self.unmapped.add(name)
                return None
        return Place(well_id, path[match.end() :].strip("/") or path)

    def check(self) -> None:
        """Raises `InvalidField` with the names that have no id."""
        if not self.unmapped:
            return
        names = sorted(self.unmapped)
        listed = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if names[5:] else "")
        raise InvalidField("--well-map", f"has no id for {listed}; --new-wells makes one of the name")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidField("--well-from", f"is no regular expression: {error}") from error
    if "well" not in compiled.groupindex:
        raise InvalidField("--well-from", "has no group (?P<well>...)")
    return compiled


def _read_map(path: Path) -> Iterator[tuple[str, UUID]]:
    reader = csv.DictReader(read_text(path).splitlines(), strict=True)
    if not {"name", "well_id"} <= set(reader.fieldnames or ()):
        raise InvalidField(f"{path} line 1", "must name the columns name and well_id")
    try:
        for row in reader:
            place = f"{path} line {reader.line_num} well_id"
            yield row["name"] or "", parse_uuid(place, (row["well_id"] or "").strip())
    except csv.Error as error:
        raise InvalidField(f"{path} line {reader.line_num + 1}", str(error)) from error
