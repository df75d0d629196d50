-- Privacy: the catalogue of personal data, from which export and erasure are generated.
--
--   private.personal_tables   every table: how a person's rows are found, what erasure does to them, how long they live
--   private.personal_data     every column that could say something about a person: its kind, and what becomes of it
--
-- A table that is in no row here fails a test, and so does a column of text, of JSON or of addresses in a table of
-- people's. The chapters after this one add their own rows.
--
-- Rows are found by a predicate over t, the row, with four parameters, which private.person_scope() gives for a person:
--
--   $1 uuid     the person
--   $2 uuid[]   the organizations that have no other member, which go with them
--   $3 uuid[]   the credit accounts of both, which stay and belong to nobody afterwards
--   $4 text[]   the person's addresses, in lower case

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table private.personal_tables (
  table_schema text not null,
  table_name text not null,
  rows_of text,
  erasure text not null,
  erased_by text,
  position integer,
  retention text,
  reason text,
  is_exported boolean not null default true,
  primary key (table_schema, table_name),
  constraint erasure_is_known check (erasure in ('delete', 'forget', 'keep', 'none')),
  constraint only_nobodys_table_has_nothing_to_erase check ((erasure = 'none') = (rows_of is null)),
  constraint erased_by_is_known
  check (erased_by in ('step', 'cascade', 'trigger', 'storage', 'refresh', 'auth', 'afterwards', 'end')),
  constraint what_is_erased_says_by_whom check ((erasure in ('delete', 'forget')) = (erased_by is not null)),
  constraint steps_have_their_place
  check (coalesce(erased_by in ('step', 'afterwards'), false) = (position is not null)),
  constraint people_are_told_how_long check (rows_of is null or retention is not null),
  constraint what_stays_says_why check (erasure not in ('forget', 'keep') or reason is not null),
  constraint nobodys_rows_are_not_exported check (rows_of is not null or not is_exported)
);

comment on table private.personal_tables is 'Every table of the product: how the rows of a person are found in it, and what their erasure does to them.';
comment on column private.personal_tables.table_schema is 'Schema of the table.';
comment on column private.personal_tables.table_name is 'Name of the table; partitions are their parent.';
comment on column private.personal_tables.rows_of is 'Which rows are a person''s: a predicate over t with $1 to $4 (private.person_scope); null where none are.';
comment on column private.personal_tables.erasure is 'delete (the rows go), forget (they stay without what names the person), keep (they stay; reason says why) or none (nobody''s).';
comment on column private.personal_tables.erased_by is 'step (backend.erasure_step), cascade (a foreign key, with what they belong to), trigger, storage (the Storage API), refresh (of a materialized view), auth (the Auth API), afterwards (a step after the user is gone) or end (of the erasure).';
comment on column private.personal_tables.position is 'Order of the steps.';
comment on column private.personal_tables.retention is 'How long rows live where nobody is erased.';
comment on column private.personal_tables.reason is 'Why rows stay; of nobody''s table, why a column in it that looks like a person''s is none.';
comment on column private.personal_tables.is_exported is 'Whether a person gets the rows when they ask for what is known about them.';

create table private.personal_data (
  table_schema text not null,
  table_name text not null,
  column_name text not null,
  kind text not null,
  erasure text not null,
  is_exported boolean not null,
  primary key (table_schema, table_name, column_name),
  foreign key (table_schema, table_name) references private.personal_tables (table_schema, table_name),
  constraint kind_is_known
  check (kind in ('identifier', 'contact', 'content', 'behaviour', 'financial', 'secret', 'technical', 'none')),
  constraint erasure_is_known check (erasure in ('row', 'null', 'keep')),
  constraint secrets_are_not_exported check (kind <> 'secret' or not is_exported)
);

comment on table private.personal_data is 'Every column that could say something about a person. Numbers, times and flags that are not here go with their row, and are exported with it.';
comment on column private.personal_data.table_schema is 'Schema of the table.';
comment on column private.personal_data.table_name is 'Name of the table.';
comment on column private.personal_data.column_name is 'Name of the column.';
comment on column private.personal_data.kind is 'identifier (names a person), contact, content (what they wrote or made), behaviour, financial, secret, technical (about their devices and requests) or none (looked at, and says nothing about anybody).';
comment on column private.personal_data.erasure is 'row (goes with its row), null (the row stays without it), or keep (for the reason that its table gives).';
comment on column private.personal_data.is_exported is 'Whether a person gets it in their export; secrets never are, since the holder of an export is not always the person.';

alter table private.personal_tables enable row level security;
alter table private.personal_data enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Who and what belongs to a person
-- ---------------------------------------------------------------------------------------------------------------

create type private.person_scope as (
  user_id uuid,
  organization_ids uuid array,
  account_ids uuid array,
  emails text array
);

comment on type private.person_scope is 'What the predicates of private.personal_tables are filled in with, $1 to $4.';

create function private.person_scope(p_user_id uuid) returns private.person_scope
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_scope private.person_scope;
begin
  v_scope.user_id := p_user_id;
  v_scope.organization_ids := array(
    select m.organization_id
    from public.organization_members as m
    where m.user_id = p_user_id and not exists (
      select from public.organization_members as o
      where o.organization_id = m.organization_id and o.user_id <> p_user_id
    )
    order by m.organization_id
  );
  v_scope.account_ids := array(
    select a.id
    from public.credit_accounts as a
    where a.user_id = p_user_id or a.organization_id = any(v_scope.organization_ids)
    order by a.id
  );
  v_scope.emails := array(
    select distinct lower(e.email)
    from (
      select p.email from public.profiles as p where p.id = p_user_id
      union all
      select u.email from auth.users as u where u.id = p_user_id
      union all
      select nullif(u.email_change, '') from auth.users as u where u.id = p_user_id
    ) as e
    where e.email <> ''
  );
  return v_scope;
end
$$;

comment on function private.person_scope(uuid) is
'What belongs to a person: themselves, the organizations that have no other member, the credit accounts of both, and their addresses.';

create function private.count_person_rows(p_scope private.person_scope)
returns table (table_schema text, table_name text, erasure text, erased_by text, row_count bigint)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_table private.personal_tables;
begin
  for v_table in
    select * from private.personal_tables as p where p.rows_of is not null order by p.table_schema, p.table_name
  loop
    table_schema := v_table.table_schema;
    table_name := v_table.table_name;
    erasure := v_table.erasure;
    erased_by := v_table.erased_by;
    execute format('select count(*) from %I.%I as t where %s', table_schema, table_name, v_table.rows_of)
    into row_count
    using p_scope.user_id, p_scope.organization_ids, p_scope.account_ids, p_scope.emails;
    return next;
  end loop;
end
$$;

comment on function private.count_person_rows(private.person_scope) is 'How many rows every table of the catalogue has of a person.';

-- ---------------------------------------------------------------------------------------------------------------
-- The catalogue: tables that hold nothing about anybody
-- ---------------------------------------------------------------------------------------------------------------

insert into private.personal_tables (table_schema, table_name, erasure, is_exported, reason) values
('public', 'credit_packs', 'none', false, null),
('public', 'model_providers', 'none', false, null),
('public', 'models', 'none', false, null),
('public', 'plans', 'none', false, null),
('private', 'community_trends', 'none', false, 'Figures about public images, of labels that several people used.'),
('private', 'cron_jobs', 'none', false, null),
('private', 'cron_runs', 'none', false, null),
('private', 'insight_refreshes', 'none', false, null),
('private', 'notification_templates', 'none', false, null),
('private', 'personal_data', 'none', false, null),
('private', 'personal_tables', 'none', false, null),
('private', 'plan_prices', 'none', false, null),
('private', 'settings', 'none', false, null),
('private', 'stripe_event_types', 'none', false, null),
('private', 'stripe_object_handlers', 'none', false, null),
('private', 'stripe_reconciliations', 'none', false, 'Findings are types and ids at Stripe.'),
('storage', 'buckets', 'none', false, 'The owner of a bucket is whoever made it: the migrations, which are nobody.');

-- ---------------------------------------------------------------------------------------------------------------
-- The catalogue: tables with rows of people, in the order of their chapters
-- ---------------------------------------------------------------------------------------------------------------

insert into private.personal_tables
(table_schema, table_name, rows_of, erasure, erased_by, position, retention, reason)
values
-- Sign-in.
('auth', 'users', 't.id = $1', 'delete', 'auth', null, 'the account''s life', null),
('auth', 'identities', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
('auth', 'sessions', 't.user_id = $1', 'delete', 'step', 110, 'until signed out', null),
('auth', 'refresh_tokens', 't.user_id::text = $1::text', 'delete', 'cascade', null, 'until signed out', null),
('auth', 'flow_state', 't.user_id = $1', 'delete', 'step', 120, 'as Supabase Auth keeps it', null),
(
  'auth', 'audit_log_entries',
  $sql$$1::text in (t.payload ->> 'actor_id', t.payload -> 'traits' ->> 'user_id')
  or lower(t.payload ->> 'actor_username') = any($4) or lower(t.payload -> 'traits' ->> 'user_email') = any($4)$sql$,
  'delete', 'afterwards', 930, 'as Supabase Auth keeps it', null
),
-- Identity.
('public', 'profiles', 't.id = $1', 'delete', 'cascade', null, 'the account''s life', null),
('public', 'user_preferences', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
('public', 'organizations', 't.id = any($2)', 'delete', 'step', 500, 'the organization''s life', null),
('public', 'organization_members', 't.user_id = $1', 'delete', 'cascade', null, 'the membership', null),
(
  'public', 'organization_invitations', 't.email = any($4) or t.organization_id = any($2)', 'delete', 'step', 410,
  'the organization''s life', null
),
(
  'private', 'organization_invitation_tokens',
  $sql$t.invitation_id in (
    select i.id from public.organization_invitations as i where i.email = any($4) or i.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their invitation', null
),
-- Keys.
(
  'public', 'api_keys', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 130,
  'the account''s life', null
),
(
  'private', 'api_key_hashes',
  $sql$t.api_key_id in (
    select k.id from public.api_keys as k where k.user_id = $1 or k.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their key', null
),
(
  'private', 'api_key_states',
  $sql$t.api_key_id in (
    select k.id from public.api_keys as k where k.user_id = $1 or k.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their key', null
),
(
  'private', 'provider_key_secrets',
  $sql$t.provider_key_id in (
    select k.id from public.provider_keys as k where k.user_id = $1 or k.organization_id = any($2)
  )$sql$,
  'delete', 'step', 140, 'with their key', null
),
(
  'public', 'provider_keys', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 150,
  'the account''s life', null
),
(
  'public', 'provider_key_uses', 't.owner_id = $1 or t.organization_id = any($2)', 'delete', 'step', 160,
  'provider_key_use_days', null
),
('private', 'provider_key_rates', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
-- Chat.
(
  'public', 'conversations', '(t.user_id = $1 and not t.is_shared) or t.organization_id = any($2)', 'delete', 'step',
  210, 'until deleted, then conversation_retention_days', null
),
(
  'public', 'messages',
  $sql$t.conversation_id in (
    select c.id from public.conversations as c
    where (c.user_id = $1 and not c.is_shared) or c.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their conversation', null
),
(
  'private', 'message_words',
  $sql$t.message_id in (
    select m.id
    from public.messages as m
    inner join public.conversations as c on m.conversation_id = c.id
    where (c.user_id = $1 and not c.is_shared) or c.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their message', null
),
(
  'public', 'agents', '(t.user_id = $1 and t.organization_id is null) or t.organization_id = any($2)', 'delete',
  'step', 220, 'until deleted', null
),
(
  'private', 'idempotent_requests', 't.user_id = $1 or t.account_id = any($3)', 'delete', 'step', 230,
  'idempotency_hours', null
),
-- Documents and libraries.
(
  'public', 'documents', '(t.user_id = $1 and t.organization_id is null) or t.organization_id = any($2)', 'delete',
  'step', 240, 'until deleted', null
),
(
  'public', 'document_chunks', '(t.user_id = $1 and t.organization_id is null) or t.organization_id = any($2)',
  'delete', 'cascade', null, 'with their document', null
),
('public', 'libraries', 't.organization_id = any($2)', 'delete', 'step', 260, 'until deleted', null),
('public', 'library_versions', 't.organization_id = any($2)', 'delete', 'cascade', null, 'with their library', null),
(
  'public', 'documentation_chunks', 't.organization_id = any($2)', 'delete', 'cascade', null, 'with their library',
  null
),
(
  'private', 'documentation_embeddings',
  't.library_version_id in (select v.id from public.library_versions as v where v.organization_id = any($2))',
  'delete', 'cascade', null, 'with their library', null
),
(
  'private', 'documentation_words',
  't.library_version_id in (select v.id from public.library_versions as v where v.organization_id = any($2))',
  'delete', 'cascade', null, 'with their library', null
),
(
  'private', 'library_answers',
  't.library_id in (select l.id from public.libraries as l where l.organization_id = any($2))',
  'delete', 'step', 250, 'library_query_cache_seconds', null
),
-- Images.
(
  'public', 'image_generations', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 320,
  'until deleted', null
),
(
  'public', 'generated_images', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 330,
  'until deleted', null
),
(
  'public', 'image_analysis',
  $sql$t.image_id in (
    select i.id from public.generated_images as i where i.user_id = $1 or i.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their image', null
),
('public', 'user_favorites', 't.user_id = $1', 'delete', 'cascade', null, 'until taken back', null),
('public', 'user_model_preferences', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
('public', 'prompt_suggestions', 't.user_id = $1', 'delete', 'step', 340, 'the account''s life', null),
('private', 'user_generation_stats', 't.user_id = $1', 'delete', 'refresh', null, 'the account''s life', null),
('private', 'ad_rewards', 't.user_id = $1', 'delete', 'step', 350, 'the account''s life', null),
-- Notifications, before what they tell of: those to an organization are found by it.
(
  'private', 'notifications',
  $sql$t.user_id = $1 or t.organization_id = any($2)
  or t.key in (select g.id::text from public.image_generations as g where g.user_id = $1)$sql$,
  'delete', 'step', 310, 'notification_retention_days', null
),
(
  'private', 'email_deliveries',
  $sql$t.user_id = $1 or t.notification_id in (
    select n.id from private.notifications as n where n.user_id = $1 or n.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their notification', null
),
(
  'public', 'webhook_deliveries',
  $sql$t.endpoint_id in (
    select e.id from public.webhook_endpoints as e where e.user_id = $1 or e.organization_id = any($2)
  )$sql$,
  'delete', 'cascade', null, 'with their notification', null
),
(
  'public', 'webhook_endpoints', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 360,
  'until deleted', null
),
-- Billing.
(
  'public', 'billing_alerts', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'step', 370,
  'alert_days once read', null
),
(
  'public', 'payment_methods', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'cascade', null,
  'until removed', null
),
(
  'public', 'auto_top_ups', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'cascade', null,
  'until switched off', null
),
('private', 'billing_rates', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
(
  'private', 'subscription_checkouts', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'cascade', null,
  'the account''s life', null
),
(
  'private', 'member_spending', 't.user_id = $1 or t.organization_id = any($2)', 'delete', 'cascade', null,
  'the membership', null
),
(
  'private', 'stripe_customers', 't.account_id = any($3)', 'forget', 'step', 610, 'ten years at least',
  'Says of which account an event at Stripe is that arrives later, so that it changes nothing of anybody else''s.'
),
(
  'private', 'stripe_events',
  $sql$t.payload -> 'data' -> 'object' ->> 'customer' in (
    select c.customer_id from private.stripe_customers as c where c.account_id = any($3)
  )$sql$,
  'keep', null, null, 'ten years at least',
  'Proves which payment led to which credits. Names, addresses and cards are taken out when an event arrives.'
),
(
  'private', 'stripe_objects',
  $sql$t.state ->> 'customer' in (
    select c.customer_id from private.stripe_customers as c where c.account_id = any($3)
  )$sql$,
  'keep', null, null, 'ten years at least',
  'Keeps an older event from undoing a newer one. Names, addresses and cards are taken out when it arrives.'
),
(
  'public', 'subscriptions', 't.user_id = $1 or t.account_id = any($3)', 'forget', 'cascade', null,
  'ten years at least',
  'Books: which plan was paid for, of an account that is nobody''s.'
),
(
  'public', 'invoices', 't.user_id = $1 or t.account_id = any($3)', 'forget', 'step', 620, 'ten years at least',
  'The law keeps invoices. The name and the address are on the statutory invoice at Stripe alone, to which this leads.'
),
(
  'public', 'payments', 't.user_id = $1 or t.account_id = any($3)', 'forget', 'cascade', null, 'ten years at least',
  'Books: what was paid, of an account that is nobody''s.'
),
(
  'public', 'credit_purchases', 't.user_id = $1 or t.account_id = any($3)', 'forget', 'step', 630, 'ten years at least',
  'Books: what was bought, of an account that is nobody''s.'
),
-- The ledger and usage.
(
  'public', 'credit_accounts', 't.id = any($3)', 'forget', 'cascade', null, 'for ever',
  'The ledger is append-only and names accounts; this one is nobody''s afterwards.'
),
(
  'public', 'credit_lots', 't.account_id = any($3)', 'keep', null, null, 'for ever',
  'The ledger names accounts, never people.'
),
(
  'public', 'credit_transactions', 't.account_id = any($3)', 'keep', null, null, 'for ever',
  'The ledger names accounts, never people.'
),
(
  'private', 'credit_holds', 't.user_id = $1 or t.account_id = any($3)', 'forget', 'trigger', null, 'for ever',
  'Proves what a transaction was for; no longer says who asked.'
),
(
  'public', 'usage_logs', 't.user_id = $1 or t.organization_id = any($2)', 'forget', 'step', 420, 'usage_months',
  'Proves what was charged, until its month is dropped; no longer says who asked, what, and from where.'
),
(
  'public', 'api_usage', 't.user_id = $1 or t.organization_id = any($2)', 'forget', 'trigger', null, 'for ever',
  'Figures per day of an account that is nobody''s.'
),
-- What operators did, and what is still to be done.
(
  'private', 'operator_actions',
  $sql$t.subject = (
    select 'user:' || p.pseudonym::text from private.person_pseudonyms as p where p.user_id = $1
  )$sql$,
  'keep', null, null, 'for ever',
  'What operators did is append-only. It names a person by a pseudonym, whose key the erasure destroys.'
),
('private', 'person_pseudonyms', 't.user_id = $1', 'delete', 'cascade', null, 'the account''s life', null),
(
  'private', 'tasks',
  $sql$t.tenant = $1 or t.tenant = any($2) or exists (
    select from unnest($1::text || $2::text[] || $4) as n (name)
    where strpos(lower(concat_ws(' ', t.key, t.payload, t.result, t.last_error)), n.name) > 0
  )$sql$,
  'delete', 'afterwards', 920, 'task_retention_days once finished', null
),
-- Files.
(
  'storage', 'objects',
  $sql$split_part(t.name, '/', 1) = any($1::text || $2::text[])
  or (t.owner_id = $1::text and t.bucket_id not in ('documents', 'images', 'libraries'))$sql$,
  'delete', 'storage', null, 'with what they belong to', null
);

update private.personal_tables as t
set is_exported = false
where (t.table_schema, t.table_name) in (
    ('auth', 'flow_state'), ('auth', 'refresh_tokens'), ('private', 'api_key_hashes'), ('private', 'message_words'),
    ('private', 'organization_invitation_tokens'), ('private', 'provider_key_secrets'),
    ('private', 'documentation_embeddings'), ('private', 'documentation_words'), ('private', 'library_answers'),
    ('private', 'stripe_objects'), ('private', 'tasks')
  );

-- ---------------------------------------------------------------------------------------------------------------
-- The catalogue: columns
-- ---------------------------------------------------------------------------------------------------------------

insert into private.personal_data (table_schema, table_name, column_name, kind, erasure, is_exported)
select
  split_part(v.name, '.', 1) as table_schema,
  split_part(v.name, '.', 2) as table_name,
  c.column_name,
  v.kind,
  v.erasure,
  v.kind not in ('secret', 'none') as is_exported
from (
  values
  ('auth.users', 'identifier', 'row', 'id'),
  ('auth.users', 'contact', 'row', 'email phone email_change phone_change raw_user_meta_data'),
  ('auth.users', 'secret', 'row', 'encrypted_password confirmation_token recovery_token email_change_token_new'),
  ('auth.users', 'secret', 'row', 'email_change_token_current phone_change_token reauthentication_token'),
  ('auth.users', 'technical', 'row', 'raw_app_meta_data'),
  ('auth.users', 'none', 'row', 'aud role'),
  ('auth.identities', 'identifier', 'row', 'user_id provider_id'),
  ('auth.identities', 'contact', 'row', 'email identity_data'),
  ('auth.identities', 'technical', 'row', 'provider'),
  ('auth.sessions', 'identifier', 'row', 'user_id'),
  ('auth.sessions', 'technical', 'row', 'user_agent ip tag'),
  ('auth.sessions', 'secret', 'row', 'refresh_token_hmac_key'),
  ('auth.sessions', 'none', 'row', 'scopes aal'),
  ('auth.refresh_tokens', 'identifier', 'row', 'user_id'),
  ('auth.refresh_tokens', 'secret', 'row', 'id token parent'),
  ('auth.flow_state', 'identifier', 'row', 'user_id'),
  ('auth.flow_state', 'secret', 'row', 'auth_code code_challenge provider_access_token provider_refresh_token'),
  ('auth.flow_state', 'secret', 'row', 'invite_token'),
  ('auth.flow_state', 'technical', 'row', 'referrer'),
  ('auth.flow_state', 'none', 'row', 'authentication_method code_challenge_method provider_type'),
  ('auth.audit_log_entries', 'behaviour', 'row', 'payload'),
  ('auth.audit_log_entries', 'technical', 'row', 'ip_address'),
  ('public.profiles', 'identifier', 'row', 'id auth_provider_id'),
  ('public.profiles', 'contact', 'row', 'email first_name last_name full_name avatar_url'),
  ('public.profiles', 'technical', 'row', 'auth_provider language theme ai_safety_level'),
  ('public.profiles', 'financial', 'row', 'subscription_tier subscription_status stripe_customer_id'),
  ('public.user_preferences', 'identifier', 'row', 'user_id'),
  ('public.user_preferences', 'behaviour', 'row', 'preference_type preference_value'),
  ('public.organizations', 'identifier', 'null', 'created_by'),
  ('public.organizations', 'content', 'row', 'name slug settings'),
  ('public.organization_members', 'identifier', 'row', 'user_id'),
  ('public.organization_members', 'technical', 'row', 'role'),
  ('public.organization_invitations', 'identifier', 'null', 'invited_by accepted_by'),
  ('public.organization_invitations', 'contact', 'row', 'email'),
  ('public.organization_invitations', 'technical', 'row', 'role'),
  ('private.organization_invitation_tokens', 'secret', 'row', 'token_hash'),
  ('private.organization_invitation_tokens', 'none', 'row', 'purpose'),
  ('public.api_keys', 'identifier', 'row', 'user_id'),
  ('public.api_keys', 'identifier', 'null', 'created_by'),
  ('public.api_keys', 'content', 'row', 'name'),
  ('public.api_keys', 'technical', 'row', 'key_prefix scopes'),
  ('private.api_key_hashes', 'identifier', 'row', 'api_key_id'),
  ('private.api_key_hashes', 'secret', 'row', 'key_hash'),
  ('private.api_key_states', 'identifier', 'row', 'api_key_id'),
  ('private.provider_key_secrets', 'secret', 'row', 'wrapped_key nonce ciphertext'),
  ('private.provider_key_secrets', 'none', 'row', 'kid'),
  ('public.provider_keys', 'identifier', 'row', 'user_id'),
  ('public.provider_keys', 'identifier', 'null', 'created_by'),
  ('public.provider_keys', 'content', 'row', 'name base_url models'),
  ('public.provider_keys', 'technical', 'row', 'last_four invalid_reason'),
  ('public.provider_key_uses', 'identifier', 'row', 'owner_id'),
  ('public.provider_key_uses', 'identifier', 'null', 'user_id'),
  ('public.provider_key_uses', 'behaviour', 'row', 'api_key_id provider action model_id outcome error_code'),
  ('private.provider_key_rates', 'identifier', 'row', 'user_id'),
  ('public.conversations', 'identifier', 'null', 'user_id'),
  ('public.conversations', 'content', 'row', 'title system_prompt documents'),
  ('public.conversations', 'behaviour', 'row', 'model'),
  ('public.conversations', 'none', 'row', 'title_source status'),
  ('public.messages', 'identifier', 'null', 'user_id'),
  ('public.messages', 'content', 'row', 'content parts metadata citations'),
  ('public.messages', 'behaviour', 'row', 'model_used'),
  ('public.messages', 'none', 'row', 'role status finish_reason error_code'),
  ('private.message_words', 'content', 'row', 'words'),
  ('public.agents', 'identifier', 'null', 'user_id'),
  ('public.agents', 'content', 'row', 'name description avatar_url system_prompt'),
  ('public.agents', 'behaviour', 'row', 'model fallback_models'),
  ('private.idempotent_requests', 'identifier', 'row', 'user_id'),
  ('private.idempotent_requests', 'content', 'row', 'answer'),
  ('private.idempotent_requests', 'technical', 'row', 'idempotency_key fingerprint'),
  ('private.idempotent_requests', 'none', 'row', 'operation status'),
  ('public.documents', 'identifier', 'null', 'user_id'),
  ('public.documents', 'content', 'row', 'name original_filename storage_path metadata'),
  ('public.documents', 'technical', 'row', 'mime_type error_code error_message'),
  ('public.documents', 'none', 'row', 'state embedding_model'),
  ('public.document_chunks', 'identifier', 'null', 'user_id'),
  ('public.document_chunks', 'content', 'row', 'headings content metadata'),
  ('public.document_chunks', 'technical', 'row', 'content_hash flags words embedding'),
  ('public.libraries', 'content', 'row', 'title description source_url docs_url aliases name_grams metadata'),
  ('public.libraries', 'technical', 'row', 'error_code error_message'),
  ('public.libraries', 'none', 'row', 'id vendor source_kind default_version state moved_to'),
  ('public.library_versions', 'content', 'row', 'version snapshot_path'),
  ('public.library_versions', 'technical', 'row', 'source_revision etag error_code error_message'),
  ('public.library_versions', 'none', 'row', 'library_id embedding_model next_embedding_model state'),
  ('public.documentation_chunks', 'content', 'row', 'source_path source_url title headings content identifiers'),
  ('public.documentation_chunks', 'content', 'row', 'metadata'),
  ('public.documentation_chunks', 'technical', 'row', 'content_hash flags words'),
  ('public.documentation_chunks', 'none', 'row', 'library_id content_type language'),
  ('private.documentation_embeddings', 'technical', 'row', 'embedding'),
  ('private.documentation_embeddings', 'none', 'row', 'model'),
  ('private.documentation_words', 'technical', 'row', 'word'),
  ('private.library_answers', 'content', 'row', 'answer'),
  ('private.library_answers', 'technical', 'row', 'key'),
  ('private.library_answers', 'none', 'row', 'tool library_id'),
  ('public.image_generations', 'identifier', 'row', 'user_id'),
  ('public.image_generations', 'content', 'row', 'prompt negative_prompt hf_loras input_path parameters metadata'),
  ('public.image_generations', 'behaviour', 'row', 'api_key_id model_id model_version aspect_ratio output_format'),
  ('public.image_generations', 'technical', 'row', 'idempotency_key fingerprint error_code error_message'),
  ('public.image_generations', 'none', 'row', 'credential status'),
  ('public.generated_images', 'identifier', 'row', 'user_id'),
  ('public.generated_images', 'content', 'row', 'storage_path thumbnail_path public_url thumbnail_url'),
  ('public.generated_images', 'content', 'row', 'revised_prompt metadata vision_labels vision_description'),
  ('public.generated_images', 'content', 'row', 'style_tags color_palette dominant_colors'),
  ('public.generated_images', 'technical', 'row', 'vision_embedding technical_metadata'),
  ('public.generated_images', 'none', 'row', 'format vision_embedding_model'),
  ('public.image_analysis', 'content', 'row', 'raw_response'),
  ('public.image_analysis', 'none', 'row', 'analysis_type analysis_version'),
  ('public.user_favorites', 'identifier', 'row', 'user_id'),
  ('public.user_model_preferences', 'identifier', 'row', 'user_id'),
  ('public.user_model_preferences', 'behaviour', 'row', 'model_id default_settings'),
  ('public.prompt_suggestions', 'identifier', 'row', 'user_id'),
  ('public.prompt_suggestions', 'content', 'row', 'base_prompt suggested_prompt metadata'),
  ('public.prompt_suggestions', 'technical', 'row', 'embedding'),
  ('public.prompt_suggestions', 'none', 'row', 'source_type'),
  ('private.user_generation_stats', 'identifier', 'row', 'user_id'),
  ('private.user_generation_stats', 'behaviour', 'row', 'preferred_styles common_subjects'),
  ('private.ad_rewards', 'identifier', 'row', 'user_id transaction_id'),
  ('private.ad_rewards', 'none', 'row', 'ad_unit'),
  ('private.notifications', 'identifier', 'row', 'user_id'),
  ('private.notifications', 'content', 'row', 'facts'),
  ('private.notifications', 'behaviour', 'row', 'template'),
  ('private.notifications', 'technical', 'row', 'key'),
  ('private.email_deliveries', 'identifier', 'row', 'user_id'),
  ('private.email_deliveries', 'technical', 'row', 'provider_reply reason'),
  ('private.email_deliveries', 'none', 'row', 'status'),
  ('public.webhook_deliveries', 'technical', 'row', 'reason'),
  ('public.webhook_deliveries', 'behaviour', 'row', 'event_type'),
  ('public.webhook_deliveries', 'none', 'row', 'status'),
  ('public.webhook_endpoints', 'identifier', 'row', 'user_id'),
  ('public.webhook_endpoints', 'content', 'row', 'url description'),
  ('public.webhook_endpoints', 'behaviour', 'row', 'event_types'),
  ('public.webhook_endpoints', 'none', 'row', 'disabled_reason'),
  ('public.billing_alerts', 'identifier', 'row', 'user_id'),
  ('public.billing_alerts', 'content', 'row', 'message metadata'),
  ('public.billing_alerts', 'none', 'row', 'type key'),
  ('public.payment_methods', 'identifier', 'row', 'user_id'),
  ('public.payment_methods', 'financial', 'row', 'type provider provider_method_id brand last_four'),
  ('public.payment_methods', 'financial', 'row', 'stripe_customer_id metadata'),
  ('public.auto_top_ups', 'identifier', 'row', 'user_id'),
  ('public.auto_top_ups', 'financial', 'row', 'last_failure_code'),
  ('private.billing_rates', 'identifier', 'row', 'user_id'),
  ('private.subscription_checkouts', 'identifier', 'row', 'user_id'),
  ('private.subscription_checkouts', 'identifier', 'null', 'started_by'),
  ('private.subscription_checkouts', 'financial', 'row', 'stripe_price_id stripe_checkout_session_id'),
  ('private.subscription_checkouts', 'financial', 'row', 'stripe_subscription_id success_url cancel_url'),
  ('private.subscription_checkouts', 'financial', 'row', 'checkout_url'),
  ('private.subscription_checkouts', 'technical', 'row', 'idempotency_key'),
  ('private.subscription_checkouts', 'none', 'row', 'billing_interval status'),
  ('private.member_spending', 'identifier', 'row', 'user_id'),
  ('private.stripe_customers', 'identifier', 'null', 'user_id'),
  ('private.stripe_customers', 'contact', 'null', 'email name'),
  ('private.stripe_customers', 'financial', 'null', 'default_payment_method_id'),
  ('private.stripe_customers', 'financial', 'keep', 'customer_id'),
  ('private.stripe_events', 'financial', 'keep', 'payload object_id outcome'),
  ('private.stripe_events', 'none', 'keep', 'id type object_type api_version status last_error fetch_type fetch_id'),
  ('private.stripe_objects', 'financial', 'keep', 'id state payment_intent_id invoice_id'),
  ('private.stripe_objects', 'none', 'keep', 'type event_id'),
  ('public.subscriptions', 'identifier', 'null', 'user_id'),
  ('public.subscriptions', 'financial', 'keep', 'status stripe_subscription_id stripe_item_id stripe_price_id'),
  ('public.subscriptions', 'financial', 'keep', 'stripe_customer_id metadata'),
  ('public.subscriptions', 'none', 'keep', 'billing_interval currency provider'),
  ('public.invoices', 'identifier', 'null', 'user_id'),
  ('public.invoices', 'contact', 'null', 'hosted_invoice_url'),
  ('public.invoices', 'financial', 'keep', 'number items invoice_pdf_url stripe_invoice_id stripe_subscription_id'),
  ('public.invoices', 'financial', 'keep', 'stripe_customer_id metadata'),
  ('public.invoices', 'none', 'keep', 'status billing_reason currency provider'),
  ('public.payments', 'identifier', 'null', 'user_id'),
  ('public.payments', 'financial', 'keep', 'failure_code failure_reason description provider_transaction_id'),
  ('public.payments', 'financial', 'keep', 'stripe_invoice_id stripe_charge_id stripe_payment_method_id'),
  ('public.payments', 'financial', 'keep', 'stripe_customer_id metadata'),
  ('public.payments', 'none', 'keep', 'status currency provider'),
  ('public.credit_purchases', 'identifier', 'null', 'user_id bought_by'),
  ('public.credit_purchases', 'technical', 'null', 'checkout_url idempotency_key'),
  ('public.credit_purchases', 'financial', 'keep', 'stripe_checkout_session_id stripe_payment_intent_id'),
  ('public.credit_purchases', 'financial', 'keep', 'stripe_charge_id stripe_payment_method_id'),
  ('public.credit_purchases', 'none', 'keep', 'pack_name currency status'),
  ('public.credit_accounts', 'identifier', 'null', 'user_id'),
  ('public.credit_lots', 'financial', 'keep', 'source reason reference metadata'),
  ('public.credit_lots', 'none', 'keep', 'currency'),
  ('public.credit_transactions', 'financial', 'keep', 'operation type idempotency_key fingerprint description'),
  ('public.credit_transactions', 'financial', 'keep', 'metadata'),
  ('private.credit_holds', 'identifier', 'null', 'user_id'),
  ('private.credit_holds', 'behaviour', 'keep', 'api_key_id action'),
  ('private.credit_holds', 'technical', 'keep', 'idempotency_key'),
  ('private.credit_holds', 'none', 'keep', 'terms status reason'),
  ('public.usage_logs', 'identifier', 'null', 'user_id'),
  ('public.usage_logs', 'content', 'null', 'query'),
  ('public.usage_logs', 'technical', 'null', 'ip_address user_agent'),
  ('public.usage_logs', 'behaviour', 'keep', 'api_key_id action resource_type resource_id model_id provider'),
  ('public.usage_logs', 'behaviour', 'keep', 'library_id'),
  ('public.usage_logs', 'none', 'keep', 'credential status error_code usage_source'),
  ('public.api_usage', 'identifier', 'null', 'user_id'),
  ('public.api_usage', 'behaviour', 'keep', 'api_key_id provider model_id action'),
  ('public.api_usage', 'none', 'keep', 'credential'),
  ('private.operator_actions', 'identifier', 'keep', 'subject'),
  ('private.operator_actions', 'behaviour', 'keep', 'action before after reason'),
  ('private.operator_actions', 'none', 'keep', 'actor'),
  ('private.person_pseudonyms', 'identifier', 'row', 'user_id'),
  ('private.tasks', 'identifier', 'row', 'tenant'),
  ('private.tasks', 'content', 'row', 'payload result'),
  ('private.tasks', 'technical', 'row', 'key last_error'),
  ('private.tasks', 'none', 'row', 'kind status leased_by'),
  ('storage.objects', 'identifier', 'row', 'owner owner_id name path_tokens'),
  ('storage.objects', 'content', 'row', 'user_metadata'),
  ('storage.objects', 'technical', 'row', 'metadata'),
  ('storage.objects', 'none', 'row', 'bucket_id version')
) as v (name, kind, erasure, columns)
cross join lateral string_to_table(v.columns, ' ') as c (column_name);
