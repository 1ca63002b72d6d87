import { Controller, Get, Param, Query, Res } from '@nestjs/common';
import type { Response } from 'express';
import { AggregatesQuery, ExportQuery, LatestQuery, ReadingsQuery, WellParams } from './dto/readings.dto.js';
import { viewAggregate, viewReading, type AggregateView, type ReadingView } from './readings.view.js';
import { ScadaService } from './scada.service.js';
import type { Order, Reading, ReadingsRequest, Resolution } from './scada.types.js';
import { closed, send } from './streaming.js';

@Controller('scada')
export class ReadingsController {
  constructor(private readonly scada: ScadaService) {}

  /** One page; `nextPageToken`, with everything else unchanged, asks for the next one, and is '' after the last. */
  @Get('wells/:wellId/readings')
  async readings(
    @Param() { wellId }: WellParams,
    @Query() query: ReadingsQuery,
  ): Promise<{ readings: ReadingView[]; nextPageToken: string }> {
    const page = await this.scada.readings(range(wellId, query), query.limit, query.pageToken);
    return { readings: page.readings.map(viewReading), nextPageToken: page.nextPageToken };
  }

  /** All readings, a line each, for ranges of any length: at no time more than a few thousand of them are here. */
  @Get('wells/:wellId/readings/export')
  async export(@Param() { wellId }: WellParams, @Query() query: ExportQuery, @Res() response: Response): Promise<void> {
    const messages = await this.scada.streamReadings(range(wellId, query), closed(response));
    response.setHeader('Content-Type', 'application/x-ndjson');
    await send(response, lines(messages));
  }

  @Get('wells/:wellId/aggregates')
  async aggregates(
    @Param() { wellId }: WellParams,
    @Query() query: AggregatesQuery,
  ): Promise<{ resolution: string; aggregates: AggregateView[]; nextPageToken: string }> {
    const { tenantId, tagNodeIds, maxPoints } = query;
    const times = { startTimeUs: query.from.toString(), endTimeUs: query.to.toString() };
    const resolution: Resolution = `RESOLUTION_${query.resolution.toUpperCase() as Uppercase<typeof query.resolution>}`;
    const request = { tenantId, wellId, ...times, tagNodeIds, resolution, maxPoints };
    const page = await this.scada.aggregates(request, query.limit, query.pageToken);
    return {
      resolution: page.resolution.replace('RESOLUTION_', '').toLowerCase(),
      aggregates: page.aggregates.map(viewAggregate),
      nextPageToken: page.nextPageToken,
    };
  }

  /** The newest reading of each tag of up to 100 wells. */
  @Get('latest')
  async latest(@Query() query: LatestQuery): Promise<{ readings: ReadingView[] }> {
    return { readings: (await this.scada.latest(query)).map(viewReading) };
  }
}

function range(wellId: string, { tenantId, from, to, tagNodeIds, order }: ExportQuery): ReadingsRequest {
  const asked: Order = order === 'newest' ? 'ORDER_NEWEST_FIRST' : 'ORDER_OLDEST_FIRST';
  return { tenantId, wellId, startTimeUs: from.toString(), endTimeUs: to.toString(), tagNodeIds, order: asked };
}

async function* lines(messages: AsyncIterable<{ readings: Reading[] }>): AsyncGenerator<string> {
  for await (const { readings } of messages) {
    yield readings.map((reading) => `${JSON.stringify(viewReading(reading))}\n`).join('');
  }
}
