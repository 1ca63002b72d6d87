"""What trying a device brings: a step, how it ended, how long it took. Plain values, shared by commands and API."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class StepName(enum.StrEnum):
    """The steps, in the order in which they are taken."""

    REACH = "reach"
    ENDPOINTS = "endpoints"
    CERTIFICATE = "certificate"
    SESSION = "session"
    READ = "read"


class Outcome(enum.StrEnum):
    """How a step ended; one is skipped where an earlier one failed, or where there is nothing to do."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """``detail`` is one line, ``lines`` what was found, one by one; no secret in either."""

    name: StepName
    outcome: Outcome
    detail: str
    duration_ms: float = 0.0
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OfferedEndpoint:
    """What a server offers; ``tokens`` are kinds of login, with the policy that protects each where it has its own."""

    security_mode: str
    security_policy: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """All steps; ``thumbprint`` is empty where there is no certificate, ``refusal`` says why it is not trusted."""

    steps: Sequence[Step]
    endpoints: Sequence[OfferedEndpoint] = ()
    thumbprint: str = ""
    is_trusted: bool = False
    refusal: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether no step failed."""
        return all(step.outcome is not Outcome.FAILED for step in self.steps)
