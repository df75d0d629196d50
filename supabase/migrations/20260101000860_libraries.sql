-- Libraries: documentation of software, kept by version, to be searched by people and by models.
--
--   libraries              what is documented: /organization/project, and where its documentation comes from
--   library_versions       one state of it; the latest is what is searched unless somebody names another
--   documentation_chunks   pieces of its pages: a snippet, a guide or a reference
--   private.documentation_embeddings   their vectors, by model; one model per version is searched with
--   private.documentation_words        in how many chunks of a version a word is: what makes a rare word weigh more
--   private.library_answers            answers that may be given again for a while, per tenant
--
-- A version is crawled again under the next number. Chunks say in which crawl they came first and in which they were
-- last seen; readers see those of crawls that were finished. So a version that is rebuilt is served as it was until
-- library_version_finish() makes the new state whole, in one transaction. A chunk whose text did not change is the
-- same row, and keeps its vector.
--
-- Public libraries have no organization and are written by operators. The id of a private one begins with the slug of
-- its organization, and no public id may: nobody squats on a name, and none can be guessed from outside.
--
-- The search is in chapter 0862, what functions/ call in 0864.
--
-- Locks: organization, library, version, then its chunks in the order of path and hash.

insert into private.settings (name, value, description) values
('library_query_cache_seconds', '3600', 'Seconds for which an answer is given again to the same tenant.'),
('library_resolve_cache_seconds', '300', 'Seconds for which libraries found are given again to the same tenant.'),
('library_refresh_seconds', '604800', 'Seconds after which a library is crawled again, unless it says otherwise.'),
('library_refresh_min_seconds', '300', 'Seconds from one crawl that the owner of a library asks for to the next.'),
('library_crawls_per_day', '200', 'Crawls that an organization may ask for in a day; 0 for no limit.'),
('library_upload_hours', '24', 'Hours after which a library whose archive never came is deleted.'),
('library_archive_max_bytes', '268435456', 'Bytes that the archive of a library may have.'),
('library_query_tokens', '5000', 'Tokens of an answer from documentation, unless the question says otherwise.'),
('library_query_tokens_max', '50000', 'Most tokens of one answer from documentation.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.libraries (
  id text primary key,
  organization_id uuid references public.organizations (id) on delete cascade,
  vendor text not null generated always as (split_part(id, '/', 2)) stored,
  title text not null,
  description text not null default '',
  source_kind text not null,
  source_url text,
  docs_url text,
  default_version text,
  aliases text[] not null default '{}',
  name_grams text[] not null default '{}',
  popularity_score integer not null default 0,
  trust_score numeric(3, 1) not null default 5,
  state text not null default 'queued',
  progress smallint not null default 0,
  error_code text,
  error_message text,
  total_versions integer not null default 0,
  total_chunks integer not null default 0,
  total_snippets integer not null default 0,
  total_tokens bigint not null default 0,
  refresh_seconds integer,
  source_id uuid not null default private.uuid7(),
  crawl_asked_at timestamptz,
  last_crawled_at timestamptz,
  next_refresh_at timestamptz,
  moved_to text references public.libraries (id) on delete set null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint id_is_organization_and_project check (
    id ~ '^/[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*$' and char_length(id) <= 100
  ),
  constraint title_has_1_to_255_characters check (char_length(title) between 1 and 255 and title = btrim(title)),
  constraint description_has_at_most_2000_characters check (char_length(description) <= 2000),
  constraint source_kind_is_known check (source_kind in ('git', 'site', 'archive', 'folder', 'pypi', 'npm')),
  constraint source_url_has_1_to_500_characters check (char_length(source_url) between 1 and 500),
  -- The worker reads objects with the secret key: what an organization may name is its own folder alone.
  constraint a_private_library_names_no_object_but_its_own check (
    organization_id is null or source_kind not in ('archive', 'folder')
    or (
      source_kind = 'archive' and source_url is not null
      and source_url ~ ('^uploads/' || organization_id::text || '/[0-9a-f-]{36}$')
    )
  ),
  constraint docs_url_has_1_to_500_characters check (char_length(docs_url) between 1 and 500),
  constraint aliases_are_few_and_short check (
    cardinality(aliases) <= 20 and char_length(array_to_string(aliases, '', '?')) <= 20 * 100
  ),
  constraint popularity_score_is_not_negative check (popularity_score >= 0),
  constraint trust_score_is_between_0_and_10 check (trust_score between 0 and 10),
  constraint state_is_known check (state in ('uploading', 'queued', 'crawling', 'indexing', 'ready', 'failed')),
  constraint progress_is_a_percentage check (progress between 0 and 100),
  constraint only_a_failed_library_has_an_error check ((state = 'failed') = (error_code is not null)),
  constraint totals_are_not_negative check (
    total_versions >= 0 and total_snippets >= 0 and total_tokens >= 0 and total_chunks >= total_snippets
  ),
  constraint refresh_is_at_most_hourly check (refresh_seconds >= 3600),
  constraint a_library_moves_elsewhere check (moved_to <> id),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
) with (fillfactor = 80);

comment on table public.libraries is 'Software whose documentation can be searched. Everybody reads the public ones, members those of their organization; functions write.';
comment on column public.libraries.id is 'Identifies the library: /organization/project, in lower case.';
comment on column public.libraries.organization_id is 'The organization that it is private to; null for everybody.';
comment on column public.libraries.vendor is 'The first part of its id.';
comment on column public.libraries.title is 'Its name, for people.';
comment on column public.libraries.description is 'What it is, in a sentence or two.';
comment on column public.libraries.source_kind is 'Where its documentation comes from: git, site, archive, folder, pypi or npm.';
comment on column public.libraries.source_url is 'Its repository, site or package; for an archive, its object in Storage, which is set here where an organization uploads it.';
comment on column public.libraries.docs_url is 'Where people read it.';
comment on column public.libraries.default_version is 'Name of the latest version; null before the first is ready.';
comment on column public.libraries.aliases is 'Other names that people call it by.';
comment on column public.libraries.name_grams is 'Groups of three letters of all its names, for finding it by a name that is nearly right.';
comment on column public.libraries.popularity_score is 'How much it is used: stars, downloads, or as the operator sees it.';
comment on column public.libraries.trust_score is 'How much its documentation can be relied upon, 0 to 10.';
comment on column public.libraries.state is 'uploading, queued, crawling, indexing, ready or failed: of the latest crawl. What was ready before stays to be searched.';
comment on column public.libraries.progress is 'Per cent of the crawl done.';
comment on column public.libraries.error_code is 'Why the latest crawl failed.';
comment on column public.libraries.error_message is 'The same for people.';
comment on column public.libraries.total_versions is 'Versions that can be searched.';
comment on column public.libraries.total_chunks is 'Chunks of those.';
comment on column public.libraries.total_snippets is 'Snippets among them.';
comment on column public.libraries.total_tokens is 'Tokens of all of them.';
comment on column public.libraries.refresh_seconds is 'Seconds from one crawl to the next; null for library_refresh_seconds.';
comment on column public.libraries.source_id is 'Identifies what its source is now: another one once it says that it lies elsewhere. A crawl of any other source is not heard.';
comment on column public.libraries.crawl_asked_at is 'When its owner last asked for a crawl.';
comment on column public.libraries.last_crawled_at is 'When a crawl last ended well.';
comment on column public.libraries.next_refresh_at is 'When it is due to be crawled again; null for never.';
comment on column public.libraries.moved_to is 'The library that took its place, for one that was renamed.';
comment on column public.libraries.metadata is 'Tags, categories and the like, a JSON object of at most 16 KiB.';
comment on column public.libraries.created_at is 'When it was added.';
comment on column public.libraries.updated_at is 'When anything in the row last changed.';

create index libraries_by_organization on public.libraries (organization_id) where organization_id is not null;
create index libraries_by_vendor on public.libraries (vendor);
create index libraries_by_name on public.libraries using gin (name_grams);
create index libraries_by_text on public.libraries
using gin (to_tsvector('english', title || ' ' || description));
create index libraries_by_moved_to on public.libraries (moved_to) where moved_to is not null;
create index libraries_that_never_came on public.libraries (created_at) where state = 'uploading';
create index libraries_to_refresh on public.libraries (next_refresh_at) where next_refresh_at is not null;

create table public.library_versions (
  id uuid primary key default private.uuid7(),
  library_id text not null references public.libraries (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  version text not null,
  release_date date,
  is_latest boolean not null default false,
  source_revision text,
  etag text,
  snapshot_path text,
  embedding_model text,
  dimensions integer,
  next_embedding_model text,
  next_dimensions integer,
  state text not null default 'queued',
  progress smallint not null default 0,
  error_code text,
  error_message text,
  crawl integer not null default 0,
  next_crawl integer,
  total_chunks integer not null default 0,
  total_snippets integer not null default 0,
  total_tokens bigint not null default 0,
  indexed_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint a_version_is_there_once unique (library_id, version),
  constraint version_is_a_short_name check (version ~ '^[A-Za-z0-9][A-Za-z0-9._+-]{0,49}$'),
  constraint source_revision_is_short check (char_length(source_revision) between 1 and 200),
  constraint etag_is_short check (char_length(etag) between 1 and 500),
  constraint snapshot_path_is_short check (char_length(snapshot_path) between 1 and 500),
  constraint a_model_has_its_dimensions check (
    num_nonnulls(embedding_model, dimensions) in (0, 2)
    and num_nonnulls(next_embedding_model, next_dimensions) in (0, 2)
  ),
  constraint dimensions_are_between_1_and_1536 check (
    dimensions between 1 and 1536 and next_dimensions between 1 and 1536
  ),
  constraint embedding_models_are_short check (
    char_length(embedding_model) between 1 and 200 and char_length(next_embedding_model) between 1 and 200
  ),
  constraint the_next_model_is_another check (next_embedding_model <> embedding_model),
  constraint state_is_known check (state in ('queued', 'crawling', 'indexing', 'ready', 'failed')),
  constraint progress_is_a_percentage check (progress between 0 and 100),
  constraint only_a_failed_version_has_an_error check ((state = 'failed') = (error_code is not null)),
  constraint the_next_crawl_comes_later check (next_crawl > crawl),
  constraint a_latest_version_can_be_searched check (crawl > 0 or not is_latest),
  constraint totals_are_not_negative check (
    total_snippets >= 0 and total_tokens >= 0 and total_chunks >= total_snippets
  )
) with (fillfactor = 80);

comment on table public.library_versions is 'Versions of libraries. Read by whoever reads the library; functions write.';
comment on column public.library_versions.id is 'Identifies the version.';
comment on column public.library_versions.library_id is 'The library.';
comment on column public.library_versions.organization_id is 'Its library''s; null for everybody.';
comment on column public.library_versions.version is 'Its name, as in 7.0 or main.';
comment on column public.library_versions.release_date is 'When it was released, where that is known.';
comment on column public.library_versions.is_latest is 'Whether it is searched when no version is named.';
comment on column public.library_versions.source_revision is 'Commit or release of the source that was crawled last.';
comment on column public.library_versions.etag is 'What the source''s server called that state, to ask whether there is a newer one.';
comment on column public.library_versions.snapshot_path is 'Object of the bucket "libraries" with what was crawled.';
comment on column public.library_versions.embedding_model is 'Model of the vectors that it is searched with; null where there are none.';
comment on column public.library_versions.dimensions is 'Dimensions of its vectors; those of fewer than 1536 are filled up with zeros.';
comment on column public.library_versions.next_embedding_model is 'Model whose vectors are being made; it takes over when there is one of every chunk.';
comment on column public.library_versions.next_dimensions is 'Dimensions of those.';
comment on column public.library_versions.state is 'queued, crawling, indexing, ready or failed: of the latest crawl.';
comment on column public.library_versions.progress is 'Per cent of the crawl done.';
comment on column public.library_versions.error_code is 'Why the latest crawl failed.';
comment on column public.library_versions.error_message is 'The same for people.';
comment on column public.library_versions.crawl is 'Number of the latest crawl that was finished: what readers see. 0 for none.';
comment on column public.library_versions.next_crawl is 'Number of the crawl that goes on.';
comment on column public.library_versions.total_chunks is 'Chunks that readers see.';
comment on column public.library_versions.total_snippets is 'Snippets among them.';
comment on column public.library_versions.total_tokens is 'Their tokens.';
comment on column public.library_versions.indexed_at is 'When a crawl was last finished.';
comment on column public.library_versions.created_at is 'When it was first crawled.';
comment on column public.library_versions.updated_at is 'When anything in the row last changed.';

create unique index library_versions_have_one_latest on public.library_versions (library_id) where is_latest;
create index library_versions_by_organization
on public.library_versions (organization_id) where organization_id is not null;

create table public.documentation_chunks (
  id uuid primary key default private.uuid7(),
  library_version_id uuid not null references public.library_versions (id) on delete cascade,
  library_id text not null references public.libraries (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  chunk_index integer not null,
  source_path text not null,
  source_url text,
  title text not null default '',
  headings text[] not null default '{}',
  content text not null,
  content_type text not null,
  language text,
  token_count integer not null,
  content_hash text not null,
  identifiers text[] not null default '{}',
  flags text[] not null default '{}',
  metadata jsonb not null default '{}',
  words tsvector not null default '',
  added_in integer not null,
  seen_in integer not null,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint a_page_has_a_text_once unique (library_version_id, source_path, content_hash),
  constraint chunk_index_is_not_negative check (chunk_index >= 0),
  constraint source_path_has_1_to_500_characters check (char_length(source_path) between 1 and 500),
  constraint source_url_has_1_to_2000_characters check (char_length(source_url) between 1 and 2000),
  constraint title_has_at_most_500_characters check (char_length(title) <= 500),
  constraint headings_are_few_and_short check (
    cardinality(headings) <= 10 and char_length(array_to_string(headings, '', '?')) <= 10 * 500
  ),
  constraint content_has_1_to_100000_characters check (char_length(content) between 1 and 100000),
  constraint content_type_is_known check (content_type in ('snippet', 'guide', 'api_ref')),
  constraint language_is_a_short_name check (language ~ '^[A-Za-z0-9][A-Za-z0-9+#._-]{0,39}$'),
  constraint token_count_is_positive check (token_count > 0),
  constraint content_hash_is_sha_256 check (content_hash ~ '^[0-9a-f]{64}$'),
  constraint identifiers_are_few check (cardinality(identifiers) <= 200),
  constraint flags_are_words check (
    cardinality(flags) <= 20 and array_to_string(flags, ' ', '?') ~ '^([a-z][a-z0-9_]{0,39}( |$))*$'
  ),
  constraint a_chunk_is_seen_since_it_came check (added_in >= 1 and seen_in >= added_in),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
) with (fillfactor = 85);

comment on table public.documentation_chunks is 'Pieces of documentation. Read by whoever reads the library, best through search_documentation(); functions write.';
comment on column public.documentation_chunks.id is 'Identifies the chunk.';
comment on column public.documentation_chunks.library_version_id is 'The version it is of.';
comment on column public.documentation_chunks.library_id is 'The library it is of.';
comment on column public.documentation_chunks.organization_id is 'Its library''s; null for everybody.';
comment on column public.documentation_chunks.chunk_index is 'Its place on its page.';
comment on column public.documentation_chunks.source_path is 'Its page: a path in the source, or of a site.';
comment on column public.documentation_chunks.source_url is 'Where people read it, with the anchor of its heading.';
comment on column public.documentation_chunks.title is 'Title of its page, or of itself.';
comment on column public.documentation_chunks.headings is 'Headings above it, outermost first.';
comment on column public.documentation_chunks.content is 'Its text. Data, never an instruction to whoever reads it.';
comment on column public.documentation_chunks.content_type is 'snippet, guide or api_ref.';
comment on column public.documentation_chunks.language is 'Language of its code; null for none.';
comment on column public.documentation_chunks.token_count is 'Tokens of its text.';
comment on column public.documentation_chunks.content_hash is 'SHA-256 of title, headings and text: what a vector is made of.';
comment on column public.documentation_chunks.identifiers is 'Names in code that it is about, as the parser found them.';
comment on column public.documentation_chunks.flags is 'What the screening found: hidden_text, instructions and the like. Ranked down, or left out.';
comment on column public.documentation_chunks.metadata is 'What else the parser knows.';
comment on column public.documentation_chunks.words is 'What of it is searched for: its heading (A), title and headings above (B), names (C), text (D), and v:<its version>.';
comment on column public.documentation_chunks.added_in is 'Number of the crawl that it came with.';
comment on column public.documentation_chunks.seen_in is 'Number of the latest crawl that found it.';
comment on column public.documentation_chunks.created_at is 'When it came.';
comment on column public.documentation_chunks.updated_at is 'When anything in the row last changed.';

-- Searches read the words of thousands: they stay in the row, and it is the text that is moved out of it.
alter table public.documentation_chunks alter column words set storage main;

create index documentation_chunks_by_text on public.documentation_chunks (library_id, content_hash);
create index documentation_chunks_by_organization
on public.documentation_chunks (organization_id) where organization_id is not null;
create index documentation_chunks_by_word on public.documentation_chunks using gin (words);

create table private.documentation_embeddings (
  chunk_id uuid not null references public.documentation_chunks (id) on delete cascade,
  model text not null,
  library_version_id uuid not null,
  embedding extensions.halfvec(1536) not null,
  constraint a_chunk_has_one_vector_per_model primary key (chunk_id, model)
);

comment on table private.documentation_embeddings is 'Vectors of chunks. Beside the chunks, so that a new model''s can be made while the old ones serve, and no change of a chunk touches their index.';
comment on column private.documentation_embeddings.chunk_id is 'The chunk.';
comment on column private.documentation_embeddings.model is 'The model that made the vector.';
comment on column private.documentation_embeddings.library_version_id is 'The chunk''s version; no foreign key, since the vector goes with its chunk.';
comment on column private.documentation_embeddings.embedding is 'The vector, filled up with zeros to 1536 dimensions, which changes no angle.';

-- Read one after the other where there are few: in the row it is read four times as fast as from beside it.
alter table private.documentation_embeddings alter column embedding set storage plain;

create index documentation_embeddings_by_version on private.documentation_embeddings (library_version_id, model);
create index documentation_embeddings_by_likeness
on private.documentation_embeddings using hnsw (embedding extensions.halfvec_cosine_ops);

create table private.documentation_words (
  library_version_id uuid not null references public.library_versions (id) on delete cascade,
  word text collate "C" not null,
  chunk_count integer not null,
  constraint a_version_counts_a_word_once primary key (library_version_id, word)
);

comment on table private.documentation_words is 'In how many chunks of a version a word is, as of its latest finished crawl.';
comment on column private.documentation_words.library_version_id is 'The version.';
comment on column private.documentation_words.word is 'The word, as documentation_chunks.words has it.';
comment on column private.documentation_words.chunk_count is 'Chunks that have it.';

-- Lost when the server crashes, and worth no more.
create unlogged table private.library_answers (
  key text primary key,
  tool text not null,
  library_id text,
  answer jsonb not null,
  expires_at timestamptz not null,
  constraint key_is_sha_256 check (key ~ '^[0-9a-f]{64}$'),
  constraint tool_is_known check (tool in ('resolve-library-id', 'query-docs'))
);

comment on table private.library_answers is 'Answers that are given again until they expire.';
comment on column private.library_answers.key is 'SHA-256 of the tool, the tenant, what was asked, and the state of what it was asked of.';
comment on column private.library_answers.tool is 'resolve-library-id or query-docs.';
comment on column private.library_answers.library_id is 'The library that was asked about; null for resolve-library-id.';
comment on column private.library_answers.answer is 'The answer.';
comment on column private.library_answers.expires_at is 'Not given after this.';

create index library_answers_to_purge on private.library_answers (expires_at);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.libraries, public.library_versions, public.documentation_chunks to authenticated, service_role;

alter table public.libraries enable row level security;
alter table public.library_versions enable row level security;
alter table public.documentation_chunks enable row level security;
alter table private.documentation_embeddings enable row level security;
alter table private.documentation_words enable row level security;
alter table private.library_answers enable row level security;

create policy "Everybody reads public libraries, members those of their organization"
on public.libraries for select to authenticated
using (
  (organization_id is null and (select private.active_user_id()) is not null)
  or organization_id = any(array(select private.my_organization_ids()))
);

create policy "Everybody reads public versions, members those of their organization"
on public.library_versions for select to authenticated
using (
  (organization_id is null and (select private.active_user_id()) is not null)
  or organization_id = any(array(select private.my_organization_ids()))
);

create policy "Everybody reads public chunks, members those of their organization"
on public.documentation_chunks for select to authenticated
using (
  (
    (organization_id is null and (select private.active_user_id()) is not null)
    or organization_id = any(array(select private.my_organization_ids()))
  )
  -- What a crawl puts is not there to be read before the crawl is finished.
  and added_in <= (
    select v.crawl from public.library_versions as v where v.id = documentation_chunks.library_version_id
  )
);

-- ---------------------------------------------------------------------------------------------------------------
-- Words and names
-- ---------------------------------------------------------------------------------------------------------------

create function private.code_names(p_text text) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  if p_text !~ '[A-Za-z0-9][._:][A-Za-z0-9_]|[a-z0-9][A-Z]|_' then
    return '{}';
  end if;
  -- A dot, a colon or an underscore within, or a capital after a small letter: what a program calls something.
  return array(
    select distinct m.match[1]
    from regexp_matches(
      left(p_text, 50000), '([A-Za-z_$][A-Za-z0-9_$]*(?:(?:\.|::)[A-Za-z_$][A-Za-z0-9_$]*)*)', 'g'
    ) as m (match)
    where m.match[1] ~ '[A-Za-z0-9][._:][A-Za-z0-9_]|[a-z0-9][A-Z]|^_' and char_length(m.match[1]) between 2 and 120
    limit 400
  );
end
$$;

comment on function private.code_names(text) is 'Names of code in a text: dotted ones, snake_case and camelCase; at most 400.';

create function private.name_lexemes(p_names text[]) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array(
    select lower(n.name)
    from (select replace(left(a.name, 120), '::', '.') as name from unnest(p_names) as a (name)) as n
    where n.name ~ '^[A-Za-z0-9_$.]+$'
    union
    select lower(array_to_string(p.parts[n:], '.'))
    from unnest(p_names) as a (name)
    cross join lateral (select string_to_array(replace(left(a.name, 120), '::', '.'), '.') as parts) as p
    cross join lateral generate_series(2, least(cardinality(p.parts), 10)) as n
    where a.name ~ '[.:]' and array_to_string(p.parts[n:], '.') ~ '^[A-Za-z0-9_$.]+$'
  );
end
$$;

comment on function private.name_lexemes(text[]) is
'How names are searched for: os.path.join as itself, path.join and join; in lower case.';

create function private.plain_words(p_text text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  -- Of a text full of <!-- the parser looks for the end of each comment: time that grows with their square. Dots
  -- between letters and underscores would hide the words of a name.
  return regexp_replace(translate(left(p_text, 50000), '<_/', '   '), '([A-Za-z])\.(?=[A-Za-z])', '\1 ', 'g');
end
$$;

comment on function private.plain_words(text) is 'A text as its words are taken from it: names of code in their parts.';

create function private.split_names(p_names text[]) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return regexp_replace(translate(array_to_string(p_names, ' '), '._:$', '    '), '([a-z0-9])([A-Z])', '\1 \2', 'g');
end
$$;

comment on function private.split_names(text[]) is 'Words that names are made of: DataFrame.sort_values is data frame sort values.';

create function private.name_vector(p_names text[], p_weight text) returns tsvector
language plpgsql immutable set search_path = ''
as $$
declare
  v_lexemes text[];
begin
  if cardinality(p_names) > 0 then
    v_lexemes := private.name_lexemes(p_names);
  end if;
  if coalesce(cardinality(v_lexemes), 0) = 0 then
    return ''::tsvector;
  end if;
  -- Only what has a position has a weight. No name has a quote in it.
  return ('''' || array_to_string(v_lexemes, format(''':1%s ''', p_weight)) || format(''':1%s', p_weight))::tsvector;
end
$$;

comment on function private.name_vector(text[], text) is 'Names as they are searched for, with a weight.';

create function private.documentation_words(p_chunk public.documentation_chunks) returns tsvector
language plpgsql immutable set search_path = ''
as $$
declare
  v_last integer := cardinality(p_chunk.headings);
  -- What it is about is its own heading; those above it, and the title of its page, many chunks share.
  v_own text := case when v_last > 0 then p_chunk.headings[v_last] else p_chunk.title end;
  v_above text := concat_ws(
    ' ', case when v_last > 0 then p_chunk.title end, array_to_string(p_chunk.headings[:v_last - 1], ' ')
  );
  v_of_own text[] := private.code_names(v_own);
  v_of_above text[] := private.code_names(v_above);
begin
  return setweight(to_tsvector('pg_catalog.english', private.plain_words(v_own)), 'A')
    || setweight(to_tsvector('pg_catalog.english', private.plain_words(v_above)), 'B')
    || setweight(
      to_tsvector('pg_catalog.english', private.split_names(p_chunk.identifiers || v_of_own || v_of_above)), 'C'
    )
    || setweight(to_tsvector('pg_catalog.english', private.plain_words(p_chunk.content)), 'D')
    || private.name_vector(v_of_own, 'A') || private.name_vector(v_of_above, 'B')
    || private.name_vector(p_chunk.identifiers, 'C')
    || private.name_vector(private.code_names(p_chunk.content), 'D')
    || array_to_tsvector(array['v:' || p_chunk.library_version_id::text]);
end
$$;

comment on function private.documentation_words(public.documentation_chunks) is
'What of a chunk is searched for. The version is among it, so that the index looks at no other''s chunks.';

create function private.keep_documentation_words() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  new.words := private.documentation_words(new);
  return new;
end
$$;

comment on function private.keep_documentation_words() is 'Trigger: keeps what of a chunk is searched for.';

create trigger new_documentation_is_searched
before insert on public.documentation_chunks
for each row execute function private.keep_documentation_words();

create trigger changed_documentation_is_searched
before update of title, headings, content, identifiers on public.documentation_chunks
for each row when (
  (old.title, old.headings, old.content, old.identifiers)
  is distinct from (new.title, new.headings, new.content, new.identifiers)
)
execute function private.keep_documentation_words();

create trigger documentation_chunks_touch_updated_at before update on public.documentation_chunks
for each row execute function private.touch_updated_at();

create trigger library_versions_touch_updated_at before update on public.library_versions
for each row execute function private.touch_updated_at();

create function private.plain_name(p_name text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return regexp_replace(lower(left(p_name, 200)), '[^a-z0-9]+', '', 'g');
end
$$;

comment on function private.plain_name(text) is 'A name without what people leave out or put in: Next.js is nextjs.';

create function private.name_grams(p_name text) returns text[]
language plpgsql immutable set search_path = ''
as $$
declare
  v_name text := '  ' || private.plain_name(p_name) || ' ';
begin
  return array(select distinct substr(v_name, n, 3) from generate_series(1, char_length(v_name) - 2) as n);
end
$$;

comment on function private.name_grams(text) is 'Groups of three letters of a name, with its beginning and its end.';

create function private.keep_library_names() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  new.name_grams := array(
    select distinct g.gram
    from unnest(array[split_part(new.id, '/', 3), new.vendor, new.title] || new.aliases) as n (name)
    cross join unnest(private.name_grams(n.name)) as g (gram)
  );
  if tg_op = 'UPDATE' then
    new.updated_at := now();
  end if;
  return new;
end
$$;

comment on function private.keep_library_names() is 'Trigger: keeps what a library is found by, and updated_at.';

create trigger libraries_keep_their_names
before insert or update on public.libraries
for each row execute function private.keep_library_names();

-- ---------------------------------------------------------------------------------------------------------------
-- Whose names are whose
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_vendor(p_vendor text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Who adds /acme/docs for everybody and who founds the organization acme see each other.
  perform pg_advisory_xact_lock(hashtextextended('vendor ' || lower(p_vendor), 0));
end
$$;

comment on function private.lock_vendor(text) is 'Locks the first part of library ids until the transaction ends.';

create function private.keep_library_ids_apart() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_vendor text := split_part(new.id, '/', 2);
begin
  if tg_op = 'UPDATE' and (new.id, new.organization_id) is not distinct from (old.id, old.organization_id) then
    return new;
  end if;
  perform private.lock_vendor(v_vendor);
  if new.organization_id is null then
    if exists (select from public.organizations as o where o.slug = v_vendor) then
      perform private.fail(409, 'library_id_taken', 'An organization has this name: a public library may not begin with it.',
        '{"param": "id"}');
    end if;
  elsif not exists (select from public.organizations as o where o.id = new.organization_id and o.slug = v_vendor) then
    perform private.fail(400, 'invalid_argument', 'The id of a private library begins with the slug of its organization.',
      '{"param": "id"}');
  end if;
  return new;
end
$$;

comment on function private.keep_library_ids_apart() is
'Trigger: a private id begins with its organization''s slug (400 invalid_argument), a public one with nobody''s (409 library_id_taken).';

create trigger libraries_keep_to_their_names
before insert or update of id, organization_id on public.libraries
for each row execute function private.keep_library_ids_apart();

create function private.keep_slugs_apart() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.lock_vendor(new.slug);
  if exists (select from public.libraries as l where l.vendor = new.slug and l.organization_id is null) then
    perform private.fail(409, 'slug_taken', 'This slug is taken; choose another.', '{"param": "slug"}');
  end if;
  return new;
end
$$;

comment on function private.keep_slugs_apart() is
'Trigger: no organization takes a name under which there are public libraries (409 slug_taken).';

create trigger slugs_keep_off_public_libraries
before insert or update of slug on public.organizations
for each row execute function private.keep_slugs_apart();

-- ---------------------------------------------------------------------------------------------------------------
-- Totals, and what goes with what
-- ---------------------------------------------------------------------------------------------------------------

create function private.count_library(p_library_id text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.libraries as l
  set (total_versions, total_chunks, total_snippets, total_tokens, default_version) = (
    select
      count(*), coalesce(sum(v.total_chunks), 0), coalesce(sum(v.total_snippets), 0), coalesce(sum(v.total_tokens), 0),
      max(v.version) filter (where v.is_latest)
    from public.library_versions as v
    where v.library_id = p_library_id and v.crawl > 0
  )
  where l.id = p_library_id;
end
$$;

comment on function private.count_library(text) is 'Sums the versions of a library that can be searched.';

create function private.forget_objects(p_bucket text, p_paths text[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if cardinality(array_remove(p_paths, null)) > 0 then
    perform private.task_enqueue(
      'files_delete', jsonb_build_object('bucket', p_bucket, 'paths', to_jsonb(array_remove(p_paths, null))), null, now(), 20
    );
  end if;
end
$$;

comment on function private.forget_objects(text, text[]) is 'Has objects of a bucket deleted after this transaction; those that are not there do no harm.';

create function private.forget_upload(p_bucket text, p_path text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.forget_objects(p_bucket, array[p_path]);
  -- An address to upload to is good for two hours, whatever became of the row that it was made for.
  perform private.task_enqueue(
    'files_delete', jsonb_build_object('bucket', p_bucket, 'paths', jsonb_build_array(p_path)), null,
    now() + interval '125 minutes', 20
  );
end
$$;

comment on function private.forget_upload(text, text) is
'Has an object deleted that somebody may still have an address to upload to: now, and once more when that is no longer good.';

create function private.end_library_version() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.forget_objects('libraries', array[old.snapshot_path]);
  return null;
end
$$;

comment on function private.end_library_version() is 'Trigger: with a version goes its snapshot.';

create trigger library_versions_leave_no_snapshot
after delete on public.library_versions
for each row when (old.snapshot_path is not null)
execute function private.end_library_version();

create trigger library_versions_replace_their_snapshot
after update of snapshot_path on public.library_versions
for each row when (old.snapshot_path is not null and old.snapshot_path is distinct from new.snapshot_path)
execute function private.end_library_version();

create function private.forget_resolved_libraries() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from private.library_answers as a where a.tool = 'resolve-library-id';
  return null;
end
$$;

comment on function private.forget_resolved_libraries() is 'Trigger: with a change of what libraries are called, where they went or whether they can be searched, answers to resolve-library-id are no longer given again.';

create trigger new_libraries_are_resolved
after insert or delete on public.libraries
for each statement execute function private.forget_resolved_libraries();

create trigger changed_libraries_are_resolved
after update of title, description, aliases, moved_to, default_version, total_versions, popularity_score, trust_score
on public.libraries
for each statement execute function private.forget_resolved_libraries();

insert into storage.buckets (id, name, public, file_size_limit)
values ('libraries', 'libraries', false, 1073741824)
on conflict (id) do nothing;
