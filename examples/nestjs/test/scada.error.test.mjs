import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Metadata, status } from '@grpc/grpc-js';
import { ScadaError } from '../dist/scada/scada.error.js';

const failed = (code, details = 'because') => Object.assign(new Error(details), { code, details, metadata: new Metadata() });

test('statuses of HTTP', () => {
  const expected = { INVALID_ARGUMENT: 400, NOT_FOUND: 404, FAILED_PRECONDITION: 409, RESOURCE_EXHAUSTED: 413, INTERNAL: 502, UNIMPLEMENTED: 501, UNAVAILABLE: 503, DEADLINE_EXCEEDED: 504 };
  for (const [name, http] of Object.entries(expected)) {
    assert.equal(ScadaError.from(failed(status[name]), true).httpStatus, http, name);
  }
});

test('a call that waited in vain for a connection is too early, not too slow', () => {
  assert.equal(ScadaError.from(failed(status.DEADLINE_EXCEEDED), false).httpStatus, 503);
});
