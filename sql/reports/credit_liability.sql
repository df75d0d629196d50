-- Credit liability: a row is a source of credits and the currency they were paid in (null: free). Credits that are owed
-- are remaining = granted - used - expired - clawed back; remaining_minor is their share of what was paid, in minor
-- units (cents). The row "debt" holds what was taken back after it was spent: owners owe it, so it is owed less than
-- nothing. Credits that stood in for others that were taken back count as used.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/credit_liability.sql
select
  l.source,
  l.currency,
  count(*) as lots,
  sum(l.amount) as granted,
  sum(l.amount - l.remaining - l.expired - l.clawed_back) as used,
  sum(l.expired) as expired,
  sum(l.clawed_back) as clawed_back,
  sum(l.remaining) as remaining,
  sum(l.paid_minor) as paid_minor,
  sum(round(l.paid_minor * l.remaining / l.amount)) as remaining_minor
from public.credit_lots as l
group by l.source, l.currency
union all
select
  'debt',
  null,
  0,
  0,
  sum(a.debt),
  0,
  0,
  -sum(a.debt),
  null,
  null
from public.credit_accounts as a
where a.debt > 0
having count(*) > 0
order by source, currency;
