// The gateway's configuration: what local/gateway.py sends on standard input, plus the connection.
import { readFileSync } from "node:fs";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { session } from "./session.mjs";
import { types } from "./types.mjs";

// `mended: false` shows the package as it is: a test for each mend asks whether it is still needed.
const { databaseUrl, poolSize, port, mended, ...settings } = JSON.parse(readFileSync(0, "utf8"));

const connection = createPostgresConnection({
  url: databaseUrl,
  postgresOptions: { max: poolSize, onnotice: () => {}, ...(mended ? { types } : {}) },
});

if (mended) {
  // On its first request the package runs GRANT ALL ON ALL TABLES to the three API roles in every
  // schema that has row level security. The migrations grant what they mean to grant.
  connection.ensureRlsContext = async () => true;
  Object.assign(connection, session);
}

export { connection, mended, port };
export default { ...settings, connection };
