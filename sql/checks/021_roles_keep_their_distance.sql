-- The roles of the API are nobody's superiors: members of no other role, and only service_role passes row security.
-- The direct transport's role is a service_role and nothing else.
-- Mend: revoke … from …; alter role … nosuperuser nobypassrls.
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
  and o.rolsuper;
