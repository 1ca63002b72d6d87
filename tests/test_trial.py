"""Trying a device step by step: what each failure looks like, on real servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from opcua import ua
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.opcua.trial import try_device
from scada_trio.trial import Outcome, Trial
from tests.devices.scripted import SILENCE, ScriptedDevice
from tests.fix_devices import FAST, free_port, open_device
from tests.fix_pki import SERVER_URI, TestPki, make
from tests.test_browse import run_cli, serving

OK, FAILED, SKIPPED = Outcome.OK, Outcome.FAILED, Outcome.SKIPPED
SECURED = {"security_mode": SecurityMode.SIGN_AND_ENCRYPT, "security_policy": "Basic256Sha256"}


async def tried(url: str, pki: TestPki, node_ids: Sequence[str] = (), **fields: Any) -> Trial:
    """A trial that holds no thread afterwards and says no password."""
    limiter = trio.CapacityLimiter(1)
    with trio.fail_after(60):
        trial = await try_device(
            ConnectionSpec(uuid4(), uuid4(), "test", url, **fields),
            node_ids,
            settings=FAST,
            pki=pki,
            limiter=limiter,
            resolving=trio.CapacityLimiter(1),
        )
    assert limiter.borrowed_tokens == 0
    assert "topsecret" not in repr(trial)
    assert [step.name for step in trial.steps] == ["reach", "endpoints", "certificate", "session", "read"]
    assert all(step.duration_ms >= 0 for step in trial.steps)
    return trial


def outcomes(trial: Trial) -> list[Outcome]:
    return [step.outcome for step in trial.steps]


async def test_a_device_that_is_well_passes_every_step(maker: str, pki: TestPki) -> None:
    """Endpoints with modes, policies and logins; nodes with their values."""
    async with open_device(maker, nodes=["P"]) as device:
        trial = await tried(device.url, pki, ["ns=1;s=P", "ns=1;s=Missing"])
    assert outcomes(trial)[:2] == [OK, OK]
    assert outcomes(trial)[3:] == [OK, OK]
    assert trial.is_good
    assert any(
        (offered.security_mode, offered.security_policy) == ("None", "None")
        and any(token.startswith("Anonymous") for token in offered.tokens)
        for offered in trial.endpoints
    )
    assert trial.steps[-1].lines == ("ns=1;s=P = 0.0 (Good)", "ns=1;s=Missing =  (BadNodeIdUnknown)")
    assert "1 of 2" in trial.steps[-1].detail


async def test_an_untrusted_certificate_ends_the_trial_with_what_to_do(
    maker: str, pki: TestPki, tmp_path: Path
) -> None:
    """The thumbprint is told; once it is trusted everything passes."""
    made = make()
    options = {**made.files(tmp_path), "uri": SERVER_URI, "pki": str(tmp_path / "device-pki")}
    async with open_device(maker, nodes=["P"], **options) as device:
        refused = await tried(device.url, pki, **SECURED)
        assert outcomes(refused) == [OK, OK, FAILED, SKIPPED, SKIPPED]
        assert (refused.thumbprint, refused.is_trusted) == (made.thumbprint, False)
        assert refused.refusal is not None
        assert f"scada-trio trust {made.thumbprint}" in refused.refusal
        pki.trust_it(made)
        trusted = await tried(device.url, pki, ["ns=1;s=P"], **SECURED)
    assert outcomes(trusted) == [OK] * 5
    assert trusted.is_trusted
    assert "SignAndEncrypt Basic256Sha256" in trusted.steps[3].detail


async def test_a_wrong_password_fails_at_the_session(pki: TestPki) -> None:
    """And is in no step; the right one passes."""
    async with open_device("open62541", users={"operator": "right"}, nodes=["P"]) as device:
        fields: dict[str, Any] = {"username": "operator", "allow_plaintext_password": True}
        refused = await tried(device.url, pki, password=SecretStr("topsecret"), **fields)
        assert outcomes(refused)[3:] == [FAILED, SKIPPED]
        assert "BadUserAccessDenied" in refused.steps[3].detail
        passed = await tried(device.url, pki, password=SecretStr("right"), **fields)
        assert outcomes(passed)[3:] == [OK, OK]
        assert "user operator" in passed.steps[3].detail


async def test_nobody_at_home_fails_at_once(pki: TestPki) -> None:
    """The later steps are skipped, not tried."""
    trial = await tried(f"opc.tcp://127.0.0.1:{free_port()}", pki)
    assert outcomes(trial) == [FAILED, *[SKIPPED] * 4]
    assert "cannot connect" in trial.steps[0].detail


@pytest.mark.parametrize(
    ("service", "answer", "expected"),
    [
        ("GetEndpoints", ua.StatusCodes.BadTooManyOperations, [OK, FAILED, SKIPPED, SKIPPED, SKIPPED]),
        ("CreateSession", ua.StatusCodes.BadTooManySessions, [OK, OK, SKIPPED, FAILED, SKIPPED]),
        ("ActivateSession", ua.StatusCodes.BadIdentityTokenRejected, [OK, OK, SKIPPED, FAILED, SKIPPED]),
        ("Read", ua.StatusCodes.BadServiceUnsupported, [OK, OK, SKIPPED, OK, FAILED]),
        ("Read", SILENCE, [OK, OK, SKIPPED, OK, FAILED]),
    ],
)
async def test_the_step_that_fails_is_named(
    service: str, answer: object, expected: list[Outcome], pki: TestPki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever service the device refuses or leaves unanswered."""
    device = ScriptedDevice()
    device.answers |= {"GetEndpoints": _endpoints, service: answer}
    monkeypatch.setattr("tests.test_trial.FAST", FAST.__class__(connect_timeout_s=0.5))
    async with serving(device):
        trial = await tried(device.url, pki)
    assert outcomes(trial) == expected


def _endpoints(parameters: Any) -> Any:
    response = ua.GetEndpointsResponse()
    endpoint = ua.EndpointDescription()
    endpoint.EndpointUrl, endpoint.SecurityMode = parameters.EndpointUrl, ua.MessageSecurityMode.None_
    endpoint.SecurityPolicyUri = "http://opcfoundation.org/UA/SecurityPolicy#None"
    response.Endpoints = [endpoint]
    return response


async def test_the_command_prints_the_steps(tmp_path: Path) -> None:
    """A line each, and exit status 1 where one fails."""
    async with open_device("asyncua", nodes=["P"]) as device:
        status, text, errors = await run_cli("connection", "test", device.url, "--node", "ns=1;s=P", cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert "ok    read: 1 of 1 nodes are Good" in text
    assert "ns=1;s=P = 0.0 (Good)" in text
    status, text, errors = await run_cli("connection", "test", f"opc.tcp://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert (status, errors) == (1, "scada-trio: reach failed\n")
    assert text.startswith("FAIL  reach: cannot connect")
    assert text.count("\n-     ") == 4
