-- A person whose grace period is over is erased within a day, and none is half erased for longer than three.
-- Mend: backend.erasures_due(); where its task is dead, read why (private.tasks, kind person_erase), mend that and have
-- the task run again.
select
  e.id::text as subject,
  jsonb_build_object(
    'state', e.state, 'due_at', e.due_at, 'started_at', e.started_at, 'task', (
      select jsonb_build_object('status', t.status, 'last_error', t.last_error)
      from private.tasks as t
      where t.kind = 'person_erase' and t.key = e.id::text
      order by t.created_at desc
      limit 1
    )
  ) as detail
from private.erasures as e
where (e.state = 'requested' and e.due_at < now() - interval '1 day')
  or (e.state = 'executing' and e.started_at < now() - interval '3 days');
