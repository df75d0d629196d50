-- An email or event that waits has a task that will send it.
-- Mend: The sweep gives it up; run `quernel cron notifications`. If it comes back, tasks are deleted while they wait.
with waiting as (
  select d.id, 'email' as kind, d.created_at, d.attempts
  from private.email_deliveries as d
  where d.status = 'queued'
  union all
  select d.id, 'webhook' as kind, d.created_at, d.attempts
  from public.webhook_deliveries as d
  where d.status = 'queued'
)

select
  w.id::text as subject,
  jsonb_build_object('kind', w.kind, 'created_at', w.created_at, 'attempts', w.attempts) as detail
from waiting as w
where w.created_at < now() - interval '1 day'
  and not exists (
    select from private.tasks as t
    where t.kind = w.kind and t.key = w.id::text and t.status in ('queued', 'running')
  );
