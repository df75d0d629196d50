-- Notifications: what an owner is told about, by email and by signed outgoing webhooks.
--
--   private.notification_templates  what can be told: the name of an email's text and of a webhook's event type
--   private.notifications           what was told to whom: once per owner, template and key
--   private.email_deliveries        the emails of a notification, one per recipient; no addresses
--   public.webhook_endpoints        where an owner wants events sent; the signing secret is derived, never stored
--   public.webhook_deliveries       the events sent there, and what became of them
--
-- private.notify() is what other chapters call, in the transaction that made the news. It writes one delivery and one
-- task for each recipient and endpoint. A task carries the id of its delivery and nothing else; whom to write to, in
-- which language and by which name is read when the message is sent, so an erased or changed person is never written
-- to at an old address.
--
-- A delivery goes queued → sent | failed | suppressed. Suppressed means that there was nobody to tell any more, or
-- no way to. Handlers may run twice: what was sent or suppressed is not sent again.
--
-- Locks: an endpoint before its deliveries. Erasing a person locks their endpoints first, by trigger.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table private.notification_templates (
  name text primary key,
  is_transactional boolean not null,
  is_email boolean not null default true,
  is_event boolean not null default true,
  description text not null,
  constraint name_is_snake_case check (name ~ '^[a-z][a-z0-9_]{0,62}$')
);

comment on table private.notification_templates is 'What owners can be told. functions/notifications/texts.py has the texts.';
comment on column private.notification_templates.name is 'What it is called: by private.notify(), by the texts, and as a webhook''s event type.';
comment on column private.notification_templates.is_transactional is 'Whether the email is sent to people who switched notifications off.';
comment on column private.notification_templates.is_email is 'Whether there is an email.';
comment on column private.notification_templates.is_event is 'Whether webhook endpoints can subscribe to it.';
comment on column private.notification_templates.description is 'What has happened, in a sentence.';

insert into private.notification_templates (name, is_transactional, is_email, is_event, description) values
('invitation', true, true, false, 'Somebody is invited to an organization; sent to the invited address.'),
('receipt', true, true, true, 'A payment arrived.'),
('payment_failed', true, true, true, 'A payment was declined.'),
('invoice_overdue', true, true, true, 'An invoice is past its due date.'),
('subscription_expiring', true, true, true, 'A subscription comes to its end.'),
('usage_threshold', false, true, true, 'A share of a limit is used up.'),
('low_balance', false, true, true, 'Few credits are left.'),
('auto_top_up_stopped', true, true, true, 'An automatic top-up was switched off because money was given back.'),
('provider_key_invalid', true, true, true, 'A provider does not accept a key of the owner''s own.'),
('webhook_disabled', true, true, true, 'A webhook endpoint was switched off because it does not answer.'),
('ping', false, false, false, 'The owner of a webhook endpoint tries it out.');

create table private.notifications (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  template text not null references private.notification_templates (name),
  key text not null,
  facts jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint an_owner_is_told_once_per_key unique nulls not distinct (user_id, organization_id, template, key),
  constraint an_owner_is_a_user_or_an_organization check (num_nonnulls(user_id, organization_id) = 1),
  constraint key_is_not_empty check (length(key) between 1 and 300),
  constraint facts_are_an_object check (jsonb_typeof(facts) = 'object'),
  constraint facts_are_small check (private.json_size(facts) <= 16384)
);

comment on table private.notifications is 'What owners were told: once per owner, template and key. Goes with its owner, and after notification_retention_days.';
comment on column private.notifications.id is 'Identifies the notification.';
comment on column private.notifications.user_id is 'Who is told, when it is a person.';
comment on column private.notifications.organization_id is 'Who is told, when it is an organization: its owners and admins, and its webhook endpoints.';
comment on column private.notifications.template is 'What they are told.';
comment on column private.notifications.key is 'What makes this one different from others of its template: the id of its cause.';
comment on column private.notifications.facts is 'What the text and the event are filled in with. No names and no addresses.';
comment on column private.notifications.created_at is 'When it happened.';

create index notifications_by_organization on private.notifications (organization_id, template, created_at);
create index notifications_by_template on private.notifications (template);
create index notifications_to_purge on private.notifications (created_at);

create table private.email_deliveries (
  id uuid primary key default private.uuid7(),
  notification_id uuid not null references private.notifications (id) on delete cascade,
  user_id uuid references public.profiles (id) on delete cascade,
  invitation_id uuid references public.organization_invitations (id) on delete cascade,
  status text not null default 'queued',
  attempts integer not null default 0,
  reason text,
  provider_reply text,
  created_at timestamptz not null default now(),
  sent_at timestamptz,
  updated_at timestamptz not null default now(),
  constraint a_recipient_is_a_user_or_somebody_invited check (num_nonnulls(user_id, invitation_id) = 1),
  constraint nobody_gets_a_notification_twice
  unique nulls not distinct (notification_id, user_id, invitation_id),
  constraint status_is_known check (status in ('queued', 'sent', 'failed', 'suppressed')),
  constraint attempts_are_not_negative check (attempts >= 0),
  constraint a_sent_email_says_when check ((status = 'sent') = (sent_at is not null)),
  constraint an_email_that_was_not_sent_says_why check (status not in ('failed', 'suppressed') or reason is not null),
  constraint reason_is_a_code check (reason ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint provider_reply_is_short_and_holds_no_address
  check (length(provider_reply) between 1 and 200 and provider_reply !~ '@')
);

comment on table private.email_deliveries is 'Emails: to whom by id, never by address, and what became of each.';
comment on column private.email_deliveries.id is 'Identifies the email; the left half of its Message-ID.';
comment on column private.email_deliveries.notification_id is 'What it tells.';
comment on column private.email_deliveries.user_id is 'Who gets it.';
comment on column private.email_deliveries.invitation_id is 'The invitation whose address gets it.';
comment on column private.email_deliveries.status is 'queued, sent, failed (refused, or tried too often) or suppressed (nobody to write to).';
comment on column private.email_deliveries.attempts is 'Times it was tried.';
comment on column private.email_deliveries.reason is 'Why it was not sent, or not yet, as a code.';
comment on column private.email_deliveries.provider_reply is 'What the mail server answered, which names the message there; without addresses.';
comment on column private.email_deliveries.created_at is 'When it was asked for.';
comment on column private.email_deliveries.sent_at is 'When the mail server took it.';
comment on column private.email_deliveries.updated_at is 'When anything in the row last changed.';

create index email_deliveries_by_user on private.email_deliveries (user_id);
create index email_deliveries_by_invitation on private.email_deliveries (invitation_id);
create index email_deliveries_to_sweep on private.email_deliveries (created_at) where status = 'queued';

create table public.webhook_endpoints (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  url text not null,
  description text,
  event_types text[],
  is_active boolean not null default true,
  secret_version integer not null default 1,
  secret_rotated_at timestamptz,
  consecutive_failures integer not null default 0,
  disabled_at timestamptz,
  disabled_reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint an_owner_is_a_user_or_an_organization check (num_nonnulls(user_id, organization_id) = 1),
  constraint url_is_https check (url ~* '^https://\S+$' and char_length(url) <= 2048),
  constraint description_is_short check (char_length(description) between 1 and 200),
  constraint event_types_are_named_or_all
  check (cardinality(event_types) between 1 and 50 and array_position(event_types, null) is null),
  constraint secret_version_counts_from_one check (secret_version >= 1),
  constraint consecutive_failures_are_not_negative check (consecutive_failures >= 0),
  constraint a_disabled_endpoint_says_why check ((disabled_at is null) = (disabled_reason is null)),
  constraint an_active_endpoint_is_not_disabled check (not is_active or disabled_at is null),
  constraint disabled_reason_is_known check (disabled_reason in ('gone', 'failing'))
);

comment on table public.webhook_endpoints is 'Where an owner wants events sent. Written through functions only, because the URL is vetted.';
comment on column public.webhook_endpoints.id is 'Identifies the endpoint.';
comment on column public.webhook_endpoints.user_id is 'Whose it is, when it is a person''s.';
comment on column public.webhook_endpoints.organization_id is 'Whose it is, when it is an organization''s.';
comment on column public.webhook_endpoints.url is 'Where events are posted: https, and public at every delivery.';
comment on column public.webhook_endpoints.description is 'The owner''s note.';
comment on column public.webhook_endpoints.event_types is 'Which events; null for all, those of later versions included.';
comment on column public.webhook_endpoints.is_active is 'Whether events are sent.';
comment on column public.webhook_endpoints.secret_version is 'Which signing secret is in use. The secret is derived from the id and this number.';
comment on column public.webhook_endpoints.secret_rotated_at is 'When the version last changed; the one before signs as well for webhook_rotation_hours.';
comment on column public.webhook_endpoints.consecutive_failures is 'Events given up since the last that was delivered.';
comment on column public.webhook_endpoints.disabled_at is 'When it was switched off by us; null when it is active or its owner did it.';
comment on column public.webhook_endpoints.disabled_reason is 'Why: gone (it answered 410) or failing (too many events given up).';
comment on column public.webhook_endpoints.created_at is 'When it was made.';
comment on column public.webhook_endpoints.updated_at is 'When anything in the row last changed.';

create index webhook_endpoints_by_user on public.webhook_endpoints (user_id);
create index webhook_endpoints_by_organization on public.webhook_endpoints (organization_id);

create table public.webhook_deliveries (
  id uuid primary key default private.uuid7(),
  endpoint_id uuid not null references public.webhook_endpoints (id) on delete cascade,
  notification_id uuid not null references private.notifications (id) on delete cascade,
  event_type text not null,
  status text not null default 'queued',
  attempts integer not null default 0,
  response_status integer,
  reason text,
  created_at timestamptz not null default now(),
  sent_at timestamptz,
  updated_at timestamptz not null default now(),
  constraint an_endpoint_gets_a_notification_once unique (notification_id, endpoint_id),
  constraint status_is_known check (status in ('queued', 'sent', 'failed', 'suppressed')),
  constraint attempts_are_not_negative check (attempts >= 0),
  constraint response_status_has_three_digits check (response_status between 100 and 999),
  constraint a_sent_event_says_when check ((status = 'sent') = (sent_at is not null)),
  constraint an_event_that_was_not_sent_says_why check (status not in ('failed', 'suppressed') or reason is not null),
  constraint reason_is_a_code check (reason ~ '^[a-z][a-z0-9_]{0,62}$')
);

comment on table public.webhook_deliveries is 'Events for webhook endpoints, and what became of them. What they say is in private.notifications.';
comment on column public.webhook_deliveries.id is 'Identifies the delivery; the webhook-id of its message, the same at every attempt.';
comment on column public.webhook_deliveries.endpoint_id is 'Where it goes.';
comment on column public.webhook_deliveries.notification_id is 'What it tells.';
comment on column public.webhook_deliveries.event_type is 'What has happened; the template of the notification.';
comment on column public.webhook_deliveries.status is 'queued, sent (answered with 2xx), failed or suppressed (the endpoint is switched off).';
comment on column public.webhook_deliveries.attempts is 'Times it was tried.';
comment on column public.webhook_deliveries.response_status is 'HTTP status of the latest answer; null when there was none.';
comment on column public.webhook_deliveries.reason is 'Why it was not sent, or not yet, as a code.';
comment on column public.webhook_deliveries.created_at is 'When it was asked for.';
comment on column public.webhook_deliveries.sent_at is 'When the endpoint took it.';
comment on column public.webhook_deliveries.updated_at is 'When anything in the row last changed.';

create index webhook_deliveries_by_endpoint on public.webhook_deliveries (endpoint_id, created_at desc);
create index webhook_deliveries_to_sweep on public.webhook_deliveries (created_at) where status = 'queued';

-- ---------------------------------------------------------------------------------------------------------------
-- Grants: owners read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.webhook_endpoints to authenticated, service_role;
grant select on public.webhook_deliveries to authenticated, service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Row level security
-- ---------------------------------------------------------------------------------------------------------------

alter table private.notification_templates enable row level security;
alter table private.notifications enable row level security;
alter table private.email_deliveries enable row level security;
alter table public.webhook_endpoints enable row level security;
alter table public.webhook_deliveries enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger email_deliveries_touch_updated_at
before update on private.email_deliveries
for each row execute function private.touch_updated_at();

create trigger webhook_endpoints_touch_updated_at
before update on public.webhook_endpoints
for each row execute function private.touch_updated_at();

create trigger webhook_deliveries_touch_updated_at
before update on public.webhook_deliveries
for each row execute function private.touch_updated_at();

create function private.lock_webhook_endpoints_of_leaver() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform e.id from public.webhook_endpoints as e where e.user_id = old.id order by e.id for update;
  return old;
end
$$;

comment on function private.lock_webhook_endpoints_of_leaver() is
'Trigger: before a profile goes, locks its webhook endpoints, and only then do the foreign keys reach their deliveries: the order in which a delivery is reported.';

create trigger webhook_endpoints_are_locked_before_their_owner_is_erased
before delete on public.profiles
for each row execute function private.lock_webhook_endpoints_of_leaver();

-- ---------------------------------------------------------------------------------------------------------------
-- Policies
-- ---------------------------------------------------------------------------------------------------------------

create policy "Owners read their webhook endpoints and admins those of their organizations"
on public.webhook_endpoints for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Whoever reads an endpoint reads what was sent there"
on public.webhook_deliveries for select to authenticated
using (endpoint_id in (select e.id from public.webhook_endpoints as e));

-- ---------------------------------------------------------------------------------------------------------------
-- Settings
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
('invitation_emails_per_organization', '100', 'Invitation emails that an organization sends in 24 hours at most.'),
('invitation_emails_per_address', '3', 'Invitation emails that an address gets in 24 hours at most.'),
('max_webhook_endpoints', '10', 'Webhook endpoints of one owner.'),
('webhook_max_failures', '5', 'Events given up in a row after which an endpoint is switched off.'),
('webhook_pings_per_hour', '10', 'Pings of one owner''s webhook endpoints per hour.'),
('webhook_rotation_hours', '24', 'Hours during which the signing secret before the present one signs as well.'),
('notification_retention_days', '400', 'Days that notifications are kept; for so long a key is told once.');

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel: telling an owner
-- ---------------------------------------------------------------------------------------------------------------

create function private.email_refusal(p_profile public.profiles, p_is_transactional boolean) returns text
language sql immutable set search_path = ''
as $$
  select case
    when not p_profile.is_active then 'suspended'
    when p_profile.email is null then 'no_address'
    when p_profile.email_verified_at is null then 'unverified'
    when not (p_is_transactional or p_profile.notifications_enabled) then 'opted_out'
  end
$$;

comment on function private.email_refusal(public.profiles, boolean) is
'Why a person is not written to, as a code; null when they are.';

create function private.queue_email(p_notification_id uuid, p_user_id uuid, p_invitation_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id uuid;
begin
  insert into private.email_deliveries (notification_id, user_id, invitation_id)
  values (p_notification_id, p_user_id, p_invitation_id)
  returning id into v_id;
  perform private.task_enqueue('email', jsonb_build_object('delivery_id', v_id), v_id::text);
end
$$;

comment on function private.queue_email(uuid, uuid, uuid) is
'Asks for the email of a notification to a user or to an invited address.';

create function private.queue_event(p_notification_id uuid, p_endpoint_id uuid, p_event_type text) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id uuid;
begin
  insert into public.webhook_deliveries (notification_id, endpoint_id, event_type)
  values (p_notification_id, p_endpoint_id, p_event_type)
  returning id into v_id;
  perform private.task_enqueue('webhook', jsonb_build_object('delivery_id', v_id), v_id::text);
  return v_id;
end
$$;

comment on function private.queue_event(uuid, uuid, text) is 'Asks for an event to be sent to an endpoint; its delivery.';

create function private.notify(
  p_user_id uuid, p_organization_id uuid, p_template text, p_facts jsonb, p_key text
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_template private.notification_templates;
  v_notification_id uuid;
  v_recipient_id uuid;
  v_endpoint_id uuid;
begin
  select t.* into v_template from private.notification_templates as t where t.name = p_template;
  if v_template.name is null then
    raise exception 'there is no notification template %', p_template using errcode = 'invalid_parameter_value';
  elsif num_nonnulls(p_user_id, p_organization_id) = 2 then
    raise exception 'a notification is for a user or an organization' using errcode = 'invalid_parameter_value';
  end if;

  -- An owner who is being erased is not waited for: the caller may hold what the eraser waits for. It also finds
  -- nobody where the owner is null, as that of an account is whose owner was erased.
  if p_organization_id is null then
    perform p.id from public.profiles as p where p.id = p_user_id for key share skip locked;
  else
    perform o.id from public.organizations as o where o.id = p_organization_id for key share skip locked;
  end if;
  if not found then
    return;
  end if;

  insert into private.notifications (user_id, organization_id, template, key, facts)
  values (p_user_id, p_organization_id, p_template, p_key, coalesce(p_facts, '{}'::jsonb))
  on conflict do nothing
  returning id into v_notification_id;
  if v_notification_id is null then
    return;
  end if;

  if v_template.is_email then
    for v_recipient_id in
      select p.id
      from public.profiles as p
      where p.id in (
          select p_user_id
          union all
          select m.user_id
          from public.organization_members as m
          where m.organization_id = p_organization_id and m.role in ('owner', 'admin')
        )
        and private.email_refusal(p, v_template.is_transactional) is null
      order by p.id
      for key share of p skip locked
    loop
      perform private.queue_email(v_notification_id, v_recipient_id, null);
    end loop;
  end if;

  if v_template.is_event then
    for v_endpoint_id in
      select e.id
      from public.webhook_endpoints as e
      where (e.user_id = p_user_id or e.organization_id = p_organization_id)
        and e.is_active
        and (e.event_types is null or p_template = any(e.event_types))
      order by e.id
      for key share of e skip locked
    loop
      perform private.queue_event(v_notification_id, v_endpoint_id, p_template);
    end loop;
  end if;
end
$$;

comment on function private.notify(uuid, uuid, text, jsonb, text) is
'Tells a user, or the owners and admins of an organization, by email and webhook, after this transaction. Same owner, template and key: once. No owner, or one who is going: nobody. Facts hold no names and no addresses.';

create function private.notify_invited(p_invitation public.organization_invitations) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_notification_id uuid;
begin
  -- An invitation reaches somebody who has asked for nothing, so it is no way to send many messages. Without an
  -- email it works all the same: its inviter has a token.
  if (
    select count(*)
    from private.notifications as n
    where n.organization_id = p_invitation.organization_id and n.template = 'invitation'
      and n.created_at > now() - interval '24 hours'
  ) >= (private.setting('invitation_emails_per_organization'))::integer
  or (
    select count(*)
    from public.organization_invitations as i
    inner join private.email_deliveries as d on i.id = d.invitation_id
    where i.email = p_invitation.email and d.created_at > now() - interval '24 hours'
  ) >= (private.setting('invitation_emails_per_address'))::integer then
    return;
  end if;
  insert into private.notifications (organization_id, template, key)
  values (p_invitation.organization_id, 'invitation', p_invitation.id::text)
  returning id into v_notification_id;
  perform private.queue_email(v_notification_id, null, p_invitation.id);
end
$$;

comment on function private.notify_invited(public.organization_invitations) is
'Sends an invitation to the address that is invited, within the limits of the settings.';

create function private.is_last_attempt(p_kind text, p_delivery_id uuid) returns boolean
language sql stable security definer set search_path = ''
as $$
  select exists (
    select
    from private.tasks as t
    where t.kind = p_kind and t.key = p_delivery_id::text and t.status in ('queued', 'running')
      and t.attempts >= t.max_attempts
  )
$$;

comment on function private.is_last_attempt(text, uuid) is
'Whether the task of a delivery will not be tried again after the attempt that runs now.';

-- ---------------------------------------------------------------------------------------------------------------
-- For the worker: email
-- ---------------------------------------------------------------------------------------------------------------

create function private.shown_name(p_profile public.profiles) returns text
language sql immutable set search_path = ''
as $$
  select coalesce(
    nullif(btrim(p_profile.full_name), ''),
    nullif(btrim(concat_ws(' ', p_profile.first_name, p_profile.last_name)), '')
  )
$$;

comment on function private.shown_name(public.profiles) is 'How a person is called; null when they did not say.';

create function private.user_recipient(
  p_user_id uuid, p_organization_id uuid, p_is_transactional boolean
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_profile public.profiles;
  v_refusal text;
  v_organization public.organizations;
begin
  select p.* into v_profile from public.profiles as p where p.id = p_user_id;
  v_refusal := private.email_refusal(v_profile, p_is_transactional);
  if v_refusal is null and p_organization_id is not null then
    select o.* into v_organization
    from public.organizations as o
    inner join public.organization_members as m on o.id = m.organization_id
    where o.id = p_organization_id and m.user_id = p_user_id and m.role in ('owner', 'admin');
    v_refusal := case
      when v_organization.id is null then 'not_an_admin' when not v_organization.is_active then 'suspended'
    end;
  end if;
  if v_refusal is not null then
    return jsonb_build_object('reason', v_refusal);
  end if;
  return jsonb_build_object(
    'address', v_profile.email, 'name', private.shown_name(v_profile), 'language', v_profile.language,
    'facts', jsonb_strip_nulls(jsonb_build_object('organization', v_organization.name)));
end
$$;

comment on function private.user_recipient(uuid, uuid, boolean) is
'Address, name and language of a user as they are now, with the name of the organization they are told for; or the reason why they are not written to.';

create function private.invitation_recipient(p_invitation_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_invitation public.organization_invitations;
  v_organization public.organizations;
  v_inviter public.profiles;
  v_language text;
  v_token text := 'qi_' || private.random_token();
begin
  select i.* into v_invitation
  from public.organization_invitations as i where i.id = p_invitation_id for key share;
  select o.* into v_organization from public.organizations as o where o.id = v_invitation.organization_id;
  if v_invitation.revoked_at is not null or v_invitation.accepted_at is not null or v_invitation.expires_at <= now() then
    return jsonb_build_object('reason', 'invitation_over');
  elsif not v_organization.is_active then
    return jsonb_build_object('reason', 'suspended');
  end if;
  select p.* into v_inviter from public.profiles as p where p.id = v_invitation.invited_by;
  select p.language into v_language
  from public.profiles as p
  where lower(p.email) = v_invitation.email and p.email_verified_at is not null
  order by p.created_at
  limit 1;

  -- A token of its own, in place of the one of an earlier attempt: only hashes are kept, so the inviter's cannot be
  -- told again.
  insert into private.organization_invitation_tokens (invitation_id, purpose, token_hash)
  values (p_invitation_id, 'email', sha256(convert_to(v_token, 'UTF8')))
  on conflict (invitation_id, purpose) do update set token_hash = excluded.token_hash;
  return jsonb_build_object(
    'address', v_invitation.email, 'name', null, 'language', coalesce(v_language, v_inviter.language, 'fr'),
    'facts', jsonb_strip_nulls(jsonb_build_object(
      'organization', v_organization.name, 'inviter', private.shown_name(v_inviter), 'role', v_invitation.role,
      'expires_at', v_invitation.expires_at, 'token', v_token)));
end
$$;

comment on function private.invitation_recipient(uuid) is
'Address and language for an invitation with a new token for its email, which replaces that of an earlier attempt; or the reason why it is not sent.';

create function backend.email_prepare(p_delivery_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_delivery private.email_deliveries;
  v_notification private.notifications;
  v_is_transactional boolean;
  v_recipient jsonb;
begin
  -- The invitation before its delivery, as an erasure does: its email's new token refers to it.
  perform i.id
  from private.email_deliveries as d
  inner join public.organization_invitations as i on i.id = d.invitation_id
  where d.id = p_delivery_id
  for key share of i;
  select d.* into v_delivery from private.email_deliveries as d where d.id = p_delivery_id for update;
  if v_delivery.id is null then
    -- It went with its recipient.
    return jsonb_build_object('status', 'suppressed', 'reason', 'erased');
  elsif v_delivery.status in ('sent', 'suppressed') then
    return jsonb_build_object('status', v_delivery.status, 'reason', v_delivery.reason);
  end if;
  select n.* into v_notification from private.notifications as n where n.id = v_delivery.notification_id;
  select t.is_transactional into v_is_transactional
  from private.notification_templates as t where t.name = v_notification.template;
  v_recipient := case
    when v_delivery.invitation_id is not null then private.invitation_recipient(v_delivery.invitation_id)
    else private.user_recipient(v_delivery.user_id, v_notification.organization_id, v_is_transactional)
  end;
  if v_recipient ? 'reason' then
    update private.email_deliveries as d
    set status = 'suppressed', reason = v_recipient ->> 'reason'
    where d.id = p_delivery_id;
    return jsonb_build_object('status', 'suppressed', 'reason', v_recipient ->> 'reason');
  end if;
  update private.email_deliveries as d
  set status = 'queued', attempts = d.attempts + 1
  where d.id = p_delivery_id;
  return jsonb_build_object(
    'status', 'queued', 'address', v_recipient ->> 'address', 'name', v_recipient ->> 'name',
    'language', v_recipient ->> 'language', 'template', v_notification.template,
    'is_transactional', v_is_transactional, 'facts', v_notification.facts || (v_recipient -> 'facts'));
end
$$;

comment on function backend.email_prepare(uuid) is
'Begins an attempt to send an email: status queued with address, name, language, template and facts as they are now; or why there is nothing to send (sent already, suppressed). An invitation gets a new token for its email.';

create function backend.email_report(
  p_delivery_id uuid, p_status text, p_reason text default null, p_reply text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_status text := p_status;
begin
  if coalesce(p_status, '') not in ('queued', 'sent', 'failed', 'suppressed') then
    perform private.fail(400, 'invalid_argument', 'An email is queued, sent, failed or suppressed.',
      '{"param": "status"}');
  end if;
  if p_status = 'queued' and private.is_last_attempt('email', p_delivery_id) then
    v_status := 'failed';
  end if;
  update private.email_deliveries as d
  set status = v_status, reason = p_reason,
    sent_at = case when v_status = 'sent' then now() end,
    -- Some servers repeat the address.
    provider_reply = nullif(left(regexp_replace(p_reply, '\S*@\S*', '…', 'g'), 200), '')
  where d.id = p_delivery_id and d.status not in ('sent', 'suppressed');
  return jsonb_build_object('status', v_status);
end
$$;

comment on function backend.email_report(uuid, text, text, text) is
'Records how an attempt ended: sent, failed for good, suppressed, or queued to be tried again, which is failed when it was the last.';

-- ---------------------------------------------------------------------------------------------------------------
-- For the worker: webhooks
-- ---------------------------------------------------------------------------------------------------------------

create function backend.webhook_prepare(p_delivery_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_delivery public.webhook_deliveries;
  v_endpoint public.webhook_endpoints;
  v_notification private.notifications;
  v_reason text;
begin
  select d.* into v_delivery from public.webhook_deliveries as d where d.id = p_delivery_id for update;
  if v_delivery.id is null then
    return jsonb_build_object('status', 'suppressed', 'reason', 'erased');
  elsif v_delivery.status in ('sent', 'suppressed') then
    return jsonb_build_object('status', v_delivery.status, 'reason', v_delivery.reason);
  end if;
  select e.* into v_endpoint from public.webhook_endpoints as e where e.id = v_delivery.endpoint_id;
  select n.* into v_notification from private.notifications as n where n.id = v_delivery.notification_id;
  v_reason := case
    when not v_endpoint.is_active then 'disabled'
    when exists (select from public.profiles as p where p.id = v_endpoint.user_id and not p.is_active)
      or exists (select from public.organizations as o where o.id = v_endpoint.organization_id and not o.is_active)
      then 'suspended'
  end;
  if v_reason is not null then
    update public.webhook_deliveries as d set status = 'suppressed', reason = v_reason where d.id = p_delivery_id;
    return jsonb_build_object('status', 'suppressed', 'reason', v_reason);
  end if;
  update public.webhook_deliveries as d
  set status = 'queued', attempts = d.attempts + 1
  where d.id = p_delivery_id;
  return jsonb_build_object(
    'status', 'queued', 'endpoint_id', v_endpoint.id, 'url', v_endpoint.url,
    'secret_versions', case
      when v_endpoint.secret_rotated_at
        > now() - make_interval(hours => (private.setting('webhook_rotation_hours'))::integer)
        then jsonb_build_array(v_endpoint.secret_version, v_endpoint.secret_version - 1)
      else jsonb_build_array(v_endpoint.secret_version)
    end,
    'type', v_delivery.event_type, 'timestamp', v_notification.created_at,
    'data', v_notification.facts || jsonb_strip_nulls(jsonb_build_object(
      'user_id', v_notification.user_id, 'organization_id', v_notification.organization_id)));
end
$$;

comment on function backend.webhook_prepare(uuid) is
'Begins an attempt to send an event: status queued with URL, versions of the secret, type, timestamp and data; or why there is nothing to send.';

create function private.disable_webhook_endpoint(p_endpoint public.webhook_endpoints, p_reason text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.webhook_endpoints as e
  set is_active = false, disabled_at = now(), disabled_reason = p_reason
  where e.id = p_endpoint.id and e.is_active;
  if not found then
    return;
  end if;
  perform private.notify(
    p_endpoint.user_id, p_endpoint.organization_id, 'webhook_disabled',
    jsonb_build_object(
      'endpoint_id', p_endpoint.id, 'host', substring(p_endpoint.url from '(?i)^https://([^/?#]+)'), 'reason', p_reason),
    p_endpoint.id || ':' || now());
end
$$;

comment on function private.disable_webhook_endpoint(public.webhook_endpoints, text) is
'Switches a locked endpoint off and tells its owner.';

create function backend.webhook_report(
  p_delivery_id uuid, p_status text, p_response_status integer default null, p_reason text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_endpoint public.webhook_endpoints;
  v_status text := p_status;
begin
  if coalesce(p_status, '') not in ('queued', 'sent', 'suppressed') then
    perform private.fail(400, 'invalid_argument', 'An event is queued, sent or suppressed.', '{"param": "status"}');
  end if;
  select e.* into v_endpoint
  from public.webhook_deliveries as d
  inner join public.webhook_endpoints as e on d.endpoint_id = e.id
  where d.id = p_delivery_id
  for no key update of e;
  if v_endpoint.id is null then
    return jsonb_build_object('status', 'suppressed');
  end if;
  -- 410 Gone: the receiver wants no more of it (Standard Webhooks).
  if p_status = 'queued' and (p_response_status = 410 or private.is_last_attempt('webhook', p_delivery_id)) then
    v_status := 'failed';
  end if;
  update public.webhook_deliveries as d
  set status = v_status, reason = p_reason, response_status = p_response_status,
    sent_at = case when v_status = 'sent' then now() end
  where d.id = p_delivery_id and d.status not in ('sent', 'suppressed');
  if not found then
    return jsonb_build_object('status', v_status);
  end if;

  if v_status = 'sent' and v_endpoint.consecutive_failures > 0 then
    update public.webhook_endpoints as e set consecutive_failures = 0 where e.id = v_endpoint.id;
  elsif v_status = 'failed' then
    update public.webhook_endpoints as e
    set consecutive_failures = e.consecutive_failures + 1
    where e.id = v_endpoint.id
    returning e.* into v_endpoint;
    if p_response_status = 410 then
      perform private.disable_webhook_endpoint(v_endpoint, 'gone');
    elsif v_endpoint.consecutive_failures >= (private.setting('webhook_max_failures'))::integer then
      perform private.disable_webhook_endpoint(v_endpoint, 'failing');
    end if;
  end if;
  return jsonb_build_object('status', v_status);
end
$$;

comment on function backend.webhook_report(uuid, text, integer, text) is
'Records how an attempt ended: sent, suppressed, or queued to be tried again, which is failed when it was the last or answered 410. Switches off an endpoint that is gone or keeps failing.';

-- ---------------------------------------------------------------------------------------------------------------
-- For the API: webhook endpoints
-- ---------------------------------------------------------------------------------------------------------------

create function private.webhook_endpoint_json(p_endpoint public.webhook_endpoints) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_endpoint.id, 'user_id', p_endpoint.user_id, 'organization_id', p_endpoint.organization_id,
    'url', p_endpoint.url, 'description', p_endpoint.description, 'event_types', p_endpoint.event_types,
    'is_active', p_endpoint.is_active, 'secret_version', p_endpoint.secret_version,
    'secret_rotated_at', p_endpoint.secret_rotated_at, 'consecutive_failures', p_endpoint.consecutive_failures,
    'disabled_at', p_endpoint.disabled_at, 'disabled_reason', p_endpoint.disabled_reason,
    'created_at', p_endpoint.created_at, 'updated_at', p_endpoint.updated_at)
$$;

comment on function private.webhook_endpoint_json(public.webhook_endpoints) is 'An endpoint as its owner is answered.';

create function private.require_webhook_owner(p_user_id uuid, p_organization text) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_organization is not null then
    return private.require_admin(p_user_id, p_organization);
  elsif not exists (select from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return null;
end
$$;

comment on function private.require_webhook_owner(uuid, text) is
'Id of the organization the person administers, null for the person alone; 403 account_suspended, not_a_member, not_an_admin.';

create function private.find_webhook_endpoint(p_user_id uuid, p_endpoint_id uuid) returns public.webhook_endpoints
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_endpoint public.webhook_endpoints;
begin
  perform private.require_webhook_owner(p_user_id, null);
  select e.* into v_endpoint
  from public.webhook_endpoints as e
  where e.id = p_endpoint_id
    and (
      e.user_id = p_user_id
      or exists (
        select
        from public.organization_members as m
        inner join public.organizations as o on m.organization_id = o.id
        where o.id = e.organization_id and o.is_active and m.user_id = p_user_id and m.role in ('owner', 'admin')
      )
    )
  for no key update of e;
  if v_endpoint.id is null then
    perform private.fail(404, 'webhook_endpoint_not_found', 'There is no such webhook endpoint.');
  end if;
  return v_endpoint;
end
$$;

comment on function private.find_webhook_endpoint(uuid, uuid) is
'Locks an endpoint of the person or of an organization they administer; to anybody else it does not exist (404 webhook_endpoint_not_found).';

create function private.require_event_types(p_event_types text[]) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if cardinality(p_event_types) not between 1 and 50
    or exists (
      select
      from unnest(p_event_types) as u (name)
      where not exists (select from private.notification_templates as t where t.name = u.name and t.is_event)
    ) then
    perform private.fail(400, 'invalid_argument', 'Event types are a list of known ones, or null for all.',
      '{"param": "event_types"}');
  end if;
end
$$;

comment on function private.require_event_types(text[]) is
'Refuses a list of event types that is empty or names an unknown one (400 invalid_argument); null is all.';

create function backend.webhook_endpoint_create(
  p_user_id uuid,
  p_url text,
  p_description text default null,
  p_event_types text[] default null,
  p_organization text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_organization_id uuid := private.require_webhook_owner(p_user_id, p_organization);
  v_limit integer := (private.setting('max_webhook_endpoints'))::integer;
  v_count integer;
  v_endpoint public.webhook_endpoints;
begin
  perform private.require_event_types(p_event_types);
  -- The lock makes the count true until this transaction ends.
  if v_organization_id is null then
    perform p.id from public.profiles as p where p.id = p_user_id for no key update;
  else
    perform o.id from public.organizations as o where o.id = v_organization_id for no key update;
  end if;
  select count(*) into v_count
  from public.webhook_endpoints as e
  where case
    when v_organization_id is null then e.user_id = p_user_id
    else e.organization_id = v_organization_id
  end;
  if v_count >= v_limit then
    perform private.fail(403, 'webhook_limit_reached', format('There may be %s webhook endpoints.', v_limit),
      jsonb_build_object(
        'limit_source', 'settings.max_webhook_endpoints', 'required', v_count + 1, 'available', v_limit,
        'remedy', 'delete_webhook_endpoints'));
  end if;
  insert into public.webhook_endpoints (user_id, organization_id, url, description, event_types)
  values (
    case when v_organization_id is null then p_user_id end, v_organization_id, p_url,
    nullif(btrim(p_description), ''), p_event_types
  )
  returning * into v_endpoint;
  return private.webhook_endpoint_json(v_endpoint);
end
$$;

comment on function backend.webhook_endpoint_create(uuid, text, text, text[], text) is
'Makes an endpoint for a user, or for an organization they administer. The caller has vetted the URL. 403 webhook_limit_reached.';

create function backend.webhook_endpoint_list(p_user_id uuid, p_organization text default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_organization_id uuid := private.require_webhook_owner(p_user_id, p_organization);
begin
  return (
    select coalesce(jsonb_agg(private.webhook_endpoint_json(e) order by e.created_at, e.id), '[]'::jsonb)
    from public.webhook_endpoints as e
    where case
      when v_organization_id is null then e.user_id = p_user_id
      else e.organization_id = v_organization_id
    end
  );
end
$$;

comment on function backend.webhook_endpoint_list(uuid, text) is
'The endpoints of a user, or of an organization they administer, oldest first.';

create function backend.webhook_endpoint_read(p_user_id uuid, p_endpoint_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.webhook_endpoint_json(private.find_webhook_endpoint(p_user_id, p_endpoint_id)) $$;

comment on function backend.webhook_endpoint_read(uuid, uuid) is
'An endpoint of a user or of an organization they administer. 404 webhook_endpoint_not_found.';

create function backend.webhook_endpoint_update(p_user_id uuid, p_endpoint_id uuid, p_changes jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_endpoint public.webhook_endpoints := private.find_webhook_endpoint(p_user_id, p_endpoint_id);
begin
  if jsonb_typeof(p_changes -> 'event_types') = 'array' then
    v_endpoint.event_types := array(select jsonb_array_elements_text(p_changes -> 'event_types'));
    perform private.require_event_types(v_endpoint.event_types);
  elsif p_changes ? 'event_types' then
    v_endpoint.event_types := null;
  end if;
  if p_changes ? 'description' then
    v_endpoint.description := nullif(btrim(p_changes ->> 'description'), '');
  end if;
  v_endpoint.is_active := coalesce((p_changes ->> 'is_active')::boolean, v_endpoint.is_active);
  v_endpoint.url := coalesce(p_changes ->> 'url', v_endpoint.url);
  update public.webhook_endpoints as e
  set url = v_endpoint.url, description = v_endpoint.description, event_types = v_endpoint.event_types,
    is_active = v_endpoint.is_active,
    -- Switched on again, or moved: what happened before does not count against it.
    consecutive_failures = case
      when (v_endpoint.is_active and not e.is_active) or v_endpoint.url <> e.url then 0
      else e.consecutive_failures
    end,
    disabled_at = case when not v_endpoint.is_active then e.disabled_at end,
    disabled_reason = case when not v_endpoint.is_active then e.disabled_reason end
  where e.id = p_endpoint_id
  returning e.* into v_endpoint;
  return private.webhook_endpoint_json(v_endpoint);
end
$$;

comment on function backend.webhook_endpoint_update(uuid, uuid, jsonb) is
'Changes what the object names of url (vetted by the caller), description, event_types and is_active; true switches an endpoint on again that was switched off.';

create function backend.webhook_endpoint_rotate(p_user_id uuid, p_endpoint_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_endpoint public.webhook_endpoints := private.find_webhook_endpoint(p_user_id, p_endpoint_id);
begin
  update public.webhook_endpoints as e
  set secret_version = e.secret_version + 1, secret_rotated_at = now()
  where e.id = p_endpoint_id
  returning e.* into v_endpoint;
  return private.webhook_endpoint_json(v_endpoint);
end
$$;

comment on function backend.webhook_endpoint_rotate(uuid, uuid) is
'Gives an endpoint a new signing secret; the one before signs as well for webhook_rotation_hours.';

create function backend.webhook_endpoint_delete(p_user_id uuid, p_endpoint_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.find_webhook_endpoint(p_user_id, p_endpoint_id);
  delete from public.webhook_endpoints as e where e.id = p_endpoint_id;
  return jsonb_build_object('id', p_endpoint_id);
end
$$;

comment on function backend.webhook_endpoint_delete(uuid, uuid) is
'Deletes an endpoint with its deliveries; what was queued for it is not sent.';

create function backend.webhook_endpoint_ping(p_user_id uuid, p_endpoint_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_endpoint public.webhook_endpoints;
  v_notification_id uuid;
  v_pings timestamptz[];
begin
  -- The owner before the endpoint, as their erasure locks them: their pings are counted one at a time.
  select e.* into v_endpoint from public.webhook_endpoints as e where e.id = p_endpoint_id;
  perform p.id from public.profiles as p where p.id = v_endpoint.user_id for no key update;
  perform o.id from public.organizations as o where o.id = v_endpoint.organization_id for no key update;
  v_endpoint := private.find_webhook_endpoint(p_user_id, p_endpoint_id);
  if not v_endpoint.is_active then
    perform private.fail(409, 'webhook_endpoint_disabled', 'This webhook endpoint is switched off.');
  end if;
  -- It may be the server of somebody who has asked for nothing, under this endpoint or one that is gone.
  select array_agg(n.created_at order by n.created_at) into v_pings
  from private.notifications as n
  where n.template = 'ping' and n.created_at > now() - interval '1 hour'
    and (n.user_id = v_endpoint.user_id or n.organization_id = v_endpoint.organization_id);
  if cardinality(v_pings) >= (private.setting('webhook_pings_per_hour'))::integer then
    perform private.fail(429, 'rate_limited', 'Too many tests of webhook endpoints; wait a little.',
      jsonb_build_object(
        'limit_source', 'webhook_pings_per_hour',
        'retry_after', ceil(extract(epoch from v_pings[1] + interval '1 hour' - now()))
      ));
  end if;
  insert into private.notifications (user_id, organization_id, template, key, facts)
  values (
    v_endpoint.user_id, v_endpoint.organization_id, 'ping', gen_random_uuid()::text,
    jsonb_build_object('endpoint_id', p_endpoint_id)
  )
  returning id into v_notification_id;
  return jsonb_build_object('delivery_id', private.queue_event(v_notification_id, p_endpoint_id, 'ping'));
end
$$;

comment on function backend.webhook_endpoint_ping(uuid, uuid) is
'Sends a ping to an endpoint, whatever its event types; the delivery says what became of it. 409 webhook_endpoint_disabled, 429 rate_limited.';

-- ---------------------------------------------------------------------------------------------------------------
-- Retention
-- ---------------------------------------------------------------------------------------------------------------

create function backend.notification_sweep(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_limit integer := least(greatest(p_limit, 1), 5000);
  v_emails integer;
  v_events integer;
begin
  -- An hour, so that nothing is looked at whose task is being written at this moment.
  with lost as materialized (
    select d.id
    from private.email_deliveries as d
    where d.status = 'queued' and d.created_at < now() - interval '1 hour'
      and not exists (
        select
        from private.tasks as t
        where t.kind = 'email' and t.key = d.id::text and t.status in ('queued', 'running')
      )
    limit v_limit
    for update of d skip locked
  )

  update private.email_deliveries as d
  set status = 'failed', reason = coalesce(d.reason, 'worker_lost')
  from lost
  where d.id = lost.id;
  get diagnostics v_emails = row_count;
  with lost as materialized (
    select d.id
    from public.webhook_deliveries as d
    where d.status = 'queued' and d.created_at < now() - interval '1 hour'
      and not exists (
        select
        from private.tasks as t
        where t.kind = 'webhook' and t.key = d.id::text and t.status in ('queued', 'running')
      )
    limit v_limit
    for update of d skip locked
  )

  update public.webhook_deliveries as d
  set status = 'failed', reason = coalesce(d.reason, 'worker_lost')
  from lost
  where d.id = lost.id;
  get diagnostics v_events = row_count;
  return jsonb_build_object('count', greatest(v_emails, v_events), 'emails', v_emails, 'events', v_events);
end
$$;

comment on function backend.notification_sweep(integer) is
'Gives up deliveries whose task has died; the larger number of the two kinds, at most p_limit.';

create function backend.notification_purge(p_limit integer default 5000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  with old as materialized (
    select n.id
    from private.notifications as n
    where n.created_at < now() - make_interval(days => (private.setting('notification_retention_days'))::integer)
    order by n.created_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  )

  delete from private.notifications as n
  using old
  where n.id = old.id;
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.notification_purge(integer) is
'Deletes at most p_limit notifications past notification_retention_days, and their deliveries.';

-- ---------------------------------------------------------------------------------------------------------------
-- Who may call what
-- ---------------------------------------------------------------------------------------------------------------

grant execute on function backend.email_prepare(uuid) to service_role;
grant execute on function backend.email_report(uuid, text, text, text) to service_role;
grant execute on function backend.webhook_prepare(uuid) to service_role;
grant execute on function backend.webhook_report(uuid, text, integer, text) to service_role;
grant execute on function backend.webhook_endpoint_create(uuid, text, text, text[], text) to service_role;
grant execute on function backend.webhook_endpoint_list(uuid, text) to service_role;
grant execute on function backend.webhook_endpoint_read(uuid, uuid) to service_role;
grant execute on function backend.webhook_endpoint_update(uuid, uuid, jsonb) to service_role;
grant execute on function backend.webhook_endpoint_rotate(uuid, uuid) to service_role;
grant execute on function backend.webhook_endpoint_delete(uuid, uuid) to service_role;
grant execute on function backend.webhook_endpoint_ping(uuid, uuid) to service_role;
grant execute on function backend.notification_sweep(integer) to service_role;
grant execute on function backend.notification_purge(integer) to service_role;
