-- Images: prompts that a person may like to draw next.
--
--   history     what they have had drawn before
--   vision      what was found in images of theirs that they marked
--   community   styles that enough different people draw in public (private.community_trends)
--   ai          what a chat model made of a prompt, asked for and paid by the person (functions/images/suggestions.py)
--
-- suggest_prompts() reckons the first three anew each time and keeps what it offers, so that a generation can name it
-- (image_generations.suggestion_id) and its success is known. A row is one person's, whatever its source: what
-- everybody draws is offered to each of them as a row of their own.
--
-- Alike are prompts by their words: share of the words of both that are in both. It needs no extension and no server.
-- Vectors are there where an embedding model is; they find the nearest in backend.suggestions_keep().

insert into private.settings (name, value, description) values
('suggestions_per_person', '200', 'Most suggestions kept for a person; the oldest that were never used go first.');

-- ---------------------------------------------------------------------------------------------------------------
-- Table
-- ---------------------------------------------------------------------------------------------------------------

create table public.prompt_suggestions (
  id uuid primary key default private.uuid7(),
  user_id uuid not null references public.profiles (id) on delete cascade,
  base_prompt text not null,
  suggested_prompt text not null,
  source_type text not null,
  confidence_score double precision not null,
  used_count integer not null default 0,
  completed_count integer not null default 0,
  failed_count integer not null default 0,
  success_rate double precision not null generated always as (
    case
      when completed_count + failed_count = 0 then 0
      else completed_count::double precision / (completed_count + failed_count)
    end
  ) stored,
  created_at timestamptz not null default clock_timestamp(),
  last_used_at timestamptz,
  embedding extensions.halfvec(1536),
  metadata jsonb not null default '{}',
  constraint base_prompt_has_1_to_4000_characters check (
    char_length(base_prompt) between 1 and 4000 and btrim(base_prompt) <> ''
  ),
  constraint suggested_prompt_has_1_to_4000_characters check (
    char_length(suggested_prompt) between 1 and 4000 and btrim(suggested_prompt) <> ''
  ),
  constraint source_type_is_known check (source_type in ('history', 'vision', 'community', 'ai')),
  constraint confidence_score_is_a_share check (confidence_score between 0 and 1),
  constraint success_rate_is_a_share check (success_rate between 0 and 1),
  constraint counts_are_not_negative check (used_count >= 0 and completed_count >= 0 and failed_count >= 0),
  constraint what_ended_was_used check (completed_count + failed_count <= used_count),
  constraint what_was_used_says_when check ((used_count > 0) = (last_used_at is not null)),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 4096
  )
) with (fillfactor = 80);

comment on table public.prompt_suggestions is 'Prompts that were suggested to a person, and what came of them. Functions write; its owner reads and deletes.';
comment on column public.prompt_suggestions.id is 'Identifies the suggestion.';
comment on column public.prompt_suggestions.user_id is 'To whom it was suggested.';
comment on column public.prompt_suggestions.base_prompt is 'What was typed when it was first suggested; where nothing was, what it was made from.';
comment on column public.prompt_suggestions.suggested_prompt is 'The prompt.';
comment on column public.prompt_suggestions.source_type is 'history, vision, community or ai.';
comment on column public.prompt_suggestions.confidence_score is 'Similarity times the chance of success, 0 to 1, as of the last time it was suggested (private.suggestion_confidence).';
comment on column public.prompt_suggestions.used_count is 'Generations that were asked for with it.';
comment on column public.prompt_suggestions.completed_count is 'Those of them that ended well.';
comment on column public.prompt_suggestions.failed_count is 'Those of them that failed; one that was called off is in neither.';
comment on column public.prompt_suggestions.success_rate is 'Share of those that ended well among those that ended well or failed; 0 before the first.';
comment on column public.prompt_suggestions.created_at is 'When it was first suggested.';
comment on column public.prompt_suggestions.last_used_at is 'When a generation was last asked for with it; null for never.';
comment on column public.prompt_suggestions.embedding is 'What it means, as a vector; null where no embedding model was asked.';
comment on column public.prompt_suggestions.metadata is 'What it was made from: image_id, subject or model.';

create index prompt_suggestions_by_user on public.prompt_suggestions (user_id, id desc);
create unique index prompt_suggestions_are_there_once
on public.prompt_suggestions (user_id, source_type, md5(suggested_prompt));
create index prompt_suggestions_by_likeness
on public.prompt_suggestions using hnsw (embedding extensions.halfvec_cosine_ops)
where embedding is not null;

grant select, delete on public.prompt_suggestions to authenticated;
grant select on public.prompt_suggestions to service_role;

alter table public.prompt_suggestions enable row level security;

create policy "Users read their own suggestions"
on public.prompt_suggestions for select to authenticated
using (user_id = (select private.active_user_id()));

create policy "Users delete their own suggestions"
on public.prompt_suggestions for delete to authenticated
using (user_id = (select private.active_user_id()));

-- ---------------------------------------------------------------------------------------------------------------
-- Use
-- ---------------------------------------------------------------------------------------------------------------

alter table public.image_generations
add constraint image_generations_suggestion_id_fkey
foreign key (suggestion_id) references public.prompt_suggestions (id) on delete set null;

create function private.require_own_suggestion(p_suggestion_id uuid, p_user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_suggestion_id is null then
    return;
  end if;
  -- It stays until the generation is there that names it.
  perform s.id
  from public.prompt_suggestions as s
  where s.id = p_suggestion_id and s.user_id = p_user_id
  for key share;
  if not found then
    perform private.fail(404, 'suggestion_not_found', 'There is no such suggestion.', '{"param": "suggestion_id"}');
  end if;
end
$$;

comment on function private.require_own_suggestion(uuid, uuid) is
'A generation names a suggestion of the person who asks; 404 suggestion_not_found for any other, whether there is one or not.';

create function private.lock_suggestion_of(p_generation_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Who deletes a suggestion locks it before the generations that named it; so does who ends one of those.
  perform s.id
  from public.image_generations as g
  inner join public.prompt_suggestions as s on s.id = g.suggestion_id
  where g.id = p_generation_id
  for no key update of s;
end
$$;

comment on function private.lock_suggestion_of(uuid) is 'Locks what a generation was taken from, before the generation itself is locked.';

create function private.note_suggestion_use() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    update public.prompt_suggestions as s
    set used_count = s.used_count + 1, last_used_at = greatest(s.last_used_at, clock_timestamp())
    where s.id = new.suggestion_id;
  else
    update public.prompt_suggestions as s
    set completed_count = s.completed_count + (new.status = 'completed')::integer,
      failed_count = s.failed_count + (new.status = 'failed')::integer
    where s.id = new.suggestion_id;
  end if;
  return null;
end
$$;

comment on function private.note_suggestion_use() is
'Trigger: a suggestion is used when a generation is asked for with it, and did well or not when that ends. Called off, it says nothing of the prompt.';

create trigger image_generations_use_their_suggestion
after insert on public.image_generations
for each row when (new.suggestion_id is not null)
execute function private.note_suggestion_use();

create trigger image_generations_tell_their_suggestion
after update of status on public.image_generations
for each row when (
  new.suggestion_id is not null and old.status in ('pending', 'processing') and new.status in ('completed', 'failed')
)
execute function private.note_suggestion_use();

-- ---------------------------------------------------------------------------------------------------------------
-- Likeness and confidence
-- ---------------------------------------------------------------------------------------------------------------

create function private.prompt_words(p_text text) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  return array(
    select w.word
    from unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', left(p_text, 4000)))) as w (word)
    -- Words that are in every prompt make none alike.
    where w.word !~ '^[a-z]{1,2}$' and w.word <> all(array['and', 'the', 'with'])
  );
end
$$;

comment on function private.prompt_words(text) is 'Different words of a prompt, without those that are in every English one.';

create function private.word_similarity(p_one text[], p_other text[]) returns double precision
language plpgsql immutable set search_path = ''
as $$
declare
  v_common integer := (select count(*) from unnest(p_one) as w (word) where w.word = any(p_other));
begin
  return coalesce(
    v_common::double precision / nullif(cardinality(p_one) + cardinality(p_other) - v_common, 0), 0
  );
end
$$;

comment on function private.word_similarity(text[], text[]) is
'How alike two texts are, by their different words: those in both, of those in either (Jaccard index); 0 to 1.';

create function private.suggestion_confidence(
  p_similarity double precision, p_completed integer, p_failed integer
) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return round((p_similarity * (p_completed + 1) / (p_completed + p_failed + 2))::numeric, 4);
end
$$;

comment on function private.suggestion_confidence(double precision, integer, integer) is
'Similarity times the chance that the next generation ends well, by the rule of succession: a half before the first.';

-- ---------------------------------------------------------------------------------------------------------------
-- Sources
-- ---------------------------------------------------------------------------------------------------------------

create type private.offered_prompt as (
  source_type text, base_prompt text, suggested_prompt text, similarity double precision, place bigint, metadata jsonb
);

comment on type private.offered_prompt is 'A prompt that a source offers, how alike it is to what was typed (1 where nothing was), and its place among those of its source.';

create function private.history_prompts(p_user_id uuid, p_prompt text) returns setof private.offered_prompt
language plpgsql stable security definer rows 50 set search_path = ''
as $$
declare
  v_words text[] := private.prompt_words(p_prompt);
begin
  return query
  with latest as (
    select g.id, g.prompt, g.created_at
    from public.image_generations as g
    where g.user_id = p_user_id and g.status = 'completed' and char_length(g.prompt) <= 4000
    order by g.id desc
    limit 300
  ),

  marked as (
    select i.generation_id, count(*) as images
    from public.generated_images as i
    where i.user_id = p_user_id and i.is_favorite
    group by i.generation_id
  ),

  prompts as (
    select
      l.prompt,
      -- Drawn again, or marked: both say that it was liked.
      count(*) + coalesce(sum(m.images), 0) as weight,
      max(l.created_at) as drawn_at,
      case when p_prompt is null then 1 else private.word_similarity(v_words, private.prompt_words(l.prompt)) end as likeness
    from latest as l
    left join marked as m on m.generation_id = l.id
    group by l.prompt
  )

  select
    'history', coalesce(p_prompt, p.prompt), p.prompt, p.likeness,
    row_number() over (order by p.likeness desc, p.weight desc, p.drawn_at desc), '{}'::jsonb
  from prompts as p
  where p.likeness >= 0.2;
end
$$;

comment on function private.history_prompts(uuid, text) is
'What a person has had drawn, among their latest 300: what is like the prompt, or else what was drawn and marked most.';

create function private.vision_prompts(p_user_id uuid, p_prompt text) returns setof private.offered_prompt
language plpgsql stable security definer rows 50 set search_path = ''
as $$
declare
  v_words text[] := private.prompt_words(p_prompt);
begin
  return query
  with liked as (
    select
      i.id,
      array_to_string(i.style_tags[1:5], ', ') as styles,
      coalesce(i.vision_description, array_to_string(i.vision_labels[1:10], ', ')) as seen,
      case
        when p_prompt is null then 1
        else private.word_similarity(
          v_words, private.prompt_words(concat_ws(' ', i.vision_description, array_to_string(i.vision_labels, ' ')))
        )
      end as likeness
    from public.generated_images as i
    where i.user_id = p_user_id and i.is_favorite
      and num_nonnulls(i.vision_description, i.vision_labels, i.style_tags) > 0
    order by i.id desc
    limit 100
  ),

  prompts as (
    select distinct on (t.prompt) t.prompt, l.seen, l.likeness, l.id
    from liked as l
    cross join lateral (
      select concat_ws(
        ', ', case when p_prompt is null or l.styles is null then l.seen else p_prompt end, l.styles
      ) as prompt
    ) as t
    where l.likeness >= 0.2 and l.seen is not null
    order by t.prompt, l.likeness desc, l.id desc
  )

  select
    'vision', coalesce(p_prompt, p.seen), p.prompt, p.likeness,
    row_number() over (order by p.likeness desc, p.id desc), jsonb_build_object('image_id', p.id)
  from prompts as p;
end
$$;

comment on function private.vision_prompts(uuid, text) is
'What was found in the latest 100 images that a person made and marked: with a prompt, it in the styles of those that are like it, else what they show.';

create function private.community_prompts(p_prompt text, p_is_relaxed boolean) returns setof private.offered_prompt
language plpgsql stable security definer rows 50 set search_path = ''
as $$
declare
  v_words text[] := private.prompt_words(p_prompt);
begin
  -- Nobody's prompt is shown to anybody: only labels and styles of public images, of trends_min_users people or more.
  return query
  with trends as (
    select
      t.subject, array_to_string(t.common_styles[1:3], ', ') as styles, t.usage_count,
      private.prompt_words(t.subject) as words
    from private.community_trends as t
    where cardinality(t.common_styles) > 0 and (p_is_relaxed or coalesce(t.avg_nsfw_score, 0) <= 0.5)
  ),

  prompts as (
    select distinct on (o.prompt) o.prompt, t.subject, t.usage_count, o.likeness
    from trends as t
    cross join lateral (
      select
        concat_ws(', ', coalesce(p_prompt, t.subject), t.styles) as prompt,
        case when p_prompt is null then 1 else private.word_similarity(v_words, t.words) end as likeness
    ) as o
    where p_prompt is null or (v_words @> t.words and cardinality(t.words) > 0)
    order by o.prompt, o.likeness desc, t.usage_count desc, t.subject
  )

  select
    'community', coalesce(p_prompt, p.subject), p.prompt, p.likeness,
    row_number() over (order by p.likeness desc, p.usage_count desc, p.subject), jsonb_build_object('subject', p.subject)
  from prompts as p;
end
$$;

comment on function private.community_prompts(text, boolean) is
'Styles that come with what is drawn in public these days: added to a prompt that names such a subject, or to the subject itself.';

create function private.ai_prompts(p_user_id uuid, p_prompt text) returns setof private.offered_prompt
language plpgsql stable security definer rows 50 set search_path = ''
as $$
declare
  v_words text[] := private.prompt_words(p_prompt);
begin
  return query
  with prompts as (
    select
      s.*,
      case
        when p_prompt is null then 1 else private.word_similarity(v_words, private.prompt_words(s.base_prompt))
      end as likeness
    from public.prompt_suggestions as s
    where s.user_id = p_user_id and s.source_type = 'ai'
  )

  select
    'ai', p.base_prompt, p.suggested_prompt, p.likeness,
    row_number() over (order by p.likeness desc, p.id desc), p.metadata
  from prompts as p
  where p.likeness >= 0.2;
end
$$;

comment on function private.ai_prompts(uuid, text) is
'What a chat model has made before of prompts that are like this one, or lately.';

-- ---------------------------------------------------------------------------------------------------------------
-- For clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.suggestion_json(p_suggestion public.prompt_suggestions) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return to_jsonb(p_suggestion) - array['embedding'];
end
$$;

comment on function private.suggestion_json(public.prompt_suggestions) is 'A suggestion as it is answered: without its vector.';

create function private.sound_prompt(p_prompt text) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_prompt text := nullif(btrim(p_prompt, E' \t\n\r'), '');
begin
  if char_length(v_prompt) > 4000 then
    perform private.fail(400, 'invalid_argument', 'The prompt is too long for suggestions.',
      '{"param": "prompt", "maximum": 4000}');
  end if;
  return v_prompt;
end
$$;

comment on function private.sound_prompt(text) is
'A prompt to suggest for, without space around it; null for none. 400 invalid_argument where it is too long.';

create function private.prune_suggestions(p_user_id uuid, p_keep uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.prompt_suggestions as s
  where s.id in (
    select o.id
    from public.prompt_suggestions as o
    where o.user_id = p_user_id
    order by (o.id = any(p_keep)) desc, (o.used_count > 0) desc, coalesce(o.last_used_at, o.created_at) desc, o.id desc
    offset (private.setting('suggestions_per_person'))::integer
  );
end
$$;

comment on function private.prune_suggestions(uuid, uuid[]) is
'Lets the suggestions go that are too many: those never used first, the oldest of them first, and none of p_keep. The profile is locked.';

create function private.offers(p_profile public.profiles, p_prompt text, p_limit integer)
returns setof private.offered_prompt
language plpgsql stable security definer rows 50 set search_path = ''
as $$
begin
  return query
  select (b.offer).*
  from (
    -- A prompt that two sources offer is offered once.
    select distinct on ((n.offer).suggested_prompt)
      n.offer,
      private.suggestion_confidence(
        (n.offer).similarity, coalesce(s.completed_count, 0), coalesce(s.failed_count, 0)
      ) as confidence
    from (
      select c as offer from private.community_prompts(p_prompt, p_profile.ai_safety_level = 'relaxed') as c
      union all
      select h as offer from private.history_prompts(p_profile.id, p_prompt) as h
      where p_profile.prompt_suggestions_enabled
      union all
      select v as offer from private.vision_prompts(p_profile.id, p_prompt) as v
      where p_profile.prompt_suggestions_enabled
      union all
      select a as offer from private.ai_prompts(p_profile.id, p_prompt) as a
      where p_profile.prompt_suggestions_enabled
    ) as n
    left join public.prompt_suggestions as s
      on s.user_id = p_profile.id and s.source_type = (n.offer).source_type
      and md5(s.suggested_prompt) = md5((n.offer).suggested_prompt)
    where char_length((n.offer).suggested_prompt) between 1 and 4000
      and lower((n.offer).suggested_prompt) is distinct from lower(p_prompt)
    order by (n.offer).suggested_prompt, confidence desc, (n.offer).source_type
  ) as b
  order by b.confidence desc, (b.offer).place, (b.offer).source_type
  limit least(greatest(p_limit, 1), 50);
end
$$;

comment on function private.offers(public.profiles, text, integer) is
'What every source offers a person, surest first; with suggestions switched off, the community alone, which knows nothing of them.';

create function private.suggest_prompts(p_prompt text, p_limit integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_prompt text := private.sound_prompt(p_prompt);
  v_profile public.profiles;
  v_offers private.offered_prompt[];
  v_ids uuid[];
begin
  -- Calls of one person come one after the other: who is first keeps, and both find the same rows.
  select p.* into v_profile from public.profiles as p where p.id = v_user_id for no key update;
  v_offers := array(select o from private.offers(v_profile, v_prompt, p_limit) as o);
  if not v_profile.prompt_suggestions_enabled then
    -- Nothing is kept of somebody who does not want it.
    return coalesce((
      select jsonb_agg(
        to_jsonb(o) - array['place', 'similarity', 'ordinality'] || jsonb_build_object(
          'id', null, 'confidence_score', private.suggestion_confidence(o.similarity, 0, 0)
        )
        order by o.ordinality
      )
      from unnest(v_offers) with ordinality as o
    ), '[]');
  end if;

  insert into public.prompt_suggestions as s (
    user_id, base_prompt, suggested_prompt, source_type, confidence_score, metadata
  )
  select
    v_user_id, o.base_prompt, o.suggested_prompt, o.source_type, private.suggestion_confidence(o.similarity, 0, 0),
    o.metadata
  from unnest(v_offers) as o
  on conflict (user_id, source_type, md5(suggested_prompt)) do nothing;
  update public.prompt_suggestions as s
  set confidence_score = private.suggestion_confidence(o.similarity, s.completed_count, s.failed_count)
  from unnest(v_offers) as o
  where s.user_id = v_user_id and s.source_type = o.source_type and md5(s.suggested_prompt) = md5(o.suggested_prompt)
    and s.confidence_score
    <> private.suggestion_confidence(o.similarity, s.completed_count, s.failed_count);
  v_ids := array(
    select s.id
    from unnest(v_offers) with ordinality as o
    inner join public.prompt_suggestions as s
      on s.user_id = v_user_id and s.source_type = o.source_type
      and md5(s.suggested_prompt) = md5(o.suggested_prompt)
    order by o.ordinality
  );
  perform private.prune_suggestions(v_user_id, v_ids);
  return coalesce((
    select jsonb_agg(private.suggestion_json(s) order by i.place)
    from unnest(v_ids) with ordinality as i (id, place)
    inner join public.prompt_suggestions as s on s.id = i.id
  ), '[]');
end
$$;

comment on function private.suggest_prompts(text, integer) is
'What every source offers the caller, kept so that a generation can name it; with suggestions switched off, the community''s alone, not kept, and without id.';

create function public.suggest_prompts(p_prompt text default null, p_limit integer default 10) returns jsonb
language sql volatile set search_path = ''
as $$ select private.suggest_prompts(p_prompt, p_limit) $$;

comment on function public.suggest_prompts(text, integer) is
'Prompts for you, surest first: like the one that you type, or else what you draw and mark most. Use the id as suggestion_id of a generation.';

grant execute on function private.suggest_prompts(text, integer) to authenticated;
grant execute on function public.suggest_prompts(text, integer) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- Forgetting
-- ---------------------------------------------------------------------------------------------------------------

create function private.forget_history_suggestion() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.prompt_suggestions as s
  where s.user_id = old.user_id and s.source_type = 'history' and md5(s.suggested_prompt) = md5(old.prompt)
    and not exists (
      select
      from public.image_generations as g
      where g.user_id = old.user_id and g.prompt = old.prompt and g.status = 'completed'
    );
  return null;
end
$$;

comment on function private.forget_history_suggestion() is
'Trigger: with the last generation of a prompt goes the suggestion that repeats it.';

create trigger image_generations_are_forgotten
after delete on public.image_generations
for each row when (old.user_id is not null and old.status = 'completed')
execute function private.forget_history_suggestion();

create function private.forget_vision_suggestions() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from public.prompt_suggestions as s
  where s.user_id = old.user_id and s.source_type = 'vision' and s.metadata ->> 'image_id' = old.id::text;
  return null;
end
$$;

comment on function private.forget_vision_suggestions() is 'Trigger: with an image go the suggestions that describe it.';

create trigger generated_images_are_forgotten
after delete on public.generated_images
for each row when (old.user_id is not null)
execute function private.forget_vision_suggestions();

-- ---------------------------------------------------------------------------------------------------------------
-- For functions
-- ---------------------------------------------------------------------------------------------------------------

create function private.suggesting_person(p_caller private.caller) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_caller.user_id is null then
    perform private.fail(403, 'person_required', 'Suggestions are a person''s; this is an organization''s API key.');
  elsif not (select p.prompt_suggestions_enabled from public.profiles as p where p.id = p_caller.user_id) then
    perform private.fail(403, 'suggestions_disabled', 'Suggestions are switched off in the profile.');
  end if;
  return p_caller.user_id;
end
$$;

comment on function private.suggesting_person(private.caller) is
'Who asks for suggestions. 403 person_required for an organization''s API key, suggestions_disabled where the person has switched them off.';

create function backend.suggestions_begin(
  p_prompt text, p_user_id uuid default null, p_key_hash text default null, p_organization text default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.suggesting_person(private.actor(p_user_id, p_key_hash, 'images', p_organization));
  v_prompt text := private.sound_prompt(p_prompt);
  v_model public.models;
begin
  if v_prompt is null then
    perform private.fail(400, 'invalid_argument', 'There is no prompt to make better.', '{"param": "prompt"}');
  end if;
  select m.* into v_model from public.models as m where m.kind = 'chat' and m.is_default;
  if v_model.id is null then
    perform private.fail(404, 'model_not_found', 'There is no default model for chat.', '{"param": "model"}');
  end if;
  return jsonb_build_object(
    'prompt', v_prompt,
    'model', v_model.id,
    'has_json_schema', v_model.capabilities -> 'json_schema' is distinct from 'false'::jsonb,
    'embedding_model', (
      select m.id
      from public.models as m
      where m.kind = 'embedding' and m.is_default and (
        (m.capabilities ->> 'dimensions')::integer = 1536
        or 1536 between (m.capabilities ->> 'min_dimensions')::integer and (m.capabilities ->> 'dimensions')::integer
      )
    ),
    'without_vector', coalesce((
      select jsonb_agg(jsonb_build_object('id', w.id, 'prompt', w.suggested_prompt) order by w.id desc)
      from (
        select s.id, s.suggested_prompt
        from public.prompt_suggestions as s
        where s.user_id = v_user_id and s.embedding is null
        order by s.id desc
        limit 20
      ) as w
    ), '[]')
  );
end
$$;

comment on function backend.suggestions_begin(text, uuid, text, text) is
'Before a chat model is asked for better prompts (an API key needs the scope images): which model, which for vectors, and the newest suggestions that have none yet.';

create function private.vector_of(p_numbers jsonb) returns extensions.halfvec
language plpgsql immutable set search_path = ''
as $$
begin
  return case when jsonb_typeof(p_numbers) = 'array' then p_numbers::text::extensions.halfvec(1536) end;
end
$$;

comment on function private.vector_of(jsonb) is 'A JSON list of 1536 numbers as a vector; null for null.';

create function private.nearest_suggestions(
  p_user_id uuid, p_embedding extensions.halfvec, p_except uuid[], p_limit integer
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_embedding is null then
    return '[]';
  end if;
  -- Others' rows are taken away after the index has found them: it has to go on until there are enough.
  perform set_config('hnsw.iterative_scan', 'strict_order', true);
  return coalesce((
    select jsonb_agg(n.suggestion || jsonb_build_object('distance', n.distance) order by n.distance)
    from (
      select private.suggestion_json(s) as suggestion, s.embedding operator(extensions.<=>) p_embedding as distance
      from public.prompt_suggestions as s
      where s.user_id = p_user_id and s.embedding is not null and s.id <> all(p_except)
      order by s.embedding operator(extensions.<=>) p_embedding
      limit least(greatest(p_limit, 1), 50)
    ) as n
  ), '[]');
end
$$;

comment on function private.nearest_suggestions(uuid, extensions.halfvec, uuid[], integer) is
'Suggestions of a person that are nearest to a vector, nearest first, with their cosine distance.';

create function backend.suggestions_keep(
  p_prompt text,
  p_model text,
  p_prompts jsonb,
  p_vectors jsonb default '[]',
  p_prompt_vector jsonb default null,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.suggesting_person(private.actor(p_user_id, p_key_hash, 'images', p_organization));
  v_prompt text := private.sound_prompt(p_prompt);
  v_ids uuid[];
begin
  if jsonb_array_length(p_prompts) not between 1 and 10 or jsonb_array_length(p_vectors) > 20 then
    perform private.fail(400, 'invalid_argument', 'There are too many prompts, or none.', '{"param": "prompts"}');
  end if;
  perform p.id from public.profiles as p where p.id = v_user_id for no key update;
  insert into public.prompt_suggestions as s (
    user_id, base_prompt, suggested_prompt, source_type, confidence_score, embedding, metadata
  )
  select distinct on (n.prompt)
    v_user_id, v_prompt, n.prompt, 'ai', private.suggestion_confidence(1, 0, 0), private.vector_of(n.embedding),
    jsonb_build_object('model', p_model)
  from jsonb_to_recordset(p_prompts) as n (prompt text, embedding jsonb)
  -- Made again, of another prompt perhaps: then it is that one's, and has a vector at the latest now.
  on conflict (user_id, source_type, md5(suggested_prompt)) do update
  set base_prompt = excluded.base_prompt, metadata = excluded.metadata,
    embedding = coalesce(s.embedding, excluded.embedding),
    confidence_score = private.suggestion_confidence(1, s.completed_count, s.failed_count);
  update public.prompt_suggestions as s
  set embedding = private.vector_of(v.embedding)
  from jsonb_to_recordset(p_vectors) as v (id uuid, embedding jsonb)
  where s.id = v.id and s.user_id = v_user_id and s.embedding is null;
  v_ids := array(
    select s.id
    from jsonb_array_elements(p_prompts) with ordinality as n (value, place)
    inner join public.prompt_suggestions as s
      on s.user_id = v_user_id and s.source_type = 'ai' and md5(s.suggested_prompt) = md5(n.value ->> 'prompt')
    group by s.id
    order by min(n.place)
  );
  perform private.prune_suggestions(v_user_id, v_ids);
  return jsonb_build_object(
    'suggestions', (
      select jsonb_agg(private.suggestion_json(s) order by i.place)
      from unnest(v_ids) with ordinality as i (id, place)
      inner join public.prompt_suggestions as s on s.id = i.id
    ),
    'similar', private.nearest_suggestions(v_user_id, private.vector_of(p_prompt_vector), v_ids, 5)
  );
end
$$;

comment on function backend.suggestions_keep(text, text, jsonb, jsonb, jsonb, uuid, text, text) is
'Keeps what a chat model made of a prompt, with vectors as far as there are any, and those of suggestions that had none (p_vectors); answers it, and what of the person''s is nearest to the prompt.';

grant execute on function backend.suggestions_begin(text, uuid, text, text) to service_role;
grant execute on function backend.suggestions_keep(text, text, jsonb, jsonb, jsonb, uuid, text, text) to service_role;
