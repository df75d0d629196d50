-- What hosted Supabase brings before the first migration: roles, schemas, extensions, auth helpers.
-- Run once by the superuser `supabase_admin` on an empty embedded database; never deployed.
-- Passwords are set afterwards (local/platform.py).

-- Roles ---------------------------------------------------------------------------------------

-- Migrations run as `postgres`: an owner of everything it makes, not a superuser.
create role postgres login createrole createdb bypassrls replication;
grant pg_monitor to postgres with admin option;
grant pg_read_all_data to postgres with admin option;
grant pg_signal_backend to postgres with admin option;

create role anon nologin noinherit admin postgres;
create role authenticated nologin noinherit admin postgres;
create role service_role nologin noinherit bypassrls admin postgres;

-- The gateway logs in as this one. Hosted has it NOINHERIT; the embedded gateway does its own work
-- (auth tables, storage tables) under it, so it inherits.
create role authenticator login inherit;
grant anon to authenticator;
grant authenticated to authenticator;
grant service_role to authenticator;

create role supabase_storage_admin nologin noinherit;
grant supabase_storage_admin to authenticator;
grant supabase_storage_admin to postgres;

-- PostgREST drops a request of the API roles after these; service_role inherits authenticator's.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

-- Database and schemas ------------------------------------------------------------------------

alter database postgres owner to postgres;
alter database postgres set search_path = "$user", public, extensions; -- noqa: PRS
alter schema public owner to postgres;
grant usage on schema public to anon, authenticated, service_role;

create schema extensions authorization postgres;
grant usage on schema extensions to anon, authenticated, service_role, authenticator;
create extension vector with schema extensions;

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;

-- `auth` and `storage` themselves come from the gateway package, after this file.
create schema auth authorization authenticator;
create schema storage authorization supabase_storage_admin;

-- Who is asking, from the claims of the access token: the hosted definitions.
create function auth.jwt() returns jsonb
language sql stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;

create function auth.uid() returns uuid
language sql stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;

create function auth.role() returns text
language sql stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
  )::text
$$;

create function auth.email() returns text
language sql stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
  )::text
$$;
