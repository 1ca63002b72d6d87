import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { readSettings, SettingsError } from './settings.js';
import { validationPipe } from './validation.js';

try {
  const settings = readSettings(process.env);
  // Without forceCloseConnections, one browser with live readings holds up the stop of the whole application.
  const app = await NestFactory.create(AppModule.with(settings), { forceCloseConnections: true });
  app.useGlobalPipes(validationPipe());
  app.enableShutdownHooks();
  await app.listen(settings.port, settings.host);
} catch (error) {
  if (!(error instanceof SettingsError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
