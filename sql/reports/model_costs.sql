-- Cost per model: a row is a month (UTC), a model, the provider that served it, and whose key that was called with,
-- newest month first and dearest first. Credits are what was charged, less what was given back; cost_estimate is what
-- it would be at the catalog's prices. accounts counts who paid.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/model_costs.sql
select
  u.month,
  u.model_id as model,
  u.provider,
  u.credential,
  count(distinct u.account_id) as accounts,
  sum(u.request_count) as requests,
  sum(u.failed_count) as failed,
  sum(u.prompt_tokens) as prompt_tokens,
  sum(u.cached_tokens) as cached_tokens,
  sum(u.completion_tokens) as completion_tokens,
  sum(u.credits - u.credits_refunded) as credits,
  sum(u.cost_estimate) as cost_estimate
from (
  select
    a.*,
    to_char(a.period_start at time zone 'utc', 'YYYY-MM') as month
  from public.api_usage as a
) as u
group by u.month, u.model_id, u.provider, u.credential
order by u.month desc, credits desc, u.model_id asc, u.provider asc, u.credential asc;
