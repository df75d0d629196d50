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

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.provider_keys, public.provider_key_uses to authenticated, service_role;

alter table public.provider_keys enable row level security;
alter table private.provider_key_secrets enable row level security;
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
end
$$;

comment on function private.provider_key_found_invalid(public.provider_keys, text) is
'Marks a key that its provider refused (rejected, quota_exceeded) as invalid, unless its secret was replaced since.';

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
