-- Signed-in users insert and update columns that are granted by name, so that a column added later starts read-only;
-- visitors and the service role write nothing at all.
-- Mend: revoke the grant on the table; grant insert (…) and update (…) on the columns that are the client's to set.
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
  );
