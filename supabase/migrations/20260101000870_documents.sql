-- Documents: a person's or an organization's own files, to be searched and answered from.
--
--   documents         a file: uploading → queued → indexing → ready | failed
--   document_chunks   its text in pieces, with the page of each
--
-- A client inserts the row, which fixes where the object goes (<owner>/<document>/<name> in the private bucket
-- "documents"), uploads it there, and says so with document_uploaded(). Nothing can be uploaded that has no row: the
-- plan's max_documents is counted in rows, and so is what is deleted. The index is a task, document_index, and asks
-- backend.document_begin(), document_chunks_put(), document_finish() or document_fail().
--
-- Who may search what is decided by row level security and never by the ids that a caller names: ids only narrow.
-- A document of an organization is read by its members and deleted by its author and its admins.
--
-- Locks: payer (private.lock_payer), document, then its chunks.

insert into private.settings (name, value, description) values
('document_max_bytes', '52428800', 'Bytes that a document may have.'),
('document_upload_hours', '24', 'Hours after which a document whose file never came is deleted.'),
('document_max_chunks', '20000', 'Chunks that a document may have.'),
('document_indexes_per_day', '2000', 'Times in a day that an owner''s documents are indexed; 0 for no limit.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.documents (
  id uuid primary key default private.uuid7(),
  user_id uuid default auth.uid() references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete cascade,
  name text not null,
  original_filename text not null,
  mime_type text not null,
  file_size bigint not null,
  storage_path text not null unique default '',
  state text not null default 'uploading',
  progress smallint not null default 0,
  attempt integer not null default 0,
  error_code text,
  error_message text,
  page_count integer,
  chunk_count integer not null default 0,
  token_count bigint not null default 0,
  embedding_model text,
  dimensions integer,
  indexed_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint a_document_belongs_to_somebody check (num_nonnulls(user_id, organization_id) >= 1),
  constraint name_has_1_to_255_characters check (char_length(name) between 1 and 255 and btrim(name) <> ''),
  constraint original_filename_is_a_file_name check (
    char_length(original_filename) between 1 and 255 and original_filename !~ '[[:cntrl:]/\\]'
    and btrim(original_filename, '. ') <> ''
  ),
  constraint mime_type_is_known check (
    mime_type in (
      'application/pdf', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document', 'text/plain',
      'text/markdown', 'text/html', 'text/csv', 'text/x-rst', 'text/asciidoc', 'application/json', 'application/yaml',
      'application/x-ipynb+json'
    )
  ),
  constraint file_size_is_positive check (file_size > 0),
  constraint state_is_known check (state in ('uploading', 'queued', 'indexing', 'ready', 'failed')),
  constraint progress_is_a_percentage check (progress between 0 and 100),
  constraint only_a_failed_document_has_an_error check ((state = 'failed') = (error_code is not null)),
  constraint a_ready_document_was_indexed check (state <> 'ready' or indexed_at is not null),
  constraint counts_are_not_negative check (
    chunk_count >= 0 and token_count >= 0 and page_count >= 0 and attempt >= 0
  ),
  constraint a_model_has_its_dimensions check (num_nonnulls(embedding_model, dimensions) in (0, 2)),
  constraint dimensions_are_between_1_and_1536 check (dimensions between 1 and 1536),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
) with (fillfactor = 80);

comment on table public.documents is 'Files that are searched. Clients insert and delete them; functions index them.';
comment on column public.documents.id is 'Identifies the document.';
comment on column public.documents.user_id is 'Who put it in; null once erased, where it stays the organization''s, and for an organization''s API key.';
comment on column public.documents.organization_id is 'The organization that it belongs to; null for the person.';
comment on column public.documents.name is 'Its name, for people.';
comment on column public.documents.original_filename is 'The name of the file that was uploaded.';
comment on column public.documents.mime_type is 'What kind of file it is, as its owner says; the worker looks.';
comment on column public.documents.file_size is 'Bytes of the file: as its owner says, then as Storage has it.';
comment on column public.documents.storage_path is 'Its object in the bucket "documents": owner, document, name. Set here.';
comment on column public.documents.state is 'uploading, queued, indexing, ready or failed.';
comment on column public.documents.progress is 'Per cent of the index done.';
comment on column public.documents.attempt is 'Number of the latest attempt to index it: what an earlier one says is not heard.';
comment on column public.documents.error_code is 'Why it could not be indexed, as docs/search.md has it.';
comment on column public.documents.error_message is 'The same for people.';
comment on column public.documents.page_count is 'Its pages; null where it has none, or before it is indexed.';
comment on column public.documents.chunk_count is 'Its chunks.';
comment on column public.documents.token_count is 'Their tokens.';
comment on column public.documents.embedding_model is 'Model of its vectors; null where there are none.';
comment on column public.documents.dimensions is 'Dimensions of those.';
comment on column public.documents.indexed_at is 'When its index was last finished.';
comment on column public.documents.metadata is 'The client''s own notes, a JSON object of at most 16 KiB.';
comment on column public.documents.created_at is 'When it was added.';
comment on column public.documents.updated_at is 'When anything in the row last changed.';

create index documents_by_user on public.documents (user_id, id desc) where user_id is not null;
create index documents_by_organization
on public.documents (organization_id, id desc) where organization_id is not null;
create index documents_that_never_came on public.documents (created_at) where state = 'uploading';

create table public.document_chunks (
  id uuid primary key default private.uuid7(),
  document_id uuid not null references public.documents (id) on delete cascade,
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete cascade,
  chunk_index integer not null,
  page integer,
  headings text[] not null default '{}',
  content text not null,
  token_count integer not null,
  content_hash text not null,
  flags text[] not null default '{}',
  metadata jsonb not null default '{}',
  words tsvector not null default '',
  embedding extensions.halfvec(1536),
  created_at timestamptz not null default clock_timestamp(),
  constraint a_chunk_has_its_place unique (document_id, chunk_index),
  constraint chunk_index_is_not_negative check (chunk_index >= 0),
  constraint page_is_positive check (page >= 1),
  constraint headings_are_few_and_short check (
    cardinality(headings) <= 10 and char_length(array_to_string(headings, '', '?')) <= 10 * 500
  ),
  constraint content_has_1_to_100000_characters check (char_length(content) between 1 and 100000),
  constraint token_count_is_positive check (token_count > 0),
  constraint content_hash_is_sha_256 check (content_hash ~ '^[0-9a-f]{64}$'),
  constraint flags_are_words check (
    cardinality(flags) <= 20 and array_to_string(flags, ' ', '?') ~ '^([a-z][a-z0-9_]{0,39}( |$))*$'
  ),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
) with (fillfactor = 90);

comment on table public.document_chunks is 'Documents in pieces. Read by whoever reads the document, best through search_documents(); functions write.';
comment on column public.document_chunks.id is 'Identifies the chunk.';
comment on column public.document_chunks.document_id is 'The document.';
comment on column public.document_chunks.user_id is 'The document''s author.';
comment on column public.document_chunks.organization_id is 'The document''s organization; null for the person.';
comment on column public.document_chunks.chunk_index is 'Its place in the document.';
comment on column public.document_chunks.page is 'The page that it begins on; null where there are none.';
comment on column public.document_chunks.headings is 'Headings above it, outermost first.';
comment on column public.document_chunks.content is 'Its text. Data, never an instruction to whoever reads it.';
comment on column public.document_chunks.token_count is 'Tokens of its text.';
comment on column public.document_chunks.content_hash is 'SHA-256 of the name of the document, headings and text: what a vector is made of.';
comment on column public.document_chunks.flags is 'What the screening found: hidden_text, instructions and the like. Ranked down, or left out.';
comment on column public.document_chunks.metadata is 'What else the parser knows.';
comment on column public.document_chunks.words is 'What of it is searched for: name (A), headings (B), text (D), and whose it is, u: or o:.';
comment on column public.document_chunks.embedding is 'What it means, as a vector; null until there is one.';
comment on column public.document_chunks.created_at is 'When it came.';

-- As of documentation_chunks.
alter table public.document_chunks alter column words set storage main;

create index document_chunks_by_user on public.document_chunks (user_id) where user_id is not null;
create index document_chunks_by_organization
on public.document_chunks (organization_id) where organization_id is not null;
create index document_chunks_by_word on public.document_chunks using gin (words);
create index document_chunks_by_likeness
on public.document_chunks using hnsw (embedding extensions.halfvec_cosine_ops)
where embedding is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security
-- ---------------------------------------------------------------------------------------------------------------

grant select, delete on public.documents to authenticated;
grant insert (id, organization_id, name, original_filename, mime_type, file_size, metadata)
on public.documents to authenticated;
grant update (name, metadata) on public.documents to authenticated;
grant select on public.documents to service_role;
grant select on public.document_chunks to authenticated, service_role;

alter table public.documents enable row level security;
alter table public.document_chunks enable row level security;

create policy "Users read their own documents, members those of their organization"
on public.documents for select to authenticated
using (
  (organization_id is null and user_id = (select private.active_user_id()))
  or organization_id = any(array(select private.my_organization_ids()))
);

create policy "Users add documents for themselves and for their organizations"
on public.documents for insert to authenticated
with check (
  user_id = (select private.active_user_id())
  and (organization_id is null or organization_id = any(array(select private.my_organization_ids())))
);

create policy "Authors change their documents, admins those of their organization"
on public.documents for update to authenticated
using (
  (
    user_id = (select private.active_user_id())
    and (organization_id is null or organization_id = any(array(select private.my_organization_ids())))
  )
  or organization_id = any(array(select private.my_admin_organization_ids()))
)
with check (
  user_id = (select private.active_user_id())
  or organization_id = any(array(select private.my_admin_organization_ids()))
);

create policy "Authors delete their documents, admins those of their organization"
on public.documents for delete to authenticated
using (
  (
    user_id = (select private.active_user_id())
    and (organization_id is null or organization_id = any(array(select private.my_organization_ids())))
  )
  or organization_id = any(array(select private.my_admin_organization_ids()))
);

create policy "Users read chunks of their own documents, members those of their organization"
on public.document_chunks for select to authenticated
using (
  (organization_id is null and user_id = (select private.active_user_id()))
  or organization_id = any(array(select private.my_organization_ids()))
);

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger documents_touch_updated_at before update on public.documents
for each row execute function private.touch_updated_at();

create function private.place_document() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_most bigint := (private.setting('document_max_bytes'))::bigint;
begin
  if new.file_size > v_most then
    perform private.fail(400, 'document_too_large', 'The document is too large.',
      jsonb_build_object('param', 'file_size', 'maximum', v_most));
  elsif not exists (
    select from storage.buckets as b where b.id = 'documents' and new.mime_type = any(b.allowed_mime_types)
  ) then
    perform private.fail(400, 'document_type_unknown', 'Documents of this type cannot be searched.',
      '{"param": "mime_type"}');
  end if;
  -- Where it lies is not the client's to say.
  new.storage_path := format(
    '%s/%s/%s', coalesce(new.organization_id, new.user_id), new.id,
    coalesce(nullif(btrim(regexp_replace(new.original_filename, '[^A-Za-z0-9._-]+', '_', 'g'), '.'), ''), 'file')
  );
  return new;
end
$$;

comment on function private.place_document() is
'Trigger: where the file of a document goes, in the folder of its owner; 400 document_too_large, document_type_unknown.';

create trigger documents_have_their_place
before insert on public.documents
for each row execute function private.place_document();

-- Not on user_id: erasing an author must not be refused because their organization's plan is full.
create trigger documents_stay_within_their_plan
before insert or update of organization_id on public.documents
for each row execute function private.refuse_rows_beyond_plan('max_documents', 'by clients');

create function private.forget_document_file() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Of one that is old nobody has an address to upload to: its file came, or it would have been deleted.
  if old.created_at > now() - make_interval(hours => (private.setting('document_upload_hours'))::integer + 3) then
    perform private.forget_upload('documents', old.storage_path);
  else
    perform private.forget_objects('documents', array[old.storage_path]);
  end if;
  return null;
end
$$;

comment on function private.forget_document_file() is 'Trigger: with a document goes its file.';

create trigger documents_leave_no_file
after delete on public.documents
for each row execute function private.forget_document_file();

create function private.delete_personal_documents() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.documents as d where d.user_id = old.id and d.organization_id is null;
  return old;
end
$$;

comment on function private.delete_personal_documents() is 'Trigger: a person''s own documents go with them; those of organizations stay, without an author.';

create trigger personal_documents_go_with_their_author
before delete on public.profiles
for each row execute function private.delete_personal_documents();

create function private.document_words(p_chunk public.document_chunks, p_name text) returns tsvector
language plpgsql immutable set search_path = ''
as $$
declare
  v_last integer := cardinality(p_chunk.headings);
  v_own text := case when v_last > 0 then p_chunk.headings[v_last] else p_name end;
  v_above text := concat_ws(
    ' ', case when v_last > 0 then p_name end, array_to_string(p_chunk.headings[:v_last - 1], ' ')
  );
begin
  -- Documents are in any language. What English makes of a word it makes of the same word in a question, too.
  return setweight(to_tsvector('pg_catalog.english', private.plain_words(v_own)), 'A')
    || setweight(to_tsvector('pg_catalog.english', private.plain_words(v_above)), 'B')
    || setweight(to_tsvector('pg_catalog.english', private.plain_words(p_chunk.content)), 'D')
    || array_to_tsvector(array[case
      when p_chunk.organization_id is not null then 'o:' || p_chunk.organization_id::text
      else 'u:' || p_chunk.user_id::text
    end]);
end
$$;

comment on function private.document_words(public.document_chunks, text) is
'What of a chunk is searched for. Whose it is is among it, so that the index looks at nobody else''s.';

-- ---------------------------------------------------------------------------------------------------------------
-- For clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.document_json(p_document public.documents) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return to_jsonb(p_document) - 'attempt';
end
$$;

comment on function private.document_json(public.documents) is 'A document as it is answered.';

create function private.seen_document(p_caller private.caller, p_id uuid, p_is_writing boolean) returns public.documents
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents;
begin
  select d.* into v_document
  from public.documents as d
  where d.id = p_id and (
    (d.organization_id is null and d.user_id = p_caller.user_id)
    or d.organization_id in (
      select o.id
      from private.organization_ids_of(
        p_caller.user_id, p_caller.organization_id,
        case
          when p_is_writing and d.user_id is distinct from p_caller.user_id then array['owner', 'admin']
          else array['owner', 'admin', 'member']
        end
      ) as o (id)
    )
  )
  for no key update;
  if v_document.id is null then
    perform private.fail(404, 'document_not_found', 'There is no such document.');
  end if;
  return v_document;
end
$$;

comment on function private.seen_document(private.caller, uuid, boolean) is
'Locks a document that the caller reads, or may change; 404 document_not_found for any other, whether there is one or not.';

create function private.queue_document(p_document public.documents) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents := p_document;
  v_size bigint;
begin
  select (o.metadata ->> 'size')::bigint into v_size
  from storage.objects as o
  where o.bucket_id = 'documents' and o.name = v_document.storage_path;
  if not found then
    perform private.fail(409, 'document_not_uploaded', 'The file of this document is not in Storage yet.',
      jsonb_build_object('storage_path', v_document.storage_path));
  elsif v_size > (private.setting('document_max_bytes'))::bigint then
    perform private.fail(400, 'document_too_large', 'The document is too large.',
      jsonb_build_object('maximum', private.setting('document_max_bytes')));
  end if;
  -- While a worker reads it, nothing is put in between: what it does next would be refused, and nobody would go on.
  if v_document.state = 'indexing' and exists (
    select
    from private.tasks as t
    where t.kind = 'document_index' and t.key = v_document.id::text and t.status in ('queued', 'running')
  ) then
    return private.document_json(v_document);
  end if;
  perform private.require_task_room(
    'document_index', coalesce(v_document.organization_id, v_document.user_id), 'document_indexes_per_day'
  );
  update public.documents as d
  set state = 'queued', progress = 0, error_code = null, error_message = null, file_size = coalesce(nullif(v_size, 0), d.file_size)
  where d.id = v_document.id
  returning d.* into v_document;
  perform private.task_enqueue(
    'document_index', jsonb_build_object('document_id', v_document.id), v_document.id::text, now(), 5,
    p_tenant => coalesce(v_document.organization_id, v_document.user_id)
  );
  return private.document_json(v_document);
end
$$;

comment on function private.queue_document(public.documents) is
'Has a document indexed, new or anew, whose file is there; 409 document_not_uploaded, 400 document_too_large, 429 rate_limited.';

create function private.my_document_uploaded(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.queue_document(private.seen_document(private.me(), p_id, true));
end
$$;

comment on function private.my_document_uploaded(uuid) is 'See public.document_uploaded.';

create function public.document_uploaded(p_id uuid) returns jsonb
language sql volatile set search_path = ''
as $$ select private.my_document_uploaded(p_id) $$;

comment on function public.document_uploaded(uuid) is
'Says that the file of one of your documents is in Storage, at its storage_path: it is indexed then, or again. 409 document_not_uploaded, 404 document_not_found, 429 rate_limited.';

create function private.find_documents_chunks(
  p_user_id uuid,
  p_organizations uuid[],
  p_document_ids uuid[],
  p_query text,
  p_embedding jsonb,
  p_embedding_model text,
  p_flagged text
) returns private.search_hit[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_depth constant integer := 100;
  v_k constant double precision := 10;
  v_share double precision := private.vector_share(p_embedding_model);
  v_embedding extensions.halfvec := private.padded_vector(p_embedding);
  v_with_flagged boolean := p_flagged = 'down';
  v_required tsquery := private.required_terms(p_query);
  v_whose tsquery;
  v_terms private.search_term[] := private.search_terms(p_query);
  v_any tsquery;
begin
  if p_flagged is null or p_flagged not in ('down', 'exclude') then
    perform private.fail(400, 'invalid_argument', 'What is flagged is ranked down, or excluded.', '{"param": "flagged"}');
  elsif char_length(p_query) > 10000 then
    perform private.fail(400, 'invalid_argument', 'The question is too long.', '{"param": "query", "maximum": 10000}');
  end if;
  v_whose := (
    select string_agg(format('%L', w.word), ' | ')::tsquery
    from (
      select 'u:' || p_user_id::text as word where p_user_id is not null
      union all
      select 'o:' || o.id::text from unnest(p_organizations) as o (id)
    ) as w
  );
  if v_whose is null then
    return '{}';
  end if;
  v_any := (select string_agg(t.query::text, ' | ')::tsquery from unnest(v_terms) as t);
  v_any := case when querytree(v_required) <> 'T' then v_required else v_any && coalesce(v_required, v_any) end;

  perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
  perform set_config('hnsw.ef_search', '200', true);
  perform set_config('hnsw.max_scan_tuples', '100000', true);
  return array(
    with matched as materialized (
      -- A copy of the words in memory, as in private.text_ranks. Bounded: the words of documents are not counted
      -- ahead, as those of libraries are.
      select c.id, c.words || ''::tsvector as words, c.token_count
      from public.document_chunks as c
      inner join public.documents as d on d.id = c.document_id
      where c.words @@ (v_whose && v_any) and d.state = 'ready'
        and (p_document_ids is null or c.document_id = any(p_document_ids))
        and (v_with_flagged or cardinality(c.flags) = 0)
      limit 5000
    ),

    weighed as (
      select array_agg(
        row(
          t.query, t.word, t.is_prefix, ln(1 + (a.chunks - n.chunks + 0.5) / (n.chunks + 0.5)), n.chunks
        )::private.search_term
      ) as terms
      from unnest(v_terms) as t
      cross join (select count(*)::double precision as chunks from matched) as a
      cross join lateral (select count(*) as chunks from matched as m where m.words @@ t.query) as n
    ),

    best as (
      select b.id, b.words, b.length
      from (
        select m.id, m.words, m.token_count / greatest(avg(m.token_count) over (), 1)::double precision as length, (
          select sum(t.weight * ts_rank('{0.4, 0.2, 0.1, 1.0}', m.words, t.query))
          from weighed as w
          cross join unnest(w.terms) as t
        ) as rough
        from matched as m
      ) as b
      order by b.rough desc nulls last, b.id
      limit v_depth
    ),

    texts as (
      select s.id, row_number() over (order by s.score desc, s.id) as place
      from (select array_agg(b.id) as ids, array_agg(b.words) as words, array_agg(b.length) as lengths from best as b) as a
      cross join weighed as w
      cross join lateral private.word_scores(a.ids, a.words, a.lengths, w.terms) as s (id, score)
    ),

    nearest as (
      select c.id, c.embedding operator(extensions.<=>) v_embedding as distance
      from public.document_chunks as c
      where v_embedding is not null and c.embedding is not null
        and (
          (c.organization_id is null and c.user_id = p_user_id) or c.organization_id = any(p_organizations)
        )
        and (p_document_ids is null or c.document_id = any(p_document_ids))
        and (v_with_flagged or cardinality(c.flags) = 0)
        and (
          select d.state = 'ready' and d.embedding_model = p_embedding_model
          from public.documents as d
          where d.id = c.document_id
        )
      order by c.embedding operator(extensions.<=>) v_embedding
      limit v_depth * 2
    ),

    vectors as (
      select n.id, row_number() over (order by n.distance, n.id) as place
      from nearest as n
      order by n.distance, n.id
      limit v_depth
    )

    select row(
      f.id, f.score * case when cardinality(c.flags) > 0 then 0.01 else 1 end, f.text_place, f.vector_place
    )::private.search_hit
    from (
      select
        coalesce(t.id, v.id) as id, coalesce(1 / (v_k + t.place), 0) + coalesce(v_share / (v_k + v.place), 0) as score,
        t.place as text_place, v.place as vector_place
      from texts as t
      full outer join vectors as v on v.id = t.id
    ) as f
    inner join public.document_chunks as c on c.id = f.id
    order by f.score * case when cardinality(c.flags) > 0 then 0.01 else 1 end desc, f.text_place, f.id
    limit v_depth
  );
end
$$;

comment on function private.find_documents_chunks(uuid, uuid[], uuid[], text, jsonb, text, text) is
'Chunks that answer a question, among the documents of a person and of organizations; document ids only narrow it. Words and vectors fused as in private.find_chunks.';

create function private.find_my_documents_chunks(
  p_document_ids uuid[], p_query text, p_embedding jsonb, p_embedding_model text, p_flagged text
) returns private.search_hit[]
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.find_documents_chunks(
    private.active_user_id(), array(select private.my_organization_ids()), p_document_ids, p_query, p_embedding,
    p_embedding_model, p_flagged
  );
end
$$;

comment on function private.find_my_documents_chunks(uuid[], text, jsonb, text, text) is
'private.find_documents_chunks, among what the caller may read.';

create function private.documents_answer(p_hits private.search_hit[], p_tokens integer, p_limit integer) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_budget integer := private.answer_tokens(p_tokens);
  v_left integer := v_budget;
  v_most integer := least(greatest(coalesce(p_limit, 20), 1), 100);
  v_ids uuid[] := '{}';
  v_hashes text[] := '{}';
  v_hit record;
begin
  for v_hit in
    select h.chunk_id, c.token_count, c.content_hash
    from unnest(p_hits) with ordinality as h
    inner join public.document_chunks as c on c.id = h.chunk_id
    order by h.ordinality
  loop
    exit when cardinality(v_ids) >= v_most;
    continue when v_hit.content_hash = any(v_hashes) or v_hit.token_count > v_left;
    v_ids := v_ids || v_hit.chunk_id;
    v_hashes := v_hashes || v_hit.content_hash;
    v_left := v_left - v_hit.token_count;
  end loop;
  return jsonb_build_object(
    'tokens', v_budget - v_left,
    'results', coalesce((
      select jsonb_agg(g.result order by g.place)
      from (
        select
          min(n.place) as place,
          jsonb_build_object(
            'document_id', n.document_id, 'name', n.name,
            'pages', coalesce(jsonb_agg(distinct n.page) filter (where n.page is not null), '[]'),
            'headings', jsonb_agg(to_jsonb(n.headings) order by n.chunk_index) -> 0,
            'content', string_agg(n.content, E'\n\n' order by n.chunk_index),
            'tokens', sum(n.token_count),
            'chunk_ids', jsonb_agg(n.id order by n.chunk_index),
            'first_index', min(n.chunk_index),
            'score', round(max(n.score)::numeric, 6),
            'text_place', min(n.text_place), 'vector_place', min(n.vector_place),
            'flags', to_jsonb(array_remove(
              string_to_array(string_agg(array_to_string(n.flags, ' '), ' ' order by n.chunk_index), ' '), ''
            ))
          ) as result
        from (
          select
            c.*, d.name, i.place, h.score, h.text_place, h.vector_place,
            c.chunk_index - row_number() over (partition by c.document_id order by c.chunk_index) as run
          from unnest(v_ids) with ordinality as i (id, place)
          inner join public.document_chunks as c on c.id = i.id
          inner join public.documents as d on d.id = c.document_id
          inner join unnest(p_hits) as h on h.chunk_id = i.id
        ) as n
        -- What is cited is on one page.
        group by n.document_id, n.name, n.page, n.run
      ) as g
    ), '[]')
  );
end
$$;

comment on function private.documents_answer(private.search_hit[], integer, integer) is
'Chunks that were found, as they are answered: with document and pages to cite, none twice, neighbours on a page as one passage, within a number of tokens. As the caller, so that row level security decides what is read.';

create function public.search_documents(
  p_query text,
  p_document_ids uuid[] default null,
  p_tokens integer default null,
  p_embedding jsonb default null,
  p_embedding_model text default null,
  p_flagged text default 'down',
  p_limit integer default 20
) returns jsonb
language sql volatile set search_path = ''
as $$
  select private.documents_answer(
    private.find_my_documents_chunks(p_document_ids, p_query, p_embedding, p_embedding_model, p_flagged),
    p_tokens, p_limit
  )
$$;

comment on function public.search_documents(text, uuid[], integer, jsonb, text, text, integer) is
'Passages of your documents, and of those of your organizations, for a question, best first, within p_tokens; p_document_ids narrows it. By words, and by meaning with a vector made by the model of the documents.';

grant execute on function private.my_document_uploaded(uuid) to authenticated;
grant execute on function private.find_my_documents_chunks(uuid[], text, jsonb, text, text) to authenticated;
grant execute on function private.documents_answer(private.search_hit[], integer, integer) to authenticated;
grant execute on function public.document_uploaded(uuid) to authenticated;
grant execute on function public.search_documents(text, uuid[], integer, jsonb, text, text, integer) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- For functions
-- ---------------------------------------------------------------------------------------------------------------

create function backend.document_add(
  p_values jsonb, p_user_id uuid default null, p_key_hash text default null, p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'documents', p_organization);
  v_document public.documents;
  v_constraint text;
begin
  insert into public.documents (user_id, organization_id, name, original_filename, mime_type, file_size, metadata)
  values (
    v_caller.user_id, v_caller.organization_id, coalesce(p_values ->> 'name', p_values ->> 'original_filename'),
    p_values ->> 'original_filename', p_values ->> 'mime_type', (p_values ->> 'file_size')::bigint,
    coalesce(p_values -> 'metadata', '{}')
  )
  returning * into v_document;
  return private.document_json(v_document);
exception
  when check_violation or not_null_violation then
    get stacked diagnostics v_constraint = constraint_name;
    perform private.fail(400, 'invalid_argument', 'A value of the document is not allowed.',
      jsonb_build_object('constraint', v_constraint));
end
$$;

comment on function backend.document_add(jsonb, uuid, text, text) is
'Adds a document (an API key needs the scope documents): where its file goes is storage_path of the answer. 402 plan_limit_reached, 400 document_too_large, document_type_unknown.';

create function backend.document_uploaded(p_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.queue_document(
    private.seen_document(private.actor(p_user_id, p_key_hash, 'documents', null), p_id, true)
  );
end
$$;

comment on function backend.document_uploaded(uuid, uuid, text) is 'Says that the file of a document is in Storage, and has it indexed, or indexed again. 409 document_not_uploaded, 404 document_not_found, 429 rate_limited.';

create function backend.document_read(p_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.document_json(
    private.seen_document(private.actor(p_user_id, p_key_hash, 'documents', null), p_id, false)
  );
end
$$;

comment on function backend.document_read(uuid, uuid, text) is 'A document; 404 document_not_found.';

create function backend.document_list(
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_limit integer default 50,
  p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'documents', p_organization);
  v_limit integer := private.page_limit(p_limit, 100);
  v_found jsonb;
begin
  select coalesce(jsonb_agg(private.document_json(l.document) order by (l.document).id desc), '[]') into v_found
  from (
    select d as document
    from public.documents as d
    where case
      when v_caller.organization_id is not null then d.organization_id = v_caller.organization_id
      else d.user_id = v_caller.user_id and d.organization_id is null
    end
    and (p_after is null or d.id < p_after)
    order by d.id desc
    limit v_limit + 1
  ) as l;
  return jsonb_build_object(
    'documents', case when jsonb_array_length(v_found) > v_limit then v_found - v_limit else v_found end,
    'next', case when jsonb_array_length(v_found) > v_limit then v_found #> array[(v_limit - 1)::text, 'id'] end
  );
end
$$;

comment on function backend.document_list(uuid, text, text, integer, uuid) is
'Documents of a person, or of the organization they name, newest first; next is the p_after of the next page.';

create function backend.document_delete(p_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents := private.seen_document(
    private.actor(p_user_id, p_key_hash, 'documents', null), p_id, true
  );
begin
  delete from public.documents as d where d.id = v_document.id;
  return jsonb_build_object('id', p_id, 'deleted', true);
end
$$;

comment on function backend.document_delete(uuid, uuid, text) is
'Deletes a document with its chunks; its file is deleted from Storage afterwards. 404 document_not_found.';

create function private.searched_organizations(p_caller private.caller, p_organization text) returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_organization is not null then
    return array[p_caller.organization_id];
  end if;
  return array(select o.id from private.organization_ids_of(p_caller.user_id, p_caller.organization_id) as o (id));
end
$$;

comment on function private.searched_organizations(private.caller, text) is
'Whose documents a caller searches beside their own: their organizations'', or of one that they name those alone.';

create function backend.document_search_begin(
  p_document_ids uuid[] default null,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_tool record := private.tool_caller(p_user_id, p_key_hash, 'documents', p_organization);
  v_caller private.caller := v_tool.caller;
  v_organizations uuid[] := private.searched_organizations(v_caller, p_organization);
  v_model text;
begin
  -- Most of what is searched has vectors of one model; the rest is found by its words.
  select m.model into v_model
  from (
    select d.embedding_model as model, sum(d.chunk_count) as chunks
    from public.documents as d
    where d.state = 'ready' and d.embedding_model is not null
      and (
        (p_organization is null and d.organization_id is null and d.user_id = v_caller.user_id)
        or d.organization_id = any(v_organizations)
      )
      and (p_document_ids is null or d.id = any(p_document_ids))
    group by d.embedding_model
  ) as m
  order by m.chunks desc, m.model
  limit 1;
  return jsonb_build_object('embedding_model', v_model) || v_tool.rate_limit;
end
$$;

comment on function backend.document_search_begin(uuid[], uuid, text, text) is
'Counts a search of documents against the limits of an API key, and says with which model a vector of the question is made for document_search(); null for none. 429 rate_limited.';

create function backend.document_search(
  p_query text,
  p_document_ids uuid[] default null,
  p_tokens integer default null,
  p_embedding jsonb default null,
  p_embedding_model text default null,
  p_flagged text default 'down',
  p_limit integer default 20,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_client jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_started_at timestamptz := clock_timestamp();
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'documents', p_organization);
  v_answer jsonb;
begin
  v_answer := private.documents_answer(
    private.find_documents_chunks(
      case when p_organization is null then v_caller.user_id end,
      private.searched_organizations(v_caller, p_organization), p_document_ids, p_query, p_embedding,
      p_embedding_model, p_flagged
    ),
    p_tokens, p_limit
  );
  perform private.note_tool_use(
    v_caller, 'search-documents', 'document', null, p_query, (v_answer ->> 'tokens')::integer, v_started_at, p_client
  );
  return v_answer;
end
$$;

comment on function backend.document_search(
  text, uuid[], integer, jsonb, text, text, integer, uuid, text, text, jsonb
) is 'Passages for a question, of what the caller may read: their own documents and those of their organizations, or those of one that they name; ids only narrow it. With its usage row; p_client: ip, user_agent, spent_ms.';

create function backend.document_begin(
  p_id uuid, p_embedding_model text default null, p_dimensions integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents;
begin
  update public.documents as d
  set state = 'indexing', progress = 0, attempt = d.attempt + 1, error_code = null, error_message = null, embedding_model = p_embedding_model,
    dimensions = p_dimensions
  where d.id = p_id
    -- What was given up an operator may have tried again.
    and (d.state in ('queued', 'indexing') or d.error_code = 'index_given_up')
  returning d.* into v_document;
  if v_document.id is null then
    return null;
  end if;
  -- An attempt that was lost may have left some. Nobody has seen them.
  delete from public.document_chunks as c where c.document_id = p_id;
  return to_jsonb(v_document);
end
$$;

comment on function backend.document_begin(uuid, text, integer) is
'Begins to index a document, anew: everything that a worker needs to know; null where there is nothing to do any more.';

create function private.indexed_document(p_id uuid, p_attempt integer) returns public.documents
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents;
begin
  select d.* into v_document from public.documents as d where d.id = p_id for no key update;
  if v_document.id is null then
    perform private.fail(404, 'document_not_found', 'There is no such document.');
  elsif v_document.state <> 'indexing' then
    perform private.fail(409, 'document_not_indexing', 'This document is not being indexed.',
      jsonb_build_object('state', v_document.state));
  elsif v_document.attempt <> p_attempt then
    perform private.fail(409, 'document_not_indexing', 'This document is being indexed by another attempt.',
      jsonb_build_object('state', v_document.state, 'attempt', v_document.attempt));
  end if;
  return v_document;
end
$$;

comment on function private.indexed_document(uuid, integer) is
'Locks a document that this attempt indexes, null for whichever does. 404 document_not_found, 409 document_not_indexing.';

create function backend.document_chunks_put(
  p_id uuid, p_chunks jsonb, p_progress integer default null, p_attempt integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '5min'
as $$
declare
  v_document public.documents := private.indexed_document(p_id, p_attempt);
  v_most integer := (private.setting('document_max_chunks'))::integer;
  v_count integer;
  v_constraint text;
begin
  if jsonb_typeof(p_chunks) is distinct from 'array' or jsonb_array_length(p_chunks) > 2000 then
    perform private.fail(400, 'invalid_argument', 'Chunks are a list of at most 2,000.', '{"param": "chunks"}');
  end if;
  begin
    insert into public.document_chunks as d (
      document_id, user_id, organization_id, chunk_index, page, headings, content, token_count, content_hash, flags,
      metadata, embedding, words
    )
    select r.document_id, r.user_id, r.organization_id, r.chunk_index, r.page, r.headings, r.content, r.token_count,
      r.content_hash, r.flags, r.metadata, r.embedding, private.document_words(r, v_document.name)
    from jsonb_to_recordset(p_chunks) as c (
      chunk_index integer, page integer, headings jsonb, content text, token_count integer, flags jsonb, metadata jsonb,
      embedding jsonb
    )
    cross join lateral (
      select (jsonb_populate_record(null::public.document_chunks, jsonb_build_object(
        'document_id', p_id, 'user_id', v_document.user_id, 'organization_id', v_document.organization_id,
        'chunk_index', c.chunk_index, 'page', c.page, 'headings', coalesce(nullif(c.headings, 'null'), '[]'),
        'content', c.content, 'token_count', c.token_count,
        'content_hash', private.chunk_hash(v_document.name, coalesce(private.texts(c.headings), '{}'), c.content),
        'flags', coalesce(nullif(c.flags, 'null'), '[]'), 'metadata', coalesce(nullif(c.metadata, 'null'), '{}'),
        'embedding', private.padded_vector(c.embedding)::text
      ))).*
    ) as r
    order by r.chunk_index
    on conflict (document_id, chunk_index) do update
    set page = excluded.page, headings = excluded.headings, content = excluded.content,
      token_count = excluded.token_count, content_hash = excluded.content_hash, flags = excluded.flags,
      metadata = excluded.metadata, embedding = coalesce(excluded.embedding, d.embedding), words = excluded.words;
  exception
    when check_violation or not_null_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.fail(400, 'invalid_argument', 'A chunk is not allowed as it is.',
        jsonb_build_object('param', 'chunks', 'constraint', v_constraint));
  end;
  select count(*) into v_count from public.document_chunks as c where c.document_id = p_id;
  if v_count > v_most then
    perform private.fail(400, 'document_too_large', 'The document has too many chunks.', jsonb_build_object('maximum', v_most));
  end if;
  update public.documents as d
  set progress = greatest(d.progress, least(greatest(coalesce(p_progress, 0), 0), 99))
  where d.id = p_id;
  return jsonb_build_object('chunks', v_count);
end
$$;

comment on function backend.document_chunks_put(uuid, jsonb, integer, integer) is
'Puts chunks of a document that is being indexed: {chunk_index, page, headings, content, token_count, flags, metadata, embedding}, at most 2,000. Idempotent by chunk_index. 409 document_not_indexing, 404, 400 document_too_large.';

create function backend.document_finish(
  p_id uuid, p_page_count integer default null, p_attempt integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents := private.indexed_document(p_id, p_attempt);
begin
  update public.documents as d
  set state = 'ready', progress = 100, indexed_at = clock_timestamp(), page_count = p_page_count,
    (chunk_count, token_count) = (
      select count(*), coalesce(sum(c.token_count), 0) from public.document_chunks as c where c.document_id = p_id
    )
  where d.id = p_id
  returning d.* into v_document;
  return private.document_json(v_document);
end
$$;

comment on function backend.document_finish(uuid, integer, integer) is
'Ends an index well: the document is searched from now on. 409 document_not_indexing, 404 document_not_found.';

create function backend.document_fail(
  p_id uuid,
  p_error_code text,
  p_error_message text,
  p_is_file_deleted boolean default false,
  p_attempt integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_document public.documents;
begin
  update public.documents as d
  set state = 'failed', error_code = p_error_code, error_message = left(p_error_message, 500), chunk_count = 0,
    token_count = 0
  where d.id = p_id and d.state in ('queued', 'indexing')
    and (p_attempt is null or d.attempt = p_attempt)
  returning d.* into v_document;
  if v_document.id is not null then
    delete from public.document_chunks as c where c.document_id = p_id;
    if p_is_file_deleted then
      perform private.forget_upload('documents', v_document.storage_path);
    end if;
  end if;
  return jsonb_build_object('state', coalesce(v_document.state, 'gone'));
end
$$;

comment on function backend.document_fail(uuid, text, text, boolean, integer) is 'Ends an index that cannot be made: why, for people; what an attempt says that is not the latest is not heard. A file that nobody should have is deleted.';

create function private.end_index_of_task() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform backend.document_fail(
    d.id, 'index_given_up', 'It was tried several times, and did not come to an end.'
  )
  from public.documents as d
  where d.id::text = new.payload ->> 'document_id';
  return null;
end
$$;

comment on function private.end_index_of_task() is
'Trigger: an index ends with its task, however that ends. What the task itself has ended is left alone.';

create trigger indexes_end_with_their_task
after update of status on private.tasks
for each row when (new.kind = 'document_index' and new.status in ('dead', 'cancelled') and old.status <> new.status)
execute function private.end_index_of_task();

create function backend.documents_expire(p_limit integer default 200) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from public.documents as d
  where d.id in (
    select o.id
    from public.documents as o
    where o.state = 'uploading'
      and o.created_at < now() - make_interval(hours => (private.setting('document_upload_hours'))::integer)
    order by o.created_at
    limit least(greatest(p_limit, 1), 1000)
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.documents_expire(integer) is 'Deletes documents whose file never came.';

grant execute on function backend.document_add(jsonb, uuid, text, text) to service_role;
grant execute on function backend.document_uploaded(uuid, uuid, text) to service_role;
grant execute on function backend.document_read(uuid, uuid, text) to service_role;
grant execute on function backend.document_list(uuid, text, text, integer, uuid) to service_role;
grant execute on function backend.document_delete(uuid, uuid, text) to service_role;
grant execute on function backend.document_search_begin(uuid[], uuid, text, text) to service_role;
grant execute on function backend.document_search(
  text, uuid[], integer, jsonb, text, text, integer, uuid, text, text, jsonb
) to service_role;
grant execute on function backend.document_begin(uuid, text, integer) to service_role;
grant execute on function backend.document_chunks_put(uuid, jsonb, integer, integer) to service_role;
grant execute on function backend.document_finish(uuid, integer, integer) to service_role;
grant execute on function backend.document_fail(uuid, text, text, boolean, integer) to service_role;
grant execute on function backend.documents_expire(integer) to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Storage
-- ---------------------------------------------------------------------------------------------------------------

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values (
  'documents', 'documents', false, 52428800,
  array[
    'application/pdf', 'application/vnd.openxmlformats-officedocument.wordprocessingml.document', 'text/plain',
    'text/markdown', 'text/html', 'text/csv', 'text/x-rst', 'text/asciidoc', 'application/json', 'application/yaml',
    'application/x-ipynb+json'
  ]
)
on conflict (id) do nothing;

-- An object is a document's, in the folder of its owner: <owner>/<document>/<name>. Row level security of documents
-- says whose that is; one without a row cannot be put in.
create policy "Users read the files of documents that they read"
on storage.objects for select to authenticated
using (
  bucket_id = 'documents'
  and exists (select from public.documents as d where d.storage_path = objects.name)
);

create policy "Users put in the files of their new documents"
on storage.objects for insert to authenticated
with check (
  bucket_id = 'documents'
  and exists (
    select
    from public.documents as d
    where d.storage_path = objects.name and d.state = 'uploading' and d.user_id = (select private.active_user_id())
  )
);
