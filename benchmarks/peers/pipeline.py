"""What the pipelines in Python have in common: their configuration, and when a batch is full. Standard library only."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

RETRY_S: Final = 1.0
_LOOK_S: Final = 0.05

Row = tuple[datetime, float, UUID, str, str]
"""Of the columns `COLUMNS`."""
COLUMNS: Final = ("timestamp", "value", "well_id", "tag_node_id", "quality")


@dataclass(frozen=True, slots=True)
class Well:
    """One OPC UA server and the nodes that are wanted of it."""

    endpoint_url: str
    well_id: UUID
    node_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What every pipeline is told, as a file of JSON."""

    database_url: str
    wells: tuple[Well, ...]
    publishing_ms: float
    sampling_ms: float
    queue_size: int
    batch_rows: int
    batch_s: float
    directory: Path

    def to_json(self) -> str:
        """The text that `read_config` reads."""
        wells = [[well.endpoint_url, str(well.well_id), list(well.node_ids)] for well in self.wells]
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("wells", "directory")}
        return json.dumps({**plain, "wells": wells, "directory": str(self.directory)})


def read_config(path: Path) -> Config:
    """The configuration in a file."""
    fields: dict[str, Any] = json.loads(path.read_text())
    wells = tuple(Well(url, UUID(well_id), tuple(node_ids)) for url, well_id, node_ids in fields.pop("wells"))
    return Config(wells=wells, directory=Path(fields.pop("directory")), **fields)


def given_config() -> Config:
    """The configuration in the file that the command line names."""
    return read_config(Path(sys.argv[1]))


def quality_of(status: int) -> str:
    """Of the upper two bits of an OPC UA status code."""
    return ("Good", "Uncertain", "Bad", "Bad")[status >> 30]


async def next_batch(rows: deque[Row], config: Config) -> list[Row]:
    """Wait until there are ``batch_rows`` rows, or the first has waited ``batch_s``, and take them."""
    since: float | None = None
    while not _is_due(rows, since, config):
        since = time.monotonic() if rows and since is None else since
        await asyncio.sleep(_LOOK_S)
    return _take(rows, config)


def next_batch_blocking(rows: deque[Row], config: Config) -> list[Row]:
    """The same for a thread."""
    since: float | None = None
    while not _is_due(rows, since, config):
        since = time.monotonic() if rows and since is None else since
        time.sleep(_LOOK_S)
    return _take(rows, config)


def _is_due(rows: deque[Row], since: float | None, config: Config) -> bool:
    return len(rows) >= config.batch_rows or (since is not None and time.monotonic() - since >= config.batch_s)


def _take(rows: deque[Row], config: Config) -> list[Row]:
    return [rows.popleft() for _ in range(min(len(rows), config.batch_rows))]
