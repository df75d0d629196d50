-- No periodic job is overdue by ten intervals and an hour.
-- Mend: Neither a worker nor Modal's dispatcher runs, or the job fails; see `quernel status`.
select
  j.name as subject,
  jsonb_build_object('due_at', j.due_at, 'last_finished_at', j.last_finished_at, 'last_error', j.last_error) as detail
from private.cron_jobs as j
where j.due_at < now() - interval '1 hour' - make_interval(secs => 10 * j.interval_seconds);
