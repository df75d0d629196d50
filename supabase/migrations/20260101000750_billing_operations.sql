-- Billing, last chapter: what operators do, and keeping in step with Stripe.
--
--   backend.payment_record …         money that came by another way than Stripe, with or without credits for it
--   private.stripe_reconciliations   the runs that compare Stripe's recent objects with what is known of them here
--
-- What an operator does leaves a row of private.operator_actions: who, what, before, after.

-- ---------------------------------------------------------------------------------------------------------------
-- Payments that an operator records
-- ---------------------------------------------------------------------------------------------------------------

create function private.payment_summary(p_payment public.payments) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'payment_id', p_payment.id, 'status', p_payment.status, 'provider', p_payment.provider,
    'transaction_id', p_payment.provider_transaction_id, 'amount_minor', p_payment.amount_minor,
    'amount_refunded_minor', p_payment.amount_refunded_minor, 'currency', p_payment.currency,
    'lot_id', p_payment.lot_id,
    'credits', (select l.amount from public.credit_lots as l where l.id = p_payment.lot_id),
    'account', private.account_summary(p_payment.account_id)
  )
$$;

comment on function private.payment_summary(public.payments) is
'A recorded payment as operators see it, with the credits it bought and the account they went to.';

create function private.require_recordable(
  p_provider text,
  p_transaction_id text,
  p_amount_minor bigint,
  p_currency text,
  p_credits numeric,
  p_paid_at timestamptz
) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_provider is null or p_provider not in ('paypal', 'wise', 'manual') then
    perform private.fail(400, 'invalid_argument',
      'An operator records payments by paypal, wise or manual; those of Stripe come from its events.',
      '{"param": "provider"}');
  end if;
  if coalesce(length(btrim(p_transaction_id)) not between 1 and 255, true) then
    perform private.fail(400, 'invalid_argument', 'A payment has an id of 1 to 255 characters at its provider.',
      '{"param": "transaction_id"}');
  end if;
  if coalesce(p_amount_minor <= 0, true) then
    perform private.fail(400, 'invalid_argument', 'A payment is of more than nothing.', '{"param": "amount_minor"}');
  end if;
  if not exists (select from public.plans as p where p.currency = p_currency)
     and not exists (select from public.credit_packs as c where c.currency = p_currency) then
    perform private.fail(400, 'invalid_argument', 'Nothing is sold in this currency.', '{"param": "currency"}');
  end if;
  if p_credits is not null then
    perform private.require_amount(p_credits, 0.000001);
  end if;
  if p_paid_at > now() then
    perform private.fail(400, 'invalid_argument', 'A payment is recorded after it was made.', '{"param": "paid_at"}');
  end if;
end
$$;

comment on function private.require_recordable(text, text, bigint, text, numeric, timestamptz) is
'Refuses what is no payment that an operator can record: 400 invalid_argument or invalid_amount.';

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
  p_reason text default null,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, p_organization_id);
  v_before jsonb := private.account_summary(v_account_id);
  v_payment public.payments;
  v_grant jsonb;
begin
  perform private.require_recordable(
    p_provider, p_transaction_id, p_amount_minor, p_currency, p_credits, p_paid_at
  );
  insert into public.payments (
    user_id, organization_id, account_id, status, amount_minor, currency, description, provider,
    provider_transaction_id, created_at, processed_at
  ) values (
    case when p_organization_id is null then p_user_id end, p_organization_id, v_account_id, 'succeeded',
    p_amount_minor, p_currency, p_description, p_provider, btrim(p_transaction_id), coalesce(p_paid_at, now()),
    coalesce(p_paid_at, now())
  )
  on conflict (provider, provider_transaction_id) do nothing
  returning * into v_payment;

  if v_payment.id is null then
    select p.* into strict v_payment
    from public.payments as p
    where p.provider = p_provider and p.provider_transaction_id = btrim(p_transaction_id)
    for update;
    -- A time that was left out was the clock's, and a retry comes later.
    if (v_payment.account_id, v_payment.amount_minor, v_payment.currency, v_payment.description,
        (select l.amount from public.credit_lots as l where l.id = v_payment.lot_id))
       is distinct from (v_account_id, p_amount_minor, p_currency, p_description, p_credits)
       or v_payment.processed_at <> p_paid_at then
      perform private.fail(409, 'idempotency_conflict', 'This payment was already recorded, and otherwise.',
        jsonb_build_object('payment_id', v_payment.id));
    end if;
    return private.payment_summary(v_payment) || '{"replayed": true}';
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
  perform private.record_operator_action(
    p_actor, 'payment_record', v_payment.id::text, jsonb_build_object('account', v_before),
    private.payment_summary(v_payment), p_reason
  );
  return private.payment_summary(v_payment) || '{"replayed": false}';
end
$$;

comment on function backend.payment_record(
  uuid, uuid, text, text, bigint, text, numeric, text, timestamptz, text, text
) is 'An operator records a payment that did not come through Stripe, once per provider and transaction id, with the credits it bought, if any; leaves an audit row. 409 idempotency_conflict when it was recorded otherwise.';

create function backend.payment_refund_record(
  p_payment_id uuid, p_amount_refunded_minor bigint, p_reason text default null, p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_payment public.payments;
  v_before jsonb;
begin
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
backend.payment_record(uuid, uuid, text, text, bigint, text, numeric, text, timestamptz, text, text),
backend.payment_refund_record(uuid, bigint, text, text)
to service_role;
