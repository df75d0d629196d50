-- The lots of an account cover what it has on hold.
-- Mend: A hold was placed on credits that were not there, or they were taken from under it.
select
  a.id::text as subject,
  jsonb_build_object('held', a.held, 'lots', coalesce(sum(l.remaining), 0)) as detail
from public.credit_accounts as a
left join public.credit_lots as l on l.account_id = a.id
group by a.id, a.held
having coalesce(sum(l.remaining), 0) < a.held;
