-- A document that is ready counts its chunks and their tokens, and they belong to whom it belongs.
-- Mend: Have it indexed again with backend.document_uploaded(). Where organization_id or user_id differ, at once.
select
  d.id::text as subject,
  jsonb_build_object('document', d.chunk_count, 'chunks', c.chunks, 'strays', c.strays) as detail
from public.documents as d
cross join lateral (
  select
    count(*) as chunks, coalesce(sum(k.token_count), 0) as tokens,
    count(*) filter (
      where k.organization_id is distinct from d.organization_id
        or (d.organization_id is null and k.user_id is distinct from d.user_id)
    ) as strays
  from public.document_chunks as k
  where k.document_id = d.id
) as c
where c.strays > 0
  or (d.state = 'ready' and (d.chunk_count, d.token_count) <> (c.chunks, c.tokens));
