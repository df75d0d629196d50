-- No crawl goes on for a day.
-- Mend: Look for its task; end it with backend.library_version_fail(), and crawl the library again.
select
  v.id::text as subject,
  jsonb_build_object('library_id', v.library_id, 'state', v.state, 'progress', v.progress) as detail
from public.library_versions as v
where v.next_crawl is not null and v.updated_at < now() - interval '1 day';
