-- An account in debt has no credits left but those on hold.
-- Mend: Debt was not netted when credits came free; the next grant repays it.
select
  a.id::text as subject,
  jsonb_build_object('debt', a.debt, 'lots', a.balance + a.debt, 'held', a.held) as detail
from public.credit_accounts as a
where a.debt > 0 and a.balance + a.debt > a.held;
