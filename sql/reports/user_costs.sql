-- Cost per user: a row is a month (UTC), somebody who asked, whoever paid, and a model, newest month first and dearest
-- first. Credits are what was charged, less what was given back; cost_estimate is what it would be at the catalog's
-- prices, with the customer's own keys too. A user who was erased is null, and so is an organization's own key.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/user_costs.sql
select
  u.month,
  u.user_id,
  u.model_id as model,
  sum(u.request_count) as requests,
  sum(u.failed_count) as failed,
  sum(u.prompt_tokens) as prompt_tokens,
  sum(u.completion_tokens) as completion_tokens,
  sum(u.credits - u.credits_refunded) as credits,
  sum(u.cost_estimate) as cost_estimate
from (
  select
    a.*,
    to_char(a.period_start at time zone 'utc', 'YYYY-MM') as month
  from public.api_usage as a
) as u
group by u.month, u.user_id, u.model_id
order by u.month desc, credits desc, u.user_id asc, u.model_id asc;
