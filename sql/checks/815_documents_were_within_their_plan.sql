-- Nobody has more documents than their plan allows, unless the plan became smaller after the last was added.
-- Mend: Somebody wrote past the trigger, or the plan's max_documents was lowered: raise it, or ask the owner.
select
  coalesce(d.organization_id, d.user_id)::text as subject,
  jsonb_build_object('documents', count(*), 'limit', private.plan_limit(d.user_id, d.organization_id, 'max_documents'))
    as detail
from (
  select
    o.organization_id,
    o.created_at,
    case when o.organization_id is null then o.user_id end as user_id
  from public.documents as o
) as d
left join public.profiles as p on p.id = d.user_id
left join public.organizations as g on g.id = d.organization_id
group by d.user_id, d.organization_id, p.plan_started_at, g.plan_started_at
having count(*) > private.plan_limit(d.user_id, d.organization_id, 'max_documents')
  and max(d.created_at) > coalesce(p.plan_started_at, g.plan_started_at, '-infinity');
