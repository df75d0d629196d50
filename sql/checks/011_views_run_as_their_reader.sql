-- A view in public runs with its reader's rights; materialized views know no row level security, so they are private.
-- Mend: create view … with (security_invoker = true); move a materialized view to private, behind a function.
select
  c.oid::regclass::text as subject,
  jsonb_build_object('kind', c.relkind, 'options', c.reloptions) as detail
from pg_class as c
where c.relnamespace = 'public'::regnamespace
  and (
    c.relkind in ('m', 'f')
    or (c.relkind = 'v' and not (coalesce(c.reloptions, '{}') && '{security_invoker=true,security_invoker=on}'))
  );
