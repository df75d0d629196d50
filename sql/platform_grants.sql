-- Owners and grants of the auth and storage schemas, once the gateway package's tables exist.
-- Run by `supabase_admin` after sql/platform.sql; never deployed.

do $$
declare
  relation record;
  routine record;
begin
  for relation in
    select c.oid::regclass as name, n.nspname as schema_name
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('auth', 'storage') and c.relkind in ('r', 'p', 'v', 'S')
  loop
    execute format(
      'alter table %s owner to %I',
      relation.name,
      case relation.schema_name when 'auth' then 'authenticator' else 'supabase_storage_admin' end
    );
  end loop;

  for routine in
    select p.oid::regprocedure as name
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'storage'
  loop
    execute format('alter function %s owner to supabase_storage_admin', routine.name);
  end loop;
end
$$;

-- As hosted: migrations may refer to users and hang triggers on them; they own none of it.
grant usage on schema auth to postgres, anon, authenticated, service_role;
grant references, trigger, select, insert, update, delete on all tables in schema auth to postgres;
grant execute on all functions in schema auth to postgres, anon, authenticated, service_role;

-- Row level security, which the gateway package turns on, decides about storage.
grant usage on schema storage to postgres, anon, authenticated, service_role;
grant all on all tables in schema storage to postgres, anon, authenticated, service_role;
grant execute on all functions in schema storage to postgres, anon, authenticated, service_role;

-- As hosted: row level security without a policy, so only the owner and BYPASSRLS roles read them.
alter table auth.users enable row level security;
alter table auth.identities enable row level security;
alter table auth.sessions enable row level security;
alter table auth.refresh_tokens enable row level security;
alter table auth.flow_state enable row level security;
alter table auth.audit_log_entries enable row level security;
