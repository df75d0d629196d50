-- A document that is to be indexed has a task that will do it.
-- Mend: Have it indexed again with backend.document_uploaded(), or end it with backend.document_fail().
select
  d.id::text as subject,
  jsonb_build_object('state', d.state, 'updated_at', d.updated_at) as detail
from public.documents as d
where d.state in ('queued', 'indexing')
  and d.updated_at < now() - interval '10 minutes'
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'document_index' and t.key = d.id::text and t.status in ('queued', 'running')
  );
