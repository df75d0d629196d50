-- The invariants, as sql/checks/ has them. Made by `python -m local.check_chapter`: edit those
-- files, and make it again.
-- noqa: disable=all

insert into private.invariants (name, says, mend, query) values
('001_tables_have_row_level_security', 'Every table has row level security, so that a grant alone opens nothing.', 'alter table … enable row level security, and write the policies it needs.',
$query$
select
  c.oid::regclass::text as subject,
  jsonb_build_object('owner', c.relowner::regrole) as detail
from pg_class as c
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p')
  and not c.relrowsecurity
$query$),
('002_functions_pin_their_search_path', 'Every function pins an empty search_path, so that no caller decides what its names mean.', 'create the function with `set search_path = ''''` and qualify the names in it.',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('settings', p.proconfig) as detail
from pg_proc as p
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and 'search_path=""' <> all(coalesce(p.proconfig, '{}'))
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
$query$),
('003_no_definer_is_in_public', 'What clients call runs with their own rights: no function in public is a security definer.', 'move the body to private, and leave an invoker''s wrapper in public.',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('owner', p.proowner::regrole) as detail
from pg_proc as p
where p.pronamespace = 'public'::regnamespace
  and p.prosecdef
$query$),
('004_visitors_execute_nothing', 'Nobody executes a function without having signed in.', 'revoke execute on function … from public, anon; grant it to authenticated by name.',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end) as detail
from pg_proc as p
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and a.grantee in (0, 'anon'::regrole)
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
$query$),
('005_backend_is_for_the_service_role', 'The backend schema holds functions and nothing else, and only service_role executes them.', 'revoke execute on function … from everybody else; keep tables and views in public or private.',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end) as detail
from pg_proc as p
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
where p.pronamespace = 'backend'::regnamespace
  and a.grantee not in (p.proowner, 'service_role'::regrole)
union all
select
  c.oid::regclass::text as subject,
  jsonb_build_object('kind', c.relkind) as detail
from pg_class as c
where c.relnamespace = 'backend'::regnamespace
$query$),
('006_private_is_closed', 'Nobody but its owner touches anything in private; signed-in users execute what check 007 lists.', 'revoke the grant. What clients may read is in public, behind a policy, or answered by a function.',
$query$
select
  c.oid::regclass::text as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, 'privilege', a.privilege_type
  ) as detail
from pg_class as c
cross join lateral aclexplode(c.relacl) as a
where c.relnamespace = 'private'::regnamespace
  and a.grantee <> c.relowner
union all
select
  format('%s.%I', c.oid::regclass, t.attname) as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, 'privilege', a.privilege_type
  ) as detail
from pg_class as c
inner join pg_attribute as t on c.oid = t.attrelid
cross join lateral aclexplode(t.attacl) as a
where c.relnamespace = 'private'::regnamespace
  and a.grantee <> c.relowner
union all
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, 'privilege', a.privilege_type
  ) as detail
from pg_proc as p
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
where p.pronamespace = 'private'::regnamespace
  and a.grantee not in (p.proowner, 'authenticated'::regrole)
$query$),
('007_private_functions_for_clients_are_listed', 'Of the private functions, signed-in users execute those listed here: each asks who the caller is, and trusts no argument to say so.', 'revoke execute from authenticated; or, when a policy or a wrapper in public needs it, add its name below.',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('is_definer', p.prosecdef) as detail
from pg_proc as p
where p.pronamespace = 'private'::regnamespace
  and has_function_privilege('authenticated', p.oid, 'execute')
  and p.proname not in (
    -- Policies ask these.
    'active_user_id', 'my_organization_ids', 'my_admin_organization_ids', 'my_statement_account_ids',
    -- The default of ids that clients leave out, and a constraint of what they write.
    'uuid7', 'json_size',
    -- Functions in public wrap these.
    'accept_invitation', 'answer_tokens', 'api_key_usage', 'cancel_my_generation', 'change_member_role',
    'chunks_answer', 'create_api_key', 'create_my_agent', 'create_my_conversation', 'create_organization',
    'delete_my_agent', 'delete_my_conversation', 'documentation_scope', 'documents_answer', 'find_my_chunks',
    'find_my_documents_chunks', 'generation_cost', 'grams_of', 'invite_member', 'leave_organization',
    'library_state', 'my_conversation_thread', 'my_conversations', 'my_credit_balance', 'my_credit_statement',
    'my_document_uploaded', 'my_generation_stats', 'my_organization_agents', 'my_organization_customer_id',
    'my_public_agents', 'my_usage_report', 'names_in', 'organization_people', 'ranked_libraries', 'remove_member',
    'resolved_libraries', 'restore_my_conversation', 'revoke_api_key', 'revoke_invitation', 'rotate_api_key',
    'select_my_branch', 'set_member_budget', 'set_my_auto_top_up', 'set_my_low_balance_threshold',
    'set_my_monthly_budget', 'suggest_prompts', 'trends', 'update_api_key', 'update_my_agent',
    'update_my_conversation', 'update_organization'
  )
$query$),
('008_money_is_written_by_functions_only', 'Nobody but the owner, which is who the functions run as, writes money, prices, usage, membership or webhooks.', 'revoke the grant. A leaked service key must not edit a lot, and a client must not raise a plan.',
$query$
with granted as (
  select c.oid as relation, r.grantee, r.privilege_type, null::name as attname
  from pg_class as c
  cross join lateral aclexplode(c.relacl) as r
  union all
  select f.attrelid as relation, r.grantee, r.privilege_type, f.attname
  from pg_attribute as f
  cross join lateral aclexplode(f.attacl) as r
)

select
  c.oid::regclass::text as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end,
    'privilege', a.privilege_type, 'column', a.attname
  ) as detail
from pg_class as c
inner join granted as a on c.oid = a.relation
where c.oid in (
    'public.credit_accounts'::regclass, 'public.credit_lots'::regclass, 'public.credit_transactions'::regclass,
    'public.credit_packs'::regclass, 'public.credit_purchases'::regclass, 'public.plans'::regclass,
    'public.model_providers'::regclass, 'public.models'::regclass, 'public.usage_logs'::regclass,
    'public.organizations'::regclass, 'public.organization_members'::regclass,
    'public.organization_invitations'::regclass, 'public.webhook_endpoints'::regclass,
    'public.webhook_deliveries'::regclass, 'public.api_usage'::regclass
  )
  and a.grantee <> c.relowner
  and a.privilege_type <> 'SELECT'
$query$),
('009_clients_write_named_columns', 'Signed-in users insert and update columns that are granted by name, so that a column added later starts read-only; visitors and the service role write nothing at all.', 'revoke the grant on the table; grant insert (…) and update (…) on the columns that are the client''s to set.',
$query$
with granted as (
  select c.oid as relation, r.grantee, r.privilege_type, null::name as attname
  from pg_class as c
  cross join lateral aclexplode(c.relacl) as r
  union all
  select f.attrelid as relation, r.grantee, r.privilege_type, f.attname
  from pg_attribute as f
  cross join lateral aclexplode(f.attacl) as r
)

select
  c.oid::regclass::text as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end,
    'privilege', a.privilege_type, 'column', a.attname
  ) as detail
from pg_class as c
inner join granted as a on c.oid = a.relation
where c.relnamespace = 'public'::regnamespace
  and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and a.grantee <> c.relowner
  and a.privilege_type <> 'SELECT'
  and not (
    a.grantee = 'authenticated'::regrole
    and (a.privilege_type = 'DELETE' or (a.attname is not null and a.privilege_type in ('INSERT', 'UPDATE')))
  )
$query$),
('010_grants_are_not_passed_on', 'Nobody who was granted something may grant it to others.', 'revoke grant option for … from …',
$query$
select
  g.subject,
  jsonb_build_object('grantee', g.grantee::regrole, 'privilege', g.privilege_type) as detail
from (
  select c.oid::regclass::text as subject, c.relnamespace as namespace, c.relowner as owner, a.*
  from pg_class as c
  cross join lateral aclexplode(c.relacl) as a
  union all
  select p.oid::regprocedure::text as subject, p.pronamespace as namespace, p.proowner as owner, a.*
  from pg_proc as p
  cross join lateral aclexplode(p.proacl) as a
) as g
where g.namespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and g.grantee <> g.owner
  and g.is_grantable
$query$),
('011_views_run_as_their_reader', 'A view in public runs with its reader''s rights; materialized views know no row level security, so they are private.', 'create view … with (security_invoker = true); move a materialized view to private, behind a function.',
$query$
select
  c.oid::regclass::text as subject,
  jsonb_build_object('kind', c.relkind, 'options', c.reloptions) as detail
from pg_class as c
where c.relnamespace = 'public'::regnamespace
  and (
    c.relkind in ('m', 'f')
    or (c.relkind = 'v' and not (coalesce(c.reloptions, '{}') && '{security_invoker=true,security_invoker=on}'))
  )
$query$),
('012_policies_name_their_roles', 'A policy says to which roles it applies: one for everybody also decides for roles nobody thought of.', 'create policy … to authenticated.',
$query$
select
  format('%s: %s', p.polrelid::regclass, p.polname) as subject,
  jsonb_build_object('command', p.polcmd) as detail
from pg_policy as p
inner join pg_class as c on p.polrelid = c.oid
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and 0 = any(p.polroles)
$query$),
('013_policies_ask_once_per_statement', 'A policy asks who the caller is once per statement, not once per row.', 'write (select private.active_user_id()), and membership as `in (select private.my_organization_ids())`.',
$query$
select
  format('%s: %s', p.polrelid::regclass, p.polname) as subject,
  jsonb_build_object('expression', e) as detail
from pg_policy as p
inner join pg_class as c on p.polrelid = c.oid
cross join lateral concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) as e
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and regexp_replace(e, 'SELECT (auth|private)\.\w+\(', '', 'g') ~ '(auth|private)\.\w+\('
$query$),
('014_append_only_tables_refuse_change', 'The ledger and the operators'' log refuse UPDATE, DELETE and TRUNCATE for every role, replication included.', 'create the missing trigger on private.refuse_change(), and alter table … enable always trigger … for each.',
$query$
with guarded as (
  select
    t.tgrelid,
    -- Bits of tgtype, from pg_trigger.h: 8 delete, 16 update, 32 truncate.
    bit_or(t.tgtype::integer) filter (where t.tgenabled = 'A') as events
  from pg_trigger as t
  where t.tgfoid = 'private.refuse_change()'::regprocedure
  group by t.tgrelid
)

select
  r.relation::text as subject,
  jsonb_build_object('refuses', array_remove(array[
    case when g.events & 8 > 0 then 'delete' end,
    case when g.events & 16 > 0 then 'update' end,
    case when g.events & 32 > 0 then 'truncate' end
  ], null)) as detail
from unnest('{public.credit_transactions,private.operator_actions}'::regclass[]) as r (relation)
left join guarded as g on r.relation = g.tgrelid
where coalesce(g.events, 0) & 56 <> 56
union all
select
  format('%s: %s', t.tgrelid::regclass, t.tgname) as subject,
  jsonb_build_object('enabled', t.tgenabled) as detail
from pg_trigger as t
where t.tgfoid = 'private.refuse_change()'::regprocedure
  and t.tgenabled <> 'A'
$query$),
('015_tables_and_columns_say_what_they_are', 'Every table, view and column has a comment.', 'comment on table …, comment on column …',
$query$
select
  c.oid::regclass::text as subject,
  jsonb_build_object('kind', c.relkind) as detail
from pg_class as c
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
  and obj_description(c.oid, 'pg_class') is null
union all
select
  format('%s.%I', c.oid::regclass, a.attname) as subject,
  jsonb_build_object('type', format_type(a.atttypid, a.atttypmod)) as detail
from pg_class as c
inner join pg_attribute as a on c.oid = a.attrelid
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
  -- A partition's columns are its parent's.
  and not c.relispartition
  and a.attnum > 0
  and not a.attisdropped
  and col_description(c.oid, a.attnum) is null
$query$),
('016_functions_say_what_they_do', 'Every function has a comment.', 'comment on function …',
$query$
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('owner', p.proowner::regrole) as detail
from pg_proc as p
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and obj_description(p.oid, 'pg_proc') is null
$query$),
('017_foreign_keys_have_an_index', 'Every foreign key has an index on the referring side: without one, each delete on the other side reads the table.', 'create index on … (the key''s columns first), whole or where they are not null.',
$query$
select
  format('%s: %s', k.conrelid::regclass, k.conname) as subject,
  jsonb_build_object('references', k.confrelid::regclass) as detail
from pg_constraint as k
inner join pg_class as c on k.conrelid = c.oid
where k.contype = 'f'
  -- A partition's keys are its parent's.
  and k.conparentid = 0
  and c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and not exists (
    select
    from pg_index as i
    where i.indrelid = k.conrelid
      and i.indisvalid
      -- The index begins with the key's columns, in any order.
      and k.conkey <@ array(select i.indkey[n] from generate_series(0, cardinality(k.conkey) - 1) as n)
      and (
        i.indpred is null
        or pg_get_expr(i.indpred, i.indrelid) in (
          select format('(%I IS NOT NULL)', a.attname)
          from pg_attribute as a
          where a.attrelid = k.conrelid and a.attnum = any(k.conkey)
        )
      )
  )
$query$),
('018_constraints_are_validated', 'Every constraint holds for the rows that were there before it.', 'alter table … validate constraint …',
$query$
select
  format('%s: %s', k.conrelid::regclass, k.conname) as subject,
  jsonb_build_object('definition', pg_get_constraintdef(k.oid)) as detail
from pg_constraint as k
where k.connamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and not k.convalidated
$query$),
('019_nobody_creates_objects', 'Only the owner makes objects in our schemas, and nobody else makes temporary ones: a function''s caller could shadow types with those, whatever search_path it pins. Only service_role enters backend, and only authenticated private.', 'revoke create on schema … from …; revoke temporary on database … from public.',
$query$
select
  format('schema %I', n.nspname) as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, 'privilege', a.privilege_type
  ) as detail
from pg_namespace as n
cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
where n.nspname in ('public', 'backend', 'private')
  and a.grantee <> n.nspowner
  and (
    a.privilege_type = 'CREATE'
    or (n.nspname = 'backend' and a.grantee <> 'service_role'::regrole)
    or (n.nspname = 'private' and a.grantee <> 'authenticated'::regrole)
  )
union all
select
  format('database %I', d.datname) as subject,
  jsonb_build_object('role', r.rolname, 'privilege', p.privilege) as detail
from pg_database as d
cross join unnest(array['anon', 'authenticated', 'service_role', 'quernel_functions']) as r (rolname)
cross join unnest(array['CREATE', 'TEMPORARY']) as p (privilege)
where d.datname = current_database()
  and has_database_privilege(r.rolname, d.oid, p.privilege)
$query$),
('020_new_objects_start_closed', 'Functions and tables that the migrations make later are closed until a grant opens them.', 'alter default privileges revoke execute on functions from public, and the rest of the foundation''s.',
$query$
select
  format('functions of %I', o.rolname) as subject,
  jsonb_build_object('default', 'executable by everybody') as detail
from pg_roles as o
where o.oid = (select n.nspowner from pg_namespace as n where n.nspname = 'backend')
  and not exists (
    select
    from pg_default_acl as d
    where d.defaclrole = o.oid and d.defaclnamespace = 0 and d.defaclobjtype = 'f'
  )
union all
select
  format('default privileges of %s', d.defaclrole::regrole) as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end,
    'privilege', a.privilege_type, 'schema', n.nspname, 'objects', d.defaclobjtype
  ) as detail
from pg_default_acl as d
inner join pg_namespace as b on b.nspname = 'backend' and d.defaclrole = b.nspowner
left join pg_namespace as n on d.defaclnamespace = n.oid
cross join lateral aclexplode(d.defaclacl) as a
where (d.defaclnamespace = 0 or n.nspname in ('public', 'backend', 'private'))
  and d.defaclobjtype in ('f', 'r', 'S')
  and a.grantee in (0, 'anon'::regrole, 'authenticated'::regrole, 'service_role'::regrole)
$query$),
('021_roles_keep_their_distance', 'The roles of the API are nobody''s superiors: members of no other role, and only service_role passes row security. The direct transport''s role is a service_role and nothing else.', 'revoke … from …; alter role … nosuperuser nobypassrls.',
$query$
select
  r.rolname::text as subject,
  jsonb_build_object('superuser', r.rolsuper, 'bypassrls', r.rolbypassrls, 'creates_roles', r.rolcreaterole) as detail
from pg_roles as r
where r.rolname in ('anon', 'authenticated', 'service_role', 'quernel_functions')
  and (
    r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication
    or (r.rolbypassrls and r.rolname <> 'service_role')
  )
union all
select
  m.member::regrole::text as subject,
  jsonb_build_object('member_of', m.roleid::regrole) as detail
from pg_auth_members as m
where m.member::regrole::text in ('anon', 'authenticated', 'service_role', 'quernel_functions')
  and (m.member::regrole::text, m.roleid::regrole::text, m.admin_option) <> ('quernel_functions', 'service_role', false)
union all
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('definer', p.proowner::regrole) as detail
from pg_proc as p
inner join pg_roles as o on p.proowner = o.oid
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and p.prosecdef
  and o.rolsuper
$query$),
('022_realtime_publishes_what_clients_read', 'Where Realtime has its publication, it publishes every public table that clients read, chunks apart.', 'alter publication supabase_realtime add (or drop) table …, in the migration of Realtime.',
$query$
with readable as (
  -- Partitioned tables would publish their partitions, which are private.
  select c.oid
  from pg_class as c
  where c.relnamespace = 'public'::regnamespace
    and c.relkind = 'r'
    -- Nobody waits for a chunk, and a crawl writes many thousands: what tells of it is its library, or its document.
    and c.relname not in ('documentation_chunks', 'document_chunks')
    and (
      has_any_column_privilege('anon', c.oid, 'select') or has_any_column_privilege('authenticated', c.oid, 'select')
    )
),

published as (
  select to_regclass(format('%I.%I', t.schemaname, t.tablename))::oid as oid
  from pg_publication_tables as t
  where t.pubname = 'supabase_realtime'
)

select
  coalesce(r.oid, p.oid)::regclass::text as subject,
  jsonb_build_object('is_readable', r.oid is not null, 'is_published', p.oid is not null) as detail
from readable as r
full outer join published as p on p.oid = r.oid
where (r.oid is null or p.oid is null)
  and exists (select from pg_publication as u where u.pubname = 'supabase_realtime')
$query$),
('023_every_table_is_in_the_catalogue_of_personal_data', 'Every table of ours says whose its rows are, and the catalogue of personal data names no table that does not exist.', 'a row in private.personal_tables, in the chapter of the table: how a person''s rows are found, and what erasure does to them.',
$query$
select
  c.oid::regclass::text as subject,
  jsonb_build_object('missing_in', 'private.personal_tables') as detail
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where n.nspname in ('public', 'private')
  and c.relkind in ('r', 'p', 'm', 'f')
  and not c.relispartition
  and not exists (
    select from private.personal_tables as p where p.table_schema = n.nspname and p.table_name = c.relname
  )
union all
select
  format('%I.%I', p.table_schema, p.table_name) as subject,
  jsonb_build_object('missing_in', 'the database') as detail
from private.personal_tables as p
where to_regclass(format('%I.%I', p.table_schema, p.table_name)) is null
$query$),
('024_columns_that_say_something_are_in_the_catalogue', 'In a table with rows of people, every column that can hold words, addresses or vectors made of them, and every one that points to a person, is said to be personal or not to be; and the catalogue names no column that does not exist.', 'a row in private.personal_data, in the chapter of the table. That of an array is looked at instead of the array.',
$query$
select
  format('%s.%I', a.attrelid::regclass, a.attname) as subject,
  jsonb_build_object('type', format_type(a.atttypid, a.atttypmod)) as detail
from private.personal_tables as p
inner join pg_attribute as a on a.attrelid = to_regclass(format('%I.%I', p.table_schema, p.table_name))
inner join pg_type as t on a.atttypid = t.oid
inner join pg_type as e on e.oid = case when t.typcategory = 'A' then t.typelem else t.oid end
where p.rows_of is not null
  and a.attnum > 0
  and not a.attisdropped
  and (
    e.typname in (
      'text', 'varchar', 'bpchar', 'json', 'jsonb', 'xml', 'inet', 'cidr', 'bytea', 'tsvector', 'vector', 'halfvec',
      'sparsevec'
    )
    or exists (
      select from pg_constraint as f
      where f.conrelid = a.attrelid and f.contype = 'f' and a.attnum = any(f.conkey)
        and f.confrelid in ('auth.users'::regclass, 'public.profiles'::regclass)
    )
  )
  and not exists (
    select from private.personal_data as d
    where d.table_schema = p.table_schema and d.table_name = p.table_name and d.column_name = a.attname
  )
union all
select
  format('%I.%I.%I', d.table_schema, d.table_name, d.column_name) as subject,
  jsonb_build_object('missing_in', 'the database') as detail
from private.personal_data as d
left join pg_attribute as a
  on a.attrelid = to_regclass(format('%I.%I', d.table_schema, d.table_name))
    and d.column_name = a.attname and a.attnum > 0 and not a.attisdropped
where a.attname is null
$query$),
('025_tables_of_nobody_name_nobody', 'A table that is said to be nobody''s has no foreign key that leads to a person, and no column that names one, unless it says why; and none of its columns is personal.', 'say in private.personal_tables how the rows of a person are found in it, or for what reason there are none.',
$query$
with recursive of_people (relation) as (
  select 'auth.users'::regclass::oid as relation
  union
  select f.conrelid as relation
  from pg_constraint as f
  inner join of_people as p on f.confrelid = p.relation
  where f.contype = 'f'
),

nobodys as (
  select
    p.table_schema,
    p.table_name,
    p.reason,
    to_regclass(format('%I.%I', p.table_schema, p.table_name)) as relation
  from private.personal_tables as p
  where p.rows_of is null
)

select
  n.relation::text as subject,
  jsonb_build_object('foreign_key', true) as detail
from nobodys as n
where n.reason is null and n.relation in (select p.relation from of_people as p)
union all
select
  n.relation::text as subject,
  jsonb_build_object('column', a.attname) as detail
from nobodys as n
inner join pg_attribute as a on n.relation = a.attrelid
where n.reason is null
  and a.attnum > 0
  and not a.attisdropped
  and a.attname in (
    'user_id', 'owner', 'owner_id', 'author', 'author_id', 'actor', 'actor_id', 'created_by', 'invited_by',
    'accepted_by', 'started_by', 'bought_by', 'email', 'phone', 'ip', 'ip_address', 'user_agent', 'pseudonym',
    'account_id', 'organization_id', 'api_key_id', 'provider_key_id', 'conversation_id', 'message_id', 'document_id',
    'image_id', 'generation_id', 'invitation_id', 'notification_id', 'endpoint_id', 'customer_id', 'stripe_customer_id'
  )
union all
select
  n.relation::text as subject,
  jsonb_build_object('column', d.column_name) as detail
from nobodys as n
inner join private.personal_data as d on n.table_schema = d.table_schema and n.table_name = d.table_name
$query$),
('026_people_can_be_erased', 'No foreign key keeps a person from being erased; what goes with its row is in a table whose rows go; and rows that go with what they belong to have a foreign key that takes them along.', 'on delete cascade or set null; or another erasure in private.personal_tables or private.personal_data.',
$query$
select
  f.conrelid::regclass::text as subject,
  jsonb_build_object('foreign_key', f.conname) as detail
from pg_constraint as f
where f.contype = 'f'
  and f.confdeltype not in ('c', 'n')
  and f.confrelid in ('auth.users'::regclass, 'public.profiles'::regclass)
union all
select
  format('%I.%I.%I', d.table_schema, d.table_name, d.column_name) as subject,
  jsonb_build_object('rows', p.erasure, 'column', d.erasure) as detail
from private.personal_data as d
inner join private.personal_tables as p on d.table_schema = p.table_schema and d.table_name = p.table_name
where (d.erasure = 'row' and p.erasure <> 'delete')
  or (d.erasure = 'keep' and p.erasure = 'delete')
  or (d.erasure = 'null' and p.erasure = 'keep')
union all
select
  format('%I.%I', p.table_schema, p.table_name) as subject,
  jsonb_build_object('erased_by', p.erased_by) as detail
from private.personal_tables as p
where p.erasure = 'delete'
  and p.erased_by = 'cascade'
  and not exists (
    select from pg_constraint as f
    where f.contype = 'f'
      and f.confdeltype = 'c'
      and f.conrelid = to_regclass(format('%I.%I', p.table_schema, p.table_name))
  )
$query$),
('101_balance_is_lots_less_debt', 'An account''s balance is what its lots hold, less its debt.', 'Stop spending on the account (suspend its owner); replay its transactions to see which write went wrong.',
$query$
select
  a.id::text as subject,
  jsonb_build_object('balance', a.balance, 'debt', a.debt, 'lots', coalesce(l.remaining, 0)) as detail
from public.credit_accounts as a
left join (
  select lot.account_id, sum(lot.remaining) as remaining
  from public.credit_lots as lot
  group by lot.account_id
) as l on l.account_id = a.id
where a.balance <> coalesce(l.remaining, 0) - a.debt
$query$),
('102_balance_is_the_sum_of_transactions', 'An account''s balance and debt are the sums of its transactions.', 'A row was changed past the ledger; compare the last balance_after with the account.',
$query$
select
  a.id::text as subject,
  jsonb_build_object(
    'balance', a.balance, 'transactions', coalesce(t.amount, 0),
    'debt', a.debt, 'debt_changes', coalesce(t.debt_change, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select e.account_id, sum(e.amount) as amount, sum(e.debt_change) as debt_change
  from public.credit_transactions as e
  group by e.account_id
) as t on t.account_id = a.id
where a.balance <> coalesce(t.amount, 0) or a.debt <> coalesce(t.debt_change, 0)
$query$),
('103_held_is_the_sum_of_active_holds', 'What an account has on hold is the sum of its active holds, in credits, tokens and number.', 'Run `quernel cron reap_holds`; if it stays, release the holds named by hand.',
$query$
select
  a.id::text as subject,
  jsonb_build_object(
    'held', a.held, 'holds', coalesce(h.amount, 0), 'active_holds', a.active_holds, 'count', coalesce(h.count, 0),
    'tokens_held', a.tokens_held, 'tokens', coalesce(h.tokens, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select hold.account_id, sum(hold.amount) as amount, sum(hold.tokens) as tokens, count(*) as count
  from private.credit_holds as hold
  where hold.status = 'active'
  group by hold.account_id
) as h on h.account_id = a.id
where a.held <> coalesce(h.amount, 0)
  or a.active_holds <> coalesce(h.count, 0)
  or a.tokens_held <> coalesce(h.tokens, 0)
$query$),
('104_lots_are_the_sum_of_their_movements', 'What is left of a lot is the sum of what transactions put in and took out.', 'A lot was changed past the ledger.',
$query$
select
  l.id::text as subject,
  jsonb_build_object('remaining', l.remaining, 'movements', coalesce(m.change, 0)) as detail
from public.credit_lots as l
left join (
  select u.lot_id, sum(u.change) as change
  from public.credit_transactions as t
  cross join lateral unnest(t.lot_ids, t.lot_amounts) as u (lot_id, change)
  group by u.lot_id
) as m on m.lot_id = l.id
where l.remaining <> coalesce(m.change, 0)
$query$),
('105_a_transaction_is_its_lots_less_debt', 'What a transaction adds is what it moved in lots, less the debt it made.', 'A transaction was written by something that is not the ledger.',
$query$
select
  t.id::text as subject,
  jsonb_build_object('amount', t.amount, 'lot_amounts', t.lot_amounts, 'debt_change', t.debt_change) as detail
from public.credit_transactions as t
where t.amount <> coalesce((select sum(u.change) from unnest(t.lot_amounts) as u (change)), 0) - t.debt_change
$query$),
('106_transactions_form_an_unbroken_chain', 'An account''s transactions are numbered without gaps, and each begins at the balance the one before ended at.', 'A transaction is missing or was inserted out of turn.',
$query$
select
  t.account_id::text as subject,
  jsonb_build_object(
    'version', t.version, 'previous_version', t.previous_version,
    'balance_before', t.balance_before, 'previous_balance_after', t.previous_balance
  ) as detail
from (
  select
    e.account_id,
    e.version,
    e.balance_before,
    lag(e.version, 1, 0::bigint) over w as previous_version,
    lag(e.balance_after, 1, 0::numeric) over w as previous_balance
  from public.credit_transactions as e
  window w as (partition by e.account_id order by e.version)
) as t
where t.version <> t.previous_version + 1 or t.balance_before <> t.previous_balance
union all
select
  a.id::text as subject,
  jsonb_build_object('version', a.version, 'transactions', count(t.id)) as detail
from public.credit_accounts as a
left join public.credit_transactions as t on t.account_id = a.id
group by a.id, a.version
having a.version <> count(t.id)
$query$),
('107_every_settlement_has_its_transaction', 'A settled hold has exactly one transaction of its amount (none when it cost nothing), and no other hold has one.', 'A request was charged twice or not at all; refund or charge it by hand.',
$query$
select
  coalesce(h.id, t.reference_id)::text as subject,
  jsonb_build_object(
    'status', h.status, 'settled_amount', h.settled_amount, 'charged', t.charged, 'count', t.count
  ) as detail
from (
  select hold.id, hold.status, hold.settled_amount
  from private.credit_holds as hold
) as h
full join (
  select e.reference_id, -sum(e.amount) as charged, count(*) as count
  from public.credit_transactions as e
  where e.operation = 'settle'
  group by e.reference_id
) as t on t.reference_id = h.id
where coalesce(h.settled_amount, 0) <> coalesce(t.charged, 0)
  or t.count > 1
  or (t.count > 0 and h.status is distinct from 'settled')
$query$),
('108_debt_exists_only_when_nothing_is_unheld', 'An account in debt has no credits left but those on hold.', 'Debt was not netted when credits came free; the next grant repays it.',
$query$
select
  a.id::text as subject,
  jsonb_build_object('debt', a.debt, 'lots', a.balance + a.debt, 'held', a.held) as detail
from public.credit_accounts as a
where a.debt > 0 and a.balance + a.debt > a.held
$query$),
('109_debt_comes_from_clawbacks_and_late_settlements', 'Only a clawback, or a settlement after the reaper, makes debt.', 'Something spent credits that were not there.',
$query$
select
  t.id::text as subject,
  jsonb_build_object('operation', t.operation, 'debt_change', t.debt_change) as detail
from public.credit_transactions as t
where (t.debt_change > 0 and t.operation not in ('claw_back', 'settle'))
  or (t.debt_change < 0 and t.operation not in ('grant', 'refund', 'give_back', 'repay'))
$query$),
('110_held_credits_are_backed_by_lots', 'The lots of an account cover what it has on hold.', 'A hold was placed on credits that were not there, or they were taken from under it.',
$query$
select
  a.id::text as subject,
  jsonb_build_object('held', a.held, 'lots', coalesce(sum(l.remaining), 0)) as detail
from public.credit_accounts as a
left join public.credit_lots as l on l.account_id = a.id
group by a.id, a.held
having coalesce(sum(l.remaining), 0) < a.held
$query$),
('111_members_hold_what_their_holds_say', 'What a member has on hold is the sum of the active holds they placed on the organization.', 'The member''s budget counts wrongly; set private.member_spending.held to the sum.',
$query$
select
  coalesce(s.organization_id, h.organization_id)::text || '/' || coalesce(s.user_id, h.user_id)::text as subject,
  jsonb_build_object('held', coalesce(s.held, 0), 'holds', coalesce(h.amount, 0)) as detail
from private.member_spending as s
full join (
  select a.organization_id, hold.user_id, sum(hold.amount) as amount
  from private.credit_holds as hold
  inner join public.credit_accounts as a on a.id = hold.account_id
  where hold.status = 'active' and a.organization_id is not null and hold.user_id is not null
  group by a.organization_id, hold.user_id
) as h on h.organization_id = s.organization_id and h.user_id = s.user_id
where coalesce(s.held, 0) <> coalesce(h.amount, 0)
$query$),
('112_clawbacks_match_their_lots', 'What a lot says was taken back is what clawback transactions took for it, less what was given back.', 'A refund or dispute was applied past the ledger.',
$query$
select
  l.id::text as subject,
  jsonb_build_object('clawed_back', l.clawed_back, 'transactions', coalesce(t.amount, 0)) as detail
from public.credit_lots as l
left join (
  select e.reference_id, -sum(e.amount) as amount
  from public.credit_transactions as e
  where e.operation in ('claw_back', 'give_back')
  group by e.reference_id
) as t on t.reference_id = l.id
where l.clawed_back <> coalesce(t.amount, 0)
$query$),
('113_expired_lots_are_swept', 'Nothing but what is on hold is left of a lot an hour after it expired.', 'The expiry job is not running; run `quernel cron expire_lots`.',
$query$
select
  a.id::text as subject,
  jsonb_build_object('expired', sum(l.remaining), 'held', a.held) as detail
from public.credit_accounts as a
inner join public.credit_lots as l on l.account_id = a.id and l.used_at is null
where l.expires_at < now() - interval '1 hour'
group by a.id, a.held
having sum(l.remaining) > a.held
$query$),
('114_holds_past_their_deadline_are_reaped', 'No hold is active an hour after its deadline.', 'The reaper is not running; run `quernel cron reap_holds`.',
$query$
select
  h.id::text as subject,
  jsonb_build_object('deadline', h.deadline, 'amount', h.amount) as detail
from private.credit_holds as h
where h.status = 'active' and h.deadline < now() - interval '1 hour'
$query$),
('115_refunds_match_their_holds', 'What a hold says was refunded is what refund transactions gave back for it.', 'A refund was recorded past the ledger.',
$query$
select
  coalesce(h.id, t.reference_id)::text as subject,
  jsonb_build_object('refunded_amount', h.refunded_amount, 'transactions', coalesce(t.amount, 0)) as detail
from (
  select hold.id, hold.refunded_amount
  from private.credit_holds as hold
) as h
full join (
  select e.reference_id, sum(e.amount) as amount
  from public.credit_transactions as e
  where e.operation = 'refund'
  group by e.reference_id
) as t on t.reference_id = h.id
where coalesce(h.refunded_amount, 0) <> coalesce(t.amount, 0)
$query$),
('116_lifetime_counters_match_the_ledger', 'What an account was granted and has spent in its life are the sums of its grants, settlements and refunds.', 'Set lifetime_granted and lifetime_spent to the sums; no credit depends on them.',
$query$
select
  a.id::text as subject,
  jsonb_build_object(
    'lifetime_granted', a.lifetime_granted, 'grants', coalesce(t.granted, 0),
    'lifetime_spent', a.lifetime_spent, 'settlements_less_refunds', coalesce(t.spent, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select
    e.account_id,
    sum(e.amount) filter (where e.operation = 'grant') as granted,
    -sum(e.amount) filter (where e.operation in ('settle', 'refund')) as spent
  from public.credit_transactions as e
  group by e.account_id
) as t on t.account_id = a.id
where a.lifetime_granted <> coalesce(t.granted, 0) or a.lifetime_spent <> coalesce(t.spent, 0)
$query$),
('117_expired_credits_match_their_lots', 'What a lot says expired of it is what expiry transactions took from it.', 'A lot was changed past the ledger; a clawback of it may have taken too much or too little.',
$query$
select
  l.id::text as subject,
  jsonb_build_object('expired', l.expired, 'transactions', coalesce(t.amount, 0)) as detail
from public.credit_lots as l
left join (
  select u.lot_id, -sum(u.change) as amount
  from public.credit_transactions as e
  cross join lateral unnest(e.lot_ids, e.lot_amounts) as u (lot_id, change)
  where e.operation = 'expire'
  group by u.lot_id
) as t on t.lot_id = l.id
where l.expired <> coalesce(t.amount, 0)
$query$),
('118_a_key_has_one_hold_that_counts', 'Of the holds under one key, all but the latest are released.', 'Two holds of one request could both be charged; release the older one, or refund it.',
$query$
select
  h.id::text as subject,
  jsonb_build_object(
    'account_id', h.account_id, 'idempotency_key', h.idempotency_key, 'attempt', h.attempt, 'status', h.status
  ) as detail
from private.credit_holds as h
inner join private.credit_holds as later
  on later.account_id = h.account_id
    and later.idempotency_key = h.idempotency_key
    and later.attempt > h.attempt
where h.status <> 'released'
$query$),
('119_stand_ins_stand_in_for_expired_lots', 'A lot that stands in for another stands in for one of the same account that had expired, and never for a stand-in.', 'A lot was changed past the ledger; a clawback of the other may take too much or too little.',
$query$
select
  l.id::text as subject,
  jsonb_build_object('stands_in_for', l.stands_in_for, 'expired_at', o.expires_at) as detail
from public.credit_lots as l
inner join public.credit_lots as o on o.id = l.stands_in_for
where o.account_id <> l.account_id
  or o.expires_at is null
  or o.expires_at > l.created_at
  or o.stands_in_for is not null
$query$),
('120_api_keys_hold_what_their_holds_say', 'What an API key has on hold is the sum of its active holds, in credits and number.', 'Run `quernel cron reap_holds`; if it stays, set the state''s numbers to those of the holds.',
$query$
select
  s.api_key_id::text as subject,
  jsonb_build_object(
    'held', s.held, 'holds', coalesce(h.amount, 0), 'active_holds', s.active_holds, 'count', coalesce(h.count, 0)
  ) as detail
from private.api_key_states as s
left join (
  select hold.api_key_id, sum(hold.amount) as amount, count(*) as count
  from private.credit_holds as hold
  where hold.status = 'active' and hold.api_key_id is not null
  group by hold.api_key_id
) as h on h.api_key_id = s.api_key_id
where s.held <> coalesce(h.amount, 0) or s.active_holds <> coalesce(h.count, 0)
$query$),
('201_every_hold_has_its_usage_row', 'A hold and its usage row are started together and finished together, at the same price, less the same refunds.', 'A request reached a model without a trace, or a trace was left open. Usage older than its retention is gone, and with it the row of an old hold; so a hold counts only where its month has a partition.',
$query$
select
  h.id::text as subject,
  jsonb_build_object(
    'hold', h.status, 'usage', u.status, 'settled_amount', h.settled_amount, 'credits', u.credits
  ) as detail
from private.credit_holds as h
left join public.usage_logs as u on u.id = h.id and u.created_at = h.created_at
where (u.id is null and private.month_start(h.created_at) in (select private.usage_months()))
  or (h.status = 'active') <> (u.status = 'started')
  or coalesce(h.settled_amount, 0) <> u.credits
  or h.refunded_amount <> u.credits_refunded
  or (h.status = 'settled') <> (u.status in ('completed', 'cancelled'))
$query$),
('202_rollups_are_the_sum_of_usage', 'What api_usage says of a day is the sum of its finished usage rows, in every month whose rows are kept.', 'select private.rebuild_api_usage(''2026-01-01'') for the month; requests wait for it. Somebody wrote to a partition past its parent, or switched the triggers off.',
$query$
select
  c.account_id::text as subject,
  jsonb_build_object(
    'day', (c.period_start at time zone 'utc')::date, 'model', c.model_id, 'action', c.action,
    'requests', sum(c.request_count), 'tokens', sum(c.prompt_tokens + c.completion_tokens), 'credits', sum(c.credits)
  ) as detail
from (
  select
    u.account_id,
    date_trunc('day', u.created_at at time zone 'utc') at time zone 'utc' as period_start,
    u.user_id,
    u.organization_id,
    u.api_key_id,
    u.provider_key_id,
    u.provider,
    u.model_id,
    u.action,
    u.credential,
    -1 as request_count,
    -(u.status = 'cancelled')::integer as cancelled_count,
    -(u.status in ('failed', 'expired'))::integer as failed_count,
    -u.prompt_tokens as prompt_tokens,
    -u.completion_tokens as completion_tokens,
    -u.cached_tokens as cached_tokens,
    -u.credits as credits,
    -u.credits_refunded as credits_refunded,
    -u.cost_estimate as cost_estimate
  from public.usage_logs as u
  where u.status <> 'started'
  union all
  select
    a.account_id,
    a.period_start,
    a.user_id,
    a.organization_id,
    a.api_key_id,
    a.provider_key_id,
    a.provider,
    a.model_id,
    a.action,
    a.credential,
    a.request_count,
    a.cancelled_count,
    a.failed_count,
    a.prompt_tokens,
    a.completion_tokens,
    a.cached_tokens,
    a.credits,
    a.credits_refunded,
    a.cost_estimate
  from public.api_usage as a
  where private.month_start(a.period_start) in (select private.usage_months())
) as c
group by
  c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider, c.model_id,
  c.action, c.credential
having
  sum(c.request_count) <> 0 or sum(c.cancelled_count) <> 0 or sum(c.failed_count) <> 0 or sum(c.prompt_tokens) <> 0
  or sum(c.completion_tokens) <> 0 or sum(c.cached_tokens) <> 0 or sum(c.credits) <> 0
  or sum(c.credits_refunded) <> 0 or sum(c.cost_estimate) <> 0
$query$),
('203_started_usage_has_an_active_hold', 'A usage row that is started for longer than an hour has a hold that is still in flight.', 'Find out what became of the hold and finish the row as it says; its month is kept as long as it is open.',
$query$
select
  u.id::text as subject,
  jsonb_build_object('created_at', u.created_at, 'action', u.action, 'hold', h.status) as detail
from public.usage_logs as u
left join private.credit_holds as h on h.id = u.id
where u.status = 'started' and u.created_at < now() - interval '1 hour' and h.status is distinct from 'active'
$query$),
('204_usage_partitions_lie_ahead', 'Usage has partitions for this month and the next three; without one, every request of the month would be refused.', 'quernel cron usage_partitions, and see what keeps the job from running.',
$query$
select
  to_char(m.month, 'YYYY-MM') as subject,
  jsonb_build_object('partition', 'private.usage_logs_' || to_char(m.month, 'YYYY_MM')) as detail
from
  generate_series(
    date_trunc('month', now() at time zone 'utc'),
    date_trunc('month', now() at time zone 'utc') + interval '3 months',
    interval '1 month'
  ) as m (month)
where m.month at time zone 'utc' not in (select private.usage_months())
$query$),
('205_conversations_count_their_messages', 'The counters of a conversation are those of its messages, and its head is one of them.', 'set message_count, total_tokens and last_message_at to what is counted, and the head to the newest message.',
$query$
select
  c.id::text as subject,
  jsonb_build_object(
    'message_count', c.message_count, 'messages', coalesce(m.count, 0), 'total_tokens', c.total_tokens,
    'tokens', coalesce(m.tokens, 0), 'last_message_at', c.last_message_at, 'newest', m.newest,
    'head_message_id', c.head_message_id
  ) as detail
from public.conversations as c
left join (
  select g.conversation_id, count(*) as count, sum(g.tokens_used) as tokens, max(g.created_at) as newest
  from public.messages as g
  group by g.conversation_id
) as m on c.id = m.conversation_id
left join public.messages as h on c.head_message_id = h.id
where c.message_count <> coalesce(m.count, 0)
  or c.total_tokens <> coalesce(m.tokens, 0)
  or c.last_message_at is distinct from m.newest
  or h.conversation_id is distinct from case when m.count > 0 then c.id end
$query$),
('206_answers_cost_what_was_charged', 'Every answer in a conversation has its hold and its usage row, at the same price and in the same state.', 'An answer costs what its hold was settled for. Usage older than its retention is gone, and with it the row of an old answer; so an answer counts only from the oldest row on. One that is behind its hold was lost: run `quernel cron reap_holds`.',
$query$
select
  m.id::text as subject,
  jsonb_build_object(
    'message', m.status, 'credits', m.credits, 'hold', h.status, 'settled_amount', h.settled_amount,
    'usage', u.status, 'charged', u.credits
  ) as detail
from public.messages as m
left join private.credit_holds as h on m.hold_id = h.id
left join public.usage_logs as u on u.id = h.id and u.created_at = h.created_at
where m.role = 'assistant'
  and (m.hold_id is not null or m.status <> 'failed')
  and m.created_at >= (select min(o.created_at) from public.usage_logs as o)
  and (
    h.id is null
    or m.credits <> coalesce(h.settled_amount, 0)
    or m.credits <> coalesce(u.credits, -1)
    or (m.status in ('completed', 'cancelled')) <> (h.status = 'settled')
    or (m.status in ('pending', 'streaming') and h.status <> 'active' and h.finished_at < now() - interval '10 minutes')
  )
$query$),
('207_citations_are_of_the_conversations_tenant', 'An answer in an organization''s conversation cites the organization''s documents, one in a person''s that person''s own.', 'Somebody was told of a document that is not theirs. Set citations to ''[]'', and look where private.find_passages is asked for whom. What was deleted since cannot be told from what never was.',
$query$
select
  m.id::text as subject,
  jsonb_build_object(
    'document_id', d.id, 'document', coalesce(d.organization_id, d.user_id),
    'conversation', coalesce(c.organization_id, c.user_id)
  ) as detail
from public.messages as m
inner join public.conversations as c on m.conversation_id = c.id
cross join lateral jsonb_array_elements(m.citations) as e (value)
inner join public.documents as d on d.id = (e.value ->> 'document_id')::uuid
where d.organization_id is distinct from c.organization_id
  or (c.organization_id is null and d.user_id is distinct from c.user_id)
$query$),
('301_running_tasks_have_a_live_worker', 'No task is running an hour after its lease lapsed.', 'The sweep is not running; run `quernel cron sweep_tasks`.',
$query$
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'leased_by', t.leased_by, 'leased_until', t.leased_until) as detail
from private.tasks as t
where t.status = 'running' and t.leased_until < now() - interval '1 hour'
$query$),
('302_due_tasks_are_taken', 'No task waits a day after it was due.', 'No worker runs, or none knows this kind; see `quernel tasks list --status queued` and start one.',
$query$
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'run_after', t.run_after, 'attempts', t.attempts) as detail
from private.tasks as t
where t.status = 'queued' and t.run_after < now() - interval '1 day'
$query$),
('303_work_in_progress_keeps_its_hold', 'The hold of a running task lasts at least as long as its lease, unless it has reached its longest life.', 'A lease was made or renewed without its hold; the reaper may return credits that are being worked for.',
$query$
select
  t.id::text as subject,
  jsonb_build_object(
    'kind', t.kind, 'hold_id', h.id, 'leased_until', t.leased_until, 'deadline', h.deadline
  ) as detail
from private.tasks as t
inner join private.credit_holds as h on t.hold_id = h.id
where t.status = 'running' and t.leased_until >= now()
  and h.status = 'active' and h.deadline < t.leased_until
  and h.deadline < h.created_at + make_interval(secs => private.setting('hold_max_seconds')::integer)
$query$),
('304_given_up_tasks_hold_no_credits', 'A task that died or was cancelled holds no credits.', 'Release the hold with backend.credit_release(); its owner cannot spend those credits meanwhile.',
$query$
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'status', t.status, 'hold_id', h.id, 'amount', h.amount) as detail
from private.tasks as t
inner join private.credit_holds as h on t.hold_id = h.id
where t.status in ('dead', 'cancelled') and h.status = 'active'
$query$),
('305_cron_jobs_run', 'No periodic job is overdue by ten intervals and an hour.', 'Neither a worker nor Modal''s dispatcher runs, or the job fails; see `quernel status`.',
$query$
select
  j.name as subject,
  jsonb_build_object('due_at', j.due_at, 'last_finished_at', j.last_finished_at, 'last_error', j.last_error) as detail
from private.cron_jobs as j
where j.due_at < now() - interval '1 hour' - make_interval(secs => 10 * j.interval_seconds)
$query$),
('401_reversals_are_clawed_back', 'What was refunded or disputed of a purchase is clawed back from its lot, in the same share.', 'Apply the purchase''s last event again (`select backend.stripe_event_retry(id)`), or claw back by hand.',
$query$
select
  p.id::text as subject,
  jsonb_build_object(
    'status', p.status, 'refunded_minor', p.amount_refunded_minor, 'disputed_minor', p.amount_disputed_minor,
    'price_minor', p.price_minor, 'credits', p.credits, 'clawed_back', l.clawed_back, 'expired', l.expired
  ) as detail
from (
  select
    c.*,
    round(
      c.credits * least(c.amount_refunded_minor + c.amount_disputed_minor, c.price_minor) / c.price_minor, 6
    ) as target
  from public.credit_purchases as c
) as p
inner join public.credit_lots as l on l.id = p.lot_id
where l.amount <> p.credits
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between least(p.target, l.amount - l.expired) and p.target
$query$),
('402_stripe_events_are_finished', 'No event of Stripe''s is unfinished an hour after it came.', 'Read last_error; mend its cause; then `select backend.stripe_event_retry(id)`.',
$query$
select
  e.id as subject,
  jsonb_build_object('type', e.type, 'status', e.status, 'attempts', e.attempts, 'last_error', e.last_error) as detail
from private.stripe_events as e
where e.status in ('received', 'failed', 'needs_fetch') and e.received_at < now() - interval '1 hour'
$query$),
('403_paid_invoices_granted_their_credits', 'A paid invoice granted the credits its lines pay for, and what was given back of its payments took its share.', 'Apply the invoice''s last event again (`select backend.stripe_event_retry(id)`).',
$query$
with reversals as (
  select
    p.invoice_id,
    sum(p.amount_refunded_minor + p.amount_disputed_minor) as amount_minor
  from public.payments as p
  where p.invoice_id is not null
  group by p.invoice_id
),

due as (
  select
    i.id,
    i.stripe_invoice_id,
    i.credits,
    i.lot_id,
    round(i.credits * coalesce(least(r.amount_minor, i.amount_paid_minor) / nullif(i.amount_paid_minor, 0), 0), 6)
      as clawed_back
  from public.invoices as i
  left join reversals as r on r.invoice_id = i.id
  where i.status = 'paid' and i.provider = 'stripe' and i.credits > 0
)

select
  d.id::text as subject,
  jsonb_build_object(
    'invoice', d.stripe_invoice_id, 'credits', d.credits, 'granted', l.amount, 'clawed_back', l.clawed_back,
    'expired', l.expired, 'due', d.clawed_back
  ) as detail
from due as d
left join public.credit_lots as l on l.id = d.lot_id
where l.id is null
  or l.amount <> d.credits
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between least(d.clawed_back, l.amount - l.expired) and d.clawed_back
$query$),
('404_plans_are_paid_for', 'Nobody has a plan for longer than one of their subscriptions gives it.', '`select private.apply_entitlement(user_id, null)`, or (null, organization_id).',
$query$
with owners as (
  select p.id as user_id, null::uuid as organization_id, p.plan_id, p.plan_expires_at from public.profiles as p
  union all
  select null, o.id, o.plan_id, o.plan_expires_at from public.organizations as o
)

select
  coalesce(w.user_id, w.organization_id)::text as subject,
  jsonb_build_object('plan_id', w.plan_id, 'plan_expires_at', w.plan_expires_at) as detail
from owners as w
where w.plan_id is not null and w.plan_expires_at > now()
  and not exists (
    select
    from public.subscriptions as s
    cross join lateral private.subscription_entitlements(s) as e
    where (s.user_id = w.user_id or s.organization_id = w.organization_id)
      and e.plan_id = w.plan_id and e.until >= w.plan_expires_at
  )
$query$),
('405_recorded_payments_match_their_lots', 'A payment that an operator recorded has the lot it paid for, less the share that was given back.', 'Record the refund again with its total (`backend.payment_refund_record`), or claw back by hand.',
$query$
select
  p.id::text as subject,
  jsonb_build_object(
    'provider', p.provider, 'amount_minor', p.amount_minor, 'refunded_minor', p.amount_refunded_minor,
    'paid_for_lot', l.paid_minor, 'credits', l.amount, 'clawed_back', l.clawed_back, 'expired', l.expired
  ) as detail
from (
  select
    r.*,
    r.amount_refunded_minor::numeric / r.amount_minor as share
  from public.payments as r
) as p
inner join public.credit_lots as l on l.id = p.lot_id
where (l.account_id, l.paid_minor, l.currency) is distinct from (p.account_id, p.amount_minor, p.currency)
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between
  least(round(l.amount * p.share, 6), l.amount - l.expired) and round(l.amount * p.share, 6)
$query$),
('406_automatic_top_ups_keep_their_threshold', 'An account asks for a top-up under the threshold of its automatic top-up, where that is on, and never otherwise.', 'Write the threshold again (`update public.auto_top_ups set threshold = threshold`): a trigger copies it.',
$query$
select
  a.id::text as subject,
  jsonb_build_object('top_up_below', a.top_up_below, 'threshold', t.threshold, 'is_enabled', t.is_enabled) as detail
from public.credit_accounts as a
left join public.auto_top_ups as t on t.account_id = a.id
where a.top_up_below is distinct from case when t.is_enabled then t.threshold end
$query$),
('407_thresholds_lie_ahead', 'No account has reached a threshold of use that its owner was not told of.', 'Telling failed: the log says why ("the use of account … was not told"). The next request tries again.',
$query$
select
  a.id::text as subject,
  jsonb_build_object(
    'period_tokens', a.period_tokens, 'next_tokens_threshold', a.next_tokens_threshold,
    'period_requests', a.period_requests, 'next_requests_threshold', a.next_requests_threshold,
    'period_credits', a.period_credits, 'next_credits_threshold', a.next_credits_threshold
  ) as detail
from public.credit_accounts as a
where num_nonnulls(a.user_id, a.organization_id) = 1
  and (
    a.period_tokens >= a.next_tokens_threshold
    or a.period_requests >= a.next_requests_threshold
    or a.period_credits >= a.next_credits_threshold
  )
$query$),
('408_recorded_invoices_match_their_payments', 'A recorded invoice was paid exactly what the payments recorded for it say, and is paid with the last of them.', 'Look into private.operator_actions for what was recorded, and write the amounts of the invoice anew.',
$query$
select
  i.id::text as subject,
  jsonb_build_object(
    'number', i.number, 'status', i.status, 'due_minor', i.amount_due_minor, 'paid_minor', i.amount_paid_minor,
    'remaining_minor', i.amount_remaining_minor, 'payments_minor', coalesce(p.amount_minor, 0)
  ) as detail
from public.invoices as i
left join (
  select
    r.invoice_id,
    sum(r.amount_minor) as amount_minor
  from public.payments as r
  where r.invoice_id is not null
  group by r.invoice_id
) as p on p.invoice_id = i.id
where i.provider <> 'stripe'
  and (
    i.amount_paid_minor <> coalesce(p.amount_minor, 0)
    or i.amount_paid_minor + i.amount_remaining_minor <> i.amount_due_minor
    or (i.status = 'paid') <> (i.amount_remaining_minor = 0)
  )
$query$),
('501_queued_messages_have_a_task', 'An email or event that waits has a task that will send it.', 'The sweep gives it up; run `quernel cron notifications`. If it comes back, tasks are deleted while they wait.',
$query$
with waiting as (
  select d.id, 'email' as kind, d.created_at, d.attempts
  from private.email_deliveries as d
  where d.status = 'queued'
  union all
  select d.id, 'webhook' as kind, d.created_at, d.attempts
  from public.webhook_deliveries as d
  where d.status = 'queued'
)

select
  w.id::text as subject,
  jsonb_build_object('kind', w.kind, 'created_at', w.created_at, 'attempts', w.attempts) as detail
from waiting as w
where w.created_at < now() - interval '1 day'
  and not exists (
    select from private.tasks as t
    where t.kind = w.kind and t.key = w.id::text and t.status in ('queued', 'running')
  )
$query$),
('601_provider_keys_have_their_secret', 'Every provider key has its sealed secret.', 'Nobody can use such a key. Delete it, and ask its owner to bring it again.',
$query$
select
  k.id::text as subject,
  jsonb_build_object('user_id', k.user_id, 'organization_id', k.organization_id, 'created_at', k.created_at) as detail
from public.provider_keys as k
where not exists (
    select from private.provider_key_secrets as s where s.provider_key_id = k.id
  )
$query$),
('602_own_keys_cost_their_fee', 'What an own key paid for cost no more credits than the catalog''s price, and names the key.', 'Look at the hold of that id; give back with private.credit_refund what was charged too much.',
$query$
select
  u.id::text as subject,
  jsonb_build_object(
    'credits', u.credits, 'cost_estimate', u.cost_estimate, 'provider_key_id', u.provider_key_id
  ) as detail
from public.usage_logs as u
where u.credential = 'own' and u.status in ('completed', 'cancelled')
  and (u.credits > u.cost_estimate or u.provider_key_id is null)
$query$),
('701_images_have_their_files', 'Every image''s object and thumbnail are in Storage.', 'The bytes are lost: delete the image, and refund what it cost with private.credit_refund.',
$query$
select
  i.id::text as subject,
  jsonb_build_object('path', f.path) as detail
from public.generated_images as i
cross join unnest(array_remove(array[i.storage_path, i.thumbnail_path], null)) as f (path)
where not exists (select from storage.objects as o where o.bucket_id = 'images' and o.name = f.path)
$query$),
('702_files_have_their_image', 'Every object of the bucket "images" belongs to an image, waits to be deleted, or is one that a client put in.', 'Nobody can reach the object any more, and it costs storage: delete it through the Storage API.',
$query$
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'images'
  and (storage.foldername(o.name))[2] <> 'inputs'
  -- A worker stores what it has made before it says so.
  and o.created_at < now() - interval '1 hour'
  and not exists (
    select from public.generated_images as i where i.storage_path = o.name or i.thumbnail_path = o.name
  )
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'image_files_delete' and t.status in ('queued', 'running') and t.payload -> 'paths' ? o.name
  )
$query$),
('703_generations_in_progress_have_their_task', 'A generation that has not ended has a task that will end it, and a hold; one that has ended holds nothing.', 'End it with private.expire_generation(), or release the hold with backend.credit_release().',
$query$
select
  g.id::text as subject,
  jsonb_build_object('status', g.status, 'task', t.status, 'hold', h.status) as detail
from public.image_generations as g
left join private.tasks as t on t.id = g.task_id
left join private.credit_holds as h on h.id = g.hold_id
where (
  g.status in ('pending', 'processing') and g.deadline < now() - interval '10 minutes'
)
or (g.status in ('pending', 'processing') and coalesce(t.status, 'gone') not in ('queued', 'running'))
or (g.status in ('completed', 'failed', 'cancelled') and h.status = 'active')
$query$),
('704_generations_cost_what_was_charged', 'A generation says that it cost what its hold was settled for, and a completed one has an image or had one.', 'Set credits_charged from the hold; the ledger is right.',
$query$
select
  g.id::text as subject,
  jsonb_build_object('status', g.status, 'credits_charged', g.credits_charged, 'settled', h.settled_amount) as detail
from public.image_generations as g
inner join private.credit_holds as h on h.id = g.hold_id
where g.status in ('completed', 'failed', 'cancelled') and g.credits_charged <> coalesce(h.settled_amount, 0)
$query$),
('801_versions_count_their_chunks', 'The totals of a version are the sums of the chunks that its readers see.', 'select private.count_version(id), then private.count_library() of its library. A crawl that goes on has looked at some of them again.',
$query$
with seen as (
  select
    v.id,
    count(c.id) as chunks,
    count(c.id) filter (where c.content_type = 'snippet') as snippets,
    coalesce(sum(c.token_count), 0) as tokens
  from public.library_versions as v
  left join public.documentation_chunks as c on c.library_version_id = v.id and c.added_in <= v.crawl
  group by v.id
)

select
  v.id::text as subject,
  jsonb_build_object('version', v.total_chunks, 'chunks', s.chunks, 'library_id', v.library_id) as detail
from public.library_versions as v
inner join seen as s on s.id = v.id
where v.next_crawl is null
  and (v.total_chunks, v.total_snippets, v.total_tokens) <> (s.chunks, s.snippets, s.tokens)
$query$),
('802_libraries_count_their_versions', 'The totals of a library are the sums of its versions, and its default version is the latest.', 'select private.count_library(id).',
$query$
with sums as (
  select
    l.id,
    count(v.id) as versions,
    coalesce(sum(v.total_chunks), 0) as chunks,
    coalesce(sum(v.total_snippets), 0) as snippets,
    coalesce(sum(v.total_tokens), 0) as tokens,
    max(v.version) filter (where v.is_latest) as latest
  from public.libraries as l
  left join public.library_versions as v on v.library_id = l.id and v.crawl > 0
  group by l.id
)

select
  l.id as subject,
  jsonb_build_object('library', l.total_chunks, 'versions', s.chunks, 'default_version', l.default_version) as detail
from public.libraries as l
inner join sums as s on s.id = l.id
where (l.total_versions, l.total_chunks, l.total_snippets, l.total_tokens)
  <> (s.versions, s.chunks, s.snippets, s.tokens)
  or l.default_version is distinct from s.latest
$query$),
('803_libraries_have_one_latest_version', 'Of the versions of a library that can be searched, exactly one is the latest.', 'update public.library_versions set is_latest = true for the newest of them, then private.count_library().',
$query$
select
  v.library_id as subject,
  jsonb_build_object('latest', count(*) filter (where v.is_latest), 'versions', count(*)) as detail
from public.library_versions as v
where v.crawl > 0
group by v.library_id
having count(*) filter (where v.is_latest) <> 1
$query$),
('804_library_ids_keep_to_their_owner', 'The id of a private library begins with its organization''s slug, and that of a public one with no organization''s.', 'Somebody wrote past the trigger. Move what is private to an id of its organization; rename what is public.',
$query$
select
  l.id as subject,
  jsonb_build_object('organization_id', l.organization_id, 'slug_of', o.id) as detail
from public.libraries as l
left join public.organizations as o on o.slug = l.vendor
where l.organization_id is distinct from o.id
$query$),
('805_documentation_is_its_librarys', 'Versions and chunks belong to whom their library belongs: what a policy reads of each row is true.', 'At once: update organization_id and library_id from the library; a private text may be public.',
$query$
select
  v.id::text as subject,
  jsonb_build_object('library_id', l.id, 'version', v.organization_id, 'library', l.organization_id) as detail
from public.library_versions as v
inner join public.libraries as l on l.id = v.library_id
where v.organization_id is distinct from l.organization_id
union all
select
  c.id::text as subject,
  jsonb_build_object('library_id', c.library_id, 'chunk', c.organization_id, 'version', v.organization_id) as detail
from public.documentation_chunks as c
inner join public.library_versions as v on v.id = c.library_version_id
where c.organization_id is distinct from v.organization_id or c.library_id <> v.library_id
$query$),
('806_vectors_are_of_a_model_in_use', 'Every vector of documentation is of the model that its version is searched with, or of the one that comes next.', 'delete it from private.documentation_embeddings: nothing asks for it, and every search goes around it.',
$query$
select
  e.chunk_id::text as subject,
  jsonb_build_object('model', e.model, 'version', v.id, 'embedding_model', v.embedding_model) as detail
from private.documentation_embeddings as e
left join public.library_versions as v on v.id = e.library_version_id
where coalesce(e.model <> v.embedding_model, true) and coalesce(e.model <> v.next_embedding_model, true)
$query$),
('807_crawls_come_to_an_end', 'No crawl goes on for a day.', 'Look for its task; end it with backend.library_version_fail(), and crawl the library again.',
$query$
select
  v.id::text as subject,
  jsonb_build_object('library_id', v.library_id, 'state', v.state, 'progress', v.progress) as detail
from public.library_versions as v
where v.next_crawl is not null and v.updated_at < now() - interval '1 day'
$query$),
('808_snapshots_have_their_version', 'Every object of the bucket "libraries" is the snapshot of a version or the archive of a library, or is to be deleted.', 'Nobody can reach the object any more, and it costs storage: delete it through the Storage API.',
$query$
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'libraries'
  -- It is stored before its crawl is finished.
  and o.created_at < now() - interval '1 day'
  and not exists (select from public.library_versions as v where v.snapshot_path = o.name)
  and not exists (
    select from public.libraries as l where l.source_kind in ('archive', 'folder') and l.source_url = o.name
  )
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'files_delete' and t.status in ('queued', 'running') and t.payload ->> 'bucket' = 'libraries'
      and t.payload -> 'paths' ? o.name
  )
$query$),
('809_libraries_were_within_their_plan', 'No organization has more private libraries than its plan allows, unless the plan became smaller after the last.', 'Somebody wrote past the trigger, or the plan''s max_libraries was lowered: raise it, or ask the owner.',
$query$
select
  l.organization_id::text as subject,
  jsonb_build_object('libraries', count(*), 'limit', private.plan_limit(null, l.organization_id, 'max_libraries'))
    as detail
from public.libraries as l
inner join public.organizations as o on o.id = l.organization_id
group by l.organization_id, o.plan_started_at
having count(*) > private.plan_limit(null, l.organization_id, 'max_libraries')
  and max(l.created_at) > coalesce(o.plan_started_at, '-infinity')
$query$),
('811_documents_count_their_chunks', 'A document that is ready counts its chunks and their tokens, and they belong to whom it belongs.', 'Have it indexed again with backend.document_uploaded(). Where organization_id or user_id differ, at once.',
$query$
with sums as (
  select
    d.id,
    count(c.id) as chunks,
    coalesce(sum(c.token_count), 0) as tokens,
    count(c.id) filter (
      where c.organization_id is distinct from d.organization_id
      or (d.organization_id is null and c.user_id is distinct from d.user_id)
    ) as strays
  from public.documents as d
  left join public.document_chunks as c on c.document_id = d.id
  group by d.id
)

select
  d.id::text as subject,
  jsonb_build_object('document', d.chunk_count, 'chunks', s.chunks, 'strays', s.strays) as detail
from public.documents as d
inner join sums as s on s.id = d.id
where s.strays > 0
  or (d.state = 'ready' and (d.chunk_count, d.token_count) <> (s.chunks, s.tokens))
$query$),
('812_documents_have_their_file', 'The file of every document that was uploaded is in Storage.', 'The bytes are lost: the document can be searched as it is, and not be indexed again. Tell its owner.',
$query$
select
  d.id::text as subject,
  jsonb_build_object('path', d.storage_path, 'state', d.state) as detail
from public.documents as d
where d.state <> 'uploading'
  -- Nobody should have these files: they were deleted.
  and d.error_code is distinct from 'infected' and d.error_code is distinct from 'document_refused'
  and not exists (select from storage.objects as o where o.bucket_id = 'documents' and o.name = d.storage_path)
$query$),
('813_files_have_their_document', 'Every object of the bucket "documents" belongs to a document, or waits to be deleted.', 'Nobody can reach the object any more, and it costs storage: delete it through the Storage API.',
$query$
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'documents'
  and not exists (select from public.documents as d where d.storage_path = o.name)
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'files_delete' and t.status in ('queued', 'running') and t.payload ->> 'bucket' = 'documents'
      and t.payload -> 'paths' ? o.name
  )
$query$),
('814_documents_in_progress_have_their_task', 'A document that is to be indexed has a task that will do it.', 'Have it indexed again with backend.document_uploaded(), or end it with backend.document_fail().',
$query$
select
  d.id::text as subject,
  jsonb_build_object('state', d.state, 'updated_at', d.updated_at) as detail
from public.documents as d
where d.state in ('queued', 'indexing')
  and d.updated_at < now() - interval '10 minutes'
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'document_index' and t.key = d.id::text and t.status in ('queued', 'running')
  )
$query$),
('815_documents_were_within_their_plan', 'Nobody has more documents than their plan allows, unless the plan became smaller after the last was added.', 'Somebody wrote past the trigger, or the plan''s max_documents was lowered: raise it, or ask the owner.',
$query$
select
  coalesce(d.organization_id, d.user_id)::text as subject,
  jsonb_build_object('documents', count(*), 'limit', private.plan_limit(d.user_id, d.organization_id, 'max_documents'))
    as detail
from (
  select
    o.organization_id,
    o.created_at,
    case when o.organization_id is null then o.user_id end as user_id
  from public.documents as o
) as d
left join public.profiles as p on p.id = d.user_id
left join public.organizations as g on g.id = d.organization_id
group by d.user_id, d.organization_id, p.plan_started_at, g.plan_started_at
having count(*) > private.plan_limit(d.user_id, d.organization_id, 'max_documents')
  and max(d.created_at) > coalesce(p.plan_started_at, g.plan_started_at, '-infinity')
$query$),
('901_erasures_come_to_an_end', 'A person whose grace period is over is erased within a day, and none is half erased for longer than three.', 'backend.erasures_due(); where its task is dead, read why (private.tasks, kind person_erase), mend that and have the task run again.',
$query$
select
  e.id::text as subject,
  jsonb_build_object(
    'state', e.state, 'due_at', e.due_at, 'started_at', e.started_at, 'task', (
      select jsonb_build_object('status', t.status, 'last_error', t.last_error)
      from private.tasks as t
      where t.kind = 'person_erase' and t.key = e.id::text
      order by t.created_at desc
      limit 1
    )
  ) as detail
from private.erasures as e
where (e.state = 'requested' and e.due_at < now() - interval '1 day')
  or (e.state = 'executing' and e.started_at < now() - interval '3 days')
$query$);
