-- Nobody who was granted something may grant it to others.
-- Mend: revoke grant option for … from …
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
  and g.is_grantable;
