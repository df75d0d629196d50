-- The totals of a version are the sums of the chunks that its readers see.
-- Mend: select private.count_version(id), then private.count_library() of its library.
with seen as (
  select
    v.id,
    count(c.id) as chunks,
    count(c.id) filter (where c.content_type = 'snippet') as snippets,
    coalesce(sum(c.token_count), 0) as tokens
  from public.library_versions as v
  left join public.documentation_chunks as c on c.library_version_id = v.id and c.added_in <= v.crawl
  group by v.id
)

select
  v.id::text as subject,
  jsonb_build_object('version', v.total_chunks, 'chunks', s.chunks, 'library_id', v.library_id) as detail
from public.library_versions as v
inner join seen as s on s.id = v.id
-- A crawl that goes on has looked at some of them again.
where v.next_crawl is null
  and (v.total_chunks, v.total_snippets, v.total_tokens) <> (s.chunks, s.snippets, s.tokens);
