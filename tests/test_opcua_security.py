"""Message security with real servers of three makers: every policy of each, users, recovery, and who is refused."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from scada_trio.desired import SecurityMode
from scada_trio.opcua.policies import SUITES
from tests.fix_devices import MAKERS, Device, open_device, open_rig, tag
from tests.fix_pki import SERVER_URI, Made, TestPki, make

A = tag("ns=1;s=a")
BEST: dict[str, Any] = {"security_mode": SecurityMode.SIGN_AND_ENCRYPT, "security_policy": "Basic256Sha256"}
POLICIES = [suite.name for suite in SUITES]
NOT_OFFERED = {
    ("open62541", "Basic256"),
    ("open62541", "Basic128Rsa15"),
    ("node-opcua", "Basic128Rsa15"),  # Node.js decrypts no RSA 1.5 any more
}


def device_with(maker: str, made: Made, folder: Path, **options: Any) -> AbstractAsyncContextManager[Device]:
    """A device that presents ``made`` and offers every mode and policy that it knows."""
    given = {"nodes": ["a"], "uri": SERVER_URI, "pki": str(folder / "server-pki"), **made.files(folder), **options}
    return open_device(maker, **given)


OFFERED = [(maker, policy) for maker in MAKERS for policy in POLICIES]
OFFERED = [pair for pair in OFFERED if pair not in NOT_OFFERED]


@pytest.mark.parametrize("mode", [SecurityMode.SIGN, SecurityMode.SIGN_AND_ENCRYPT])
@pytest.mark.parametrize(("maker", "policy"), OFFERED)
async def test_every_policy(maker: str, policy: str, mode: SecurityMode, pki: TestPki, tmp_path: Path) -> None:
    """Readings come through channels of every mode and policy that a maker's server offers."""
    made = make()
    pki.trust_it(made)
    async with (
        device_with(maker, made, tmp_path) as device,
        open_rig(device.url, (A,), pki=pki, security_mode=mode, security_policy=policy) as rig,
    ):
        await device.write("a", 7.0)
        await rig.until_value(A.node_id, 7.0)
