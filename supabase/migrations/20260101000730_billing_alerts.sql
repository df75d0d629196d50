-- Billing alerts: what an owner is told about their account, once for each time it comes to pass.
--
--   billing_alerts   one row per crossing; clients read them and mark them read
--   credit_accounts  gains the thresholds that lie ahead, so that looking for a crossing is one comparison
--
-- Crossings of the balance and of the month's use are seen by triggers on the account, where they happen. Their WHEN
-- clauses compare columns of the row at hand: a hold or a settlement that crosses nothing runs no code and reads
-- nothing. Crossings of time (an invoice falls due, a subscription ends) are found by a cron job. Whatever the cause,
-- the row is what is told: a trigger on it hands the facts to private.notify(), for email and webhooks.
--
-- An alert never stops money: the triggers on the account turn a failure into a warning in the log. A threshold of use
-- that could not be told stays where it is and is tried again with the account's next request (sql/checks/407).
--
-- Locks: the owner's row (for key share), which everybody else takes before the account, is taken here after it. So
-- it is never waited for: whoever is being erased at this moment is told nothing.

insert into private.settings (name, value, description) values
('low_balance_threshold', '50', 'Credits below which the balance of a new account is low; owners choose their own.'),
('usage_alert_percentages', '[80, 100]', 'Percentages of a month''s limits and budget at which the owner is told.'),
('subscription_expiring_days', '7', 'Days before the end of a subscription or a trial at which its owner is told.'),
('alert_days', '90', 'Days a read alert is kept; what came to pass longer ago is no longer told.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.billing_alerts (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  type text not null,
  key text not null,
  threshold numeric(20, 6),
  current_value numeric(20, 6),
  message text not null,
  is_read boolean not null default false,
  read_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint an_alert_has_one_owner check (num_nonnulls(user_id, organization_id) = 1),
  constraint a_user_is_told_of_a_crossing_once unique (user_id, type, key),
  constraint an_organization_is_told_of_a_crossing_once unique (organization_id, type, key),
  constraint type_is_known check (
    type in (
      'usage_threshold', 'payment_failed', 'invoice_overdue', 'subscription_expiring', 'low_balance',
      'provider_key_invalid'
    )
  ),
  constraint key_is_not_empty check (length(key) between 1 and 300),
  constraint message_is_not_empty check (length(message) between 1 and 1000),
  constraint read_at_says_when_it_was_read check (is_read = (read_at is not null)),
  constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);

comment on table public.billing_alerts is 'What an owner was told about their account: one row per crossing. Gone with its owner.';
comment on column public.billing_alerts.id is 'Identifies the alert.';
comment on column public.billing_alerts.user_id is 'The user who is told; null for an organization''s.';
comment on column public.billing_alerts.organization_id is 'The organization whose admins are told; null for a user''s.';
comment on column public.billing_alerts.type is 'usage_threshold, payment_failed, invoice_overdue, subscription_expiring, low_balance or provider_key_invalid.';
comment on column public.billing_alerts.key is 'Which crossing it tells of: the same owner, type and key are told once.';
comment on column public.billing_alerts.threshold is 'What was crossed, in the unit of current_value; null where nothing is counted.';
comment on column public.billing_alerts.current_value is 'The value that crossed it: credits, tokens, requests, or minor units of money.';
comment on column public.billing_alerts.message is 'What happened, for people, in their language.';
comment on column public.billing_alerts.is_read is 'Whether somebody has read it: the one column that clients write.';
comment on column public.billing_alerts.read_at is 'When it was read; kept by a trigger.';
comment on column public.billing_alerts.metadata is 'The facts of the message, for clients that write their own.';
comment on column public.billing_alerts.created_at is 'When it came to pass.';

create index billing_alerts_by_user on public.billing_alerts (user_id, created_at desc) where user_id is not null;
create index billing_alerts_by_organization
on public.billing_alerts (organization_id, created_at desc) where organization_id is not null;
create index billing_alerts_to_purge on public.billing_alerts (created_at) where is_read;

alter table public.credit_accounts
add column low_balance_threshold numeric(20, 6) default (private.setting('low_balance_threshold'))::numeric,
add column next_tokens_threshold bigint,
add column next_requests_threshold bigint,
add column next_credits_threshold numeric(20, 6),
add column thresholds_expire_at timestamptz,
add constraint low_balance_threshold_is_not_negative check (low_balance_threshold >= 0);

comment on column public.credit_accounts.low_balance_threshold is 'Credits: the owner is told when the balance falls below; null for never.';
comment on column public.credit_accounts.next_tokens_threshold is 'Tokens of the period at which the owner is told next; null when nothing is left to tell.';
comment on column public.credit_accounts.next_requests_threshold is 'Requests of the period at which the owner is told next; null when nothing is left to tell.';
comment on column public.credit_accounts.next_credits_threshold is 'Credits spent in the period at which the owner is told next; null when nothing is left to tell.';
comment on column public.credit_accounts.thresholds_expire_at is 'When the plan ends that the next thresholds were computed for; null for never.';

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: clients read their alerts and mark them read
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.billing_alerts to authenticated, service_role;
grant update (is_read) on public.billing_alerts to authenticated;

alter table public.billing_alerts enable row level security;

create policy "Users and organization admins read their alerts"
on public.billing_alerts for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create policy "Users and organization admins mark their alerts read"
on public.billing_alerts for update to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
)
with check (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

create function private.follow_is_read() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.read_at := case when new.is_read then coalesce(old.read_at, now()) end;
  return new;
end
$$;

comment on function private.follow_is_read() is 'Trigger: read_at says when an alert was first marked read, and nothing once it is unread again.';

create trigger billing_alerts_follow_is_read
before update on public.billing_alerts
for each row execute function private.follow_is_read();

-- ---------------------------------------------------------------------------------------------------------------
-- Raising an alert
-- ---------------------------------------------------------------------------------------------------------------

create function private.alert_message(p_type text, p_language text, p_facts jsonb) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_kind text := coalesce(p_facts ->> 'limit_source', p_facts ->> 'reason', '');
  v_message text;
  v_fact record;
begin
  if p_language = 'fr' then
    v_message := case p_type
      when 'low_balance' then
        'Le solde est passé sous {threshold} crédits : il en reste {balance}.'
      when 'usage_threshold' then case v_kind
        when 'plan.monthly_tokens' then
          '{percent} % des jetons de ce mois sont utilisés : {used} sur {limit}.'
        when 'plan.requests_per_month' then
          '{percent} % des requêtes de ce mois sont utilisées : {used} sur {limit}.'
        else '{percent} % du budget de ce mois est dépensé : {used} crédits sur {limit}.'
      end
      when 'payment_failed' then case v_kind
        when 'top_up' then
          'Une recharge automatique a été refusée. Vérifiez votre moyen de paiement.'
        when 'top_up_switched_off' then
          'Une recharge automatique a été refusée, et désactivée. Vérifiez votre moyen de paiement, puis réactivez-la.'
        else 'Un paiement a été refusé. Vérifiez votre moyen de paiement.'
      end
      when 'invoice_overdue' then 'La facture {number} était à payer le {due_at}.'
      when 'subscription_expiring' then case v_kind
        when 'trial' then 'La période d''essai se termine le {trial_ends_at}.'
        else 'L''abonnement se termine le {ends_at}.'
      end
      when 'provider_key_invalid' then case v_kind
        when 'quota_exceeded' then
          'Votre clé …{last_four} n''a plus de quota ou de crédit chez {provider}.'
        else
          '{provider} refuse votre clé …{last_four}. Remplacez-la, ou faites-la valider à nouveau.'
      end
    end;
  else
    v_message := case p_type
      when 'low_balance' then
        'The balance has fallen below {threshold} credits: {balance} are left.'
      when 'usage_threshold' then case v_kind
        when 'plan.monthly_tokens' then
          '{percent} % of this month''s tokens are used: {used} of {limit}.'
        when 'plan.requests_per_month' then
          '{percent} % of this month''s requests are used: {used} of {limit}.'
        else '{percent} % of this month''s budget is spent: {used} credits of {limit}.'
      end
      when 'payment_failed' then case v_kind
        when 'top_up' then
          'An automatic top-up was declined. Check your payment method.'
        when 'top_up_switched_off' then
          'An automatic top-up was declined, and switched off. Check your payment method, then switch it on again.'
        else 'A payment was declined. Check your payment method.'
      end
      when 'invoice_overdue' then 'Invoice {number} was due on {due_at}.'
      when 'subscription_expiring' then case v_kind
        when 'trial' then 'The trial ends on {trial_ends_at}.'
        else 'The subscription ends on {ends_at}.'
      end
      when 'provider_key_invalid' then case v_kind
        when 'quota_exceeded' then
          'Your key …{last_four} has no quota or credit left at {provider}.'
        else
          '{provider} does not accept your key …{last_four}. Replace it, or have it validated again.'
      end
    end;
  end if;
  for v_fact in select f.key, f.value from jsonb_each_text(p_facts) as f loop
    v_message := replace(
      v_message, '{' || v_fact.key || '}',
      -- Of an instant, the day.
      coalesce(case when v_fact.key ~ '_at$' then left(v_fact.value, 10) else v_fact.value end, '')
    );
  end loop;
  return v_message;
end
$$;

comment on function private.alert_message(text, text, jsonb) is 'What happened, for people, in French or English; {words} are replaced by the facts of that name.';

create function private.raise_alert(
  p_user_id uuid,
  p_organization_id uuid,
  p_type text,
  p_key text,
  p_threshold numeric default null,
  p_current_value numeric default null,
  p_facts jsonb default '{}'
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_facts jsonb := coalesce(p_facts, '{}'::jsonb);
  v_language text;
  v_id uuid;
begin
  -- Not waited for: whoever erases the owner has locked this row and will want what our caller has locked.
  if p_organization_id is not null then
    select coalesce((select p.language from public.profiles as p where p.id = o.created_by), 'fr') into v_language
    from public.organizations as o where o.id = p_organization_id for key share skip locked;
  else
    select p.language into v_language
    from public.profiles as p where p.id = p_user_id for key share skip locked;
  end if;
  if v_language is null then
    return null;
  end if;
  insert into public.billing_alerts (
    user_id, organization_id, type, key, threshold, current_value, message, metadata
  ) values (
    case when p_organization_id is null then p_user_id end, p_organization_id, p_type, p_key, p_threshold,
    p_current_value, private.alert_message(p_type, v_language, v_facts), v_facts
  )
  on conflict do nothing
  returning id into v_id;
  return v_id;
end
$$;

comment on function private.raise_alert(uuid, uuid, text, text, numeric, numeric, jsonb) is
'Tells an owner that something has come to pass; the alert''s id, null when this crossing was already told or the owner is going.';

create function private.send_alert() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.notify(new.user_id, new.organization_id, new.type, new.metadata, new.key);
  return null;
end
$$;

comment on function private.send_alert() is 'Trigger: what an owner is told here they are told by email and webhook too, by the preferences they have there.';

create trigger billing_alerts_are_sent
after insert on public.billing_alerts
for each row execute function private.send_alert();

-- ---------------------------------------------------------------------------------------------------------------
-- Crossings of the balance
--
-- Of the balance and not of what is available: a hold is the worst case and mostly comes back, and somebody near the
-- threshold would be told with every request.
-- ---------------------------------------------------------------------------------------------------------------

create function private.tell_low_balance() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if num_nonnulls(new.user_id, new.organization_id) = 1 then
    perform private.raise_alert(
      new.user_id, new.organization_id, 'low_balance', new.version::text, new.low_balance_threshold, new.balance,
      jsonb_build_object('threshold', trim_scale(new.low_balance_threshold), 'balance', trim_scale(new.balance)));
  end if;
  return null;
exception when others then
  raise warning 'the low balance of account % was not told: %', new.id, sqlerrm;
  return null;
end
$$;

comment on function private.tell_low_balance() is 'Trigger: the balance has fallen below its threshold. Whatever fails here is a warning.';

create trigger credit_accounts_tell_low_balance
after update of balance on public.credit_accounts
for each row
when (new.balance < new.low_balance_threshold and old.balance >= new.low_balance_threshold)
execute function private.tell_low_balance();

-- ---------------------------------------------------------------------------------------------------------------
-- Crossings of the month's use
-- ---------------------------------------------------------------------------------------------------------------

create function private.usage_meters(p_account public.credit_accounts)
returns table (limit_source text, used numeric, quota numeric, threshold numeric)
language plpgsql stable security definer rows 3 set search_path = ''
as $$
declare
  v_plan public.plans := private.plan_of(p_account.user_id, p_account.organization_id);
begin
  return query values
  (
    'plan.monthly_tokens', p_account.period_tokens::numeric, nullif(v_plan.monthly_tokens, -1)::numeric,
    p_account.next_tokens_threshold::numeric
  ),
  (
    'plan.requests_per_month', p_account.period_requests::numeric, nullif(v_plan.requests_per_month, -1)::numeric,
    p_account.next_requests_threshold::numeric
  ),
  (
    'account_budget', p_account.period_credits, p_account.monthly_credit_budget, p_account.next_credits_threshold
  );
end
$$;

comment on function private.usage_meters(public.credit_accounts) is
'What the period counts, of how much (null: no limit), and the threshold ahead, by the names that refusals call the limits.';

create function private.tell_usage(p_account public.credit_accounts) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.raise_alert(
    p_account.user_id, p_account.organization_id, 'usage_threshold',
    concat_ws(
      ' ', m.limit_source, to_char(p_account.period_start at time zone 'utc', 'YYYY-MM'), c.percent || '%',
      trim_scale(m.quota)
    ),
    m.quota * c.percent / 100, m.used,
    jsonb_build_object(
      'limit_source', m.limit_source, 'percent', c.percent, 'used', trim_scale(m.used), 'limit', trim_scale(m.quota),
      'period_start', p_account.period_start)
  )
  from private.usage_meters(p_account) as m
  -- Of several thresholds that one request crossed, the last says it all.
  cross join lateral (
    select max(s.percent::numeric) as percent
    from jsonb_array_elements(private.setting('usage_alert_percentages')) as s (percent)
    where m.quota * s.percent::numeric / 100 <= m.used
  ) as c
  where m.used >= m.threshold and c.percent is not null;
end
$$;

comment on function private.tell_usage(public.credit_accounts) is
'Tells the owner of every threshold of the month that the account''s counters have reached: once per threshold, kind and month.';

create function private.aim_thresholds(p_account public.credit_accounts) returns public.credit_accounts
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts := p_account;
begin
  select
    ceil(min(t.threshold) filter (where t.limit_source = 'plan.monthly_tokens')),
    ceil(min(t.threshold) filter (where t.limit_source = 'plan.requests_per_month')),
    min(t.threshold) filter (where t.limit_source = 'account_budget')
  into v_account.next_tokens_threshold, v_account.next_requests_threshold, v_account.next_credits_threshold
  from (
    select m.limit_source, m.used, m.quota * s.percent::numeric / 100 as threshold
    from private.usage_meters(p_account) as m
    cross join lateral jsonb_array_elements(private.setting('usage_alert_percentages')) as s (percent)
  ) as t
  where t.threshold > t.used;
  if p_account.organization_id is not null then
    select o.plan_expires_at into v_account.thresholds_expire_at
    from public.organizations as o where o.id = p_account.organization_id and o.plan_expires_at > now();
  else
    select p.plan_expires_at into v_account.thresholds_expire_at
    from public.profiles as p where p.id = p_account.user_id and p.plan_expires_at > now();
  end if;
  return v_account;
end
$$;

comment on function private.aim_thresholds(public.credit_accounts) is
'The account with its next thresholds ahead of its counters, by the plan and the budget it has now. What a change of plan or budget leaves behind is not told: only use crosses a threshold.';

create function private.watch_usage() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if num_nonnulls(new.user_id, new.organization_id) = 1 then
    perform private.tell_usage(new);
    new := private.aim_thresholds(new);
  end if;
  return new;
exception when others then
  raise warning 'the use of account % was not told: %', new.id, sqlerrm;
  return new;
end
$$;

comment on function private.watch_usage() is 'Trigger: tells of thresholds reached and aims at the next. Whatever fails here is a warning, and the thresholds stay.';

create trigger credit_accounts_aim_thresholds
before insert on public.credit_accounts
for each row execute function private.watch_usage();

-- Before and not after, so that the next thresholds are written with the row that reached the last. Three triggers and
-- not one, so that a hold and a settlement each evaluate no more than concerns them: every statement reads a WHEN
-- clause anew.
create trigger credit_accounts_watch_requests
before update of period_requests on public.credit_accounts
for each row
when (new.period_requests >= new.next_requests_threshold or new.updated_at >= new.thresholds_expire_at)
execute function private.watch_usage();

create trigger credit_accounts_watch_spending
before update of period_tokens, period_credits on public.credit_accounts
for each row
when (new.period_tokens >= new.next_tokens_threshold or new.period_credits >= new.next_credits_threshold)
execute function private.watch_usage();

-- A month, a budget or a plan has begun.
create trigger credit_accounts_watch_limits
before update of period_start, monthly_credit_budget, thresholds_expire_at on public.credit_accounts
for each row execute function private.watch_usage();

create function private.aim_at_new_plan() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_table_name = 'profiles' then
    update public.credit_accounts as a set thresholds_expire_at = '-infinity' where a.user_id = new.id;
  else
    update public.credit_accounts as a set thresholds_expire_at = '-infinity' where a.organization_id = new.id;
  end if;
  return null;
end
$$;

comment on function private.aim_at_new_plan() is 'Trigger: a plan has begun or its end has moved, so the thresholds of its account are computed anew.';

create trigger profiles_aim_at_their_plan
after update of plan_id, plan_expires_at on public.profiles
for each row
when ((old.plan_id, old.plan_expires_at) is distinct from (new.plan_id, new.plan_expires_at))
execute function private.aim_at_new_plan();

create trigger organizations_aim_at_their_plan
after update of plan_id, plan_expires_at on public.organizations
for each row
when ((old.plan_id, old.plan_expires_at) is distinct from (new.plan_id, new.plan_expires_at))
execute function private.aim_at_new_plan();

-- Accounts that were opened before this chapter was applied.
update public.credit_accounts set thresholds_expire_at = '-infinity';

-- ---------------------------------------------------------------------------------------------------------------
-- Crossings of time
--
-- Nothing older than alert_days is looked at, and nothing younger is purged (backend.alerts_purge): the row of an alert
-- is there for as long as the scan could find its crossing again.
-- ---------------------------------------------------------------------------------------------------------------

create function private.utc_text(p_at timestamptz) returns text
language sql immutable parallel safe set search_path = ''
as $$ select to_char(p_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') $$;

comment on function private.utc_text(timestamptz) is 'An instant as RFC 3339 in UTC, whatever the session''s time zone.';

create function private.tell_overdue_invoices(p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_invoice record;
  v_count integer := 0;
begin
  for v_invoice in
    select i.*
    from public.invoices as i
    where i.status = 'open'
      and i.due_at <= now() and i.due_at > now() - make_interval(days => private.setting('alert_days')::integer)
      and num_nonnulls(i.user_id, i.organization_id) = 1
      and not exists (
        select from public.billing_alerts as b
        where b.user_id = i.user_id and b.type = 'invoice_overdue' and b.key = i.id::text
      )
      and not exists (
        select from public.billing_alerts as b
        where b.organization_id = i.organization_id and b.type = 'invoice_overdue' and b.key = i.id::text
      )
    order by i.due_at
    limit p_limit
  loop
    if private.raise_alert(
      v_invoice.user_id, v_invoice.organization_id, 'invoice_overdue', v_invoice.id::text, null,
      v_invoice.amount_remaining_minor,
      jsonb_strip_nulls(jsonb_build_object(
        'invoice_id', v_invoice.id, 'number', coalesce(v_invoice.number, left(v_invoice.id::text, 8)),
        'due_at', private.utc_text(v_invoice.due_at), 'amount_minor', v_invoice.amount_remaining_minor,
        'currency', v_invoice.currency, 'invoice_url', v_invoice.hosted_invoice_url))
    ) is not null then
      v_count := v_count + 1;
    end if;
  end loop;
  return v_count;
end
$$;

comment on function private.tell_overdue_invoices(integer) is
'Tells the owners of up to p_limit open invoices that these are past their due date; how many it told.';

create function private.tell_expiring_subscriptions(p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_subscription record;
  v_count integer := 0;
begin
  for v_subscription in
    select s.*, s.id::text || ' ' || private.utc_text(s.ends_at) as key
    from (
      select t.id, t.user_id, t.organization_id, p.name as plan, e.is_final,
        case when e.is_final then coalesce(t.cancel_at, t.current_period_end) else t.trial_end end as ends_at
      from public.subscriptions as t
      inner join public.plans as p on p.id = t.plan_id
      cross join lateral (
        -- Nothing follows what was canceled, nor a plan that an operator gave.
        select t.cancel_at_period_end or t.cancel_at is not null or t.provider = 'manual' as is_final
      ) as e
      where t.status in ('active', 'trialing', 'past_due') and (e.is_final or t.status = 'trialing')
    ) as s
    where s.ends_at > now()
      and s.ends_at <= now() + make_interval(days => private.setting('subscription_expiring_days')::integer)
      and num_nonnulls(s.user_id, s.organization_id) = 1
      and not exists (
        select from public.billing_alerts as b
        where b.user_id = s.user_id and b.type = 'subscription_expiring'
          and b.key = s.id::text || ' ' || private.utc_text(s.ends_at)
      )
      and not exists (
        select from public.billing_alerts as b
        where b.organization_id = s.organization_id and b.type = 'subscription_expiring'
          and b.key = s.id::text || ' ' || private.utc_text(s.ends_at)
      )
    order by s.ends_at
    limit p_limit
  loop
    if private.raise_alert(
      v_subscription.user_id, v_subscription.organization_id, 'subscription_expiring', v_subscription.key,
      null, null,
      jsonb_build_object(
        'subscription_id', v_subscription.id, 'plan', v_subscription.plan,
        'reason', case when v_subscription.is_final then 'end' else 'trial' end,
        case when v_subscription.is_final then 'ends_at' else 'trial_ends_at' end,
        private.utc_text(v_subscription.ends_at))
    ) is not null then
      v_count := v_count + 1;
    end if;
  end loop;
  return v_count;
end
$$;

comment on function private.tell_expiring_subscriptions(integer) is
'Tells the owners of up to p_limit subscriptions that these, or their trials, end within subscription_expiring_days; how many it told. An end that is moved is told again.';

-- ---------------------------------------------------------------------------------------------------------------
-- Payments that fail
-- ---------------------------------------------------------------------------------------------------------------

create function private.tell_failed_payment() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_charge_id text;
  v_invoice public.invoices;
begin
  if num_nonnulls(new.user_id, new.organization_id) = 0 then
    return null;
  end if;
  -- That of an automatic top-up is told with what follows from it (private.top_up_decline).
  if exists (
    select from public.credit_purchases as c
    where c.id = new.purchase_id and c.is_automatic and c.status in ('pending', 'failed')
  ) then
    return null;
  end if;
  -- Stripe tries the same payment again; each attempt has a charge of its own.
  select o.state #>> '{last_payment_error,charge}' into v_charge_id
  from private.stripe_objects as o
  where o.id = new.provider_transaction_id and new.provider = 'stripe';
  select i.* into v_invoice from public.invoices as i where i.id = new.invoice_id;
  perform private.raise_alert(
    new.user_id, new.organization_id, 'payment_failed', coalesce(v_charge_id, new.id::text), null, new.amount_minor,
    jsonb_strip_nulls(jsonb_build_object(
      'payment_id', new.id, 'amount_minor', new.amount_minor, 'currency', new.currency,
      'failure_code', new.failure_code, 'invoice_id', v_invoice.id,
      'next_attempt_at', private.utc_text(v_invoice.next_attempt_at), 'invoice_url', v_invoice.hosted_invoice_url))
  );
  return null;
end
$$;

comment on function private.tell_failed_payment() is
'Trigger: an attempt to pay was declined. A failure here fails the event that told of it, which is recorded and tried again.';

create trigger payments_tell_failure
after insert or update on public.payments
for each row when (new.status = 'failed')
execute function private.tell_failed_payment();

-- ---------------------------------------------------------------------------------------------------------------
-- For functions/: backend.*
-- ---------------------------------------------------------------------------------------------------------------

create function backend.alerts_scan(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_limit integer := least(greatest(p_limit, 1), 5000);
  v_count integer := private.tell_overdue_invoices(v_limit);
begin
  v_count := v_count + private.tell_expiring_subscriptions(v_limit - v_count);
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.alerts_scan(integer) is
'Tells of up to p_limit invoices that have fallen due and subscriptions about to end; {"count": told}.';

create function backend.alerts_purge(p_limit integer default 1000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from public.billing_alerts as b
  where b.id in (
    select o.id
    from public.billing_alerts as o
    where o.is_read and o.created_at < now() - make_interval(days => private.setting('alert_days')::integer)
    order by o.created_at
    limit p_limit
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.alerts_purge(integer) is 'Deletes up to p_limit read alerts that are older than alert_days; {"count": deleted}.';

grant execute on function backend.alerts_scan(integer) to service_role;
grant execute on function backend.alerts_purge(integer) to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- For clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.set_my_low_balance_threshold(p_threshold numeric, p_organization_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.my_account_id(p_organization_id, true);
begin
  if p_threshold is not null then
    perform private.require_amount(p_threshold);
  end if;
  perform private.lock_account(v_account_id);
  update public.credit_accounts as a
  set low_balance_threshold = p_threshold, updated_at = now()
  where a.id = v_account_id;
  return private.balance_of(v_account_id) || jsonb_build_object('low_balance_threshold', p_threshold);
end
$$;

comment on function private.set_my_low_balance_threshold(numeric, uuid) is
'Sets or lifts (null) the threshold of the caller''s account, or of an organization they administer.';

create function public.set_low_balance_threshold(p_threshold numeric, p_organization_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.set_my_low_balance_threshold(p_threshold, p_organization_id) $$;

comment on function public.set_low_balance_threshold(numeric, uuid) is
'Sets below how many credits you are told that your balance is low, or that of an organization you administer; null for never.';

grant execute on function
private.set_my_low_balance_threshold(numeric, uuid),
public.set_low_balance_threshold(numeric, uuid)
to authenticated;
