"""What documents tell of a variable, and the types that several have."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, Field

Network = IPv4Network | IPv6Network

Milliseconds = Annotated[int, Field(ge=1, le=86_400_000)]
Port = Annotated[int, Field(ge=0, le=65535)]
Days = Annotated[int, Field(ge=0, le=36_500)]

_LEAST_ROLLUP_DAYS = 180


@dataclass(frozen=True, slots=True)
class About:
    """``text`` is what a variable is for, in Markdown, links as from docs/.

    ``unit`` is what its value counts or names, "one of" where values are named. ``example`` stands in ``.env.example``
    where there is no default, ``range`` where types do not tell it.
    """

    unit: str
    text: str
    example: str = ""
    range: str = ""


def _long_enough(days: int) -> int:
    # a rollup takes from the one below for as long as that is kept, which must be longer than the longest month
    if 0 < days < _LEAST_ROLLUP_DAYS:
        raise ValueError(f"must be 0 (kept for good) or at least {_LEAST_ROLLUP_DAYS}")
    return days


RollupDays = Annotated[int, Field(ge=0, le=36_500), AfterValidator(_long_enough)]
