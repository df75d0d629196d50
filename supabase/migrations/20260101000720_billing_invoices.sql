-- Billing, third chapter: what was billed, what was paid, and with what.
--
--   invoices         what an owner owes or paid: a mirror of Stripe's, or recorded by an operator
--   payments         every attempt to pay, with what was refunded or is disputed
--   payment_methods  what an owner can pay with, one of them by default
--
-- A paid invoice of a subscription grants the plan's credits, once, keyed on the invoice; what is refunded or disputed
-- of its payments takes them back in proportion. An invoice and its payments find each other through Stripe's invoice
-- payments, in whatever order the three arrive. That of a pack grants nothing and sends no receipt: its purchase does.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.invoices (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  account_id uuid not null references public.credit_accounts (id),
  number text,
  status text not null,
  billing_reason text,
  items jsonb not null default '[]',
  subtotal_minor bigint not null,
  tax_minor bigint not null default 0,
  total_minor bigint not null,
  amount_due_minor bigint not null,
  amount_paid_minor bigint not null default 0,
  amount_remaining_minor bigint not null,
  currency text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  issued_at timestamptz not null,
  due_at timestamptz,
  paid_at timestamptz,
  attempt_count integer not null default 0,
  next_attempt_at timestamptz,
  hosted_invoice_url text,
  invoice_pdf_url text,
  lot_id uuid references public.credit_lots (id),
  credits numeric(20, 6) not null default 0,
  plan_id uuid references public.plans (id),
  provider text not null default 'stripe',
  stripe_invoice_id text,
  stripe_subscription_id text,
  stripe_customer_id text,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint an_invoice_has_at_most_one_owner check (num_nonnulls(user_id, organization_id) <= 1),
  constraint status_is_known check (status in ('draft', 'open', 'paid', 'uncollectible', 'void')),
  constraint items_are_a_list check (jsonb_typeof(items) = 'array'),
  constraint amounts_are_not_negative
  check (least(amount_due_minor, amount_paid_minor, amount_remaining_minor, attempt_count) >= 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$'),
  constraint a_period_does_not_run_backwards check (period_end >= period_start),
  constraint credits_are_not_negative check (credits >= 0),
  constraint a_lot_is_of_a_paid_invoice check (lot_id is null or (status = 'paid' and credits > 0)),
  constraint provider_is_known check (provider in ('stripe', 'paypal', 'wise', 'manual')),
  constraint only_stripe_has_ids_of_stripe check ((provider = 'stripe') = (stripe_invoice_id is not null)),
  constraint an_operator_says_what_plan_they_billed check (plan_id is null or provider <> 'stripe'),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);

comment on table public.invoices is 'What an owner was billed: the newest state of an invoice at Stripe, or one that an operator recorded.';
comment on column public.invoices.id is 'Identifies the invoice here.';
comment on column public.invoices.user_id is 'The user it is for; null for an organization''s, or once erased.';
comment on column public.invoices.organization_id is 'The organization it is for; null for a user''s, or once erased.';
comment on column public.invoices.account_id is 'The credit account that receives its credits.';
comment on column public.invoices.number is 'Its number; null for a draft.';
comment on column public.invoices.status is 'draft, open (sent, not paid), paid, uncollectible (given up) or void (canceled), as at Stripe.';
comment on column public.invoices.billing_reason is 'Why it was made, in Stripe''s words: subscription_create, subscription_cycle, subscription_update ...';
comment on column public.invoices.items is 'Its lines: id, description, quantity, unit_price_minor, amount_minor, type, period_start, period_end.';
comment on column public.invoices.subtotal_minor is 'Before discounts and tax, in minor units. Negative when more is credited than billed.';
comment on column public.invoices.tax_minor is 'Tax, in minor units. Negative when more is credited than billed.';
comment on column public.invoices.total_minor is 'After discounts and tax, in minor units.';
comment on column public.invoices.amount_due_minor is 'What was asked for, in minor units, after the customer''s balance.';
comment on column public.invoices.amount_paid_minor is 'What was paid, in minor units.';
comment on column public.invoices.amount_remaining_minor is 'What is left to pay, in minor units.';
comment on column public.invoices.currency is 'Currency of all amounts, lower-case ISO 4217.';
comment on column public.invoices.period_start is 'When the time began that it is for.';
comment on column public.invoices.period_end is 'When that time ends.';
comment on column public.invoices.issued_at is 'When it was made final; while a draft, when it was made.';
comment on column public.invoices.due_at is 'Until when it must be paid; null where it is charged automatically.';
comment on column public.invoices.paid_at is 'When it was paid.';
comment on column public.invoices.attempt_count is 'How often payment was tried.';
comment on column public.invoices.next_attempt_at is 'When payment is tried again; null for never.';
comment on column public.invoices.hosted_invoice_url is 'Page on which it can be seen and paid.';
comment on column public.invoices.invoice_pdf_url is 'The invoice as a PDF.';
comment on column public.invoices.lot_id is 'The credits it granted; null when it granted none.';
comment on column public.invoices.credits is 'Credits that its lines pay for.';
comment on column public.invoices.plan_id is 'The plan that an operator billed; of an invoice at Stripe the lines say it.';
comment on column public.invoices.provider is 'Who collected it: stripe, or paypal, wise or manual as an operator recorded it.';
comment on column public.invoices.stripe_invoice_id is 'The invoice at Stripe.';
comment on column public.invoices.stripe_subscription_id is 'The subscription at Stripe that it is for.';
comment on column public.invoices.stripe_customer_id is 'The customer at Stripe.';
comment on column public.invoices.metadata is 'Further facts for operators, never about a person.';
comment on column public.invoices.created_at is 'When it became known here.';
comment on column public.invoices.updated_at is 'When anything in the row last changed.';

create unique index invoices_are_mirrored_once
on public.invoices (stripe_invoice_id) where stripe_invoice_id is not null;
create unique index invoices_have_unique_numbers on public.invoices (provider, number) where number is not null;
create unique index invoices_have_their_own_lot on public.invoices (lot_id) where lot_id is not null;
create index invoices_by_user on public.invoices (user_id, issued_at desc);
create index invoices_by_organization on public.invoices (organization_id, issued_at desc);
create index invoices_by_account on public.invoices (account_id);
create index invoices_by_subscription
on public.invoices (stripe_subscription_id) where stripe_subscription_id is not null;
create index invoices_by_plan on public.invoices (plan_id) where plan_id is not null;
create index invoices_by_status on public.invoices (status, due_at);

create table public.payments (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  account_id uuid not null references public.credit_accounts (id),
  status text not null,
  amount_minor bigint not null,
  currency text not null,
  amount_refunded_minor bigint not null default 0,
  amount_disputed_minor bigint not null default 0,
  failure_code text,
  failure_reason text,
  description text,
  provider text not null default 'stripe',
  provider_transaction_id text not null,
  invoice_id uuid,
  purchase_id uuid,
  plan_id uuid references public.plans (id),
  period_start timestamptz,
  period_end timestamptz,
  lot_id uuid references public.credit_lots (id),
  stripe_invoice_id text,
  stripe_charge_id text,
  stripe_payment_method_id text,
  stripe_customer_id text,
  created_at timestamptz not null default now(),
  processed_at timestamptz,
  updated_at timestamptz not null default now(),
  metadata jsonb not null default '{}',
  constraint a_payment_has_at_most_one_owner check (num_nonnulls(user_id, organization_id) <= 1),
  constraint status_is_known check (
    status in (
      'pending', 'processing', 'succeeded', 'failed', 'canceled', 'partially_refunded', 'refunded', 'disputed'
    )
  ),
  constraint amount_is_positive check (amount_minor > 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$'),
  constraint no_more_is_refunded_than_was_paid check (amount_refunded_minor between 0 and amount_minor),
  constraint no_more_is_disputed_than_was_paid check (amount_disputed_minor between 0 and amount_minor),
  constraint only_what_was_paid_is_given_back check (
    status in ('partially_refunded', 'refunded', 'disputed')
    or (amount_refunded_minor = 0 and amount_disputed_minor = 0)
  ),
  constraint provider_is_known check (provider in ('stripe', 'paypal', 'wise', 'manual')),
  constraint only_a_recorded_payment_has_its_own_lot check (lot_id is null or provider <> 'stripe'),
  constraint an_operator_says_what_plan_was_paid check (plan_id is null or provider <> 'stripe'),
  constraint a_period_is_that_of_a_plan
  check ((period_start is null) = (period_end is null) and (period_start is null or plan_id is not null)),
  constraint a_period_ends_after_it_starts check (period_end > period_start),
  constraint transaction_is_not_empty check (length(provider_transaction_id) between 1 and 255),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);

comment on table public.payments is 'Every payment: the newest state of a payment intent at Stripe, or one that an operator recorded.';
comment on column public.payments.id is 'Identifies the payment here.';
comment on column public.payments.user_id is 'The user who paid; null for an organization''s, or once erased.';
comment on column public.payments.organization_id is 'The organization that paid; null for a user''s, or once erased.';
comment on column public.payments.account_id is 'The credit account of whoever paid.';
comment on column public.payments.status is 'pending, processing, then succeeded, failed or canceled; partially_refunded, refunded or disputed while money is gone.';
comment on column public.payments.amount_minor is 'What was to be paid, in minor units.';
comment on column public.payments.currency is 'Currency of all amounts, lower-case ISO 4217.';
comment on column public.payments.amount_refunded_minor is 'What was given back, in minor units.';
comment on column public.payments.amount_disputed_minor is 'What disputes that are open or lost withhold, in minor units.';
comment on column public.payments.failure_code is 'Why it failed, in Stripe''s words; null while it did not.';
comment on column public.payments.failure_reason is 'Why it failed, for people.';
comment on column public.payments.description is 'What it is for, for people.';
comment on column public.payments.provider is 'stripe, or paypal, wise or manual as an operator recorded it.';
comment on column public.payments.provider_transaction_id is 'Its id at the provider; for Stripe the payment intent.';
comment on column public.payments.invoice_id is 'The invoice it pays, once both are known; no foreign key, as they come in any order.';
comment on column public.payments.purchase_id is 'The purchase of a credit pack it pays.';
comment on column public.payments.plan_id is 'The plan that a recorded payment was for; of one through Stripe its invoice says it.';
comment on column public.payments.period_start is 'When the time began that it pays the plan for; null when nobody said.';
comment on column public.payments.period_end is 'When that time ends.';
comment on column public.payments.lot_id is 'The credits bought with a payment that an operator recorded; those of a purchase or an invoice stand there.';
comment on column public.payments.stripe_invoice_id is 'The invoice at Stripe.';
comment on column public.payments.stripe_charge_id is 'The charge at Stripe that went through.';
comment on column public.payments.stripe_payment_method_id is 'What it was paid with, at Stripe.';
comment on column public.payments.stripe_customer_id is 'The customer at Stripe.';
comment on column public.payments.created_at is 'When it was begun.';
comment on column public.payments.processed_at is 'When it went through.';
comment on column public.payments.updated_at is 'When anything in the row last changed.';
comment on column public.payments.metadata is 'Further facts for operators, never about a person.';

create unique index payments_are_known_once on public.payments (provider, provider_transaction_id);
create index payments_by_user on public.payments (user_id, created_at desc);
create index payments_by_organization on public.payments (organization_id, created_at desc);
create index payments_by_account on public.payments (account_id);
create index payments_by_invoice on public.payments (invoice_id) where invoice_id is not null;
create index payments_by_purchase on public.payments (purchase_id) where purchase_id is not null;
create unique index payments_have_their_own_lot on public.payments (lot_id) where lot_id is not null;
create index payments_by_plan on public.payments (plan_id) where plan_id is not null;
create index payments_by_status on public.payments (status);

create table public.payment_methods (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  type text not null,
  provider text not null default 'stripe',
  provider_method_id text not null,
  is_default boolean not null default false,
  brand text,
  last_four text,
  expiry_month integer,
  expiry_year integer,
  stripe_customer_id text,
  attached_at timestamptz not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  metadata jsonb not null default '{}',
  constraint a_payment_method_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint type_is_not_empty check (length(type) between 1 and 50),
  constraint provider_is_known check (provider in ('stripe', 'paypal', 'wise', 'manual')),
  constraint last_four_are_four check (last_four ~ '^[0-9A-Za-z]{4}$'),
  constraint expiry_is_a_month check (
    (expiry_month is null) = (expiry_year is null)
    and expiry_month between 1 and 12 and expiry_year between 2000 and 2100
  ),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);

comment on table public.payment_methods is 'What an owner can pay with: cards and accounts that are attached to their customer at Stripe.';
comment on column public.payment_methods.id is 'Identifies the payment method here.';
comment on column public.payment_methods.user_id is 'The user it belongs to; null for an organization''s.';
comment on column public.payment_methods.organization_id is 'The organization it belongs to; null for a user''s.';
comment on column public.payment_methods.type is 'What it is, in Stripe''s words: card, sepa_debit, us_bank_account, link ...';
comment on column public.payment_methods.provider is 'Who keeps it.';
comment on column public.payment_methods.provider_method_id is 'Its id at the provider.';
comment on column public.payment_methods.is_default is 'Whether it is used unless another is asked for: the customer''s choice, else the newest.';
comment on column public.payment_methods.brand is 'Brand of a card, or name of a bank.';
comment on column public.payment_methods.last_four is 'Last four digits.';
comment on column public.payment_methods.expiry_month is 'Month it expires in, 1 to 12; null for what does not expire.';
comment on column public.payment_methods.expiry_year is 'Year it expires in.';
comment on column public.payment_methods.stripe_customer_id is 'The customer at Stripe.';
comment on column public.payment_methods.attached_at is 'When it was made, by Stripe''s clock.';
comment on column public.payment_methods.created_at is 'When it became known here.';
comment on column public.payment_methods.updated_at is 'When anything in the row last changed.';
comment on column public.payment_methods.metadata is 'Further facts for operators, never about a person.';

create unique index payment_methods_are_known_once on public.payment_methods (provider, provider_method_id);
create unique index payment_methods_have_one_default_per_user
on public.payment_methods (user_id) where is_default and user_id is not null;
create unique index payment_methods_have_one_default_per_organization
on public.payment_methods (organization_id) where is_default and organization_id is not null;
create index payment_methods_by_user on public.payment_methods (user_id);
create index payment_methods_by_organization on public.payment_methods (organization_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: owners read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.invoices, public.payments, public.payment_methods to authenticated, service_role;

alter table public.invoices enable row level security;
alter table public.payments enable row level security;
alter table public.payment_methods enable row level security;

create policy "Customers and organization admins read their invoices"
on public.invoices for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Customers and organization admins read their payments"
on public.payments for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Customers and organization admins read their payment methods"
on public.payment_methods for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger invoices_touch before update on public.invoices
for each row execute function private.touch_updated_at();
create trigger payments_touch before update on public.payments
for each row execute function private.touch_updated_at();
create trigger payment_methods_touch before update on public.payment_methods
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- Invoices
-- ---------------------------------------------------------------------------------------------------------------

create function private.invoice_items(p_lines jsonb) returns jsonb
language sql immutable parallel safe set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', l.value -> 'id',
    'description', l.value -> 'description',
    'quantity', l.value -> 'quantity',
    'unit_price_minor', l.value #> '{pricing,unit_amount_decimal}',
    'amount_minor', l.value -> 'amount',
    'type', case
      when (l.value #>> '{parent,subscription_item_details,proration}')::boolean
        or (l.value #>> '{parent,invoice_item_details,proration}')::boolean then 'proration'
      when l.value #>> '{parent,type}' = 'subscription_item_details' then 'subscription'
      else 'item'
    end,
    'period_start', to_timestamp((l.value #>> '{period,start}')::bigint),
    'period_end', to_timestamp((l.value #>> '{period,end}')::bigint)
  ) order by l.position), '[]')
  from jsonb_array_elements(p_lines) with ordinality as l (value, position)
$$;

comment on function private.invoice_items(jsonb) is 'Lines of an invoice at Stripe as public.invoices.items shows them.';

create function private.invoice_credits(
  p_lines jsonb, out credits numeric, out expires_at timestamptz
)
language plpgsql stable security definer set search_path = ''
as $$
begin
  if exists (
    select
    from jsonb_array_elements(p_lines) as l (value)
    inner join private.plan_prices as k
      on k.stripe_price_id = private.stripe_id(l.value #> '{pricing,price_details,price}')
    where lower(l.value ->> 'currency') is distinct from k.currency
  ) then
    perform private.fail(409, 'currency_mismatch', 'A line is in another currency than its price.');
  end if;
  -- A line pays for as much of its price's credits as it is of its price: a whole period, the rest of one after an
  -- upgrade, or, negative, the rest of the plan before. A trial costs nothing and grants nothing.
  select
    greatest(round(sum(
      p.credits_per_month * case k.billing_interval when 'year' then 12 else 1 end
      * (l.value ->> 'amount')::numeric / k.amount_minor
    ), 6), 0),
    case
      when not bool_or(p.credits_roll_over) filter (where (l.value ->> 'amount')::numeric > 0)
        then max(to_timestamp((l.value #>> '{period,end}')::bigint)) filter (where (l.value ->> 'amount')::numeric > 0)
          -- As long as the plan itself: Stripe charges a renewal an hour after the period has begun, or later.
          + make_interval(days => private.setting('renewal_grace_days')::integer)
    end
  into credits, expires_at
  from jsonb_array_elements(p_lines) as l (value)
  inner join private.plan_prices as k on k.stripe_price_id = private.stripe_id(l.value #> '{pricing,price_details,price}')
  inner join public.plans as p on p.id = k.plan_id;
  credits := coalesce(credits, 0);
end
$$;

comment on function private.invoice_credits(jsonb) is
'Credits that the lines of an invoice pay for, and when they expire: renewal_grace_days after the last period they pay for, or never. 409 currency_mismatch for a line in another currency than its price.';

create function private.invoice_prices_are_known(p_lines jsonb) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  -- Something else that is billed beside a plan has a price of no plan.
  return (
    select coalesce(bool_or(k.stripe_price_id is not null), true)
    from jsonb_array_elements(p_lines) as l (value)
    left join private.plan_prices as k on k.stripe_price_id = private.stripe_id(l.value #> '{pricing,price_details,price}')
    where (l.value ->> 'amount')::numeric > 0 and l.value #>> '{parent,type}' = 'subscription_item_details'
  );
end
$$;

comment on function private.invoice_prices_are_known(jsonb) is
'Whether a plan has or had the price of one of the lines that bill a subscription; true where none bills anything.';

create function private.invoice_apply_reversals(p_stripe_invoice_id text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_invoice public.invoices;
  v_refunded bigint;
  v_disputed bigint;
begin
  select i.* into v_invoice from public.invoices as i where i.stripe_invoice_id = p_stripe_invoice_id;
  if v_invoice.lot_id is null or v_invoice.amount_paid_minor = 0 then
    return '{}';
  end if;
  select coalesce(sum(r.refunded_minor), 0), coalesce(sum(r.disputed_minor), 0)
  into v_refunded, v_disputed
  from private.stripe_objects as o
  cross join lateral private.payment_reversals(o.payment_intent_id, v_invoice.amount_paid_minor, v_invoice.currency) as r
  where o.type = 'invoice_payment' and o.invoice_id = p_stripe_invoice_id and o.payment_intent_id is not null;
  return private.claw_back_share(
    v_invoice.lot_id, v_invoice.amount_paid_minor, v_refunded, v_disputed, p_stripe_invoice_id
  );
end
$$;

comment on function private.invoice_apply_reversals(text) is
'Brings the credits taken back from a paid invoice to the share of it that was refunded or is disputed.';

create function private.invoice_grant(p_invoice public.invoices, p_expires_at timestamptz) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_grant jsonb;
begin
  if p_invoice.lot_id is not null or p_invoice.status <> 'paid' or p_invoice.credits = 0 then
    return p_invoice.lot_id;
  end if;
  v_grant := private.credit_grant(
    p_invoice.account_id, p_invoice.credits, 'plan', 'stripe:' || p_invoice.stripe_invoice_id,
    -- Told after the period had ended, what was paid for can still be used for a while.
    case
      when p_expires_at <= now() then now() + make_interval(days => private.setting('refund_grace_days')::integer)
      else p_expires_at
    end,
    50, 'Credits of the plan', p_invoice.stripe_invoice_id, p_invoice.amount_paid_minor, p_invoice.currency,
    jsonb_build_object('invoice_id', p_invoice.id)
  );
  update public.invoices as i set lot_id = (v_grant ->> 'lot_id')::uuid where i.id = p_invoice.id;
  return (v_grant ->> 'lot_id')::uuid;
end
$$;

comment on function private.invoice_grant(public.invoices, timestamptz) is
'Grants the credits of a paid invoice, once, keyed on the invoice; they burn before bought ones. Returns the lot, null for none.';

create function private.purchase_of_invoice(p_invoice jsonb, p_customer private.stripe_customers) returns uuid
language sql stable security definer set search_path = ''
as $$
  select c.id
  from public.credit_purchases as c
  where c.id = case
      when p_invoice #>> '{metadata,quernel_purchase_id}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (p_invoice #>> '{metadata,quernel_purchase_id}')::uuid
    end
    and c.account_id = p_customer.account_id
$$;

comment on function private.purchase_of_invoice(jsonb, private.stripe_customers) is
'The purchase of a pack that an invoice of its own customer names; null for none.';

create function private.stripe_apply_invoice(p_event_type text, p_invoice jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_id text := p_invoice ->> 'id';
  v_customer private.stripe_customers;
  v_invoice public.invoices;
  v_payment_intent_id text;
  v_subscription_id text := private.stripe_id(p_invoice #> '{parent,subscription_details,subscription}');
  v_due record;
  v_lot_id uuid;
begin
  if (p_invoice #>> '{lines,has_more}')::boolean then
    -- An event carries the first lines only.
    return jsonb_build_object('fetch', jsonb_build_object('type', 'invoice', 'id', v_id));
  end if;
  for v_payment_intent_id in
    select o.payment_intent_id
    from private.stripe_objects as o
    where o.type = 'invoice_payment' and o.invoice_id = v_id and o.payment_intent_id is not null
    order by o.payment_intent_id
  loop
    perform private.stripe_lock_object('payment_intent', v_payment_intent_id);
  end loop;
  v_customer := private.lock_billing_owner(private.stripe_id(p_invoice -> 'customer'));
  if v_customer.id is null then
    return jsonb_build_object('ignored', 'not_our_customer');
  end if;
  if p_event_type = 'invoice.deleted' then
    delete from public.invoices as i where i.stripe_invoice_id = v_id and i.status = 'draft';
    return jsonb_build_object('deleted', v_id);
  end if;
  if v_subscription_id is not null
     and p_invoice #>> '{parent,subscription_details,metadata,quernel_checkout_id}' is not null
     and not private.invoice_prices_are_known(p_invoice #> '{lines,data}') then
    perform private.fail(409, 'plan_price_unknown', 'No plan has or had the price of this invoice.',
      jsonb_build_object('invoice_id', v_id));
  end if;
  v_due := private.invoice_credits(case when v_subscription_id is not null then p_invoice #> '{lines,data}' end);

  insert into public.invoices as i (
    user_id, organization_id, account_id, number, status, billing_reason, items, subtotal_minor, tax_minor,
    total_minor, amount_due_minor, amount_paid_minor, amount_remaining_minor, currency, period_start, period_end,
    issued_at, due_at, paid_at, attempt_count, next_attempt_at, hosted_invoice_url, invoice_pdf_url,
    credits, stripe_invoice_id, stripe_subscription_id, stripe_customer_id
  ) values (
    v_customer.user_id, v_customer.organization_id, v_customer.account_id, p_invoice ->> 'number',
    p_invoice ->> 'status', p_invoice ->> 'billing_reason', private.invoice_items(p_invoice #> '{lines,data}'),
    (p_invoice ->> 'subtotal')::bigint,
    coalesce((
      select sum((t.value ->> 'amount')::bigint)
      from jsonb_array_elements(case jsonb_typeof(p_invoice -> 'total_taxes') when 'array' then p_invoice -> 'total_taxes' end)
        as t (value)
    ), 0),
    (p_invoice ->> 'total')::bigint, (p_invoice ->> 'amount_due')::bigint, (p_invoice ->> 'amount_paid')::bigint,
    (p_invoice ->> 'amount_remaining')::bigint, p_invoice ->> 'currency',
    private.stripe_time(p_invoice -> 'period_start'), private.stripe_time(p_invoice -> 'period_end'),
    coalesce(private.stripe_time(p_invoice #> '{status_transitions,finalized_at}'), private.stripe_time(p_invoice -> 'created')),
    private.stripe_time(p_invoice -> 'due_date'), private.stripe_time(p_invoice #> '{status_transitions,paid_at}'),
    coalesce((p_invoice ->> 'attempt_count')::integer, 0), private.stripe_time(p_invoice -> 'next_payment_attempt'),
    -- Of somebody who was erased the statutory invoice stays, not the page on which it could be paid.
    case
      when num_nonnulls(v_customer.user_id, v_customer.organization_id) > 0 then p_invoice ->> 'hosted_invoice_url'
    end,
    p_invoice ->> 'invoice_pdf', v_due.credits, v_id, v_subscription_id,
    v_customer.customer_id
  )
  on conflict (stripe_invoice_id) where stripe_invoice_id is not null do update
  set number = excluded.number, status = excluded.status, billing_reason = excluded.billing_reason,
    items = excluded.items, subtotal_minor = excluded.subtotal_minor, tax_minor = excluded.tax_minor,
    total_minor = excluded.total_minor, amount_due_minor = excluded.amount_due_minor,
    amount_paid_minor = excluded.amount_paid_minor, amount_remaining_minor = excluded.amount_remaining_minor,
    period_start = excluded.period_start, period_end = excluded.period_end, issued_at = excluded.issued_at,
    due_at = excluded.due_at, paid_at = excluded.paid_at, attempt_count = excluded.attempt_count,
    next_attempt_at = excluded.next_attempt_at, hosted_invoice_url = excluded.hosted_invoice_url,
    invoice_pdf_url = excluded.invoice_pdf_url, stripe_subscription_id = excluded.stripe_subscription_id,
    -- What was granted is what the plan gave when it was paid, nothing included.
    credits = case when i.status = 'paid' then i.credits else excluded.credits end
  returning i.* into v_invoice;
  update public.payments as p
  set invoice_id = v_invoice.id
  where p.stripe_invoice_id = v_id and p.invoice_id is null;

  v_lot_id := private.invoice_grant(v_invoice, v_due.expires_at);
  if v_invoice.status = 'paid' and v_invoice.amount_paid_minor > 0
     and private.purchase_of_invoice(p_invoice, v_customer) is null then
    perform private.notify(
      v_customer.user_id, v_customer.organization_id, 'receipt',
      jsonb_build_object(
        'amount_minor', v_invoice.amount_paid_minor, 'currency', v_invoice.currency,
        'description', v_invoice.number, 'credits', nullif(v_invoice.credits, 0),
        'invoice_url', v_invoice.hosted_invoice_url
      ),
      v_id
    );
  end if;
  perform private.apply_entitlement(v_customer.user_id, v_customer.organization_id);
  return jsonb_build_object('invoice_id', v_invoice.id, 'status', v_invoice.status, 'lot_id', v_lot_id)
    || private.invoice_apply_reversals(v_id);
end
$$;

comment on function private.stripe_apply_invoice(text, jsonb) is
'Applies the state of an invoice: mirrors it, grants the credits of a paid one once, and takes back what its payments gave back.';

-- ---------------------------------------------------------------------------------------------------------------
-- Payments
-- ---------------------------------------------------------------------------------------------------------------

create function private.payment_mirror(
  p_state jsonb, p_customer private.stripe_customers, p_as_of timestamptz, p_purchase_id uuid, p_stripe_invoice_id text
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_status text := case p_state ->> 'status'
    when 'succeeded' then 'succeeded'
    when 'processing' then 'processing'
    when 'canceled' then 'canceled'
    else case when jsonb_typeof(p_state -> 'last_payment_error') = 'object' then 'failed' else 'pending' end
  end;
  v_reversed record;
begin
  v_reversed := private.payment_reversals(p_state ->> 'id', (p_state ->> 'amount')::bigint, p_state ->> 'currency');
  if v_status = 'succeeded' then
    v_status := case
      when v_reversed.disputed_minor > 0 then 'disputed'
      when v_reversed.refunded_minor = (p_state ->> 'amount')::bigint then 'refunded'
      when v_reversed.refunded_minor > 0 then 'partially_refunded'
      else 'succeeded'
    end;
  else
    v_reversed.refunded_minor := 0;
    v_reversed.disputed_minor := 0;
  end if;
  insert into public.payments as p (
    user_id, organization_id, account_id, status, amount_minor, currency, amount_refunded_minor,
    amount_disputed_minor, failure_code, failure_reason, description, provider_transaction_id, invoice_id, purchase_id,
    stripe_invoice_id, stripe_charge_id, stripe_payment_method_id, stripe_customer_id, created_at, processed_at
  ) values (
    p_customer.user_id, p_customer.organization_id, p_customer.account_id, v_status, (p_state ->> 'amount')::bigint,
    p_state ->> 'currency', v_reversed.refunded_minor, v_reversed.disputed_minor,
    coalesce(p_state #>> '{last_payment_error,decline_code}', p_state #>> '{last_payment_error,code}'),
    p_state #>> '{last_payment_error,message}', p_state ->> 'description', p_state ->> 'id',
    (select i.id from public.invoices as i where i.stripe_invoice_id = p_stripe_invoice_id), p_purchase_id,
    p_stripe_invoice_id, v_reversed.charge_id, private.stripe_id(p_state -> 'payment_method'), p_customer.customer_id,
    private.stripe_time(p_state -> 'created'),
    case when p_state ->> 'status' = 'succeeded' then p_as_of end
  )
  on conflict (provider, provider_transaction_id) do update
  set status = excluded.status, amount_minor = excluded.amount_minor,
    amount_refunded_minor = excluded.amount_refunded_minor, amount_disputed_minor = excluded.amount_disputed_minor,
    failure_code = excluded.failure_code, failure_reason = excluded.failure_reason,
    description = excluded.description, invoice_id = coalesce(excluded.invoice_id, p.invoice_id),
    purchase_id = coalesce(excluded.purchase_id, p.purchase_id),
    stripe_invoice_id = coalesce(excluded.stripe_invoice_id, p.stripe_invoice_id),
    stripe_charge_id = coalesce(excluded.stripe_charge_id, p.stripe_charge_id),
    stripe_payment_method_id = excluded.stripe_payment_method_id,
    processed_at = coalesce(p.processed_at, excluded.processed_at);
end
$$;

comment on function private.payment_mirror(jsonb, private.stripe_customers, timestamptz, uuid, text) is
'Writes a payment intent''s row in public.payments, with what its charges and disputes say was given back.';

create function private.payment_apply(p_payment_intent_id text, p_customer_id text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_payment private.stripe_objects;
  v_customer private.stripe_customers;
  v_purchase_id uuid;
  v_invoice_id text;
  v_result jsonb := '{}';
begin
  if p_payment_intent_id is null then
    return jsonb_build_object('ignored', 'not_a_checkout_payment');
  end if;
  v_payment := private.stripe_lock_object('payment_intent', p_payment_intent_id);
  select o.invoice_id into v_invoice_id
  from private.stripe_objects as o
  where o.type = 'invoice_payment' and o.payment_intent_id = p_payment_intent_id
  order by o.id
  limit 1;
  v_customer := private.lock_billing_owner(coalesce(
    p_customer_id,
    private.stripe_id(v_payment.state -> 'customer'),
    (
      select private.stripe_id(o.state -> 'customer')
      from private.stripe_objects as o
      where o.type = 'charge' and o.payment_intent_id = p_payment_intent_id and o.state is not null
      order by o.id
      limit 1
    ),
    (select i.stripe_customer_id from public.invoices as i where i.stripe_invoice_id = v_invoice_id)
  ));
  select c.id into v_purchase_id
  from public.credit_purchases as c
  where c.stripe_payment_intent_id = p_payment_intent_id;
  if v_purchase_id is null then
    v_purchase_id := private.top_up_of_payment(v_payment.state, v_customer);
  end if;
  if v_payment.state is not null and v_customer.id is not null then
    perform private.payment_mirror(
      v_payment.state, v_customer, v_payment.newest_from, v_purchase_id, v_invoice_id
    );
  end if;
  if v_purchase_id is not null then
    -- A checkout is paid when its session says so; an automatic purchase has only the payment to say it.
    perform private.top_up_apply(v_purchase_id, v_payment.state);
    v_result := private.purchase_apply_reversals(v_purchase_id);
  end if;
  if v_invoice_id is not null then
    v_result := v_result || private.invoice_apply_reversals(v_invoice_id);
  end if;
  -- Where neither is known yet, or it is not ours, the states wait.
  return jsonb_build_object('payment_intent_id', p_payment_intent_id) || v_result;
end
$$;

comment on function private.payment_apply(text, text) is
'Applies the newest states of a payment, its charges and disputes to what it paid: a purchase, an invoice, or neither yet.';

create function private.stripe_apply_payment_intent(p_event_type text, p_payment_intent jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return private.payment_apply(p_payment_intent ->> 'id', private.stripe_id(p_payment_intent -> 'customer'));
end
$$;

comment on function private.stripe_apply_payment_intent(text, jsonb) is 'Applies the state of a payment intent to public.payments and to what it paid.';

create function private.stripe_apply_invoice_payment(p_event_type text, p_invoice_payment jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_invoice_id text := private.stripe_id(p_invoice_payment -> 'invoice');
begin
  -- The invoice's lock: an invoice and its link to a payment may arrive in the same instant.
  perform private.stripe_lock_object('invoice', v_invoice_id);
  return private.payment_apply(private.stripe_id(p_invoice_payment #> '{payment,payment_intent}'), null);
end
$$;

comment on function private.stripe_apply_invoice_payment(text, jsonb) is 'Ties a payment to the invoice it pays.';

-- ---------------------------------------------------------------------------------------------------------------
-- Customers and payment methods
-- ---------------------------------------------------------------------------------------------------------------

create function private.payment_methods_choose_default(p_customer private.stripe_customers) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_default_id uuid;
begin
  select m.id into v_default_id
  from public.payment_methods as m
  where m.stripe_customer_id = p_customer.customer_id
  order by m.provider_method_id = p_customer.default_payment_method_id desc nulls last, m.attached_at desc, m.id desc
  limit 1;
  update public.payment_methods as m
  set is_default = false
  where m.stripe_customer_id = p_customer.customer_id and m.is_default and m.id <> v_default_id;
  update public.payment_methods as m set is_default = true where m.id = v_default_id and not m.is_default;
end
$$;

comment on function private.payment_methods_choose_default(private.stripe_customers) is
'Makes one of a customer''s payment methods the default: the one they chose for invoices, else the newest.';

create function private.stripe_apply_payment_method(p_event_type text, p_method jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
  v_customer_id text := private.stripe_id(p_method -> 'customer');
  v_kind text := p_method ->> 'type';
  v_last_four text := p_method #>> array[v_kind, 'last4'];
begin
  -- A method that was detached names no customer any more.
  if v_customer_id is null then
    select m.stripe_customer_id into v_customer_id
    from public.payment_methods as m
    where m.provider = 'stripe' and m.provider_method_id = p_method ->> 'id';
    v_customer := private.lock_billing_owner(v_customer_id);
    delete from public.payment_methods as m where m.provider = 'stripe' and m.provider_method_id = p_method ->> 'id';
    if v_customer.id is not null then
      perform private.payment_methods_choose_default(v_customer);
    end if;
    return jsonb_build_object('detached', p_method ->> 'id');
  end if;
  v_customer := private.lock_billing_owner(v_customer_id);
  if v_customer.id is null or num_nonnulls(v_customer.user_id, v_customer.organization_id) = 0 then
    return jsonb_build_object('ignored', 'not_our_customer');
  end if;
  if v_customer.deleted_at is not null then
    return jsonb_build_object('ignored', 'customer_is_deleted');
  end if;
  insert into public.payment_methods as m (
    user_id, organization_id, type, provider_method_id, brand, last_four, expiry_month, expiry_year,
    stripe_customer_id, attached_at
  ) values (
    v_customer.user_id, v_customer.organization_id, v_kind, p_method ->> 'id',
    coalesce(p_method #>> array[v_kind, 'brand'], p_method #>> array[v_kind, 'bank_name'], p_method #>> array[v_kind, 'bank']),
    case when v_last_four ~ '^[0-9A-Za-z]{4}$' then v_last_four end,
    (p_method #>> array[v_kind, 'exp_month'])::integer, (p_method #>> array[v_kind, 'exp_year'])::integer,
    v_customer.customer_id, private.stripe_time(p_method -> 'created')
  )
  on conflict (provider, provider_method_id) do update
  set type = excluded.type, brand = excluded.brand, last_four = excluded.last_four,
    expiry_month = excluded.expiry_month, expiry_year = excluded.expiry_year;
  perform private.payment_methods_choose_default(v_customer);
  return jsonb_build_object('payment_method_id', p_method ->> 'id');
end
$$;

comment on function private.stripe_apply_payment_method(text, jsonb) is
'Applies the state of a payment method: known while it is attached to a customer of ours, gone when it is not.';

create function private.stripe_apply_customer(p_event_type text, p_customer jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
begin
  v_customer := private.lock_billing_owner(p_customer ->> 'id');
  if v_customer.id is null then
    return jsonb_build_object('ignored', 'not_our_customer');
  end if;
  if v_customer.deleted_at is not null then
    return jsonb_build_object('deleted', v_customer.customer_id);
  end if;
  if p_event_type = 'customer.deleted' or (p_customer ->> 'deleted')::boolean then
    -- The row stays: invoices, refunds and the end of its subscriptions may be told later. Nothing is sold through it
    -- any more, pages included, and the next checkout makes a new customer.
    update private.stripe_customers as c
    set deleted_at = now(), default_payment_method_id = null
    where c.id = v_customer.id;
    update public.profiles as p set stripe_customer_id = null where p.id = v_customer.user_id;
    delete from public.payment_methods as m where m.stripe_customer_id = v_customer.customer_id;
    update private.subscription_checkouts as c
    set status = 'expired', idempotency_key = null
    where c.status = 'open'
      and (c.user_id = v_customer.user_id or c.organization_id = v_customer.organization_id);
    perform private.top_ups_give_up(v_customer.account_id);
    return jsonb_build_object('deleted', v_customer.customer_id);
  end if;
  update private.stripe_customers as c
  set default_payment_method_id = private.stripe_id(p_customer #> '{invoice_settings,default_payment_method}')
  where c.id = v_customer.id
  returning c.* into v_customer;
  perform private.payment_methods_choose_default(v_customer);
  return jsonb_build_object('customer_id', v_customer.customer_id);
end
$$;

comment on function private.stripe_apply_customer(text, jsonb) is
'Applies the state of a customer: which payment method they chose, or that they are gone, which is for good.';

-- ---------------------------------------------------------------------------------------------------------------
-- The handler map goes on
-- ---------------------------------------------------------------------------------------------------------------

insert into private.stripe_object_handlers (object_type, handler) values
('invoice', 'stripe_apply_invoice'),
('invoice_payment', 'stripe_apply_invoice_payment'),
('payment_intent', 'stripe_apply_payment_intent'),
('payment_method', 'stripe_apply_payment_method'),
('customer', 'stripe_apply_customer');

insert into private.stripe_event_types (event_type, object_type, effect) values
('invoice.created', 'invoice', 'Mirrors the draft.'),
('invoice.updated', 'invoice', 'Follows the invoice.'),
('invoice.deleted', 'invoice', 'Forgets a draft that was thrown away.'),
('invoice.finalized', 'invoice', 'Mirrors the invoice with its number and links.'),
('invoice.sent', 'invoice', 'Follows the invoice.'),
('invoice.paid', 'invoice', 'Grants the credits of the period, once per invoice.'),
('invoice.payment_succeeded', 'invoice', 'As invoice.paid; whichever comes first grants.'),
('invoice.payment_failed', 'invoice', 'Mirrors the failed attempt; the plan goes on for its grace.'),
('invoice.payment_action_required', 'invoice', 'Mirrors that the customer must confirm.'),
('invoice.overdue', 'invoice', 'Follows the invoice.'),
('invoice.voided', 'invoice', 'Marks the invoice void.'),
('invoice.marked_uncollectible', 'invoice', 'Marks the invoice as given up.'),
('invoice_payment.paid', 'invoice_payment', 'Ties a payment to the invoice it paid, so that refunds find it.'),
('payment_intent.succeeded', 'payment_intent', 'Records the payment; grants the credits of an automatic top-up, once.'),
('payment_intent.processing', 'payment_intent', 'Records that the money is on its way.'),
('payment_intent.payment_failed', 'payment_intent', 'Records why the payment failed; an automatic top-up backs off.'),
(
  'payment_intent.requires_action', 'payment_intent',
  'Records that the customer must confirm; an automatic top-up waits for its owner.'
),
('payment_intent.canceled', 'payment_intent', 'Records that nothing will be paid; an automatic top-up backs off.'),
('payment_method.attached', 'payment_method', 'Shows the owner what they can pay with.'),
('payment_method.updated', 'payment_method', 'Follows a new expiry or address.'),
('payment_method.automatically_updated', 'payment_method', 'Follows a card that its bank replaced.'),
('payment_method.detached', 'payment_method', 'Forgets the payment method.'),
('customer.updated', 'customer', 'Follows which payment method the customer chose.'),
('customer.deleted', 'customer', 'Sells nothing more through the customer; the next checkout makes a new one.');
