-- The file of every document that was uploaded is in Storage.
-- Mend: The bytes are lost: the document can be searched as it is, and not be indexed again. Tell its owner.
select
  d.id::text as subject,
  jsonb_build_object('path', d.storage_path, 'state', d.state) as detail
from public.documents as d
where d.state <> 'uploading'
  -- Nobody should have these files: they were deleted.
  and d.error_code is distinct from 'infected' and d.error_code is distinct from 'document_refused'
  and not exists (select from storage.objects as o where o.bucket_id = 'documents' and o.name = d.storage_path);
