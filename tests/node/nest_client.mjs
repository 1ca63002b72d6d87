// Calls ScadaService as the NestJS application does: a microservice client that the module system injects.
//
//   node nest_client.mjs ADDRESS CALLS
//
// CALLS and the output are those of grpc_client.mjs, but for the names: NestJS turns them to camel case
// ("tenantId", "queryReadings"). No decorators, since plain Node has none: they are applied by hand.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import "reflect-metadata";
import grpc from "@grpc/grpc-js";
import { Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { ClientsModule, Transport } from "@nestjs/microservices";
import { lastValueFrom, timeout } from "rxjs";

const [address, calls] = process.argv.slice(2);

class AppModule {}
Module({
  imports: [
    ClientsModule.register([
      {
        name: "SCADA",
        transport: Transport.GRPC,
        options: {
          url: address,
          package: "scada",
          protoPath: fileURLToPath(new URL("../../proto/scada.proto", import.meta.url)),
          loader: { longs: String, defaults: true },
        },
      },
    ]),
  ],
})(AppModule);

const app = await NestFactory.createApplicationContext(AppModule, { logger: ["error"] });
const service = app.get("SCADA").getService("ScadaService");

async function call({ method, request }) {
  const metadata = new grpc.Metadata({ waitForReady: true });
  try {
    return { response: await lastValueFrom(service[method](request ?? {}, metadata).pipe(timeout(30_000))) };
  } catch (error) {
    return { error: { code: error.code, name: grpc.status[error.code], details: error.details } };
  }
}

const answers = [];
for (const each of JSON.parse(calls === "-" ? readFileSync(0, "utf8") : calls)) answers.push(await call(each));
await app.close();
console.log(JSON.stringify(answers, (_key, value) => (Number.isNaN(value) ? "NaN" : value)));
