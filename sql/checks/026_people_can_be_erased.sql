-- No foreign key keeps a person from being erased; what goes with its row is in a table whose rows go; and rows that go
-- with what they belong to have a foreign key that takes them along.
-- Mend: on delete cascade or set null; or another erasure in private.personal_tables or private.personal_data.
select
  f.conrelid::regclass::text as subject,
  jsonb_build_object('foreign_key', f.conname) as detail
from pg_constraint as f
where f.contype = 'f'
  and f.confdeltype not in ('c', 'n')
  and f.confrelid in ('auth.users'::regclass, 'public.profiles'::regclass)
union all
select
  format('%I.%I.%I', d.table_schema, d.table_name, d.column_name) as subject,
  jsonb_build_object('rows', p.erasure, 'column', d.erasure) as detail
from private.personal_data as d
inner join private.personal_tables as p on d.table_schema = p.table_schema and d.table_name = p.table_name
where (d.erasure = 'row' and p.erasure <> 'delete')
  or (d.erasure = 'keep' and p.erasure = 'delete')
  or (d.erasure = 'null' and p.erasure = 'keep')
union all
select
  format('%I.%I', p.table_schema, p.table_name) as subject,
  jsonb_build_object('erased_by', p.erased_by) as detail
from private.personal_tables as p
where p.erasure = 'delete'
  and p.erased_by = 'cascade'
  and not exists (
    select from pg_constraint as f
    where f.contype = 'f'
      and f.confdeltype = 'c'
      and f.conrelid = to_regclass(format('%I.%I', p.table_schema, p.table_name))
  );
