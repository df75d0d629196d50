-- Billing, last chapter: what operators do, and keeping in step with Stripe.
--
--   backend.invoice_record           an invoice that is to be paid by another way than Stripe
--   backend.payment_record …         money that came by another way than Stripe, for an invoice, a plan or credits
--   private.stripe_reconciliations   the runs that compare Stripe's recent objects with what is known of them here
--
-- What an operator does leaves a row of private.operator_actions: who, what, before, after.

-- ---------------------------------------------------------------------------------------------------------------
-- Invoices and payments that an operator records
--
-- What is recorded is money. A plan is given with backend.plan_assign, and credits come with a payment that names them.
-- ---------------------------------------------------------------------------------------------------------------

create function private.invoice_summary(p_invoice public.invoices) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'invoice_id', p_invoice.id, 'number', p_invoice.number, 'status', p_invoice.status,
    'provider', p_invoice.provider, 'total_minor', p_invoice.total_minor, 'tax_minor', p_invoice.tax_minor,
    'amount_paid_minor', p_invoice.amount_paid_minor, 'amount_remaining_minor', p_invoice.amount_remaining_minor,
    'currency', p_invoice.currency, 'plan', (select p.slug from public.plans as p where p.id = p_invoice.plan_id),
    'period_start', p_invoice.period_start, 'period_end', p_invoice.period_end, 'issued_at', p_invoice.issued_at,
    'due_at', p_invoice.due_at, 'account_id', p_invoice.account_id
  )
$$;

comment on function private.invoice_summary(public.invoices) is 'A recorded invoice as operators see it.';

create function private.payment_summary(p_payment public.payments) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'payment_id', p_payment.id, 'status', p_payment.status, 'provider', p_payment.provider,
    'transaction_id', p_payment.provider_transaction_id, 'amount_minor', p_payment.amount_minor,
    'amount_refunded_minor', p_payment.amount_refunded_minor, 'currency', p_payment.currency,
    'plan', (select p.slug from public.plans as p where p.id = p_payment.plan_id),
    'invoice', (select i.number from public.invoices as i where i.id = p_payment.invoice_id),
    'lot_id', p_payment.lot_id,
    'credits', (select l.amount from public.credit_lots as l where l.id = p_payment.lot_id),
    'account', private.account_summary(p_payment.account_id)
  )
$$;

comment on function private.payment_summary(public.payments) is
'A recorded payment as operators see it: what it was for, the credits it bought and the account they went to.';

create function private.require_recordable(
  p_provider text, p_amount_minor bigint, p_currency text, p_period_start timestamptz, p_period_end timestamptz
) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_provider is null or p_provider not in ('paypal', 'wise', 'manual') then
    perform private.fail(400, 'invalid_argument',
      'An operator records what went by paypal, wise or manual; what is Stripe''s comes from its events.',
      '{"param": "provider"}');
  end if;
  if coalesce(p_amount_minor <= 0, true) then
    perform private.fail(400, 'invalid_argument', 'An amount is more than nothing.', '{"param": "amount_minor"}');
  end if;
  if not exists (select from public.plans as p where p.currency = p_currency)
     and not exists (select from public.credit_packs as c where c.currency = p_currency) then
    perform private.fail(400, 'invalid_argument', 'Nothing is sold in this currency.', '{"param": "currency"}');
  end if;
  if num_nonnulls(p_period_start, p_period_end) = 1 or p_period_end <= p_period_start then
    perform private.fail(400, 'invalid_argument', 'A period has a start, and an end after it.',
      '{"param": "period_end"}');
  end if;
end
$$;

comment on function private.require_recordable(text, bigint, text, timestamptz, timestamptz) is
'Refuses what is no invoice and no payment that an operator can record: 400 invalid_argument.';

create function private.recorded_plan(p_plan text) returns public.plans
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  if p_plan is not null then
    -- Also one that is no longer on offer: what was sold was sold.
    select p.* into v_plan from public.plans as p where p.slug = p_plan;
    if v_plan.id is null then
      perform private.fail(404, 'plan_not_found', 'There is no such plan.', '{"param": "plan"}');
    end if;
  end if;
  return v_plan;
end
$$;

comment on function private.recorded_plan(text) is 'The plan that an operator names, a null row for none; 404 plan_not_found.';

create function backend.invoice_record(
  p_user_id uuid default null,
  p_organization_id uuid default null,
  p_provider text default 'manual',
  p_number text default null,
  p_amount_minor bigint default null,
  p_currency text default null,
  p_tax_minor bigint default 0,
  p_plan text default null,
  p_period_start timestamptz default null,
  p_period_end timestamptz default null,
  p_issued_at timestamptz default null,
  p_due_at timestamptz default null,
  p_description text default null,
  p_reason text default null,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, p_organization_id);
  v_issued_at timestamptz := coalesce(p_issued_at, now());
  v_plan public.plans;
  v_invoice public.invoices;
begin
  perform private.require_recordable(p_provider, p_amount_minor, p_currency, p_period_start, p_period_end);
  if coalesce(length(btrim(p_number)) not between 1 and 100, true) then
    perform private.fail(400, 'invalid_argument', 'An invoice has a number of 1 to 100 characters.',
      '{"param": "number"}');
  end if;
  if coalesce(p_tax_minor not between 0 and p_amount_minor, true) then
    perform private.fail(400, 'invalid_argument', 'Tax is a part of the amount.', '{"param": "tax_minor"}');
  end if;
  if v_issued_at > now() then
    perform private.fail(400, 'invalid_argument', 'An invoice is recorded once it is issued.', '{"param": "issued_at"}');
  end if;
  if p_due_at < v_issued_at then
    perform private.fail(400, 'invalid_argument', 'An invoice is due after it is issued.', '{"param": "due_at"}');
  end if;
  v_plan := private.recorded_plan(p_plan);
  insert into public.invoices (
    user_id, organization_id, account_id, number, status, items, subtotal_minor, tax_minor, total_minor,
    amount_due_minor, amount_remaining_minor, currency, period_start, period_end, issued_at, due_at, plan_id, provider
  ) values (
    case when p_organization_id is null then p_user_id end, p_organization_id, v_account_id, btrim(p_number), 'open',
    jsonb_build_array(jsonb_build_object(
      'id', btrim(p_number), 'description', coalesce(p_description, v_plan.name), 'quantity', 1,
      'unit_price_minor', p_amount_minor - p_tax_minor, 'amount_minor', p_amount_minor - p_tax_minor,
      'type', case when v_plan.id is null then 'item' else 'subscription' end,
      'period_start', coalesce(p_period_start, v_issued_at), 'period_end', coalesce(p_period_end, v_issued_at)
    )),
    p_amount_minor - p_tax_minor, p_tax_minor, p_amount_minor, p_amount_minor, p_amount_minor, p_currency,
    coalesce(p_period_start, v_issued_at), coalesce(p_period_end, v_issued_at), v_issued_at, p_due_at, v_plan.id,
    p_provider
  )
  on conflict (provider, number) where number is not null do nothing
  returning * into v_invoice;

  if v_invoice.id is null then
    select i.* into strict v_invoice
    from public.invoices as i
    where i.provider = p_provider and i.number = btrim(p_number);
    -- Times that were left out were the clock's, and a retry comes later.
    if (v_invoice.account_id, v_invoice.total_minor, v_invoice.tax_minor, v_invoice.currency, v_invoice.plan_id,
        v_invoice.due_at, v_invoice.items #>> '{0,description}')
       is distinct from (v_account_id, p_amount_minor, p_tax_minor, p_currency, v_plan.id, p_due_at,
         coalesce(p_description, v_plan.name))
       or v_invoice.issued_at <> p_issued_at or v_invoice.period_start <> p_period_start
       or v_invoice.period_end <> p_period_end then
      perform private.fail(409, 'idempotency_conflict', 'This invoice was already recorded, and otherwise.',
        jsonb_build_object('invoice_id', v_invoice.id));
    end if;
    return private.invoice_summary(v_invoice) || '{"replayed": true}';
  end if;
  perform private.record_operator_action(
    p_actor, 'invoice_record', v_invoice.id::text, null, private.invoice_summary(v_invoice), p_reason
  );
  return private.invoice_summary(v_invoice) || '{"replayed": false}';
end
$$;

comment on function backend.invoice_record(
  uuid, uuid, text, text, bigint, text, bigint, text, timestamptz, timestamptz, timestamptz, timestamptz, text, text, text
) is 'An operator records an invoice that is not Stripe''s, once per provider and number, open until payments of it are recorded; leaves an audit row. The amount includes the tax. 404 plan_not_found, 409 idempotency_conflict when it was recorded otherwise.';

create function private.invoice_settle(p_invoice_id uuid, p_payment public.payments) returns public.invoices
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_invoice public.invoices;
begin
  select i.* into v_invoice
  from public.invoices as i
  where i.id = p_invoice_id and i.account_id = p_payment.account_id
  for update;
  if v_invoice.id is null then
    perform private.fail(404, 'invoice_not_found', 'This owner has no such invoice.');
  end if;
  if v_invoice.provider = 'stripe' then
    perform private.fail(409, 'invoice_is_stripes', 'An invoice at Stripe is marked as paid there, which tells of it.');
  end if;
  if v_invoice.status <> 'open' then
    perform private.fail(409, 'invoice_not_open', 'This invoice does not wait for a payment.',
      jsonb_build_object('status', v_invoice.status));
  end if;
  if p_payment.currency <> v_invoice.currency or p_payment.amount_minor > v_invoice.amount_remaining_minor then
    perform private.fail(409, 'amount_mismatch', 'This is more than is left to pay, or in another currency.',
      jsonb_build_object('expected_minor', v_invoice.amount_remaining_minor, 'expected_currency', v_invoice.currency));
  end if;
  update public.invoices as i
  set amount_paid_minor = i.amount_paid_minor + p_payment.amount_minor,
    amount_remaining_minor = i.amount_remaining_minor - p_payment.amount_minor,
    status = case when i.amount_remaining_minor = p_payment.amount_minor then 'paid' else 'open' end,
    paid_at = case when i.amount_remaining_minor = p_payment.amount_minor then p_payment.processed_at end
  where i.id = v_invoice.id
  returning i.* into v_invoice;
  return v_invoice;
end
$$;

comment on function private.invoice_settle(uuid, public.payments) is
'Counts a recorded payment towards a recorded invoice of the same owner, which is paid with the last of it; 404 invoice_not_found, 409 invoice_is_stripes, invoice_not_open or amount_mismatch.';

create function backend.payment_record(
  p_user_id uuid default null,
  p_organization_id uuid default null,
  p_provider text default null,
  p_transaction_id text default null,
  p_amount_minor bigint default null,
  p_currency text default null,
  p_credits numeric default null,
  p_description text default null,
  p_paid_at timestamptz default null,
  p_plan text default null,
  p_period_start timestamptz default null,
  p_period_end timestamptz default null,
  p_invoice_id uuid default null,
  p_reason text default null,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, p_organization_id);
  v_before jsonb := private.account_summary(v_account_id);
  v_plan public.plans;
  v_invoice public.invoices;
  v_payment public.payments;
  v_grant jsonb;
begin
  perform private.require_recordable(p_provider, p_amount_minor, p_currency, p_period_start, p_period_end);
  if coalesce(length(btrim(p_transaction_id)) not between 1 and 255, true) then
    perform private.fail(400, 'invalid_argument', 'A payment has an id of 1 to 255 characters at its provider.',
      '{"param": "transaction_id"}');
  end if;
  if p_credits is not null then
    perform private.require_amount(p_credits, 0.000001);
  end if;
  if p_paid_at > now() then
    perform private.fail(400, 'invalid_argument', 'A payment is recorded after it was made.', '{"param": "paid_at"}');
  end if;
  if p_plan is not null and p_invoice_id is not null then
    perform private.fail(400, 'invalid_argument', 'The invoice says which plan it is for.', '{"param": "plan"}');
  end if;
  if p_plan is null and p_period_start is not null then
    perform private.fail(400, 'invalid_argument', 'A period is that of a plan.', '{"param": "period_start"}');
  end if;
  v_plan := private.recorded_plan(p_plan);
  insert into public.payments (
    user_id, organization_id, account_id, status, amount_minor, currency, description, provider,
    provider_transaction_id, plan_id, period_start, period_end, invoice_id, created_at, processed_at
  ) values (
    case when p_organization_id is null then p_user_id end, p_organization_id, v_account_id, 'succeeded',
    p_amount_minor, p_currency, p_description, p_provider, btrim(p_transaction_id), v_plan.id, p_period_start,
    p_period_end, p_invoice_id, coalesce(p_paid_at, now()), coalesce(p_paid_at, now())
  )
  on conflict (provider, provider_transaction_id) do nothing
  returning * into v_payment;

  if v_payment.id is null then
    select p.* into strict v_payment
    from public.payments as p
    where p.provider = p_provider and p.provider_transaction_id = btrim(p_transaction_id)
    for update;
    -- A time that was left out was the clock's, and a retry comes later.
    if (v_payment.account_id, v_payment.amount_minor, v_payment.currency, v_payment.description, v_payment.plan_id,
        v_payment.period_start, v_payment.period_end, v_payment.invoice_id,
        (select l.amount from public.credit_lots as l where l.id = v_payment.lot_id))
       is distinct from (v_account_id, p_amount_minor, p_currency, p_description, v_plan.id, p_period_start,
         p_period_end, p_invoice_id, p_credits)
       or v_payment.processed_at <> p_paid_at then
      perform private.fail(409, 'idempotency_conflict', 'This payment was already recorded, and otherwise.',
        jsonb_build_object('payment_id', v_payment.id));
    end if;
    return private.payment_summary(v_payment) || '{"replayed": true}';
  end if;

  if p_invoice_id is not null then
    v_invoice := private.invoice_settle(p_invoice_id, v_payment);
  end if;
  if p_credits is not null then
    v_grant := private.credit_grant(
      v_account_id, p_credits, 'purchase', p_provider || ':' || v_payment.provider_transaction_id, null, 100,
      coalesce(p_description, 'Credits bought'), v_payment.provider_transaction_id, p_amount_minor, p_currency,
      jsonb_build_object('payment_id', v_payment.id)
    );
    update public.payments as p
    set lot_id = (v_grant ->> 'lot_id')::uuid
    where p.id = v_payment.id
    returning p.* into v_payment;
  end if;
  -- Somebody who enters the books of years writes to nobody.
  if v_payment.processed_at > now() - make_interval(days => private.setting('alert_days')::integer) then
    perform private.notify(
      v_payment.user_id, v_payment.organization_id, 'receipt',
      jsonb_build_object(
        'amount_minor', p_amount_minor, 'currency', p_currency, 'credits', p_credits,
        'description', coalesce(p_description, v_invoice.number, v_plan.name)
      ),
      v_payment.id::text
    );
  end if;
  perform private.record_operator_action(
    p_actor, 'payment_record', v_payment.id::text, jsonb_build_object('account', v_before),
    private.payment_summary(v_payment), p_reason
  );
  return private.payment_summary(v_payment) || '{"replayed": false}';
end
$$;

comment on function backend.payment_record(
  uuid, uuid, text, text, bigint, text, numeric, text, timestamptz, text, timestamptz, timestamptz, uuid, text, text
) is 'An operator records a payment that did not come through Stripe, once per provider and transaction id, with the recorded invoice or the plan it paid and the credits it bought, if any; sends a receipt, leaves an audit row. 409 idempotency_conflict when it was recorded otherwise, amount_mismatch for more than the invoice asks.';

create function backend.payment_refund_record(
  p_payment_id uuid, p_amount_refunded_minor bigint, p_reason text default null, p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_payment public.payments;
  v_before jsonb;
begin
  -- The owner before the payment, as their erasure locks them.
  select p.* into v_payment from public.payments as p where p.id = p_payment_id;
  perform p.id from public.profiles as p where p.id = v_payment.user_id for no key update;
  perform o.id from public.organizations as o where o.id = v_payment.organization_id for no key update;
  select p.* into v_payment from public.payments as p where p.id = p_payment_id for update;
  if v_payment.id is null then
    perform private.fail(404, 'payment_not_found', 'There is no such payment.');
  end if;
  if v_payment.provider = 'stripe' then
    perform private.fail(409, 'payment_is_stripes', 'A payment through Stripe is refunded at Stripe, which tells of it.');
  end if;
  if coalesce(p_amount_refunded_minor not between 0 and v_payment.amount_minor, true) then
    perform private.fail(400, 'invalid_argument', 'Between nothing and all of a payment is given back.',
      jsonb_build_object('param', 'amount_refunded_minor', 'amount_minor', v_payment.amount_minor));
  end if;
  if p_amount_refunded_minor = v_payment.amount_refunded_minor then
    return private.payment_summary(v_payment) || '{"replayed": true}';
  end if;
  v_before := private.payment_summary(v_payment);
  update public.payments as p
  set amount_refunded_minor = p_amount_refunded_minor,
    status = case p_amount_refunded_minor
      when 0 then 'succeeded'
      when p.amount_minor then 'refunded'
      else 'partially_refunded'
    end
  where p.id = p_payment_id
  returning p.* into v_payment;
  if v_payment.lot_id is not null then
    perform private.claw_back_share(
      v_payment.lot_id, v_payment.amount_minor, v_payment.amount_refunded_minor, 0, v_payment.provider_transaction_id
    );
  end if;
  perform private.record_operator_action(
    p_actor, 'payment_refund_record', v_payment.id::text, v_before, private.payment_summary(v_payment), p_reason
  );
  return private.payment_summary(v_payment) || '{"replayed": false}';
end
$$;

comment on function backend.payment_refund_record(uuid, bigint, text, text) is
'An operator records how much of a recorded payment was given back in all, and its share of the credits is taken back (or returned, when it is less than before); leaves an audit row. 409 payment_is_stripes for one through Stripe.';

grant execute on function
backend.invoice_record(
  uuid, uuid, text, text, bigint, text, bigint, text, timestamptz, timestamptz, timestamptz, timestamptz, text, text,
  text
),
backend.payment_record(
  uuid, uuid, text, text, bigint, text, numeric, text, timestamptz, text, timestamptz, timestamptz, uuid, text, text
),
backend.payment_refund_record(uuid, bigint, text, text)
to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- Reconciliation: Stripe's recent events and objects, page by page, beside what is known of them here
--
-- Comparing changes nothing. What a handler would do is tried in a subtransaction that is always undone, its locks
-- with it, so that a page of objects is never held together; repairs are made one by one, by reading.
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
('reconcile_days', '3', 'Days back that the daily comparison with Stripe looks at what was made there.'),
('reconcile_report_days', '400', 'Days that the report of a comparison with Stripe is kept.');

create table private.stripe_reconciliations (
  id uuid primary key default private.uuid7(),
  since timestamptz not null,
  status text not null default 'running',
  object_type text,
  cursor text,
  compared bigint not null default 0,
  missing integer not null default 0,
  differing integer not null default 0,
  unapplied integer not null default 0,
  repaired integer not null default 0,
  skipped integer not null default 0,
  failed integer not null default 0,
  findings jsonb not null default '[]',
  started_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint status_is_known check (status in ('running', 'completed', 'abandoned')),
  constraint a_running_one_is_unfinished check ((status = 'running') = (finished_at is null)),
  constraint a_running_one_is_at_something check (status <> 'running' or object_type is not null),
  constraint counts_are_not_negative
  check (least(compared, missing, differing, unapplied, repaired, skipped, failed) >= 0),
  constraint findings_are_a_bounded_list
  check (jsonb_typeof(findings) = 'array' and jsonb_array_length(findings) <= 200)
);

comment on table private.stripe_reconciliations is 'Runs that compare what Stripe has with what is known of it here: where each stands and what it found.';
comment on column private.stripe_reconciliations.id is 'Identifies the run.';
comment on column private.stripe_reconciliations.since is 'It looks at what was made at Stripe from then on.';
comment on column private.stripe_reconciliations.status is 'running, then completed; abandoned when it did not end within a day.';
comment on column private.stripe_reconciliations.object_type is 'Type of the objects at work; event for events.';
comment on column private.stripe_reconciliations.cursor is 'Last object of the last page that was done; null at the start of a type.';
comment on column private.stripe_reconciliations.compared is 'Events and objects that were compared.';
comment on column private.stripe_reconciliations.missing is 'Those that were unknown here.';
comment on column private.stripe_reconciliations.differing is 'Those that were known in another state.';
comment on column private.stripe_reconciliations.unapplied is 'Those that were known, but not all of what follows from them.';
comment on column private.stripe_reconciliations.repaired is 'Findings that were repaired.';
comment on column private.stripe_reconciliations.skipped is 'Findings that turned out to be of no interest, or that an event repaired meanwhile.';
comment on column private.stripe_reconciliations.failed is 'Findings that could not be repaired.';
comment on column private.stripe_reconciliations.findings is 'The first 200 findings: type, id, finding, outcome, error.';
comment on column private.stripe_reconciliations.started_at is 'When it began.';
comment on column private.stripe_reconciliations.updated_at is 'When the last page was done.';
comment on column private.stripe_reconciliations.finished_at is 'When it ended.';

create unique index stripe_reconciliations_run_one_at_a_time
on private.stripe_reconciliations ((true)) where status = 'running';

alter table private.stripe_reconciliations enable row level security;

create trigger stripe_reconciliations_touch before update on private.stripe_reconciliations
for each row execute function private.touch_updated_at();

create function private.stripe_essence(p_object jsonb) returns jsonb
language sql immutable parallel safe set search_path = ''
as $$
  select jsonb_strip_nulls(case p_object ->> 'object'
    when 'checkout.session' then jsonb_build_object(
      'status', p_object -> 'status', 'payment_status', p_object -> 'payment_status',
      'amount_total', p_object -> 'amount_total', 'currency', p_object -> 'currency',
      'payment_intent', private.stripe_id(p_object -> 'payment_intent'),
      'subscription', private.stripe_id(p_object -> 'subscription')
    )
    when 'payment_intent' then jsonb_build_object(
      'status', p_object -> 'status', 'amount', p_object -> 'amount', 'currency', p_object -> 'currency',
      'customer', private.stripe_id(p_object -> 'customer'),
      'payment_method', private.stripe_id(p_object -> 'payment_method'),
      'error', p_object #> '{last_payment_error,code}', 'decline', p_object #> '{last_payment_error,decline_code}'
    )
    when 'charge' then jsonb_build_object(
      'status', p_object -> 'status', 'amount_refunded', p_object -> 'amount_refunded',
      'payment_intent', private.stripe_id(p_object -> 'payment_intent')
    )
    when 'dispute' then jsonb_build_object(
      'status', p_object -> 'status', 'amount', p_object -> 'amount', 'currency', p_object -> 'currency',
      'payment_intent', private.stripe_id(p_object -> 'payment_intent')
    )
    when 'invoice_payment' then jsonb_build_object(
      'status', p_object -> 'status', 'invoice', private.stripe_id(p_object -> 'invoice'),
      'payment_intent', private.stripe_id(p_object #> '{payment,payment_intent}')
    )
    when 'invoice' then jsonb_build_object(
      'status', p_object -> 'status', 'number', p_object -> 'number', 'subtotal', p_object -> 'subtotal',
      'total', p_object -> 'total', 'amount_due', p_object -> 'amount_due', 'amount_paid', p_object -> 'amount_paid',
      'amount_remaining', p_object -> 'amount_remaining', 'due_date', p_object -> 'due_date',
      'attempt_count', p_object -> 'attempt_count', 'next_payment_attempt', p_object -> 'next_payment_attempt',
      'paid_at', p_object #> '{status_transitions,paid_at}'
    )
    when 'subscription' then jsonb_build_object(
      'status', p_object -> 'status', 'cancel_at', p_object -> 'cancel_at',
      'cancel_at_period_end', p_object -> 'cancel_at_period_end', 'canceled_at', p_object -> 'canceled_at',
      'ended_at', p_object -> 'ended_at', 'trial_end', p_object -> 'trial_end',
      'pause', p_object #> '{pause_collection,behavior}', 'resumes_at', p_object #> '{pause_collection,resumes_at}',
      'paid_plan', p_object #> '{metadata,quernel_paid_plan}',
      'paid_until', p_object #> '{metadata,quernel_paid_until}',
      'items', (
        select jsonb_agg(jsonb_build_object(
          'id', i.value -> 'id', 'price', private.stripe_id(i.value -> 'price'),
          'start', i.value -> 'current_period_start', 'end', i.value -> 'current_period_end'
        ) order by i.value ->> 'id')
        from jsonb_array_elements(p_object #> '{items,data}') as i (value)
      )
    )
    else '{}'
  end)
$$;

comment on function private.stripe_essence(jsonb) is
'What of an object is compared: what handlers read, without what Stripe expands only sometimes or changes without meaning.';

create function private.stripe_is_told(p_object jsonb) returns boolean
language sql immutable parallel safe set search_path = ''
as $$
  select case p_object ->> 'object'
    when 'checkout.session' then p_object ->> 'status' <> 'open'
    when 'charge' then (p_object ->> 'amount_refunded')::bigint > 0
    when 'invoice_payment' then p_object ->> 'status' = 'paid'
    when 'payment_intent' then p_object ->> 'status' in ('processing', 'succeeded', 'canceled')
      or jsonb_typeof(p_object -> 'last_payment_error') = 'object'
    else true
  end
$$;

comment on function private.stripe_is_told(jsonb) is
'Whether an event that is handled has told of an object: one that is open, or unpaid, or not refunded may be unknown here.';

create function private.stripe_effect(p_object jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id text := p_object ->> 'id';
  v_payment_id text := case
    when p_object ->> 'object' = 'payment_intent' then v_id
    else private.stripe_id(coalesce(
      nullif(p_object -> 'payment_intent', 'null'), p_object #> '{payment,payment_intent}'
    ))
  end;
  v_invoice_id text := case
    when p_object ->> 'object' = 'invoice' then v_id
    when p_object ->> 'object' = 'invoice_payment' then private.stripe_id(p_object -> 'invoice')
  end;
  v_rows jsonb;
begin
  select coalesce(jsonb_agg(r.value - 'updated_at' order by r.value ->> 'id'), '[]') into v_rows
  from (
    select to_jsonb(s) as value from public.subscriptions as s where s.stripe_subscription_id = v_id
    union all
    select to_jsonb(i) from public.invoices as i where i.stripe_invoice_id = v_invoice_id
    union all
    select to_jsonb(p)
    from public.payments as p
    where p.provider = 'stripe' and p.provider_transaction_id = v_payment_id
    union all
    select to_jsonb(c)
    from public.credit_purchases as c
    where c.stripe_payment_intent_id = v_payment_id or c.stripe_checkout_session_id = v_id
  ) as r;
  return jsonb_build_object('rows', v_rows, 'versions', (
    select jsonb_agg(a.version order by a.id)
    from public.credit_accounts as a
    where a.id in (
      select c.account_id
      from private.stripe_customers as c
      where c.customer_id = private.stripe_id(p_object -> 'customer')
      union
      select (r.value ->> 'account_id')::uuid from jsonb_array_elements(v_rows) as r (value)
    )
  ));
end
$$;

comment on function private.stripe_effect(jsonb) is
'What has followed from an object: its rows, and the place in the ledger of the accounts they belong to.';

create function private.stripe_is_unapplied(p_object private.stripe_objects) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_handler text;
  v_before jsonb;
  v_after jsonb;
begin
  select h.handler into strict v_handler from private.stripe_object_handlers as h where h.object_type = p_object.type;
  begin
    perform private.stripe_lock_object(p_object.type, p_object.id);
    v_before := private.stripe_effect(p_object.state);
    execute format('select private.%I($1, $2)', v_handler) using 'read', p_object.state;
    v_after := private.stripe_effect(p_object.state);
    raise exception using errcode = 'QR000', message = 'undone';
  exception
    when sqlstate 'QR000' then
      return v_after <> v_before;
    -- What cannot be applied has not been.
    when others then
      return true;
  end;
end
$$;

comment on function private.stripe_is_unapplied(private.stripe_objects) is
'Whether applying the known state of an object again would change anything; nothing is changed, and no lock stays.';

create function private.stripe_finding(p_object jsonb, p_livemode boolean) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_customer_id text := private.stripe_id(p_object -> 'customer');
  v_object private.stripe_objects;
  v_status text;
begin
  if p_object ->> 'object' = 'event' then
    if (p_object ->> 'livemode')::boolean is distinct from p_livemode
       or not exists (select from private.stripe_event_types as t where t.event_type = p_object ->> 'type') then
      return null;
    end if;
    select e.status into v_status from private.stripe_events as e where e.id = p_object ->> 'id';
    return case when v_status is null then 'missing' when v_status not in ('applied', 'ignored') then 'unapplied' end;
  end if;
  -- Others may sell through the same account at Stripe.
  if v_customer_id is not null
     and not exists (select from private.stripe_customers as c where c.customer_id = v_customer_id) then
    return null;
  end if;
  select o.* into v_object from private.stripe_objects as o where o.id = p_object ->> 'id';
  if v_object.state is null then
    return case when private.stripe_is_told(p_object) then 'missing' end;
  elsif private.stripe_essence(v_object.state) <> private.stripe_essence(p_object) then
    return 'differing';
  elsif private.stripe_is_unapplied(v_object) then
    return 'unapplied';
  end if;
  return null;
end
$$;

comment on function private.stripe_finding(jsonb, boolean) is
'What is wrong with what is known here of an event or object at Stripe: missing, differing, unapplied, or null for nothing.';

create function private.stripe_reconciliation_json(p_run private.stripe_reconciliations) returns jsonb
language sql immutable set search_path = ''
as $$
  select to_jsonb(p_run) || jsonb_build_object('since_unix', floor(extract(epoch from p_run.since))::bigint)
$$;

comment on function private.stripe_reconciliation_json(private.stripe_reconciliations) is
'A run as it is reported; since_unix is `since` as Stripe writes times.';

create function backend.stripe_reconcile_start(p_object_type text, p_days integer default null) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_days integer := coalesce(p_days, private.setting('reconcile_days')::integer);
  v_run private.stripe_reconciliations;
begin
  if v_days not between 1 and 3650 then
    perform private.fail(400, 'invalid_argument', 'The number of days must be between 1 and 3650.', '{"param": "days"}');
  end if;
  -- What a page begins after may be gone at Stripe; then a run cannot go on, and the next one begins anew.
  update private.stripe_reconciliations as r
  set status = 'abandoned', finished_at = now()
  where r.status = 'running' and r.updated_at < now() - interval '1 day';
  insert into private.stripe_reconciliations (since, object_type)
  values (now() - make_interval(days => v_days), p_object_type)
  on conflict ((true)) where status = 'running' do nothing
  returning * into v_run;
  if v_run.id is null then
    select r.* into strict v_run from private.stripe_reconciliations as r where r.status = 'running';
  else
    delete from private.stripe_reconciliations as r
    where r.finished_at < now() - make_interval(days => private.setting('reconcile_report_days')::integer);
  end if;
  return private.stripe_reconciliation_json(v_run);
end
$$;

comment on function backend.stripe_reconcile_start(text, integer) is
'The run that is under way, or a new one over so many days that begins with this type; then reports past reconcile_report_days are deleted.';

create function backend.stripe_reconcile_compare(p_objects jsonb, p_livemode boolean) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_object jsonb;
  v_finding text;
  v_findings jsonb := '[]';
begin
  if jsonb_typeof(p_objects) is distinct from 'array' or jsonb_array_length(p_objects) > 100 then
    perform private.fail(400, 'invalid_argument', 'At most 100 objects are compared at once.', '{"param": "objects"}');
  end if;
  for v_object in
    select o.value from jsonb_array_elements(p_objects) as o (value)
  loop
    v_finding := private.stripe_finding(v_object, p_livemode);
    if v_finding is not null then
      v_findings := v_findings || jsonb_build_object(
        'type', v_object ->> 'object', 'id', v_object ->> 'id', 'finding', v_finding
      );
    end if;
  end loop;
  return v_findings;
end
$$;

comment on function backend.stripe_reconcile_compare(jsonb, boolean) is
'Compares a page of events or objects of Stripe with what is known here: a list of {type, id, finding}. Changes nothing.';

create function backend.stripe_reconcile_note(
  p_run_id uuid,
  p_object_type text,
  p_cursor text,
  p_next_type text,
  p_next_cursor text,
  p_compared integer,
  p_findings jsonb
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_run private.stripe_reconciliations;
begin
  select r.* into v_run from private.stripe_reconciliations as r where r.id = p_run_id for update;
  if v_run.id is null or v_run.status <> 'running'
     or (v_run.object_type, v_run.cursor) is distinct from (p_object_type, p_cursor) then
    perform private.fail(409, 'reconciliation_moved', 'Another worker goes on with this run.');
  end if;
  update private.stripe_reconciliations as r
  set object_type = p_next_type,
    cursor = p_next_cursor,
    status = case when p_next_type is null then 'completed' else 'running' end,
    finished_at = case when p_next_type is null then now() end,
    compared = r.compared + p_compared,
    missing = r.missing + f.missing,
    differing = r.differing + f.differing,
    unapplied = r.unapplied + f.unapplied,
    repaired = r.repaired + f.repaired,
    skipped = r.skipped + f.skipped,
    failed = r.failed + f.failed,
    findings = jsonb_path_query_array(r.findings || p_findings, '$[0 to 199]')
  from (
    select
      count(*) filter (where e.value ->> 'finding' = 'missing') as missing,
      count(*) filter (where e.value ->> 'finding' = 'differing') as differing,
      count(*) filter (where e.value ->> 'finding' = 'unapplied') as unapplied,
      count(*) filter (where e.value ->> 'outcome' = 'repaired') as repaired,
      count(*) filter (where e.value ->> 'outcome' = 'skipped') as skipped,
      count(*) filter (where e.value ->> 'outcome' = 'failed') as failed
    from jsonb_array_elements(p_findings) as e (value)
  ) as f
  where r.id = p_run_id
  returning r.* into v_run;
  return private.stripe_reconciliation_json(v_run);
end
$$;

comment on function backend.stripe_reconcile_note(uuid, text, text, text, text, integer, jsonb) is
'Notes that a page is done and where the next one begins; without a next type the run is completed. 409 reconciliation_moved when another worker was faster.';

create function backend.stripe_reconcile_enqueue() returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.task_enqueue('stripe_reconcile', '{}', 'stripe_reconcile');
  return jsonb_build_object('count', 1);
end
$$;

comment on function backend.stripe_reconcile_enqueue() is 'Asks a worker to compare with Stripe; at most one such task waits.';

grant execute on function
backend.stripe_reconcile_start(text, integer),
backend.stripe_reconcile_compare(jsonb, boolean),
backend.stripe_reconcile_note(uuid, text, text, text, text, integer, jsonb),
backend.stripe_reconcile_enqueue()
to service_role;
