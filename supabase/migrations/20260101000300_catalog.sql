-- Catalog: who serves models, which models there are, what they cost, and what each person likes to use.
--
-- Price lists are public, so providers and models are readable without signing in. Nobody but an operator writes them
-- (backend.model_upsert). A price change touches no request in flight: a hold keeps the terms it was accepted under.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.model_providers (
  id uuid primary key default gen_random_uuid(),
  slug text not null unique,
  name text not null,
  description text not null default '',
  website_url text,
  api_base_url text,
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint slug_is_lower_case_letters_digits_and_hyphens check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  constraint slug_is_short check (char_length(slug) <= 63),
  constraint name_is_present check (btrim(name) <> ''),
  constraint website_url_is_https check (website_url ~ '^https://\S+$'),
  constraint api_base_url_is_https check (api_base_url ~ '^https://\S+$')
);

comment on table public.model_providers is 'Who serves models: ourselves, or an outside provider.';
comment on column public.model_providers.id is 'Identifies the provider.';
comment on column public.model_providers.slug is 'Short name: quernel, openai, google, xai ...';
comment on column public.model_providers.name is 'Name shown to people.';
comment on column public.model_providers.description is 'What it offers, in a sentence.';
comment on column public.model_providers.website_url is 'Its website.';
comment on column public.model_providers.api_base_url is 'Base address of its API; null for our own, whose address is a setting of the deployment.';
comment on column public.model_providers.is_active is 'False refuses every model of it.';
comment on column public.model_providers.created_at is 'When it was added.';
comment on column public.model_providers.updated_at is 'When anything in the row last changed.';

create table public.models (
  id text primary key,
  provider_id uuid not null references public.model_providers (id),
  name text not null,
  description text not null default '',
  kind text not null,
  version text not null default '1',
  upstream_model text not null,
  context_length integer,
  max_output_tokens integer,
  default_output_tokens integer,
  prompt_price numeric(20, 6),
  cached_prompt_price numeric(20, 6),
  completion_price numeric(20, 6),
  credits_cost numeric(20, 6) not null default 0,
  capabilities jsonb not null default '{}',
  byok_allowed boolean not null default false,
  platform_allowed boolean not null default true,
  is_active boolean not null default true,
  is_default boolean not null default false,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint id_is_a_plain_name check (id ~ '^[A-Za-z0-9][A-Za-z0-9._:/@-]*$' and char_length(id) <= 200),
  constraint name_is_present check (btrim(name) <> ''),
  constraint kind_is_known check (kind in ('chat', 'embedding', 'image', 'vision')),
  constraint upstream_model_is_present check (btrim(upstream_model) <> ''),
  constraint a_chat_model_has_prices_and_lengths check (
    kind <> 'chat' or num_nulls(
      context_length, max_output_tokens, default_output_tokens, prompt_price, cached_prompt_price, completion_price
    ) = 0
  ),
  constraint an_embedding_model_has_a_price_and_a_length check (
    kind <> 'embedding' or num_nulls(context_length, prompt_price) = 0
  ),
  -- NaN sorts above infinity, so the second half of each refuses both.
  constraint prompt_price_is_not_negative check (prompt_price >= 0 and prompt_price < 'infinity'),
  constraint cached_prompt_price_is_not_negative check (cached_prompt_price >= 0 and cached_prompt_price < 'infinity'),
  constraint completion_price_is_not_negative check (completion_price >= 0 and completion_price < 'infinity'),
  constraint credits_cost_is_not_negative check (credits_cost >= 0 and credits_cost < 'infinity'),
  -- A hold reckons every prompt token at the full price; a dearer cached one could cost more than was held.
  constraint cached_prompt_price_is_no_surcharge check (cached_prompt_price <= prompt_price),
  constraint lengths_are_positive check (
    context_length > 0 and max_output_tokens > 0 and default_output_tokens > 0
  ),
  constraint default_output_fits_maximum_output_fits_context check (
    default_output_tokens <= max_output_tokens and max_output_tokens <= context_length
  ),
  constraint a_default_model_is_active check (not is_default or is_active),
  constraint capabilities_are_a_small_object check (
    jsonb_typeof(capabilities) = 'object' and private.json_size(capabilities) <= 16384
  ),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
);

comment on table public.models is 'The models on offer and their prices. Retired models stay, inactive, because history names them.';
comment on column public.models.id is 'What clients call the model.';
comment on column public.models.provider_id is 'Who serves it.';
comment on column public.models.name is 'Name shown to people.';
comment on column public.models.description is 'What it is good at, in a sentence.';
comment on column public.models.kind is 'chat, embedding, image or vision.';
comment on column public.models.version is 'Version of the weights or of the provider''s model.';
comment on column public.models.upstream_model is 'What the provider''s API calls it.';
comment on column public.models.context_length is 'Tokens of prompt and output together; for an embedding, of one text.';
comment on column public.models.max_output_tokens is 'Most tokens one answer may have.';
comment on column public.models.default_output_tokens is 'Output limit of a request that names none.';
comment on column public.models.prompt_price is 'Credits per 1,000,000 prompt tokens.';
comment on column public.models.cached_prompt_price is 'Credits per 1,000,000 prompt tokens the upstream had cached.';
comment on column public.models.completion_price is 'Credits per 1,000,000 output tokens.';
comment on column public.models.credits_cost is 'Credits per request, or per output for images; zero where tokens are priced.';
comment on column public.models.capabilities is 'What it can do: streaming, tools, vision, sizes; dimensions and min_dimensions of an embedding ...';
comment on column public.models.byok_allowed is 'Whether a customer''s own provider key may be used with it.';
comment on column public.models.platform_allowed is 'Whether it may be paid for in credits, which takes a key of the operator''s for its provider.';
comment on column public.models.is_active is 'False: listed to nobody new, refused in requests.';
comment on column public.models.is_default is 'The model of its kind that a client is offered first; one per kind.';
comment on column public.models.metadata is 'Further facts for everybody, such as the licence.';
comment on column public.models.created_at is 'When it was added.';
comment on column public.models.updated_at is 'When anything in the row last changed.';

create index models_by_provider on public.models (provider_id);
create unique index models_have_one_default_of_a_kind on public.models (kind) where is_default;

create table public.user_model_preferences (
  user_id uuid not null default auth.uid() references public.profiles (id) on delete cascade,
  model_id text not null references public.models (id) on delete cascade,
  is_favorite boolean not null default false,
  last_used_at timestamptz,
  use_count integer not null default 0,
  default_settings jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_person_has_one_preference_per_model primary key (user_id, model_id),
  constraint use_count_is_not_negative check (use_count >= 0),
  constraint default_settings_are_a_small_object check (
    jsonb_typeof(default_settings) = 'object' and private.json_size(default_settings) <= 16384
  )
);

comment on table public.user_model_preferences is 'What a person likes to use, and how. Counters are kept by functions.';
comment on column public.user_model_preferences.user_id is 'Whose preference this is.';
comment on column public.user_model_preferences.model_id is 'The model.';
comment on column public.user_model_preferences.is_favorite is 'Whether the person marked it.';
comment on column public.user_model_preferences.last_used_at is 'When the person last used it.';
comment on column public.user_model_preferences.use_count is 'How often the person used it.';
comment on column public.user_model_preferences.default_settings is 'Parameters the person starts with: a JSON object of at most 16 KiB.';
comment on column public.user_model_preferences.created_at is 'When it was first saved or used.';
comment on column public.user_model_preferences.updated_at is 'When anything in the row last changed.';

create index user_model_preferences_by_model on public.user_model_preferences (model_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.model_providers, public.models to service_role;
-- By name, so that what operators note beside a price is nobody else's to read (docs/decisions/0012).
grant select (id, slug, name, description, website_url, is_active, created_at, updated_at)
on public.model_providers to anon, authenticated;
grant select (
  id, provider_id, name, description, kind, version, context_length, max_output_tokens, default_output_tokens,
  prompt_price, cached_prompt_price, completion_price, credits_cost, capabilities, byok_allowed, platform_allowed,
  is_active, is_default, metadata, created_at, updated_at
) on public.models to anon, authenticated;

grant select, delete on public.user_model_preferences to authenticated;
-- The key may be "updated" because an upsert assigns every column it was given; the policies keep it the person's own.
grant insert (user_id, model_id, is_favorite, default_settings) on public.user_model_preferences to authenticated;
grant update (user_id, model_id, is_favorite, default_settings) on public.user_model_preferences to authenticated;
grant select on public.user_model_preferences to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Row level security
-- ---------------------------------------------------------------------------------------------------------------

alter table public.model_providers enable row level security;
alter table public.models enable row level security;
alter table public.user_model_preferences enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger model_providers_touch_updated_at
before update on public.model_providers
for each row execute function private.touch_updated_at();

create trigger models_touch_updated_at
before update on public.models
for each row execute function private.touch_updated_at();

create trigger user_model_preferences_touch_updated_at
before update on public.user_model_preferences
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- Policies
-- ---------------------------------------------------------------------------------------------------------------

create policy "Visitors read the active providers"
on public.model_providers for select to anon
using (is_active);

create policy "Users read every provider"
on public.model_providers for select to authenticated
using ((select private.active_user_id()) is not null);

create policy "Visitors read the active models"
on public.models for select to anon
using (is_active);

-- The inactive ones too: a conversation of last year still names its model.
create policy "Users read every model"
on public.models for select to authenticated
using ((select private.active_user_id()) is not null);

create policy "Users read their own model preferences"
on public.user_model_preferences for select to authenticated
using (user_id = (select private.active_user_id()));

create policy "Users save their own model preferences"
on public.user_model_preferences for insert to authenticated
with check (user_id = (select private.active_user_id()));

create policy "Users change their own model preferences"
on public.user_model_preferences for update to authenticated
using (user_id = (select private.active_user_id()))
with check (user_id = (select private.active_user_id()));

create policy "Users delete their own model preferences"
on public.user_model_preferences for delete to authenticated
using (user_id = (select private.active_user_id()));

-- ---------------------------------------------------------------------------------------------------------------
-- Functions
-- ---------------------------------------------------------------------------------------------------------------

create function private.model_price(p_model_id text, p_kind text) returns public.models
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_model public.models;
begin
  select m.* into v_model
  from public.models as m
  inner join public.model_providers as p on m.provider_id = p.id
  where m.id = p_model_id and m.kind = p_kind and m.is_active and p.is_active;
  if not found then
    perform private.fail(404, 'model_not_found',
      format('The model "%s" does not exist or is not available.', left(p_model_id, 200)), '{"param": "model"}');
  end if;
  return v_model;
end
$$;

comment on function private.model_price(text, text) is
'The model of that id and kind with its prices; fails model_not_found for anything that is not on offer.';

create function backend.model_upsert(p_model jsonb, p_actor text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  c_columns constant text [] := array[
    'id', 'provider', 'name', 'description', 'kind', 'version', 'upstream_model', 'context_length',
    'max_output_tokens', 'default_output_tokens', 'prompt_price', 'cached_prompt_price', 'completion_price',
    'credits_cost', 'capabilities', 'byok_allowed', 'platform_allowed', 'is_active', 'is_default', 'metadata'
  ];
  c_amounts constant text [] := array[
    'context_length', 'max_output_tokens', 'default_output_tokens', 'prompt_price', 'cached_prompt_price',
    'completion_price', 'credits_cost'
  ];
  v_key text;
  v_before public.models;
  v_after public.models;
  v_exists boolean;
  v_constraint text;
  v_column text;
begin
  if jsonb_typeof(p_model) is distinct from 'object' or jsonb_typeof(p_model -> 'id') is distinct from 'string' then
    perform private.fail(400, 'invalid_argument', 'A model is a JSON object with an id.',
      '{"param": "id"}');
  end if;
  for v_key in select k from jsonb_object_keys(p_model) as k loop
    if v_key <> all(c_columns) then
      perform private.fail(400, 'invalid_argument', format('A model has no "%s".', left(v_key, 100)),
        jsonb_build_object('param', left(v_key, 100)));
    elsif v_key = any(c_amounts) and jsonb_typeof(p_model -> v_key) not in ('number', 'null') then
      perform private.fail(400, 'invalid_argument', format('"%s" is a number.', v_key),
        jsonb_build_object('param', v_key));
    elsif v_key = any(c_amounts) and (p_model ->> v_key)::numeric < 0 then
      perform private.fail(400, 'invalid_argument', format('"%s" cannot be negative.', v_key),
        jsonb_build_object('param', v_key));
    end if;
  end loop;

  -- Operators change the catalog a few times a year, and one at a time: then the default can be handed over without
  -- two of them, or none, being seen. Readers are not held up.
  lock table public.models in share row exclusive mode;
  select m.* into v_before from public.models as m where m.id = p_model ->> 'id';
  v_exists := found;

  begin
    if v_exists then
      v_after := jsonb_populate_record(v_before, p_model);
    else
      v_after := jsonb_populate_record(
        null::public.models,
        jsonb_build_object(
          'description', '', 'version', '1', 'upstream_model', p_model -> 'id', 'credits_cost', 0,
          'capabilities', '{}'::jsonb, 'byok_allowed', false, 'platform_allowed', true, 'is_active', true,
          'is_default', false, 'metadata', '{}'::jsonb, 'created_at', now(), 'updated_at', now()
        ) || p_model);
    end if;
    if p_model ? 'provider' then
      select p.id into v_after.provider_id
      from public.model_providers as p where p.slug = p_model ->> 'provider';
      if not found then
        perform private.fail(400, 'invalid_argument', 'There is no such provider.', '{"param": "provider"}');
      end if;
    end if;
    if v_exists and v_before.is_default and not (
      v_after.is_default and v_after.is_active and v_after.kind = v_before.kind
    ) then
      perform private.fail(409, 'default_model_required',
        'This is the default model of its kind; make another one the default first.', '{"param": "is_default"}');
    end if;
    if v_after.is_default then
      update public.models as m set is_default = false
      where m.kind = v_after.kind and m.is_default and m.id <> v_after.id;
    end if;

    if v_exists then
      update public.models as m
      set
        provider_id = v_after.provider_id, name = v_after.name, description = v_after.description,
        kind = v_after.kind, version = v_after.version, upstream_model = v_after.upstream_model,
        context_length = v_after.context_length, max_output_tokens = v_after.max_output_tokens,
        default_output_tokens = v_after.default_output_tokens, prompt_price = v_after.prompt_price,
        cached_prompt_price = v_after.cached_prompt_price, completion_price = v_after.completion_price,
        credits_cost = v_after.credits_cost, capabilities = v_after.capabilities,
        byok_allowed = v_after.byok_allowed, platform_allowed = v_after.platform_allowed,
        is_active = v_after.is_active, is_default = v_after.is_default, metadata = v_after.metadata
      where m.id = v_after.id
      returning m.* into v_after;
    else
      insert into public.models values (v_after.*) returning * into v_after;
    end if;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.fail(400, 'invalid_argument',
        format('The model was refused: %s.', replace(v_constraint, '_', ' ')),
        jsonb_build_object('constraint', v_constraint));
    when not_null_violation then
      get stacked diagnostics v_column = column_name;
      v_column := case v_column when 'provider_id' then 'provider' else v_column end;
      perform private.fail(400, 'invalid_argument', format('A model needs its "%s".', v_column),
        jsonb_build_object('param', v_column));
    when invalid_text_representation or numeric_value_out_of_range or datatype_mismatch then
      perform private.fail(400, 'invalid_argument', format('The model was refused: %s.', sqlerrm));
  end;

  perform private.record_operator_action(
    p_actor, 'model_upsert', 'model:' || v_after.id,
    case when v_exists then to_jsonb(v_before) end, to_jsonb(v_after), null);
  return to_jsonb(v_after);
end
$$;

comment on function backend.model_upsert(jsonb, text) is
'Adds a model, or changes the fields given of one; "provider" is a slug. Refuses unknown fields and negative numbers. A new default takes over from the old one of its kind.';

grant execute on function backend.model_upsert(jsonb, text) to service_role;

create function private.note_model_use(p_user_id uuid, p_model_id text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.user_model_preferences as p (user_id, model_id, last_used_at, use_count)
  select p_user_id, m.id, now(), 1
  from public.models as m
  where m.id = p_model_id
  on conflict (user_id, model_id) do update set last_used_at = now(), use_count = p.use_count + 1;
end
$$;

comment on function private.note_model_use(uuid, text) is
'Counts one use of a model by a person; one of a server of their own is in no catalog, and not counted. Called where the use is settled.';

-- ---------------------------------------------------------------------------------------------------------------
-- What a fresh installation offers
-- ---------------------------------------------------------------------------------------------------------------

insert into public.model_providers (slug, name, description)
values ('quernel', 'Quernel', 'Open models on our own GPUs.');

insert into public.models (
  id, provider_id, name, description, kind, version, upstream_model, context_length, max_output_tokens,
  default_output_tokens, prompt_price, cached_prompt_price, completion_price, capabilities, is_default, metadata
) values
(
  'Qwen2.5-32B-Instruct-AWQ', (
    select p.id
    from public.model_providers as p
    where p.slug = 'quernel'
  ),
  'Qwen2.5 32B Instruct', 'Thorough general-purpose chat.', 'chat', '2.5', 'Qwen/Qwen2.5-32B-Instruct-AWQ',
  32768, 8192, 2048, 60, 30, 180, '{"streaming": true, "tools": true}', true, '{"licence": "Apache-2.0"}'
),
(
  'Qwen3-30B-A3B-Instruct-2507-FP8', (
    select p.id
    from public.model_providers as p
    where p.slug = 'quernel'
  ),
  'Qwen3 30B A3B Instruct', 'Fast, cheap chat with a long context.', 'chat', '2507',
  'Qwen/Qwen3-30B-A3B-Instruct-2507-FP8',
  131072, 16384, 2048, 20, 10, 60, '{"streaming": true, "tools": true}', false, '{"licence": "Apache-2.0"}'
),
(
  'Qwen3-Embedding-4B', (
    select p.id
    from public.model_providers as p
    where p.slug = 'quernel'
  ),
  'Qwen3 Embedding 4B', 'Vectors for retrieval in many languages.', 'embedding', '3', 'Qwen/Qwen3-Embedding-4B',
  32768, null, null, 4, null, null, '{"dimensions": 2560, "min_dimensions": 32}', true, '{"licence": "Apache-2.0"}'
);
