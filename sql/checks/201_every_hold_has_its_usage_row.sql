-- A hold and its usage row are started together and finished together, at the same price, less the same refunds.
-- Mend: A request reached a model without a trace, or a trace was left open. Usage older than its retention is gone,
-- and with it the row of an old hold; so a hold counts only where its month has a partition.
select
  h.id::text as subject,
  jsonb_build_object(
    'hold', h.status, 'usage', u.status, 'settled_amount', h.settled_amount, 'credits', u.credits
  ) as detail
from private.credit_holds as h
left join public.usage_logs as u on u.id = h.id and u.created_at = h.created_at
where (u.id is null and private.month_start(h.created_at) in (select private.usage_months()))
  or (h.status = 'active') <> (u.status = 'started')
  or coalesce(h.settled_amount, 0) <> u.credits
  or h.refunded_amount <> u.credits_refunded
  or (h.status = 'settled') <> (u.status in ('completed', 'cancelled'));
