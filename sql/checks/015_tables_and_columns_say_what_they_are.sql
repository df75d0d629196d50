-- Every table, view and column has a comment.
-- Mend: comment on table …, comment on column …
select
  c.oid::regclass::text as subject,
  jsonb_build_object('kind', c.relkind) as detail
from pg_class as c
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
  and obj_description(c.oid, 'pg_class') is null
union all
select
  format('%s.%I', c.oid::regclass, a.attname) as subject,
  jsonb_build_object('type', format_type(a.atttypid, a.atttypmod)) as detail
from pg_class as c
inner join pg_attribute as a on c.oid = a.attrelid
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
  -- A partition's columns are its parent's.
  and not c.relispartition
  and a.attnum > 0
  and not a.attisdropped
  and col_description(c.oid, a.attnum) is null;
