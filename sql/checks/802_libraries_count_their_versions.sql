-- The totals of a library are the sums of its versions, and its default version is the latest.
-- Mend: select private.count_library(id).
select
  l.id as subject,
  jsonb_build_object('library', l.total_chunks, 'versions', v.chunks, 'default_version', l.default_version) as detail
from public.libraries as l
cross join lateral (
  select
    count(*) as versions, coalesce(sum(s.total_chunks), 0) as chunks, coalesce(sum(s.total_snippets), 0) as snippets,
    coalesce(sum(s.total_tokens), 0) as tokens, max(s.version) filter (where s.is_latest) as latest
  from public.library_versions as s
  where s.library_id = l.id and s.crawl > 0
) as v
where (l.total_versions, l.total_chunks, l.total_snippets, l.total_tokens)
  <> (v.versions, v.chunks, v.snippets, v.tokens)
  or l.default_version is distinct from v.latest;
