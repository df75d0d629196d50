-- A policy asks who the caller is once per statement, not once per row.
-- Mend: write (select private.active_user_id()), and membership as `in (select private.my_organization_ids())`.
select
  format('%s: %s', p.polrelid::regclass, p.polname) as subject,
  jsonb_build_object('expression', e) as detail
from pg_policy as p
inner join pg_class as c on p.polrelid = c.oid
cross join lateral concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) as e
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and regexp_replace(e, 'SELECT (auth|private)\.\w+\(', '', 'g') ~ '(auth|private)\.\w+\(';
