-- Only the owner makes objects in our schemas, and nobody else makes temporary ones: a function's caller could shadow
-- types with those, whatever search_path it pins. Only service_role enters backend, and only authenticated private.
-- Mend: revoke create on schema … from …; revoke temporary on database … from public.
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
  and has_database_privilege(r.rolname, d.oid, p.privilege);
