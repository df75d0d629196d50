-- Libraries: finding one by its name, and finding in them what answers a question.
--
--   resolve_library()        libraries whose name is like the one given, surest first
--   search_documentation()   pieces of documentation for a question, in one answer of bounded length
--
-- A search asks twice: for words (full text) and for meaning (vectors). The two are fused by their places, not by their
-- scores, which cannot be compared: 1 / (10 + place) of each, summed (reciprocal rank fusion; docs/decisions/0036).
--
-- Words: by BM25F, with how rare a word is from private.documentation_words. Candidates are the chunks that have one of
-- the rarest words of the question; a word that is everywhere makes none. ts_rank() finds the best among them, of which
-- words are then counted. "phrases" are required and -"phrases" refused. A name of code is found
-- by its beginning: os.pa finds os.path.
--
-- Who may see what: public.search_documentation() runs as its caller. Row level security decides which libraries it
-- finds and which chunks it reads. In between, private.find_my_chunks() ranks: as a definer, because Postgres does not
-- use an index for a search of words under row level security. It answers ids and scores, of what the caller may see.

-- ---------------------------------------------------------------------------------------------------------------
-- Resolving a name
-- ---------------------------------------------------------------------------------------------------------------

create function private.name_likeness(p_name text, p_names text[]) returns double precision
language plpgsql immutable set search_path = ''
as $$
declare
  v_name text := private.plain_name(p_name);
begin
  return coalesce((
    select max(
      case
        when n.name = v_name then 1
        -- Of a name that goes on, as much as was typed.
        when char_length(v_name) >= 3 and starts_with(n.name, v_name)
          then 0.6 + 0.4 * char_length(v_name) / char_length(n.name)
        else private.word_similarity(private.name_grams(v_name), private.name_grams(n.name))
      end
    )
    from (select private.plain_name(a.name) as name from unnest(p_names) as a (name)) as n
    where n.name <> ''
  ), 0);
end
$$;

comment on function private.name_likeness(text, text[]) is
'How like a name is to the likest of several, 0 to 1: the same, its beginning, or the groups of three letters that they share.';

create function private.library_json(p_library public.libraries) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'library_id', p_library.id, 'title', p_library.title, 'description', p_library.description,
    'is_public', p_library.organization_id is null, 'source_kind', p_library.source_kind,
    'source_url', p_library.source_url, 'docs_url', p_library.docs_url, 'default_version', p_library.default_version,
    'total_versions', p_library.total_versions, 'total_chunks', p_library.total_chunks,
    'total_snippets', p_library.total_snippets, 'total_tokens', p_library.total_tokens,
    'popularity_score', p_library.popularity_score, 'trust_score', p_library.trust_score,
    'last_crawled_at', p_library.last_crawled_at
  ) || private.library_state(p_library);
end
$$;

comment on function private.library_json(public.libraries) is 'A library as it is answered.';

create function private.library_answer(p_library public.libraries) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  -- state says whether it can be asked, crawl how the latest one went.
  return private.library_json(p_library) - 'status' || jsonb_build_object(
    'organization_id', p_library.organization_id, 'aliases', p_library.aliases, 'metadata', p_library.metadata,
    'refresh_seconds', p_library.refresh_seconds, 'next_refresh_at', p_library.next_refresh_at,
    'created_at', p_library.created_at,
    'crawl', jsonb_build_object(
      'step', p_library.state, 'progress', p_library.progress, 'error_code', p_library.error_code,
      'error_message', p_library.error_message, 'asked_at', p_library.crawl_asked_at
    )
  );
end
$$;

comment on function private.library_answer(public.libraries) is 'A library as it is read: whether it can be asked, and how its latest crawl goes or went.';

create function private.library_state(p_library public.libraries) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return case
    when p_library.id is null then jsonb_build_object('state', 'not_found', 'status', 404)
    when p_library.moved_to is not null
      then jsonb_build_object('state', 'moved', 'status', 301, 'moved_to', p_library.moved_to)
    when p_library.total_versions > 0 then jsonb_build_object('state', 'ready', 'status', 200)
    when p_library.state = 'failed' then jsonb_build_object(
      'state', 'failed', 'status', 404, 'error_code', p_library.error_code, 'error_message', p_library.error_message
    )
    else jsonb_build_object(
      'state', 'unfinished', 'status', 202, 'step', p_library.state, 'progress', p_library.progress
    )
  end;
end
$$;

comment on function private.library_state(public.libraries) is
'Whether a library can be searched, with the HTTP status that says so: ready (200), unfinished (202), moved (301), failed or not_found (404).';

create function private.names_in(p_query text, p_name text) returns text[]
language plpgsql immutable security definer set search_path = ''
as $$
begin
  -- With no name to go by, each word of the question may be one.
  return case
    when nullif(btrim(p_name), '') is not null then array[left(btrim(p_name), 200)]
    else array(
      select w.word
      from regexp_split_to_table(left(btrim(p_query), 200), '\s+') as w (word)
      where char_length(w.word) > 1
      limit 12
    ) || left(coalesce(btrim(p_query), ''), 200)
  end;
end
$$;

comment on function private.names_in(text, text) is 'What a library may be called: the name, or else each word of the question and all of it.';

create function private.grams_of(p_names text[]) returns text[]
language plpgsql immutable security definer set search_path = ''
as $$
begin
  return array(
    select distinct g.gram from unnest(p_names) as n (name) cross join unnest(private.name_grams(n.name)) as g (gram)
  );
end
$$;

comment on function private.grams_of(text[]) is 'Groups of three letters of several names.';

create function private.ranked_libraries(
  p_libraries public.libraries[], p_names text[], p_query text, p_limit integer
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_words text[] := private.prompt_words(p_query);
begin
  return coalesce((
    select jsonb_agg(private.library_json(m.library) || jsonb_build_object('confidence', m.confidence)
      order by m.confidence desc, (m.library).popularity_score desc, (m.library).id)
    from (
      select
        r.library,
        round((r.likeness * (
          0.8
          -- What a million use is as popular as can be.
          + 0.08 * least(ln(1 + (r.library).popularity_score) / ln(1000001), 1)
          + 0.08 * (r.library).trust_score / 10
          + 0.04 * (
            select count(*)::numeric / greatest(cardinality(v_words), 1)
            from unnest(v_words) as w (word)
            where w.word = any(private.prompt_words((r.library).title || ' ' || (r.library).description))
          )
        )::double precision)::numeric, 4) as confidence
      from (
        select l as library, (
          select max(private.name_likeness(
            n.name, array[l.id, split_part(l.id, '/', 3), l.title] || l.aliases
          ))
          from unnest(p_names) as n (name)
        ) as likeness
        from unnest(p_libraries) as l
      ) as r
      where r.likeness >= 0.2
      order by confidence desc, (r.library).popularity_score desc, (r.library).id
      limit least(greatest(coalesce(p_limit, 10), 1), 50)
    ) as m
  ), '[]');
end
$$;

comment on function private.ranked_libraries(public.libraries[], text[], text, integer) is
'These libraries, by how like one of the names they are called: surest first. Confidence is that likeness times 0.8 to 1, for how popular and how trusted the library is and for how much of the question its description says.';

create function private.resolved_libraries(p_organizations uuid[], p_query text, p_name text, p_limit integer)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_names text[] := private.names_in(p_query, p_name);
  v_grams text[] := private.grams_of(v_names);
begin
  return jsonb_build_object('matches', private.ranked_libraries(
    array(
      select l
      from public.libraries as l
      where l.name_grams && v_grams
        and (l.organization_id is null or l.organization_id = any(p_organizations))
      order by (
        select count(*) from unnest(l.name_grams) as g (gram) where g.gram = any(v_grams)
      ) desc, l.popularity_score desc
      limit 200
    ),
    v_names, p_query, p_limit
  ));
end
$$;

comment on function private.resolved_libraries(uuid[], text, text, integer) is
'Libraries of everybody and of these organizations whose name is like the one given, surest first. As the caller, so that row level security is asked, too.';

create function public.resolve_library(
  p_query text default null, p_library_name text default null, p_limit integer default 10
)
returns jsonb
language sql stable set search_path = ''
as $$
  select private.resolved_libraries(
    array(select private.my_organization_ids()), p_query, p_library_name, p_limit
  )
$$;

comment on function public.resolve_library(text, text, integer) is
'Libraries whose name is like p_library_name (or a word of p_query), each with a confidence from 0 to 1; use the id in search_documentation(). state says whether it can be searched: ready, unfinished, moved (to moved_to), failed.';

-- ---------------------------------------------------------------------------------------------------------------
-- What is searched
-- ---------------------------------------------------------------------------------------------------------------

create function private.documentation_scope(p_organizations uuid[], p_library text, p_version text) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_parts text[] := regexp_match(btrim(p_library), '^(/?[^/]+/[^/]+)(?:/([^/]+))?/?$');
  v_id text := lower('/' || ltrim(v_parts[1], '/'));
  v_version text := coalesce(nullif(btrim(p_version), ''), v_parts[2]);
  v_library public.libraries;
  v_state jsonb;
  v_versions public.library_versions[];
begin
  if nullif(btrim(p_library), '') is null then
    v_versions := array(
      select v
      from public.library_versions as v
      inner join public.libraries as l on l.id = v.library_id
      where v.is_latest and l.moved_to is null
        and (l.organization_id is null or l.organization_id = any(p_organizations))
    );
    v_state := jsonb_build_object('state', 'ready', 'status', 200, 'library_id', null);
  else
    select l.* into v_library
    from public.libraries as l
    where l.id = v_id and (l.organization_id is null or l.organization_id = any(p_organizations));
    v_state := private.library_state(v_library) || jsonb_build_object('library_id', v_id);
    if v_state ->> 'state' <> 'ready' then
      return v_state;
    end if;
    v_versions := array(
      select v
      from public.library_versions as v
      where v.library_id = v_id and v.crawl > 0
        -- v7.0 and 7.0 are the same to people.
        and case when v_version is null then v.is_latest else v.version in (v_version, ltrim(v_version, 'v'), 'v' || v_version) end
      order by v.version is not distinct from v_version desc
      limit 1
    );
    if cardinality(v_versions) = 0 then
      return jsonb_build_object(
        'state', 'not_found', 'status', 404, 'library_id', v_id, 'version', v_version,
        'versions', (
          select coalesce(jsonb_agg(v.version order by v.is_latest desc, v.id desc), '[]')
          from public.library_versions as v
          where v.library_id = v_id and v.crawl > 0
        )
      );
    end if;
    v_state := v_state || jsonb_build_object('version', v_versions[1].version);
  end if;
  return v_state || jsonb_build_object(
    'version_ids', (select coalesce(jsonb_agg(v.id), '[]') from unnest(v_versions) as v),
    -- What most of the chunks can be asked with.
    'embedding_model', (
      select v.embedding_model from unnest(v_versions) as v
      group by v.embedding_model
      order by v.embedding_model is null, sum(v.total_chunks) desc, v.embedding_model
      limit 1
    ),
    'dimensions', (
      select v.dimensions from unnest(v_versions) as v
      group by v.embedding_model, v.dimensions
      order by v.embedding_model is null, sum(v.total_chunks) desc, v.embedding_model
      limit 1
    ),
    'stamp', (
      select md5(coalesce(string_agg(concat_ws(' ', v.id, v.crawl, v.embedding_model), ',' order by v.id), ''))
      from unnest(v_versions) as v
    )
  );
end
$$;

comment on function private.documentation_scope(uuid[], text, text) is
'The versions that a question is about: the one named, as /organization/project/version or beside it, else the latest; without a library the latest of all. Or why there is none, with the HTTP status that says so.';

-- ---------------------------------------------------------------------------------------------------------------
-- Words
-- ---------------------------------------------------------------------------------------------------------------

create type private.search_term as (
  query tsquery, word text, is_prefix boolean, weight double precision, chunks bigint
);

comment on type private.search_term is 'A word of a question: how it is looked for, how much it counts, and how many chunks have it.';

create function private.search_terms(p_query text) returns private.search_term[]
language plpgsql immutable set search_path = ''
as $$
declare
  -- What is refused is no word of the question.
  v_query text := regexp_replace(left(p_query, 2000), '(^|\s)-"[^"]*"', ' ', 'g');
  v_names text[] := private.code_names(v_query);
begin
  return array(
    select row(
      format(case when t.is_prefix then '%L:*' else '%L' end, t.word)::tsquery, t.word, t.is_prefix, 1, 0
    )::private.search_term
    from (
      select w.word, false as is_prefix
      from unnest(tsvector_to_array(
        to_tsvector('pg_catalog.english', private.plain_words(v_query) || ' ' || private.split_names(v_names))
      )) as w (word)
      union all
      select lower(n.name), true
      from unnest(v_names) as n (name)
      where n.name ~ '^[A-Za-z0-9_$.:]+$'
    ) as t
    order by t.is_prefix desc, char_length(t.word) desc, t.word
    limit 32
  );
end
$$;

comment on function private.search_terms(text) is
'The words of a question, at most 32: as English has them, and names of code by their beginning.';

create function private.required_terms(p_query text) returns tsquery
language plpgsql immutable set search_path = ''
as $$
declare
  v_match text[];
  v_part tsquery;
  v_query tsquery;
begin
  for v_match in
    select m.match from regexp_matches(left(p_query, 2000), '(?:^|\s)(-?)"([^"]+)"', 'g') as m (match)
  loop
    v_part := phraseto_tsquery('pg_catalog.english', private.plain_words(v_match[2]));
    continue when numnode(v_part) = 0;
    if v_match[1] = '-' then
      v_part := !!v_part;
    end if;
    v_query := coalesce(v_query && v_part, v_part);
  end loop;
  return v_query;
end
$$;

comment on function private.required_terms(text) is 'What a question demands: its "phrases", and nothing with its -"phrases"; null for nothing. A dash alone is an option of a program.';

create function private.weighed_terms(p_terms private.search_term[], p_version_ids uuid[]) returns private.search_term[]
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_chunks bigint := (
    select coalesce(sum(v.total_chunks), 0) from public.library_versions as v where v.id = any(p_version_ids)
  );
begin
  return array(
    select row(
      t.query, t.word, t.is_prefix, ln(1 + (greatest(v_chunks, c.count) - c.count + 0.5) / (c.count + 0.5)), c.count
    )::private.search_term
    from unnest(p_terms) as t
    cross join lateral (
      select coalesce(sum(w.chunk_count), 0) as count
      from private.documentation_words as w
      where w.library_version_id = any(p_version_ids)
        and (
          (not t.is_prefix and w.word = t.word)
          or (t.is_prefix and w.word >= t.word and w.word < t.word || U&'\+10FFFF')
        )
    ) as c
    order by c.count, t.word
  );
end
$$;

comment on function private.weighed_terms(private.search_term[], uuid[]) is
'The words of a question, rarest first, with how much each counts in these versions.';

create function private.word_scores(
  p_ids uuid[], p_words tsvector[], p_lengths double precision[], p_terms private.search_term[]
) returns table (id uuid, score double precision)
language plpgsql immutable rows 100 set search_path = ''
as $$
begin
  return query
  select c.id, coalesce(sum(
    t.weight * f.frequency * (1.2 + 1) / (f.frequency + 1.2 * (1 - 0.3 + 0.3 * c.length))
  ) filter (where f.frequency > 0), 0)
  from unnest(p_ids, p_words, p_lengths) as c (id, words, length)
  cross join unnest(p_terms) as t
  cross join lateral (
    -- How often it is there. For one word ts_rank_cd() sums the weights of its places: three for each in the heading,
    -- one in the text, half in names of code, and a quarter above the heading, which all chunks of a page share. It
    -- takes no weight above 1, hence thirds; and offset 0 has it asked once.
    select 3 * ts_rank_cd('{0.3333333, 0.1666667, 0.0833333, 1.0}', c.words, t.query)::double precision as frequency
    offset 0
  ) as f
  group by c.id;
end
$$;

comment on function private.word_scores(uuid[], tsvector[], double precision[], private.search_term[]) is
'How well chunks answer a question, by its words: BM25F (Robertson and Zaragoza, 2009) with k1 = 1.2 and b = 0.3. Lengths are in averages.';

create function private.candidate_query(p_terms private.search_term[], p_chunks bigint) returns tsquery
language plpgsql immutable set search_path = ''
as $$
declare
  v_most constant double precision := 1000;
  v_room double precision := v_most;
  v_count constant integer := least(coalesce(cardinality(p_terms), 0), 5);
  v_query tsquery;
  v_guess double precision;
begin
  -- The rarest words by themselves, as long as few chunks have them.
  for i in 1..coalesce(cardinality(p_terms), 0) loop
    exit when p_terms[i].chunks > v_room;
    v_query := coalesce(v_query || p_terms[i].query, p_terms[i].query);
    v_room := v_room - p_terms[i].chunks;
    exit when v_room < v_most / 2;
  end loop;
  -- Then those that come together: how many do is guessed, as if words did not know of each other.
  for j in 2..v_count loop
    for i in 1..j - 1 loop
      v_guess := p_terms[i].chunks::double precision * p_terms[j].chunks / greatest(p_chunks, 1);
      continue when v_guess > v_room;
      v_query := coalesce(v_query || (p_terms[i].query && p_terms[j].query), p_terms[i].query && p_terms[j].query);
      v_room := v_room - v_guess;
    end loop;
  end loop;
  if v_query is null then
    for i in 1..v_count loop
      v_query := coalesce(v_query && p_terms[i].query, p_terms[i].query);
    end loop;
  end if;
  return v_query;
end
$$;

comment on function private.candidate_query(private.search_term[], bigint) is
'Which chunks are looked at for a question, about 1,000 of so many: those that have one of its rarest words, or two of its words, or all. Null without a word.';

create function private.text_ranks(
  p_version_ids uuid[], p_query text, p_content_type text, p_with_flagged boolean, p_depth integer
) returns table (chunk_id uuid, place bigint, score double precision)
language plpgsql stable security definer rows 60 set search_path = ''
as $$
declare
  v_terms private.search_term[] := private.weighed_terms(private.search_terms(p_query), p_version_ids);
  v_required tsquery := private.required_terms(p_query);
  v_any tsquery;
  v_queries tsquery[] := array(select t.query from unnest(v_terms) as t);
  v_weights double precision[] := array(select t.weight from unnest(v_terms) as t);
  v_count integer := cardinality(v_terms);
  v_places constant real[] := '{0.4, 0.2, 0.1, 1.0}';
  v_chunks bigint;
  v_average double precision;
  v_ids uuid[];
  v_crawls integer[];
begin
  select
    coalesce(sum(v.total_chunks), 0), greatest(sum(v.total_tokens)::double precision / nullif(sum(v.total_chunks), 0), 1),
    array_agg(v.id), array_agg(v.crawl)
  into v_chunks, v_average, v_ids, v_crawls
  from public.library_versions as v
  where v.id = any(p_version_ids);
  v_any := private.candidate_query(v_terms, v_chunks);
  if v_any is not null then
    v_any := coalesce(v_any && v_required, v_any);
  elsif querytree(v_required) <> 'T' then
    -- A phrase alone is a question, too; what is refused is none.
    v_any := v_required;
  end if;
  if v_any is null then
    return;
  end if;
  if cardinality(p_version_ids) <= 20 then
    v_any := (
      select string_agg(format('%L', 'v:' || i.id::text), ' | ')::tsquery from unnest(p_version_ids) as i (id)
    ) && v_any;
  end if;
  return query
  with candidates as (
    -- Which could be the best is told by ts_rank(), which takes a microsecond and counts no words: of the rarest six. One
    -- after the other, because to go through a list of them for each chunk would take longer than to ask.
    select c.id, v_weights[1] * ts_rank(v_places, c.words, v_queries[1])
      + case when v_count > 1 then v_weights[2] * ts_rank(v_places, c.words, v_queries[2]) else 0 end
      + case when v_count > 2 then v_weights[3] * ts_rank(v_places, c.words, v_queries[3]) else 0 end
      + case when v_count > 3 then v_weights[4] * ts_rank(v_places, c.words, v_queries[4]) else 0 end
      + case when v_count > 4 then v_weights[5] * ts_rank(v_places, c.words, v_queries[5]) else 0 end
      + case when v_count > 5 then v_weights[6] * ts_rank(v_places, c.words, v_queries[6]) else 0 end as rough
    from public.documentation_chunks as c
    where c.words @@ v_any
      and c.library_version_id = any(v_ids)
      and c.added_in <= v_crawls[array_position(v_ids, c.library_version_id)]
      and (p_content_type is null or c.content_type = p_content_type)
      and (p_with_flagged or cardinality(c.flags) = 0)
    limit 2500
  ),

  best as (
    select c.id, c.words, c.token_count / coalesce(v_average, c.token_count) as length
    from (select r.id from candidates as r order by r.rough desc nulls last, r.id limit p_depth) as n
    inner join public.documentation_chunks as c on c.id = n.id
  )

  select s.id, row_number() over (order by s.score desc, s.id), s.score
  from (select array_agg(b.id) as ids, array_agg(b.words) as words, array_agg(b.length) as lengths from best as b) as a
  cross join lateral private.word_scores(a.ids, a.words, a.lengths, v_terms) as s (id, score)
  order by s.score desc, s.id;
end
$$;

comment on function private.text_ranks(uuid[], text, text, boolean, integer) is
'Chunks of these versions that have words of a question, best first.';

-- ---------------------------------------------------------------------------------------------------------------
-- Vectors
-- ---------------------------------------------------------------------------------------------------------------

create function private.padded_vector(p_numbers jsonb) returns extensions.halfvec
language plpgsql immutable set search_path = ''
as $$
declare
  v_dimensions integer;
begin
  if p_numbers is null or jsonb_typeof(p_numbers) = 'null' then
    return null;
  end if;
  if jsonb_typeof(p_numbers) = 'array' then
    v_dimensions := jsonb_array_length(p_numbers);
  end if;
  -- A number of ten characters may be a hundred thousand digits long: what halfvec could not hold is not written out.
  if v_dimensions between 1 and 1536
    and not jsonb_path_exists(p_numbers, '$[*] ? (@.type() != "number" || @.abs() > 65504)') then
    if v_dimensions < 1536 then
      return (rtrim(p_numbers::text, ']') || repeat(',0', 1536 - v_dimensions) || ']')::extensions.halfvec(1536);
    end if;
    return p_numbers::text::extensions.halfvec(1536);
  end if;
  perform private.fail(400, 'invalid_argument', 'A vector is a list of 1 to 1536 numbers, each within 65504 of 0.', '{"param": "embedding"}');
end
$$;

comment on function private.padded_vector(jsonb) is
'A list of numbers as a vector of 1536 dimensions: zeros where it has fewer, which changes no angle. Null for null; 400 invalid_argument.';

create function private.vector_ranks(
  p_version_ids uuid[],
  p_embedding extensions.halfvec,
  p_model text,
  p_content_type text,
  p_with_flagged boolean,
  p_depth integer,
  p_also uuid[] default '{}'
) returns table (chunk_id uuid, place bigint, distance double precision)
language plpgsql volatile security definer rows 60 set search_path = ''
as $$
declare
  v_ids uuid[] := array(
    select v.id from public.library_versions as v where v.id = any(p_version_ids) and v.embedding_model = p_model
  );
begin
  if p_embedding is null or cardinality(v_ids) = 0 then
    return;
  end if;
  -- Others' chunks are taken away after the index has found them: it has to go on until there are enough. What it finds
  -- late may be nearer than what it found before, so they are put in order here.
  perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
  -- What a graph of words misses, words have found: it is not worth the time to look longer.
  perform set_config('hnsw.ef_search', case when private.vector_share(p_model) < 1 then '100' else '200' end, true);
  perform set_config('hnsw.max_scan_tuples', '100000', true);
  if (select sum(v.total_chunks) from public.library_versions as v where v.id = any(v_ids)) <= 4000 then
    -- So few are looked at one by one: exact, and no slower than to look for them among everybody's.
    return query
    select f.chunk_id, row_number() over (order by f.distance, f.chunk_id), f.distance
    from (
      select e.chunk_id, e.embedding operator(extensions.<=>) p_embedding as distance
      from private.documentation_embeddings as e
      inner join public.documentation_chunks as c on c.id = e.chunk_id
      inner join public.library_versions as v on v.id = c.library_version_id
      where e.library_version_id = any(v_ids) and e.model = p_model and c.added_in <= v.crawl
        and (p_content_type is null or c.content_type = p_content_type)
        and (p_with_flagged or cardinality(c.flags) = 0)
    ) as f
    order by f.distance, f.chunk_id
    limit p_depth;
    return;
  end if;
  return query
  with found as materialized (
    select e.chunk_id, e.embedding operator(extensions.<=>) p_embedding as distance
    from private.documentation_embeddings as e
    where e.library_version_id = any(v_ids) and e.model = p_model
      -- As a subquery it is asked of each row in the order of the index, which a join could leave.
      and (
        select c.added_in <= v.crawl and (p_content_type is null or c.content_type = p_content_type)
          and (p_with_flagged or cardinality(c.flags) = 0)
        from public.documentation_chunks as c
        inner join public.library_versions as v on v.id = c.library_version_id
        where c.id = e.chunk_id
      )
    order by e.embedding operator(extensions.<=>) p_embedding
    limit p_depth
  ),

  near as (
    select n.chunk_id, n.distance from found as n
    union
    -- The graph misses some. What words have found is looked at by itself.
    select e.chunk_id, e.embedding operator(extensions.<=>) p_embedding
    from private.documentation_embeddings as e
    where e.chunk_id = any(p_also) and e.library_version_id = any(v_ids) and e.model = p_model
  )

  select f.chunk_id, row_number() over (order by f.distance, f.chunk_id), f.distance
  from near as f
  order by f.distance, f.chunk_id
  limit p_depth;
end
$$;

comment on function private.vector_ranks(uuid[], extensions.halfvec, text, text, boolean, integer, uuid[]) is
'Chunks of these versions whose vectors, of this model, are nearest, nearest first; p_also are looked at whatever the graph finds.';

-- ---------------------------------------------------------------------------------------------------------------
-- Fused
-- ---------------------------------------------------------------------------------------------------------------

create type private.search_hit as (chunk_id uuid, score double precision, text_place bigint, vector_place bigint);

comment on type private.search_hit is 'A chunk that was found, how well, and at which place by words and by meaning.';

create function private.vector_share(p_model text) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return case when starts_with(p_model, 'lexical-') then 0.5 else 1 end;
end
$$;

comment on function private.vector_share(text) is
'How much places by vectors count beside places by words: the same, and half for those that are made of words themselves.';

create function private.find_chunks(
  p_version_ids uuid[],
  p_query text,
  p_embedding jsonb,
  p_embedding_model text,
  p_content_type text,
  p_flagged text
) returns private.search_hit[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_depth constant integer := 50;
  v_most constant integer := 100;
  v_k constant double precision := 10;
  v_share double precision := private.vector_share(p_embedding_model);
  v_texts uuid[];
begin
  if p_content_type is not null and p_content_type not in ('snippet', 'guide', 'api_ref') then
    perform private.fail(400, 'invalid_argument', 'The type is snippet, guide or api_ref.', '{"param": "type"}');
  elsif p_flagged is null or p_flagged not in ('down', 'exclude') then
    perform private.fail(400, 'invalid_argument', 'What is flagged is ranked down, or excluded.', '{"param": "flagged"}');
  elsif char_length(p_query) > 10000 then
    perform private.fail(400, 'invalid_argument', 'The question is too long.', '{"param": "query", "maximum": 10000}');
  end if;
  v_texts := array(
    select t.chunk_id
    from private.text_ranks(p_version_ids, p_query, p_content_type, p_flagged = 'down', v_depth) as t
    order by t.place
  );
  return array(
    select row(
      f.chunk_id,
      -- Less than any place on either list is worth, so that what is flagged comes after all that is not.
      f.score * case when cardinality(c.flags) > 0 then 0.01 else 1 end,
      f.text_place, f.vector_place
    )::private.search_hit
    from (
      select
        coalesce(t.chunk_id, v.chunk_id) as chunk_id,
        coalesce(1 / (v_k + t.place), 0) + coalesce(v_share / (v_k + v.place), 0) as score,
        t.place as text_place, v.place as vector_place
      from unnest(v_texts) with ordinality as t (chunk_id, place)
      full outer join private.vector_ranks(
        p_version_ids, private.padded_vector(p_embedding), p_embedding_model, p_content_type, p_flagged = 'down', v_depth,
        v_texts
      ) as v on v.chunk_id = t.chunk_id
    ) as f
    inner join public.documentation_chunks as c on c.id = f.chunk_id
    order by f.score * case when cardinality(c.flags) > 0 then 0.01 else 1 end desc, f.text_place, f.chunk_id
    limit v_most
  );
end
$$;

comment on function private.find_chunks(uuid[], text, jsonb, text, text, text) is
'Chunks of these versions that answer a question: ranked by words and by vectors, fused by reciprocal rank (k = 10), best first. Whoever calls has seen to it that the versions are the caller''s to read.';

create function private.find_my_chunks(
  p_version_ids uuid[],
  p_query text,
  p_embedding jsonb,
  p_embedding_model text,
  p_content_type text,
  p_flagged text
) returns private.search_hit[]
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.find_chunks(
    array(
      select v.id
      from public.library_versions as v
      where v.id = any(p_version_ids)
        and (v.organization_id is null or v.organization_id in (select private.my_organization_ids()))
    ),
    p_query, p_embedding, p_embedding_model, p_content_type, p_flagged
  );
end
$$;

comment on function private.find_my_chunks(uuid[], text, jsonb, text, text, text) is
'private.find_chunks, of those versions that the caller may read.';

create function private.answer_tokens(p_tokens integer) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  return least(
    greatest(coalesce(p_tokens, (private.setting('library_query_tokens'))::integer), 1),
    (private.setting('library_query_tokens_max'))::integer
  );
end
$$;

comment on function private.answer_tokens(integer) is 'How many tokens an answer may have that was asked for with this many.';

create function private.chunks_answer(p_hits private.search_hit[], p_tokens integer, p_limit integer) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_budget integer := private.answer_tokens(p_tokens);
  v_left integer := v_budget;
  v_most integer := least(greatest(coalesce(p_limit, 20), 1), 100);
  v_ids uuid[] := '{}';
  v_hashes text[] := '{}';
  v_cut uuid;
  v_hit record;
begin
  for v_hit in
    select h.chunk_id, c.token_count, c.content_hash
    from unnest(p_hits) with ordinality as h
    inner join public.documentation_chunks as c on c.id = h.chunk_id
    order by h.ordinality
  loop
    exit when cardinality(v_ids) >= v_most;
    -- The same text on two pages, or in two versions, is read once.
    continue when v_hit.content_hash = any(v_hashes);
    if v_hit.token_count > v_left then
      -- The best is worth a part of it, where nothing else would fit.
      continue when cardinality(v_ids) > 0;
      v_cut := coalesce(v_cut, v_hit.chunk_id);
      continue;
    end if;
    v_ids := v_ids || v_hit.chunk_id;
    v_hashes := v_hashes || v_hit.content_hash;
    v_left := v_left - v_hit.token_count;
  end loop;
  if cardinality(v_ids) = 0 and v_cut is not null then
    v_ids := array[v_cut];
    v_left := 0;
  else
    v_cut := null;
  end if;
  return jsonb_build_object(
    'tokens', v_budget - v_left,
    'results', coalesce((
      select jsonb_agg(g.result order by g.place)
      from (
        -- What follows one another on a page is one passage, at the place of the best of it.
        select
          min(n.place) as place,
          jsonb_build_object(
            'library_id', min(n.library_id), 'version', min(n.version), 'title', min(n.title),
            'headings', jsonb_agg(to_jsonb(n.headings) order by n.chunk_index) -> 0,
            'type', (array_agg(n.content_type order by n.place))[1],
            'language', (array_agg(n.language order by n.place))[1],
            'source_path', n.source_path,
            'source_url', (array_agg(n.source_url order by n.chunk_index))[1],
            'content', string_agg(
              case
                when n.id = v_cut
                  then left(n.content, floor(char_length(n.content)::numeric * v_budget / n.token_count)::integer)
                else n.content
              end, E'\n\n' order by n.chunk_index
            ),
            'is_cut', v_cut is not null,
            'tokens', least(sum(n.token_count), v_budget),
            'chunk_ids', jsonb_agg(n.id order by n.chunk_index),
            'score', round(max(n.score)::numeric, 6),
            'text_place', min(n.text_place), 'vector_place', min(n.vector_place),
            'flags', to_jsonb(array_remove(
              string_to_array(string_agg(array_to_string(n.flags, ' '), ' ' order by n.chunk_index), ' '), ''
            ))
          ) as result
        from (
          select
            c.*, v.version, i.place, h.score, h.text_place, h.vector_place,
            -- Numbers that go on by one have the same difference.
            c.chunk_index - row_number() over (
              partition by c.library_version_id, c.source_path order by c.chunk_index
            ) as run
          from unnest(v_ids) with ordinality as i (id, place)
          inner join public.documentation_chunks as c on c.id = i.id
          inner join public.library_versions as v on v.id = c.library_version_id
          inner join unnest(p_hits) as h on h.chunk_id = i.id
        ) as n
        group by n.library_version_id, n.source_path, n.run
      ) as g
    ), '[]')
  );
end
$$;

comment on function private.chunks_answer(private.search_hit[], integer, integer) is
'Chunks that were found, as they are answered: none twice, neighbours as one passage, and all within a number of tokens. As the caller, so that row level security decides what is read.';

create function public.search_documentation(
  p_query text,
  p_library text default null,
  p_version text default null,
  p_type text default null,
  p_tokens integer default null,
  p_embedding jsonb default null,
  p_embedding_model text default null,
  p_flagged text default 'down',
  p_limit integer default 20
) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_scope jsonb := private.documentation_scope(array(select private.my_organization_ids()), p_library, p_version);
begin
  if v_scope ->> 'state' <> 'ready' then
    return v_scope;
  end if;
  return v_scope - array['version_ids', 'stamp'] || private.chunks_answer(
    private.find_my_chunks(
      array(select i.id::uuid from jsonb_array_elements_text(v_scope -> 'version_ids') as i (id)),
      p_query, p_embedding, coalesce(p_embedding_model, v_scope ->> 'embedding_model'), p_type, p_flagged
    ),
    p_tokens, p_limit
  );
end
$$;

comment on function public.search_documentation(text, text, text, text, integer, jsonb, text, text, integer) is
'Pieces of documentation for a question, best first, within p_tokens: of one library (p_library, as /organization/project or with /version), or of all that you may read. With a vector of the question, made by embedding_model, by words and by meaning; without one by words. Or state: unfinished, moved, failed, not_found.';

grant execute on function private.names_in(text, text) to authenticated;
grant execute on function private.grams_of(text[]) to authenticated;
grant execute on function private.ranked_libraries(public.libraries[], text[], text, integer) to authenticated;
grant execute on function private.resolved_libraries(uuid[], text, text, integer) to authenticated;
grant execute on function private.library_state(public.libraries) to authenticated;
grant execute on function private.documentation_scope(uuid[], text, text) to authenticated;
grant execute on function private.find_my_chunks(uuid[], text, jsonb, text, text, text) to authenticated;
grant execute on function private.answer_tokens(integer) to authenticated;
grant execute on function private.chunks_answer(private.search_hit[], integer, integer) to authenticated;
grant execute on function public.resolve_library(text, text, integer) to authenticated;
grant execute on function public.search_documentation(text, text, text, text, integer, jsonb, text, text, integer)
to authenticated;
