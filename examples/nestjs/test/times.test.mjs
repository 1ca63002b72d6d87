import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTimeUs, parseTimeUs } from '../dist/scada/times.js';

test('microseconds survive both ways', () => {
  for (const us of ['0', '1', '1700000000123457', '253402300799999999']) {
    assert.equal(parseTimeUs(us), BigInt(us));
    assert.equal(parseTimeUs(formatTimeUs(BigInt(us))), BigInt(us));
  }
  assert.equal(formatTimeUs(-1n), '1969-12-31T23:59:59.999999Z');
});

test('ISO 8601 with any zone and any fraction', () => {
  assert.equal(parseTimeUs('2023-11-14T22:13:20Z'), 1_700_000_000_000_000n);
  assert.equal(parseTimeUs('2023-11-15T00:13:20.5+02:00'), 1_700_000_000_500_000n);
  assert.equal(parseTimeUs('2023-11-14T22:13:20.1234567Z'), 1_700_000_000_123_456n);
});

test('what is no time', () => {
  for (const text of ['', 'yesterday', '-1', '1.5', '2023-11-14', '2023-11-14T22:13:20', '2023-13-14T22:13:20Z', '9'.repeat(19)]) {
    assert.equal(parseTimeUs(text), undefined, text);
  }
});
