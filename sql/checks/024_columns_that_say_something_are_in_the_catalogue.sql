-- In a table with rows of people, every column that can hold words, addresses or vectors made of them, and every one
-- that points to a person, is said to be personal or not to be; and the catalogue names no column that does not exist.
-- Mend: a row in private.personal_data, in the chapter of the table.
select
  format('%s.%I', a.attrelid::regclass, a.attname) as subject,
  jsonb_build_object('type', format_type(a.atttypid, a.atttypmod)) as detail
from private.personal_tables as p
inner join pg_attribute as a on a.attrelid = to_regclass(format('%I.%I', p.table_schema, p.table_name))
inner join pg_type as t on a.atttypid = t.oid
-- That of an array is looked at instead of the array.
inner join pg_type as e on e.oid = case when t.typcategory = 'A' then t.typelem else t.oid end
where p.rows_of is not null
  and a.attnum > 0
  and not a.attisdropped
  and (
    e.typname in (
      'text', 'varchar', 'bpchar', 'json', 'jsonb', 'xml', 'inet', 'cidr', 'bytea', 'tsvector', 'vector', 'halfvec',
      'sparsevec'
    )
    or exists (
      select from pg_constraint as f
      where f.conrelid = a.attrelid and f.contype = 'f' and a.attnum = any(f.conkey)
        and f.confrelid in ('auth.users'::regclass, 'public.profiles'::regclass)
    )
  )
  and not exists (
    select from private.personal_data as d
    where d.table_schema = p.table_schema and d.table_name = p.table_name and d.column_name = a.attname
  )
union all
select
  format('%I.%I.%I', d.table_schema, d.table_name, d.column_name) as subject,
  jsonb_build_object('missing_in', 'the database') as detail
from private.personal_data as d
left join pg_attribute as a
  on a.attrelid = to_regclass(format('%I.%I', d.table_schema, d.table_name))
    and d.column_name = a.attname and a.attnum > 0 and not a.attisdropped
where a.attname is null;
