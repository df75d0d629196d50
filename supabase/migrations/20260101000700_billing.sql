-- Billing: plans, credit packs and their purchase, and the inbox of what Stripe says happened. Further chapters go on:
-- subscriptions, invoices (with payments and payment methods), alerts, limits, operations and top-ups.
--
--   plans                     what each tier allows and costs; profiles and organizations point at theirs
--   private.plan_prices       every price at Stripe a plan ever had: old subscriptions keep theirs
--   credit_packs              what a top-up can buy
--   credit_purchases          one row per checkout, with credits and price as they were when it began
--   private.stripe_customers  the Stripe customer of each owner, and those that were deleted at Stripe
--   private.stripe_events     the inbox: every event once, with what became of it
--   private.stripe_objects    the newest state of each Stripe object that was applied
--
-- An event carries a snapshot of an object. Handlers apply states, not differences: whatever the order of delivery,
-- the newest snapshot of each object decides, and a purchase is recomputed from the newest snapshots of its payment.
-- Stripe ids are text without foreign keys, because events arrive out of order (docs/stripe.md).
--
-- Locks: event, then object, then payment, then the owner (their profile or organization), then purchase, then credit
-- account. No function takes them in another order. The payment's lock is what lets a refund and the checkout it
-- undoes arrive in the same instant; the owner's does the same for an invoice, its payments and its subscription.

-- ---------------------------------------------------------------------------------------------------------------
-- Plans
-- ---------------------------------------------------------------------------------------------------------------

create table public.plans (
  id uuid primary key default gen_random_uuid(),
  slug text not null,
  name text not null,
  description text,
  monthly_tokens bigint not null,
  max_agents integer not null,
  max_documents integer not null,
  max_libraries integer not null default 0,
  max_team_members integer not null default 1,
  monthly_free_images integer not null default 0,
  requests_per_minute integer not null,
  requests_per_month integer not null,
  concurrent_requests integer not null,
  credits_per_month numeric(20, 6) not null default 0,
  credits_roll_over boolean not null default false,
  has_api_access boolean not null default false,
  has_workflows boolean not null default false,
  has_priority_support boolean not null default false,
  features jsonb not null default '[]',
  currency text not null default 'eur',
  price_monthly_minor bigint,
  price_yearly_minor bigint,
  stripe_price_id_monthly text,
  stripe_price_id_yearly text,
  trial_days integer not null default 0,
  is_active boolean not null default true,
  sort_order integer not null default 0,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint plans_have_unique_slugs unique (slug),
  constraint slug_is_lower_case check (slug ~ '^[a-z][a-z0-9_-]{0,49}$'),
  constraint name_is_not_empty check (length(name) between 1 and 100),
  constraint monthly_tokens_are_a_limit_or_unlimited check (monthly_tokens >= -1),
  constraint max_agents_is_a_limit_or_unlimited check (max_agents >= -1),
  constraint max_documents_is_a_limit_or_unlimited check (max_documents >= -1),
  constraint max_libraries_is_a_limit_or_unlimited check (max_libraries >= -1),
  constraint max_team_members_is_a_limit_or_unlimited check (max_team_members = -1 or max_team_members >= 1),
  constraint monthly_free_images_are_a_limit_or_unlimited check (monthly_free_images >= -1),
  constraint requests_per_minute_are_a_limit_or_unlimited check (requests_per_minute >= -1),
  constraint requests_per_month_are_a_limit_or_unlimited check (requests_per_month >= -1),
  constraint concurrent_requests_are_a_limit_or_unlimited check (concurrent_requests >= -1),
  constraint credits_are_not_negative check (credits_per_month >= 0),
  constraint prices_are_not_negative check (price_monthly_minor >= 0 and price_yearly_minor >= 0),
  constraint trial_is_not_negative check (trial_days >= 0),
  constraint features_are_a_list check (jsonb_typeof(features) = 'array'),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object'),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$'),
  constraint the_free_plan_is_free_and_active
  check (slug <> 'free' or (is_active and price_monthly_minor = 0 and price_yearly_minor = 0))
);

comment on table public.plans is 'What each tier allows and costs. A limit of -1 is no limit.';
comment on column public.plans.id is 'Identifies the plan.';
comment on column public.plans.slug is 'Its stable name in code and URLs: free, pro, business, enterprise.';
comment on column public.plans.name is 'Its name for people.';
comment on column public.plans.description is 'One sentence for the price list.';
comment on column public.plans.monthly_tokens is 'Tokens per calendar month (UTC); -1 for no limit.';
comment on column public.plans.max_agents is 'Agents an owner may have; -1 for no limit.';
comment on column public.plans.max_documents is 'Documents an owner may have; -1 for no limit.';
comment on column public.plans.max_libraries is 'Private libraries an organization may have; -1 for no limit.';
comment on column public.plans.max_team_members is 'Members an organization may have; -1 for no limit.';
comment on column public.plans.monthly_free_images is 'Images per calendar month (UTC) that cost no credits; -1 for no limit.';
comment on column public.plans.requests_per_minute is 'Requests per minute; -1 for no limit.';
comment on column public.plans.requests_per_month is 'Requests per calendar month (UTC); -1 for no limit.';
comment on column public.plans.concurrent_requests is 'Requests in flight at once; -1 for no limit.';
comment on column public.plans.credits_per_month is 'Credits granted for each paid month.';
comment on column public.plans.credits_roll_over is 'Whether the plan''s credits outlive the period they were granted for.';
comment on column public.plans.has_api_access is 'Whether API keys may be made.';
comment on column public.plans.has_workflows is 'Whether workflows are available.';
comment on column public.plans.has_priority_support is 'Whether support answers first.';
comment on column public.plans.features is 'What the price list says about it: a list of feature names.';
comment on column public.plans.currency is 'Currency of the prices, lower-case ISO 4217.';
comment on column public.plans.price_monthly_minor is 'Price of a month in minor units; null when it is on request.';
comment on column public.plans.price_yearly_minor is 'Price of a year in minor units; null when it is on request.';
comment on column public.plans.stripe_price_id_monthly is 'The monthly price at Stripe; null until an operator sets it.';
comment on column public.plans.stripe_price_id_yearly is 'The yearly price at Stripe; null until an operator sets it.';
comment on column public.plans.trial_days is 'Days of free trial for a first subscription.';
comment on column public.plans.is_active is 'Whether it is on offer; those who have it keep it.';
comment on column public.plans.sort_order is 'Its place in the price list.';
comment on column public.plans.metadata is 'Further facts for operators.';
comment on column public.plans.created_at is 'When it was made.';
comment on column public.plans.updated_at is 'When it last changed.';

-- Names, limits and monthly prices are those of specification 000; a year costs ten months.
insert into public.plans (
  slug, name, description, monthly_tokens, max_agents, max_documents, max_libraries, max_team_members,
  monthly_free_images, requests_per_minute, requests_per_month, concurrent_requests, credits_per_month,
  has_api_access, has_workflows, has_priority_support, features, price_monthly_minor, price_yearly_minor, sort_order
) values
(
  'free', 'Free', 'To try everything out.', 10000, 1, 0, 0, 1, 5, 20, 1000, 2, 0,
  false, false, false, '["chat", "images"]', 0, 0, 1
),
(
  'pro', 'Pro', 'For one person who works with it daily.', 100000, 5, 50, 5, 1, 50, 60, 10000, 10, 6000,
  false, false, false, '["chat", "images", "documents"]', 2900, 29000, 2
),
(
  'business', 'Business', 'For a team, with API keys and workflows.', 500000, 20, 500, 50, 20, 200, 300, 100000, 40,
  25000, true, true, true, '["chat", "images", "documents", "api", "workflows", "priority_support"]', 9900, 99000, 3
),
(
  'enterprise', 'Enterprise', 'Without limits, on request.', -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
  true, true, true, '["chat", "images", "documents", "api", "workflows", "priority_support"]', null, null, 4
);

create table private.plan_prices (
  stripe_price_id text primary key,
  plan_id uuid not null references public.plans (id),
  billing_interval text not null,
  amount_minor bigint not null,
  currency text not null,
  created_at timestamptz not null default now(),
  constraint stripe_price_id_is_a_price check (stripe_price_id ~ '^price_[A-Za-z0-9_]{1,200}$'),
  constraint billing_interval_is_known check (billing_interval in ('month', 'year')),
  -- A subscription that costs nothing would grant its credits for nothing.
  constraint amount_is_positive check (amount_minor > 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$')
);

comment on table private.plan_prices is 'Every price at Stripe that a plan has or had: a subscription keeps the price it was made with. Kept by a trigger on plans.';
comment on column private.plan_prices.stripe_price_id is 'The price at Stripe.';
comment on column private.plan_prices.plan_id is 'The plan it buys.';
comment on column private.plan_prices.billing_interval is 'How often it is paid: month or year.';
comment on column private.plan_prices.amount_minor is 'What one such period costs, in minor units.';
comment on column private.plan_prices.currency is 'Currency of the amount, lower-case ISO 4217.';
comment on column private.plan_prices.created_at is 'When the plan got it.';

create index plan_prices_by_plan on private.plan_prices (plan_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Entitlements: what an owner has. Clients have no column grant on these, so they can only read them.
-- ---------------------------------------------------------------------------------------------------------------

alter table public.profiles
add column plan_id uuid references public.plans (id),
add column plan_started_at timestamptz,
add column plan_expires_at timestamptz,
add column subscription_tier text not null default 'free' references public.plans (slug) on update cascade,
add column subscription_status text not null default 'active',
add column subscription_end_date timestamptz,
add column stripe_customer_id text,
add constraint subscription_status_is_known check (
  subscription_status in (
    'active', 'trialing', 'past_due', 'paused', 'unpaid', 'incomplete', 'incomplete_expired', 'canceled', 'suspended'
  )
),
add constraint plan_ends_after_it_starts check (plan_expires_at > plan_started_at);

comment on column public.profiles.plan_id is 'The plan the user has; null for the free one.';
comment on column public.profiles.plan_started_at is 'When the plan began.';
comment on column public.profiles.plan_expires_at is 'When the plan falls back to free; null while it runs on.';
comment on column public.profiles.subscription_tier is 'Slug of plan_id, kept by a trigger: what clients show.';
comment on column public.profiles.subscription_status is 'Where the subscription stands, in Stripe''s words; active on the free plan.';
comment on column public.profiles.subscription_end_date is 'When the paid period ends; null on the free plan.';
comment on column public.profiles.stripe_customer_id is 'The customer at Stripe; null before the first checkout.';

create index profiles_by_plan on public.profiles (plan_id) where plan_id is not null;
create index profiles_by_subscription_tier on public.profiles (subscription_tier);
create unique index profiles_have_one_stripe_customer
on public.profiles (stripe_customer_id) where stripe_customer_id is not null;

alter table public.organizations
add column plan_id uuid references public.plans (id),
add column plan_started_at timestamptz,
add column plan_expires_at timestamptz,
add constraint plan_ends_after_it_starts check (plan_expires_at > plan_started_at);

comment on column public.organizations.plan_id is 'The plan the organization has; null for the free one.';
comment on column public.organizations.plan_started_at is 'When the plan began.';
comment on column public.organizations.plan_expires_at is 'When the plan falls back to free; null while it runs on.';

create index organizations_by_plan on public.organizations (plan_id) where plan_id is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- Credit packs and their purchase
-- ---------------------------------------------------------------------------------------------------------------

create table public.credit_packs (
  id uuid primary key default gen_random_uuid(),
  slug text not null,
  name text not null,
  description text,
  credits numeric(20, 6) not null,
  price_minor bigint not null,
  currency text not null default 'eur',
  stripe_price_id text,
  valid_days integer,
  is_active boolean not null default true,
  sort_order integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint packs_have_unique_slugs unique (slug),
  constraint slug_is_lower_case check (slug ~ '^[a-z][a-z0-9_-]{0,49}$'),
  constraint name_is_not_empty check (length(name) between 1 and 100),
  constraint credits_are_positive check (credits > 0),
  -- A pack without a price would let anybody mint credits.
  constraint price_is_positive check (price_minor > 0),
  constraint validity_is_positive check (valid_days > 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$')
);

comment on table public.credit_packs is 'What a top-up can buy.';
comment on column public.credit_packs.id is 'Identifies the pack.';
comment on column public.credit_packs.slug is 'Its stable name in code and URLs.';
comment on column public.credit_packs.name is 'Its name for people, also on the checkout page.';
comment on column public.credit_packs.description is 'One sentence for the price list.';
comment on column public.credit_packs.credits is 'Credits it grants.';
comment on column public.credit_packs.price_minor is 'Price in minor units of the currency.';
comment on column public.credit_packs.currency is 'Currency of the price, lower-case ISO 4217.';
comment on column public.credit_packs.stripe_price_id is 'The price at Stripe; null to name the amount in the checkout itself.';
comment on column public.credit_packs.valid_days is 'Days the credits stay valid once paid; null for ever.';
comment on column public.credit_packs.is_active is 'Whether it is on sale.';
comment on column public.credit_packs.sort_order is 'Its place in the price list.';
comment on column public.credit_packs.created_at is 'When it was made.';
comment on column public.credit_packs.updated_at is 'When it last changed.';

insert into public.credit_packs (slug, name, description, credits, price_minor, sort_order) values
('starter', '1,000 credits', 'To get going.', 1000, 500, 1),
('standard', '5,000 credits', 'A fifth less per credit.', 5000, 2000, 2),
('volume', '25,000 credits', 'The lowest price per credit.', 25000, 8000, 3);

create table public.credit_purchases (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  bought_by uuid references public.profiles (id) on delete set null,
  account_id uuid not null references public.credit_accounts (id),
  pack_id uuid not null references public.credit_packs (id),
  pack_name text not null,
  credits numeric(20, 6) not null,
  price_minor bigint not null,
  currency text not null,
  valid_days integer,
  status text not null default 'pending',
  amount_refunded_minor bigint not null default 0,
  amount_disputed_minor bigint not null default 0,
  lot_id uuid references public.credit_lots (id),
  stripe_checkout_session_id text,
  stripe_payment_intent_id text,
  stripe_charge_id text,
  checkout_url text,
  checkout_expires_at timestamptz,
  idempotency_key text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  paid_at timestamptz,
  constraint a_purchase_has_at_most_one_owner check (num_nonnulls(user_id, organization_id) <= 1),
  constraint credits_are_positive check (credits > 0),
  constraint price_is_positive check (price_minor > 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$'),
  constraint status_is_known check (
    status in ('pending', 'paid', 'failed', 'expired', 'partially_refunded', 'refunded', 'disputed')
  ),
  constraint a_purchase_has_its_lot_once_it_is_paid
  check ((status in ('paid', 'partially_refunded', 'refunded', 'disputed')) = (lot_id is not null)),
  constraint paid_at_says_when_it_was_paid check ((lot_id is null) = (paid_at is null)),
  constraint no_more_is_refunded_than_was_paid check (amount_refunded_minor between 0 and price_minor),
  constraint no_more_is_disputed_than_was_paid check (amount_disputed_minor between 0 and price_minor),
  constraint only_a_paid_purchase_is_refunded_or_disputed
  check (lot_id is not null or (amount_refunded_minor = 0 and amount_disputed_minor = 0)),
  constraint a_disputed_purchase_has_a_disputed_amount check ((status = 'disputed') = (amount_disputed_minor > 0)),
  constraint a_refunded_purchase_is_refunded_whole check (status <> 'refunded' or amount_refunded_minor = price_minor),
  constraint key_is_not_empty check (length(idempotency_key) between 1 and 255)
);

comment on table public.credit_purchases is 'Checkouts of credit packs: what was to be paid for how many credits, and what became of it.';
comment on column public.credit_purchases.id is 'Identifies the purchase; Stripe carries it as client_reference_id and in metadata.';
comment on column public.credit_purchases.user_id is 'The user who owns it; null for an organization''s, or once erased.';
comment on column public.credit_purchases.organization_id is 'The organization that owns it; null for a user''s, or once erased.';
comment on column public.credit_purchases.bought_by is 'Who started the checkout; null once erased.';
comment on column public.credit_purchases.account_id is 'The credit account that receives the credits.';
comment on column public.credit_purchases.pack_id is 'The pack that was bought.';
comment on column public.credit_purchases.pack_name is 'Name of the pack when it began: what Stripe is told is the same for every attempt.';
comment on column public.credit_purchases.credits is 'Credits it grants, as the pack said when the checkout began.';
comment on column public.credit_purchases.price_minor is 'What must be paid, in minor units, as the pack said when the checkout began.';
comment on column public.credit_purchases.currency is 'Currency of the price, lower-case ISO 4217.';
comment on column public.credit_purchases.valid_days is 'Days the credits stay valid once paid; null for ever.';
comment on column public.credit_purchases.status is 'pending; paid, failed or expired; then partially_refunded, refunded or disputed while money is gone.';
comment on column public.credit_purchases.amount_refunded_minor is 'Money given back, in minor units.';
comment on column public.credit_purchases.amount_disputed_minor is 'Money withheld by disputes that are open or lost, in minor units.';
comment on column public.credit_purchases.lot_id is 'The credits that were granted; null until it is paid.';
comment on column public.credit_purchases.stripe_checkout_session_id is 'The checkout session at Stripe.';
comment on column public.credit_purchases.stripe_payment_intent_id is 'The payment at Stripe; the grant is keyed on it.';
comment on column public.credit_purchases.stripe_charge_id is 'The charge at Stripe, once an event names it.';
comment on column public.credit_purchases.checkout_url is 'Where the buyer pays.';
comment on column public.credit_purchases.checkout_expires_at is 'Until when the checkout page accepts payment.';
comment on column public.credit_purchases.idempotency_key is 'The buyer''s key for this checkout, unique per buyer.';
comment on column public.credit_purchases.created_at is 'When the checkout began.';
comment on column public.credit_purchases.updated_at is 'When anything in the row last changed.';
comment on column public.credit_purchases.paid_at is 'When its credits were granted.';

create index credit_purchases_by_user on public.credit_purchases (user_id, created_at desc);
create index credit_purchases_by_organization on public.credit_purchases (organization_id, created_at desc);
create index credit_purchases_by_account on public.credit_purchases (account_id);
create index credit_purchases_by_pack on public.credit_purchases (pack_id);
create unique index credit_purchases_have_one_key_per_buyer on public.credit_purchases (bought_by, idempotency_key);
create unique index credit_purchases_have_their_own_lot on public.credit_purchases (lot_id) where lot_id is not null;
create unique index credit_purchases_have_their_own_session
on public.credit_purchases (stripe_checkout_session_id) where stripe_checkout_session_id is not null;
create unique index credit_purchases_have_their_own_payment
on public.credit_purchases (stripe_payment_intent_id) where stripe_payment_intent_id is not null;
create unique index credit_purchases_have_their_own_charge
on public.credit_purchases (stripe_charge_id) where stripe_charge_id is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- What Stripe knows us by, and what it tells us
-- ---------------------------------------------------------------------------------------------------------------

create table private.stripe_customers (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  account_id uuid not null references public.credit_accounts (id),
  customer_id text unique,
  default_payment_method_id text,
  email text,
  name text,
  created_at timestamptz not null default now(),
  attached_at timestamptz,
  deleted_at timestamptz,
  constraint a_customer_has_at_most_one_owner check (num_nonnulls(user_id, organization_id) <= 1),
  constraint an_attached_customer_has_an_id check ((customer_id is null) = (attached_at is null)),
  constraint an_attached_customer_keeps_no_personal_data check (customer_id is null or num_nonnulls(email, name) = 0),
  constraint only_an_attached_customer_is_deleted check (deleted_at is null or customer_id is not null)
);

comment on table private.stripe_customers is 'The Stripe customer of each user or organization: one that is live, and those that were deleted at Stripe, since their events may come later.';
comment on column private.stripe_customers.id is 'Identifies the claim; the idempotency key of the customer''s creation at Stripe derives from it.';
comment on column private.stripe_customers.user_id is 'The user it stands for; null for an organization''s, or once erased.';
comment on column private.stripe_customers.organization_id is 'The organization it stands for; null for a user''s, or once erased.';
comment on column private.stripe_customers.account_id is 'Credit account of the owner; stays when the owner is erased.';
comment on column private.stripe_customers.customer_id is 'Its id at Stripe; null while it is being created.';
comment on column private.stripe_customers.default_payment_method_id is 'The payment method at Stripe that the customer chose for invoices; null for none.';
comment on column private.stripe_customers.email is 'Verified address it is created with, the same for every attempt; null for none, and once it exists.';
comment on column private.stripe_customers.name is 'Name it is created with, the same for every attempt; null once it exists.';
comment on column private.stripe_customers.created_at is 'When the first checkout claimed it.';
comment on column private.stripe_customers.attached_at is 'When its id at Stripe became known.';
comment on column private.stripe_customers.deleted_at is 'When we heard that it was deleted at Stripe: nothing is sold through it any more, and what is still told of it belongs to its owner. Null while it is live.';

create unique index stripe_customers_are_live_once_per_user
on private.stripe_customers (user_id) where deleted_at is null;
create unique index stripe_customers_are_live_once_per_organization
on private.stripe_customers (organization_id) where deleted_at is null;
create index stripe_customers_by_user on private.stripe_customers (user_id);
create index stripe_customers_by_organization on private.stripe_customers (organization_id);
create index stripe_customers_by_account on private.stripe_customers (account_id);

create table private.stripe_object_handlers (
  object_type text primary key,
  handler text not null unique,
  constraint handler_is_a_kernel_function check (handler ~ '^stripe_apply_[a-z_]+$')
);

comment on table private.stripe_object_handlers is 'Which kernel function applies the state of a Stripe object of each type.';
comment on column private.stripe_object_handlers.object_type is 'Type of the object, as in its "object" field.';
comment on column private.stripe_object_handlers.handler is 'Function in private, taking (event type text, object jsonb) and returning jsonb.';

create table private.stripe_event_types (
  event_type text primary key,
  object_type text not null references private.stripe_object_handlers (object_type),
  effect text not null
);

comment on table private.stripe_event_types is 'The handler map: events that are applied. Every other type is stored and ignored.';
comment on column private.stripe_event_types.event_type is 'Type of the event, as Stripe spells it.';
comment on column private.stripe_event_types.object_type is 'Type of the object it carries.';
comment on column private.stripe_event_types.effect is 'What it does, for docs/stripe.md.';

create index stripe_event_types_by_object_type on private.stripe_event_types (object_type);

insert into private.stripe_object_handlers (object_type, handler) values
('checkout.session', 'stripe_apply_checkout_session'),
('charge', 'stripe_apply_charge'),
('refund', 'stripe_apply_refund'),
('dispute', 'stripe_apply_dispute');

insert into private.stripe_event_types (event_type, object_type, effect) values
(
  'checkout.session.completed', 'checkout.session',
  'Grants the purchase''s credits when it is paid; waits when the payment is still processing.'
),
('checkout.session.async_payment_succeeded', 'checkout.session', 'Grants the purchase''s credits.'),
('checkout.session.async_payment_failed', 'checkout.session', 'Marks the purchase failed.'),
('checkout.session.expired', 'checkout.session', 'Marks the purchase expired.'),
('charge.refunded', 'charge', 'Takes back credits in proportion to everything refunded so far.'),
(
  'charge.refund.updated', 'refund',
  'A refund that failed or was canceled gives credits back, after a look at the charge.'
),
(
  'refund.updated', 'refund',
  'A refund that failed or was canceled gives credits back, after a look at the charge.'
),
('refund.failed', 'refund', 'Gives back the credits of a refund that failed, after a look at the charge.'),
(
  'charge.dispute.created', 'dispute',
  'Takes back credits in proportion to the amount disputed; an inquiry takes nothing.'
),
('charge.dispute.updated', 'dispute', 'Follows the dispute; an inquiry that became one takes credits back.'),
('charge.dispute.closed', 'dispute', 'Won: gives the credits back. Lost: they stay taken.'),
('charge.dispute.funds_withdrawn', 'dispute', 'Takes back credits in proportion to the amount disputed.'),
('charge.dispute.funds_reinstated', 'dispute', 'Follows the dispute; won gives the credits back.');

create table private.stripe_events (
  id text primary key,
  type text not null,
  object_type text,
  object_id text,
  api_version text,
  livemode boolean not null,
  created timestamptz not null,
  payload jsonb not null,
  status text not null default 'received',
  outcome jsonb,
  attempts integer not null default 0,
  last_error text,
  fetch_type text,
  fetch_id text,
  fetch_revision bigint,
  fetch_asked_at timestamptz,
  received_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  constraint status_is_known check (status in ('received', 'applied', 'failed', 'ignored', 'needs_fetch')),
  constraint finished_at_says_when_it_ended check ((status in ('applied', 'ignored')) = (finished_at is not null)),
  constraint a_failed_event_has_its_error check (status <> 'failed' or last_error is not null),
  constraint an_event_that_needs_a_fetch_says_of_what check (
    status <> 'needs_fetch' or num_nulls(fetch_type, fetch_id, fetch_revision, fetch_asked_at) = 0
  ),
  constraint attempts_are_not_negative check (attempts >= 0)
);

comment on table private.stripe_events is 'The inbox: every event Stripe delivered, once, and what became of it.';
comment on column private.stripe_events.id is 'Id of the event at Stripe.';
comment on column private.stripe_events.type is 'Type of the event, as Stripe spells it.';
comment on column private.stripe_events.object_type is 'Type of the object it is about.';
comment on column private.stripe_events.object_id is 'Id of the object it is about.';
comment on column private.stripe_events.api_version is 'API version that shaped the payload.';
comment on column private.stripe_events.livemode is 'Whether real money moved.';
comment on column private.stripe_events.created is 'When it happened, by Stripe''s clock, in whole seconds.';
comment on column private.stripe_events.payload is 'The event without personal data (private.stripe_redact).';
comment on column private.stripe_events.status is 'received, then applied, ignored, failed (tried again) or needs_fetch (the object must be read from Stripe).';
comment on column private.stripe_events.outcome is 'What the handler did, or why the event was ignored.';
comment on column private.stripe_events.attempts is 'How often it was tried.';
comment on column private.stripe_events.last_error is 'Why the last attempt failed.';
comment on column private.stripe_events.fetch_type is 'Type of the object to read from Stripe.';
comment on column private.stripe_events.fetch_id is 'Id of the object to read from Stripe.';
comment on column private.stripe_events.fetch_revision is 'Revision of that object when the read was asked for.';
comment on column private.stripe_events.fetch_asked_at is 'When the read was asked for: what is read is at least as new.';
comment on column private.stripe_events.received_at is 'When it was first delivered.';
comment on column private.stripe_events.finished_at is 'When it was applied or ignored.';

create index stripe_events_unfinished on private.stripe_events (received_at)
where status in ('received', 'failed', 'needs_fetch');
create index stripe_events_by_object on private.stripe_events (object_id, created);

create table private.stripe_objects (
  id text primary key,
  type text not null,
  event_id text,
  newest_from timestamptz,
  newest_until timestamptz,
  read_asked_at timestamptz,
  revision bigint not null default 0,
  payment_intent_id text,
  invoice_id text,
  state jsonb,
  updated_at timestamptz not null default now(),
  constraint a_state_has_its_age check (num_nonnulls(event_id, newest_from, newest_until, state) in (0, 4)),
  constraint age_is_an_interval check (newest_until >= newest_from)
) with (fillfactor = 80);

comment on table private.stripe_objects is 'The newest state of each Stripe object that was applied, and how old that state is. A payment''s row may be empty: it is there to be locked.';
comment on column private.stripe_objects.id is 'Id of the object at Stripe.';
comment on column private.stripe_objects.type is 'Type of the object.';
comment on column private.stripe_objects.event_id is 'The event that brought the state, or "read"; no foreign key, events may be retired first.';
comment on column private.stripe_objects.newest_from is 'The state is at least this new, by Stripe''s clock: older events change nothing.';
comment on column private.stripe_objects.newest_until is 'The state is at most this new: later events change it, those in between need a read.';
comment on column private.stripe_objects.read_asked_at is 'When the last read from Stripe that was applied was asked for, by our clock.';
comment on column private.stripe_objects.revision is 'Counts the states applied.';
comment on column private.stripe_objects.payment_intent_id is 'The payment it belongs to.';
comment on column private.stripe_objects.invoice_id is 'The invoice an invoice payment belongs to.';
comment on column private.stripe_objects.state is 'The object without personal data.';
comment on column private.stripe_objects.updated_at is 'When the state last changed.';

create index stripe_objects_by_payment on private.stripe_objects (payment_intent_id)
where payment_intent_id is not null;
create index stripe_objects_by_invoice on private.stripe_objects (invoice_id) where invoice_id is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: everybody reads the price list, owners read their purchases, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.plans, public.credit_packs to service_role;
grant select (
  id, slug, name, description, monthly_tokens, max_agents, max_documents, max_libraries, max_team_members,
  monthly_free_images, requests_per_minute, requests_per_month, concurrent_requests, credits_per_month,
  credits_roll_over, has_api_access, has_workflows, has_priority_support, features, currency, price_monthly_minor,
  price_yearly_minor, trial_days, is_active, sort_order, created_at, updated_at
) on public.plans to anon, authenticated;
grant select (
  id, slug, name, description, credits, price_minor, currency, valid_days, is_active, sort_order, created_at, updated_at
) on public.credit_packs to anon, authenticated;
grant select on public.credit_purchases to authenticated, service_role;

alter table public.plans enable row level security;
alter table public.credit_packs enable row level security;
alter table public.credit_purchases enable row level security;
alter table private.plan_prices enable row level security;
alter table private.stripe_customers enable row level security;
alter table private.stripe_object_handlers enable row level security;
alter table private.stripe_event_types enable row level security;
alter table private.stripe_events enable row level security;
alter table private.stripe_objects enable row level security;

create policy "Visitors read the plans on offer"
on public.plans for select to anon
using (is_active);

create policy "Users read the plans on offer and those they have"
on public.plans for select to authenticated
using (
  is_active
  or id in (select p.plan_id from public.profiles as p where p.id = (select private.active_user_id()))
  or id in (
    select o.plan_id from public.organizations as o where o.id in (select private.my_organization_ids())
  )
);

create policy "Everybody reads the packs on sale"
on public.credit_packs for select to anon, authenticated
using (is_active);

create policy "Buyers and organization admins read their purchases"
on public.credit_purchases for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger plans_touch before update on public.plans
for each row execute function private.touch_updated_at();
create trigger credit_packs_touch before update on public.credit_packs
for each row execute function private.touch_updated_at();
create trigger credit_purchases_touch before update on public.credit_purchases
for each row execute function private.touch_updated_at();

create function private.follow_plan() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  new.subscription_tier := 'free';
  if new.plan_id is not null then
    select p.slug into strict new.subscription_tier from public.plans as p where p.id = new.plan_id;
  end if;
  return new;
end
$$;

comment on function private.follow_plan() is 'Trigger: a profile''s subscription_tier is the slug of its plan.';

create trigger profiles_follow_their_plan
before insert or update of plan_id, subscription_tier on public.profiles
for each row execute function private.follow_plan();

create function private.keep_plan_prices() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if exists (
    select
    from private.plan_prices as k
    inner join (
      values
      (new.stripe_price_id_monthly, 'month', new.price_monthly_minor),
      (new.stripe_price_id_yearly, 'year', new.price_yearly_minor)
    ) as p (price_id, billing_interval, amount_minor) on p.price_id = k.stripe_price_id
    where (k.plan_id, k.billing_interval) = (new.id, p.billing_interval)
      and (k.amount_minor, k.currency) is distinct from (p.amount_minor, new.currency)
      and exists (select from public.subscriptions as s where s.stripe_price_id = k.stripe_price_id)
  ) then
    -- A price at Stripe keeps its amount for good, and what was paid is counted by it.
    perform private.fail(409, 'plan_price_in_use',
      'Somebody pays this price at Stripe, whose amount never changes: make a new price and name it with the new amount.');
  end if;
  insert into private.plan_prices as k (stripe_price_id, plan_id, billing_interval, amount_minor, currency)
  select p.price_id, new.id, p.billing_interval, p.amount_minor, new.currency
  from (
    values
    (new.stripe_price_id_monthly, 'month', new.price_monthly_minor),
    (new.stripe_price_id_yearly, 'year', new.price_yearly_minor)
  ) as p (price_id, billing_interval, amount_minor)
  where p.price_id is not null
  on conflict (stripe_price_id) do update
  set amount_minor = excluded.amount_minor, currency = excluded.currency
  where k.plan_id = excluded.plan_id and k.billing_interval = excluded.billing_interval;
  if exists (
    select from private.plan_prices as k
    where (k.stripe_price_id = new.stripe_price_id_monthly and (k.plan_id, k.billing_interval) <> (new.id, 'month'))
      or (k.stripe_price_id = new.stripe_price_id_yearly and (k.plan_id, k.billing_interval) <> (new.id, 'year'))
  ) then
    perform private.fail(409, 'plan_price_in_use', 'A price at Stripe belongs to one plan and interval for good.');
  end if;
  return null;
end
$$;

comment on function private.keep_plan_prices() is 'Trigger: remembers every price a plan had; 409 plan_price_in_use when another plan has or had it, or when a price that is being paid would get another amount or currency.';

create trigger plans_keep_their_prices
after insert
or update of stripe_price_id_monthly, stripe_price_id_yearly, price_monthly_minor, price_yearly_minor, currency
on public.plans
for each row execute function private.keep_plan_prices();

create function private.lock_purchases_of_leaver() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform c.id
  from public.credit_purchases as c
  where c.user_id = old.id or c.bought_by = old.id
  order by c.id
  for no key update;
  return old;
end
$$;

comment on function private.lock_purchases_of_leaver() is
'Trigger: before a profile goes, locks its purchases, and only then do the foreign keys reach its account: the order in which a payment, a refund or a dispute locks them.';

create trigger purchases_are_locked_before_their_owner_is_erased
before delete on public.profiles
for each row execute function private.lock_purchases_of_leaver();

-- ---------------------------------------------------------------------------------------------------------------
-- Plans: who has which
-- ---------------------------------------------------------------------------------------------------------------

create function private.plan_of(p_user_id uuid, p_organization_id uuid) returns public.plans
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_has record;
  v_plan public.plans;
begin
  if p_organization_id is not null then
    select pl as plan, o.plan_expires_at <= now() as is_over into v_has
    from public.organizations as o
    inner join public.plans as pl on pl.id = o.plan_id
    where o.id = p_organization_id;
  else
    select pl as plan, p.plan_expires_at <= now() as is_over into v_has
    from public.profiles as p
    inner join public.plans as pl on pl.id = p.plan_id
    where p.id = p_user_id;
  end if;
  if v_has.is_over then
    -- The sweep has not come by yet. Behind a larger plan that was kept there may be another that is paid for.
    select pl.* into v_plan
    from private.best_entitlement(p_user_id, p_organization_id) as e
    inner join public.plans as pl on pl.id = e.plan_id;
  else
    v_plan := v_has.plan;
  end if;
  if v_plan.id is null then
    select pl.* into strict v_plan from public.plans as pl where pl.slug = 'free';
  end if;
  return v_plan;
end
$$;

comment on function private.plan_of(uuid, uuid) is
'The payer''s plan: the organization''s when one is given, else the user''s; once it has expired what their subscriptions give, else free.';

-- ---------------------------------------------------------------------------------------------------------------
-- How often somebody may ask for what makes us ask Stripe
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
(
  'billing_requests_per_minute', '30',
  'Checkouts, portals and changes of subscriptions that a person may ask for per minute; a minute''s worth at once.'
);

create unlogged table private.billing_rates (
  user_id uuid primary key references public.profiles (id) on delete cascade,
  next_at timestamptz not null
);

comment on table private.billing_rates is 'How far each person is into the limit of billing requests. Unlogged: after a crash of the database everybody begins anew.';
comment on column private.billing_rates.user_id is 'Who asks, for themselves or for an organization.';
comment on column private.billing_rates.next_at is 'When what was used will have been given back (private.gcra).';

alter table private.billing_rates enable row level security;

create function backend.billing_request(p_user_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_is_active boolean;
  v_next_at timestamptz;
  v_rate record;
begin
  select p.is_active into v_is_active from public.profiles as p where p.id = p_user_id for key share;
  if v_is_active is not true then
    perform private.fail(403, 'account_suspended', 'This account is suspended.');
  end if;
  insert into private.billing_rates (user_id, next_at) values (p_user_id, now()) on conflict do nothing;
  select r.next_at into strict v_next_at from private.billing_rates as r where r.user_id = p_user_id for update;
  v_rate := private.gcra(
    v_next_at, clock_timestamp(), private.setting('billing_requests_per_minute')::integer, interval '1 minute', 1
  );
  if v_rate.retry_after is not null then
    perform private.fail(429, 'rate_limited', 'Too many requests; wait a little.', jsonb_build_object(
      'limit_source', 'billing_requests_per_minute', 'retry_after', ceil(v_rate.retry_after)));
  end if;
  update private.billing_rates as r set next_at = v_rate.next_at where r.user_id = p_user_id;
  return jsonb_build_object('remaining', v_rate.remaining);
end
$$;

comment on function backend.billing_request(uuid) is
'Counts a request of a person that will ask Stripe something; 429 rate_limited beyond billing_requests_per_minute, 403 account_suspended.';

-- ---------------------------------------------------------------------------------------------------------------
-- Checkout
-- ---------------------------------------------------------------------------------------------------------------

create function private.require_currency(p_wanted text, p_currency text) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if lower(p_wanted) <> p_currency then
    perform private.fail(409, 'currency_mismatch', 'This is sold in another currency.',
      jsonb_build_object('currency', p_currency));
  end if;
end
$$;

comment on function private.require_currency(text, text) is
'Refuses (409 currency_mismatch) a buyer who was shown a price in another currency; null asks for none.';

create function private.purchase_json(p_purchase public.credit_purchases) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_purchase.id,
    'user_id', p_purchase.user_id,
    'organization_id', p_purchase.organization_id,
    'status', p_purchase.status,
    'credits', p_purchase.credits,
    'price_minor', p_purchase.price_minor,
    'currency', p_purchase.currency,
    'checkout_session_id', p_purchase.stripe_checkout_session_id,
    'checkout_url', p_purchase.checkout_url,
    'checkout_expires_at', p_purchase.checkout_expires_at,
    'created_at', p_purchase.created_at,
    'pack', (
      select jsonb_build_object(
        'slug', k.slug, 'name', p_purchase.pack_name, 'description', k.description, 'stripe_price_id', k.stripe_price_id
      )
      from public.credit_packs as k where k.id = p_purchase.pack_id
    )
  )
$$;

comment on function private.purchase_json(public.credit_purchases) is 'A purchase as the Python side sees it.';

create function backend.checkout_start(
  p_user_id uuid,
  p_pack text,
  p_organization text default null,
  p_idempotency_key text default null,
  p_currency text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_is_active boolean;
  v_organization_id uuid;
  v_pack public.credit_packs;
  v_purchase public.credit_purchases;
begin
  if length(p_idempotency_key) not between 1 and 255 then
    perform private.fail(400, 'invalid_argument', 'An idempotency key has 1 to 255 characters.',
      '{"param": "idempotency_key"}');
  end if;
  select p.is_active into v_is_active from public.profiles as p where p.id = p_user_id;
  if v_is_active is not true then
    perform private.fail(403, 'account_suspended', 'This account is suspended.');
  end if;
  if p_organization is not null then
    v_organization_id := private.require_admin(p_user_id, p_organization);
  end if;
  select k.* into v_pack from public.credit_packs as k where k.slug = p_pack and k.is_active;
  if v_pack.id is null then
    perform private.fail(404, 'pack_not_found', 'There is no such credit pack on sale.', '{"param": "pack"}');
  end if;
  perform private.require_currency(p_currency, v_pack.currency);

  if p_idempotency_key is not null then
    -- A checkout that ended without a payment gives its key back.
    update public.credit_purchases as c
    set idempotency_key = null
    where c.bought_by = p_user_id and c.idempotency_key = p_idempotency_key and c.status in ('failed', 'expired');
  end if;
  insert into public.credit_purchases (
    user_id, organization_id, bought_by, account_id, pack_id, pack_name, credits, price_minor, currency, valid_days,
    idempotency_key
  ) values (
    case when v_organization_id is null then p_user_id end, v_organization_id, p_user_id,
    private.account_id(p_user_id, v_organization_id), v_pack.id, v_pack.name, v_pack.credits, v_pack.price_minor,
    v_pack.currency, v_pack.valid_days, p_idempotency_key
  )
  on conflict (bought_by, idempotency_key) do nothing
  returning * into v_purchase;

  if v_purchase.id is null then
    select c.* into strict v_purchase
    from public.credit_purchases as c
    where c.bought_by = p_user_id and c.idempotency_key = p_idempotency_key;
    if v_purchase.pack_id <> v_pack.id or v_purchase.organization_id is distinct from v_organization_id then
      perform private.fail(409, 'idempotency_conflict', 'This idempotency key was already used with other arguments.');
    end if;
  end if;
  return private.purchase_json(v_purchase);
end
$$;

comment on function backend.checkout_start(uuid, text, text, text, text) is
'Opens a purchase of a pack for a user, or for an organization they administer (403 not_an_admin); 404 pack_not_found, 409 currency_mismatch. Same key, same purchase.';

create function backend.customer_claim(p_user_id uuid, p_organization_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
begin
  -- Twice at most: the customer that was in the way may be deleted while we wait for its row.
  for v_try in 1..2 loop
    insert into private.stripe_customers (user_id, organization_id, account_id, email, name)
    select case when p_organization_id is null then p.id end, o.id, a.id,
      -- Invoices are sent there: an address that nobody has confirmed is somebody else's.
      case when p.email_verified_at is not null then p.email end, coalesce(o.name, p.full_name)
    from public.profiles as p
    left join public.organizations as o on o.id = p_organization_id
    inner join public.credit_accounts as a
      on case when p_organization_id is null then a.user_id = p.id else a.organization_id = o.id end
    where p.id = p_user_id and (p_organization_id is null or o.id is not null)
    on conflict do nothing;

    select c.* into v_customer
    from private.stripe_customers as c
    where c.deleted_at is null
      and case
        when p_organization_id is null then c.user_id = p_user_id
        else c.organization_id = p_organization_id
      end
    for update;
    exit when v_customer.id is not null;
  end loop;
  if v_customer.id is null then
    perform private.fail(404, 'owner_not_found', 'There is no such user or organization.');
  end if;
  return jsonb_build_object(
    'claim_id', v_customer.id,
    'customer_id', v_customer.customer_id,
    'email', v_customer.email,
    'name', v_customer.name
  );
end
$$;

comment on function backend.customer_claim(uuid, uuid) is
'The Stripe customer of an organization, else of the user; where there is none yet, what to create it with: the same for every caller until it exists.';

create function private.my_organization_customer_id(p_organization_id uuid) returns text
language sql stable security definer set search_path = ''
as $$
  select c.customer_id
  from private.stripe_customers as c
  where c.organization_id = p_organization_id and c.deleted_at is null
    and p_organization_id in (select private.my_admin_organization_ids())
$$;

comment on function private.my_organization_customer_id(uuid) is
'The customer at Stripe of an organization that the caller administers; null for everybody else, and before the first checkout.';

create function public.stripe_customer_id(p_organization public.organizations) returns text
language sql stable security invoker set search_path = ''
as $$ select private.my_organization_customer_id(p_organization.id) $$;

comment on function public.stripe_customer_id(public.organizations) is
'Computed field: the organization''s customer at Stripe, for its admins; null for other members, and before the first checkout.';

grant execute on function
private.my_organization_customer_id(uuid),
public.stripe_customer_id(public.organizations)
to authenticated;

create function backend.customer_attach(p_claim_id uuid, p_customer_id text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
begin
  if p_customer_id is null or p_customer_id !~ '^cus_[A-Za-z0-9_]{1,200}$' then
    perform private.fail(400, 'invalid_argument', 'A Stripe customer id is required.', '{"param": "customer_id"}');
  end if;
  -- The owner before the claim, as their erasure locks them.
  select c.* into v_customer from private.stripe_customers as c where c.id = p_claim_id;
  perform p.id from public.profiles as p where p.id = v_customer.user_id for no key update;
  perform o.id from public.organizations as o where o.id = v_customer.organization_id for no key update;
  select c.* into v_customer from private.stripe_customers as c where c.id = p_claim_id for update;
  if v_customer.id is null then
    perform private.fail(404, 'claim_not_found', 'There is no such claim to a customer.');
  end if;
  if v_customer.customer_id is null then
    update private.stripe_customers as c
    set customer_id = p_customer_id, attached_at = now(), email = null, name = null
    where c.id = p_claim_id
    returning c.* into v_customer;
    update public.profiles as p set stripe_customer_id = p_customer_id where p.id = v_customer.user_id;
  end if;
  return jsonb_build_object('customer_id', v_customer.customer_id);
end
$$;

comment on function backend.customer_attach(uuid, text) is
'Stores the customer that was created at Stripe; the first one stays, and is what every caller gets back.';

create function backend.checkout_attach(
  p_purchase_id uuid,
  p_session_id text,
  p_url text,
  p_expires_at timestamptz,
  p_amount_total bigint,
  p_currency text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_purchase public.credit_purchases;
begin
  select c.* into v_purchase from public.credit_purchases as c where c.id = p_purchase_id for update;
  if v_purchase.id is null then
    perform private.fail(404, 'purchase_not_found', 'There is no such purchase.');
  end if;
  -- A price at Stripe that has drifted from ours must not be paid: it could not be granted.
  if p_amount_total is distinct from v_purchase.price_minor or lower(p_currency) is distinct from v_purchase.currency then
    perform private.fail(409, 'pack_price_mismatch', 'This pack is not for sale right now.',
      jsonb_build_object('expected_minor', v_purchase.price_minor, 'expected_currency', v_purchase.currency));
  end if;
  if v_purchase.stripe_checkout_session_id <> p_session_id then
    perform private.fail(409, 'checkout_already_attached', 'This purchase already has another checkout session.');
  end if;
  update public.credit_purchases as c
  set stripe_checkout_session_id = p_session_id, checkout_url = p_url, checkout_expires_at = p_expires_at
  where c.id = p_purchase_id
  returning c.* into v_purchase;
  return private.purchase_json(v_purchase);
end
$$;

comment on function backend.checkout_attach(uuid, text, text, timestamptz, bigint, text) is
'Stores the checkout session of a purchase; 409 pack_price_mismatch when Stripe would charge anything but the purchase''s price.';

-- ---------------------------------------------------------------------------------------------------------------
-- Handlers: (event type, object) -> what was done. They apply a state, so applying it again changes nothing.
-- An answer {"ignored": reason} leaves the event aside; {"fetch": {"type", "id"}} asks for another object's state.
-- ---------------------------------------------------------------------------------------------------------------

create function private.stripe_id(p_value jsonb) returns text
language sql immutable parallel safe set search_path = ''
as $$
  select case jsonb_typeof(p_value)
    when 'string' then p_value #>> '{}'
    when 'object' then p_value ->> 'id'
  end
$$;

comment on function private.stripe_id(jsonb) is 'Id in a field that Stripe may have expanded into the whole object.';

create function private.charge_refunded(p_charge jsonb) returns bigint
language sql immutable parallel safe set search_path = ''
as $$
  -- A charge read with its refunds says which of them failed; whether amount_refunded still counts those is Stripe's
  -- to change, so the smaller figure is right in either case.
  select least(
    (p_charge ->> 'amount_refunded')::bigint,
    case when (p_charge #>> '{refunds,has_more}')::boolean is false then (
      -- Without any refund in the list it says nothing; with failed ones alone it says none.
      select coalesce(
        sum((r.value ->> 'amount')::bigint) filter (where r.value ->> 'status' not in ('failed', 'canceled')), 0
      )
      from jsonb_array_elements(p_charge #> '{refunds,data}') as r (value)
      having count(*) > 0
    ) end
  )
$$;

comment on function private.charge_refunded(jsonb) is 'Money given back for a charge, in minor units, without refunds that failed.';

create function private.lock_billing_owner(p_customer_id text) returns private.stripe_customers
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
begin
  select c.* into v_customer from private.stripe_customers as c where c.customer_id = p_customer_id;
  -- A hold takes `for key share`, which this lock lets through: chats do not wait for a webhook.
  perform p.id from public.profiles as p where p.id = v_customer.user_id for no key update;
  perform o.id from public.organizations as o where o.id = v_customer.organization_id for no key update;
  if v_customer.id is not null and num_nonnulls(v_customer.user_id, v_customer.organization_id) = 0 then
    perform c.id from private.stripe_customers as c where c.id = v_customer.id for update;
  end if;
  -- Read again: the owner may have been erased while we waited.
  select c.* into v_customer from private.stripe_customers as c where c.customer_id = p_customer_id;
  return v_customer;
end
$$;

comment on function private.lock_billing_owner(text) is
'Whose customer this is or was, with the owner locked so that what is billed to them changes in one place at a time; a null row for nobody''s.';

create function private.payment_reversals(
  p_payment_intent_id text,
  p_amount_minor bigint,
  p_currency text,
  out charge_id text,
  out refunded_minor bigint,
  out disputed_minor bigint
)
language plpgsql stable security definer set search_path = ''
as $$
begin
  -- A payment may have failed charges beside the one that went through; those were never refunded.
  select max(o.id) filter (where o.state ->> 'status' = 'succeeded'),
    least(coalesce(sum(private.charge_refunded(o.state)), 0), p_amount_minor)
  into charge_id, refunded_minor
  from private.stripe_objects as o
  where o.type = 'charge' and o.payment_intent_id = p_payment_intent_id;

  -- An inquiry (warning_*) and a prevented dispute move no money, and a dispute that was won returned it.
  select least(coalesce(sum(
    -- In another currency the amount does not compare; the whole payment is then in question.
    case when o.state ->> 'currency' = p_currency then (o.state ->> 'amount')::bigint else p_amount_minor end
  ), 0), p_amount_minor)
  into disputed_minor
  from private.stripe_objects as o
  where o.type = 'dispute'
    and o.state ->> 'status' in ('needs_response', 'under_review', 'lost')
    and o.payment_intent_id = p_payment_intent_id;
end
$$;

comment on function private.payment_reversals(text, bigint, text) is
'What of a payment was refunded or is withheld by disputes, in minor units, from the newest states of its charges and disputes.';

create function private.claw_back_share(
  p_lot_id uuid, p_paid_minor bigint, p_refunded_minor bigint, p_disputed_minor bigint, p_reference text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lot public.credit_lots;
  v_target numeric;
begin
  select l.* into strict v_lot from public.credit_lots as l where l.id = p_lot_id;
  v_target := round(v_lot.amount * least(p_refunded_minor + p_disputed_minor, p_paid_minor) / p_paid_minor, 6);
  if v_target > v_lot.clawed_back then
    -- The balance falls, and money that was given back must not be taken again.
    perform private.top_up_stop(
      v_lot.account_id, case when p_disputed_minor > 0 then 'payment_disputed' else 'payment_refunded' end
    );
  end if;
  return jsonb_build_object('clawed_back', v_target) || private.credit_claw_back(
    p_lot_id, v_target,
    case
      when p_disputed_minor > 0 then 'Payment disputed'
      when p_refunded_minor > 0 then 'Payment refunded'
      else 'Payment restored'
    end,
    p_reference
  );
end
$$;

comment on function private.claw_back_share(uuid, bigint, bigint, bigint, text) is
'Brings the credits taken back from a lot to the share of its price that was refunded or is disputed; what more is taken switches the automatic top-up off. The owner is locked.';

create function private.purchase_apply_reversals(p_purchase_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_purchase public.credit_purchases;
  v_reversed record;
begin
  select c.* into strict v_purchase from public.credit_purchases as c where c.id = p_purchase_id for update;
  if v_purchase.lot_id is null then
    return jsonb_build_object('purchase_id', p_purchase_id, 'status', v_purchase.status);
  end if;
  v_reversed := private.payment_reversals(
    v_purchase.stripe_payment_intent_id, v_purchase.price_minor, v_purchase.currency
  );
  update public.credit_purchases as c
  set amount_refunded_minor = v_reversed.refunded_minor,
    amount_disputed_minor = v_reversed.disputed_minor,
    stripe_charge_id = coalesce(v_reversed.charge_id, c.stripe_charge_id),
    status = case
      when v_reversed.disputed_minor > 0 then 'disputed'
      when v_reversed.refunded_minor = c.price_minor then 'refunded'
      when v_reversed.refunded_minor > 0 then 'partially_refunded'
      else 'paid'
    end
  where c.id = p_purchase_id
  returning c.* into v_purchase;
  return jsonb_build_object('purchase_id', p_purchase_id, 'status', v_purchase.status) || private.claw_back_share(
    v_purchase.lot_id, v_purchase.price_minor, v_purchase.amount_refunded_minor, v_purchase.amount_disputed_minor,
    v_purchase.stripe_payment_intent_id
  );
end
$$;

comment on function private.purchase_apply_reversals(uuid) is
'Recomputes what of a paid purchase was refunded or is disputed, and brings the credits taken back to that share.';

create function private.stripe_apply_checkout_session(p_event_type text, p_session jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_session_id text := p_session ->> 'id';
  v_reference text := p_session ->> 'client_reference_id';
  v_named text := p_session #>> '{metadata,quernel_purchase_id}';
  v_payment_intent_id text := private.stripe_id(p_session -> 'payment_intent');
  v_purchase public.credit_purchases;
  v_grant jsonb;
begin
  if p_session ->> 'mode' = 'subscription' then
    return private.subscription_checkout_apply(p_session);
  end if;
  if p_session ->> 'mode' is distinct from 'payment' then
    return jsonb_build_object('ignored', 'not_a_payment');
  end if;
  if v_payment_intent_id is not null then
    perform private.stripe_lock_object('payment_intent', v_payment_intent_id);
  end if;
  perform private.lock_billing_owner(private.stripe_id(p_session -> 'customer'));
  select c.* into v_purchase
  from public.credit_purchases as c
  where c.stripe_checkout_session_id = v_session_id
    or c.id = case when v_named ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then v_named::uuid end
  for update;
  if v_purchase.id is null and v_named is null then
    return jsonb_build_object('ignored', 'not_a_credit_purchase');
  end if;
  if v_purchase.id is null then
    perform private.fail(404, 'purchase_not_found', 'The session names a purchase that does not exist.');
  end if;
  if v_named is distinct from v_purchase.id::text or v_reference is distinct from v_purchase.id::text
     or v_purchase.stripe_checkout_session_id <> v_session_id then
    perform private.fail(409, 'purchase_mismatch', 'The session and the purchase do not belong to each other.',
      jsonb_build_object('purchase_id', v_purchase.id));
  end if;
  update public.credit_purchases as c
  set stripe_checkout_session_id = v_session_id
  where c.id = v_purchase.id and c.stripe_checkout_session_id is null;

  if p_session ->> 'payment_status' in ('paid', 'no_payment_required') then
    if (p_session ->> 'amount_total')::bigint is distinct from v_purchase.price_minor
       or lower(p_session ->> 'currency') is distinct from v_purchase.currency then
      perform private.fail(409, 'amount_mismatch', 'What was paid is not the price of the purchase.', jsonb_build_object(
        'purchase_id', v_purchase.id, 'paid_minor', p_session -> 'amount_total', 'paid_currency', p_session -> 'currency',
        'expected_minor', v_purchase.price_minor, 'expected_currency', v_purchase.currency));
    end if;
    if v_purchase.stripe_payment_intent_id <> v_payment_intent_id then
      perform private.fail(409, 'payment_mismatch', 'The purchase was already paid by another payment.',
        jsonb_build_object('purchase_id', v_purchase.id));
    end if;
    if v_purchase.lot_id is null then
      v_grant := private.credit_grant(
        v_purchase.account_id, v_purchase.credits, 'purchase',
        'stripe:' || coalesce(v_payment_intent_id, v_session_id),
        now() + make_interval(days => v_purchase.valid_days), 100, 'Credits bought',
        coalesce(v_payment_intent_id, v_session_id), v_purchase.price_minor, v_purchase.currency,
        jsonb_build_object('purchase_id', v_purchase.id)
      );
      update public.credit_purchases as c
      set status = 'paid', lot_id = (v_grant ->> 'lot_id')::uuid, paid_at = now(),
        stripe_payment_intent_id = v_payment_intent_id
      where c.id = v_purchase.id;
      perform private.notify(
        v_purchase.user_id, v_purchase.organization_id, 'receipt',
        jsonb_build_object(
          'amount_minor', v_purchase.price_minor, 'currency', v_purchase.currency, 'credits', v_purchase.credits,
          'description', v_purchase.pack_name
        ),
        v_purchase.id::text
      );
    end if;
    -- A refund or a dispute may have been told first.
    if v_payment_intent_id is not null then
      perform private.payment_apply(v_payment_intent_id, private.stripe_id(p_session -> 'customer'));
    end if;
    return jsonb_build_object('granted', v_grant -> 'amount') || private.purchase_apply_reversals(v_purchase.id);
  end if;

  -- Not paid. Only a purchase that is still open can close: what was paid stays paid, whatever comes late.
  update public.credit_purchases as c
  set status = case
    when p_event_type = 'checkout.session.async_payment_failed' then 'failed'
    when p_session ->> 'status' = 'expired' then 'expired'
    else c.status
  end
  where c.id = v_purchase.id and c.status = 'pending'
  returning c.* into v_purchase;
  return jsonb_build_object('purchase_id', v_purchase.id, 'status', v_purchase.status);
end
$$;

comment on function private.stripe_apply_checkout_session(text, jsonb) is
'Applies the state of a checkout session: grants the credits of a paid purchase once, keyed on the payment, and only for exactly its price.';

create function private.stripe_apply_charge(p_event_type text, p_charge jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.payment_apply(
    private.stripe_id(p_charge -> 'payment_intent'), private.stripe_id(p_charge -> 'customer')
  );
end
$$;

comment on function private.stripe_apply_charge(text, jsonb) is
'Applies what of a charge was refunded to what it paid.';

create function private.stripe_apply_refund(p_event_type text, p_refund jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_refund ->> 'status' in ('failed', 'canceled') and private.stripe_id(p_refund -> 'charge') is not null then
    -- What is refunded in all stands on the charge, and no event brings the charge when a refund fails.
    return jsonb_build_object('fetch', jsonb_build_object('type', 'charge', 'id', private.stripe_id(p_refund -> 'charge')));
  end if;
  return jsonb_build_object('ignored', 'charge_refunded_tells_it');
end
$$;

comment on function private.stripe_apply_refund(text, jsonb) is
'A refund that failed or was canceled asks for its charge; any other was told by charge.refunded.';

create function private.stripe_apply_dispute(p_event_type text, p_dispute jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.payment_apply(private.stripe_id(p_dispute -> 'payment_intent'), null);
end
$$;

comment on function private.stripe_apply_dispute(text, jsonb) is
'Applies what a dispute withholds to what was paid.';

-- ---------------------------------------------------------------------------------------------------------------
-- The inbox
-- ---------------------------------------------------------------------------------------------------------------

create function private.stripe_redact(p_value jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  case jsonb_typeof(p_value)
    when 'object' then
      return coalesce((
        select jsonb_object_agg(
          e.key,
          case when jsonb_typeof(e.value) in ('object', 'array') then private.stripe_redact(e.value) else e.value end
        )
        from jsonb_each(p_value) as e
        where e.key !~ '(^|_)(name|email|phone|address|ip|fingerprint|client_secret)$'
          and e.key not in (
            'billing_details', 'customer_details', 'collected_information', 'shipping', 'shipping_details', 'owner',
            'evidence', 'custom_fields', 'tax_id', 'tax_ids', 'customer_tax_ids', 'dob', 'customer_email_address',
            'customer_signature', 'next_action', 'quernel_user_id'
          )
      ), '{}');
    when 'array' then
      return coalesce((
        select jsonb_agg(
          case when jsonb_typeof(e.value) in ('object', 'array') then private.stripe_redact(e.value) else e.value end
          order by e.position
        )
        from jsonb_array_elements(p_value) with ordinality as e (value, position)
      ), '[]');
    else
      return p_value;
  end case;
end
$$;

comment on function private.stripe_redact(jsonb) is
'A Stripe payload without names, addresses, emails, phones, IPs, card fingerprints, tax ids, client secrets, pages on which a payment is confirmed and our id of a person: what no handler needs and erasure would have to find.';

create function private.stripe_apply(p_event private.stripe_events, p_object jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_handler text;
  v_result jsonb;
begin
  select h.handler into strict v_handler
  from private.stripe_object_handlers as h
  where h.object_type = p_object ->> 'object';
  execute format('select private.%I($1, $2)', v_handler) using p_event.type, p_object into v_result;
  return v_result;
end
$$;

comment on function private.stripe_apply(private.stripe_events, jsonb) is
'Runs the handler of an object''s type on one state of that object.';

create function private.stripe_store(
  p_object jsonb, p_event_id text, p_from timestamptz, p_until timestamptz, p_read_asked_at timestamptz default null
) returns void
language sql volatile security definer set search_path = ''
as $$
  update private.stripe_objects as o
  set event_id = p_event_id,
    newest_from = greatest(o.newest_from, p_from),
    newest_until = greatest(o.newest_until, p_from, p_until),
    read_asked_at = coalesce(p_read_asked_at, o.read_asked_at),
    revision = o.revision + 1,
    payment_intent_id = private.stripe_id(coalesce(
      nullif(p_object -> 'payment_intent', 'null'), p_object #> '{payment,payment_intent}'
    )),
    invoice_id = case when p_object ->> 'object' = 'invoice_payment' then private.stripe_id(p_object -> 'invoice') end,
    state = p_object,
    updated_at = now()
  where o.id = p_object ->> 'id'
$$;

comment on function private.stripe_store(jsonb, text, timestamptz, timestamptz, timestamptz) is
'Makes a state the newest of its object. The object''s row is locked.';

create function private.stripe_lock_object(p_type text, p_id text) returns private.stripe_objects
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_object private.stripe_objects;
begin
  insert into private.stripe_objects (id, type) values (p_id, p_type) on conflict (id) do nothing;
  select o.* into strict v_object from private.stripe_objects as o where o.id = p_id for update;
  return v_object;
end
$$;

comment on function private.stripe_lock_object(text, text) is
'Locks the row of a Stripe object, making an empty one for an object that was not seen before.';

create function private.stripe_finish(p_event private.stripe_events, p_result jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_object private.stripe_objects;
  v_status text := case when p_result ? 'ignored' then 'ignored' else 'applied' end;
begin
  if p_result ? 'fetch' then
    v_object := private.stripe_lock_object(p_result #>> '{fetch,type}', p_result #>> '{fetch,id}');
    update private.stripe_events as e
    set status = 'needs_fetch', fetch_type = v_object.type, fetch_id = v_object.id, fetch_revision = v_object.revision,
      fetch_asked_at = clock_timestamp(), last_error = null
    where e.id = p_event.id;
    -- Whoever asked may die before the answer: the worker takes it up then.
    perform private.task_enqueue(
      'stripe_event', jsonb_build_object('event_id', p_event.id), p_event.id, now() + interval '1 minute'
    );
    return jsonb_build_object(
      'result', 'needs_fetch', 'event_id', p_event.id, 'object_type', v_object.type, 'object_id', v_object.id
    );
  end if;
  update private.stripe_events as e
  set status = v_status, outcome = p_result, finished_at = clock_timestamp(), last_error = null
  where e.id = p_event.id;
  return jsonb_build_object('result', v_status, 'event_id', p_event.id, 'outcome', p_result);
end
$$;

comment on function private.stripe_finish(private.stripe_events, jsonb) is
'Records what a handler answered: applied, ignored, or which object must be read from Stripe.';

create function private.stripe_fail(p_event private.stripe_events, p_error text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update private.stripe_events as e
  set status = 'failed', last_error = left(p_error, 2000)
  where e.id = p_event.id;
  perform private.task_enqueue(
    'stripe_event', jsonb_build_object('event_id', p_event.id), p_event.id, now() + interval '30 seconds'
  );
  return jsonb_build_object('result', 'failed', 'event_id', p_event.id);
end
$$;

comment on function private.stripe_fail(private.stripe_events, text) is
'Records why an event could not be applied and leaves a task that tries again.';

create function private.stripe_open_event(p_event_id text) returns private.stripe_events
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_event private.stripe_events;
begin
  select e.* into v_event from private.stripe_events as e where e.id = p_event_id for update;
  if v_event.id is null then
    perform private.fail(404, 'event_not_found', 'There is no such event in the inbox.');
  end if;
  if v_event.finished_at is null then
    update private.stripe_events as e set attempts = e.attempts + 1 where e.id = p_event_id returning e.* into v_event;
  end if;
  return v_event;
end
$$;

comment on function private.stripe_open_event(text) is
'Locks an event and counts the attempt, unless it is finished; 404 event_not_found.';

create function private.stripe_apply_event(p_event_id text, p_api_version text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_event private.stripe_events;
  v_object private.stripe_objects;
  v_state jsonb;
  v_result jsonb;
  v_message text;
  v_detail text;
begin
  v_event := private.stripe_open_event(p_event_id);
  if v_event.finished_at is not null then
    return jsonb_build_object('result', 'duplicate', 'event_id', v_event.id, 'outcome', v_event.outcome);
  end if;
  if not exists (select from private.stripe_event_types as t where t.event_type = v_event.type) then
    return private.stripe_finish(v_event, '{"ignored": "event_type_is_not_handled"}');
  end if;

  -- A subtransaction: what fails is undone, and that it failed is kept.
  begin
    v_state := v_event.payload #> '{data,object}';
    v_object := private.stripe_lock_object(v_event.object_type, v_event.object_id);
    if v_event.created < v_object.newest_from then
      v_result := '{"ignored": "a_newer_state_was_applied"}';
    elsif (v_event.created <= v_object.newest_until and v_object.event_id <> v_event.id and v_object.state <> v_state)
          or v_event.api_version is distinct from coalesce(p_api_version, v_event.api_version) then
      -- Stripe's clock has whole seconds, so which of two states is newer cannot be told from the events; and a payload
      -- in another version's shape is not for our handlers. In both cases Stripe itself knows.
      v_result := jsonb_build_object('fetch', jsonb_build_object('type', v_object.type, 'id', v_object.id));
    else
      perform private.stripe_store(v_state, v_event.id, v_event.created, v_event.created);
      v_result := private.stripe_apply(v_event, v_state);
    end if;
    v_result := private.stripe_finish(v_event, v_result);
  exception when others then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail;
    return private.stripe_fail(v_event, concat_ws(' ', sqlstate, v_message, v_detail));
  end;
  return v_result;
end
$$;

comment on function private.stripe_apply_event(text, text) is
'Applies an event of the inbox once: applied, ignored, duplicate, failed (recorded, tried again) or needs_fetch.';

create function backend.stripe_event_receive(p_event jsonb, p_livemode boolean, p_api_version text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_object jsonb := p_event #> '{data,object}';
begin
  if p_event ->> 'object' is distinct from 'event' or coalesce(p_event ->> 'id', '') !~ '^evt_[A-Za-z0-9_]{1,250}$'
     or p_event ->> 'type' is null or coalesce(p_event ->> 'created', '') !~ '^[0-9]{1,11}$'
     or jsonb_typeof(p_event -> 'livemode') is distinct from 'boolean' or jsonb_typeof(v_object) is distinct from 'object'
  then
    perform private.fail(400, 'invalid_event', 'This is not a Stripe event.');
  end if;
  if (p_event ->> 'livemode')::boolean is distinct from p_livemode then
    perform private.fail(400, 'livemode_mismatch', 'Test events and live events do not mix.');
  end if;
  if exists (select from private.stripe_event_types as t where t.event_type = p_event ->> 'type')
     and (v_object ->> 'id' is null or v_object ->> 'object' is null) then
    perform private.fail(400, 'invalid_event', 'The event carries no object.');
  end if;
  -- Looked up first, so that a delivery repeated for days costs no second redaction.
  if not exists (select from private.stripe_events as e where e.id = p_event ->> 'id') then
    insert into private.stripe_events (id, type, object_type, object_id, api_version, livemode, created, payload)
    values (
      p_event ->> 'id', p_event ->> 'type', v_object ->> 'object', v_object ->> 'id', p_event ->> 'api_version',
      p_livemode, to_timestamp((p_event ->> 'created')::bigint), private.stripe_redact(p_event)
    )
    on conflict (id) do nothing;
  end if;
  return private.stripe_apply_event(p_event ->> 'id', p_api_version);
end
$$;

comment on function backend.stripe_event_receive(jsonb, boolean, text) is
'Stores a verified event or finds it, and applies it: {"result": applied | duplicate | ignored | failed | needs_fetch}. 400 livemode_mismatch stores nothing.';

create function backend.stripe_event_retry(p_event_id text, p_api_version text default null) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.stripe_apply_event(p_event_id, p_api_version) $$;

comment on function backend.stripe_event_retry(text, text) is
'Applies a stored event again, as its next delivery would; 404 event_not_found.';

create function backend.stripe_object_apply(p_event_id text, p_object jsonb, p_fetched_at timestamptz default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  -- A read took place at most this long before or after the instant that its answer is dated with.
  c_read_tolerance constant interval := interval '10 seconds';
  v_event private.stripe_events;
  v_object private.stripe_objects;
  v_state jsonb := private.stripe_redact(p_object);
  v_result jsonb;
  v_message text;
  v_detail text;
begin
  v_event := private.stripe_open_event(p_event_id);
  if v_event.finished_at is not null then
    return jsonb_build_object('result', 'duplicate', 'event_id', v_event.id, 'outcome', v_event.outcome);
  end if;
  if v_event.status <> 'needs_fetch' then
    perform private.fail(409, 'event_needs_no_object', 'This event does not wait for an object.');
  end if;
  if v_state ->> 'id' is distinct from v_event.fetch_id or v_state ->> 'object' is distinct from v_event.fetch_type then
    perform private.fail(400, 'invalid_argument', 'This is not the object the event waits for.', '{"param": "object"}');
  end if;

  begin
    v_object := private.stripe_lock_object(v_event.fetch_type, v_event.fetch_id);
    if v_object.read_asked_at >= v_event.received_at then
      -- Another read, begun after this event had arrived, was applied meanwhile: its state is new enough.
      v_result := private.stripe_apply(v_event, v_object.state);
    elsif v_object.revision <> v_event.fetch_revision then
      -- Another event was applied meanwhile, and nobody knows whether it is newer than what was read.
      v_result := jsonb_build_object('fetch', jsonb_build_object('type', v_event.fetch_type, 'id', v_event.fetch_id));
    else
      perform private.stripe_store(
        v_state, v_event.id, greatest(v_event.created, p_fetched_at - c_read_tolerance),
        p_fetched_at + c_read_tolerance, v_event.fetch_asked_at
      );
      v_result := private.stripe_apply(v_event, v_state);
    end if;
    v_result := private.stripe_finish(v_event, v_result);
  exception when others then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail;
    return private.stripe_fail(v_event, concat_ws(' ', sqlstate, v_message, v_detail));
  end;
  return v_result;
end
$$;

comment on function backend.stripe_object_apply(text, jsonb, timestamptz) is
'Applies the state of an object as it was read from Stripe for an event that needed it; p_fetched_at is Stripe''s clock at the answer.';

create function backend.stripe_read_start(p_object_type text, p_object_id text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_object private.stripe_objects;
begin
  if not exists (select from private.stripe_object_handlers as h where h.object_type = p_object_type)
     or coalesce(p_object_id, '') !~ '^[a-z]+_[A-Za-z0-9_]{1,250}$' then
    perform private.fail(400, 'invalid_argument', 'No object of this type is kept.', '{"param": "object_type"}');
  end if;
  v_object := private.stripe_lock_object(p_object_type, p_object_id);
  return jsonb_build_object('revision', v_object.revision, 'asked_at', clock_timestamp());
end
$$;

comment on function backend.stripe_read_start(text, text) is
'Before an object is read or changed at Stripe: which revision of it is known.';

create function backend.stripe_read_finish(
  p_object jsonb, p_revision bigint, p_asked_at timestamptz, p_fetched_at timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  -- As in stripe_object_apply.
  c_read_tolerance constant interval := interval '10 seconds';
  v_state jsonb := private.stripe_redact(p_object);
  v_at timestamptz := coalesce(p_fetched_at, p_asked_at);
  v_object private.stripe_objects;
  v_handler text;
  v_result jsonb;
begin
  select h.handler into v_handler from private.stripe_object_handlers as h where h.object_type = v_state ->> 'object';
  if v_handler is null then
    perform private.fail(400, 'invalid_argument', 'No object of this type is kept.', '{"param": "object"}');
  end if;
  v_object := private.stripe_lock_object(v_state ->> 'object', v_state ->> 'id');
  if v_object.revision <> p_revision then
    -- Something was applied meanwhile, and nobody knows whether it is newer than what was read.
    return jsonb_build_object('result', 'stale');
  end if;
  perform private.stripe_store(v_state, 'read', v_at - c_read_tolerance, v_at + c_read_tolerance, p_asked_at);
  execute format('select private.%I($1, $2)', v_handler) using 'read', v_state into v_result;
  return jsonb_build_object(
    'result', case when v_result ? 'ignored' then 'ignored' else 'applied' end,
    'outcome', v_result,
    'was_known', v_object.state is not distinct from v_state
  );
end
$$;

comment on function backend.stripe_read_finish(jsonb, bigint, timestamptz, timestamptz) is
'Applies an object as Stripe answered it, without an event: {"result": applied | ignored | stale}. stale: an event came between, which is as new.';

grant execute on function
backend.stripe_read_start(text, text),
backend.stripe_read_finish(jsonb, bigint, timestamptz, timestamptz),
backend.billing_request(uuid),
backend.checkout_start(uuid, text, text, text, text),
backend.customer_claim(uuid, uuid),
backend.customer_attach(uuid, text),
backend.checkout_attach(uuid, text, text, timestamptz, bigint, text),
backend.stripe_event_receive(jsonb, boolean, text),
backend.stripe_event_retry(text, text),
backend.stripe_object_apply(text, jsonb, timestamptz)
to service_role;
