// Auth's admin API, which the gateway package lacks: create, read, list, change and delete users.
import { timingSafeEqual } from "node:crypto";
import bcrypt from "bcryptjs";
import { Hono } from "hono";
import { verify } from "hono/jwt";

const BCRYPT_COST = 10; // GoTrue's default
const FOREVER = "876600h"; // what admin clients send to ban without an end

class AuthError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function adminUsers(app, connection) {
  const sql = connection.driver;
  const { secret_key: secretKey, jwt_secret: jwtSecret } = app.config.auth;
  const routes = new Hono();

  routes.use(async (context, next) => {
    await requireServiceRole(context.req, secretKey, jwtSecret);
    await next();
  });
  routes.onError((error, context) => {
    const known = error instanceof AuthError ? error : fromDatabase(error);
    return context.json({ code: known.status, error_code: known.code, msg: known.message }, known.status);
  });

  routes.post("/users", async (context) => {
    const wanted = await context.req.json();
    if (!wanted.email) throw new AuthError(400, "validation_failed", "An email address is needed.");
    const id = wanted.id ?? crypto.randomUUID();
    const columns = await userColumns(wanted);
    await sql.begin(async (transaction) => {
      await transaction`
        insert into auth.users ${transaction({
          id,
          aud: "authenticated",
          role: "authenticated",
          raw_app_meta_data: JSON.stringify({ provider: "email", providers: ["email"] }),
          raw_user_meta_data: "{}",
          ...columns,
        })}`;
      const identity = { sub: id, email: columns.email, email_verified: Boolean(wanted.email_confirm) };
      await transaction`
        insert into auth.identities (id, provider, provider_id, user_id, identity_data)
        values (${crypto.randomUUID()}, 'email', ${id}, ${id}, ${JSON.stringify(identity)}::jsonb)`;
    });
    return context.json(await readUser(sql, id));
  });

  routes.get("/users", async (context) => {
    const page = Math.max(1, Number(context.req.query("page")) || 1);
    const perPage = Math.min(1000, Math.max(1, Number(context.req.query("per_page")) || 50));
    const ids = await sql`
      select id from auth.users where deleted_at is null
      order by created_at, id limit ${perPage} offset ${(page - 1) * perPage}`;
    const [{ total }] = await sql`select count(*)::int as total from auth.users where deleted_at is null`;
    const users = await Promise.all(ids.map(({ id }) => readUser(sql, id)));
    context.header("X-Total-Count", String(total));
    return context.json({ aud: "authenticated", users });
  });

  routes.get("/users/:id", async (context) => context.json(await readUser(sql, context.req.param("id"))));

  routes.put("/users/:id", async (context) => {
    const id = context.req.param("id");
    const columns = await userColumns(await context.req.json());
    await readUser(sql, id);
    await sql`update auth.users set ${sql({ ...columns, updated_at: new Date().toISOString() })} where id = ${id}`;
    return context.json(await readUser(sql, id));
  });

  routes.delete("/users/:id", async (context) => {
    const id = context.req.param("id");
    const { should_soft_delete: soft = false } = await context.req.json().catch(() => ({}));
    const user = await readUser(sql, id);
    await sql.begin(async (transaction) => {
      await transaction`delete from auth.sessions where user_id = ${id}`;
      await transaction`delete from auth.refresh_tokens where user_id = ${id}`;
      if (soft) {
        await transaction`
          update auth.users set deleted_at = now(), email = null, encrypted_password = null where id = ${id}`;
      } else {
        await transaction`delete from auth.users where id = ${id}`;
      }
    });
    return context.json(soft ? { ...user, deleted_at: new Date().toISOString() } : {});
  });

  return routes;
}

// As hosted: the secret key (as apikey or bearer), or a token whose role is service_role.
async function requireServiceRole(request, secretKey, jwtSecret) {
  const bearer = (request.header("authorization") ?? "").replace(/^Bearer\s+/i, "");
  for (const credential of [request.header("apikey") ?? "", bearer]) {
    if (sameText(credential, secretKey)) return;
  }
  try {
    const claims = await verify(bearer, jwtSecret, "HS256");
    if (claims.role === "service_role") return;
  } catch {
    throw new AuthError(401, "no_authorization", "This endpoint requires a valid secret key.");
  }
  throw new AuthError(403, "not_admin", "User not allowed");
}

function sameText(left, right) {
  const a = Buffer.from(left);
  const b = Buffer.from(right);
  return a.length === b.length && timingSafeEqual(a, b);
}

// The columns that GoTrue's admin user parameters set; what was not sent stays as it is.
async function userColumns(wanted) {
  const now = new Date().toISOString();
  const columns = {};
  if (wanted.email) columns.email = String(wanted.email).trim().toLowerCase();
  if (wanted.phone) columns.phone = String(wanted.phone);
  if (wanted.password) columns.encrypted_password = await bcrypt.hash(wanted.password, BCRYPT_COST);
  if (wanted.email_confirm) columns.email_confirmed_at = now;
  if (wanted.phone_confirm) columns.phone_confirmed_at = now;
  if (wanted.user_metadata) columns.raw_user_meta_data = JSON.stringify(wanted.user_metadata);
  if (wanted.app_metadata) {
    columns.raw_app_meta_data = JSON.stringify({ provider: "email", providers: ["email"], ...wanted.app_metadata });
  }
  if (wanted.ban_duration) columns.banned_until = bannedUntil(wanted.ban_duration);
  return columns;
}

// GoTrue takes a Go duration ("24h", "1h30m") or "none".
function bannedUntil(duration) {
  if (duration === "none") return null;
  const units = { h: 3_600_000, m: 60_000, s: 1000 };
  const parts = [...String(duration).matchAll(/(\d+)([hms])/g)];
  if (parts.map(([text]) => text).join("") !== duration) {
    throw new AuthError(400, "validation_failed", `invalid format for ban duration: ${duration} (try ${FOREVER})`);
  }
  const milliseconds = parts.reduce((sum, [, count, unit]) => sum + Number(count) * units[unit], 0);
  return new Date(Date.now() + milliseconds).toISOString();
}

async function readUser(sql, id) {
  const [row] = await sql`
    select id, aud, role, coalesce(email, '') as email, coalesce(phone, '') as phone, email_confirmed_at,
      phone_confirmed_at, confirmed_at, last_sign_in_at, banned_until, is_anonymous, created_at, updated_at,
      raw_app_meta_data as app_metadata, raw_user_meta_data as user_metadata,
      (select coalesce(jsonb_agg(jsonb_build_object(
          'identity_id', i.id, 'id', i.provider_id, 'user_id', i.user_id, 'identity_data', i.identity_data,
          'provider', i.provider, 'last_sign_in_at', i.last_sign_in_at, 'created_at', i.created_at,
          'updated_at', i.updated_at)), '[]')
        from auth.identities as i where i.user_id = u.id) as identities
    from auth.users as u where u.id::text = ${id} and u.deleted_at is null`;
  if (!row) throw new AuthError(404, "user_not_found", "User not found");
  return Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null));
}

function fromDatabase(error) {
  if (error.code === "23505") {
    return new AuthError(422, "email_exists", "A user with this email address has already been registered");
  }
  if (error instanceof SyntaxError) return new AuthError(400, "bad_json", "The body is not JSON.");
  process.stderr.write(`${error.stack ?? error}\n`);
  return new AuthError(500, "unexpected_failure", "Database error");
}
