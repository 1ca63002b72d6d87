// node-opcua into PostgreSQL with pg-copy-streams, as both documentations have it.

import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AttributeIds,
  ClientMonitoredItemGroup,
  ClientSubscription,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  TimestampsToReturn,
} from "node-opcua";
import pg from "pg";
import { from as copyFrom } from "pg-copy-streams";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const RETRY_MS = 1000;
const COPY = "COPY scada_readings (timestamp, value, well_id, tag_node_id, quality) FROM STDIN";
const QUALITIES = ["Good", "Uncertain", "Bad", "Bad"];

let lines = [];
let since = 0;

/** A Date knows milliseconds; node-opcua gives the rest of the time in picoseconds. */
function timeOf(dataValue) {
  const microseconds = String(Math.floor((dataValue.sourcePicoseconds ?? 0) / 1e6)).padStart(3, "0");
  return dataValue.sourceTimestamp.toISOString().replace("Z", `${microseconds}Z`);
}

function take(wellId, nodeId, dataValue) {
  const value = dataValue.value.value === null ? NaN : Number(dataValue.value.value);
  if (lines.length === 0) since = performance.now();
  lines.push(
    `${timeOf(dataValue)}\t${value}\t${wellId}\t${nodeId}\t${QUALITIES[dataValue.statusCode.value >>> 30]}\n`,
  );
}

async function follow([endpointUrl, wellId, nodeIds]) {
  const client = OPCUAClient.create({
    securityMode: MessageSecurityMode.None,
    securityPolicy: SecurityPolicy.None,
    endpointMustExist: false,
    keepSessionAlive: true,
    connectionStrategy: { initialDelay: 1000, maxDelay: 5000, maxRetry: -1 },
  });
  await client.connect(endpointUrl);
  const session = await client.createSession();
  const subscription = ClientSubscription.create(session, {
    requestedPublishingInterval: config.publishing_ms,
    requestedLifetimeCount: 1000,
    requestedMaxKeepAliveCount: 20,
    maxNotificationsPerPublish: 0,
    publishingEnabled: true,
    priority: 1,
  });
  const group = ClientMonitoredItemGroup.create(
    subscription,
    nodeIds.map((nodeId) => ({ nodeId, attributeId: AttributeIds.Value })),
    { samplingInterval: config.sampling_ms, discardOldest: true, queueSize: config.queue_size },
    TimestampsToReturn.Both,
  );
  group.on("changed", (_item, dataValue, index) => take(wellId, nodeIds[index], dataValue));
}

async function write(pool, batch) {
  for (;;) {
    let client;
    try {
      client = await pool.connect();
      await pipeline(Readable.from([batch.join("")]), client.query(copyFrom(COPY)));
      client.release();
      return;
    } catch (error) {
      client?.release(error);
      if (error.code === "23505") {
        console.warn("a batch is there already");
        return;
      }
      console.warn(`database: ${error.message}, again in ${RETRY_MS} ms`);
      await sleep(RETRY_MS);
    }
  }
}

const pool = new pg.Pool({ connectionString: config.database_url, max: 1 });
pool.on("error", (error) => console.warn(`database: ${error.message}`));
process.on("SIGTERM", () => process.exit(0));
await Promise.all(config.wells.map(follow));
for (;;) {
  if (lines.length >= config.batch_rows || (lines.length > 0 && performance.now() - since >= config.batch_s * 1000)) {
    const batch = lines.splice(0, config.batch_rows);
    since = performance.now();
    await write(pool, batch);
  } else {
    await sleep(50);
  }
}
