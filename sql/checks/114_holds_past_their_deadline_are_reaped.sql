-- No hold is active an hour after its deadline.
-- Mend: The reaper is not running; run `quernel cron reap_holds`.
select
  h.id::text as subject,
  jsonb_build_object('deadline', h.deadline, 'amount', h.amount) as detail
from private.credit_holds as h
where h.status = 'active' and h.deadline < now() - interval '1 hour';
