-- Chat: what a completion costs, one function before the model is called and one after.
--
--   backend.chat_start    who, which limits, which price, how much to hold; or the stored answer of the same key
--   backend.chat_finish   charge what was used, finalize the usage row, store the answer of the key
--   backend.chat_fail     nothing charged; the key may run again

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table private.idempotent_requests (
  id uuid primary key default private.uuid7(),
  account_id uuid not null references public.credit_accounts (id),
  user_id uuid references public.profiles (id) on delete cascade,
  operation text not null,
  idempotency_key text not null,
  fingerprint text not null,
  status text not null default 'running',
  hold_id uuid not null references private.credit_holds (id),
  is_streamed boolean not null,
  answer jsonb,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  constraint status_is_known check (status in ('running', 'completed', 'failed')),
  constraint only_a_completed_request_has_an_answer check ((status = 'completed') = (answer is not null)),
  constraint key_has_1_to_255_characters check (length(idempotency_key) between 1 and 255),
  constraint requests_have_one_key_per_owner_and_operation
  unique nulls not distinct (account_id, user_id, operation, idempotency_key)
);

comment on table private.idempotent_requests is 'Requests that came with an Idempotency-Key, and the answers that replay them.';
comment on column private.idempotent_requests.id is 'Identifies the row.';
comment on column private.idempotent_requests.account_id is 'Who pays.';
comment on column private.idempotent_requests.user_id is 'Who asked, and the row goes with them; null for an organization''s API keys, which share their Idempotency-Keys.';
comment on column private.idempotent_requests.operation is 'What was asked for; keys are scoped by it.';
comment on column private.idempotent_requests.idempotency_key is 'The client''s key.';
comment on column private.idempotent_requests.fingerprint is 'Digest of the request''s body.';
comment on column private.idempotent_requests.status is 'running, completed (replays) or failed (runs again).';
comment on column private.idempotent_requests.hold_id is 'The hold of the latest attempt.';
comment on column private.idempotent_requests.is_streamed is 'Whether the answer was streamed, and is streamed again.';
comment on column private.idempotent_requests.answer is 'The stored answer.';
comment on column private.idempotent_requests.created_at is 'When the key was first seen.';
comment on column private.idempotent_requests.expires_at is 'When the key is forgotten.';

create index idempotent_requests_by_user on private.idempotent_requests (user_id) where user_id is not null;
create index idempotent_requests_by_hold on private.idempotent_requests (hold_id);
create index idempotent_requests_by_expiry on private.idempotent_requests (expires_at);

alter table private.idempotent_requests enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Price
-- ---------------------------------------------------------------------------------------------------------------

create function private.token_cost(
  p_terms jsonb, p_prompt_tokens bigint, p_cached_tokens bigint, p_completion_tokens bigint
) returns numeric
language plpgsql immutable set search_path = ''
as $$
begin
  -- Prices are credits per 1,000,000 tokens; rounded up to the sixth decimal, the finest credit there is.
  return round(ceil(
    ((p_prompt_tokens - p_cached_tokens) * (p_terms ->> 'prompt_price')::numeric
      + p_cached_tokens * (p_terms ->> 'cached_prompt_price')::numeric
      + p_completion_tokens * (p_terms ->> 'completion_price')::numeric)
    + (p_terms ->> 'request_price')::numeric * 1000000
  ) / 1000000, 6);
end
$$;

comment on function private.token_cost(jsonb, bigint, bigint, bigint) is
'Credits for a completion under the given terms; completion tokens of all choices together.';

create type private.chat_terms as (
  max_tokens integer,
  amount numeric,
  tokens bigint,
  terms jsonb
);

comment on type private.chat_terms is 'What a completion may use and cost: tokens per choice and credits at most, tokens that the plan has to have left, and the prices.';

create function private.chat_terms(
  p_model public.models,
  p_limits private.hold_limits,
  p_prompt_tokens integer,
  p_prompt_estimate integer,
  p_max_tokens integer,
  p_choices integer
) returns private.chat_terms
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_result private.chat_terms;
  v_prompt_tokens bigint;
  v_prompt_estimate bigint;
  v_wanted bigint;
  v_room numeric;
  v_prompt_cost numeric;
  v_token_price numeric;
begin
  if p_prompt_tokens is null or p_prompt_tokens < 0 or p_prompt_estimate < 0 then
    perform private.fail(400, 'invalid_argument', 'The number of prompt tokens must not be negative.', '{"param": "messages"}');
  end if;
  if p_choices is null or p_choices not between 1 and 8 then
    perform private.fail(400, 'invalid_argument', 'n must be between 1 and 8.', '{"param": "n"}');
  end if;
  if p_max_tokens < 1 or p_max_tokens > p_model.max_output_tokens then
    perform private.fail(400, 'invalid_argument', 'max_tokens is out of range for this model.',
      jsonb_build_object('param', 'max_tokens', 'maximum', p_model.max_output_tokens));
  end if;

  -- The bound counts bytes, so it can exceed the window while the prompt does not; no prompt can cost more than that.
  v_prompt_tokens := least(p_prompt_tokens, p_model.context_length);
  -- Credits are held for the bound, since a charge never exceeds its hold. The plan's tokens are no money: they are held
  -- for the estimate, or nobody could use the last three quarters of their month.
  v_prompt_estimate := least(p_prompt_estimate, v_prompt_tokens);
  v_result.terms := jsonb_build_object(
    'model_id', p_model.id,
    'prompt_price', p_model.prompt_price,
    -- A cached token never costs more than an uncached one, so the hold need not know how many there will be.
    'cached_prompt_price', least(p_model.cached_prompt_price, p_model.prompt_price),
    'completion_price', p_model.completion_price,
    'request_price', p_model.credits_cost,
    'prompt_tokens', v_prompt_tokens,
    'choices', p_choices
  );

  if p_max_tokens is not null then
    v_result.max_tokens := p_max_tokens;
  else
    -- Without a limit of the client's: the model's default, as far as the window, the balance, the budgets and the
    -- plan allow; so nobody is refused for a window they will not use.
    v_wanted := least(
      p_model.default_output_tokens,
      greatest(p_model.context_length - v_prompt_tokens, least(p_model.default_output_tokens, 256))
    );
    v_token_price := p_choices * p_model.completion_price / 1000000;
    v_prompt_cost := private.token_cost(v_result.terms, v_prompt_tokens, 0, 0);
    v_room := least(
      p_limits.available, p_limits.account_budget_left, p_limits.member_budget_left, p_limits.api_key_budget_left
    ) - v_prompt_cost;
    if v_token_price > 0 then
      v_wanted := least(v_wanted, floor(v_room / v_token_price));
    end if;
    v_wanted := least(v_wanted, (p_limits.tokens_left - v_prompt_estimate) / p_choices);
    -- Fewer than 16 tokens are no answer; below that the request is refused, and the refusal says what 16 would need.
    v_result.max_tokens := greatest(v_wanted, least(16, p_model.default_output_tokens));
  end if;

  v_result.terms := v_result.terms || jsonb_build_object('max_tokens', v_result.max_tokens);
  v_result.amount := private.token_cost(v_result.terms, v_prompt_tokens, 0, v_result.max_tokens::bigint * p_choices);
  v_result.tokens := v_prompt_estimate + v_result.max_tokens::bigint * p_choices;
  return v_result;
end
$$;

comment on function private.chat_terms(public.models, private.hold_limits, integer, integer, integer, integer) is
'The output limit to send upstream and the worst case it leads to, from a bound of the prompt (credits) and an estimate of it (the plan''s tokens; null: the bound). 400 invalid_argument for a limit the model cannot have.';

-- ---------------------------------------------------------------------------------------------------------------
-- For functions/: backend.*
-- ---------------------------------------------------------------------------------------------------------------

create function private.chat_candidates(p_models text[]) returns setof public.models
language plpgsql stable security definer rows 2 set search_path = ''
as $$
declare
  v_model text;
begin
  if cardinality(p_models) > 4 then
    perform private.fail(400, 'invalid_argument', 'At most three models can stand in for the first.', '{"param": "models"}');
  end if;
  for v_model in
    select m.name from unnest(p_models) with ordinality as m (name, place) group by m.name order by min(m.place)
  loop
    return next private.model_price(v_model, 'chat');
  end loop;
end
$$;

comment on function private.chat_candidates(text[]) is
'The models a completion may come from, in the order in which they are tried; 404 model_not_found for one that is not on offer.';

create function private.chat_hold(
  p_caller private.caller,
  p_account public.credit_accounts,
  p_limits private.hold_limits,
  p_request_id uuid,
  p_models text[],
  p_prompt_tokens integer,
  p_prompt_estimate integer,
  p_max_tokens integer,
  p_choices integer,
  p_usage jsonb
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_model public.models;
  v_provider text;
  v_terms private.chat_terms;
  v_candidates jsonb := '[]';
  v_all_terms jsonb := '[]';
  v_amount numeric := 0;
  v_tokens bigint := 0;
  v_hold private.credit_holds;
  v_placed record;
  v_rate jsonb;
begin
  for v_model in
    select c.* from private.chat_candidates(p_models) as c
  loop
    select mp.slug into v_provider from public.model_providers as mp where mp.id = v_model.provider_id;
    v_terms := private.chat_terms(
      v_model, p_limits, p_prompt_tokens, p_prompt_estimate,
      -- What the client asks of the first model, one that stands in for it gives as far as it can.
      case
        when v_candidates = '[]' or p_max_tokens is null then p_max_tokens
        else least(p_max_tokens, v_model.max_output_tokens)
      end,
      p_choices
    );
    v_all_terms := v_all_terms || (v_terms.terms || jsonb_build_object('provider', v_provider));
    v_candidates := v_candidates || jsonb_build_object(
      'id', v_model.id, 'upstream_model', v_model.upstream_model, 'provider', v_provider,
      'context_length', v_model.context_length, 'capabilities', v_model.capabilities, 'max_tokens', v_terms.max_tokens
    );
    -- Any of them may answer: held is what the dearest would cost.
    v_amount := greatest(v_amount, v_terms.amount);
    v_tokens := greatest(v_tokens, v_terms.tokens);
  end loop;

  -- The same request again, because the answer to its first call was lost on the way: the same hold.
  select h.* into v_hold
  from private.credit_holds as h
  where h.account_id = p_account.id and h.idempotency_key = 'chat:' || p_request_id::text;
  if v_hold.id is not null and (
    v_hold.status <> 'active' or v_hold.user_id is distinct from p_caller.user_id
    or v_hold.api_key_id is distinct from p_caller.api_key_id
    or v_hold.terms ->> 'model_id' <> v_candidates #>> '{0,id}'
  ) then
    -- A hold that is over pays for no second answer.
    perform private.fail(409, 'idempotency_conflict', 'This request has been made before.');
  elsif v_hold.id is not null then
    v_candidates := (
      select jsonb_agg(
        c.value || jsonb_build_object('max_tokens', (
          case when c.place = 1 then v_hold.terms else v_hold.terms -> 'fallbacks' -> (c.place - 2)::integer end
        ) -> 'max_tokens') order by c.place
      )
      from jsonb_array_elements(v_candidates) with ordinality as c (value, place)
    );
  else
    v_placed := private.place_hold(
      p_account, p_limits, p_caller.user_id, v_amount, v_tokens, 'chat:' || p_request_id::text, 'chat', null,
      (v_all_terms -> 0) || jsonb_build_object('fallbacks', v_all_terms - 0),
      p_usage || jsonb_build_object('model_id', v_candidates #> '{0,id}', 'provider', v_candidates #> '{0,provider}')
    );
    v_hold := v_placed.hold;
    v_rate := v_placed.rate_limit;
    p_account.held := p_account.held + v_hold.amount;
  end if;

  return jsonb_build_object(
    'state', 'started',
    'hold_id', v_hold.id,
    'account_id', p_account.id,
    'candidates', v_candidates,
    'held', v_hold.amount,
    'available', p_account.balance - p_account.held,
    'deadline', v_hold.deadline,
    'rate_limit', v_rate
  );
end
$$;

comment on function private.chat_hold(
  private.caller, public.credit_accounts, private.hold_limits, uuid, text[], integer, integer, integer, integer, jsonb
) is 'Fixes the prices of every model that may answer, holds the worst case and starts the usage row; the same request again: the same hold. The account is locked.';

create function backend.chat_start(
  p_request_id uuid,
  p_model text,
  p_prompt_tokens integer,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_fallbacks text[] default '{}',
  p_max_tokens integer default null,
  p_choices integer default 1,
  p_organization text default null,
  p_stream boolean default false,
  p_idempotency_key text default null,
  p_fingerprint text default null,
  p_ip text default null,
  p_user_agent text default null,
  p_prompt_estimate integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.caller(p_user_id, p_key_hash, 'chat', p_organization);
  v_payer record;
  v_account public.credit_accounts;
  v_hold private.credit_holds;
  v_request private.idempotent_requests;
  v_is_running boolean;
  v_started jsonb;
begin
  v_payer := private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);
  v_account := v_payer.account;

  -- The account is locked, so requests with the same key come here one after the other.
  if p_idempotency_key is not null then
    select r.* into v_request
    from private.idempotent_requests as r
    where r.account_id = v_account.id and r.user_id is not distinct from v_caller.user_id and r.operation = 'chat'
      and r.idempotency_key = p_idempotency_key and r.expires_at > now();
    if v_request.id is not null then
      if v_request.fingerprint is distinct from p_fingerprint then
        perform private.fail(409, 'idempotency_conflict', 'This Idempotency-Key was already used with another request.');
      end if;
      select h.* into v_hold from private.credit_holds as h where h.id = v_request.hold_id;
      if v_request.status = 'completed' then
        return private.account_summary(v_account.id) || jsonb_build_object(
          'state', 'replay', 'stream', v_request.is_streamed, 'answer', v_request.answer,
          'credits_charged', v_hold.settled_amount
        );
      end if;
      if v_request.status = 'running' and v_hold.status = 'settled' then
        -- Charged, but its answer was never handed in: to run again would charge again.
        perform private.fail(409, 'answer_not_stored', 'The first request with this Idempotency-Key was charged, and its answer was not kept.');
      end if;
      v_is_running := v_request.status = 'running' and v_hold.status = 'active';
      if v_is_running and v_hold.idempotency_key <> 'chat:' || p_request_id::text then
        perform private.fail(409, 'idempotency_in_progress', 'The first request with this Idempotency-Key is still running.',
          jsonb_build_object('retry_after', 1));
      end if;
      if v_hold.status = 'expired' then
        -- The first request may still be at work. One of the two is charged: this one, so the other no longer can be.
        perform private.credit_release(v_hold.id, 'superseded');
      end if;
    end if;
  end if;

  -- Only what runs has to be on offer: a replay outlives its model.
  v_started := private.chat_hold(
    v_caller, v_account, v_payer.limits, p_request_id, p_model || p_fallbacks, p_prompt_tokens, p_prompt_estimate,
    p_max_tokens, p_choices,
    jsonb_build_object('is_streamed', p_stream, 'ip_address', p_ip, 'user_agent', left(p_user_agent, 400))
  );
  if p_idempotency_key is not null then
    insert into private.idempotent_requests as r (
      account_id, user_id, operation, idempotency_key, fingerprint, hold_id, is_streamed, expires_at
    ) values (
      v_account.id, v_caller.user_id, 'chat', p_idempotency_key, p_fingerprint, (v_started ->> 'hold_id')::uuid,
      p_stream, now() + make_interval(hours => private.setting('idempotency_hours')::integer)
    )
    on conflict (account_id, user_id, operation, idempotency_key) do update
    set fingerprint = excluded.fingerprint, status = 'running', hold_id = excluded.hold_id, answer = null,
      is_streamed = excluded.is_streamed, created_at = now(), expires_at = excluded.expires_at
    where r.hold_id <> excluded.hold_id;
  end if;
  return v_started;
end
$$;

comment on function backend.chat_start(
  uuid, text, integer, uuid, text, text[], integer, integer, text, boolean, text, text, text, text, integer
) is 'Before the model is called: checks who asks and every limit, fixes the price, holds the worst case, starts the usage row; or returns the stored answer of the same Idempotency-Key. The caller is a person or an API key''s hash; p_fallbacks are tried when the model does not answer.';

create function backend.chat_finish(
  p_hold_id uuid,
  p_prompt_tokens integer,
  p_completion_tokens integer,
  p_cached_tokens integer default 0,
  p_outcome text default 'completed',
  p_usage_source text default 'upstream',
  p_latency_ms integer default null,
  p_first_token_ms integer default null,
  p_answer jsonb default null,
  p_model text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_locked record;
  v_hold private.credit_holds;
  v_terms jsonb;
  v_prompt bigint;
  v_cached bigint;
  v_completion bigint;
  v_result jsonb;
begin
  if p_outcome not in ('completed', 'cancelled') or p_usage_source not in ('upstream', 'counted') then
    perform private.fail(400, 'invalid_argument', 'The outcome or the source of the counts is unknown.');
  end if;
  if p_prompt_tokens < 0 or p_completion_tokens < 0 or p_cached_tokens < 0 then
    perform private.fail(400, 'invalid_argument', 'Token counts cannot be negative.');
  end if;
  -- The person before the account, as in private.payer and in an erasure: noting the model's use refers to them.
  perform p.id
  from private.credit_holds as h
  inner join public.profiles as p on p.id = h.user_id
  where h.id = p_hold_id
  for key share of p;
  -- The account before the hold, as everywhere; terms and status are read under that lock.
  v_locked := private.lock_hold(p_hold_id);
  v_hold := v_locked.hold;
  if v_hold.action not in ('chat', 'embedding') then
    perform private.fail(404, 'hold_not_found', 'There is no such chat request.');
  end if;
  if v_hold.status = 'settled' then
    -- Whoever comes second, with whatever counts, finds the request charged and charges nothing.
    return private.account_summary(v_hold.account_id) || jsonb_build_object(
      'hold_id', p_hold_id, 'charged', v_hold.settled_amount, 'credits_charged', v_hold.settled_amount, 'replayed', true
    );
  end if;

  v_terms := v_hold.terms - 'fallbacks';
  if p_model <> v_terms ->> 'model_id' then
    select f.value into v_terms
    from jsonb_array_elements(v_hold.terms -> 'fallbacks') as f (value)
    where f.value ->> 'model_id' = p_model;
    if v_terms is null then
      perform private.fail(400, 'invalid_argument', 'The hold was placed for other models.', '{"param": "model"}');
    end if;
  end if;

  -- No upstream can make a request cost more than was held: counts beyond the bounds are cut down to them.
  v_prompt := least(coalesce(p_prompt_tokens, 0), (v_terms ->> 'prompt_tokens')::bigint);
  v_cached := least(coalesce(p_cached_tokens, 0), v_prompt);
  v_completion := least(
    coalesce(p_completion_tokens, 0),
    (v_terms ->> 'max_tokens')::bigint * (v_terms ->> 'choices')::bigint
  );
  v_result := private.settle_hold(
    v_hold,
    v_locked.account,
    least(private.token_cost(v_terms, v_prompt, v_cached, v_completion), v_hold.amount),
    v_prompt + v_completion,
    jsonb_build_object(
      'status', p_outcome, 'prompt_tokens', v_prompt, 'completion_tokens', v_completion, 'cached_tokens', v_cached,
      'usage_source', p_usage_source, 'latency_ms', p_latency_ms, 'first_token_ms', p_first_token_ms,
      'model_id', v_terms -> 'model_id', 'provider', v_terms -> 'provider'
    )
  );
  if v_hold.user_id is not null then
    perform private.note_model_use(v_hold.user_id, v_terms ->> 'model_id');
  end if;
  if p_answer is not null then
    update private.idempotent_requests as r
    set status = 'completed', answer = p_answer
    where r.hold_id = p_hold_id;
  end if;
  return v_result || jsonb_build_object('credits_charged', v_result -> 'charged');
end
$$;

comment on function backend.chat_finish(uuid, integer, integer, integer, text, text, integer, integer, jsonb, text) is
'After the model has answered: charges what was used at the prices of the model that did (p_model; the first), at most what was held, once; finalizes the usage row; stores the answer of the Idempotency-Key.';

create function backend.chat_fail(
  p_hold_id uuid, p_error_code text, p_latency_ms integer default null, p_is_answered boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold private.credit_holds;
begin
  v_hold := (private.lock_hold(p_hold_id)).hold;
  if v_hold.status = 'settled' then
    return private.account_summary(v_hold.account_id) || jsonb_build_object(
      'hold_id', p_hold_id, 'charged', v_hold.settled_amount, 'credits_charged', v_hold.settled_amount, 'replayed', true
    );
  end if;
  update private.idempotent_requests as r
  set status = 'failed', answer = null
  where r.hold_id = p_hold_id;
  return private.credit_release(
    p_hold_id, coalesce(p_error_code, 'failed'), 'released', jsonb_build_object('latency_ms', p_latency_ms),
    p_is_answered
  ) || jsonb_build_object('credits_charged', 0);
end
$$;

comment on function backend.chat_fail(uuid, text, integer, boolean) is
'The model gave no answer: returns the hold, charges nothing, and lets the Idempotency-Key run again. An answer that said nothing (p_is_answered) stays one of the month''s requests.';

create function backend.chat_extend(p_hold_id uuid, p_seconds integer) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.credit_extend(p_hold_id, p_seconds) $$;

comment on function backend.chat_extend(uuid, integer) is 'Keeps the hold of a long answer alive.';

create function backend.chat_quote(
  p_model text,
  p_prompt_tokens integer,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_fallbacks text[] default '{}',
  p_max_tokens integer default null,
  p_choices integer default 1,
  p_organization text default null,
  p_prompt_estimate integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.caller(p_user_id, p_key_hash, 'chat', p_organization);
  v_model public.models;
  v_payer record;
  v_limits private.hold_limits;
  v_candidate private.chat_terms;
  v_terms private.chat_terms;
  v_models jsonb := '[]';
  v_amount numeric := 0;
  v_tokens bigint := 0;
  v_refusal text;
begin
  v_payer := private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);
  v_limits := v_payer.limits;
  for v_model in
    select c.* from private.chat_candidates(p_model || p_fallbacks) as c
  loop
    v_candidate := private.chat_terms(
      v_model, v_limits, p_prompt_tokens, p_prompt_estimate,
      case
        when v_models = '[]' or p_max_tokens is null then p_max_tokens
        else least(p_max_tokens, v_model.max_output_tokens)
      end,
      p_choices
    );
    if v_terms is null then
      v_terms := v_candidate;
    end if;
    v_models := v_models || jsonb_build_object('id', v_model.id, 'capabilities', v_model.capabilities);
    v_amount := greatest(v_amount, v_candidate.amount);
    v_tokens := greatest(v_tokens, v_candidate.tokens);
  end loop;
  begin
    perform private.require_room(v_limits, v_amount, v_tokens);
  exception
    when sqlstate 'PT402' then
      get stacked diagnostics v_refusal = pg_exception_detail;
  end;
  return jsonb_build_object(
    'model', v_models #> '{0,id}',
    'candidates', v_models,
    'prompt_tokens', (v_terms.terms ->> 'prompt_tokens')::integer,
    'max_tokens', v_terms.max_tokens,
    'choices', p_choices,
    'credits_max', v_amount,
    'available', v_limits.available,
    'affordable', v_refusal is null,
    'refusal', v_refusal::jsonb
  );
end
$$;

comment on function backend.chat_quote(text, integer, uuid, text, text[], integer, integer, text, integer) is
'What a completion would cost at most and whether the payer affords it; holds nothing.';

create function backend.chat_models(p_user_id uuid default null, p_key_hash text default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_key_hash is not null then
    perform private.caller(null, p_key_hash, 'chat', null);
  elsif not exists (select 1 from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', m.id,
      'kind', m.kind,
      'name', m.name,
      'description', m.description,
      'created', extract(epoch from m.created_at)::bigint,
      'owned_by', mp.slug,
      'context_length', m.context_length,
      'max_output_tokens', m.max_output_tokens,
      'default_output_tokens', m.default_output_tokens,
      'capabilities', m.capabilities,
      'is_default', m.is_default,
      'pricing', jsonb_build_object(
        'prompt', m.prompt_price, 'cached_prompt', m.cached_prompt_price, 'completion', m.completion_price,
        'request', m.credits_cost, 'unit', 'credits per 1M tokens'
      )
    ) order by m.kind, m.is_default desc, m.id), '[]'::jsonb)
    from public.models as m
    inner join public.model_providers as mp on mp.id = m.provider_id
    where m.kind in ('chat', 'embedding') and m.is_active and mp.is_active
  );
end
$$;

comment on function backend.chat_models(uuid, text) is 'Models for chat and embeddings with their windows and prices; the same for every user until models become private. 403 account_suspended.';

create function backend.chat_purge(p_limit integer default 1000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from private.idempotent_requests as r
  where r.id in (
    select e.id
    from private.idempotent_requests as e
    where e.expires_at <= now()
    order by e.expires_at
    limit p_limit
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.chat_purge(integer) is 'Forgets Idempotency-Keys past their time, with the answers stored under them.';

grant execute on function
backend.chat_start(
  uuid, text, integer, uuid, text, text[], integer, integer, text, boolean, text, text, text, text, integer
),
backend.chat_finish(uuid, integer, integer, integer, text, text, integer, integer, jsonb, text),
backend.chat_fail(uuid, text, integer, boolean),
backend.chat_extend(uuid, integer),
backend.chat_quote(text, integer, uuid, text, text[], integer, integer, text, integer),
backend.chat_models(uuid, text),
backend.chat_purge(integer)
to service_role;
