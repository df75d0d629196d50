-- Provider keys: what customers bring for providers of models, and every use that was made of them.
--
--   provider_keys                  whose, for whom, how it is called; its owner reads this
--   private.provider_key_secrets   the sealed secret: nobody reads it, not even its owner
--   provider_key_uses              who used which key for what, and what became of it
--
-- The database never sees a secret: functions/provider_keys/vault.py seals it before it comes here and opens it where
-- a provider is called. Who pays for a request is who brings the key for it: a person their own, an organization its.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
('provider_keys_per_owner', '100', 'Most provider keys that a person or an organization may have.'),
(
  'byok_fee_percent',
  '0',
  'Per cent of the catalog''s price that is charged in credits where the customer''s own key pays the provider.'
),
(
  'provider_key_checks_per_minute',
  '20',
  'Keys that a person may have checked with a provider per minute, so that nobody tries out keys they found.'
),
('provider_key_use_days', '400', 'Days that the record of a use of a provider key is kept.'),
('provider_key_idle_days', '7', 'Days after which a key that was neither used nor checked is checked again.');

create table public.provider_keys (
  id uuid primary key,
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  created_by uuid references public.profiles (id) on delete set null,
  provider_id uuid not null references public.model_providers (id),
  name text not null,
  last_four text not null,
  priority integer not null default 100,
  base_url text,
  models text[] not null default '{}',
  is_enabled boolean not null default true,
  is_valid boolean,
  invalid_reason text,
  secret_version integer not null default 1,
  last_validated_at timestamptz,
  last_used_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_key_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint name_has_1_to_100_characters check (char_length(name) between 1 and 100 and name = btrim(name)),
  constraint last_four_are_four_at_most check (char_length(last_four) <= 4),
  constraint priority_is_between_0_and_1000 check (priority between 0 and 1000),
  constraint base_url_is_https check (base_url ~ '^https://\S+$' and char_length(base_url) <= 2048),
  constraint models_are_at_most_500 check (cardinality(models) <= 500),
  constraint only_an_invalid_key_has_a_reason check ((is_valid is false) = (invalid_reason is not null)),
  constraint invalid_reason_is_known check (invalid_reason in ('rejected', 'quota_exceeded')),
  constraint secret_version_is_positive check (secret_version > 0)
);

comment on table public.provider_keys is 'Keys for providers that customers brought, without their secrets.';
comment on column public.provider_keys.id is 'Identifies the key; chosen before its secret is sealed, because it is sealed for this row.';
comment on column public.provider_keys.user_id is 'The person it belongs to; null for an organization''s.';
comment on column public.provider_keys.organization_id is 'The organization it belongs to; null for a person''s.';
comment on column public.provider_keys.created_by is 'Who brought it; null once erased.';
comment on column public.provider_keys.provider_id is 'Whose key it is.';
comment on column public.provider_keys.name is 'What its owner calls it.';
comment on column public.provider_keys.last_four is 'The last four characters of its secret; fewer of a short one.';
comment on column public.provider_keys.priority is 'Which of several keys for a provider is tried first: the lowest.';
comment on column public.provider_keys.base_url is 'Where the customer''s own server is; only for providers without an address of their own.';
comment on column public.provider_keys.models is 'Models that the customer''s own server said it serves.';
comment on column public.provider_keys.is_enabled is 'False: its owner has it rest.';
comment on column public.provider_keys.is_valid is 'Whether the provider took it when it was last asked; null while it never was.';
comment on column public.provider_keys.invalid_reason is 'Why not: rejected, or quota_exceeded.';
comment on column public.provider_keys.secret_version is 'Rises when the secret is replaced, so that what is found out about the old one says nothing of the new.';
comment on column public.provider_keys.last_validated_at is 'When the provider was last asked about it.';
comment on column public.provider_keys.last_used_at is 'When it was last used, to the minute.';
comment on column public.provider_keys.created_at is 'When it was added.';
comment on column public.provider_keys.updated_at is 'When anything in the row last changed.';

create index provider_keys_by_user on public.provider_keys (user_id, provider_id) where user_id is not null;
create index provider_keys_by_organization
on public.provider_keys (organization_id, provider_id) where organization_id is not null;
create index provider_keys_by_provider on public.provider_keys (provider_id);
create index provider_keys_by_author on public.provider_keys (created_by) where created_by is not null;

create table private.provider_key_secrets (
  provider_key_id uuid primary key references public.provider_keys (id) on delete cascade,
  kid text not null,
  wrapped_key bytea not null,
  nonce bytea not null,
  ciphertext bytea not null,
  sealed_at timestamptz not null default now(),
  wrapped_at timestamptz not null default now(),
  constraint kid_has_1_to_100_characters check (char_length(kid) between 1 and 100),
  constraint nonce_is_96_bits check (octet_length(nonce) = 12),
  constraint ciphertext_is_small check (octet_length(ciphertext) between 17 and 17000),
  constraint wrapped_key_is_small check (octet_length(wrapped_key) between 32 and 4096)
);

comment on table private.provider_key_secrets is 'Sealed secrets of provider keys: AES-256-GCM under a data key of the row''s own.';
comment on column private.provider_key_secrets.provider_key_id is 'Whose secret it is; bound into the ciphertext.';
comment on column private.provider_key_secrets.kid is 'Which master key wrapped the data key.';
comment on column private.provider_key_secrets.wrapped_key is 'The data key, wrapped.';
comment on column private.provider_key_secrets.nonce is 'The nonce of the ciphertext, 12 bytes.';
comment on column private.provider_key_secrets.ciphertext is 'The sealed secret with its tag.';
comment on column private.provider_key_secrets.sealed_at is 'When the secret was sealed.';
comment on column private.provider_key_secrets.wrapped_at is 'When its data key was last wrapped.';

-- A rotation goes through what is left of the old master keys, in the order of ids.
create index provider_key_secrets_by_master_key on private.provider_key_secrets (kid, provider_key_id);

create table public.provider_key_uses (
  id uuid primary key default private.uuid7(),
  provider_key_id uuid not null,
  owner_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  user_id uuid references public.profiles (id) on delete set null,
  api_key_id uuid,
  provider text not null,
  action text not null,
  model_id text,
  request_id uuid,
  outcome text not null,
  error_code text,
  created_at timestamptz not null default now(),
  constraint a_key_has_one_owner check (num_nonnulls(owner_id, organization_id) = 1),
  constraint action_is_known check (action in ('chat', 'embedding', 'image', 'validation')),
  constraint outcome_is_known check (
    outcome in ('completed', 'cancelled', 'rejected', 'quota_exceeded', 'rate_limited', 'failed', 'unknown')
  )
);

comment on table public.provider_key_uses is 'Every use of a provider key. Written by functions, read by the key''s owner.';
comment on column public.provider_key_uses.id is 'Identifies the use.';
comment on column public.provider_key_uses.provider_key_id is 'The key. No foreign key: the record outlives it.';
comment on column public.provider_key_uses.owner_id is 'The person the key belongs to; null for an organization''s.';
comment on column public.provider_key_uses.organization_id is 'The organization the key belongs to; null for a person''s.';
comment on column public.provider_key_uses.user_id is 'Who used it; null for an organization''s API key, for the check of an idle key, and once erased.';
comment on column public.provider_key_uses.api_key_id is 'The API key they came by; null for a person who is signed in.';
comment on column public.provider_key_uses.provider is 'Slug of the provider it was shown to.';
comment on column public.provider_key_uses.action is 'What for: chat, embedding, image or validation.';
comment on column public.provider_key_uses.model_id is 'The model that was asked; null for a validation.';
comment on column public.provider_key_uses.request_id is 'The request: the id of its row in usage_logs; null for a validation.';
comment on column public.provider_key_uses.outcome is 'What became of it: completed, cancelled, rejected, quota_exceeded, rate_limited, failed, or unknown where the process that used it was lost.';
comment on column public.provider_key_uses.error_code is 'The error that the caller was told, if any.';
comment on column public.provider_key_uses.created_at is 'When it was recorded.';

create index provider_key_uses_by_key on public.provider_key_uses (provider_key_id, created_at desc);
create index provider_key_uses_by_owner
on public.provider_key_uses (owner_id, created_at desc) where owner_id is not null;
create index provider_key_uses_by_organization
on public.provider_key_uses (organization_id, created_at desc) where organization_id is not null;
create index provider_key_uses_by_user on public.provider_key_uses (user_id) where user_id is not null;
create index provider_key_uses_by_age on public.provider_key_uses (created_at);

create unlogged table private.provider_key_rates (
  user_id uuid primary key references public.profiles (id) on delete cascade,
  next_at timestamptz not null
);

comment on table private.provider_key_rates is 'How far each person is into the limit of checks of keys. Unlogged: after a crash of the database everybody begins anew.';
comment on column private.provider_key_rates.user_id is 'Who asks, for themselves or for an organization.';
comment on column private.provider_key_rates.next_at is 'When what was used will have been given back (private.gcra).';

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.provider_keys, public.provider_key_uses to authenticated, service_role;
grant update (name, priority, is_enabled), delete on public.provider_keys to authenticated;

alter table public.provider_keys enable row level security;
alter table private.provider_key_secrets enable row level security;
alter table private.provider_key_rates enable row level security;
alter table public.provider_key_uses enable row level security;

create policy "Users read their own provider keys, members those of their organizations"
on public.provider_keys for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_organization_ids())
);

create policy "Owners read the uses of their keys, admins those of their organizations, users their own"
on public.provider_key_uses for select to authenticated
using (
  owner_id = (select private.active_user_id())
  or user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Users change their own provider keys, admins those of their organizations"
on public.provider_keys for update to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
)
with check (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Users delete their own provider keys, admins those of their organizations"
on public.provider_keys for delete to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create trigger provider_keys_touch_updated_at
before update on public.provider_keys
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- What a request may use, and what it has used
-- ---------------------------------------------------------------------------------------------------------------

create function private.sealed_provider_key(p_key public.provider_keys, p_provider text) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_key.id,
    'owner', case when p_key.user_id is not null then 'user' else 'organization' end,
    'owner_id', coalesce(p_key.user_id, p_key.organization_id),
    'provider', p_provider,
    'base_url', p_key.base_url,
    'secret_version', p_key.secret_version,
    'kid', s.kid,
    'wrapped_key', translate(encode(s.wrapped_key, 'base64'), E'\n', ''),
    'nonce', translate(encode(s.nonce, 'base64'), E'\n', ''),
    'ciphertext', translate(encode(s.ciphertext, 'base64'), E'\n', '')
  )
  from private.provider_key_secrets as s
  where s.provider_key_id = p_key.id
$$;

comment on function private.sealed_provider_key(public.provider_keys, text) is 'A key as the vault opens it: where it belongs, and its sealed secret in base64.';

create function private.own_provider_keys(
  p_user_id uuid, p_organization_id uuid, p_provider_id uuid, p_provider text, p_upstream_model text
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_tried constant integer := 5;
  v_key public.provider_keys;
  v_keys jsonb := '[]';
  v_is_known boolean := false;
begin
  for v_key in
    select k.*
    from public.provider_keys as k
    where k.provider_id = p_provider_id and k.is_enabled
      -- Who pays for the request brings the key for it.
      and (
        (p_organization_id is not null and k.organization_id = p_organization_id)
        or (p_organization_id is null and k.user_id = p_user_id)
      )
    -- One without quota is tried after the others: a payment at the provider mends it.
    order by k.is_valid is false, k.priority, k.created_at, k.id
  loop
    v_is_known := true;
    -- A server that said which models it has is asked for no others.
    if v_key.invalid_reason is distinct from 'rejected' and jsonb_array_length(v_keys) < c_tried and (
      v_key.base_url is null or v_key.models = '{}' or p_upstream_model = any (v_key.models)
    ) then
      v_keys := v_keys || private.sealed_provider_key(v_key, p_provider);
    end if;
  end loop;
  return case when v_is_known then v_keys end;
end
$$;

comment on function private.own_provider_keys(uuid, uuid, uuid, text, text) is
'The sealed keys that whoever pays (an organization, else a person) has for a provider, in the order in which they are tried, five at most; empty where every one was rejected, null where there is none.';

create function private.provider_key_found_invalid(p_key public.provider_keys, p_reason text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.provider_keys as k
  set is_valid = false, invalid_reason = p_reason, last_validated_at = now()
  where k.id = p_key.id and k.secret_version = p_key.secret_version;
  if found then
    -- Once for a secret; of an empty quota, which may come back, once a month.
    perform private.raise_alert(
      p_key.user_id, p_key.organization_id, 'provider_key_invalid',
      concat_ws(
        ' ', p_key.id, p_key.secret_version, p_reason,
        case p_reason when 'quota_exceeded' then to_char(now() at time zone 'utc', 'YYYY-MM') end
      ),
      null, null,
      jsonb_build_object(
        'provider_key_id', p_key.id, 'last_four', p_key.last_four, 'reason', p_reason,
        'provider', (select mp.name from public.model_providers as mp where mp.id = p_key.provider_id)
      )
    );
  end if;
end
$$;

comment on function private.provider_key_found_invalid(public.provider_keys, text) is
'Marks a key that its provider refused (rejected, quota_exceeded) as invalid, unless its secret was replaced since, and tells its owner once.';

create function private.note_provider_key_uses(p_hold private.credit_holds, p_usage jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_uses jsonb := case
    when jsonb_typeof(p_usage -> 'provider_key_uses') = 'array' then p_usage -> 'provider_key_uses'
    -- Whoever had the key was lost, and cannot say whether it was used.
    when p_usage ->> 'status' = 'expired' then jsonb_build_array(jsonb_build_object(
      'id', p_hold.terms ->> 'own_key_id', 'model', p_hold.terms ->> 'model_id', 'outcome', 'unknown'
    ))
    else '[]'
  end;
  v_use jsonb;
  v_key public.provider_keys;
begin
  for v_use in
    select u.value from jsonb_array_elements(v_uses) with ordinality as u (value, place) order by u.place
  loop
    -- Those of the account alone, whatever ids were handed in.
    select k.* into v_key
    from public.provider_keys as k
    inner join public.credit_accounts as a
      on k.user_id is not distinct from a.user_id and k.organization_id is not distinct from a.organization_id
    where k.id = (v_use ->> 'id')::uuid and a.id = p_hold.account_id;
    continue when v_key.id is null;
    insert into public.provider_key_uses (
      provider_key_id, owner_id, organization_id, user_id, api_key_id, provider, action, model_id, request_id, outcome,
      error_code
    )
    select
      v_key.id, v_key.user_id, v_key.organization_id, p_hold.user_id, p_hold.api_key_id, mp.slug, p_hold.action,
      v_use ->> 'model', p_hold.id, v_use ->> 'outcome', v_use ->> 'error_code'
    from public.model_providers as mp
    where mp.id = v_key.provider_id;
    -- Not with every request: a shared key would be the row that all of them wait for.
    update public.provider_keys as k
    set last_used_at = now()
    where k.id = v_key.id and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute');
    if v_use ->> 'outcome' in ('rejected', 'quota_exceeded')
      and (v_use ->> 'secret_version')::integer = v_key.secret_version then
      perform private.provider_key_found_invalid(v_key, v_use ->> 'outcome');
    elsif v_use ->> 'outcome' = 'completed' and v_key.is_valid is not true
      and (v_use ->> 'secret_version')::integer = v_key.secret_version then
      update public.provider_keys as k
      set is_valid = true, invalid_reason = null, last_validated_at = now()
      where k.id = v_key.id;
    end if;
  end loop;
end
$$;

comment on function private.note_provider_key_uses(private.credit_holds, jsonb) is
'Records what a request has done with own keys: one row for each use, and what that says of the key.';

-- ---------------------------------------------------------------------------------------------------------------
-- Managing keys: signed-in people, for themselves or for organizations they administer
-- ---------------------------------------------------------------------------------------------------------------

create function private.provider_key_json(p_key public.provider_keys) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_key.id,
    'user_id', p_key.user_id,
    'organization_id', p_key.organization_id,
    'created_by', p_key.created_by,
    'provider', mp.slug,
    'name', p_key.name,
    'last_four', p_key.last_four,
    'priority', p_key.priority,
    'base_url', p_key.base_url,
    'models', p_key.models,
    'is_enabled', p_key.is_enabled,
    'is_valid', p_key.is_valid,
    'invalid_reason', p_key.invalid_reason,
    'secret_version', p_key.secret_version,
    'last_validated_at', p_key.last_validated_at,
    'last_used_at', p_key.last_used_at,
    'created_at', p_key.created_at,
    'updated_at', p_key.updated_at
  )
  from public.model_providers as mp
  where mp.id = p_key.provider_id
$$;

comment on function private.provider_key_json(public.provider_keys) is 'A key as its owner sees it: masked.';

create function private.seen_provider_key(p_user_id uuid, p_id uuid, p_manages boolean) returns public.provider_keys
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys;
  v_role text;
begin
  if not exists (select from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  select k.* into v_key from public.provider_keys as k where k.id = p_id;
  if v_key.organization_id is not null then
    select m.role into v_role
    from public.organization_members as m
    inner join public.organizations as o on o.id = m.organization_id and o.is_active
    where m.organization_id = v_key.organization_id and m.user_id = p_user_id;
    if v_role is not null and p_manages and v_role not in ('owner', 'admin') then
      perform private.fail(403, 'not_an_admin', 'Only admins of the organization may do this.');
    end if;
  elsif v_key.user_id = p_user_id then
    v_role := 'owner';
  end if;
  if v_role is null then
    perform private.fail(404, 'provider_key_not_found', 'There is no such provider key.');
  end if;
  return v_key;
end
$$;

comment on function private.seen_provider_key(uuid, uuid, boolean) is
'A key that the person owns, or that is of an organization of theirs; to manage it, one they administer. 404 provider_key_not_found, 403 not_an_admin.';

create function private.take_provider_key_check(p_user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_next_at timestamptz;
  v_rate record;
begin
  insert into private.provider_key_rates (user_id, next_at) values (p_user_id, now()) on conflict do nothing;
  select r.next_at into strict v_next_at from private.provider_key_rates as r where r.user_id = p_user_id for update;
  v_rate := private.gcra(
    v_next_at, clock_timestamp(), private.setting('provider_key_checks_per_minute')::integer, interval '1 minute', 1
  );
  if v_rate.retry_after is not null then
    perform private.fail(429, 'rate_limited', 'Too many keys were checked; wait a little.', jsonb_build_object(
      'limit_source', 'provider_key_checks_per_minute', 'retry_after', ceil(v_rate.retry_after)));
  end if;
  update private.provider_key_rates as r set next_at = v_rate.next_at where r.user_id = p_user_id;
end
$$;

comment on function private.take_provider_key_check(uuid) is 'Counts a check of a key; 429 rate_limited beyond provider_key_checks_per_minute.';

create function private.provider_of_keys(p_slug text, p_base_url text) returns public.model_providers
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_provider public.model_providers;
begin
  select mp.* into v_provider from public.model_providers as mp where mp.slug = p_slug and mp.is_active;
  if v_provider.id is null or p_slug = 'quernel' then
    perform private.fail(404, 'provider_not_found', 'There is no such provider that takes keys of your own.',
      '{"param": "provider"}');
  elsif p_slug = 'openai-compatible' and p_base_url is null then
    perform private.fail(400, 'base_url_required', 'Say where your server is.', '{"param": "base_url"}');
  elsif p_slug <> 'openai-compatible' and p_base_url is not null then
    perform private.fail(400, 'base_url_not_allowed', 'The address of this provider is known; no other is called with its keys.',
      '{"param": "base_url"}');
  end if;
  return v_provider;
end
$$;

comment on function private.provider_of_keys(text, text) is
'A provider that takes keys of customers; 404 provider_not_found, 400 base_url_required or base_url_not_allowed.';

create function backend.provider_key_prepare(
  p_user_id uuid, p_provider text, p_base_url text default null, p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_organization_id uuid;
begin
  if p_organization is not null then
    v_organization_id := private.require_admin(p_user_id, p_organization);
  elsif not exists (select from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  perform private.provider_of_keys(p_provider, p_base_url);
  perform private.take_provider_key_check(p_user_id);
  return jsonb_build_object(
    'owner', case when v_organization_id is null then 'user' else 'organization' end,
    'owner_id', coalesce(v_organization_id, p_user_id)
  );
end
$$;

comment on function backend.provider_key_prepare(uuid, text, text, text) is
'Before a new key is checked and sealed: whether the person may bring one, and whose it will be. Counts the check. 403 account_suspended, not_a_member, not_an_admin; 404 provider_not_found; 400 base_url_required, base_url_not_allowed; 429 rate_limited.';

create function private.keep_provider_secret(p_key_id uuid, p_sealed jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into private.provider_key_secrets as s (provider_key_id, kid, wrapped_key, nonce, ciphertext)
  values (
    p_key_id, p_sealed ->> 'kid', decode(p_sealed ->> 'wrapped_key', 'base64'), decode(p_sealed ->> 'nonce', 'base64'),
    decode(p_sealed ->> 'ciphertext', 'base64')
  )
  on conflict (provider_key_id) do update
  set kid = excluded.kid, wrapped_key = excluded.wrapped_key, nonce = excluded.nonce,
    ciphertext = excluded.ciphertext, sealed_at = now(), wrapped_at = now();
end
$$;

comment on function private.keep_provider_secret(uuid, jsonb) is 'Stores the sealed secret of a key in place of an earlier one.';

create function private.note_provider_key_check(
  p_key public.provider_keys, p_user_id uuid, p_outcome text, p_error_code text
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.provider_key_uses (
    provider_key_id, owner_id, organization_id, user_id, provider, action, outcome, error_code
  )
  select p_key.id, p_key.user_id, p_key.organization_id, p_user_id, mp.slug, 'validation', p_outcome, p_error_code
  from public.model_providers as mp
  where mp.id = p_key.provider_id;
end
$$;

comment on function private.note_provider_key_check(public.provider_keys, uuid, text, text) is 'Records that a provider was asked about a key.';

create function private.refuse_provider_key_value(p_constraint text) returns void
language plpgsql set search_path = ''
as $$
begin
  case p_constraint
    when 'name_has_1_to_100_characters' then
      perform private.fail(400, 'invalid_argument', 'A name has 1 to 100 characters, and no spaces around it.', '{"param": "name"}');
    when 'priority_is_between_0_and_1000' then
      perform private.fail(400, 'invalid_argument', 'A priority is a number from 0 to 1,000; the lowest comes first.', '{"param": "priority"}');
    when 'base_url_is_https' then
      perform private.fail(400, 'invalid_argument', 'The address of a server is an https URL.', '{"param": "base_url"}');
    else
      perform private.fail(400, 'invalid_argument', 'A value is not acceptable.');
  end case;
end
$$;

comment on function private.refuse_provider_key_value(text) is 'Says which value of a provider key a constraint refused (400 invalid_argument).';

create function backend.provider_key_add(
  p_user_id uuid,
  p_id uuid,
  p_provider text,
  p_name text,
  p_last_four text,
  p_sealed jsonb,
  p_outcome text,
  p_error_code text default null,
  p_priority integer default 100,
  p_base_url text default null,
  p_models text[] default '{}',
  p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_provider public.model_providers := private.provider_of_keys(p_provider, p_base_url);
  v_organization_id uuid;
  v_is_active boolean;
  v_count integer;
  v_key public.provider_keys;
  v_constraint text;
begin
  -- The owner's row is locked, so that two requests do not both find the last place free.
  if p_organization is not null then
    v_organization_id := private.require_admin(p_user_id, p_organization);
    perform o.id from public.organizations as o where o.id = v_organization_id for no key update;
    perform private.require_admin(p_user_id, p_organization);
  else
    select p.is_active into v_is_active from public.profiles as p where p.id = p_user_id for no key update;
    if v_is_active is not true then
      perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
    end if;
  end if;
  -- The same call again, because the answer to the first was lost on the way.
  select k.* into v_key
  from public.provider_keys as k
  where k.id = p_id and k.created_by = p_user_id
    and (v_organization_id is null and k.user_id = p_user_id or k.organization_id = v_organization_id);
  if v_key.id is not null then
    return private.provider_key_json(v_key);
  end if;
  select count(*) into v_count
  from public.provider_keys as k
  where (v_organization_id is null and k.user_id = p_user_id) or k.organization_id = v_organization_id;
  if v_count >= private.setting('provider_keys_per_owner')::integer then
    perform private.fail(409, 'provider_key_limit_reached', 'There are as many provider keys as there may be; delete one first.',
      jsonb_build_object('limit', private.setting('provider_keys_per_owner')::integer));
  end if;
  begin
    insert into public.provider_keys (
      id, user_id, organization_id, created_by, provider_id, name, last_four, priority, base_url, models, is_valid,
      last_validated_at
    ) values (
      p_id, case when v_organization_id is null then p_user_id end, v_organization_id, p_user_id, v_provider.id,
      coalesce(p_name, v_provider.name), p_last_four, coalesce(p_priority, 100), p_base_url, coalesce(p_models, '{}'),
      case when p_outcome in ('completed', 'rate_limited') then true end,
      case when p_outcome in ('completed', 'rate_limited', 'quota_exceeded') then now() end
    )
    returning * into v_key;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_provider_key_value(v_constraint);
    when unique_violation then
      perform private.fail(409, 'idempotency_conflict', 'This id is already used.');
  end;
  perform private.keep_provider_secret(v_key.id, p_sealed);
  perform private.note_provider_key_check(v_key, p_user_id, p_outcome, p_error_code);
  if p_outcome = 'quota_exceeded' then
    -- Their own to see in the answer; nobody needs to be told beside.
    update public.provider_keys as k
    set is_valid = false, invalid_reason = 'quota_exceeded'
    where k.id = v_key.id
    returning k.* into v_key;
  end if;
  return private.provider_key_json(v_key);
end
$$;

comment on function backend.provider_key_add(
  uuid, uuid, text, text, text, jsonb, text, text, integer, text, text[], text
) is 'Stores a key that was checked and sealed, for the person or for an organization they administer. The same id again: the same key. As provider_key_prepare, and 409 provider_key_limit_reached.';

create function backend.provider_key_list(
  p_user_id uuid, p_organization text default null, p_provider text default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_organization_id uuid;
begin
  if p_organization is not null then
    v_organization_id := private.require_member(p_user_id, p_organization);
  elsif not exists (select from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return (
    select coalesce(jsonb_agg(private.provider_key_json(k) order by mp.slug, k.priority, k.created_at, k.id), '[]')
    from public.provider_keys as k
    inner join public.model_providers as mp on mp.id = k.provider_id
    where (
      (v_organization_id is null and k.user_id = p_user_id)
      or (v_organization_id is not null and k.organization_id = v_organization_id)
    ) and (p_provider is null or mp.slug = p_provider)
  );
end
$$;

comment on function backend.provider_key_list(uuid, text, text) is
'The person''s keys, or those of an organization they belong to, masked, in the order in which they are tried.';

create function backend.provider_key_read(p_user_id uuid, p_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.provider_key_json(private.seen_provider_key(p_user_id, p_id, false)) $$;

comment on function backend.provider_key_read(uuid, uuid) is 'One key, masked; 404 provider_key_not_found.';

create function backend.provider_key_update(p_user_id uuid, p_id uuid, p_changes jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys := private.seen_provider_key(p_user_id, p_id, true);
  v_constraint text;
begin
  if jsonb_typeof(p_changes) is distinct from 'object'
    or exists (select from jsonb_object_keys(p_changes) as c (name) where c.name not in ('name', 'priority', 'is_enabled'))
    or exists (select from jsonb_each(p_changes) as c where c.value = 'null') then
    perform private.fail(400, 'invalid_argument', 'name, priority and is_enabled can be changed, and none of them is null.');
  end if;
  begin
    update public.provider_keys as k
    set name = coalesce(p_changes ->> 'name', k.name),
      priority = coalesce((p_changes ->> 'priority')::integer, k.priority),
      is_enabled = coalesce((p_changes ->> 'is_enabled')::boolean, k.is_enabled)
    where k.id = v_key.id
    returning k.* into v_key;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_provider_key_value(v_constraint);
    when data_exception then
      perform private.fail(400, 'invalid_argument', 'A value has the wrong type.');
  end;
  if v_key.id is null then
    perform private.fail(404, 'provider_key_not_found', 'There is no such provider key.');
  end if;
  return private.provider_key_json(v_key);
end
$$;

comment on function backend.provider_key_update(uuid, uuid, jsonb) is 'Renames a key, moves it in the order, has it rest or wakes it.';

create function backend.provider_key_check(p_user_id uuid, p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys := private.seen_provider_key(p_user_id, p_id, true);
begin
  perform private.take_provider_key_check(p_user_id);
  return (
    select private.sealed_provider_key(v_key, mp.slug)
    from public.model_providers as mp where mp.id = v_key.provider_id
  );
end
$$;

comment on function backend.provider_key_check(uuid, uuid) is
'A key''s sealed secret, for whoever manages the key to have it checked or replaced; functions/ opens it, and it goes nowhere else. Counts the check.';

create function backend.provider_key_idle(p_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select private.sealed_provider_key(k, mp.slug)
  from public.provider_keys as k
  inner join public.model_providers as mp on mp.id = k.provider_id
  where k.id = p_id and k.is_enabled and mp.is_active
$$;

comment on function backend.provider_key_idle(uuid) is 'A key''s sealed secret, for the worker that has an idle key checked; null where there is nothing to check any more.';

create function backend.provider_key_checked(
  p_id uuid,
  p_secret_version integer,
  p_outcome text,
  p_error_code text default null,
  p_models text[] default null,
  p_user_id uuid default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys;
begin
  select k.* into v_key from public.provider_keys as k where k.id = p_id for no key update;
  if v_key.id is null then
    perform private.fail(404, 'provider_key_not_found', 'There is no such provider key.');
  end if;
  perform private.note_provider_key_check(v_key, p_user_id, p_outcome, p_error_code);
  -- What was found out about an older secret says nothing of this one.
  if v_key.secret_version = p_secret_version and p_outcome in ('completed', 'rate_limited') then
    update public.provider_keys as k
    set is_valid = true, invalid_reason = null, last_validated_at = now(),
      models = case when k.base_url is not null then coalesce(p_models, k.models) else k.models end
    where k.id = p_id;
  elsif v_key.secret_version = p_secret_version and p_outcome in ('rejected', 'quota_exceeded') then
    perform private.provider_key_found_invalid(v_key, p_outcome);
  end if;
  select k.* into v_key from public.provider_keys as k where k.id = p_id;
  return private.provider_key_json(v_key);
end
$$;

comment on function backend.provider_key_checked(uuid, integer, text, text, text[], uuid) is
'What a provider said of a key: records it, marks the key, and tells the owner of one that is not accepted; nothing of a secret that was replaced meanwhile.';

create function backend.provider_key_replace(
  p_user_id uuid,
  p_id uuid,
  p_secret_version integer,
  p_last_four text,
  p_sealed jsonb,
  p_outcome text,
  p_error_code text default null,
  p_base_url text default null,
  p_models text[] default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys := private.seen_provider_key(p_user_id, p_id, true);
  v_constraint text;
begin
  perform private.provider_of_keys(
    (select mp.slug from public.model_providers as mp where mp.id = v_key.provider_id), p_base_url
  );
  begin
    update public.provider_keys as k
    set secret_version = k.secret_version + 1, last_four = p_last_four, base_url = p_base_url,
      models = coalesce(p_models, '{}'),
      is_valid = case
        when p_outcome in ('completed', 'rate_limited') then true when p_outcome = 'quota_exceeded' then false
      end,
      invalid_reason = case when p_outcome = 'quota_exceeded' then p_outcome end,
      last_validated_at = case when p_outcome <> 'failed' then now() end
    where k.id = p_id and k.secret_version = p_secret_version
    returning k.* into v_key;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_provider_key_value(v_constraint);
  end;
  if not found then
    perform private.fail(409, 'provider_key_changed', 'The key was replaced or deleted meanwhile.');
  end if;
  perform private.keep_provider_secret(p_id, p_sealed);
  perform private.note_provider_key_check(v_key, p_user_id, p_outcome, p_error_code);
  return private.provider_key_json(v_key);
end
$$;

comment on function backend.provider_key_replace(
  uuid, uuid, integer, text, jsonb, text, text, text, text[]
) is 'A new secret in the place of a key''s old one, which is gone; 409 provider_key_changed where somebody else was first.';

create function backend.provider_key_delete(p_user_id uuid, p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_key public.provider_keys := private.seen_provider_key(p_user_id, p_id, true);
begin
  delete from public.provider_keys as k where k.id = v_key.id;
  return jsonb_build_object('id', p_id, 'deleted', true);
end
$$;

comment on function backend.provider_key_delete(uuid, uuid) is 'Deletes a key with its secret; what it was used for stays recorded.';

create function backend.provider_key_uses(
  p_user_id uuid, p_id uuid default null, p_organization text default null, p_limit integer default 50,
  p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit integer := private.page_limit(p_limit, 100);
  v_organization_id uuid;
  v_is_active boolean;
begin
  if p_organization is not null then
    v_organization_id := private.require_admin(p_user_id, p_organization);
  else
    select p.is_active into v_is_active from public.profiles as p where p.id = p_user_id;
    if v_is_active is not true then
      perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
    end if;
  end if;
  return (
    select jsonb_build_object(
      'uses', coalesce(jsonb_agg(f.use order by f.id desc) filter (where f.place <= v_limit), '[]'),
      'next', (array_agg(f.id) filter (where f.place = v_limit and f.count > v_limit))[1]
    )
    from (
      select u.id, to_jsonb(u) as use, row_number() over (order by u.id desc) as place, count(*) over () as count
      from (
        select e.*
        from public.provider_key_uses as e
        where (
          (v_organization_id is null and e.owner_id = p_user_id)
          or (v_organization_id is not null and e.organization_id = v_organization_id)
        ) and (p_id is null or e.provider_key_id = p_id) and (p_after is null or e.id < p_after)
        order by e.id desc
        limit v_limit + 1
      ) as u
    ) as f
  );
end
$$;

comment on function backend.provider_key_uses(uuid, uuid, text, integer, uuid) is
'What the person''s keys, or those of an organization they administer, were used for, newest first; of one key (p_id) or of all, deleted ones too: {uses, next}.';

-- ---------------------------------------------------------------------------------------------------------------
-- Cron
-- ---------------------------------------------------------------------------------------------------------------

create function backend.provider_keys_revalidate(p_limit integer default 200) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_idle interval := make_interval(days => private.setting('provider_key_idle_days')::integer);
  v_key_id uuid;
  v_count integer := 0;
begin
  for v_key_id in
    select k.id
    from public.provider_keys as k
    inner join public.model_providers as mp on mp.id = k.provider_id and mp.is_active
    where k.is_enabled and k.invalid_reason is distinct from 'rejected'
      and coalesce(greatest(k.last_validated_at, k.last_used_at), k.created_at) < now() - v_idle
      and not exists (
        select from private.tasks as t
        where t.kind = 'provider_key_check' and t.key = k.id::text
          and (t.status in ('queued', 'running') or t.created_at > now() - interval '1 day')
      )
    order by coalesce(greatest(k.last_validated_at, k.last_used_at), k.created_at)
    limit least(greatest(p_limit, 1), 5000)
  loop
    -- Spread over ten minutes: a provider is not asked about all of them at once.
    perform private.task_enqueue(
      'provider_key_check', jsonb_build_object('provider_key_id', v_key_id), v_key_id::text,
      now() + random() * interval '10 minutes', 4
    );
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.provider_keys_revalidate(integer) is
'Queues a check of keys that were neither used nor checked for provider_key_idle_days, oldest first; one that was queued today is not queued again.';

create function backend.provider_key_uses_purge(p_limit integer default 5000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from public.provider_key_uses as u
  where u.id in (
    select o.id
    from public.provider_key_uses as o
    where o.created_at < now() - make_interval(days => private.setting('provider_key_use_days')::integer)
    order by o.created_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.provider_key_uses_purge(integer) is 'Forgets what provider keys were used for, past provider_key_use_days.';

-- ---------------------------------------------------------------------------------------------------------------
-- Rotation of master keys: data keys are wrapped anew, secrets stay sealed
-- ---------------------------------------------------------------------------------------------------------------

create function backend.provider_key_kids() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_object_agg(s.kid, s.count), '{}')
  from (
    select k.kid, count(*) as count
    from private.provider_key_secrets as k
    group by k.kid
  ) as s
$$;

comment on function backend.provider_key_kids() is 'Which master keys wrap how many keys.';

create function backend.provider_keys_sealed(
  p_except_kid text default null, p_after uuid default null, p_limit integer default 100
) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(private.sealed_provider_key(k, mp.slug) order by k.id), '[]')
  from (
    select s.provider_key_id
    from private.provider_key_secrets as s
    where (p_except_kid is null or s.kid <> p_except_kid) and (p_after is null or s.provider_key_id > p_after)
    order by s.provider_key_id
    limit least(greatest(p_limit, 1), 1000)
  ) as s
  inner join public.provider_keys as k on k.id = s.provider_key_id
  inner join public.model_providers as mp on mp.id = k.provider_id
$$;

comment on function backend.provider_keys_sealed(text, uuid, integer) is
'Sealed keys in the order of their ids, after one; without those that a master key wraps already. For quernel keys.';

create function backend.provider_keys_rewrap(p_rows jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  -- In the order of ids, as every other run; only what is still as it was read.
  perform s.provider_key_id
  from private.provider_key_secrets as s
  where s.provider_key_id in (select (r.value ->> 'id')::uuid from jsonb_array_elements(p_rows) as r)
  order by s.provider_key_id
  for no key update;
  update private.provider_key_secrets as s
  set kid = r.value ->> 'kid', wrapped_key = decode(r.value ->> 'wrapped_key', 'base64'), wrapped_at = now()
  from jsonb_array_elements(p_rows) as r
  where s.provider_key_id = (r.value ->> 'id')::uuid
    and s.kid = r.value ->> 'old_kid'
    and s.wrapped_key = decode(r.value ->> 'old_wrapped_key', 'base64');
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.provider_keys_rewrap(jsonb) is
'Stores data keys that were wrapped anew ({id, old_kid, old_wrapped_key, kid, wrapped_key}), of rows that nobody changed meanwhile; how many.';

grant execute on function
backend.provider_key_prepare(uuid, text, text, text),
backend.provider_key_add(uuid, uuid, text, text, text, jsonb, text, text, integer, text, text[], text),
backend.provider_key_list(uuid, text, text),
backend.provider_key_read(uuid, uuid),
backend.provider_key_update(uuid, uuid, jsonb),
backend.provider_key_check(uuid, uuid),
backend.provider_key_idle(uuid),
backend.provider_key_checked(uuid, integer, text, text, text[], uuid),
backend.provider_key_replace(uuid, uuid, integer, text, jsonb, text, text, text, text[]),
backend.provider_key_delete(uuid, uuid),
backend.provider_key_uses(uuid, uuid, text, integer, uuid),
backend.provider_keys_revalidate(integer),
backend.provider_key_uses_purge(integer),
backend.provider_key_kids(),
backend.provider_keys_sealed(text, uuid, integer),
backend.provider_keys_rewrap(jsonb)
to service_role;
