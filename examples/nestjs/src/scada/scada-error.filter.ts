import { STATUS_CODES } from 'node:http';
import { Catch, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { Response } from 'express';
import { ScadaError } from './scada.error.js';

/** A failed call as an HTTP answer of the form that a failed validation has, too. */
@Catch(ScadaError)
export class ScadaErrorFilter implements ExceptionFilter<ScadaError> {
  catch(error: ScadaError, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<Response>();
    const { reason, resource, fields, retryAfterS } = error.details;
    if (retryAfterS !== undefined) response.setHeader('Retry-After', Math.ceil(retryAfterS));
    response.status(error.httpStatus).json({
      statusCode: error.httpStatus,
      error: STATUS_CODES[error.httpStatus],
      message: error.message,
      reason,
      resource,
      fields: fields.length > 0 ? fields : undefined,
    });
  }
}
