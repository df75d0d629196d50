-- API keys: credentials for programs, of a person or of an organization.
--
-- qk_live_ or qk_test_, 43 base62 digits of 256 random bits, and 6 of a CRC-32 (as GitHub's tokens end), so that
-- scanners recognise a key and a typing error is caught before a query. Shown once; what is kept is its SHA-256.
--
--   api_keys                  what a key is for and may do; its owner reads it
--   private.api_key_hashes    by which secrets it is known: two while a rotation's grace lasts
--   private.api_key_states    what it has used: the only row that a request writes
--
-- A person's key acts as that person, also for organizations they belong to. An organization's key belongs to the
-- organization and outlives its author: what it asks for is nobody's in person.
--
-- Limits of a key are checked where the payer's are, in the transaction of the hold (private.api_key_take, called by
-- private.place_hold). Locks: the account before the key's state, so a state is never waited for by two accounts.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
(
  'api_key_mode',
  '"live"',
  'live or test: how new API keys begin, so that those of a test deployment are known by sight.'
),
('api_keys_per_owner', '100', 'Most API keys in force that a person or an organization may have.'),
(
  'api_key_grace_seconds',
  '86400',
  'Seconds that the old secret of a rotated API key goes on working, unless told otherwise.'
);

create table public.api_keys (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  created_by uuid references public.profiles (id) on delete set null,
  name text not null,
  key_prefix text not null,
  scopes text[] not null,
  rate_limit_per_minute integer default 60,
  rate_limit_per_day integer,
  rate_limit_per_month integer,
  tokens_per_minute integer,
  max_concurrent_requests integer,
  monthly_credit_budget numeric(20, 6),
  expires_at timestamptz,
  rotated_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_key_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint name_has_1_to_100_characters check (char_length(name) between 1 and 100 and name = btrim(name)),
  constraint scopes_are_known check (
    cardinality(scopes) between 1 and 5 and scopes <@ array['chat', 'agents', 'documents', 'images', 'libraries']
  ),
  constraint limits_are_positive check (
    rate_limit_per_minute between 1 and 1000000 and rate_limit_per_day between 1 and 1000000000
    and rate_limit_per_month between 1 and 1000000000 and tokens_per_minute between 1 and 1000000000
    and max_concurrent_requests between 1 and 100000
  ),
  constraint budget_is_a_sensible_number_of_credits
  check (monthly_credit_budget >= 0 and monthly_credit_budget <= 1000000000000)
);

comment on table public.api_keys is 'API keys, without their secrets. Made, changed and ended through functions.';
comment on column public.api_keys.id is 'Identifies the key.';
comment on column public.api_keys.user_id is 'The person it belongs to; null for an organization''s.';
comment on column public.api_keys.organization_id is 'The organization it belongs to; null for a person''s.';
comment on column public.api_keys.created_by is 'Who made it; null once erased.';
comment on column public.api_keys.name is 'What its owner calls it.';
comment on column public.api_keys.key_prefix is 'How its present secret begins: qk_live_ or qk_test_ and four characters.';
comment on column public.api_keys.scopes is 'What it may be used for: chat, agents, documents, images, libraries.';
comment on column public.api_keys.rate_limit_per_minute is 'Requests a minute; null for the plan''s limit alone.';
comment on column public.api_keys.rate_limit_per_day is 'Requests in 24 hours; null for no limit.';
comment on column public.api_keys.rate_limit_per_month is 'Requests in 30 days; null for no limit.';
comment on column public.api_keys.tokens_per_minute is 'Tokens a minute, of prompts and answers; null for no limit.';
comment on column public.api_keys.max_concurrent_requests is 'Requests in flight at once; null for the plan''s limit alone.';
comment on column public.api_keys.monthly_credit_budget is 'Credits it may spend in a calendar month (UTC); null for no limit.';
comment on column public.api_keys.expires_at is 'When it stops working; null for never.';
comment on column public.api_keys.rotated_at is 'When it last got a new secret.';
comment on column public.api_keys.revoked_at is 'When it was ended for good; null while in force.';
comment on column public.api_keys.created_at is 'When it was made.';
comment on column public.api_keys.updated_at is 'When anything in the row last changed.';

create index api_keys_by_user on public.api_keys (user_id) where user_id is not null;
create index api_keys_by_organization on public.api_keys (organization_id) where organization_id is not null;
create index api_keys_by_creator on public.api_keys (created_by) where created_by is not null;

create table private.api_key_hashes (
  key_hash text primary key,
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  expires_at timestamptz,
  constraint key_hash_is_a_sha_256 check (key_hash ~ '^[0-9a-f]{64}$')
);

comment on table private.api_key_hashes is 'By which secrets a key is known.';
comment on column private.api_key_hashes.key_hash is 'SHA-256 of the whole key, prefix included, in hexadecimal. 256 random bits need no salt.';
comment on column private.api_key_hashes.api_key_id is 'The key.';
comment on column private.api_key_hashes.expires_at is 'End of the grace of a secret that was replaced; null for the present one.';

create unique index api_key_hashes_have_one_present_secret
on private.api_key_hashes (api_key_id) where expires_at is null;
create index api_key_hashes_by_key on private.api_key_hashes (api_key_id);

create table private.api_key_states (
  api_key_id uuid primary key references public.api_keys (id) on delete cascade,
  next_request_minute_at timestamptz not null default '-infinity',
  next_request_day_at timestamptz not null default '-infinity',
  next_request_month_at timestamptz not null default '-infinity',
  next_token_at timestamptz not null default '-infinity',
  active_holds integer not null default 0,
  held numeric(20, 6) not null default 0,
  period_start timestamptz not null default private.month_start(now()),
  period_credits numeric(20, 6) not null default 0,
  total_requests bigint not null default 0,
  total_tokens bigint not null default 0,
  total_credits numeric(20, 6) not null default 0,
  last_used_at timestamptz,
  constraint counters_are_not_negative check (
    least(active_holds, held, period_credits, total_requests, total_tokens, total_credits) >= 0
  )
) with (fillfactor = 50);

comment on table private.api_key_states is 'What a key has used: the state of its limits, and its totals. A request writes this row and no other of the key.';
comment on column private.api_key_states.api_key_id is 'The key.';
comment on column private.api_key_states.next_request_minute_at is 'Theoretical arrival time of the next request (GCRA) under the limit of a minute.';
comment on column private.api_key_states.next_request_day_at is 'The same under the limit of a day.';
comment on column private.api_key_states.next_request_month_at is 'The same under the limit of a month.';
comment on column private.api_key_states.next_token_at is 'Theoretical arrival time of the next token under the limit of a minute.';
comment on column private.api_key_states.active_holds is 'Its requests in flight.';
comment on column private.api_key_states.held is 'Credits held by them.';
comment on column private.api_key_states.period_start is 'Start of the month (UTC) that period_credits counts.';
comment on column private.api_key_states.period_credits is 'Credits spent in the period.';
comment on column private.api_key_states.total_requests is 'Requests that were accepted, ever.';
comment on column private.api_key_states.total_tokens is 'Tokens used, ever.';
comment on column private.api_key_states.total_credits is 'Credits spent, ever.';
comment on column private.api_key_states.last_used_at is 'When the last request was accepted.';

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: owners read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.api_keys to authenticated, service_role;

alter table public.api_keys enable row level security;
alter table private.api_key_hashes enable row level security;
alter table private.api_key_states enable row level security;

create policy "Users read their own keys, admins those of their organizations"
on public.api_keys for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create trigger api_keys_touch_updated_at before update on public.api_keys
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- How a key is written
-- ---------------------------------------------------------------------------------------------------------------

create function private.crc32(p_text text) returns bigint
language plpgsql immutable parallel safe set search_path = ''
as $$
declare
  v_bytes bytea := convert_to(p_text, 'UTF8');
  v_crc bigint := 4294967295;
begin
  -- ISO 3309, the polynomial of zip and PNG, reflected: 0xEDB88320.
  for i in 0 .. length(v_bytes) - 1 loop
    v_crc := v_crc # get_byte(v_bytes, i);
    for j in 1 .. 8 loop
      v_crc := (v_crc >> 1) # (3988292384 * (v_crc & 1));
    end loop;
  end loop;
  return v_crc # 4294967295;
end
$$;

comment on function private.crc32(text) is 'CRC-32 of a text in UTF-8, as zlib reckons it.';

create function private.base62(p_number numeric, p_digits integer) returns text
language plpgsql immutable parallel safe set search_path = ''
as $$
declare
  c_digits constant text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  v_left numeric := p_number;
  v_text text := '';
begin
  for i in 1 .. p_digits loop
    v_text := substr(c_digits, 1 + (v_left % 62)::integer, 1) || v_text;
    v_left := div(v_left, 62);
  end loop;
  return v_text;
end
$$;

comment on function private.base62(numeric, integer) is 'The lowest so many digits of a number to the base 62: 0-9, A-Z, a-z.';

create function private.new_api_key() returns text
language plpgsql volatile set search_path = ''
as $$
declare
  -- Two digests of random UUIDs: 256 bits of the operating system's, with some to spare (see private.random_token).
  v_bytes bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
  v_number numeric := 0;
  v_key text;
begin
  for i in 0 .. 31 loop
    v_number := v_number * 256 + get_byte(v_bytes, i);
  end loop;
  v_key := 'qk_' || (private.setting('api_key_mode') #>> '{}') || '_' || private.base62(v_number, 43);
  return v_key || private.base62(private.crc32(v_key), 6);
end
$$;

comment on function private.new_api_key() is 'A fresh secret: qk_, the mode, 256 random bits in 43 digits, and the CRC-32 of all that in 6.';

create function private.api_key_hash(p_key text) returns text
language sql immutable parallel safe set search_path = ''
as $$ select encode(sha256(convert_to(p_key, 'UTF8')), 'hex') $$;

comment on function private.api_key_hash(text) is 'What is kept of a secret.';

-- ---------------------------------------------------------------------------------------------------------------
-- Rates
-- ---------------------------------------------------------------------------------------------------------------

create function private.gcra(
  p_next timestamptz,
  p_now timestamptz,
  p_limit integer,
  p_period interval,
  p_cost bigint,
  out next_at timestamptz,
  out retry_after numeric,
  out remaining bigint,
  out reset integer
)
language plpgsql immutable set search_path = ''
as $$
declare
  v_seconds double precision := extract(epoch from p_period);
  v_used double precision;
begin
  -- Generic cell rate algorithm (ITU-T I.371): a burst of one period's worth, refilled evenly.
  v_used := greatest(extract(epoch from greatest(p_next, p_now) - p_now), 0) + p_cost * v_seconds / greatest(p_limit, 1);
  next_at := p_now + make_interval(secs => v_used);
  -- A cost over the whole limit is let through when nothing else was used: it could never come otherwise.
  if p_limit < 1 or (v_used > v_seconds + 0.0005 and (p_cost <= p_limit or p_next > p_now)) then
    retry_after := case
      when p_limit < 1 then v_seconds
      else ceil((v_used - case when p_cost <= p_limit then v_seconds else p_cost * v_seconds / p_limit end) * 1000) / 1000
    end;
    v_used := v_used - p_cost * v_seconds / greatest(p_limit, 1);
  end if;
  remaining := greatest(floor((v_seconds - v_used) * p_limit / v_seconds + 0.000001), 0);
  reset := ceil(v_used);
end
$$;

comment on function private.gcra(timestamptz, timestamptz, integer, interval, bigint) is
'One step of a rate limit: when its next unit would arrive, and, where it is to be refused, after how many seconds it may come. remaining and reset are for RateLimit headers: units left, seconds until all are.';

create function private.tighter_rate(p_first jsonb, p_second jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return case
    when p_first is null or (p_second ->> 'remaining')::bigint < (p_first ->> 'remaining')::bigint then p_second
    else p_first
  end;
end
$$;

comment on function private.tighter_rate(jsonb, jsonb) is 'Of two rate limits, as RateLimit headers tell them, that which leaves less.';

-- ---------------------------------------------------------------------------------------------------------------
-- Who is calling
-- ---------------------------------------------------------------------------------------------------------------

create type private.caller as (
  user_id uuid,
  organization_id uuid,
  api_key_id uuid
);

comment on type private.caller is 'Who asks, for whom, and by which key: the person (null for an organization''s key), the organization that pays (null: the person), the key (null: signed in).';

create function private.caller(
  p_user_id uuid, p_key_hash text, p_scope text, p_organization text
) returns private.caller
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_key public.api_keys;
  v_secret_expires_at timestamptz;
  v_caller private.caller;
  v_plan record;
begin
  if p_key_hash is null then
    v_caller.user_id := p_user_id;
    if p_organization is not null then
      v_caller.organization_id := private.require_member(p_user_id, p_organization);
    end if;
    return v_caller;
  end if;
  if p_user_id is not null then
    perform private.fail(400, 'invalid_argument', 'A caller is known by a key or by name, not both.');
  end if;
  select h.expires_at into v_secret_expires_at from private.api_key_hashes as h where h.key_hash = p_key_hash;
  select k.* into v_key
  from private.api_key_hashes as h
  inner join public.api_keys as k on k.id = h.api_key_id
  where h.key_hash = p_key_hash;
  if v_key.id is null then
    perform private.fail(401, 'invalid_api_key', 'There is no such API key.');
  elsif v_key.revoked_at is not null then
    perform private.fail(401, 'api_key_revoked', 'This API key was revoked.');
  elsif v_key.expires_at <= now() or v_secret_expires_at <= now() then
    perform private.fail(401, 'api_key_expired', 'This API key has expired.');
  elsif p_scope <> all (v_key.scopes) then
    perform private.fail(403, 'insufficient_scope', format('This API key may not be used for %s.', p_scope),
      jsonb_build_object('required_scope', p_scope, 'scopes', v_key.scopes));
  end if;
  if not exists (
    select from public.profiles as p where p.id = v_key.user_id and p.is_active
    union all
    select from public.organizations as o where o.id = v_key.organization_id and o.is_active
  ) then
    perform private.fail(403, 'account_suspended', 'The owner of this API key is suspended.');
  end if;
  v_caller.api_key_id := v_key.id;
  v_caller.user_id := v_key.user_id;
  v_caller.organization_id := v_key.organization_id;
  if p_organization is not null and v_key.organization_id is null then
    v_caller.organization_id := private.require_member(v_key.user_id, p_organization);
  elsif p_organization is not null and not exists (
    select from public.organizations as o
    where o.id = v_key.organization_id and p_organization in (o.id::text, o.slug)
  ) then
    perform private.fail(403, 'not_a_member', 'This API key belongs to another organization.');
  end if;
  v_plan := private.plan_of(v_caller.user_id, v_caller.organization_id);
  if not v_plan.has_api_access then
    perform private.fail(402, 'plan_limit_reached', 'The plan has no access by API key.', jsonb_build_object(
      'limit_source', 'plan.has_api_access', 'plan', v_plan.slug, 'required', 1, 'available', 0,
      'remedy', 'upgrade_plan'));
  end if;
  return v_caller;
end
$$;

comment on function private.caller(uuid, text, text, text) is
'Who asks: a person by id, or the owner of an API key by the key''s hash, for an organization (id or slug) or for themselves. 401 invalid_api_key, api_key_revoked, api_key_expired; 403 insufficient_scope, not_a_member, account_suspended; 402 where the plan has no API access.';

-- ---------------------------------------------------------------------------------------------------------------
-- Limits of a key: taken by a hold, given back at its end
-- ---------------------------------------------------------------------------------------------------------------

create function private.api_key_budget_left(p_api_key_id uuid) returns numeric
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select k.monthly_credit_budget - s.held
      - case when s.period_start >= private.month_start(now()) then s.period_credits else 0 end
    from public.api_keys as k
    inner join private.api_key_states as s on s.api_key_id = k.id
    where k.id = p_api_key_id
  );
end
$$;

comment on function private.api_key_budget_left(uuid) is 'What a key may still spend this month; null for no limit.';

create function private.api_key_take(p_api_key_id uuid, p_amount numeric, p_tokens bigint, p_now timestamptz)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.api_keys;
  v_state private.api_key_states;
  v_limit record;
  v_rate record;
  v_rates jsonb := '{}';
  v_told jsonb;
begin
  select k.* into strict v_key from public.api_keys as k where k.id = p_api_key_id;
  select s.* into strict v_state from private.api_key_states as s where s.api_key_id = p_api_key_id for no key update;
  -- Again, now that the key is locked: it may be asking on another account at the same time.
  if p_amount > 0 and private.api_key_budget_left(p_api_key_id) < p_amount then
    perform private.fail(402, 'budget_exceeded', 'The monthly budget does not suffice for this request.', jsonb_build_object(
      'limit_source', 'api_key_budget', 'required', p_amount,
      'available', greatest(private.api_key_budget_left(p_api_key_id), 0), 'remedy', 'raise_budget'));
  end if;
  if v_state.active_holds >= v_key.max_concurrent_requests then
    perform private.fail(429, 'too_many_concurrent_requests',
      'This API key has too many requests in flight; try again when one has ended.', jsonb_build_object(
        'limit_source', 'api_key.max_concurrent_requests', 'limit', v_key.max_concurrent_requests, 'retry_after', 1));
  end if;
  for v_limit in
    select l.*
    from (
      values
      ('rate_limit_per_minute', v_key.rate_limit_per_minute, interval '60 seconds', v_state.next_request_minute_at, 1),
      ('rate_limit_per_day', v_key.rate_limit_per_day, interval '24 hours', v_state.next_request_day_at, 1),
      ('rate_limit_per_month', v_key.rate_limit_per_month, interval '720 hours', v_state.next_request_month_at, 1),
      ('tokens_per_minute', v_key.tokens_per_minute, interval '60 seconds', v_state.next_token_at, p_tokens)
    ) as l (name, rate, period, next_at, cost)
    where l.rate is not null
  loop
    v_rate := private.gcra(v_limit.next_at, p_now, v_limit.rate, v_limit.period, v_limit.cost);
    if v_rate.retry_after is not null then
      perform private.fail(429, 'rate_limited', 'This API key has made too many requests; try again later.',
        jsonb_build_object('limit_source', 'api_key.' || v_limit.name, 'limit', v_limit.rate,
          'remaining', v_rate.remaining, 'reset', v_rate.reset, 'retry_after', v_rate.retry_after));
    end if;
    v_rates := v_rates || jsonb_build_object(v_limit.name, v_rate.next_at);
    if v_limit.name <> 'tokens_per_minute' then
      v_told := private.tighter_rate(v_told, jsonb_build_object(
        'limit', v_limit.rate, 'remaining', v_rate.remaining, 'reset', v_rate.reset));
    end if;
  end loop;
  update private.api_key_states as s
  set next_request_minute_at = coalesce((v_rates ->> 'rate_limit_per_minute')::timestamptz, s.next_request_minute_at),
    next_request_day_at = coalesce((v_rates ->> 'rate_limit_per_day')::timestamptz, s.next_request_day_at),
    next_request_month_at = coalesce((v_rates ->> 'rate_limit_per_month')::timestamptz, s.next_request_month_at),
    next_token_at = coalesce((v_rates ->> 'tokens_per_minute')::timestamptz, s.next_token_at),
    active_holds = s.active_holds + 1,
    held = s.held + p_amount,
    total_requests = s.total_requests + 1,
    last_used_at = p_now
  where s.api_key_id = p_api_key_id;
  return v_told;
end
$$;

comment on function private.api_key_take(uuid, numeric, bigint, timestamptz) is
'Counts a request against a key''s own limits; 429 rate_limited, too_many_concurrent_requests. What RateLimit headers tell, null without a limit. The account is locked.';

create function private.api_key_give_back(
  p_api_key_id uuid,
  p_was_active boolean,
  p_held numeric,
  p_tokens_held bigint,
  p_spent numeric,
  p_tokens bigint,
  p_created_at timestamptz
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update private.api_key_states as s
  set active_holds = s.active_holds - case when p_was_active then 1 else 0 end,
    held = s.held - case when p_was_active then p_held else 0 end,
    -- What was expected and not used comes back to the minute; infinity stays what it is.
    next_token_at = case
      when k.tokens_per_minute is null or not p_was_active then s.next_token_at
      else s.next_token_at
        - make_interval(secs => greatest(
          60.0 * (p_tokens_held - p_tokens)::double precision / k.tokens_per_minute
          -- So much of what was taken has come back by itself since.
          - extract(epoch from clock_timestamp() - p_created_at),
          0
        ))
    end,
    period_credits = p_spent + case when s.period_start >= private.month_start(now()) then s.period_credits else 0 end,
    period_start = greatest(s.period_start, private.month_start(now())),
    total_tokens = s.total_tokens + p_tokens,
    total_credits = s.total_credits + p_spent
  from public.api_keys as k
  where s.api_key_id = p_api_key_id and k.id = p_api_key_id;
end
$$;

comment on function private.api_key_give_back(uuid, boolean, numeric, bigint, numeric, bigint, timestamptz) is
'The end of a hold for the key that asked for it: what it held comes back, what it spent counts. A key that is gone counts nothing.';

-- ---------------------------------------------------------------------------------------------------------------
-- For clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.refuse_api_key_value(p_constraint text) returns void
language plpgsql set search_path = ''
as $$
begin
  case p_constraint
    when 'name_has_1_to_100_characters' then
      perform private.fail(400, 'invalid_argument', 'A key''s name has 1 to 100 characters, and none around it.', '{"param": "name"}');
    when 'scopes_are_known' then
      perform private.fail(400, 'invalid_argument', 'Scopes are one or more of chat, agents, documents, images and libraries.', '{"param": "scopes"}');
    when 'limits_are_positive' then
      perform private.fail(400, 'invalid_argument', 'A limit of a key is a positive number, or null for none.', '{"param": "limits"}');
    when 'budget_is_a_sensible_number_of_credits' then
      perform private.fail(400, 'invalid_argument', 'The monthly budget is a number of credits from 0 on, or null for none.', '{"param": "monthly_credit_budget"}');
    else
      perform private.fail(400, 'invalid_argument', 'A value is not acceptable.');
  end case;
end
$$;

comment on function private.refuse_api_key_value(text) is 'Says which value of a key a constraint refused (400 invalid_argument).';

create function private.api_key_json(p_key public.api_keys) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select to_jsonb(p_key) || jsonb_build_object(
    'last_used_at', s.last_used_at, 'total_requests', s.total_requests, 'total_tokens', s.total_tokens,
    'total_credits', s.total_credits
  )
  from private.api_key_states as s
  where s.api_key_id = p_key.id
$$;

comment on function private.api_key_json(public.api_keys) is 'A key as its owner is answered.';

create function private.my_api_key(p_id uuid) returns public.api_keys
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_key public.api_keys;
begin
  select k.* into v_key
  from public.api_keys as k
  where k.id = p_id
    and (k.user_id = v_user_id or k.organization_id in (select private.my_admin_organization_ids()))
  for no key update;
  if v_key.id is null then
    perform private.fail(404, 'api_key_not_found', 'There is no such API key.');
  end if;
  return v_key;
end
$$;

comment on function private.my_api_key(uuid) is 'Locks a key of the caller, or of an organization they administer; 404 api_key_not_found.';

create function private.set_api_key_values(p_key public.api_keys, p_values jsonb) returns public.api_keys
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_fields constant text[] := array[
    'name', 'scopes', 'rate_limit_per_minute', 'rate_limit_per_day', 'rate_limit_per_month', 'tokens_per_minute',
    'max_concurrent_requests', 'monthly_credit_budget', 'expires_at'
  ];
  v_unknown text;
  v_key public.api_keys;
begin
  if jsonb_typeof(p_values) is distinct from 'object' then
    perform private.fail(400, 'invalid_argument', 'A JSON object with what is to change is required.', '{"param": "changes"}');
  end if;
  select f.name into v_unknown from jsonb_object_keys(p_values) as f (name) where f.name <> all (c_fields) limit 1;
  if v_unknown is not null then
    perform private.fail(400, 'invalid_argument', format('A key has no %s to set.', left(v_unknown, 60)),
      jsonb_build_object('param', left(v_unknown, 60)));
  end if;
  begin
    -- What is not named stays; what is named null is lifted.
    v_key := jsonb_populate_record(p_key, p_values);
  exception
    when data_exception then
      perform private.fail(400, 'invalid_argument', 'A value has the wrong type.', '{"param": "changes"}');
  end;
  if v_key.name is null or v_key.scopes is null then
    perform private.fail(400, 'invalid_argument', 'A key keeps a name and at least one scope.', '{"param": "changes"}');
  end if;
  if v_key.expires_at is distinct from p_key.expires_at and v_key.expires_at <= now() then
    perform private.fail(400, 'invalid_argument', 'A key expires in the future; revoke it to end it now.', '{"param": "expires_at"}');
  end if;
  v_key.scopes := array(select distinct u.scope from unnest(v_key.scopes) as u (scope) order by u.scope);
  return v_key;
end
$$;

comment on function private.set_api_key_values(public.api_keys, jsonb) is
'A key with values replaced, not yet stored; 400 invalid_argument for unknown members and wrong types.';

create function private.create_api_key(p_values jsonb, p_organization_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_key public.api_keys;
  v_secret text := private.new_api_key();
  v_plan record;
  v_constraint text;
begin
  if p_organization_id is not null then
    perform private.require_admin(v_user_id, p_organization_id::text);
    v_key.organization_id := p_organization_id;
  else
    v_key.user_id := v_user_id;
  end if;
  v_key.rate_limit_per_minute := 60;
  v_key.scopes := array['chat'];
  v_key := private.set_api_key_values(v_key, p_values);
  perform private.lock_payer(v_user_id, v_key.organization_id);
  v_plan := private.plan_of(v_key.user_id, v_key.organization_id);
  if not v_plan.has_api_access then
    perform private.fail(402, 'plan_limit_reached', 'The plan has no access by API key.', jsonb_build_object(
      'limit_source', 'plan.has_api_access', 'plan', v_plan.slug, 'required', 1, 'available', 0,
      'remedy', 'upgrade_plan'));
  end if;
  if (
    select count(*) >= private.setting('api_keys_per_owner')::integer
    from public.api_keys as k
    where (k.user_id = v_key.user_id or k.organization_id = v_key.organization_id)
      and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
  ) then
    perform private.fail(409, 'too_many_api_keys', 'There are too many API keys; revoke those that are not used.',
      jsonb_build_object('limit', private.setting('api_keys_per_owner')::integer));
  end if;
  begin
    insert into public.api_keys (
      user_id, organization_id, created_by, name, key_prefix, scopes, rate_limit_per_minute, rate_limit_per_day,
      rate_limit_per_month, tokens_per_minute, max_concurrent_requests, monthly_credit_budget, expires_at
    ) values (
      v_key.user_id, v_key.organization_id, v_user_id, v_key.name, left(v_secret, 12), v_key.scopes,
      v_key.rate_limit_per_minute, v_key.rate_limit_per_day, v_key.rate_limit_per_month, v_key.tokens_per_minute,
      v_key.max_concurrent_requests, v_key.monthly_credit_budget, v_key.expires_at
    )
    returning * into v_key;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_api_key_value(v_constraint);
  end;
  insert into private.api_key_hashes (key_hash, api_key_id) values (private.api_key_hash(v_secret), v_key.id);
  insert into private.api_key_states (api_key_id) values (v_key.id);
  return private.api_key_json(v_key) || jsonb_build_object('key', v_secret);
end
$$;

comment on function private.create_api_key(jsonb, uuid) is 'See public.create_api_key.';

create function private.update_api_key(p_id uuid, p_changes jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_before public.api_keys := private.my_api_key(p_id);
  v_key public.api_keys;
  v_constraint text;
begin
  if v_before.revoked_at is not null then
    perform private.fail(409, 'api_key_revoked', 'This API key was revoked.');
  end if;
  v_key := private.set_api_key_values(v_before, p_changes);
  begin
    update public.api_keys as k
    set name = v_key.name, scopes = v_key.scopes, rate_limit_per_minute = v_key.rate_limit_per_minute,
      rate_limit_per_day = v_key.rate_limit_per_day, rate_limit_per_month = v_key.rate_limit_per_month,
      tokens_per_minute = v_key.tokens_per_minute, max_concurrent_requests = v_key.max_concurrent_requests,
      monthly_credit_budget = v_key.monthly_credit_budget, expires_at = v_key.expires_at
    where k.id = p_id
    returning k.* into v_key;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_api_key_value(v_constraint);
  end;
  return private.api_key_json(v_key);
end
$$;

comment on function private.update_api_key(uuid, jsonb) is 'See public.update_api_key.';

create function private.rotate_api_key(p_id uuid, p_grace_seconds integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.api_keys := private.my_api_key(p_id);
  v_seconds integer := coalesce(p_grace_seconds, private.setting('api_key_grace_seconds')::integer);
  v_secret text := private.new_api_key();
begin
  if v_key.revoked_at is not null then
    perform private.fail(409, 'api_key_revoked', 'This API key was revoked.');
  end if;
  if v_seconds not between 0 and 2592000 then
    perform private.fail(400, 'invalid_argument', 'The grace of a rotation is 0 to 2,592,000 seconds.', '{"param": "grace_seconds"}');
  end if;
  -- Of secrets that were replaced before only the newest goes on.
  delete from private.api_key_hashes as h where h.api_key_id = p_id and (h.expires_at is not null or v_seconds = 0);
  update private.api_key_hashes as h
  set expires_at = now() + make_interval(secs => v_seconds)
  where h.api_key_id = p_id;
  insert into private.api_key_hashes (key_hash, api_key_id) values (private.api_key_hash(v_secret), p_id);
  update public.api_keys as k
  set key_prefix = left(v_secret, 12), rotated_at = now()
  where k.id = p_id
  returning k.* into v_key;
  return private.api_key_json(v_key) || jsonb_build_object(
    'key', v_secret, 'previous_key_expires_at', now() + make_interval(secs => v_seconds)
  );
end
$$;

comment on function private.rotate_api_key(uuid, integer) is 'See public.rotate_api_key.';

create function private.revoke_api_key(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.api_keys := private.my_api_key(p_id);
begin
  update public.api_keys as k
  set revoked_at = now()
  where k.id = p_id and k.revoked_at is null;
  select k.* into v_key from public.api_keys as k where k.id = p_id;
  return private.api_key_json(v_key);
end
$$;

comment on function private.revoke_api_key(uuid) is 'See public.revoke_api_key.';

create function private.api_key_usage(p_api_key_id uuid) returns private.api_key_states
language sql stable security definer set search_path = ''
as $$
  select s.*
  from private.api_key_states as s
  inner join public.api_keys as k on k.id = s.api_key_id
  where s.api_key_id = p_api_key_id
    and (k.user_id = private.active_user_id() or k.organization_id in (select private.my_admin_organization_ids()))
$$;

comment on function private.api_key_usage(uuid) is 'What a key of the caller, or of an organization they administer, has used; null for others.';

create function public.create_api_key(p_name text, p_values jsonb default '{}', p_organization_id uuid default null)
returns jsonb
language sql volatile security invoker set search_path = ''
as $$
  select private.create_api_key(
    case when jsonb_typeof(p_values) = 'object' then p_values || jsonb_build_object('name', p_name) else p_values end,
    p_organization_id
  )
$$;

comment on function public.create_api_key(text, jsonb, uuid) is
'Makes an API key of yours, or of an organization you administer. The answer''s "key" is shown this once. p_values: scopes (["chat"]), rate_limit_per_minute (60), rate_limit_per_day, rate_limit_per_month, tokens_per_minute, max_concurrent_requests, monthly_credit_budget, expires_at.';

create function public.update_api_key(p_id uuid, p_changes jsonb) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.update_api_key(p_id, p_changes) $$;

comment on function public.update_api_key(uuid, jsonb) is 'Changes a key''s name, scopes, limits, budget or expiry; null lifts a limit. Answers with the key.';

create function public.rotate_api_key(p_id uuid, p_grace_seconds integer default null) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.rotate_api_key(p_id, p_grace_seconds) $$;

comment on function public.rotate_api_key(uuid, integer) is 'Gives a key a new secret, shown this once; the old one goes on working for the grace (a day). Limits and totals go on.';

create function public.revoke_api_key(p_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.revoke_api_key(p_id) $$;

comment on function public.revoke_api_key(uuid) is 'Ends a key at once and for good.';

create function public.last_used_at(p_key public.api_keys) returns timestamptz
language sql stable security invoker set search_path = ''
as $$ select (private.api_key_usage(p_key.id)).last_used_at $$;

comment on function public.last_used_at(public.api_keys) is 'Computed field: when the key''s last request was accepted.';

create function public.total_requests(p_key public.api_keys) returns bigint
language sql stable security invoker set search_path = ''
as $$ select (private.api_key_usage(p_key.id)).total_requests $$;

comment on function public.total_requests(public.api_keys) is 'Computed field: requests of the key that were accepted, ever.';

create function public.total_tokens(p_key public.api_keys) returns bigint
language sql stable security invoker set search_path = ''
as $$ select (private.api_key_usage(p_key.id)).total_tokens $$;

comment on function public.total_tokens(public.api_keys) is 'Computed field: tokens the key has used, ever.';

create function public.total_credits(p_key public.api_keys) returns numeric
language sql stable security invoker set search_path = ''
as $$ select (private.api_key_usage(p_key.id)).total_credits $$;

comment on function public.total_credits(public.api_keys) is 'Computed field: credits the key has spent, ever.';

grant execute on function
private.create_api_key(jsonb, uuid),
private.update_api_key(uuid, jsonb),
private.rotate_api_key(uuid, integer),
private.revoke_api_key(uuid),
private.api_key_usage(uuid),
public.create_api_key(text, jsonb, uuid),
public.update_api_key(uuid, jsonb),
public.rotate_api_key(uuid, integer),
public.revoke_api_key(uuid),
public.last_used_at(public.api_keys),
public.total_requests(public.api_keys),
public.total_tokens(public.api_keys),
public.total_credits(public.api_keys)
to authenticated;
