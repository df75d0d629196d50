-- An account's transactions are numbered without gaps, and each begins at the balance the one before ended at.
-- Mend: A transaction is missing or was inserted out of turn.
select
  t.account_id::text as subject,
  jsonb_build_object(
    'version', t.version, 'previous_version', t.previous_version,
    'balance_before', t.balance_before, 'previous_balance_after', t.previous_balance
  ) as detail
from (
  select
    e.account_id,
    e.version,
    e.balance_before,
    lag(e.version, 1, 0::bigint) over w as previous_version,
    lag(e.balance_after, 1, 0::numeric) over w as previous_balance
  from public.credit_transactions as e
  window w as (partition by e.account_id order by e.version)
) as t
where t.version <> t.previous_version + 1 or t.balance_before <> t.previous_balance
union all
select
  a.id::text as subject,
  jsonb_build_object('version', a.version, 'transactions', count(t.id)) as detail
from public.credit_accounts as a
left join public.credit_transactions as t on t.account_id = a.id
group by a.id, a.version
having a.version <> count(t.id);
