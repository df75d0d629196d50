-- Cost per organization: a row is a month (UTC), an organization, one of its users and a model, newest month first and
-- dearest first. Credits are what was charged, less what was given back. A user who was erased is null, and so is who
-- asked by an organization's own key.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/organization_costs.sql
select
  u.month,
  o.slug as organization,
  u.user_id,
  u.model_id as model,
  sum(u.request_count) as requests,
  sum(u.prompt_tokens) as prompt_tokens,
  sum(u.completion_tokens) as completion_tokens,
  sum(u.credits - u.credits_refunded) as credits
from (
  select
    a.*,
    to_char(a.period_start at time zone 'utc', 'YYYY-MM') as month
  from public.api_usage as a
) as u
inner join public.organizations as o on o.id = u.organization_id
group by u.month, o.slug, u.user_id, u.model_id
order by u.month desc, o.slug asc, credits desc, u.user_id asc, u.model_id asc;
