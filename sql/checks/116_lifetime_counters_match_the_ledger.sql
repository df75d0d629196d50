-- What an account was granted and has spent in its life are the sums of its grants, settlements and refunds.
-- Mend: Set lifetime_granted and lifetime_spent to the sums; no credit depends on them.
select
  a.id::text as subject,
  jsonb_build_object(
    'lifetime_granted', a.lifetime_granted, 'grants', coalesce(t.granted, 0),
    'lifetime_spent', a.lifetime_spent, 'settlements_less_refunds', coalesce(t.spent, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select
    e.account_id,
    sum(e.amount) filter (where e.operation = 'grant') as granted,
    -sum(e.amount) filter (where e.operation in ('settle', 'refund')) as spent
  from public.credit_transactions as e
  group by e.account_id
) as t on t.account_id = a.id
where a.lifetime_granted <> coalesce(t.granted, 0) or a.lifetime_spent <> coalesce(t.spent, 0);
