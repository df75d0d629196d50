-- An account's balance and debt are the sums of its transactions.
-- Mend: A row was changed past the ledger; compare the last balance_after with the account.
select
  a.id::text as subject,
  jsonb_build_object(
    'balance', a.balance, 'transactions', coalesce(t.amount, 0),
    'debt', a.debt, 'debt_changes', coalesce(t.debt_change, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select e.account_id, sum(e.amount) as amount, sum(e.debt_change) as debt_change
  from public.credit_transactions as e
  group by e.account_id
) as t on t.account_id = a.id
where a.balance <> coalesce(t.amount, 0) or a.debt <> coalesce(t.debt_change, 0);
