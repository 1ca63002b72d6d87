// Decorators that DTOs share. Deeper checks (node ids, security policies, lengths) are the service's own.
import { applyDecorators } from '@nestjs/common';
import { Transform, Type } from 'class-transformer';
import { IsInt, IsOptional, IsString, IsUUID, Max, Min, ValidateBy } from 'class-validator';
import { parseTimeUs } from '../times.js';

/** A UUID of whatever version: the service takes all of them. */
export const IsId = (options?: { each: boolean }): PropertyDecorator => IsUUID('loose', options);

/** `?name=a&name=b`, or once, or not at all: always a list. */
export const IsList = (): PropertyDecorator =>
  Transform(({ value }: { value: unknown }) => (value === undefined ? [] : Array.isArray(value) ? value : [value]));

export const IsTexts = (): PropertyDecorator => applyDecorators(IsList(), IsString({ each: true })) as PropertyDecorator;

/** A bigint of microseconds, out of that many or of ISO 8601. */
export const IsTimeUs = (): PropertyDecorator =>
  applyDecorators(
    Transform(({ value }: { value: unknown }) => (typeof value === 'string' ? (parseTimeUs(value) ?? value) : value)),
    ValidateBy({
      name: 'isTimeUs',
      validator: {
        validate: (value) => typeof value === 'bigint',
        defaultMessage: () => '$property must be microseconds since 1970, or a time of ISO 8601 with its zone',
      },
    }),
  ) as PropertyDecorator;

export const IsWhole = (least: number, most: number): PropertyDecorator =>
  applyDecorators(Type(() => Number), IsInt(), Min(least), Max(most)) as PropertyDecorator;

export const IsFlag = (): PropertyDecorator =>
  applyDecorators(
    IsOptional(),
    Transform(({ value }: { value: unknown }) => (value === 'true' ? true : value === 'false' ? false : value)),
  ) as PropertyDecorator;
