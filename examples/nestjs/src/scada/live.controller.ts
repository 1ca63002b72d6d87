import { setTimeout as delay } from 'node:timers/promises';
import { Controller, Get, Query, Res } from '@nestjs/common';
import type { Response } from 'express';
import { LiveQuery } from './dto/readings.dto.js';
import { viewReading } from './readings.view.js';
import { ScadaError } from './scada.error.js';
import { ScadaService } from './scada.service.js';
import type { LiveReadings } from './scada.types.js';
import { closed, send } from './streaming.js';

const COMMENT_EVERY_MS = 15_000;
const AGAIN_AFTER_MS = 1_000;

/**
 * Live readings as Server-Sent Events:
 *
 * - `subscribed` {}: from here on nothing is left out but what `missed` says
 * - `readings` [{...}]: in the order in which the service accepted them
 * - `missed` {"count"}: so many were dropped before the next `readings`, because this reader is too slow
 * - `interrupted` {"reason"}: the service is away or stops; `subscribed` follows when it is back, and what came
 *   between is to be had from history
 */
@Controller('scada/live')
export class LiveController {
  constructor(private readonly scada: ScadaService) {}

  @Get()
  async live(@Query() query: LiveQuery, @Res() response: Response): Promise<void> {
    const signal = closed(response);
    const first = await this.scada.subscribe(query, signal);
    response.setHeader('Content-Type', 'text/event-stream');
    response.setHeader('Cache-Control', 'no-cache, no-transform');
    response.setHeader('X-Accel-Buffering', 'no');
    response.flushHeaders();
    // A comment now and then, so that no proxy takes quiet devices for a dead connection.
    const comments = setInterval(() => response.writableNeedDrain || response.write(':\n\n'), COMMENT_EVERY_MS);
    try {
      await send(response, this.events(query, first, signal));
    } finally {
      clearInterval(comments);
    }
  }

  private async *events(query: LiveQuery, first: AsyncIterable<LiveReadings>, signal: AbortSignal): AsyncGenerator<string> {
    let messages: AsyncIterable<LiveReadings> | undefined = first;
    while (!signal.aborted) {
      try {
        messages ??= await this.scada.subscribe(query, signal);
        yield event('subscribed', {});
        for await (const { readings, missed } of messages) {
          if (missed !== '0') yield event('missed', { count: missed });
          if (readings.length > 0) yield event('readings', readings.map(viewReading));
        }
      } catch (error) {
        if (!(error instanceof ScadaError) || !error.isPassing) throw error;
        if (messages) yield event('interrupted', { reason: error.message });
        await delay(AGAIN_AFTER_MS, undefined, { signal });
      }
      messages = undefined;
    }
  }
}

function event(name: string, data: unknown): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}
