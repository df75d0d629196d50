-- Every function has a comment.
-- Mend: comment on function …
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('owner', p.proowner::regrole) as detail
from pg_proc as p
where p.pronamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and obj_description(p.oid, 'pg_proc') is null;
