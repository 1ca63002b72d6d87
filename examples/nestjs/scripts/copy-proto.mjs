// The contract has one source, the repository's proto/; elsewhere, set SCADA_PROTO to where a copy is.
import { cpSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const from = process.env.SCADA_PROTO ?? fileURLToPath(new URL('../../../proto/scada.proto', import.meta.url));
cpSync(from, fileURLToPath(new URL('../dist/proto/scada.proto', import.meta.url)));
