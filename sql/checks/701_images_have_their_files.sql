-- Every image's object and thumbnail are in Storage.
-- Mend: The bytes are lost: delete the image, and refund what it cost with private.credit_refund.
select
  i.id::text as subject,
  jsonb_build_object('path', f.path) as detail
from public.generated_images as i
cross join unnest(array_remove(array[i.storage_path, i.thumbnail_path], null)) as f (path)
where not exists (select from storage.objects as o where o.bucket_id = 'images' and o.name = f.path);
