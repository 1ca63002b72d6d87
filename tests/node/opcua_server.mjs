// A node-opcua server, steered as tests/devices/control.py says: node opcua_server.mjs '{"port": 4840}'.
import { createInterface } from "node:readline";
import opcua from "node-opcua";

const { DataType, Variant, VariantArrayType } = opcua;
const wanted = { nodes: [], users: {}, items_a_call: null, field: null, limits: {}, certificate: null, ...JSON.parse(process.argv[2]) };
const answer = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");
console.log = console.warn = console.error = () => {};

const named = Object.keys(wanted.users).length > 0;
const { MessageSecurityMode, OPCUACertificateManager, SecurityPolicy } = opcua;
const secured = wanted.certificate === null ? {} : {
    certificateFile: wanted.certificate,
    privateKeyFile: wanted.key,
    serverInfo: { applicationUri: wanted.uri },
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    securityPolicies: ["None", "Basic128Rsa15", "Basic256", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"].map((name) => SecurityPolicy[name]),
    serverCertificateManager: new OPCUACertificateManager({ rootFolder: wanted.pki, automaticallyAcceptUnknownCertificate: true }),
};
const server = new opcua.OPCUAServer({
    ...secured,
    port: wanted.port,
    hostname: "127.0.0.1",
    allowAnonymous: !named,
    userManager: named ? { isValidUser: (name, password) => wanted.users[name] === password } : undefined,
    serverCapabilities: { maxSessions: 100, operationLimits: { ...(wanted.items_a_call && { maxMonitoredItemsPerCall: wanted.items_a_call }), ...wanted.limits } },
});
await server.initialize();
const space = server.engine.addressSpace;
const namespace = space.getOwnNamespace();
const variables = new Map();

function add(node, type, range = null) {
    const fields = { organizedBy: space.rootFolder.objects, nodeId: node, browseName: node, dataType: type };
    const variable = range === null
        ? namespace.addVariable(fields)
        : namespace.addAnalogDataItem({ ...fields, engineeringUnitsRange: { low: range[0], high: range[1] } });
    variables.set(node, variable);
    return variable;
}

function addField({ wells, tags }) {
    const field = namespace.addFolder(space.rootFolder.objects, { nodeId: "ns=1;s=Field", browseName: "Field" });
    for (const well of wells) {
        const folder = namespace.addFolder(field, { nodeId: `ns=1;s=${well}`, browseName: well });
        folder.addReference({ referenceType: "HasComponent", nodeId: field });
        for (const tag of tags) {
            const access = tag.access === 2 ? "CurrentWrite" : "CurrentRead";
            const fields = { organizedBy: folder, nodeId: `ns=1;s=${well}.${tag.name}`, browseName: tag.name, dataType: tag.type, valueRank: Array.isArray(tag.value) ? 1 : -1, accessLevel: access, userAccessLevel: access };
            const variable = tag.unit
                ? namespace.addAnalogDataItem({ ...fields, engineeringUnitsRange: { low: tag.range[0], high: tag.range[1] }, engineeringUnits: { displayName: tag.unit } })
                : namespace.addVariable(fields);
            const arrayType = Array.isArray(tag.value) ? VariantArrayType.Array : VariantArrayType.Scalar;
            variable.setValueFromSource(new Variant({ dataType: DataType[tag.type], arrayType, value: tag.value }));
        }
    }
}

function toValue(type, value) {
    if (type !== "Int64" && type !== "UInt64") return value;
    const bits = BigInt.asUintN(64, BigInt(value));
    return [Number(bits >> 32n), Number(bits & 0xffffffffn)];
}

function write({ node, type, value, status = 0, source_us: sourceUs = null }) {
    const variant = value === null
        ? new Variant({ dataType: DataType.Null })
        : new Variant({ dataType: DataType[type], arrayType: VariantArrayType.Scalar, value: toValue(type, value) });
    const moment = sourceUs === null ? new Date() : new Date(Math.floor(sourceUs / 1000));
    variables.get(node).setValueFromSource(variant, opcua.coerceStatusCode(status), moment);
}

function items() {
    const found = {};
    for (const session of Object.values(server.engine._sessions)) {
        for (const subscription of session.publishEngine.subscriptions) {
            for (const item of subscription.monitoredItems.values()) {
                found[item.node.nodeId.toString()] = {
                    id: item.monitoredItemId,
                    publishing: subscription.publishingInterval,
                    sampling: item.samplingInterval,
                    queue: item.queueSize,
                    discard_oldest: item.discardOldest,
                    deadband: item.filter ? [item.filter.deadbandType, item.filter.deadbandValue] : null,
                };
            }
        }
    }
    return found;
}

for (const name of wanted.nodes) add(`ns=1;s=${name}`, "Double").setValueFromSource({ dataType: DataType.Double, value: 0 });
if (wanted.field) addField(wanted.field);
await server.start();
answer({ ready: true });
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
    const command = JSON.parse(line);
    try {
        if (command.op === "items") return answer(items());
        if (command.op === "add") add(command.node, command.type, command.range);
        else write(command);
        answer({ ok: true });
    } catch (error) {
        answer({ error: String(error) });
    }
});
lines.on("close", () => process.exit(0));
