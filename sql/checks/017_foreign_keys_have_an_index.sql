-- Every foreign key has an index on the referring side: without one, each delete on the other side reads the table.
-- Mend: create index on … (the key's columns first), whole or where they are not null.
select
  format('%s: %s', k.conrelid::regclass, k.conname) as subject,
  jsonb_build_object('references', k.confrelid::regclass) as detail
from pg_constraint as k
inner join pg_class as c on k.conrelid = c.oid
where k.contype = 'f'
  -- A partition's keys are its parent's.
  and k.conparentid = 0
  and c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and not exists (
    select
    from pg_index as i
    where i.indrelid = k.conrelid
      and i.indisvalid
      -- The index begins with the key's columns, in any order.
      and k.conkey <@ array(select i.indkey[n] from generate_series(0, cardinality(k.conkey) - 1) as n)
      and (
        i.indpred is null
        or pg_get_expr(i.indpred, i.indrelid) in (
          select format('(%I IS NOT NULL)', a.attname)
          from pg_attribute as a
          where a.attrelid = k.conrelid and a.attnum = any(k.conkey)
        )
      )
  );
