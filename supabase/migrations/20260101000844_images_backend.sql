-- Images, for functions/: what its routes call, and what its workers call.

-- ---------------------------------------------------------------------------------------------------------------
-- For routes
-- ---------------------------------------------------------------------------------------------------------------

create function backend.image_start(
  p_values jsonb,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_idempotency_key text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'images', p_organization);
  v_g public.image_generations;
  v_first public.image_generations;
  v_constraint text;
begin
  v_g := jsonb_populate_record(null::public.image_generations, jsonb_build_object(
    'num_outputs', 1, 'safety_checker', true, 'hf_loras', '[]'::jsonb, 'lora_scales', '[]'::jsonb,
    'parameters', '{}'::jsonb, 'credential', 'auto', 'is_public', false, 'metadata', '{}'::jsonb
  ) || (p_values - array[
    'id', 'status', 'progress', 'attempts', 'error_code', 'error_message', 'credits_cost', 'credits_charged',
    'free_images', 'hold_id', 'task_id', 'deadline', 'created_at', 'started_at', 'completed_at', 'updated_at',
    'fingerprint', 'model_version', 'provider_key_id'
  ]));
  v_g.id := private.uuid7();
  v_g.user_id := v_caller.user_id;
  v_g.organization_id := v_caller.organization_id;
  v_g.api_key_id := v_caller.api_key_id;
  v_g.idempotency_key := p_idempotency_key;
  v_g.status := 'pending';
  v_g.progress := 0;
  v_g.attempts := 0;
  v_g.credits_charged := 0;
  v_g.created_at := clock_timestamp();
  v_g.updated_at := v_g.created_at;
  if p_idempotency_key is not null then
    -- The account is locked, so requests with the same key come here one after the other.
    perform private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);
    v_first := private.generation_of_key(v_g);
    if v_first.id is not null then
      return jsonb_build_object('state', 'replay', 'generation', private.generation_json(v_first));
    end if;
  end if;
  begin
    insert into public.image_generations select (v_g).* returning * into v_g;
  exception when check_violation then
    get stacked diagnostics v_constraint = constraint_name;
    perform private.refuse_generation_value(v_constraint);
  end;
  return jsonb_build_object('state', 'started', 'generation', private.generation_json(v_g));
end
$$;

comment on function backend.image_start(jsonb, uuid, text, text, text) is
'Asks for images, for a person or an API key (scope images); the same Idempotency-Key again: the generation it began.';

create function private.seen_generation(p_caller private.caller, p_id uuid) returns public.image_generations
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_g public.image_generations;
begin
  select g.* into v_g
  from public.image_generations as g
  where g.id = p_id and (
    g.user_id = p_caller.user_id
    or (g.user_id is null and g.organization_id = p_caller.organization_id)
    or (
      g.user_id is null and p_caller.api_key_id is null and exists (
        select from public.organization_members as m
        where m.organization_id = g.organization_id and m.user_id = p_caller.user_id
      )
    )
  );
  if v_g.id is null then
    perform private.fail(404, 'generation_not_found', 'There is no such generation.');
  end if;
  return v_g;
end
$$;

comment on function private.seen_generation(private.caller, uuid) is
'A generation of the caller''s, or of a key of their organization''s; 404 generation_not_found to anybody else.';

create function backend.image_read(p_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.generation_json(private.seen_generation(private.actor(p_user_id, p_key_hash, 'images', null), p_id));
end
$$;

comment on function backend.image_read(uuid, uuid, text) is 'A generation and its images; 404 generation_not_found.';

create function backend.image_list(
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_limit integer default 20,
  p_before uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'images', p_organization);
  v_most integer := least(greatest(p_limit, 1), 100);
  v_ids uuid[];
begin
  v_ids := array(
    select g.id
    from public.image_generations as g
    where g.user_id is not distinct from v_caller.user_id
      and g.organization_id is not distinct from v_caller.organization_id
      and (p_before is null or g.id < p_before)
    order by g.id desc
    limit v_most + 1
  );
  return jsonb_build_object(
    'generations', coalesce((
      select jsonb_agg(private.generation_json(g) order by g.id desc)
      from public.image_generations as g
      where g.id = any(v_ids[1:v_most])
    ), '[]'),
    'next', case when cardinality(v_ids) > v_most then v_ids[v_most] end
  );
end
$$;

comment on function backend.image_list(uuid, text, text, integer, uuid) is
'Generations of the caller, or of an organization that they asked for, newest first; p_before is the last id of the page before.';

create function backend.image_cancel(p_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.cancel_generation(
    private.seen_generation(private.actor(p_user_id, p_key_hash, 'images', null), p_id)
  );
end
$$;

comment on function backend.image_cancel(uuid, uuid, text) is
'Calls a generation off; 404 generation_not_found, 409 generation_ended.';

create function backend.image_delete(p_image_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'images', null);
begin
  delete from public.generated_images as i
  where i.id = p_image_id and (
    i.user_id = v_caller.user_id
    or (i.user_id is null and v_caller.api_key_id is not null and i.organization_id = v_caller.organization_id)
  );
  if not found then
    perform private.fail(404, 'image_not_found', 'There is no such image.');
  end if;
  return jsonb_build_object('id', p_image_id, 'deleted', true);
end
$$;

comment on function backend.image_delete(uuid, uuid, text) is
'Deletes an image, with its object, thumbnail, analysis and favorites; 404 image_not_found.';

create function backend.image_open(
  p_image_id uuid, p_is_thumbnail boolean default false, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller;
  v_image public.generated_images;
begin
  if num_nonnulls(p_user_id, p_key_hash) > 0 then
    v_caller := private.actor(p_user_id, p_key_hash, 'images', null);
  end if;
  select i.* into v_image
  from public.generated_images as i
  where i.id = p_image_id and (
    i.is_public
    or i.user_id = v_caller.user_id
    or (i.user_id is null and i.organization_id = v_caller.organization_id)
    or (
      i.user_id is null and v_caller.api_key_id is null and exists (
        select from public.organization_members as m
        where m.organization_id = i.organization_id and m.user_id = v_caller.user_id
      )
    )
  );
  if v_image.id is null or (p_is_thumbnail and v_image.thumbnail_path is null) then
    perform private.fail(404, 'image_not_found', 'There is no such image.');
  end if;
  if not p_is_thumbnail then
    update public.generated_images as i
    set access_count = i.access_count + 1, last_accessed_at = now()
    where i.id = p_image_id;
  end if;
  return jsonb_build_object(
    'path', case when p_is_thumbnail then v_image.thumbnail_path else v_image.storage_path end,
    'is_public', v_image.is_public
  );
end
$$;

comment on function backend.image_open(uuid, boolean, uuid, text) is
'Where the bytes of an image lie, for its owner and, while it is public, for everybody; counts that it was fetched. 404 image_not_found.';

-- ---------------------------------------------------------------------------------------------------------------
-- For workers
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_generation(p_id uuid) returns public.image_generations
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations;
begin
  select g.* into v_g from public.image_generations as g where g.id = p_id;
  if v_g.id is null then
    return null;
  end if;
  -- The person before the account, as in private.payer and in an erasure; the account before the generation.
  perform p.id from public.profiles as p where p.id = v_g.user_id for no key update;
  perform private.lock_hold(v_g.hold_id);
  perform private.lock_suggestion_of(p_id);
  select g.* into v_g from public.image_generations as g where g.id = p_id for update;
  return v_g;
end
$$;

comment on function private.lock_generation(uuid) is 'Locks a generation, after its person, its account and its hold; null where it is gone.';

create function backend.image_begin(p_id uuid, p_functions_url text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations := private.lock_generation(p_id);
  v_hold private.credit_holds;
  v_account public.credit_accounts;
  v_model public.models;
begin
  if v_g.id is null or v_g.status not in ('pending', 'processing') then
    return null;
  end if;
  update private.settings as s
  set value = to_jsonb(p_functions_url)
  where s.name = 'functions_url' and s.value is distinct from to_jsonb(p_functions_url);
  update public.image_generations as g
  set status = 'processing', progress = 0, attempts = g.attempts + 1, started_at = clock_timestamp()
  where g.id = p_id
  returning g.* into v_g;
  select h.* into v_hold from private.credit_holds as h where h.id = v_g.hold_id;
  select a.* into v_account from public.credit_accounts as a where a.id = v_hold.account_id;
  select m.* into v_model from public.models as m where m.id = v_g.model_id;
  return jsonb_build_object(
    'id', v_g.id, 'attempt', v_g.attempts, 'folder', private.owner_folder(v_g.user_id, v_g.organization_id) || '/' || v_g.id::text,
    'seconds_left', greatest(extract(epoch from v_g.deadline - clock_timestamp()), 0),
    'model', v_g.model_id, 'upstream_model', v_model.upstream_model, 'capabilities', v_model.capabilities,
    'provider', v_hold.terms ->> 'provider', 'credentials', v_hold.terms -> 'credentials',
    'own_keys', case
      when v_hold.terms -> 'credentials' ? 'own' then coalesce(private.own_provider_keys(
        v_account.user_id, v_account.organization_id, v_model.provider_id, v_hold.terms ->> 'provider',
        v_model.upstream_model
      ), '[]')
      else '[]'
    end,
    'prompt', v_g.prompt, 'negative_prompt', v_g.negative_prompt, 'aspect_ratio', v_g.aspect_ratio,
    'width', v_g.width, 'height', v_g.height, 'steps', v_g.steps, 'guidance', v_g.guidance_scale,
    'prompt_strength', v_g.prompt_strength, 'seed', v_g.seed, 'outputs', v_g.num_outputs,
    'format', replace(v_g.output_format, 'jpg', 'jpeg'), 'quality', v_g.output_quality, 'loras', to_jsonb(v_g.hf_loras),
    'lora_scales', to_jsonb(v_g.lora_scales), 'input_path', v_g.input_path, 'parameters', v_g.parameters,
    -- Asking for the checker cannot loosen what the person's level says; asking for none is heard where it is relaxed.
    'safety', coalesce((select p.ai_safety_level from public.profiles as p where p.id = v_g.user_id), 'standard')
  );
end
$$;

comment on function backend.image_begin(uuid, text) is
'Begins an attempt: everything that a worker needs to know; null where there is nothing to do any more.';

create function backend.image_progress(p_id uuid, p_progress integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.image_generations as g
  set progress = greatest(g.progress, least(greatest(p_progress, 0), 99))
  where g.id = p_id and g.status = 'processing';
  return jsonb_build_object('is_wanted', found);
end
$$;

comment on function backend.image_progress(uuid, integer) is 'Notes how far the work is, in per cent; whether it is still wanted.';

create function backend.image_finish(
  p_id uuid,
  p_images jsonb,
  p_credential text,
  p_provider_key_id uuid default null,
  p_key_uses jsonb default null,
  p_latency_ms integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations := private.lock_generation(p_id);
  v_hold private.credit_holds;
  v_account public.credit_accounts;
  v_made integer := jsonb_array_length(p_images);
  v_free integer := 0;
  v_price numeric;
  v_cost numeric;
  v_charged numeric;
begin
  if v_g.id is null or v_g.status <> 'processing' then
    return jsonb_build_object('state', coalesce(v_g.status, 'gone'));
  end if;
  select h.* into v_hold from private.credit_holds as h where h.id = v_g.hold_id;
  select a.* into v_account from public.credit_accounts as a where a.id = v_hold.account_id;
  if v_made not between 1 and v_g.num_outputs or not coalesce(v_hold.terms -> 'credentials' ? p_credential, false) then
    perform private.fail(400, 'invalid_argument', 'The images or the credential are not those that were asked for.');
  end if;
  v_price := (v_hold.terms ->> 'image_price')::numeric;
  v_cost := v_price * v_made;
  if p_credential = 'own' then
    v_charged := private.own_image_fee(v_cost, (v_hold.terms ->> 'own_percent')::numeric);
  else
    v_free := least(v_g.free_images, v_made);
    v_charged := v_price * (v_made - v_free);
  end if;
  v_charged := least(v_charged, v_hold.amount);

  insert into public.generated_images (
    user_id, organization_id, generation_id, storage_path, thumbnail_path, width, height, format, size_bytes, seed,
    revised_prompt, nsfw_score, is_public, technical_metadata
  )
  select
    v_g.user_id, v_g.organization_id, v_g.id, i.path, i.thumbnail_path, i.width, i.height, i.format, i.size_bytes,
    i.seed, left(i.revised_prompt, 32000), i.nsfw_score, v_g.is_public,
    coalesce(i.technical_metadata, '{}') || jsonb_strip_nulls(jsonb_build_object(
      'model', v_g.model_id, 'steps', v_g.steps, 'guidance', v_g.guidance_scale, 'loras', nullif(to_jsonb(v_g.hf_loras), '[]')
    ))
  from jsonb_to_recordset(p_images) as i (
    path text, thumbnail_path text, width integer, height integer, format text, size_bytes bigint, seed bigint,
    revised_prompt text, nsfw_score real, technical_metadata jsonb
  );
  perform private.settle_hold(
    v_hold, v_account, v_charged, 0,
    jsonb_build_object(
      'status', 'completed', 'model_id', v_g.model_id, 'provider', v_hold.terms -> 'provider', 'credential', p_credential,
      'provider_key_id', case when p_credential = 'own' then p_provider_key_id end, 'cost_estimate', v_cost,
      'latency_ms', p_latency_ms, 'provider_key_uses', p_key_uses
    )
  );
  if v_g.user_id is not null then
    perform private.note_model_use(v_g.user_id, v_g.model_id);
    update public.profiles as p set total_generations = p.total_generations + 1 where p.id = v_g.user_id;
  end if;
  update public.image_generations as g
  set provider_key_id = case when p_credential = 'own' then p_provider_key_id end
  where g.id = p_id;
  perform private.end_generation(v_g, 'completed', null, null, v_free, v_charged);
  return jsonb_build_object('state', 'completed', 'credits_charged', v_charged);
end
$$;

comment on function backend.image_finish(uuid, jsonb, text, uuid, jsonb, integer) is
'Ends a generation well: its images, their charge and the news, in one transaction. One that was called off meanwhile: its state, and nothing else.';

create function backend.image_fail(
  p_id uuid,
  p_error_code text,
  p_error_message text,
  p_key_uses jsonb default null,
  p_latency_ms integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g public.image_generations := private.lock_generation(p_id);
begin
  if v_g.id is null or v_g.status not in ('pending', 'processing') then
    return jsonb_build_object('state', coalesce(v_g.status, 'gone'));
  end if;
  perform private.credit_release(
    v_g.hold_id, p_error_code, 'released',
    jsonb_build_object('latency_ms', p_latency_ms, 'provider_key_uses', p_key_uses)
  );
  perform private.end_generation(v_g, 'failed', p_error_code, left(p_error_message, 500), 0, 0);
  return jsonb_build_object('state', 'failed');
end
$$;

comment on function backend.image_fail(uuid, text, text, jsonb, integer) is
'Ends a generation that cannot be made: nothing is charged.';

create function backend.image_note_key_uses(p_id uuid, p_key_uses jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold private.credit_holds;
begin
  select h.* into v_hold
  from public.image_generations as g
  inner join private.credit_holds as h on h.id = g.hold_id
  where g.id = p_id;
  perform private.note_provider_key_uses(v_hold, jsonb_build_object('provider_key_uses', p_key_uses));
  return jsonb_build_object('noted', true);
end
$$;

comment on function backend.image_note_key_uses(uuid, jsonb) is
'Records what became of own keys in an attempt that another one follows.';

create function backend.images_expire(p_limit integer default 200) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_g record;
  v_count integer := 0;
begin
  for v_g in
    select g.id, g.task_id
    from public.image_generations as g
    where g.status in ('pending', 'processing') and g.deadline <= now()
    order by g.deadline
    limit least(greatest(p_limit, 1), 1000)
  loop
    if private.expire_generation(v_g.id, v_g.task_id) then
      v_count := v_count + 1;
    end if;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.images_expire(integer) is 'Gives up generations past their deadline, and returns what was held for them.';

create function private.expire_generation(p_id uuid, p_task_id uuid) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  v_g public.image_generations;
begin
  -- The task first, as everywhere; whoever works on it learns at the next renewal.
  select t.* into v_task from private.tasks as t where t.id = p_task_id for update skip locked;
  if v_task.status in ('queued', 'running') then
    perform private.return_task(v_task, 'its deadline has passed', null, true);
    return true;
  elsif v_task.id is not null or not exists (select from private.tasks as t where t.id = p_task_id) then
    -- The task is over, or gone, and the generation was left behind.
    v_g := private.lock_generation(p_id);
    if v_g.status in ('pending', 'processing') then
      perform private.release_task_hold(v_g.hold_id, 'deadline_exceeded');
      perform private.end_generation(
        v_g, 'failed', 'deadline_exceeded', 'It was not made in time; nothing was charged.', 0, 0
      );
      return true;
    end if;
  end if;
  return false;
end
$$;

comment on function private.expire_generation(uuid, uuid) is 'Gives one generation up; whether there was something to give up.';

grant execute on function backend.image_start(jsonb, uuid, text, text, text) to service_role;
grant execute on function backend.image_read(uuid, uuid, text) to service_role;
grant execute on function backend.image_list(uuid, text, text, integer, uuid) to service_role;
grant execute on function backend.image_cancel(uuid, uuid, text) to service_role;
grant execute on function backend.image_delete(uuid, uuid, text) to service_role;
grant execute on function backend.image_open(uuid, boolean, uuid, text) to service_role;
grant execute on function backend.image_begin(uuid, text) to service_role;
grant execute on function backend.image_progress(uuid, integer) to service_role;
grant execute on function backend.image_finish(uuid, jsonb, text, uuid, jsonb, integer) to service_role;
grant execute on function backend.image_fail(uuid, text, text, jsonb, integer) to service_role;
grant execute on function backend.image_note_key_uses(uuid, jsonb) to service_role;
grant execute on function backend.images_expire(integer) to service_role;
