// Makes secrets.json the way the NestJS application and the Rust service store secrets, with Node's own crypto.
// Deterministic (IVs come from the case's name), so a run shows whether the committed file is still true:
//   node tests/vectors/make_vectors.mjs > tests/vectors/secrets.json
import { createCipheriv, createHash } from 'node:crypto';

const sha256 = (text) => createHash('sha256').update(text, 'utf8').digest();

const seal = (key, iv, plain) => {
  const cipher = createCipheriv('aes-256-gcm', key, iv);
  const ciphertext = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
  return { ciphertext, tag: cipher.getAuthTag() };
};

// The application uses the key as it is where it has 32 characters and as many bytes, else its SHA-256.
const currentKey = (text) => {
  const bytes = Buffer.from(text, 'utf8');
  return text.length === 32 && bytes.length === 32 ? bytes : sha256(text);
};

const current = (name, keyText, plain) => {
  const iv = sha256(`iv ${name}`).subarray(0, 16);
  const { ciphertext, tag } = seal(currentKey(keyText), iv, plain);
  const stored = [iv, tag, ciphertext].map((part) => part.toString('hex')).join(':');
  return { name, form: 'current', encryption_key: keyText, plain, stored };
};

const old = (name, keyText, plain) => {
  const nonce = sha256(`nonce ${name}`).subarray(0, 12);
  const { ciphertext, tag } = seal(Buffer.from(keyText, 'base64'), nonce, plain);
  const stored = Buffer.concat([nonce, ciphertext, tag]).toString('base64');
  return { name, form: 'old', encryption_key: keyText, plain, stored };
};

const KEY_32 = '0123456789abcdef0123456789ABCDEF';
const KEY_SHORT = 'correct horse battery staple';
const KEY_32_CHARACTERS_33_BYTES = 'schlüssel-0123456789abcdef012345';
const KEY_31_CHARACTERS_32_BYTES = 'schlüssel-0123456789abcdef01234';
const KEY_BASE64 = sha256('old service').toString('base64');
const URL = 'postgresql://acme:s3cr%3Dt@db.example.com:5432/acme?sslmode=require';

const vectors = [
  current('key of 32 characters', KEY_32, 'opc-password'),
  current('database url', KEY_32, URL),
  current('empty text', KEY_32, ''),
  current('text that is not ASCII', KEY_32, 'pässwörd 🛢️'),
  current('hashed key', KEY_SHORT, 'opc-password'),
  current('32 characters that are 33 bytes', KEY_32_CHARACTERS_33_BYTES, 'opc-password'),
  current('31 characters that are 32 bytes', KEY_31_CHARACTERS_32_BYTES, 'opc-password'),
  current('current form under a key in base64', KEY_BASE64, 'opc-password'),
  old('old form', KEY_BASE64, 'opc-password'),
  old('database url in the old form', KEY_BASE64, URL),
  old('old form, one character', KEY_BASE64, 'x'),
];
process.stdout.write(JSON.stringify(vectors, null, 2) + '\n');
