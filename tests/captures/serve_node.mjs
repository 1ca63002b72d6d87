// A node-opcua server with the variables of record.py; prints its namespace index once it listens.
// Run it with tests/node as working directory, where node-opcua is installed.
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const opcua = require("node-opcua");
const { DataType, StatusCodes, VariantArrayType } = opcua;
const moment = new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678));

const mixed = {
    Boolean: [DataType.Boolean, true],
    SByte: [DataType.SByte, -5],
    Byte: [DataType.Byte, 250],
    Int16: [DataType.Int16, -300],
    UInt16: [DataType.UInt16, 65000],
    Int32: [DataType.Int32, -70000],
    UInt32: [DataType.UInt32, 4000000000],
    Int64: [DataType.Int64, [0xfffffee0, 0x8e04fb35]],
    UInt64: [DataType.UInt64, [0x80000000, 0x800]],
    Float: [DataType.Float, 1.5],
    Double: [DataType.Double, 3.141592653589793],
    String: [DataType.String, "pump"],
    DateTime: [DataType.DateTime, moment],
    Guid: [DataType.Guid, "01234567-89AB-CDEF-0123-456789ABCDEF"],
    ByteString: [DataType.ByteString, Buffer.from([0, 1, 2])],
    NodeId: [DataType.NodeId, opcua.resolveNodeId("ns=1;s=a")],
    StatusCode: [DataType.StatusCode, StatusCodes.BadDeviceFailure],
    QualifiedName: [DataType.QualifiedName, { namespaceIndex: 1, name: "q" }],
    LocalizedText: [DataType.LocalizedText, { locale: "de", text: "Druck" }],
    Structure: [DataType.ExtensionObject, new opcua.Range({ low: 0, high: 100 })],
    DoubleArray: [DataType.Double, [1, 2, 3], VariantArrayType.Array],
    StringArray: [DataType.String, ["a", "b"], VariantArrayType.Array],
    EmptyArray: [DataType.Int32, [], VariantArrayType.Array],
    Matrix: [DataType.Int32, [1, 2, 3, 4], VariantArrayType.Matrix, [2, 2]],
    NullGood: [DataType.Null, null],
};
const withStatus = {
    NullBad: [DataType.Null, null, StatusCodes.BadDeviceFailure],
    DoubleBad: [DataType.Double, 2.5, StatusCodes.BadDeviceFailure],
    StringBad: [DataType.String, "pump", StatusCodes.BadDeviceFailure],
    DoubleUncertain: [DataType.Double, 4.5, StatusCodes.UncertainSensorNotAccurate],
    StringUncertain: [DataType.String, "pump", StatusCodes.UncertainSensorNotAccurate],
};

const server = new opcua.OPCUAServer({ port: Number(process.argv[2]), hostname: "127.0.0.1" });
await server.initialize();
const space = server.engine.addressSpace;
const namespace = space.getOwnNamespace();
const add = (name, dataType, rest) =>
    namespace.addVariable({
        componentOf: space.rootFolder.objects.server,
        nodeId: `s=${name}`,
        browseName: name,
        dataType: dataType === DataType.Null ? "BaseDataType" : dataType === DataType.ExtensionObject ? "Range" : dataType,
        ...rest,
    });
for (const [name, [dataType, value, arrayType, dimensions]] of Object.entries(mixed)) {
    const variant = { dataType, value, arrayType: arrayType ?? VariantArrayType.Scalar, dimensions };
    const shape = dimensions ? { valueRank: dimensions.length, arrayDimensions: dimensions } : { valueRank: arrayType ? 1 : -1 };
    add(name, dataType, shape).setValueFromSource(new opcua.Variant(variant));
}
for (const [name, [dataType, value, status]] of Object.entries(withStatus))
    add(name, dataType, {}).setValueFromSource(new opcua.Variant({ dataType, value, arrayType: VariantArrayType.Scalar }), status);
for (let number = 0; number < 1000; number++)
    add(`d${number}`, DataType.Double, {}).setValueFromSource({ dataType: DataType.Double, value: number / 8 });
await server.start();
console.log(namespace.index);
process.stdin.on("end", () => process.exit(0)).resume();
