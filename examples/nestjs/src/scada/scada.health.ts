import { Injectable } from '@nestjs/common';
import { HealthIndicatorService, type HealthIndicatorResult } from '@nestjs/terminus';
import { ScadaError } from './scada.error.js';
import { ScadaService } from './scada.service.js';

@Injectable()
export class ScadaHealthIndicator {
  constructor(
    private readonly scada: ScadaService,
    private readonly indicators: HealthIndicatorService,
  ) {}

  /** Degraded where some tenant or device is not as it should be: no reason to take this application out of service. */
  async isHealthy(key: string): Promise<HealthIndicatorResult> {
    const indicator = this.indicators.check(key);
    try {
      const { status, ...numbers } = await this.scada.health();
      const data = { service: status, ...numbers };
      if (status === 'healthy') return indicator.up(data);
      return status === 'degraded' ? indicator.degraded(data) : indicator.down(data);
    } catch (error) {
      if (!(error instanceof ScadaError)) throw error;
      return indicator.down(error.message);
    }
  }
}
