"""An asyncua server with the variables of record.py; prints its namespace index once it listens."""

import asyncio
import sys
from datetime import UTC, datetime
from uuid import UUID

from asyncua import Server, ua

V, T = ua.Variant, ua.VariantType
BAD, UNCERTAIN = ua.StatusCodes.BadDeviceFailure, ua.StatusCodes.UncertainSensorNotAccurate
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

MIXED = {
    "Boolean": V(True, T.Boolean),
    "SByte": V(-5, T.SByte),
    "Byte": V(250, T.Byte),
    "Int16": V(-300, T.Int16),
    "UInt16": V(65000, T.UInt16),
    "Int32": V(-70000, T.Int32),
    "UInt32": V(4_000_000_000, T.UInt32),
    "Int64": V(-1234567890123, T.Int64),
    "UInt64": V(2**63 + 2**11, T.UInt64),
    "Float": V(1.5, T.Float),
    "Double": V(3.141592653589793, T.Double),
    "String": V("pump", T.String),
    "DateTime": V(MOMENT, T.DateTime),
    "Guid": V(UUID(int=0x0123456789ABCDEF0123456789ABCDEF), T.Guid),
    "ByteString": V(b"\x00\x01\x02", T.ByteString),
    "NodeId": V(ua.NodeId("a", 1), T.NodeId),
    "StatusCode": V(ua.StatusCode(BAD), T.StatusCode),
    "QualifiedName": V(ua.QualifiedName("q", 1), T.QualifiedName),
    "LocalizedText": V(ua.LocalizedText("Druck", "de"), T.LocalizedText),
    "Structure": V(ua.Range(0.0, 100.0), T.ExtensionObject),
    "DoubleArray": V([1.0, 2.0, 3.0], T.Double),
    "StringArray": V(["a", "b"], T.String),
    "EmptyArray": V([], T.Int32, is_array=True),
    "Matrix": V([[1, 2], [3, 4]], T.Int32),
    "NullGood": V(None, T.Null),
}
WITH_STATUS = {
    "NullBad": (V(None, T.Null), BAD),
    "DoubleBad": (V(2.5, T.Double), BAD),
    "StringBad": (V("pump", T.String), BAD),
    "DoubleUncertain": (V(4.5, T.Double), UNCERTAIN),
    "StringUncertain": (V("pump", T.String), UNCERTAIN),
}


async def main(port: int) -> None:
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    namespace = await server.register_namespace("urn:scada-trio:captures")
    objects = server.nodes.objects
    for name, variant in MIXED.items():
        await objects.add_variable(ua.NodeId(name, namespace), name, variant)
    for name, (variant, status) in WITH_STATUS.items():
        node = await objects.add_variable(ua.NodeId(name, namespace), name, variant)
        value = ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=MOMENT, ServerTimestamp=MOMENT)
        await server.write_attribute_value(node.nodeid, value)
    for number in range(1000):
        folder = objects if number % 100 else await objects.add_folder(namespace, f"folder{number}")
        name = f"d{number}"
        node = await folder.add_variable(ua.NodeId(name, namespace), name, V(number / 8, T.Double))
        objects = folder if number % 100 == 0 else objects
        await node.set_writable()
    async with server:
        print(namespace, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(int(sys.argv[1])))
