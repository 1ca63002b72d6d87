import { accessSync, constants } from 'node:fs';

/** What the environment says; README.md lists the variables with unit and default. */
export interface Settings {
  readonly host: string;
  readonly port: number;
  readonly grpcUrl: string;
  /** Undefined: clear text. */
  readonly tls: TlsFiles | undefined;
  /** How long a call may take, waiting for the service included. */
  readonly timeoutMs: number;
  /** Readings or aggregates in one gRPC answer; more are asked for page by page. */
  readonly pageSize: number;
  /** The master database, for connections that are stored without the API; undefined: that way is off. */
  readonly databaseUrl: string | undefined;
  /** The service's ENCRYPTION_KEY, for passwords stored that way. */
  readonly encryptionKey: string | undefined;
}

/** PEM files: authorities of the service, undefined for those of the system; certificate and key of this client (mutual TLS). */
export interface TlsFiles {
  readonly ca: string | undefined;
  readonly certificate: string | undefined;
  readonly key: string | undefined;
}

export const SETTINGS = Symbol('Settings');

/** A variable that cannot be used; the message names it, and never holds its value. */
export class SettingsError extends Error {}

type Environment = Readonly<Record<string, string | undefined>>;

export function readSettings(env: Environment): Settings {
  return {
    host: env['HOST'] || '127.0.0.1',
    port: integer(env, 'PORT', 3000, 0, 65_535),
    grpcUrl: env['SCADA_GRPC_URL'] || '127.0.0.1:50051',
    tls: tlsFiles(env),
    timeoutMs: integer(env, 'SCADA_GRPC_TIMEOUT_MS', 10_000, 100, 600_000),
    pageSize: integer(env, 'SCADA_GRPC_PAGE_SIZE', 5_000, 1, 10_000),
    databaseUrl: env['SCADA_MASTER_DATABASE_URL'] || undefined,
    encryptionKey: env['ENCRYPTION_KEY'] || undefined,
  };
}

function integer(env: Environment, name: string, fallback: number, least: number, most: number): number {
  const text = env[name];
  if (!text) return fallback;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new SettingsError(`${name}: a whole number from ${least} to ${most} is needed`);
  }
  return value;
}

function flag(env: Environment, name: string): boolean {
  const text = env[name] || 'false';
  if (text !== 'true' && text !== 'false') throw new SettingsError(`${name}: true or false is needed`);
  return text === 'true';
}

/** A certificate without SCADA_GRPC_TLS would be one that nobody asks for, and passwords would go in clear text. */
function tlsFiles(env: Environment): TlsFiles | undefined {
  const isOn = flag(env, 'SCADA_GRPC_TLS');
  const files = {
    ca: file(env, 'SCADA_GRPC_TLS_CA'),
    certificate: file(env, 'SCADA_GRPC_TLS_CERT'),
    key: file(env, 'SCADA_GRPC_TLS_KEY'),
  };
  if (!isOn && Object.values(files).some((path) => path !== undefined)) {
    throw new SettingsError('SCADA_GRPC_TLS: true is needed with SCADA_GRPC_TLS_CA, SCADA_GRPC_TLS_CERT and SCADA_GRPC_TLS_KEY');
  }
  if ((files.certificate === undefined) !== (files.key === undefined)) {
    const missing = files.key === undefined ? 'SCADA_GRPC_TLS_KEY' : 'SCADA_GRPC_TLS_CERT';
    throw new SettingsError(`${missing}: certificate and key are needed together`);
  }
  return isOn ? files : undefined;
}

function file(env: Environment, name: string): string | undefined {
  const path = env[name];
  if (!path) return undefined;
  try {
    accessSync(path, constants.R_OK);
  } catch (error) {
    throw new SettingsError(`${name}: ${(error as Error).message}`);
  }
  return path;
}
