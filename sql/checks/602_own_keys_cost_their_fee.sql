-- What an own key paid for cost no more credits than the catalog's price, and names the key.
-- Mend: Look at the hold of that id; give back with private.credit_refund what was charged too much.
select
  u.id::text as subject,
  jsonb_build_object(
    'credits', u.credits, 'cost_estimate', u.cost_estimate, 'provider_key_id', u.provider_key_id
  ) as detail
from public.usage_logs as u
where u.credential = 'own' and u.status in ('completed', 'cancelled')
  and (u.credits > u.cost_estimate or u.provider_key_id is null);
