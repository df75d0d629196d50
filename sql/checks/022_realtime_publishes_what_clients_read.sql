-- Where Realtime has its publication, it publishes every public table that clients read, chunks apart.
-- Mend: alter publication supabase_realtime add (or drop) table …, in the migration of Realtime.
with readable as (
  -- Partitioned tables would publish their partitions, which are private.
  select c.oid
  from pg_class as c
  where c.relnamespace = 'public'::regnamespace
    and c.relkind = 'r'
    -- Nobody waits for a chunk, and a crawl writes many thousands: what tells of it is its library, or its document.
    and c.relname not in ('documentation_chunks', 'document_chunks')
    and (
      has_any_column_privilege('anon', c.oid, 'select') or has_any_column_privilege('authenticated', c.oid, 'select')
    )
),

published as (
  select to_regclass(format('%I.%I', t.schemaname, t.tablename))::oid as oid
  from pg_publication_tables as t
  where t.pubname = 'supabase_realtime'
)

select
  coalesce(r.oid, p.oid)::regclass::text as subject,
  jsonb_build_object('is_readable', r.oid is not null, 'is_published', p.oid is not null) as detail
from readable as r
full outer join published as p on p.oid = r.oid
where (r.oid is null or p.oid is null)
  and exists (select from pg_publication as u where u.pubname = 'supabase_realtime');
