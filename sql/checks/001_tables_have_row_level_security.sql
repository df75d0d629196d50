-- Every table has row level security, so that a grant alone opens nothing.
-- Mend: alter table … enable row level security, and write the policies it needs.
select
  c.oid::regclass::text as subject,
  jsonb_build_object('owner', c.relowner::regrole) as detail
from pg_class as c
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p')
  and not c.relrowsecurity;
