import { ArrayMaxSize, ArrayNotEmpty, IsIn, IsString } from 'class-validator';
import { TenantQuery } from './connections.dto.js';
import { IsId, IsList, IsTexts, IsTimeUs, IsWhole } from './fields.js';

const ORDERS = ['newest', 'oldest'] as const;
const RESOLUTIONS = ['auto', 'hourly', 'daily', 'monthly'] as const;

export class WellParams {
  @IsId() wellId!: string;
}

class RangeQuery extends TenantQuery {
  @IsTimeUs() from!: bigint;
  @IsTimeUs() to!: bigint;
  @IsTexts() tagNodeIds: string[] = [];
}

export class ExportQuery extends RangeQuery {
  @IsIn(ORDERS) order: (typeof ORDERS)[number] = 'newest';
}

export class ReadingsQuery extends ExportQuery {
  @IsWhole(1, 100_000) limit: number = 1_000;
  @IsString() pageToken: string = '';
}

export class AggregatesQuery extends RangeQuery {
  @IsIn(RESOLUTIONS) resolution: (typeof RESOLUTIONS)[number] = 'auto';
  /** For `auto`: buckets a tag at most. */
  @IsWhole(1, 100_000) maxPoints: number = 500;
  @IsWhole(1, 100_000) limit: number = 10_000;
  @IsString() pageToken: string = '';
}

export class LatestQuery extends TenantQuery {
  @IsList() @ArrayNotEmpty() @ArrayMaxSize(100) @IsId({ each: true }) wellIds!: string[];
  @IsTexts() tagNodeIds: string[] = [];
}

export class LiveQuery extends TenantQuery {
  /** Empty: all of the tenant. */
  @IsList() @ArrayMaxSize(100) @IsId({ each: true }) wellIds: string[] = [];
  @IsTexts() tagNodeIds: string[] = [];
}
