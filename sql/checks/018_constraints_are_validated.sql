-- Every constraint holds for the rows that were there before it.
-- Mend: alter table … validate constraint …
select
  format('%s: %s', k.conrelid::regclass, k.conname) as subject,
  jsonb_build_object('definition', pg_get_constraintdef(k.oid)) as detail
from pg_constraint as k
where k.connamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and not k.convalidated;
