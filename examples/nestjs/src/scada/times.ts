// Microseconds since 1970 as bigint: today's number of them is beyond what a JavaScript number keeps exactly for long,
// and Date knows milliseconds only.

const ISO = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})\d*)?(Z|[+-]\d{2}:\d{2})$/;

/** Microseconds of `1700000000000000` or `2023-11-14T22:13:20.123456Z`; undefined where `text` is neither. */
export function parseTimeUs(text: string): bigint | undefined {
  if (/^\d{1,18}$/.test(text)) return BigInt(text);
  const parts = ISO.exec(text);
  if (!parts) return undefined;
  const [, seconds, fraction = '', zone] = parts;
  const ms = Date.parse(`${seconds}${zone}`);
  return Number.isNaN(ms) ? undefined : BigInt(ms) * 1000n + BigInt(fraction.padEnd(6, '0'));
}

/** `2023-11-14T22:13:20.123456Z` */
export function formatTimeUs(us: bigint): string {
  const fraction = ((us % 1_000_000n) + 1_000_000n) % 1_000_000n;
  const date = new Date(Number((us - fraction) / 1000n));
  return date.toISOString().replace(/\.\d{3}Z$/, `.${fraction.toString().padStart(6, '0')}Z`);
}
