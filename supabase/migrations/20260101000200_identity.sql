-- Identity: who somebody is, which organizations they belong to, and what they may do there.
--
--   profiles                  one per auth.users row, made and kept by triggers; clients edit display and preferences
--   user_preferences          one JSON document per person and topic
--   organizations             who may pay and share besides a person; "companies" in the chatbot specification
--   organization_members      owner, admin or member, with an optional monthly credit budget
--   organization_invitations  a link sent to an email address; its tokens are kept only as hashes
--   private.operator_actions  what operators did, append-only
--   private.person_pseudonyms by which name append-only rows know a person; goes with the profile, and they with nobody
--
-- Locks: profile, then organization, then member and invitation rows. Every function that changes an organization
-- locks its row first, so the rules that count (an owner remains, a plan's number of members) cannot be raced; and
-- erasing a person takes the same locks in the same order, so it never loses to a deadlock.

insert into private.settings (name, value, description) values
('max_organizations_per_user', '10', 'Active organizations one person may have created.'),
('max_pending_invitations', '100', 'Invitations of one organization that may wait for an answer.'),
('invitation_days', '7', 'Days an invitation can be accepted.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text,
  first_name text,
  last_name text,
  full_name text,
  avatar_url text,
  is_active boolean not null default true,
  is_admin boolean not null default false,
  language text not null default 'fr',
  theme text not null default 'dark',
  auth_provider text not null default 'email',
  auth_provider_id text,
  email_verified_at timestamptz,
  last_sign_in_at timestamptz,
  total_generations bigint not null default 0,
  notifications_enabled boolean not null default true,
  marketing_emails_enabled boolean not null default false,
  ads_enabled boolean not null default true,
  ads_watched_today integer not null default 0,
  daily_ads_limit integer not null default 5,
  ads_credits_earned numeric(20, 6) not null default 0,
  prompt_suggestions_enabled boolean not null default true,
  ai_safety_level text not null default 'standard',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint first_name_is_short check (char_length(first_name) <= 100),
  constraint last_name_is_short check (char_length(last_name) <= 100),
  constraint full_name_is_short check (char_length(full_name) <= 200),
  constraint avatar_url_is_a_web_address check (avatar_url ~ '^https?://\S+$' and char_length(avatar_url) <= 2048),
  constraint auth_provider_id_is_short check (char_length(auth_provider_id) <= 255),
  constraint language_is_known check (language in ('fr', 'en')),
  constraint theme_is_known check (theme in ('light', 'dark', 'system')),
  constraint ai_safety_level_is_known check (ai_safety_level in ('standard', 'strict', 'relaxed')),
  constraint total_generations_is_not_negative check (total_generations >= 0),
  constraint ads_watched_today_is_within_the_daily_limit check (ads_watched_today between 0 and daily_ads_limit),
  constraint ads_credits_earned_is_not_negative check (ads_credits_earned >= 0 and ads_credits_earned < 'infinity')
);

comment on table public.profiles is 'What the product knows about a person. Made and kept by triggers on auth.users; never inserted or deleted by clients.';
comment on column public.profiles.id is 'The person''s id in auth.users.';
comment on column public.profiles.email is 'Follows auth.users; null for phone and anonymous accounts. Not unique: an SSO account may share an address.';
comment on column public.profiles.first_name is 'Given name, as the person wants it shown.';
comment on column public.profiles.last_name is 'Family name, as the person wants it shown.';
comment on column public.profiles.full_name is 'Name shown to others.';
comment on column public.profiles.avatar_url is 'Address of a picture, http or https.';
comment on column public.profiles.is_active is 'False suspends the person: refused in auth, holds and row level security. Operators only.';
comment on column public.profiles.is_admin is 'True for the product''s own administrators. Operators only.';
comment on column public.profiles.language is 'Language of the interface and of emails: fr or en.';
comment on column public.profiles.theme is 'light, dark, or system to follow the device.';
comment on column public.profiles.auth_provider is 'How the account was made: email, phone, anonymous, google, github ...';
comment on column public.profiles.auth_provider_id is 'The person''s id at that provider; null for email and phone.';
comment on column public.profiles.email_verified_at is 'When the address was confirmed; follows auth.users.';
comment on column public.profiles.last_sign_in_at is 'Last sign-in; follows auth.users.';
comment on column public.profiles.total_generations is 'Generations that ended well, ever.';
comment on column public.profiles.notifications_enabled is 'Whether to notify about the person''s own work and account.';
comment on column public.profiles.marketing_emails_enabled is 'Whether the person asked for marketing email; false until they do.';
comment on column public.profiles.ads_enabled is 'Whether the person wants to be offered rewarded ads.';
comment on column public.profiles.ads_watched_today is 'Rewarded ads watched today (UTC).';
comment on column public.profiles.daily_ads_limit is 'Rewarded ads allowed per day.';
comment on column public.profiles.ads_credits_earned is 'Credits earned with ads, ever.';
comment on column public.profiles.prompt_suggestions_enabled is 'Whether prompts may be suggested from the person''s own history.';
comment on column public.profiles.ai_safety_level is 'How strictly generated content is filtered: strict, standard or relaxed.';
comment on column public.profiles.created_at is 'When the profile was made.';
comment on column public.profiles.updated_at is 'When anything in the row last changed.';

create index profiles_by_email on public.profiles (lower(email));
create index profiles_by_auth_provider on public.profiles (auth_provider, auth_provider_id);

create table public.user_preferences (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references public.profiles (id) on delete cascade,
  preference_type text not null,
  preference_value jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint there_is_one_preference_of_a_type unique (user_id, preference_type),
  constraint preference_type_is_known check (
    preference_type in (
      'generation_defaults', 'style_preferences', 'safety_settings', 'ui_preferences', 'notification_settings'
    )
  ),
  constraint preference_value_is_an_object check (jsonb_typeof(preference_value) = 'object'),
  constraint preference_value_is_small check (private.json_size(preference_value) <= 16384)
);

comment on table public.user_preferences is 'What a person prefers: one JSON document per topic, read and written by that person alone.';
comment on column public.user_preferences.id is 'Identifies the document.';
comment on column public.user_preferences.user_id is 'Whose preferences these are.';
comment on column public.user_preferences.preference_type is 'The topic: generation_defaults, style_preferences, safety_settings, ui_preferences or notification_settings.';
comment on column public.user_preferences.preference_value is 'A JSON object of at most 16 KiB.';
comment on column public.user_preferences.created_at is 'When it was first saved.';
comment on column public.user_preferences.updated_at is 'When it last changed.';

create table public.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  slug text not null unique,
  settings jsonb not null default '{}',
  is_active boolean not null default true,
  created_by uuid references public.profiles (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint name_is_present_and_short check (char_length(name) between 1 and 255 and name = btrim(name)),
  constraint slug_is_3_to_63_lower_case_letters_digits_and_single_hyphens
  check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and char_length(slug) between 3 and 63),
  -- An id and a slug are accepted in the same places, so no slug may read as somebody else's id.
  constraint slug_is_not_an_id check (slug !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
  constraint slug_is_not_a_reserved_word check (
    slug not in (
      'about', 'account', 'accounts', 'admin', 'administrator', 'agents', 'all', 'anonymous', 'api', 'app', 'assets',
      'auth', 'authenticated', 'backend', 'billing', 'blog', 'chat', 'cli', 'console', 'conversations', 'credits',
      'dashboard', 'default', 'demo', 'docs', 'documentation', 'documents', 'example', 'false', 'functions', 'health',
      'help', 'images', 'internal', 'invitations', 'invite', 'jobs', 'keys', 'legal', 'libraries', 'library', 'login',
      'logout', 'mail', 'mcp', 'metrics', 'models', 'new', 'none', 'null', 'official', 'organization', 'organizations',
      'plans', 'postgres', 'pricing', 'privacy', 'private', 'profile', 'public', 'quernel', 'quote', 'ready', 'root',
      'search', 'security', 'service-role', 'settings', 'signin', 'signup', 'static', 'status', 'storage', 'stripe',
      'supabase', 'support', 'system', 'tasks', 'team', 'teams', 'terms', 'test', 'true', 'undefined', 'usage', 'user',
      'users', 'webhook', 'webhooks', 'www'
    )
  ),
  constraint settings_are_an_object check (jsonb_typeof(settings) = 'object'),
  constraint settings_are_small check (private.json_size(settings) <= 16384)
);

comment on table public.organizations is 'People who share resources and a bill. Written through functions only.';
comment on column public.organizations.id is 'Identifies the organization.';
comment on column public.organizations.name is 'Name shown to people.';
comment on column public.organizations.slug is 'Name in addresses and in ids of private libraries. Never changes, so nobody inherits another''s.';
comment on column public.organizations.settings is 'A JSON object of at most 16 KiB that its admins edit. No right is ever read from it.';
comment on column public.organizations.is_active is 'False suspends the organization: its members no longer see it or spend its credits.';
comment on column public.organizations.created_by is 'Who made it; null once erased. Counts against max_organizations_per_user.';
comment on column public.organizations.created_at is 'When it was made.';
comment on column public.organizations.updated_at is 'When anything in the row last changed.';

create index organizations_by_creator on public.organizations (created_by);

create table public.organization_members (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null references public.profiles (id) on delete cascade,
  role text not null default 'member',
  monthly_credit_budget numeric(20, 6),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_person_is_a_member_once primary key (organization_id, user_id),
  constraint role_is_known check (role in ('owner', 'admin', 'member')),
  -- NaN sorts above infinity, so the second half refuses both.
  constraint monthly_credit_budget_is_not_negative
  check (monthly_credit_budget >= 0 and monthly_credit_budget < 'infinity')
);

comment on table public.organization_members is 'Who belongs to an organization, as what, and how much of its credits they may spend.';
comment on column public.organization_members.organization_id is 'The organization.';
comment on column public.organization_members.user_id is 'The member.';
comment on column public.organization_members.role is 'owner (everything), admin (everything but owners) or member.';
comment on column public.organization_members.monthly_credit_budget is 'Credits of the organization this member may spend per calendar month (UTC); null for no limit of their own.';
comment on column public.organization_members.created_at is 'When they joined.';
comment on column public.organization_members.updated_at is 'When role or budget last changed.';

create index organization_members_by_user on public.organization_members (user_id);

create table public.organization_invitations (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null references public.organizations (id) on delete cascade,
  email text not null,
  role text not null default 'member',
  invited_by uuid references public.profiles (id) on delete set null,
  expires_at timestamptz not null,
  accepted_at timestamptz,
  accepted_by uuid references public.profiles (id) on delete set null,
  revoked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint email_is_lower_case check (email = lower(email)),
  constraint email_looks_like_an_address check (email ~ '^[^@\s]+@[^@\s]+$' and char_length(email) <= 254),
  constraint nobody_is_invited_as_owner check (role in ('admin', 'member')),
  constraint invitation_expires_after_it_was_made check (expires_at > created_at),
  constraint invitation_is_accepted_or_revoked_or_neither check (num_nonnulls(accepted_at, revoked_at) <= 1),
  constraint only_an_accepted_invitation_has_a_taker check (accepted_by is null or accepted_at is not null)
);

comment on table public.organization_invitations is 'Invitations to join an organization. Pending until accepted, revoked, or past expires_at.';
comment on column public.organization_invitations.id is 'Identifies the invitation.';
comment on column public.organization_invitations.organization_id is 'The organization.';
comment on column public.organization_invitations.email is 'The address invited, in lower case; only its verified holder may accept.';
comment on column public.organization_invitations.role is 'What they become: admin or member. Owners are made among members.';
comment on column public.organization_invitations.invited_by is 'Who invited; null once erased.';
comment on column public.organization_invitations.expires_at is 'When it can no longer be accepted.';
comment on column public.organization_invitations.accepted_at is 'When it was accepted.';
comment on column public.organization_invitations.accepted_by is 'Who accepted; null until then, and once erased.';
comment on column public.organization_invitations.revoked_at is 'When it was revoked, or replaced by a newer one to the same address.';
comment on column public.organization_invitations.created_at is 'When it was made.';
comment on column public.organization_invitations.updated_at is 'When anything in the row last changed.';

create unique index organization_invitations_wait_once_per_address
on public.organization_invitations (organization_id, email) where accepted_at is null and revoked_at is null;
create index organization_invitations_by_organization
on public.organization_invitations (organization_id, created_at desc);
create index organization_invitations_by_inviter on public.organization_invitations (invited_by);
create index organization_invitations_by_taker on public.organization_invitations (accepted_by);

create index organization_invitations_by_email on public.organization_invitations (email);

create table private.organization_invitation_tokens (
  invitation_id uuid not null references public.organization_invitations (id) on delete cascade,
  purpose text not null default 'inviter',
  token_hash bytea not null unique,
  constraint an_invitation_has_one_token_for_a_purpose primary key (invitation_id, purpose),
  constraint purpose_is_known check (purpose in ('inviter', 'email')),
  constraint token_hash_is_a_sha256 check (octet_length(token_hash) = 32)
);

comment on table private.organization_invitation_tokens is 'Apart from the invitations, so that not even the admins who see those can read it.';
comment on column private.organization_invitation_tokens.invitation_id is 'The invitation.';
comment on column private.organization_invitation_tokens.purpose is 'inviter (shown once to who invited) or email (made when the email is sent, anew at each attempt).';
comment on column private.organization_invitation_tokens.token_hash is 'SHA-256 of the token, which was told once. 256 random bits need no salt.';

create table private.operator_actions (
  id bigint generated always as identity primary key,
  actor text not null,
  action text not null,
  subject text not null,
  before jsonb,
  after jsonb,
  reason text,
  created_at timestamptz not null default now(),
  constraint actor_is_named check (char_length(btrim(actor)) between 1 and 200),
  constraint action_is_snake_case check (action ~ '^[a-z][a-z0-9_]*$'),
  constraint subject_is_named check (char_length(btrim(subject)) between 1 and 300),
  constraint reason_is_short check (char_length(reason) <= 1000)
);

comment on table private.operator_actions is 'What operators did, append-only.';
comment on column private.operator_actions.id is 'Order in which it was written.';
comment on column private.operator_actions.actor is 'Who did it, as the operator''s tool names them.';
comment on column private.operator_actions.action is 'What was done, as the function is called.';
comment on column private.operator_actions.subject is 'What it was done to: kind and id, as in organization:<id>; of a person user:<pseudonym>.';
comment on column private.operator_actions.before is 'What changed, as it was.';
comment on column private.operator_actions.after is 'What changed, as it is.';
comment on column private.operator_actions.reason is 'Why, in the operator''s words.';
comment on column private.operator_actions.created_at is 'When.';

create table private.person_pseudonyms (
  user_id uuid primary key references public.profiles (id) on delete cascade,
  pseudonym uuid not null unique default gen_random_uuid(),
  created_at timestamptz not null default now()
);

comment on table private.person_pseudonyms is 'By which name rows that can never be changed know a person. Without this row nobody can say any more who it was.';
comment on column private.person_pseudonyms.user_id is 'The person.';
comment on column private.person_pseudonyms.pseudonym is 'The name, drawn at random.';
comment on column private.person_pseudonyms.created_at is 'When it was first needed.';

create index operator_actions_by_subject on private.operator_actions (subject, created_at desc);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants: clients read rows and write display and preference columns; everything else goes through functions
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.profiles to authenticated, service_role;
grant update (
  first_name, last_name, full_name, avatar_url, language, theme, notifications_enabled, marketing_emails_enabled,
  ads_enabled, prompt_suggestions_enabled, ai_safety_level
) on public.profiles to authenticated;

grant select, delete on public.user_preferences to authenticated;
-- user_id and preference_type may be "updated" because an upsert assigns every column it was given; the policies and
-- the unique constraint keep them what they were.
grant insert (user_id, preference_type, preference_value) on public.user_preferences to authenticated;
grant update (user_id, preference_type, preference_value) on public.user_preferences to authenticated;
grant select on public.user_preferences to service_role;

grant select on public.organizations to authenticated, service_role;
grant select on public.organization_members to authenticated, service_role;
grant select on public.organization_invitations to authenticated, service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Row level security
-- ---------------------------------------------------------------------------------------------------------------

alter table public.profiles enable row level security;
alter table public.user_preferences enable row level security;
alter table public.organizations enable row level security;
alter table public.organization_members enable row level security;
alter table public.organization_invitations enable row level security;
alter table private.organization_invitation_tokens enable row level security;
alter table private.operator_actions enable row level security;
alter table private.person_pseudonyms enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Who is asking: what policies and other chapters call
-- ---------------------------------------------------------------------------------------------------------------

create function private.active_user_id() returns uuid
language sql stable security definer parallel safe set search_path = ''
as $$ select p.id from public.profiles as p where p.id = auth.uid() and p.is_active $$;

comment on function private.active_user_id() is
'The caller, or null for nobody and for suspended people. Policies write (select private.active_user_id()), which runs once per statement.';

create function private.my_organization_ids() returns setof uuid
language sql stable security definer parallel safe rows 5 set search_path = ''
as $$
  select m.organization_id
  from public.organization_members as m
  inner join public.profiles as p on m.user_id = p.id
  inner join public.organizations as o on m.organization_id = o.id
  where m.user_id = auth.uid() and p.is_active and o.is_active
$$;

comment on function private.my_organization_ids() is 'Active organizations the caller belongs to.';

create function private.my_admin_organization_ids() returns setof uuid
language sql stable security definer parallel safe rows 5 set search_path = ''
as $$
  select m.organization_id
  from public.organization_members as m
  inner join public.profiles as p on m.user_id = p.id
  inner join public.organizations as o on m.organization_id = o.id
  where m.user_id = auth.uid() and m.role in ('owner', 'admin') and p.is_active and o.is_active
$$;

comment on function private.my_admin_organization_ids() is 'Active organizations the caller owns or administers.';

create function private.require_active_user() returns uuid
language plpgsql stable set search_path = ''
as $$
declare
  v_user_id uuid := private.active_user_id();
begin
  if v_user_id is null then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return v_user_id;
end
$$;

comment on function private.require_active_user() is 'The caller; fails account_suspended for anybody without an active profile.';

create function private.require_role(p_user_id uuid, p_organization text, p_roles text[]) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_member record;
begin
  -- Two statements, so that each looks up by its own index.
  if p_organization ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    select m.organization_id, m.role, p.is_active as user_is_active, o.is_active as organization_is_active
    into v_member
    from public.organizations as o
    inner join public.organization_members as m on o.id = m.organization_id
    inner join public.profiles as p on m.user_id = p.id
    where o.id = p_organization::uuid and m.user_id = p_user_id;
  else
    select m.organization_id, m.role, p.is_active as user_is_active, o.is_active as organization_is_active
    into v_member
    from public.organizations as o
    inner join public.organization_members as m on o.id = m.organization_id
    inner join public.profiles as p on m.user_id = p.id
    where o.slug = p_organization and m.user_id = p_user_id;
  end if;
  if v_member.organization_id is null then
    perform private.fail(403, 'not_a_member', 'You are not a member of this organization.');
  elsif not v_member.user_is_active then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  elsif not v_member.organization_is_active then
    perform private.fail(403, 'account_suspended', 'This organization is suspended.');
  elsif v_member.role <> all(p_roles) then
    perform private.fail(403, 'not_an_admin', 'Only owners and admins of the organization may do this.');
  end if;
  return v_member.organization_id;
end
$$;

comment on function private.require_role(uuid, text, text[]) is
'Id of the organization (given by id or slug) in which the person has one of the roles. Answers a stranger the same whether it exists or not.';

create function private.require_member(p_user_id uuid, p_organization text) returns uuid
language sql stable set search_path = ''
as $$ select private.require_role(p_user_id, p_organization, '{owner,admin,member}') $$;

comment on function private.require_member(uuid, text) is
'Id of the organization (given by id or slug) the person belongs to; fails not_a_member or account_suspended.';

create function private.require_admin(p_user_id uuid, p_organization text) returns uuid
language sql stable set search_path = ''
as $$ select private.require_role(p_user_id, p_organization, '{owner,admin}') $$;

comment on function private.require_admin(uuid, text) is
'Id of the organization (given by id or slug) the person owns or administers; fails not_a_member, not_an_admin or account_suspended.';

-- Constraints of what clients write ask it.
grant execute on function private.json_size(jsonb) to authenticated;
grant execute on function private.active_user_id() to authenticated;
grant execute on function private.my_organization_ids() to authenticated;
grant execute on function private.my_admin_organization_ids() to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers: profiles follow auth.users
-- ---------------------------------------------------------------------------------------------------------------

create function private.metadata_text(p_metadata jsonb, p_key text, p_length integer) returns text
language sql immutable parallel safe set search_path = ''
as $$
  select case
    when jsonb_typeof(p_metadata -> p_key) = 'string'
      then nullif(btrim(left(btrim(regexp_replace(p_metadata ->> p_key, '[[:cntrl:]]+', ' ', 'g')), p_length)), '')
  end
$$;

comment on function private.metadata_text(jsonb, text, integer) is
'A string out of metadata that anybody may have written: no control characters, at most p_length characters, null when it is anything else.';

create function private.follow_auth_user(p_user auth.users) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_meta jsonb := p_user.raw_user_meta_data;
  v_provider text := private.metadata_text(p_user.raw_app_meta_data, 'provider', 100);
  v_first_name text := coalesce(
    private.metadata_text(v_meta, 'first_name', 100), private.metadata_text(v_meta, 'given_name', 100));
  v_last_name text := coalesce(
    private.metadata_text(v_meta, 'last_name', 100), private.metadata_text(v_meta, 'family_name', 100));
  -- One character more than fits, so that a cut address is recognised and dropped: half an address is none.
  v_avatar_url text := coalesce(
    private.metadata_text(v_meta, 'avatar_url', 2049), private.metadata_text(v_meta, 'picture', 2049));
begin
  insert into public.profiles (
    id, email, first_name, last_name, full_name, avatar_url, auth_provider, auth_provider_id, email_verified_at,
    last_sign_in_at
  )
  values (
    p_user.id,
    p_user.email,
    v_first_name,
    v_last_name,
    coalesce(
      private.metadata_text(v_meta, 'full_name', 200),
      private.metadata_text(v_meta, 'name', 200),
      left(nullif(concat_ws(' ', v_first_name, v_last_name), ''), 200)),
    case when v_avatar_url ~ '^https?://\S+$' and char_length(v_avatar_url) <= 2048 then v_avatar_url end,
    coalesce(v_provider, case when p_user.email is null then 'anonymous' else 'email' end),
    -- Only an outside provider writes these; with email and phone the metadata is whatever the client sent.
    case
      when v_provider not in ('email', 'phone')
        then coalesce(private.metadata_text(v_meta, 'provider_id', 255), private.metadata_text(v_meta, 'sub', 255))
    end,
    p_user.email_confirmed_at,
    p_user.last_sign_in_at
  )
  on conflict (id) do update set
    email = excluded.email,
    email_verified_at = excluded.email_verified_at,
    last_sign_in_at = excluded.last_sign_in_at;
end
$$;

comment on function private.follow_auth_user(auth.users) is
'Makes or updates the profile of an auth user. Takes names and picture at sign-up only, and nothing in the metadata can make it fail.';

create function private.follow_auth_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.follow_auth_user(new);
  return null;
end
$$;

comment on function private.follow_auth_change() is 'Trigger on auth.users: keeps the profile.';

create trigger profile_is_made_at_sign_up
after insert on auth.users
for each row execute function private.follow_auth_change();

create trigger profile_follows_auth
after update of email, email_confirmed_at, last_sign_in_at on auth.users
for each row
when (
  (old.email, old.email_confirmed_at, old.last_sign_in_at)
  is distinct from (new.email, new.email_confirmed_at, new.last_sign_in_at)
)
execute function private.follow_auth_change();

create trigger profiles_touch_updated_at
before update on public.profiles
for each row execute function private.touch_updated_at();

create trigger user_preferences_touch_updated_at
before update on public.user_preferences
for each row execute function private.touch_updated_at();

create trigger organizations_touch_updated_at
before update on public.organizations
for each row execute function private.touch_updated_at();

create trigger organization_members_touch_updated_at
before update on public.organization_members
for each row execute function private.touch_updated_at();

create trigger organization_invitations_touch_updated_at
before update on public.organization_invitations
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers: an organization keeps an owner, and nobody changes what operators did
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_organizations_of_leaver() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform o.id
  from public.organizations as o
  where o.id in (
    select m.organization_id from public.organization_members as m where m.user_id = old.id
    union
    select c.id from public.organizations as c where c.created_by = old.id
  )
  order by o.id
  for no key update;
  return old;
end
$$;

comment on function private.lock_organizations_of_leaver() is
'Trigger: before a profile goes and its memberships with it, takes the locks of its organizations in the order every function takes them.';

create trigger organizations_are_locked_before_a_member_is_erased
before delete on public.profiles
for each row execute function private.lock_organizations_of_leaver();

create function private.keep_an_owner() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_heir_id uuid;
begin
  if old.role <> 'owner' then
    return null;
  end if;
  perform o.id from public.organizations as o where o.id = old.organization_id for no key update;
  if not found
    or exists (
      select 1 from public.organization_members as m
      where m.organization_id = old.organization_id and m.role = 'owner'
    ) then
    return null;
  end if;

  select m.user_id into v_heir_id
  from public.organization_members as m
  left join public.profiles as p on m.user_id = p.id
  where m.organization_id = old.organization_id
  order by coalesce(p.is_active, false) desc, m.role = 'admin' desc, m.created_at, m.user_id
  limit 1;
  if found then
    update public.organization_members as m
    set role = 'owner', monthly_credit_budget = null
    where m.organization_id = old.organization_id and m.user_id = v_heir_id;
  else
    update public.organizations as o set is_active = false where o.id = old.organization_id;
  end if;
  return null;
end
$$;

comment on function private.keep_an_owner() is
'Trigger: when the last owner is gone (erased with their account), the oldest admin, else the oldest member, becomes owner; suspended people come last. With nobody left the organization is deactivated.';

create trigger organization_keeps_an_owner
after delete on public.organization_members
for each row execute function private.keep_an_owner();

create trigger operator_actions_are_append_only
before update or delete on private.operator_actions
for each row execute function private.refuse_change();

create trigger operator_actions_are_never_truncated
before truncate on private.operator_actions
for each statement execute function private.refuse_change();

alter table private.operator_actions enable always trigger operator_actions_are_append_only;
alter table private.operator_actions enable always trigger operator_actions_are_never_truncated;

-- ---------------------------------------------------------------------------------------------------------------
-- Policies
-- ---------------------------------------------------------------------------------------------------------------

create policy "Users read their own profile"
on public.profiles for select to authenticated
using (id = (select private.active_user_id()));

create policy "Users update their own profile"
on public.profiles for update to authenticated
using (id = (select private.active_user_id()))
with check (id = (select private.active_user_id()));

create policy "Users read their own preferences"
on public.user_preferences for select to authenticated
using (user_id = (select private.active_user_id()));

create policy "Users save their own preferences"
on public.user_preferences for insert to authenticated
with check (user_id = (select private.active_user_id()));

create policy "Users change their own preferences"
on public.user_preferences for update to authenticated
using (user_id = (select private.active_user_id()))
with check (user_id = (select private.active_user_id()));

create policy "Users delete their own preferences"
on public.user_preferences for delete to authenticated
using (user_id = (select private.active_user_id()));

create policy "Members read their organizations"
on public.organizations for select to authenticated
using (id in (select private.my_organization_ids()));

create policy "Members read their own membership and admins every one"
on public.organization_members for select to authenticated
using (
  (user_id = (select private.active_user_id()) and organization_id in (select private.my_organization_ids()))
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Admins read the invitations of their organizations"
on public.organization_invitations for select to authenticated
using (organization_id in (select private.my_admin_organization_ids()));

-- ---------------------------------------------------------------------------------------------------------------
-- Functions: operators
-- ---------------------------------------------------------------------------------------------------------------

create function private.pseudonym(p_user_id uuid) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_pseudonym uuid;
begin
  insert into private.person_pseudonyms as p (user_id) values (p_user_id)
  on conflict (user_id) do nothing
  returning p.pseudonym into v_pseudonym;
  if v_pseudonym is null then
    select p.pseudonym into v_pseudonym from private.person_pseudonyms as p where p.user_id = p_user_id;
  end if;
  return v_pseudonym;
end
$$;

comment on function private.pseudonym(uuid) is 'By which name append-only rows know a person: the same for all of them, until the person is erased.';

create function private.record_operator_action(
  p_actor text,
  p_action text,
  p_subject text,
  p_before jsonb,
  p_after jsonb,
  p_reason text
) returns void
language plpgsql security definer set search_path = ''
as $$
begin
  if coalesce(char_length(btrim(p_actor)) not between 1 and 200, true) then
    perform private.fail(400, 'invalid_argument', 'An operator action names its actor, in at most 200 characters.',
      jsonb_build_object('param', 'p_actor'));
  elsif char_length(p_reason) > 1000 then
    perform private.fail(400, 'invalid_argument', 'A reason has at most 1,000 characters.',
      jsonb_build_object('param', 'p_reason'));
  end if;
  insert into private.operator_actions (actor, action, subject, before, after, reason)
  values (btrim(p_actor), p_action, p_subject, p_before, p_after, p_reason);
end
$$;

comment on function private.record_operator_action(text, text, text, jsonb, jsonb, text) is
'Writes down what an operator did, in the transaction that did it.';

create function backend.user_set_active(p_user_id uuid, p_is_active boolean, p_actor text, p_reason text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_was_active boolean;
begin
  if p_is_active is null then
    perform private.fail(400, 'invalid_argument', 'Say whether the account is to be active.',
      jsonb_build_object('param', 'p_is_active'));
  elsif coalesce(btrim(p_reason), '') = '' then
    perform private.fail(400, 'invalid_argument', 'Suspending or restoring an account needs a reason.',
      jsonb_build_object('param', 'p_reason'));
  end if;
  select p.is_active into v_was_active from public.profiles as p where p.id = p_user_id for no key update;
  if not found then
    perform private.fail(404, 'user_not_found', 'There is no such user.');
  end if;
  update public.profiles as p set is_active = p_is_active where p.id = p_user_id and p.is_active <> p_is_active;
  perform private.record_operator_action(
    p_actor, 'user_set_active', 'user:' || private.pseudonym(p_user_id),
    jsonb_build_object('is_active', v_was_active), jsonb_build_object('is_active', p_is_active), p_reason);
  return jsonb_build_object(
    'user_id', p_user_id, 'is_active', p_is_active, 'changed', v_was_active <> p_is_active);
end
$$;

comment on function backend.user_set_active(uuid, boolean, text, text) is
'Suspends or restores a person, and writes down who did it and why.';

create function backend.organization_set_active(
  p_organization_id uuid, p_is_active boolean, p_actor text, p_reason text
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_was_active boolean;
begin
  if p_is_active is null then
    perform private.fail(400, 'invalid_argument', 'Say whether the organization is to be active.',
      jsonb_build_object('param', 'p_is_active'));
  elsif coalesce(btrim(p_reason), '') = '' then
    perform private.fail(400, 'invalid_argument', 'Suspending or restoring an organization needs a reason.',
      jsonb_build_object('param', 'p_reason'));
  end if;
  select o.is_active into v_was_active
  from public.organizations as o where o.id = p_organization_id for no key update;
  if not found then
    perform private.fail(404, 'organization_not_found', 'There is no such organization.');
  end if;
  update public.organizations as o set is_active = p_is_active
  where o.id = p_organization_id and o.is_active <> p_is_active;
  perform private.record_operator_action(
    p_actor, 'organization_set_active', 'organization:' || p_organization_id,
    jsonb_build_object('is_active', v_was_active), jsonb_build_object('is_active', p_is_active), p_reason);
  return jsonb_build_object(
    'organization_id', p_organization_id, 'is_active', p_is_active, 'changed', v_was_active <> p_is_active);
end
$$;

comment on function backend.organization_set_active(uuid, boolean, text, text) is
'Suspends or restores an organization, and writes down who did it and why.';

grant execute on function backend.user_set_active(uuid, boolean, text, text) to service_role;
grant execute on function backend.organization_set_active(uuid, boolean, text, text) to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Functions: the organization itself
-- ---------------------------------------------------------------------------------------------------------------

create function private.enter_organization(p_organization_id uuid, p_roles text[]) returns text
language plpgsql security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
begin
  -- Once before the lock, so that strangers cannot queue on it, and once after, when the answer can no longer change.
  perform private.require_role(v_user_id, p_organization_id::text, p_roles);
  perform o.id from public.organizations as o where o.id = p_organization_id for no key update;
  perform private.require_role(v_user_id, p_organization_id::text, p_roles);
  return (
    select m.role from public.organization_members as m
    where m.organization_id = p_organization_id and m.user_id = v_user_id
  );
end
$$;

comment on function private.enter_organization(uuid, text[]) is
'Locks the organization for a change by the caller, who must have one of the roles, and returns the caller''s role.';

create function private.organization_json(p_organization public.organizations) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_organization.id, 'name', p_organization.name, 'slug', p_organization.slug,
    'settings', p_organization.settings, 'created_at', p_organization.created_at,
    'updated_at', p_organization.updated_at)
$$;

comment on function private.organization_json(public.organizations) is 'An organization as its members are answered.';

create function private.refuse_organization_value(p_constraint text) returns void
language plpgsql set search_path = ''
as $$
begin
  case
    when p_constraint = 'slug_is_not_a_reserved_word' then
      perform private.fail(400, 'slug_reserved', 'This slug is reserved; choose another.', '{"param": "slug"}');
    when p_constraint like 'slug%' then
      perform private.fail(400, 'invalid_argument',
        'A slug has 3 to 63 lower-case letters and digits, with single hyphens between them.', '{"param": "slug"}');
    when p_constraint like 'name%' then
      perform private.fail(400, 'invalid_argument', 'A name has 1 to 255 characters.', '{"param": "name"}');
    when p_constraint like 'settings%' then
      perform private.fail(400, 'invalid_argument', 'Settings are a JSON object of at most 16 KiB.',
        '{"param": "settings"}');
    else
      raise exception 'constraint % has no message for people', p_constraint using errcode = 'check_violation';
  end case;
end
$$;

comment on function private.refuse_organization_value(text) is
'Tells people which value of an organization was refused, by the constraint that refused it.';

create function private.create_organization(p_name text, p_slug text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_limit integer := (private.setting('max_organizations_per_user'))::integer;
  v_count integer;
  v_organization public.organizations;
  v_constraint text;
begin
  perform p.id from public.profiles as p where p.id = v_user_id for no key update;
  select count(*) into v_count from public.organizations as o where o.created_by = v_user_id and o.is_active;
  if v_count >= v_limit then
    perform private.fail(403, 'organization_limit_reached',
      format('One person may create %s organizations.', v_limit),
      jsonb_build_object(
        'limit_source', 'settings.max_organizations_per_user', 'required', v_count + 1, 'available', v_limit,
        'remedy', 'contact_support'));
  end if;
  begin
    insert into public.organizations (name, slug, created_by)
    values (coalesce(btrim(p_name), ''), coalesce(p_slug, ''), v_user_id)
    returning * into v_organization;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_organization_value(v_constraint);
    when unique_violation then
      get stacked diagnostics v_constraint = constraint_name;
      if v_constraint <> 'organizations_slug_key' then
        raise;
      end if;
      perform private.fail(409, 'slug_taken', 'This slug is taken; choose another.', '{"param": "slug"}');
  end;
  insert into public.organization_members (organization_id, user_id, role)
  values (v_organization.id, v_user_id, 'owner');
  return private.organization_json(v_organization);
end
$$;

comment on function private.create_organization(text, text) is 'See public.create_organization.';

create function private.update_organization(p_organization_id uuid, p_name text, p_settings jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_organization public.organizations;
  v_constraint text;
begin
  perform private.enter_organization(p_organization_id, '{owner,admin}');
  update public.organizations as o
  set name = coalesce(btrim(p_name), o.name), settings = coalesce(p_settings, o.settings)
  where o.id = p_organization_id
  returning o.* into v_organization;
  return private.organization_json(v_organization);
exception
  when check_violation then
    get stacked diagnostics v_constraint = constraint_name;
    perform private.refuse_organization_value(v_constraint);
end
$$;

comment on function private.update_organization(uuid, text, jsonb) is 'See public.update_organization.';

create function private.organization_people(p_organization_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform private.require_member(private.require_active_user(), p_organization_id::text);
  return (
    select jsonb_agg(
      jsonb_build_object(
        'user_id', m.user_id, 'role', m.role, 'first_name', p.first_name, 'last_name', p.last_name,
        'full_name', p.full_name, 'avatar_url', p.avatar_url, 'joined_at', m.created_at)
      order by m.created_at, m.user_id)
    from public.organization_members as m
    inner join public.profiles as p on m.user_id = p.id
    where m.organization_id = p_organization_id
  );
end
$$;

comment on function private.organization_people(uuid) is 'See public.organization_people.';

-- ---------------------------------------------------------------------------------------------------------------
-- Functions: invitations
-- ---------------------------------------------------------------------------------------------------------------

create function private.random_token() returns text
language sql volatile parallel safe set search_path = ''
as $$
  -- Three version 4 UUIDs carry 366 random bits from the operating system; the digest keeps 256 of them. This spares
  -- pgcrypto, which is in another schema on each platform and absent from some. Base64url, RFC 4648 section 5.
  select translate(
    encode(
      sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'),
    '+/=', '-_')
$$;

comment on function private.random_token() is '256 random bits as 43 characters that are safe in an address.';

create function private.invite_member(p_organization_id uuid, p_email text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_email text := lower(btrim(p_email));
  v_token text := 'qi_' || private.random_token();
  v_limit integer := (private.setting('max_pending_invitations'))::integer;
  v_invitation public.organization_invitations;
begin
  perform private.enter_organization(p_organization_id, '{owner,admin}');
  if coalesce(p_role, '') not in ('admin', 'member') then
    perform private.fail(400, 'invalid_argument', 'People are invited as admin or member.', '{"param": "role"}');
  elsif v_email is null or v_email !~ '^[^@\s]+@[^@\s]+$' or char_length(v_email) > 254 then
    perform private.fail(400, 'invalid_argument', 'This is not an email address.', '{"param": "email"}');
  elsif exists (
    select 1 from public.organization_members as m
    inner join public.profiles as p on m.user_id = p.id
    where m.organization_id = p_organization_id and lower(p.email) = v_email
  ) then
    perform private.fail(409, 'already_a_member', 'This person is already a member.', '{"param": "email"}');
  end if;

  update public.organization_invitations as i set revoked_at = now()
  where i.organization_id = p_organization_id and i.accepted_at is null and i.revoked_at is null
    and (i.email = v_email or i.expires_at <= now());
  if (
    select count(*) from public.organization_invitations as i
    where i.organization_id = p_organization_id and i.accepted_at is null and i.revoked_at is null
  ) >= v_limit then
    perform private.fail(403, 'invitation_limit_reached',
      'Too many invitations of this organization wait for an answer; revoke some first.',
      jsonb_build_object(
        'limit_source', 'settings.max_pending_invitations', 'required', v_limit + 1, 'available', v_limit,
        'remedy', 'revoke_invitations'));
  end if;

  insert into public.organization_invitations (organization_id, email, role, invited_by, expires_at)
  values (
    p_organization_id, v_email, p_role, v_user_id,
    now() + make_interval(days => (private.setting('invitation_days'))::integer)
  )
  returning * into v_invitation;
  insert into private.organization_invitation_tokens (invitation_id, token_hash)
  values (v_invitation.id, sha256(convert_to(v_token, 'UTF8')));
  perform private.notify_invited(v_invitation);
  return jsonb_build_object(
    'id', v_invitation.id, 'organization_id', p_organization_id, 'email', v_email, 'role', p_role,
    'expires_at', v_invitation.expires_at, 'token', v_token);
end
$$;

comment on function private.invite_member(uuid, text, text) is 'See public.invite_member.';

create function private.accept_invitation(p_token text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_token_hash bytea := sha256(convert_to(coalesce(p_token, ''), 'UTF8'));
  v_invitation public.organization_invitations;
  v_organization public.organizations;
  v_email text;
  v_email_confirmed_at timestamptz;
begin
  select i.* into v_invitation
  from private.organization_invitation_tokens as t
  inner join public.organization_invitations as i on t.invitation_id = i.id
  where t.token_hash = v_token_hash;
  if not found then
    perform private.fail(404, 'invitation_not_found', 'There is no such invitation.');
  end if;

  -- auth.users is the truth; the profile only follows it.
  select lower(u.email), u.email_confirmed_at into v_email, v_email_confirmed_at
  from auth.users as u where u.id = v_user_id;
  if v_email is distinct from v_invitation.email then
    perform private.fail(403, 'invitation_for_another_address', 'This invitation was sent to another email address.');
  elsif v_email_confirmed_at is null then
    perform private.fail(403, 'email_not_verified', 'Confirm your email address before you accept an invitation.');
  end if;

  perform p.id from public.profiles as p where p.id = v_user_id for key share;
  if not found then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  select o.* into v_organization
  from public.organizations as o where o.id = v_invitation.organization_id for no key update;
  select i.* into v_invitation
  from public.organization_invitations as i where i.id = v_invitation.id for update;
  if v_invitation.revoked_at is not null then
    perform private.fail(410, 'invitation_revoked', 'This invitation was revoked.');
  elsif v_invitation.accepted_at is not null then
    perform private.fail(409, 'invitation_already_accepted', 'This invitation was already accepted.');
  elsif v_invitation.expires_at <= now() then
    perform private.fail(410, 'invitation_expired', 'This invitation has expired; ask for a new one.');
  elsif not v_organization.is_active then
    perform private.fail(403, 'account_suspended', 'This organization is suspended.');
  elsif exists (
    select 1 from public.organization_members as m
    where m.organization_id = v_organization.id and m.user_id = v_user_id
  ) then
    perform private.fail(409, 'already_a_member', 'You are already a member of this organization.');
  end if;

  insert into public.organization_members (organization_id, user_id, role)
  values (v_organization.id, v_user_id, v_invitation.role);
  update public.organization_invitations as i
  set accepted_at = now(), accepted_by = v_user_id where i.id = v_invitation.id;
  return jsonb_build_object(
    'organization_id', v_organization.id, 'slug', v_organization.slug, 'name', v_organization.name,
    'role', v_invitation.role);
end
$$;

comment on function private.accept_invitation(text) is 'See public.accept_invitation.';

create function private.revoke_invitation(p_invitation_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_invitation public.organization_invitations;
begin
  perform private.require_active_user();
  select i.* into v_invitation
  from public.organization_invitations as i
  where i.id = p_invitation_id and i.organization_id in (select private.my_admin_organization_ids());
  if not found then
    perform private.fail(404, 'invitation_not_found', 'There is no such invitation.');
  end if;
  perform private.enter_organization(v_invitation.organization_id, '{owner,admin}');
  update public.organization_invitations as i
  set revoked_at = coalesce(i.revoked_at, now())
  where i.id = p_invitation_id and i.accepted_at is null
  returning i.* into v_invitation;
  if not found then
    perform private.fail(409, 'invitation_already_accepted', 'This invitation was already accepted.');
  end if;
  return jsonb_build_object('id', p_invitation_id, 'revoked_at', v_invitation.revoked_at);
end
$$;

comment on function private.revoke_invitation(uuid) is 'See public.revoke_invitation.';

-- ---------------------------------------------------------------------------------------------------------------
-- Functions: members
-- ---------------------------------------------------------------------------------------------------------------

create function private.touch_member(p_organization_id uuid, p_user_id uuid, p_my_role text) returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_role text;
begin
  select m.role into v_role
  from public.organization_members as m
  where m.organization_id = p_organization_id and m.user_id = p_user_id;
  if not found then
    perform private.fail(404, 'member_not_found', 'This person is not a member of the organization.');
  elsif v_role = 'owner' and p_my_role <> 'owner' then
    perform private.fail(403, 'not_an_owner', 'Only an owner may change an owner.');
  end if;
  return v_role;
end
$$;

comment on function private.touch_member(uuid, uuid, text) is
'The role of a member whom somebody of role p_my_role wants to change; fails when that is not theirs to do.';

create function private.refuse_without_another_owner(p_organization_id uuid, p_user_id uuid) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if not exists (
    select 1 from public.organization_members as m
    where m.organization_id = p_organization_id and m.user_id <> p_user_id and m.role = 'owner'
  ) then
    perform private.fail(409, 'last_owner', 'An organization needs an owner; make somebody else an owner first.');
  end if;
end
$$;

comment on function private.refuse_without_another_owner(uuid, uuid) is
'Fails when nobody but this person owns the organization, whose row the caller has locked.';

create function private.leave_organization(p_organization_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
begin
  if private.enter_organization(p_organization_id, '{owner,admin,member}') = 'owner' then
    perform private.refuse_without_another_owner(p_organization_id, v_user_id);
  end if;
  delete from public.organization_members as m
  where m.organization_id = p_organization_id and m.user_id = v_user_id;
  return jsonb_build_object('organization_id', p_organization_id, 'user_id', v_user_id);
end
$$;

comment on function private.leave_organization(uuid) is 'See public.leave_organization.';

create function private.remove_member(p_organization_id uuid, p_user_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_my_role text := private.enter_organization(p_organization_id, '{owner,admin}');
begin
  if private.touch_member(p_organization_id, p_user_id, v_my_role) = 'owner' then
    perform private.refuse_without_another_owner(p_organization_id, p_user_id);
  end if;
  delete from public.organization_members as m
  where m.organization_id = p_organization_id and m.user_id = p_user_id;
  return jsonb_build_object('organization_id', p_organization_id, 'user_id', p_user_id);
end
$$;

comment on function private.remove_member(uuid, uuid) is 'See public.remove_member.';

create function private.change_member_role(p_organization_id uuid, p_user_id uuid, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_my_role text := private.enter_organization(p_organization_id, '{owner,admin}');
  v_role text := private.touch_member(p_organization_id, p_user_id, v_my_role);
begin
  if coalesce(p_role, '') not in ('owner', 'admin', 'member') then
    perform private.fail(400, 'invalid_argument', 'A role is owner, admin or member.', '{"param": "role"}');
  elsif p_role = 'owner' and v_my_role <> 'owner' then
    perform private.fail(403, 'not_an_owner', 'Only an owner may make an owner.');
  elsif v_role = 'owner' and p_role <> 'owner' then
    perform private.refuse_without_another_owner(p_organization_id, p_user_id);
  end if;
  update public.organization_members as m set role = p_role
  where m.organization_id = p_organization_id and m.user_id = p_user_id;
  return jsonb_build_object('organization_id', p_organization_id, 'user_id', p_user_id, 'role', p_role);
end
$$;

comment on function private.change_member_role(uuid, uuid, text) is 'See public.change_member_role.';

create function private.set_member_budget(p_organization_id uuid, p_user_id uuid, p_budget numeric) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_my_role text := private.enter_organization(p_organization_id, '{owner,admin}');
  v_budget numeric;
begin
  perform private.touch_member(p_organization_id, p_user_id, v_my_role);
  -- 14 digits before the point is what numeric(20, 6) holds; NaN sorts above every number and fails here too.
  if p_budget < 0 or p_budget >= 1e14 - 1 then
    perform private.fail(400, 'invalid_amount', 'A budget is a number of credits from 0, or none.',
      '{"param": "budget"}');
  end if;
  update public.organization_members as m set monthly_credit_budget = p_budget
  where m.organization_id = p_organization_id and m.user_id = p_user_id
  returning m.monthly_credit_budget into v_budget;
  return jsonb_build_object(
    'organization_id', p_organization_id, 'user_id', p_user_id, 'monthly_credit_budget', v_budget);
end
$$;

comment on function private.set_member_budget(uuid, uuid, numeric) is 'See public.set_member_budget.';

-- ---------------------------------------------------------------------------------------------------------------
-- Functions: what clients call, each an invoker's wrapper over the kernel above
-- ---------------------------------------------------------------------------------------------------------------

create function public.create_organization(p_name text, p_slug text) returns jsonb
language sql set search_path = ''
as $$ select private.create_organization(p_name, p_slug) $$;

comment on function public.create_organization(text, text) is
'Makes an organization with the caller as its owner. Fails slug_taken, slug_reserved, organization_limit_reached.';

create function public.update_organization(
  p_organization_id uuid, p_name text default null, p_settings jsonb default null
) returns jsonb
language sql set search_path = ''
as $$ select private.update_organization(p_organization_id, p_name, p_settings) $$;

comment on function public.update_organization(uuid, text, jsonb) is
'Changes the name or the settings (replaced as a whole); null leaves either as it is. Owners and admins.';

create function public.organization_people(p_organization_id uuid) returns jsonb
language sql stable set search_path = ''
as $$ select private.organization_people(p_organization_id) $$;

comment on function public.organization_people(uuid) is
'The members of an organization to which the caller belongs: id, role, names, picture and when they joined, nothing else.';

create function public.invite_member(p_organization_id uuid, p_email text, p_role text default 'member') returns jsonb
language sql set search_path = ''
as $$ select private.invite_member(p_organization_id, p_email, p_role) $$;

comment on function public.invite_member(uuid, text, text) is
'Invites an address as admin or member, by email too, and returns a token, which is shown this once. An earlier invitation to the address ends. Owners and admins.';

create function public.accept_invitation(p_token text) returns jsonb
language sql set search_path = ''
as $$ select private.accept_invitation(p_token) $$;

comment on function public.accept_invitation(text) is
'Joins the organization, when the caller''s verified email address is the one invited and the plan has room.';

create function public.revoke_invitation(p_invitation_id uuid) returns jsonb
language sql set search_path = ''
as $$ select private.revoke_invitation(p_invitation_id) $$;

comment on function public.revoke_invitation(uuid) is 'Ends an invitation that was not accepted. Owners and admins.';

create function public.leave_organization(p_organization_id uuid) returns jsonb
language sql set search_path = ''
as $$ select private.leave_organization(p_organization_id) $$;

comment on function public.leave_organization(uuid) is 'Ends the caller''s membership; the last owner cannot.';

create function public.remove_member(p_organization_id uuid, p_user_id uuid) returns jsonb
language sql set search_path = ''
as $$ select private.remove_member(p_organization_id, p_user_id) $$;

comment on function public.remove_member(uuid, uuid) is
'Ends somebody''s membership. Owners and admins; owners only by owners, and never the last.';

create function public.change_member_role(p_organization_id uuid, p_user_id uuid, p_role text) returns jsonb
language sql set search_path = ''
as $$ select private.change_member_role(p_organization_id, p_user_id, p_role) $$;

comment on function public.change_member_role(uuid, uuid, text) is
'Makes a member owner, admin or member. Owners and admins; owners are made and changed only by owners, and one remains.';

create function public.set_member_budget(p_organization_id uuid, p_user_id uuid, p_budget numeric) returns jsonb
language sql set search_path = ''
as $$ select private.set_member_budget(p_organization_id, p_user_id, p_budget) $$;

comment on function public.set_member_budget(uuid, uuid, numeric) is
'Limits what a member may spend of the organization''s credits per calendar month (UTC); null for no limit. Owners and admins; an owner''s only by owners.';

grant execute on function public.create_organization(text, text) to authenticated;
grant execute on function public.update_organization(uuid, text, jsonb) to authenticated;
grant execute on function public.organization_people(uuid) to authenticated;
grant execute on function public.invite_member(uuid, text, text) to authenticated;
grant execute on function public.accept_invitation(text) to authenticated;
grant execute on function public.revoke_invitation(uuid) to authenticated;
grant execute on function public.leave_organization(uuid) to authenticated;
grant execute on function public.remove_member(uuid, uuid) to authenticated;
grant execute on function public.change_member_role(uuid, uuid, text) to authenticated;
grant execute on function public.set_member_budget(uuid, uuid, numeric) to authenticated;

grant execute on function private.create_organization(text, text) to authenticated;
grant execute on function private.update_organization(uuid, text, jsonb) to authenticated;
grant execute on function private.organization_people(uuid) to authenticated;
grant execute on function private.invite_member(uuid, text, text) to authenticated;
grant execute on function private.accept_invitation(text) to authenticated;
grant execute on function private.revoke_invitation(uuid) to authenticated;
grant execute on function private.leave_organization(uuid) to authenticated;
grant execute on function private.remove_member(uuid, uuid) to authenticated;
grant execute on function private.change_member_role(uuid, uuid, text) to authenticated;
grant execute on function private.set_member_budget(uuid, uuid, numeric) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- People who signed up before this migration
-- ---------------------------------------------------------------------------------------------------------------

do $$
begin
  perform private.follow_auth_user(u) from auth.users as u;
end
$$;
