import { Type } from 'class-transformer';
import {
  ArrayNotEmpty,
  IsArray,
  IsBoolean,
  IsInt,
  IsNumber,
  IsOptional,
  IsString,
  Min,
  ValidateNested,
} from 'class-validator';
import { IsFlag, IsId } from './fields.js';

export class TenantQuery {
  @IsId() tenantId!: string;
}

export class ConnectionsQuery extends TenantQuery {
  @IsFlag() @IsBoolean() includeTags: boolean = false;
}

export class ConnectionParams {
  @IsId() connectionId!: string;
}

/** What subscriptions and single tags have in common; what is absent stays as it is stored. */
class Sampling {
  @IsOptional() @IsNumber() samplingIntervalMs?: number;
  @IsOptional() @IsInt() @Min(1) queueSize?: number;
  @IsOptional() @IsBoolean() discardOldest?: boolean;
}

export class TagBody extends Sampling {
  /** Absent: a new one. */
  @IsOptional() @IsId() tagId?: string;
  @IsId() wellId!: string;
  @IsString() nodeId!: string;
  @IsOptional() @IsString() dataType?: string;
  @IsOptional() @IsString() name?: string;
  @IsOptional() @IsString() unit?: string;
  @IsOptional() @IsNumber() scalingFactor?: number;
  @IsOptional() @IsNumber() deadband?: number;
  @IsOptional() @IsNumber() deadbandPercent?: number;
}

export class ConnectionBody extends Sampling {
  /** Absent: a new one; the id of a stored connection of the same tenant replaces that. */
  @IsOptional() @IsId() connectionId?: string;
  @IsId() tenantId!: string;
  @IsString() endpointUrl!: string;
  @IsOptional() @IsString() securityMode?: string;
  @IsOptional() @IsString() securityPolicy?: string;
  @IsOptional() @IsString() username?: string;
  @IsOptional() @IsString() password?: string;
  @IsOptional() @IsString() name?: string;
  @IsOptional() @IsNumber() publishingIntervalMs?: number;
  @IsArray() @ArrayNotEmpty() @ValidateNested({ each: true }) @Type(() => TagBody) tags!: TagBody[];
}

export class TagsBody {
  @IsId() tenantId!: string;
  @IsArray() @ValidateNested({ each: true }) @Type(() => TagBody) tags: TagBody[] = [];
  @IsArray() @IsId({ each: true }) removeTagIds: string[] = [];
  /** Remove all that are not in `tags`. */
  @IsBoolean() replace: boolean = false;
}
