// A node-opcua client: connects to the endpoint in argv[2], browses the folder in argv[3], reads and monitors its variables.
// Prints one line of JSON: names, dataTypes, and how many values of each variable came within the time it takes to get 3.
import { AttributeIds, ClientMonitoredItemGroup, OPCUAClient, TimestampsToReturn } from "node-opcua";

const [url, folder] = process.argv.slice(2);
const client = OPCUAClient.create({ endpointMustExist: true, connectionStrategy: { maxRetry: 1 } });
await client.connect(url);
const session = await client.createSession();
const { references } = await session.browse(folder);
const nodes = references.filter((reference) => reference.nodeClass === 2);
const read = await session.read(nodes.map(({ nodeId }) => ({ nodeId, attributeId: AttributeIds.Value })));
const subscription = await session.createSubscription2({
  requestedPublishingInterval: 50, requestedMaxKeepAliveCount: 20, requestedLifetimeCount: 100,
  maxNotificationsPerPublish: 0, publishingEnabled: true, priority: 0,
});
const counts = nodes.map(() => 0);
const group = ClientMonitoredItemGroup.create(
  subscription,
  nodes.map(({ nodeId }) => ({ nodeId, attributeId: AttributeIds.Value })),
  { samplingInterval: 50, queueSize: 100, discardOldest: true },
  TimestampsToReturn.Both,
);
await new Promise((resolve, reject) => {
  group.on("err", reject);
  group.on("changed", (_item, _value, index) => {
    counts[index] += 1;
    if (counts.every((count) => count >= 3)) resolve();
  });
});
await subscription.terminate();
await session.close();
await client.disconnect();
console.log(JSON.stringify({
  names: nodes.map(({ browseName }) => browseName.name),
  dataTypes: read.map(({ value }) => value.dataType),
  enough: counts.every((count) => count >= 3),
}));
