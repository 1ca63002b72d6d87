"""An open62541 server (o6) with the variables of record.py; prints its namespace index once it listens."""

import sys
from datetime import UTC, datetime

import numpy as np
import o6
from o6.ns.ns0 import datatypes

BAD, UNCERTAIN = o6.StatusCode.BAD_DEVICE_FAILURE, o6.StatusCode.UNCERTAIN_SENSOR_NOT_ACCURATE

MIXED = {
    "Boolean": o6.Boolean(True),
    "SByte": o6.SByte(-5),
    "Byte": o6.Byte(250),
    "Int16": o6.Int16(-300),
    "UInt16": o6.UInt16(65000),
    "Int32": o6.Int32(-70000),
    "UInt32": o6.UInt32(4_000_000_000),
    "Int64": o6.Int64(-1234567890123),
    "UInt64": o6.UInt64(2**63 + 2**11),
    "Float": o6.Float(1.5),
    "Double": o6.Double(3.141592653589793),
    "String": o6.String("pump"),
    "DateTime": o6.DateTime(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
    "Guid": o6.Guid("01234567-89ab-cdef-0123-456789abcdef"),
    "ByteString": o6.ByteString(b"\x00\x01\x02"),
    "NodeId": o6.NodeId("ns=1;s=a"),
    "QualifiedName": o6.QualifiedName("1:q"),
    "LocalizedText": o6.LocalizedText("Druck"),
    "Structure": datatypes.Range(low=0.0, high=100.0),
    "DoubleArray": np.array([1.0, 2.0, 3.0]),
    "StringArray": [o6.String("a"), o6.String("b")],
    "EmptyArray": np.array([], np.int32),
    "Matrix": np.array([[1, 2], [3, 4]], np.int32),
    "NullGood": None,
}
WITH_STATUS = {
    "NullBad": (None, BAD),
    "DoubleBad": (o6.Double(2.5), BAD),
    "StringBad": (o6.String("pump"), BAD),
    "DoubleUncertain": (o6.Double(4.5), UNCERTAIN),
    "StringUncertain": (o6.String("pump"), UNCERTAIN),
}


def add(server: o6.Server, name: str, value: object) -> None:
    """A variable; without a type of its own one that has no value would become the Int32 0."""
    of_type = {"dataType": "i=24"} if value is None else {}
    server.addVariable(name, server.objectsNode, value, nodeId=f"ns=1;s={name}", **of_type)


def main(port: int) -> None:
    server = o6.Server(port=port)
    objects = server.objectsNode
    with server:
        for name, value in MIXED.items():
            add(server, name, value)
        server.addVariable("StatusCode", objects, None, nodeId="ns=1;s=StatusCode", dataType="i=19")
        server.write("ns=1;s=StatusCode", BAD)
        for name, (value, status) in WITH_STATUS.items():
            add(server, name, value)
            server.write(f"ns=1;s={name}", o6.DataValue(value=value, status=status))
        for number in range(1000):
            server.addVariable(f"d{number}", objects, o6.Double(number / 8), nodeId=f"ns=1;s=d{number}")
        print(1, flush=True)
        sys.stdin.read()


main(int(sys.argv[1]))
