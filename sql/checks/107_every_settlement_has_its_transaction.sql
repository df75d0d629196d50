-- A settled hold has exactly one transaction of its amount (none when it cost nothing), and no other hold has one.
-- Mend: A request was charged twice or not at all; refund or charge it by hand.
select
  coalesce(h.id, t.reference_id)::text as subject,
  jsonb_build_object(
    'status', h.status, 'settled_amount', h.settled_amount, 'charged', t.charged, 'count', t.count
  ) as detail
from (
  select hold.id, hold.status, hold.settled_amount
  from private.credit_holds as hold
) as h
full join (
  select e.reference_id, -sum(e.amount) as charged, count(*) as count
  from public.credit_transactions as e
  where e.operation = 'settle'
  group by e.reference_id
) as t on t.reference_id = h.id
where coalesce(h.settled_amount, 0) <> coalesce(t.charged, 0)
  or t.count > 1
  or (t.count > 0 and h.status is distinct from 'settled');
