-- Embeddings: texts to vectors, held for and charged like a completion that says nothing.
--
--   backend.embedding_start   who, which limits, which price, how much to hold
--   backend.chat_finish, chat_fail and chat_extend close and keep the hold: its terms are those of a completion whose
--                             answer has no tokens
--
-- Another model's vectors mean something else, so there is one candidate and no fallback. A repeated request does no
-- harm but its price, so there is no Idempotency-Key.

create function backend.embedding_start(
  p_request_id uuid,
  p_model text,
  p_prompt_tokens integer,
  p_inputs integer default 1,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
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
  v_model public.models;
  v_candidate private.candidate;
  v_tokens bigint;
  v_terms private.chat_terms;
  v_hold private.credit_holds;
  v_placed record;
  v_rate jsonb;
  v_percent numeric;
begin
  v_payer := private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);
  v_account := v_payer.account;
  v_model := private.model_price(p_model, 'embedding');
  if p_inputs is null or p_inputs not between 1 and 2048 then
    perform private.fail(400, 'invalid_argument', 'There must be 1 to 2048 inputs.', '{"param": "input"}');
  end if;
  if p_prompt_tokens is null or p_prompt_tokens < 0 or p_prompt_estimate < 0 then
    perform private.fail(400, 'invalid_argument', 'The number of tokens must not be negative.', '{"param": "input"}');
  end if;
  -- One model, so one candidate; refused where nobody may pay for it.
  v_candidate := private.payable(v_account, array[v_model], p_credential);
  v_percent := private.setting('byok_fee_percent')::numeric;

  -- The window is that of each input.
  v_tokens := least(p_prompt_tokens, v_model.context_length::bigint * p_inputs);
  v_terms.max_tokens := 0;
  v_terms.tokens := least(p_prompt_estimate, v_tokens);
  v_terms.terms := jsonb_build_object(
    'model_id', v_model.id, 'provider', v_candidate.provider,
    'prompt_price', v_model.prompt_price,
    'cached_prompt_price', coalesce(least(v_model.cached_prompt_price, v_model.prompt_price), v_model.prompt_price),
    'completion_price', 0, 'request_price', v_model.credits_cost,
    'prompt_tokens', v_tokens, 'choices', 1, 'max_tokens', 0,
    'own_percent', case when v_candidate.is_own then v_percent end
  );
  v_terms.amount := private.token_cost(v_terms.terms, v_tokens, 0, 0);
  v_terms := private.with_credentials(
    v_candidate, v_payer.limits, v_terms, ceil(v_terms.amount * v_percent * 10000) / 1000000
  );

  -- The same request again, because the answer to its first call was lost on the way: the same hold.
  select h.* into v_hold
  from private.credit_holds as h
  where h.account_id = v_account.id and h.idempotency_key = 'embedding:' || p_request_id::text;
  if v_hold.id is not null and (
    v_hold.status <> 'active' or v_hold.user_id is distinct from v_caller.user_id
    or v_hold.api_key_id is distinct from v_caller.api_key_id or v_hold.terms ->> 'model_id' <> v_model.id
  ) then
    perform private.fail(409, 'idempotency_conflict', 'This request has been made before.');
  elsif v_hold.id is null then
    v_placed := private.place_hold(
      v_account, v_payer.limits, v_caller.user_id, v_terms.amount, v_terms.tokens, 'embedding:' || p_request_id::text,
      'embedding', null,
      v_terms.terms || case
        when v_candidate.is_own then jsonb_build_object('own_key_id', v_candidate.own_keys #> '{0,id}') else '{}'
      end,
      jsonb_build_object(
        'model_id', v_model.id, 'provider', v_candidate.provider, 'ip_address', p_ip,
        'user_agent', left(p_user_agent, 400), 'credential', v_terms.terms #> '{credentials,0}',
        'provider_key_id', case when v_candidate.is_own then v_candidate.own_keys #> '{0,id}' end
      )
    );
    v_hold := v_placed.hold;
    v_rate := v_placed.rate_limit;
    v_account.held := v_account.held + v_hold.amount;
  end if;

  return jsonb_build_object(
    'state', 'started',
    'hold_id', v_hold.id,
    'account_id', v_hold.account_id,
    'candidates', jsonb_build_array(private.candidate_json(v_candidate, v_terms)),
    'held', v_hold.amount,
    'available', v_account.balance - v_account.held,
    'deadline', v_hold.deadline,
    'rate_limit', v_rate
  );
end
$$;

comment on function backend.embedding_start(
  uuid, text, integer, integer, uuid, text, text, text, text, integer, text
) is 'Before texts are embedded: checks who asks (an API key needs the scope chat) and every limit, fixes the price, holds the bound of their tokens, starts the usage row. p_credential says who may pay. The same request again: the same hold.';

grant execute on function
backend.embedding_start(uuid, text, integer, integer, uuid, text, text, text, text, integer, text)
to service_role;
