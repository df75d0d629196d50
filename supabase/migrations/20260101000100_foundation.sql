-- Foundation: schemas, default privileges, and the few helpers every later chapter uses.
--
-- Three schemas (docs/architecture.md):
--   public   what clients reach through PostgREST: row level security on every table, explicit grants
--   backend  one function per use case of functions/, executable by service_role alone
--   private  what no API can see: holds, tasks, secrets, and the definer kernel that changes state
--
-- A per-schema revoke cannot take away the built-in EXECUTE that PUBLIC gets on every new function;
-- only the global form below can, so it comes before the first function is created.

create schema if not exists extensions;
create extension if not exists vector with schema extensions;

create schema backend;
create schema private;

comment on schema backend is 'Functions for the Python side, one per use case; service_role only.';
comment on schema private is 'State and kernel functions that no API exposes.';

-- ---------------------------------------------------------------------------------------------------------------
-- Privileges: nothing is granted unless a chapter says so
-- ---------------------------------------------------------------------------------------------------------------

alter default privileges revoke execute on functions from public, anon, authenticated, service_role;
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke execute on functions from anon, authenticated, service_role;

revoke all on schema public from public;
revoke all on schema backend from public;
revoke all on schema private from public;

-- Whatever search_path a function pins, the caller's temporary schema is searched before it for tables and types:
-- whoever may make a temporary type called "text" runs code of theirs inside every definer function that casts to text.
do $$
begin
  execute format('revoke temporary on database %I from public', current_database());
end
$$;

grant usage on schema public to anon, authenticated, service_role;
grant usage on schema backend to service_role;
-- Client RPCs in public are invoker wrappers over private definers, and policies call private helpers, so
-- authenticated may enter the schema. It may use only what a chapter grants by name, and the API does not expose it.
grant usage on schema private to authenticated;

-- The direct transport logs in as this role (an operator sets its password). Being a member of service_role it can
-- execute backend.* and nothing more: every table of money is closed to service_role as well.
do $$
begin
  if not exists (select 1 from pg_catalog.pg_roles where rolname = 'quernel_functions') then
    create role quernel_functions nologin inherit;
  end if;
end
$$;
grant service_role to quernel_functions;

-- ---------------------------------------------------------------------------------------------------------------
-- Settings an operator may change without a deployment
-- ---------------------------------------------------------------------------------------------------------------

create table private.settings (
  name text primary key,
  value jsonb not null,
  description text not null,
  updated_at timestamptz not null default now(),
  constraint name_is_snake_case check (name ~ '^[a-z][a-z0-9_]*$')
);

comment on table private.settings is 'Product settings an operator may change at run time.';
comment on column private.settings.name is 'What the setting is called in private.setting().';
comment on column private.settings.value is 'The value, as JSON.';
comment on column private.settings.description is 'What it means, with its unit.';
comment on column private.settings.updated_at is 'When it was last changed.';

alter table private.settings enable row level security;

insert into private.settings (name, value, description) values
('signup_credits', '100', 'Credits a new account receives once, after its email address is verified.'),
('refund_grace_days', '30', 'Days a refund stays usable when the lot it came from has expired meanwhile.'),
('hold_seconds', '120', 'Seconds a hold lives before the reaper returns it, unless it is extended.'),
('hold_max_seconds', '3600', 'Seconds after which a hold can no longer be extended.'),
('idempotency_hours', '24', 'Hours a stored answer can be replayed by its Idempotency-Key.');

create function private.setting(p_name text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select s.value from private.settings as s where s.name = p_name);
end
$$;

comment on function private.setting(text) is 'Value of a setting, null when there is none of that name.';

-- ---------------------------------------------------------------------------------------------------------------
-- Helpers
--
-- Those on the path of every request are plpgsql: a function that pins its search_path is never inlined, and plpgsql
-- keeps its plans where an SQL function plans on every call.
-- ---------------------------------------------------------------------------------------------------------------

create function private.json_size(p_value jsonb) returns bigint
language plpgsql immutable set search_path = ''
as $$
begin
  -- A number of ten characters, 1e99999, has a hundred thousand digits: it is not written out to be measured.
  if pg_column_size(p_value) > 1048576 or p_value @? '$.** ? (@ > 1e100 || @ < -1e100)' then
    return 2147483647;
  end if;
  return octet_length(p_value::text);
end
$$;

comment on function private.json_size(jsonb) is
'Bytes of a JSON value as text, for constraints; as good as endless for one of over a mebibyte, or with a number that nobody needs.';

create function private.fail(p_status integer, p_code text, p_message text, p_facts jsonb default '{}')
returns void
language plpgsql immutable set search_path = ''
as $$
begin
  raise exception using
    errcode = 'PT' || p_status::text,
    message = p_message,
    detail = (jsonb_build_object('code', p_code) || coalesce(p_facts, '{}'::jsonb))::text;
end
$$;

comment on function private.fail(integer, text, text, jsonb) is
'Raises a business error: SQLSTATE PT<status>, which PostgREST answers as that HTTP status, and a stable code with its facts as JSON in DETAIL.';

create function private.touch_updated_at() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end
$$;

comment on function private.touch_updated_at() is 'Trigger: keeps updated_at true.';

create function private.refuse_change() returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end
$$;

comment on function private.refuse_change() is 'Trigger: refuses UPDATE, DELETE and TRUNCATE on append-only tables, for every role.';

create function private.uuid7() returns uuid
language plpgsql volatile parallel safe set search_path = ''
as $$
declare
  v_us bigint := extract(epoch from clock_timestamp()) * 1000000;
begin
  -- RFC 9562 section 5.7, with method 3 of section 6.2: 48 bits of milliseconds, the version, then the rest of the
  -- clock's reading as 12 bits of a millisecond; variant and 62 random bits come from a version 4. Ids made one after
  -- the other are in order to the microsecond and land on the same index pages, so the cost of an insert does not
  -- grow with the table.
  return encode(
    int8send((v_us / 1000) << 16 | x'7000'::bigint | (v_us % 1000) * 4096 / 1000)
      || substring(uuid_send(gen_random_uuid()) from 9),
    'hex')::uuid;
end
$$;

comment on function private.uuid7() is 'A time-ordered UUID (version 7), in order to the microsecond.';

create function private.request_id() returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_id text := nullif(current_setting('quernel.request_id', true), '');
begin
  -- PostgREST hands over headers of whoever calls; what a client says of itself is not believed.
  if v_id is null and current_setting('role', true) = 'service_role' then
    v_id := nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-request-id';
  end if;
  return case when v_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then v_id::uuid end;
end
$$;

comment on function private.request_id() is
'The request, task or cron run on whose behalf the functions call, as logs have it; null where nobody says.';

create function private.month_start(p_at timestamptz) returns timestamptz
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return date_trunc('month', p_at at time zone 'utc') at time zone 'utc';
end
$$;

comment on function private.month_start(timestamptz) is 'First instant of the calendar month (UTC) in which p_at lies.';

create function backend.ready() returns jsonb
language sql stable security definer set search_path = ''
as $$ select jsonb_build_object('ready', true) $$;

comment on function backend.ready() is 'Answers: the database is reachable, and the caller may call backend functions.';
grant execute on function backend.ready() to service_role;
