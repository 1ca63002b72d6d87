import { connectivityState, Metadata, status, type ClientReadableStream, type ServiceError } from '@grpc/grpc-js';
import { Inject, Injectable, Logger, NotFoundException, type OnModuleInit } from '@nestjs/common';
import type { ClientGrpc } from '@nestjs/microservices';
import { firstValueFrom, type Observable } from 'rxjs';
import { SETTINGS, type Settings } from '../settings.js';
import { SCADA_CLIENT } from './scada.client.js';
import { ScadaError } from './scada.error.js';
import type * as scada from './scada.types.js';

const HEALTH_TIMEOUT_MS = 2_000;

/**
 * ScadaService as promises and async iterables; whatever fails, fails as `ScadaError`.
 *
 * Calls wait for the service (`waitForReady`), so that its restart is a pause and no error, and give up after
 * `SCADA_GRPC_TIMEOUT_MS`. Knows no HTTP.
 */
@Injectable()
export class ScadaService implements OnModuleInit {
  private readonly log = new Logger(ScadaService.name);
  private api!: scada.ScadaApi;
  private client!: scada.ScadaClient;

  constructor(
    @Inject(SCADA_CLIENT) private readonly grpc: ClientGrpc,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  onModuleInit(): void {
    this.api = this.grpc.getService<scada.ScadaApi>('ScadaService');
    this.client = this.grpc.getClientByServiceName<scada.ScadaClient>('ScadaService');
  }

  /** Undefined, or why a well-formed request could not be carried out. */
  async addConnection(request: scada.AddConnectionRequest): Promise<string | undefined> {
    const { success, error } = await this.call((...call) => this.api.addConnection(request, ...call));
    return success ? undefined : (error ?? 'no reason given');
  }

  /** `tenantId`: RemoveConnection knows connections by their id alone, and one tenant must not remove another's. */
  async removeConnection(tenantId: string, connectionId: string): Promise<void> {
    const connections = await this.connections(tenantId, false);
    if (!connections.some((connection) => connection.connectionId === connectionId)) throw noConnection(connectionId);
    await this.call((...call) => this.api.removeConnection({ connectionId }, ...call));
  }

  async connection(tenantId: string, connectionId: string): Promise<scada.ConnectionReport> {
    const report = await this.call((...call) => this.api.getConnection({ connectionId }, ...call));
    if (report.tenantId !== tenantId) throw noConnection(connectionId);
    return report;
  }

  async connections(tenantId: string, includeTags: boolean): Promise<scada.ConnectionSummary[]> {
    const answer = await this.call((...call) => this.api.listConnections({ tenantId, includeTags }, ...call));
    return answer.connections;
  }

  /** The number of tags that the connection has now. */
  async updateTags(request: scada.UpdateConnectionTagsRequest): Promise<number> {
    return (await this.call((...call) => this.api.updateConnectionTags(request, ...call))).tagsConfigured;
  }

  /** At most `limit` readings, in as many gRPC pages as that takes; `pageToken` of an earlier answer, or ''. */
  async readings(request: scada.ReadingsRequest, limit: number, pageToken: string): Promise<scada.ReadingsResponse> {
    const readings: scada.Reading[] = [];
    const nextPageToken = await this.pages(limit, pageToken, async (page) => {
      const answer = await this.call((...call) => this.api.queryReadings({ ...request, ...page }, ...call));
      readings.push(...answer.readings);
      return { count: answer.readings.length, nextPageToken: answer.nextPageToken };
    });
    return { readings, nextPageToken };
  }

  /** As `readings`; `resolution` says what AUTO came to. */
  async aggregates(request: scada.AggregatesRequest, limit: number, token: string): Promise<scada.AggregatesResponse> {
    const aggregates: scada.Aggregate[] = [];
    let resolution = request.resolution;
    const nextPageToken = await this.pages(limit, token, async (page) => {
      const answer = await this.call((...call) => this.api.queryAggregates({ ...request, ...page }, ...call));
      aggregates.push(...answer.aggregates);
      resolution = answer.resolution;
      return { count: answer.aggregates.length, nextPageToken: answer.nextPageToken };
    });
    return { resolution, aggregates, nextPageToken };
  }

  async latest(request: scada.LatestRequest): Promise<scada.Reading[]> {
    return (await this.call((...call) => this.api.latestReadings(request, ...call))).readings;
  }

  /** All readings of a range. Nothing is read ahead of who iterates; `signal` ends the call. */
  streamReadings(request: scada.ReadingsRequest, signal: AbortSignal): Promise<AsyncIterable<{ readings: scada.Reading[] }>> {
    return this.open(this.client.streamReadings(request, waiting()), signal);
  }

  /** Readings as they are accepted; see `streamReadings`. `missed` counts what was dropped because we were too slow. */
  subscribe(request: scada.LatestRequest, signal: AbortSignal): Promise<AsyncIterable<scada.LiveReadings>> {
    return this.open(this.client.subscribeReadings(request, waiting()), signal);
  }

  /** The state of the service now, without waiting for it. */
  health(): Promise<scada.Health> {
    const options = { deadline: Date.now() + HEALTH_TIMEOUT_MS };
    return this.answer(this.api.healthCheck({}, new Metadata(), options));
  }

  private call<T>(method: (metadata: Metadata, options: { deadline: number }) => Observable<T>): Promise<T> {
    return this.answer(method(waiting(), { deadline: Date.now() + this.settings.timeoutMs }));
  }

  private async answer<T>(call: Observable<T>): Promise<T> {
    try {
      return await firstValueFrom(call);
    } catch (error) {
      throw this.scadaError(error);
    }
  }

  private async pages(
    limit: number,
    pageToken: string,
    ask: (page: scada.Page) => Promise<{ count: number; nextPageToken: string }>,
  ): Promise<string> {
    let left = limit;
    let token = pageToken;
    do {
      const { count, nextPageToken } = await ask({ limit: Math.min(left, this.settings.pageSize), pageToken: token });
      left -= count;
      token = nextPageToken;
    } while (token !== '' && left > 0);
    return token;
  }

  /** Returns with the first message, so that a call that is refused is refused before anything was answered. */
  private async open<T>(call: ClientReadableStream<T>, signal: AbortSignal): Promise<AsyncIterable<T>> {
    call.on('error', () => undefined); // the iterator throws it; without a listener a cancelled call's would be unhandled
    const cancel = () => call.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
    let late = false;
    const timer = setTimeout(() => ((late = true), cancel()), this.settings.timeoutMs);
    const messages = call[Symbol.asyncIterator]() as AsyncIterator<T>;
    const next = async (): Promise<IteratorResult<T>> => {
      try {
        return await messages.next();
      } catch (error) {
        throw late ? ScadaError.late(this.isConnected) : this.scadaError(error);
      }
    };
    let first: IteratorResult<T> | undefined;
    try {
      first = await next();
    } finally {
      clearTimeout(timer);
    }
    async function* all(): AsyncGenerator<T> {
      try {
        for (let result = first!; !result.done; result = await next()) yield result.value;
      } finally {
        signal.removeEventListener('abort', cancel);
        cancel();
      }
    }
    return all();
  }

  private get isConnected(): boolean {
    return this.client.getChannel().getConnectivityState(false) === connectivityState.READY;
  }

  private scadaError(error: unknown): unknown {
    if (!isServiceError(error)) return error;
    // Why there is no connection (a certificate, for instance) is for whoever runs this, not for who asked.
    if (error.code === status.UNAVAILABLE && !this.isConnected) this.log.warn(error.details);
    return ScadaError.from(error, this.isConnected);
  }
}

function waiting(): Metadata {
  return new Metadata({ waitForReady: true });
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'code' in error && 'details' in error;
}

function noConnection(connectionId: string): NotFoundException {
  return new NotFoundException(`the tenant has no connection ${connectionId}`);
}
