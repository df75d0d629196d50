-- Every table of ours says whose its rows are, and the catalogue of personal data names no table that does not exist.
-- Mend: a row in private.personal_tables, in the chapter of the table: how a person's rows are found, and what erasure
-- does to them.
select
  c.oid::regclass::text as subject,
  jsonb_build_object('missing_in', 'private.personal_tables') as detail
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where n.nspname in ('public', 'private')
  and c.relkind in ('r', 'p', 'm', 'f')
  and not c.relispartition
  and not exists (
    select from private.personal_tables as p where p.table_schema = n.nspname and p.table_name = c.relname
  )
union all
select
  format('%I.%I', p.table_schema, p.table_name) as subject,
  jsonb_build_object('missing_in', 'the database') as detail
from private.personal_tables as p
where to_regclass(format('%I.%I', p.table_schema, p.table_name)) is null;
