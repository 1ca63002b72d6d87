import { createCipheriv, createHash, randomBytes } from 'node:crypto';

/**
 * A secret as the service reads it from the master database: AES-256-GCM, `IV:TAG:CIPHERTEXT` in hex, 16 bytes of IV and
 * of tag. The key is `encryptionKey` where that is 32 characters and 32 bytes long, else its SHA-256.
 */
export function encryptSecret(plain: string, encryptionKey: string): string {
  const bytes = Buffer.from(encryptionKey, 'utf8');
  const key = bytes.length === 32 && [...encryptionKey].length === 32 ? bytes : createHash('sha256').update(bytes).digest();
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: 16 });
  const ciphertext = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
  return [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString('hex')).join(':');
}
