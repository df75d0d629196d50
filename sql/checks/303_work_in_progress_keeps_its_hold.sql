-- The hold of a running task lasts at least as long as its lease, unless it has reached its longest life.
-- Mend: A lease was made or renewed without its hold; the reaper may return credits that are being worked for.
select
  t.id::text as subject,
  jsonb_build_object(
    'kind', t.kind, 'hold_id', h.id, 'leased_until', t.leased_until, 'deadline', h.deadline
  ) as detail
from private.tasks as t
inner join private.credit_holds as h on t.hold_id = h.id
where t.status = 'running' and t.leased_until >= now()
  and h.status = 'active' and h.deadline < t.leased_until
  and h.deadline < h.created_at + make_interval(secs => private.setting('hold_max_seconds')::integer);
