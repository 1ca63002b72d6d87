"""What Sign and SignAndEncrypt cost: CPU µs for one notification of 1,000 values, from frame to decoder's input.

`python benchmarks/secured.py`; each mode and policy in turn, all in one run, the least of five rounds.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from opcua import ua  # noqa: E402
from opcua.common.connection import SecureConnection  # noqa: E402

from scada_trio.opcua.client import LinkSocket  # noqa: E402
from scada_trio.opcua.policies import SUITES, ChannelSecurity, Suite  # noqa: E402
from tests.fix_pki import make  # noqa: E402

MESSAGES = 2_000
BODY = bytes(30_000)  # 1,000 doubles with status and source time, as open62541 and node-opcua send them
CLIENT, SERVER = make("client"), make("server")


def policy(suite: Suite | None, mode: Any, *, server: bool) -> Any:
    if suite is None:
        return ua.SecurityPolicy()
    own, other = (SERVER, CLIENT) if server else (CLIENT, SERVER)
    return ChannelSecurity(
        suite,
        mode,
        own_certificate=own.der,
        own_key=own.key,
        certificate=other.der,
        public_key=other.key.public_key(),
    )


def measure(suite: Suite | None, mode: Any) -> float:
    """Seconds of CPU for one message."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = LinkSocket(
            ours, timeout_s=1, policy=policy(suite, mode, server=False), send_chunk_bytes=65_536, on_backlog=print
        )
        device = SecureConnection(policy(suite, mode, server=True))
        asked = ua.OpenSecureChannelParameters()
        asked.ClientNonce = bytes(suite.nonce_bytes if suite else 0)
        answer = device.open(asked, SimpleNamespace(get_new_channel_id=lambda: 7))
        link._connection.set_channel(answer, ua.SecurityTokenRequestType.Issue, asked.ClientNonce)
        link._connection._peer_sequence_number = 0
        taken: list[int] = []
        link.on_publish = lambda body: taken.append(len(body))
        best = float("inf")
        for _ in range(5):
            frames = [device.message_to_binary(BODY, request_id=number) for number in range(1, MESSAGES + 1)]
            link._publishes.update(range(1, MESSAGES + 1))
            started = time.process_time()
            for frame in frames:
                link.take(frame)
            best = min(best, (time.process_time() - started) / MESSAGES)
        assert len(taken) == 5 * MESSAGES
        assert set(taken) == {len(BODY)}
        return best


def main() -> None:
    print(f"None {measure(None, None) * 1e6:.0f} µs")
    for suite in SUITES:
        for mode in (ua.MessageSecurityMode.Sign, ua.MessageSecurityMode.SignAndEncrypt):
            print(f"{mode.name} {suite.name} {measure(suite, mode) * 1e6:.0f} µs")


main()
