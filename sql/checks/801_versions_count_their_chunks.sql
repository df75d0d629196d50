-- The totals of a version are the sums of the chunks that its readers see.
-- Mend: select private.count_version(id), then private.count_library() of its library.
select
  v.id::text as subject,
  jsonb_build_object('version', v.total_chunks, 'chunks', c.chunks, 'library_id', v.library_id) as detail
from public.library_versions as v
cross join lateral (
  select
    count(*) as chunks, count(*) filter (where d.content_type = 'snippet') as snippets,
    coalesce(sum(d.token_count), 0) as tokens
  from public.documentation_chunks as d
  where d.library_version_id = v.id and d.added_in <= v.crawl
) as c
-- A crawl that goes on has looked at some of them again.
where v.next_crawl is null
  and (v.total_chunks, v.total_snippets, v.total_tokens) <> (c.chunks, c.snippets, c.tokens);
