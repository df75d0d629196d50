-- Every function pins an empty search_path, so that no caller decides what its names mean.
-- Mend: create the function with `set search_path = ''` and qualify the names in it.
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('settings', p.proconfig) as detail
from pg_proc as p
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and 'search_path=""' <> all(coalesce(p.proconfig, '{}'))
  and not exists (
    select from pg_depend as d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  );
