-- A document that is ready counts its chunks and their tokens, and they belong to whom it belongs.
-- Mend: Have it indexed again with backend.document_uploaded(). Where organization_id or user_id differ, at once.
with sums as (
  select
    d.id,
    count(c.id) as chunks,
    coalesce(sum(c.token_count), 0) as tokens,
    count(c.id) filter (
      where c.organization_id is distinct from d.organization_id
      or (d.organization_id is null and c.user_id is distinct from d.user_id)
    ) as strays
  from public.documents as d
  left join public.document_chunks as c on c.document_id = d.id
  group by d.id
)

select
  d.id::text as subject,
  jsonb_build_object('document', d.chunk_count, 'chunks', s.chunks, 'strays', s.strays) as detail
from public.documents as d
inner join sums as s on s.id = d.id
where s.strays > 0
  or (d.state = 'ready' and (d.chunk_count, d.token_count) <> (s.chunks, s.tokens));
