-- Every object of the bucket "images" belongs to an image, waits to be deleted, or is one that a client put in.
-- Mend: Nobody can reach the object any more, and it costs storage: delete it through the Storage API.
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'images'
  and (storage.foldername(o.name))[2] <> 'inputs'
  -- A worker stores what it has made before it says so.
  and o.created_at < now() - interval '1 hour'
  and not exists (
    select from public.generated_images as i where i.storage_path = o.name or i.thumbnail_path = o.name
  )
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'image_files_delete' and t.status in ('queued', 'running') and t.payload -> 'paths' ? o.name
  );
