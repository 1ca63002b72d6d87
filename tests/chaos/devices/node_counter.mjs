// A node-opcua server that counts, as control.py says; its times are milliseconds.
import { existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../node/package.json", import.meta.url));
const opcua = require("node-opcua");

const wanted = JSON.parse(process.argv[2]);
const answer = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");
console.log = console.warn = console.error = () => {};

const lines = existsSync(wanted.log) ? readFileSync(wanted.log, "utf8").trimEnd().split("\n").map(JSON.parse) : [];
let tick = lines.reduce((last, line) => (line[0] === "tick" ? line[1] : last), 0);
let running = true;
let jumpMs = 0;
let lastMs = 0;
const file = openSync(wanted.log, "a");
const log = (...entry) => writeSync(file, JSON.stringify(entry) + "\n");
log("start");

const server = new opcua.OPCUAServer({
    port: wanted.port,
    hostname: "127.0.0.1",
    allowAnonymous: true,
    serverCapabilities: { maxSessions: 100 },
});
await server.initialize();
const namespace = server.engine.addressSpace.getOwnNamespace();
const variables = Array.from({ length: wanted.nodes }, (_, number) => {
    const variable = namespace.addVariable({
        organizedBy: server.engine.addressSpace.rootFolder.objects,
        nodeId: `ns=1;s=C${number}`,
        browseName: `C${number}`,
        dataType: "Double",
    });
    variable.setValueFromSource({ dataType: opcua.DataType.Double, value: 0 });
    return variable;
});

function count() {
    const nowMs = Date.now();
    if (!running || nowMs <= lastMs) return;
    lastMs = nowMs;
    tick += 1;
    const sourceMs = nowMs + jumpMs;
    log("tick", tick, sourceMs * 1000, nowMs * 1000);
    for (const variable of variables) {
        const value = new opcua.Variant({ dataType: opcua.DataType.Double, value: tick });
        variable.setValueFromSource(value, opcua.StatusCodes.Good, new Date(sourceMs));
    }
}

await server.start();
answer({ ready: true });
setInterval(count, 1000 / wanted.ticks_per_s);
const commands = createInterface({ input: process.stdin });
commands.on("line", (line) => {
    const command = JSON.parse(line);
    if (command.op === "jump") jumpMs += Math.round(command.us / 1000);
    else running = command.op === "resume";
    answer({ ok: true });
});
commands.on("close", () => process.exit(0));
