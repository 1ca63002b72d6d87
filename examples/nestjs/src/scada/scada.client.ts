import { fileURLToPath } from 'node:url';
import { Transport, type GrpcOptions } from '@nestjs/microservices';
import type { Settings } from '../settings.js';
import { channelCredentials } from './scada.credentials.js';

export const SCADA_CLIENT = Symbol('ScadaClient');

/** 10,000 readings, the largest page we ask for, with node ids of 2,048 bytes, the longest there are. */
const RECEIVE_LIMIT_BYTES = 32 * 1024 * 1024;

export function clientOptions({ grpcUrl, tls }: Settings): GrpcOptions {
  return {
    transport: Transport.GRPC,
    options: {
      url: grpcUrl,
      package: 'scada',
      protoPath: fileURLToPath(new URL('../proto/scada.proto', import.meta.url)),
      // int64 as strings, since numbers round them; without defaults, zeros and empty strings are missing from answers.
      loader: { longs: String, enums: String, defaults: true, oneofs: false },
      maxReceiveMessageLength: RECEIVE_LIMIT_BYTES,
      // A peer that vanished without a word is noticed within 30 s, also by a call that only listens.
      keepalive: { keepaliveTimeMs: 20_000, keepaliveTimeoutMs: 10_000, keepalivePermitWithoutCalls: 1 },
      // A service that is back is found within 2 s.
      channelOptions: { 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 2_000 },
      credentials: channelCredentials(tls),
    },
  };
}
