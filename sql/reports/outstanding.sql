-- Outstanding: a row is a currency and how long its open invoices have been due; those without a date are due when they
-- are issued. Money is in minor units (cents).
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/outstanding.sql
select
  i.currency,
  case
    when i.days < 0 then 'not due'
    when i.days <= 30 then '0 to 30 days'
    when i.days <= 60 then '31 to 60 days'
    when i.days <= 90 then '61 to 90 days'
    else 'over 90 days'
  end as overdue,
  count(*) as invoices,
  sum(i.amount_remaining_minor) as remaining_minor,
  min(i.since) as oldest_due_at
from (
  select
    o.currency,
    o.amount_remaining_minor,
    coalesce(o.due_at, o.issued_at) as since,
    floor(extract(epoch from now() - coalesce(o.due_at, o.issued_at)) / 86400) as days
  from public.invoices as o
  where o.status = 'open' and o.amount_remaining_minor > 0
) as i
group by i.currency, overdue
order by i.currency, min(i.days);
