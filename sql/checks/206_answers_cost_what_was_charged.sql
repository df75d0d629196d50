-- Every answer in a conversation has its hold and its usage row, at the same price and in the same state.
-- Mend: An answer costs what its hold was settled for. Usage older than its retention is gone, and with it the row of
-- an old answer; so an answer counts only from the oldest row on. One that is behind its hold was lost: run
-- `quernel cron reap_holds`.
select
  m.id::text as subject,
  jsonb_build_object(
    'message', m.status, 'credits', m.credits, 'hold', h.status, 'settled_amount', h.settled_amount,
    'usage', u.status, 'charged', u.credits
  ) as detail
from public.messages as m
left join private.credit_holds as h on m.hold_id = h.id
left join public.usage_logs as u on u.id = h.id and u.created_at = h.created_at
where m.role = 'assistant'
  and (m.hold_id is not null or m.status <> 'failed')
  and m.created_at >= (select min(o.created_at) from public.usage_logs as o)
  and (
    h.id is null
    or m.credits <> coalesce(h.settled_amount, 0)
    or m.credits <> coalesce(u.credits, -1)
    or (m.status in ('completed', 'cancelled')) <> (h.status = 'settled')
    or (m.status in ('pending', 'streaming') and h.status <> 'active' and h.finished_at < now() - interval '10 minutes')
  );
