-- Billing, automatic top-up: a pack is bought when an account's credits fall under a threshold, with the
-- default payment method of an owner who is not there.
--
--   auto_top_ups  what an owner asked for: under which threshold which pack, how many a day
--
-- credit_accounts.top_up_below repeats the threshold of those that are on, so that a settlement compares two numbers of
-- the row it writes and reads nothing. Who falls under it gets a task (auto_top_up, one per account); a cron step finds
-- those that were missed. The task asks backend.top_up_start, which decides under the owner's lock and opens a
-- credit_purchases row; Stripe is asked under a key derived from that row, so whatever is repeated charges once. The
-- newest state of the payment intent decides what becomes of it, whether Stripe's answer or its event brings it.
--
-- Locks: as billing's first chapter says; auto_top_ups rows change only under their owner's lock. The account's lock
-- comes before the task's row, and nobody waits for a task that is already there.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.auto_top_ups (
  account_id uuid primary key references public.credit_accounts (id),
  user_id uuid unique references public.profiles (id) on delete cascade,
  organization_id uuid unique references public.organizations (id) on delete cascade,
  pack_id uuid not null references public.credit_packs (id),
  threshold numeric(20, 6) not null,
  max_per_day integer not null,
  is_enabled boolean not null default true,
  failures integer not null default 0,
  paused_until timestamptz,
  last_attempt_at timestamptz,
  last_failure_code text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint an_automatic_top_up_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint threshold_is_a_sensible_number_of_credits check (threshold > 0 and threshold <= 10000000),
  constraint max_per_day_is_between_1_and_20 check (max_per_day between 1 and 20),
  constraint failures_are_not_negative check (failures >= 0),
  constraint a_pause_follows_a_failure check (paused_until is null or failures > 0)
);

comment on table public.auto_top_ups is 'Automatic top-ups: what an owner buys when their credits fall under a threshold.';
comment on column public.auto_top_ups.account_id is 'The credit account that is topped up.';
comment on column public.auto_top_ups.user_id is 'The user who pays; null for an organization''s.';
comment on column public.auto_top_ups.organization_id is 'The organization that pays; null for a user''s.';
comment on column public.auto_top_ups.pack_id is 'The pack that is bought, at its price of the day.';
comment on column public.auto_top_ups.threshold is 'Credits available under which it is bought.';
comment on column public.auto_top_ups.max_per_day is 'Most automatic purchases in any 24 hours; those that were declined do not count.';
comment on column public.auto_top_ups.is_enabled is 'Whether it is on; five declined payments in a row, one that the owner must confirm, and money given back switch it off.';
comment on column public.auto_top_ups.failures is 'Payments declined in a row.';
comment on column public.auto_top_ups.paused_until is 'No payment is tried before this; null without a declined one.';
comment on column public.auto_top_ups.last_attempt_at is 'When the last payment was begun.';
comment on column public.auto_top_ups.last_failure_code is 'Why the last payment failed, in Stripe''s words, or payment_refunded or payment_disputed; null once one went through.';
comment on column public.auto_top_ups.created_at is 'When it was first set up.';
comment on column public.auto_top_ups.updated_at is 'When anything in the row last changed.';

create index auto_top_ups_by_pack on public.auto_top_ups (pack_id);

alter table public.credit_accounts
add column top_up_below numeric(20, 6),
add constraint top_up_threshold_is_positive check (top_up_below > 0);

comment on column public.credit_accounts.top_up_below is 'Credits available under which an automatic top-up is asked for; null for none. Kept by a trigger on auto_top_ups.';

alter table public.credit_purchases
add column is_automatic boolean not null default false,
add column stripe_payment_method_id text,
add column asked_at timestamptz,
add constraint an_automatic_purchase_was_asked_for check (is_automatic = (asked_at is not null)),
add constraint only_an_automatic_purchase_has_its_payment_method
check (is_automatic = (stripe_payment_method_id is not null)),
add constraint an_automatic_purchase_has_no_checkout check (not is_automatic or stripe_checkout_session_id is null);

comment on column public.credit_purchases.is_automatic is 'Whether an automatic top-up bought it, without a checkout.';
comment on column public.credit_purchases.stripe_payment_method_id is 'What an automatic purchase is paid with, at Stripe: the same for every attempt. Null for a checkout.';

comment on column public.credit_purchases.asked_at is 'When a worker last set out to ask Stripe for an automatic purchase: for an hour its answer may be on the way. Null for a checkout.';

create index credit_purchases_automatic on public.credit_purchases (account_id, created_at) where is_automatic;

insert into private.settings (name, value, description) values
(
  'auto_top_up_delay_seconds', '10',
  'Seconds between falling under a threshold and the automatic top-up: work in flight may return what it held.'
),
(
  'auto_top_up_declines_per_day', '5',
  'Declined automatic purchases of an account in 24 hours after which none is tried, whatever the payment method.'
);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: owners read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.auto_top_ups to authenticated, service_role;

alter table public.auto_top_ups enable row level security;

create policy "Customers and organization admins read their automatic top-ups"
on public.auto_top_ups for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Noticing
-- ---------------------------------------------------------------------------------------------------------------

create function private.ask_top_up(p_account_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- The caller has the account's lock. Looked up first: a worker that claims the task may be waiting for that lock.
  if exists (
    select from private.tasks as t
    where t.kind = 'auto_top_up' and t.key = p_account_id::text and t.status in ('queued', 'running')
  ) then
    return;
  end if;
  perform private.task_enqueue(
    'auto_top_up', jsonb_build_object('account_id', p_account_id), p_account_id::text,
    now() + make_interval(secs => coalesce(private.setting('auto_top_up_delay_seconds')::integer, 0))
  );
end
$$;

comment on function private.ask_top_up(uuid) is
'Asks for a look at whether an account is to be topped up, unless one was asked for. The caller has locked the account.';

create function private.notice_low_credits() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.ask_top_up(new.id);
  return null;
exception when others then
  -- What was worked is charged whatever happens here; the cron step finds the account.
  raise warning 'no automatic top-up was asked for account %: % %', new.id, sqlstate, sqlerrm;
  return null;
end
$$;

comment on function private.notice_low_credits() is
'Trigger: an account that falls under its threshold asks for a top-up. Its errors are warnings.';

create trigger credit_accounts_ask_for_a_top_up
after update of balance, held on public.credit_accounts
for each row when (
  new.balance - new.held < new.top_up_below and old.balance - old.held >= new.top_up_below
)
execute function private.notice_low_credits();

create trigger auto_top_ups_touch before update on public.auto_top_ups
for each row execute function private.touch_updated_at();

create function private.keep_top_up_threshold() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_account_id uuid := case when tg_op = 'DELETE' then old.account_id else new.account_id end;
  v_threshold numeric := case when tg_op <> 'DELETE' and new.is_enabled then new.threshold end;
begin
  update public.credit_accounts as a
  set top_up_below = v_threshold
  where a.id = v_account_id and a.top_up_below is distinct from v_threshold;
  return null;
end
$$;

comment on function private.keep_top_up_threshold() is
'Trigger: credit_accounts.top_up_below is the threshold of an automatic top-up that is on, else null.';

create trigger auto_top_ups_keep_the_threshold
after insert or delete or update of threshold, is_enabled on public.auto_top_ups
for each row execute function private.keep_top_up_threshold();

-- ---------------------------------------------------------------------------------------------------------------
-- Setting it up
-- ---------------------------------------------------------------------------------------------------------------

create function private.default_payment_method_id(p_account_id uuid) returns text
language sql stable security definer set search_path = ''
as $$
  select m.provider_method_id
  from private.stripe_customers as c
  inner join public.payment_methods as m on m.user_id = c.user_id or m.organization_id = c.organization_id
  where c.account_id = p_account_id and c.deleted_at is null
    and m.is_default and m.provider = 'stripe' and m.stripe_customer_id = c.customer_id
$$;

comment on function private.default_payment_method_id(uuid) is
'What the owner of an account pays with at Stripe unless they choose; null for nothing.';

create function private.set_my_auto_top_up(
  p_threshold numeric, p_pack text, p_max_per_day integer, p_is_enabled boolean, p_organization_id uuid
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
  v_organization_id uuid := private.lock_buyer(v_user_id, p_organization_id::text);
  v_account_id uuid := private.account_id(v_user_id, v_organization_id);
  v_pack public.credit_packs;
  v_top_up public.auto_top_ups;
  v_is_as_before boolean;
begin
  if p_threshold is null or p_threshold <> round(p_threshold, 6) or p_threshold <= 0 or p_threshold > 10000000 then
    perform private.fail(400, 'invalid_argument', 'A threshold is a number of credits up to 10,000,000.',
      '{"param": "threshold"}');
  end if;
  if p_max_per_day is null or p_max_per_day not between 1 and 20 then
    perform private.fail(400, 'invalid_argument', 'Between 1 and 20 automatic purchases a day are possible.',
      '{"param": "max_per_day"}');
  end if;
  if p_is_enabled is null then
    perform private.fail(400, 'invalid_argument', 'Say whether it is on.', '{"param": "is_enabled"}');
  end if;
  select k.* into v_pack from public.credit_packs as k where k.slug = p_pack and k.is_active;
  if v_pack.id is null then
    perform private.fail(404, 'pack_not_found', 'There is no such credit pack on sale.', '{"param": "pack"}');
  end if;
  if p_is_enabled and private.default_payment_method_id(v_account_id) is null then
    perform private.fail(409, 'payment_method_required', 'An automatic top-up needs a payment method.',
      '{"remedy": "add_payment_method"}');
  end if;
  -- What was declined is declined again: only another payment method is worth another try at once.
  v_is_as_before := coalesce(private.default_payment_method_id(v_account_id) = (
    select c.stripe_payment_method_id
    from public.credit_purchases as c
    where c.account_id = v_account_id and c.is_automatic
    order by c.id desc
    limit 1
  ), false);
  insert into public.auto_top_ups as t (
    account_id, user_id, organization_id, pack_id, threshold, max_per_day, is_enabled
  ) values (
    v_account_id, case when v_organization_id is null then v_user_id end, v_organization_id, v_pack.id, p_threshold,
    p_max_per_day, p_is_enabled
  )
  on conflict (account_id) do update
  set pack_id = excluded.pack_id, threshold = excluded.threshold, max_per_day = excluded.max_per_day,
    is_enabled = excluded.is_enabled,
    failures = case when excluded.is_enabled and not v_is_as_before then 0 else t.failures end,
    paused_until = case when not excluded.is_enabled or v_is_as_before then t.paused_until end,
    last_failure_code = case
      when not excluded.is_enabled or (v_is_as_before and t.failures > 0) then t.last_failure_code
    end
  returning t.* into v_top_up;
  -- Who is under the threshold already does not fall under it any more.
  perform a.id
  from public.credit_accounts as a
  where a.id = v_account_id
  for no key update;
  if exists (
    select from public.credit_accounts as a where a.id = v_account_id and a.balance - a.held < a.top_up_below
  ) then
    perform private.ask_top_up(v_account_id);
  end if;
  return to_jsonb(v_top_up) || jsonb_build_object('pack', v_pack.slug);
end
$$;

comment on function private.set_my_auto_top_up(numeric, text, integer, boolean, uuid) is
'Sets up the automatic top-up of the caller, or of an organization they administer (403 not_an_admin). 409 payment_method_required; switching it on with another payment method forgets earlier failures.';

create function public.set_auto_top_up(
  p_threshold numeric,
  p_pack text,
  p_max_per_day integer default 1,
  p_is_enabled boolean default true,
  p_organization_id uuid default null
) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.set_my_auto_top_up(p_threshold, p_pack, p_max_per_day, p_is_enabled, p_organization_id) $$;

comment on function public.set_auto_top_up(numeric, text, integer, boolean, uuid) is
'Buys a pack whenever your available credits, or those of an organization you administer, fall under a threshold; p_is_enabled false stops it.';

-- ---------------------------------------------------------------------------------------------------------------
-- Buying
-- ---------------------------------------------------------------------------------------------------------------

create function private.top_up_obstacle(p_top_up public.auto_top_ups, p_purchase public.credit_purchases) returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_available numeric;
  v_coming numeric;
  v_today integer;
  v_declined integer;
begin
  select a.balance - a.held into v_available from public.credit_accounts as a where a.id = p_top_up.account_id;
  -- Status pending: the answer, or the money, is on its way.
  select
    coalesce(sum(c.credits) filter (where c.status = 'pending'), 0),
    count(*) filter (where c.created_at > now() - interval '24 hours' and c.status not in ('failed', 'expired')),
    count(*) filter (where c.created_at > now() - interval '24 hours' and c.status = 'failed')
  into v_coming, v_today, v_declined
  from public.credit_purchases as c
  where c.account_id = p_top_up.account_id and c.is_automatic and c.id is distinct from p_purchase.id;
  return case
    when p_top_up.account_id is null then 'not_set_up'
    when not p_top_up.is_enabled then 'switched_off'
    when p_top_up.paused_until > now() then 'paused'
    when not exists (
      select from public.profiles as p where p.id = p_top_up.user_id and p.is_active
      union all
      select from public.organizations as o where o.id = p_top_up.organization_id and o.is_active
    ) then 'suspended'
    when v_available + v_coming >= p_top_up.threshold then 'enough_credits'
    when v_today >= p_top_up.max_per_day then 'enough_for_today'
    -- Nobody finds out here which of many cards are good.
    when v_declined >= private.setting('auto_top_up_declines_per_day')::integer then 'too_many_declines'
    when p_purchase.id is null
      and not exists (select from public.credit_packs as k where k.id = p_top_up.pack_id and k.is_active)
      then 'pack_not_on_sale'
    when p_purchase.id is null and private.default_payment_method_id(p_top_up.account_id) is null
      then 'no_payment_method'
  end;
end
$$;

comment on function private.top_up_obstacle(public.auto_top_ups, public.credit_purchases) is
'Why nothing is to be charged now, for a new purchase or for one that was begun; null when it is to be.';

create function private.top_up_json(p_result text, p_customer_id text, p_purchase public.credit_purchases) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'result', p_result,
    'purchase_id', p_purchase.id,
    'amount_minor', p_purchase.price_minor,
    'currency', p_purchase.currency,
    'customer_id', p_customer_id,
    'payment_method_id', p_purchase.stripe_payment_method_id,
    'description', p_purchase.pack_name,
    'begun_at', p_purchase.created_at
  )
$$;

comment on function private.top_up_json(text, text, public.credit_purchases) is
'What Stripe is to be asked about an automatic purchase.';

create function private.top_ups_give_up(p_account_id uuid) returns void
language sql volatile security definer set search_path = ''
as $$
  update public.credit_purchases as c
  set status = 'expired'
  where c.account_id = p_account_id and c.is_automatic and c.status = 'pending' and c.stripe_payment_intent_id is null
$$;

comment on function private.top_ups_give_up(uuid) is
'Ends the automatic purchases of an account whose customer is gone. Should money of one still come, it is granted all the same.';

create function backend.top_up_start(p_account_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  -- Stripe knows a key for 24 hours at least: what is older is looked up, never charged.
  c_key_lifetime constant interval := interval '12 hours';
  -- Nothing is under way any more after so long: the SDK gives up within minutes, and so does a worker.
  c_flight constant interval := interval '1 hour';
  v_customer private.stripe_customers;
  v_top_up public.auto_top_ups;
  v_purchase public.credit_purchases;
  v_obstacle text;
begin
  v_customer := private.lock_billing_owner(
    (select c.customer_id from private.stripe_customers as c where c.account_id = p_account_id and c.deleted_at is null)
  );
  if v_customer.id is null or num_nonnulls(v_customer.user_id, v_customer.organization_id) = 0 then
    -- Erased, or gone at Stripe.
    perform private.top_ups_give_up(p_account_id);
    return jsonb_build_object('result', 'none', 'reason', 'no_customer');
  end if;
  select t.* into v_top_up from public.auto_top_ups as t where t.account_id = p_account_id for update;
  -- One that was begun, and whose answer nobody has heard: it is asked for again before another one begins.
  select c.* into v_purchase
  from public.credit_purchases as c
  where c.account_id = p_account_id and c.is_automatic and c.status = 'pending' and c.stripe_payment_intent_id is null
  order by c.id
  limit 1
  for update;
  v_obstacle := private.top_up_obstacle(v_top_up, v_purchase);
  if v_purchase.id is not null then
    if v_obstacle is null and v_purchase.created_at > now() - c_key_lifetime then
      update public.credit_purchases as c set asked_at = now() where c.id = v_purchase.id;
      return private.top_up_json('charge', v_customer.customer_id, v_purchase);
    elsif v_purchase.asked_at > now() - c_flight then
      -- Not found yet would not mean that nobody pays it.
      return jsonb_build_object('result', 'none', 'reason', 'in_flight');
    end if;
    return private.top_up_json('look_up', v_customer.customer_id, v_purchase);
  end if;
  if v_obstacle is not null then
    return jsonb_build_object('result', 'none', 'reason', v_obstacle);
  end if;
  insert into public.credit_purchases (
    user_id, organization_id, account_id, pack_id, pack_name, credits, price_minor, currency, valid_days, is_automatic,
    stripe_payment_method_id, asked_at
  )
  select v_customer.user_id, v_customer.organization_id, p_account_id, k.id, k.name, k.credits, k.price_minor, k.currency,
    k.valid_days, true, private.default_payment_method_id(p_account_id), now()
  from public.credit_packs as k
  where k.id = v_top_up.pack_id
  returning * into v_purchase;
  update public.auto_top_ups as t set last_attempt_at = now() where t.account_id = p_account_id;
  return private.top_up_json('charge', v_customer.customer_id, v_purchase);
end
$$;

comment on function backend.top_up_start(uuid) is
'Decides whether an account is topped up now: {"result": charge | look_up | none}. charge: a purchase that Stripe is to be asked for, the same one until its answer is known; look_up: one that is not to be charged any more, if it was not yet; none: with the reason, in_flight while an answer may be on the way.';

create function private.top_up_decline(p_purchase_id uuid, p_code text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_purchase public.credit_purchases;
  v_was_enabled boolean;
  v_top_up public.auto_top_ups;
begin
  update public.credit_purchases as c
  set status = 'failed'
  where c.id = p_purchase_id and c.status = 'pending'
  returning c.* into v_purchase;
  if v_purchase.id is null then
    return;
  end if;
  select t.is_enabled into v_was_enabled from public.auto_top_ups as t where t.account_id = v_purchase.account_id;
  -- An hour, four, sixteen, then 64; the fifth decline in a row ends it, and so does one that only the owner can mend.
  update public.auto_top_ups as t
  set failures = t.failures + 1,
    paused_until = now() + interval '1 hour' * power(4, least(t.failures, 3)),
    last_failure_code = left(p_code, 100),
    is_enabled = t.is_enabled and t.failures < 4 and p_code <> 'authentication_required'
  where t.account_id = v_purchase.account_id
  returning t.* into v_top_up;
  -- Told here and not with the payment: Stripe may refuse before there is one, and only here is known what follows.
  perform private.raise_alert(
    v_purchase.user_id, v_purchase.organization_id, 'payment_failed', v_purchase.id::text, null, v_purchase.price_minor,
    jsonb_strip_nulls(jsonb_build_object(
      'reason', case when v_was_enabled and not v_top_up.is_enabled then 'top_up_switched_off' else 'top_up' end,
      'purchase_id', v_purchase.id,
      'pack', (select k.name from public.credit_packs as k where k.id = v_purchase.pack_id),
      'amount_minor', v_purchase.price_minor, 'currency', v_purchase.currency, 'failure_code', left(p_code, 100),
      'payment_id', (select p.id from public.payments as p where p.purchase_id = v_purchase.id order by p.id desc limit 1),
      'next_attempt_at', case when v_top_up.is_enabled then private.utc_text(v_top_up.paused_until) end,
      'switched_off_at', case when v_was_enabled and not v_top_up.is_enabled then private.utc_text(now()) end))
  );
end
$$;

comment on function private.top_up_decline(uuid, text) is
'An automatic purchase was declined: it has failed, its owner is told, and the next one waits longer each time. Once per purchase. The owner is locked.';

create function private.top_up_stop(p_account_id uuid, p_reason text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_top_up public.auto_top_ups;
begin
  update public.auto_top_ups as t
  set is_enabled = false, last_failure_code = p_reason
  where t.account_id = p_account_id and t.is_enabled
  returning t.* into v_top_up;
  perform private.notify(
    v_top_up.user_id, v_top_up.organization_id, 'auto_top_up_stopped', jsonb_build_object('reason', p_reason),
    private.uuid7()::text
  );
end
$$;

comment on function private.top_up_stop(uuid, text) is
'Switches an automatic top-up off and tells its owner, who may switch it on again; one that is off stays as it is. The owner is locked.';

create function backend.top_up_close(p_purchase_id uuid, p_code text default null) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_purchase public.credit_purchases;
begin
  perform private.lock_billing_owner((
    select s.customer_id
    from public.credit_purchases as c
    inner join private.stripe_customers as s on s.account_id = c.account_id
    where c.id = p_purchase_id
    order by s.deleted_at desc nulls first
    limit 1
  ));
  if p_code is not null then
    perform private.top_up_decline(c.id, p_code)
    from public.credit_purchases as c
    where c.id = p_purchase_id and c.is_automatic;
  end if;
  update public.credit_purchases as c
  set status = 'expired'
  where c.id = p_purchase_id and c.is_automatic and c.status = 'pending' and c.stripe_payment_intent_id is null
    -- Else somebody has set out to ask for it meanwhile.
    and (p_code is not null or c.asked_at < now() - interval '1 hour');
  select c.* into v_purchase from public.credit_purchases as c where c.id = p_purchase_id;
  if v_purchase.id is null or not v_purchase.is_automatic then
    perform private.fail(404, 'purchase_not_found', 'There is no such purchase.');
  end if;
  return jsonb_build_object('status', v_purchase.status);
end
$$;

comment on function backend.top_up_close(uuid, text) is
'Ends an automatic purchase without a payment at Stripe: declined, with Stripe''s code, or expired because Stripe was never asked. 404 purchase_not_found.';

create function private.top_up_of_payment(p_state jsonb, p_customer private.stripe_customers) returns uuid
language sql stable security definer set search_path = ''
as $$
  select c.id
  from public.credit_purchases as c
  where c.id = case
      when p_state #>> '{metadata,quernel_purchase_id}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (p_state #>> '{metadata,quernel_purchase_id}')::uuid
    end
    and c.is_automatic
    -- Metadata can name anything. Only the owner's own customer pays for what is theirs.
    and c.account_id = p_customer.account_id
    and p_customer.customer_id = private.stripe_id(p_state -> 'customer')
$$;

comment on function private.top_up_of_payment(jsonb, private.stripe_customers) is
'The automatic purchase that a payment of its own customer names; null for none, and for every other kind of purchase.';

create function private.top_up_apply(p_purchase_id uuid, p_state jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_purchase public.credit_purchases;
  v_payment_intent_id text := p_state ->> 'id';
  v_grant jsonb;
begin
  select c.* into strict v_purchase from public.credit_purchases as c where c.id = p_purchase_id for update;
  if not v_purchase.is_automatic or p_state is null then
    return;
  end if;
  if v_purchase.stripe_payment_intent_id <> v_payment_intent_id then
    perform private.fail(409, 'payment_mismatch', 'The purchase was already paid by another payment.',
      jsonb_build_object('purchase_id', v_purchase.id));
  end if;
  if (p_state ->> 'amount')::bigint is distinct from v_purchase.price_minor
     or lower(p_state ->> 'currency') is distinct from v_purchase.currency
     or (
       p_state ->> 'status' = 'succeeded'
       and (p_state ->> 'amount_received')::bigint is distinct from v_purchase.price_minor
     ) then
    perform private.fail(409, 'amount_mismatch', 'What was paid is not the price of the purchase.', jsonb_build_object(
      'purchase_id', v_purchase.id, 'paid_minor', p_state -> 'amount_received', 'paid_currency', p_state -> 'currency',
      'expected_minor', v_purchase.price_minor, 'expected_currency', v_purchase.currency));
  end if;
  update public.credit_purchases as c
  set stripe_payment_intent_id = v_payment_intent_id
  where c.id = v_purchase.id and c.stripe_payment_intent_id is null;

  if p_state ->> 'status' = 'succeeded' and v_purchase.lot_id is null then
    -- Also for a purchase that had failed or expired meanwhile: the money is there.
    v_grant := private.credit_grant(
      v_purchase.account_id, v_purchase.credits, 'purchase', 'stripe:' || v_payment_intent_id,
      now() + make_interval(days => v_purchase.valid_days), 100, 'Credits bought', v_payment_intent_id,
      v_purchase.price_minor, v_purchase.currency, jsonb_build_object('purchase_id', v_purchase.id)
    );
    update public.credit_purchases as c
    set status = 'paid', lot_id = (v_grant ->> 'lot_id')::uuid, paid_at = now()
    where c.id = v_purchase.id;
    perform private.notify(
      v_purchase.user_id, v_purchase.organization_id, 'receipt',
      jsonb_build_object(
        'amount_minor', v_purchase.price_minor, 'currency', v_purchase.currency, 'credits', v_purchase.credits,
        'description', v_purchase.pack_name
      ),
      v_purchase.id::text
    );
    update public.auto_top_ups as t
    set failures = 0, paused_until = null, last_failure_code = null
    where t.account_id = v_purchase.account_id and (t.failures > 0 or t.last_failure_code is not null);
  elsif p_state ->> 'status' in ('requires_action', 'requires_payment_method', 'canceled') then
    perform private.top_up_decline(v_purchase.id, case
      when p_state ->> 'status' = 'requires_action' then 'authentication_required'
      else coalesce(
        p_state #>> '{last_payment_error,decline_code}', p_state #>> '{last_payment_error,code}', p_state ->> 'status'
      )
    end);
  end if;
end
$$;

comment on function private.top_up_apply(uuid, jsonb) is
'Applies the state of a payment intent to the automatic purchase it pays: grants its credits once, keyed on the payment and for exactly its price, or backs off. Payment and owner are locked. Other purchases are left alone.';

create function backend.top_ups_due(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid;
  v_count integer := 0;
begin
  for v_account_id in
    select a.id
    from public.auto_top_ups as t
    inner join public.credit_accounts as a on a.id = t.account_id
    where (
      (a.balance - a.held < a.top_up_below and private.top_up_obstacle(t, null) is null)
      -- The worker that had begun it is gone.
      or exists (
        select from public.credit_purchases as c
        where c.account_id = t.account_id and c.is_automatic and c.status = 'pending'
          and c.stripe_payment_intent_id is null and c.created_at < now() - interval '10 minutes'
      )
    )
    and not exists (
      select from private.tasks as k
      where k.kind = 'auto_top_up' and k.key = t.account_id::text and k.status in ('queued', 'running')
    )
    order by a.id
    limit p_limit
    for no key update of a skip locked
  loop
    perform private.ask_top_up(v_account_id);
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.top_ups_due(integer) is
'Asks for the top-ups that were missed: accounts under their threshold, and purchases whose answer nobody has heard.';

grant execute on function
private.set_my_auto_top_up(numeric, text, integer, boolean, uuid),
public.set_auto_top_up(numeric, text, integer, boolean, uuid)
to authenticated;

grant execute on function
backend.top_up_start(uuid),
backend.top_up_close(uuid, text),
backend.top_ups_due(integer)
to service_role;
