// Sets up each request's transaction in two statements, where the gateway package takes eleven.
import { sql } from "kysely";

// Same settings as the package's own, and as PostgREST's: role, claims, storage operation.
async function applyJwtSessionContext(executor, { auth, storage }) {
  const role = auth?.role || "anon";
  const claims = auth?.jwt && typeof auth.jwt === "object" ? JSON.stringify(auth.jwt) : "";
  await sql`
    select
      set_config('role', ${role}, true),
      set_config('request.jwt.claim.sub', ${String(auth?.uid ?? "")}, true),
      set_config('request.jwt.claim.role', ${role}, true),
      set_config('request.jwt.claims', ${claims}, true),
      set_config('storage.operation', ${String(storage?.operation ?? "")}, true)`.execute(executor);
}

async function applyRpcRequestGucs(executor, { method, path, requestHeaders = {} }) {
  await sql`
    select
      set_config('response.status', '', true),
      set_config('response.headers', '', true),
      set_config('request.method', ${method}, true),
      set_config('request.path', ${path}, true),
      set_config('request.headers', ${JSON.stringify(requestHeaders)}, true)`.execute(executor);
}

export const session = { applyJwtSessionContext, applyRpcRequestGucs };
