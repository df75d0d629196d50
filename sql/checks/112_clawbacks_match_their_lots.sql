-- What a lot says was taken back is what clawback transactions took for it, less what was given back.
-- Mend: A refund or dispute was applied past the ledger.
select
  l.id::text as subject,
  jsonb_build_object('clawed_back', l.clawed_back, 'transactions', coalesce(t.amount, 0)) as detail
from public.credit_lots as l
left join (
  select e.reference_id, -sum(e.amount) as amount
  from public.credit_transactions as e
  where e.operation in ('claw_back', 'give_back')
  group by e.reference_id
) as t on t.reference_id = l.id
where l.clawed_back <> coalesce(t.amount, 0);
