-- What a hold says was refunded is what refund transactions gave back for it.
-- Mend: A refund was recorded past the ledger.
select
  coalesce(h.id, t.reference_id)::text as subject,
  jsonb_build_object('refunded_amount', h.refunded_amount, 'transactions', coalesce(t.amount, 0)) as detail
from (
  select hold.id, hold.refunded_amount
  from private.credit_holds as hold
) as h
full join (
  select e.reference_id, sum(e.amount) as amount
  from public.credit_transactions as e
  where e.operation = 'refund'
  group by e.reference_id
) as t on t.reference_id = h.id
where coalesce(h.refunded_amount, 0) <> coalesce(t.amount, 0);
