-- What a lot says expired of it is what expiry transactions took from it.
-- Mend: A lot was changed past the ledger; a clawback of it may have taken too much or too little.
select
  l.id::text as subject,
  jsonb_build_object('expired', l.expired, 'transactions', coalesce(t.amount, 0)) as detail
from public.credit_lots as l
left join (
  select u.lot_id, -sum(u.change) as amount
  from public.credit_transactions as e
  cross join lateral unnest(e.lot_ids, e.lot_amounts) as u (lot_id, change)
  where e.operation = 'expire'
  group by u.lot_id
) as t on t.lot_id = l.id
where l.expired <> coalesce(t.amount, 0);
