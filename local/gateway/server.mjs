// The Supabase-compatible gateway: /rest/v1, /auth/v1 and /storage/v1 over the embedded Postgres.
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { serve } from "@hono/node-server";
import { createApi } from "@supabase/lite/cli";
import { Hono } from "hono";
import { adminUsers } from "./admin.mjs";
import { connection, mended, port } from "./config.mjs";
import { hostedStorage } from "./storage.mjs";

const configFile = relative(process.cwd(), fileURLToPath(new URL("./config.mjs", import.meta.url)));
const api = await createApi({ root: process.cwd(), withSupabaseClient: false });
const app = await api.project.local.createApp(configFile, { admin: false });
const forward = (request) => app.fetch(request);

const gateway = new Hono();
if (mended) {
  gateway.route("/auth/v1/admin", adminUsers(app, connection));
  gateway.use(hostedStorage(forward));
}
// Nothing else: under /_system the package tells whoever asks how it reaches the database, password included.
for (const service of ["/rest/v1", "/auth/v1", "/storage/v1"]) {
  gateway.all(`${service}/*`, (context) => forward(context.req.raw));
}

// Reads schemas and functions now, so that the first request is as fast as the next.
await connection.introspect({ useCache: true });

const server = serve({ fetch: gateway.fetch, hostname: "127.0.0.1", port }, () => {
  process.stdout.write(`gateway listens on 127.0.0.1:${port}\n`);
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    server.close();
    server.closeAllConnections?.();
    connection.close().finally(() => process.exit(0));
  });
}
