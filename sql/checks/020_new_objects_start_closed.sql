-- Functions and tables that the migrations make later are closed until a grant opens them.
-- Mend: alter default privileges revoke execute on functions from public, and the rest of the foundation's.
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
  and a.grantee in (0, 'anon'::regrole, 'authenticated'::regrole, 'service_role'::regrole);
