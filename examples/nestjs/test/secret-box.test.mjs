import assert from 'node:assert/strict';
import { createDecipheriv, createHash } from 'node:crypto';
import { test } from 'node:test';
import { encryptSecret } from '../dist/scada/secret-box.js';

function decrypt(stored, key) {
  const [iv, tag, ciphertext] = stored.split(':').map((part) => Buffer.from(part, 'hex'));
  const decipher = createDecipheriv('aes-256-gcm', key, iv).setAuthTag(tag);
  return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('utf8');
}

test('a key of 32 characters is taken as it is, any other by its SHA-256', () => {
  const key = '0123456789abcdef0123456789abcdef';
  assert.equal(decrypt(encryptSecret('pässwörd', key), Buffer.from(key)), 'pässwörd');
  for (const other of ['short', 'ä'.repeat(16), 'ä'.repeat(32)]) {
    assert.equal(decrypt(encryptSecret('x', other), createHash('sha256').update(other).digest()), 'x');
  }
});

test('the form is IV:TAG:CIPHERTEXT, with another IV every time', () => {
  const stored = encryptSecret('', 'key');
  assert.match(stored, /^[0-9a-f]{32}:[0-9a-f]{32}:$/);
  assert.notEqual(encryptSecret('', 'key'), stored);
});
