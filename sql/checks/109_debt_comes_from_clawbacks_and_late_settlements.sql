-- Only a clawback, or a settlement after the reaper, makes debt.
-- Mend: Something spent credits that were not there.
select
  t.id::text as subject,
  jsonb_build_object('operation', t.operation, 'debt_change', t.debt_change) as detail
from public.credit_transactions as t
where (t.debt_change > 0 and t.operation not in ('claw_back', 'settle'))
  or (t.debt_change < 0 and t.operation not in ('grant', 'refund', 'give_back', 'repay'));
