-- No organization has more private libraries than its plan allows, unless the plan became smaller after the last.
-- Mend: Somebody wrote past the trigger, or the plan's max_libraries was lowered: raise it, or ask the owner.
select
  l.organization_id::text as subject,
  jsonb_build_object('libraries', count(*), 'limit', private.plan_limit(null, l.organization_id, 'max_libraries'))
    as detail
from public.libraries as l
inner join public.organizations as o on o.id = l.organization_id
group by l.organization_id, o.plan_started_at
having count(*) > private.plan_limit(null, l.organization_id, 'max_libraries')
  and max(l.created_at) > coalesce(o.plan_started_at, '-infinity');
