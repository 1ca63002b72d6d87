// Node-RED with node-red-contrib-opcua, embedded as its documentation has it, and a function node that writes with pg.
//
//   inject ─► items (function) ─► OpcUa-Client, one a well ─► rows (function): batches, INSERT ... SELECT FROM unnest
//
// pg comes in through functionGlobalContext: the PostgreSQL nodes that npm has are bound to pg 6, which knows no SCRAM.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import RED from "node-red";
import pg from "pg";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const userDir = path.join(config.directory, "node-red");
mkdirSync(userDir, { recursive: true });

// The topic "multiple" subscribes to all items in one request; the client asks for a queue of one value of each.
const ITEMS = `
node.send({ topic: "multiple", payload: JSON.parse(env.get("NODE_IDS")).map((nodeId) => ({ nodeId })) });
`;

const START = `
const pool = new (global.get("pg").Pool)({ connectionString: global.get("databaseUrl"), max: 1 });
pool.on("error", (error) => node.warn(error.message));
context.set("rows", []);
const insert =
  "INSERT INTO scada_readings (timestamp, value, well_id, tag_node_id, quality)" +
  " SELECT * FROM unnest($1::timestamptz[], $2::float8[], $3::uuid[], $4::text[], $5::text[])";
const { batchRows, batchMs, retryMs } = global.get("batching");

async function write(rows) {
  const columns = [0, 1, 2, 3, 4].map((column) => rows.map((row) => row[column]));
  for (;;) {
    try {
      await pool.query(insert, columns);
      return;
    } catch (error) {
      node.warn(error.message);
      if (error.code === "23505") return; // it is there already
      await new Promise((resolve) => setTimeout(resolve, retryMs));
    }
  }
}

let since = 0;
let busy = false;
context.set("timer", setInterval(async () => {
  const rows = context.get("rows");
  if (busy) return;
  if (rows.length > 0 && since === 0) since = Date.now();
  busy = true;
  while (rows.length >= batchRows || (since > 0 && Date.now() - since >= batchMs)) {
    await write(rows.splice(0, batchRows));
    since = rows.length > 0 ? Date.now() : 0;
  }
  busy = false;
}, 50));
`;

const TAKE = `
if (msg.topic === "subscriptionId") return; // what the client says of itself
const { value, statusCode, sourceTimestamp, sourcePicoseconds } = msg.payload;
const micro = String(Math.floor((sourcePicoseconds ?? 0) / 1e6)).padStart(3, "0");
context.get("rows").push([
  sourceTimestamp.toISOString().replace("Z", micro + "Z"),
  value.value === null ? NaN : Number(value.value),
  global.get("wellIds").get(msg.topic),
  msg.topic,
  ["Good", "Uncertain", "Bad", "Bad"][statusCode.value >>> 30],
]);
`;

function wellNodes([endpoint, , nodeIds], number) {
  const id = (kind) => `${kind}${number}`;
  return [
    { id: id("endpoint"), type: "OpcUa-Endpoint", endpoint, secpol: "None", secmode: "None", none: true, login: false },
    {
      id: id("group"),
      type: "group",
      z: "tab",
      env: [{ name: "NODE_IDS", type: "str", value: JSON.stringify(nodeIds) }],
      nodes: [id("inject"), id("items"), id("client")],
    },
    { id: id("inject"), type: "inject", z: "tab", g: id("group"), once: true, onceDelay: 2, props: [], wires: [[id("items")]] },
    { id: id("items"), type: "function", z: "tab", g: id("group"), func: ITEMS, outputs: 1, wires: [[id("client")]] },
    {
      id: id("client"),
      type: "OpcUa-Client",
      z: "tab",
      g: id("group"),
      endpoint: id("endpoint"),
      action: "subscribe",
      time: Math.min(config.publishing_ms, 100), // with a queue of one value, reports must come often
      timeUnit: "ms",
      certificate: "n",
      keepsessionalive: true,
      wires: [["rows"], [], []],
    },
  ];
}

const flows = [
  { id: "tab", type: "tab", label: "wells" },
  ...config.wells.flatMap(wellNodes),
  { id: "rows", type: "function", z: "tab", func: TAKE, initialize: START, outputs: 0, wires: [] },
];
writeFileSync(path.join(userDir, "flows.json"), JSON.stringify(flows));
writeFileSync(path.join(userDir, "package.json"), "{}");

RED.init(http.createServer(), {
  userDir,
  flowFile: "flows.json",
  httpAdminRoot: false,
  httpNodeRoot: false,
  credentialSecret: false,
  functionGlobalContext: {
    pg,
    databaseUrl: config.database_url,
    wellIds: new Map(config.wells.flatMap(([, wellId, nodeIds]) => nodeIds.map((nodeId) => [nodeId, wellId]))),
    batching: { batchRows: config.batch_rows, batchMs: config.batch_s * 1000, retryMs: 1000 },
  },
  logging: { console: { level: "warn", metrics: false, audit: false } },
});
process.on("SIGTERM", () => process.exit(0));
await RED.start();
