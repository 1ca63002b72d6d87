import { Module, type DynamicModule } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { TerminusModule } from '@nestjs/terminus';
import { ClientsModule } from '@nestjs/microservices';
import { SETTINGS, type Settings } from '../settings.js';
import { ConnectionsController } from './connections.controller.js';
import { ConnectionsRepository } from './connections.repository.js';
import { LiveController } from './live.controller.js';
import { ReadingsController } from './readings.controller.js';
import { SCADA_CLIENT, clientOptions } from './scada.client.js';
import { ScadaErrorFilter } from './scada-error.filter.js';
import { ScadaHealthIndicator } from './scada.health.js';
import { ScadaService } from './scada.service.js';

@Module({})
export class ScadaModule {
  static with(settings: Settings): DynamicModule {
    return {
      module: ScadaModule,
      imports: [ClientsModule.register([{ name: SCADA_CLIENT, ...clientOptions(settings) }]), TerminusModule],
      controllers: [ConnectionsController, ReadingsController, LiveController],
      providers: [
        { provide: SETTINGS, useValue: settings },
        { provide: APP_FILTER, useClass: ScadaErrorFilter },
        ConnectionsRepository,
        ScadaHealthIndicator,
        ScadaService,
      ],
      exports: [ScadaHealthIndicator, ScadaService],
    };
  }
}
