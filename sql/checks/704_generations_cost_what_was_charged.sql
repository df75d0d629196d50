-- A generation says that it cost what its hold was settled for, and a completed one has an image or had one.
-- Mend: Set credits_charged from the hold; the ledger is right.
select
  g.id::text as subject,
  jsonb_build_object('status', g.status, 'credits_charged', g.credits_charged, 'settled', h.settled_amount) as detail
from public.image_generations as g
inner join private.credit_holds as h on h.id = g.hold_id
where g.status in ('completed', 'failed', 'cancelled') and g.credits_charged <> coalesce(h.settled_amount, 0);
