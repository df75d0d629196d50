-- Every object of the bucket "libraries" is the snapshot of a version or the archive of a library, or is to be deleted.
-- Mend: Nobody can reach the object any more, and it costs storage: delete it through the Storage API.
select
  o.name as subject,
  jsonb_build_object('created_at', o.created_at) as detail
from storage.objects as o
where o.bucket_id = 'libraries'
  -- It is stored before its crawl is finished.
  and o.created_at < now() - interval '1 day'
  and not exists (select from public.library_versions as v where v.snapshot_path = o.name)
  and not exists (
    select from public.libraries as l where l.source_kind in ('archive', 'folder') and l.source_url = o.name
  )
  and not exists (
    select
    from private.tasks as t
    where t.kind = 'files_delete' and t.status in ('queued', 'running') and t.payload ->> 'bucket' = 'libraries'
      and t.payload -> 'paths' ? o.name
  );
