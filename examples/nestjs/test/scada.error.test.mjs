import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Metadata, status } from '@grpc/grpc-js';
import { ScadaError } from '../dist/scada/scada.error.js';

const failed = (code, details = 'because') => Object.assign(new Error(details), { code, details, metadata: new Metadata() });

test('statuses of HTTP', () => {
  const expected = { INVALID_ARGUMENT: 400, PERMISSION_DENIED: 403, NOT_FOUND: 404, FAILED_PRECONDITION: 409, RESOURCE_EXHAUSTED: 413, INTERNAL: 502, UNIMPLEMENTED: 501, UNAVAILABLE: 503, DEADLINE_EXCEEDED: 504 };
  for (const [name, http] of Object.entries(expected)) {
    assert.equal(ScadaError.from(failed(status[name]), true).httpStatus, http, name);
  }
});

test('too many calls are no large message', () => {
  const error = new ScadaError(status.RESOURCE_EXHAUSTED, 'too many', { reason: 'TOO_MANY_CALLS', fields: [] });
  assert.equal(error.httpStatus, 429);
});

test('a call that waited in vain for a connection is too early, not too slow', () => {
  assert.equal(ScadaError.from(failed(status.DEADLINE_EXCEEDED), false).httpStatus, 503);
});

test('what the library says of a connection that failed is not told', () => {
  const error = ScadaError.from(failed(status.UNAVAILABLE, 'connect ECONNREFUSED 10.0.0.5:50051'), false);
  assert.deepEqual([error.httpStatus, error.message], [503, 'the SCADA service does not answer']);
});
