-- Nobody executes a function without having signed in.
-- Mend: revoke execute on function … from public, anon; grant it to authenticated by name.
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
  );
