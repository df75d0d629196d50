-- Billing, second chapter: subscriptions, and the plan that follows from them.
--
--   subscriptions                   what an owner subscribed to: a mirror of Stripe's, or given by an operator
--   private.subscription_checkouts  pages on which a subscription can be bought, at most one open per owner
--
-- An owner's plan is computed from all of their subscriptions (private.apply_entitlement) whenever one of them or an
-- invoice changes, and lapses by itself at plan_expires_at: a lost event can delay a plan, never give one away. What
-- only a date decides (a downgrade, a pause) travels in the subscription's metadata at Stripe, set by the same call
-- that makes the change, so that the plan is a function of the newest state and of nothing else.

-- ---------------------------------------------------------------------------------------------------------------
-- Settings
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
('renewal_grace_days', '3', 'Days a plan outlives its paid period while the renewal has not been told yet.'),
('past_due_grace_days', '7', 'Days a plan outlives an invoice that could not be paid, before it falls back to free.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.subscriptions (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  account_id uuid not null references public.credit_accounts (id),
  plan_id uuid not null references public.plans (id),
  status text not null,
  billing_interval text,
  interval_count integer not null default 1,
  amount_minor bigint not null default 0,
  currency text not null,
  current_period_start timestamptz not null,
  current_period_end timestamptz not null,
  trial_start timestamptz,
  trial_end timestamptz,
  cancel_at_period_end boolean not null default false,
  cancel_at timestamptz,
  canceled_at timestamptz,
  ended_at timestamptz,
  is_paused boolean not null default false,
  resumes_at timestamptz,
  paid_until timestamptz,
  paid_plan_id uuid references public.plans (id),
  provider text not null default 'stripe',
  stripe_subscription_id text,
  stripe_item_id text,
  stripe_price_id text,
  stripe_customer_id text,
  started_at timestamptz not null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_subscription_has_at_most_one_owner check (num_nonnulls(user_id, organization_id) <= 1),
  constraint status_is_known check (
    status in (
      'incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused'
    )
  ),
  constraint billing_interval_is_known check (billing_interval in ('month', 'year')),
  constraint interval_count_is_positive check (interval_count > 0),
  constraint amount_is_not_negative check (amount_minor >= 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$'),
  constraint a_period_ends_after_it_starts check (current_period_end > current_period_start),
  constraint a_trial_ends_after_it_starts check (trial_end > trial_start),
  constraint a_paid_plan_has_its_date check ((paid_plan_id is null) or (paid_until is not null)),
  constraint provider_is_known check (provider in ('stripe', 'manual')),
  constraint only_stripe_has_ids_of_stripe check (
    (provider = 'stripe')
    = (num_nonnulls(stripe_subscription_id, stripe_item_id, stripe_price_id, stripe_customer_id) = 4)
  ),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);

comment on table public.subscriptions is 'What an owner subscribed to: the newest state of a subscription at Stripe, or a plan that an operator gave.';
comment on column public.subscriptions.id is 'Identifies the subscription here.';
comment on column public.subscriptions.user_id is 'The user who has it; null for an organization''s, or once erased.';
comment on column public.subscriptions.organization_id is 'The organization that has it; null for a user''s, or once erased.';
comment on column public.subscriptions.account_id is 'The credit account that receives its credits.';
comment on column public.subscriptions.plan_id is 'The plan it pays for.';
comment on column public.subscriptions.status is 'Where it stands, in Stripe''s words.';
comment on column public.subscriptions.billing_interval is 'How often it is paid: month or year; null when it is not paid through us.';
comment on column public.subscriptions.interval_count is 'Intervals in one period.';
comment on column public.subscriptions.amount_minor is 'What one period costs, in minor units, before discounts and tax.';
comment on column public.subscriptions.currency is 'Currency of the amount, lower-case ISO 4217.';
comment on column public.subscriptions.current_period_start is 'When the period began that is being used.';
comment on column public.subscriptions.current_period_end is 'When it ends.';
comment on column public.subscriptions.trial_start is 'When the free trial began; null without one.';
comment on column public.subscriptions.trial_end is 'When the free trial ends; null without one.';
comment on column public.subscriptions.cancel_at_period_end is 'Whether it ends with the period.';
comment on column public.subscriptions.cancel_at is 'When it will end; null while it goes on.';
comment on column public.subscriptions.canceled_at is 'When its end was decided.';
comment on column public.subscriptions.ended_at is 'When it ended.';
comment on column public.subscriptions.is_paused is 'Whether nothing is collected for now.';
comment on column public.subscriptions.resumes_at is 'When a pause ends by itself; null for when somebody ends it.';
comment on column public.subscriptions.paid_until is 'Until when a pause or a change to a smaller plan leaves what was paid before.';
comment on column public.subscriptions.paid_plan_id is 'The larger plan that is kept until paid_until.';
comment on column public.subscriptions.provider is 'stripe, or manual for a plan that an operator gave.';
comment on column public.subscriptions.stripe_subscription_id is 'The subscription at Stripe.';
comment on column public.subscriptions.stripe_item_id is 'Its item at Stripe that carries the price.';
comment on column public.subscriptions.stripe_price_id is 'The price at Stripe.';
comment on column public.subscriptions.stripe_customer_id is 'The customer at Stripe.';
comment on column public.subscriptions.started_at is 'When it began.';
comment on column public.subscriptions.metadata is 'Further facts for operators, never about a person.';
comment on column public.subscriptions.created_at is 'When it became known here.';
comment on column public.subscriptions.updated_at is 'When anything in the row last changed.';

create unique index subscriptions_are_mirrored_once
on public.subscriptions (stripe_subscription_id) where stripe_subscription_id is not null;
create index subscriptions_by_user on public.subscriptions (user_id, created_at desc);
create index subscriptions_by_organization on public.subscriptions (organization_id, created_at desc);
create index subscriptions_by_account on public.subscriptions (account_id);
create index subscriptions_by_plan on public.subscriptions (plan_id);
create index subscriptions_by_paid_plan on public.subscriptions (paid_plan_id) where paid_plan_id is not null;
create index subscriptions_by_status on public.subscriptions (status);
create index subscriptions_by_period on public.subscriptions (current_period_end);

create table private.subscription_checkouts (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  started_by uuid references public.profiles (id) on delete set null,
  plan_id uuid not null references public.plans (id),
  billing_interval text not null,
  stripe_price_id text not null references private.plan_prices (stripe_price_id),
  trial_days integer not null default 0,
  status text not null default 'open',
  stripe_checkout_session_id text unique,
  stripe_subscription_id text,
  success_url text,
  cancel_url text,
  checkout_url text,
  checkout_expires_at timestamptz,
  idempotency_key text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint a_checkout_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint billing_interval_is_known check (billing_interval in ('month', 'year')),
  constraint trial_is_not_negative check (trial_days >= 0),
  constraint status_is_known check (status in ('open', 'completed', 'expired')),
  constraint a_page_is_whole
  check (num_nonnulls(stripe_checkout_session_id, checkout_url, checkout_expires_at) in (0, 3)),
  constraint key_is_not_empty check (length(idempotency_key) between 1 and 255)
);

comment on table private.subscription_checkouts is 'Pages on which a subscription can be bought. At most one is open per owner, so nobody subscribes twice.';
comment on column private.subscription_checkouts.id is 'Identifies the checkout; Stripe carries it as client_reference_id and in metadata.';
comment on column private.subscription_checkouts.user_id is 'The user who would have the subscription; null for an organization''s.';
comment on column private.subscription_checkouts.organization_id is 'The organization that would have it; null for a user''s.';
comment on column private.subscription_checkouts.started_by is 'Who opened the page; null once erased.';
comment on column private.subscription_checkouts.plan_id is 'The plan on offer.';
comment on column private.subscription_checkouts.billing_interval is 'How often it would be paid: month or year.';
comment on column private.subscription_checkouts.stripe_price_id is 'The price at Stripe.';
comment on column private.subscription_checkouts.trial_days is 'Days of free trial it begins with.';
comment on column private.subscription_checkouts.status is 'open, then completed or expired.';
comment on column private.subscription_checkouts.stripe_checkout_session_id is 'The checkout session at Stripe; null while it is being made.';
comment on column private.subscription_checkouts.stripe_subscription_id is 'The subscription at Stripe that was bought; null until it is known.';
comment on column private.subscription_checkouts.success_url is 'Where the page leads once it is paid: the same for every attempt to make it.';
comment on column private.subscription_checkouts.cancel_url is 'Where it leads back to: the same for every attempt to make it.';
comment on column private.subscription_checkouts.checkout_url is 'Where the buyer subscribes.';
comment on column private.subscription_checkouts.checkout_expires_at is 'Until when the page can be used, as far as is known: one that was replaced is ended at Stripe while this lies ahead.';
comment on column private.subscription_checkouts.idempotency_key is 'The buyer''s key for this checkout.';
comment on column private.subscription_checkouts.created_at is 'When it was opened.';
comment on column private.subscription_checkouts.updated_at is 'When anything in the row last changed.';

create unique index subscription_checkouts_are_open_once_per_user
on private.subscription_checkouts (user_id) where status = 'open' and user_id is not null;
create unique index subscription_checkouts_are_open_once_per_organization
on private.subscription_checkouts (organization_id) where status = 'open' and organization_id is not null;
create unique index subscription_checkouts_have_one_key_per_buyer
on private.subscription_checkouts (started_by, idempotency_key);
create index subscription_checkouts_by_user on private.subscription_checkouts (user_id);
create index subscription_checkouts_by_organization on private.subscription_checkouts (organization_id);
create index subscription_checkouts_by_plan on private.subscription_checkouts (plan_id);
create index subscription_checkouts_by_price on private.subscription_checkouts (stripe_price_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: owners read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.subscriptions to authenticated, service_role;

alter table public.subscriptions enable row level security;
alter table private.subscription_checkouts enable row level security;

create policy "Subscribers and organization admins read their subscriptions"
on public.subscriptions for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger subscriptions_touch before update on public.subscriptions
for each row execute function private.touch_updated_at();
create trigger subscription_checkouts_touch before update on private.subscription_checkouts
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- The plan that follows from subscriptions
-- ---------------------------------------------------------------------------------------------------------------

create function private.subscription_entitlements(
  p_subscription public.subscriptions, out plan_id uuid, out until timestamptz
)
returns setof record
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_due_since timestamptz;
begin
  if p_subscription.status not in ('active', 'trialing', 'past_due') then
    return;
  end if;
  plan_id := p_subscription.plan_id;
  if p_subscription.status = 'past_due' then
    select min(i.issued_at) into v_due_since
    from public.invoices as i
    where i.stripe_subscription_id = p_subscription.stripe_subscription_id and i.status in ('open', 'uncollectible')
      and i.issued_at > coalesce((
        select max(p.issued_at)
        from public.invoices as p
        where p.stripe_subscription_id = p_subscription.stripe_subscription_id and p.status = 'paid'
      ), '-infinity');
    until := coalesce(v_due_since, p_subscription.current_period_start)
      + make_interval(days => private.setting('past_due_grace_days')::integer);
    if p_subscription.is_paused then
      until := least(until, coalesce(p_subscription.paid_until, p_subscription.current_period_start));
    end if;
  elsif p_subscription.is_paused then
    -- What was paid before the pause is had to its end.
    until := coalesce(p_subscription.paid_until, p_subscription.current_period_start);
  elsif p_subscription.cancel_at_period_end or p_subscription.cancel_at is not null
        or p_subscription.provider = 'manual' then
    until := coalesce(p_subscription.cancel_at, p_subscription.current_period_end);
  else
    until := p_subscription.current_period_end + make_interval(days => private.setting('renewal_grace_days')::integer);
  end if;
  return next;
  if p_subscription.paid_plan_id is not null then
    plan_id := p_subscription.paid_plan_id;
    until := least(p_subscription.paid_until, until);
    return next;
  end if;
end
$$;

comment on function private.subscription_entitlements(public.subscriptions) is
'Which plans a subscription gives, and until when: none, one, or while a change to a smaller plan waits for the end of the period, two.';

create function private.best_entitlement(
  p_user_id uuid,
  p_organization_id uuid,
  out plan_id uuid,
  out until timestamptz,
  out status text,
  out started_at timestamptz,
  out current_period_end timestamptz
)
language plpgsql stable security definer set search_path = ''
as $$
begin
  select e.plan_id, e.until, s.status, s.started_at, s.current_period_end
  into plan_id, until, status, started_at, current_period_end
  from public.subscriptions as s
  cross join lateral private.subscription_entitlements(s) as e
  inner join public.plans as p on p.id = e.plan_id
  where case when p_organization_id is null then s.user_id = p_user_id else s.organization_id = p_organization_id end
    and e.until > now()
  order by p.sort_order desc, e.until desc, s.id
  limit 1;
end
$$;

comment on function private.best_entitlement(uuid, uuid) is
'The largest plan that an owner''s subscriptions give now, until when, and by which of them; nulls for none.';

create function private.apply_entitlement(p_user_id uuid, p_organization_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_best record;
  v_newest public.subscriptions;
begin
  if num_nonnulls(p_user_id, p_organization_id) = 0 then
    return;  -- erased
  end if;
  v_best := private.best_entitlement(p_user_id, p_organization_id);

  if p_organization_id is not null then
    update public.organizations as o
    set plan_id = v_best.plan_id, plan_started_at = v_best.started_at, plan_expires_at = v_best.until
    where o.id = p_organization_id
      and (o.plan_id, o.plan_started_at, o.plan_expires_at)
      is distinct from (v_best.plan_id, v_best.started_at, v_best.until);
    return;
  end if;

  select s.* into v_newest
  from public.subscriptions as s
  where s.user_id = p_user_id
  order by s.started_at desc, s.id desc
  limit 1;
  update public.profiles as p
  set plan_id = v_best.plan_id,
    plan_started_at = v_best.started_at,
    plan_expires_at = v_best.until,
    subscription_status = coalesce(v_best.status, v_newest.status, 'active'),
    subscription_end_date = v_best.current_period_end
  where p.id = p_user_id
    and (p.plan_id, p.plan_started_at, p.plan_expires_at, p.subscription_status, p.subscription_end_date)
    is distinct from (
      v_best.plan_id, v_best.started_at, v_best.until, coalesce(v_best.status, v_newest.status, 'active'),
      v_best.current_period_end
    );
end
$$;

comment on function private.apply_entitlement(uuid, uuid) is
'Gives an owner the largest plan that their subscriptions give now, or none. The owner is locked by the caller or by this update.';

create function backend.plans_lapse(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_owner record;
  v_count integer := 0;
begin
  for v_owner in
    select p.id as user_id, null::uuid as organization_id
    from public.profiles as p
    where p.plan_expires_at <= now()
    order by p.plan_expires_at
    limit p_limit
    for no key update skip locked
  loop
    perform private.apply_entitlement(v_owner.user_id, null);
    v_count := v_count + 1;
  end loop;
  for v_owner in
    select o.id
    from public.organizations as o
    where o.plan_expires_at <= now()
    order by o.plan_expires_at
    limit greatest(p_limit - v_count, 0)
    for no key update skip locked
  loop
    perform private.apply_entitlement(null, v_owner.id);
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.plans_lapse(integer) is
'Shows owners whose plan has ended what they have now; requests were refused by the date already.';

create index profiles_by_plan_expiry on public.profiles (plan_expires_at) where plan_expires_at is not null;
create index organizations_by_plan_expiry on public.organizations (plan_expires_at) where plan_expires_at is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- Buying one
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_buyer(p_user_id uuid, p_organization text) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_is_active boolean;
  v_organization_id uuid;
begin
  select p.is_active into v_is_active from public.profiles as p where p.id = p_user_id;
  if v_is_active is not true then
    perform private.fail(403, 'account_suspended', 'This account is suspended.');
  end if;
  if p_organization is not null then
    v_organization_id := private.require_admin(p_user_id, p_organization);
    perform o.id from public.organizations as o where o.id = v_organization_id for no key update;
  else
    perform p.id from public.profiles as p where p.id = p_user_id for no key update;
  end if;
  return v_organization_id;
end
$$;

comment on function private.lock_buyer(uuid, text) is
'Locks whoever would pay: the user, or an organization they administer (403 not_an_admin), whose id it returns.';

create function private.checkout_json(p_checkout private.subscription_checkouts) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_checkout.id,
    'user_id', p_checkout.user_id,
    'organization_id', p_checkout.organization_id,
    'plan', p.slug,
    'billing_interval', p_checkout.billing_interval,
    'stripe_price_id', p_checkout.stripe_price_id,
    'amount_minor', k.amount_minor,
    'currency', k.currency,
    'trial_days', p_checkout.trial_days,
    'success_url', p_checkout.success_url,
    'cancel_url', p_checkout.cancel_url,
    'status', p_checkout.status,
    'checkout_session_id', p_checkout.stripe_checkout_session_id,
    'checkout_url', p_checkout.checkout_url,
    'checkout_expires_at', p_checkout.checkout_expires_at,
    'superseded_session_ids', (
      select coalesce(jsonb_agg(c.stripe_checkout_session_id order by c.id), '[]')
      from private.subscription_checkouts as c
      where c.status = 'expired' and c.checkout_expires_at > now()
        and (c.user_id = p_checkout.user_id or c.organization_id = p_checkout.organization_id)
    )
  )
  from public.plans as p
  cross join private.plan_prices as k
  where p.id = p_checkout.plan_id and k.stripe_price_id = p_checkout.stripe_price_id
$$;

comment on function private.checkout_json(private.subscription_checkouts) is 'A checkout of a subscription as the Python side sees it; superseded_session_ids are pages of the same owner that must be ended before this one is shown.';

create function private.plan_price(p_plan text, p_interval text, out plan public.plans, out price private.plan_prices)
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_interval is null or p_interval not in ('month', 'year') then
    perform private.fail(400, 'invalid_argument', 'A plan is paid by month or by year.', '{"param": "interval"}');
  end if;
  select p.* into plan from public.plans as p where p.slug = p_plan and p.is_active;
  if plan.id is null then
    perform private.fail(404, 'plan_not_found', 'There is no such plan on offer.', '{"param": "plan"}');
  end if;
  select k.* into price
  from private.plan_prices as k
  where k.stripe_price_id = case p_interval
    when 'month' then plan.stripe_price_id_monthly
    else plan.stripe_price_id_yearly
  end;
  if price.stripe_price_id is null then
    perform private.fail(409, 'plan_not_on_sale', 'This plan cannot be bought here.',
      jsonb_build_object('plan', plan.slug, 'interval', p_interval));
  end if;
end
$$;

comment on function private.plan_price(text, text) is
'A plan on offer and its price for an interval; 404 plan_not_found, 409 plan_not_on_sale when it has no price at Stripe.';

create function private.trial_days_for(p_user_id uuid, p_organization_id uuid, p_trial_days integer) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  if exists (
    select
    from public.subscriptions as s
    where case
      when p_organization_id is null then s.user_id = p_user_id
      else s.organization_id = p_organization_id
    end
      and s.provider = 'stripe'
  ) or exists (
    select
    from private.subscription_checkouts as c
    where case
      when p_organization_id is null then c.user_id = p_user_id
      else c.organization_id = p_organization_id
    end
      and c.status = 'completed'
  ) or exists (
    -- Nor through one organization after another, or through several at once.
    select
    from private.subscription_checkouts as c
    where c.started_by = p_user_id and c.trial_days > 0
      and (
        c.status = 'completed'
        or (
          c.status = 'open'
          and coalesce(c.checkout_expires_at, c.created_at + interval '1 day') > now()
          and (c.user_id, c.organization_id) is distinct from (
            case when p_organization_id is null then p_user_id end, p_organization_id
          )
        )
      )
  ) then
    return 0;
  end if;
  return p_trial_days;
end
$$;

comment on function private.trial_days_for(uuid, uuid, integer) is
'Days of free trial that a subscription begins with: it is the owner''s first, and whoever buys it has begun no other trial.';

create function backend.subscription_checkout_start(
  p_user_id uuid,
  p_plan text,
  p_interval text,
  p_organization text default null,
  p_currency text default null,
  p_idempotency_key text default null,
  p_success_url text default null,
  p_cancel_url text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_organization_id uuid;
  v_offer record;
  v_trial_days integer;
  v_live public.subscriptions;
  v_checkout private.subscription_checkouts;
begin
  if length(p_idempotency_key) not between 1 and 255 then
    perform private.fail(400, 'invalid_argument', 'An idempotency key has 1 to 255 characters.',
      '{"param": "idempotency_key"}');
  end if;
  -- The person as well as the organization: somebody's trials are counted wherever they were begun.
  perform p.id from public.profiles as p where p.id = p_user_id for no key update;
  v_organization_id := private.lock_buyer(p_user_id, p_organization);
  v_offer := private.plan_price(p_plan, p_interval);
  perform private.require_currency(p_currency, (v_offer.price).currency);
  v_trial_days := private.trial_days_for(p_user_id, v_organization_id, (v_offer.plan).trial_days);

  -- One that ended without a subscription gives its key back.
  update private.subscription_checkouts as c
  set idempotency_key = null
  where c.started_by = p_user_id and c.idempotency_key = p_idempotency_key and c.status = 'expired';
  select c.* into v_checkout
  from private.subscription_checkouts as c
  where c.started_by = p_user_id and c.idempotency_key = p_idempotency_key;
  if v_checkout.id is not null then
    if v_checkout.stripe_price_id <> (v_offer.price).stripe_price_id
       or v_checkout.organization_id is distinct from v_organization_id then
      perform private.fail(409, 'idempotency_conflict', 'This idempotency key was already used with other arguments.');
    end if;
    return private.checkout_json(v_checkout);
  end if;

  select s.* into v_live
  from public.subscriptions as s
  where case
    when v_organization_id is null then s.user_id = p_user_id
    else s.organization_id = v_organization_id
  end
    and s.provider = 'stripe' and s.status not in ('canceled', 'incomplete_expired')
  order by s.started_at desc
  limit 1;
  if v_live.id is not null then
    perform private.fail(409, 'already_subscribed', 'There is a subscription already; change that one.',
      jsonb_build_object('subscription_id', v_live.id, 'status', v_live.status, 'remedy', 'change_subscription'));
  end if;
  if exists (
    select
    from private.subscription_checkouts as c
    where case
      when v_organization_id is null then c.user_id = p_user_id
      else c.organization_id = v_organization_id
    end
      and c.status = 'completed' and c.updated_at > now() - interval '1 day' and c.stripe_subscription_id is not null
      and not exists (
        select from public.subscriptions as s where s.stripe_subscription_id = c.stripe_subscription_id
      )
  ) then
    perform private.fail(409, 'already_subscribed', 'A subscription was bought just now and will be here in a moment.',
      '{"remedy": "wait"}');
  end if;

  select c.* into v_checkout
  from private.subscription_checkouts as c
  where c.status = 'open'
    and case
      when v_organization_id is null then c.user_id = p_user_id
      else c.organization_id = v_organization_id
    end
  for update;
  if v_checkout.id is not null and v_checkout.stripe_price_id = (v_offer.price).stripe_price_id
     and v_checkout.trial_days <= v_trial_days and coalesce(v_checkout.checkout_expires_at > now(), true) then
    if p_idempotency_key is not null and v_checkout.idempotency_key is null then
      update private.subscription_checkouts as c
      set idempotency_key = p_idempotency_key, started_by = p_user_id
      where c.id = v_checkout.id
      returning c.* into v_checkout;
    end if;
    return private.checkout_json(v_checkout);
  end if;
  if v_checkout.id is not null then
    -- Another offer: the page of this one must not be usable any more (superseded_session_ids).
    update private.subscription_checkouts as c set status = 'expired', idempotency_key = null where c.id = v_checkout.id;
  end if;

  insert into private.subscription_checkouts (
    user_id, organization_id, started_by, plan_id, billing_interval, stripe_price_id, trial_days, idempotency_key,
    success_url, cancel_url
  ) values (
    case when v_organization_id is null then p_user_id end, v_organization_id, p_user_id, (v_offer.plan).id, p_interval,
    (v_offer.price).stripe_price_id, v_trial_days, p_idempotency_key, p_success_url, p_cancel_url
  )
  returning * into v_checkout;
  return private.checkout_json(v_checkout);
end
$$;

comment on function backend.subscription_checkout_start(uuid, text, text, text, text, text, text, text) is
'Opens the checkout of a subscription, or finds the open one with the pages it was opened with; 404 plan_not_found, 409 plan_not_on_sale, currency_mismatch or already_subscribed. superseded_session_ids are pages that must be ended first.';

create function backend.subscription_checkout_attach(
  p_checkout_id uuid,
  p_session_id text,
  p_url text,
  p_expires_at timestamptz,
  p_amount_total bigint,
  p_currency text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_checkout private.subscription_checkouts;
  v_price private.plan_prices;
begin
  select c.* into v_checkout from private.subscription_checkouts as c where c.id = p_checkout_id for update;
  if v_checkout.id is null then
    perform private.fail(404, 'checkout_not_found', 'There is no such checkout.');
  end if;
  select k.* into strict v_price
  from private.plan_prices as k
  where k.stripe_price_id = v_checkout.stripe_price_id;
  -- A price at Stripe that has drifted from ours must not be paid. In a trial the page asks for nothing.
  if lower(p_currency) is distinct from v_price.currency
     or (v_checkout.trial_days = 0 and p_amount_total is distinct from v_price.amount_minor) then
    perform private.fail(409, 'plan_price_mismatch', 'This plan is not for sale right now.',
      jsonb_build_object('expected_minor', v_price.amount_minor, 'expected_currency', v_price.currency));
  end if;
  if v_checkout.status <> 'open' or v_checkout.stripe_checkout_session_id <> p_session_id then
    perform private.fail(409, 'checkout_already_attached', 'This checkout has ended, or has another page already.');
  end if;
  update private.subscription_checkouts as c
  set stripe_checkout_session_id = p_session_id, checkout_url = p_url, checkout_expires_at = p_expires_at
  where c.id = p_checkout_id
  returning c.* into v_checkout;
  return private.checkout_json(v_checkout);
end
$$;

comment on function backend.subscription_checkout_attach(uuid, text, text, timestamptz, bigint, text) is
'Stores the page of a checkout; 409 plan_price_mismatch when Stripe would charge anything but the plan''s price, checkout_already_attached when it has ended.';

create function private.subscription_checkout_apply(p_session jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_checkout private.subscription_checkouts;
begin
  update private.subscription_checkouts as c
  set status = case p_session ->> 'status' when 'complete' then 'completed' else 'expired' end,
    stripe_subscription_id = coalesce(private.stripe_id(p_session -> 'subscription'), c.stripe_subscription_id),
    checkout_expires_at = case p_session ->> 'status'
      when 'expired' then least(c.checkout_expires_at, now())
      else c.checkout_expires_at
    end
  where c.stripe_checkout_session_id = p_session ->> 'id' and p_session ->> 'status' in ('complete', 'expired')
    and c.status <> 'completed'
  returning c.* into v_checkout;
  if v_checkout.id is null then
    return jsonb_build_object('ignored', 'no_open_checkout');
  end if;
  return jsonb_build_object('checkout_id', v_checkout.id, 'status', v_checkout.status);
end
$$;

comment on function private.subscription_checkout_apply(jsonb) is
'Ends the checkout of a subscription with its page; the subscription itself is told by events of its own.';

-- ---------------------------------------------------------------------------------------------------------------
-- Nobody pays for an owner who is gone
-- ---------------------------------------------------------------------------------------------------------------

create function private.ask_end_of_subscription(p_stripe_subscription_id text) returns void
language sql volatile security definer set search_path = ''
as $$
  select private.task_enqueue(
    'subscription_cancel', jsonb_build_object('stripe_subscription_id', p_stripe_subscription_id),
    p_stripe_subscription_id
  )
$$;

comment on function private.ask_end_of_subscription(text) is
'Has a worker cancel a subscription at Stripe whose owner is gone. The task knows its id and nothing of a person.';

create function private.end_billing_of(p_user_id uuid, p_organization_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id text;
begin
  for v_id in
    select s.stripe_subscription_id
    from public.subscriptions as s
    where (s.user_id = p_user_id or s.organization_id = p_organization_id)
      and s.provider = 'stripe' and s.status not in ('canceled', 'incomplete_expired')
    union
    -- Bought, and not told of yet.
    select c.stripe_subscription_id
    from private.subscription_checkouts as c
    where (c.user_id = p_user_id or c.organization_id = p_organization_id)
      and c.stripe_subscription_id is not null
      and not exists (
        select from public.subscriptions as s where s.stripe_subscription_id = c.stripe_subscription_id
      )
  loop
    perform private.ask_end_of_subscription(v_id);
  end loop;
  for v_id in
    select c.stripe_checkout_session_id
    from private.subscription_checkouts as c
    where (c.user_id = p_user_id or c.organization_id = p_organization_id)
      and c.status <> 'completed' and c.checkout_expires_at > now()
    union
    select c.stripe_checkout_session_id
    from public.credit_purchases as c
    where (c.user_id = p_user_id or c.organization_id = p_organization_id)
      and c.status = 'pending' and c.stripe_checkout_session_id is not null
      and coalesce(c.checkout_expires_at > now(), true)
  loop
    perform private.task_enqueue('checkout_expire', jsonb_build_object('stripe_checkout_session_id', v_id), v_id);
  end loop;
end
$$;

comment on function private.end_billing_of(uuid, uuid) is
'Has a worker cancel the subscriptions of an owner who is going, and end the pages on which they could still pay.';

create function private.end_billing_of_leaver() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_table_name = 'profiles' then
    perform private.end_billing_of(old.id, null);
  else
    perform private.end_billing_of(null, old.id);
  end if;
  return old;
end
$$;

comment on function private.end_billing_of_leaver() is 'Trigger: before an owner goes, has what they pay for ended at Stripe.';

create trigger subscriptions_end_with_their_owner
before delete on public.profiles
for each row execute function private.end_billing_of_leaver();
create trigger subscriptions_end_with_their_owner
before delete on public.organizations
for each row execute function private.end_billing_of_leaver();

create function private.end_billing_of_the_deserted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if not exists (select from public.organization_members as m where m.organization_id = new.id) then
    perform private.end_billing_of(null, new.id);
  end if;
  return null;
end
$$;

comment on function private.end_billing_of_the_deserted() is
'Trigger: an organization whose last member was erased pays for nothing any more. One that an operator suspends has members, and goes on.';

create trigger subscriptions_end_with_the_last_member
after update of is_active on public.organizations
for each row when (old.is_active and not new.is_active)
execute function private.end_billing_of_the_deserted();

-- ---------------------------------------------------------------------------------------------------------------
-- Changing one
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_subscription(p_user_id uuid, p_subscription_id uuid) returns public.subscriptions
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_subscription public.subscriptions;
begin
  select s.* into v_subscription from public.subscriptions as s where s.id = p_subscription_id;
  if v_subscription.organization_id is not null then
    perform private.lock_buyer(p_user_id, v_subscription.organization_id::text);
  else
    perform private.lock_buyer(p_user_id, null);
  end if;
  -- A stranger's subscription answers as one that does not exist.
  select s.* into v_subscription
  from public.subscriptions as s
  where s.id = p_subscription_id
    and (s.user_id = p_user_id or s.organization_id = v_subscription.organization_id)
  for update;
  if v_subscription.id is null then
    perform private.fail(404, 'subscription_not_found', 'There is no such subscription.');
  end if;
  if v_subscription.provider <> 'stripe' or v_subscription.status in ('canceled', 'incomplete_expired') then
    perform private.fail(409, 'subscription_not_changeable', 'This subscription has ended, or is not paid through us.',
      jsonb_build_object('status', v_subscription.status, 'provider', v_subscription.provider));
  end if;
  return v_subscription;
end
$$;

comment on function private.lock_subscription(uuid, uuid) is
'Locks a subscription of the user, or of an organization they administer; 404 subscription_not_found, 409 subscription_not_changeable.';

create function private.subscription_handle(p_subscription public.subscriptions) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', p_subscription.id,
    'stripe_subscription_id', p_subscription.stripe_subscription_id,
    'stripe_item_id', p_subscription.stripe_item_id,
    'stripe_price_id', p_subscription.stripe_price_id,
    'status', p_subscription.status,
    'cancel_at_period_end', p_subscription.cancel_at_period_end,
    'cancels_on_a_date', p_subscription.cancel_at is not null and not p_subscription.cancel_at_period_end,
    'is_paused', p_subscription.is_paused,
    'current_period_end', extract(epoch from p_subscription.current_period_end)::bigint,
    'paid_until', extract(epoch from p_subscription.paid_until)::bigint,
    'keeps_plan', coalesce(p_subscription.paid_plan_id is not null and p_subscription.paid_until > now(), false),
    -- Part of the idempotency keys at Stripe: the same change of the same state is made once.
    'revision', coalesce(
      (select o.revision from private.stripe_objects as o where o.id = p_subscription.stripe_subscription_id), 0
    )
  )
$$;

comment on function private.subscription_handle(public.subscriptions) is 'What the Python side needs to change a subscription at Stripe.';

create function private.require_time_until(p_at timestamptz) returns void
language plpgsql stable set search_path = ''
as $$
begin
  -- What is decided now is carried out at Stripe a little later, and must mean the same there.
  if p_at <= now() + interval '10 minutes' then
    perform private.fail(409, 'change_pending', 'The period is about to end. Try again when it has.',
      jsonb_build_object('until', p_at, 'remedy', 'wait'));
  end if;
end
$$;

comment on function private.require_time_until(timestamptz) is
'Refuses (409 change_pending) a change whose price depends on which side of a boundary it is made on, while that is ten minutes away or less.';

create function backend.subscription_change_start(p_user_id uuid, p_subscription_id uuid, p_plan text, p_interval text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_subscription public.subscriptions;
  v_offer record;
  v_change text;
  v_before text;
  v_order integer;
  v_kept_order integer;
begin
  v_subscription := private.lock_subscription(p_user_id, p_subscription_id);
  v_offer := private.plan_price(p_plan, p_interval);
  perform private.require_currency(v_subscription.currency, (v_offer.price).currency);
  if v_subscription.status not in ('active', 'trialing') or v_subscription.is_paused then
    perform private.fail(409, 'subscription_not_changeable', 'Pay what is open, or resume the subscription, first.',
      jsonb_build_object('status', v_subscription.status, 'is_paused', v_subscription.is_paused));
  end if;
  if v_subscription.stripe_price_id = (v_offer.price).stripe_price_id then
    perform private.fail(409, 'same_plan', 'The subscription has this plan and interval already.');
  end if;
  select p.slug, p.sort_order into strict v_before, v_order from public.plans as p where p.id = v_subscription.plan_id;
  select p.sort_order into v_kept_order
  from public.plans as p
  where p.id = v_subscription.paid_plan_id and v_subscription.paid_until > now();

  if v_kept_order is not null then
    -- A change to a smaller plan waits for the end of the period. What was paid already must not be paid again.
    if (v_offer.plan).id = v_subscription.paid_plan_id and p_interval = v_subscription.billing_interval then
      perform private.require_time_until(v_subscription.paid_until);
      v_change := 'undo';
    elsif (v_offer.plan).sort_order < v_kept_order and p_interval = v_subscription.billing_interval then
      perform private.require_time_until(v_subscription.current_period_end);
      v_change := 'downgrade';
      select p.slug into strict v_before from public.plans as p where p.id = v_subscription.paid_plan_id;
    else
      perform private.fail(409, 'change_pending', 'A change to a smaller plan waits for the end of the period; take it back first.',
        jsonb_build_object('plan', (select p.slug from public.plans as p where p.id = v_subscription.paid_plan_id),
          'remedy', 'change_to_this_plan'));
    end if;
  elsif v_subscription.status = 'trialing' then
    if (v_offer.plan).trial_days = 0 then
      perform private.fail(409, 'plan_without_trial', 'This plan has no free trial; change to it when the trial has ended.',
        jsonb_build_object('plan', (v_offer.plan).slug, 'until', v_subscription.trial_end));
    end if;
    perform private.require_time_until(v_subscription.trial_end);
    v_change := 'replace';
  elsif p_interval = 'month' and v_subscription.billing_interval = 'year' then
    perform private.fail(409, 'interval_not_changeable', 'A year that is paid runs to its end; cancel at its end and subscribe anew.',
      jsonb_build_object('until', v_subscription.current_period_end));
  elsif p_interval = v_subscription.billing_interval
        -- The smaller amount is the smaller plan, whatever its place in the list: an upgrade would give money back.
        and ((v_offer.plan).sort_order < v_order or (v_offer.price).amount_minor < v_subscription.amount_minor) then
    perform private.require_time_until(v_subscription.current_period_end);
    v_change := 'downgrade';
  elsif (v_offer.plan).sort_order >= v_order and (v_offer.price).amount_minor >= v_subscription.amount_minor then
    v_change := 'upgrade';
  else
    perform private.fail(409, 'interval_not_changeable', 'Change the plan or the interval, not both to less and to more.',
      jsonb_build_object('until', v_subscription.current_period_end));
  end if;
  return private.subscription_handle(v_subscription) || jsonb_build_object(
    'change', v_change, 'price_id', (v_offer.price).stripe_price_id, 'plan', (v_offer.plan).slug, 'plan_before', v_before,
    'amount_minor', (v_offer.price).amount_minor, 'currency', (v_offer.price).currency, 'billing_interval', p_interval
  );
end
$$;

comment on function backend.subscription_change_start(uuid, uuid, text, text) is
'Says how a plan is changed: upgrade (at once, the difference is charged), downgrade (what is paid is kept to the end of the period), undo of a downgrade, or replace in a trial.';

create function backend.subscription_action_start(p_user_id uuid, p_subscription_id uuid, p_action text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_subscription public.subscriptions;
begin
  if p_action is null or p_action not in ('cancel_now', 'cancel_at_period_end', 'resume', 'pause') then
    perform private.fail(400, 'invalid_argument', 'There is no such action.', '{"param": "action"}');
  end if;
  v_subscription := private.lock_subscription(p_user_id, p_subscription_id);
  if p_action = 'pause' and (v_subscription.status <> 'active' or v_subscription.is_paused) then
    perform private.fail(409, 'subscription_not_changeable', 'Only an active subscription can be paused.',
      jsonb_build_object('status', v_subscription.status, 'is_paused', v_subscription.is_paused));
  end if;
  -- A pause keeps what is paid to its end, so it must be: Stripe collects a renewal an hour after it is due, or later.
  if p_action = 'pause' and (
    exists (
      select
      from public.invoices as i
      where i.stripe_subscription_id = v_subscription.stripe_subscription_id and i.status in ('draft', 'open')
    )
    or not exists (
      select
      from public.invoices as i
      cross join lateral jsonb_array_elements(i.items) as l (value)
      where i.stripe_subscription_id = v_subscription.stripe_subscription_id and i.status = 'paid'
        and (l.value ->> 'period_end')::timestamptz >= v_subscription.current_period_end
    )
  ) then
    perform private.fail(409, 'subscription_not_changeable', 'This period is not paid yet; pause once it is.',
      jsonb_build_object('status', v_subscription.status, 'is_paused', v_subscription.is_paused));
  end if;
  if p_action = 'resume' and v_subscription.status <> 'paused' and not v_subscription.is_paused
     and not v_subscription.cancel_at_period_end and v_subscription.cancel_at is null then
    perform private.fail(409, 'subscription_not_changeable', 'This subscription goes on already.',
      jsonb_build_object('status', v_subscription.status));
  end if;
  return private.subscription_handle(v_subscription);
end
$$;

comment on function backend.subscription_action_start(uuid, uuid, text) is
'Whether a subscription can be canceled, paused or resumed by this user, and what Stripe must be told.';

create function backend.portal_start(p_user_id uuid, p_organization text default null) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_organization_id uuid;
  v_customer_id text;
begin
  v_organization_id := private.lock_buyer(p_user_id, p_organization);
  select c.customer_id into v_customer_id
  from private.stripe_customers as c
  where c.deleted_at is null
    and case
      when v_organization_id is null then c.user_id = p_user_id
      else c.organization_id = v_organization_id
    end;
  if v_customer_id is null then
    perform private.fail(404, 'customer_not_found', 'Nothing was bought yet, so there is nothing to manage.');
  end if;
  return jsonb_build_object('customer_id', v_customer_id);
end
$$;

comment on function backend.portal_start(uuid, text) is
'The customer whose portal the user, or an admin of the organization, may open; 404 customer_not_found.';

create function backend.subscription_get(p_subscription_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'id', s.id, 'user_id', s.user_id, 'organization_id', s.organization_id, 'plan', p.slug, 'status', s.status,
    'billing_interval', s.billing_interval, 'amount_minor', s.amount_minor, 'currency', s.currency,
    'current_period_start', s.current_period_start, 'current_period_end', s.current_period_end,
    'trial_end', s.trial_end, 'cancel_at_period_end', s.cancel_at_period_end, 'is_paused', s.is_paused,
    'kept_plan', k.slug, 'kept_until', case when k.slug is not null or s.is_paused then s.paid_until end
  )
  from public.subscriptions as s
  inner join public.plans as p on p.id = s.plan_id
  left join public.plans as k on k.id = s.paid_plan_id
  where s.id = p_subscription_id
$$;

comment on function backend.subscription_get(uuid) is 'A subscription as the routes answer it; null when there is none.';

-- ---------------------------------------------------------------------------------------------------------------
-- The handler of subscriptions
-- ---------------------------------------------------------------------------------------------------------------

create function private.stripe_time(p_value jsonb) returns timestamptz
language sql immutable parallel safe set search_path = ''
as $$ select to_timestamp((p_value #>> '{}')::bigint) $$;

comment on function private.stripe_time(jsonb) is 'A time of Stripe''s, which are whole seconds since 1970; null for null.';

create function private.stripe_apply_subscription(p_event_type text, p_subscription jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
  v_item jsonb;
  v_price private.plan_prices;
  v_paid_until timestamptz;
  v_paid_plan_id uuid;
  v_subscription public.subscriptions;
begin
  v_customer := private.lock_billing_owner(private.stripe_id(p_subscription -> 'customer'));
  if v_customer.id is null then
    return jsonb_build_object('ignored', 'not_our_customer');
  end if;
  select i.value into v_item
  from jsonb_array_elements(p_subscription #> '{items,data}') with ordinality as i (value, position)
  inner join private.plan_prices as k on k.stripe_price_id = private.stripe_id(i.value -> 'price')
  order by i.position
  limit 1;
  select k.* into v_price from private.plan_prices as k where k.stripe_price_id = private.stripe_id(v_item -> 'price');
  if v_price.plan_id is null and p_subscription #>> '{metadata,quernel_checkout_id}' is null then
    return jsonb_build_object('ignored', 'not_a_plan');
  end if;
  if v_price.plan_id is null then
    perform private.fail(409, 'plan_price_unknown', 'No plan has or had the price of this subscription.',
      jsonb_build_object('subscription_id', p_subscription ->> 'id'));
  end if;

  if p_subscription #>> '{metadata,quernel_paid_until}' ~ '^[0-9]{1,11}$' then
    v_paid_until := private.stripe_time(p_subscription #> '{metadata,quernel_paid_until}');
    select p.id into v_paid_plan_id
    from public.plans as p
    where p.slug = p_subscription #>> '{metadata,quernel_paid_plan}';
  end if;
  insert into public.subscriptions as s (
    user_id, organization_id, account_id, plan_id, status, billing_interval, interval_count, amount_minor, currency,
    current_period_start, current_period_end, trial_start, trial_end, cancel_at_period_end, cancel_at, canceled_at,
    ended_at, is_paused, resumes_at, paid_until, paid_plan_id, stripe_subscription_id, stripe_item_id,
    stripe_price_id, stripe_customer_id, started_at
  ) values (
    v_customer.user_id, v_customer.organization_id, v_customer.account_id, v_price.plan_id,
    p_subscription ->> 'status', v_price.billing_interval,
    coalesce((v_item #>> '{price,recurring,interval_count}')::integer, 1),
    -- What Stripe charges, also where it is not what the plan costs.
    coalesce((v_item #>> '{price,unit_amount}')::bigint, v_price.amount_minor),
    coalesce(lower(v_item #>> '{price,currency}'), v_price.currency),
    private.stripe_time(v_item -> 'current_period_start'), private.stripe_time(v_item -> 'current_period_end'),
    private.stripe_time(p_subscription -> 'trial_start'), private.stripe_time(p_subscription -> 'trial_end'),
    coalesce((p_subscription ->> 'cancel_at_period_end')::boolean, false),
    private.stripe_time(p_subscription -> 'cancel_at'), private.stripe_time(p_subscription -> 'canceled_at'),
    private.stripe_time(p_subscription -> 'ended_at'),
    coalesce(jsonb_typeof(p_subscription -> 'pause_collection') = 'object', false),
    private.stripe_time(p_subscription #> '{pause_collection,resumes_at}'), v_paid_until, v_paid_plan_id,
    p_subscription ->> 'id', v_item ->> 'id', v_price.stripe_price_id, v_customer.customer_id,
    private.stripe_time(p_subscription -> 'start_date')
  )
  on conflict (stripe_subscription_id) where stripe_subscription_id is not null do update
  set plan_id = excluded.plan_id, status = excluded.status, billing_interval = excluded.billing_interval,
    interval_count = excluded.interval_count, amount_minor = excluded.amount_minor, currency = excluded.currency,
    current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
    trial_start = excluded.trial_start, trial_end = excluded.trial_end,
    cancel_at_period_end = excluded.cancel_at_period_end, cancel_at = excluded.cancel_at,
    canceled_at = excluded.canceled_at, ended_at = excluded.ended_at, is_paused = excluded.is_paused,
    resumes_at = excluded.resumes_at, paid_until = excluded.paid_until, paid_plan_id = excluded.paid_plan_id,
    stripe_item_id = excluded.stripe_item_id, stripe_price_id = excluded.stripe_price_id,
    started_at = excluded.started_at
  returning s.* into v_subscription;
  -- A subscription that exists needs no page to buy it on.
  update private.subscription_checkouts as c
  set status = 'completed', stripe_subscription_id = v_subscription.stripe_subscription_id
  where c.id::text = p_subscription #>> '{metadata,quernel_checkout_id}' and c.status <> 'completed';
  perform private.apply_entitlement(v_customer.user_id, v_customer.organization_id);
  if num_nonnulls(v_customer.user_id, v_customer.organization_id) = 0
     and v_subscription.status not in ('canceled', 'incomplete_expired') then
    perform private.ask_end_of_subscription(v_subscription.stripe_subscription_id);
  end if;
  return jsonb_build_object('subscription_id', v_subscription.id, 'status', v_subscription.status);
end
$$;

comment on function private.stripe_apply_subscription(text, jsonb) is
'Applies the state of a subscription, and gives its owner the plan that follows; without an owner it is canceled.';

-- ---------------------------------------------------------------------------------------------------------------
-- Plans that an operator gives
-- ---------------------------------------------------------------------------------------------------------------

create function backend.plan_assign(
  p_user_id uuid default null,
  p_organization_id uuid default null,
  p_plan text default null,
  p_until timestamptz default null,
  p_reason text default null,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, p_organization_id);
  v_plan public.plans;
  v_before jsonb;
  v_after jsonb;
begin
  select p.* into v_plan from public.plans as p where p.slug = p_plan;
  if v_plan.id is null then
    perform private.fail(404, 'plan_not_found', 'There is no such plan.', '{"param": "plan"}');
  end if;
  if p_until is null or p_until <= now() then
    perform private.fail(400, 'invalid_argument', 'A plan is given until a time to come.', '{"param": "until"}');
  end if;
  perform p.id from public.profiles as p where p.id = p_user_id and p_organization_id is null for no key update;
  perform o.id from public.organizations as o where o.id = p_organization_id for no key update;
  v_before := jsonb_build_object('plan', (private.plan_of(p_user_id, p_organization_id)).slug);
  -- At most one per owner: giving another plan ends the one before.
  update public.subscriptions as s
  set status = 'canceled', ended_at = now(), canceled_at = now()
  where s.account_id = v_account_id and s.provider = 'manual' and s.status = 'active';
  if v_plan.slug <> 'free' then
    insert into public.subscriptions (
      user_id, organization_id, account_id, plan_id, status, currency, current_period_start, current_period_end,
      provider, started_at
    ) values (
      case when p_organization_id is null then p_user_id end, p_organization_id, v_account_id, v_plan.id, 'active',
      v_plan.currency, now(), p_until, 'manual', now()
    );
  end if;
  perform private.apply_entitlement(case when p_organization_id is null then p_user_id end, p_organization_id);
  v_after := jsonb_build_object('plan', (private.plan_of(p_user_id, p_organization_id)).slug, 'until', p_until);
  perform private.record_operator_action(p_actor, 'plan_assign', v_account_id::text, v_before, v_after, p_reason);
  return v_after;
end
$$;

comment on function backend.plan_assign(uuid, uuid, text, timestamptz, text, text) is
'An operator gives a plan until a date, ending the one an operator gave before; leaves an audit row.';

grant execute on function
backend.plans_lapse(integer),
backend.subscription_checkout_start(uuid, text, text, text, text, text, text, text),
backend.subscription_checkout_attach(uuid, text, text, timestamptz, bigint, text),
backend.subscription_change_start(uuid, uuid, text, text),
backend.subscription_action_start(uuid, uuid, text),
backend.subscription_get(uuid),
backend.portal_start(uuid, text),
backend.plan_assign(uuid, uuid, text, timestamptz, text, text)
to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- The handler map goes on
-- ---------------------------------------------------------------------------------------------------------------

insert into private.stripe_object_handlers (object_type, handler) values
('subscription', 'stripe_apply_subscription');

insert into private.stripe_event_types (event_type, object_type, effect) values
('customer.subscription.created', 'subscription', 'Mirrors the subscription and gives its owner the plan.'),
('customer.subscription.updated', 'subscription', 'Follows every change: plan, period, status, pause, cancellation.'),
('customer.subscription.deleted', 'subscription', 'Ends the plan; the owner falls back to what else they have.'),
('customer.subscription.paused', 'subscription', 'A trial ended without a payment method: the plan rests.'),
('customer.subscription.resumed', 'subscription', 'The plan is back.'),
('customer.subscription.pending_update_applied', 'subscription', 'An upgrade was paid: the larger plan begins.'),
('customer.subscription.pending_update_expired', 'subscription', 'An upgrade was not paid: the plan stays as it was.'),
('customer.subscription.trial_will_end', 'subscription', 'Follows the subscription three days before a trial ends.');
