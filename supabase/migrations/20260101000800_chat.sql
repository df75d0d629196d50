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

create function private.own_server_model(p_model_id text) returns public.models
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_provider constant text := 'openai-compatible';
  -- What a server of a customer's own takes is its own to refuse; only what is sent and counted needs a bound.
  c_most_tokens constant integer := 1000000;
  v_model public.models;
begin
  if not starts_with(p_model_id, c_provider || '/') or char_length(p_model_id) > 200 then
    return null;
  end if;
  v_model.upstream_model := substr(p_model_id, char_length(c_provider) + 2);
  select mp.id into v_model.provider_id
  from public.model_providers as mp
  where mp.slug = c_provider and mp.is_active;
  if not found or btrim(v_model.upstream_model) = '' then
    return null;
  end if;
  v_model.id := p_model_id;
  v_model.kind := 'chat';
  v_model.name := v_model.upstream_model;
  v_model.context_length := 2 * c_most_tokens;
  v_model.max_output_tokens := c_most_tokens;
  v_model.default_output_tokens := c_most_tokens;
  v_model.prompt_price := 0;
  v_model.cached_prompt_price := 0;
  v_model.completion_price := 0;
  v_model.credits_cost := 0;
  v_model.capabilities := '{"streaming": true, "tools": true, "vision": true}';
  v_model.byok_allowed := true;
  v_model.platform_allowed := false;
  return v_model;
end
$$;

comment on function private.own_server_model(text) is
'A model of a customer''s own server, which no catalog knows: openai-compatible/ and what the server calls it; null for other names.';

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
    return next coalesce(private.own_server_model(v_model), private.model_price(v_model, 'chat'));
  end loop;
end
$$;

comment on function private.chat_candidates(text[]) is
'The models a completion may come from, in the order in which they are tried; 404 model_not_found for one that is not on offer.';

-- ---------------------------------------------------------------------------------------------------------------
-- Who pays: credits, or the customer's own key
-- ---------------------------------------------------------------------------------------------------------------

create type private.candidate as (
  model public.models,
  provider text,
  own_keys jsonb,
  is_own boolean,
  is_platform boolean
);

comment on type private.candidate is 'A model that may answer, who serves it, the customer''s sealed keys for that, whether those may be used, and whether credits may.';

create function private.fail_unpayable(p_provider text, p_own_keys jsonb, p_credential text) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if p_own_keys is null and p_credential = 'platform' then
    perform private.fail(404, 'model_not_found', 'This model is not on offer for credits.',
      '{"param": "model", "remedy": "use_own_key"}');
  elsif p_own_keys is null then
    perform private.fail(402, 'provider_key_required', 'This takes a key of your own for the provider; none is there.',
      jsonb_build_object('param', 'model', 'provider', p_provider, 'credential', 'own', 'remedy', 'add_provider_key'));
  else
    perform private.fail(401, 'provider_key_rejected', 'The provider rejected your own key earlier. Replace it, or have it validated again.',
      jsonb_build_object('provider', p_provider, 'credential', 'own', 'remedy', 'replace_provider_key'));
  end if;
end
$$;

comment on function private.fail_unpayable(text, jsonb, text) is
'Why nobody may pay for a model: 404 model_not_found, 402 provider_key_required, 401 provider_key_rejected.';

create function private.payable(
  p_account public.credit_accounts, p_models public.models[], p_credential text
) returns setof private.candidate
language plpgsql stable security definer rows 2 set search_path = ''
as $$
declare
  v_model public.models;
  v_candidate private.candidate;
  v_refused private.candidate;
  v_is_any boolean := false;
  v_own_came_before boolean := false;
begin
  if coalesce(p_credential, '') not in ('auto', 'own', 'platform', 'own_first') then
    perform private.fail(400, 'invalid_argument', 'credential must be auto, own, platform or own_first.',
      '{"param": "credential"}');
  end if;
  foreach v_model in array p_models loop
    v_candidate := null;
    v_candidate.model := v_model;
    select mp.slug into v_candidate.provider from public.model_providers as mp where mp.id = v_model.provider_id;
    if v_model.byok_allowed and p_credential <> 'platform' then
      v_candidate.own_keys := private.own_provider_keys(
        p_account.user_id, p_account.organization_id, v_model.provider_id, v_candidate.provider, v_model.upstream_model
      );
    end if;
    v_candidate.is_own := coalesce(v_candidate.own_keys <> '[]', false);
    -- Who has a key means it to be used: one that was rejected does not turn into credits unless that was asked for,
    -- and neither does a model that stands in for one that an own key pays for.
    v_candidate.is_platform := v_model.platform_allowed and case p_credential
      when 'platform' then true
      when 'own_first' then true
      when 'auto' then v_candidate.own_keys is null and not v_own_came_before
      else false
    end;
    v_own_came_before := v_own_came_before or v_candidate.own_keys is not null;
    if v_candidate.is_own or v_candidate.is_platform then
      v_is_any := true;
      return next v_candidate;
    elsif v_refused.provider is null then
      v_refused := v_candidate;
    end if;
  end loop;
  if not v_is_any then
    perform private.fail_unpayable(
      v_refused.provider, v_refused.own_keys,
      -- Where nobody's key would do, none is asked for.
      case
        when (v_refused.model).byok_allowed or (v_refused.model).platform_allowed then p_credential
        else 'platform'
      end
    );
  end if;
end
$$;

comment on function private.payable(public.credit_accounts, public.models[], text) is
'Those of the models that somebody may pay for, and who: with auto, own keys where there are any and credits elsewhere; own, platform; own_first, both. Refused where there is none.';

create function private.at_own_price(p_model public.models) returns public.models
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_share numeric := private.setting('byok_fee_percent')::numeric / 100;
begin
  p_model.prompt_price := p_model.prompt_price * v_share;
  p_model.cached_prompt_price := p_model.cached_prompt_price * v_share;
  p_model.completion_price := p_model.completion_price * v_share;
  p_model.credits_cost := p_model.credits_cost * v_share;
  return p_model;
end
$$;

comment on function private.at_own_price(public.models) is
'The model at what it costs in credits where the customer''s own key pays the provider: byok_fee_percent of its price.';

create function private.refusal(p_limits private.hold_limits, p_amount numeric, p_tokens bigint) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_refusal text;
begin
  perform private.require_room(p_limits, p_amount, p_tokens);
  return null;
exception
  when sqlstate 'PT402' then
    get stacked diagnostics v_refusal = pg_exception_detail;
    return v_refusal::jsonb;
end
$$;

comment on function private.refusal(private.hold_limits, numeric, bigint) is
'The facts of private.require_room''s refusal; null where there is room.';

create function private.with_credentials(
  p_candidate private.candidate, p_limits private.hold_limits, p_terms private.chat_terms, p_own_amount numeric
) returns private.chat_terms
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_credentials jsonb := case when p_candidate.is_own then '["own"]' else '[]' end;
begin
  if p_candidate.is_platform and (
    -- Credits that are not there stand behind no key; alone, they are refused where the hold is placed.
    not p_candidate.is_own or private.refusal(p_limits, p_terms.amount, p_terms.tokens) is null
  ) then
    v_credentials := v_credentials || '["platform"]'::jsonb;
    p_terms.amount := greatest(p_terms.amount, p_own_amount);
  else
    p_terms.amount := p_own_amount;
    -- The plan's tokens are what our keys produce.
    p_terms.tokens := 0;
  end if;
  p_terms.terms := p_terms.terms || jsonb_build_object('credentials', v_credentials);
  return p_terms;
end
$$;

comment on function private.with_credentials(
  private.candidate, private.hold_limits, private.chat_terms, numeric
) is 'The terms of credits, and what is held for them, as terms of whoever may pay; an own key''s amount is its fee.';

create function private.candidate_terms(
  p_candidate private.candidate,
  p_limits private.hold_limits,
  p_prompt_tokens integer,
  p_prompt_estimate integer,
  p_max_tokens integer,
  p_choices integer
) returns private.chat_terms
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_own private.chat_terms;
  v_terms private.chat_terms;
  v_free private.hold_limits := p_limits;
begin
  if p_candidate.is_own then
    -- The plan's tokens are what our keys produce.
    v_free.tokens_left := null;
    v_own := private.chat_terms(
      private.at_own_price(p_candidate.model), v_free, p_prompt_tokens, p_prompt_estimate, p_max_tokens, p_choices
    );
  end if;
  v_terms := private.chat_terms(
    p_candidate.model, p_limits, p_prompt_tokens, p_prompt_estimate, coalesce(v_own.max_tokens, p_max_tokens), p_choices
  );
  v_terms.terms := v_terms.terms || jsonb_build_object(
    'provider', p_candidate.provider,
    'own_percent', case when p_candidate.is_own then private.setting('byok_fee_percent')::numeric end
  );
  return private.with_credentials(p_candidate, p_limits, v_terms, v_own.amount);
end
$$;

comment on function private.candidate_terms(
  private.candidate, private.hold_limits, integer, integer, integer, integer
) is 'As chat_terms, for whoever may pay: credits worst case, own keys their fee. The terms say which credentials they cover.';

create function private.candidate_json(p_candidate private.candidate, p_terms private.chat_terms) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', (p_candidate.model).id,
    'upstream_model', (p_candidate.model).upstream_model,
    'provider', p_candidate.provider,
    'context_length', (p_candidate.model).context_length,
    'capabilities', (p_candidate.model).capabilities,
    -- Nobody asked for a limit, and none of ours is known.
    'max_tokens', nullif(
      p_terms.max_tokens,
      case when p_candidate.provider = 'openai-compatible' then (p_candidate.model).max_output_tokens end
    ),
    'credentials', p_terms.terms -> 'credentials',
    'own_keys', case when p_candidate.is_own then p_candidate.own_keys else '[]' end
  );
end
$$;

comment on function private.candidate_json(private.candidate, private.chat_terms) is
'A model that may answer as functions/ takes it, with the sealed keys that may be shown for it.';

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
  p_credential text,
  p_usage jsonb
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_candidate private.candidate;
  v_terms private.chat_terms;
  v_candidates jsonb := '[]';
  v_all_terms jsonb := '[]';
  v_amount numeric := 0;
  v_tokens bigint := 0;
  v_own_key_id uuid;
  v_is_own_first boolean;
  v_hold private.credit_holds;
  v_placed record;
  v_rate jsonb;
begin
  for v_candidate in
    select c.*
    from private.payable(p_account, array(select m from private.chat_candidates(p_models) as m), p_credential) as c
  loop
    v_terms := private.candidate_terms(
      v_candidate, p_limits, p_prompt_tokens, p_prompt_estimate,
      -- What the client asks of the first model, one that stands in for it gives as far as it can.
      case
        when v_candidates = '[]' or p_max_tokens is null then p_max_tokens
        else least(p_max_tokens, (v_candidate.model).max_output_tokens)
      end,
      p_choices
    );
    v_all_terms := v_all_terms || v_terms.terms;
    v_candidates := v_candidates || private.candidate_json(v_candidate, v_terms);
    -- Any of them may answer: held is what the dearest would cost.
    v_amount := greatest(v_amount, v_terms.amount);
    v_tokens := greatest(v_tokens, v_terms.tokens);
    v_own_key_id := coalesce(v_own_key_id, (v_candidate.own_keys #>> '{0,id}')::uuid);
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
        c.value || jsonb_build_object('max_tokens', case
          when jsonb_typeof(c.value -> 'max_tokens') = 'null' then 'null'
          when c.place = 1 then v_hold.terms -> 'max_tokens'
          else v_hold.terms -> 'fallbacks' -> (c.place - 2)::integer -> 'max_tokens'
        end) order by c.place
      )
      from jsonb_array_elements(v_candidates) with ordinality as c (value, place)
    );
  else
    v_is_own_first := v_candidates #>> '{0,credentials,0}' = 'own';
    v_placed := private.place_hold(
      p_account, p_limits, p_caller.user_id, v_amount, v_tokens, 'chat:' || p_request_id::text, 'chat', null,
      (v_all_terms -> 0) || jsonb_build_object('fallbacks', v_all_terms - 0)
      || case when v_own_key_id is not null then jsonb_build_object('own_key_id', v_own_key_id) else '{}' end,
      p_usage || jsonb_build_object(
        'model_id', v_candidates #> '{0,id}', 'provider', v_candidates #> '{0,provider}',
        'credential', v_candidates #> '{0,credentials,0}',
        'provider_key_id', case when v_is_own_first then v_own_key_id end
      )
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
  private.caller, public.credit_accounts, private.hold_limits, uuid, text[], integer, integer, integer, integer, text,
  jsonb
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
  p_prompt_estimate integer default null,
  p_credential text default 'auto'
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
    p_max_tokens, p_choices, p_credential,
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
  uuid, text, integer, uuid, text, text[], integer, integer, text, boolean, text, text, text, text, integer, text
) is 'Before the model is called: checks who asks and every limit, fixes the price, holds the worst case, starts the usage row; or returns the stored answer of the same Idempotency-Key. The caller is a person or an API key''s hash; p_fallbacks are tried when the model does not answer; p_credential says who may pay.';

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
  p_model text default null,
  p_credential text default null,
  p_provider_key_id uuid default null,
  p_key_uses jsonb default null
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
  v_credential text;
  v_cost numeric;
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

  v_terms := v_hold.terms - 'fallbacks' - 'own_key_id';
  if p_model <> v_terms ->> 'model_id' then
    select f.value into v_terms
    from jsonb_array_elements(v_hold.terms -> 'fallbacks') as f (value)
    where f.value ->> 'model_id' = p_model;
    if v_terms is null then
      perform private.fail(400, 'invalid_argument', 'The hold was placed for other models.', '{"param": "model"}');
    end if;
  end if;

  v_credential := coalesce(p_credential, v_terms #>> '{credentials,0}', 'platform');
  if v_terms ? 'credentials' and not v_terms -> 'credentials' ? v_credential then
    perform private.fail(400, 'invalid_argument', 'The hold was placed for another credential.', '{"param": "credential"}');
  end if;

  -- No upstream can make a request cost more than was held: counts beyond the bounds are cut down to them.
  v_prompt := least(coalesce(p_prompt_tokens, 0), (v_terms ->> 'prompt_tokens')::bigint);
  v_cached := least(coalesce(p_cached_tokens, 0), v_prompt);
  v_completion := least(
    coalesce(p_completion_tokens, 0),
    (v_terms ->> 'max_tokens')::bigint * (v_terms ->> 'choices')::bigint
  );
  v_cost := private.token_cost(v_terms, v_prompt, v_cached, v_completion);
  v_result := private.settle_hold(
    v_hold,
    v_locked.account,
    least(
      case
        when v_credential = 'own' then ceil(v_cost * (v_terms ->> 'own_percent')::numeric * 10000) / 1000000
        else v_cost
      end,
      v_hold.amount
    ),
    -- The plan's tokens are what our keys produce.
    case when v_credential = 'own' then 0 else v_prompt + v_completion end,
    jsonb_build_object(
      'status', p_outcome, 'prompt_tokens', v_prompt, 'completion_tokens', v_completion, 'cached_tokens', v_cached,
      'usage_source', p_usage_source, 'latency_ms', p_latency_ms, 'first_token_ms', p_first_token_ms,
      'model_id', v_terms -> 'model_id', 'provider', v_terms -> 'provider', 'credential', v_credential,
      'provider_key_id', case when v_credential = 'own' then p_provider_key_id end, 'cost_estimate', v_cost,
      'provider_key_uses', p_key_uses
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

comment on function backend.chat_finish(
  uuid, integer, integer, integer, text, text, integer, integer, jsonb, text, text, uuid, jsonb
) is 'After the model has answered: charges what was used at the prices of the model that did (p_model; the first), of which only byok_fee_percent where an own key paid (p_credential), at most what was held, once; finalizes the usage row; records what became of own keys (p_key_uses); stores the answer of the Idempotency-Key.';

create function backend.chat_fail(
  p_hold_id uuid,
  p_error_code text,
  p_latency_ms integer default null,
  p_is_answered boolean default false,
  p_key_uses jsonb default null
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
    p_hold_id, coalesce(p_error_code, 'failed'), 'released',
    jsonb_build_object('latency_ms', p_latency_ms, 'provider_key_uses', p_key_uses), p_is_answered
  ) || jsonb_build_object('credits_charged', 0);
end
$$;

comment on function backend.chat_fail(uuid, text, integer, boolean, jsonb) is
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
  p_prompt_estimate integer default null,
  p_credential text default 'auto'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.caller(p_user_id, p_key_hash, 'chat', p_organization);
  v_candidate private.candidate;
  v_payer record;
  v_limits private.hold_limits;
  v_candidate_terms private.chat_terms;
  v_terms private.chat_terms;
  v_models jsonb := '[]';
  v_amount numeric := 0;
  v_tokens bigint := 0;
  v_refusal jsonb;
begin
  v_payer := private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);
  v_limits := v_payer.limits;
  for v_candidate in
    select c.*
    from private.payable(
      v_payer.account, array(select m from private.chat_candidates(p_model || p_fallbacks) as m), p_credential
    ) as c
  loop
    v_candidate_terms := private.candidate_terms(
      v_candidate, v_limits, p_prompt_tokens, p_prompt_estimate,
      case
        when v_models = '[]' or p_max_tokens is null then p_max_tokens
        else least(p_max_tokens, (v_candidate.model).max_output_tokens)
      end,
      p_choices
    );
    if v_terms is null then
      v_terms := v_candidate_terms;
    end if;
    v_models := v_models || jsonb_build_object(
      'id', (v_candidate.model).id, 'capabilities', (v_candidate.model).capabilities
    );
    v_amount := greatest(v_amount, v_candidate_terms.amount);
    v_tokens := greatest(v_tokens, v_candidate_terms.tokens);
  end loop;
  v_refusal := private.refusal(v_limits, v_amount, v_tokens);
  return jsonb_build_object(
    'model', v_models #> '{0,id}',
    'candidates', v_models,
    'prompt_tokens', (v_terms.terms ->> 'prompt_tokens')::integer,
    'max_tokens', v_terms.max_tokens,
    'choices', p_choices,
    'credential', v_terms.terms #> '{credentials,0}',
    'credits_max', v_amount,
    'available', v_limits.available,
    'affordable', v_refusal is null,
    'refusal', v_refusal
  );
end
$$;

comment on function backend.chat_quote(text, integer, uuid, text, text[], integer, integer, text, integer, text) is
'What a completion would cost at most and whether the payer affords it; holds nothing.';

create function backend.chat_models(
  p_user_id uuid default null, p_key_hash text default null, p_organization text default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller;
begin
  if p_key_hash is not null or p_organization is not null then
    v_caller := private.caller(p_user_id, p_key_hash, 'chat', p_organization);
  else
    v_caller.user_id := p_user_id;
  end if;
  if p_key_hash is null and not exists (select 1 from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return (
    with own_keys as materialized (
      select k.provider_id, k.base_url, k.models
      from public.provider_keys as k
      where k.is_enabled and (
        (v_caller.organization_id is not null and k.organization_id = v_caller.organization_id)
        or (v_caller.organization_id is null and k.user_id = v_caller.user_id)
      )
    ),

    offered as (
      select
        m.id, m.kind, m.name, m.description, m.created_at, m.provider_id, m.context_length, m.max_output_tokens,
        m.default_output_tokens, m.capabilities, m.is_default, m.platform_allowed, m.prompt_price,
        m.cached_prompt_price, m.completion_price, m.credits_cost,
        m.byok_allowed and exists (select from own_keys as k where k.provider_id = m.provider_id) as own_allowed
      from public.models as m
      where m.kind in ('chat', 'embedding') and m.is_active
      union all
      select
        s.id, s.kind, s.name, 'A model of your own server.', now(), s.provider_id, null, null, null, s.capabilities,
        false, false, null, null, null, null, true
      from (
        select distinct 'openai-compatible/' || u.model as id
        from own_keys as k
        cross join unnest(k.models) as u (model)
        where k.base_url is not null
      ) as n
      cross join private.own_server_model(n.id) as s
      where s.id is not null
    )

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
      'credentials', array_remove(array[
        case when m.own_allowed then 'own' end, case when m.platform_allowed then 'platform' end
      ], null),
      'pricing', jsonb_build_object(
        'prompt', m.prompt_price, 'cached_prompt', m.cached_prompt_price, 'completion', m.completion_price,
        'request', m.credits_cost, 'unit', 'credits per 1M tokens'
      )
    ) order by m.kind, m.is_default desc, m.id), '[]'::jsonb)
    from offered as m
    inner join public.model_providers as mp on mp.id = m.provider_id
    where mp.is_active and (m.platform_allowed or m.own_allowed)
  );
end
$$;

comment on function backend.chat_models(uuid, text, text) is 'Models for chat and embeddings that whoever pays (the caller, or the organization named) can use: by credits, or by keys of their own, those of their own servers included; with windows and prices. 403 account_suspended.';

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
  uuid, text, integer, uuid, text, text[], integer, integer, text, boolean, text, text, text, text, integer, text
),
backend.chat_finish(uuid, integer, integer, integer, text, text, integer, integer, jsonb, text, text, uuid, jsonb),
backend.chat_fail(uuid, text, integer, boolean, jsonb),
backend.chat_extend(uuid, integer),
backend.chat_quote(text, integer, uuid, text, text[], integer, integer, text, integer, text),
backend.chat_models(uuid, text, text),
backend.chat_purge(integer)
to service_role;
