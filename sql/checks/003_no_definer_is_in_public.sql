-- What clients call runs with their own rights: no function in public is a security definer.
-- Mend: move the body to private, and leave an invoker's wrapper in public.
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('owner', p.proowner::regrole) as detail
from pg_proc as p
where p.pronamespace = 'public'::regnamespace
  and p.prosecdef;
