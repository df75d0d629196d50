-- What the migrations build. Made by `make schema`; a test compares it with a new database. It is
-- to be read, and to show in a review what a migration changes: what runs is in
-- supabase/migrations/.

-- System prompts with a model and parameters. Read here by those who may edit them; others use functions that leave the prompt out.
create table public.agents (
  id uuid not null default private.uuid7(),  -- Identifies the agent.
  user_id uuid,  -- Its author; null once erased, and for one that an organization's API key made.
  organization_id uuid,  -- The organization it belongs to, whose members use it; null for a person's own.
  name text not null,  -- Name shown to people.
  description text not null default ''::text,  -- What it is for; shown with its name.
  avatar_url text,  -- Address of a picture, http or https.
  system_prompt text not null default ''::text,  -- What the model is told first. Shown to its author and to admins of its organization, and to nobody else.
  model text not null,  -- The model it answers with; no foreign key, as with usage.
  fallback_models text[] not null default '{}'::text[],  -- Models that stand in for it, in order; at most three.
  temperature numeric(3,2) not null default 0.7,  -- Temperature of its answers, 0 to 2.
  max_tokens integer default 2048,  -- Most tokens of an answer, as far as model and balance allow; null for the model's default.
  is_public boolean not null default false,  -- Whether everybody may find and use it, without seeing its system prompt.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint agents_pkey PRIMARY KEY (id),
  constraint an_agent_belongs_to_somebody CHECK (num_nonnulls(user_id, organization_id) >= 1),
  constraint at_most_three_models_stand_in CHECK (cardinality(fallback_models) <= 3 AND array_position(fallback_models, NULL::text) IS NULL),
  constraint avatar_url_is_a_web_address CHECK (avatar_url ~ '^https?://\S+$'::text AND char_length(avatar_url) <= 500),
  constraint description_is_short CHECK (char_length(description) <= 2000),
  constraint max_tokens_is_positive CHECK (max_tokens >= 1 AND max_tokens <= 1000000),
  constraint model_is_named CHECK (char_length(model) >= 1 AND char_length(model) <= 200),
  constraint name_has_1_to_100_characters CHECK (char_length(name) >= 1 AND char_length(name) <= 100 AND name = btrim(name)),
  constraint system_prompt_has_at_most_64_kib CHECK (octet_length(system_prompt) <= 65536),
  constraint temperature_is_from_0_to_2 CHECK (temperature >= 0::numeric AND temperature <= 2::numeric),
  constraint agents_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint agents_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX agents_by_organization ON public.agents USING btree (organization_id, id DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX agents_by_user ON public.agents USING btree (user_id, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX agents_in_public ON public.agents USING btree (id DESC) WHERE is_public;
CREATE INDEX agents_in_public_by_text ON public.agents USING gin (to_tsvector('simple'::regconfig, (name || ' '::text) || description)) WHERE is_public;
CREATE TRIGGER agents_stay_within_their_plan BEFORE INSERT OR UPDATE OF organization_id ON public.agents FOR EACH ROW EXECUTE FUNCTION private.refuse_rows_beyond_plan('max_agents');
CREATE TRIGGER agents_touch_updated_at BEFORE UPDATE ON public.agents FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Authors read their agents, admins those of their organizations" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) AND (organization_id IS NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))))) OR (organization_id = ANY ((ARRAY( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids))));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- API keys, without their secrets. Made, changed and ended through functions.
create table public.api_keys (
  id uuid not null default private.uuid7(),  -- Identifies the key.
  user_id uuid,  -- The person it belongs to; null for an organization's.
  organization_id uuid,  -- The organization it belongs to; null for a person's.
  created_by uuid,  -- Who made it; null once erased.
  name text not null,  -- What its owner calls it.
  key_prefix text not null,  -- How its present secret begins: qk_live_ or qk_test_ and four characters.
  scopes text[] not null,  -- What it may be used for: chat, agents, documents, images, libraries.
  rate_limit_per_minute integer default 60,  -- Requests a minute; null for the plan's limit alone.
  rate_limit_per_day integer,  -- Requests in 24 hours; null for no limit.
  rate_limit_per_month integer,  -- Requests in 30 days; null for no limit.
  tokens_per_minute integer,  -- Tokens a minute, of prompts and answers; null for no limit.
  max_concurrent_requests integer,  -- Requests in flight at once; null for the plan's limit alone.
  monthly_credit_budget numeric(20,6),  -- Credits it may spend in a calendar month (UTC); null for no limit.
  expires_at timestamp with time zone,  -- When it stops working; null for never.
  rotated_at timestamp with time zone,  -- When it last got a new secret.
  revoked_at timestamp with time zone,  -- When it was ended for good; null while in force.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint api_keys_pkey PRIMARY KEY (id),
  constraint a_key_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint budget_is_a_sensible_number_of_credits CHECK (monthly_credit_budget >= 0::numeric AND monthly_credit_budget <= '1000000000000'::bigint::numeric),
  constraint limits_are_positive CHECK (rate_limit_per_minute >= 1 AND rate_limit_per_minute <= 1000000 AND rate_limit_per_day >= 1 AND rate_limit_per_day <= 1000000000 AND rate_limit_per_month >= 1 AND rate_limit_per_month <= 1000000000 AND tokens_per_minute >= 1 AND tokens_per_minute <= 1000000000 AND max_concurrent_requests >= 1 AND max_concurrent_requests <= 100000),
  constraint name_has_1_to_100_characters CHECK (char_length(name) >= 1 AND char_length(name) <= 100 AND name = btrim(name)),
  constraint scopes_are_known CHECK (cardinality(scopes) >= 1 AND cardinality(scopes) <= 5 AND scopes <@ ARRAY['chat'::text, 'agents'::text, 'documents'::text, 'images'::text, 'libraries'::text]),
  constraint api_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint api_keys_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX api_keys_by_creator ON public.api_keys USING btree (created_by) WHERE created_by IS NOT NULL;
CREATE INDEX api_keys_by_organization ON public.api_keys USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX api_keys_by_user ON public.api_keys USING btree (user_id) WHERE user_id IS NOT NULL;
CREATE TRIGGER api_keys_touch_updated_at BEFORE UPDATE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users read their own keys, admins those of their organizations" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What was used per day: the finished requests of usage_logs, summed; kept when their rows are dropped.
create table public.api_usage (
  id uuid not null default private.uuid7(),  -- Identifies the row.
  account_id uuid not null,  -- The account that paid; no foreign key, because the ledger outlives its owners.
  user_id uuid,  -- Who asked; null once erased, and for an organization's key. No foreign key: a request that ends after the lock of its account would then lock the profile, which an erasure locks first. A trigger forgets the person.
  organization_id uuid,  -- The organization that paid, if one did; a trigger forgets it, as above.
  api_key_id uuid,  -- The API key the requests came by; null for a person who is signed in.
  provider_key_id uuid,  -- Which of the customer's own keys the provider was called with; null for the platform's.
  provider text,  -- Slug of the provider that served them.
  model_id text,  -- The model used.
  action text not null,  -- What was done, as in usage_logs.action.
  credential text not null,  -- Whose key the provider was called with: platform or own.
  period_start timestamp with time zone not null,  -- Start of the day (UTC) on which the requests were accepted.
  period_end timestamp with time zone not null,  -- Start of the next day.
  request_count bigint not null default 0,  -- Requests that have ended, however they did.
  cancelled_count bigint not null default 0,  -- Requests of those that the client left; what was produced was charged.
  failed_count bigint not null default 0,  -- Requests of those that failed or expired; nothing was charged.
  prompt_tokens bigint not null default 0,  -- Tokens of the prompts, cached ones included.
  completion_tokens bigint not null default 0,  -- Tokens of the answers.
  cached_tokens bigint not null default 0,  -- Tokens of the prompts that the model had cached.
  tokens_used bigint generated always as (prompt_tokens + completion_tokens) stored,  -- Prompts and answers together.
  credits numeric(20,6) not null default 0,  -- Credits charged.
  credits_refunded numeric(20,6) not null default 0,  -- Credits of those that were given back while the usage rows were kept.
  cost_estimate numeric(20,6) not null default 0,  -- What the requests cost at the catalog's prices, in credits: with the platform's key what was charged; with one's own what the platform's would have cost, since only the provider knows what it asks. Refunds are not deducted.
  created_at timestamp with time zone not null default now(),  -- When the first request ended.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint api_usage_pkey PRIMARY KEY (id),
  constraint counts_are_not_negative CHECK (cancelled_count >= 0 AND failed_count >= 0 AND (cancelled_count + failed_count) <= request_count AND completion_tokens >= 0 AND cached_tokens >= 0 AND cached_tokens <= prompt_tokens),
  constraint credential_is_known CHECK (credential = ANY (ARRAY['platform'::text, 'own'::text])),
  constraint credits_are_not_negative CHECK (credits_refunded >= 0::numeric AND credits_refunded <= credits AND cost_estimate >= 0::numeric),
  constraint period_is_a_day_of_utc CHECK (period_end = (period_start + '24:00:00'::interval)),
  constraint api_usage_has_one_row_per_day_and_kind UNIQUE NULLS NOT DISTINCT (account_id, period_start, user_id, organization_id, api_key_id, provider_key_id, provider, model_id, action, credential)
) with (fillfactor=70);
CREATE INDEX api_usage_by_organization ON public.api_usage USING btree (organization_id, period_start) WHERE organization_id IS NOT NULL;
CREATE INDEX api_usage_by_provider_key ON public.api_usage USING btree (provider_key_id, period_start) WHERE provider_key_id IS NOT NULL;
CREATE INDEX api_usage_by_user ON public.api_usage USING btree (user_id, period_start) WHERE user_id IS NOT NULL;
CREATE POLICY "Users read what they used, admins what their organizations did" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Automatic top-ups: what an owner buys when their credits fall under a threshold.
create table public.auto_top_ups (
  account_id uuid not null,  -- The credit account that is topped up.
  user_id uuid,  -- The user who pays; null for an organization's.
  organization_id uuid,  -- The organization that pays; null for a user's.
  pack_id uuid not null,  -- The pack that is bought, at its price of the day.
  threshold numeric(20,6) not null,  -- Credits available under which it is bought.
  max_per_day integer not null,  -- Most automatic purchases in any 24 hours; those that were declined do not count.
  is_enabled boolean not null default true,  -- Whether it is on; five declined payments in a row, one that the owner must confirm, and money given back switch it off.
  failures integer not null default 0,  -- Payments declined in a row.
  paused_until timestamp with time zone,  -- No payment is tried before this; null without a declined one.
  last_attempt_at timestamp with time zone,  -- When the last payment was begun.
  last_failure_code text,  -- Why the last payment failed, in Stripe's words, or payment_refunded or payment_disputed; null once one went through.
  created_at timestamp with time zone not null default now(),  -- When it was first set up.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint auto_top_ups_pkey PRIMARY KEY (account_id),
  constraint a_pause_follows_a_failure CHECK (paused_until IS NULL OR failures > 0),
  constraint an_automatic_top_up_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint failures_are_not_negative CHECK (failures >= 0),
  constraint max_per_day_is_between_1_and_20 CHECK (max_per_day >= 1 AND max_per_day <= 20),
  constraint threshold_is_a_sensible_number_of_credits CHECK (threshold > 0::numeric AND threshold <= 10000000::numeric),
  constraint auto_top_ups_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint auto_top_ups_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint auto_top_ups_pack_id_fkey FOREIGN KEY (pack_id) REFERENCES public.credit_packs(id),
  constraint auto_top_ups_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint auto_top_ups_organization_id_key UNIQUE (organization_id),
  constraint auto_top_ups_user_id_key UNIQUE (user_id)
);
CREATE INDEX auto_top_ups_by_pack ON public.auto_top_ups USING btree (pack_id);
CREATE TRIGGER auto_top_ups_keep_the_threshold AFTER INSERT OR DELETE OR UPDATE OF threshold, is_enabled ON public.auto_top_ups FOR EACH ROW EXECUTE FUNCTION private.keep_top_up_threshold();
CREATE TRIGGER auto_top_ups_touch BEFORE UPDATE ON public.auto_top_ups FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Customers and organization admins read their automatic top-ups" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What an owner was told about their account: one row per crossing. Gone with its owner.
create table public.billing_alerts (
  id uuid not null default private.uuid7(),  -- Identifies the alert.
  user_id uuid,  -- The user who is told; null for an organization's.
  organization_id uuid,  -- The organization whose admins are told; null for a user's.
  type text not null,  -- usage_threshold, payment_failed, invoice_overdue, subscription_expiring, low_balance or provider_key_invalid.
  key text not null,  -- Which crossing it tells of: the same owner, type and key are told once.
  threshold numeric(20,6),  -- What was crossed, in the unit of current_value; null where nothing is counted.
  current_value numeric(20,6),  -- The value that crossed it: credits, tokens, requests, or minor units of money.
  message text not null,  -- What happened, for people, in their language.
  is_read boolean not null default false,  -- Whether somebody has read it: the one column that clients write.
  read_at timestamp with time zone,  -- When it was read; kept by a trigger.
  metadata jsonb not null default '{}'::jsonb,  -- The facts of the message, for clients that write their own.
  created_at timestamp with time zone not null default now(),  -- When it came to pass.
  constraint billing_alerts_pkey PRIMARY KEY (id),
  constraint an_alert_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint key_is_not_empty CHECK (length(key) >= 1 AND length(key) <= 300),
  constraint message_is_not_empty CHECK (length(message) >= 1 AND length(message) <= 1000),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint read_at_says_when_it_was_read CHECK (is_read = (read_at IS NOT NULL)),
  constraint type_is_known CHECK (type = ANY (ARRAY['usage_threshold'::text, 'payment_failed'::text, 'invoice_overdue'::text, 'subscription_expiring'::text, 'low_balance'::text, 'provider_key_invalid'::text])),
  constraint billing_alerts_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint billing_alerts_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint a_user_is_told_of_a_crossing_once UNIQUE (user_id, type, key),
  constraint an_organization_is_told_of_a_crossing_once UNIQUE (organization_id, type, key)
);
CREATE INDEX billing_alerts_by_organization ON public.billing_alerts USING btree (organization_id, created_at DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX billing_alerts_by_user ON public.billing_alerts USING btree (user_id, created_at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX billing_alerts_to_purge ON public.billing_alerts USING btree (created_at) WHERE is_read;
CREATE TRIGGER billing_alerts_are_sent AFTER INSERT ON public.billing_alerts FOR EACH ROW EXECUTE FUNCTION private.send_alert();
CREATE TRIGGER billing_alerts_follow_is_read BEFORE UPDATE ON public.billing_alerts FOR EACH ROW EXECUTE FUNCTION private.follow_is_read();
CREATE POLICY "Users and organization admins mark their alerts read" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
CREATE POLICY "Users and organization admins read their alerts" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT UPDATE (is_read) TO authenticated;
GRANT SELECT TO service_role;

-- Conversations. Read by their author, and by the members of an organization where they are shared; written through functions.
create table public.conversations (
  id uuid not null default private.uuid7(),  -- Identifies the conversation.
  user_id uuid,  -- Its author; null for one that an organization's API key began, and for a shared one whose author was erased.
  organization_id uuid,  -- The organization that pays for it; null where the author does.
  is_shared boolean not null default false,  -- Whether members of the organization read it and write in it.
  agent_id uuid,  -- The agent that answers; null for none, and once it is deleted.
  title text,  -- Its title; null until there is a first message.
  title_source text,  -- generated (from the first message) or user, which nothing overwrites.
  system_prompt text,  -- What the model is told first, where no agent says it.
  model text,  -- The model that answers; null for the agent's, or the default one.
  status text not null default 'active'::text,  -- active, archived (kept, takes no messages) or deleted (invisible, purged after a while).
  message_count integer not null default 0,  -- Its messages, of all branches.
  total_tokens bigint not null default 0,  -- Tokens of all its answers, prompts included.
  head_message_id uuid,  -- The last message of the branch that is shown; null while there is none. No foreign key: a check compares.
  documents jsonb,  -- Which documents its messages are answered from, unless they say otherwise: ids, "all", or null for none. Whose they are is asked with every message.
  last_message_at timestamp with time zone,  -- When its newest message was written; null while there is none.
  created_at timestamp with time zone not null default now(),  -- When it was begun.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  archived_at timestamp with time zone,  -- When it was archived; null unless it is.
  deleted_at timestamp with time zone,  -- When it was deleted; null unless it is.
  constraint conversations_pkey PRIMARY KEY (id),
  constraint a_conversation_belongs_to_somebody CHECK (num_nonnulls(user_id, organization_id) >= 1),
  constraint a_title_has_a_source CHECK ((title IS NULL) = (title_source IS NULL)),
  constraint counters_are_not_negative CHECK (message_count >= 0 AND total_tokens >= 0),
  constraint documents_are_all_or_1_to_50_ids CHECK (
CASE jsonb_typeof(documents)
    WHEN 'string'::text THEN documents = '"all"'::jsonb
    WHEN 'array'::text THEN jsonb_array_length(documents) >= 1 AND jsonb_array_length(documents) <= 50
    ELSE documents IS NULL
END),
  constraint model_is_named CHECK (char_length(model) >= 1 AND char_length(model) <= 200),
  constraint only_a_deleted_conversation_was_deleted CHECK ((status = 'deleted'::text) = (deleted_at IS NOT NULL)),
  constraint only_an_archived_conversation_was_archived CHECK ((status = 'archived'::text) = (archived_at IS NOT NULL)),
  constraint only_an_organizations_conversation_is_shared CHECK (NOT is_shared OR organization_id IS NOT NULL),
  constraint status_is_known CHECK (status = ANY (ARRAY['active'::text, 'archived'::text, 'deleted'::text])),
  constraint system_prompt_has_at_most_64_kib CHECK (octet_length(system_prompt) <= 65536),
  constraint title_has_1_to_255_characters CHECK (char_length(title) >= 1 AND char_length(title) <= 255 AND title = btrim(title)),
  constraint title_source_is_known CHECK (title_source = ANY (ARRAY['generated'::text, 'user'::text])),
  constraint conversations_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON DELETE SET NULL,
  constraint conversations_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
) with (fillfactor=80);
CREATE INDEX conversations_by_agent ON public.conversations USING btree (agent_id) WHERE agent_id IS NOT NULL;
CREATE INDEX conversations_by_organization ON public.conversations USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX conversations_by_user ON public.conversations USING btree (user_id, COALESCE(last_message_at, created_at) DESC, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX conversations_of_everybody_in_an_organization ON public.conversations USING btree (organization_id, COALESCE(last_message_at, created_at) DESC, id DESC) WHERE is_shared OR user_id IS NULL;
CREATE INDEX conversations_of_organizations_without_a_message ON public.conversations USING btree (organization_id) WHERE message_count = 0;
CREATE INDEX conversations_to_archive ON public.conversations USING btree (COALESCE(last_message_at, created_at)) WHERE status = 'active'::text;
CREATE INDEX conversations_to_purge ON public.conversations USING btree (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX conversations_without_a_message ON public.conversations USING btree (user_id) WHERE message_count = 0;
CREATE TRIGGER conversations_touch_updated_at BEFORE UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users read their own conversations, and members shared ones, un" FOR SELECT TO authenticated USING status <> 'deleted'::text AND (organization_id IS NULL AND user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids)))) AND (is_shared OR user_id = (( SELECT private.active_user_id() AS active_user_id))));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- The credit account of a user or an organization; of nobody once its owner is erased.
create table public.credit_accounts (
  id uuid not null default gen_random_uuid(),  -- Identifies the account; ledger rows carry this and never a person.
  user_id uuid,  -- The user who owns the account; null for an organization's or an erased one.
  organization_id uuid,  -- The organization that owns the account; null for a user's or an erased one.
  balance numeric(20,6) not null default 0,  -- Credits: what the lots hold, less debt. Can be negative only through debt.
  debt numeric(20,6) not null default 0,  -- Credits taken back after they were spent; the next grant repays it first.
  held numeric(20,6) not null default 0,  -- Credits promised to work in flight; balance - held is available.
  active_holds integer not null default 0,  -- Number of holds in flight, which is the number of concurrent requests.
  lifetime_granted numeric(20,6) not null default 0,  -- Credits ever granted, clawbacks not deducted.
  lifetime_spent numeric(20,6) not null default 0,  -- Credits ever spent, refunds deducted.
  monthly_credit_budget numeric(20,6),  -- Credits that may be spent in a calendar month (UTC); null for no limit.
  period_start timestamp with time zone not null default private.month_start(now()),  -- Start of the calendar month (UTC) that the period_ columns count.
  period_requests bigint not null default 0,  -- Requests accepted in the period, less those that failed.
  period_tokens bigint not null default 0,  -- Tokens used in the period.
  period_credits numeric(20,6) not null default 0,  -- Credits spent in the period.
  period_free_images integer not null default 0,  -- Images of the period that the plan gave, those in the making included.
  tokens_held bigint not null default 0,  -- Tokens that work in flight is expected to use at most.
  next_request_at timestamp with time zone not null default '-infinity'::timestamp with time zone,  -- Theoretical arrival time of the next request (GCRA), which is the whole state of the rate limit.
  next_expiry_at timestamp with time zone,  -- Earliest expiry among lots with something left.
  version bigint not null default 0,  -- Number of transactions so far; the last one's version.
  created_at timestamp with time zone not null default now(),  -- When the account was opened.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  erased_at timestamp with time zone,  -- When its owner was erased.
  low_balance_threshold numeric(20,6) default private.setting('low_balance_threshold'::text)::numeric,  -- Credits: the owner is told when the balance falls below; null for never.
  next_tokens_threshold bigint,  -- Tokens of the period at which the owner is told next; null when nothing is left to tell.
  next_requests_threshold bigint,  -- Requests of the period at which the owner is told next; null when nothing is left to tell.
  next_credits_threshold numeric(20,6),  -- Credits spent in the period at which the owner is told next; null when nothing is left to tell.
  thresholds_expire_at timestamp with time zone,  -- When the plan ends that the next thresholds were computed for; null for never.
  top_up_below numeric(20,6),  -- Credits available under which an automatic top-up is asked for; null for none. Kept by a trigger on auto_top_ups.
  constraint credit_accounts_pkey PRIMARY KEY (id),
  constraint an_account_has_one_owner_until_it_is_erased CHECK (num_nonnulls(user_id, organization_id) =
CASE
    WHEN erased_at IS NULL THEN 1
    ELSE 0
END),
  constraint budget_is_not_negative CHECK (monthly_credit_budget >= 0::numeric),
  constraint counters_are_not_negative CHECK (LEAST(lifetime_granted, lifetime_spent, period_requests::numeric, period_tokens::numeric, period_credits, version::numeric) >= 0::numeric),
  constraint debt_is_not_negative CHECK (debt >= 0::numeric),
  constraint free_images_are_not_negative CHECK (period_free_images >= 0),
  constraint held_is_backed_by_lots CHECK (held <= (balance + debt)),
  constraint held_is_not_negative CHECK (held >= 0::numeric AND active_holds >= 0 AND tokens_held >= 0),
  constraint low_balance_threshold_is_not_negative CHECK (low_balance_threshold >= 0::numeric),
  constraint top_up_threshold_is_positive CHECK (top_up_below > 0::numeric),
  constraint credit_accounts_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint credit_accounts_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint credit_accounts_organization_id_key UNIQUE (organization_id),
  constraint credit_accounts_user_id_key UNIQUE (user_id)
) with (fillfactor=70);
CREATE INDEX credit_accounts_by_next_expiry ON public.credit_accounts USING btree (next_expiry_at) WHERE next_expiry_at IS NOT NULL;
CREATE TRIGGER credit_accounts_aim_thresholds BEFORE INSERT ON public.credit_accounts FOR EACH ROW EXECUTE FUNCTION private.watch_usage();
CREATE TRIGGER credit_accounts_ask_for_a_top_up AFTER UPDATE OF balance, held ON public.credit_accounts FOR EACH ROW WHEN ((new.balance - new.held) < new.top_up_below AND (old.balance - old.held) >= new.top_up_below) EXECUTE FUNCTION private.notice_low_credits();
CREATE TRIGGER credit_accounts_mark_erased BEFORE UPDATE OF user_id, organization_id ON public.credit_accounts FOR EACH ROW WHEN (new.user_id IS NULL AND new.organization_id IS NULL) EXECUTE FUNCTION private.mark_erased_account();
CREATE TRIGGER credit_accounts_refuse_delete BEFORE DELETE ON public.credit_accounts FOR EACH ROW EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE TRIGGER credit_accounts_tell_low_balance AFTER UPDATE OF balance ON public.credit_accounts FOR EACH ROW WHEN (new.balance < new.low_balance_threshold AND old.balance >= new.low_balance_threshold) EXECUTE FUNCTION private.tell_low_balance();
CREATE TRIGGER credit_accounts_watch_limits BEFORE UPDATE OF period_start, monthly_credit_budget, thresholds_expire_at ON public.credit_accounts FOR EACH ROW EXECUTE FUNCTION private.watch_usage();
CREATE TRIGGER credit_accounts_watch_requests BEFORE UPDATE OF period_requests ON public.credit_accounts FOR EACH ROW WHEN (new.period_requests >= new.next_requests_threshold OR new.updated_at >= new.thresholds_expire_at) EXECUTE FUNCTION private.watch_usage();
CREATE TRIGGER credit_accounts_watch_spending BEFORE UPDATE OF period_tokens, period_credits ON public.credit_accounts FOR EACH ROW WHEN (new.period_tokens >= new.next_tokens_threshold OR new.period_credits >= new.next_credits_threshold) EXECUTE FUNCTION private.watch_usage();
CREATE POLICY "Users read their own account and those of their organizations" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_organization_ids() AS my_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What was granted, and what is left of it. Lots burn by priority, then earliest expiry, then oldest; those past their date, of which only what is on hold is left, before all others.
create table public.credit_lots (
  id uuid not null default private.uuid7(),  -- Identifies the lot.
  account_id uuid not null,  -- Whose credits these are.
  source text not null,  -- Why they were granted.
  amount numeric(20,6) not null,  -- Credits granted.
  remaining numeric(20,6) not null,  -- Credits neither spent, expired nor taken back.
  clawed_back numeric(20,6) not null default 0,  -- Credits taken back because their payment was refunded or disputed.
  expired numeric(20,6) not null default 0,  -- Credits that expired unspent.
  priority integer not null default 100,  -- Lower burns first.
  expires_at timestamp with time zone,  -- When what is left expires; null for never.
  used_at timestamp with time zone,  -- When nothing was left of it.
  paid_minor bigint,  -- Money paid for it, in minor units of the currency; null when it was free.
  currency text,  -- Currency of paid_minor, lower-case ISO 4217.
  reason text,  -- What the owner is told.
  reference text,  -- Id of the paid object at the payment provider, or an operator's reference.
  stands_in_for uuid,  -- The lot whose credits these were: it had expired when they were given back.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts, never about a person.
  created_at timestamp with time zone not null default now(),  -- When it was granted.
  constraint credit_lots_pkey PRIMARY KEY (id),
  constraint amount_is_positive CHECK (amount > 0::numeric),
  constraint clawed_back_is_part_of_amount CHECK (clawed_back >= 0::numeric AND clawed_back <= amount),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint expired_is_not_negative CHECK (expired >= 0::numeric),
  constraint money_paid_has_a_currency CHECK ((paid_minor IS NULL) = (currency IS NULL) AND paid_minor >= 0),
  constraint remaining_is_part_of_amount CHECK (remaining >= 0::numeric AND remaining <= amount),
  constraint source_is_known CHECK (source = ANY (ARRAY['purchase'::text, 'plan'::text, 'bonus'::text, 'ads_reward'::text, 'promotional'::text, 'refund'::text, 'compensation'::text, 'adjustment'::text])),
  constraint used_at_says_that_nothing_remains CHECK ((used_at IS NOT NULL) = (remaining = 0::numeric)),
  constraint credit_lots_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint credit_lots_stands_in_for_fkey FOREIGN KEY (stands_in_for) REFERENCES public.credit_lots(id)
) with (fillfactor=80);
CREATE INDEX credit_lots_by_account ON public.credit_lots USING btree (account_id, created_at DESC);
CREATE INDEX credit_lots_by_what_they_stand_in_for ON public.credit_lots USING btree (stands_in_for) WHERE stands_in_for IS NOT NULL;
CREATE INDEX credit_lots_in_burn_order ON public.credit_lots USING btree (account_id, priority, expires_at, created_at, id) WHERE used_at IS NULL;
CREATE TRIGGER credit_lots_refuse_delete BEFORE DELETE ON public.credit_lots FOR EACH ROW EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE TRIGGER credit_lots_refuse_truncate BEFORE TRUNCATE ON public.credit_lots FOR EACH STATEMENT EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE POLICY "Owners and organization admins read their lots" FOR SELECT TO authenticated USING (account_id IN ( SELECT private.my_statement_account_ids() AS my_statement_account_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What a top-up can buy.
create table public.credit_packs (
  id uuid not null default gen_random_uuid(),  -- Identifies the pack.
  slug text not null,  -- Its stable name in code and URLs.
  name text not null,  -- Its name for people, also on the checkout page.
  description text,  -- One sentence for the price list.
  credits numeric(20,6) not null,  -- Credits it grants.
  price_minor bigint not null,  -- Price in minor units of the currency.
  currency text not null default 'eur'::text,  -- Currency of the price, lower-case ISO 4217.
  stripe_price_id text,  -- The price at Stripe; null to name the amount in the checkout itself.
  valid_days integer,  -- Days the credits stay valid once paid; null for ever.
  is_active boolean not null default true,  -- Whether it is on sale.
  sort_order integer not null default 0,  -- Its place in the price list.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When it last changed.
  constraint credit_packs_pkey PRIMARY KEY (id),
  constraint credits_are_positive CHECK (credits > 0::numeric),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint name_is_not_empty CHECK (length(name) >= 1 AND length(name) <= 100),
  constraint price_is_positive CHECK (price_minor > 0),
  constraint slug_is_lower_case CHECK (slug ~ '^[a-z][a-z0-9_-]{0,49}$'::text),
  constraint validity_is_positive CHECK (valid_days > 0),
  constraint packs_have_unique_slugs UNIQUE (slug)
);
CREATE TRIGGER credit_packs_touch BEFORE UPDATE ON public.credit_packs FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Everybody reads the packs on sale" FOR SELECT TO anon, authenticated USING is_active;
GRANT SELECT (created_at, credits, currency, description, id, is_active, name, price_minor, slug, sort_order, updated_at, valid_days) TO anon;
GRANT SELECT (created_at, credits, currency, description, id, is_active, name, price_minor, slug, sort_order, updated_at, valid_days) TO authenticated;
GRANT SELECT TO service_role;

-- Checkouts of credit packs: what was to be paid for how many credits, and what became of it.
create table public.credit_purchases (
  id uuid not null default private.uuid7(),  -- Identifies the purchase; Stripe carries it as client_reference_id and in metadata.
  user_id uuid,  -- The user who owns it; null for an organization's, or once erased.
  organization_id uuid,  -- The organization that owns it; null for a user's, or once erased.
  bought_by uuid,  -- Who started the checkout; null once erased.
  account_id uuid not null,  -- The credit account that receives the credits.
  pack_id uuid not null,  -- The pack that was bought.
  pack_name text not null,  -- Name of the pack when it began: what Stripe is told is the same for every attempt.
  credits numeric(20,6) not null,  -- Credits it grants, as the pack said when the checkout began.
  price_minor bigint not null,  -- What must be paid, in minor units, as the pack said when the checkout began.
  currency text not null,  -- Currency of the price, lower-case ISO 4217.
  valid_days integer,  -- Days the credits stay valid once paid; null for ever.
  status text not null default 'pending'::text,  -- pending; paid, failed or expired; then partially_refunded, refunded or disputed while money is gone.
  amount_refunded_minor bigint not null default 0,  -- Money given back, in minor units.
  amount_disputed_minor bigint not null default 0,  -- Money withheld by disputes that are open or lost, in minor units.
  lot_id uuid,  -- The credits that were granted; null until it is paid.
  stripe_checkout_session_id text,  -- The checkout session at Stripe.
  stripe_payment_intent_id text,  -- The payment at Stripe; the grant is keyed on it.
  stripe_charge_id text,  -- The charge at Stripe, once an event names it.
  checkout_url text,  -- Where the buyer pays.
  checkout_expires_at timestamp with time zone,  -- Until when the checkout page accepts payment.
  idempotency_key text,  -- The buyer's key for this checkout, unique per buyer.
  created_at timestamp with time zone not null default now(),  -- When the checkout began.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  paid_at timestamp with time zone,  -- When its credits were granted.
  is_automatic boolean not null default false,  -- Whether an automatic top-up bought it, without a checkout.
  stripe_payment_method_id text,  -- What an automatic purchase is paid with, at Stripe: the same for every attempt. Null for a checkout.
  asked_at timestamp with time zone,  -- When a worker last set out to ask Stripe for an automatic purchase: for an hour its answer may be on the way. Null for a checkout.
  constraint credit_purchases_pkey PRIMARY KEY (id),
  constraint a_disputed_purchase_has_a_disputed_amount CHECK ((status = 'disputed'::text) = (amount_disputed_minor > 0)),
  constraint a_purchase_has_at_most_one_owner CHECK (num_nonnulls(user_id, organization_id) <= 1),
  constraint a_purchase_has_its_lot_once_it_is_paid CHECK ((status = ANY (ARRAY['paid'::text, 'partially_refunded'::text, 'refunded'::text, 'disputed'::text])) = (lot_id IS NOT NULL)),
  constraint a_refunded_purchase_is_refunded_whole CHECK (status <> 'refunded'::text OR amount_refunded_minor = price_minor),
  constraint an_automatic_purchase_has_no_checkout CHECK (NOT is_automatic OR stripe_checkout_session_id IS NULL),
  constraint an_automatic_purchase_was_asked_for CHECK (is_automatic = (asked_at IS NOT NULL)),
  constraint credits_are_positive CHECK (credits > 0::numeric),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint key_is_not_empty CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 255),
  constraint no_more_is_disputed_than_was_paid CHECK (amount_disputed_minor >= 0 AND amount_disputed_minor <= price_minor),
  constraint no_more_is_refunded_than_was_paid CHECK (amount_refunded_minor >= 0 AND amount_refunded_minor <= price_minor),
  constraint only_a_paid_purchase_is_refunded_or_disputed CHECK (lot_id IS NOT NULL OR amount_refunded_minor = 0 AND amount_disputed_minor = 0),
  constraint only_an_automatic_purchase_has_its_payment_method CHECK (is_automatic = (stripe_payment_method_id IS NOT NULL)),
  constraint paid_at_says_when_it_was_paid CHECK ((lot_id IS NULL) = (paid_at IS NULL)),
  constraint price_is_positive CHECK (price_minor > 0),
  constraint status_is_known CHECK (status = ANY (ARRAY['pending'::text, 'paid'::text, 'failed'::text, 'expired'::text, 'partially_refunded'::text, 'refunded'::text, 'disputed'::text])),
  constraint credit_purchases_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint credit_purchases_bought_by_fkey FOREIGN KEY (bought_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint credit_purchases_lot_id_fkey FOREIGN KEY (lot_id) REFERENCES public.credit_lots(id),
  constraint credit_purchases_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint credit_purchases_pack_id_fkey FOREIGN KEY (pack_id) REFERENCES public.credit_packs(id),
  constraint credit_purchases_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX credit_purchases_automatic ON public.credit_purchases USING btree (account_id, created_at) WHERE is_automatic;
CREATE INDEX credit_purchases_by_account ON public.credit_purchases USING btree (account_id);
CREATE INDEX credit_purchases_by_organization ON public.credit_purchases USING btree (organization_id, created_at DESC);
CREATE INDEX credit_purchases_by_pack ON public.credit_purchases USING btree (pack_id);
CREATE INDEX credit_purchases_by_user ON public.credit_purchases USING btree (user_id, created_at DESC);
CREATE UNIQUE INDEX credit_purchases_have_one_key_per_buyer ON public.credit_purchases USING btree (bought_by, idempotency_key);
CREATE UNIQUE INDEX credit_purchases_have_their_own_charge ON public.credit_purchases USING btree (stripe_charge_id) WHERE stripe_charge_id IS NOT NULL;
CREATE UNIQUE INDEX credit_purchases_have_their_own_lot ON public.credit_purchases USING btree (lot_id) WHERE lot_id IS NOT NULL;
CREATE UNIQUE INDEX credit_purchases_have_their_own_payment ON public.credit_purchases USING btree (stripe_payment_intent_id) WHERE stripe_payment_intent_id IS NOT NULL;
CREATE UNIQUE INDEX credit_purchases_have_their_own_session ON public.credit_purchases USING btree (stripe_checkout_session_id) WHERE stripe_checkout_session_id IS NOT NULL;
CREATE TRIGGER credit_purchases_touch BEFORE UPDATE ON public.credit_purchases FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Buyers and organization admins read their purchases" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Every change to an account, append-only. Rows carry the account, never the person.
create table public.credit_transactions (
  id uuid not null default private.uuid7(),  -- Identifies the transaction.
  account_id uuid not null,  -- Whose ledger it belongs to.
  version bigint not null,  -- Its place in the account's ledger, from 1 without gaps.
  operation text not null,  -- Which ledger function wrote it; idempotency keys are scoped by it.
  type text not null,  -- What the owner sees: purchase, usage, refund, expiry, clawback ...
  amount numeric(20,6) not null,  -- Credits added (positive) or taken (negative). Zero only when debt is repaid out of lots.
  debt_change numeric(20,6) not null default 0,  -- Credits of debt made (positive) or repaid (negative).
  balance_after numeric(20,6) not null,  -- Balance after it.
  balance_before numeric(20,6) generated always as ((balance_after - amount)) stored,  -- Balance before it.
  lot_ids uuid[] not null default '{}'::uuid[],  -- The lots it touched; amount = sum(lot_amounts) - debt_change.
  lot_amounts numeric(20,6)[] not null default '{}'::numeric[],  -- What it added to (positive) or took from (negative) each of them.
  reference_id uuid,  -- The hold, or the lot, it is about.
  idempotency_key text,  -- The caller's key, where the operation takes one.
  fingerprint text,  -- Digest of the arguments that came with the key.
  description text,  -- What the owner is told.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts, never about a person.
  created_at timestamp with time zone not null default now(),  -- When it was written.
  constraint credit_transactions_pkey PRIMARY KEY (id),
  constraint a_key_has_its_fingerprint CHECK ((idempotency_key IS NULL) = (fingerprint IS NULL)),
  constraint a_transaction_changes_something CHECK (amount <> 0::numeric OR debt_change <> 0::numeric),
  constraint every_lot_has_its_amount CHECK (cardinality(lot_ids) = cardinality(lot_amounts)),
  constraint operation_is_known CHECK (operation = ANY (ARRAY['grant'::text, 'settle'::text, 'refund'::text, 'expire'::text, 'claw_back'::text, 'give_back'::text, 'repay'::text])),
  constraint type_is_known CHECK (type = ANY (ARRAY['purchase'::text, 'usage'::text, 'refund'::text, 'bonus'::text, 'ads_reward'::text, 'plan'::text, 'promotional'::text, 'compensation'::text, 'adjustment'::text, 'expiry'::text, 'clawback'::text, 'clawback_return'::text, 'debt_repayment'::text])),
  constraint version_is_positive CHECK (version > 0),
  constraint credit_transactions_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id)
);
CREATE INDEX credit_transactions_by_reference ON public.credit_transactions USING btree (reference_id) WHERE operation <> 'settle'::text;
CREATE UNIQUE INDEX credit_transactions_are_numbered_per_account ON public.credit_transactions USING btree (account_id, version);
CREATE UNIQUE INDEX credit_transactions_have_one_key_per_operation ON public.credit_transactions USING btree (account_id, operation, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TRIGGER credit_transactions_refuse_change BEFORE DELETE OR UPDATE ON public.credit_transactions FOR EACH ROW EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE TRIGGER credit_transactions_refuse_truncate BEFORE TRUNCATE ON public.credit_transactions FOR EACH STATEMENT EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE POLICY "Owners and organization admins read their transactions" FOR SELECT TO authenticated USING (account_id IN ( SELECT private.my_statement_account_ids() AS my_statement_account_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Documents in pieces. Read by whoever reads the document, best through search_documents(); functions write.
create table public.document_chunks (
  id uuid not null default private.uuid7(),  -- Identifies the chunk.
  document_id uuid not null,  -- The document.
  user_id uuid,  -- The document's author.
  organization_id uuid,  -- The document's organization; null for the person.
  chunk_index integer not null,  -- Its place in the document.
  page integer,  -- The page that it begins on; null where there are none.
  headings text[] not null default '{}'::text[],  -- Headings above it, outermost first.
  content text not null,  -- Its text. Data, never an instruction to whoever reads it.
  token_count integer not null,  -- Tokens of its text.
  content_hash text not null,  -- SHA-256 of the name of the document, headings and text: what a vector is made of.
  flags text[] not null default '{}'::text[],  -- What the screening found: hidden_text, instructions and the like. Ranked down, or left out.
  metadata jsonb not null default '{}'::jsonb,  -- What else the parser knows.
  words tsvector not null default ''::tsvector storage m,  -- What of it is searched for: name (A), headings (B), text (D), and whose it is, u: or o:.
  embedding extensions.halfvec(1536),  -- What it means, as a vector; null until there is one.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it came.
  constraint document_chunks_pkey PRIMARY KEY (id),
  constraint chunk_index_is_not_negative CHECK (chunk_index >= 0),
  constraint content_has_1_to_100000_characters CHECK (char_length(content) >= 1 AND char_length(content) <= 100000),
  constraint content_hash_is_sha_256 CHECK (content_hash ~ '^[0-9a-f]{64}$'::text),
  constraint flags_are_words CHECK (cardinality(flags) <= 20 AND array_to_string(flags, ' '::text, '?'::text) ~ '^([a-z][a-z0-9_]{0,39}( |$))*$'::text),
  constraint headings_are_few_and_short CHECK (cardinality(headings) <= 10 AND char_length(array_to_string(headings, ''::text, '?'::text)) <= (10 * 500)),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint page_is_positive CHECK (page >= 1),
  constraint token_count_is_positive CHECK (token_count > 0),
  constraint document_chunks_document_id_fkey FOREIGN KEY (document_id) REFERENCES public.documents(id) ON DELETE CASCADE,
  constraint document_chunks_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint document_chunks_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint a_chunk_has_its_place UNIQUE (document_id, chunk_index)
) with (fillfactor=90);
CREATE INDEX document_chunks_by_likeness ON public.document_chunks USING hnsw (embedding extensions.halfvec_cosine_ops) WHERE embedding IS NOT NULL;
CREATE INDEX document_chunks_by_organization ON public.document_chunks USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX document_chunks_by_user ON public.document_chunks USING btree (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX document_chunks_by_word ON public.document_chunks USING gin (words);
CREATE POLICY "Users read chunks of their own documents, members those of thei" FOR SELECT TO authenticated USING organization_id IS NULL AND user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Pieces of documentation. Read by whoever reads the library, best through search_documentation(); functions write.
create table public.documentation_chunks (
  id uuid not null default private.uuid7(),  -- Identifies the chunk.
  library_version_id uuid not null,  -- The version it is of.
  library_id text not null,  -- The library it is of.
  organization_id uuid,  -- Its library's; null for everybody.
  chunk_index integer not null,  -- Its place on its page.
  source_path text not null,  -- Its page: a path in the source, or of a site.
  source_url text,  -- Where people read it, with the anchor of its heading.
  title text not null default ''::text,  -- Title of its page, or of itself.
  headings text[] not null default '{}'::text[],  -- Headings above it, outermost first.
  content text not null,  -- Its text. Data, never an instruction to whoever reads it.
  content_type text not null,  -- snippet, guide or api_ref.
  language text,  -- Language of its code; null for none.
  token_count integer not null,  -- Tokens of its text.
  content_hash text not null,  -- SHA-256 of title, headings and text: what a vector is made of.
  identifiers text[] not null default '{}'::text[],  -- Names in code that it is about, as the parser found them.
  flags text[] not null default '{}'::text[],  -- What the screening found: hidden_text, instructions and the like. Ranked down, or left out.
  metadata jsonb not null default '{}'::jsonb,  -- What else the parser knows.
  words tsvector not null default ''::tsvector storage m,  -- What of it is searched for: its heading (A), title and headings above (B), names (C), text (D), and v:<its version>.
  added_in integer not null,  -- Number of the crawl that it came with.
  seen_in integer not null,  -- Number of the latest crawl that found it.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it came.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint documentation_chunks_pkey PRIMARY KEY (id),
  constraint a_chunk_is_seen_since_it_came CHECK (added_in >= 1 AND seen_in >= added_in),
  constraint chunk_index_is_not_negative CHECK (chunk_index >= 0),
  constraint content_has_1_to_100000_characters CHECK (char_length(content) >= 1 AND char_length(content) <= 100000),
  constraint content_hash_is_sha_256 CHECK (content_hash ~ '^[0-9a-f]{64}$'::text),
  constraint content_type_is_known CHECK (content_type = ANY (ARRAY['snippet'::text, 'guide'::text, 'api_ref'::text])),
  constraint flags_are_words CHECK (cardinality(flags) <= 20 AND array_to_string(flags, ' '::text, '?'::text) ~ '^([a-z][a-z0-9_]{0,39}( |$))*$'::text),
  constraint headings_are_few_and_short CHECK (cardinality(headings) <= 10 AND char_length(array_to_string(headings, ''::text, '?'::text)) <= (10 * 500)),
  constraint identifiers_are_few CHECK (cardinality(identifiers) <= 200),
  constraint language_is_a_short_name CHECK (language ~ '^[A-Za-z0-9][A-Za-z0-9+#._-]{0,39}$'::text),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint source_path_has_1_to_500_characters CHECK (char_length(source_path) >= 1 AND char_length(source_path) <= 500),
  constraint source_url_has_1_to_2000_characters CHECK (char_length(source_url) >= 1 AND char_length(source_url) <= 2000),
  constraint title_has_at_most_500_characters CHECK (char_length(title) <= 500),
  constraint token_count_is_positive CHECK (token_count > 0),
  constraint documentation_chunks_library_id_fkey FOREIGN KEY (library_id) REFERENCES public.libraries(id) ON DELETE CASCADE,
  constraint documentation_chunks_library_version_id_fkey FOREIGN KEY (library_version_id) REFERENCES public.library_versions(id) ON DELETE CASCADE,
  constraint documentation_chunks_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint a_page_has_a_text_once UNIQUE (library_version_id, source_path, content_hash)
) with (fillfactor=85);
CREATE INDEX documentation_chunks_by_organization ON public.documentation_chunks USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX documentation_chunks_by_text ON public.documentation_chunks USING btree (library_id, content_hash);
CREATE INDEX documentation_chunks_by_word ON public.documentation_chunks USING gin (words);
CREATE TRIGGER changed_documentation_is_searched BEFORE UPDATE OF title, headings, content, identifiers ON public.documentation_chunks FOR EACH ROW WHEN (old.title IS DISTINCT FROM new.title OR old.headings IS DISTINCT FROM new.headings OR old.content IS DISTINCT FROM new.content OR old.identifiers IS DISTINCT FROM new.identifiers) EXECUTE FUNCTION private.keep_documentation_words();
CREATE TRIGGER documentation_chunks_touch_updated_at BEFORE UPDATE ON public.documentation_chunks FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER new_documentation_is_searched BEFORE INSERT ON public.documentation_chunks FOR EACH ROW EXECUTE FUNCTION private.keep_documentation_words();
CREATE POLICY "Everybody reads public chunks, members those of their organizat" FOR SELECT TO authenticated USING (organization_id IS NULL AND (( SELECT private.active_user_id() AS active_user_id)) IS NOT NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))))) AND added_in <= (( SELECT v.crawl FROM public.library_versions v WHERE v.id = documentation_chunks.library_version_id));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Files that are searched. Clients insert and delete them; functions index them.
create table public.documents (
  id uuid not null default private.uuid7(),  -- Identifies the document.
  user_id uuid default auth.uid(),  -- Who put it in; null once erased, where it stays the organization's, and for an organization's API key.
  organization_id uuid,  -- The organization that it belongs to; null for the person.
  name text not null,  -- Its name, for people.
  original_filename text not null,  -- The name of the file that was uploaded.
  mime_type text not null,  -- What kind of file it is, as its owner says; the worker looks.
  file_size bigint not null,  -- Bytes of the file: as its owner says, then as Storage has it.
  storage_path text not null default ''::text,  -- Its object in the bucket "documents": owner, document, name. Set here.
  state text not null default 'uploading'::text,  -- uploading, queued, indexing, ready or failed.
  progress smallint not null default 0,  -- Per cent of the index done.
  attempt integer not null default 0,  -- Number of the latest attempt to index it: what an earlier one says is not heard.
  error_code text,  -- Why it could not be indexed, as docs/search.md has it.
  error_message text,  -- The same for people.
  page_count integer,  -- Its pages; null where it has none, or before it is indexed.
  chunk_count integer not null default 0,  -- Its chunks.
  token_count bigint not null default 0,  -- Their tokens.
  embedding_model text,  -- Model of its vectors; null where there are none.
  dimensions integer,  -- Dimensions of those.
  indexed_at timestamp with time zone,  -- When its index was last finished.
  metadata jsonb not null default '{}'::jsonb,  -- The client's own notes, a JSON object of at most 16 KiB.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was added.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint documents_pkey PRIMARY KEY (id),
  constraint a_document_belongs_to_somebody CHECK (num_nonnulls(user_id, organization_id) >= 1),
  constraint a_model_has_its_dimensions CHECK (num_nonnulls(embedding_model, dimensions) = ANY (ARRAY[0, 2])),
  constraint a_ready_document_was_indexed CHECK (state <> 'ready'::text OR indexed_at IS NOT NULL),
  constraint counts_are_not_negative CHECK (chunk_count >= 0 AND token_count >= 0 AND page_count >= 0 AND attempt >= 0),
  constraint dimensions_are_between_1_and_1536 CHECK (dimensions >= 1 AND dimensions <= 1536),
  constraint file_size_is_positive CHECK (file_size > 0),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint mime_type_is_known CHECK (mime_type = ANY (ARRAY['application/pdf'::text, 'application/vnd.openxmlformats-officedocument.wordprocessingml.document'::text, 'text/plain'::text, 'text/markdown'::text, 'text/html'::text, 'text/csv'::text, 'text/x-rst'::text, 'text/asciidoc'::text, 'application/json'::text, 'application/yaml'::text, 'application/x-ipynb+json'::text])),
  constraint name_has_1_to_255_characters CHECK (char_length(name) >= 1 AND char_length(name) <= 255 AND btrim(name) <> ''::text),
  constraint only_a_failed_document_has_an_error CHECK ((state = 'failed'::text) = (error_code IS NOT NULL)),
  constraint original_filename_is_a_file_name CHECK (char_length(original_filename) >= 1 AND char_length(original_filename) <= 255 AND original_filename !~ '[[:cntrl:]/\\]'::text AND btrim(original_filename, '. '::text) <> ''::text),
  constraint progress_is_a_percentage CHECK (progress >= 0 AND progress <= 100),
  constraint state_is_known CHECK (state = ANY (ARRAY['uploading'::text, 'queued'::text, 'indexing'::text, 'ready'::text, 'failed'::text])),
  constraint documents_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint documents_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint documents_storage_path_key UNIQUE (storage_path)
) with (fillfactor=80);
CREATE INDEX documents_by_organization ON public.documents USING btree (organization_id, id DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX documents_by_user ON public.documents USING btree (user_id, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX documents_that_never_came ON public.documents USING btree (created_at) WHERE state = 'uploading'::text;
CREATE TRIGGER documents_have_their_place BEFORE INSERT ON public.documents FOR EACH ROW EXECUTE FUNCTION private.place_document();
CREATE TRIGGER documents_leave_no_file AFTER DELETE ON public.documents FOR EACH ROW EXECUTE FUNCTION private.forget_document_file();
CREATE TRIGGER documents_stay_within_their_plan BEFORE INSERT OR UPDATE OF organization_id ON public.documents FOR EACH ROW EXECUTE FUNCTION private.refuse_rows_beyond_plan('max_documents', 'by clients');
CREATE TRIGGER documents_touch_updated_at BEFORE UPDATE ON public.documents FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Authors change their documents, admins those of their organizat" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) AND (organization_id IS NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))))) OR (organization_id = ANY ((ARRAY( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids)))) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id = ANY ((ARRAY( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids))));
CREATE POLICY "Authors delete their documents, admins those of their organizat" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) AND (organization_id IS NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))))) OR (organization_id = ANY ((ARRAY( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids))));
CREATE POLICY "Users add documents for themselves and for their organizations" FOR INSERT TO authenticated WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id)) AND (organization_id IS NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids)))));
CREATE POLICY "Users read their own documents, members those of their organiza" FOR SELECT TO authenticated USING organization_id IS NULL AND user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))));
GRANT DELETE, SELECT TO authenticated;
GRANT INSERT (file_size, id, metadata, mime_type, name, organization_id, original_filename) TO authenticated;
GRANT UPDATE (metadata, name) TO authenticated;
GRANT SELECT TO service_role;

-- Images that were made. Their bytes are objects of the private bucket "images".
create table public.generated_images (
  id uuid not null default private.uuid7(),  -- Identifies the image.
  user_id uuid,  -- Whose it is; null for one made by an organization's API key.
  organization_id uuid,  -- The organization that paid; null where the person did.
  generation_id uuid,  -- What it came of; null once that was deleted.
  storage_path text not null,  -- Its object in the bucket "images": owner, generation, number.
  thumbnail_path text,  -- The object of its thumbnail; null where it has none.
  public_url text,  -- Where everybody sees it; null while it is private.
  thumbnail_url text,  -- Where everybody sees its thumbnail; null while it is private.
  width integer not null,  -- Pixels.
  height integer not null,  -- Pixels.
  format text not null,  -- webp, png or jpg.
  size_bytes bigint not null,  -- Bytes of its object.
  seed bigint,  -- Where chance began; null where the provider does not say.
  revised_prompt text,  -- What the provider made of the prompt, where it says so.
  access_count bigint not null default 0,  -- Times it was fetched through us.
  last_accessed_at timestamp with time zone,  -- When it was last fetched through us.
  archived_at timestamp with time zone,  -- When it was archived: kept, and not looked for any more. Its owner may clear it.
  is_favorite boolean not null default false,  -- Whether its owner marked it; kept by user_favorites.
  is_public boolean not null default false,  -- Whether everybody may see it.
  metadata jsonb not null default '{}'::jsonb,  -- The client's own notes, a JSON object of at most 16 KiB.
  vision_labels text[],  -- What is on it; null until it was looked at.
  vision_description text,  -- What is on it, in a sentence; null until it was looked at.
  vision_embedding extensions.halfvec(1536),  -- What it is like, as a unit vector; null until it was looked at.
  vision_embedding_model text,  -- The model that made the vector: those of another lie elsewhere.
  nsfw_score real,  -- How likely it is not safe for work, 0 to 1; null until it was looked at.
  style_tags text[],  -- Its style; null until it was looked at.
  color_palette text[],  -- Its colours, most of it first, as #rrggbb; null until it was looked at.
  dominant_colors text[],  -- The few of them that cover most of it; null until it was looked at.
  technical_metadata jsonb not null default '{}'::jsonb,  -- How it was made: model, steps, seconds.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was made.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint generated_images_pkey PRIMARY KEY (id),
  constraint a_vector_says_whose_it_is CHECK (num_nonnulls(vision_embedding, vision_embedding_model) = ANY (ARRAY[0, 2])),
  constraint access_count_is_not_negative CHECK (access_count >= 0),
  constraint an_image_belongs_to_somebody CHECK (num_nonnulls(user_id, organization_id) >= 1),
  constraint dimensions_are_positive CHECK (width > 0 AND height > 0),
  constraint format_is_known CHECK (format = ANY (ARRAY['webp'::text, 'png'::text, 'jpg'::text])),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint nsfw_score_is_a_share CHECK (nsfw_score >= 0::double precision AND nsfw_score <= 1::double precision),
  constraint only_a_public_image_has_a_url CHECK (is_public OR num_nonnulls(public_url, thumbnail_url) = 0),
  constraint size_is_positive CHECK (size_bytes > 0),
  constraint vision_embedding_model_has_1_to_100_characters CHECK (char_length(vision_embedding_model) >= 1 AND char_length(vision_embedding_model) <= 100),
  constraint generated_images_generation_id_fkey FOREIGN KEY (generation_id) REFERENCES public.image_generations(id) ON DELETE SET NULL,
  constraint generated_images_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint generated_images_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint generated_images_storage_path_key UNIQUE (storage_path)
) with (fillfactor=80);
CREATE INDEX generated_images_by_generation ON public.generated_images USING btree (generation_id) WHERE generation_id IS NOT NULL;
CREATE INDEX generated_images_by_likeness ON public.generated_images USING hnsw (vision_embedding extensions.halfvec_cosine_ops) WHERE vision_embedding IS NOT NULL AND archived_at IS NULL;
CREATE INDEX generated_images_by_organization ON public.generated_images USING btree (organization_id, id DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX generated_images_by_user ON public.generated_images USING btree (user_id, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX generated_images_of_everybody ON public.generated_images USING btree (id DESC) WHERE is_public;
CREATE INDEX generated_images_that_are_favorites ON public.generated_images USING btree (user_id, id DESC) WHERE is_favorite;
CREATE INDEX generated_images_to_archive ON public.generated_images USING btree (id) WHERE archived_at IS NULL AND NOT is_favorite AND NOT is_public;
CREATE UNIQUE INDEX generated_images_by_thumbnail ON public.generated_images USING btree (thumbnail_path) WHERE thumbnail_path IS NOT NULL;
CREATE TRIGGER generated_images_are_analysed AFTER INSERT ON public.generated_images FOR EACH ROW EXECUTE FUNCTION private.queue_analysis();
CREATE TRIGGER generated_images_are_cleared_up AFTER DELETE ON public.generated_images FOR EACH ROW EXECUTE FUNCTION private.clear_up_image();
CREATE TRIGGER generated_images_are_forgotten AFTER DELETE ON public.generated_images FOR EACH ROW WHEN (old.user_id IS NOT NULL) EXECUTE FUNCTION private.forget_vision_suggestions();
CREATE TRIGGER generated_images_are_published BEFORE INSERT OR UPDATE OF is_public ON public.generated_images FOR EACH ROW EXECUTE FUNCTION private.publish_image();
CREATE TRIGGER generated_images_touch_updated_at BEFORE UPDATE ON public.generated_images FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users change their own images" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users delete their own images" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own images, members those of their organizatio" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR user_id IS NULL AND (organization_id IN ( SELECT private.my_organization_ids() AS my_organization_ids));
GRANT DELETE, SELECT TO authenticated;
GRANT UPDATE (archived_at, is_public, metadata) TO authenticated;
GRANT SELECT TO service_role;

-- What was found in an image, as whoever looked said it.
create table public.image_analysis (
  id uuid not null default private.uuid7(),  -- Identifies the analysis.
  image_id uuid not null,  -- The image.
  analysis_type text not null,  -- vision, safety, style or color.
  analysis_version text not null,  -- What looked, and in which version.
  raw_response jsonb not null,  -- What it said.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When.
  constraint image_analysis_pkey PRIMARY KEY (id),
  constraint analysis_type_is_known CHECK (analysis_type = ANY (ARRAY['vision'::text, 'safety'::text, 'style'::text, 'color'::text])),
  constraint analysis_version_has_1_to_100_characters CHECK (char_length(analysis_version) >= 1 AND char_length(analysis_version) <= 100),
  constraint raw_response_has_at_most_64_kib CHECK (private.json_size(raw_response) <= 65536),
  constraint image_analysis_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.generated_images(id) ON DELETE CASCADE,
  constraint an_image_is_analysed_once_per_type_and_version UNIQUE (image_id, analysis_type, analysis_version)
);
CREATE POLICY "Whoever reads an image reads what was found in it" FOR SELECT TO authenticated USING (image_id IN ( SELECT i.id FROM public.generated_images i));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What was asked to be drawn, and what became of it. Clients insert; functions change.
create table public.image_generations (
  id uuid not null default private.uuid7(),  -- Identifies the generation.
  user_id uuid default auth.uid(),  -- Who asked; null for an organization's API key.
  organization_id uuid,  -- The organization that pays; null where the person does.
  api_key_id uuid,  -- The API key it came by; null for a person who is signed in.
  provider_key_id uuid,  -- The own key that paid, once it has; null where credits did.
  model_id text not null,  -- The model that draws.
  model_version text,  -- Its version at that time.
  prompt text not null,  -- What to draw.
  negative_prompt text,  -- What not to draw; null for nothing.
  aspect_ratio text,  -- Shape, as 16:9; null where width and height say it, or the model decides.
  width integer,  -- Pixels; filled in where the aspect ratio leads to them.
  height integer,  -- Pixels; filled in where the aspect ratio leads to them.
  steps integer,  -- Steps of denoising; the model's own number where none is asked for.
  guidance_scale numeric(6,2),  -- How closely the prompt is followed; null for the model's own.
  prompt_strength numeric(4,3),  -- How much of the input image is drawn anew, 0.1 to 1; only with one.
  seed bigint,  -- Where chance begins; the same again gives the same image. Null for a new one.
  num_outputs integer not null default 1,  -- Images asked for, 1 to 4.
  output_format text,  -- webp, png or jpg; null for the model's own.
  output_quality integer,  -- Quality of webp and jpg, 1 to 100; null for 90.
  safety_checker boolean not null default true,  -- Asked for by the client; never loosens the person's ai_safety_level.
  hf_loras text[] not null default '{}'::text[],  -- LoRAs by their id, owner/name.
  lora_scales numeric[] not null default '{}'::numeric[],  -- How strongly each of them acts, -2 to 2.
  input_path text,  -- Object of the bucket "images", of the same owner, that the image begins from.
  suggestion_id uuid,  -- The suggestion that the prompt was taken from, of the same person; null for none, and once that was deleted.
  parameters jsonb not null default '{}'::jsonb,  -- quality, background, style, resolution, and options that one provider knows.
  credential text not null default 'auto'::text,  -- Who may pay: auto, own, platform or own_first (docs/byok.md).
  idempotency_key text,  -- The client's key: a second generation with it is refused, and over HTTP the first is the answer.
  fingerprint text,  -- Digest of what was asked for.
  is_public boolean not null default false,  -- Whether its images are public from the start.
  metadata jsonb not null default '{}'::jsonb,  -- The client's own notes, a JSON object of at most 16 KiB.
  status text not null default 'pending'::text,  -- pending, processing, completed, failed or cancelled.
  progress smallint not null default 0,  -- Per cent of the work done.
  attempts integer not null default 0,  -- Times the work was begun.
  error_code text,  -- Why it failed, as docs/errors.md has it.
  error_message text,  -- The same for people.
  credits_cost numeric(20,6) not null default 0,  -- Credits held for it.
  credits_charged numeric(20,6) not null default 0,  -- Credits charged for it.
  free_images integer not null default 0,  -- Images of it that the plan gives: held while it runs, used once it has ended.
  hold_id uuid,  -- The hold it is made under.
  task_id uuid,  -- The task that makes it; no foreign key, since tasks are purged.
  deadline timestamp with time zone,  -- When it is given up.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was asked for.
  started_at timestamp with time zone,  -- When the latest attempt began.
  completed_at timestamp with time zone,  -- When it ended, well or not.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint image_generations_pkey PRIMARY KEY (id),
  constraint a_generation_belongs_to_somebody CHECK (num_nonnulls(user_id, organization_id) >= 1),
  constraint an_ended_generation_says_when CHECK ((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (completed_at IS NOT NULL)),
  constraint aspect_ratio_is_one CHECK (aspect_ratio ~ '^[1-9][0-9]?:[1-9][0-9]?$'::text),
  constraint credential_is_known CHECK (credential = ANY (ARRAY['auto'::text, 'own'::text, 'platform'::text, 'own_first'::text])),
  constraint credits_charged_are_part_of_what_was_held CHECK (credits_charged >= 0::numeric AND credits_charged <= credits_cost),
  constraint dimensions_are_both_or_neither CHECK (num_nonnulls(width, height) = ANY (ARRAY[0, 2])),
  constraint dimensions_are_pixels CHECK (width >= 16 AND width <= 16384 AND height >= 16 AND height <= 16384),
  constraint every_lora_has_a_scale CHECK (cardinality(hf_loras) = cardinality(lora_scales)),
  constraint free_images_are_among_the_outputs CHECK (free_images >= 0 AND free_images <= num_outputs),
  constraint guidance_scale_is_between_0_and_20 CHECK (guidance_scale >= 0::numeric AND guidance_scale <= 20::numeric),
  constraint idempotency_key_has_1_to_255_characters CHECK (char_length(idempotency_key) >= 1 AND char_length(idempotency_key) <= 255),
  constraint input_path_is_a_path CHECK (char_length(input_path) <= 500 AND input_path !~ '(^|/)\.{0,2}(/|$)'::text AND input_path !~ '[[:cntrl:]\\]'::text),
  constraint lora_scales_are_between_minus_2_and_2 CHECK (array_position(lora_scales, NULL::numeric) IS NULL AND ('-2'::integer::numeric <= ALL (lora_scales)) AND (2::numeric >= ALL (lora_scales))),
  constraint loras_are_named_by_owner_and_name CHECK (cardinality(hf_loras) <= 16 AND array_to_string(hf_loras, ' '::text, '?'::text) ~ '^([A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*( |$))*$'::text AND char_length(array_to_string(hf_loras, ''::text)) <= (16 * 200)),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint negative_prompt_has_at_most_32000_characters CHECK (char_length(negative_prompt) <= 32000),
  constraint num_outputs_is_between_1_and_4 CHECK (num_outputs >= 1 AND num_outputs <= 4),
  constraint only_a_failed_generation_has_an_error CHECK ((status = 'failed'::text) = (error_code IS NOT NULL)),
  constraint output_format_is_known CHECK (output_format = ANY (ARRAY['webp'::text, 'png'::text, 'jpg'::text])),
  constraint output_quality_is_between_1_and_100 CHECK (output_quality >= 1 AND output_quality <= 100),
  constraint parameters_are_a_small_object CHECK (jsonb_typeof(parameters) = 'object'::text AND private.json_size(parameters) <= 16384),
  constraint progress_is_a_percentage CHECK (progress >= 0 AND progress <= 100),
  constraint prompt_has_1_to_32000_characters CHECK (char_length(prompt) >= 1 AND char_length(prompt) <= 32000 AND btrim(prompt) <> ''::text),
  constraint prompt_strength_is_between_a_tenth_and_1 CHECK (prompt_strength >= 0.1 AND prompt_strength <= 1::numeric),
  constraint seed_is_32_bits CHECK (seed >= 0 AND seed <= '4294967295'::bigint),
  constraint status_is_known CHECK (status = ANY (ARRAY['pending'::text, 'processing'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])),
  constraint steps_are_between_1_and_100 CHECK (steps >= 1 AND steps <= 100),
  constraint image_generations_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id),
  constraint image_generations_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint image_generations_suggestion_id_fkey FOREIGN KEY (suggestion_id) REFERENCES public.prompt_suggestions(id) ON DELETE SET NULL,
  constraint image_generations_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
) with (fillfactor=70);
CREATE INDEX image_generations_by_model ON public.image_generations USING btree (model_id);
CREATE INDEX image_generations_by_organization ON public.image_generations USING btree (organization_id, id DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX image_generations_by_suggestion ON public.image_generations USING btree (suggestion_id) WHERE suggestion_id IS NOT NULL;
CREATE INDEX image_generations_by_user ON public.image_generations USING btree (user_id, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX image_generations_to_end ON public.image_generations USING btree (deadline) WHERE status = ANY (ARRAY['pending'::text, 'processing'::text]);
CREATE UNIQUE INDEX image_generations_have_one_key_per_owner ON public.image_generations USING btree (user_id, organization_id, idempotency_key) NULLS NOT DISTINCT WHERE idempotency_key IS NOT NULL;
CREATE TRIGGER image_generations_are_admitted BEFORE INSERT ON public.image_generations FOR EACH ROW EXECUTE FUNCTION private.admit_generation();
CREATE TRIGGER image_generations_are_cleared_up AFTER DELETE ON public.image_generations FOR EACH ROW WHEN (old.status = ANY (ARRAY['pending'::text, 'processing'::text])) EXECUTE FUNCTION private.clear_up_generation();
CREATE TRIGGER image_generations_are_few_at_once AFTER INSERT ON public.image_generations REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION private.limit_generations();
CREATE TRIGGER image_generations_are_forgotten AFTER DELETE ON public.image_generations FOR EACH ROW WHEN (old.user_id IS NOT NULL AND old.status = 'completed'::text) EXECUTE FUNCTION private.forget_history_suggestion();
CREATE TRIGGER image_generations_tell_their_suggestion AFTER UPDATE OF status ON public.image_generations FOR EACH ROW WHEN (new.suggestion_id IS NOT NULL AND (old.status = ANY (ARRAY['pending'::text, 'processing'::text])) AND (new.status = ANY (ARRAY['completed'::text, 'failed'::text]))) EXECUTE FUNCTION private.note_suggestion_use();
CREATE TRIGGER image_generations_touch_updated_at BEFORE UPDATE ON public.image_generations FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER image_generations_use_their_suggestion AFTER INSERT ON public.image_generations FOR EACH ROW WHEN (new.suggestion_id IS NOT NULL) EXECUTE FUNCTION private.note_suggestion_use();
CREATE POLICY "Users annotate their own generations" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users ask for images" FOR INSERT TO authenticated WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users delete their own generations" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own generations, members those of their organi" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR user_id IS NULL AND (organization_id IN ( SELECT private.my_organization_ids() AS my_organization_ids));
GRANT DELETE, SELECT TO authenticated;
GRANT INSERT (aspect_ratio, credential, guidance_scale, height, hf_loras, id, idempotency_key, input_path, is_public, lora_scales, metadata, model_id, negative_prompt, num_outputs, organization_id, output_format, output_quality, parameters, prompt, prompt_strength, safety_checker, seed, steps, suggestion_id, width) TO authenticated;
GRANT UPDATE (metadata) TO authenticated;
GRANT SELECT TO service_role;

-- What an owner was billed: the newest state of an invoice at Stripe, or one that an operator recorded.
create table public.invoices (
  id uuid not null default private.uuid7(),  -- Identifies the invoice here.
  user_id uuid,  -- The user it is for; null for an organization's, or once erased.
  organization_id uuid,  -- The organization it is for; null for a user's, or once erased.
  account_id uuid not null,  -- The credit account that receives its credits.
  number text,  -- Its number; null for a draft.
  status text not null,  -- draft, open (sent, not paid), paid, uncollectible (given up) or void (canceled), as at Stripe.
  billing_reason text,  -- Why it was made, in Stripe's words: subscription_create, subscription_cycle, subscription_update ...
  items jsonb not null default '[]'::jsonb,  -- Its lines: id, description, quantity, unit_price_minor, amount_minor, type, period_start, period_end.
  subtotal_minor bigint not null,  -- Before discounts and tax, in minor units. Negative when more is credited than billed.
  tax_minor bigint not null default 0,  -- Tax, in minor units. Negative when more is credited than billed.
  total_minor bigint not null,  -- After discounts and tax, in minor units.
  amount_due_minor bigint not null,  -- What was asked for, in minor units, after the customer's balance.
  amount_paid_minor bigint not null default 0,  -- What was paid, in minor units.
  amount_remaining_minor bigint not null,  -- What is left to pay, in minor units.
  currency text not null,  -- Currency of all amounts, lower-case ISO 4217.
  period_start timestamp with time zone not null,  -- When the time began that it is for.
  period_end timestamp with time zone not null,  -- When that time ends.
  issued_at timestamp with time zone not null,  -- When it was made final; while a draft, when it was made.
  due_at timestamp with time zone,  -- Until when it must be paid; null where it is charged automatically.
  paid_at timestamp with time zone,  -- When it was paid.
  attempt_count integer not null default 0,  -- How often payment was tried.
  next_attempt_at timestamp with time zone,  -- When payment is tried again; null for never.
  hosted_invoice_url text,  -- Page on which it can be seen and paid.
  invoice_pdf_url text,  -- The invoice as a PDF.
  lot_id uuid,  -- The credits it granted; null when it granted none.
  credits numeric(20,6) not null default 0,  -- Credits that its lines pay for.
  plan_id uuid,  -- The plan that an operator billed; of an invoice at Stripe the lines say it.
  provider text not null default 'stripe'::text,  -- Who collected it: stripe, or paypal, wise or manual as an operator recorded it.
  stripe_invoice_id text,  -- The invoice at Stripe.
  stripe_subscription_id text,  -- The subscription at Stripe that it is for.
  stripe_customer_id text,  -- The customer at Stripe.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for operators, never about a person.
  created_at timestamp with time zone not null default now(),  -- When it became known here.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint invoices_pkey PRIMARY KEY (id),
  constraint a_lot_is_of_a_paid_invoice CHECK (lot_id IS NULL OR status = 'paid'::text AND credits > 0::numeric),
  constraint a_period_does_not_run_backwards CHECK (period_end >= period_start),
  constraint amounts_are_not_negative CHECK (LEAST(amount_due_minor, amount_paid_minor, amount_remaining_minor, attempt_count::bigint) >= 0),
  constraint an_invoice_has_at_most_one_owner CHECK (num_nonnulls(user_id, organization_id) <= 1),
  constraint an_operator_says_what_plan_they_billed CHECK (plan_id IS NULL OR provider <> 'stripe'::text),
  constraint credits_are_not_negative CHECK (credits >= 0::numeric),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint items_are_a_list CHECK (jsonb_typeof(items) = 'array'::text),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint only_stripe_has_ids_of_stripe CHECK ((provider = 'stripe'::text) = (stripe_invoice_id IS NOT NULL)),
  constraint provider_is_known CHECK (provider = ANY (ARRAY['stripe'::text, 'paypal'::text, 'wise'::text, 'manual'::text])),
  constraint status_is_known CHECK (status = ANY (ARRAY['draft'::text, 'open'::text, 'paid'::text, 'uncollectible'::text, 'void'::text])),
  constraint invoices_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint invoices_lot_id_fkey FOREIGN KEY (lot_id) REFERENCES public.credit_lots(id),
  constraint invoices_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint invoices_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint invoices_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX invoices_by_account ON public.invoices USING btree (account_id);
CREATE INDEX invoices_by_organization ON public.invoices USING btree (organization_id, issued_at DESC);
CREATE INDEX invoices_by_plan ON public.invoices USING btree (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX invoices_by_status ON public.invoices USING btree (status, due_at);
CREATE INDEX invoices_by_subscription ON public.invoices USING btree (stripe_subscription_id) WHERE stripe_subscription_id IS NOT NULL;
CREATE INDEX invoices_by_user ON public.invoices USING btree (user_id, issued_at DESC);
CREATE UNIQUE INDEX invoices_are_mirrored_once ON public.invoices USING btree (stripe_invoice_id) WHERE stripe_invoice_id IS NOT NULL;
CREATE UNIQUE INDEX invoices_have_their_own_lot ON public.invoices USING btree (lot_id) WHERE lot_id IS NOT NULL;
CREATE UNIQUE INDEX invoices_have_unique_numbers ON public.invoices USING btree (provider, number) WHERE number IS NOT NULL;
CREATE TRIGGER invoices_touch BEFORE UPDATE ON public.invoices FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Customers and organization admins read their invoices" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Software whose documentation can be searched. Everybody reads the public ones, members those of their organization; functions write.
create table public.libraries (
  id text not null,  -- Identifies the library: /organization/project, in lower case.
  organization_id uuid,  -- The organization that it is private to; null for everybody.
  vendor text not null generated always as (split_part(id, '/'::text, 2)) stored,  -- The first part of its id.
  title text not null,  -- Its name, for people.
  description text not null default ''::text,  -- What it is, in a sentence or two.
  source_kind text not null,  -- Where its documentation comes from: git, site, archive, folder, pypi or npm.
  source_url text,  -- Its repository, site or package; for an archive, its object in Storage, which is set here where an organization uploads it.
  docs_url text,  -- Where people read it.
  default_version text,  -- Name of the latest version; null before the first is ready.
  aliases text[] not null default '{}'::text[],  -- Other names that people call it by.
  name_grams text[] not null default '{}'::text[],  -- Groups of three letters of all its names, for finding it by a name that is nearly right.
  popularity_score integer not null default 0,  -- How much it is used: stars, downloads, or as the operator sees it.
  trust_score numeric(3,1) not null default 5,  -- How much its documentation can be relied upon, 0 to 10.
  state text not null default 'queued'::text,  -- uploading, queued, crawling, indexing, ready or failed: of the latest crawl. What was ready before stays to be searched.
  progress smallint not null default 0,  -- Per cent of the crawl done.
  error_code text,  -- Why the latest crawl failed.
  error_message text,  -- The same for people.
  total_versions integer not null default 0,  -- Versions that can be searched.
  total_chunks integer not null default 0,  -- Chunks of those.
  total_snippets integer not null default 0,  -- Snippets among them.
  total_tokens bigint not null default 0,  -- Tokens of all of them.
  refresh_seconds integer,  -- Seconds from one crawl to the next; null for library_refresh_seconds.
  source_id uuid not null default private.uuid7(),  -- Identifies what its source is now: another one once it says that it lies elsewhere. A crawl of any other source is not heard.
  crawl_asked_at timestamp with time zone,  -- When its owner last asked for a crawl.
  last_crawled_at timestamp with time zone,  -- When a crawl last ended well.
  next_refresh_at timestamp with time zone,  -- When it is due to be crawled again; null for never.
  moved_to text,  -- The library that took its place, for one that was renamed.
  metadata jsonb not null default '{}'::jsonb,  -- Tags, categories and the like, a JSON object of at most 16 KiB.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was added.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint libraries_pkey PRIMARY KEY (id),
  constraint a_library_moves_elsewhere CHECK (moved_to <> id),
  constraint a_private_library_names_no_object_but_its_own CHECK (organization_id IS NULL OR (source_kind <> ALL (ARRAY['archive'::text, 'folder'::text])) OR source_kind = 'archive'::text AND source_url IS NOT NULL AND source_url ~ (('^uploads/'::text || organization_id::text) || '/[0-9a-f-]{36}$'::text)),
  constraint aliases_are_few_and_short CHECK (cardinality(aliases) <= 20 AND char_length(array_to_string(aliases, ''::text, '?'::text)) <= (20 * 100)),
  constraint description_has_at_most_2000_characters CHECK (char_length(description) <= 2000),
  constraint docs_url_has_1_to_500_characters CHECK (char_length(docs_url) >= 1 AND char_length(docs_url) <= 500),
  constraint id_is_organization_and_project CHECK (id ~ '^/[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*$'::text AND char_length(id) <= 100),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint only_a_failed_library_has_an_error CHECK ((state = 'failed'::text) = (error_code IS NOT NULL)),
  constraint popularity_score_is_not_negative CHECK (popularity_score >= 0),
  constraint progress_is_a_percentage CHECK (progress >= 0 AND progress <= 100),
  constraint refresh_is_at_most_hourly CHECK (refresh_seconds >= 3600),
  constraint source_kind_is_known CHECK (source_kind = ANY (ARRAY['git'::text, 'site'::text, 'archive'::text, 'folder'::text, 'pypi'::text, 'npm'::text])),
  constraint source_url_has_1_to_500_characters CHECK (char_length(source_url) >= 1 AND char_length(source_url) <= 500),
  constraint state_is_known CHECK (state = ANY (ARRAY['uploading'::text, 'queued'::text, 'crawling'::text, 'indexing'::text, 'ready'::text, 'failed'::text])),
  constraint title_has_1_to_255_characters CHECK (char_length(title) >= 1 AND char_length(title) <= 255 AND title = btrim(title)),
  constraint totals_are_not_negative CHECK (total_versions >= 0 AND total_snippets >= 0 AND total_tokens >= 0 AND total_chunks >= total_snippets),
  constraint trust_score_is_between_0_and_10 CHECK (trust_score >= 0::numeric AND trust_score <= 10::numeric),
  constraint libraries_moved_to_fkey FOREIGN KEY (moved_to) REFERENCES public.libraries(id) ON DELETE SET NULL,
  constraint libraries_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE
) with (fillfactor=80);
CREATE INDEX libraries_by_moved_to ON public.libraries USING btree (moved_to) WHERE moved_to IS NOT NULL;
CREATE INDEX libraries_by_name ON public.libraries USING gin (name_grams);
CREATE INDEX libraries_by_organization ON public.libraries USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX libraries_by_text ON public.libraries USING gin (to_tsvector('english'::regconfig, (title || ' '::text) || description));
CREATE INDEX libraries_by_vendor ON public.libraries USING btree (vendor);
CREATE INDEX libraries_that_never_came ON public.libraries USING btree (created_at) WHERE state = 'uploading'::text;
CREATE INDEX libraries_to_refresh ON public.libraries USING btree (next_refresh_at) WHERE next_refresh_at IS NOT NULL;
CREATE TRIGGER changed_libraries_are_resolved AFTER UPDATE OF title, description, aliases, moved_to, default_version, total_versions, popularity_score, trust_score ON public.libraries FOR EACH STATEMENT EXECUTE FUNCTION private.forget_resolved_libraries();
CREATE TRIGGER libraries_are_no_more_than_the_plan_allows BEFORE INSERT OR UPDATE OF organization_id ON public.libraries FOR EACH ROW WHEN (new.organization_id IS NOT NULL) EXECUTE FUNCTION private.refuse_libraries_beyond_plan();
CREATE TRIGGER libraries_keep_their_names BEFORE INSERT OR UPDATE ON public.libraries FOR EACH ROW EXECUTE FUNCTION private.keep_library_names();
CREATE TRIGGER libraries_keep_to_their_names BEFORE INSERT OR UPDATE OF id, organization_id ON public.libraries FOR EACH ROW EXECUTE FUNCTION private.keep_library_ids_apart();
CREATE TRIGGER libraries_leave_no_archive AFTER DELETE ON public.libraries FOR EACH ROW WHEN (old.source_kind = ANY (ARRAY['archive'::text, 'folder'::text])) EXECUTE FUNCTION private.forget_library_archive();
CREATE TRIGGER new_libraries_are_resolved AFTER INSERT OR DELETE ON public.libraries FOR EACH STATEMENT EXECUTE FUNCTION private.forget_resolved_libraries();
CREATE POLICY "Everybody reads public libraries, members those of their organi" FOR SELECT TO authenticated USING organization_id IS NULL AND (( SELECT private.active_user_id() AS active_user_id)) IS NOT NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Versions of libraries. Read by whoever reads the library; functions write.
create table public.library_versions (
  id uuid not null default private.uuid7(),  -- Identifies the version.
  library_id text not null,  -- The library.
  organization_id uuid,  -- Its library's; null for everybody.
  version text not null,  -- Its name, as in 7.0 or main.
  release_date date,  -- When it was released, where that is known.
  is_latest boolean not null default false,  -- Whether it is searched when no version is named.
  source_revision text,  -- Commit or release of the source that was crawled last.
  etag text,  -- What the source's server called that state, to ask whether there is a newer one.
  snapshot_path text,  -- Object of the bucket "libraries" with what was crawled.
  embedding_model text,  -- Model of the vectors that it is searched with; null where there are none.
  dimensions integer,  -- Dimensions of its vectors; those of fewer than 1536 are filled up with zeros.
  next_embedding_model text,  -- Model whose vectors are being made; it takes over when there is one of every chunk.
  next_dimensions integer,  -- Dimensions of those.
  state text not null default 'queued'::text,  -- queued, crawling, indexing, ready or failed: of the latest crawl.
  progress smallint not null default 0,  -- Per cent of the crawl done.
  error_code text,  -- Why the latest crawl failed.
  error_message text,  -- The same for people.
  crawl integer not null default 0,  -- Number of the latest crawl that was finished: what readers see. 0 for none.
  next_crawl integer,  -- Number of the crawl that goes on.
  total_chunks integer not null default 0,  -- Chunks that readers see.
  total_snippets integer not null default 0,  -- Snippets among them.
  total_tokens bigint not null default 0,  -- Their tokens.
  indexed_at timestamp with time zone,  -- When a crawl was last finished.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was first crawled.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint library_versions_pkey PRIMARY KEY (id),
  constraint a_latest_version_can_be_searched CHECK (crawl > 0 OR NOT is_latest),
  constraint a_model_has_its_dimensions CHECK ((num_nonnulls(embedding_model, dimensions) = ANY (ARRAY[0, 2])) AND (num_nonnulls(next_embedding_model, next_dimensions) = ANY (ARRAY[0, 2]))),
  constraint dimensions_are_between_1_and_1536 CHECK (dimensions >= 1 AND dimensions <= 1536 AND next_dimensions >= 1 AND next_dimensions <= 1536),
  constraint embedding_models_are_short CHECK (char_length(embedding_model) >= 1 AND char_length(embedding_model) <= 200 AND char_length(next_embedding_model) >= 1 AND char_length(next_embedding_model) <= 200),
  constraint etag_is_short CHECK (char_length(etag) >= 1 AND char_length(etag) <= 500),
  constraint only_a_failed_version_has_an_error CHECK ((state = 'failed'::text) = (error_code IS NOT NULL)),
  constraint progress_is_a_percentage CHECK (progress >= 0 AND progress <= 100),
  constraint snapshot_path_is_short CHECK (char_length(snapshot_path) >= 1 AND char_length(snapshot_path) <= 500),
  constraint source_revision_is_short CHECK (char_length(source_revision) >= 1 AND char_length(source_revision) <= 200),
  constraint state_is_known CHECK (state = ANY (ARRAY['queued'::text, 'crawling'::text, 'indexing'::text, 'ready'::text, 'failed'::text])),
  constraint the_next_crawl_comes_later CHECK (next_crawl > crawl),
  constraint the_next_model_is_another CHECK (next_embedding_model <> embedding_model),
  constraint totals_are_not_negative CHECK (total_snippets >= 0 AND total_tokens >= 0 AND total_chunks >= total_snippets),
  constraint version_is_a_short_name CHECK (version ~ '^[A-Za-z0-9][A-Za-z0-9._+-]{0,49}$'::text),
  constraint library_versions_library_id_fkey FOREIGN KEY (library_id) REFERENCES public.libraries(id) ON DELETE CASCADE,
  constraint library_versions_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint a_version_is_there_once UNIQUE (library_id, version)
) with (fillfactor=80);
CREATE INDEX library_versions_by_organization ON public.library_versions USING btree (organization_id) WHERE organization_id IS NOT NULL;
CREATE UNIQUE INDEX library_versions_have_one_latest ON public.library_versions USING btree (library_id) WHERE is_latest;
CREATE TRIGGER library_versions_leave_no_snapshot AFTER DELETE ON public.library_versions FOR EACH ROW WHEN (old.snapshot_path IS NOT NULL) EXECUTE FUNCTION private.end_library_version();
CREATE TRIGGER library_versions_replace_their_snapshot AFTER UPDATE OF snapshot_path ON public.library_versions FOR EACH ROW WHEN (old.snapshot_path IS NOT NULL AND old.snapshot_path IS DISTINCT FROM new.snapshot_path) EXECUTE FUNCTION private.end_library_version();
CREATE TRIGGER library_versions_touch_updated_at BEFORE UPDATE ON public.library_versions FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Everybody reads public versions, members those of their organiz" FOR SELECT TO authenticated USING organization_id IS NULL AND (( SELECT private.active_user_id() AS active_user_id)) IS NOT NULL OR (organization_id = ANY ((ARRAY( SELECT private.my_organization_ids() AS my_organization_ids))));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Messages, as a tree. Read by whoever reads the conversation; written through functions, never overwritten.
create table public.messages (
  id uuid not null default private.uuid7(),  -- Identifies the message; the client may choose that of a user's, so that it is stored once.
  conversation_id uuid not null,  -- The conversation.
  parent_id uuid,  -- The message before it; null for the first. Messages with one parent are branches.
  user_id uuid,  -- Who wrote it, or asked for the answer; null for an organization's API key, and once erased.
  role text not null,  -- user, assistant or system.
  content text not null default ''::text,  -- Its text.
  parts jsonb,  -- Text and images as the client sent them, where there are images; else null.
  status text not null default 'completed'::text,  -- Of an answer: pending or streaming, then completed, cancelled (broken off; what there is was charged) or failed (nothing charged). Else completed.
  prompt_tokens integer not null default 0,  -- Tokens of the whole prompt that it answers.
  completion_tokens integer not null default 0,  -- Tokens of the answer.
  tokens_used integer generated always as (prompt_tokens + completion_tokens) stored,  -- Prompt and answer together.
  model_used text,  -- The model that answered.
  metadata jsonb not null default '{}'::jsonb,  -- Parameters of the answer: temperature, max_tokens and so on; of a question, the documents that it named. Never a system prompt.
  credits numeric(20,6) not null default 0,  -- Credits charged for it.
  hold_id uuid,  -- Its hold, which is also the id of its usage row. No foreign key, as in usage_logs.
  finish_reason text,  -- Why the model stopped, in its words: stop, length ...
  error_code text,  -- Why it failed or was broken off.
  citations jsonb not null default '[]'::jsonb,  -- Of an answer: the passages of documents that the model was given, {number, document_id, name, pages, chunk_ids, excerpt, is_cited}. No foreign key: they outlive the documents.
  prompt_bound integer not null default 0,  -- Tokens it has at most in a prompt (docs/chat.md).
  prompt_estimate integer not null default 0,  -- Tokens it has probably in a prompt.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was stored, or the answer begun.
  updated_at timestamp with time zone not null default clock_timestamp(),  -- When anything in the row last changed.
  constraint messages_pkey PRIMARY KEY (id),
  constraint citations_are_a_small_list CHECK (jsonb_typeof(citations) = 'array'::text AND private.json_size(citations) <= 131072),
  constraint counts_are_not_negative CHECK (LEAST(prompt_tokens::numeric, completion_tokens::numeric, credits, prompt_bound::numeric, prompt_estimate::numeric) >= 0::numeric),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint only_an_answer_costs CHECK (role = 'assistant'::text OR credits = 0::numeric AND prompt_tokens = 0 AND completion_tokens = 0),
  constraint only_an_answer_has_a_hold CHECK (role = 'assistant'::text OR hold_id IS NULL),
  constraint only_an_answer_has_citations CHECK (role = 'assistant'::text OR citations = '[]'::jsonb),
  constraint only_an_answer_is_worked_on CHECK (role = 'assistant'::text OR status = 'completed'::text),
  constraint parts_are_a_list CHECK (jsonb_typeof(parts) = 'array'::text),
  constraint role_is_known CHECK (role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text])),
  constraint status_is_known CHECK (status = ANY (ARRAY['pending'::text, 'streaming'::text, 'completed'::text, 'cancelled'::text, 'failed'::text])),
  constraint what_failed_is_free CHECK ((status = ANY (ARRAY['completed'::text, 'cancelled'::text])) OR credits = 0::numeric),
  constraint messages_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) ON DELETE CASCADE,
  constraint messages_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint parent_is_in_the_same_conversation FOREIGN KEY (conversation_id, parent_id) REFERENCES public.messages(conversation_id, id),
  constraint messages_are_of_one_conversation UNIQUE (conversation_id, id)
) with (fillfactor=90);
CREATE INDEX messages_by_parent ON public.messages USING btree (parent_id, conversation_id, created_at DESC, id DESC);
CREATE INDEX messages_by_time ON public.messages USING btree (conversation_id, created_at);
CREATE INDEX messages_by_user ON public.messages USING btree (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX messages_that_begin ON public.messages USING btree (conversation_id, created_at DESC, id DESC) WHERE parent_id IS NULL;
CREATE INDEX messages_worked_on ON public.messages USING btree (created_at) WHERE status = ANY (ARRAY['pending'::text, 'streaming'::text]);
CREATE UNIQUE INDEX messages_have_one_answer_per_hold ON public.messages USING btree (hold_id) WHERE hold_id IS NOT NULL;
CREATE TRIGGER changed_messages_are_counted AFTER UPDATE OF prompt_tokens, completion_tokens ON public.messages FOR EACH ROW WHEN (old.tokens_used <> new.tokens_used) EXECUTE FUNCTION private.count_changed_message();
CREATE TRIGGER changed_messages_are_searched AFTER UPDATE OF content ON public.messages FOR EACH ROW WHEN (old.content <> new.content) EXECUTE FUNCTION private.keep_message_words();
CREATE TRIGGER gone_messages_are_counted AFTER DELETE ON public.messages REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION private.count_gone_messages();
CREATE TRIGGER messages_touch_updated_at BEFORE UPDATE ON public.messages FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER new_messages_are_counted AFTER INSERT ON public.messages REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION private.count_new_messages();
CREATE TRIGGER new_messages_are_searched AFTER INSERT ON public.messages FOR EACH ROW WHEN (new.content <> ''::text) EXECUTE FUNCTION private.keep_message_words();
CREATE POLICY "Whoever reads a conversation reads its messages" FOR SELECT TO authenticated USING (EXISTS ( SELECT FROM public.conversations c WHERE c.id = messages.conversation_id));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Who serves models: ourselves, or an outside provider.
create table public.model_providers (
  id uuid not null default gen_random_uuid(),  -- Identifies the provider.
  slug text not null,  -- Short name: quernel, openai, google, xai ...
  name text not null,  -- Name shown to people.
  description text not null default ''::text,  -- What it offers, in a sentence.
  website_url text,  -- Its website.
  api_base_url text,  -- Base address of its API; null for our own, whose address is a setting of the deployment.
  is_active boolean not null default true,  -- False refuses every model of it.
  created_at timestamp with time zone not null default now(),  -- When it was added.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint model_providers_pkey PRIMARY KEY (id),
  constraint api_base_url_is_https CHECK (api_base_url ~ '^https://\S+$'::text),
  constraint name_is_present CHECK (btrim(name) <> ''::text),
  constraint slug_is_lower_case_letters_digits_and_hyphens CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text),
  constraint slug_is_short CHECK (char_length(slug) <= 63),
  constraint website_url_is_https CHECK (website_url ~ '^https://\S+$'::text),
  constraint model_providers_slug_key UNIQUE (slug)
);
CREATE TRIGGER model_providers_touch_updated_at BEFORE UPDATE ON public.model_providers FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users read every provider" FOR SELECT TO authenticated USING (( SELECT private.active_user_id() AS active_user_id)) IS NOT NULL;
CREATE POLICY "Visitors read the active providers" FOR SELECT TO anon USING is_active;
GRANT SELECT (created_at, description, id, is_active, name, slug, updated_at, website_url) TO anon;
GRANT SELECT (created_at, description, id, is_active, name, slug, updated_at, website_url) TO authenticated;
GRANT SELECT TO service_role;

-- The models on offer and their prices. Retired models stay, inactive, because history names them.
create table public.models (
  id text not null,  -- What clients call the model.
  provider_id uuid not null,  -- Who serves it.
  name text not null,  -- Name shown to people.
  description text not null default ''::text,  -- What it is good at, in a sentence.
  kind text not null,  -- chat, embedding, image or vision.
  version text not null default '1'::text,  -- Version of the weights or of the provider's model.
  upstream_model text not null,  -- What the provider's API calls it.
  context_length integer,  -- Tokens of prompt and output together; for an embedding, of one text.
  max_output_tokens integer,  -- Most tokens one answer may have.
  default_output_tokens integer,  -- Output limit of a request that names none.
  prompt_price numeric(20,6),  -- Credits per 1,000,000 prompt tokens.
  cached_prompt_price numeric(20,6),  -- Credits per 1,000,000 prompt tokens the upstream had cached.
  completion_price numeric(20,6),  -- Credits per 1,000,000 output tokens.
  credits_cost numeric(20,6) not null default 0,  -- Credits per request, or per output for images; zero where tokens are priced.
  capabilities jsonb not null default '{}'::jsonb,  -- What it can do: streaming, tools, vision, sizes; dimensions and min_dimensions of an embedding ...
  byok_allowed boolean not null default false,  -- Whether a customer's own provider key may be used with it.
  platform_allowed boolean not null default true,  -- Whether it may be paid for in credits, which takes a key of the operator's for its provider.
  is_active boolean not null default true,  -- False: listed to nobody new, refused in requests.
  is_default boolean not null default false,  -- The model of its kind that a client is offered first; one per kind.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for everybody, such as the licence.
  created_at timestamp with time zone not null default now(),  -- When it was added.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint models_pkey PRIMARY KEY (id),
  constraint a_chat_model_has_prices_and_lengths CHECK (kind <> 'chat'::text OR num_nulls(context_length, max_output_tokens, default_output_tokens, prompt_price, cached_prompt_price, completion_price) = 0),
  constraint a_default_model_is_active CHECK (NOT is_default OR is_active),
  constraint an_embedding_model_has_a_price_and_a_length CHECK (kind <> 'embedding'::text OR num_nulls(context_length, prompt_price) = 0),
  constraint cached_prompt_price_is_no_surcharge CHECK (cached_prompt_price <= prompt_price),
  constraint cached_prompt_price_is_not_negative CHECK (cached_prompt_price >= 0::numeric AND cached_prompt_price < 'Infinity'::numeric),
  constraint capabilities_are_a_small_object CHECK (jsonb_typeof(capabilities) = 'object'::text AND private.json_size(capabilities) <= 16384),
  constraint completion_price_is_not_negative CHECK (completion_price >= 0::numeric AND completion_price < 'Infinity'::numeric),
  constraint credits_cost_is_not_negative CHECK (credits_cost >= 0::numeric AND credits_cost < 'Infinity'::numeric),
  constraint default_output_fits_maximum_output_fits_context CHECK (default_output_tokens <= max_output_tokens AND max_output_tokens <= context_length),
  constraint id_is_a_plain_name CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._:/@-]*$'::text AND char_length(id) <= 200),
  constraint kind_is_known CHECK (kind = ANY (ARRAY['chat'::text, 'embedding'::text, 'image'::text, 'vision'::text])),
  constraint lengths_are_positive CHECK (context_length > 0 AND max_output_tokens > 0 AND default_output_tokens > 0),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 16384),
  constraint name_is_present CHECK (btrim(name) <> ''::text),
  constraint prompt_price_is_not_negative CHECK (prompt_price >= 0::numeric AND prompt_price < 'Infinity'::numeric),
  constraint upstream_model_is_present CHECK (btrim(upstream_model) <> ''::text),
  constraint models_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES public.model_providers(id)
);
CREATE INDEX models_by_provider ON public.models USING btree (provider_id);
CREATE UNIQUE INDEX models_have_one_default_of_a_kind ON public.models USING btree (kind) WHERE is_default;
CREATE TRIGGER models_touch_updated_at BEFORE UPDATE ON public.models FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users read every model" FOR SELECT TO authenticated USING (( SELECT private.active_user_id() AS active_user_id)) IS NOT NULL;
CREATE POLICY "Visitors read the active models" FOR SELECT TO anon USING is_active;
GRANT SELECT (byok_allowed, cached_prompt_price, capabilities, completion_price, context_length, created_at, credits_cost, default_output_tokens, description, id, is_active, is_default, kind, max_output_tokens, metadata, name, platform_allowed, prompt_price, provider_id, updated_at, version) TO anon;
GRANT SELECT (byok_allowed, cached_prompt_price, capabilities, completion_price, context_length, created_at, credits_cost, default_output_tokens, description, id, is_active, is_default, kind, max_output_tokens, metadata, name, platform_allowed, prompt_price, provider_id, updated_at, version) TO authenticated;
GRANT SELECT TO service_role;

-- Invitations to join an organization. Pending until accepted, revoked, or past expires_at.
create table public.organization_invitations (
  id uuid not null default gen_random_uuid(),  -- Identifies the invitation.
  organization_id uuid not null,  -- The organization.
  email text not null,  -- The address invited, in lower case; only its verified holder may accept.
  role text not null default 'member'::text,  -- What they become: admin or member. Owners are made among members.
  invited_by uuid,  -- Who invited; null once erased.
  expires_at timestamp with time zone not null,  -- When it can no longer be accepted.
  accepted_at timestamp with time zone,  -- When it was accepted.
  accepted_by uuid,  -- Who accepted; null until then, and once erased.
  revoked_at timestamp with time zone,  -- When it was revoked, or replaced by a newer one to the same address.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint organization_invitations_pkey PRIMARY KEY (id),
  constraint email_is_lower_case CHECK (email = lower(email)),
  constraint email_looks_like_an_address CHECK (email ~ '^[^@\s]+@[^@\s]+$'::text AND char_length(email) <= 254),
  constraint invitation_expires_after_it_was_made CHECK (expires_at > created_at),
  constraint invitation_is_accepted_or_revoked_or_neither CHECK (num_nonnulls(accepted_at, revoked_at) <= 1),
  constraint nobody_is_invited_as_owner CHECK (role = ANY (ARRAY['admin'::text, 'member'::text])),
  constraint only_an_accepted_invitation_has_a_taker CHECK (accepted_by IS NULL OR accepted_at IS NOT NULL),
  constraint organization_invitations_accepted_by_fkey FOREIGN KEY (accepted_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint organization_invitations_invited_by_fkey FOREIGN KEY (invited_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint organization_invitations_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE
);
CREATE INDEX organization_invitations_by_email ON public.organization_invitations USING btree (email);
CREATE INDEX organization_invitations_by_inviter ON public.organization_invitations USING btree (invited_by);
CREATE INDEX organization_invitations_by_organization ON public.organization_invitations USING btree (organization_id, created_at DESC);
CREATE INDEX organization_invitations_by_taker ON public.organization_invitations USING btree (accepted_by);
CREATE UNIQUE INDEX organization_invitations_wait_once_per_address ON public.organization_invitations USING btree (organization_id, email) WHERE accepted_at IS NULL AND revoked_at IS NULL;
CREATE TRIGGER organization_invitations_touch_updated_at BEFORE UPDATE ON public.organization_invitations FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER organization_invites_no_more_than_its_plan_allows BEFORE INSERT ON public.organization_invitations FOR EACH ROW EXECUTE FUNCTION private.refuse_invitations_beyond_plan();
CREATE POLICY "Admins read the invitations of their organizations" FOR SELECT TO authenticated USING (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Who belongs to an organization, as what, and how much of its credits they may spend.
create table public.organization_members (
  organization_id uuid not null,  -- The organization.
  user_id uuid not null,  -- The member.
  role text not null default 'member'::text,  -- owner (everything), admin (everything but owners) or member.
  monthly_credit_budget numeric(20,6),  -- Credits of the organization this member may spend per calendar month (UTC); null for no limit of their own.
  created_at timestamp with time zone not null default now(),  -- When they joined.
  updated_at timestamp with time zone not null default now(),  -- When role or budget last changed.
  constraint a_person_is_a_member_once PRIMARY KEY (organization_id, user_id),
  constraint monthly_credit_budget_is_not_negative CHECK (monthly_credit_budget >= 0::numeric AND monthly_credit_budget < 'Infinity'::numeric),
  constraint role_is_known CHECK (role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text])),
  constraint organization_members_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint organization_members_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX organization_members_by_user ON public.organization_members USING btree (user_id);
CREATE TRIGGER organization_has_no_more_members_than_its_plan_allows BEFORE INSERT ON public.organization_members FOR EACH ROW EXECUTE FUNCTION private.refuse_rows_beyond_plan('max_team_members');
CREATE TRIGGER organization_keeps_an_owner AFTER DELETE ON public.organization_members FOR EACH ROW EXECUTE FUNCTION private.keep_an_owner();
CREATE TRIGGER organization_members_touch_updated_at BEFORE UPDATE ON public.organization_members FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Members read their own membership and admins every one" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) AND (organization_id IN ( SELECT private.my_organization_ids() AS my_organization_ids)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- People who share resources and a bill. Written through functions only.
create table public.organizations (
  id uuid not null default gen_random_uuid(),  -- Identifies the organization.
  name text not null,  -- Name shown to people.
  slug text not null,  -- Name in addresses and in ids of private libraries. Never changes, so nobody inherits another's.
  settings jsonb not null default '{}'::jsonb,  -- A JSON object of at most 16 KiB that its admins edit. No right is ever read from it.
  is_active boolean not null default true,  -- False suspends the organization: its members no longer see it or spend its credits.
  created_by uuid,  -- Who made it; null once erased. Counts against max_organizations_per_user.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  plan_id uuid,  -- The plan the organization has; null for the free one.
  plan_started_at timestamp with time zone,  -- When the plan began.
  plan_expires_at timestamp with time zone,  -- When the plan falls back to free; null while it runs on.
  constraint organizations_pkey PRIMARY KEY (id),
  constraint name_is_present_and_short CHECK (char_length(name) >= 1 AND char_length(name) <= 255 AND name = btrim(name)),
  constraint plan_ends_after_it_starts CHECK (plan_expires_at > plan_started_at),
  constraint settings_are_an_object CHECK (jsonb_typeof(settings) = 'object'::text),
  constraint settings_are_small CHECK (private.json_size(settings) <= 16384),
  constraint slug_is_3_to_63_lower_case_letters_digits_and_single_hyphens CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text AND char_length(slug) >= 3 AND char_length(slug) <= 63),
  constraint slug_is_not_a_reserved_word CHECK (slug <> ALL (ARRAY['about'::text, 'account'::text, 'accounts'::text, 'admin'::text, 'administrator'::text, 'agents'::text, 'all'::text, 'anonymous'::text, 'api'::text, 'app'::text, 'assets'::text, 'auth'::text, 'authenticated'::text, 'backend'::text, 'billing'::text, 'blog'::text, 'chat'::text, 'cli'::text, 'console'::text, 'conversations'::text, 'credits'::text, 'dashboard'::text, 'default'::text, 'demo'::text, 'docs'::text, 'documentation'::text, 'documents'::text, 'example'::text, 'false'::text, 'functions'::text, 'health'::text, 'help'::text, 'images'::text, 'internal'::text, 'invitations'::text, 'invite'::text, 'jobs'::text, 'keys'::text, 'legal'::text, 'libraries'::text, 'library'::text, 'login'::text, 'logout'::text, 'mail'::text, 'mcp'::text, 'metrics'::text, 'models'::text, 'new'::text, 'none'::text, 'null'::text, 'official'::text, 'organization'::text, 'organizations'::text, 'plans'::text, 'postgres'::text, 'pricing'::text, 'privacy'::text, 'private'::text, 'profile'::text, 'public'::text, 'quernel'::text, 'quote'::text, 'ready'::text, 'root'::text, 'search'::text, 'security'::text, 'service-role'::text, 'settings'::text, 'signin'::text, 'signup'::text, 'static'::text, 'status'::text, 'storage'::text, 'stripe'::text, 'supabase'::text, 'support'::text, 'system'::text, 'tasks'::text, 'team'::text, 'teams'::text, 'terms'::text, 'test'::text, 'true'::text, 'undefined'::text, 'usage'::text, 'user'::text, 'users'::text, 'webhook'::text, 'webhooks'::text, 'www'::text])),
  constraint slug_is_not_an_id CHECK (slug !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text),
  constraint organizations_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint organizations_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint organizations_slug_key UNIQUE (slug)
);
CREATE INDEX organizations_by_creator ON public.organizations USING btree (created_by);
CREATE INDEX organizations_by_plan ON public.organizations USING btree (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX organizations_by_plan_expiry ON public.organizations USING btree (plan_expires_at) WHERE plan_expires_at IS NOT NULL;
CREATE TRIGGER organizations_aim_at_their_plan AFTER UPDATE OF plan_id, plan_expires_at ON public.organizations FOR EACH ROW WHEN (old.plan_id IS DISTINCT FROM new.plan_id OR old.plan_expires_at IS DISTINCT FROM new.plan_expires_at) EXECUTE FUNCTION private.aim_at_new_plan();
CREATE TRIGGER organizations_open_account AFTER INSERT ON public.organizations FOR EACH ROW EXECUTE FUNCTION private.open_organization_account();
CREATE TRIGGER organizations_touch_updated_at BEFORE UPDATE ON public.organizations FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER slugs_keep_off_public_libraries BEFORE INSERT OR UPDATE OF slug ON public.organizations FOR EACH ROW EXECUTE FUNCTION private.keep_slugs_apart();
CREATE TRIGGER subscriptions_end_with_the_last_member AFTER UPDATE OF is_active ON public.organizations FOR EACH ROW WHEN (old.is_active AND NOT new.is_active) EXECUTE FUNCTION private.end_billing_of_the_deserted();
CREATE TRIGGER subscriptions_end_with_their_owner BEFORE DELETE ON public.organizations FOR EACH ROW EXECUTE FUNCTION private.end_billing_of_leaver();
CREATE TRIGGER usage_is_forgotten_before_its_payer_is_erased BEFORE DELETE ON public.organizations FOR EACH ROW EXECUTE FUNCTION private.forget_usage_of_organization();
CREATE POLICY "Members read their organizations" FOR SELECT TO authenticated USING (id IN ( SELECT private.my_organization_ids() AS my_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What an owner can pay with: cards and accounts that are attached to their customer at Stripe.
create table public.payment_methods (
  id uuid not null default private.uuid7(),  -- Identifies the payment method here.
  user_id uuid,  -- The user it belongs to; null for an organization's.
  organization_id uuid,  -- The organization it belongs to; null for a user's.
  type text not null,  -- What it is, in Stripe's words: card, sepa_debit, us_bank_account, link ...
  provider text not null default 'stripe'::text,  -- Who keeps it.
  provider_method_id text not null,  -- Its id at the provider.
  is_default boolean not null default false,  -- Whether it is used unless another is asked for: the customer's choice, else the newest.
  brand text,  -- Brand of a card, or name of a bank.
  last_four text,  -- Last four digits.
  expiry_month integer,  -- Month it expires in, 1 to 12; null for what does not expire.
  expiry_year integer,  -- Year it expires in.
  stripe_customer_id text,  -- The customer at Stripe.
  attached_at timestamp with time zone not null,  -- When it was made, by Stripe's clock.
  created_at timestamp with time zone not null default now(),  -- When it became known here.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for operators, never about a person.
  constraint payment_methods_pkey PRIMARY KEY (id),
  constraint a_payment_method_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint expiry_is_a_month CHECK ((expiry_month IS NULL) = (expiry_year IS NULL) AND expiry_month >= 1 AND expiry_month <= 12 AND expiry_year >= 2000 AND expiry_year <= 2100),
  constraint last_four_are_four CHECK (last_four ~ '^[0-9A-Za-z]{4}$'::text),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint provider_is_known CHECK (provider = ANY (ARRAY['stripe'::text, 'paypal'::text, 'wise'::text, 'manual'::text])),
  constraint type_is_not_empty CHECK (length(type) >= 1 AND length(type) <= 50),
  constraint payment_methods_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint payment_methods_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX payment_methods_by_organization ON public.payment_methods USING btree (organization_id);
CREATE INDEX payment_methods_by_user ON public.payment_methods USING btree (user_id);
CREATE UNIQUE INDEX payment_methods_are_known_once ON public.payment_methods USING btree (provider, provider_method_id);
CREATE UNIQUE INDEX payment_methods_have_one_default_per_organization ON public.payment_methods USING btree (organization_id) WHERE is_default AND organization_id IS NOT NULL;
CREATE UNIQUE INDEX payment_methods_have_one_default_per_user ON public.payment_methods USING btree (user_id) WHERE is_default AND user_id IS NOT NULL;
CREATE TRIGGER payment_methods_touch BEFORE UPDATE ON public.payment_methods FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Customers and organization admins read their payment methods" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Every payment: the newest state of a payment intent at Stripe, or one that an operator recorded.
create table public.payments (
  id uuid not null default private.uuid7(),  -- Identifies the payment here.
  user_id uuid,  -- The user who paid; null for an organization's, or once erased.
  organization_id uuid,  -- The organization that paid; null for a user's, or once erased.
  account_id uuid not null,  -- The credit account of whoever paid.
  status text not null,  -- pending, processing, then succeeded, failed or canceled; partially_refunded, refunded or disputed while money is gone.
  amount_minor bigint not null,  -- What was to be paid, in minor units.
  currency text not null,  -- Currency of all amounts, lower-case ISO 4217.
  amount_refunded_minor bigint not null default 0,  -- What was given back, in minor units.
  amount_disputed_minor bigint not null default 0,  -- What disputes that are open or lost withhold, in minor units.
  failure_code text,  -- Why it failed, in Stripe's words; null while it did not.
  failure_reason text,  -- Why it failed, for people.
  description text,  -- What it is for, for people.
  provider text not null default 'stripe'::text,  -- stripe, or paypal, wise or manual as an operator recorded it.
  provider_transaction_id text not null,  -- Its id at the provider; for Stripe the payment intent.
  invoice_id uuid,  -- The invoice it pays, once both are known; no foreign key, as they come in any order.
  purchase_id uuid,  -- The purchase of a credit pack it pays.
  plan_id uuid,  -- The plan that a recorded payment was for; of one through Stripe its invoice says it.
  period_start timestamp with time zone,  -- When the time began that it pays the plan for; null when nobody said.
  period_end timestamp with time zone,  -- When that time ends.
  lot_id uuid,  -- The credits bought with a payment that an operator recorded; those of a purchase or an invoice stand there.
  stripe_invoice_id text,  -- The invoice at Stripe.
  stripe_charge_id text,  -- The charge at Stripe that went through.
  stripe_payment_method_id text,  -- What it was paid with, at Stripe.
  stripe_customer_id text,  -- The customer at Stripe.
  created_at timestamp with time zone not null default now(),  -- When it was begun.
  processed_at timestamp with time zone,  -- When it went through.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for operators, never about a person.
  constraint payments_pkey PRIMARY KEY (id),
  constraint a_payment_has_at_most_one_owner CHECK (num_nonnulls(user_id, organization_id) <= 1),
  constraint a_period_ends_after_it_starts CHECK (period_end > period_start),
  constraint a_period_is_that_of_a_plan CHECK ((period_start IS NULL) = (period_end IS NULL) AND (period_start IS NULL OR plan_id IS NOT NULL)),
  constraint amount_is_positive CHECK (amount_minor > 0),
  constraint an_operator_says_what_plan_was_paid CHECK (plan_id IS NULL OR provider <> 'stripe'::text),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint no_more_is_disputed_than_was_paid CHECK (amount_disputed_minor >= 0 AND amount_disputed_minor <= amount_minor),
  constraint no_more_is_refunded_than_was_paid CHECK (amount_refunded_minor >= 0 AND amount_refunded_minor <= amount_minor),
  constraint only_a_recorded_payment_has_its_own_lot CHECK (lot_id IS NULL OR provider <> 'stripe'::text),
  constraint only_what_was_paid_is_given_back CHECK ((status = ANY (ARRAY['partially_refunded'::text, 'refunded'::text, 'disputed'::text])) OR amount_refunded_minor = 0 AND amount_disputed_minor = 0),
  constraint provider_is_known CHECK (provider = ANY (ARRAY['stripe'::text, 'paypal'::text, 'wise'::text, 'manual'::text])),
  constraint status_is_known CHECK (status = ANY (ARRAY['pending'::text, 'processing'::text, 'succeeded'::text, 'failed'::text, 'canceled'::text, 'partially_refunded'::text, 'refunded'::text, 'disputed'::text])),
  constraint transaction_is_not_empty CHECK (length(provider_transaction_id) >= 1 AND length(provider_transaction_id) <= 255),
  constraint payments_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint payments_lot_id_fkey FOREIGN KEY (lot_id) REFERENCES public.credit_lots(id),
  constraint payments_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint payments_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint payments_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX payments_by_account ON public.payments USING btree (account_id);
CREATE INDEX payments_by_invoice ON public.payments USING btree (invoice_id) WHERE invoice_id IS NOT NULL;
CREATE INDEX payments_by_organization ON public.payments USING btree (organization_id, created_at DESC);
CREATE INDEX payments_by_plan ON public.payments USING btree (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX payments_by_purchase ON public.payments USING btree (purchase_id) WHERE purchase_id IS NOT NULL;
CREATE INDEX payments_by_status ON public.payments USING btree (status);
CREATE INDEX payments_by_user ON public.payments USING btree (user_id, created_at DESC);
CREATE UNIQUE INDEX payments_are_known_once ON public.payments USING btree (provider, provider_transaction_id);
CREATE UNIQUE INDEX payments_have_their_own_lot ON public.payments USING btree (lot_id) WHERE lot_id IS NOT NULL;
CREATE TRIGGER payments_tell_failure AFTER INSERT OR UPDATE ON public.payments FOR EACH ROW WHEN (new.status = 'failed'::text) EXECUTE FUNCTION private.tell_failed_payment();
CREATE TRIGGER payments_touch BEFORE UPDATE ON public.payments FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Customers and organization admins read their payments" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- What each tier allows and costs. A limit of -1 is no limit.
create table public.plans (
  id uuid not null default gen_random_uuid(),  -- Identifies the plan.
  slug text not null,  -- Its stable name in code and URLs: free, pro, business, enterprise.
  name text not null,  -- Its name for people.
  description text,  -- One sentence for the price list.
  monthly_tokens bigint not null,  -- Tokens per calendar month (UTC); -1 for no limit.
  max_agents integer not null,  -- Agents an owner may have; -1 for no limit.
  max_documents integer not null,  -- Documents an owner may have; -1 for no limit.
  max_libraries integer not null default 0,  -- Private libraries an organization may have; -1 for no limit.
  max_team_members integer not null default 1,  -- Members an organization may have; -1 for no limit.
  monthly_free_images integer not null default 0,  -- Images per calendar month (UTC) that cost no credits; -1 for no limit.
  requests_per_minute integer not null,  -- Requests per minute; -1 for no limit.
  requests_per_month integer not null,  -- Requests per calendar month (UTC); -1 for no limit.
  concurrent_requests integer not null,  -- Requests in flight at once; -1 for no limit.
  credits_per_month numeric(20,6) not null default 0,  -- Credits granted for each paid month.
  credits_roll_over boolean not null default false,  -- Whether the plan's credits outlive the period they were granted for.
  has_api_access boolean not null default false,  -- Whether API keys may be made.
  has_workflows boolean not null default false,  -- Whether workflows are available.
  has_priority_support boolean not null default false,  -- Whether support answers first.
  features jsonb not null default '[]'::jsonb,  -- What the price list says about it: a list of feature names.
  currency text not null default 'eur'::text,  -- Currency of the prices, lower-case ISO 4217.
  price_monthly_minor bigint,  -- Price of a month in minor units; null when it is on request.
  price_yearly_minor bigint,  -- Price of a year in minor units; null when it is on request.
  stripe_price_id_monthly text,  -- The monthly price at Stripe; null until an operator sets it.
  stripe_price_id_yearly text,  -- The yearly price at Stripe; null until an operator sets it.
  trial_days integer not null default 0,  -- Days of free trial for a first subscription.
  is_active boolean not null default true,  -- Whether it is on offer; those who have it keep it.
  sort_order integer not null default 0,  -- Its place in the price list.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for operators.
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When it last changed.
  constraint plans_pkey PRIMARY KEY (id),
  constraint concurrent_requests_are_a_limit_or_unlimited CHECK (concurrent_requests >= '-1'::integer),
  constraint credits_are_not_negative CHECK (credits_per_month >= 0::numeric),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint features_are_a_list CHECK (jsonb_typeof(features) = 'array'::text),
  constraint max_agents_is_a_limit_or_unlimited CHECK (max_agents >= '-1'::integer),
  constraint max_documents_is_a_limit_or_unlimited CHECK (max_documents >= '-1'::integer),
  constraint max_libraries_is_a_limit_or_unlimited CHECK (max_libraries >= '-1'::integer),
  constraint max_team_members_is_a_limit_or_unlimited CHECK (max_team_members = '-1'::integer OR max_team_members >= 1),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint monthly_free_images_are_a_limit_or_unlimited CHECK (monthly_free_images >= '-1'::integer),
  constraint monthly_tokens_are_a_limit_or_unlimited CHECK (monthly_tokens >= '-1'::integer),
  constraint name_is_not_empty CHECK (length(name) >= 1 AND length(name) <= 100),
  constraint prices_are_not_negative CHECK (price_monthly_minor >= 0 AND price_yearly_minor >= 0),
  constraint requests_per_minute_are_a_limit_or_unlimited CHECK (requests_per_minute >= '-1'::integer),
  constraint requests_per_month_are_a_limit_or_unlimited CHECK (requests_per_month >= '-1'::integer),
  constraint slug_is_lower_case CHECK (slug ~ '^[a-z][a-z0-9_-]{0,49}$'::text),
  constraint the_free_plan_is_free_and_active CHECK (slug <> 'free'::text OR is_active AND price_monthly_minor = 0 AND price_yearly_minor = 0),
  constraint trial_is_not_negative CHECK (trial_days >= 0),
  constraint plans_have_unique_slugs UNIQUE (slug)
);
CREATE TRIGGER plans_keep_their_prices AFTER INSERT OR UPDATE OF stripe_price_id_monthly, stripe_price_id_yearly, price_monthly_minor, price_yearly_minor, currency ON public.plans FOR EACH ROW EXECUTE FUNCTION private.keep_plan_prices();
CREATE TRIGGER plans_touch BEFORE UPDATE ON public.plans FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users read the plans on offer and those they have" FOR SELECT TO authenticated USING is_active OR (id IN ( SELECT p.plan_id FROM public.profiles p WHERE p.id = (( SELECT private.active_user_id() AS active_user_id)))) OR (id IN ( SELECT o.plan_id FROM public.organizations o WHERE (o.id IN ( SELECT private.my_organization_ids() AS my_organization_ids))));
CREATE POLICY "Visitors read the plans on offer" FOR SELECT TO anon USING is_active;
GRANT SELECT (concurrent_requests, created_at, credits_per_month, credits_roll_over, currency, description, features, has_api_access, has_priority_support, has_workflows, id, is_active, max_agents, max_documents, max_libraries, max_team_members, monthly_free_images, monthly_tokens, name, price_monthly_minor, price_yearly_minor, requests_per_minute, requests_per_month, slug, sort_order, trial_days, updated_at) TO anon;
GRANT SELECT (concurrent_requests, created_at, credits_per_month, credits_roll_over, currency, description, features, has_api_access, has_priority_support, has_workflows, id, is_active, max_agents, max_documents, max_libraries, max_team_members, monthly_free_images, monthly_tokens, name, price_monthly_minor, price_yearly_minor, requests_per_minute, requests_per_month, slug, sort_order, trial_days, updated_at) TO authenticated;
GRANT SELECT TO service_role;

-- What the product knows about a person. Made and kept by triggers on auth.users; never inserted or deleted by clients.
create table public.profiles (
  id uuid not null,  -- The person's id in auth.users.
  email text,  -- Follows auth.users; null for phone and anonymous accounts. Not unique: an SSO account may share an address.
  first_name text,  -- Given name, as the person wants it shown.
  last_name text,  -- Family name, as the person wants it shown.
  full_name text,  -- Name shown to others.
  avatar_url text,  -- Address of a picture, http or https.
  is_active boolean not null default true,  -- False suspends the person: refused in auth, holds and row level security. Operators only.
  is_admin boolean not null default false,  -- True for the product's own administrators. Operators only.
  language text not null default 'fr'::text,  -- Language of the interface and of emails: fr or en.
  theme text not null default 'dark'::text,  -- light, dark, or system to follow the device.
  auth_provider text not null default 'email'::text,  -- How the account was made: email, phone, anonymous, google, github ...
  auth_provider_id text,  -- The person's id at that provider; null for email and phone.
  email_verified_at timestamp with time zone,  -- When the address was confirmed; follows auth.users.
  last_sign_in_at timestamp with time zone,  -- Last sign-in; follows auth.users.
  total_generations bigint not null default 0,  -- Generations that ended well, ever.
  notifications_enabled boolean not null default true,  -- Whether to notify about the person's own work and account.
  marketing_emails_enabled boolean not null default false,  -- Whether the person asked for marketing email; false until they do.
  ads_enabled boolean not null default true,  -- Whether the person wants to be offered rewarded ads.
  ads_watched_today integer not null default 0,  -- Rewarded ads watched today (UTC).
  daily_ads_limit integer not null default 5,  -- Rewarded ads allowed per day.
  ads_credits_earned numeric(20,6) not null default 0,  -- Credits earned with ads, ever.
  prompt_suggestions_enabled boolean not null default true,  -- Whether prompts may be suggested from the person's own history.
  ai_safety_level text not null default 'standard'::text,  -- How strictly generated content is filtered: strict, standard or relaxed.
  created_at timestamp with time zone not null default now(),  -- When the profile was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  plan_id uuid,  -- The plan the user has; null for the free one.
  plan_started_at timestamp with time zone,  -- When the plan began.
  plan_expires_at timestamp with time zone,  -- When the plan falls back to free; null while it runs on.
  subscription_tier text not null default 'free'::text,  -- Slug of plan_id, kept by a trigger: what clients show.
  subscription_status text not null default 'active'::text,  -- Where the subscription stands, in Stripe's words; active on the free plan.
  subscription_end_date timestamp with time zone,  -- When the paid period ends; null on the free plan.
  stripe_customer_id text,  -- The customer at Stripe; null before the first checkout.
  constraint profiles_pkey PRIMARY KEY (id),
  constraint ads_credits_earned_is_not_negative CHECK (ads_credits_earned >= 0::numeric AND ads_credits_earned < 'Infinity'::numeric),
  constraint ads_watched_today_is_within_the_daily_limit CHECK (ads_watched_today >= 0 AND ads_watched_today <= daily_ads_limit),
  constraint ai_safety_level_is_known CHECK (ai_safety_level = ANY (ARRAY['standard'::text, 'strict'::text, 'relaxed'::text])),
  constraint auth_provider_id_is_short CHECK (char_length(auth_provider_id) <= 255),
  constraint avatar_url_is_a_web_address CHECK (avatar_url ~ '^https?://\S+$'::text AND char_length(avatar_url) <= 2048),
  constraint first_name_is_short CHECK (char_length(first_name) <= 100),
  constraint full_name_is_short CHECK (char_length(full_name) <= 200),
  constraint language_is_known CHECK (language = ANY (ARRAY['fr'::text, 'en'::text])),
  constraint last_name_is_short CHECK (char_length(last_name) <= 100),
  constraint plan_ends_after_it_starts CHECK (plan_expires_at > plan_started_at),
  constraint subscription_status_is_known CHECK (subscription_status = ANY (ARRAY['active'::text, 'trialing'::text, 'past_due'::text, 'paused'::text, 'unpaid'::text, 'incomplete'::text, 'incomplete_expired'::text, 'canceled'::text, 'suspended'::text])),
  constraint theme_is_known CHECK (theme = ANY (ARRAY['light'::text, 'dark'::text, 'system'::text])),
  constraint total_generations_is_not_negative CHECK (total_generations >= 0),
  constraint profiles_id_fkey FOREIGN KEY (id) REFERENCES auth.users(id) ON DELETE CASCADE,
  constraint profiles_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint profiles_subscription_tier_fkey FOREIGN KEY (subscription_tier) REFERENCES public.plans(slug) ON UPDATE CASCADE
);
CREATE INDEX profiles_by_auth_provider ON public.profiles USING btree (auth_provider, auth_provider_id);
CREATE INDEX profiles_by_email ON public.profiles USING btree (lower(email));
CREATE INDEX profiles_by_plan ON public.profiles USING btree (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX profiles_by_plan_expiry ON public.profiles USING btree (plan_expires_at) WHERE plan_expires_at IS NOT NULL;
CREATE INDEX profiles_by_subscription_tier ON public.profiles USING btree (subscription_tier);
CREATE INDEX profiles_with_ads_watched ON public.profiles USING btree (id) WHERE ads_watched_today > 0;
CREATE UNIQUE INDEX profiles_have_one_stripe_customer ON public.profiles USING btree (stripe_customer_id) WHERE stripe_customer_id IS NOT NULL;
CREATE TRIGGER organizations_are_locked_before_a_member_is_erased BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.lock_organizations_of_leaver();
CREATE TRIGGER personal_agents_go_with_their_author BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.delete_personal_agents();
CREATE TRIGGER personal_conversations_go_with_their_author BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.delete_personal_conversations();
CREATE TRIGGER personal_documents_go_with_their_author BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.delete_personal_documents();
CREATE TRIGGER profiles_aim_at_their_plan AFTER UPDATE OF plan_id, plan_expires_at ON public.profiles FOR EACH ROW WHEN (old.plan_id IS DISTINCT FROM new.plan_id OR old.plan_expires_at IS DISTINCT FROM new.plan_expires_at) EXECUTE FUNCTION private.aim_at_new_plan();
CREATE TRIGGER profiles_follow_their_plan BEFORE INSERT OR UPDATE OF plan_id, subscription_tier ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.follow_plan();
CREATE TRIGGER profiles_open_account AFTER INSERT OR UPDATE OF email_verified_at ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.open_user_account();
CREATE TRIGGER profiles_touch_updated_at BEFORE UPDATE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE TRIGGER purchases_are_locked_before_their_owner_is_erased BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.lock_purchases_of_leaver();
CREATE TRIGGER subscriptions_end_with_their_owner BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.end_billing_of_leaver();
CREATE TRIGGER usage_is_forgotten_before_its_author_is_erased BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.forget_usage_of_user();
CREATE TRIGGER webhook_endpoints_are_locked_before_their_owner_is_erased BEFORE DELETE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.lock_webhook_endpoints_of_leaver();
CREATE POLICY "Users read their own profile" FOR SELECT TO authenticated USING id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users update their own profile" FOR UPDATE TO authenticated USING id = (( SELECT private.active_user_id() AS active_user_id)) WITH CHECK id = (( SELECT private.active_user_id() AS active_user_id));
GRANT SELECT TO authenticated;
GRANT UPDATE (ads_enabled, ai_safety_level, avatar_url, first_name, full_name, language, last_name, marketing_emails_enabled, notifications_enabled, prompt_suggestions_enabled, theme) TO authenticated;
GRANT SELECT TO service_role;

-- Prompts that were suggested to a person, and what came of them. Functions write; its owner reads and deletes.
create table public.prompt_suggestions (
  id uuid not null default private.uuid7(),  -- Identifies the suggestion.
  user_id uuid not null,  -- To whom it was suggested.
  base_prompt text not null,  -- What was typed when it was first suggested; where nothing was, what it was made from.
  suggested_prompt text not null,  -- The prompt.
  source_type text not null,  -- history, vision, community or ai.
  confidence_score double precision not null,  -- Similarity times the chance of success, 0 to 1, as of the last time it was suggested (private.suggestion_confidence).
  used_count integer not null default 0,  -- Generations that were asked for with it.
  completed_count integer not null default 0,  -- Those of them that ended well.
  failed_count integer not null default 0,  -- Those of them that failed; one that was called off is in neither.
  success_rate double precision not null generated always as (
CASE
    WHEN (completed_count + failed_count) = 0 THEN 0::double precision
    ELSE completed_count::double precision / (completed_count + failed_count)::double precision
END) stored,  -- Share of those that ended well among those that ended well or failed; 0 before the first.
  created_at timestamp with time zone not null default clock_timestamp(),  -- When it was first suggested.
  last_used_at timestamp with time zone,  -- When a generation was last asked for with it; null for never.
  embedding extensions.halfvec(1536),  -- What it means, as a vector; null where no embedding model was asked.
  metadata jsonb not null default '{}'::jsonb,  -- What it was made from: image_id, subject or model.
  constraint prompt_suggestions_pkey PRIMARY KEY (id),
  constraint base_prompt_has_1_to_4000_characters CHECK (char_length(base_prompt) >= 1 AND char_length(base_prompt) <= 4000 AND btrim(base_prompt) <> ''::text),
  constraint confidence_score_is_a_share CHECK (confidence_score >= 0::double precision AND confidence_score <= 1::double precision),
  constraint counts_are_not_negative CHECK (used_count >= 0 AND completed_count >= 0 AND failed_count >= 0),
  constraint metadata_is_a_small_object CHECK (jsonb_typeof(metadata) = 'object'::text AND private.json_size(metadata) <= 4096),
  constraint source_type_is_known CHECK (source_type = ANY (ARRAY['history'::text, 'vision'::text, 'community'::text, 'ai'::text])),
  constraint success_rate_is_a_share CHECK (success_rate >= 0::double precision AND success_rate <= 1::double precision),
  constraint suggested_prompt_has_1_to_4000_characters CHECK (char_length(suggested_prompt) >= 1 AND char_length(suggested_prompt) <= 4000 AND btrim(suggested_prompt) <> ''::text),
  constraint what_ended_was_used CHECK ((completed_count + failed_count) <= used_count),
  constraint what_was_used_says_when CHECK ((used_count > 0) = (last_used_at IS NOT NULL)),
  constraint prompt_suggestions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
) with (fillfactor=80);
CREATE INDEX prompt_suggestions_by_likeness ON public.prompt_suggestions USING hnsw (embedding extensions.halfvec_cosine_ops) WHERE embedding IS NOT NULL;
CREATE INDEX prompt_suggestions_by_user ON public.prompt_suggestions USING btree (user_id, id DESC);
CREATE UNIQUE INDEX prompt_suggestions_are_there_once ON public.prompt_suggestions USING btree (user_id, source_type, md5(suggested_prompt));
CREATE POLICY "Users delete their own suggestions" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own suggestions" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
GRANT DELETE, SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Every use of a provider key. Written by functions, read by the key's owner.
create table public.provider_key_uses (
  id uuid not null default private.uuid7(),  -- Identifies the use.
  provider_key_id uuid not null,  -- The key. No foreign key: the record outlives it.
  owner_id uuid,  -- The person the key belongs to; null for an organization's.
  organization_id uuid,  -- The organization the key belongs to; null for a person's.
  user_id uuid,  -- Who used it; null for an organization's API key, for the check of an idle key, and once erased.
  api_key_id uuid,  -- The API key they came by; null for a person who is signed in.
  provider text not null,  -- Slug of the provider it was shown to.
  action text not null,  -- What for: chat, embedding, image or validation.
  model_id text,  -- The model that was asked; null for a validation.
  request_id uuid,  -- The request: the id of its row in usage_logs; null for a validation.
  outcome text not null,  -- What became of it: completed, cancelled, rejected, quota_exceeded, rate_limited, failed, or unknown where the process that used it was lost.
  error_code text,  -- The error that the caller was told, if any.
  created_at timestamp with time zone not null default now(),  -- When it was recorded.
  constraint provider_key_uses_pkey PRIMARY KEY (id),
  constraint a_key_has_one_owner CHECK (num_nonnulls(owner_id, organization_id) = 1),
  constraint action_is_known CHECK (action = ANY (ARRAY['chat'::text, 'embedding'::text, 'image'::text, 'validation'::text])),
  constraint outcome_is_known CHECK (outcome = ANY (ARRAY['completed'::text, 'cancelled'::text, 'rejected'::text, 'quota_exceeded'::text, 'rate_limited'::text, 'failed'::text, 'unknown'::text])),
  constraint provider_key_uses_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint provider_key_uses_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint provider_key_uses_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX provider_key_uses_by_age ON public.provider_key_uses USING btree (created_at);
CREATE INDEX provider_key_uses_by_key ON public.provider_key_uses USING btree (provider_key_id, created_at DESC);
CREATE INDEX provider_key_uses_by_organization ON public.provider_key_uses USING btree (organization_id, created_at DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX provider_key_uses_by_owner ON public.provider_key_uses USING btree (owner_id, created_at DESC) WHERE owner_id IS NOT NULL;
CREATE INDEX provider_key_uses_by_user ON public.provider_key_uses USING btree (user_id) WHERE user_id IS NOT NULL;
CREATE POLICY "Owners read the uses of their keys, admins those of their organ" FOR SELECT TO authenticated USING owner_id = (( SELECT private.active_user_id() AS active_user_id)) OR user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Keys for providers that customers brought, without their secrets.
create table public.provider_keys (
  id uuid not null,  -- Identifies the key; chosen before its secret is sealed, because it is sealed for this row.
  user_id uuid,  -- The person it belongs to; null for an organization's.
  organization_id uuid,  -- The organization it belongs to; null for a person's.
  created_by uuid,  -- Who brought it; null once erased.
  provider_id uuid not null,  -- Whose key it is.
  name text not null,  -- What its owner calls it.
  last_four text not null,  -- The last four characters of its secret; fewer of a short one.
  priority integer not null default 100,  -- Which of several keys for a provider is tried first: the lowest.
  base_url text,  -- Where the customer's own server is; only for providers without an address of their own.
  models text[] not null default '{}'::text[],  -- Models that the customer's own server said it serves.
  is_enabled boolean not null default true,  -- False: its owner has it rest.
  is_valid boolean,  -- Whether the provider took it when it was last asked; null while it never was.
  invalid_reason text,  -- Why not: rejected, or quota_exceeded.
  secret_version integer not null default 1,  -- Rises when the secret is replaced, so that what is found out about the old one says nothing of the new.
  last_validated_at timestamp with time zone,  -- When the provider was last asked about it.
  last_used_at timestamp with time zone,  -- When it was last used, to the minute.
  created_at timestamp with time zone not null default now(),  -- When it was added.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint provider_keys_pkey PRIMARY KEY (id),
  constraint a_key_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint base_url_is_https CHECK (base_url ~ '^https://\S+$'::text AND char_length(base_url) <= 2048),
  constraint invalid_reason_is_known CHECK (invalid_reason = ANY (ARRAY['rejected'::text, 'quota_exceeded'::text])),
  constraint last_four_are_four_at_most CHECK (char_length(last_four) <= 4),
  constraint models_are_at_most_500 CHECK (cardinality(models) <= 500),
  constraint name_has_1_to_100_characters CHECK (char_length(name) >= 1 AND char_length(name) <= 100 AND name = btrim(name)),
  constraint only_an_invalid_key_has_a_reason CHECK ((is_valid IS FALSE) = (invalid_reason IS NOT NULL)),
  constraint priority_is_between_0_and_1000 CHECK (priority >= 0 AND priority <= 1000),
  constraint secret_version_is_positive CHECK (secret_version > 0),
  constraint provider_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint provider_keys_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint provider_keys_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES public.model_providers(id),
  constraint provider_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX provider_keys_by_author ON public.provider_keys USING btree (created_by) WHERE created_by IS NOT NULL;
CREATE INDEX provider_keys_by_organization ON public.provider_keys USING btree (organization_id, provider_id) WHERE organization_id IS NOT NULL;
CREATE INDEX provider_keys_by_provider ON public.provider_keys USING btree (provider_id);
CREATE INDEX provider_keys_by_user ON public.provider_keys USING btree (user_id, provider_id) WHERE user_id IS NOT NULL;
CREATE TRIGGER provider_keys_touch_updated_at BEFORE UPDATE ON public.provider_keys FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users change their own provider keys, admins those of their org" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
CREATE POLICY "Users delete their own provider keys, admins those of their org" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
CREATE POLICY "Users read their own provider keys, members those of their orga" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_organization_ids() AS my_organization_ids));
GRANT DELETE, SELECT TO authenticated;
GRANT UPDATE (is_enabled, name, priority) TO authenticated;
GRANT SELECT TO service_role;

-- What an owner subscribed to: the newest state of a subscription at Stripe, or a plan that an operator gave.
create table public.subscriptions (
  id uuid not null default private.uuid7(),  -- Identifies the subscription here.
  user_id uuid,  -- The user who has it; null for an organization's, or once erased.
  organization_id uuid,  -- The organization that has it; null for a user's, or once erased.
  account_id uuid not null,  -- The credit account that receives its credits.
  plan_id uuid not null,  -- The plan it pays for.
  status text not null,  -- Where it stands, in Stripe's words.
  billing_interval text,  -- How often it is paid: month or year; null when it is not paid through us.
  interval_count integer not null default 1,  -- Intervals in one period.
  amount_minor bigint not null default 0,  -- What one period costs, in minor units, before discounts and tax.
  currency text not null,  -- Currency of the amount, lower-case ISO 4217.
  current_period_start timestamp with time zone not null,  -- When the period began that is being used.
  current_period_end timestamp with time zone not null,  -- When it ends.
  trial_start timestamp with time zone,  -- When the free trial began; null without one.
  trial_end timestamp with time zone,  -- When the free trial ends; null without one.
  cancel_at_period_end boolean not null default false,  -- Whether it ends with the period.
  cancel_at timestamp with time zone,  -- When it will end; null while it goes on.
  canceled_at timestamp with time zone,  -- When its end was decided.
  ended_at timestamp with time zone,  -- When it ended.
  is_paused boolean not null default false,  -- Whether nothing is collected for now.
  resumes_at timestamp with time zone,  -- When a pause ends by itself; null for when somebody ends it.
  paid_until timestamp with time zone,  -- Until when a pause or a change to a smaller plan leaves what was paid before.
  paid_plan_id uuid,  -- The larger plan that is kept until paid_until.
  provider text not null default 'stripe'::text,  -- stripe, or manual for a plan that an operator gave.
  stripe_subscription_id text,  -- The subscription at Stripe.
  stripe_item_id text,  -- Its item at Stripe that carries the price.
  stripe_price_id text,  -- The price at Stripe.
  stripe_customer_id text,  -- The customer at Stripe.
  started_at timestamp with time zone not null,  -- When it began.
  metadata jsonb not null default '{}'::jsonb,  -- Further facts for operators, never about a person.
  created_at timestamp with time zone not null default now(),  -- When it became known here.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint subscriptions_pkey PRIMARY KEY (id),
  constraint a_paid_plan_has_its_date CHECK (paid_plan_id IS NULL OR paid_until IS NOT NULL),
  constraint a_period_ends_after_it_starts CHECK (current_period_end > current_period_start),
  constraint a_subscription_has_at_most_one_owner CHECK (num_nonnulls(user_id, organization_id) <= 1),
  constraint a_trial_ends_after_it_starts CHECK (trial_end > trial_start),
  constraint amount_is_not_negative CHECK (amount_minor >= 0),
  constraint billing_interval_is_known CHECK (billing_interval = ANY (ARRAY['month'::text, 'year'::text])),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint interval_count_is_positive CHECK (interval_count > 0),
  constraint metadata_is_an_object CHECK (jsonb_typeof(metadata) = 'object'::text),
  constraint only_stripe_has_ids_of_stripe CHECK ((provider = 'stripe'::text) = (num_nonnulls(stripe_subscription_id, stripe_item_id, stripe_price_id, stripe_customer_id) = 4)),
  constraint provider_is_known CHECK (provider = ANY (ARRAY['stripe'::text, 'manual'::text])),
  constraint status_is_known CHECK (status = ANY (ARRAY['incomplete'::text, 'incomplete_expired'::text, 'trialing'::text, 'active'::text, 'past_due'::text, 'canceled'::text, 'unpaid'::text, 'paused'::text])),
  constraint subscriptions_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint subscriptions_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint subscriptions_paid_plan_id_fkey FOREIGN KEY (paid_plan_id) REFERENCES public.plans(id),
  constraint subscriptions_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint subscriptions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX subscriptions_by_account ON public.subscriptions USING btree (account_id);
CREATE INDEX subscriptions_by_organization ON public.subscriptions USING btree (organization_id, created_at DESC);
CREATE INDEX subscriptions_by_paid_plan ON public.subscriptions USING btree (paid_plan_id) WHERE paid_plan_id IS NOT NULL;
CREATE INDEX subscriptions_by_period ON public.subscriptions USING btree (current_period_end);
CREATE INDEX subscriptions_by_plan ON public.subscriptions USING btree (plan_id);
CREATE INDEX subscriptions_by_status ON public.subscriptions USING btree (status);
CREATE INDEX subscriptions_by_user ON public.subscriptions USING btree (user_id, created_at DESC);
CREATE UNIQUE INDEX subscriptions_are_mirrored_once ON public.subscriptions USING btree (stripe_subscription_id) WHERE stripe_subscription_id IS NOT NULL;
CREATE TRIGGER subscriptions_touch BEFORE UPDATE ON public.subscriptions FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Subscribers and organization admins read their subscriptions" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- One row per request, by month.
create table public.usage_logs (
  id uuid not null,  -- Identifies the request; the id of its hold.
  account_id uuid not null,  -- The account that paid; no foreign key, because the ledger outlives the month.
  user_id uuid,  -- Who asked; null once erased, and for an organization's key.
  organization_id uuid,  -- The organization that paid, if one did.
  api_key_id uuid,  -- The API key it came by; null for a person who is signed in. No foreign key, since every request would then lock the key's row.
  action text not null,  -- What was done: chat, ...
  resource_type text,  -- What it was done to: conversation, agent, document ...
  resource_id uuid,  -- Which of them.
  model_id text,  -- The model used; no foreign key, since every request would then lock the model's row.
  provider text,  -- Slug of the provider that served it.
  credential text not null default 'platform'::text,  -- Whose key the provider was called with: the platform's, or the customer's own.
  provider_key_id uuid,  -- Which of the customer's own keys; null for the platform's. No foreign key: the row outlives it.
  status text not null default 'started'::text,  -- started, then completed, cancelled (client left), failed (nothing charged) or expired (reaped).
  error_code text,  -- Why it failed.
  prompt_tokens integer not null default 0,  -- Tokens of the prompt, cached ones included.
  completion_tokens integer not null default 0,  -- Tokens of the answer.
  cached_tokens integer not null default 0,  -- Tokens of the prompt that the model had cached.
  tokens_used integer generated always as (prompt_tokens + completion_tokens) stored,  -- Prompt and answer together.
  usage_source text,  -- Who counted the tokens: the upstream, or Quernel when it did not say.
  credits_held numeric(20,6) not null default 0,  -- Credits held for it.
  credits numeric(20,6) not null default 0,  -- Credits charged for it.
  credits_refunded numeric(20,6) not null default 0,  -- Credits of those that were given back.
  cost_estimate numeric(20,6) not null default 0,  -- What it costs at the catalog's prices, in credits, whoever's key was used: with the platform's what was charged, with one's own what would have been.
  is_streamed boolean not null default false,  -- Whether the answer was streamed.
  latency_ms integer,  -- Milliseconds until the answer was complete.
  first_token_ms integer,  -- Milliseconds until its first token.
  library_id text,  -- The library that a tool was asked about, or found; no foreign key, since the row outlives it.
  query text,  -- What a tool was asked; null once usage_address_days have passed.
  tokens_returned integer,  -- Tokens of documentation that a tool answered with.
  ip_address inet,  -- Where the request came from; null once usage_address_days have passed.
  user_agent text,  -- Which client sent it; null once usage_address_days have passed.
  created_at timestamp with time zone not null,  -- When it was accepted.
  finished_at timestamp with time zone,  -- When it was finalized.
  request_id uuid default private.request_id(),  -- The id by which logs and traces know it: x-request-id of the answer; null for rows that clients caused in the database.
  constraint usage_logs_have_one_row_per_request PRIMARY KEY (id, created_at),
  constraint a_provider_key_is_ones_own CHECK (provider_key_id IS NULL OR credential = 'own'::text),
  constraint a_started_row_is_unfinished CHECK ((status = 'started'::text) = (finished_at IS NULL)),
  constraint cost_estimate_is_not_negative CHECK (cost_estimate >= 0::numeric),
  constraint counts_are_not_negative CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND cached_tokens >= 0 AND cached_tokens <= prompt_tokens AND latency_ms >= 0 AND first_token_ms >= 0 AND tokens_returned >= 0),
  constraint credential_is_known CHECK (credential = ANY (ARRAY['platform'::text, 'own'::text])),
  constraint credits_are_part_of_what_was_held CHECK (credits >= 0::numeric AND credits <= credits_held),
  constraint credits_refunded_are_part_of_what_was_charged CHECK (credits_refunded >= 0::numeric AND credits_refunded <= credits),
  constraint query_has_at_most_2000_characters CHECK (char_length(query) <= 2000),
  constraint status_is_known CHECK (status = ANY (ARRAY['started'::text, 'completed'::text, 'cancelled'::text, 'failed'::text, 'expired'::text])),
  constraint usage_source_is_known CHECK (usage_source = ANY (ARRAY['upstream'::text, 'counted'::text])),
  constraint usage_logs_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
) partition by RANGE (created_at);
CREATE INDEX usage_logs_by_api_key ON ONLY public.usage_logs USING btree (api_key_id, created_at DESC) WHERE api_key_id IS NOT NULL;
CREATE INDEX usage_logs_by_organization ON ONLY public.usage_logs USING btree (organization_id, created_at DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX usage_logs_by_user ON ONLY public.usage_logs USING btree (user_id, created_at DESC);
CREATE INDEX usage_logs_with_an_address ON ONLY public.usage_logs USING btree (created_at) WHERE ip_address IS NOT NULL OR user_agent IS NOT NULL OR query IS NOT NULL;
CREATE TRIGGER usage_is_counted_when_it_ends AFTER UPDATE ON public.usage_logs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION private.count_finished_usage();
CREATE TRIGGER usage_is_counted_when_it_is_inserted AFTER INSERT ON public.usage_logs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION private.count_inserted_usage();
CREATE TRIGGER usage_is_taken_back_when_it_is_deleted AFTER DELETE ON public.usage_logs REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION private.count_deleted_usage();
CREATE POLICY "Users read their own usage, admins that of their organizations" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Images that a person marked: their own, and public ones.
create table public.user_favorites (
  user_id uuid not null default auth.uid(),  -- Who marked it.
  image_id uuid not null,  -- The image.
  created_at timestamp with time zone not null default now(),  -- When.
  constraint an_image_is_a_persons_favorite_once PRIMARY KEY (user_id, image_id),
  constraint user_favorites_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.generated_images(id) ON DELETE CASCADE,
  constraint user_favorites_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX user_favorites_by_image ON public.user_favorites USING btree (image_id);
CREATE TRIGGER user_favorites_are_noted AFTER INSERT OR DELETE ON public.user_favorites FOR EACH ROW EXECUTE FUNCTION private.note_favorite();
CREATE TRIGGER user_favorites_are_of_seen_images BEFORE INSERT ON public.user_favorites FOR EACH ROW EXECUTE FUNCTION private.require_seen_image();
CREATE POLICY "Users mark images" FOR INSERT TO authenticated WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own favorites" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users take their marks back" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
GRANT DELETE, SELECT TO authenticated;
GRANT INSERT (image_id, user_id) TO authenticated;
GRANT SELECT TO service_role;

-- What a person likes to use, and how. Counters are kept by functions.
create table public.user_model_preferences (
  user_id uuid not null default auth.uid(),  -- Whose preference this is.
  model_id text not null,  -- The model.
  is_favorite boolean not null default false,  -- Whether the person marked it.
  last_used_at timestamp with time zone,  -- When the person last used it.
  use_count integer not null default 0,  -- How often the person used it.
  default_settings jsonb not null default '{}'::jsonb,  -- Parameters the person starts with: a JSON object of at most 16 KiB.
  created_at timestamp with time zone not null default now(),  -- When it was first saved or used.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint a_person_has_one_preference_per_model PRIMARY KEY (user_id, model_id),
  constraint default_settings_are_a_small_object CHECK (jsonb_typeof(default_settings) = 'object'::text AND private.json_size(default_settings) <= 16384),
  constraint use_count_is_not_negative CHECK (use_count >= 0),
  constraint user_model_preferences_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id) ON DELETE CASCADE,
  constraint user_model_preferences_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX user_model_preferences_by_model ON public.user_model_preferences USING btree (model_id);
CREATE TRIGGER user_model_preferences_touch_updated_at BEFORE UPDATE ON public.user_model_preferences FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users change their own model preferences" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users delete their own model preferences" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own model preferences" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users save their own model preferences" FOR INSERT TO authenticated WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
GRANT DELETE, SELECT TO authenticated;
GRANT INSERT (default_settings, is_favorite, model_id, user_id) TO authenticated;
GRANT UPDATE (default_settings, is_favorite, model_id, user_id) TO authenticated;
GRANT SELECT TO service_role;

-- What a person prefers: one JSON document per topic, read and written by that person alone.
create table public.user_preferences (
  id uuid not null default gen_random_uuid(),  -- Identifies the document.
  user_id uuid not null default auth.uid(),  -- Whose preferences these are.
  preference_type text not null,  -- The topic: generation_defaults, style_preferences, safety_settings, ui_preferences or notification_settings.
  preference_value jsonb not null,  -- A JSON object of at most 16 KiB.
  created_at timestamp with time zone not null default now(),  -- When it was first saved.
  updated_at timestamp with time zone not null default now(),  -- When it last changed.
  constraint user_preferences_pkey PRIMARY KEY (id),
  constraint preference_type_is_known CHECK (preference_type = ANY (ARRAY['generation_defaults'::text, 'style_preferences'::text, 'safety_settings'::text, 'ui_preferences'::text, 'notification_settings'::text])),
  constraint preference_value_is_an_object CHECK (jsonb_typeof(preference_value) = 'object'::text),
  constraint preference_value_is_small CHECK (private.json_size(preference_value) <= 16384),
  constraint user_preferences_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint there_is_one_preference_of_a_type UNIQUE (user_id, preference_type)
);
CREATE TRIGGER user_preferences_touch_updated_at BEFORE UPDATE ON public.user_preferences FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Users change their own preferences" FOR UPDATE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users delete their own preferences" FOR DELETE TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users read their own preferences" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id));
CREATE POLICY "Users save their own preferences" FOR INSERT TO authenticated WITH CHECK user_id = (( SELECT private.active_user_id() AS active_user_id));
GRANT DELETE, SELECT TO authenticated;
GRANT INSERT (preference_type, preference_value, user_id) TO authenticated;
GRANT UPDATE (preference_type, preference_value, user_id) TO authenticated;
GRANT SELECT TO service_role;

-- Events for webhook endpoints, and what became of them. What they say is in private.notifications.
create table public.webhook_deliveries (
  id uuid not null default private.uuid7(),  -- Identifies the delivery; the webhook-id of its message, the same at every attempt.
  endpoint_id uuid not null,  -- Where it goes.
  notification_id uuid not null,  -- What it tells.
  event_type text not null,  -- What has happened; the template of the notification.
  status text not null default 'queued'::text,  -- queued, sent (answered with 2xx), failed or suppressed (the endpoint is switched off).
  attempts integer not null default 0,  -- Times it was tried.
  response_status integer,  -- HTTP status of the latest answer; null when there was none.
  reason text,  -- Why it was not sent, or not yet, as a code.
  created_at timestamp with time zone not null default now(),  -- When it was asked for.
  sent_at timestamp with time zone,  -- When the endpoint took it.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint webhook_deliveries_pkey PRIMARY KEY (id),
  constraint a_sent_event_says_when CHECK ((status = 'sent'::text) = (sent_at IS NOT NULL)),
  constraint an_event_that_was_not_sent_says_why CHECK ((status <> ALL (ARRAY['failed'::text, 'suppressed'::text])) OR reason IS NOT NULL),
  constraint attempts_are_not_negative CHECK (attempts >= 0),
  constraint reason_is_a_code CHECK (reason ~ '^[a-z][a-z0-9_]{0,62}$'::text),
  constraint response_status_has_three_digits CHECK (response_status >= 100 AND response_status <= 999),
  constraint status_is_known CHECK (status = ANY (ARRAY['queued'::text, 'sent'::text, 'failed'::text, 'suppressed'::text])),
  constraint webhook_deliveries_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id) ON DELETE CASCADE,
  constraint webhook_deliveries_notification_id_fkey FOREIGN KEY (notification_id) REFERENCES private.notifications(id) ON DELETE CASCADE,
  constraint an_endpoint_gets_a_notification_once UNIQUE (notification_id, endpoint_id)
);
CREATE INDEX webhook_deliveries_by_endpoint ON public.webhook_deliveries USING btree (endpoint_id, created_at DESC);
CREATE INDEX webhook_deliveries_to_sweep ON public.webhook_deliveries USING btree (created_at) WHERE status = 'queued'::text;
CREATE TRIGGER webhook_deliveries_touch_updated_at BEFORE UPDATE ON public.webhook_deliveries FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Whoever reads an endpoint reads what was sent there" FOR SELECT TO authenticated USING (endpoint_id IN ( SELECT e.id FROM public.webhook_endpoints e));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Where an owner wants events sent. Written through functions only, because the URL is vetted.
create table public.webhook_endpoints (
  id uuid not null default gen_random_uuid(),  -- Identifies the endpoint.
  user_id uuid,  -- Whose it is, when it is a person's.
  organization_id uuid,  -- Whose it is, when it is an organization's.
  url text not null,  -- Where events are posted: https, and public at every delivery.
  description text,  -- The owner's note.
  event_types text[],  -- Which events; null for all, those of later versions included.
  is_active boolean not null default true,  -- Whether events are sent.
  secret_version integer not null default 1,  -- Which signing secret is in use. The secret is derived from the id and this number.
  secret_rotated_at timestamp with time zone,  -- When the version last changed; the one before signs as well for webhook_rotation_hours.
  consecutive_failures integer not null default 0,  -- Events given up since the last that was delivered.
  disabled_at timestamp with time zone,  -- When it was switched off by us; null when it is active or its owner did it.
  disabled_reason text,  -- Why: gone (it answered 410) or failing (too many events given up).
  created_at timestamp with time zone not null default now(),  -- When it was made.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint webhook_endpoints_pkey PRIMARY KEY (id),
  constraint a_disabled_endpoint_says_why CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
  constraint an_active_endpoint_is_not_disabled CHECK (NOT is_active OR disabled_at IS NULL),
  constraint an_owner_is_a_user_or_an_organization CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint consecutive_failures_are_not_negative CHECK (consecutive_failures >= 0),
  constraint description_is_short CHECK (char_length(description) >= 1 AND char_length(description) <= 200),
  constraint disabled_reason_is_known CHECK (disabled_reason = ANY (ARRAY['gone'::text, 'failing'::text])),
  constraint event_types_are_named_or_all CHECK (cardinality(event_types) >= 1 AND cardinality(event_types) <= 50 AND array_position(event_types, NULL::text) IS NULL),
  constraint secret_version_counts_from_one CHECK (secret_version >= 1),
  constraint url_is_https CHECK (url ~* '^https://\S+$'::text AND char_length(url) <= 2048),
  constraint webhook_endpoints_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint webhook_endpoints_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX webhook_endpoints_by_organization ON public.webhook_endpoints USING btree (organization_id);
CREATE INDEX webhook_endpoints_by_user ON public.webhook_endpoints USING btree (user_id);
CREATE TRIGGER webhook_endpoints_touch_updated_at BEFORE UPDATE ON public.webhook_endpoints FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();
CREATE POLICY "Owners read their webhook endpoints and admins those of their o" FOR SELECT TO authenticated USING user_id = (( SELECT private.active_user_id() AS active_user_id)) OR (organization_id IN ( SELECT private.my_admin_organization_ids() AS my_admin_organization_ids));
GRANT SELECT TO authenticated;
GRANT SELECT TO service_role;

-- Rewarded ads that were watched and paid for, each once.
create table private.ad_rewards (
  transaction_id text not null,  -- AdMob's id of the reward.
  user_id uuid not null,  -- Who watched.
  ad_unit text not null,  -- Which of our ad units.
  credits numeric(20,6) not null,  -- Credits granted.
  created_at timestamp with time zone not null default now(),  -- When.
  constraint ad_rewards_pkey PRIMARY KEY (transaction_id),
  constraint ad_unit_has_1_to_100_characters CHECK (char_length(ad_unit) >= 1 AND char_length(ad_unit) <= 100),
  constraint credits_are_positive CHECK (credits > 0::numeric),
  constraint transaction_id_has_1_to_200_characters CHECK (char_length(transaction_id) >= 1 AND char_length(transaction_id) <= 200),
  constraint ad_rewards_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX ad_rewards_by_user ON private.ad_rewards USING btree (user_id, created_at DESC);

-- By which secrets a key is known.
create table private.api_key_hashes (
  key_hash text not null,  -- SHA-256 of the whole key, prefix included, in hexadecimal. 256 random bits need no salt.
  api_key_id uuid not null,  -- The key.
  expires_at timestamp with time zone,  -- End of the grace of a secret that was replaced; null for the present one.
  constraint api_key_hashes_pkey PRIMARY KEY (key_hash),
  constraint key_hash_is_a_sha_256 CHECK (key_hash ~ '^[0-9a-f]{64}$'::text),
  constraint api_key_hashes_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES public.api_keys(id) ON DELETE CASCADE
);
CREATE INDEX api_key_hashes_by_key ON private.api_key_hashes USING btree (api_key_id);
CREATE UNIQUE INDEX api_key_hashes_have_one_present_secret ON private.api_key_hashes USING btree (api_key_id) WHERE expires_at IS NULL;

-- What a key has used: the state of its limits, and its totals. A request writes this row and no other of the key.
create table private.api_key_states (
  api_key_id uuid not null,  -- The key.
  next_request_minute_at timestamp with time zone not null default '-infinity'::timestamp with time zone,  -- Theoretical arrival time of the next request (GCRA) under the limit of a minute.
  next_request_day_at timestamp with time zone not null default '-infinity'::timestamp with time zone,  -- The same under the limit of a day.
  next_request_month_at timestamp with time zone not null default '-infinity'::timestamp with time zone,  -- The same under the limit of a month.
  next_token_at timestamp with time zone not null default '-infinity'::timestamp with time zone,  -- Theoretical arrival time of the next token under the limit of a minute.
  active_holds integer not null default 0,  -- Its requests in flight.
  held numeric(20,6) not null default 0,  -- Credits held by them.
  period_start timestamp with time zone not null default private.month_start(now()),  -- Start of the month (UTC) that period_credits counts.
  period_credits numeric(20,6) not null default 0,  -- Credits spent in the period.
  total_requests bigint not null default 0,  -- Requests that were accepted, ever.
  total_tokens bigint not null default 0,  -- Tokens used, ever.
  total_credits numeric(20,6) not null default 0,  -- Credits spent, ever.
  last_used_at timestamp with time zone,  -- When the last request was accepted.
  constraint api_key_states_pkey PRIMARY KEY (api_key_id),
  constraint counters_are_not_negative CHECK (LEAST(active_holds::numeric, held, period_credits, total_requests::numeric, total_tokens::numeric, total_credits) >= 0::numeric),
  constraint api_key_states_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES public.api_keys(id) ON DELETE CASCADE
) with (fillfactor=50);

-- How far each person is into the limit of billing requests. Unlogged: after a crash of the database everybody begins anew.
create unlogged table private.billing_rates (
  user_id uuid not null,  -- Who asks, for themselves or for an organization.
  next_at timestamp with time zone not null,  -- When what was used will have been given back (private.gcra).
  constraint billing_rates_pkey PRIMARY KEY (user_id),
  constraint billing_rates_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);

-- Credits promised to work in flight: active, then settled, released or expired.
create table private.credit_holds (
  id uuid not null default private.uuid7(),  -- Identifies the hold, and its row in usage_logs.
  account_id uuid not null,  -- Who pays.
  user_id uuid,  -- Who asked for the work; null once erased, and for an organization's key.
  api_key_id uuid,  -- By which API key; null for a person who is signed in. No foreign key: the ledger outlives keys.
  action text not null,  -- What the work is, as in usage_logs.action.
  amount numeric(20,6) not null,  -- Credits held: the most the work can cost.
  tokens bigint not null default 0,  -- Tokens held against the plan: what the work is expected to use at most; what it did use is counted at its end.
  terms jsonb not null default '{}'::jsonb,  -- Prices and limits the work was accepted under; a later price change does not touch it.
  status text not null default 'active'::text,  -- active, settled, released (nothing charged) or expired (returned by the reaper).
  settled_amount numeric(20,6),  -- Credits charged.
  refunded_amount numeric(20,6) not null default 0,  -- Credits given back after the settlement.
  idempotency_key text not null,  -- The caller's key for this hold; one per account that is not released.
  attempt integer not null default 1,  -- Which hold of its key this is: one that was released frees the key for the next.
  reason text,  -- Why it was released; superseded when its Idempotency-Key ran again after the reaper.
  created_at timestamp with time zone not null default now(),  -- When the work was accepted.
  deadline timestamp with time zone not null,  -- When the reaper may return it; extended while leased work goes on.
  finished_at timestamp with time zone,  -- When it was settled, released or expired.
  constraint credit_holds_pkey PRIMARY KEY (id),
  constraint amount_is_not_negative CHECK (amount >= 0::numeric AND tokens >= 0),
  constraint an_active_hold_is_unfinished CHECK ((status = 'active'::text) = (finished_at IS NULL)),
  constraint attempts_count_from_1 CHECK (attempt >= 1),
  constraint deadline_is_after_creation CHECK (deadline > created_at),
  constraint key_is_not_empty CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 300),
  constraint only_a_settled_hold_has_an_amount CHECK ((status = 'settled'::text) = (settled_amount IS NOT NULL)),
  constraint refunded_amount_is_part_of_the_settlement CHECK (refunded_amount >= 0::numeric AND refunded_amount <= COALESCE(settled_amount, 0::numeric)),
  constraint settled_amount_is_part_of_the_hold CHECK (settled_amount >= 0::numeric AND settled_amount <= amount),
  constraint status_is_known CHECK (status = ANY (ARRAY['active'::text, 'settled'::text, 'released'::text, 'expired'::text])),
  constraint credit_holds_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint credit_holds_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL
);
CREATE INDEX credit_holds_by_user ON private.credit_holds USING btree (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX credit_holds_to_reap ON private.credit_holds USING btree (deadline) WHERE status = 'active'::text;
CREATE UNIQUE INDEX credit_holds_have_one_key_per_account ON private.credit_holds USING btree (account_id, idempotency_key, attempt);
CREATE TRIGGER refunds_show_in_usage AFTER UPDATE OF refunded_amount ON private.credit_holds FOR EACH ROW WHEN (new.refunded_amount <> old.refunded_amount) EXECUTE FUNCTION private.note_refund_of_usage();

-- When each periodic job is due; its lease keeps two runs from overlapping.
create table private.cron_jobs (
  name text not null,  -- Which job; functions/cron/jobs.py lists them.
  interval_seconds integer not null,  -- Seconds from one start to the next.
  due_at timestamp with time zone not null default now(),  -- When it should run next.
  lease_token uuid,  -- What the worker that runs it must show; null while nobody does.
  leased_until timestamp with time zone,  -- When another worker may take it over.
  leased_by text,  -- Name of the worker that runs it.
  last_started_at timestamp with time zone,  -- When the latest run began.
  last_finished_at timestamp with time zone,  -- When the latest finished run ended.
  last_count bigint,  -- Rows the latest successful run changed.
  last_error text,  -- Why the latest finished run failed; null when it did not.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint cron_jobs_pkey PRIMARY KEY (name),
  constraint a_lease_is_whole CHECK (num_nonnulls(lease_token, leased_until, leased_by) = ANY (ARRAY[0, 3])),
  constraint a_leased_job_has_started CHECK (lease_token IS NULL OR last_started_at IS NOT NULL),
  constraint interval_is_positive CHECK (interval_seconds > 0),
  constraint last_count_is_not_negative CHECK (last_count >= 0),
  constraint last_error_is_short CHECK (length(last_error) >= 1 AND length(last_error) <= 2000),
  constraint name_is_snake_case CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'::text),
  constraint worker_name_is_short CHECK (length(leased_by) >= 1 AND length(leased_by) <= 200)
);
CREATE TRIGGER cron_jobs_touch_updated_at BEFORE UPDATE ON private.cron_jobs FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();

-- Every run of a periodic job: how long it took and what it changed.
create table private.cron_runs (
  id uuid not null,  -- Identifies the run: the lease under which it went on.
  job text not null,  -- Which job.
  worker text not null,  -- Name of the worker that ran it.
  started_at timestamp with time zone not null default clock_timestamp(),  -- When it began.
  finished_at timestamp with time zone,  -- When it ended; null while it goes on.
  seconds numeric(12,3) generated always as (EXTRACT(epoch FROM finished_at - started_at)) stored,  -- How long it took.
  count bigint,  -- Rows it changed; null for one that failed.
  error text,  -- Why it failed; null for one that did not.
  constraint cron_runs_pkey PRIMARY KEY (id),
  constraint a_run_ends_after_it_began CHECK (finished_at >= started_at),
  constraint count_is_not_negative CHECK (count >= 0),
  constraint error_is_short CHECK (length(error) >= 1 AND length(error) <= 2000),
  constraint job_is_snake_case CHECK (job ~ '^[a-z][a-z0-9_]{0,62}$'::text),
  constraint only_a_finished_run_has_an_outcome CHECK (finished_at IS NOT NULL OR num_nonnulls(count, error) = 0),
  constraint worker_name_is_short CHECK (length(worker) >= 1 AND length(worker) <= 200)
);
CREATE INDEX cron_runs_by_job ON private.cron_runs USING btree (job, started_at DESC);
CREATE INDEX cron_runs_that_go_on ON private.cron_runs USING btree (job) WHERE finished_at IS NULL;
CREATE INDEX cron_runs_to_purge ON private.cron_runs USING btree (started_at);

-- Vectors of chunks. Beside the chunks, so that a new model's can be made while the old ones serve, and no change of a chunk touches their index.
create table private.documentation_embeddings (
  chunk_id uuid not null,  -- The chunk.
  model text not null,  -- The model that made the vector.
  library_version_id uuid not null,  -- The chunk's version; no foreign key, since the vector goes with its chunk.
  embedding extensions.halfvec(1536) not null storage p,  -- The vector, filled up with zeros to 1536 dimensions, which changes no angle.
  constraint a_chunk_has_one_vector_per_model PRIMARY KEY (chunk_id, model),
  constraint documentation_embeddings_chunk_id_fkey FOREIGN KEY (chunk_id) REFERENCES public.documentation_chunks(id) ON DELETE CASCADE
);
CREATE INDEX documentation_embeddings_by_likeness ON private.documentation_embeddings USING hnsw (embedding extensions.halfvec_cosine_ops);
CREATE INDEX documentation_embeddings_by_version ON private.documentation_embeddings USING btree (library_version_id, model);

-- In how many chunks of a version a word is, as of its latest finished crawl.
create table private.documentation_words (
  library_version_id uuid not null,  -- The version.
  word text not null,  -- The word, as documentation_chunks.words has it.
  chunk_count integer not null,  -- Chunks that have it.
  constraint a_version_counts_a_word_once PRIMARY KEY (library_version_id, word),
  constraint documentation_words_library_version_id_fkey FOREIGN KEY (library_version_id) REFERENCES public.library_versions(id) ON DELETE CASCADE
);

-- Emails: to whom by id, never by address, and what became of each.
create table private.email_deliveries (
  id uuid not null default private.uuid7(),  -- Identifies the email; the left half of its Message-ID.
  notification_id uuid not null,  -- What it tells.
  user_id uuid,  -- Who gets it.
  invitation_id uuid,  -- The invitation whose address gets it.
  status text not null default 'queued'::text,  -- queued, sent, failed (refused, or tried too often) or suppressed (nobody to write to).
  attempts integer not null default 0,  -- Times it was tried.
  reason text,  -- Why it was not sent, or not yet, as a code.
  provider_reply text,  -- What the mail server answered, which names the message there; without addresses.
  created_at timestamp with time zone not null default now(),  -- When it was asked for.
  sent_at timestamp with time zone,  -- When the mail server took it.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint email_deliveries_pkey PRIMARY KEY (id),
  constraint a_recipient_is_a_user_or_somebody_invited CHECK (num_nonnulls(user_id, invitation_id) = 1),
  constraint a_sent_email_says_when CHECK ((status = 'sent'::text) = (sent_at IS NOT NULL)),
  constraint an_email_that_was_not_sent_says_why CHECK ((status <> ALL (ARRAY['failed'::text, 'suppressed'::text])) OR reason IS NOT NULL),
  constraint attempts_are_not_negative CHECK (attempts >= 0),
  constraint provider_reply_is_short_and_holds_no_address CHECK (length(provider_reply) >= 1 AND length(provider_reply) <= 200 AND provider_reply !~ '@'::text),
  constraint reason_is_a_code CHECK (reason ~ '^[a-z][a-z0-9_]{0,62}$'::text),
  constraint status_is_known CHECK (status = ANY (ARRAY['queued'::text, 'sent'::text, 'failed'::text, 'suppressed'::text])),
  constraint email_deliveries_invitation_id_fkey FOREIGN KEY (invitation_id) REFERENCES public.organization_invitations(id) ON DELETE CASCADE,
  constraint email_deliveries_notification_id_fkey FOREIGN KEY (notification_id) REFERENCES private.notifications(id) ON DELETE CASCADE,
  constraint email_deliveries_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint nobody_gets_a_notification_twice UNIQUE NULLS NOT DISTINCT (notification_id, user_id, invitation_id)
);
CREATE INDEX email_deliveries_by_invitation ON private.email_deliveries USING btree (invitation_id);
CREATE INDEX email_deliveries_by_user ON private.email_deliveries USING btree (user_id);
CREATE INDEX email_deliveries_to_sweep ON private.email_deliveries USING btree (created_at) WHERE status = 'queued'::text;
CREATE TRIGGER email_deliveries_touch_updated_at BEFORE UPDATE ON private.email_deliveries FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();

-- Requests to be erased; of one that was executed what remains: a pseudonym, when, and how many rows of which table.
create table private.erasures (
  id uuid not null default private.uuid7(),  -- Identifies the erasure.
  user_id uuid,  -- Who is to be erased; null once they are. No foreign key: it is needed after they are gone.
  pseudonym uuid,  -- The name by which append-only rows know them; null until it begins.
  state text not null default 'requested'::text,  -- requested, executing, done or cancelled.
  requested_by text not null,  -- person or operator.
  requested_at timestamp with time zone not null default now(),  -- When it was asked for.
  due_at timestamp with time zone not null,  -- When it is executed.
  cancelled_at timestamp with time zone,  -- When it was cancelled.
  started_at timestamp with time zone,  -- When its execution began.
  done_at timestamp with time zone,  -- When nothing was left.
  organization_ids uuid[] not null default '{}'::uuid[],  -- While it is executed: the organizations without another member, which go too.
  account_ids uuid[] not null default '{}'::uuid[],  -- While it is executed: the credit accounts of both.
  emails text[] not null default '{}'::text[],  -- While it is executed: their addresses, by which later rows are found.
  erased jsonb not null default '{}'::jsonb,  -- How many rows of which table were deleted or emptied, step by step.
  constraint erasures_pkey PRIMARY KEY (id),
  constraint a_cancelled_erasure_says_when CHECK ((state = 'cancelled'::text) = (cancelled_at IS NOT NULL)),
  constraint a_finished_erasure_says_when CHECK ((state = 'done'::text) = (done_at IS NOT NULL)),
  constraint an_erasure_that_began_says_when CHECK ((state = ANY (ARRAY['executing'::text, 'done'::text])) = (started_at IS NOT NULL)),
  constraint nobody_is_known_afterwards CHECK (state <> 'done'::text OR user_id IS NULL AND emails = '{}'::text[] AND organization_ids = '{}'::uuid[] AND account_ids = '{}'::uuid[]),
  constraint requested_by_is_known CHECK (requested_by = ANY (ARRAY['person'::text, 'operator'::text])),
  constraint state_is_known CHECK (state = ANY (ARRAY['requested'::text, 'executing'::text, 'done'::text, 'cancelled'::text])),
  constraint whoever_is_to_be_erased_is_known CHECK (user_id IS NOT NULL OR (state = ANY (ARRAY['done'::text, 'cancelled'::text])))
);
CREATE INDEX erasures_by_user ON private.erasures USING btree (user_id, requested_at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX erasures_to_execute ON private.erasures USING btree (due_at) WHERE state = ANY (ARRAY['requested'::text, 'executing'::text]);
CREATE UNIQUE INDEX erasures_of_a_person_are_one_at_a_time ON private.erasures USING btree (user_id) WHERE state = ANY (ARRAY['requested'::text, 'executing'::text]);

-- Requests that came with an Idempotency-Key, and the answers that replay them.
create table private.idempotent_requests (
  id uuid not null default private.uuid7(),  -- Identifies the row.
  account_id uuid not null,  -- Who pays.
  user_id uuid,  -- Who asked, and the row goes with them; null for an organization's API keys, which share their Idempotency-Keys.
  operation text not null,  -- What was asked for; keys are scoped by it.
  idempotency_key text not null,  -- The client's key.
  fingerprint text not null,  -- Digest of the request's body.
  status text not null default 'running'::text,  -- running, completed (replays) or failed (runs again).
  hold_id uuid not null,  -- The hold of the latest attempt.
  is_streamed boolean not null,  -- Whether the answer was streamed, and is streamed again.
  answer jsonb,  -- The stored answer.
  created_at timestamp with time zone not null default now(),  -- When the key was first seen.
  expires_at timestamp with time zone not null,  -- When the key is forgotten.
  constraint idempotent_requests_pkey PRIMARY KEY (id),
  constraint key_has_1_to_255_characters CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 255),
  constraint only_a_completed_request_has_an_answer CHECK ((status = 'completed'::text) = (answer IS NOT NULL)),
  constraint status_is_known CHECK (status = ANY (ARRAY['running'::text, 'completed'::text, 'failed'::text])),
  constraint idempotent_requests_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint idempotent_requests_hold_id_fkey FOREIGN KEY (hold_id) REFERENCES private.credit_holds(id),
  constraint idempotent_requests_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint requests_have_one_key_per_owner_and_operation UNIQUE NULLS NOT DISTINCT (account_id, user_id, operation, idempotency_key)
);
CREATE INDEX idempotent_requests_by_expiry ON private.idempotent_requests USING btree (expires_at);
CREATE INDEX idempotent_requests_by_hold ON private.idempotent_requests USING btree (hold_id);
CREATE INDEX idempotent_requests_by_user ON private.idempotent_requests USING btree (user_id) WHERE user_id IS NOT NULL;

-- What the materialized views of images have been refreshed with.
create table private.insight_refreshes (
  name text not null,  -- Which of them.
  newest_image_id uuid,  -- The newest image at that time; null for none.
  newest_analysis_id uuid,  -- The newest analysis at that time; null for none.
  refreshed_at timestamp with time zone not null,  -- When.
  constraint insight_refreshes_pkey PRIMARY KEY (name),
  constraint name_is_snake_case CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'::text)
);

-- What is wrong, as of the latest proof of each invariant.
create table private.invariant_findings (
  invariant text not null,  -- The invariant that does not hold.
  subject text not null,  -- Of what it does not hold: an id, or a name.
  detail jsonb,  -- The numbers that contradict each other.
  found_at timestamp with time zone not null default clock_timestamp(),  -- When it was first found.
  constraint a_subject_is_found_once PRIMARY KEY (invariant, subject),
  constraint invariant_findings_invariant_fkey FOREIGN KEY (invariant) REFERENCES private.invariants(name) ON DELETE CASCADE
);

-- Queries that return rows only where something is wrong, and how the latest proof of each went.
create table private.invariants (
  name text not null,  -- Its file in sql/checks/, without the ending.
  says text not null,  -- What must be true, in a sentence.
  mend text not null,  -- What to do where it is not.
  query text not null,  -- The query: subject and detail of each row that is wrong.
  proved_at timestamp with time zone,  -- When it was last asked.
  seconds numeric(12,3),  -- How long that took.
  found bigint,  -- Rows that were wrong; null where it could not be asked.
  error text,  -- Why it could not be asked.
  constraint invariants_pkey PRIMARY KEY (name),
  constraint error_is_short CHECK (length(error) >= 1 AND length(error) <= 2000),
  constraint found_is_not_negative CHECK (found >= 0),
  constraint name_is_snake_case CHECK (name ~ '^[0-9]{3}_[a-z0-9_]{1,100}$'::text)
);

-- Answers that are given again until they expire.
create unlogged table private.library_answers (
  key text not null,  -- SHA-256 of the tool, the tenant, what was asked, and the state of what it was asked of.
  tool text not null,  -- resolve-library-id or query-docs.
  library_id text,  -- The library that was asked about; null for resolve-library-id.
  answer jsonb not null,  -- The answer.
  expires_at timestamp with time zone not null,  -- Not given after this.
  constraint library_answers_pkey PRIMARY KEY (key),
  constraint key_is_sha_256 CHECK (key ~ '^[0-9a-f]{64}$'::text),
  constraint tool_is_known CHECK (tool = ANY (ARRAY['resolve-library-id'::text, 'query-docs'::text]))
);
CREATE INDEX library_answers_to_purge ON private.library_answers USING btree (expires_at);

-- What each member spends of an organization's credits in a calendar month (UTC).
create table private.member_spending (
  organization_id uuid not null,  -- Who pays.
  user_id uuid not null,  -- Who spends.
  period_start timestamp with time zone not null default private.month_start(now()),  -- Start of the month that spent counts.
  spent numeric(20,6) not null default 0,  -- Credits spent in the period.
  held numeric(20,6) not null default 0,  -- Credits held by the member's work in flight.
  constraint member_spending_has_one_row_per_member PRIMARY KEY (organization_id, user_id),
  constraint spending_is_not_negative CHECK (spent >= 0::numeric AND held >= 0::numeric),
  constraint member_spending_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint member_spending_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);
CREATE INDEX member_spending_by_user ON private.member_spending USING btree (user_id);

-- Words of messages, and whose they are, so that a search looks at nobody else's.
create table private.message_words (
  message_id uuid not null,  -- The message.
  words tsvector not null,  -- The words of its text without positions, and u:<author of the conversation> and o:<its organization>.
  constraint message_words_pkey PRIMARY KEY (message_id),
  constraint message_words_message_id_fkey FOREIGN KEY (message_id) REFERENCES public.messages(id) ON DELETE CASCADE
);
CREATE INDEX message_words_by_word ON private.message_words USING gin (words);

-- What owners can be told. functions/notifications/texts.py has the texts.
create table private.notification_templates (
  name text not null,  -- What it is called: by private.notify(), by the texts, and as a webhook's event type.
  is_transactional boolean not null,  -- Whether the email is sent to people who switched notifications off.
  is_email boolean not null default true,  -- Whether there is an email.
  is_event boolean not null default true,  -- Whether webhook endpoints can subscribe to it.
  description text not null,  -- What has happened, in a sentence.
  constraint notification_templates_pkey PRIMARY KEY (name),
  constraint name_is_snake_case CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'::text)
);

-- What owners were told: once per owner, template and key. Goes with its owner, and after notification_retention_days.
create table private.notifications (
  id uuid not null default private.uuid7(),  -- Identifies the notification.
  user_id uuid,  -- Who is told, when it is a person.
  organization_id uuid,  -- Who is told, when it is an organization: its owners and admins, and its webhook endpoints.
  template text not null,  -- What they are told.
  key text not null,  -- What makes this one different from others of its template: the id of its cause.
  facts jsonb not null default '{}'::jsonb,  -- What the text and the event are filled in with. No names and no addresses.
  created_at timestamp with time zone not null default now(),  -- When it happened.
  constraint notifications_pkey PRIMARY KEY (id),
  constraint an_owner_is_a_user_or_an_organization CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint facts_are_an_object CHECK (jsonb_typeof(facts) = 'object'::text),
  constraint facts_are_small CHECK (private.json_size(facts) <= 16384),
  constraint key_is_not_empty CHECK (length(key) >= 1 AND length(key) <= 300),
  constraint notifications_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint notifications_template_fkey FOREIGN KEY (template) REFERENCES private.notification_templates(name),
  constraint notifications_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint an_owner_is_told_once_per_key UNIQUE NULLS NOT DISTINCT (user_id, organization_id, template, key)
);
CREATE INDEX notifications_by_organization ON private.notifications USING btree (organization_id, template, created_at);
CREATE INDEX notifications_by_template ON private.notifications USING btree (template);
CREATE INDEX notifications_to_purge ON private.notifications USING btree (created_at);

-- What operators did, append-only.
create table private.operator_actions (
  id bigint not null generated always as identity,  -- Order in which it was written.
  actor text not null,  -- Who did it, as the operator's tool names them.
  action text not null,  -- What was done, as the function is called.
  subject text not null,  -- What it was done to: kind and id, as in organization:<id>; of a person user:<pseudonym>.
  before jsonb,  -- What changed, as it was.
  after jsonb,  -- What changed, as it is.
  reason text,  -- Why, in the operator's words.
  created_at timestamp with time zone not null default now(),  -- When.
  constraint operator_actions_pkey PRIMARY KEY (id),
  constraint action_is_snake_case CHECK (action ~ '^[a-z][a-z0-9_]*$'::text),
  constraint actor_is_named CHECK (char_length(btrim(actor)) >= 1 AND char_length(btrim(actor)) <= 200),
  constraint reason_is_short CHECK (char_length(reason) <= 1000),
  constraint subject_is_named CHECK (char_length(btrim(subject)) >= 1 AND char_length(btrim(subject)) <= 300)
);
CREATE INDEX operator_actions_by_subject ON private.operator_actions USING btree (subject, created_at DESC);
CREATE TRIGGER operator_actions_are_append_only BEFORE DELETE OR UPDATE ON private.operator_actions FOR EACH ROW EXECUTE FUNCTION private.refuse_change() -- enabled: A;
CREATE TRIGGER operator_actions_are_never_truncated BEFORE TRUNCATE ON private.operator_actions FOR EACH STATEMENT EXECUTE FUNCTION private.refuse_change() -- enabled: A;

-- Apart from the invitations, so that not even the admins who see those can read it.
create table private.organization_invitation_tokens (
  invitation_id uuid not null,  -- The invitation.
  purpose text not null default 'inviter'::text,  -- inviter (shown once to who invited) or email (made when the email is sent, anew at each attempt).
  token_hash bytea not null,  -- SHA-256 of the token, which was told once. 256 random bits need no salt.
  constraint an_invitation_has_one_token_for_a_purpose PRIMARY KEY (invitation_id, purpose),
  constraint purpose_is_known CHECK (purpose = ANY (ARRAY['inviter'::text, 'email'::text])),
  constraint token_hash_is_a_sha256 CHECK (octet_length(token_hash) = 32),
  constraint organization_invitation_tokens_invitation_id_fkey FOREIGN KEY (invitation_id) REFERENCES public.organization_invitations(id) ON DELETE CASCADE,
  constraint organization_invitation_tokens_token_hash_key UNIQUE (token_hash)
);

-- By which name rows that can never be changed know a person. Without this row nobody can say any more who it was.
create table private.person_pseudonyms (
  user_id uuid not null,  -- The person.
  pseudonym uuid not null default gen_random_uuid(),  -- The name, drawn at random.
  created_at timestamp with time zone not null default now(),  -- When it was first needed.
  constraint person_pseudonyms_pkey PRIMARY KEY (user_id),
  constraint person_pseudonyms_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint person_pseudonyms_pseudonym_key UNIQUE (pseudonym)
);

-- Every column that could say something about a person. Numbers, times and flags that are not here go with their row, and are exported with it.
create table private.personal_data (
  table_schema text not null,  -- Schema of the table.
  table_name text not null,  -- Name of the table.
  column_name text not null,  -- Name of the column.
  kind text not null,  -- identifier (names a person), contact, content (what they wrote or made), behaviour, financial, secret, technical (about their devices and requests) or none (looked at, and says nothing about anybody).
  erasure text not null,  -- row (goes with its row), null (the row stays without it), or keep (for the reason that its table gives).
  is_exported boolean not null,  -- Whether a person gets it in their export; secrets never are, since the holder of an export is not always the person.
  constraint personal_data_pkey PRIMARY KEY (table_schema, table_name, column_name),
  constraint erasure_is_known CHECK (erasure = ANY (ARRAY['row'::text, 'null'::text, 'keep'::text])),
  constraint kind_is_known CHECK (kind = ANY (ARRAY['identifier'::text, 'contact'::text, 'content'::text, 'behaviour'::text, 'financial'::text, 'secret'::text, 'technical'::text, 'none'::text])),
  constraint secrets_are_not_exported CHECK (kind <> 'secret'::text OR NOT is_exported),
  constraint personal_data_table_schema_table_name_fkey FOREIGN KEY (table_schema, table_name) REFERENCES private.personal_tables(table_schema, table_name)
);

-- Every table of the product: how the rows of a person are found in it, and what their erasure does to them.
create table private.personal_tables (
  table_schema text not null,  -- Schema of the table.
  table_name text not null,  -- Name of the table; partitions are their parent.
  rows_of text,  -- Which rows are a person's: a predicate over t with $1 to $4 (private.person_scope); null where none are.
  erasure text not null,  -- delete (the rows go), forget (they stay without what names the person), keep (they stay; reason says why) or none (nobody's).
  erased_by text,  -- step (backend.erasure_step), cascade (a foreign key, with what they belong to), trigger, storage (the Storage API), refresh (of a materialized view), auth (the Auth API), afterwards (a step after the user is gone) or end (of the erasure).
  position integer,  -- Order of the steps.
  retention text,  -- How long rows live where nobody is erased.
  reason text,  -- Why rows stay; of nobody's table, why a column in it that looks like a person's is none.
  is_exported boolean not null default true,  -- Whether a person gets the rows when they ask for what is known about them.
  constraint personal_tables_pkey PRIMARY KEY (table_schema, table_name),
  constraint erased_by_is_known CHECK (erased_by = ANY (ARRAY['step'::text, 'cascade'::text, 'trigger'::text, 'storage'::text, 'refresh'::text, 'auth'::text, 'afterwards'::text, 'end'::text])),
  constraint erasure_is_known CHECK (erasure = ANY (ARRAY['delete'::text, 'forget'::text, 'keep'::text, 'none'::text])),
  constraint nobodys_rows_are_not_exported CHECK (rows_of IS NOT NULL OR NOT is_exported),
  constraint only_nobodys_table_has_nothing_to_erase CHECK ((erasure = 'none'::text) = (rows_of IS NULL)),
  constraint people_are_told_how_long CHECK (rows_of IS NULL OR retention IS NOT NULL),
  constraint steps_have_their_place CHECK (COALESCE(erased_by = ANY (ARRAY['step'::text, 'afterwards'::text]), false) = ("position" IS NOT NULL)),
  constraint what_is_erased_says_by_whom CHECK ((erasure = ANY (ARRAY['delete'::text, 'forget'::text])) = (erased_by IS NOT NULL)),
  constraint what_stays_says_why CHECK ((erasure <> ALL (ARRAY['forget'::text, 'keep'::text])) OR reason IS NOT NULL)
);

-- Every price at Stripe that a plan has or had: a subscription keeps the price it was made with. Kept by a trigger on plans.
create table private.plan_prices (
  stripe_price_id text not null,  -- The price at Stripe.
  plan_id uuid not null,  -- The plan it buys.
  billing_interval text not null,  -- How often it is paid: month or year.
  amount_minor bigint not null,  -- What one such period costs, in minor units.
  currency text not null,  -- Currency of the amount, lower-case ISO 4217.
  created_at timestamp with time zone not null default now(),  -- When the plan got it.
  constraint plan_prices_pkey PRIMARY KEY (stripe_price_id),
  constraint amount_is_positive CHECK (amount_minor > 0),
  constraint billing_interval_is_known CHECK (billing_interval = ANY (ARRAY['month'::text, 'year'::text])),
  constraint currency_is_lower_case_iso_4217 CHECK (currency ~ '^[a-z]{3}$'::text),
  constraint stripe_price_id_is_a_price CHECK (stripe_price_id ~ '^price_[A-Za-z0-9_]{1,200}$'::text),
  constraint plan_prices_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id)
);
CREATE INDEX plan_prices_by_plan ON private.plan_prices USING btree (plan_id);

-- How far each person is into the limit of checks of keys. Unlogged: after a crash of the database everybody begins anew.
create unlogged table private.provider_key_rates (
  user_id uuid not null,  -- Who asks, for themselves or for an organization.
  next_at timestamp with time zone not null,  -- When what was used will have been given back (private.gcra).
  constraint provider_key_rates_pkey PRIMARY KEY (user_id),
  constraint provider_key_rates_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE
);

-- Sealed secrets of provider keys: AES-256-GCM under a data key of the row's own.
create table private.provider_key_secrets (
  provider_key_id uuid not null,  -- Whose secret it is; bound into the ciphertext.
  kid text not null,  -- Which master key wrapped the data key.
  wrapped_key bytea not null,  -- The data key, wrapped.
  nonce bytea not null,  -- The nonce of the ciphertext, 12 bytes.
  ciphertext bytea not null,  -- The sealed secret with its tag.
  sealed_at timestamp with time zone not null default now(),  -- When the secret was sealed.
  wrapped_at timestamp with time zone not null default now(),  -- When its data key was last wrapped.
  constraint provider_key_secrets_pkey PRIMARY KEY (provider_key_id),
  constraint ciphertext_is_small CHECK (octet_length(ciphertext) >= 17 AND octet_length(ciphertext) <= 17000),
  constraint kid_has_1_to_100_characters CHECK (char_length(kid) >= 1 AND char_length(kid) <= 100),
  constraint nonce_is_96_bits CHECK (octet_length(nonce) = 12),
  constraint wrapped_key_is_small CHECK (octet_length(wrapped_key) >= 32 AND octet_length(wrapped_key) <= 4096),
  constraint provider_key_secrets_provider_key_id_fkey FOREIGN KEY (provider_key_id) REFERENCES public.provider_keys(id) ON DELETE CASCADE
);
CREATE INDEX provider_key_secrets_by_master_key ON private.provider_key_secrets USING btree (kid, provider_key_id);

-- Product settings an operator may change at run time.
create table private.settings (
  name text not null,  -- What the setting is called in private.setting().
  value jsonb not null,  -- The value, as JSON.
  description text not null,  -- What it means, with its unit.
  updated_at timestamp with time zone not null default now(),  -- When it was last changed.
  constraint settings_pkey PRIMARY KEY (name),
  constraint name_is_snake_case CHECK (name ~ '^[a-z][a-z0-9_]*$'::text)
);

-- The Stripe customer of each user or organization: one that is live, and those that were deleted at Stripe, since their events may come later.
create table private.stripe_customers (
  id uuid not null default gen_random_uuid(),  -- Identifies the claim; the idempotency key of the customer's creation at Stripe derives from it.
  user_id uuid,  -- The user it stands for; null for an organization's, or once erased.
  organization_id uuid,  -- The organization it stands for; null for a user's, or once erased.
  account_id uuid not null,  -- Credit account of the owner; stays when the owner is erased.
  customer_id text,  -- Its id at Stripe; null while it is being created.
  default_payment_method_id text,  -- The payment method at Stripe that the customer chose for invoices; null for none.
  email text,  -- Verified address it is created with, the same for every attempt; null for none, and once it exists.
  name text,  -- Name it is created with, the same for every attempt; null once it exists.
  created_at timestamp with time zone not null default now(),  -- When the first checkout claimed it.
  attached_at timestamp with time zone,  -- When its id at Stripe became known.
  deleted_at timestamp with time zone,  -- When we heard that it was deleted at Stripe: nothing is sold through it any more, and what is still told of it belongs to its owner. Null while it is live.
  constraint stripe_customers_pkey PRIMARY KEY (id),
  constraint a_customer_has_at_most_one_owner CHECK (num_nonnulls(user_id, organization_id) <= 1),
  constraint an_attached_customer_has_an_id CHECK ((customer_id IS NULL) = (attached_at IS NULL)),
  constraint an_attached_customer_keeps_no_personal_data CHECK (customer_id IS NULL OR num_nonnulls(email, name) = 0),
  constraint only_an_attached_customer_is_deleted CHECK (deleted_at IS NULL OR customer_id IS NOT NULL),
  constraint stripe_customers_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.credit_accounts(id),
  constraint stripe_customers_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE SET NULL,
  constraint stripe_customers_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint stripe_customers_customer_id_key UNIQUE (customer_id)
);
CREATE INDEX stripe_customers_by_account ON private.stripe_customers USING btree (account_id);
CREATE INDEX stripe_customers_by_organization ON private.stripe_customers USING btree (organization_id);
CREATE INDEX stripe_customers_by_user ON private.stripe_customers USING btree (user_id);
CREATE UNIQUE INDEX stripe_customers_are_live_once_per_organization ON private.stripe_customers USING btree (organization_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX stripe_customers_are_live_once_per_user ON private.stripe_customers USING btree (user_id) WHERE deleted_at IS NULL;

-- The handler map: events that are applied. Every other type is stored and ignored.
create table private.stripe_event_types (
  event_type text not null,  -- Type of the event, as Stripe spells it.
  object_type text not null,  -- Type of the object it carries.
  effect text not null,  -- What it does, for docs/stripe.md.
  constraint stripe_event_types_pkey PRIMARY KEY (event_type),
  constraint stripe_event_types_object_type_fkey FOREIGN KEY (object_type) REFERENCES private.stripe_object_handlers(object_type)
);
CREATE INDEX stripe_event_types_by_object_type ON private.stripe_event_types USING btree (object_type);

-- The inbox: every event Stripe delivered, once, and what became of it.
create table private.stripe_events (
  id text not null,  -- Id of the event at Stripe.
  type text not null,  -- Type of the event, as Stripe spells it.
  object_type text,  -- Type of the object it is about.
  object_id text,  -- Id of the object it is about.
  api_version text,  -- API version that shaped the payload.
  livemode boolean not null,  -- Whether real money moved.
  created timestamp with time zone not null,  -- When it happened, by Stripe's clock, in whole seconds.
  payload jsonb not null,  -- The event without personal data (private.stripe_redact).
  status text not null default 'received'::text,  -- received, then applied, ignored, failed (tried again) or needs_fetch (the object must be read from Stripe).
  outcome jsonb,  -- What the handler did, or why the event was ignored.
  attempts integer not null default 0,  -- How often it was tried.
  last_error text,  -- Why the last attempt failed.
  fetch_type text,  -- Type of the object to read from Stripe.
  fetch_id text,  -- Id of the object to read from Stripe.
  fetch_revision bigint,  -- Revision of that object when the read was asked for.
  fetch_asked_at timestamp with time zone,  -- When the read was asked for: what is read is at least as new.
  received_at timestamp with time zone not null default clock_timestamp(),  -- When it was first delivered.
  finished_at timestamp with time zone,  -- When it was applied or ignored.
  constraint stripe_events_pkey PRIMARY KEY (id),
  constraint a_failed_event_has_its_error CHECK (status <> 'failed'::text OR last_error IS NOT NULL),
  constraint an_event_that_needs_a_fetch_says_of_what CHECK (status <> 'needs_fetch'::text OR num_nulls(fetch_type, fetch_id, fetch_revision, fetch_asked_at) = 0),
  constraint attempts_are_not_negative CHECK (attempts >= 0),
  constraint finished_at_says_when_it_ended CHECK ((status = ANY (ARRAY['applied'::text, 'ignored'::text])) = (finished_at IS NOT NULL)),
  constraint status_is_known CHECK (status = ANY (ARRAY['received'::text, 'applied'::text, 'failed'::text, 'ignored'::text, 'needs_fetch'::text]))
);
CREATE INDEX stripe_events_by_object ON private.stripe_events USING btree (object_id, created);
CREATE INDEX stripe_events_unfinished ON private.stripe_events USING btree (received_at) WHERE status = ANY (ARRAY['received'::text, 'failed'::text, 'needs_fetch'::text]);

-- Which kernel function applies the state of a Stripe object of each type.
create table private.stripe_object_handlers (
  object_type text not null,  -- Type of the object, as in its "object" field.
  handler text not null,  -- Function in private, taking (event type text, object jsonb) and returning jsonb.
  constraint stripe_object_handlers_pkey PRIMARY KEY (object_type),
  constraint handler_is_a_kernel_function CHECK (handler ~ '^stripe_apply_[a-z_]+$'::text),
  constraint stripe_object_handlers_handler_key UNIQUE (handler)
);

-- The newest state of each Stripe object that was applied, and how old that state is. A payment's row may be empty: it is there to be locked.
create table private.stripe_objects (
  id text not null,  -- Id of the object at Stripe.
  type text not null,  -- Type of the object.
  event_id text,  -- The event that brought the state, or "read"; no foreign key, events may be retired first.
  newest_from timestamp with time zone,  -- The state is at least this new, by Stripe's clock: older events change nothing.
  newest_until timestamp with time zone,  -- The state is at most this new: later events change it, those in between need a read.
  read_asked_at timestamp with time zone,  -- When the last read from Stripe that was applied was asked for, by our clock.
  revision bigint not null default 0,  -- Counts the states applied.
  payment_intent_id text,  -- The payment it belongs to.
  invoice_id text,  -- The invoice an invoice payment belongs to.
  state jsonb,  -- The object without personal data.
  updated_at timestamp with time zone not null default now(),  -- When the state last changed.
  constraint stripe_objects_pkey PRIMARY KEY (id),
  constraint a_state_has_its_age CHECK (num_nonnulls(event_id, newest_from, newest_until, state) = ANY (ARRAY[0, 4])),
  constraint age_is_an_interval CHECK (newest_until >= newest_from)
) with (fillfactor=80);
CREATE INDEX stripe_objects_by_invoice ON private.stripe_objects USING btree (invoice_id) WHERE invoice_id IS NOT NULL;
CREATE INDEX stripe_objects_by_payment ON private.stripe_objects USING btree (payment_intent_id) WHERE payment_intent_id IS NOT NULL;

-- Runs that compare what Stripe has with what is known of it here: where each stands and what it found.
create table private.stripe_reconciliations (
  id uuid not null default private.uuid7(),  -- Identifies the run.
  since timestamp with time zone not null,  -- It looks at what was made at Stripe from then on.
  status text not null default 'running'::text,  -- running, then completed; abandoned when it did not end within a day.
  object_type text,  -- Type of the objects at work; event for events.
  cursor text,  -- Last object of the last page that was done; null at the start of a type.
  compared bigint not null default 0,  -- Events and objects that were compared.
  missing integer not null default 0,  -- Those that were unknown here.
  differing integer not null default 0,  -- Those that were known in another state.
  unapplied integer not null default 0,  -- Those that were known, but not all of what follows from them.
  repaired integer not null default 0,  -- Findings that were repaired.
  skipped integer not null default 0,  -- Findings that turned out to be of no interest, or that an event repaired meanwhile.
  failed integer not null default 0,  -- Findings that could not be repaired.
  findings jsonb not null default '[]'::jsonb,  -- The first 200 findings: type, id, finding, outcome, error.
  started_at timestamp with time zone not null default now(),  -- When it began.
  updated_at timestamp with time zone not null default now(),  -- When the last page was done.
  finished_at timestamp with time zone,  -- When it ended.
  constraint stripe_reconciliations_pkey PRIMARY KEY (id),
  constraint a_running_one_is_at_something CHECK (status <> 'running'::text OR object_type IS NOT NULL),
  constraint a_running_one_is_unfinished CHECK ((status = 'running'::text) = (finished_at IS NULL)),
  constraint counts_are_not_negative CHECK (LEAST(compared, missing::bigint, differing::bigint, unapplied::bigint, repaired::bigint, skipped::bigint, failed::bigint) >= 0),
  constraint findings_are_a_bounded_list CHECK (jsonb_typeof(findings) = 'array'::text AND jsonb_array_length(findings) <= 200),
  constraint status_is_known CHECK (status = ANY (ARRAY['running'::text, 'completed'::text, 'abandoned'::text]))
);
CREATE UNIQUE INDEX stripe_reconciliations_run_one_at_a_time ON private.stripe_reconciliations USING btree ((true)) WHERE status = 'running'::text;
CREATE TRIGGER stripe_reconciliations_touch BEFORE UPDATE ON private.stripe_reconciliations FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();

-- Pages on which a subscription can be bought. At most one is open per owner, so nobody subscribes twice.
create table private.subscription_checkouts (
  id uuid not null default private.uuid7(),  -- Identifies the checkout; Stripe carries it as client_reference_id and in metadata.
  user_id uuid,  -- The user who would have the subscription; null for an organization's.
  organization_id uuid,  -- The organization that would have it; null for a user's.
  started_by uuid,  -- Who opened the page; null once erased.
  plan_id uuid not null,  -- The plan on offer.
  billing_interval text not null,  -- How often it would be paid: month or year.
  stripe_price_id text not null,  -- The price at Stripe.
  trial_days integer not null default 0,  -- Days of free trial it begins with.
  status text not null default 'open'::text,  -- open, then completed or expired.
  stripe_checkout_session_id text,  -- The checkout session at Stripe; null while it is being made.
  stripe_subscription_id text,  -- The subscription at Stripe that was bought; null until it is known.
  success_url text,  -- Where the page leads once it is paid: the same for every attempt to make it.
  cancel_url text,  -- Where it leads back to: the same for every attempt to make it.
  checkout_url text,  -- Where the buyer subscribes.
  checkout_expires_at timestamp with time zone,  -- Until when the page can be used, as far as is known: one that was replaced is ended at Stripe while this lies ahead.
  idempotency_key text,  -- The buyer's key for this checkout.
  created_at timestamp with time zone not null default now(),  -- When it was opened.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  constraint subscription_checkouts_pkey PRIMARY KEY (id),
  constraint a_checkout_has_one_owner CHECK (num_nonnulls(user_id, organization_id) = 1),
  constraint a_page_is_whole CHECK (num_nonnulls(stripe_checkout_session_id, checkout_url, checkout_expires_at) = ANY (ARRAY[0, 3])),
  constraint billing_interval_is_known CHECK (billing_interval = ANY (ARRAY['month'::text, 'year'::text])),
  constraint key_is_not_empty CHECK (length(idempotency_key) >= 1 AND length(idempotency_key) <= 255),
  constraint status_is_known CHECK (status = ANY (ARRAY['open'::text, 'completed'::text, 'expired'::text])),
  constraint trial_is_not_negative CHECK (trial_days >= 0),
  constraint subscription_checkouts_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE,
  constraint subscription_checkouts_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.plans(id),
  constraint subscription_checkouts_started_by_fkey FOREIGN KEY (started_by) REFERENCES public.profiles(id) ON DELETE SET NULL,
  constraint subscription_checkouts_stripe_price_id_fkey FOREIGN KEY (stripe_price_id) REFERENCES private.plan_prices(stripe_price_id),
  constraint subscription_checkouts_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.profiles(id) ON DELETE CASCADE,
  constraint subscription_checkouts_stripe_checkout_session_id_key UNIQUE (stripe_checkout_session_id)
);
CREATE INDEX subscription_checkouts_by_organization ON private.subscription_checkouts USING btree (organization_id);
CREATE INDEX subscription_checkouts_by_plan ON private.subscription_checkouts USING btree (plan_id);
CREATE INDEX subscription_checkouts_by_price ON private.subscription_checkouts USING btree (stripe_price_id);
CREATE INDEX subscription_checkouts_by_user ON private.subscription_checkouts USING btree (user_id);
CREATE UNIQUE INDEX subscription_checkouts_are_open_once_per_organization ON private.subscription_checkouts USING btree (organization_id) WHERE status = 'open'::text AND organization_id IS NOT NULL;
CREATE UNIQUE INDEX subscription_checkouts_are_open_once_per_user ON private.subscription_checkouts USING btree (user_id) WHERE status = 'open'::text AND user_id IS NOT NULL;
CREATE UNIQUE INDEX subscription_checkouts_have_one_key_per_buyer ON private.subscription_checkouts USING btree (started_by, idempotency_key);
CREATE TRIGGER subscription_checkouts_touch BEFORE UPDATE ON private.subscription_checkouts FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();

-- Work that must happen after a commit, written in the same transaction as its cause.
create table private.tasks (
  id uuid not null default private.uuid7(),  -- Identifies the task.
  kind text not null,  -- Which handler does it; functions/tasks/registry.py lists them.
  key text,  -- At most one unfinished task of a kind has this key; null for no such limit.
  payload jsonb not null default '{}'::jsonb,  -- What the handler needs to know, as a JSON object.
  status text not null default 'queued'::text,  -- queued, running, done, dead (given up, for an operator) or cancelled.
  priority integer not null default 100,  -- Lower goes first.
  run_after timestamp with time zone not null default now(),  -- Not started before this.
  attempts integer not null default 0,  -- Times it was started, the current one included.
  max_attempts integer not null default 8,  -- Attempts after which it is dead.
  lease_token uuid,  -- What the worker that has it must show.
  leased_until timestamp with time zone,  -- When the sweep may give it to another worker.
  leased_by text,  -- Name of the worker that has it.
  hold_id uuid,  -- The hold it works under: a lease extends it, a dead task releases it.
  tenant uuid,  -- The person or organization that it is done for, where those take turns; null for no turns.
  result jsonb,  -- What the handler returned.
  last_error text,  -- Why the last attempt failed, or why it was cancelled.
  created_at timestamp with time zone not null default now(),  -- When it was asked for.
  started_at timestamp with time zone,  -- When the latest attempt began.
  finished_at timestamp with time zone,  -- When it was done, died or was cancelled.
  updated_at timestamp with time zone not null default now(),  -- When anything in the row last changed.
  request_id uuid default private.request_id(),  -- The request or cron run that asked for it, as logs have it; null for what clients caused in the database.
  constraint tasks_pkey PRIMARY KEY (id),
  constraint a_dead_task_has_a_reason CHECK (status <> 'dead'::text OR last_error IS NOT NULL),
  constraint a_finished_task_says_when CHECK ((status = ANY (ARRAY['done'::text, 'dead'::text, 'cancelled'::text])) = (finished_at IS NOT NULL)),
  constraint a_queued_task_has_attempts_left CHECK (status <> 'queued'::text OR attempts < max_attempts),
  constraint a_running_task_has_a_lease_and_no_other_has CHECK (num_nonnulls(lease_token, leased_until, leased_by) =
CASE
    WHEN status = 'running'::text THEN 3
    ELSE 0
END),
  constraint a_running_task_has_started CHECK (status <> 'running'::text OR attempts > 0 AND started_at IS NOT NULL),
  constraint attempts_are_within_their_limit CHECK (attempts >= 0 AND attempts <= max_attempts),
  constraint key_is_not_empty CHECK (length(key) >= 1 AND length(key) <= 300),
  constraint kind_is_snake_case CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'::text),
  constraint last_error_is_short CHECK (length(last_error) >= 1 AND length(last_error) <= 2000),
  constraint max_attempts_is_between_1_and_100 CHECK (max_attempts >= 1 AND max_attempts <= 100),
  constraint only_a_done_task_has_a_result CHECK (result IS NULL OR status = 'done'::text),
  constraint payload_is_an_object CHECK (jsonb_typeof(payload) = 'object'::text),
  constraint status_is_known CHECK (status = ANY (ARRAY['queued'::text, 'running'::text, 'done'::text, 'dead'::text, 'cancelled'::text])),
  constraint worker_name_is_short CHECK (length(leased_by) >= 1 AND length(leased_by) <= 200),
  constraint tasks_hold_id_fkey FOREIGN KEY (hold_id) REFERENCES private.credit_holds(id)
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_insert_scale_factor=0.1);
CREATE INDEX tasks_by_hold ON private.tasks USING btree (hold_id) WHERE hold_id IS NOT NULL;
CREATE INDEX tasks_by_tenant ON private.tasks USING btree (tenant, kind, created_at) WHERE tenant IS NOT NULL;
CREATE INDEX tasks_to_claim ON private.tasks USING btree (kind, priority, run_after, id) WHERE status = 'queued'::text;
CREATE INDEX tasks_to_count ON private.tasks USING btree (kind) WHERE status = ANY (ARRAY['queued'::text, 'running'::text, 'dead'::text]);
CREATE INDEX tasks_to_purge ON private.tasks USING btree (finished_at) WHERE status = ANY (ARRAY['done'::text, 'cancelled'::text]);
CREATE INDEX tasks_to_sweep ON private.tasks USING btree (leased_until) WHERE status = 'running'::text;
CREATE UNIQUE INDEX tasks_have_one_key_while_unfinished ON private.tasks USING btree (kind, key) WHERE key IS NOT NULL AND (status = ANY (ARRAY['queued'::text, 'running'::text]));
CREATE TRIGGER crawls_end_with_their_task AFTER UPDATE OF status ON private.tasks FOR EACH ROW WHEN (new.kind = 'library_crawl'::text AND (new.status = ANY (ARRAY['dead'::text, 'cancelled'::text])) AND old.status <> new.status) EXECUTE FUNCTION private.end_crawl_of_task();
CREATE TRIGGER generations_end_with_their_task AFTER UPDATE OF status ON private.tasks FOR EACH ROW WHEN (new.kind = 'image_generate'::text AND (new.status = ANY (ARRAY['dead'::text, 'cancelled'::text])) AND old.status <> new.status) EXECUTE FUNCTION private.end_generation_of_task();
CREATE TRIGGER indexes_end_with_their_task AFTER UPDATE OF status ON private.tasks FOR EACH ROW WHEN (new.kind = 'document_index'::text AND (new.status = ANY (ARRAY['dead'::text, 'cancelled'::text])) AND old.status <> new.status) EXECUTE FUNCTION private.end_index_of_task();
CREATE TRIGGER tasks_touch_updated_at BEFORE UPDATE ON private.tasks FOR EACH ROW EXECUTE FUNCTION private.touch_updated_at();

-- What is on the public images of the last days, as far as enough different people drew it.
create materialized view private.community_trends as
 WITH seen AS MATERIALIZED (
         SELECT i.id,
            i.user_id,
            i.nsfw_score,
            i.style_tags,
            i.color_palette,
            l.subject
           FROM public.generated_images i
             CROSS JOIN LATERAL ( SELECT DISTINCT u.subject
                   FROM unnest(i.vision_labels) u(subject)) l
          WHERE i.is_public AND i.id >= private.uuid7_floor(now() - make_interval(days => private.setting('trends_days'::text)::integer))
        ), trends AS (
         SELECT s.subject,
            count(*) AS usage_count,
            avg(s.nsfw_score) AS avg_nsfw_score
           FROM seen s
          GROUP BY s.subject
         HAVING count(*) > 5 AND count(DISTINCT s.user_id) >= private.setting('trends_min_users'::text)::integer
        ), styles AS (
         SELECT s.subject,
            t_1.tag,
            row_number() OVER (PARTITION BY s.subject ORDER BY (count(*)) DESC, t_1.tag) AS place
           FROM seen s
             JOIN trends d ON s.subject = d.subject
             CROSS JOIN LATERAL unnest(s.style_tags) t_1(tag)
          GROUP BY s.subject, t_1.tag
         HAVING count(DISTINCT s.user_id) >= private.setting('trends_min_users'::text)::integer
        ), colors AS (
         SELECT s.subject,
            c_1.color,
            row_number() OVER (PARTITION BY s.subject ORDER BY (count(*)) DESC, c_1.color) AS place
           FROM seen s
             JOIN trends d ON s.subject = d.subject
             CROSS JOIN LATERAL unnest(s.color_palette) c_1(color)
          GROUP BY s.subject, c_1.color
         HAVING count(DISTINCT s.user_id) >= private.setting('trends_min_users'::text)::integer
        )
 SELECT t.subject,
    t.usage_count,
    t.avg_nsfw_score,
    COALESCE(y.tags, '{}'::text[]) AS common_styles,
    COALESCE(c.colors, '{}'::text[]) AS color_trends
   FROM trends t
     LEFT JOIN ( SELECT styles.subject,
            array_agg(styles.tag ORDER BY styles.place) AS tags
           FROM styles
          WHERE styles.place <= 10
          GROUP BY styles.subject) y ON t.subject = y.subject
     LEFT JOIN ( SELECT colors.subject,
            array_agg(colors.color ORDER BY colors.place) AS colors
           FROM colors
          WHERE colors.place <= 10
          GROUP BY colors.subject) c ON t.subject = c.subject;
CREATE INDEX community_trends_by_count ON private.community_trends USING btree (usage_count DESC);
CREATE UNIQUE INDEX community_trends_have_one_row_per_subject ON private.community_trends USING btree (subject);

-- What each person has drawn: prompts, images, and what is most often on them.
create materialized view private.user_generation_stats as
 WITH drawn AS (
         SELECT i.user_id,
            count(DISTINCT i.generation_id) AS total_prompts,
            count(*) AS total_images,
            avg(i.nsfw_score) AS avg_nsfw_score
           FROM public.generated_images i
          WHERE i.user_id IS NOT NULL
          GROUP BY i.user_id
        ), styles AS (
         SELECT i.user_id,
            t.tag,
            row_number() OVER (PARTITION BY i.user_id ORDER BY (count(*)) DESC, t.tag) AS place
           FROM public.generated_images i
             CROSS JOIN LATERAL unnest(i.style_tags) t(tag)
          WHERE i.user_id IS NOT NULL
          GROUP BY i.user_id, t.tag
        ), subjects AS (
         SELECT i.user_id,
            l_1.label,
            row_number() OVER (PARTITION BY i.user_id ORDER BY (count(*)) DESC, l_1.label) AS place
           FROM public.generated_images i
             CROSS JOIN LATERAL unnest(i.vision_labels) l_1(label)
          WHERE i.user_id IS NOT NULL
          GROUP BY i.user_id, l_1.label
        )
 SELECT d.user_id,
    d.total_prompts,
    d.total_images,
    d.avg_nsfw_score,
    COALESCE(s.tags, '{}'::text[]) AS preferred_styles,
    COALESCE(l.labels, '{}'::text[]) AS common_subjects
   FROM drawn d
     LEFT JOIN ( SELECT styles.user_id,
            array_agg(styles.tag ORDER BY styles.place) AS tags
           FROM styles
          WHERE styles.place <= 10
          GROUP BY styles.user_id) s ON d.user_id = s.user_id
     LEFT JOIN ( SELECT subjects.user_id,
            array_agg(subjects.label ORDER BY subjects.place) AS labels
           FROM subjects
          WHERE subjects.place <= 10
          GROUP BY subjects.user_id) l ON d.user_id = l.user_id;
CREATE UNIQUE INDEX user_generation_stats_have_one_row_per_person ON private.user_generation_stats USING btree (user_id);

-- On auth.users, which is the platform's.
CREATE TRIGGER profile_follows_auth AFTER UPDATE OF email, email_confirmed_at, last_sign_in_at ON auth.users FOR EACH ROW WHEN (old.email::text IS DISTINCT FROM new.email::text OR old.email_confirmed_at IS DISTINCT FROM new.email_confirmed_at OR old.last_sign_in_at IS DISTINCT FROM new.last_sign_in_at) EXECUTE FUNCTION private.follow_auth_change();
CREATE TRIGGER profile_is_made_at_sign_up AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION private.follow_auth_change();

-- On storage.objects, which is the platform's.
CREATE POLICY "Users put in images to begin from" FOR INSERT TO authenticated WITH CHECK bucket_id = 'images'::text AND (storage.foldername(name))[1] = ((( SELECT private.active_user_id() AS active_user_id))::text) AND (storage.foldername(name))[2] = 'inputs'::text;
CREATE POLICY "Users put in the files of their new documents" FOR INSERT TO authenticated WITH CHECK bucket_id = 'documents'::text AND (EXISTS ( SELECT FROM public.documents d WHERE d.storage_path = objects.name AND d.state = 'uploading'::text AND d.user_id = (( SELECT private.active_user_id() AS active_user_id))));
CREATE POLICY "Users read the files of documents that they read" FOR SELECT TO authenticated USING bucket_id = 'documents'::text AND (EXISTS ( SELECT FROM public.documents d WHERE d.storage_path = objects.name));
CREATE POLICY "Users read the files of images that they read" FOR SELECT TO authenticated USING bucket_id = 'images'::text AND ((EXISTS ( SELECT FROM public.generated_images i WHERE i.storage_path = objects.name)) OR (EXISTS ( SELECT FROM public.generated_images i WHERE i.thumbnail_path = objects.name)) OR (storage.foldername(name))[1] = ((( SELECT private.active_user_id() AS active_user_id))::text) AND (storage.foldername(name))[2] = 'inputs'::text);
CREATE POLICY "Users take out images to begin from" FOR DELETE TO authenticated USING bucket_id = 'images'::text AND (storage.foldername(name))[1] = ((( SELECT private.active_user_id() AS active_user_id))::text) AND (storage.foldername(name))[2] = 'inputs'::text;

-- What Realtime tells of.
ALTER PUBLICATION supabase_realtime ADD TABLE public.agents;
ALTER PUBLICATION supabase_realtime ADD TABLE public.api_keys;
ALTER PUBLICATION supabase_realtime ADD TABLE public.api_usage;
ALTER PUBLICATION supabase_realtime ADD TABLE public.auto_top_ups;
ALTER PUBLICATION supabase_realtime ADD TABLE public.billing_alerts;
ALTER PUBLICATION supabase_realtime ADD TABLE public.conversations;
ALTER PUBLICATION supabase_realtime ADD TABLE public.credit_accounts;
ALTER PUBLICATION supabase_realtime ADD TABLE public.credit_lots;
ALTER PUBLICATION supabase_realtime ADD TABLE public.credit_packs;
ALTER PUBLICATION supabase_realtime ADD TABLE public.credit_purchases;
ALTER PUBLICATION supabase_realtime ADD TABLE public.credit_transactions;
ALTER PUBLICATION supabase_realtime ADD TABLE public.documents;
ALTER PUBLICATION supabase_realtime ADD TABLE public.generated_images;
ALTER PUBLICATION supabase_realtime ADD TABLE public.image_analysis;
ALTER PUBLICATION supabase_realtime ADD TABLE public.image_generations;
ALTER PUBLICATION supabase_realtime ADD TABLE public.invoices;
ALTER PUBLICATION supabase_realtime ADD TABLE public.libraries;
ALTER PUBLICATION supabase_realtime ADD TABLE public.library_versions;
ALTER PUBLICATION supabase_realtime ADD TABLE public.messages;
ALTER PUBLICATION supabase_realtime ADD TABLE public.model_providers;
ALTER PUBLICATION supabase_realtime ADD TABLE public.models;
ALTER PUBLICATION supabase_realtime ADD TABLE public.organization_invitations;
ALTER PUBLICATION supabase_realtime ADD TABLE public.organization_members;
ALTER PUBLICATION supabase_realtime ADD TABLE public.organizations;
ALTER PUBLICATION supabase_realtime ADD TABLE public.payment_methods;
ALTER PUBLICATION supabase_realtime ADD TABLE public.payments;
ALTER PUBLICATION supabase_realtime ADD TABLE public.plans;
ALTER PUBLICATION supabase_realtime ADD TABLE public.profiles;
ALTER PUBLICATION supabase_realtime ADD TABLE public.prompt_suggestions;
ALTER PUBLICATION supabase_realtime ADD TABLE public.provider_key_uses;
ALTER PUBLICATION supabase_realtime ADD TABLE public.provider_keys;
ALTER PUBLICATION supabase_realtime ADD TABLE public.subscriptions;
ALTER PUBLICATION supabase_realtime ADD TABLE public.user_favorites;
ALTER PUBLICATION supabase_realtime ADD TABLE public.user_model_preferences;
ALTER PUBLICATION supabase_realtime ADD TABLE public.user_preferences;
ALTER PUBLICATION supabase_realtime ADD TABLE public.webhook_deliveries;
ALTER PUBLICATION supabase_realtime ADD TABLE public.webhook_endpoints;

-- Who asks, for whom, and by which key: the person (null for an organization's key), the organization that pays (null: the person), the key (null: signed in).
create type private.caller as (user_id uuid, organization_id uuid, api_key_id uuid);

-- A model that may answer, who serves it, the customer's sealed keys for that, whether those may be used, and whether credits may.
create type private.candidate as (model public.models, provider text, own_keys jsonb, is_own boolean, is_platform boolean);

-- What a completion may use and cost: tokens per choice and credits at most, tokens that the plan has to have left, and the prices.
create type private.chat_terms as (max_tokens integer, amount numeric, tokens bigint, terms jsonb);

-- How much room a payer has left: credits, budgets, and what the plan allows. Null means unlimited.
create type private.hold_limits as (available numeric, debt numeric, account_budget_left numeric, member_budget_left numeric, api_key_id uuid, api_key_budget_left numeric, plan text, requests_per_minute integer, concurrent_requests integer, requests_left bigint, tokens_left bigint);

-- A prompt that a source offers, how alike it is to what was typed (1 where nothing was), and its place among those of its source.
create type private.offered_prompt as (source_type text, base_prompt text, suggested_prompt text, similarity double precision, place bigint, metadata jsonb);

-- What the predicates of private.personal_tables are filled in with, $1 to $4.
create type private.person_scope as (user_id uuid, organization_ids uuid[], account_ids uuid[], emails text[]);

-- What a model is asked: which models may answer, how many tokens an agent wishes for, parameters, the messages and what they weigh, and the passages that are among them.
create type private.prompt as (models text[], wish integer, parameters jsonb, messages jsonb, bound integer, estimate integer, citations jsonb);

-- A chunk that was found, how well, and at which place by words and by meaning.
create type private.search_hit as (chunk_id uuid, score double precision, text_place bigint, vector_place bigint);

-- A word of a question: how it is looked for, how much it counts, and how many chunks have it.
create type private.search_term as (query tsquery, word text, is_prefix boolean, weight double precision, chunks bigint);

-- What a message is answered from: whether there is anything, which documents it named itself, which are searched (null: all), for what, and the model of most of their vectors.
create type private.sources as (is_searched boolean, documents jsonb, ids uuid[], question text, embedding_model text);

-- What is added to a row of api_usage, or taken from it: its key, and the differences.
create type private.usage_change as (account_id uuid, period_start timestamp with time zone, user_id uuid, organization_id uuid, api_key_id uuid, provider_key_id uuid, provider text, model_id text, action text, credential text, request_count bigint, cancelled_count bigint, failed_count bigint, prompt_tokens bigint, completion_tokens bigint, cached_tokens bigint, credits numeric, credits_refunded numeric, cost_estimate numeric);

-- Credits for an ad that was watched, once per transaction and at most daily_ads_limit a day (UTC): granted, duplicate, limit, refused (nobody, or suspended), foreign (not our ad unit).
create function backend.ad_reward(p_transaction_id text, p_ad_unit text, p_viewer_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- ffb6965afbe6347c
  grant execute to service_role;

-- Shows people who have watched no ad today (UTC) that they have not.
create function backend.ads_reset(p_limit integer DEFAULT 1000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 818cafff4c9e448a
  grant execute to service_role;

-- Makes an agent for a person or an API key.
create function backend.agent_create(p_values jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 1f3078fb60782582
  grant execute to service_role;

-- Deletes an agent for those who may change it.
create function backend.agent_delete(p_agent_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 2b0efc8fd74d1702
  grant execute to service_role;

-- Public agents, for anybody who is signed in.
create function backend.agent_find(p_query text DEFAULT NULL::text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- b420cccc2c0f656f
  grant execute to service_role;

-- Agents of a person, or of an organization.
create function backend.agent_list(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- ef219e8d068cf382
  grant execute to service_role;

-- One agent the caller may use; its system prompt only for those who may change it. 404 agent_not_found.
create function backend.agent_read(p_agent_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 824b7a9fa9fb3ebf
  grant execute to service_role;

-- Changes an agent for its author, an admin of its organization, or that organization's key.
create function backend.agent_update(p_agent_id uuid, p_changes jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- e8f65dc528391fc9
  grant execute to service_role;

-- Deletes up to p_limit read alerts that are older than alert_days; {"count": deleted}.
create function backend.alerts_purge(p_limit integer DEFAULT 1000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4336ee31a61b623b
  grant execute to service_role;

-- Tells of up to p_limit invoices that have fallen due and subscriptions about to end; {"count": told}.
create function backend.alerts_scan(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 24202c531024cf7c
  grant execute to service_role;

-- Counts a request of a person that will ask Stripe something; 429 rate_limited beyond billing_requests_per_minute, 403 account_suspended.
create function backend.billing_request(p_user_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 21d0b515b0b93bfa
  grant execute to service_role;

-- Keeps the hold of a long answer alive.
create function backend.chat_extend(p_hold_id uuid, p_seconds integer) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 580c8cfbd182829f
  grant execute to service_role;

-- The model gave no answer: returns the hold, charges nothing, and lets the Idempotency-Key run again. An answer that said nothing (p_is_answered) stays one of the month's requests.
create function backend.chat_fail(p_hold_id uuid, p_error_code text, p_latency_ms integer DEFAULT NULL::integer, p_is_answered boolean DEFAULT false, p_key_uses jsonb DEFAULT NULL::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e03d5a0bfc0bd549
  grant execute to service_role;

-- After the model has answered: charges what was used at the prices of the model that did (p_model; the first), of which only byok_fee_percent where an own key paid (p_credential), at most what was held, once; finalizes the usage row; records what became of own keys (p_key_uses); stores the answer of the Idempotency-Key.
create function backend.chat_finish(p_hold_id uuid, p_prompt_tokens integer, p_completion_tokens integer, p_cached_tokens integer DEFAULT 0, p_outcome text DEFAULT 'completed'::text, p_usage_source text DEFAULT 'upstream'::text, p_latency_ms integer DEFAULT NULL::integer, p_first_token_ms integer DEFAULT NULL::integer, p_answer jsonb DEFAULT NULL::jsonb, p_model text DEFAULT NULL::text, p_credential text DEFAULT NULL::text, p_provider_key_id uuid DEFAULT NULL::uuid, p_key_uses jsonb DEFAULT NULL::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 05c5648279fcc995
  grant execute to service_role;

-- Models for chat and embeddings that whoever pays (the caller, or the organization named) can use: by credits, or by keys of their own, those of their own servers included; with windows and prices. 403 account_suspended.
create function backend.chat_models(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 2fb9d1a660a9c3b5
  grant execute to service_role;

-- Forgets Idempotency-Keys past their time, with the answers stored under them.
create function backend.chat_purge(p_limit integer DEFAULT 1000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e6c67aefadae0e76
  grant execute to service_role;

-- What a completion would cost at most and whether the payer affords it; holds nothing.
create function backend.chat_quote(p_model text, p_prompt_tokens integer, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_fallbacks text[] DEFAULT '{}'::text[], p_max_tokens integer DEFAULT NULL::integer, p_choices integer DEFAULT 1, p_organization text DEFAULT NULL::text, p_prompt_estimate integer DEFAULT NULL::integer, p_credential text DEFAULT 'auto'::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 3fb8cb602ea71db0
  grant execute to service_role;

-- Before the model is called: checks who asks and every limit, fixes the price, holds the worst case, starts the usage row; or returns the stored answer of the same Idempotency-Key. The caller is a person or an API key's hash; p_fallbacks are tried when the model does not answer; p_credential says who may pay.
create function backend.chat_start(p_request_id uuid, p_model text, p_prompt_tokens integer, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_fallbacks text[] DEFAULT '{}'::text[], p_max_tokens integer DEFAULT NULL::integer, p_choices integer DEFAULT 1, p_organization text DEFAULT NULL::text, p_stream boolean DEFAULT false, p_idempotency_key text DEFAULT NULL::text, p_fingerprint text DEFAULT NULL::text, p_ip text DEFAULT NULL::text, p_user_agent text DEFAULT NULL::text, p_prompt_estimate integer DEFAULT NULL::integer, p_credential text DEFAULT 'auto'::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0d3463ca4375d928
  grant execute to service_role;

-- Stores the checkout session of a purchase; 409 pack_price_mismatch when Stripe would charge anything but the purchase's price.
create function backend.checkout_attach(p_purchase_id uuid, p_session_id text, p_url text, p_expires_at timestamp with time zone, p_amount_total bigint, p_currency text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a67bab65eb69d000
  grant execute to service_role;

-- Opens a purchase of a pack for a user, or for an organization they administer (403 not_an_admin); 404 pack_not_found, 409 currency_mismatch. Same key, same purchase.
create function backend.checkout_start(p_user_id uuid, p_pack text, p_organization text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_currency text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 77885306994afb18
  grant execute to service_role;

-- Begins a conversation for a person or an API key.
create function backend.conversation_create(p_values jsonb DEFAULT '{}'::jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 6724fbbd8bd7ef58
  grant execute to service_role;

-- Deletes a conversation, to be purged after the retention.
create function backend.conversation_delete(p_conversation_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a3ddab31b1dbe8b1
  grant execute to service_role;

-- Conversations the caller reads, newest activity first, by status, organization and words.
create function backend.conversation_list(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_status text DEFAULT 'active'::text, p_query text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after text DEFAULT NULL::text) returns jsonb
  sql, stable, security definer, set search_path="";  -- a30766f18e00bb0c
  grant execute to service_role;

-- The branch of a conversation that is shown, page by page from its end.
create function backend.conversation_messages(p_conversation_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_before uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 2026edf6ae84e2e8
  grant execute to service_role;

-- Deletes conversations past their retention for good, with their messages.
create function backend.conversation_purge(p_limit integer DEFAULT 100) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 234269e29864a7d2
  grant execute to service_role;

-- One conversation; 404 conversation_not_found.
create function backend.conversation_read(p_conversation_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  sql, stable, security definer, set search_path="";  -- c73d6818dfceb5c1
  grant execute to service_role;

-- Brings a deleted conversation back, until it is purged.
create function backend.conversation_restore(p_conversation_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 43be432114d33ecd
  grant execute to service_role;

-- Renames, archives, restores, shares a conversation, changes who answers in it, or shows another branch.
create function backend.conversation_update(p_conversation_id uuid, p_changes jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5c5b1f0a2fe6e287
  grant execute to service_role;

-- Archives conversations without a message for conversation_archive_days. Whoever reads them makes them active again.
create function backend.conversations_archive(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 19917585372e00f9
  grant execute to service_role;

-- Balance of a user or an organization.
create function backend.credit_balance(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- b7f6699af6db48d3
  grant execute to service_role;

-- Expires lots past their date.
create function backend.credit_expire(p_limit integer DEFAULT 500) returns jsonb
  sql, volatile, security definer, set search_path="";  -- b951afee8d4fb641
  grant execute to service_role;

-- Keeps a hold alive while its work goes on.
create function backend.credit_extend(p_hold_id uuid, p_seconds integer) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 580c8cfbd182829f
  grant execute to service_role;

-- An operator grants credits; leaves an audit row. The key is kept as operator:KEY.
create function backend.credit_grant(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid, p_amount numeric DEFAULT NULL::numeric, p_source text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority integer DEFAULT 100, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a3589e2d2b4fb7f6
  grant execute to service_role;

-- Reserves credits before work starts.
create function backend.credit_hold(p_user_id uuid, p_organization_id uuid, p_amount numeric, p_idempotency_key text, p_action text, p_seconds integer DEFAULT NULL::integer, p_tokens bigint DEFAULT 0) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- ea97b66665135309
  grant execute to service_role;

-- Returns holds past their deadline.
create function backend.credit_reap(p_limit integer DEFAULT 500) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 2f5d0a28365a77d1
  grant execute to service_role;

-- Gives back part or all of a settlement.
create function backend.credit_refund(p_hold_id uuid, p_amount numeric, p_idempotency_key text, p_reason text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 11f3040eaf027ab3
  grant execute to service_role;

-- Returns a hold without a charge.
create function backend.credit_release(p_hold_id uuid, p_reason text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 1dcb270d81f6b1f2
  grant execute to service_role;

-- Charges what the work cost.
create function backend.credit_settle(p_hold_id uuid, p_amount numeric) returns jsonb
  sql, volatile, security definer, set search_path="";  -- e9a1479125af144a
  grant execute to service_role;

-- Ledger of a user or an organization.
create function backend.credit_statement(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 50, p_before bigint DEFAULT NULL::bigint) returns jsonb
  sql, stable, security definer, set search_path="";  -- 347c65ff45560f0c
  grant execute to service_role;

-- Leases the jobs that are due, out of {name: seconds between runs}, to a worker: each once per interval.
create function backend.cron_claim(p_intervals jsonb, p_worker text, p_lease_seconds integer DEFAULT 600) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0913a9699f9b7d10
  grant execute to service_role;

-- Records the end of a run: the rows it changed, or why it failed; a failed one is due again within five minutes.
create function backend.cron_finish(p_name text, p_lease_token uuid, p_count bigint, p_error text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 840c6135d01031ac
  grant execute to service_role;

-- Prolongs the lease of a job that goes on, never shortens it. 409 lease_lost.
create function backend.cron_renew(p_name text, p_lease_token uuid, p_lease_seconds integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5ae8203d50ff9f85
  grant execute to service_role;

-- Runs of periodic jobs, or of one, newest first.
create function backend.cron_run_list(p_job text DEFAULT NULL::text, p_limit integer DEFAULT 50) returns jsonb
  sql, stable, security definer, set search_path="";  -- 2eeed53fa40c244c
  grant execute to service_role;

-- Deletes runs of periodic jobs past their retention.
create function backend.cron_runs_purge(p_limit integer DEFAULT 5000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7c156c6063eb6292
  grant execute to service_role;

-- Starts a job for an operator, due or not. 409 cron_job_running while another run has it.
create function backend.cron_start(p_name text, p_interval_seconds integer, p_worker text, p_lease_seconds integer DEFAULT 600) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 07b09ecd6be56eb0
  grant execute to service_role;

-- Every periodic job: when it last ran, with what result, and when it is due.
create function backend.cron_status() returns jsonb
  sql, stable, security definer, set search_path="";  -- 6169666eb40a989c
  grant execute to service_role;

-- Stores the customer that was created at Stripe; the first one stays, and is what every caller gets back.
create function backend.customer_attach(p_claim_id uuid, p_customer_id text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5a3e2c0643c7e647
  grant execute to service_role;

-- The Stripe customer of an organization, else of the user; where there is none yet, what to create it with: the same for every caller until it exists.
create function backend.customer_claim(p_user_id uuid, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2eb7ac7cf650b4c7
  grant execute to service_role;

-- For operators: how the database is set up, as facts that `quernel doctor` judges. Holds no secret.
create function backend.deployment_report() returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 1c58e9d6a650bba8
  grant execute to service_role;

-- Adds a document (an API key needs the scope documents): where its file goes is storage_path of the answer. 402 plan_limit_reached, 400 document_too_large, document_type_unknown.
create function backend.document_add(p_values jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5fbf496fea28fb80
  grant execute to service_role;

-- Begins to index a document, anew: everything that a worker needs to know; null where there is nothing to do any more.
create function backend.document_begin(p_id uuid, p_embedding_model text DEFAULT NULL::text, p_dimensions integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7ced018b5c52f2e1
  grant execute to service_role;

-- Puts chunks of a document that is being indexed: {chunk_index, page, headings, content, token_count, flags, metadata, embedding}, at most 2,000. Idempotent by chunk_index. 409 document_not_indexing, 404, 400 document_too_large.
create function backend.document_chunks_put(p_id uuid, p_chunks jsonb, p_progress integer DEFAULT NULL::integer, p_attempt integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=5min;  -- 7cbddfb25c3bc412
  grant execute to service_role;

-- Deletes a document with its chunks; its file is deleted from Storage afterwards. 404 document_not_found.
create function backend.document_delete(p_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 19512f8b7589c501
  grant execute to service_role;

-- Ends an index that cannot be made: why, for people; what an attempt says that is not the latest is not heard. A file that nobody should have is deleted.
create function backend.document_fail(p_id uuid, p_error_code text, p_error_message text, p_is_file_deleted boolean DEFAULT false, p_attempt integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4f175d30f822e0ee
  grant execute to service_role;

-- Ends an index well: the document is searched from now on. 409 document_not_indexing, 404 document_not_found.
create function backend.document_finish(p_id uuid, p_page_count integer DEFAULT NULL::integer, p_attempt integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e17b3e836b364bb5
  grant execute to service_role;

-- Documents of a person, or of the organization they name, newest first; next is the p_after of the next page.
create function backend.document_list(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 26562918b2a1d30e
  grant execute to service_role;

-- A document; 404 document_not_found.
create function backend.document_read(p_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4091db874c88a96c
  grant execute to service_role;

-- Passages for a question, of what the caller may read: their own documents and those of their organizations, or those of one that they name; ids only narrow it. With its usage row; p_client: ip, user_agent, spent_ms.
create function backend.document_search(p_query text, p_document_ids uuid[] DEFAULT NULL::uuid[], p_tokens integer DEFAULT NULL::integer, p_embedding jsonb DEFAULT NULL::jsonb, p_embedding_model text DEFAULT NULL::text, p_flagged text DEFAULT 'down'::text, p_limit integer DEFAULT 20, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_client jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bea34a5ace9b546d
  grant execute to service_role;

-- Counts a search of documents against the limits of an API key, and says with which model a vector of the question is made for document_search(); null for none. 429 rate_limited.
create function backend.document_search_begin(p_document_ids uuid[] DEFAULT NULL::uuid[], p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 87c6803e941bd8d2
  grant execute to service_role;

-- Says that the file of a document is in Storage, and has it indexed, or indexed again. 409 document_not_uploaded, 404 document_not_found, 429 rate_limited.
create function backend.document_uploaded(p_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2bd130f5fa6856b9
  grant execute to service_role;

-- Deletes documents whose file never came.
create function backend.documents_expire(p_limit integer DEFAULT 200) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a702110469696f1a
  grant execute to service_role;

-- Begins an attempt to send an email: status queued with address, name, language, template and facts as they are now; or why there is nothing to send (sent already, suppressed). An invitation gets a new token for its email.
create function backend.email_prepare(p_delivery_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 32b3b759dca36cf9
  grant execute to service_role;

-- Records how an attempt ended: sent, failed for good, suppressed, or queued to be tried again, which is failed when it was the last.
create function backend.email_report(p_delivery_id uuid, p_status text, p_reason text DEFAULT NULL::text, p_reply text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0080e73e19647680
  grant execute to service_role;

-- Before texts are embedded: checks who asks (an API key needs the scope chat) and every limit, fixes the price, holds the bound of their tokens, starts the usage row. p_credential says who may pay. The same request again: the same hold.
create function backend.embedding_start(p_request_id uuid, p_model text, p_prompt_tokens integer, p_inputs integer DEFAULT 1, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_ip text DEFAULT NULL::text, p_user_agent text DEFAULT NULL::text, p_prompt_estimate integer DEFAULT NULL::integer, p_credential text DEFAULT 'auto'::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9406054e75c8befc
  grant execute to service_role;

-- Begins the execution of an erasure that is due, or goes on with it: the person is suspended, what is theirs is noted. {user_id, customers: ids at Stripe}; null when there is nothing to do.
create function backend.erasure_begin(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a59181fe2ab081f2
  grant execute to service_role;

-- Cancels an erasure within its grace period; everything is as it was. 404 erasure_not_found, 409 erasure_started.
create function backend.erasure_cancel(p_user_id uuid, p_actor text DEFAULT NULL::text, p_reason text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 3574a692e97c8306
  grant execute to service_role;

-- Deletes what named the person until now and counts what is left. {state: done}, or {state: executing, waits_for: table}, which has something left.
create function backend.erasure_finish(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=600s;  -- 895acdabcdedc8bc
  grant execute to service_role;

-- Up to p_limit objects of Storage that go with the person: {objects: [{bucket, paths}]}. They are deleted through the Storage API.
create function backend.erasure_objects(p_id uuid, p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7363fc42e34a5cd8
  grant execute to service_role;

-- Asks for the erasure of a person, for themselves or (p_actor) by an operator, after erasure_grace_days or p_grace_days; asked again, the same. 409 organization_needs_an_owner while they are the only owner of an organization with other members; 404 user_not_found.
create function backend.erasure_request(p_user_id uuid, p_actor text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_grace_days integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6d29e0b61a84ec64
  grant execute to service_role;

-- The latest request of a person to be erased; 404 erasure_not_found.
create function backend.erasure_status(p_user_id uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 985423ea4f4ef313
  grant execute to service_role;

-- Erases up to p_limit rows of the first table from p_position on that has any: {position, count}, to be called again with that position; position null when no step has anything left to do.
create function backend.erasure_step(p_id uuid, p_position integer DEFAULT 0, p_limit integer DEFAULT 200) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=60s;  -- 51834899c3c4d04d
  grant execute to service_role;

-- Has workers execute the erasures whose grace period is over, and go on with those that waited for something; {"count": tasks}.
create function backend.erasures_due(p_limit integer DEFAULT 100) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0221078ef8ce30c4
  grant execute to service_role;

-- Keeps all that one look at an image found: each analysis (type, version, raw) as it came, and their summary with the image, of which a score that is there stays.
create function backend.image_analysed(p_image_id uuid, p_analyses jsonb, p_summary jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 12d7bc0e939c054a
  grant execute to service_role;

-- What a worker needs to look at an image: where its bytes lie, and what was found in it already; null where it is gone.
create function backend.image_analysis_begin(p_image_id uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- b822f67aa6d24ee0
  grant execute to service_role;

-- Begins an attempt: everything that a worker needs to know; null where there is nothing to do any more.
create function backend.image_begin(p_id uuid, p_functions_url text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5b1f9c50aa95ce7d
  grant execute to service_role;

-- Calls a generation off; 404 generation_not_found, 409 generation_ended.
create function backend.image_cancel(p_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 58d4c3a3d76a5104
  grant execute to service_role;

-- Deletes an image, with its object, thumbnail, analysis and favorites; 404 image_not_found.
create function backend.image_delete(p_image_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- d719401943967203
  grant execute to service_role;

-- Ends a generation that cannot be made: nothing is charged.
create function backend.image_fail(p_id uuid, p_error_code text, p_error_message text, p_key_uses jsonb DEFAULT NULL::jsonb, p_latency_ms integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 11d029bf83453bf9
  grant execute to service_role;

-- Ends a generation well: its images, their charge and the news, in one transaction. One that was called off meanwhile: its state, and nothing else.
create function backend.image_finish(p_id uuid, p_images jsonb, p_credential text, p_provider_key_id uuid DEFAULT NULL::uuid, p_key_uses jsonb DEFAULT NULL::jsonb, p_latency_ms integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 58fe1dffa8a6de11
  grant execute to service_role;

-- Generations of the caller, or of an organization that they asked for, newest first; p_before is the last id of the page before.
create function backend.image_list(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_limit integer DEFAULT 20, p_before uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- b8a809b9c19a092d
  grant execute to service_role;

-- Records what became of own keys in an attempt that another one follows.
create function backend.image_note_key_uses(p_id uuid, p_key_uses jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0040da2cd9caf7a9
  grant execute to service_role;

-- Where the bytes of an image lie, for its owner and, while it is public, for everybody; counts that it was fetched. 404 image_not_found.
create function backend.image_open(p_image_id uuid, p_is_thumbnail boolean DEFAULT false, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2dfbeaf060ce9550
  grant execute to service_role;

-- Notes how far the work is, in per cent; whether it is still wanted.
create function backend.image_progress(p_id uuid, p_progress integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7c88b6fde92a8ff1
  grant execute to service_role;

-- A generation and its images; 404 generation_not_found.
create function backend.image_read(p_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 288827778e7f9b22
  grant execute to service_role;

-- Asks for images, for a person or an API key (scope images); the same Idempotency-Key again: the generation it began.
create function backend.image_start(p_values jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c459fcfb9888641a
  grant execute to service_role;

-- Archives images that nobody fetched for image_archive_days and that are neither favourites nor public.
create function backend.images_archive(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- f7755cb9276a93ca
  grant execute to service_role;

-- Gives up generations past their deadline, and returns what was held for them.
create function backend.images_expire(p_limit integer DEFAULT 200) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1c923b99526856e9
  grant execute to service_role;

-- Has a worker refresh what is reckoned from images, where there is something new: it may take minutes.
create function backend.insights_enqueue() returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 833316a45365cad0
  grant execute to service_role;

-- Refreshes what is reckoned from images, where there is something new or a day has passed; readers are not held up.
create function backend.insights_refresh() returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=10min;  -- 576258744aa2b2a8
  grant execute to service_role;

-- Proves invariants whose time has come, or one of them now: how many, and which do not hold or could not be asked.
create function backend.invariants_prove(p_limit integer DEFAULT 1, p_name text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=10min;  -- 8a952ada3ca988cf
  grant execute to service_role;

-- Which invariants do not hold, as of their latest proof, with the first ten rows of each; and how many were proved.
create function backend.invariants_status() returns jsonb
  sql, stable, security definer, set search_path="";  -- d641e352849786c4
  grant execute to service_role;

-- An operator records an invoice that is not Stripe's, once per provider and number, open until payments of it are recorded; leaves an audit row. The amount includes the tax. 404 plan_not_found, 409 idempotency_conflict when it was recorded otherwise.
create function backend.invoice_record(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid, p_provider text DEFAULT 'manual'::text, p_number text DEFAULT NULL::text, p_amount_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_tax_minor bigint DEFAULT 0, p_plan text DEFAULT NULL::text, p_period_start timestamp with time zone DEFAULT NULL::timestamp with time zone, p_period_end timestamp with time zone DEFAULT NULL::timestamp with time zone, p_issued_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_due_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_description text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6be95c6850050073
  grant execute to service_role;

-- Has libraries crawled again whose time has come; which.
create function backend.libraries_due(p_limit integer DEFAULT 100) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 55312169155ef22e
  grant execute to service_role;

-- Deletes libraries whose archive never came.
create function backend.libraries_expire(p_limit integer DEFAULT 200) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- fac0881c3cf728fc
  grant execute to service_role;

-- Has vectors of a model made of versions that are searched with another, or with none, by tasks: of how many, at most p_limit. 400 invalid_argument.
create function backend.libraries_reembed(p_model text, p_dimensions integer, p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=5min;  -- 02e0e538eb3ef6cc
  grant execute to service_role;

-- Adds a library and has it crawled: a public one for an operator (p_actor), a private one for an admin of the organization, or its API key. The archive of a private one is to be uploaded first, to upload_path of the answer (library_uploaded). p_values: description, docs_url, aliases, refresh_seconds, metadata; for operators popularity_score and trust_score. 409 library_id_taken, 402 plan_limit_reached, 429 rate_limited, 400 invalid_argument.
create function backend.library_add(p_id text, p_title text, p_source_kind text, p_source_url text DEFAULT NULL::text, p_values jsonb DEFAULT '{}'::jsonb, p_organization text DEFAULT NULL::text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 10fa7db054f691f5
  grant execute to service_role;

-- Deletes answers that have expired.
create function backend.library_answers_purge(p_limit integer DEFAULT 5000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- af84feb9eb0ed19d
  grant execute to service_role;

-- Puts chunks of a crawl: {chunk_index, source_path, source_url, title, headings, content, type, language, token_count, identifiers, flags, metadata}, at most 2,000. Idempotent: the same text on the same page is the same chunk, and keeps its vector. Nobody sees new ones before the crawl is finished. 409 crawl_superseded.
create function backend.library_chunks_put(p_version_id uuid, p_crawl integer, p_chunks jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=5min;  -- 319bdebf30831dc9
  grant execute to service_role;

-- Deletes a library with its versions, chunks and vectors; their snapshots are deleted from Storage afterwards. 404 library_not_found.
create function backend.library_delete(p_id text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=10min;  -- 026b1ffeca8be254
  grant execute to service_role;

-- Chunks of a version that have no vector yet: of the model that it is searched with, or else of the next one. 404 library_version_not_found.
create function backend.library_embeddings_missing(p_version_id uuid, p_limit integer DEFAULT 256) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- f85bb1ee566a6aee
  grant execute to service_role;

-- Stores vectors, {id of the chunk, embedding}, at most 2,000. With the last that was missing of the next model, the version is searched with that. 409 embedding_model_changed, 404 library_version_not_found.
create function backend.library_embeddings_put(p_version_id uuid, p_model text, p_embeddings jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=5min;  -- 400572f92fd540fa
  grant execute to service_role;

-- Says why the source of a library could not be fetched, before any version was begun. 404 library_not_found, 409 crawl_superseded.
create function backend.library_fail(p_library_id text, p_error_code text, p_error_message text, p_source_id uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 361b4c5d33f75fd2
  grant execute to service_role;

-- Libraries that the caller reads, by id: those of everybody and of their organizations, or the private ones of an organization that they name. next is the p_after of the next page.
create function backend.library_list(p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 212051693499e76a
  grant execute to service_role;

-- Says that a library was renamed, for an operator: who asks for it is told where it went. Null takes it back. 404 library_not_found.
create function backend.library_move(p_id text, p_moved_to text, p_actor text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c578cdf51fec2280
  grant execute to service_role;

-- Notes how far a crawl is, in per cent, and whether it is crawling or indexing. 409 crawl_superseded where it is no longer wanted.
create function backend.library_progress(p_version_id uuid, p_crawl integer, p_progress integer, p_state text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e74132c65524293b
  grant execute to service_role;

-- The tool query-docs, then: pieces of documentation for a question, within p_tokens, among what the caller may read; kept for library_query_cache_seconds, per tenant; with its usage row. p_client: ip, user_agent, spent_ms (milliseconds before this call).
create function backend.library_query(p_query text, p_library_id text DEFAULT NULL::text, p_version text DEFAULT NULL::text, p_type text DEFAULT NULL::text, p_tokens integer DEFAULT NULL::integer, p_flagged text DEFAULT 'down'::text, p_limit integer DEFAULT 20, p_embedding jsonb DEFAULT NULL::jsonb, p_embedding_model text DEFAULT NULL::text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_client jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9ce4cc8116dcd2a8
  grant execute to service_role;

-- The tool query-docs, first: an answer that was given to this tenant before, or why there is none (state, with the HTTP status that says so), with its usage row; or is_answered false, and embedding_model with which to make a vector of the question for library_query().
create function backend.library_query_begin(p_query text, p_library_id text DEFAULT NULL::text, p_version text DEFAULT NULL::text, p_type text DEFAULT NULL::text, p_tokens integer DEFAULT NULL::integer, p_flagged text DEFAULT 'down'::text, p_limit integer DEFAULT 20, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_client jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 56910619cdaa164a
  grant execute to service_role;

-- A library with its versions: whether it can be asked, and how the latest crawl went. 404 library_not_found, also for what is somebody else's.
create function backend.library_read(p_id text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 2b27978913f19763
  grant execute to service_role;

-- Has a version's vectors made by another model, beside those that serve: library_embeddings_missing() then lists what lacks one. 404 library_version_not_found.
create function backend.library_reembed(p_version_id uuid, p_model text, p_dimensions integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bd60b0e791f77fd7
  grant execute to service_role;

-- Has a private library crawled again for an admin of its organization, or its API key; one that is being crawled stays as it is. 404 library_not_found, 409 library_not_uploaded, 429 rate_limited.
create function backend.library_refresh(p_id text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6542919368a29e53
  grant execute to service_role;

-- The tool resolve-library-id: libraries whose name is like the one given, among those of everybody and of the caller's organizations. Kept for library_resolve_cache_seconds, per tenant. p_client: ip, user_agent, spent_ms.
create function backend.library_resolve(p_query text, p_library_name text, p_limit integer DEFAULT 10, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text, p_client jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c2dc1c22dc7aa011
  grant execute to service_role;

-- Where the documentation of a library comes from, and what was crawled of its latest version; null where there is none yet, or it has moved.
create function backend.library_source(p_library_id text) returns jsonb
  sql, stable, security definer, set search_path="";  -- df5db98ac22c2dc7
  grant execute to service_role;

-- Says that the archive of an uploaded library is another object, and has it crawled, for an operator. The one before is deleted. 409 library_is_no_upload, also for what an organization uploads, 404 library_not_found.
create function backend.library_source_put(p_id text, p_source_url text, p_actor text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 590acfc69c15016e
  grant execute to service_role;

-- Says that the source of a version is what was crawled the last time: it is asked again when its time comes. is_unchanged is false where that is not served. 404 library_not_found, 409 crawl_superseded.
create function backend.library_unchanged(p_library_id text, p_version text, p_source_revision text, p_source_id uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e94396223c488ab0
  grant execute to service_role;

-- Where the archive of a private library is put, in the place of the one that is there. 404 library_not_found, 409 library_takes_no_archive.
create function backend.library_upload(p_id text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 328ab63b76d7b545
  grant execute to service_role;

-- Says that the archive of a private library is in Storage, and has it crawled. 404 library_not_found, 409 library_not_uploaded, library_takes_no_archive, crawl_in_progress, 400 library_too_large, 429 rate_limited.
create function backend.library_uploaded(p_id text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- f33bdd1c6f71f00c
  grant execute to service_role;

-- Begins to crawl a version, new or anew: the number of the crawl, and what the source was the last time. Readers see what they saw. An embedding model other than the version's is filled beside it. 404 library_not_found; 409 crawl_superseded where the source of the library (library_source) is another one by now.
create function backend.library_version_begin(p_library_id text, p_version text, p_embedding_model text DEFAULT NULL::text, p_dimensions integer DEFAULT NULL::integer, p_source_id uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 8342e2190124aa8c
  grant execute to service_role;

-- Ends a crawl that cannot be finished: why, for people. What readers saw before they see still. 409 crawl_superseded.
create function backend.library_version_fail(p_version_id uuid, p_crawl integer, p_error_code text, p_error_message text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 07e67ef3d1ae3d92
  grant execute to service_role;

-- Makes what a crawl found what readers see, at once: what it did not find again goes, words and totals are counted, and unless told otherwise the version is the latest. p_values: etag, source_revision, snapshot_path, release_date. 409 crawl_superseded, library_is_empty.
create function backend.library_version_finish(p_version_id uuid, p_crawl integer, p_is_latest boolean DEFAULT true, p_values jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="", set statement_timeout=10min;  -- 1dd1007484a9f142
  grant execute to service_role;

-- The model gave no answer: charges nothing, as chat_fail does, and marks the answer as failed. What the user wrote stays.
create function backend.message_fail(p_hold_id uuid, p_error_code text, p_latency_ms integer DEFAULT NULL::integer, p_is_answered boolean DEFAULT false, p_key_uses jsonb DEFAULT NULL::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7c8624eb03832563
  grant execute to service_role;

-- After the model has answered: charges as chat_finish does and keeps the answer (p_answer: content, finish_reason, error_code) with its tokens and credits, in one transaction.
create function backend.message_finish(p_hold_id uuid, p_prompt_tokens integer, p_completion_tokens integer, p_cached_tokens integer DEFAULT 0, p_outcome text DEFAULT 'completed'::text, p_usage_source text DEFAULT 'upstream'::text, p_latency_ms integer DEFAULT NULL::integer, p_first_token_ms integer DEFAULT NULL::integer, p_answer jsonb DEFAULT '{}'::jsonb, p_model text DEFAULT NULL::text, p_credential text DEFAULT NULL::text, p_provider_key_id uuid DEFAULT NULL::uuid, p_key_uses jsonb DEFAULT NULL::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 526e760fd261e975
  grant execute to service_role;

-- Before the model is called: checks who may write, stores the user's message (or takes the one to be answered anew), rebuilds the context within the window, holds the worst case as chat_start does, begins the answer. The same request again: the same rows. A message id that was answered: the answer. Where documents are searched, first called without a vector: state search, with the question and the model to make it by. p_documents: {documents}, or {} where the message names none.
create function backend.message_start(p_request_id uuid, p_conversation_id uuid, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_content text DEFAULT NULL::text, p_parts jsonb DEFAULT NULL::jsonb, p_message_id uuid DEFAULT NULL::uuid, p_parent_id uuid DEFAULT NULL::uuid, p_is_branch boolean DEFAULT false, p_regenerate uuid DEFAULT NULL::uuid, p_models text[] DEFAULT '{}'::text[], p_max_tokens integer DEFAULT NULL::integer, p_parameters jsonb DEFAULT '{}'::jsonb, p_stream boolean DEFAULT true, p_ip text DEFAULT NULL::text, p_user_agent text DEFAULT NULL::text, p_credential text DEFAULT 'auto'::text, p_documents jsonb DEFAULT NULL::jsonb, p_embedding jsonb DEFAULT NULL::jsonb, p_embedding_model text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 96d84c62fe56b002
  grant execute to service_role;

-- Marks answers as failed whose hold the reaper has returned: whoever made them is gone.
create function backend.messages_sweep(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 689736303015e763
  grant execute to service_role;

-- Adds a model, or changes the fields given of one; "provider" is a slug. Refuses unknown fields and negative numbers. A new default takes over from the old one of its kind.
create function backend.model_upsert(p_model jsonb, p_actor text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7f75f59d7505e8d3
  grant execute to service_role;

-- Deletes at most p_limit notifications past notification_retention_days, and their deliveries.
create function backend.notification_purge(p_limit integer DEFAULT 5000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 20c16f5a8ed6176e
  grant execute to service_role;

-- Gives up deliveries whose task has died; the larger number of the two kinds, at most p_limit.
create function backend.notification_sweep(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 706abdf0db0467f1
  grant execute to service_role;

-- Suspends or restores an organization, and writes down who did it and why.
create function backend.organization_set_active(p_organization_id uuid, p_is_active boolean, p_actor text, p_reason text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- dd9fc8e3602e26aa
  grant execute to service_role;

-- An operator records a payment that did not come through Stripe, once per provider and transaction id, with the recorded invoice or the plan it paid and the credits it bought, if any; sends a receipt, leaves an audit row. 409 idempotency_conflict when it was recorded otherwise, amount_mismatch for more than the invoice asks.
create function backend.payment_record(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid, p_provider text DEFAULT NULL::text, p_transaction_id text DEFAULT NULL::text, p_amount_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_credits numeric DEFAULT NULL::numeric, p_description text DEFAULT NULL::text, p_paid_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_plan text DEFAULT NULL::text, p_period_start timestamp with time zone DEFAULT NULL::timestamp with time zone, p_period_end timestamp with time zone DEFAULT NULL::timestamp with time zone, p_invoice_id uuid DEFAULT NULL::uuid, p_reason text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a25b6806c2d6301c
  grant execute to service_role;

-- An operator records how much of a recorded payment was given back in all, and its share of the credits is taken back (or returned, when it is less than before); leaves an audit row. 409 payment_is_stripes for one through Stripe.
create function backend.payment_refund_record(p_payment_id uuid, p_amount_refunded_minor bigint, p_reason text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e8b90bc9d04e9402
  grant execute to service_role;

-- An operator gives a plan until a date, ending the one an operator gave before; leaves an audit row.
create function backend.plan_assign(p_user_id uuid DEFAULT NULL::uuid, p_organization_id uuid DEFAULT NULL::uuid, p_plan text DEFAULT NULL::text, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_reason text DEFAULT NULL::text, p_actor text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- f16fc5fe0f17f837
  grant execute to service_role;

-- Shows owners whose plan has ended what they have now; requests were refused by the date already.
create function backend.plans_lapse(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 296ddaa8588f4f87
  grant execute to service_role;

-- The customer whose portal the user, or an admin of the organization, may open; 404 customer_not_found.
create function backend.portal_start(p_user_id uuid, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- d23602f369fa6c29
  grant execute to service_role;

-- Stores a key that was checked and sealed, for the person or for an organization they administer. The same id again: the same key. As provider_key_prepare, and 409 provider_key_limit_reached.
create function backend.provider_key_add(p_user_id uuid, p_id uuid, p_provider text, p_name text, p_last_four text, p_sealed jsonb, p_outcome text, p_error_code text DEFAULT NULL::text, p_priority integer DEFAULT 100, p_base_url text DEFAULT NULL::text, p_models text[] DEFAULT '{}'::text[], p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c397120ab3adf9a1
  grant execute to service_role;

-- A key's sealed secret, for whoever manages the key to have it checked or replaced; functions/ opens it, and it goes nowhere else. Counts the check.
create function backend.provider_key_check(p_user_id uuid, p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2a9e39b194a124a9
  grant execute to service_role;

-- What a provider said of a key: records it, marks the key, and tells the owner of one that is not accepted; nothing of a secret that was replaced meanwhile.
create function backend.provider_key_checked(p_id uuid, p_secret_version integer, p_outcome text, p_error_code text DEFAULT NULL::text, p_models text[] DEFAULT NULL::text[], p_user_id uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7bc009c3131726bb
  grant execute to service_role;

-- Deletes a key with its secret; what it was used for stays recorded.
create function backend.provider_key_delete(p_user_id uuid, p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9b37ded040d5e9cb
  grant execute to service_role;

-- A key's sealed secret, for the worker that has an idle key checked; null where there is nothing to check any more.
create function backend.provider_key_idle(p_id uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- 13b65d757b1f2ca0
  grant execute to service_role;

-- Which master keys wrap how many keys.
create function backend.provider_key_kids() returns jsonb
  sql, stable, security definer, set search_path="";  -- 08c70971ddf276d7
  grant execute to service_role;

-- The person's keys, or those of an organization they belong to, masked, in the order in which they are tried.
create function backend.provider_key_list(p_user_id uuid, p_organization text DEFAULT NULL::text, p_provider text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 41a44b8a9e535c0f
  grant execute to service_role;

-- Before a new key is checked and sealed: whether the person may bring one, and whose it will be. Counts the check. 403 account_suspended, not_a_member, not_an_admin; 404 provider_not_found; 400 base_url_required, base_url_not_allowed; 429 rate_limited.
create function backend.provider_key_prepare(p_user_id uuid, p_provider text, p_base_url text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- cc2a5f14d0736101
  grant execute to service_role;

-- One key, masked; 404 provider_key_not_found.
create function backend.provider_key_read(p_user_id uuid, p_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- ab2957d809f41901
  grant execute to service_role;

-- A new secret in the place of a key's old one, which is gone; 409 provider_key_changed where somebody else was first.
create function backend.provider_key_replace(p_user_id uuid, p_id uuid, p_secret_version integer, p_last_four text, p_sealed jsonb, p_outcome text, p_error_code text DEFAULT NULL::text, p_base_url text DEFAULT NULL::text, p_models text[] DEFAULT '{}'::text[]) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 223c70036fe25dcf
  grant execute to service_role;

-- Renames a key, moves it in the order, has it rest or wakes it.
create function backend.provider_key_update(p_user_id uuid, p_id uuid, p_changes jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1d38ee52d87dcea4
  grant execute to service_role;

-- What the person's keys, or those of an organization they administer, were used for, newest first; of one key (p_id) or of all, deleted ones too: {uses, next}.
create function backend.provider_key_uses(p_user_id uuid, p_id uuid DEFAULT NULL::uuid, p_organization text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- fa3658a3a44eafa2
  grant execute to service_role;

-- Forgets what provider keys were used for, past provider_key_use_days.
create function backend.provider_key_uses_purge(p_limit integer DEFAULT 5000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 8a7e2806ca2f858e
  grant execute to service_role;

-- Queues a check of keys that were neither used nor checked for provider_key_idle_days, oldest first; one that was queued today is not queued again.
create function backend.provider_keys_revalidate(p_limit integer DEFAULT 200) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 98a97287cdb49f1a
  grant execute to service_role;

-- Stores data keys that were wrapped anew ({id, old_kid, old_wrapped_key, kid, wrapped_key}), of rows that nobody changed meanwhile; how many.
create function backend.provider_keys_rewrap(p_rows jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0493354eeedaf239
  grant execute to service_role;

-- Sealed keys in the order of their ids, after one; without those that a master key wraps already. For quernel keys.
create function backend.provider_keys_sealed(p_except_kid text DEFAULT NULL::text, p_after uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100) returns jsonb
  sql, stable, security definer, set search_path="";  -- 3bd29dadd562cbbc
  grant execute to service_role;

-- Answers: the database is reachable, and the caller may call backend functions.
create function backend.ready() returns jsonb
  sql, stable, security definer, set search_path="";  -- 66016ecdd67e6cb8
  grant execute to service_role;

-- Stores a verified event or finds it, and applies it: {"result": applied | duplicate | ignored | failed | needs_fetch}. 400 livemode_mismatch stores nothing.
create function backend.stripe_event_receive(p_event jsonb, p_livemode boolean, p_api_version text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 3f352fd41568dfad
  grant execute to service_role;

-- Applies a stored event again, as its next delivery would; 404 event_not_found.
create function backend.stripe_event_retry(p_event_id text, p_api_version text DEFAULT NULL::text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- e1689e528552ec81
  grant execute to service_role;

-- Applies the state of an object as it was read from Stripe for an event that needed it; p_fetched_at is Stripe's clock at the answer.
create function backend.stripe_object_apply(p_event_id text, p_object jsonb, p_fetched_at timestamp with time zone DEFAULT NULL::timestamp with time zone) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e608f6bd2d80e275
  grant execute to service_role;

-- Applies an object as Stripe answered it, without an event: {"result": applied | ignored | stale}. stale: an event came between, which is as new.
create function backend.stripe_read_finish(p_object jsonb, p_revision bigint, p_asked_at timestamp with time zone, p_fetched_at timestamp with time zone DEFAULT NULL::timestamp with time zone) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a25f8852084e5e5f
  grant execute to service_role;

-- Before an object is read or changed at Stripe: which revision of it is known.
create function backend.stripe_read_start(p_object_type text, p_object_id text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1407632e07fc5983
  grant execute to service_role;

-- Compares a page of events or objects of Stripe with what is known here: a list of {type, id, finding}. Changes nothing.
create function backend.stripe_reconcile_compare(p_objects jsonb, p_livemode boolean) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 88daf83e2a9b4516
  grant execute to service_role;

-- Asks a worker to compare with Stripe; at most one such task waits.
create function backend.stripe_reconcile_enqueue() returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 700ce6ac54d90232
  grant execute to service_role;

-- Notes that a page is done and where the next one begins; without a next type the run is completed. 409 reconciliation_moved when another worker was faster.
create function backend.stripe_reconcile_note(p_run_id uuid, p_object_type text, p_cursor text, p_next_type text, p_next_cursor text, p_compared integer, p_findings jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 11c8c97f02d5ae2f
  grant execute to service_role;

-- The run that is under way, or a new one over so many days that begins with this type; then reports past reconcile_report_days are deleted.
create function backend.stripe_reconcile_start(p_object_type text, p_days integer DEFAULT NULL::integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7f0b10f360297ae4
  grant execute to service_role;

-- Whether a subscription can be canceled, paused or resumed by this user, and what Stripe must be told.
create function backend.subscription_action_start(p_user_id uuid, p_subscription_id uuid, p_action text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- b4e1e5716358972c
  grant execute to service_role;

-- Says how a plan is changed: upgrade (at once, the difference is charged), downgrade (what is paid is kept to the end of the period), undo of a downgrade, or replace in a trial.
create function backend.subscription_change_start(p_user_id uuid, p_subscription_id uuid, p_plan text, p_interval text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- b024649525d958e1
  grant execute to service_role;

-- Stores the page of a checkout; 409 plan_price_mismatch when Stripe would charge anything but the plan's price, checkout_already_attached when it has ended.
create function backend.subscription_checkout_attach(p_checkout_id uuid, p_session_id text, p_url text, p_expires_at timestamp with time zone, p_amount_total bigint, p_currency text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- ddf0d6fefcc33f77
  grant execute to service_role;

-- Opens the checkout of a subscription, or finds the open one with the pages it was opened with; 404 plan_not_found, 409 plan_not_on_sale, currency_mismatch or already_subscribed. superseded_session_ids are pages that must be ended first.
create function backend.subscription_checkout_start(p_user_id uuid, p_plan text, p_interval text, p_organization text DEFAULT NULL::text, p_currency text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_success_url text DEFAULT NULL::text, p_cancel_url text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6728a696f9c43983
  grant execute to service_role;

-- A subscription as the routes answer it; null when there is none.
create function backend.subscription_get(p_subscription_id uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- afa5e19546456cfd
  grant execute to service_role;

-- Before a chat model is asked for better prompts (an API key needs the scope images): which model, which for vectors, and the newest suggestions that have none yet.
create function backend.suggestions_begin(p_prompt text, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 340570fa2bcab245
  grant execute to service_role;

-- Keeps what a chat model made of a prompt, with vectors as far as there are any, and those of suggestions that had none (p_vectors); answers it, and what of the person's is nearest to the prompt.
create function backend.suggestions_keep(p_prompt text, p_model text, p_prompts jsonb, p_vectors jsonb DEFAULT '[]'::jsonb, p_prompt_vector jsonb DEFAULT NULL::jsonb, p_user_id uuid DEFAULT NULL::uuid, p_key_hash text DEFAULT NULL::text, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a5a42c19d79799f6
  grant execute to service_role;

-- Ends queued tasks whose hold was returned to its owner meanwhile: nobody would pay for the work.
create function backend.task_bury(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- cc62e7fbcd591c53
  grant execute to service_role;

-- For operators: private.task_cancel.
create function backend.task_cancel(p_id uuid, p_reason text) returns jsonb
  sql, volatile, security definer, set search_path="";  -- fedad84af53742b2
  grant execute to service_role;

-- Leases due tasks of these kinds to a worker, never one task to two; of a kind in p_limits no more than that. Extends the holds they work under.
create function backend.task_claim(p_kinds text[], p_worker text, p_limit integer, p_lease_seconds integer, p_limits jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 73b8cc590475d0c7
  grant execute to service_role;

-- Records that a task is done. 409 lease_lost when another may have it.
create function backend.task_complete(p_id uuid, p_lease_token uuid, p_result jsonb DEFAULT NULL::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 58cc3149f2a2276c
  grant execute to service_role;

-- Records a failed attempt: again after a pause (p_retry_after seconds, or a growing one), dead when final or the last.
create function backend.task_fail(p_id uuid, p_lease_token uuid, p_error text, p_retry_after integer DEFAULT NULL::integer, p_is_final boolean DEFAULT false) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 53dcca62ed41e11c
  grant execute to service_role;

-- Puts a task back for another worker at once, not counted as an attempt: for a worker that is told to stop.
create function backend.task_give_back(p_id uuid, p_lease_token uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- fcc62ba1914ee017
  grant execute to service_role;

-- Tasks, newest first, without their payloads; p_before is the last id of the page before.
create function backend.task_list(p_status text DEFAULT NULL::text, p_kind text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_before uuid DEFAULT NULL::uuid, p_request_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- 6c45287fe7edd9e7
  grant execute to service_role;

-- Deletes at most p_limit done and cancelled tasks older than p_days (or task_retention_days). Dead ones stay.
create function backend.task_purge(p_days integer DEFAULT NULL::integer, p_limit integer DEFAULT 5000) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 04d2cd1e540158c1
  grant execute to service_role;

-- Prolongs a lease, never shortens it, and extends the hold the task works under. 409 lease_lost, hold_expired.
create function backend.task_renew(p_id uuid, p_lease_token uuid, p_lease_seconds integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bf436f7f33456680
  grant execute to service_role;

-- Queues a dead task again, its attempts anew. 409 task_not_dead, hold_released, task_already_queued; 404.
create function backend.task_retry(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- d70b1a33b4f62aa5
  grant execute to service_role;

-- How many tasks (of these kinds, or of all) wait, are due, run, have lost their worker or died.
create function backend.task_status(p_kinds text[] DEFAULT NULL::text[]) returns jsonb
  sql, stable, security definer, set search_path="";  -- 9b68a36dae1b09a6
  grant execute to service_role;

-- Ends attempts whose lease has lapsed, as failures: their worker is gone. How many are queued again, how many died.
create function backend.task_sweep(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 674cd982273495d3
  grant execute to service_role;

-- Ends an automatic purchase without a payment at Stripe: declined, with Stripe's code, or expired because Stripe was never asked. 404 purchase_not_found.
create function backend.top_up_close(p_purchase_id uuid, p_code text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0eca12748ed51671
  grant execute to service_role;

-- Decides whether an account is topped up now: {"result": charge | look_up | none}. charge: a purchase that Stripe is to be asked for, the same one until its answer is known; look_up: one that is not to be charged any more, if it was not yet; none: with the reason, in_flight while an answer may be on the way.
create function backend.top_up_start(p_account_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 853352fa2c9ac343
  grant execute to service_role;

-- Asks for the top-ups that were missed: accounts under their threshold, and purchases whose answer nobody has heard.
create function backend.top_ups_due(p_limit integer DEFAULT 500) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 486e8e1a5fb40e23
  grant execute to service_role;

-- Forgets where requests came from, past the retention of that.
create function backend.usage_addresses_forget(p_limit integer DEFAULT 1000) returns jsonb
  sql, volatile, security definer, set search_path="";  -- a470385ea872ec46
  grant execute to service_role;

-- Drops months of usage past their retention.
create function backend.usage_partitions_drop(p_limit integer DEFAULT 1, p_lock_ms integer DEFAULT 2000) returns jsonb
  sql, volatile, security definer, set search_path="";  -- b4250131bd622ab2
  grant execute to service_role;

-- Keeps the months ahead partitioned.
create function backend.usage_partitions_ensure(p_months_ahead integer DEFAULT 12) returns jsonb
  sql, volatile, security definer, set search_path="";  -- ca6a409604be6173
  grant execute to service_role;

-- Suspends or restores a person, and writes down who did it and why.
create function backend.user_set_active(p_user_id uuid, p_is_active boolean, p_actor text, p_reason text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5b5e68d868af5a79
  grant execute to service_role;

-- Makes an endpoint for a user, or for an organization they administer. The caller has vetted the URL. 403 webhook_limit_reached.
create function backend.webhook_endpoint_create(p_user_id uuid, p_url text, p_description text DEFAULT NULL::text, p_event_types text[] DEFAULT NULL::text[], p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 783c00343749387e
  grant execute to service_role;

-- Deletes an endpoint with its deliveries; what was queued for it is not sent.
create function backend.webhook_endpoint_delete(p_user_id uuid, p_endpoint_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 58e2e10cf9e63b33
  grant execute to service_role;

-- The endpoints of a user, or of an organization they administer, oldest first.
create function backend.webhook_endpoint_list(p_user_id uuid, p_organization text DEFAULT NULL::text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 7517e68edfd4f85b
  grant execute to service_role;

-- Sends a ping to an endpoint, whatever its event types; the delivery says what became of it. 409 webhook_endpoint_disabled, 429 rate_limited.
create function backend.webhook_endpoint_ping(p_user_id uuid, p_endpoint_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e25bd8b9c2ca873a
  grant execute to service_role;

-- An endpoint of a user or of an organization they administer. 404 webhook_endpoint_not_found.
create function backend.webhook_endpoint_read(p_user_id uuid, p_endpoint_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 7d6f5cc1954c02b2
  grant execute to service_role;

-- Gives an endpoint a new signing secret; the one before signs as well for webhook_rotation_hours.
create function backend.webhook_endpoint_rotate(p_user_id uuid, p_endpoint_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5b43aa32d42a2d61
  grant execute to service_role;

-- Changes what the object names of url (vetted by the caller), description, event_types and is_active; true switches an endpoint on again that was switched off.
create function backend.webhook_endpoint_update(p_user_id uuid, p_endpoint_id uuid, p_changes jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5566f266e2be700d
  grant execute to service_role;

-- Begins an attempt to send an event: status queued with URL, versions of the secret, type, timestamp and data; or why there is nothing to send.
create function backend.webhook_prepare(p_delivery_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- aca1f2044bedee3a
  grant execute to service_role;

-- Records how an attempt ended: sent, suppressed, or queued to be tried again, which is failed when it was the last or answered 410. Switches off an endpoint that is gone or keeps failing.
create function backend.webhook_report(p_delivery_id uuid, p_status text, p_response_status integer DEFAULT NULL::integer, p_reason text DEFAULT NULL::text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 213355b7b1db25dd
  grant execute to service_role;

-- Joins the organization, when the caller's verified email address is the one invited and the plan has room.
create function public.accept_invitation(p_token text) returns jsonb
  sql, volatile, set search_path="";  -- 03e1a475a60ebe78
  grant execute to authenticated;

-- What a generation costs in credits: the model's price, times outputs, times begun megapixels, times steps beyond the usual number, times the factors of quality and resolution.
create function public.calculate_generation_cost(p_model_id text, p_num_outputs integer DEFAULT 1, p_width integer DEFAULT NULL::integer, p_height integer DEFAULT NULL::integer, p_steps integer DEFAULT NULL::integer, p_parameters jsonb DEFAULT '{}'::jsonb) returns numeric
  sql, stable, set search_path="";  -- c7d425e8016d62a0
  grant execute to authenticated;

-- Calls one of your generations off: what was held comes back. 409 generation_ended.
create function public.cancel_generation(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 4e0ccb2974845505
  grant execute to authenticated;

-- Makes a member owner, admin or member. Owners and admins; owners are made and changed only by owners, and one remains.
create function public.change_member_role(p_organization_id uuid, p_user_id uuid, p_role text) returns jsonb
  sql, volatile, set search_path="";  -- f46aaa1bce6102ec
  grant execute to authenticated;

-- What people draw in public these days, as of the last refresh: subject, usage_count, avg_nsfw_score, common_styles, color_trends.
create function public.community_trends(p_limit integer DEFAULT 20) returns jsonb
  sql, stable, set search_path="";  -- 0c2cfd4c7cc8a335
  grant execute to authenticated;

-- The branch of a conversation that is shown, oldest message first, from its end: {conversation_id, head_message_id, messages, next}. p_before is the next of the page before; siblings are the branches at each place.
create function public.conversation_thread(p_id uuid, p_limit integer DEFAULT 50, p_before uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, set search_path="";  -- b1fc7043755042e2
  grant execute to authenticated;

-- Makes an agent of yours, or of an organization you belong to. p_values: name (required), description, avatar_url, system_prompt, model (the default), fallback_models ([]), temperature (0.7), max_tokens (2048), is_public (false). Fails plan_limit_reached, model_not_found.
create function public.create_agent(p_values jsonb, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- 13af7cfbab0f4685
  grant execute to authenticated;

-- Makes an API key of yours, or of an organization you administer. The answer's "key" is shown this once. p_values: scopes (["chat"]), rate_limit_per_minute (60), rate_limit_per_day, rate_limit_per_month, tokens_per_minute, max_concurrent_requests, monthly_credit_budget, expires_at.
create function public.create_api_key(p_name text, p_values jsonb DEFAULT '{}'::jsonb, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- 9bc849806ab3f3b1
  grant execute to authenticated;

-- Begins a conversation that you pay, or an organization you belong to. p_values, all optional: title, agent_id, model, system_prompt, is_shared, documents (ids, "all" or null).
create function public.create_conversation(p_values jsonb DEFAULT '{}'::jsonb, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- 291a8e6b385c8dff
  grant execute to authenticated;

-- Makes an organization with the caller as its owner. Fails slug_taken, slug_reserved, organization_limit_reached.
create function public.create_organization(p_name text, p_slug text) returns jsonb
  sql, volatile, set search_path="";  -- 0abc123e7099e887
  grant execute to authenticated;

-- Your balance, or that of an organization you belong to.
create function public.credit_balance(p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, set search_path="";  -- 4fbb8304e3958dd6
  grant execute to authenticated;

-- Your ledger, or that of an organization you administer, newest first.
create function public.credit_statement(p_organization_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 50, p_before bigint DEFAULT NULL::bigint) returns jsonb
  sql, stable, set search_path="";  -- 0b9b9add2da6806f
  grant execute to authenticated;

-- Computed field: the balance of the profile's account.
create function public.credits_balance(p_profile public.profiles) returns numeric
  sql, stable, set search_path="";  -- c0e9279a8eb91ebb
  grant execute to authenticated;

-- Deletes an agent of yours, or of an organization you administer. Conversations with it stay.
create function public.delete_agent(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 4d237e1940ba33a6
  grant execute to authenticated;

-- Deletes a conversation: at once invisible, purged with its messages after the retention.
create function public.delete_conversation(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 4da4d7e8787f642a
  grant execute to authenticated;

-- Says that the file of one of your documents is in Storage, at its storage_path: it is indexed then, or again. 409 document_not_uploaded, 404 document_not_found, 429 rate_limited.
create function public.document_uploaded(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- d59ea69ec77a430b
  grant execute to authenticated;

-- Invites an address as admin or member, by email too, and returns a token, which is shown this once. An earlier invitation to the address ends. Owners and admins.
create function public.invite_member(p_organization_id uuid, p_email text, p_role text DEFAULT 'member'::text) returns jsonb
  sql, volatile, set search_path="";  -- ba833bcb25f3a529
  grant execute to authenticated;

-- Computed field: when the key's last request was accepted.
create function public.last_used_at(p_key public.api_keys) returns timestamp with time zone
  sql, stable, set search_path="";  -- ddb8718e0c9bc67e
  grant execute to authenticated;

-- Ends the caller's membership; the last owner cannot.
create function public.leave_organization(p_organization_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 20d6259ceb811db1
  grant execute to authenticated;

-- Computed field: credits ever granted to the profile's account.
create function public.lifetime_credits(p_profile public.profiles) returns numeric
  sql, stable, set search_path="";  -- 4725757066fbd9d8
  grant execute to authenticated;

-- Conversations you read, newest activity first: active, archived or all; of one organization alone; with a query, those whose title or messages have all its words. Answers {conversations, next}; p_after is the next of the page before.
create function public.list_conversations(p_status text DEFAULT 'active'::text, p_organization_id uuid DEFAULT NULL::uuid, p_query text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after text DEFAULT NULL::text) returns jsonb
  sql, stable, set search_path="";  -- 954a323b62d59aab
  grant execute to authenticated;

-- Agents of an organization you belong to, newest first; the system prompt only of those you may change. Answers {agents, next}.
create function public.organization_agents(p_organization_id uuid, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, set search_path="";  -- 984a7983fd0bb098
  grant execute to authenticated;

-- The members of an organization to which the caller belongs: id, role, names, picture and when they joined, nothing else.
create function public.organization_people(p_organization_id uuid) returns jsonb
  sql, stable, set search_path="";  -- dac8089c0e4a1abf
  grant execute to authenticated;

-- Agents that everybody may use, newest first, by words of their name and description; without their system prompts. Answers {agents, next}.
create function public.public_agents(p_query text DEFAULT NULL::text, p_limit integer DEFAULT 50, p_after uuid DEFAULT NULL::uuid) returns jsonb
  sql, stable, set search_path="";  -- 2a9d5cd24dc52ba6
  grant execute to authenticated;

-- Ends somebody's membership. Owners and admins; owners only by owners, and never the last.
create function public.remove_member(p_organization_id uuid, p_user_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- f26eb8db911cd653
  grant execute to authenticated;

-- Libraries whose name is like p_library_name (or a word of p_query), each with a confidence from 0 to 1; use the id in search_documentation(). state says whether it can be searched: ready, unfinished, moved (to moved_to), failed.
create function public.resolve_library(p_query text DEFAULT NULL::text, p_library_name text DEFAULT NULL::text, p_limit integer DEFAULT 10) returns jsonb
  sql, stable, set search_path="";  -- 51eebfc2539c9b5a
  grant execute to authenticated;

-- Brings a deleted conversation back, until it is purged.
create function public.restore_conversation(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 6944c6142d547349
  grant execute to authenticated;

-- Ends a key at once and for good.
create function public.revoke_api_key(p_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- e8c13cf841b7e383
  grant execute to authenticated;

-- Ends an invitation that was not accepted. Owners and admins.
create function public.revoke_invitation(p_invitation_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- f2570d8404fb99fe
  grant execute to authenticated;

-- Gives a key a new secret, shown this once; the old one goes on working for the grace (a day). Limits and totals go on.
create function public.rotate_api_key(p_id uuid, p_grace_seconds integer DEFAULT NULL::integer) returns jsonb
  sql, volatile, set search_path="";  -- e7067d4103d2e579
  grant execute to authenticated;

-- Pieces of documentation for a question, best first, within p_tokens: of one library (p_library, as /organization/project or with /version), or of all that you may read. With a vector of the question, made by embedding_model, by words and by meaning; without one by words. Or state: unfinished, moved, failed, not_found.
create function public.search_documentation(p_query text, p_library text DEFAULT NULL::text, p_version text DEFAULT NULL::text, p_type text DEFAULT NULL::text, p_tokens integer DEFAULT NULL::integer, p_embedding jsonb DEFAULT NULL::jsonb, p_embedding_model text DEFAULT NULL::text, p_flagged text DEFAULT 'down'::text, p_limit integer DEFAULT 20) returns jsonb
  plpgsql, volatile, set search_path="";  -- 909feffab99ff952
  grant execute to authenticated;

-- Passages of your documents, and of those of your organizations, for a question, best first, within p_tokens; p_document_ids narrows it. By words, and by meaning with a vector made by the model of the documents.
create function public.search_documents(p_query text, p_document_ids uuid[] DEFAULT NULL::uuid[], p_tokens integer DEFAULT NULL::integer, p_embedding jsonb DEFAULT NULL::jsonb, p_embedding_model text DEFAULT NULL::text, p_flagged text DEFAULT 'down'::text, p_limit integer DEFAULT 20) returns jsonb
  sql, volatile, set search_path="";  -- 42a2a6078bbeeb07
  grant execute to authenticated;

-- Images of yours that are most like one of them, nearest first: image_id and cosine distance; none that is archived. Empty where it was not looked at yet.
create function public.search_similar_images(p_image_id uuid, p_limit integer DEFAULT 10) returns jsonb
  plpgsql, stable, set search_path="";  -- 24b9dd9cada28b51
  grant execute to authenticated;

-- Shows the branch of a conversation that a message is on, to its newest end.
create function public.select_branch(p_id uuid, p_message_id uuid) returns jsonb
  sql, volatile, set search_path="";  -- 7b9b6a0d81e6cfba
  grant execute to authenticated;

-- Buys a pack whenever your available credits, or those of an organization you administer, fall under a threshold; p_is_enabled false stops it.
create function public.set_auto_top_up(p_threshold numeric, p_pack text, p_max_per_day integer DEFAULT 1, p_is_enabled boolean DEFAULT true, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- 2b8a7f16a85a568f
  grant execute to authenticated;

-- Sets below how many credits you are told that your balance is low, or that of an organization you administer; null for never.
create function public.set_low_balance_threshold(p_threshold numeric, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- fce7257775f53c7d
  grant execute to authenticated;

-- Limits what a member may spend of the organization's credits per calendar month (UTC); null for no limit. Owners and admins; an owner's only by owners.
create function public.set_member_budget(p_organization_id uuid, p_user_id uuid, p_budget numeric) returns jsonb
  sql, volatile, set search_path="";  -- 5160b549023f928c
  grant execute to authenticated;

-- Sets your monthly budget in credits, or that of an organization you administer; null lifts it.
create function public.set_monthly_budget(p_budget numeric, p_organization_id uuid DEFAULT NULL::uuid) returns jsonb
  sql, volatile, set search_path="";  -- b8491f28c17251fd
  grant execute to authenticated;

-- Computed field: the organization's customer at Stripe, for its admins; null for other members, and before the first checkout.
create function public.stripe_customer_id(p_organization public.organizations) returns text
  sql, stable, set search_path="";  -- e043441d5c5f56b9
  grant execute to authenticated;

-- Prompts for you, surest first: like the one that you type, or else what you draw and mark most. Use the id as suggestion_id of a generation.
create function public.suggest_prompts(p_prompt text DEFAULT NULL::text, p_limit integer DEFAULT 10) returns jsonb
  sql, volatile, set search_path="";  -- 649cc5b2664442a6
  grant execute to authenticated;

-- Computed field: credits the key has spent, ever.
create function public.total_credits(p_key public.api_keys) returns numeric
  sql, stable, set search_path="";  -- 54de777a59376ada
  grant execute to authenticated;

-- Computed field: requests of the key that were accepted, ever.
create function public.total_requests(p_key public.api_keys) returns bigint
  sql, stable, set search_path="";  -- 0ae243cbc116b2ac
  grant execute to authenticated;

-- Computed field: tokens the key has used, ever.
create function public.total_tokens(p_key public.api_keys) returns bigint
  sql, stable, set search_path="";  -- fbaef1531d9a4447
  grant execute to authenticated;

-- Changes an agent of yours, or of an organization you administer; what is not named stays.
create function public.update_agent(p_id uuid, p_changes jsonb) returns jsonb
  sql, volatile, set search_path="";  -- 3063537430fa8acc
  grant execute to authenticated;

-- Changes a key's name, scopes, limits, budget or expiry; null lifts a limit. Answers with the key.
create function public.update_api_key(p_id uuid, p_changes jsonb) returns jsonb
  sql, volatile, set search_path="";  -- 69a3cef08e885717
  grant execute to authenticated;

-- Changes title, status (active, archived), is_shared, agent_id, model, system_prompt, documents, or the branch that is shown (head_message_id). Members who write in a shared conversation may change the first and the last; the rest is its author's and the admins'.
create function public.update_conversation(p_id uuid, p_changes jsonb) returns jsonb
  sql, volatile, set search_path="";  -- cb0007b16c35566e
  grant execute to authenticated;

-- Changes the name or the settings (replaced as a whole); null leaves either as it is. Owners and admins.
create function public.update_organization(p_organization_id uuid, p_name text DEFAULT NULL::text, p_settings jsonb DEFAULT NULL::jsonb) returns jsonb
  sql, volatile, set search_path="";  -- e74f738f40cd63b1
  grant execute to authenticated;

-- What you used from one day (UTC) to another, whoever paid, or what an organization you administer did: by day, month, user, organization, api_key, provider_key, model, provider, action or credential. This month by default; at most 366 days and 1,000 rows, go on with next_after.
create function public.usage_report(p_from date DEFAULT NULL::date, p_to date DEFAULT NULL::date, p_group_by text DEFAULT 'day'::text, p_organization_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100, p_after text DEFAULT NULL::text) returns jsonb
  sql, stable, set search_path="";  -- 8a835bc4e756d938
  grant execute to authenticated;

-- What you have drawn, as of the last refresh: total_prompts, total_images, avg_nsfw_score, preferred_styles, common_subjects.
create function public.user_generation_stats() returns jsonb
  sql, stable, set search_path="";  -- ddb8453f536f39df
  grant execute to authenticated;

-- See public.accept_invitation.
create function private.accept_invitation(p_token text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 04b81793e9682f60
  grant execute to authenticated;

-- The account that pays: the organization's when one is given, else the user's; 404 account_not_found.
create function private.account_id(p_user_id uuid, p_organization_id uuid) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- 5e3072856ca73d2d

-- Balance, held, available and debt of an account, as JSON.
create function private.account_summary(p_account_id uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 77e39a49a10b1fc2

-- The caller, or null for nobody and for suspended people. Policies write (select private.active_user_id()), which runs once per statement.
create function private.active_user_id() returns uuid
  sql, stable, security definer, set search_path="";  -- 5c22c42269585cfe
  grant execute to authenticated;

-- Who asks for something that costs nothing: private.caller, and the person is active (403 account_suspended).
create function private.actor(p_user_id uuid, p_key_hash text, p_scope text, p_organization text) returns private.caller
  plpgsql, stable, security definer, set search_path="";  -- 63c46b9e7b1abe08

-- Inserts a lot and keeps the account's next expiry true.
create function private.add_lot(p_account_id uuid, p_source text, p_amount numeric, p_remaining numeric, p_priority integer, p_expires_at timestamp with time zone, p_reason text, p_reference text, p_paid_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_metadata jsonb DEFAULT '{}'::jsonb, p_stands_in_for uuid DEFAULT NULL::uuid) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- 8cb6a43b17539102

-- Counts requests that were not counted before.
create function private.add_usage(p_changes private.usage_change[]) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 392429cb84903bca

-- Trigger: what has to be true before anything is drawn. Membership, capabilities, price, limits and the hold; then the task is queued.
create function private.admit_generation() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- a62cd60da3ee8ddd

-- An agent as the caller may see it: with its system prompt only for those who may change it.
create function private.agent_json(p_caller private.caller, p_agent public.agents) returns jsonb
  sql, stable, security definer, set search_path="";  -- 356e9d20bb62f970

-- What a chat model has made before of prompts that are like this one, or lately.
create function private.ai_prompts(p_user_id uuid, p_prompt text) returns SETOF private.offered_prompt
  plpgsql, stable, security definer, set search_path="";  -- 5cd33e8be75da380

-- Trigger: a plan has begun or its end has moved, so the thresholds of its account are computed anew.
create function private.aim_at_new_plan() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- cfb4eed3639e5acf

-- The account with its next thresholds ahead of its counters, by the plan and the budget it has now. What a change of plan or budget leaves behind is not told: only use crosses a threshold.
create function private.aim_thresholds(p_account public.credit_accounts) returns public.credit_accounts
  plpgsql, stable, security definer, set search_path="";  -- 235bd183ee53b906

-- What happened, for people, in French or English; {words} are replaced by the facts of that name.
create function private.alert_message(p_type text, p_language text, p_facts jsonb) returns text
  plpgsql, immutable, set search_path="";  -- c0b9c298b67698dc

-- Tells workers after the commit that there is something to do. Only a hint: they look by themselves too.
create function private.announce_task(p_kind text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- f3f82ba84de110b9

-- Under which key an answer is kept. The tenant is part of it: who reads other libraries gets another answer.
create function private.answer_key(p_tool text, p_tenant uuid[], p_asked jsonb) returns text
  plpgsql, stable, set search_path="";  -- ff045bd3193343a5

-- Tokens of an answer for which none were asked: the wish (an agent's), as far as every model, its window, the balance, the budgets and the plan allow.
create function private.answer_limit(p_account public.credit_accounts, p_limits private.hold_limits, p_models text[], p_credential text, p_prompt_bound integer, p_prompt_estimate integer, p_wish integer) returns integer
  plpgsql, stable, security definer, set search_path="";  -- 6193306191b04401

-- How many tokens an answer may have that was asked for with this many.
create function private.answer_tokens(p_tokens integer) returns integer
  plpgsql, stable, security definer, set search_path="";  -- 8cee71c43169620e
  grant execute to authenticated;

-- What a key may still spend this month; null for no limit.
create function private.api_key_budget_left(p_api_key_id uuid) returns numeric
  plpgsql, stable, security definer, set search_path="";  -- 2f5813b4d21ef081

-- The end of a hold for the key that asked for it: what it held comes back, what it spent counts. A key that is gone counts nothing.
create function private.api_key_give_back(p_api_key_id uuid, p_was_active boolean, p_held numeric, p_tokens_held bigint, p_spent numeric, p_tokens bigint, p_created_at timestamp with time zone) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 6c548fb77402287f

-- What is kept of a secret.
create function private.api_key_hash(p_key text) returns text
  sql, immutable, set search_path="";  -- be5e668df69fb033

-- A key as its owner is answered.
create function private.api_key_json(p_key public.api_keys) returns jsonb
  sql, stable, security definer, set search_path="";  -- 5e5774dbff5cc5f3

-- Counts a request against a key's own limits; 429 rate_limited, too_many_concurrent_requests. What RateLimit headers tell, null without a limit. The account is locked.
create function private.api_key_take(p_api_key_id uuid, p_amount numeric, p_tokens bigint, p_now timestamp with time zone) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4e27bfe9fb493e31

-- What a key of the caller, or of an organization they administer, has used; null for others.
create function private.api_key_usage(p_api_key_id uuid) returns private.api_key_states
  sql, stable, security definer, set search_path="";  -- 2e6ebdf32247b7b0
  grant execute to authenticated;

-- Gives an owner the largest plan that their subscriptions give now, or none. The owner is locked by the caller or by this update.
create function private.apply_entitlement(p_user_id uuid, p_organization_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 976ce6a88990af6f

-- Has a worker cancel a subscription at Stripe whose owner is gone. The task knows its id and nothing of a person.
create function private.ask_end_of_subscription(p_stripe_subscription_id text) returns void
  sql, volatile, security definer, set search_path="";  -- 6d8246fce99168ff

-- Has a library crawled for its owner, at most once in library_refresh_min_seconds, and library_crawls_per_day of all; 429 rate_limited.
create function private.ask_for_crawl(p_library public.libraries) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 65a0e9e84b309f3e

-- Asks for a look at whether an account is to be topped up, unless one was asked for. The caller has locked the account.
create function private.ask_top_up(p_account_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- d0253ef0ec0648bb

-- The model at what it costs in credits where the customer's own key pays the provider: byok_fee_percent of its price.
create function private.at_own_price(p_model public.models) returns public.models
  plpgsql, stable, security definer, set search_path="";  -- f999c51413814acf

-- Balance, this month's use and the next 100 lots to be spent of an account, as JSON.
create function private.balance_of(p_account_id uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- 3e33476926810259

-- The lowest so many digits of a number to the base 62: 0-9, A-Z, a-z.
create function private.base62(p_number numeric, p_digits integer) returns text
  plpgsql, immutable, set search_path="";  -- 2e846c1c8cdd168e

-- The largest plan that an owner's subscriptions give now, until when, and by which of them; nulls for none.
create function private.best_entitlement(p_user_id uuid, p_organization_id uuid, OUT plan_id uuid, OUT until timestamp with time zone, OUT status text, OUT started_at timestamp with time zone, OUT current_period_end timestamp with time zone) returns record
  plpgsql, stable, security definer, set search_path="";  -- c7f96f01284cec43

-- The newest messages of a branch, up to one, that fit into so many tokens by estimate, oldest first; and what they weigh. Images only for models that see.
create function private.branch_context(p_conversation_id uuid, p_from uuid, p_budget integer, p_sees boolean, OUT messages jsonb, OUT bound bigint, OUT estimate bigint) returns record
  plpgsql, stable, security definer, set search_path="";  -- 35b0af7789670ff2

-- From a message to the newest end of the branch it is on; 404 message_not_found.
create function private.branch_end(p_conversation_id uuid, p_message_id uuid) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- 948270e351fc5f29

-- What a message asks of which model: the system prompt (the agent's, else the conversation's), as much of the branch as fits, and the message, with passages of documents before it. 400 context_length_exceeded where the message alone does not fit.
create function private.build_prompt(p_caller private.caller, p_conversation public.conversations, p_agent public.agents, p_message public.messages, p_models text[], p_max_tokens integer, p_parameters jsonb, p_passages jsonb DEFAULT NULL::jsonb, p_mark text DEFAULT NULL::text) returns private.prompt
  plpgsql, stable, security definer, set search_path="";  -- 2ef50a3710abe031

-- Who asks: a person by id, or the owner of an API key by the key's hash, for an organization (id or slug) or for themselves. 401 invalid_api_key, api_key_revoked, api_key_expired; 403 insufficient_scope, not_a_member, account_suspended; 402 where the plan has no API access.
create function private.caller(p_user_id uuid, p_key_hash text, p_scope text, p_organization text) returns private.caller
  plpgsql, stable, security definer, set search_path="";  -- 876dff58b54af522

-- Calls a generation off and returns what was held for it; again: no change. 409 generation_ended.
create function private.cancel_generation(p_generation public.image_generations) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9c20a8332746737d

-- Calls one of the caller's generations off; 404 generation_not_found.
create function private.cancel_my_generation(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5f77697d179244c8
  grant execute to authenticated;

-- A model that may answer as functions/ takes it, with the sealed keys that may be shown for it.
create function private.candidate_json(p_candidate private.candidate, p_terms private.chat_terms) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- c67f9501907b03e2

-- Which chunks are looked at for a question, about 1,000 of so many: those that have one of its rarest words, or two of its words, or all. Null without a word.
create function private.candidate_query(p_terms private.search_term[], p_chunks bigint) returns tsquery
  plpgsql, immutable, set search_path="";  -- 2d5f51e2e144cf6a

-- As chat_terms, for whoever may pay: credits worst case, own keys their fee. The terms say which credentials they cover.
create function private.candidate_terms(p_candidate private.candidate, p_limits private.hold_limits, p_prompt_tokens integer, p_prompt_estimate integer, p_max_tokens integer, p_choices integer) returns private.chat_terms
  plpgsql, stable, security definer, set search_path="";  -- 75707f038bc281b2

-- See public.change_member_role.
create function private.change_member_role(p_organization_id uuid, p_user_id uuid, p_role text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bb89decb9f5cec17
  grant execute to authenticated;

-- Money given back for a charge, in minor units, without refunds that failed.
create function private.charge_refunded(p_charge jsonb) returns bigint
  sql, immutable, set search_path="";  -- a0009fd196b853a9

-- The models a completion may come from, in the order in which they are tried; 404 model_not_found for one that is not on offer.
create function private.chat_candidates(p_models text[]) returns SETOF public.models
  plpgsql, stable, security definer, set search_path="";  -- 000e8a66f17ce178

-- Fixes the prices of every model that may answer, holds the worst case and starts the usage row; the same request again: the same hold. The account is locked.
create function private.chat_hold(p_caller private.caller, p_account public.credit_accounts, p_limits private.hold_limits, p_request_id uuid, p_models text[], p_prompt_tokens integer, p_prompt_estimate integer, p_max_tokens integer, p_choices integer, p_credential text, p_usage jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 098131319cbce080

-- The output limit to send upstream and the worst case it leads to, from a bound of the prompt (credits) and an estimate of it (the plan's tokens; null: the bound). 400 invalid_argument for a limit the model cannot have.
create function private.chat_terms(p_model public.models, p_limits private.hold_limits, p_prompt_tokens integer, p_prompt_estimate integer, p_max_tokens integer, p_choices integer) returns private.chat_terms
  plpgsql, stable, security definer, set search_path="";  -- 9af353b3762d06f3

-- A checkout of a subscription as the Python side sees it; superseded_session_ids are pages of the same owner that must be ended before this one is shown.
create function private.checkout_json(p_checkout private.subscription_checkouts) returns jsonb
  sql, stable, security definer, set search_path="";  -- 0a4e046902ae4e18

-- SHA-256 of what the vector of a chunk is made of.
create function private.chunk_hash(p_title text, p_headings text[], p_content text) returns text
  plpgsql, stable, set search_path="";  -- 1af51f97b62336e9

-- Chunks that were found, as they are answered: none twice, neighbours as one passage, and all within a number of tokens. As the caller, so that row level security decides what is read.
create function private.chunks_answer(p_hits private.search_hit[], p_tokens integer, p_limit integer) returns jsonb
  plpgsql, stable, set search_path="";  -- 6a2692c4ff481bf6
  grant execute to authenticated;

-- Citations of an answer, each with whether its number is in the answer's text.
create function private.cited(p_citations jsonb, p_content text) returns jsonb
  plpgsql, immutable, set search_path="";  -- b52da97cdc29ae25

-- Brings the credits taken back from a lot to the share of its price that was refunded or is disputed; what more is taken switches the automatic top-up off. The owner is locked.
create function private.claw_back_share(p_lot_id uuid, p_paid_minor bigint, p_refunded_minor bigint, p_disputed_minor bigint, p_reference text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9117eb4825c795f8

-- Trigger: whoever deletes a generation that is being made calls it off.
create function private.clear_up_generation() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 1e3206c8afc186a2

-- Trigger: with an image go its object and its thumbnail.
create function private.clear_up_image() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 0deb46678ce9c3e9

-- Moves a member's and an API key's share of a finished hold from held to spent.
create function private.close_hold(p_hold private.credit_holds, p_organization_id uuid, p_spent numeric, p_tokens bigint) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 0b4a637fff8f290f

-- Names of code in a text: dotted ones, snake_case and camelCase; at most 400.
create function private.code_names(p_text text) returns text[]
  plpgsql, immutable, set search_path="";  -- fd17cf30c879ae4a

-- What a hold kept from happening, once it is over: debt is repaid, then lots past their date expire.
create function private.come_off_hold(p_account public.credit_accounts) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 643c7437da6376c8

-- Styles that come with what is drawn in public these days: added to a prompt that names such a subject, or to the subject itself.
create function private.community_prompts(p_prompt text, p_is_relaxed boolean) returns SETOF private.offered_prompt
  plpgsql, stable, security definer, set search_path="";  -- 4ae2ba664b9037e0

-- A conversation as its readers are answered.
create function private.conversation_json(p_conversation public.conversations) returns jsonb
  sql, stable, set search_path="";  -- cf89e1586b7eb6ce

-- The last messages of the branch that is shown, oldest first, with the branches at each place; next is what to ask for those before, null at the beginning.
create function private.conversation_thread(p_conversation public.conversations, p_limit integer, p_before uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 666372ff4dfdebb5

-- Trigger: counts the tokens of an answer that has ended.
create function private.count_changed_message() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- f8a308c74ac2ddcc

-- Trigger: a usage row that is deleted by itself takes back what it counted for.
create function private.count_deleted_usage() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 5d4897114a1ad696

-- Trigger: counts requests that end, and what changes of those that had ended.
create function private.count_finished_usage() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 3b132a467904802e

-- Trigger: counts messages that were deleted.
create function private.count_gone_messages() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 80a53e3000821ac4

-- Trigger: counts usage rows that are written when all is over.
create function private.count_inserted_usage() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 596fb598a514aff5

-- Sums the versions of a library that can be searched.
create function private.count_library(p_library_id text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 30f9ef90cd87931b

-- Trigger: counts messages that were added.
create function private.count_new_messages() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- a2b1f194d306432b

-- How many rows every table of the catalogue has of a person.
create function private.count_person_rows(p_scope private.person_scope) returns TABLE(table_schema text, table_name text, erasure text, erased_by text, row_count bigint)
  plpgsql, stable, security definer, set search_path="";  -- 4d6799329c5da67f

-- Counts what readers see of a version.
create function private.count_version(p_version_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 145d6191e9436cfc

-- Key of the task that crawls a library: another one for another source, so that no crawl of the old one stands for it.
create function private.crawl_key(p_library public.libraries) returns text
  plpgsql, immutable, set search_path="";  -- b787093d47e7910a

-- Has a library crawled after this transaction, once.
create function private.crawl_library(p_library_id text) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- f12df9de9c9d1073

-- Locks a library for a crawl of this source; null for whichever it has. 404 library_not_found, 409 crawl_superseded.
create function private.crawled_library(p_library_id text, p_source_id uuid) returns public.libraries
  plpgsql, volatile, security definer, set search_path="";  -- 12d2bd1ff078dfce

-- Locks a version for its crawl. 404 library_version_not_found; 409 crawl_superseded for a crawl that is not the one that goes on.
create function private.crawled_version(p_version_id uuid, p_crawl integer, p_is_ending boolean) returns public.library_versions
  plpgsql, volatile, security definer, set search_path="";  -- 7e4ca1471b142d74

-- CRC-32 of a text in UTF-8, as zlib reckons it.
create function private.crc32(p_text text) returns bigint
  plpgsql, immutable, set search_path="";  -- 98dfd8119ba48d59

-- Makes an agent of the caller, or of the organization they act for; 402 plan_limit_reached.
create function private.create_agent(p_caller private.caller, p_values jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 635bc63d2017d6e8

-- See public.create_api_key.
create function private.create_api_key(p_values jsonb, p_organization_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- e8457e8fed6d3afc
  grant execute to authenticated;

-- Begins a conversation of the caller, paid by the organization they act for, or by themselves.
create function private.create_conversation(p_caller private.caller, p_values jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- f82e32dec46969ba

-- See public.create_agent.
create function private.create_my_agent(p_values jsonb, p_organization_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 33ab871102d4020f
  grant execute to authenticated;

-- See public.create_conversation.
create function private.create_my_conversation(p_values jsonb, p_organization_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 79cda5da4ca28029
  grant execute to authenticated;

-- See public.create_organization.
create function private.create_organization(p_name text, p_slug text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 3f080667693919cd
  grant execute to authenticated;

-- Creates the partition of a month (UTC) unless it is there; whether it did.
create function private.create_usage_partition(p_month timestamp with time zone) returns boolean
  plpgsql, volatile, security definer, set search_path="";  -- b832ab4e24b481e5

-- Brings the total taken back from a lot to p_target credits: more takes the difference, except what expired unspent, into debt where it was spent; less gives it back. A target, so repeating it changes nothing.
create function private.credit_claw_back(p_lot_id uuid, p_target numeric, p_reason text, p_reference text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 395f7c51087f37c5

-- Expires lots of up to p_limit accounts that are due; how many accounts lost credits.
create function private.credit_expire(p_limit integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- ce5b47405d07be30

-- Moves an active hold's deadline to p_seconds from now, never earlier than it was and never past the longest life of a hold.
create function private.credit_extend(p_hold_id uuid, p_seconds integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2123eb5470993b64

-- Adds a lot of credits, repaying debt first. Same key, same result; same key with another amount, source, priority or payment, or another expiry where it is fixed, is a 409.
create function private.credit_grant(p_account_id uuid, p_amount numeric, p_source text, p_idempotency_key text, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_priority integer DEFAULT 100, p_reason text DEFAULT NULL::text, p_reference text DEFAULT NULL::text, p_paid_minor bigint DEFAULT NULL::bigint, p_currency text DEFAULT NULL::text, p_metadata jsonb DEFAULT '{}'::jsonb, p_is_expiry_fixed boolean DEFAULT false) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1249de442518897b

-- Reserves credits before work starts. Same key and arguments: the same hold, or a fresh one where it was released.
create function private.credit_hold(p_user_id uuid, p_organization_id uuid, p_amount numeric, p_idempotency_key text, p_action text, p_seconds integer DEFAULT NULL::integer, p_tokens bigint DEFAULT 0, p_terms jsonb DEFAULT '{}'::jsonb, p_usage jsonb DEFAULT '{}'::jsonb) returns private.credit_holds
  plpgsql, volatile, security definer, set search_path="";  -- a9cb2b47a508fbfb

-- Returns up to p_limit holds past their deadline; how many it returned.
create function private.credit_reap(p_limit integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- 81f616f6b4b13c4f

-- Gives back part or all of a settlement: debt first, then the lots it came from, a new lot with a grace period for those that expired.
create function private.credit_refund(p_hold_id uuid, p_amount numeric, p_idempotency_key text, p_reason text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 67525296ebec02c0

-- Returns a hold without a charge and finalizes its usage row; the request is none of the month's unless it expired or p_is_counted. Again: no change. Settled: 409 hold_already_settled.
create function private.credit_release(p_hold_id uuid, p_reason text, p_status text DEFAULT 'released'::text, p_usage jsonb DEFAULT '{}'::jsonb, p_is_counted boolean DEFAULT false) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c30f6ee34c62d014

-- Charges what the work cost, at most what was held, and finalizes its usage row. After the reaper it still charges, once, into debt if need be.
create function private.credit_settle(p_hold_id uuid, p_amount numeric, p_tokens bigint DEFAULT 0, p_usage jsonb DEFAULT '{}'::jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a51e9deb5ff1f18c

-- What the owner of an account pays with at Stripe unless they choose; null for nothing.
create function private.default_payment_method_id(p_account_id uuid) returns text
  sql, stable, security definer, set search_path="";  -- e646f9426b735ac5

-- Deletes an agent; its conversations go on without it.
create function private.delete_agent(p_caller private.caller, p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 8cbfa4088a2e25b4

-- Makes a conversation invisible; a cron step purges it after the retention.
create function private.delete_conversation(p_caller private.caller, p_conversation public.conversations) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- db14ab19bc21f1de

-- See public.delete_agent.
create function private.delete_my_agent(p_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- c95d1c310e7b5102
  grant execute to authenticated;

-- See public.delete_conversation.
create function private.delete_my_conversation(p_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- acb9a57b7486a476
  grant execute to authenticated;

-- Trigger: a person's own agents go with them; those of organizations stay, without an author.
create function private.delete_personal_agents() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- d246c10e07eccdde

-- Trigger: a person's conversations go with them, messages and all; what they shared with an organization stays there without their name.
create function private.delete_personal_conversations() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 6ae275356442db9e

-- Trigger: a person's own documents go with them; those of organizations stay, without an author.
create function private.delete_personal_documents() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 2aff80da012ef986

-- What the API's roles may do in backend and private that they should not; sql/checks say more.
create function private.deployment_openings() returns jsonb
  sql, stable, security definer, set search_path="";  -- 8adff6b8d26d5e19

-- statement_timeout of the roles that the API and the functions log in as; null where a role sets none.
create function private.deployment_timeouts() returns jsonb
  sql, stable, security definer, set search_path="";  -- 2d63b6129ec6df82

-- Switches a locked endpoint off and tells its owner.
create function private.disable_webhook_endpoint(p_endpoint public.webhook_endpoints, p_reason text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 7496aa9d73c370a7

-- Documents as a client names them: ids, each once, "all", or null for none; 400 invalid_argument.
create function private.document_choice(p_value jsonb) returns jsonb
  plpgsql, stable, set search_path="";  -- cd4c9ce1d1274b64

-- A document as it is answered.
create function private.document_json(p_document public.documents) returns jsonb
  plpgsql, stable, set search_path="";  -- 7c7307258f8ba4d6

-- What of a chunk is searched for. Whose it is is among it, so that the index looks at nobody else's.
create function private.document_words(p_chunk public.document_chunks, p_name text) returns tsvector
  plpgsql, immutable, set search_path="";  -- a6cd8a9d51f430e7

-- The versions that a question is about: the one named, as /organization/project/version or beside it, else the latest; without a library the latest of all. Or why there is none, with the HTTP status that says so.
create function private.documentation_scope(p_organizations uuid[], p_library text, p_version text) returns jsonb
  plpgsql, stable, set search_path="";  -- c7ec8febd7c70859
  grant execute to authenticated;

-- What of a chunk is searched for. The version is among it, so that the index looks at no other's chunks.
create function private.documentation_words(p_chunk public.documentation_chunks) returns tsvector
  plpgsql, immutable, set search_path="";  -- cf4cedc261023d68

-- Chunks that were found, as they are answered: with document and pages to cite, none twice, neighbours on a page as one passage, within a number of tokens. As the caller, so that row level security decides what is read.
create function private.documents_answer(p_hits private.search_hit[], p_tokens integer, p_limit integer) returns jsonb
  plpgsql, stable, set search_path="";  -- 759cb20ed3cf3d2e
  grant execute to authenticated;

-- Drops at most p_limit months past usage_months, oldest first, except those with a request in flight; how many. Waits p_lock_ms for its lock, and whoever comes later waits behind it no longer than that; then 503 partition_in_use.
create function private.drop_usage_partitions(p_limit integer, p_lock_ms integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- 3d0518b418800800

-- Locks an agent the caller may change; 403 not_the_author for other members of its organization, 404 agent_not_found for everybody else.
create function private.editable_agent(p_caller private.caller, p_agent_id uuid) returns public.agents
  plpgsql, volatile, security definer, set search_path="";  -- 28a7c298853847f7

-- Whether the caller may change an agent, and so read its system prompt: its author, an admin of its organization, or that organization's API key.
create function private.edits_agent(p_caller private.caller, p_agent public.agents) returns boolean
  sql, stable, security definer, set search_path="";  -- ee88410ae76018a1

-- Why a person is not written to, as a code; null when they are.
create function private.email_refusal(p_profile public.profiles, p_is_transactional boolean) returns text
  sql, immutable, set search_path="";  -- 95673bdbd3c2a0b6

-- Has a worker cancel the subscriptions of an owner who is going, and end the pages on which they could still pay.
create function private.end_billing_of(p_user_id uuid, p_organization_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- f5adff87b816a8b6

-- Trigger: before an owner goes, has what they pay for ended at Stripe.
create function private.end_billing_of_leaver() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 43a28b341e391562

-- Trigger: an organization whose last member was erased pays for nothing any more. One that an operator suspends has members, and goes on.
create function private.end_billing_of_the_deserted() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- b6eaf7f98962c0b0

-- Trigger: a crawl ends with its task, however that ends. What the task itself has ended is left alone.
create function private.end_crawl_of_task() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 0034ea90c459def0

-- Ends a locked generation, whose account is locked too: its state, the free images it did not use, the files it may have left, and the news.
create function private.end_generation(p_generation public.image_generations, p_status text, p_error_code text, p_error_message text, p_free_images integer, p_credits numeric) returns public.image_generations
  plpgsql, volatile, security definer, set search_path="";  -- 33ef5ac77ec25fb2

-- Trigger: a generation ends with its task, however that ends. What the task itself has ended is left alone.
create function private.end_generation_of_task() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- f554f86041c144d9

-- Trigger: an index ends with its task, however that ends. What the task itself has ended is left alone.
create function private.end_index_of_task() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 80cfd0bcf84bc5cf

-- Trigger: with a version goes its snapshot.
create function private.end_library_version() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 283aa483379bbf91

-- Has a worker execute an erasure.
create function private.enqueue_erasure(p_id uuid) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- 9d73cb49f5ab6ed3

-- Creates the partitions of this month and the next p_months_ahead ones; how many were new. 503 partition_in_use.
create function private.ensure_usage_partitions(p_months_ahead integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- a0c33a037d63d1fd

-- A conversation and who asks for it, on whose account; 404 conversation_not_found for a stranger's as for none.
create function private.enter_conversation(p_user_id uuid, p_key_hash text, p_conversation_id uuid, p_is_deleted boolean DEFAULT false, OUT caller private.caller, OUT conversation public.conversations) returns record
  plpgsql, stable, security definer, set search_path="";  -- 8d0d07179356eff0

-- Locks the organization for a change by the caller, who must have one of the roles, and returns the caller's role.
create function private.enter_organization(p_organization_id uuid, p_roles text[]) returns text
  plpgsql, volatile, security definer, set search_path="";  -- c2b6bd9891d0ac75

-- Deletes up to so many rows of a person in one table of the catalogue, or empties them; the number.
create function private.erase_rows(p_table private.personal_tables, p_scope private.person_scope, p_limit integer) returns bigint
  plpgsql, volatile, security definer, set search_path="";  -- 38a7db9c98671b3a

-- An erasure as its person sees it.
create function private.erasure_json(p_erasure private.erasures) returns jsonb
  plpgsql, stable, set search_path="";  -- 07b6fe345a834a38

-- What the person had when the execution began, for the predicates of the catalogue.
create function private.erasure_scope(p_erasure private.erasures) returns private.person_scope
  plpgsql, immutable, set search_path="";  -- 587b59ec731338d6

-- Gives one generation up; whether there was something to give up.
create function private.expire_generation(p_id uuid, p_task_id uuid) returns boolean
  plpgsql, volatile, security definer, set search_path="";  -- 216c23e480be33e6

-- Expires what is left of lots past their date, except what is on hold; returns the credits expired.
create function private.expire_lots(p_account_id uuid) returns numeric
  plpgsql, volatile, security definer, set search_path="";  -- f485118c2716aaa2

-- Makes a task's hold last p_seconds from now and a grace; says until when, null when there is none or it is closed.
create function private.extend_task_hold(p_hold_id uuid, p_seconds numeric) returns timestamp with time zone
  plpgsql, volatile, security definer, set search_path="";  -- d950b5c82c0535e3

-- Raises a business error: SQLSTATE PT<status>, which PostgREST answers as that HTTP status, and a stable code with its facts as JSON in DETAIL.
create function private.fail(p_status integer, p_code text, p_message text, p_facts jsonb DEFAULT '{}'::jsonb) returns void
  plpgsql, immutable, set search_path="";  -- 0e69667fb5028705

-- Says why a library could not be crawled. What is served stays, and is crawled again when its time comes.
create function private.fail_library(p_library_id text, p_error_code text, p_error_message text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- e5002f71e9af6e02

-- Why nobody may pay for a model: 404 model_not_found, 402 provider_key_required, 401 provider_key_rejected.
create function private.fail_unpayable(p_provider text, p_own_keys jsonb, p_credential text) returns void
  plpgsql, stable, set search_path="";  -- 0ffedfaab06b98f5

-- Ends the crawl of a version that is locked, with its library: why, for people.
create function private.fail_version(p_version public.library_versions, p_error_code text, p_error_message text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 00ea178a7c70787f

-- Every name that an image of a generation, or its thumbnail, can have in its folder.
create function private.file_names(p_outputs integer) returns SETOF text
  plpgsql, immutable, set search_path="";  -- 7803a1936310f066

-- Chunks of these versions that answer a question: ranked by words and by vectors, fused by reciprocal rank (k = 10), best first. Whoever calls has seen to it that the versions are the caller's to read.
create function private.find_chunks(p_version_ids uuid[], p_query text, p_embedding jsonb, p_embedding_model text, p_content_type text, p_flagged text) returns private.search_hit[]
  plpgsql, volatile, security definer, set search_path="";  -- ac444f9c74d48387

-- Chunks that answer a question, among the documents of a person and of organizations; document ids only narrow it. Words and vectors fused as in private.find_chunks.
create function private.find_documents_chunks(p_user_id uuid, p_organizations uuid[], p_document_ids uuid[], p_query text, p_embedding jsonb, p_embedding_model text, p_flagged text) returns private.search_hit[]
  plpgsql, volatile, security definer, set search_path="";  -- 6f4061d6d7d7815d

-- A message of an id that the client chose, and its newest answer that did not fail; 409 idempotency_conflict for an id of another message.
create function private.find_message(p_conversation public.conversations, p_message_id uuid, p_content text, p_parts jsonb, OUT message public.messages, OUT answer public.messages) returns record
  plpgsql, volatile, security definer, set search_path="";  -- ef29b7971973cfec

-- private.find_chunks, of those versions that the caller may read.
create function private.find_my_chunks(p_version_ids uuid[], p_query text, p_embedding jsonb, p_embedding_model text, p_content_type text, p_flagged text) returns private.search_hit[]
  plpgsql, volatile, security definer, set search_path="";  -- 1144264f6b7c9bd5
  grant execute to authenticated;

-- private.find_documents_chunks, among what the caller may read.
create function private.find_my_documents_chunks(p_document_ids uuid[], p_query text, p_embedding jsonb, p_embedding_model text, p_flagged text) returns private.search_hit[]
  plpgsql, volatile, security definer, set search_path="";  -- c823926a9ca0caf8
  grant execute to authenticated;

-- What documents of the conversation's tenant say to a question, the best first, within passage_tokens; ids only narrow it.
create function private.find_passages(p_caller private.caller, p_conversation public.conversations, p_ids uuid[], p_question text, p_embedding jsonb, p_embedding_model text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- daa61997582b83ca

-- Public agents, newest first, by words of name and description: the columns that everybody may see, and no other.
create function private.find_public_agents(p_query text, p_limit integer, p_after uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- adc5cd01b050f69b

-- The transaction that this key already wrote, if any; 409 idempotency_conflict when its arguments were others.
create function private.find_replay(p_account_id uuid, p_operation text, p_idempotency_key text, p_fingerprint text) returns public.credit_transactions
  plpgsql, stable, security definer, set search_path="";  -- 0c676a9520787416

-- Locks an endpoint of the person or of an organization they administer; to anybody else it does not exist (404 webhook_endpoint_not_found).
create function private.find_webhook_endpoint(p_user_id uuid, p_endpoint_id uuid) returns public.webhook_endpoints
  plpgsql, volatile, security definer, set search_path="";  -- b53f5b23fa576b02

-- Finalizes the usage row of a hold.
create function private.finish_usage(p_hold private.credit_holds, p_credits numeric, p_usage jsonb) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 80c08a2a7d35908e

-- What is asked for, compared with what the model can do, with the model's defaults filled in. 400 unsupported_parameter, invalid_argument.
create function private.fitted_generation(p_generation public.image_generations, p_model public.models) returns public.image_generations
  plpgsql, stable, set search_path="";  -- b2950e4e178e75e4

-- Trigger on auth.users: keeps the profile.
create function private.follow_auth_change() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- a5c3b5149c2ac527

-- Makes or updates the profile of an auth user. Takes names and picture at sign-up only, and nothing in the metadata can make it fail.
create function private.follow_auth_user(p_user auth.users) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 05f7e52ff7e09be0

-- Trigger: read_at says when an alert was first marked read, and nothing once it is unread again.
create function private.follow_is_read() returns trigger
  plpgsql, volatile, set search_path="";  -- 0fd4e3a0978917f0

-- Trigger: a profile's subscription_tier is the slug of its plan.
create function private.follow_plan() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- f70b9a6c5db7d890

-- Trigger: with a document goes its file.
create function private.forget_document_file() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 92cb477269044c1b

-- Has objects of the bucket "images" deleted after this transaction; those that are not there do no harm.
create function private.forget_files(p_paths text[]) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 859122807741409f

-- Trigger: with the last generation of a prompt goes the suggestion that repeats it.
create function private.forget_history_suggestion() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- e83a1b84d034a255

-- Trigger: with a library goes the archive that was uploaded for it.
create function private.forget_library_archive() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- e21793abbe430f8a

-- Has objects of a bucket deleted after this transaction; those that are not there do no harm.
create function private.forget_objects(p_bucket text, p_paths text[]) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 58d2bb78e839bbbb

-- Trigger: with a change of what libraries are called, where they went or whether they can be searched, answers to resolve-library-id are no longer given again.
create function private.forget_resolved_libraries() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 270c5373b30ab8f6

-- Has an object deleted that somebody may still have an address to upload to: now, and once more when that is no longer good.
create function private.forget_upload(p_bucket text, p_path text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- a118d40524c8c462

-- Forgets IP address and user agent, and what a tool was asked, of at most p_limit requests past usage_address_days, oldest first; how many. What is left says where the next run goes on.
create function private.forget_usage_addresses(p_limit integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- e2ea556d822f8d69

-- Moves what a person, or an organization, used to rows that name nobody. The requests of either can no longer end meanwhile.
create function private.forget_usage_of(p_user_id uuid, p_organization_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 5870dbca7893c6ad

-- Trigger: before an organization goes, takes it out of what it used.
create function private.forget_usage_of_organization() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 26137ee505b0afbe

-- Trigger: before a profile goes, takes it out of what it used. What an account or an organization used stays, without saying who.
create function private.forget_usage_of_user() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- eb7653e89d827c8c

-- Trigger: with an image go the suggestions that describe it.
create function private.forget_vision_suggestions() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 8d17b9f327a13eac

-- Images that the plan still gives this month, for a generation of at most four. The account is locked.
create function private.free_images_left(p_account public.credit_accounts, p_user_id uuid) returns integer
  plpgsql, stable, security definer, set search_path="";  -- 2d1beaef5e8fad7d

-- One step of a rate limit: when its next unit would arrive, and, where it is to be refused, after how many seconds it may come. remaining and reset are for RateLimit headers: units left, seconds until all are.
create function private.gcra(p_next timestamp with time zone, p_now timestamp with time zone, p_limit integer, p_period interval, p_cost bigint, OUT next_at timestamp with time zone, OUT retry_after numeric, OUT remaining bigint, OUT reset integer) returns record
  plpgsql, immutable, set search_path="";  -- eb47ab723531d246

-- Credits for a generation; see private.image_price. 404 model_not_found.
create function private.generation_cost(p_model_id text, p_num_outputs integer, p_width integer, p_height integer, p_steps integer, p_parameters jsonb) returns numeric
  plpgsql, stable, security definer, set search_path="";  -- 12aea67f915b1bd1
  grant execute to authenticated;

-- Digest of what is asked for, before defaults are filled in.
create function private.generation_fingerprint(p_generation public.image_generations) returns text
  plpgsql, immutable, set search_path="";  -- 33491910c24a6030

-- A generation with its images, as functions/ answers it.
create function private.generation_json(p_generation public.image_generations) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 70cb07c2cf1396dd

-- The generation that the same owner asked for with the same key before, unless it failed or was called off: then the key is free again. 409 idempotency_conflict where it was another request. The account is locked.
create function private.generation_of_key(p_generation public.image_generations) returns public.image_generations
  plpgsql, volatile, security definer, set search_path="";  -- 5d1ef2fbd97a6ba9

-- Groups of three letters of several names.
create function private.grams_of(p_names text[]) returns text[]
  plpgsql, immutable, security definer, set search_path="";  -- 5cff22b1efc5a233
  grant execute to authenticated;

-- Grants the welcome credits, once in an account's life.
create function private.grant_signup_credits(p_user_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- d36cc024b98a42bc

-- What a person has had drawn, among their latest 300: what is like the prompt, or else what was drawn and marked most.
create function private.history_prompts(p_user_id uuid, p_prompt text) returns SETOF private.offered_prompt
  plpgsql, stable, security definer, set search_path="";  -- ff988cc0ffedea76

-- Width and height of what is asked for, in pixels: as given, or as the shape leads to them; null where the model decides. Refuses what it cannot draw.
create function private.image_dimensions(p_generation public.image_generations, p_capabilities jsonb, OUT width integer, OUT height integer) returns record
  plpgsql, immutable, set search_path="";  -- c1c2ddf5fd91b190

-- An image, as functions/ answers it: without where its bytes lie.
create function private.image_json(p_image public.generated_images) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- f2f8f17c5f4e49fd

-- Credits for one image: the model's price, times begun megapixels, times steps beyond the usual number, times the factors of quality and resolution.
create function private.image_price(p_model public.models, p_width integer, p_height integer, p_steps integer, p_parameters jsonb) returns numeric
  plpgsql, immutable, set search_path="";  -- b92d26d574a05014

-- Locks a document that this attempt indexes, null for whichever does. 404 document_not_found, 409 document_not_indexing.
create function private.indexed_document(p_id uuid, p_attempt integer) returns public.documents
  plpgsql, volatile, security definer, set search_path="";  -- 1889c823efa4ff89

-- Address and language for an invitation with a new token for its email, which replaces that of an earlier attempt; or the reason why it is not sent.
create function private.invitation_recipient(p_invitation_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 8bf8c5e315457f86

-- See public.invite_member.
create function private.invite_member(p_organization_id uuid, p_email text, p_role text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- dac915205c826ac3
  grant execute to authenticated;

-- Brings the credits taken back from a paid invoice to the share of it that was refunded or is disputed.
create function private.invoice_apply_reversals(p_stripe_invoice_id text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a4030387219b93cc

-- Credits that the lines of an invoice pay for, and when they expire: renewal_grace_days after the last period they pay for, or never. 409 currency_mismatch for a line in another currency than its price.
create function private.invoice_credits(p_lines jsonb, OUT credits numeric, OUT expires_at timestamp with time zone) returns record
  plpgsql, stable, security definer, set search_path="";  -- ae4eedba5fbaf852

-- Grants the credits of a paid invoice, once, keyed on the invoice; they burn before bought ones. Returns the lot, null for none.
create function private.invoice_grant(p_invoice public.invoices, p_expires_at timestamp with time zone) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- 84a31f87883b789f

-- Lines of an invoice at Stripe as public.invoices.items shows them.
create function private.invoice_items(p_lines jsonb) returns jsonb
  sql, immutable, set search_path="";  -- a41e2af472ebb829

-- Whether a plan has or had the price of one of the lines that bill a subscription; true where none bills anything.
create function private.invoice_prices_are_known(p_lines jsonb) returns boolean
  plpgsql, stable, security definer, set search_path="";  -- 9095051728e7728c

-- Counts a recorded payment towards a recorded invoice of the same owner, which is paid with the last of it; 404 invoice_not_found, 409 invoice_is_stripes, invoice_not_open or amount_mismatch.
create function private.invoice_settle(p_invoice_id uuid, p_payment public.payments) returns public.invoices
  plpgsql, volatile, security definer, set search_path="";  -- 1e9ac712da947681

-- A recorded invoice as operators see it.
create function private.invoice_summary(p_invoice public.invoices) returns jsonb
  sql, stable, security definer, set search_path="";  -- 2286707da444a1e4

-- Whether the owner of a public agent is not suspended.
create function private.is_agent_in_force(p_agent public.agents) returns boolean
  sql, stable, security definer, set search_path="";  -- 313a588c0510bd7e

-- Whether a worker reads the source of a library now.
create function private.is_being_crawled(p_library public.libraries) returns boolean
  plpgsql, stable, security definer, set search_path="";  -- 9f35f113ddb690ba

-- Whether the task of a delivery will not be tried again after the attempt that runs now.
create function private.is_last_attempt(p_kind text, p_delivery_id uuid) returns boolean
  sql, stable, security definer, set search_path="";  -- 7e712edb57dda151

-- Whether the source of a library is an archive that its organization uploads.
create function private.is_uploaded_by_its_owner(p_source_kind text, p_organization_id uuid) returns boolean
  plpgsql, immutable, set search_path="";  -- f0418d782f2b75cc

-- Bytes of a JSON value as text, for constraints; as good as endless for one of over a mebibyte, or with a number that nobody needs.
create function private.json_size(p_value jsonb) returns bigint
  plpgsql, immutable, set search_path="";  -- 6d3fee6c4605ffaa
  grant execute to authenticated;

-- Trigger: when the last owner is gone (erased with their account), the oldest admin, else the oldest member, becomes owner; suspended people come last. With nobody left the organization is deactivated.
create function private.keep_an_owner() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 81fd405589bd19e4

-- Keeps an answer for as many seconds as a setting says; 0 for not at all.
create function private.keep_answer(p_key text, p_tool text, p_library_id text, p_answer jsonb, p_setting text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- a91d676b5d11bc68

-- Trigger: keeps what of a chunk is searched for.
create function private.keep_documentation_words() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 77c2dea83644fe01

-- Trigger: a private id begins with its organization's slug (400 invalid_argument), a public one with nobody's (409 library_id_taken).
create function private.keep_library_ids_apart() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 357795c45b67c979

-- Trigger: keeps what a library is found by, and updated_at.
create function private.keep_library_names() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 379f5f5f17924e5e

-- Trigger: keeps the words of a message for the search.
create function private.keep_message_words() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 2c5e8519fcd5b9d7

-- Trigger: remembers every price a plan had; 409 plan_price_in_use when another plan has or had it, or when a price that is being paid would get another amount or currency.
create function private.keep_plan_prices() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- badd8bda3141d636

-- Stores the sealed secret of a key in place of an earlier one.
create function private.keep_provider_secret(p_key_id uuid, p_sealed jsonb) returns void
  plpgsql, volatile, security definer, set search_path="";  -- ce657cb442ae5df6

-- Trigger: no organization takes a name under which there are public libraries (409 slug_taken).
create function private.keep_slugs_apart() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- dc9ba21c320adb66

-- Trigger: credit_accounts.top_up_below is the threshold of an automatic top-up that is on, else null.
create function private.keep_top_up_threshold() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- fc63a9c4871c8bc1

-- An answer that may be given again; null for none.
create function private.kept_answer(p_key text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- c682b21fc56ffc65

-- Gives a locked job to a worker.
create function private.lease_cron_job(p_name text, p_worker text, p_lease_seconds integer) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- bdb28e0a7b2e4239

-- See public.leave_organization.
create function private.leave_organization(p_organization_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- dea08f1ea6ecf9c7
  grant execute to authenticated;

-- A library as it is read: whether it can be asked, and how its latest crawl goes or went.
create function private.library_answer(p_library public.libraries) returns jsonb
  plpgsql, stable, set search_path="";  -- f0b86795fb288ea0

-- A library as it is answered.
create function private.library_json(p_library public.libraries) returns jsonb
  plpgsql, stable, set search_path="";  -- 32df8639da43f27c

-- Whether a library can be searched, with the HTTP status that says so: ready (200), unfinished (202), moved (301), failed or not_found (404).
create function private.library_state(p_library public.libraries) returns jsonb
  plpgsql, stable, set search_path="";  -- 0189eb57f652cfaa
  grant execute to authenticated;

-- Trigger: caps what one statement may ask for (400 too_many_rows).
create function private.limit_generations() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- f1e104427c17c0f7

-- Agents of the caller, or of the organization they act for, newest first; next is the id to go on after, null at the end.
create function private.list_agents(p_caller private.caller, p_limit integer, p_after uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 9e1c1612d8b424e5

-- Conversations the caller reads (of the organization they act for alone, where p_is_of_organization), newest activity first; with a query those whose title or messages have all its words.
create function private.list_conversations(p_caller private.caller, p_is_of_organization boolean, p_status text, p_query text, p_limit integer, p_after text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 926be1da13da4ab8

-- Locks an account for the rest of the transaction, with expired lots swept and the month's counters current.
create function private.lock_account(p_account_id uuid) returns public.credit_accounts
  plpgsql, volatile, security definer, set search_path="";  -- df0f43db991a786b

-- Whose customer this is or was, with the owner locked so that what is billed to them changes in one place at a time; a null row for nobody's.
create function private.lock_billing_owner(p_customer_id text) returns private.stripe_customers
  plpgsql, volatile, security definer, set search_path="";  -- d003149ae08accb5

-- Locks whoever would pay: the user, or an organization they administer (403 not_an_admin), whose id it returns.
create function private.lock_buyer(p_user_id uuid, p_organization text) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- 812ed56673ee5e16

-- Locks a generation, after its person, its account and its hold; null where it is gone.
create function private.lock_generation(p_id uuid) returns public.image_generations
  plpgsql, volatile, security definer, set search_path="";  -- ff98bd99aca21f38

-- Locks a hold's account, then the hold; 404 hold_not_found.
create function private.lock_hold(p_hold_id uuid, OUT hold private.credit_holds, OUT account public.credit_accounts) returns record
  plpgsql, volatile, security definer, set search_path="";  -- b54c94e098b8202c

-- Locks a task for the worker that has it; 409 lease_lost for any other.
create function private.lock_leased_task(p_id uuid, p_lease_token uuid) returns private.tasks
  plpgsql, volatile, security definer, set search_path="";  -- c1e60460f098443d

-- Trigger: before a profile goes and its memberships with it, takes the locks of its organizations in the order every function takes them.
create function private.lock_organizations_of_leaver() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- fae5939d790319b8

-- Locks the row of the organization, where there is one, else of the user: what makes a count of their rows true until the transaction ends.
create function private.lock_payer(p_user_id uuid, p_organization_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 9cf36be8b0586494

-- Trigger: before a profile goes, locks its purchases, and only then do the foreign keys reach its account: the order in which a payment, a refund or a dispute locks them.
create function private.lock_purchases_of_leaver() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 76fc3e1aa5658ab6

-- Locks a subscription of the user, or of an organization they administer; 404 subscription_not_found, 409 subscription_not_changeable.
create function private.lock_subscription(p_user_id uuid, p_subscription_id uuid) returns public.subscriptions
  plpgsql, volatile, security definer, set search_path="";  -- 355663ab990e60da

-- Locks what a generation was taken from, before the generation itself is locked.
create function private.lock_suggestion_of(p_generation_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 12727e9e29d781c7

-- Locks a task; 404 task_not_found.
create function private.lock_task(p_id uuid) returns private.tasks
  plpgsql, volatile, security definer, set search_path="";  -- 7fdde2fcac42a1ce

-- Locks the first part of library ids until the transaction ends.
create function private.lock_vendor(p_vendor text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- a95901fb41e8ffe0

-- Trigger: before a profile goes, locks its webhook endpoints, and only then do the foreign keys reach their deliveries: the order in which a delivery is reported.
create function private.lock_webhook_endpoints_of_leaver() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- d0fdd03ce64b913a

-- Trigger: an account whose owner is gone stays, as nobody's.
create function private.mark_erased_account() returns trigger
  plpgsql, volatile, set search_path="";  -- da4afb9f406bb318

-- The calling client, for themselves or for an organization they belong to.
create function private.me(p_organization_id uuid DEFAULT NULL::uuid) returns private.caller
  sql, stable, security definer, set search_path="";  -- a4eeb587995e4713

-- A message as its readers are answered.
create function private.message_json(p_message public.messages) returns jsonb
  sql, stable, set search_path="";  -- 166dcf5843388af6

-- Which documents a message is answered from: those it names, else those of the message that is answered anew, else the conversation's; of the last two what is gone is left out. 404 document_not_found, 409 document_not_ready, 403 insufficient_scope, 400 invalid_argument.
create function private.message_sources(p_caller private.caller, p_conversation public.conversations, p_documents jsonb, p_content text, p_message_id uuid, p_regenerate uuid) returns private.sources
  plpgsql, stable, security definer, set search_path="";  -- 9de7aa6796f6c9f7

-- Tokens a message has in a prompt, at most and probably, its delimiters included.
create function private.message_weight(p_content text, p_parts jsonb, OUT bound integer, OUT estimate integer) returns record
  plpgsql, immutable, set search_path="";  -- d07eaf0ae1b773a3

-- A message as the model is sent it, passages before it, as many as fit into so many tokens by estimate; what it weighs then, and what there is to cite.
create function private.message_with_passages(p_message public.messages, p_passages jsonb, p_mark text, p_room integer, OUT content jsonb, OUT bound integer, OUT estimate integer, OUT citations jsonb) returns record
  plpgsql, stable, security definer, set search_path="";  -- 18f354b0ac39dc7f

-- A string out of metadata that anybody may have written: no control characters, at most p_length characters, null when it is anything else.
create function private.metadata_text(p_metadata jsonb, p_key text, p_length integer) returns text
  sql, immutable, set search_path="";  -- dcdd17e221aeefd3

-- Chunks of a version that have no vector of a model.
create function private.missing_embeddings(p_version_id uuid, p_model text) returns bigint
  plpgsql, stable, security definer, set search_path="";  -- a40d51d5acd67817

-- The model of that id and kind with its prices; fails model_not_found for anything that is not on offer.
create function private.model_price(p_model_id text, p_kind text) returns public.models
  plpgsql, stable, security definer, set search_path="";  -- 8b11144b834a7926

-- First instant of the calendar month (UTC) in which p_at lies.
create function private.month_start(p_at timestamp with time zone) returns timestamp with time zone
  plpgsql, immutable, set search_path="";  -- 064dbeffd262b10a

-- Counts what has changed of requests that were counted before, or takes them back.
create function private.move_usage(p_changes private.usage_change[]) returns void
  plpgsql, volatile, security definer, set search_path="";  -- ab40ef591a162262

-- The caller's account, or that of an organization they belong to (for a statement: administer).
create function private.my_account_id(p_organization_id uuid, p_is_statement boolean) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- 7061557dd4ae5166

-- Active organizations the caller owns or administers.
create function private.my_admin_organization_ids() returns SETOF uuid
  sql, stable, security definer, set search_path="";  -- e587f0108bc12094
  grant execute to authenticated;

-- Locks a key of the caller, or of an organization they administer; 404 api_key_not_found.
create function private.my_api_key(p_id uuid) returns public.api_keys
  plpgsql, volatile, security definer, set search_path="";  -- f138b057ee5dbed8

-- See public.conversation_thread.
create function private.my_conversation_thread(p_id uuid, p_limit integer, p_before uuid) returns jsonb
  sql, stable, security definer, set search_path="";  -- c6e41b52255e3081
  grant execute to authenticated;

-- See public.list_conversations.
create function private.my_conversations(p_status text, p_organization_id uuid, p_query text, p_limit integer, p_after text) returns jsonb
  sql, stable, security definer, set search_path="";  -- 70df5cfe36e7efcd
  grant execute to authenticated;

-- Balance for the calling client.
create function private.my_credit_balance(p_organization_id uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- a478234a53aba2af
  grant execute to authenticated;

-- Ledger for the calling client.
create function private.my_credit_statement(p_organization_id uuid, p_limit integer, p_before bigint) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- f8d13dac9796931a
  grant execute to authenticated;

-- See public.document_uploaded.
create function private.my_document_uploaded(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- edafee5d9d587626
  grant execute to authenticated;

-- The caller's row of private.user_generation_stats.
create function private.my_generation_stats() returns jsonb
  sql, stable, security definer, set search_path="";  -- 37bb88b5fce37e9a
  grant execute to authenticated;

-- See public.organization_agents.
create function private.my_organization_agents(p_organization_id uuid, p_limit integer, p_after uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- c9e338ac005e8998
  grant execute to authenticated;

-- The customer at Stripe of an organization that the caller administers; null for everybody else, and before the first checkout.
create function private.my_organization_customer_id(p_organization_id uuid) returns text
  sql, stable, security definer, set search_path="";  -- d23b2695c87968ba
  grant execute to authenticated;

-- Active organizations the caller belongs to.
create function private.my_organization_ids() returns SETOF uuid
  sql, stable, security definer, set search_path="";  -- 4cf5cf4efd2fa97d
  grant execute to authenticated;

-- See public.public_agents.
create function private.my_public_agents(p_query text, p_limit integer, p_after uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- f65fba7a4cd10075
  grant execute to authenticated;

-- Accounts whose ledger the caller may read: their own, and those of organizations they administer.
create function private.my_statement_account_ids() returns SETOF uuid
  sql, stable, security definer, set search_path="";  -- f7e55f53dc76e4be
  grant execute to authenticated;

-- Report for the calling client.
create function private.my_usage_report(p_from date, p_to date, p_group_by text, p_organization_id uuid, p_limit integer, p_after text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 8ebdb1a934cf85cd
  grant execute to authenticated;

-- Groups of three letters of a name, with its beginning and its end.
create function private.name_grams(p_name text) returns text[]
  plpgsql, immutable, set search_path="";  -- c060fc66d4f2b2c8

-- How names are searched for: os.path.join as itself, path.join and join; in lower case.
create function private.name_lexemes(p_names text[]) returns text[]
  plpgsql, immutable, set search_path="";  -- 24b92e8d3ca2a8fa

-- How like a name is to the likest of several, 0 to 1: the same, its beginning, or the groups of three letters that they share.
create function private.name_likeness(p_name text, p_names text[]) returns double precision
  plpgsql, immutable, set search_path="";  -- 4300621092e44c99

-- Names as they are searched for, with a weight.
create function private.name_vector(p_names text[], p_weight text) returns tsvector
  plpgsql, immutable, set search_path="";  -- fe8cb5d151d8dd79

-- What a library may be called: the name, or else each word of the question and all of it.
create function private.names_in(p_query text, p_name text) returns text[]
  plpgsql, immutable, security definer, set search_path="";  -- 7bf66cf98c61e883
  grant execute to authenticated;

-- Suggestions of a person that are nearest to a vector, nearest first, with their cosine distance.
create function private.nearest_suggestions(p_user_id uuid, p_embedding extensions.halfvec, p_except uuid[], p_limit integer) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 352a8f4184fa6620

-- Repays debt out of lots whose credits have just come off hold.
create function private.net_debt(p_account_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- f4887346178f499d

-- A fresh secret: qk_, the mode, 256 random bits in 43 digits, and the CRC-32 of all that in 6.
create function private.new_api_key() returns text
  plpgsql, volatile, set search_path="";  -- fb47234527b9bef4

-- When a library that is crawled now is crawled again; null for one that was uploaded.
create function private.next_refresh(p_source_kind text, p_refresh_seconds integer) returns timestamp with time zone
  plpgsql, stable, set search_path="";  -- 445591957a6aaf39

-- Writes down how many rows of a table went.
create function private.note_erased(p_id uuid, p_table private.personal_tables, p_count bigint) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 5317d74fca108a67

-- Trigger: is_favorite is whether the image's own owner marked it.
create function private.note_favorite() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 7fafa4cff59001f6

-- Counts one use of a model by a person; one of a server of their own is in no catalog, and not counted. Called where the use is settled.
create function private.note_model_use(p_user_id uuid, p_model_id text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- ad01f9fb4d3e556c

-- Records that a provider was asked about a key.
create function private.note_provider_key_check(p_key public.provider_keys, p_user_id uuid, p_outcome text, p_error_code text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 732a4c521bb5370b

-- Records what a request has done with own keys: one row for each use, and what that says of the key.
create function private.note_provider_key_uses(p_hold private.credit_holds, p_usage jsonb) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 92c94fec6ecf40be

-- Trigger: a refund shows in the usage row of its hold, if that is still kept.
create function private.note_refund_of_usage() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 36549e19a6bcf289

-- Trigger: a suggestion is used when a generation is asked for with it, and did well or not when that ends. Called off, it says nothing of the prompt.
create function private.note_suggestion_use() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 730b5214d9b80613

-- The usage row of a tool that costs nothing: which, of what (library or document), of which library, what was asked, how many tokens it answered, in how many milliseconds.
create function private.note_tool_use(p_caller private.caller, p_tool text, p_resource_type text, p_library_id text, p_query text, p_tokens integer, p_started_at timestamp with time zone, p_client jsonb) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 9fcdb43e1095144a

-- Trigger: an account that falls under its threshold asks for a top-up. Its errors are warnings.
create function private.notice_low_credits() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 6f67b374ce745a9c

-- Tells a user, or the owners and admins of an organization, by email and webhook, after this transaction. Same owner, template and key: once. No owner, or one who is going: nobody. Facts hold no names and no addresses.
create function private.notify(p_user_id uuid, p_organization_id uuid, p_template text, p_facts jsonb, p_key text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 7947642338d6dad5

-- Sends an invitation to the address that is invited, within the limits of the settings.
create function private.notify_invited(p_invitation public.organization_invitations) returns void
  plpgsql, volatile, security definer, set search_path="";  -- b9d0f99b402bc3c4

-- Passages that private.documents_answer() found, in its order, with the numbers by which they are cited.
create function private.numbered_passages(p_answer jsonb) returns jsonb
  plpgsql, immutable, set search_path="";  -- 48fa18afb3ddad4d

-- What every source offers a person, surest first; with suggestions switched off, the community alone, which knows nothing of them.
create function private.offers(p_profile public.profiles, p_prompt text, p_limit integer) returns SETOF private.offered_prompt
  plpgsql, stable, security definer, set search_path="";  -- d0aded41df9d11d4

-- Trigger: opens a new organization's account.
create function private.open_organization_account() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 5e3c9f46a0abf054

-- Trigger: opens a new user's account, and grants the welcome credits once the email address is verified.
create function private.open_user_account() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 4fa03aaf6d15e534

-- Active organizations in which a person has one of the roles; for an organization's API key (no person): that organization.
create function private.organization_ids_of(p_user_id uuid, p_key_organization_id uuid, p_roles text[] DEFAULT '{owner,admin,member}'::text[]) returns SETOF uuid
  sql, stable, security definer, set search_path="";  -- f6af22cbbb32a507

-- An organization as its members are answered.
create function private.organization_json(p_organization public.organizations) returns jsonb
  sql, stable, set search_path="";  -- 6e9ca4e860e9f431

-- See public.organization_people.
create function private.organization_people(p_organization_id uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 217e045f53645354
  grant execute to authenticated;

-- Organizations with other members that would have no owner without this person.
create function private.organizations_without_another_owner(p_user_id uuid) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 02fc175fcf17688f

-- What the operations about a reference (a hold, a lot) took from each lot and have not put back; place is where the lot stood among those it was taken with.
create function private.owed_to_lots(p_account_id uuid, p_reference_id uuid, p_operations text[]) returns TABLE(lot_id uuid, place bigint, owed numeric)
  sql, stable, security definer, set search_path="";  -- 0b94bfe35e319df0

-- Credits for what an own key pays: a share of the price, in per cent, rounded up.
create function private.own_image_fee(p_cost numeric, p_percent numeric) returns numeric
  plpgsql, immutable, set search_path="";  -- 7380c89e65cd58df

-- The sealed keys that whoever pays (an organization, else a person) has for a provider, in the order in which they are tried, five at most; empty where every one was rejected, null where there is none.
create function private.own_provider_keys(p_user_id uuid, p_organization_id uuid, p_provider_id uuid, p_provider text, p_upstream_model text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- c428e993911b5e8a

-- A model of a customer's own server, which no catalog knows: openai-compatible/ and what the server calls it; null for other names.
create function private.own_server_model(p_model_id text) returns public.models
  plpgsql, stable, security definer, set search_path="";  -- 9e926e442564f913

-- The folder of an owner in the bucket "images": the person's, or the organization's where nobody asked in person.
create function private.owner_folder(p_user_id uuid, p_organization_id uuid) returns text
  plpgsql, immutable, set search_path="";  -- 9f1e6b493c76002e

-- A list of numbers as a vector of 1536 dimensions: zeros where it has fewer, which changes no angle. Null for null; 400 invalid_argument.
create function private.padded_vector(p_numbers jsonb) returns extensions.halfvec
  plpgsql, immutable, set search_path="";  -- 32bc903dab6103d9

-- A number of entries to answer with, checked; 400 invalid_argument.
create function private.page_limit(p_limit integer, p_most integer) returns integer
  plpgsql, immutable, set search_path="";  -- 8c0020146481a9fc

-- Text of a document as a model may be sent it: marks of templates are only text.
create function private.passage_line(p_text text) returns text
  plpgsql, immutable, set search_path="";  -- 49ae1841a2e6658c

-- The passages of an answer that has been begun, for the same request again: as they were, without those of documents that are gone.
create function private.passages_again(p_citations jsonb) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 001c64a64be3456e

-- Passages as a model is sent them: as data, numbered, between lines with a mark that their authors could not know.
create function private.passages_text(p_passages jsonb, p_mark text) returns text
  plpgsql, immutable, set search_path="";  -- 43ad268f2daf16b2

-- Those of the models that somebody may pay for, and who: with auto, own keys where there are any and credits elsewhere; own, platform; own_first, both. Refused where there is none.
create function private.payable(p_account public.credit_accounts, p_models public.models[], p_credential text) returns SETOF private.candidate
  plpgsql, stable, security definer, set search_path="";  -- b6e62d963168383e

-- Locks the account that pays and says how much room it has, and the API key that asks; 403 account_suspended when the user or the organization is suspended, not_a_member for a stranger.
create function private.payer(p_user_id uuid, p_organization_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, OUT account public.credit_accounts, OUT limits private.hold_limits) returns record
  plpgsql, volatile, security definer, set search_path="";  -- 440ec0c7a70aabf2

-- Applies the newest states of a payment, its charges and disputes to what it paid: a purchase, an invoice, or neither yet.
create function private.payment_apply(p_payment_intent_id text, p_customer_id text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- d6a57edcab2ef923

-- Makes one of a customer's payment methods the default: the one they chose for invoices, else the newest.
create function private.payment_methods_choose_default(p_customer private.stripe_customers) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 961b7ab7fbba4bcc

-- Writes a payment intent's row in public.payments, with what its charges and disputes say was given back.
create function private.payment_mirror(p_state jsonb, p_customer private.stripe_customers, p_as_of timestamp with time zone, p_purchase_id uuid, p_stripe_invoice_id text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- f33fb4c4f8f9fa49

-- What of a payment was refunded or is withheld by disputes, in minor units, from the newest states of its charges and disputes.
create function private.payment_reversals(p_payment_intent_id text, p_amount_minor bigint, p_currency text, OUT charge_id text, OUT refunded_minor bigint, OUT disputed_minor bigint) returns record
  plpgsql, stable, security definer, set search_path="";  -- 7f749c95326ae321

-- A recorded payment as operators see it: what it was for, the credits it bought and the account they went to.
create function private.payment_summary(p_payment public.payments) returns jsonb
  sql, stable, security definer, set search_path="";  -- 1f6a22d66fb00c4c

-- What belongs to a person: themselves, the organizations that have no other member, the credit accounts of both, and their addresses.
create function private.person_scope(p_user_id uuid) returns private.person_scope
  plpgsql, stable, security definer, set search_path="";  -- 34004d6f26d5b720

-- Trigger: where the file of a document goes, in the folder of its owner; 400 document_too_large, document_type_unknown.
create function private.place_document() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- ff34895ccbf66a08

-- Checks every limit, moves the amount to held, and inserts the hold and its usage row, in one transaction; with it the tightest rate limit, as RateLimit headers tell it. The account is locked.
create function private.place_hold(p_account public.credit_accounts, p_limits private.hold_limits, p_user_id uuid, p_amount numeric, p_tokens bigint, p_idempotency_key text, p_action text, p_seconds integer, p_terms jsonb DEFAULT '{}'::jsonb, p_usage jsonb DEFAULT '{}'::jsonb, p_attempt integer DEFAULT 1, OUT hold private.credit_holds, OUT rate_limit jsonb) returns record
  plpgsql, volatile, security definer, set search_path="";  -- 0d60f21f9c31c9d9

-- A name without what people leave out or put in: Next.js is nextjs.
create function private.plain_name(p_name text) returns text
  plpgsql, immutable, set search_path="";  -- 05da77b6424f0e09

-- A text as its words are taken from it: names of code in their parts.
create function private.plain_words(p_text text) returns text
  plpgsql, immutable, set search_path="";  -- 195710d7ac146506

-- How many rows the payer's plan allows, by the name of its column (max_agents, max_documents, max_libraries, max_team_members); null for no limit.
create function private.plan_limit(p_user_id uuid, p_organization_id uuid, p_limit text) returns bigint
  plpgsql, stable, security definer, set search_path="";  -- 9571f1e8f312338f

-- The payer's plan: the organization's when one is given, else the user's; once it has expired what their subscriptions give, else free.
create function private.plan_of(p_user_id uuid, p_organization_id uuid) returns public.plans
  plpgsql, stable, security definer, set search_path="";  -- d1a06902552e9454

-- A plan on offer and its price for an interval; 404 plan_not_found, 409 plan_not_on_sale when it has no price at Stripe.
create function private.plan_price(p_plan text, p_interval text, OUT plan public.plans, OUT price private.plan_prices) returns record
  plpgsql, stable, security definer, set search_path="";  -- f8e2a37557aad9dd

-- Different words of a prompt, without those that are in every English one.
create function private.prompt_words(p_text text) returns text[]
  plpgsql, immutable, set search_path="";  -- f00bb38f92b6dc45

-- Asks an invariant, which is locked, and keeps what it found. One that cannot be asked says why.
create function private.prove(p_invariant private.invariants) returns private.invariants
  plpgsql, volatile, security definer, set search_path="";  -- e4d8bffc1250a6fb

-- Marks a key that its provider refused (rejected, quota_exceeded) as invalid, unless its secret was replaced since, and tells its owner once.
create function private.provider_key_found_invalid(p_key public.provider_keys, p_reason text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- bc0af5b90c927a51

-- A key as its owner sees it: masked.
create function private.provider_key_json(p_key public.provider_keys) returns jsonb
  sql, stable, security definer, set search_path="";  -- 00dee175ac990ed7

-- A provider that takes keys of customers; 404 provider_not_found, 400 base_url_required or base_url_not_allowed.
create function private.provider_of_keys(p_slug text, p_base_url text) returns public.model_providers
  plpgsql, stable, security definer, set search_path="";  -- 945d171c811d2c8e

-- Lets the suggestions go that are too many: those never used first, the oldest of them first, and none of p_keep. The profile is locked.
create function private.prune_suggestions(p_user_id uuid, p_keep uuid[]) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 5d6dc158d2108f51

-- By which name append-only rows know a person: the same for all of them, until the person is erased.
create function private.pseudonym(p_user_id uuid) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- d042ba5cd83ac4d4

-- Trigger: a public image has an address, a private one has none.
create function private.publish_image() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 18ca2cca4a32c341

-- Recomputes what of a paid purchase was refunded or is disputed, and brings the credits taken back to that share.
create function private.purchase_apply_reversals(p_purchase_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 2a5ec53109316c62

-- A purchase as the Python side sees it.
create function private.purchase_json(p_purchase public.credit_purchases) returns jsonb
  sql, stable, security definer, set search_path="";  -- 9f9d04b9b747ea6e

-- The purchase of a pack that an invoice of its own customer names; null for none.
create function private.purchase_of_invoice(p_invoice jsonb, p_customer private.stripe_customers) returns uuid
  sql, stable, security definer, set search_path="";  -- 53757719aede3734

-- Trigger: a new image is looked at, later.
create function private.queue_analysis() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- b64ded13f9fb7cd0

-- Has a document indexed, new or anew, whose file is there; 409 document_not_uploaded, 400 document_too_large, 429 rate_limited.
create function private.queue_document(p_document public.documents) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bc27b339a18b7562

-- Asks for the email of a notification to a user or to an invited address.
create function private.queue_email(p_notification_id uuid, p_user_id uuid, p_invitation_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 28da9d8791833690

-- Asks for an event to be sent to an endpoint; its delivery.
create function private.queue_event(p_notification_id uuid, p_endpoint_id uuid, p_event_type text) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- db87e694f15adbde

-- Tells an owner that something has come to pass; the alert's id, null when this crossing was already told or the owner is going.
create function private.raise_alert(p_user_id uuid, p_organization_id uuid, p_type text, p_key text, p_threshold numeric DEFAULT NULL::numeric, p_current_value numeric DEFAULT NULL::numeric, p_facts jsonb DEFAULT '{}'::jsonb) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- 44a06eecaf41e068

-- 256 random bits as 43 characters that are safe in an address.
create function private.random_token() returns text
  sql, volatile, set search_path="";  -- 660d4890a2dba38e

-- These libraries, by how like one of the names they are called: surest first. Confidence is that likeness times 0.8 to 1, for how popular and how trusted the library is and for how much of the question its description says.
create function private.ranked_libraries(p_libraries public.libraries[], p_names text[], p_query text, p_limit integer) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 56e975bac83a3c6a
  grant execute to authenticated;

-- The shape of a size: 3:2 for 1536x1024.
create function private.ratio_of(p_size text) returns text
  plpgsql, immutable, set search_path="";  -- a106316315f8509d

-- An operator's repair: sums a month whose usage rows are kept anew; how many rows. Requests wait for it.
create function private.rebuild_api_usage(p_month timestamp with time zone) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- e08f7db7cb04d0df

-- Writes down what an operator did, in the transaction that did it.
create function private.record_operator_action(p_actor text, p_action text, p_subject text, p_before jsonb, p_after jsonb, p_reason text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 78a0486b8bbd4c1b

-- The plan that an operator names, a null row for none; 404 plan_not_found.
create function private.recorded_plan(p_plan text) returns public.plans
  plpgsql, stable, security definer, set search_path="";  -- 72beb07754d49e50

-- The facts of private.require_room's refusal; null where there is room.
create function private.refusal(p_limits private.hold_limits, p_amount numeric, p_tokens bigint) returns jsonb
  plpgsql, stable, set search_path="";  -- 36d0e9fac0f9fbee

-- Says which value of an agent a constraint refused (400 invalid_argument).
create function private.refuse_agent_value(p_constraint text) returns void
  plpgsql, volatile, set search_path="";  -- f1c00a2dbf0d7cb2

-- Says which value of a key a constraint refused (400 invalid_argument).
create function private.refuse_api_key_value(p_constraint text) returns void
  plpgsql, volatile, set search_path="";  -- 55b1f381cdef27cf

-- 503 partition_in_use: the lock was not to be had in time.
create function private.refuse_busy_partition() returns void
  sql, volatile, set search_path="";  -- f97876fcc3b4cdd7

-- Trigger: refuses UPDATE, DELETE and TRUNCATE on append-only tables, for every role.
create function private.refuse_change() returns trigger
  plpgsql, volatile, set search_path="";  -- 33f94204676c23dd

-- The refusal of a value that a constraint of image_generations does not take (400 invalid_argument).
create function private.refuse_generation_value(p_constraint text) returns void
  plpgsql, immutable, set search_path="";  -- 34cf27ee19ec4708

-- Trigger: an invitation that waits for an answer takes a member's place, so that nobody is invited for whom there is no room.
create function private.refuse_invitations_beyond_plan() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- b68edabe604226bd

-- Trigger: an organization has as many private libraries as its plan allows (402 plan_limit_reached).
create function private.refuse_libraries_beyond_plan() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 74adc00043536e88

-- Tells people which value of an organization was refused, by the constraint that refused it.
create function private.refuse_organization_value(p_constraint text) returns void
  plpgsql, volatile, set search_path="";  -- 1b0fdebbe82691d6

-- Says which value of a provider key a constraint refused (400 invalid_argument).
create function private.refuse_provider_key_value(p_constraint text) returns void
  plpgsql, volatile, set search_path="";  -- a62a2ea262828d74

-- Trigger, with the name of the limit as its argument, and "by clients" where those insert the rows themselves, under row level security: refuses a row more of this table than the plan of its payer (columns user_id, organization_id) allows.
create function private.refuse_rows_beyond_plan() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 9cf226e63da95966

-- Fails when nobody but this person owns the organization, whose row the caller has locked.
create function private.refuse_without_another_owner(p_organization_id uuid, p_user_id uuid) returns void
  plpgsql, stable, security definer, set search_path="";  -- b0f5b68030756f50

-- Returns the hold of a task that will not be done, unless it was settled.
create function private.release_task_hold(p_hold_id uuid, p_reason text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 6bb21ffd21e44f7a

-- See public.remove_member.
create function private.remove_member(p_organization_id uuid, p_user_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 7fd004a73e2bbfcd
  grant execute to authenticated;

-- The request, task or cron run on whose behalf the functions call, as logs have it; null where nobody says.
create function private.request_id() returns uuid
  plpgsql, stable, set search_path="";  -- 1c0c1d675372d813

-- Refuses a value that a capability does not cover: none at all (400 unsupported_parameter), or outside its list or range (400 invalid_argument with what would do).
create function private.require_able(p_param text, p_value jsonb, p_able jsonb) returns void
  plpgsql, immutable, set search_path="";  -- d4d00cf6c4689ed5

-- The caller; fails account_suspended for anybody without an active profile.
create function private.require_active_user() returns uuid
  plpgsql, stable, set search_path="";  -- 58fa81ad97f7dbf0

-- Id of the organization (given by id or slug) the person owns or administers; fails not_a_member, not_an_admin or account_suspended.
create function private.require_admin(p_user_id uuid, p_organization text) returns uuid
  sql, stable, set search_path="";  -- b2bfaf8320bdaf8e

-- Refuses negative, infinite, too large and too precise amounts of credits (400 invalid_amount).
create function private.require_amount(p_amount numeric, p_minimum numeric DEFAULT 0) returns void
  plpgsql, immutable, set search_path="";  -- 3968299ffe10fe30

-- Refuses (403 not_the_author) members who only read and write in a shared conversation.
create function private.require_author(p_caller private.caller, p_conversation public.conversations) returns void
  plpgsql, stable, security definer, set search_path="";  -- 291e33095d84ce8a

-- Refuses (409 currency_mismatch) a buyer who was shown a price in another currency; null asks for none.
create function private.require_currency(p_wanted text, p_currency text) returns void
  plpgsql, immutable, set search_path="";  -- 1b1814dbffd4344f

-- Refuses documents that are not the tenant's as it refuses those that do not exist (404 document_not_found), and keys that may not read documents (403 insufficient_scope).
create function private.require_documents(p_caller private.caller, p_organization_id uuid, p_choice jsonb) returns void
  plpgsql, stable, security definer, set search_path="";  -- 47ddec3815e8af28

-- Refuses a list of event types that is empty or names an unknown one (400 invalid_argument); null is all.
create function private.require_event_types(p_event_types text[]) returns void
  plpgsql, stable, security definer, set search_path="";  -- 69ea46cc06348270

-- Refuses leases that are no use (400 invalid_argument).
create function private.require_lease_seconds(p_lease_seconds integer) returns void
  plpgsql, immutable, set search_path="";  -- 214beaefa8bd8190

-- Id of the organization (given by id or slug) the person belongs to; fails not_a_member or account_suspended.
create function private.require_member(p_user_id uuid, p_organization text) returns uuid
  sql, stable, set search_path="";  -- 205c1c4f044e2d04

-- A generation names a suggestion of the person who asks; 404 suggestion_not_found for any other, whether there is one or not.
create function private.require_own_suggestion(p_suggestion_id uuid, p_user_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 08eabba452fa4739

-- Refuses (402 plan_limit_reached) one more row where p_used are there already and the payer's plan allows no more.
create function private.require_plan_room(p_user_id uuid, p_organization_id uuid, p_limit text, p_used bigint) returns void
  plpgsql, stable, security definer, set search_path="";  -- 6c4cd44a53a82f13

-- Refuses what is no invoice and no payment that an operator can record: 400 invalid_argument.
create function private.require_recordable(p_provider text, p_amount_minor bigint, p_currency text, p_period_start timestamp with time zone, p_period_end timestamp with time zone) returns void
  plpgsql, stable, security definer, set search_path="";  -- 9aceda4fc3e56592

-- Id of the organization (given by id or slug) in which the person has one of the roles. Answers a stranger the same whether it exists or not.
create function private.require_role(p_user_id uuid, p_organization text, p_roles text[]) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- 446f8f7feb4e7950

-- Refuses (402) what the balance, a budget or the plan does not allow, naming the limit, what is required, what is available and the remedy.
create function private.require_room(p_limits private.hold_limits, p_amount numeric, p_tokens bigint) returns void
  plpgsql, stable, set search_path="";  -- 4f4479e4ef6b416a

-- Trigger: a person marks images that they see, their own, their organization's, or public ones; others do not exist (404 image_not_found).
create function private.require_seen_image() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- fe3dbe15e194b806

-- Refuses what no model takes (400 invalid_argument with the param).
create function private.require_sound_generation(p_g public.image_generations) returns void
  plpgsql, immutable, set search_path="";  -- b22b89dbea0ad2ac

-- Refuses work of a kind for a tenant that had as much in a day as a setting allows; 0 for no limit. 429 rate_limited.
create function private.require_task_room(p_kind text, p_tenant uuid, p_setting text) returns void
  plpgsql, stable, security definer, set search_path="";  -- fab9e504ce91878e

-- Refuses (409 change_pending) a change whose price depends on which side of a boundary it is made on, while that is ten minutes away or less.
create function private.require_time_until(p_at timestamp with time zone) returns void
  plpgsql, stable, set search_path="";  -- e7865d9fccac0f7b

-- Id of the organization the person administers, null for the person alone; 403 account_suspended, not_a_member, not_an_admin.
create function private.require_webhook_owner(p_user_id uuid, p_organization text) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- f1599783573ab8e2

-- Refuses workers without a usable name (400 invalid_argument).
create function private.require_worker(p_worker text) returns void
  plpgsql, immutable, set search_path="";  -- d37923a337a0fdff

-- What a question demands: its "phrases", and nothing with its -"phrases"; null for nothing. A dash alone is an option of a program.
create function private.required_terms(p_query text) returns tsquery
  plpgsql, immutable, set search_path="";  -- 57fee619dda616ff

-- Libraries of everybody and of these organizations whose name is like the one given, surest first. As the caller, so that row level security is asked, too.
create function private.resolved_libraries(p_organizations uuid[], p_query text, p_name text, p_limit integer) returns jsonb
  plpgsql, stable, set search_path="";  -- 20dda4d4a7e86d55
  grant execute to authenticated;

-- Makes a deleted conversation active again, until it is purged.
create function private.restore_conversation(p_caller private.caller, p_conversation public.conversations) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 14041ce9298ec22d

-- See public.restore_conversation.
create function private.restore_my_conversation(p_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 51dfa64a2e88d77e
  grant execute to authenticated;

-- Ends a failed attempt of a locked task: queued again at p_run_after, or dead when it was final or the last.
create function private.return_task(p_task private.tasks, p_error text, p_run_after timestamp with time zone, p_is_final boolean) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 3b65afe42ffd89b8

-- Puts credits back into the lots they came from, up to a limit each; for a lot that has expired comes a new one with a grace period, for what came from none a new one that does not expire.
create function private.return_to_lots(p_account_id uuid, p_amount numeric, p_lot_ids uuid[], p_limits numeric[], p_reason text, OUT lot_ids uuid[], OUT lot_amounts numeric[]) returns record
  plpgsql, volatile, security definer, set search_path="";  -- 41420826694e32a8

-- See public.revoke_api_key.
create function private.revoke_api_key(p_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 99ea58a14a575d83
  grant execute to authenticated;

-- See public.revoke_invitation.
create function private.revoke_invitation(p_invitation_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- b51fbf6dbcbe2e3a
  grant execute to authenticated;

-- See public.rotate_api_key.
create function private.rotate_api_key(p_id uuid, p_grace_seconds integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 73e3f3b2d69206dc
  grant execute to authenticated;

-- A key as the vault opens it: where it belongs, and its sealed secret in base64.
create function private.sealed_provider_key(p_key public.provider_keys, p_provider text) returns jsonb
  sql, stable, security definer, set search_path="";  -- 70e65547c991bf3e

-- The words of a question, at most 32: as English has them, and names of code by their beginning.
create function private.search_terms(p_query text) returns private.search_term[]
  plpgsql, immutable, set search_path="";  -- a44a160456168bd8

-- What of a text is searched for: the words of its first 100,000 characters, which always fit into a tsvector.
create function private.search_words(p_text text) returns tsvector
  sql, immutable, set search_path="";  -- 48d731885ac22abd

-- Whose documents a caller searches beside their own: their organizations', or of one that they name those alone.
create function private.searched_organizations(p_caller private.caller, p_organization text) returns uuid[]
  plpgsql, stable, security definer, set search_path="";  -- 582126a7dd3ae6b5

-- Locks a document that the caller reads, or may change; 404 document_not_found for any other, whether there is one or not.
create function private.seen_document(p_caller private.caller, p_id uuid, p_is_writing boolean) returns public.documents
  plpgsql, volatile, security definer, set search_path="";  -- 8ce1faa5fbb8ca76

-- A generation of the caller's, or of a key of their organization's; 404 generation_not_found to anybody else.
create function private.seen_generation(p_caller private.caller, p_id uuid) returns public.image_generations
  plpgsql, stable, security definer, set search_path="";  -- 18319eeef6b75455

-- A key that the person owns, or that is of an organization of theirs; to manage it, one they administer. 404 provider_key_not_found, 403 not_an_admin.
create function private.seen_provider_key(p_user_id uuid, p_id uuid, p_manages boolean) returns public.provider_keys
  plpgsql, volatile, security definer, set search_path="";  -- 3c20f9d18f940a32

-- See public.select_branch.
create function private.select_my_branch(p_id uuid, p_message_id uuid) returns jsonb
  sql, volatile, security definer, set search_path="";  -- e03e10dd7b2172f6
  grant execute to authenticated;

-- Trigger: what an owner is told here they are told by email and webhook too, by the preferences they have there.
create function private.send_alert() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 7bd6e011060a61b0

-- An agent with values replaced, not yet stored; 400 invalid_argument for unknown members and wrong types, 404 model_not_found.
create function private.set_agent_values(p_agent public.agents, p_values jsonb) returns public.agents
  plpgsql, stable, security definer, set search_path="";  -- 806b353ae954b4da

-- A key with values replaced, not yet stored; 400 invalid_argument for unknown members and wrong types.
create function private.set_api_key_values(p_key public.api_keys, p_values jsonb) returns public.api_keys
  plpgsql, volatile, security definer, set search_path="";  -- eca3b8f798ec12f9

-- A conversation with values replaced, not yet stored; 400 invalid_argument, 404 agent_not_found, model_not_found, document_not_found.
create function private.set_conversation_values(p_caller private.caller, p_conversation public.conversations, p_values jsonb) returns public.conversations
  plpgsql, stable, security definer, set search_path="";  -- 4e9a5c2c97842dbc

-- See public.set_member_budget.
create function private.set_member_budget(p_organization_id uuid, p_user_id uuid, p_budget numeric) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 81057176d42d0606
  grant execute to authenticated;

-- Sets up the automatic top-up of the caller, or of an organization they administer (403 not_an_admin). 409 payment_method_required; switching it on with another payment method forgets earlier failures.
create function private.set_my_auto_top_up(p_threshold numeric, p_pack text, p_max_per_day integer, p_is_enabled boolean, p_organization_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 723c8bd18ceab56c
  grant execute to authenticated;

-- Sets or lifts (null) the threshold of the caller's account, or of an organization they administer.
create function private.set_my_low_balance_threshold(p_threshold numeric, p_organization_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6e237108c9795968
  grant execute to authenticated;

-- Sets or lifts (null) the monthly budget of the caller's account, or of an organization they administer.
create function private.set_my_monthly_budget(p_budget numeric, p_organization_id uuid) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- f2bf5bb98b638590
  grant execute to authenticated;

-- Value of a setting, null when there is none of that name.
create function private.setting(p_name text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 14566f629139a7aa

-- Charges a hold that lock_hold has locked, as credit_settle does.
create function private.settle_hold(p_hold private.credit_holds, p_account public.credit_accounts, p_amount numeric, p_tokens bigint, p_usage jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4c5e42681de29a72

-- How a person is called; null when they did not say.
create function private.shown_name(p_profile public.profiles) returns text
  sql, immutable, set search_path="";  -- d218833caface27d

-- A prompt to suggest for, without space around it; null for none. 400 invalid_argument where it is too long.
create function private.sound_prompt(p_prompt text) returns text
  plpgsql, immutable, set search_path="";  -- 7b1fd4c4f412f7dd

-- Words that names are made of: DataFrame.sort_values is data frame sort values.
create function private.split_names(p_names text[]) returns text
  plpgsql, immutable, set search_path="";  -- 98cbc649eba815c7

-- Which of the materialized views of images are to be refreshed.
create function private.stale_insights() returns SETOF text
  plpgsql, stable, security definer, set search_path="";  -- c151544fc3e77e49

-- Ledger of an account, newest first, before a version (keyset pagination).
create function private.statement_of(p_account_id uuid, p_limit integer, p_before bigint) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- e05c5d5e4780c099

-- Runs the handler of an object's type on one state of that object.
create function private.stripe_apply(p_event private.stripe_events, p_object jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- b7341f4370dfd856

-- Applies what of a charge was refunded to what it paid.
create function private.stripe_apply_charge(p_event_type text, p_charge jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- bf94a6a38a5fbd1d

-- Applies the state of a checkout session: grants the credits of a paid purchase once, keyed on the payment, and only for exactly its price.
create function private.stripe_apply_checkout_session(p_event_type text, p_session jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1bac1b108acf620e

-- Applies the state of a customer: which payment method they chose, or that they are gone, which is for good.
create function private.stripe_apply_customer(p_event_type text, p_customer jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 5e76c5b626415743

-- Applies what a dispute withholds to what was paid.
create function private.stripe_apply_dispute(p_event_type text, p_dispute jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 123200daa64ca60b

-- Applies an event of the inbox once: applied, ignored, duplicate, failed (recorded, tried again) or needs_fetch.
create function private.stripe_apply_event(p_event_id text, p_api_version text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c411d603134ecf9c

-- Applies the state of an invoice: mirrors it, grants the credits of a paid one once, and takes back what its payments gave back.
create function private.stripe_apply_invoice(p_event_type text, p_invoice jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9c299b79976fc29f

-- Ties a payment to the invoice it pays.
create function private.stripe_apply_invoice_payment(p_event_type text, p_invoice_payment jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 237048680cc75b1a

-- Applies the state of a payment intent to public.payments and to what it paid.
create function private.stripe_apply_payment_intent(p_event_type text, p_payment_intent jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 98af7d7498a049f5

-- Applies the state of a payment method: known while it is attached to a customer of ours, gone when it is not.
create function private.stripe_apply_payment_method(p_event_type text, p_method jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6b895fb40756672d

-- A refund that failed or was canceled asks for its charge; any other was told by charge.refunded.
create function private.stripe_apply_refund(p_event_type text, p_refund jsonb) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- b5ff3f48c4818825

-- Applies the state of a subscription, and gives its owner the plan that follows; without an owner it is canceled.
create function private.stripe_apply_subscription(p_event_type text, p_subscription jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- a5a8adfdf400b934

-- What has followed from an object: its rows, and the place in the ledger of the accounts they belong to.
create function private.stripe_effect(p_object jsonb) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 6632f5099a985de9

-- What of an object is compared: what handlers read, without what Stripe expands only sometimes or changes without meaning.
create function private.stripe_essence(p_object jsonb) returns jsonb
  sql, immutable, set search_path="";  -- 369f0fbd5a3761fe

-- Records why an event could not be applied and leaves a task that tries again.
create function private.stripe_fail(p_event private.stripe_events, p_error text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 0fee65780312e0b4

-- What is wrong with what is known here of an event or object at Stripe: missing, differing, unapplied, or null for nothing.
create function private.stripe_finding(p_object jsonb, p_livemode boolean) returns text
  plpgsql, volatile, security definer, set search_path="";  -- 7e198a21b22cbb07

-- Records what a handler answered: applied, ignored, or which object must be read from Stripe.
create function private.stripe_finish(p_event private.stripe_events, p_result jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 4294a4296d8d9d70

-- Id in a field that Stripe may have expanded into the whole object.
create function private.stripe_id(p_value jsonb) returns text
  sql, immutable, set search_path="";  -- 2aff2407d01ffc12

-- Whether an event that is handled has told of an object: one that is open, or unpaid, or not refunded may be unknown here.
create function private.stripe_is_told(p_object jsonb) returns boolean
  sql, immutable, set search_path="";  -- 0864179fb661fa0f

-- Whether applying the known state of an object again would change anything; nothing is changed, and no lock stays.
create function private.stripe_is_unapplied(p_object private.stripe_objects) returns boolean
  plpgsql, volatile, security definer, set search_path="";  -- 0b0ed2480c198543

-- Locks the row of a Stripe object, making an empty one for an object that was not seen before.
create function private.stripe_lock_object(p_type text, p_id text) returns private.stripe_objects
  plpgsql, volatile, security definer, set search_path="";  -- bf80e1134ac56448

-- Locks an event and counts the attempt, unless it is finished; 404 event_not_found.
create function private.stripe_open_event(p_event_id text) returns private.stripe_events
  plpgsql, volatile, security definer, set search_path="";  -- 01b482eb5884a7db

-- A run as it is reported; since_unix is `since` as Stripe writes times.
create function private.stripe_reconciliation_json(p_run private.stripe_reconciliations) returns jsonb
  sql, immutable, set search_path="";  -- 439af9da3580a7d1

-- A Stripe payload without names, addresses, emails, phones, IPs, card fingerprints, tax ids, client secrets, pages on which a payment is confirmed and our id of a person: what no handler needs and erasure would have to find.
create function private.stripe_redact(p_value jsonb) returns jsonb
  plpgsql, immutable, set search_path="";  -- 5bfa8b633998175d

-- Makes a state the newest of its object. The object's row is locked.
create function private.stripe_store(p_object jsonb, p_event_id text, p_from timestamp with time zone, p_until timestamp with time zone, p_read_asked_at timestamp with time zone DEFAULT NULL::timestamp with time zone) returns void
  sql, volatile, security definer, set search_path="";  -- 8f128d0e94965d0f

-- A time of Stripe's, which are whole seconds since 1970; null for null.
create function private.stripe_time(p_value jsonb) returns timestamp with time zone
  sql, immutable, set search_path="";  -- 3c59a55a88874921

-- Ends the checkout of a subscription with its page; the subscription itself is told by events of its own.
create function private.subscription_checkout_apply(p_session jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 09d1b3e9b902479d

-- Which plans a subscription gives, and until when: none, one, or while a change to a smaller plan waits for the end of the period, two.
create function private.subscription_entitlements(p_subscription public.subscriptions, OUT plan_id uuid, OUT until timestamp with time zone) returns SETOF record
  plpgsql, stable, security definer, set search_path="";  -- 4fac2c8b0aa90f2d

-- What the Python side needs to change a subscription at Stripe.
create function private.subscription_handle(p_subscription public.subscriptions) returns jsonb
  sql, stable, security definer, set search_path="";  -- 0351cb2d92a0a586

-- What every source offers the caller, kept so that a generation can name it; with suggestions switched off, the community's alone, not kept, and without id.
create function private.suggest_prompts(p_prompt text, p_limit integer) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- ba64ad30e475b854
  grant execute to authenticated;

-- Who asks for suggestions. 403 person_required for an organization's API key, suggestions_disabled where the person has switched them off.
create function private.suggesting_person(p_caller private.caller) returns uuid
  plpgsql, stable, security definer, set search_path="";  -- fc9b8dae0f376084

-- Similarity times the chance that the next generation ends well, by the rule of succession: a half before the first.
create function private.suggestion_confidence(p_similarity double precision, p_completed integer, p_failed integer) returns double precision
  plpgsql, immutable, set search_path="";  -- 0596e3e004d1e0ee

-- A suggestion as it is answered: without its vector.
create function private.suggestion_json(p_suggestion public.prompt_suggestions) returns jsonb
  plpgsql, immutable, set search_path="";  -- 7a6045ebf9ca547d

-- One change per row of api_usage, in the order of its key, without those that cancel out.
create function private.sum_usage_changes(p_changes private.usage_change[]) returns private.usage_change[]
  plpgsql, immutable, set search_path="";  -- 4a25ddd66667e03a

-- Has a version searched with its next model, once that has a vector of every chunk, and lets the old ones go; whether it did.
create function private.switch_embeddings(p_version_id uuid) returns boolean
  plpgsql, volatile, security definer, set search_path="";  -- 81061aa2a2eda442

-- Burns credits from an account's lots in order and says which: first a lot that is named and what stands in for it, then lots past their date if p_has_expired, then the others. The caller has swept and has made sure there is enough, so what is left of lots past their date was on hold.
create function private.take_from_lots(p_account_id uuid, p_amount numeric, p_has_expired boolean, p_first_lot_id uuid DEFAULT NULL::uuid, OUT lot_ids uuid[], OUT lot_amounts numeric[]) returns record
  plpgsql, volatile, security definer, set search_path="";  -- d10df9afb649f70a

-- Counts a check of a key; 429 rate_limited beyond provider_key_checks_per_minute.
create function private.take_provider_key_check(p_user_id uuid) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 2fdd8a875f906f00

-- How long to wait after the given number of attempts.
create function private.task_backoff(p_attempts integer) returns interval
  sql, volatile, set search_path="";  -- a87174f1876d00ba

-- Calls a task off and returns its hold; its worker learns so at the next renewal. 409 task_already_done.
create function private.task_cancel(p_id uuid, p_reason text) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 42f6c33a5103c06a

-- Asks for work after this transaction. Of a tenant, after as many of other tenants as wait of its own. Same kind and key, not finished yet: that task's id, no second one.
create function private.task_enqueue(p_kind text, p_payload jsonb, p_key text DEFAULT NULL::text, p_run_after timestamp with time zone DEFAULT now(), p_max_attempts integer DEFAULT 8, p_hold_id uuid DEFAULT NULL::uuid, p_priority integer DEFAULT 100, p_tenant uuid DEFAULT NULL::uuid) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- e37335b31b94e58c

-- A task as operators see it, as JSON.
create function private.task_summary(p_task private.tasks) returns jsonb
  sql, stable, security definer, set search_path="";  -- cd82f66ff8f584b4

-- Tells the owners of up to p_limit subscriptions that these, or their trials, end within subscription_expiring_days; how many it told. An end that is moved is told again.
create function private.tell_expiring_subscriptions(p_limit integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- 2ec7f559a2085047

-- Trigger: an attempt to pay was declined. A failure here fails the event that told of it, which is recorded and tried again.
create function private.tell_failed_payment() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 70ae83cc2693f6dd

-- Trigger: the balance has fallen below its threshold. Whatever fails here is a warning.
create function private.tell_low_balance() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- 664905f8ae5d61d6

-- Tells the owners of up to p_limit open invoices that these are past their due date; how many it told.
create function private.tell_overdue_invoices(p_limit integer) returns integer
  plpgsql, volatile, security definer, set search_path="";  -- 2e562828a33c8acd

-- Tells the owner of every threshold of the month that the account's counters have reached: once per threshold, kind and month.
create function private.tell_usage(p_account public.credit_accounts) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 3d9165c802ca8f06

-- Those of the documents that were named which belong to an organization, or else to a person: what a conversation of theirs may be answered from.
create function private.tenant_documents(p_user_id uuid, p_organization_id uuid, p_choice jsonb) returns SETOF public.documents
  plpgsql, stable, security definer, set search_path="";  -- f6855434061624e4

-- The organizations whose private libraries a caller reads, in one order.
create function private.tenant_of(p_caller private.caller) returns uuid[]
  plpgsql, stable, security definer, set search_path="";  -- 956ea73c6acc8ee4

-- UTF-8 bytes of a text, as it is or in NFC, whichever is more; for a long one a few per cent too many.
create function private.text_bytes(p_text text) returns bigint
  plpgsql, immutable, set search_path="";  -- 8ffb7371652b6124

-- Chunks of these versions that have words of a question, best first.
create function private.text_ranks(p_version_ids uuid[], p_query text, p_content_type text, p_with_flagged boolean, p_depth integer) returns TABLE(chunk_id uuid, place bigint, score double precision)
  plpgsql, stable, security definer, set search_path="";  -- 7cdcf4b0f7c411be

-- What a text weighs in a prompt, as functions/chat/counting.py weighs it: tokens at most, bytes, and how many of these are digits.
create function private.text_weight(p_text text, OUT bound bigint, OUT bytes bigint, OUT digits bigint) returns record
  plpgsql, immutable, strict, set search_path="";  -- a446701f6fc609aa

-- A JSON list of texts as an array; null for anything else.
create function private.texts(p_list jsonb) returns text[]
  plpgsql, immutable, set search_path="";  -- efd7ad0fbbed3f65

-- Of two rate limits, as RateLimit headers tell them, that which leaves less.
create function private.tighter_rate(p_first jsonb, p_second jsonb) returns jsonb
  plpgsql, immutable, set search_path="";  -- 330af4ed1015b43b

-- A title made of a first message: its first sentence without markup, at most 60 characters; null where nothing is left.
create function private.title_of(p_text text) returns text
  plpgsql, immutable, set search_path="";  -- 0394e9aa96ffc814

-- Credits for a completion under the given terms; completion tokens of all choices together.
create function private.token_cost(p_terms jsonb, p_prompt_tokens bigint, p_cached_tokens bigint, p_completion_tokens bigint) returns numeric
  plpgsql, immutable, set search_path="";  -- f6205eaf74d2c453

-- Who calls a tool (an API key needs the scope), counted against the limits of the key; rate_limit is what to add to the answer for RateLimit headers. 429 rate_limited.
create function private.tool_caller(p_user_id uuid, p_key_hash text, p_scope text, p_organization text, OUT caller private.caller, OUT rate_limit jsonb) returns record
  plpgsql, volatile, security definer, set search_path="";  -- f4a4df804c294e08

-- Applies the state of a payment intent to the automatic purchase it pays: grants its credits once, keyed on the payment and for exactly its price, or backs off. Payment and owner are locked. Other purchases are left alone.
create function private.top_up_apply(p_purchase_id uuid, p_state jsonb) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 51d778388f164e9a

-- An automatic purchase was declined: it has failed, its owner is told, and the next one waits longer each time. Once per purchase. The owner is locked.
create function private.top_up_decline(p_purchase_id uuid, p_code text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- 4f1db3f9a2ec61de

-- What Stripe is to be asked about an automatic purchase.
create function private.top_up_json(p_result text, p_customer_id text, p_purchase public.credit_purchases) returns jsonb
  sql, stable, security definer, set search_path="";  -- 638dd0b5f3145551

-- Why nothing is to be charged now, for a new purchase or for one that was begun; null when it is to be.
create function private.top_up_obstacle(p_top_up public.auto_top_ups, p_purchase public.credit_purchases) returns text
  plpgsql, stable, security definer, set search_path="";  -- b2743e5b4df37c58

-- The automatic purchase that a payment of its own customer names; null for none, and for every other kind of purchase.
create function private.top_up_of_payment(p_state jsonb, p_customer private.stripe_customers) returns uuid
  sql, stable, security definer, set search_path="";  -- b51bc7070defe2db

-- Switches an automatic top-up off and tells its owner, who may switch it on again; one that is off stays as it is. The owner is locked.
create function private.top_up_stop(p_account_id uuid, p_reason text) returns void
  plpgsql, volatile, security definer, set search_path="";  -- ad8376c945e9f9d2

-- Ends the automatic purchases of an account whose customer is gone. Should money of one still come, it is granted all the same.
create function private.top_ups_give_up(p_account_id uuid) returns void
  sql, volatile, security definer, set search_path="";  -- dbff89ee3961899c

-- The role of a member whom somebody of role p_my_role wants to change; fails when that is not theirs to do.
create function private.touch_member(p_organization_id uuid, p_user_id uuid, p_my_role text) returns text
  plpgsql, stable, security definer, set search_path="";  -- c22c1969692e5c98

-- Trigger: keeps updated_at true.
create function private.touch_updated_at() returns trigger
  plpgsql, volatile, set search_path="";  -- 5c189147bb2e34bc

-- The first rows of private.community_trends, for people who are signed in.
create function private.trends(p_limit integer) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- b005a5713e95dd33
  grant execute to authenticated;

-- Days of free trial that a subscription begins with: it is the owner's first, and whoever buys it has begun no other trial.
create function private.trial_days_for(p_user_id uuid, p_organization_id uuid, p_trial_days integer) returns integer
  plpgsql, stable, security definer, set search_path="";  -- 5ff9a9f668c4a420

-- Changes what is named of an agent.
create function private.update_agent(p_caller private.caller, p_id uuid, p_changes jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 6da42cf666d12c71

-- See public.update_api_key.
create function private.update_api_key(p_id uuid, p_changes jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 1d492ddbf7dd7a6b
  grant execute to authenticated;

-- Renames, archives, restores, shares a conversation, changes who answers in it, or shows another branch. 403 not_the_author for members who only write in it.
create function private.update_conversation(p_caller private.caller, p_conversation public.conversations, p_changes jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- 9f91704d3ddac866

-- See public.update_agent.
create function private.update_my_agent(p_id uuid, p_changes jsonb) returns jsonb
  sql, volatile, security definer, set search_path="";  -- 10e34e3278f7387e
  grant execute to authenticated;

-- See public.update_conversation.
create function private.update_my_conversation(p_id uuid, p_changes jsonb) returns jsonb
  sql, volatile, security definer, set search_path="";  -- de459bcacb840eaf
  grant execute to authenticated;

-- See public.update_organization.
create function private.update_organization(p_organization_id uuid, p_name text, p_settings jsonb) returns jsonb
  plpgsql, volatile, security definer, set search_path="";  -- c1ef9f30929ba027
  grant execute to authenticated;

-- Locks a private library whose archive its owner uploads. 404 library_not_found, 409 library_takes_no_archive.
create function private.uploaded_library(p_id text, p_user_id uuid, p_key_hash text) returns public.libraries
  plpgsql, volatile, security definer, set search_path="";  -- a453549db22c94b1

-- An agent the caller may talk to: their own, one of their organizations, or a public one; 404 agent_not_found for all others alike.
create function private.usable_agent(p_caller private.caller, p_agent_id uuid) returns public.agents
  plpgsql, stable, security definer, set search_path="";  -- fcabe84aac8ef662

-- What a finished usage row counts for (1), or what it had counted for (-1).
create function private.usage_change(p_row public.usage_logs, p_sign integer) returns private.usage_change
  plpgsql, immutable, set search_path="";  -- 097fac8c24f51e57

-- What the period counts, of how much (null: no limit), and the threshold ahead, by the names that refusals call the limits.
create function private.usage_meters(p_account public.credit_accounts) returns TABLE(limit_source text, used numeric, quota numeric, threshold numeric)
  plpgsql, stable, security definer, set search_path="";  -- 14489c7028a4a411

-- Months (UTC) that have a partition, oldest first.
create function private.usage_months() returns SETOF timestamp with time zone
  sql, stable, security definer, set search_path="";  -- 475b2eb7de5d4ff3

-- Name in private of the partition of a month (UTC).
create function private.usage_partition_name(p_month timestamp with time zone) returns text
  sql, immutable, set search_path="";  -- d23cd5c8085f32ad

-- Sums of what an organization used, or else a person, from one day (UTC) to another, both included, a row per group after a key, and the totals of all groups.
create function private.usage_report_of(p_user_id uuid, p_organization_id uuid, p_from date, p_to date, p_group_by text, p_limit integer, p_after text) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- 1a88328cab3feef5

-- The message that is to be answered: a new one, not yet stored, or the one whose answer is made anew.
create function private.user_message(p_caller private.caller, p_conversation public.conversations, p_content text, p_parts jsonb, p_message_id uuid, p_parent_id uuid, p_is_branch boolean, p_regenerate uuid) returns public.messages
  plpgsql, stable, security definer, set search_path="";  -- 2c7235e26258e833

-- Address, name and language of a user as they are now, with the name of the organization they are told for; or the reason why they are not written to.
create function private.user_recipient(p_user_id uuid, p_organization_id uuid, p_is_transactional boolean) returns jsonb
  plpgsql, stable, security definer, set search_path="";  -- d29b532acf015187

-- An instant as RFC 3339 in UTC, whatever the session's time zone.
create function private.utc_text(p_at timestamp with time zone) returns text
  sql, immutable, set search_path="";  -- 73d396ef97bd9ef7

-- A time-ordered UUID (version 7), in order to the microsecond.
create function private.uuid7() returns uuid
  plpgsql, volatile, set search_path="";  -- 0b0b15cc708cbd67
  grant execute to authenticated;

-- A value that lies before every id made by private.uuid7() from then on.
create function private.uuid7_floor(p_at timestamp with time zone) returns uuid
  plpgsql, immutable, set search_path="";  -- 0b6e9395a78faa8b

-- A JSON list of 1536 numbers as a vector; null for null.
create function private.vector_of(p_numbers jsonb) returns extensions.halfvec
  plpgsql, immutable, set search_path="";  -- 604c8f9d8598acf6

-- Chunks of these versions whose vectors, of this model, are nearest, nearest first; p_also are looked at whatever the graph finds.
create function private.vector_ranks(p_version_ids uuid[], p_embedding extensions.halfvec, p_model text, p_content_type text, p_with_flagged boolean, p_depth integer, p_also uuid[] DEFAULT '{}'::uuid[]) returns TABLE(chunk_id uuid, place bigint, distance double precision)
  plpgsql, volatile, security definer, set search_path="";  -- db7750128d6e26fd

-- How much places by vectors count beside places by words: the same, and half for those that are made of words themselves.
create function private.vector_share(p_model text) returns double precision
  plpgsql, immutable, set search_path="";  -- 2e266e73aa4eae7d

-- What was found in the latest 100 images that a person made and marked: with a prompt, it in the styles of those that are like it, else what they show.
create function private.vision_prompts(p_user_id uuid, p_prompt text) returns SETOF private.offered_prompt
  plpgsql, stable, security definer, set search_path="";  -- 64ec9eded34a983f

-- Asks the task runner to come now, where pg_net is installed and runner_url is set; otherwise does nothing.
create function private.wake_runner() returns boolean
  plpgsql, volatile, security definer, set search_path="";  -- 518dae88295a1ee7

-- Trigger: tells of thresholds reached and aims at the next. Whatever fails here is a warning, and the thresholds stay.
create function private.watch_usage() returns trigger
  plpgsql, volatile, security definer, set search_path="";  -- e095081cfb797ff8

-- An endpoint as its owner is answered.
create function private.webhook_endpoint_json(p_endpoint public.webhook_endpoints) returns jsonb
  sql, stable, set search_path="";  -- 31a8154cf07d6196

-- The words of a question, rarest first, with how much each counts in these versions.
create function private.weighed_terms(p_terms private.search_term[], p_version_ids uuid[]) returns private.search_term[]
  plpgsql, stable, security definer, set search_path="";  -- 166b79acf5b279e8

-- The terms of credits, and what is held for them, as terms of whoever may pay; an own key's amount is its fee.
create function private.with_credentials(p_candidate private.candidate, p_limits private.hold_limits, p_terms private.chat_terms, p_own_amount numeric) returns private.chat_terms
  plpgsql, stable, security definer, set search_path="";  -- 310f76ae612e309d

-- How well chunks answer a question, by its words: BM25F (Robertson and Zaragoza, 2009) with k1 = 1.2 and b = 0.3. Lengths are in averages.
create function private.word_scores(p_ids uuid[], p_words tsvector[], p_lengths double precision[], p_terms private.search_term[]) returns TABLE(id uuid, score double precision)
  plpgsql, immutable, set search_path="";  -- 46c8a25ed24cdce7

-- How alike two texts are, by their different words: those in both, of those in either (Jaccard index); 0 to 1.
create function private.word_similarity(p_one text[], p_other text[]) returns double precision
  plpgsql, immutable, set search_path="";  -- a5b9b67fdf08d35f

-- Writes one ledger row and moves the account's balance and debt with it.
create function private.write_transaction(p_account_id uuid, p_operation text, p_type text, p_amount numeric, p_debt_change numeric, p_lot_ids uuid[], p_lot_amounts numeric[], p_reference_id uuid, p_description text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_fingerprint text DEFAULT NULL::text, p_metadata jsonb DEFAULT '{}'::jsonb) returns uuid
  plpgsql, volatile, security definer, set search_path="";  -- d03da9e5bfd26645

-- Locks a library for whoever may change it: an operator, or of a private one an admin of its organization or its key (scope libraries). 404 library_not_found for anybody else.
create function private.written_library(p_library_id text, p_user_id uuid, p_key_hash text, p_actor text) returns public.libraries
  plpgsql, volatile, security definer, set search_path="";  -- 94de5d3555f9df44
