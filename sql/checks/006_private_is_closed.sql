-- Nobody but its owner touches anything in private; signed-in users execute what check 007 lists.
-- Mend: revoke the grant. What clients may read is in public, behind a policy, or answered by a function.
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
  and a.grantee not in (p.proowner, 'authenticated'::regrole);
