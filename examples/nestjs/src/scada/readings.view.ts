import type { Aggregate, Reading } from './scada.types.js';
import { formatTimeUs } from './times.js';

/** A reading in JSON. */
export interface ReadingView {
  wellId: string;
  tagNodeId: string;
  time: string;
  /** Microseconds since 1970: a string, since it is what tells two readings of a tag apart. */
  timeUs: string;
  /** Null where a Bad reading has no value, which is NaN, which JSON does not know. */
  value: number | null;
  quality: Reading['quality'];
}

export interface AggregateView extends Omit<Aggregate, 'bucketStartUs' | 'avg' | 'min' | 'max' | 'stddev'> {
  bucketStart: string;
  avg: number | null;
  min: number | null;
  max: number | null;
  stddev: number | null;
}

export function viewReading({ wellId, tagNodeId, timestampUs, value, quality }: Reading): ReadingView {
  const time = formatTimeUs(BigInt(timestampUs));
  return { wellId, tagNodeId, time, timeUs: timestampUs, value: Number.isFinite(value) ? value : null, quality };
}

export function viewAggregate({ bucketStartUs, avg, min, max, stddev, ...rest }: Aggregate): AggregateView {
  const numbers = { avg: avg ?? null, min: min ?? null, max: max ?? null, stddev: stddev ?? null };
  return { ...rest, bucketStart: formatTimeUs(BigInt(bucketStartUs)), ...numbers };
}
