-- Images: what a generation may ask for, what it costs, and how it begins and ends.
--
-- What a model can do is in models.capabilities (docs/models.md). It is compared here, and not only in functions/,
-- because clients insert without passing there.

-- ---------------------------------------------------------------------------------------------------------------
-- What a model can do
-- ---------------------------------------------------------------------------------------------------------------

create function private.require_able(p_param text, p_value jsonb, p_able jsonb) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if coalesce(p_value, 'null') = 'null' or p_able = 'true' then
    return;
  elsif coalesce(p_able, 'null') in ('null', 'false', '[]') then
    perform private.fail(400, 'unsupported_parameter', format('This model has no %s.', p_param),
      jsonb_build_object('param', p_param));
  elsif p_able = '"boolean"' then
    if jsonb_typeof(p_value) <> 'boolean' then
      perform private.fail(400, 'invalid_argument', format('This model does not take this %s.', p_param),
        jsonb_build_object('param', p_param, 'allowed', '[true, false]'::jsonb));
    end if;
  elsif jsonb_typeof(p_able -> 0) = 'number' and jsonb_array_length(p_able) = 2 then
    if jsonb_typeof(p_value) <> 'number' or p_value < p_able -> 0 or p_value > p_able -> 1 then
      perform private.fail(400, 'invalid_argument', format('This model does not take this %s.', p_param),
        jsonb_build_object('param', p_param, 'minimum', p_able -> 0, 'maximum', p_able -> 1));
    end if;
  elsif not p_able @> p_value then
    perform private.fail(400, 'invalid_argument', format('This model does not take this %s.', p_param),
      jsonb_build_object('param', p_param, 'allowed', p_able));
  end if;
end
$$;

comment on function private.require_able(text, jsonb, jsonb) is
'Refuses a value that a capability does not cover: none at all (400 unsupported_parameter), or outside its list or range (400 invalid_argument with what would do).';

create function private.refuse_generation_value(p_constraint text) returns void
language plpgsql immutable set search_path = ''
as $$
declare
  v_param text := case p_constraint
    when 'prompt_has_1_to_32000_characters' then 'prompt'
    when 'negative_prompt_has_at_most_32000_characters' then 'negative_prompt'
    when 'aspect_ratio_is_one' then 'aspect_ratio'
    when 'dimensions_are_both_or_neither' then 'width'
    when 'dimensions_are_pixels' then 'width'
    when 'steps_are_between_1_and_100' then 'steps'
    when 'guidance_scale_is_between_0_and_20' then 'guidance_scale'
    when 'prompt_strength_is_between_a_tenth_and_1' then 'prompt_strength'
    when 'seed_is_32_bits' then 'seed'
    when 'num_outputs_is_between_1_and_4' then 'num_outputs'
    when 'output_format_is_known' then 'output_format'
    when 'output_quality_is_between_1_and_100' then 'output_quality'
    when 'every_lora_has_a_scale' then 'lora_scales'
    when 'loras_are_named_by_owner_and_name' then 'hf_loras'
    when 'lora_scales_are_between_minus_2_and_2' then 'lora_scales'
    when 'input_path_is_a_path' then 'input_path'
    when 'parameters_are_a_small_object' then 'parameters'
    when 'metadata_is_a_small_object' then 'metadata'
    when 'credential_is_known' then 'credential'
    when 'idempotency_key_has_1_to_255_characters' then 'idempotency_key'
  end;
begin
  perform private.fail(400, 'invalid_argument', format('Refused: %s.', replace(p_constraint, '_', ' ')),
    jsonb_strip_nulls(jsonb_build_object('param', v_param)));
end
$$;

comment on function private.refuse_generation_value(text) is
'The refusal of a value that a constraint of image_generations does not take (400 invalid_argument).';

create function private.require_sound_generation(p_g public.image_generations) returns void
language plpgsql immutable set search_path = ''
as $$
declare
  -- An id of two parts that neither begins with a dot nor has two in a row: no path, no address.
  c_lora constant text := '^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$';
begin
  -- Said here with a code and a param; the constraints of the table say the same to everybody else.
  if exists (select from unnest(p_g.hf_loras) as l (id) where l.id is null or l.id !~ c_lora or char_length(l.id) > 200)
    or cardinality(p_g.hf_loras) > 16 then
    perform private.refuse_generation_value('loras_are_named_by_owner_and_name');
  elsif cardinality(p_g.hf_loras) is distinct from cardinality(p_g.lora_scales) then
    perform private.refuse_generation_value('every_lora_has_a_scale');
  elsif exists (select from unnest(p_g.lora_scales) as l (scale) where l.scale is null or l.scale not between -2 and 2) then
    perform private.refuse_generation_value('lora_scales_are_between_minus_2_and_2');
  elsif p_g.seed not between 0 and 4294967295 then
    perform private.refuse_generation_value('seed_is_32_bits');
  elsif p_g.prompt_strength not between 0.1 and 1 then
    perform private.refuse_generation_value('prompt_strength_is_between_a_tenth_and_1');
  elsif num_nonnulls(p_g.width, p_g.height) = 1 then
    perform private.refuse_generation_value('dimensions_are_both_or_neither');
  elsif p_g.width not between 16 and 16384 or p_g.height not between 16 and 16384 then
    perform private.refuse_generation_value('dimensions_are_pixels');
  elsif p_g.aspect_ratio !~ '^[1-9][0-9]?:[1-9][0-9]?$' then
    perform private.refuse_generation_value('aspect_ratio_is_one');
  elsif p_g.prompt is null or btrim(p_g.prompt) = '' or char_length(p_g.prompt) > 32000 then
    perform private.refuse_generation_value('prompt_has_1_to_32000_characters');
  elsif jsonb_typeof(p_g.parameters) <> 'object' or octet_length(p_g.parameters::text) > 16384 then
    perform private.refuse_generation_value('parameters_are_a_small_object');
  elsif jsonb_typeof(p_g.metadata) <> 'object' or octet_length(p_g.metadata::text) > 16384 then
    perform private.refuse_generation_value('metadata_is_a_small_object');
  elsif char_length(p_g.idempotency_key) not between 1 and 255 then
    perform private.refuse_generation_value('idempotency_key_has_1_to_255_characters');
  elsif char_length(p_g.input_path) > 500 or p_g.input_path ~ '(^|/)\.{0,2}(/|$)' or p_g.input_path ~ '[[:cntrl:]\\]' then
    perform private.refuse_generation_value('input_path_is_a_path');
  end if;
end
$$;

comment on function private.require_sound_generation(public.image_generations) is
'Refuses what no model takes (400 invalid_argument with the param).';

create function private.image_dimensions(
  p_generation public.image_generations, p_capabilities jsonb, out width integer, out height integer
)
language plpgsql immutable set search_path = ''
as $$
declare
  c_pixels constant integer := 1024 * 1024;
  v_ratio numeric;
  v_sides jsonb := p_capabilities -> 'sides';
  v_size text;
begin
  width := p_generation.width;
  height := p_generation.height;
  v_ratio := split_part(p_generation.aspect_ratio, ':', 1)::numeric / split_part(p_generation.aspect_ratio, ':', 2)::numeric;

  if width is not null and v_sides is not null then
    perform private.require_able('width', to_jsonb(width), v_sides);
    perform private.require_able('height', to_jsonb(height), v_sides);
    if width % 16 <> 0 or height % 16 <> 0 then
      perform private.fail(400, 'invalid_argument', 'Width and height are multiples of 16.',
        '{"param": "width", "multiple_of": 16}');
    elsif width::bigint * height > (p_capabilities ->> 'max_pixels')::bigint then
      perform private.fail(400, 'invalid_argument', 'This model does not draw so many pixels.',
        jsonb_build_object('param', 'width', 'max_pixels', p_capabilities -> 'max_pixels'));
    end if;
  elsif width is not null then
    perform private.require_able('size', to_jsonb(format('%sx%s', width, height)), p_capabilities -> 'sizes');
  elsif v_ratio is null and v_sides is not null then
    width := 1024;
    height := 1024;
  elsif v_ratio is not null and v_sides is not null then
    -- Rounded so that it stays one megapixel: nobody is charged a second one for what rounding added.
    width := greatest(round(sqrt(c_pixels * v_ratio) / 16)::integer * 16, (v_sides ->> 0)::integer);
    height := greatest(c_pixels / width / 16 * 16, (v_sides ->> 0)::integer);
    if greatest(width, height) > (v_sides ->> 1)::integer or width::bigint * height > (p_capabilities ->> 'max_pixels')::bigint then
      perform private.fail(400, 'invalid_argument', 'This model does not draw this shape.',
        jsonb_build_object('param', 'aspect_ratio', 'minimum', v_sides -> 0, 'maximum', v_sides -> 1));
    end if;
  elsif v_ratio is not null and p_capabilities ? 'aspect_ratios' then
    perform private.require_able('aspect_ratio', to_jsonb(p_generation.aspect_ratio), p_capabilities -> 'aspect_ratios');
  elsif v_ratio is not null then
    select s.value into v_size
    from jsonb_array_elements_text(p_capabilities -> 'sizes') with ordinality as s (value, place)
    where s.value ~ '^[0-9]+x[0-9]+$'
      and split_part(s.value, 'x', 1)::numeric / split_part(s.value, 'x', 2)::numeric = v_ratio
    order by s.place
    limit 1;
    if v_size is null then
      perform private.require_able('aspect_ratio', to_jsonb(p_generation.aspect_ratio), coalesce((
        select jsonb_agg(distinct private.ratio_of(s.value))
        from jsonb_array_elements_text(p_capabilities -> 'sizes') as s (value)
        where s.value ~ '^[0-9]+x[0-9]+$'
      ), 'null'));
    end if;
    width := split_part(v_size, 'x', 1)::integer;
    height := split_part(v_size, 'x', 2)::integer;
  end if;
end
$$;

comment on function private.image_dimensions(public.image_generations, jsonb) is
'Width and height of what is asked for, in pixels: as given, or as the shape leads to them; null where the model decides. Refuses what it cannot draw.';

create function private.ratio_of(p_size text) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_width integer := split_part(p_size, 'x', 1)::integer;
  v_height integer := split_part(p_size, 'x', 2)::integer;
  v_divisor integer := gcd(v_width, v_height);
begin
  return format('%s:%s', v_width / v_divisor, v_height / v_divisor);
end
$$;

comment on function private.ratio_of(text) is 'The shape of a size: 3:2 for 1536x1024.';

create function private.owner_folder(p_user_id uuid, p_organization_id uuid) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return coalesce(p_user_id, p_organization_id)::text;
end
$$;

comment on function private.owner_folder(uuid, uuid) is 'The folder of an owner in the bucket "images": the person''s, or the organization''s where nobody asked in person.';

create function private.fitted_generation(p_generation public.image_generations, p_model public.models)
returns public.image_generations
language plpgsql stable set search_path = ''
as $$
declare
  v_g public.image_generations := p_generation;
  v_can jsonb := p_model.capabilities;
  v_key text;
  v_shape record;
begin
  v_g.negative_prompt := nullif(btrim(v_g.negative_prompt), '');
  if char_length(v_g.prompt) > (v_can ->> 'max_prompt_characters')::integer then
    perform private.fail(400, 'invalid_argument', 'The prompt is too long for this model.',
      jsonb_build_object('param', 'prompt', 'maximum', v_can -> 'max_prompt_characters'));
  end if;
  perform private.require_able(
    'num_outputs', to_jsonb(v_g.num_outputs), jsonb_build_array(1, coalesce((v_can ->> 'max_outputs')::integer, 1))
  );
  perform private.require_able('negative_prompt', to_jsonb(v_g.negative_prompt), v_can -> 'negative_prompt');
  perform private.require_able('seed', to_jsonb(v_g.seed), v_can -> 'seed');
  perform private.require_able('steps', to_jsonb(v_g.steps), v_can -> 'steps');
  perform private.require_able('guidance_scale', to_jsonb(v_g.guidance_scale), v_can -> 'guidance');
  perform private.require_able(
    'output_format', to_jsonb(replace(v_g.output_format, 'jpg', 'jpeg')), v_can -> 'formats'
  );
  perform private.require_able('output_quality', to_jsonb(v_g.output_quality), v_can -> 'output_quality');
  if cardinality(v_g.hf_loras) > 0 then
    perform private.require_able('hf_loras', to_jsonb(cardinality(v_g.hf_loras)), case
      when v_can ? 'max_loras' then jsonb_build_array(1, v_can -> 'max_loras')
    end);
  end if;

  for v_key in select k from jsonb_object_keys(v_g.parameters) as k loop
    case v_key
      when 'quality' then perform private.require_able('quality', v_g.parameters -> v_key, v_can -> 'qualities');
      when 'background' then perform private.require_able('background', v_g.parameters -> v_key, v_can -> 'backgrounds');
      when 'style' then perform private.require_able('style', v_g.parameters -> v_key, v_can -> 'styles');
      when 'resolution' then perform private.require_able('resolution', v_g.parameters -> v_key, v_can -> 'resolutions');
      when 'options' then null;
      else
        perform private.fail(400, 'unsupported_parameter', format('There is no parameter "%s".', left(v_key, 100)),
          jsonb_build_object('param', 'parameters.' || left(v_key, 100)));
    end case;
  end loop;
  if jsonb_typeof(v_g.parameters -> 'options') <> 'object' then
    perform private.fail(400, 'invalid_argument', 'Options are a JSON object.', '{"param": "parameters.options"}');
  end if;
  for v_key in select k from jsonb_object_keys(coalesce(v_g.parameters -> 'options', '{}')) as k loop
    perform private.require_able(
      'options.' || left(v_key, 100), v_g.parameters #> array['options', v_key], v_can #> array['options', v_key]
    );
  end loop;

  if v_g.input_path is not null then
    perform private.require_able('input_path', to_jsonb(v_g.input_path), v_can -> 'input_image');
    if not starts_with(v_g.input_path, private.owner_folder(v_g.user_id, v_g.organization_id) || '/inputs/')
      and not exists (
        select
        from public.generated_images as i
        where i.storage_path = v_g.input_path and i.user_id is not distinct from v_g.user_id
          and (i.user_id is not null or i.organization_id = v_g.organization_id)
      ) then
      perform private.fail(400, 'invalid_argument', 'The input image is none that you put in, and none of your images.',
        '{"param": "input_path"}');
    end if;
    v_g.prompt_strength := coalesce(v_g.prompt_strength, 0.8);
  elsif v_g.prompt_strength is not null then
    perform private.fail(400, 'invalid_argument', 'prompt_strength is for an input image.', '{"param": "prompt_strength"}');
  end if;

  v_shape := private.image_dimensions(v_g, v_can);
  v_g.width := v_shape.width;
  v_g.height := v_shape.height;
  v_g.steps := coalesce(v_g.steps, (v_can ->> 'default_steps')::integer);
  v_g.guidance_scale := coalesce(v_g.guidance_scale, (v_can ->> 'default_guidance')::numeric);
  v_g.model_version := p_model.version;
  return v_g;
end
$$;

comment on function private.fitted_generation(public.image_generations, public.models) is
'What is asked for, compared with what the model can do, with the model''s defaults filled in. 400 unsupported_parameter, invalid_argument.';

-- ---------------------------------------------------------------------------------------------------------------
-- Price
-- ---------------------------------------------------------------------------------------------------------------

create function private.image_price(
  p_model public.models, p_width integer, p_height integer, p_steps integer, p_parameters jsonb
) returns numeric
language plpgsql immutable set search_path = ''
as $$
declare
  v_factors jsonb := p_model.capabilities -> 'price_factors';
begin
  return ceil(
    p_model.credits_cost * 1000000
    -- Every begun million pixels (1024 x 1024); without dimensions, one.
    * greatest(ceil(coalesce(p_width::numeric * p_height, 1048576) / 1048576), 1)
    * greatest(coalesce(p_steps / (p_model.capabilities ->> 'default_steps')::numeric, 1), 1)
    -- Left to the provider, the quality may be its highest.
    * coalesce((v_factors #>> array['quality', coalesce(p_parameters ->> 'quality', 'auto')])::numeric, 1)
    * coalesce((v_factors #>> array['resolution', p_parameters ->> 'resolution'])::numeric, 1)
  ) / 1000000;
end
$$;

comment on function private.image_price(public.models, integer, integer, integer, jsonb) is
'Credits for one image: the model''s price, times begun megapixels, times steps beyond the usual number, times the factors of quality and resolution.';

create function private.generation_cost(
  p_model_id text, p_num_outputs integer, p_width integer, p_height integer, p_steps integer, p_parameters jsonb
) returns numeric
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_num_outputs is null or p_num_outputs not between 1 and 4 then
    perform private.fail(400, 'invalid_argument', 'Between 1 and 4 images are made at once.', '{"param": "num_outputs"}');
  end if;
  return round(p_num_outputs * private.image_price(
    private.model_price(p_model_id, 'image'), p_width, p_height, p_steps, coalesce(p_parameters, '{}')
  ), 6);
end
$$;

comment on function private.generation_cost(text, integer, integer, integer, integer, jsonb) is
'Credits for a generation; see private.image_price. 404 model_not_found.';

create function public.calculate_generation_cost(
  p_model_id text,
  p_num_outputs integer default 1,
  p_width integer default null,
  p_height integer default null,
  p_steps integer default null,
  p_parameters jsonb default '{}'
) returns numeric
language sql stable set search_path = ''
as $$
  select private.generation_cost(p_model_id, p_num_outputs, p_width, p_height, p_steps, p_parameters)
$$;

comment on function public.calculate_generation_cost(text, integer, integer, integer, integer, jsonb) is
'What a generation costs in credits: the model''s price, times outputs, times begun megapixels, times steps beyond the usual number, times the factors of quality and resolution.';

create function private.free_images_left(p_account public.credit_accounts, p_user_id uuid) returns integer
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_given integer := (private.plan_of(p_user_id, p_account.organization_id)).monthly_free_images;
begin
  return case when v_given = -1 then 4 else greatest(v_given - p_account.period_free_images, 0) end;
end
$$;

comment on function private.free_images_left(public.credit_accounts, uuid) is
'Images that the plan still gives this month, for a generation of at most four. The account is locked.';

-- ---------------------------------------------------------------------------------------------------------------
-- The beginning
-- ---------------------------------------------------------------------------------------------------------------

create function private.generation_fingerprint(p_generation public.image_generations) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return md5(jsonb_build_array(
    p_generation.model_id, p_generation.prompt, p_generation.negative_prompt, p_generation.aspect_ratio,
    p_generation.width, p_generation.height, p_generation.steps, p_generation.guidance_scale,
    p_generation.prompt_strength, p_generation.seed, p_generation.num_outputs, p_generation.output_format,
    p_generation.output_quality, p_generation.safety_checker, to_jsonb(p_generation.hf_loras),
    to_jsonb(p_generation.lora_scales), p_generation.input_path, p_generation.parameters, p_generation.credential,
    p_generation.is_public, p_generation.metadata, p_generation.suggestion_id
  )::text);
end
$$;

comment on function private.generation_fingerprint(public.image_generations) is 'Digest of what is asked for, before defaults are filled in.';

create function private.generation_of_key(p_generation public.image_generations) returns public.image_generations
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_first public.image_generations;
begin
  if p_generation.idempotency_key is null then
    return null;
  end if;
  select g.* into v_first
  from public.image_generations as g
  where g.user_id is not distinct from p_generation.user_id
    and g.organization_id is not distinct from p_generation.organization_id
    and g.idempotency_key = p_generation.idempotency_key;
  if v_first.id is not null and v_first.fingerprint <> private.generation_fingerprint(p_generation) then
    perform private.fail(409, 'idempotency_conflict', 'This Idempotency-Key was already used with another request.');
  end if;
  if v_first.status in ('failed', 'cancelled') then
    -- It was not charged, so its key runs again.
    update public.image_generations as g set idempotency_key = null where g.id = v_first.id;
    return null;
  end if;
  return v_first;
end
$$;

comment on function private.generation_of_key(public.image_generations) is
'The generation that the same owner asked for with the same key before, unless it failed or was called off: then the key is free again. 409 idempotency_conflict where it was another request. The account is locked.';

create function private.admit_generation() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_payer record;
  v_account public.credit_accounts;
  v_first public.image_generations;
  v_model public.models;
  v_candidate private.candidate;
  v_terms private.chat_terms;
  v_price numeric;
  v_hold private.credit_holds;
  v_seconds integer := private.setting('image_deadline_seconds')::integer;
begin
  if new.organization_id is not null and new.api_key_id is null then
    perform private.require_member(new.user_id, new.organization_id::text);
  end if;
  v_payer := private.payer(new.user_id, new.organization_id, new.api_key_id);
  v_account := v_payer.account;
  v_first := private.generation_of_key(new);
  if v_first.id is not null then
    perform private.fail(409, 'generation_exists', 'This Idempotency-Key was already used for the same request.',
      jsonb_build_object('generation_id', v_first.id));
  end if;

  perform private.require_sound_generation(new);
  perform private.require_own_suggestion(new.suggestion_id, new.user_id);
  v_model := private.model_price(new.model_id, 'image');
  new.fingerprint := private.generation_fingerprint(new);
  new := private.fitted_generation(new, v_model);
  select c.* into strict v_candidate from private.payable(v_account, array[v_model], new.credential) as c;
  v_price := private.image_price(v_model, new.width, new.height, new.steps, new.parameters);
  -- What the plan gives is for what credits would pay for.
  new.free_images := case
    when v_candidate.is_own then 0
    else least(new.num_outputs, private.free_images_left(v_account, new.user_id))
  end;
  v_terms.amount := v_price * (new.num_outputs - new.free_images);
  v_terms.tokens := 0;
  v_terms.terms := jsonb_build_object(
    'model_id', v_model.id, 'provider', v_candidate.provider, 'image_price', v_price, 'outputs', new.num_outputs,
    'own_percent', case when v_candidate.is_own then private.setting('byok_fee_percent')::numeric end
  ) || case
    when v_candidate.is_own then jsonb_build_object('own_key_id', v_candidate.own_keys #> '{0,id}') else '{}'
  end;
  v_terms := private.with_credentials(
    v_candidate, v_payer.limits, v_terms,
    case
      when v_candidate.is_own
        then private.own_image_fee(v_price * new.num_outputs, private.setting('byok_fee_percent')::numeric)
    end
  );
  v_hold := (private.place_hold(
    v_account, v_payer.limits, new.user_id, v_terms.amount, 0, 'image:' || new.id::text, 'image', v_seconds,
    v_terms.terms,
    jsonb_build_object(
      'resource_type', 'image_generation', 'resource_id', new.id, 'model_id', v_model.id,
      'provider', v_candidate.provider, 'credential', v_terms.terms #> '{credentials,0}',
      'provider_key_id', case when v_candidate.is_own then v_candidate.own_keys #> '{0,id}' end
    )
  )).hold;
  update public.credit_accounts as a
  set period_free_images = a.period_free_images + new.free_images
  where a.id = v_account.id and new.free_images > 0;

  new.hold_id := v_hold.id;
  new.credits_cost := v_hold.amount;
  new.deadline := v_hold.deadline;
  new.task_id := private.task_enqueue(
    'image_generate', jsonb_build_object('generation_id', new.id), new.id::text, now(), 3, v_hold.id
  );
  return new;
end
$$;

comment on function private.admit_generation() is
'Trigger: what has to be true before anything is drawn. Membership, capabilities, price, limits and the hold; then the task is queued.';

create function private.own_image_fee(p_cost numeric, p_percent numeric) returns numeric
language plpgsql immutable set search_path = ''
as $$
begin
  return ceil(p_cost * p_percent * 10000) / 1000000;
end
$$;

comment on function private.own_image_fee(numeric, numeric) is 'Credits for what an own key pays: a share of the price, in per cent, rounded up.';

create function private.limit_generations() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_most integer := private.setting('image_insert_limit')::integer;
begin
  if (select count(*) from inserted) > v_most then
    perform private.fail(400, 'too_many_rows', 'Too many generations at once.', jsonb_build_object('maximum', v_most));
  end if;
  return null;
end
$$;

comment on function private.limit_generations() is 'Trigger: caps what one statement may ask for (400 too_many_rows).';

create trigger image_generations_are_admitted
before insert on public.image_generations
for each row execute function private.admit_generation();

create trigger image_generations_are_few_at_once
after insert on public.image_generations
referencing new table as inserted
for each statement execute function private.limit_generations();

create trigger image_generations_touch_updated_at
before update on public.image_generations
for each row execute function private.touch_updated_at();

create trigger generated_images_touch_updated_at
before update on public.generated_images
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- The end
-- ---------------------------------------------------------------------------------------------------------------

create function private.generation_json(p_generation public.image_generations) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return to_jsonb(p_generation)
    - array['api_key_id', 'fingerprint', 'hold_id', 'task_id', 'idempotency_key']
    || jsonb_build_object('images', coalesce((
      select jsonb_agg(private.image_json(i) order by i.id)
      from public.generated_images as i
      where i.generation_id = p_generation.id
    ), '[]'));
end
$$;

comment on function private.generation_json(public.image_generations) is 'A generation with its images, as functions/ answers it.';

create function private.image_json(p_image public.generated_images) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return to_jsonb(p_image) - array['vision_embedding', 'vision_embedding_model', 'storage_path', 'thumbnail_path'];
end
$$;

comment on function private.image_json(public.generated_images) is 'An image, as functions/ answers it: without where its bytes lie.';

create function private.end_generation(
  p_generation public.image_generations,
  p_status text,
  p_error_code text,
  p_error_message text,
  p_free_images integer,
  p_credits numeric
) returns public.image_generations
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations;
begin
  -- What the plan gave for images that were not made is given again, unless its month is over.
  update public.credit_accounts as a
  set period_free_images = greatest(a.period_free_images - (p_generation.free_images - p_free_images), 0)
  from private.credit_holds as h
  where h.id = p_generation.hold_id and a.id = h.account_id
    and p_generation.free_images > p_free_images and a.period_start <= p_generation.created_at;
  update public.image_generations as g
  set status = p_status, error_code = p_error_code, error_message = p_error_message, free_images = p_free_images,
    credits_charged = p_credits, completed_at = clock_timestamp(),
    progress = case when p_status = 'completed' then 100 else g.progress end
  where g.id = p_generation.id
  returning g.* into v_g;
  if p_status <> 'completed' then
    -- An attempt may have stored some of its images before it was lost.
    perform private.forget_files(array(
      select format('%s/%s/%s', private.owner_folder(v_g.user_id, v_g.organization_id), v_g.id, f.name)
      from private.file_names(v_g.num_outputs) as f (name)
    ));
  end if;
  perform private.notify(
    case when v_g.organization_id is null then v_g.user_id end, v_g.organization_id, 'image_' || p_status,
    jsonb_strip_nulls(jsonb_build_object(
      'generation_id', v_g.id, 'model', v_g.model_id, 'error_code', v_g.error_code,
      'credits_charged', v_g.credits_charged, 'metadata', v_g.metadata,
      'images', (select jsonb_agg(i.id order by i.id) from public.generated_images as i where i.generation_id = v_g.id)
    )),
    v_g.id::text
  );
  return v_g;
end
$$;

comment on function private.end_generation(public.image_generations, text, text, text, integer, numeric) is
'Ends a locked generation, whose account is locked too: its state, the free images it did not use, the files it may have left, and the news.';

create function private.file_names(p_outputs integer) returns setof text
language plpgsql immutable rows 16 set search_path = ''
as $$
begin
  return query
  select format('%s.%s', n, e)
  from generate_series(0, p_outputs - 1) as n
  cross join unnest(array['webp', 'png', 'jpg', 'thumb.webp']) as e;
end
$$;

comment on function private.file_names(integer) is 'Every name that an image of a generation, or its thumbnail, can have in its folder.';

create function private.forget_files(p_paths text[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if cardinality(p_paths) > 0 then
    perform private.task_enqueue(
      'image_files_delete', jsonb_build_object('paths', to_jsonb(p_paths)), null, now(), 20
    );
  end if;
end
$$;

comment on function private.forget_files(text[]) is 'Has objects of the bucket "images" deleted after this transaction; those that are not there do no harm.';

create function private.end_generation_of_task() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations;
begin
  if new.hold_id is not null then
    -- The account before the generation, as everywhere.
    perform private.lock_hold(new.hold_id);
  end if;
  perform private.lock_suggestion_of((new.payload ->> 'generation_id')::uuid);
  select g.* into v_g
  from public.image_generations as g
  where g.id = (new.payload ->> 'generation_id')::uuid and g.status in ('pending', 'processing')
  for update;
  if v_g.id is null then
    return null;
  elsif new.status = 'cancelled' then
    perform private.end_generation(v_g, 'cancelled', null, null, 0, 0);
  elsif v_g.deadline <= clock_timestamp() then
    perform private.end_generation(
      v_g, 'failed', 'deadline_exceeded', 'It was not made in time; nothing was charged.', 0, 0
    );
  else
    perform private.end_generation(
      v_g, 'failed', 'generation_failed', 'It could not be made; nothing was charged.', 0, 0
    );
  end if;
  return null;
end
$$;

comment on function private.end_generation_of_task() is
'Trigger: a generation ends with its task, however that ends. What the task itself has ended is left alone.';

create trigger generations_end_with_their_task
after update of status on private.tasks
for each row when (new.kind = 'image_generate' and new.status in ('dead', 'cancelled') and old.status <> new.status)
execute function private.end_generation_of_task();

create function private.clear_up_generation() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if exists (
    select from private.tasks as t where t.id = old.task_id and t.status in ('queued', 'running')
  ) then
    perform private.task_cancel(old.task_id, 'the generation was deleted');
  end if;
  perform private.forget_files(array(
    select format('%s/%s/%s', private.owner_folder(old.user_id, old.organization_id), old.id, f.name)
    from private.file_names(old.num_outputs) as f (name)
  ));
  return null;
end
$$;

comment on function private.clear_up_generation() is
'Trigger: whoever deletes a generation that is being made calls it off.';

create trigger image_generations_are_cleared_up
after delete on public.image_generations
for each row when (old.status in ('pending', 'processing'))
execute function private.clear_up_generation();

create function private.clear_up_image() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.forget_files(array_remove(array[old.storage_path, old.thumbnail_path], null));
  return null;
end
$$;

comment on function private.clear_up_image() is 'Trigger: with an image go its object and its thumbnail.';

create trigger generated_images_are_cleared_up
after delete on public.generated_images
for each row execute function private.clear_up_image();

-- ---------------------------------------------------------------------------------------------------------------
-- Who sees an image
-- ---------------------------------------------------------------------------------------------------------------

create function private.require_seen_image() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if not exists (
    select
    from public.generated_images as i
    where i.id = new.image_id and (
      i.is_public or i.user_id = new.user_id
      or (i.user_id is null and i.organization_id in (
        select m.organization_id from public.organization_members as m where m.user_id = new.user_id
      ))
    )
  ) then
    perform private.fail(404, 'image_not_found', 'There is no such image.');
  end if;
  return new;
end
$$;

comment on function private.require_seen_image() is
'Trigger: a person marks images that they see, their own, their organization''s, or public ones; others do not exist (404 image_not_found).';

create trigger user_favorites_are_of_seen_images
before insert on public.user_favorites
for each row execute function private.require_seen_image();

create function private.publish_image() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_url text := coalesce(private.setting('functions_url') #>> '{}', '');
begin
  new.public_url := case when new.is_public then format('%s/images/%s/content', v_url, new.id) end;
  new.thumbnail_url := case
    when new.is_public and new.thumbnail_path is not null then format('%s/images/%s/thumbnail', v_url, new.id)
  end;
  return new;
end
$$;

comment on function private.publish_image() is 'Trigger: a public image has an address, a private one has none.';

create trigger generated_images_are_published
before insert or update of is_public on public.generated_images
for each row execute function private.publish_image();

create function private.note_favorite() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.generated_images as i
  set is_favorite = tg_op = 'INSERT'
  where i.id = coalesce(new.image_id, old.image_id) and i.user_id = coalesce(new.user_id, old.user_id);
  return null;
end
$$;

comment on function private.note_favorite() is 'Trigger: is_favorite is whether the image''s own owner marked it.';

create trigger user_favorites_are_noted
after insert or delete on public.user_favorites
for each row execute function private.note_favorite();

-- ---------------------------------------------------------------------------------------------------------------
-- Calling it off
-- ---------------------------------------------------------------------------------------------------------------

create function private.cancel_generation(p_generation public.image_generations) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations;
begin
  if p_generation.status in ('pending', 'processing') then
    begin
      perform private.task_cancel(p_generation.task_id, 'called off by its owner');
    exception
      -- It ended in this very moment.
      when sqlstate 'PT409' then null;
    end;
  end if;
  select g.* into v_g from public.image_generations as g where g.id = p_generation.id;
  if v_g.status <> 'cancelled' then
    perform private.fail(409, 'generation_ended', 'This generation has ended already.',
      jsonb_build_object('status', v_g.status));
  end if;
  return private.generation_json(v_g);
end
$$;

comment on function private.cancel_generation(public.image_generations) is
'Calls a generation off and returns what was held for it; again: no change. 409 generation_ended.';

create function private.cancel_my_generation(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_g public.image_generations;
begin
  select g.* into v_g from public.image_generations as g where g.id = p_id and g.user_id = v_user_id;
  if v_g.id is null then
    perform private.fail(404, 'generation_not_found', 'There is no such generation.');
  end if;
  return private.cancel_generation(v_g);
end
$$;

comment on function private.cancel_my_generation(uuid) is 'Calls one of the caller''s generations off; 404 generation_not_found.';

create function public.cancel_generation(p_id uuid) returns jsonb
language sql volatile set search_path = ''
as $$ select private.cancel_my_generation(p_id) $$;

comment on function public.cancel_generation(uuid) is
'Calls one of your generations off: what was held comes back. 409 generation_ended.';

-- It is the default of image_generations.id, and a default is computed as the one who inserts.
grant execute on function private.uuid7() to authenticated;
grant execute on function private.generation_cost(text, integer, integer, integer, integer, jsonb) to authenticated;
grant execute on function public.calculate_generation_cost(text, integer, integer, integer, integer, jsonb)
to authenticated;
grant execute on function private.cancel_my_generation(uuid) to authenticated;
grant execute on function public.cancel_generation(uuid) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- Storage
-- ---------------------------------------------------------------------------------------------------------------

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values ('images', 'images', false, 33554432, array['image/png', 'image/jpeg', 'image/webp'])
on conflict (id) do nothing;

-- Outputs lie in <owner>/<generation>/, and are written by the service alone. Clients put the images that a generation
-- begins from into <owner>/inputs/.
--
-- A worker stores what it has made before it is charged, and paths can be guessed. So an output is read by whoever
-- reads its row, which is written with the charge: else it could be fetched and the generation called off.
create policy "Users read the files of images that they read"
on storage.objects for select to authenticated
using (
  bucket_id = 'images' and (
    exists (select from public.generated_images as i where i.storage_path = objects.name)
    or exists (select from public.generated_images as i where i.thumbnail_path = objects.name)
    or (
      (storage.foldername(name))[1] = (select private.active_user_id())::text
      and (storage.foldername(name))[2] = 'inputs'
    )
  )
);

create policy "Users put in images to begin from"
on storage.objects for insert to authenticated
with check (
  bucket_id = 'images' and (storage.foldername(name))[1] = (select private.active_user_id())::text
  and (storage.foldername(name))[2] = 'inputs'
);

create policy "Users take out images to begin from"
on storage.objects for delete to authenticated
using (
  bucket_id = 'images' and (storage.foldername(name))[1] = (select private.active_user_id())::text
  and (storage.foldername(name))[2] = 'inputs'
);
