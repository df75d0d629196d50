-- Libraries: what functions/ call, one function per use case.
--
--   library_add, library_move, library_delete, libraries_due       which libraries there are, and when they are crawled
--   library_version_begin, library_chunks_put, library_progress,
--   library_version_finish, library_version_fail                   a crawl
--   library_embeddings_missing, library_embeddings_put, library_reembed   vectors
--   library_resolve, library_query_begin, library_query            the tools, with their cache and their usage row

-- ---------------------------------------------------------------------------------------------------------------
-- Who writes what
-- ---------------------------------------------------------------------------------------------------------------

create function private.written_library(
  p_library_id text, p_user_id uuid, p_key_hash text, p_actor text
) returns public.libraries
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller;
  v_library public.libraries;
begin
  select l.* into v_library from public.libraries as l where l.id = lower(p_library_id) for no key update;
  if num_nonnulls(p_user_id, p_key_hash) > 0 then
    v_caller := private.actor(p_user_id, p_key_hash, 'libraries', null);
    -- Nobody learns which ids others have.
    if v_library.organization_id is null or not exists (
      select from private.organization_ids_of(v_caller.user_id, v_caller.organization_id, '{owner,admin}') as o (id)
      where o.id = v_library.organization_id
    ) then
      v_library := null;
    end if;
  elsif coalesce(btrim(p_actor), '') = '' then
    perform private.fail(400, 'invalid_argument', 'Say who does this: a person, a key or an operator.');
  end if;
  if v_library.id is null then
    perform private.fail(404, 'library_not_found', 'There is no such library.', '{"param": "library_id"}');
  end if;
  return v_library;
end
$$;

comment on function private.written_library(text, uuid, text, text) is
'Locks a library for whoever may change it: an operator, or of a private one an admin of its organization or its key (scope libraries). 404 library_not_found for anybody else.';

create function private.crawl_key(p_library public.libraries) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return p_library.id || ' ' || p_library.source_id::text;
end
$$;

comment on function private.crawl_key(public.libraries) is
'Key of the task that crawls a library: another one for another source, so that no crawl of the old one stands for it.';

create function private.crawl_library(p_library_id text) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries;
begin
  select l.* into v_library from public.libraries as l where l.id = p_library_id;
  return private.task_enqueue(
    'library_crawl', jsonb_build_object('library_id', v_library.id, 'source_id', v_library.source_id),
    private.crawl_key(v_library), now(), 5, p_tenant => v_library.organization_id
  );
end
$$;

comment on function private.crawl_library(text) is 'Has a library crawled after this transaction, once.';

create function private.next_refresh(p_source_kind text, p_refresh_seconds integer) returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  return case
    -- What was handed over once does not change by itself.
    when p_source_kind not in ('archive', 'folder')
      then now() + make_interval(secs => coalesce(p_refresh_seconds, (private.setting('library_refresh_seconds'))::integer))
  end;
end
$$;

comment on function private.next_refresh(text, integer) is
'When a library that is crawled now is crawled again; null for one that was uploaded.';

create function private.is_uploaded_by_its_owner(p_source_kind text, p_organization_id uuid) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  return p_source_kind = 'archive' and p_organization_id is not null;
end
$$;

comment on function private.is_uploaded_by_its_owner(text, uuid) is
'Whether the source of a library is an archive that its organization uploads.';

create function backend.library_add(
  p_id text,
  p_title text,
  p_source_kind text,
  p_source_url text default null,
  p_values jsonb default '{}',
  p_organization text default null,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller;
  v_organization_id uuid;
  v_source_url text := p_source_url;
  v_library public.libraries;
  v_constraint text;
begin
  if num_nonnulls(p_user_id, p_key_hash) > 0 then
    v_caller := private.actor(p_user_id, p_key_hash, 'libraries', p_organization);
    v_organization_id := v_caller.organization_id;
    if v_organization_id is null then
      perform private.fail(400, 'invalid_argument', 'A private library belongs to an organization.',
        '{"param": "organization"}');
    elsif v_caller.user_id is not null then
      perform private.require_admin(v_caller.user_id, v_organization_id::text);
    end if;
    perform private.require_task_room('library_crawl', v_organization_id, 'library_crawls_per_day');
    if p_source_kind = 'folder' then
      perform private.fail(400, 'invalid_argument', 'A folder is an operator''s: upload an archive of it.',
        '{"param": "source_kind"}');
    elsif p_source_kind = 'archive' and p_source_url is not null then
      perform private.fail(400, 'invalid_argument', 'Where an archive is put, its owner does not say.',
        '{"param": "source_url"}');
    elsif p_source_kind = 'archive' then
      v_source_url := format('uploads/%s/%s', v_organization_id, private.uuid7());
    end if;
  else
    perform private.record_operator_action(p_actor, 'library_add', 'library:' || p_id, null, p_values, null);
  end if;
  begin
    insert into public.libraries (
      id, organization_id, title, source_kind, source_url, description, docs_url, aliases, popularity_score,
      trust_score, refresh_seconds, metadata, state, crawl_asked_at
    )
    values (
      lower(p_id), v_organization_id, btrim(p_title), p_source_kind, v_source_url,
      coalesce(p_values ->> 'description', ''), p_values ->> 'docs_url',
      array(select a.alias from jsonb_array_elements_text(coalesce(p_values -> 'aliases', '[]')) as a (alias)),
      -- How popular and how trusted a library is, its owner does not say.
      case when v_organization_id is null then coalesce((p_values ->> 'popularity_score')::integer, 0) else 0 end,
      case when v_organization_id is null then coalesce((p_values ->> 'trust_score')::numeric, 5) else 5 end,
      (p_values ->> 'refresh_seconds')::integer, coalesce(p_values -> 'metadata', '{}'),
      case when private.is_uploaded_by_its_owner(p_source_kind, v_organization_id) then 'uploading' else 'queued' end,
      case when not private.is_uploaded_by_its_owner(p_source_kind, v_organization_id) then now() end
    )
    returning * into v_library;
  exception
    when unique_violation then
      perform private.fail(409, 'library_id_taken', 'There is a library of this id.', '{"param": "id"}');
    when check_violation or not_null_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.fail(400, 'invalid_argument', 'A value of the library is not allowed.',
        jsonb_build_object('constraint', v_constraint));
  end;
  if v_library.state = 'uploading' then
    return private.library_answer(v_library) || jsonb_build_object('upload_path', v_library.source_url);
  end if;
  return private.library_answer(v_library) || jsonb_build_object('task_id', private.crawl_library(v_library.id));
end
$$;

comment on function backend.library_add(text, text, text, text, jsonb, text, uuid, text, text) is
'Adds a library and has it crawled: a public one for an operator (p_actor), a private one for an admin of the organization, or its API key. The archive of a private one is to be uploaded first, to upload_path of the answer (library_uploaded). p_values: description, docs_url, aliases, refresh_seconds, metadata; for operators popularity_score and trust_score. 409 library_id_taken, 402 plan_limit_reached, 429 rate_limited, 400 invalid_argument.';

create function backend.library_source_put(p_id text, p_source_url text, p_actor text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.written_library(p_id, null, null, p_actor);
begin
  if v_library.source_kind not in ('archive', 'folder') or v_library.organization_id is not null then
    perform private.fail(409, 'library_is_no_upload', 'Only what was uploaded is uploaded anew.',
      jsonb_build_object('source_kind', v_library.source_kind));
  end if;
  -- A crawl of what was there before is heard no more.
  update public.libraries as l
  set source_url = p_source_url, source_id = private.uuid7()
  where l.id = v_library.id;
  update public.library_versions as v
  set next_crawl = null, state = case when v.crawl > 0 then 'ready' else 'queued' end, progress = 0
  where v.library_id = v_library.id and v.next_crawl is not null;
  perform private.record_operator_action(
    p_actor, 'library_source_put', 'library:' || v_library.id, jsonb_build_object('source_url', v_library.source_url),
    jsonb_build_object('source_url', p_source_url), null
  );
  -- Operators name objects as they like: another library may be of the same.
  if not exists (
    select from public.libraries as l where l.source_kind in ('archive', 'folder') and l.source_url = v_library.source_url
  ) then
    perform private.forget_objects('libraries', array[v_library.source_url]);
  end if;
  return jsonb_build_object('library_id', v_library.id, 'task_id', private.crawl_library(v_library.id));
end
$$;

comment on function backend.library_source_put(text, text, text) is
'Says that the archive of an uploaded library is another object, and has it crawled, for an operator. The one before is deleted. 409 library_is_no_upload, also for what an organization uploads, 404 library_not_found.';

create function backend.library_move(p_id text, p_moved_to text, p_actor text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries;
begin
  -- Two that are to lead to each other are locked in one order, so that the second sees what the first did.
  perform l.id from public.libraries as l where l.id in (lower(p_id), lower(p_moved_to)) order by l.id for no key update;
  v_library := private.written_library(p_id, null, null, p_actor);
  -- It leads to one that is there, for everybody who saw the old one, and that leads nowhere else.
  if p_moved_to is not null and not exists (
    select from public.libraries as l
    where l.id = lower(p_moved_to) and l.id <> v_library.id and l.moved_to is null
      and (l.organization_id is null or l.organization_id = v_library.organization_id)
  ) then
    perform private.fail(404, 'library_not_found', 'There is no such library to move to.', '{"param": "moved_to"}');
  end if;
  update public.libraries as l
  set moved_to = lower(p_moved_to), next_refresh_at = case when p_moved_to is null then l.next_refresh_at end
  where l.id = v_library.id;
  -- Those that led here lead there.
  update public.libraries as l
  set moved_to = lower(p_moved_to)
  where l.moved_to = v_library.id and p_moved_to is not null and l.id <> lower(p_moved_to);
  perform private.record_operator_action(
    p_actor, 'library_move', 'library:' || v_library.id, jsonb_build_object('moved_to', v_library.moved_to),
    jsonb_build_object('moved_to', lower(p_moved_to)), null
  );
  return jsonb_build_object('library_id', v_library.id, 'moved_to', lower(p_moved_to));
end
$$;

comment on function backend.library_move(text, text, text) is
'Says that a library was renamed, for an operator: who asks for it is told where it went. Null takes it back. 404 library_not_found.';

create function backend.library_delete(
  p_id text, p_user_id uuid default null, p_key_hash text default null, p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10min'
as $$
declare
  v_library public.libraries := private.written_library(p_id, p_user_id, p_key_hash, p_actor);
begin
  delete from public.libraries as l where l.id = v_library.id;
  if p_actor is not null then
    perform private.record_operator_action(
      p_actor, 'library_delete', 'library:' || v_library.id, jsonb_build_object('title', v_library.title), null, null
    );
  end if;
  return jsonb_build_object('library_id', v_library.id, 'deleted', true);
end
$$;

comment on function backend.library_delete(text, uuid, text, text) is
'Deletes a library with its versions, chunks and vectors; their snapshots are deleted from Storage afterwards. 404 library_not_found.';

create function backend.libraries_due(p_limit integer default 100) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids text[];
begin
  with due as materialized (
    select l.id
    from public.libraries as l
    where l.next_refresh_at <= now() and l.moved_to is null
    order by l.next_refresh_at
    limit least(greatest(p_limit, 1), 1000)
    for no key update skip locked
  ),

  taken as (
    update public.libraries as l
    set next_refresh_at = private.next_refresh(l.source_kind, l.refresh_seconds)
    from due
    where l.id = due.id
    returning l.id
  )

  select coalesce(array_agg(t.id order by t.id), '{}') into v_ids from taken as t;
  perform private.crawl_library(i.id) from unnest(v_ids) as i (id);
  return jsonb_build_object('count', cardinality(v_ids), 'library_ids', to_jsonb(v_ids));
end
$$;

comment on function backend.libraries_due(integer) is 'Has libraries crawled again whose time has come; which.';

-- ---------------------------------------------------------------------------------------------------------------
-- A crawl
-- ---------------------------------------------------------------------------------------------------------------

create function private.crawled_library(p_library_id text, p_source_id uuid) returns public.libraries
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.written_library(p_library_id, null, null, 'crawler');
begin
  if v_library.source_id <> p_source_id then
    perform private.fail(409, 'crawl_superseded', 'The source of this library is another one by now.');
  end if;
  return v_library;
end
$$;

comment on function private.crawled_library(text, uuid) is
'Locks a library for a crawl of this source; null for whichever it has. 404 library_not_found, 409 crawl_superseded.';

create function backend.library_version_begin(
  p_library_id text,
  p_version text,
  p_embedding_model text default null,
  p_dimensions integer default null,
  p_source_id uuid default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.crawled_library(p_library_id, p_source_id);
  v_version public.library_versions;
begin
  insert into public.library_versions as v (library_id, organization_id, version, embedding_model, dimensions, state, next_crawl)
  values (v_library.id, v_library.organization_id, p_version, p_embedding_model, p_dimensions, 'crawling', 1)
  on conflict (library_id, version) do update
  set state = 'crawling', progress = 0, error_code = null, error_message = null,
    -- What another crawl puts from now on is refused.
    next_crawl = greatest(v.crawl, coalesce(v.next_crawl, 0), (
      select coalesce(max(c.seen_in), 0) from public.documentation_chunks as c where c.library_version_id = v.id
    )) + 1,
    embedding_model = coalesce(v.embedding_model, excluded.embedding_model),
    dimensions = case when v.embedding_model is null then excluded.dimensions else v.dimensions end,
    next_embedding_model = case
      when excluded.embedding_model <> v.embedding_model then excluded.embedding_model else v.next_embedding_model
    end,
    next_dimensions = case
      when excluded.embedding_model <> v.embedding_model then excluded.dimensions else v.next_dimensions
    end
  returning v.* into v_version;
  update public.libraries as l
  set state = 'crawling', progress = 0, error_code = null, error_message = null
  where l.id = v_library.id;
  return jsonb_build_object(
    'version_id', v_version.id, 'library_id', v_library.id, 'version', v_version.version, 'crawl', v_version.next_crawl,
    'source_kind', v_library.source_kind, 'source_url', v_library.source_url, 'docs_url', v_library.docs_url,
    'etag', v_version.etag, 'source_revision', v_version.source_revision, 'is_first', v_version.crawl = 0,
    'embedding_model', coalesce(v_version.next_embedding_model, v_version.embedding_model),
    'dimensions', coalesce(v_version.next_dimensions, v_version.dimensions)
  );
exception
  when check_violation or not_null_violation then
    perform private.fail(400, 'invalid_argument', 'A version has a short name, and an embedding model its dimensions.');
end
$$;

comment on function backend.library_version_begin(text, text, text, integer, uuid) is
'Begins to crawl a version, new or anew: the number of the crawl, and what the source was the last time. Readers see what they saw. An embedding model other than the version''s is filled beside it. 404 library_not_found; 409 crawl_superseded where the source of the library (library_source) is another one by now.';

create function backend.library_source(p_library_id text) returns jsonb
language sql stable security definer set search_path = ''
as $$
  -- What it was the last time says nothing while that is not served, or has vectors of another model than it will.
  select jsonb_build_object(
    'library_id', l.id, 'source_id', l.source_id, 'source_kind', l.source_kind, 'source_url', l.source_url,
    'is_public', l.organization_id is null, 'version', v.version,
    'source_revision', v.source_revision, 'snapshot_path', v.snapshot_path, 'embedding_model', v.embedding_model
  )
  from public.libraries as l
  left join public.library_versions as v on v.library_id = l.id and v.is_latest
  where l.id = lower(p_library_id) and l.moved_to is null and l.state <> 'uploading'
$$;

comment on function backend.library_source(text) is
'Where the documentation of a library comes from, and what was crawled of its latest version; null where there is none yet, or it has moved.';

create function backend.library_unchanged(
  p_library_id text, p_version text, p_source_revision text, p_source_id uuid default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.crawled_library(p_library_id, p_source_id);
begin
  update public.library_versions as v
  set state = 'ready', progress = 100, error_code = null, error_message = null
  where v.library_id = v_library.id and v.version = p_version and v.source_revision = p_source_revision
    and v.crawl > 0 and v.next_crawl is null;
  if not found then
    return '{"is_unchanged": false}';
  end if;
  update public.libraries as l
  set state = 'ready', progress = 100, error_code = null, error_message = null, last_crawled_at = now(),
    next_refresh_at = private.next_refresh(l.source_kind, l.refresh_seconds)
  where l.id = v_library.id;
  return '{"is_unchanged": true}';
end
$$;

comment on function backend.library_unchanged(text, text, text, uuid) is
'Says that the source of a version is what was crawled the last time: it is asked again when its time comes. is_unchanged is false where that is not served. 404 library_not_found, 409 crawl_superseded.';

create function private.fail_library(p_library_id text, p_error_code text, p_error_message text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.libraries as l
  set state = 'failed', error_code = p_error_code, error_message = left(p_error_message, 500),
    next_refresh_at = case
      when l.total_versions > 0
        then coalesce(private.next_refresh(l.source_kind, l.refresh_seconds), l.next_refresh_at)
      else l.next_refresh_at
    end
  where l.id = p_library_id;
end
$$;

comment on function private.fail_library(text, text, text) is
'Says why a library could not be crawled. What is served stays, and is crawled again when its time comes.';

create function backend.library_fail(
  p_library_id text, p_error_code text, p_error_message text, p_source_id uuid default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.crawled_library(p_library_id, p_source_id);
begin
  -- A crawl that goes on says itself how it ends.
  if not exists (
    select from public.library_versions as v where v.library_id = v_library.id and v.next_crawl is not null
  ) then
    perform private.fail_library(v_library.id, p_error_code, p_error_message);
  end if;
  return jsonb_build_object('state', 'failed', 'is_served', v_library.total_versions > 0);
end
$$;

comment on function backend.library_fail(text, text, text, uuid) is
'Says why the source of a library could not be fetched, before any version was begun. 404 library_not_found, 409 crawl_superseded.';

create function private.crawled_version(p_version_id uuid, p_crawl integer, p_is_ending boolean)
returns public.library_versions
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_version public.library_versions;
begin
  if p_is_ending then
    perform l.id
    from public.library_versions as v
    inner join public.libraries as l on l.id = v.library_id
    where v.id = p_version_id
    for no key update of l;
    select v.* into v_version from public.library_versions as v where v.id = p_version_id for update;
  else
    -- In the order in which whoever deletes one comes: organization, library, version.
    perform o.id
    from public.library_versions as v
    inner join public.organizations as o on o.id = v.organization_id
    where v.id = p_version_id
    for key share of o;
    perform l.id
    from public.library_versions as v
    inner join public.libraries as l on l.id = v.library_id
    where v.id = p_version_id
    for key share of l;
    -- Several put at the same time; who ends the crawl waits for them.
    select v.* into v_version from public.library_versions as v where v.id = p_version_id for share;
  end if;
  if v_version.id is null then
    perform private.fail(404, 'library_version_not_found', 'There is no such version.');
  elsif v_version.next_crawl is distinct from p_crawl then
    perform private.fail(409, 'crawl_superseded', 'This crawl has ended, or another one has begun.',
      jsonb_build_object('crawl', v_version.next_crawl));
  end if;
  return v_version;
end
$$;

comment on function private.crawled_version(uuid, integer, boolean) is
'Locks a version for its crawl. 404 library_version_not_found; 409 crawl_superseded for a crawl that is not the one that goes on.';

create function private.chunk_hash(p_title text, p_headings text[], p_content text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return encode(sha256(convert_to(
    concat_ws(E'\x01', coalesce(p_title, ''), array_to_string(p_headings, E'\x02'), p_content), 'UTF8'
  )), 'hex');
end
$$;

comment on function private.chunk_hash(text, text[], text) is 'SHA-256 of what the vector of a chunk is made of.';

create function backend.library_chunks_put(p_version_id uuid, p_crawl integer, p_chunks jsonb) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '5min'
as $$
declare
  v_version public.library_versions := private.crawled_version(p_version_id, p_crawl, false);
  v_added integer;
  v_kept integer;
  v_constraint text;
begin
  if jsonb_typeof(p_chunks) is distinct from 'array' or jsonb_array_length(p_chunks) > 2000 then
    perform private.fail(400, 'invalid_argument', 'Chunks are a list of at most 2,000.', '{"param": "chunks"}');
  end if;
  begin
    with given as materialized (
      -- One text on one page is one chunk, at its first place.
      select distinct on (g.source_path, g.content_hash) g.*
      from (
        select
          c.*, private.chunk_hash(c.title, coalesce(private.texts(c.headings), '{}'), c.content) as content_hash
        from jsonb_to_recordset(p_chunks) as c (
          chunk_index integer, source_path text, source_url text, title text, headings jsonb, content text, type text,
          language text, token_count integer, identifiers jsonb, flags jsonb, metadata jsonb
        )
      ) as g
      order by g.source_path, g.content_hash, g.chunk_index
    ),

    put as (
      insert into public.documentation_chunks as d (
        library_version_id, library_id, organization_id, chunk_index, source_path, source_url, title, headings, content,
        content_type, language, token_count, content_hash, identifiers, flags, metadata, added_in, seen_in
      )
      select
        v_version.id, v_version.library_id, v_version.organization_id, g.chunk_index, g.source_path, g.source_url,
        coalesce(g.title, ''), coalesce(private.texts(g.headings), '{}'), g.content, g.type, g.language, g.token_count,
        g.content_hash, coalesce(private.texts(g.identifiers), '{}'), coalesce(private.texts(g.flags), '{}'), coalesce(g.metadata, '{}'),
        p_crawl, p_crawl
      from given as g
      -- Two that put the same chunks meet in the same order.
      order by g.source_path, g.content_hash
      on conflict (library_version_id, source_path, content_hash) do update
      set seen_in = excluded.seen_in, chunk_index = excluded.chunk_index, source_url = excluded.source_url,
        content_type = excluded.content_type, language = excluded.language, token_count = excluded.token_count,
        identifiers = excluded.identifiers, flags = excluded.flags, metadata = excluded.metadata
      returning d.id, d.content_hash, d.added_in = p_crawl as is_new, d.xmax = 0 as is_added
    ),

    reused as (
      -- The same text elsewhere in the library, in another version say, has its vector already.
      insert into private.documentation_embeddings (chunk_id, model, library_version_id, embedding)
      select distinct on (p.id, e.model) p.id, e.model, v_version.id, e.embedding
      from put as p
      inner join public.documentation_chunks as o
        on o.library_id = v_version.library_id and o.content_hash = p.content_hash and o.id <> p.id
      inner join private.documentation_embeddings as e
        on e.chunk_id = o.id and e.model in (v_version.embedding_model, v_version.next_embedding_model)
      where p.is_added
      order by p.id, e.model
      on conflict (chunk_id, model) do nothing
    )

    select count(*) filter (where p.is_added), count(*) filter (where not p.is_added) into v_added, v_kept
    from put as p;
  exception
    when check_violation or not_null_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.fail(400, 'invalid_argument', 'A chunk is not allowed as it is.',
        jsonb_build_object('param', 'chunks', 'constraint', v_constraint));
  end;
  return jsonb_build_object('added', v_added, 'kept', v_kept);
end
$$;

comment on function backend.library_chunks_put(uuid, integer, jsonb) is
'Puts chunks of a crawl: {chunk_index, source_path, source_url, title, headings, content, type, language, token_count, identifiers, flags, metadata}, at most 2,000. Idempotent: the same text on the same page is the same chunk, and keeps its vector. Nobody sees new ones before the crawl is finished. 409 crawl_superseded.';

create function backend.library_progress(
  p_version_id uuid, p_crawl integer, p_progress integer, p_state text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_version public.library_versions := private.crawled_version(p_version_id, p_crawl, true);
begin
  if p_state is not null and p_state not in ('crawling', 'indexing') then
    perform private.fail(400, 'invalid_argument', 'A crawl is crawling or indexing.', '{"param": "state"}');
  end if;
  update public.library_versions as v
  set progress = least(greatest(p_progress, 0), 99), state = coalesce(p_state, v.state)
  where v.id = v_version.id;
  update public.libraries as l
  set progress = least(greatest(p_progress, 0), 99), state = coalesce(p_state, v_version.state)
  where l.id = v_version.library_id;
  return jsonb_build_object('is_wanted', true);
end
$$;

comment on function backend.library_progress(uuid, integer, integer, text) is
'Notes how far a crawl is, in per cent, and whether it is crawling or indexing. 409 crawl_superseded where it is no longer wanted.';

create function private.count_version(p_version_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.library_versions as v
  set (total_chunks, total_snippets, total_tokens) = (
    select count(*), count(*) filter (where c.content_type = 'snippet'), coalesce(sum(c.token_count), 0)
    from public.documentation_chunks as c
    where c.library_version_id = p_version_id and c.added_in <= v.crawl
  )
  where v.id = p_version_id;
end
$$;

comment on function private.count_version(uuid) is 'Counts what readers see of a version.';

create function backend.library_version_finish(
  p_version_id uuid, p_crawl integer, p_is_latest boolean default true, p_values jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10min'
as $$
declare
  v_version public.library_versions := private.crawled_version(p_version_id, p_crawl, true);
  v_removed integer;
begin
  delete from public.documentation_chunks as c where c.library_version_id = p_version_id and c.seen_in < p_crawl;
  get diagnostics v_removed = row_count;
  if not exists (select from public.documentation_chunks as c where c.library_version_id = p_version_id) then
    perform private.fail(409, 'library_is_empty', 'Nothing was found that could be searched.');
  end if;

  delete from private.documentation_words as w where w.library_version_id = p_version_id;
  insert into private.documentation_words (library_version_id, word, chunk_count)
  select p_version_id, s.word, s.ndoc
  from ts_stat(format(
    'select c.words from public.documentation_chunks as c where c.library_version_id = %L', p_version_id
  )) as s
  where s.word not like 'v:%' and octet_length(s.word) <= 500;

  if p_is_latest then
    update public.library_versions as v
    set is_latest = false
    where v.library_id = v_version.library_id and v.is_latest and v.id <> p_version_id;
  end if;
  update public.library_versions as v
  set crawl = p_crawl, next_crawl = null, state = 'ready', progress = 100, indexed_at = clock_timestamp(),
    -- The first that can be searched is the latest, whatever it is.
    is_latest = v.is_latest or p_is_latest or not exists (
      select from public.library_versions as o where o.library_id = v.library_id and o.is_latest
    ),
    etag = p_values ->> 'etag', source_revision = p_values ->> 'source_revision',
    snapshot_path = coalesce(p_values ->> 'snapshot_path', v.snapshot_path),
    release_date = coalesce((p_values ->> 'release_date')::date, v.release_date)
  where v.id = p_version_id;
  perform private.count_version(p_version_id);
  select v.* into v_version from public.library_versions as v where v.id = p_version_id;
  update public.libraries as l
  set state = 'ready', progress = 100, last_crawled_at = now(),
    next_refresh_at = private.next_refresh(l.source_kind, l.refresh_seconds)
  where l.id = v_version.library_id;
  perform private.count_library(v_version.library_id);
  delete from private.library_answers as a where a.library_id = v_version.library_id;
  return jsonb_build_object(
    'version_id', v_version.id, 'is_latest', v_version.is_latest, 'total_chunks', v_version.total_chunks,
    'total_snippets', v_version.total_snippets, 'total_tokens', v_version.total_tokens, 'removed', v_removed,
    'missing_embeddings', private.missing_embeddings(p_version_id, v_version.embedding_model)
  );
end
$$;

comment on function backend.library_version_finish(uuid, integer, boolean, jsonb) is
'Makes what a crawl found what readers see, at once: what it did not find again goes, words and totals are counted, and unless told otherwise the version is the latest. p_values: etag, source_revision, snapshot_path, release_date. 409 crawl_superseded, library_is_empty.';

create function private.fail_version(p_version public.library_versions, p_error_code text, p_error_message text)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.library_versions as v
  set state = 'failed', next_crawl = null, error_code = p_error_code, error_message = left(p_error_message, 500)
  where v.id = p_version.id;
  -- It may have found that what is served is of another type.
  perform private.count_version(p_version.id);
  perform private.count_library(p_version.library_id);
  perform private.fail_library(p_version.library_id, p_error_code, p_error_message);
end
$$;

comment on function private.fail_version(public.library_versions, text, text) is
'Ends the crawl of a version that is locked, with its library: why, for people.';

create function backend.library_version_fail(
  p_version_id uuid, p_crawl integer, p_error_code text, p_error_message text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_version public.library_versions := private.crawled_version(p_version_id, p_crawl, true);
begin
  perform private.fail_version(v_version, p_error_code, p_error_message);
  return jsonb_build_object('state', 'failed', 'is_served', v_version.crawl > 0);
end
$$;

comment on function backend.library_version_fail(uuid, integer, text, text) is
'Ends a crawl that cannot be finished: why, for people. What readers saw before they see still. 409 crawl_superseded.';

create function private.end_crawl_of_task() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries;
  v_version public.library_versions;
  v_is_ended boolean := false;
  v_code constant text := 'crawl_given_up';
  v_message constant text := 'It was tried several times, and did not come to an end.';
begin
  select l.* into v_library
  from public.libraries as l
  where l.id = new.payload ->> 'library_id' and private.crawl_key(l) = new.key
  for no key update;
  for v_version in
    select v.*
    from public.library_versions as v
    where v.library_id = v_library.id and v.next_crawl is not null
    order by v.id
    for update
  loop
    perform private.fail_version(v_version, v_code, v_message);
    v_is_ended := true;
  end loop;
  if not v_is_ended and v_library.state in ('queued', 'crawling', 'indexing') then
    perform private.fail_library(v_library.id, v_code, v_message);
  end if;
  return null;
end
$$;

comment on function private.end_crawl_of_task() is
'Trigger: a crawl ends with its task, however that ends. What the task itself has ended is left alone.';

create trigger crawls_end_with_their_task
after update of status on private.tasks
for each row when (new.kind = 'library_crawl' and new.status in ('dead', 'cancelled') and old.status <> new.status)
execute function private.end_crawl_of_task();

-- ---------------------------------------------------------------------------------------------------------------
-- Vectors
-- ---------------------------------------------------------------------------------------------------------------

create function private.missing_embeddings(p_version_id uuid, p_model text) returns bigint
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select count(*)
    from public.documentation_chunks as c
    where c.library_version_id = p_version_id and p_model is not null and not exists (
      select from private.documentation_embeddings as e where e.chunk_id = c.id and e.model = p_model
    )
  );
end
$$;

comment on function private.missing_embeddings(uuid, text) is 'Chunks of a version that have no vector of a model.';

create function backend.library_embeddings_missing(p_version_id uuid, p_limit integer default 256) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_version public.library_versions;
  v_model text;
  v_missing bigint;
begin
  select v.* into v_version from public.library_versions as v where v.id = p_version_id;
  if v_version.id is null then
    perform private.fail(404, 'library_version_not_found', 'There is no such version.');
  end if;
  -- What readers ask with comes first.
  v_model := v_version.embedding_model;
  v_missing := private.missing_embeddings(p_version_id, v_model);
  if v_missing = 0 and v_version.next_embedding_model is not null then
    v_model := v_version.next_embedding_model;
    v_missing := private.missing_embeddings(p_version_id, v_model);
  end if;
  return jsonb_build_object(
    'model', v_model,
    'dimensions', case when v_model = v_version.embedding_model then v_version.dimensions else v_version.next_dimensions end,
    'missing', v_missing,
    'chunks', coalesce((
      select jsonb_agg(jsonb_build_object(
        'id', m.id, 'title', m.title, 'headings', to_jsonb(m.headings), 'content', m.content, 'content_hash', m.content_hash
      ) order by m.source_path, m.chunk_index)
      from (
        select c.*
        from public.documentation_chunks as c
        where c.library_version_id = p_version_id and v_model is not null and not exists (
          select from private.documentation_embeddings as e where e.chunk_id = c.id and e.model = v_model
        )
        order by c.source_path, c.chunk_index
        limit least(greatest(p_limit, 1), 2000)
      ) as m
    ), '[]')
  );
end
$$;

comment on function backend.library_embeddings_missing(uuid, integer) is
'Chunks of a version that have no vector yet: of the model that it is searched with, or else of the next one. 404 library_version_not_found.';

create function private.switch_embeddings(p_version_id uuid) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_version public.library_versions;
begin
  -- Nobody puts a chunk meanwhile: whoever does holds the version.
  select v.* into v_version from public.library_versions as v where v.id = p_version_id for no key update;
  if v_version.next_embedding_model is null
    or private.missing_embeddings(p_version_id, v_version.next_embedding_model) > 0 then
    return false;
  end if;
  update public.library_versions as v
  set embedding_model = v.next_embedding_model, dimensions = v.next_dimensions, next_embedding_model = null,
    next_dimensions = null
  where v.id = p_version_id;
  delete from private.documentation_embeddings as e
  where e.library_version_id = p_version_id and e.model <> v_version.next_embedding_model;
  return true;
end
$$;

comment on function private.switch_embeddings(uuid) is
'Has a version searched with its next model, once that has a vector of every chunk, and lets the old ones go; whether it did.';

create function backend.library_embeddings_put(p_version_id uuid, p_model text, p_embeddings jsonb) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '5min'
as $$
declare
  v_version public.library_versions;
  v_dimensions integer;
  v_stored integer;
  v_missing bigint;
  v_is_switched boolean := false;
begin
  if exists (
    select from public.library_versions as v where v.id = p_version_id and v.next_embedding_model = p_model
  ) then
    -- Whoever stores the last of them has the version searched with them: one after the other.
    select v.* into v_version from public.library_versions as v where v.id = p_version_id for no key update;
  else
    select v.* into v_version from public.library_versions as v where v.id = p_version_id for share;
  end if;
  if v_version.id is null then
    perform private.fail(404, 'library_version_not_found', 'There is no such version.');
  elsif p_model is null or p_model not in (
    coalesce(v_version.embedding_model, ''), coalesce(v_version.next_embedding_model, '')
  ) then
    perform private.fail(409, 'embedding_model_changed', 'This version has another embedding model.',
      jsonb_build_object('model', v_version.embedding_model, 'next_model', v_version.next_embedding_model));
  elsif jsonb_typeof(p_embeddings) is distinct from 'array' or jsonb_array_length(p_embeddings) > 2000 then
    perform private.fail(400, 'invalid_argument', 'Vectors are a list of at most 2,000.', '{"param": "embeddings"}');
  end if;
  v_dimensions := case
    when p_model = v_version.embedding_model then v_version.dimensions else v_version.next_dimensions
  end;
  if exists (
    select from jsonb_array_elements(p_embeddings) as e
    where case when jsonb_typeof(e.value -> 'embedding') = 'array' then jsonb_array_length(e.value -> 'embedding') end
      is distinct from v_dimensions
  ) then
    perform private.fail(400, 'invalid_argument', 'A vector has as many numbers as the model has dimensions.',
      jsonb_build_object('param', 'embeddings', 'dimensions', v_dimensions));
  end if;
  insert into private.documentation_embeddings as d (chunk_id, model, library_version_id, embedding)
  select c.id, p_model, p_version_id, private.padded_vector(e.embedding)
  from jsonb_to_recordset(p_embeddings) as e (id uuid, embedding jsonb)
  -- A chunk that has gone meanwhile needs none, and nobody else's gets one.
  inner join public.documentation_chunks as c on c.id = e.id and c.library_version_id = p_version_id
  order by c.id
  on conflict (chunk_id, model) do nothing;
  get diagnostics v_stored = row_count;
  v_missing := private.missing_embeddings(p_version_id, p_model);
  if p_model = v_version.next_embedding_model and v_missing = 0 then
    v_is_switched := private.switch_embeddings(p_version_id);
  end if;
  return jsonb_build_object('stored', v_stored, 'missing', v_missing, 'is_switched', v_is_switched);
end
$$;

comment on function backend.library_embeddings_put(uuid, text, jsonb) is
'Stores vectors, {id of the chunk, embedding}, at most 2,000. With the last that was missing of the next model, the version is searched with that. 409 embedding_model_changed, 404 library_version_not_found.';

create function backend.library_reembed(p_version_id uuid, p_model text, p_dimensions integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_version public.library_versions;
begin
  select v.* into v_version from public.library_versions as v where v.id = p_version_id for update;
  if v_version.id is null then
    perform private.fail(404, 'library_version_not_found', 'There is no such version.');
  elsif p_model is null or p_dimensions is null or p_dimensions not between 1 and 1536 then
    perform private.fail(400, 'invalid_argument', 'A model has 1 to 1536 dimensions.', '{"param": "dimensions"}');
  end if;
  -- Vectors of a model that was to come next and comes no more.
  delete from private.documentation_embeddings as e
  where e.library_version_id = p_version_id and e.model not in (coalesce(v_version.embedding_model, ''), p_model);
  update public.library_versions as v
  set embedding_model = coalesce(v.embedding_model, p_model), dimensions = coalesce(v.dimensions, p_dimensions),
    next_embedding_model = nullif(p_model, coalesce(v.embedding_model, p_model)),
    next_dimensions = case when p_model <> coalesce(v.embedding_model, p_model) then p_dimensions end
  where v.id = p_version_id;
  return jsonb_build_object(
    'model', p_model, 'is_switched', private.switch_embeddings(p_version_id),
    'missing', private.missing_embeddings(p_version_id, p_model)
  );
end
$$;

comment on function backend.library_reembed(uuid, text, integer) is
'Has a version''s vectors made by another model, beside those that serve: library_embeddings_missing() then lists what lacks one. 404 library_version_not_found.';

create function backend.libraries_reembed(p_model text, p_dimensions integer, p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '5min'
as $$
declare
  v_id uuid;
  v_count integer := 0;
begin
  for v_id in
    select v.id
    from public.library_versions as v
    where v.crawl > 0 and coalesce(v.next_embedding_model, v.embedding_model) is distinct from p_model
    order by v.id
    limit least(greatest(p_limit, 1), 5000)
  loop
    perform backend.library_reembed(v_id, p_model, p_dimensions);
    perform private.task_enqueue(
      'library_embed', jsonb_build_object('version_id', v_id), v_id::text, now(), 5
    );
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.libraries_reembed(text, integer, integer) is
'Has vectors of a model made of versions that are searched with another, or with none, by tasks: of how many, at most p_limit. 400 invalid_argument.';

-- ---------------------------------------------------------------------------------------------------------------
-- The tools
-- ---------------------------------------------------------------------------------------------------------------

create function private.tool_caller(
  p_user_id uuid,
  p_key_hash text,
  p_scope text,
  p_organization text,
  out caller private.caller,
  out rate_limit jsonb
)
language plpgsql volatile security definer set search_path = ''
as $$
begin
  caller := private.actor(p_user_id, p_key_hash, p_scope, p_organization);
  rate_limit := '{}';
  if caller.api_key_id is not null then
    -- Counted against the key's own limits, and given back at once: it costs nothing and is over with this call.
    rate_limit := jsonb_strip_nulls(
      jsonb_build_object('rate_limit', private.api_key_take(caller.api_key_id, 0, 0, now()))
    );
    perform private.api_key_give_back(caller.api_key_id, true, 0, 0, 0, 0, now());
  end if;
end
$$;

comment on function private.tool_caller(uuid, text, text, text) is
'Who calls a tool (an API key needs the scope), counted against the limits of the key; rate_limit is what to add to the answer for RateLimit headers. 429 rate_limited.';

create function private.tenant_of(p_caller private.caller) returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    select distinct o.id from private.organization_ids_of(p_caller.user_id, p_caller.organization_id) as o (id) order by 1
  );
end
$$;

comment on function private.tenant_of(private.caller) is 'The organizations whose private libraries a caller reads, in one order.';

create function private.answer_key(p_tool text, p_tenant uuid[], p_asked jsonb) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return encode(sha256(convert_to(
    jsonb_build_object('tool', p_tool, 'tenant', to_jsonb(p_tenant), 'asked', p_asked)::text, 'UTF8'
  )), 'hex');
end
$$;

comment on function private.answer_key(text, uuid[], jsonb) is
'Under which key an answer is kept. The tenant is part of it: who reads other libraries gets another answer.';

create function private.kept_answer(p_key text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select a.answer from private.library_answers as a where a.key = p_key and a.expires_at > clock_timestamp());
end
$$;

comment on function private.kept_answer(text) is 'An answer that may be given again; null for none.';

create function private.keep_answer(p_key text, p_tool text, p_library_id text, p_answer jsonb, p_setting text)
returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_seconds integer := (private.setting(p_setting))::integer;
begin
  if v_seconds > 0 then
    insert into private.library_answers as a (key, tool, library_id, answer, expires_at)
    values (p_key, p_tool, p_library_id, p_answer, clock_timestamp() + make_interval(secs => v_seconds))
    on conflict (key) do update set answer = excluded.answer, expires_at = excluded.expires_at;
  end if;
end
$$;

comment on function private.keep_answer(text, text, text, jsonb, text) is 'Keeps an answer for as many seconds as a setting says; 0 for not at all.';

create function private.note_tool_use(
  p_caller private.caller,
  p_tool text,
  p_resource_type text,
  p_library_id text,
  p_query text,
  p_tokens integer,
  p_started_at timestamptz,
  p_client jsonb
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.usage_logs (
    id, account_id, user_id, organization_id, api_key_id, action, resource_type, status, library_id, query,
    tokens_returned, latency_ms, ip_address, user_agent, created_at, finished_at
  )
  values (
    private.uuid7(), private.account_id(p_caller.user_id, p_caller.organization_id), p_caller.user_id,
    p_caller.organization_id, p_caller.api_key_id, p_tool, p_resource_type, 'completed', left(p_library_id, 100),
    left(p_query, 2000), p_tokens,
    -- What functions/ have spent before they asked, a vector say, and what the answer took.
    round(extract(epoch from clock_timestamp() - p_started_at) * 1000)
      + least(greatest(coalesce((p_client ->> 'spent_ms')::integer, 0), 0), 600000),
    (p_client ->> 'ip')::inet, left(p_client ->> 'user_agent', 400), now(), clock_timestamp()
  );
end
$$;

comment on function private.note_tool_use(private.caller, text, text, text, text, integer, timestamptz, jsonb) is
'The usage row of a tool that costs nothing: which, of what (library or document), of which library, what was asked, how many tokens it answered, in how many milliseconds.';

create function backend.library_resolve(
  p_query text,
  p_library_name text,
  p_limit integer default 10,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_client jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_started_at timestamptz := clock_timestamp();
  v_tool record := private.tool_caller(p_user_id, p_key_hash, 'libraries', p_organization);
  v_caller private.caller := v_tool.caller;
  v_tenant uuid[] := private.tenant_of(v_caller);
  v_key text := private.answer_key(
    'resolve-library-id', v_tenant, jsonb_build_array(left(p_query, 2000), left(p_library_name, 200), p_limit)
  );
  v_answer jsonb := private.kept_answer(v_key);
  v_is_kept boolean := v_answer is not null;
begin
  if not v_is_kept then
    v_answer := private.resolved_libraries(v_tenant, left(p_query, 2000), p_library_name, p_limit);
    perform private.keep_answer(v_key, 'resolve-library-id', null, v_answer, 'library_resolve_cache_seconds');
  end if;
  perform private.note_tool_use(
    v_caller, 'resolve-library-id', 'library', v_answer #>> '{matches,0,library_id}', concat_ws(' ', p_library_name, p_query), 0,
    v_started_at, p_client
  );
  return v_answer || jsonb_build_object('is_cached', v_is_kept) || v_tool.rate_limit;
end
$$;

comment on function backend.library_resolve(text, text, integer, uuid, text, text, jsonb) is
'The tool resolve-library-id: libraries whose name is like the one given, among those of everybody and of the caller''s organizations. Kept for library_resolve_cache_seconds, per tenant. p_client: ip, user_agent, spent_ms.';

create function backend.library_query_begin(
  p_query text,
  p_library_id text default null,
  p_version text default null,
  p_type text default null,
  p_tokens integer default null,
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
  v_tool record := private.tool_caller(p_user_id, p_key_hash, 'libraries', p_organization);
  v_caller private.caller := v_tool.caller;
  v_tenant uuid[] := private.tenant_of(v_caller);
  v_scope jsonb := private.documentation_scope(v_tenant, p_library_id, p_version);
  v_answer jsonb;
begin
  if v_scope ->> 'state' = 'ready' then
    v_answer := private.kept_answer(private.answer_key('query-docs', v_tenant, jsonb_build_array(
      v_scope ->> 'stamp', p_query, p_type, private.answer_tokens(p_tokens), p_flagged, p_limit
    )));
    if v_answer is null then
      return v_scope - array['version_ids', 'stamp'] || jsonb_build_object('is_answered', false) || v_tool.rate_limit;
    end if;
  end if;
  perform private.note_tool_use(
    v_caller, 'query-docs', 'library', v_scope ->> 'library_id', p_query, coalesce((v_answer ->> 'tokens')::integer, 0),
    v_started_at, p_client
  );
  return coalesce(v_answer || '{"is_cached": true}', v_scope) || '{"is_answered": true}' || v_tool.rate_limit;
end
$$;

comment on function backend.library_query_begin(
  text, text, text, text, integer, text, integer, uuid, text, text, jsonb
) is 'The tool query-docs, first: an answer that was given to this tenant before, or why there is none (state, with the HTTP status that says so), with its usage row; or is_answered false, and embedding_model with which to make a vector of the question for library_query().';

create function backend.library_query(
  p_query text,
  p_library_id text default null,
  p_version text default null,
  p_type text default null,
  p_tokens integer default null,
  p_flagged text default 'down',
  p_limit integer default 20,
  p_embedding jsonb default null,
  p_embedding_model text default null,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_client jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_started_at timestamptz := clock_timestamp();
  -- It was counted by library_query_begin().
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'libraries', p_organization);
  v_tenant uuid[] := private.tenant_of(v_caller);
  v_scope jsonb := private.documentation_scope(v_tenant, p_library_id, p_version);
  v_answer jsonb := v_scope - array['version_ids', 'stamp'];
  v_is_whole boolean;
begin
  if v_scope ->> 'state' = 'ready' then
    v_answer := v_answer || private.chunks_answer(
      private.find_chunks(
        array(select i.id::uuid from jsonb_array_elements_text(v_scope -> 'version_ids') as i (id)),
        p_query, p_embedding, p_embedding_model, p_type, p_flagged
      ),
      p_tokens, p_limit
    );
    -- One that had to do without a vector is not given again to whoever could have had it with one.
    v_is_whole := v_scope ->> 'embedding_model' is not distinct from case when p_embedding is not null then p_embedding_model end;
    if v_is_whole then
      perform private.keep_answer(
        private.answer_key('query-docs', v_tenant, jsonb_build_array(
          v_scope ->> 'stamp', p_query, p_type, private.answer_tokens(p_tokens), p_flagged, p_limit
        )),
        'query-docs', v_scope ->> 'library_id', v_answer, 'library_query_cache_seconds'
      );
    end if;
  end if;
  perform private.note_tool_use(
    v_caller, 'query-docs', 'library', v_scope ->> 'library_id', p_query, coalesce((v_answer ->> 'tokens')::integer, 0),
    v_started_at, p_client
  );
  return v_answer || '{"is_cached": false, "is_answered": true}';
end
$$;

comment on function backend.library_query(
  text, text, text, text, integer, text, integer, jsonb, text, uuid, text, text, jsonb
) is 'The tool query-docs, then: pieces of documentation for a question, within p_tokens, among what the caller may read; kept for library_query_cache_seconds, per tenant; with its usage row. p_client: ip, user_agent, spent_ms (milliseconds before this call).';

create function backend.library_answers_purge(p_limit integer default 5000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from private.library_answers as a
  where a.key in (
    select o.key
    from private.library_answers as o
    where o.expires_at <= now()
    order by o.expires_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.library_answers_purge(integer) is 'Deletes answers that have expired.';

grant execute on function backend.library_add(text, text, text, text, jsonb, text, uuid, text, text) to service_role;
grant execute on function backend.library_move(text, text, text) to service_role;
grant execute on function backend.library_source_put(text, text, text) to service_role;
grant execute on function backend.libraries_reembed(text, integer, integer) to service_role;
grant execute on function backend.library_delete(text, uuid, text, text) to service_role;
grant execute on function backend.libraries_due(integer) to service_role;
grant execute on function backend.library_source(text) to service_role;
grant execute on function backend.library_unchanged(text, text, text, uuid) to service_role;
grant execute on function backend.library_fail(text, text, text, uuid) to service_role;
grant execute on function backend.library_version_begin(text, text, text, integer, uuid) to service_role;
grant execute on function backend.library_chunks_put(uuid, integer, jsonb) to service_role;
grant execute on function backend.library_progress(uuid, integer, integer, text) to service_role;
grant execute on function backend.library_version_finish(uuid, integer, boolean, jsonb) to service_role;
grant execute on function backend.library_version_fail(uuid, integer, text, text) to service_role;
grant execute on function backend.library_embeddings_missing(uuid, integer) to service_role;
grant execute on function backend.library_embeddings_put(uuid, text, jsonb) to service_role;
grant execute on function backend.library_reembed(uuid, text, integer) to service_role;
grant execute on function backend.library_resolve(text, text, integer, uuid, text, text, jsonb) to service_role;
grant execute on function backend.library_query_begin(
  text, text, text, text, integer, text, integer, uuid, text, text, jsonb
) to service_role;
grant execute on function backend.library_query(
  text, text, text, text, integer, text, integer, jsonb, text, uuid, text, text, jsonb
) to service_role;
grant execute on function backend.library_answers_purge(integer) to service_role;
