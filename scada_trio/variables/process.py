"""The process itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from scada_trio.variables.about import About, Milliseconds


class ProcessVariables(BaseSettings):
    """The process."""

    shutdown_grace_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "Time to flush buffers and to finish calls after SIGTERM. Readings that could not be written by then "
            "stay in the journal for the next start.",
        ),
    ] = 10_000
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        NoDecode,
        About(
            "one of",
            "`DEBUG`, `INFO`, `WARNING`, `ERROR`.",
        ),
    ] = "INFO"
    log_format: Annotated[
        Literal["json", "console"],
        NoDecode,
        About(
            "one of",
            "`json`: an object a line; `console`: text for a person.",
        ),
    ] = "json"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower_format(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
