-- Nobody has a plan for longer than one of their subscriptions gives it.
-- Mend: `select private.apply_entitlement(user_id, null)`, or (null, organization_id).
with owners as (
  select p.id as user_id, null::uuid as organization_id, p.plan_id, p.plan_expires_at from public.profiles as p
  union all
  select null, o.id, o.plan_id, o.plan_expires_at from public.organizations as o
)

select
  coalesce(w.user_id, w.organization_id)::text as subject,
  jsonb_build_object('plan_id', w.plan_id, 'plan_expires_at', w.plan_expires_at) as detail
from owners as w
where w.plan_id is not null and w.plan_expires_at > now()
  and not exists (
    select
    from public.subscriptions as s
    cross join lateral private.subscription_entitlements(s) as e
    where (s.user_id = w.user_id or s.organization_id = w.organization_id)
      and e.plan_id = w.plan_id and e.until >= w.plan_expires_at
  );
