-- No task is running an hour after its lease lapsed.
-- Mend: The sweep is not running; run `quernel cron sweep_tasks`.
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'leased_by', t.leased_by, 'leased_until', t.leased_until) as detail
from private.tasks as t
where t.status = 'running' and t.leased_until < now() - interval '1 hour';
