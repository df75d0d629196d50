-- No task waits a day after it was due.
-- Mend: No worker runs, or none knows this kind; see `quernel tasks list --status queued` and start one.
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'run_after', t.run_after, 'attempts', t.attempts) as detail
from private.tasks as t
where t.status = 'queued' and t.run_after < now() - interval '1 day';
