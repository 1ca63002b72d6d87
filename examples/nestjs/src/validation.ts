import { BadRequestException, ValidationPipe, type ValidationError } from '@nestjs/common';
import type { FieldProblem } from './scada/scada.error.js';

/** Every request is checked against its DTO; what is wrong is told field by field, as the service itself tells it. */
export function validationPipe(): ValidationPipe {
  return new ValidationPipe({
    transform: true,
    whitelist: true,
    forbidNonWhitelisted: true,
    exceptionFactory: (errors) => {
      const fields = errors.flatMap((error) => problems(error, ''));
      const [first] = fields;
      const message = first ? `${first.field}: ${first.description}` : 'the request is not valid';
      return new BadRequestException({ statusCode: 400, error: 'Bad Request', message, fields });
    },
  });
}

/** `tags[3].nodeId` for what class-validator has as a tree. */
function problems(error: ValidationError, parent: string): FieldProblem[] {
  const isIndex = /^\d+$/.test(error.property);
  const field = isIndex ? `${parent}[${error.property}]` : parent ? `${parent}.${error.property}` : error.property;
  const own = Object.values(error.constraints ?? {}).map((text) => ({
    field,
    description: text.replace(`${error.property} `, ''), // the field is named already
  }));
  return [...own, ...(error.children ?? []).flatMap((child) => problems(child, field))];
}
