"""Trying a device step by step, from TCP to the first read, each with its result and how long it took.

Owns the steps. Starts nothing that outlives the call and stores nothing but, as every connection does, a certificate
that is not trusted among the rejected ones, so that it can be trusted. No password is in what it returns.

    reach ──► endpoints ──► certificate ──► session ──► read
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from opcua import ua

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import CertificateRefused, DeviceError, ScadaError
from scada_trio.opcua.browse import status_text, value_text
from scada_trio.opcua.browse_services import NodeReader
from scada_trio.opcua.certificates import MALFORMED, describe, read_certificate, split_chain, thumbprint
from scada_trio.opcua.discovery import get_endpoints
from scada_trio.opcua.faults import one_line
from scada_trio.opcua.node_ids import parse_node_id
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.policies import SUITES, short_name, suite_of_name
from scada_trio.opcua.session import Session, open_session
from scada_trio.opcua.transport import open_transport, parse_endpoint
from scada_trio.trial import OfferedEndpoint, Outcome, Step, StepName, Trial

MAX_NODES: Final = 10
_MAX_ENDPOINTS: Final = 50
_CURRENT_TIME: Final = "i=2258"
_NO_CERTIFICATE: Final = "the server has no certificate"


async def try_device(
    spec: ConnectionSpec,
    node_ids: Sequence[str],
    *,
    settings: DeviceSettings,
    pki: Pki,
    limiter: trio.CapacityLimiter,
    resolving: trio.CapacityLimiter,
) -> Trial:
    """Take all steps; no `DeviceError` leaves it. ``node_ids``, none: the server's time, are read at the end."""
    trial = _Trial(spec, settings, pki, limiter, resolving)
    await trial.step(StepName.REACH, trial.reach)
    await trial.step(StepName.ENDPOINTS, trial.ask_endpoints)
    await trial.step(StepName.CERTIFICATE, trial.check_certificate)
    await trial.log_in_and_read(tuple(node_ids[:MAX_NODES]) or (_CURRENT_TIME,))
    return Trial(trial.steps, trial.endpoints, trial.thumbprint, trial.is_trusted, trial.refusal)


class _Skip(ScadaError):
    """There is nothing to do in this step."""


class _Trial:
    def __init__(
        self,
        spec: ConnectionSpec,
        settings: DeviceSettings,
        pki: Pki,
        limiter: trio.CapacityLimiter,
        resolving: trio.CapacityLimiter,
    ) -> None:
        self.spec, self.settings, self.pki = spec, settings, pki
        self.limiter, self.resolving = limiter, resolving
        self.steps: list[Step] = []
        self.endpoints: list[OfferedEndpoint] = []
        self.thumbprint = ""
        self.is_trusted = False
        self.refusal: str | None = None
        self._offered: Sequence[Any] = ()

    @property
    def _failed(self) -> bool:
        return any(step.outcome is Outcome.FAILED for step in self.steps)

    async def step(self, name: StepName, action: Callable[[], Awaitable[tuple[str, Sequence[str]]]]) -> None:
        """Take a step; skip it where one before it failed."""
        if self._failed:
            self.steps.append(Step(name, Outcome.SKIPPED, "an earlier step failed"))
            return
        started = time.monotonic()
        lines: Sequence[str] = ()
        try:
            detail, lines = await action()
            outcome = Outcome.OK
        except _Skip as reason:
            outcome, detail = Outcome.SKIPPED, str(reason)
        except DeviceError as error:
            outcome, detail = Outcome.FAILED, str(error)
        self.steps.append(Step(name, outcome, detail, (time.monotonic() - started) * 1000, tuple(lines)))

    async def reach(self) -> tuple[str, Sequence[str]]:
        """TCP, Hello and Acknowledge."""
        endpoint = parse_endpoint(self.spec.endpoint_url)
        transport = await open_transport(endpoint, timeout_s=self.settings.connect_timeout_s, resolving=self.resolving)
        transport.sock.close()
        return f"{endpoint.host}:{endpoint.port} speaks OPC UA", ()

    async def ask_endpoints(self) -> tuple[str, Sequence[str]]:
        """GetEndpoints: modes, policies, kinds of login."""
        endpoint = parse_endpoint(self.spec.endpoint_url)
        timeout_s = self.settings.connect_timeout_s
        offered = list(await get_endpoints(endpoint, timeout_s=timeout_s, resolving=self.resolving))
        self._offered = [found for found in offered if (found.EndpointUrl or "").startswith("opc.tcp:")]
        self.endpoints = [_offered_endpoint(found) for found in self._offered[:_MAX_ENDPOINTS]]
        lines = [f"{e.security_mode} {e.security_policy}: {', '.join(e.tokens) or 'no login'}" for e in self.endpoints]
        return f"{len(self._offered)} offered", lines

    async def check_certificate(self) -> tuple[str, Sequence[str]]:
        """Whether the server's certificate is trusted; where no message is protected that is for information."""
        wanted = self._wanted()
        if wanted is None or not wanted.ServerCertificate:
            if self.spec.security_mode is SecurityMode.NONE:
                raise _Skip(_NO_CERTIFICATE)
            raise DeviceError(_NO_CERTIFICATE)
        suite = suite_of_name(short_name(wanted.SecurityPolicyUri)) or suite_of_name(self.spec.security_policy)
        check = partial(
            self.pki.check,
            wanted.ServerCertificate,
            suite or SUITES[0],
            host=parse_endpoint(self.spec.endpoint_url).host,
            application_uri=str(wanted.Server.ApplicationUri or ""),
        )
        try:
            certificate = read_certificate(split_chain(wanted.ServerCertificate)[0])
            self.thumbprint = thumbprint(certificate)
            accepted = await trio.to_thread.run_sync(check, limiter=self.limiter)
        except CertificateRefused as error:
            self.refusal = str(error)
            if self.spec.security_mode is not SecurityMode.NONE:
                raise
            raise _Skip(f"not needed with mode None, but for a password: {error}") from error
        except (IndexError, *MALFORMED) as error:
            raise DeviceError(f"the server's certificate cannot be read ({type(error).__name__})") from error
        self.is_trusted = True
        return f"trusted: {describe(accepted.certificate)}", [accepted.warning] if accepted.warning else ()

    def _wanted(self) -> Any:
        """The endpoint with the mode and policy of the connection, else the first with a certificate."""
        for found in self._offered:
            mode = found.SecurityMode.name.rstrip("_")
            policy = short_name(found.SecurityPolicyUri)
            if (mode.lower(), policy) == (self.spec.security_mode.lower(), self.spec.security_policy):
                if found.ServerCertificate:
                    return found
                break
        return next((found for found in self._offered if found.ServerCertificate), None)

    async def log_in_and_read(self, node_ids: Sequence[str]) -> None:
        """The last two steps, in one session."""
        if self._failed:
            for name in (StepName.SESSION, StepName.READ):
                self.steps.append(Step(name, Outcome.SKIPPED, "an earlier step failed"))
            return
        started = time.monotonic()
        try:
            async with open_session(
                self.spec, settings=self.settings, pki=self.pki, limiter=self.limiter, resolving=self.resolving
            ) as session:
                await session.log_in()
                who = f"user {one_line(self.spec.username)}" if self.spec.username else "anonymous"
                detail = f"logged in as {who}, {self.spec.security_mode} {self.spec.security_policy}"
                took_ms = (time.monotonic() - started) * 1000
                self.steps.append(Step(StepName.SESSION, Outcome.OK, detail, took_ms))
                await self.step(StepName.READ, partial(self._read, session, node_ids))
        except DeviceError as error:
            name = StepName.SESSION if self.steps[-1].name is StepName.CERTIFICATE else StepName.READ
            if self.steps[-1].name is not StepName.READ:
                took_ms = (time.monotonic() - started) * 1000
                self.steps.append(Step(name, Outcome.FAILED, str(error), took_ms))
        if self.steps[-1].name is StepName.SESSION:
            self.steps.append(Step(StepName.READ, Outcome.SKIPPED, "an earlier step failed"))

    async def _read(self, session: Session, node_ids: Sequence[str]) -> tuple[str, Sequence[str]]:
        def read() -> list[Any]:
            wanted = [(parse_node_id(node_id), ua.AttributeIds.Value) for node_id in node_ids]
            return NodeReader(session.client).read(wanted)

        answers = await session.call("Read", read)
        lines = [
            f"{node_id} = {value_text(answer) or ''} ({status_text(answer)})"
            for node_id, answer in zip(node_ids, answers, strict=True)
        ]
        bad = [answer for answer in answers if answer is None or not answer.StatusCode.is_good()]
        if bad and len(bad) == len(answers):
            raise DeviceError(f"no node can be read: {lines[0]}")
        return f"{len(answers) - len(bad)} of {len(answers)} nodes are Good", lines


def _offered_endpoint(found: Any) -> OfferedEndpoint:
    tokens = []
    for token in found.UserIdentityTokens or ():
        own = f" ({short_name(token.SecurityPolicyUri)})" if token.SecurityPolicyUri else ""
        tokens.append(f"{token.TokenType.name}{own}")
    mode = found.SecurityMode.name.rstrip("_")
    return OfferedEndpoint(mode, short_name(found.SecurityPolicyUri), tuple(dict.fromkeys(tokens)))
