-- A policy says to which roles it applies: one for everybody also decides for roles nobody thought of.
-- Mend: create policy … to authenticated.
select
  format('%s: %s', p.polrelid::regclass, p.polname) as subject,
  jsonb_build_object('command', p.polcmd) as detail
from pg_policy as p
inner join pg_class as c on p.polrelid = c.oid
where c.relnamespace in ('public'::regnamespace, 'backend'::regnamespace, 'private'::regnamespace)
  and 0 = any(p.polroles);
