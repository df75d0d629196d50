-- An account's balance is what its lots hold, less its debt.
-- Mend: Stop spending on the account (suspend its owner); replay its transactions to see which write went wrong.
select
  a.id::text as subject,
  jsonb_build_object('balance', a.balance, 'debt', a.debt, 'lots', coalesce(l.remaining, 0)) as detail
from public.credit_accounts as a
left join (
  select lot.account_id, sum(lot.remaining) as remaining
  from public.credit_lots as lot
  group by lot.account_id
) as l on l.account_id = a.id
where a.balance <> coalesce(l.remaining, 0) - a.debt;
