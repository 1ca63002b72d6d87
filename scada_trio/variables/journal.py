"""Batches, and the journal that holds what is not yet written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from scada_trio.variables.about import About, Milliseconds


class BatchVariables(BaseSettings):
    """Batches."""

    aggregation_buffer_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "A batch is written when its oldest reading has waited this long ...",
        ),
    ] = 5_000
    max_buffer_size: Annotated[
        int,
        Field(ge=1, le=1_000_000),
        About(
            "readings",
            "... or when this many wait; the most that one batch holds.",
        ),
    ] = 10_000


class JournalVariables(BaseSettings):
    """Journal."""

    journal_dir: Annotated[
        Path | None,
        About(
            "directory",
            "Where the files are. Left out: the directory `journal` in `DATA_DIR`. On a local disk, not on a "
            "network share; one service at a time uses a tenant's file.",
            example="/var/lib/scada-trio/journal",
        ),
    ] = None
    journal_sync: Annotated[
        Literal["normal", "full"],
        NoDecode,
        About(
            "one of",
            "What an accepted reading survives. `normal`: the process being killed or crashing. `full`: a crash "
            "of the machine or a power cut too, for a wait on the disk with each transaction.",
        ),
    ] = "normal"
    journal_max_bytes: Annotated[
        int,
        Field(ge=1 << 20, le=1 << 50),
        About(
            "bytes",
            "How large a tenant's file may become while its database is away; a reading takes 21 bytes and a "
            "little. Beside it are up to 16 MiB of write-ahead log.",
        ),
    ] = 4 << 30
    journal_policy: Annotated[
        Literal["hold", "drop_oldest"],
        NoDecode,
        About(
            "one of",
            "What happens then. `hold`: nothing more is acknowledged, and the devices' own queues hold what "
            "comes. `drop_oldest`: the oldest readings are deleted, counted, and recorded as lost with their "
            "times.",
        ),
    ] = "hold"
    journal_memory_readings: Annotated[
        int,
        Field(ge=1, le=100_000_000),
        About(
            "readings",
            "What of it is in memory as well; 21 bytes each. Beyond it the file alone has them.",
        ),
    ] = 200_000

    @field_validator("journal_sync", "journal_policy", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
