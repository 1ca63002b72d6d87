"""A simulated well as its process announces it on standard output: one line of JSON each, then a last line.

Owns both directions of that text, for the process that writes it and the one that reads it. Starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from scada_trio.readings import Tag

READY_LINE: Final = json.dumps({"ready": True})
PAUSED_LINE: Final = json.dumps({"paused": True})
PAUSE_LINE: Final = b"pause\n"
"""What the process is told on its standard input."""


@dataclass(frozen=True, slots=True)
class SimulatedWell:
    """One well and where it is served; its tags carry node ids that a client can subscribe to as they are."""

    well_id: UUID
    name: str
    endpoint_url: str
    tags: tuple[Tag, ...]

    def to_line(self) -> str:
        """One line of JSON, without its end."""
        return json.dumps(
            {
                "well_id": str(self.well_id),
                "name": self.name,
                "endpoint_url": self.endpoint_url,
                "tags": [
                    {
                        "tag_id": str(tag.tag_id),
                        "node_id": tag.node_id,
                        "name": tag.name,
                        "unit": tag.unit,
                        "data_type": tag.data_type,
                    }
                    for tag in self.tags
                ],
            }
        )

    @classmethod
    def from_line(cls, line: str) -> SimulatedWell:
        """The well that `to_line` wrote; raises `ValueError` or `KeyError` for another text."""
        fields: Mapping[str, Any] = json.loads(line)
        well_id = UUID(fields["well_id"])
        return cls(
            well_id,
            fields["name"],
            fields["endpoint_url"],
            tuple(
                Tag(
                    tag_id=UUID(tag["tag_id"]),
                    well_id=well_id,
                    node_id=tag["node_id"],
                    data_type=tag["data_type"],
                    name=tag["name"],
                    unit=tag["unit"],
                )
                for tag in fields["tags"]
            ),
        )
