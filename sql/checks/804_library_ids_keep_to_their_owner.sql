-- The id of a private library begins with its organization's slug, and that of a public one with no organization's.
-- Mend: Somebody wrote past the trigger. Move what is private to an id of its organization; rename what is public.
select
  l.id as subject,
  jsonb_build_object('organization_id', l.organization_id, 'slug_of', o.id) as detail
from public.libraries as l
left join public.organizations as o on o.slug = l.vendor
where l.organization_id is distinct from o.id;
