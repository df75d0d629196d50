-- Deployment: what a database says of itself when an operator asks whether it is set up right (`quernel doctor`).
--
-- Facts, and no judgement: what they should be is known to functions/doctor, which has the checkout beside it. Schemas
-- that only Supabase brings are looked at where they are.

create function private.deployment_openings() returns jsonb
language sql stable security definer set search_path = ''
as $$
  with roles (name) as (
    select r.rolname from pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role')
  )

  select coalesce(jsonb_agg(f.found order by f.found), '[]'::jsonb)
  from (
    select format('%s may use schema %s', r.name, s.name) as found
    from roles as r
    cross join unnest(array['backend', 'private']) as s (name)
    where r.name <> 'service_role' and (r.name, s.name) <> ('authenticated', 'private')
      and has_schema_privilege(r.name, s.name, 'usage')
    union all
    select format('%s may execute %s', r.name, p.oid::regprocedure)
    from pg_proc as p
    cross join roles as r
    where r.name <> 'service_role' and p.pronamespace = 'backend'::regnamespace
      and has_function_privilege(r.name, p.oid, 'execute')
    union all
    select format('%s may execute %s', r.name, p.oid::regprocedure)
    from pg_proc as p
    cross join roles as r
    where r.name = 'anon' and p.pronamespace = 'private'::regnamespace
      and has_function_privilege(r.name, p.oid, 'execute')
    union all
    select format('%s may %s %s', r.name, v.name, c.oid::regclass)
    from pg_class as c
    cross join roles as r
    cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate']) as v (name)
    where c.relnamespace = 'private'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
      and has_table_privilege(r.name, c.oid, v.name)
  ) as f
$$;

comment on function private.deployment_openings() is
'What the API''s roles may do in backend and private that they should not; sql/checks say more.';

create function private.deployment_timeouts() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_object_agg(r.rolname, (
    select substring(c.entry from '=(.*)$')
    from pg_db_role_setting as s
    cross join unnest(s.setconfig) as c (entry)
    where s.setrole = r.oid and c.entry like 'statement\_timeout=%'
      and (s.setdatabase = 0 or s.setdatabase = (
        select d.oid from pg_database as d where d.datname = current_database()
      ))
    order by s.setdatabase desc
    limit 1
  )), '{}'::jsonb)
  from pg_roles as r
  where r.rolname in ('anon', 'authenticated', 'authenticator', 'service_role', 'quernel_functions')
$$;

comment on function private.deployment_timeouts() is
'statement_timeout of the roles that the API and the functions log in as; null where a role sets none.';

create function backend.deployment_report() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_migrations jsonb;
  v_buckets jsonb;
  v_url text := private.setting('runner_url') #>> '{}';
begin
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    begin
      execute 'select jsonb_agg(m.version order by m.version) from supabase_migrations.schema_migrations as m'
      into v_migrations;
    exception when insufficient_privilege then
      v_migrations := null;
    end;
  end if;
  if to_regclass('storage.buckets') is not null then
    begin
      execute 'select coalesce(jsonb_object_agg(b.id, jsonb_build_object('
        '''public'', b.public, ''file_size_limit'', b.file_size_limit)), ''{}'') from storage.buckets as b'
      into v_buckets;
    exception when insufficient_privilege then
      v_buckets := null;
    end;
  end if;
  return jsonb_build_object(
    'now', clock_timestamp(),
    'server_version', current_setting('server_version'),
    'migrations', v_migrations,
    'buckets', v_buckets,
    'timeouts', private.deployment_timeouts(),
    'openings', private.deployment_openings(),
    'tables_without_rls', (
      select coalesce(jsonb_agg(c.oid::regclass::text order by c.oid::regclass::text), '[]'::jsonb)
      from pg_class as c
      where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
        and c.relkind in ('r', 'p') and not c.relrowsecurity
    ),
    'has_pg_net', to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is not null,
    'runner_url', case
      when v_url is null then 'none' when v_url like 'https://%' then 'https' else 'other'
    end,
    'stripe_events', (select jsonb_agg(t.event_type order by t.event_type) from private.stripe_event_types as t),
    'last_task_started_at', (
      select max(t.started_at) from private.tasks as t where t.started_at > now() - interval '1 day'
    )
  );
end
$$;

comment on function backend.deployment_report() is
'For operators: how the database is set up, as facts that `quernel doctor` judges. Holds no secret.';

grant execute on function backend.deployment_report() to service_role;
