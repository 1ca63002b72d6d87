"""Records the bodies of PublishResponses of three makers' servers: `python tests/captures/record.py`.

Writes one .bin file a message beside itself, the bytes from the type id on. README.md says what is in them.
The tests do not need this program, only its files.
"""

import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

from opcua import Client, ua

HERE = Path(__file__).parent
SERVERS = {
    "asyncua": ([sys.executable, str(HERE / "serve_asyncua.py")], None),
    "open62541": ([sys.executable, str(HERE / "serve_o6.py")], None),
    "node-opcua": (["node", str(HERE / "serve_node.mjs")], HERE.parent / "node"),
}
MIXED = [
    "Boolean",
    "SByte",
    "Byte",
    "Int16",
    "UInt16",
    "Int32",
    "UInt32",
    "Int64",
    "UInt64",
    "Float",
    "Double",
    "String",
    "DateTime",
    "Guid",
    "ByteString",
    "NodeId",
    "StatusCode",
    "QualifiedName",
    "LocalizedText",
    "Structure",
    "DoubleArray",
    "StringArray",
    "EmptyArray",
    "Matrix",
    "NullGood",
    "NullBad",
    "DoubleBad",
    "StringBad",
    "DoubleUncertain",
    "StringUncertain",
]
SUBSCRIPTIONS = {
    "mixed": MIXED,
    "uniform-10": [f"d{number}" for number in range(10)],
    "uniform-1000": [f"d{number}" for number in range(1000)],
}


class Silent:
    """What the stock client reports to; nobody listens."""

    def datachange_notification(self, node: object, value: object, message: object) -> None:
        """Ignore it."""


class Recorder:
    """A stock client whose publish answers are kept as bytes."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, timeout=20)
        self.bodies: list[bytes] = []
        self.arrived = threading.Condition()
        self._stock = self.client.uaclient._call_publish_callback
        self.client.uaclient._call_publish_callback = self._keep

    def _keep(self, future) -> None:  # type: ignore[no-untyped-def]
        try:
            buffer = future.result()
        except CancelledError:
            return
        with self.arrived:
            self.bodies.append(bytes(buffer._data[buffer._cur_pos : buffer._cur_pos + buffer._size]))
            self.arrived.notify_all()
        self._stock(future)

    def wait_for(self, wanted) -> bytes:  # type: ignore[no-untyped-def]
        """The first body that fits, from now or before."""
        with self.arrived:
            found = self.arrived.wait_for(lambda: [body for body in self.bodies if wanted(body)], timeout=30)
            return found[0]

    def subscribe(self, names: list[str], namespace: int):  # type: ignore[no-untyped-def]
        """A subscription of ``names`` with the client handles 1, 2, ... in their order."""
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = 500
        parameters.RequestedLifetimeCount = 1000
        parameters.RequestedMaxKeepAliveCount = 1
        parameters.PublishingEnabled = False
        subscription = self.client.create_subscription(parameters, Silent())
        items = []
        for handle, name in enumerate(names, 1):
            item = ua.MonitoredItemCreateRequest()
            item.ItemToMonitor.NodeId = ua.NodeId(name, namespace)
            item.ItemToMonitor.AttributeId = ua.AttributeIds.Value
            item.MonitoringMode = ua.MonitoringMode.Reporting
            item.RequestedParameters.ClientHandle = handle
            item.RequestedParameters.SamplingInterval = 100
            item.RequestedParameters.QueueSize = 10
            items.append(item)
        created = subscription.create_monitored_items(items)
        missing = [name for name, result in zip(names, created, strict=True) if not isinstance(result, int)]
        assert not missing, missing
        mode = ua.SetPublishingModeRequest()
        mode.Parameters.PublishingEnabled = True
        mode.Parameters.SubscriptionIds = [subscription.subscription_id]
        self.client.uaclient._uasocket.send_request(mode)
        return subscription


def record(maker: str, url: str, namespace: int) -> None:
    """All captures of one server."""
    for name, nodes in SUBSCRIPTIONS.items():
        recorder = Recorder(url)
        with recorder.client:
            subscription = recorder.subscribe(nodes, namespace)
            smallest = 20 * len(nodes)
            body = recorder.wait_for(lambda body, smallest=smallest: len(body) > smallest)
            (HERE / f"{maker}-{name}.bin").write_bytes(body)
            if name == "mixed":
                keep_alive = recorder.wait_for(lambda body: len(body) < 80)
                (HERE / f"{maker}-keep-alive.bin").write_bytes(keep_alive)
                if maker == "asyncua":  # leaves Publish unanswered
                    continue
                subscription.delete()
                (HERE / f"{maker}-fault.bin").write_bytes(recorder.wait_for(lambda body: body[2:4] == b"\x8d\x01"))


def main() -> None:
    for maker, (command, folder) in SERVERS.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with subprocess.Popen(
            [*command, str(port)], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            try:
                namespace = next(int(line) for line in server.stdout if line.strip().isdigit())
                record(maker, f"opc.tcp://127.0.0.1:{port}", namespace)
            finally:
                server.stdin.close()
                server.terminate()


if __name__ == "__main__":
    main()
