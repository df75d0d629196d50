-- Every object of the bucket "documents" belongs to a document, or waits to be deleted.
-- Mend: Nobody can reach the object any more, and it costs storage: delete it through the Storage API.
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'documents'
  and not exists (select from public.documents as d where d.storage_path = o.name)
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'files_delete' and t.status in ('queued', 'running') and t.payload ->> 'bucket' = 'documents'
      and t.payload -> 'paths' ? o.name
  );
