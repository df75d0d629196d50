-- A payment that an operator recorded has the lot it paid for, less the share that was given back.
-- Mend: Record the refund again with its total (`backend.payment_refund_record`), or claw back by hand.
select
  p.id::text as subject,
  jsonb_build_object(
    'provider', p.provider, 'amount_minor', p.amount_minor, 'refunded_minor', p.amount_refunded_minor,
    'paid_for_lot', l.paid_minor, 'credits', l.amount, 'clawed_back', l.clawed_back, 'expired', l.expired
  ) as detail
from (
  select
    r.*,
    r.amount_refunded_minor::numeric / r.amount_minor as share
  from public.payments as r
) as p
inner join public.credit_lots as l on l.id = p.lot_id
where (l.account_id, l.paid_minor, l.currency) is distinct from (p.account_id, p.amount_minor, p.currency)
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between
  least(round(l.amount * p.share, 6), l.amount - l.expired) and round(l.amount * p.share, 6);
