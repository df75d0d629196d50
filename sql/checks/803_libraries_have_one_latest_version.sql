-- Of the versions of a library that can be searched, exactly one is the latest.
-- Mend: update public.library_versions set is_latest = true for the newest of them, then private.count_library().
select
  v.library_id as subject,
  jsonb_build_object('latest', count(*) filter (where v.is_latest), 'versions', count(*)) as detail
from public.library_versions as v
where v.crawl > 0
group by v.library_id
having count(*) filter (where v.is_latest) <> 1;
