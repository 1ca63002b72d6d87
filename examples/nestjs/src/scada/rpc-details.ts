// What `grpc-status-details-bin` holds: a google.rpc.Status with details of the types below
// (https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto), of which we read these fields.
import protobuf from 'protobufjs';

const string = (id: number) => ({ type: 'string', id });
const repeated = (type: string, id: number) => ({ rule: 'repeated', type, id });
const TYPES = protobuf.Root.fromJSON({
  nested: {
    Any: { fields: { type_url: string(1), value: { type: 'bytes', id: 2 } } },
    Status: { fields: { code: { type: 'int32', id: 1 }, message: string(2), details: repeated('Any', 3) } },
    ErrorInfo: { fields: { reason: string(1), domain: string(2) } },
    ResourceInfo: { fields: { resource_type: string(1), resource_name: string(2) } },
    FieldViolation: { fields: { field: string(1), description: string(2) } },
    BadRequest: { fields: { field_violations: repeated('FieldViolation', 1) } },
    Duration: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
    RetryInfo: { fields: { retry_delay: { type: 'Duration', id: 1 } } },
  },
});

export interface RpcDetails {
  /** A word that never changes its meaning: TENANT_NOT_FOUND, INVALID_FIELD, DATABASE_UNAVAILABLE, ... */
  reason?: string;
  /** `tenant` or `connection`, and which. */
  resource?: { type: string; name: string };
  fields: { field: string; description: string }[];
  retryAfterS?: number;
}

/** The details in that trailer; details of other types are passed over. Throws where it is no google.rpc.Status. */
export function decodeDetails(trailer: Uint8Array): RpcDetails {
  const found: RpcDetails = { fields: [] };
  const status = decode('Status', trailer) as { details: { type_url: string; value: Uint8Array }[] };
  for (const { type_url: url, value } of status.details) {
    switch (url) {
      case 'type.googleapis.com/google.rpc.ErrorInfo':
        found.reason = String(decode('ErrorInfo', value)['reason']);
        break;
      case 'type.googleapis.com/google.rpc.BadRequest':
        found.fields.push(...(decode('BadRequest', value)['field_violations'] as RpcDetails['fields']));
        break;
      case 'type.googleapis.com/google.rpc.ResourceInfo': {
        const info = decode('ResourceInfo', value);
        found.resource = { type: String(info['resource_type']), name: String(info['resource_name']) };
        break;
      }
      case 'type.googleapis.com/google.rpc.RetryInfo': {
        const delay = decode('RetryInfo', value)['retry_delay'] as { seconds: number; nanos: number } | null;
        if (delay) found.retryAfterS = delay.seconds + delay.nanos / 1e9;
      }
    }
  }
  return found;
}

function decode(name: string, bytes: Uint8Array): Record<string, unknown> {
  const type = TYPES.lookupType(name);
  return type.toObject(type.decode(bytes), { defaults: true, arrays: true, longs: Number });
}
