-- What was refunded or disputed of a purchase is clawed back from its lot, in the same share.
-- Mend: Apply the purchase's last event again (`select backend.stripe_event_retry(id)`), or claw back by hand.
select
  p.id::text as subject,
  jsonb_build_object(
    'status', p.status, 'refunded_minor', p.amount_refunded_minor, 'disputed_minor', p.amount_disputed_minor,
    'price_minor', p.price_minor, 'credits', p.credits, 'clawed_back', l.clawed_back, 'expired', l.expired
  ) as detail
from (
  select
    c.*,
    round(
      c.credits * least(c.amount_refunded_minor + c.amount_disputed_minor, c.price_minor) / c.price_minor, 6
    ) as target
  from public.credit_purchases as c
) as p
inner join public.credit_lots as l on l.id = p.lot_id
where l.amount <> p.credits
  -- What had expired unspent before is not taken a second time.
  or l.clawed_back not between least(p.target, l.amount - l.expired) and p.target;
