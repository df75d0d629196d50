-- A usage row that is started for longer than an hour has a hold that is still in flight.
-- Mend: Find out what became of the hold and finish the row as it says; its month is kept as long as it is open.
select
  u.id::text as subject,
  jsonb_build_object('created_at', u.created_at, 'action', u.action, 'hold', h.status) as detail
from public.usage_logs as u
left join private.credit_holds as h on h.id = u.id
where u.status = 'started' and u.created_at < now() - interval '1 hour' and h.status is distinct from 'active';
