import { Module, type DynamicModule } from '@nestjs/common';
import { TerminusModule } from '@nestjs/terminus';
import { HealthController } from './health.controller.js';
import { ScadaModule } from './scada/scada.module.js';
import type { Settings } from './settings.js';

@Module({})
export class AppModule {
  static with(settings: Settings): DynamicModule {
    return {
      module: AppModule,
      imports: [ScadaModule.with(settings), TerminusModule.forRoot({ logger: false })],
      controllers: [HealthController],
    };
  }
}
