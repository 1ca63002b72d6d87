import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { credentials, experimental, type ChannelCredentials } from '@grpc/grpc-js';
import { SettingsError, type TlsFiles } from '../settings.js';

const LOOK_EVERY_MS = 2_000;

/**
 * What this client presents and whom it believes.
 *
 * The files are looked at every 2 s: what is in them counts for the next connection, and those that stand go on. While
 * they cannot be used (half copied, of different keys) there is no new connection; it is tried again by itself.
 */
export function channelCredentials(tls: TlsFiles | undefined): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  const [ca, cert, key] = [tls.ca, tls.certificate, tls.key].map((path) => (path === undefined ? undefined : readFileSync(path)));
  // without X509Certificate, a file of authorities that holds none would count for no authority, in silence
  check('SCADA_GRPC_TLS_CA', () => ca && new X509Certificate(ca));
  check('SCADA_GRPC_TLS_CERT', () => cert && new X509Certificate(cert));
  check('SCADA_GRPC_TLS_KEY', () => createSecureContext({ cert, key }));
  // grpc-js follows files of authorities only together with those of the client: the system's are taken as they are.
  if (tls.ca === undefined) return credentials.createSsl(null, key ?? null, cert ?? null);
  const files = new experimental.FileWatcherCertificateProvider({
    caCertificateFile: tls.ca,
    certificateFile: tls.certificate,
    privateKeyFile: tls.key,
    refreshIntervalMs: LOOK_EVERY_MS,
  });
  return experimental.createCertificateProviderChannelCredentials(files, tls.certificate === undefined ? null : files);
}

function check(variable: string, use: () => unknown): void {
  try {
    use();
  } catch (error) {
    throw new SettingsError(`${variable}: ${(error as Error).message}`);
  }
}
