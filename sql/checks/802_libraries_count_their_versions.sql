-- The totals of a library are the sums of its versions, and its default version is the latest.
-- Mend: select private.count_library(id).
with sums as (
  select
    l.id,
    count(v.id) as versions,
    coalesce(sum(v.total_chunks), 0) as chunks,
    coalesce(sum(v.total_snippets), 0) as snippets,
    coalesce(sum(v.total_tokens), 0) as tokens,
    max(v.version) filter (where v.is_latest) as latest
  from public.libraries as l
  left join public.library_versions as v on v.library_id = l.id and v.crawl > 0
  group by l.id
)

select
  l.id as subject,
  jsonb_build_object('library', l.total_chunks, 'versions', s.chunks, 'default_version', l.default_version) as detail
from public.libraries as l
inner join sums as s on s.id = l.id
where (l.total_versions, l.total_chunks, l.total_snippets, l.total_tokens)
  <> (s.versions, s.chunks, s.snippets, s.tokens)
  or l.default_version is distinct from s.latest;
