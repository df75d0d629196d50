-- Nothing but what is on hold is left of a lot an hour after it expired.
-- Mend: The expiry job is not running; run `quernel cron expire_lots`.
select
  a.id::text as subject,
  jsonb_build_object('expired', sum(l.remaining), 'held', a.held) as detail
from public.credit_accounts as a
inner join public.credit_lots as l on l.account_id = a.id and l.used_at is null
where l.expires_at < now() - interval '1 hour'
group by a.id, a.held
having sum(l.remaining) > a.held;
