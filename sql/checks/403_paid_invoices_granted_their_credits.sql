-- A paid invoice granted the credits its lines pay for, and what was given back of its payments took its share.
-- Mend: Apply the invoice's last event again (`select backend.stripe_event_retry(id)`).
with reversals as (
  select
    p.invoice_id,
    sum(p.amount_refunded_minor + p.amount_disputed_minor) as amount_minor
  from public.payments as p
  where p.invoice_id is not null
  group by p.invoice_id
),

due as (
  select
    i.id,
    i.stripe_invoice_id,
    i.credits,
    i.lot_id,
    round(i.credits * coalesce(least(r.amount_minor, i.amount_paid_minor) / nullif(i.amount_paid_minor, 0), 0), 6)
      as clawed_back
  from public.invoices as i
  left join reversals as r on r.invoice_id = i.id
  where i.status = 'paid' and i.provider = 'stripe' and i.credits > 0
)

select
  d.id::text as subject,
  jsonb_build_object(
    'invoice', d.stripe_invoice_id, 'credits', d.credits, 'granted', l.amount, 'clawed_back', l.clawed_back,
    'expired', l.expired, 'due', d.clawed_back
  ) as detail
from due as d
left join public.credit_lots as l on l.id = d.lot_id
where l.id is null
  or l.amount <> d.credits
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between least(d.clawed_back, l.amount - l.expired) and d.clawed_back;
