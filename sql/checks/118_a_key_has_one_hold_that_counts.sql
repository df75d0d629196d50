-- Of the holds under one key, all but the latest are released.
-- Mend: Two holds of one request could both be charged; release the older one, or refund it.
select
  h.id::text as subject,
  jsonb_build_object(
    'account_id', h.account_id, 'idempotency_key', h.idempotency_key, 'attempt', h.attempt, 'status', h.status
  ) as detail
from private.credit_holds as h
inner join private.credit_holds as later
  on later.account_id = h.account_id
    and later.idempotency_key = h.idempotency_key
    and later.attempt > h.attempt
where h.status <> 'released';
