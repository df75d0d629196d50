-- No event of Stripe's is unfinished an hour after it came.
-- Mend: Read last_error; mend its cause; then `select backend.stripe_event_retry(id)`.
select
  e.id as subject,
  jsonb_build_object('type', e.type, 'status', e.status, 'attempts', e.attempts, 'last_error', e.last_error) as detail
from private.stripe_events as e
where e.status in ('received', 'failed', 'needs_fetch') and e.received_at < now() - interval '1 hour';
