-- Revenue: a row is a month (UTC) in which payments went through, what they paid for, and a currency, newest first.
-- Money is in minor units (cents). Refunds and disputes count in the month of their payment: net_minor is what is left.
-- A payment of an invoice belongs to the plan of its largest line, a recorded one to the plan that was named with it or
-- with its invoice; credits are packs and recorded payments for credits.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/revenue.sql
select
  sold.month,
  sold.sold,
  sold.currency,
  count(*) as payments,
  sum(sold.amount_minor) as paid_minor,
  sum(sold.amount_refunded_minor) as refunded_minor,
  sum(sold.amount_disputed_minor) as disputed_minor,
  sum(greatest(sold.amount_minor - sold.amount_refunded_minor - sold.amount_disputed_minor, 0)) as net_minor
from (
  select
    p.*,
    to_char(p.processed_at at time zone 'utc', 'YYYY-MM') as month,
    coalesce(
      line.slug,
      recorded.slug,
      plan.slug,
      case when num_nonnulls(p.purchase_id, p.lot_id) > 0 then 'credits' else 'other' end
    ) as sold
  from public.payments as p
  left join public.invoices as i on i.id = p.invoice_id
  left join public.subscriptions as s on s.stripe_subscription_id = i.stripe_subscription_id
  left join public.plans as plan on plan.id = s.plan_id
  left join public.plans as recorded on recorded.id = coalesce(p.plan_id, i.plan_id)
  -- What the invoice's lines say; a subscription may have another plan by now.
  left join lateral (
    select billed.slug
    from private.stripe_objects as o
    cross join lateral jsonb_array_elements(o.state #> '{lines,data}') as l (value)
    inner join private.plan_prices as k
      on k.stripe_price_id = private.stripe_id(l.value #> '{pricing,price_details,price}')
    inner join public.plans as billed on billed.id = k.plan_id
    where o.id = i.stripe_invoice_id
    order by (l.value ->> 'amount')::numeric desc
    limit 1
  ) as line on true
  where p.status in ('succeeded', 'partially_refunded', 'refunded', 'disputed')
) as sold
group by sold.month, sold.sold, sold.currency
order by sold.month desc, sold.sold asc, sold.currency asc;
