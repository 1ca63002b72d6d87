// Calls ScadaService with @grpc/grpc-js, as an application without a framework does.
//
//   node grpc_client.mjs ADDRESS CALLS
//
// CALLS is JSON, or - to read it from standard input: a list of {"method": "QueryReadings", "request": {...}}.
// Prints a JSON list with {"response": {...}} or {"error": {"code", "name", "details"}} for each. Fields are named as
// in the .proto file; int64 come as strings, NaN as "NaN". A call waits for the server for at most 30 s.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, calls] = process.argv.slice(2);
const proto = fileURLToPath(new URL("../../proto/scada.proto", import.meta.url));
const definition = protoLoader.loadSync(proto, { keepCase: true, longs: String, defaults: true });
const { ScadaService } = grpc.loadPackageDefinition(definition).scada;
const client = new ScadaService(address, grpc.credentials.createInsecure());

function call({ method, request }) {
  const metadata = new grpc.Metadata({ waitForReady: true });
  return new Promise((resolve) => {
    client[method](request ?? {}, metadata, { deadline: Date.now() + 30_000 }, (error, response) => {
      resolve(
        error
          ? { error: { code: error.code, name: grpc.status[error.code], details: error.details } }
          : { response },
      );
    });
  });
}

const answers = [];
for (const each of JSON.parse(calls === "-" ? readFileSync(0, "utf8") : calls)) answers.push(await call(each));
client.close();
console.log(JSON.stringify(answers, (_key, value) => (Number.isNaN(value) ? "NaN" : value)));
