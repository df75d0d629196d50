-- Cost per API key: a row is a month (UTC), a key that was used in it, and its owner, newest month first and dearest
-- first. Credits are what was charged, less what was given back. A key that was deleted has no name; the row without a
-- key is what people did who were signed in.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/api_key_costs.sql
select
  u.month,
  u.api_key_id,
  k.key_prefix,
  k.name,
  k.user_id,
  o.slug as organization,
  sum(u.request_count) as requests,
  sum(u.failed_count) as failed,
  sum(u.tokens_used) as tokens,
  sum(u.credits - u.credits_refunded) as credits
from (
  select
    a.*,
    to_char(a.period_start at time zone 'utc', 'YYYY-MM') as month
  from public.api_usage as a
) as u
left join public.api_keys as k on k.id = u.api_key_id
left join public.organizations as o on o.id = k.organization_id
group by u.month, u.api_key_id, k.key_prefix, k.name, k.user_id, o.slug
order by u.month desc, credits desc, u.api_key_id asc;
