-- Versions and chunks belong to whom their library belongs: what a policy reads of each row is true.
-- Mend: At once: update organization_id and library_id from the library; a private text may be public.
select
  v.id::text as subject,
  jsonb_build_object('library_id', l.id, 'version', v.organization_id, 'library', l.organization_id) as detail
from public.library_versions as v
inner join public.libraries as l on l.id = v.library_id
where v.organization_id is distinct from l.organization_id
union all
select
  c.id::text as subject,
  jsonb_build_object('library_id', c.library_id, 'chunk', c.organization_id, 'version', v.organization_id) as detail
from public.documentation_chunks as c
inner join public.library_versions as v on v.id = c.library_version_id
where c.organization_id is distinct from v.organization_id or c.library_id <> v.library_id;
