// Answers without an end or of any length. An Observable (and with it Nest's @Sse) cannot slow its source: it would
// gather here what a slow browser does not take. A pipeline asks for the next message when the last one is written, so
// that HTTP/2 holds up the service, which then drops readings and says how many (`missed`).
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Logger } from '@nestjs/common';
import type { Response } from 'express';

/** Aborted when the answer is complete or whoever wanted it is gone. */
export function closed(response: Response): AbortSignal {
  const controller = new AbortController();
  response.once('close', () => controller.abort());
  if (response.destroyed) controller.abort();
  return controller.signal;
}

/** Write it all. What fails now is past being told by a status: the connection is cut, so that nobody takes a part for all. */
export async function send(response: Response, texts: AsyncIterable<string>): Promise<void> {
  try {
    await pipeline(Readable.from(texts), response);
  } catch (error) {
    const isGone = (error as NodeJS.ErrnoException).code === 'ERR_STREAM_PREMATURE_CLOSE';
    if (!isGone) new Logger('send').warn(`an answer was cut short: ${(error as Error).message}`);
  }
}
