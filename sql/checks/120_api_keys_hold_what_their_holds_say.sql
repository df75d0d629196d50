-- What an API key has on hold is the sum of its active holds, in credits and number.
-- Mend: Run `quernel cron reap_holds`; if it stays, set the state's numbers to those of the holds.
select
  s.api_key_id::text as subject,
  jsonb_build_object(
    'held', s.held, 'holds', coalesce(h.amount, 0), 'active_holds', s.active_holds, 'count', coalesce(h.count, 0)
  ) as detail
from private.api_key_states as s
left join (
  select hold.api_key_id, sum(hold.amount) as amount, count(*) as count
  from private.credit_holds as hold
  where hold.status = 'active' and hold.api_key_id is not null
  group by hold.api_key_id
) as h on h.api_key_id = s.api_key_id
where s.held <> coalesce(h.amount, 0) or s.active_holds <> coalesce(h.count, 0);
