"""Records what three makers' servers answer to a client that connects: `python -m tests.captures.record_services`.

Writes ``services/<maker>-<response>-<number>.bin``, the bytes from the type id on, the first of each response. The
servers are those of the tests; they present a certificate and offer every policy that they know.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import trio
from opcua.common.utils import Buffer
from opcua.ua.object_ids import ObjectIds
from opcua.ua.ua_binary import nodeid_from_binary

from scada_trio.nodes import BrowseQuery
from scada_trio.opcua import browse, client, discovery
from scada_trio.opcua.transport import parse_endpoint
from tests.fix_devices import FAST, MAKERS, open_device, open_rig, tag
from tests.fix_pki import SERVER_URI, make
from tests.publish_bytes import CAPTURES

SERVICES = CAPTURES / "services"
_KEPT = 1
_NAMES = {code: name.partition("_")[0] for name, code in vars(ObjectIds).items() if name.endswith("DefaultBinary")}


class Recorder:
    """Keeps the first answers of each kind."""

    def __init__(self, maker: str) -> None:
        self._maker = maker
        self._counts: Counter[str] = Counter()

    def keep(self, body: Buffer) -> None:
        content = bytes(body.copy().read(len(body)))
        name = _NAMES.get(nodeid_from_binary(body.copy()).Identifier, "unknown")
        if name.endswith("Response") and name not in ("PublishResponse",) and self._counts[name] < _KEPT:
            self._counts[name] += 1
            (SERVICES / f"{self._maker}-{name}-{self._counts[name]}.bin").write_bytes(content)


async def record(maker: str, folder: Path) -> None:
    """Connect to a server of this maker, subscribe, browse and ask for its endpoints."""
    recorder = Recorder(maker)
    dispatch, receive = client.LinkSocket._dispatch, discovery._Exchange._receive

    def keep_dispatched(link: Any, request_id: int, body: Buffer) -> None:
        recorder.keep(body)
        dispatch(link, request_id, body)

    async def keep_received(exchange: Any) -> Buffer:
        body = await receive(exchange)
        recorder.keep(body)
        return body

    setattr(client.LinkSocket, "_dispatch", keep_dispatched)  # noqa: B010
    setattr(discovery._Exchange, "_receive", keep_received)  # noqa: B010
    options = {"nodes": ["a", "b"], "uri": SERVER_URI, "pki": str(folder / maker), **make().files(folder)}
    limiter = trio.CapacityLimiter(2)
    async with open_device(maker, **options) as device:
        tags = (tag("ns=1;s=a"), tag("ns=1;s=b", deadband=0.5), tag("ns=1;s=missing"))
        async with open_rig(device.url, tags) as rig:
            await device.write("a", 1.0)
            await rig.until_value("ns=1;s=a", 1.0)
            spec, pki = rig.spec, rig.connection._pki
            given: dict[str, Any] = {"settings": FAST, "pki": pki, "limiter": limiter, "resolving": limiter}
            async with browse.open_walk(spec, BrowseQuery(values=True), **given) as walk:
                await walk.take()
                await walk.take()
        endpoint = parse_endpoint(device.url)
        await discovery.get_endpoints(endpoint, timeout_s=FAST.connect_timeout_s, resolving=limiter)
    setattr(client.LinkSocket, "_dispatch", dispatch)  # noqa: B010
    setattr(discovery._Exchange, "_receive", receive)  # noqa: B010


async def main() -> None:
    SERVICES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for maker in MAKERS:
            await record(maker, Path(folder))


if __name__ == "__main__":
    trio.run(main)
