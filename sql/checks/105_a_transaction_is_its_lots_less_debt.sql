-- What a transaction adds is what it moved in lots, less the debt it made.
-- Mend: A transaction was written by something that is not the ledger.
select
  t.id::text as subject,
  jsonb_build_object('amount', t.amount, 'lot_amounts', t.lot_amounts, 'debt_change', t.debt_change) as detail
from public.credit_transactions as t
where t.amount <> coalesce((select sum(u.change) from unnest(t.lot_amounts) as u (change)), 0) - t.debt_change;
