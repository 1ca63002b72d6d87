import { status, type ServiceError } from '@grpc/grpc-js';
import { HttpStatus } from '@nestjs/common';
import { decodeDetails, type RpcDetails } from './rpc-details.js';

export interface FieldProblem {
  field: string;
  description: string;
}

const HTTP: Partial<Record<status, HttpStatus>> = {
  [status.INVALID_ARGUMENT]: HttpStatus.BAD_REQUEST,
  [status.PERMISSION_DENIED]: HttpStatus.FORBIDDEN,
  [status.NOT_FOUND]: HttpStatus.NOT_FOUND,
  [status.FAILED_PRECONDITION]: HttpStatus.CONFLICT,
  [status.UNAVAILABLE]: HttpStatus.SERVICE_UNAVAILABLE,
  [status.DEADLINE_EXCEEDED]: HttpStatus.GATEWAY_TIMEOUT,
  [status.RESOURCE_EXHAUSTED]: HttpStatus.PAYLOAD_TOO_LARGE,
  [status.UNIMPLEMENTED]: HttpStatus.NOT_IMPLEMENTED,
};

/** RESOURCE_EXHAUSTED is a message that is too large, or one of these. */
const TOO_MANY: readonly (string | undefined)[] = ['TOO_MANY_CALLS', 'TOO_MANY_WALKS'];

/** A call that failed, as everything above gRPC sees it. */
export class ScadaError extends Error {
  constructor(
    readonly code: status,
    message: string,
    readonly details: RpcDetails = { fields: [] },
  ) {
    super(message);
  }

  /** `isConnected`: whether there was a connection; a call that waited for one until its deadline was too early, not slow. */
  static from(error: ServiceError, isConnected: boolean): ScadaError {
    if (error.code === status.DEADLINE_EXCEEDED && !isConnected) return ScadaError.late(isConnected);
    const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
    // The library's own, with addresses in its text: what the service says itself has details.
    if (error.code === status.UNAVAILABLE && trailer === undefined) return ScadaError.late(false);
    const details = Buffer.isBuffer(trailer) ? decodeDetails(trailer) : { fields: [] };
    const fields = details.fields.map(({ field, description }) => ({ field: camelCase(field), description }));
    return new ScadaError(error.code, error.details, { ...details, fields });
  }

  /** No answer in time. */
  static late(isConnected: boolean): ScadaError {
    return isConnected
      ? new ScadaError(status.DEADLINE_EXCEEDED, 'the SCADA service is too slow')
      : new ScadaError(status.UNAVAILABLE, 'the SCADA service does not answer', { fields: [], retryAfterS: 1 });
  }

  get httpStatus(): HttpStatus {
    if (TOO_MANY.includes(this.details.reason)) return HttpStatus.TOO_MANY_REQUESTS;
    return HTTP[this.code] ?? HttpStatus.BAD_GATEWAY;
  }

  /** Whether the same call may succeed later without anything being changed. */
  get isPassing(): boolean {
    return this.code === status.UNAVAILABLE || this.code === status.DEADLINE_EXCEEDED;
  }
}

/** `tags[3].nodeId` for `tags[3].node_id` */
function camelCase(path: string): string {
  return path.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
