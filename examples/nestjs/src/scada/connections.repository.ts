import { status } from '@grpc/grpc-js';
import {
  ConflictException,
  Inject,
  Injectable,
  Logger,
  NotFoundException,
  NotImplementedException,
  type OnApplicationShutdown,
} from '@nestjs/common';
import pg from 'pg';
import { SETTINGS, type Settings } from '../settings.js';
import { ScadaError } from './scada.error.js';
import type { AddConnectionRequest } from './scada.types.js';
import { encryptSecret } from './secret-box.js';

const TENANT = `
  SELECT FROM tenants
  WHERE id = $1 AND deleted_at IS NULL AND upper(status::text) NOT IN ('SUSPENDED', 'DELETED')`;

const CONNECTION = `
  INSERT INTO scada_connections
    (id, tenant_id, name, endpoint_url, security_mode, security_policy, username, password, is_active)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true)
  ON CONFLICT (id) DO UPDATE SET name = excluded.name, endpoint_url = excluded.endpoint_url,
    security_mode = excluded.security_mode, security_policy = excluded.security_policy,
    username = excluded.username, password = excluded.password, is_active = true
  WHERE scada_connections.tenant_id = excluded.tenant_id`;

const REMOVE_OTHER_TAGS = `
  UPDATE tag_mappings SET deleted_at = now()
  WHERE connection_id = $1 AND deleted_at IS NULL AND NOT id = ANY ($2::uuid[])`;

const TAGS = `
  INSERT INTO tag_mappings
    (id, tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type, unit, scaling_factor, deadband)
  SELECT t."tagId", $2, $1, t."wellId", coalesce(t.name, t."nodeId"), t."nodeId", t."dataType", t.unit,
    coalesce(t."scalingFactor", 1), t.deadband
  FROM jsonb_to_recordset($3::jsonb) AS t("tagId" uuid, "wellId" uuid, "nodeId" text, "dataType" text, name text,
    unit text, "scalingFactor" float8, deadband float8)
  ON CONFLICT (id) DO UPDATE SET well_id = excluded.well_id, tag_name = excluded.tag_name,
    opc_node_id = excluded.opc_node_id, data_type = excluded.data_type, unit = excluded.unit,
    scaling_factor = excluded.scaling_factor, deadband = excluded.deadband, deleted_at = NULL
  WHERE tag_mappings.connection_id = excluded.connection_id AND tag_mappings.tenant_id = excluded.tenant_id`;

/**
 * Connections stored without the API, for an application that owns the master database: write the rows, then
 * `NOTIFY scada_config`. The service follows within seconds, and at its next look where the notification is lost.
 *
 * Off without SCADA_MASTER_DATABASE_URL. Passwords are stored encrypted with the service's ENCRYPTION_KEY or not at all.
 */
@Injectable()
export class ConnectionsRepository implements OnApplicationShutdown {
  private readonly log = new Logger(ConnectionsRepository.name);
  private readonly pool: pg.Pool | undefined;

  constructor(@Inject(SETTINGS) private readonly settings: Settings) {
    if (settings.databaseUrl === undefined) return;
    this.pool = new pg.Pool({
      connectionString: settings.databaseUrl,
      max: 5,
      connectionTimeoutMillis: settings.timeoutMs,
      query_timeout: settings.timeoutMs,
    });
    // An idle connection that breaks; the pool makes a new one. Its message, unlike the URL, holds no password.
    this.pool.on('error', (error) => this.log.warn(error.message));
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool?.end();
  }

  /** All in one transaction, the notification included: the service never sees half a connection. */
  async save(request: AddConnectionRequest): Promise<void> {
    const password = this.sealed(request.password);
    await this.transaction(async (client) => {
      const { connectionId, tenantId, username, tags } = request;
      if ((await client.query(TENANT, [tenantId])).rowCount === 0) throw new NotFoundException(`no tenant ${tenantId}`);
      const { rowCount } = await client.query(CONNECTION, [
        ...[connectionId, tenantId, request.name ?? request.endpointUrl, request.endpointUrl],
        ...[request.securityMode ?? 'None', request.securityPolicy ?? 'None', username ?? null, password],
      ]);
      if (rowCount === 0) throw new ConflictException(`connection ${connectionId} belongs to another tenant`);
      await client.query(REMOVE_OTHER_TAGS, [connectionId, tags.map((tag) => tag.tagId)]);
      const stored = await client.query(TAGS, [connectionId, tenantId, JSON.stringify(tags)]);
      if (stored.rowCount !== tags.length) throw new ConflictException('a tag belongs to another connection');
      await client.query('NOTIFY scada_config');
    });
  }

  private sealed(password: string | undefined): string | null {
    if (password === undefined) return null;
    if (this.settings.encryptionKey === undefined) {
      throw new NotImplementedException('a password cannot be stored: ENCRYPTION_KEY is not set');
    }
    return encryptSecret(password, this.settings.encryptionKey);
  }

  private async transaction(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
    if (this.pool === undefined) throw new NotImplementedException('SCADA_MASTER_DATABASE_URL is not set');
    const client = await this.pool.connect().catch((error: unknown) => {
      throw this.away(error);
    });
    let broken = false;
    try {
      await client.query('BEGIN');
      await work(client);
      await client.query('COMMIT');
    } catch (error) {
      broken = await client.query('ROLLBACK').then(
        () => false,
        () => true,
      );
      throw broken ? this.away(error) : error;
    } finally {
      client.release(broken);
    }
  }

  private away(error: unknown): ScadaError {
    this.log.warn(error instanceof Error ? error.message : String(error));
    return new ScadaError(status.UNAVAILABLE, 'the master database is away', { fields: [], retryAfterS: 1 });
  }
}
