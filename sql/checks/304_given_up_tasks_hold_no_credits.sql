-- A task that died or was cancelled holds no credits.
-- Mend: Release the hold with backend.credit_release(); its owner cannot spend those credits meanwhile.
select
  t.id::text as subject,
  jsonb_build_object('kind', t.kind, 'status', t.status, 'hold_id', h.id, 'amount', h.amount) as detail
from private.tasks as t
inner join private.credit_holds as h on t.hold_id = h.id
where t.status in ('dead', 'cancelled') and h.status = 'active';
