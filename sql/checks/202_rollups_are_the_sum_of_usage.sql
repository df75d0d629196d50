-- What api_usage says of a day is the sum of its finished usage rows, in every month whose rows are kept.
-- Mend: select private.rebuild_api_usage('2026-01-01') for the month; requests wait for it. Somebody wrote to a
-- partition past its parent, or switched the triggers off.
select
  c.account_id::text as subject,
  jsonb_build_object(
    'day', (c.period_start at time zone 'utc')::date, 'model', c.model_id, 'action', c.action,
    'requests', sum(c.request_count), 'tokens', sum(c.prompt_tokens + c.completion_tokens), 'credits', sum(c.credits)
  ) as detail
from (
  select
    u.account_id,
    date_trunc('day', u.created_at at time zone 'utc') at time zone 'utc' as period_start,
    u.user_id,
    u.organization_id,
    u.api_key_id,
    u.provider_key_id,
    u.provider,
    u.model_id,
    u.action,
    u.credential,
    -1 as request_count,
    -(u.status = 'cancelled')::integer as cancelled_count,
    -(u.status in ('failed', 'expired'))::integer as failed_count,
    -u.prompt_tokens as prompt_tokens,
    -u.completion_tokens as completion_tokens,
    -u.cached_tokens as cached_tokens,
    -u.credits as credits,
    -u.credits_refunded as credits_refunded,
    -u.cost_estimate as cost_estimate
  from public.usage_logs as u
  where u.status <> 'started'
  union all
  select
    a.account_id,
    a.period_start,
    a.user_id,
    a.organization_id,
    a.api_key_id,
    a.provider_key_id,
    a.provider,
    a.model_id,
    a.action,
    a.credential,
    a.request_count,
    a.cancelled_count,
    a.failed_count,
    a.prompt_tokens,
    a.completion_tokens,
    a.cached_tokens,
    a.credits,
    a.credits_refunded,
    a.cost_estimate
  from public.api_usage as a
  where private.month_start(a.period_start) in (select private.usage_months())
) as c
group by
  c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider, c.model_id,
  c.action, c.credential
having
  sum(c.request_count) <> 0 or sum(c.cancelled_count) <> 0 or sum(c.failed_count) <> 0 or sum(c.prompt_tokens) <> 0
  or sum(c.completion_tokens) <> 0 or sum(c.cached_tokens) <> 0 or sum(c.credits) <> 0
  or sum(c.credits_refunded) <> 0 or sum(c.cost_estimate) <> 0;
