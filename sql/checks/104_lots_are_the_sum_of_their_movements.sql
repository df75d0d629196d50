-- What is left of a lot is the sum of what transactions put in and took out.
-- Mend: A lot was changed past the ledger.
select
  l.id::text as subject,
  jsonb_build_object('remaining', l.remaining, 'movements', coalesce(m.change, 0)) as detail
from public.credit_lots as l
left join (
  select u.lot_id, sum(u.change) as change
  from public.credit_transactions as t
  cross join lateral unnest(t.lot_ids, t.lot_amounts) as u (lot_id, change)
  group by u.lot_id
) as m on m.lot_id = l.id
where l.remaining <> coalesce(m.change, 0);
