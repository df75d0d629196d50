-- Libraries: what those do who own them, and those who read them want to know.
--
--   library_list, library_read                    what there is, in which state, with its versions
--   library_upload, library_uploaded              the archive of a private library, put into Storage by its owner
--   library_refresh                               has a private library crawled again
--   libraries_expire                              those whose archive never came
--
-- The archive of a private library lies where the database says, in the folder of its organization: no organization
-- can name an object of another, neither here nor by the constraint of the table. It is crawled when its owner has said
-- that it is there (state uploading until then).
--
-- Locks: organization, library.

-- ---------------------------------------------------------------------------------------------------------------
-- How many there may be
-- ---------------------------------------------------------------------------------------------------------------

create function private.refuse_libraries_beyond_plan() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and old.organization_id is not distinct from new.organization_id then
    return new;
  end if;
  perform private.lock_payer(null, new.organization_id);
  perform private.require_plan_room(null, new.organization_id, 'max_libraries', (
    select count(*) from public.libraries as l where l.organization_id = new.organization_id
  ));
  return new;
end
$$;

comment on function private.refuse_libraries_beyond_plan() is
'Trigger: an organization has as many private libraries as its plan allows (402 plan_limit_reached).';

-- Before the triggers of their names: the organization is locked before the name is.
create trigger libraries_are_no_more_than_the_plan_allows
before insert or update of organization_id on public.libraries
for each row when (new.organization_id is not null)
execute function private.refuse_libraries_beyond_plan();

create function private.forget_library_archive() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if old.organization_id is not null then
    perform private.forget_upload('libraries', old.source_url);
  elsif not exists (
    -- Operators name objects as they like.
    select from public.libraries as l where l.source_kind in ('archive', 'folder') and l.source_url = old.source_url
  ) then
    perform private.forget_objects('libraries', array[old.source_url]);
  end if;
  return null;
end
$$;

comment on function private.forget_library_archive() is 'Trigger: with a library goes the archive that was uploaded for it.';

create trigger libraries_leave_no_archive
after delete on public.libraries
for each row when (old.source_kind in ('archive', 'folder'))
execute function private.forget_library_archive();

-- ---------------------------------------------------------------------------------------------------------------
-- What there is
-- ---------------------------------------------------------------------------------------------------------------

create function backend.library_list(
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_limit integer default 50,
  p_after text default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'libraries', p_organization);
  v_tenant uuid[] := private.tenant_of(v_caller);
  v_limit integer := private.page_limit(p_limit, 100);
  v_found jsonb;
begin
  select coalesce(jsonb_agg(private.library_answer(l.library) order by (l.library).id), '[]') into v_found
  from (
    select o as library
    from public.libraries as o
    where case
      when p_organization is not null then o.organization_id = v_caller.organization_id
      else o.organization_id is null or o.organization_id = any(v_tenant)
    end
    and (p_after is null or o.id > lower(p_after))
    order by o.id
    limit v_limit + 1
  ) as l;
  return jsonb_build_object(
    'libraries', case when jsonb_array_length(v_found) > v_limit then v_found - v_limit else v_found end,
    'next', case when jsonb_array_length(v_found) > v_limit then v_found #> array[(v_limit - 1)::text, 'library_id'] end
  );
end
$$;

comment on function backend.library_list(uuid, text, text, integer, text) is
'Libraries that the caller reads, by id: those of everybody and of their organizations, or the private ones of an organization that they name. next is the p_after of the next page.';

create function backend.library_read(p_id text, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_tenant uuid[] := private.tenant_of(private.actor(p_user_id, p_key_hash, 'libraries', null));
  v_library public.libraries;
begin
  select l.* into v_library
  from public.libraries as l
  where l.id = lower(p_id) and (l.organization_id is null or l.organization_id = any(v_tenant));
  if v_library.id is null then
    perform private.fail(404, 'library_not_found', 'There is no such library.', '{"param": "library_id"}');
  end if;
  return private.library_answer(v_library) || jsonb_build_object('versions', coalesce((
    select jsonb_agg(jsonb_build_object(
      'version', v.version, 'is_latest', v.is_latest, 'is_searched', v.crawl > 0, 'step', v.state,
      'progress', v.progress, 'error_code', v.error_code, 'error_message', v.error_message,
      'total_chunks', v.total_chunks, 'total_snippets', v.total_snippets, 'total_tokens', v.total_tokens,
      'embedding_model', v.embedding_model, 'release_date', v.release_date, 'indexed_at', v.indexed_at
    ) order by v.is_latest desc, v.id desc)
    from public.library_versions as v
    where v.library_id = v_library.id
  ), '[]'));
end
$$;

comment on function backend.library_read(text, uuid, text) is
'A library with its versions: whether it can be asked, and how the latest crawl went. 404 library_not_found, also for what is somebody else''s.';

-- ---------------------------------------------------------------------------------------------------------------
-- Archives, and crawls that are asked for
-- ---------------------------------------------------------------------------------------------------------------

create function private.uploaded_library(p_id text, p_user_id uuid, p_key_hash text) returns public.libraries
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries;
begin
  -- Not for operators, who put archives where they like.
  perform private.actor(p_user_id, p_key_hash, 'libraries', null);
  v_library := private.written_library(p_id, p_user_id, p_key_hash, null);
  if not private.is_uploaded_by_its_owner(v_library.source_kind, v_library.organization_id) then
    perform private.fail(409, 'library_takes_no_archive', 'This library is not read from an archive.',
      jsonb_build_object('source_kind', v_library.source_kind));
  end if;
  return v_library;
end
$$;

comment on function private.uploaded_library(text, uuid, text) is
'Locks a private library whose archive its owner uploads. 404 library_not_found, 409 library_takes_no_archive.';

create function backend.library_upload(p_id text, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.uploaded_library(p_id, p_user_id, p_key_hash);
begin
  return jsonb_build_object('library_id', v_library.id, 'upload_path', v_library.source_url);
end
$$;

comment on function backend.library_upload(text, uuid, text) is
'Where the archive of a private library is put, in the place of the one that is there. 404 library_not_found, 409 library_takes_no_archive.';

create function private.ask_for_crawl(p_library public.libraries) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_seconds integer := (private.setting('library_refresh_min_seconds'))::integer;
  v_wait numeric := extract(epoch from p_library.crawl_asked_at + make_interval(secs => v_seconds) - now());
  v_library public.libraries;
begin
  if v_wait > 0 then
    perform private.fail(429, 'rate_limited', 'This library was to be crawled only just now; wait a little.',
      jsonb_build_object('limit_source', 'library_refresh_min_seconds', 'retry_after', ceil(v_wait)));
  end if;
  perform private.require_task_room('library_crawl', p_library.organization_id, 'library_crawls_per_day');
  update public.libraries as l
  set state = 'queued', progress = 0, error_code = null, error_message = null, crawl_asked_at = now()
  where l.id = p_library.id
  returning l.* into v_library;
  perform private.crawl_library(v_library.id);
  return private.library_answer(v_library);
end
$$;

comment on function private.ask_for_crawl(public.libraries) is
'Has a library crawled for its owner, at most once in library_refresh_min_seconds, and library_crawls_per_day of all; 429 rate_limited.';

create function private.is_being_crawled(p_library public.libraries) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (
    select
    from private.tasks as t
    where t.kind = 'library_crawl' and t.key = private.crawl_key(p_library) and t.status = 'running'
  );
end
$$;

comment on function private.is_being_crawled(public.libraries) is 'Whether a worker reads the source of a library now.';

create function backend.library_uploaded(p_id text, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries := private.uploaded_library(p_id, p_user_id, p_key_hash);
  v_most bigint := (private.setting('library_archive_max_bytes'))::bigint;
  v_size bigint;
begin
  select (o.metadata ->> 'size')::bigint into v_size
  from storage.objects as o
  where o.bucket_id = 'libraries' and o.name = v_library.source_url;
  if not found then
    perform private.fail(409, 'library_not_uploaded', 'The archive of this library is not in Storage yet.');
  elsif v_size > v_most then
    perform private.fail(400, 'library_too_large', 'The archive is too large.', jsonb_build_object('maximum', v_most));
  elsif private.is_being_crawled(v_library) then
    -- The task would be this one, and may have read what was there before.
    perform private.fail(409, 'crawl_in_progress', 'This library is being crawled; try again when that has ended.',
      '{"retry_after": 30}');
  end if;
  return private.ask_for_crawl(v_library);
end
$$;

comment on function backend.library_uploaded(text, uuid, text) is
'Says that the archive of a private library is in Storage, and has it crawled. 404 library_not_found, 409 library_not_uploaded, library_takes_no_archive, crawl_in_progress, 400 library_too_large, 429 rate_limited.';

create function backend.library_refresh(p_id text, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_library public.libraries;
begin
  perform private.actor(p_user_id, p_key_hash, 'libraries', null);
  v_library := private.written_library(p_id, p_user_id, p_key_hash, null);
  if v_library.state = 'uploading' then
    perform private.fail(409, 'library_not_uploaded', 'The archive of this library is not in Storage yet.');
  elsif private.is_being_crawled(v_library) then
    return private.library_answer(v_library);
  end if;
  return private.ask_for_crawl(v_library);
end
$$;

comment on function backend.library_refresh(text, uuid, text) is
'Has a private library crawled again for an admin of its organization, or its API key; one that is being crawled stays as it is. 404 library_not_found, 409 library_not_uploaded, 429 rate_limited.';

create function backend.libraries_expire(p_limit integer default 200) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from public.libraries as l
  where l.id in (
    select o.id
    from public.libraries as o
    where o.state = 'uploading'
      and o.created_at < now() - make_interval(hours => (private.setting('library_upload_hours'))::integer)
    order by o.created_at
    limit least(greatest(p_limit, 1), 1000)
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.libraries_expire(integer) is 'Deletes libraries whose archive never came.';

grant execute on function backend.libraries_expire(integer) to service_role;
grant execute on function backend.library_list(uuid, text, text, integer, text) to service_role;
grant execute on function backend.library_read(text, uuid, text) to service_role;
grant execute on function backend.library_upload(text, uuid, text) to service_role;
grant execute on function backend.library_uploaded(text, uuid, text) to service_role;
grant execute on function backend.library_refresh(text, uuid, text) to service_role;
