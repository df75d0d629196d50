-- A generation that has not ended has a task that will end it, and a hold; one that has ended holds nothing.
-- Mend: End it with private.expire_generation(), or release the hold with backend.credit_release().
select
  g.id::text as subject,
  jsonb_build_object('status', g.status, 'task', t.status, 'hold', h.status) as detail
from public.image_generations as g
left join private.tasks as t on t.id = g.task_id
left join private.credit_holds as h on h.id = g.hold_id
where (
  g.status in ('pending', 'processing') and g.deadline < now() - interval '10 minutes'
)
or (g.status in ('pending', 'processing') and coalesce(t.status, 'gone') not in ('queued', 'running'))
or (g.status in ('completed', 'failed', 'cancelled') and h.status = 'active');
