-- Cost per organization: a row is a month (UTC), an organization, one of its users and a model, newest month first and
-- dearest first. Credits are what was charged, less what was given back. A user who was erased is null.
-- Run: psql "$QUERNEL_ADMIN_URL" --file sql/reports/organization_costs.sql
select
  u.month,
  o.slug as organization,
  u.user_id,
  u.model_id as model,
  count(*) as requests,
  sum(u.prompt_tokens) as prompt_tokens,
  sum(u.completion_tokens) as completion_tokens,
  sum(u.credits - coalesce(h.refunded_amount, 0)) as credits
from (
  select
    r.*,
    to_char(r.created_at at time zone 'utc', 'YYYY-MM') as month
  from public.usage_logs as r
  where r.status <> 'started'
) as u
inner join public.organizations as o on o.id = u.organization_id
left join private.credit_holds as h on h.id = u.id
group by u.month, o.slug, u.user_id, u.model_id
order by u.month desc, o.slug asc, sum(u.credits - coalesce(h.refunded_amount, 0)) desc, u.user_id asc, u.model_id asc;
