-- The backend schema holds functions and nothing else, and only service_role executes them.
-- Mend: revoke execute on function … from everybody else; keep tables and views in public or private.
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
where c.relnamespace = 'backend'::regnamespace;
