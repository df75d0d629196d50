-- Credits: a ledger that nobody can write but its own functions.
--
--   credit_accounts      one per user or organization: balance, debt, held, and this month's counters
--   credit_lots          what was granted, and what is left of it
--   credit_transactions  every change, append-only, with the lots it touched
--   private.credit_holds what is promised to work in flight
--
-- The invariants (docs/architecture.md, proved by sql/checks/1xx):
--   balance = sum(lots.remaining) - debt = sum(transactions.amount)      held = sum(active holds)
--   sum(lots.remaining) >= held                                          debt > 0 only when nothing is left unheld
--
-- Locks: every function locks the account row first and the rest after it, so the account serialises its own ledger
-- and two accounts never wait for each other. Functions that visit many accounts skip the locked ones.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.credit_accounts (
  id uuid primary key default gen_random_uuid(),
  user_id uuid unique references public.profiles (id) on delete set null,
  organization_id uuid unique references public.organizations (id) on delete set null,
  balance numeric(20, 6) not null default 0,
  debt numeric(20, 6) not null default 0,
  held numeric(20, 6) not null default 0,
  active_holds integer not null default 0,
  lifetime_granted numeric(20, 6) not null default 0,
  lifetime_spent numeric(20, 6) not null default 0,
  monthly_credit_budget numeric(20, 6),
  period_start timestamptz not null default private.month_start(now()),
  period_requests bigint not null default 0,
  period_tokens bigint not null default 0,
  period_credits numeric(20, 6) not null default 0,
  period_free_images integer not null default 0,
  tokens_held bigint not null default 0,
  next_request_at timestamptz not null default '-infinity',
  next_expiry_at timestamptz,
  version bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  erased_at timestamptz,
  constraint an_account_has_one_owner_until_it_is_erased
  check (num_nonnulls(user_id, organization_id) = case when erased_at is null then 1 else 0 end),
  constraint debt_is_not_negative check (debt >= 0),
  constraint held_is_not_negative check (held >= 0 and active_holds >= 0 and tokens_held >= 0),
  constraint held_is_backed_by_lots check (held <= balance + debt),
  constraint counters_are_not_negative
  check (least(lifetime_granted, lifetime_spent, period_requests, period_tokens, period_credits, version) >= 0),
  constraint free_images_are_not_negative check (period_free_images >= 0),
  constraint budget_is_not_negative check (monthly_credit_budget >= 0)
) with (fillfactor = 70);

comment on table public.credit_accounts is 'The credit account of a user or an organization; of nobody once its owner is erased.';
comment on column public.credit_accounts.id is 'Identifies the account; ledger rows carry this and never a person.';
comment on column public.credit_accounts.user_id is 'The user who owns the account; null for an organization''s or an erased one.';
comment on column public.credit_accounts.organization_id is 'The organization that owns the account; null for a user''s or an erased one.';
comment on column public.credit_accounts.balance is 'Credits: what the lots hold, less debt. Can be negative only through debt.';
comment on column public.credit_accounts.debt is 'Credits taken back after they were spent; the next grant repays it first.';
comment on column public.credit_accounts.held is 'Credits promised to work in flight; balance - held is available.';
comment on column public.credit_accounts.active_holds is 'Number of holds in flight, which is the number of concurrent requests.';
comment on column public.credit_accounts.lifetime_granted is 'Credits ever granted, clawbacks not deducted.';
comment on column public.credit_accounts.lifetime_spent is 'Credits ever spent, refunds deducted.';
comment on column public.credit_accounts.monthly_credit_budget is 'Credits that may be spent in a calendar month (UTC); null for no limit.';
comment on column public.credit_accounts.period_start is 'Start of the calendar month (UTC) that the period_ columns count.';
comment on column public.credit_accounts.period_requests is 'Requests accepted in the period, less those that failed.';
comment on column public.credit_accounts.period_tokens is 'Tokens used in the period.';
comment on column public.credit_accounts.period_credits is 'Credits spent in the period.';
comment on column public.credit_accounts.period_free_images is 'Images of the period that the plan gave, those in the making included.';
comment on column public.credit_accounts.tokens_held is 'Tokens that work in flight is expected to use at most.';
comment on column public.credit_accounts.next_request_at is 'Theoretical arrival time of the next request (GCRA), which is the whole state of the rate limit.';
comment on column public.credit_accounts.next_expiry_at is 'Earliest expiry among lots with something left.';
comment on column public.credit_accounts.version is 'Number of transactions so far; the last one''s version.';
comment on column public.credit_accounts.created_at is 'When the account was opened.';
comment on column public.credit_accounts.updated_at is 'When anything in the row last changed.';
comment on column public.credit_accounts.erased_at is 'When its owner was erased.';

create index credit_accounts_by_next_expiry on public.credit_accounts (next_expiry_at) where next_expiry_at is not null;

create table public.credit_lots (
  id uuid primary key default private.uuid7(),
  account_id uuid not null references public.credit_accounts (id),
  source text not null,
  amount numeric(20, 6) not null,
  remaining numeric(20, 6) not null,
  clawed_back numeric(20, 6) not null default 0,
  expired numeric(20, 6) not null default 0,
  priority integer not null default 100,
  expires_at timestamptz,
  used_at timestamptz,
  paid_minor bigint,
  currency text,
  reason text,
  reference text,
  stands_in_for uuid references public.credit_lots (id),
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint source_is_known check (
    source in ('purchase', 'plan', 'bonus', 'ads_reward', 'promotional', 'refund', 'compensation', 'adjustment')
  ),
  constraint amount_is_positive check (amount > 0),
  constraint remaining_is_part_of_amount check (remaining between 0 and amount),
  constraint clawed_back_is_part_of_amount check (clawed_back between 0 and amount),
  constraint expired_is_not_negative check (expired >= 0),
  constraint used_at_says_that_nothing_remains check ((used_at is not null) = (remaining = 0)),
  constraint money_paid_has_a_currency check ((paid_minor is null) = (currency is null) and paid_minor >= 0),
  constraint currency_is_lower_case_iso_4217 check (currency ~ '^[a-z]{3}$')
) with (fillfactor = 80);

comment on table public.credit_lots is 'What was granted, and what is left of it. Lots burn by priority, then earliest expiry, then oldest; those past their date, of which only what is on hold is left, before all others.';
comment on column public.credit_lots.id is 'Identifies the lot.';
comment on column public.credit_lots.account_id is 'Whose credits these are.';
comment on column public.credit_lots.source is 'Why they were granted.';
comment on column public.credit_lots.amount is 'Credits granted.';
comment on column public.credit_lots.remaining is 'Credits neither spent, expired nor taken back.';
comment on column public.credit_lots.clawed_back is 'Credits taken back because their payment was refunded or disputed.';
comment on column public.credit_lots.expired is 'Credits that expired unspent.';
comment on column public.credit_lots.priority is 'Lower burns first.';
comment on column public.credit_lots.expires_at is 'When what is left expires; null for never.';
comment on column public.credit_lots.used_at is 'When nothing was left of it.';
comment on column public.credit_lots.paid_minor is 'Money paid for it, in minor units of the currency; null when it was free.';
comment on column public.credit_lots.currency is 'Currency of paid_minor, lower-case ISO 4217.';
comment on column public.credit_lots.reason is 'What the owner is told.';
comment on column public.credit_lots.reference is 'Id of the paid object at the payment provider, or an operator''s reference.';
comment on column public.credit_lots.stands_in_for is 'The lot whose credits these were: it had expired when they were given back.';
comment on column public.credit_lots.metadata is 'Further facts, never about a person.';
comment on column public.credit_lots.created_at is 'When it was granted.';

-- Only used_at, not remaining, is in the predicate: spending part of a lot then needs no new index entry.
create index credit_lots_in_burn_order
on public.credit_lots (account_id, priority, expires_at, created_at, id) where used_at is null;
create index credit_lots_by_account on public.credit_lots (account_id, created_at desc);
create index credit_lots_by_what_they_stand_in_for
on public.credit_lots (stands_in_for) where stands_in_for is not null;

create table private.credit_holds (
  id uuid primary key default private.uuid7(),
  account_id uuid not null references public.credit_accounts (id),
  user_id uuid references public.profiles (id) on delete set null,
  api_key_id uuid,
  action text not null,
  amount numeric(20, 6) not null,
  tokens bigint not null default 0,
  terms jsonb not null default '{}',
  status text not null default 'active',
  settled_amount numeric(20, 6),
  refunded_amount numeric(20, 6) not null default 0,
  idempotency_key text not null,
  attempt integer not null default 1,
  reason text,
  created_at timestamptz not null default now(),
  deadline timestamptz not null,
  finished_at timestamptz,
  constraint status_is_known check (status in ('active', 'settled', 'released', 'expired')),
  constraint amount_is_not_negative check (amount >= 0 and tokens >= 0),
  constraint an_active_hold_is_unfinished check ((status = 'active') = (finished_at is null)),
  constraint only_a_settled_hold_has_an_amount check ((status = 'settled') = (settled_amount is not null)),
  constraint settled_amount_is_part_of_the_hold check (settled_amount between 0 and amount),
  constraint refunded_amount_is_part_of_the_settlement
  check (refunded_amount between 0 and coalesce(settled_amount, 0)),
  constraint deadline_is_after_creation check (deadline > created_at),
  constraint key_is_not_empty check (length(idempotency_key) between 1 and 300),
  constraint attempts_count_from_1 check (attempt >= 1)
);

comment on table private.credit_holds is 'Credits promised to work in flight: active, then settled, released or expired.';
comment on column private.credit_holds.id is 'Identifies the hold, and its row in usage_logs.';
comment on column private.credit_holds.account_id is 'Who pays.';
comment on column private.credit_holds.user_id is 'Who asked for the work; null once erased, and for an organization''s key.';
comment on column private.credit_holds.api_key_id is 'By which API key; null for a person who is signed in. No foreign key: the ledger outlives keys.';
comment on column private.credit_holds.action is 'What the work is, as in usage_logs.action.';
comment on column private.credit_holds.amount is 'Credits held: the most the work can cost.';
comment on column private.credit_holds.tokens is 'Tokens held against the plan: what the work is expected to use at most; what it did use is counted at its end.';
comment on column private.credit_holds.terms is 'Prices and limits the work was accepted under; a later price change does not touch it.';
comment on column private.credit_holds.status is 'active, settled, released (nothing charged) or expired (returned by the reaper).';
comment on column private.credit_holds.settled_amount is 'Credits charged.';
comment on column private.credit_holds.refunded_amount is 'Credits given back after the settlement.';
comment on column private.credit_holds.idempotency_key is 'The caller''s key for this hold; one per account that is not released.';
comment on column private.credit_holds.attempt is 'Which hold of its key this is: one that was released frees the key for the next.';
comment on column private.credit_holds.reason is 'Why it was released; superseded when its Idempotency-Key ran again after the reaper.';
comment on column private.credit_holds.created_at is 'When the work was accepted.';
comment on column private.credit_holds.deadline is 'When the reaper may return it; extended while leased work goes on.';
comment on column private.credit_holds.finished_at is 'When it was settled, released or expired.';

create unique index credit_holds_have_one_key_per_account
on private.credit_holds (account_id, idempotency_key, attempt);
create index credit_holds_to_reap on private.credit_holds (deadline) where status = 'active';
create index credit_holds_by_user on private.credit_holds (user_id) where user_id is not null;

create table public.credit_transactions (
  id uuid primary key default private.uuid7(),
  account_id uuid not null references public.credit_accounts (id),
  version bigint not null,
  operation text not null,
  type text not null,
  amount numeric(20, 6) not null,
  debt_change numeric(20, 6) not null default 0,
  balance_after numeric(20, 6) not null,
  balance_before numeric(20, 6) generated always as (balance_after - amount) stored,
  lot_ids uuid[] not null default '{}',
  lot_amounts numeric(20, 6)[] not null default '{}',
  reference_id uuid,
  idempotency_key text,
  fingerprint text,
  description text,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint operation_is_known check (
    operation in ('grant', 'settle', 'refund', 'expire', 'claw_back', 'give_back', 'repay')
  ),
  constraint type_is_known check (
    type in (
      'purchase', 'usage', 'refund', 'bonus', 'ads_reward', 'plan', 'promotional', 'compensation', 'adjustment',
      'expiry', 'clawback', 'clawback_return', 'debt_repayment'
    )
  ),
  constraint a_transaction_changes_something check (amount <> 0 or debt_change <> 0),
  constraint every_lot_has_its_amount check (cardinality(lot_ids) = cardinality(lot_amounts)),
  constraint a_key_has_its_fingerprint check ((idempotency_key is null) = (fingerprint is null)),
  constraint version_is_positive check (version > 0)
);

comment on table public.credit_transactions is 'Every change to an account, append-only. Rows carry the account, never the person.';
comment on column public.credit_transactions.id is 'Identifies the transaction.';
comment on column public.credit_transactions.account_id is 'Whose ledger it belongs to.';
comment on column public.credit_transactions.version is 'Its place in the account''s ledger, from 1 without gaps.';
comment on column public.credit_transactions.operation is 'Which ledger function wrote it; idempotency keys are scoped by it.';
comment on column public.credit_transactions.type is 'What the owner sees: purchase, usage, refund, expiry, clawback ...';
comment on column public.credit_transactions.amount is 'Credits added (positive) or taken (negative). Zero only when debt is repaid out of lots.';
comment on column public.credit_transactions.debt_change is 'Credits of debt made (positive) or repaid (negative).';
comment on column public.credit_transactions.balance_after is 'Balance after it.';
comment on column public.credit_transactions.balance_before is 'Balance before it.';
comment on column public.credit_transactions.lot_ids is 'The lots it touched; amount = sum(lot_amounts) - debt_change.';
comment on column public.credit_transactions.lot_amounts is 'What it added to (positive) or took from (negative) each of them.';
comment on column public.credit_transactions.reference_id is 'The hold, or the lot, it is about.';
comment on column public.credit_transactions.idempotency_key is 'The caller''s key, where the operation takes one.';
comment on column public.credit_transactions.fingerprint is 'Digest of the arguments that came with the key.';
comment on column public.credit_transactions.description is 'What the owner is told.';
comment on column public.credit_transactions.metadata is 'Further facts, never about a person.';
comment on column public.credit_transactions.created_at is 'When it was written.';

create unique index credit_transactions_are_numbered_per_account on public.credit_transactions (account_id, version);
create unique index credit_transactions_have_one_key_per_operation
on public.credit_transactions (account_id, operation, idempotency_key) where idempotency_key is not null;
create index credit_transactions_by_reference on public.credit_transactions (reference_id) where operation <> 'settle';

create table private.member_spending (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null references public.profiles (id) on delete cascade,
  period_start timestamptz not null default private.month_start(now()),
  spent numeric(20, 6) not null default 0,
  held numeric(20, 6) not null default 0,
  constraint member_spending_has_one_row_per_member primary key (organization_id, user_id),
  constraint spending_is_not_negative check (spent >= 0 and held >= 0)
);

comment on table private.member_spending is 'What each member spends of an organization''s credits in a calendar month (UTC).';
comment on column private.member_spending.organization_id is 'Who pays.';
comment on column private.member_spending.user_id is 'Who spends.';
comment on column private.member_spending.period_start is 'Start of the month that spent counts.';
comment on column private.member_spending.spent is 'Credits spent in the period.';
comment on column private.member_spending.held is 'Credits held by the member''s work in flight.';

create index member_spending_by_user on private.member_spending (user_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: clients read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.credit_accounts, public.credit_lots, public.credit_transactions to authenticated, service_role;

alter table public.credit_accounts enable row level security;
alter table public.credit_lots enable row level security;
alter table public.credit_transactions enable row level security;
alter table private.credit_holds enable row level security;
alter table private.member_spending enable row level security;

create function private.my_statement_account_ids() returns setof uuid
language sql stable security definer set search_path = ''
as $$
  select a.id from public.credit_accounts as a where a.user_id = private.active_user_id()
  union all
  select a.id from public.credit_accounts as a where a.organization_id in (select private.my_admin_organization_ids())
$$;

comment on function private.my_statement_account_ids() is 'Accounts whose ledger the caller may read: their own, and those of organizations they administer.';
grant execute on function private.my_statement_account_ids() to authenticated;

create policy "Users read their own account and those of their organizations"
on public.credit_accounts for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_organization_ids())
);

create policy "Owners and organization admins read their lots"
on public.credit_lots for select to authenticated
using (account_id in (select private.my_statement_account_ids()));

create policy "Owners and organization admins read their transactions"
on public.credit_transactions for select to authenticated
using (account_id in (select private.my_statement_account_ids()));

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger credit_transactions_refuse_change
before update or delete on public.credit_transactions
for each row execute function private.refuse_change();
create trigger credit_transactions_refuse_truncate
before truncate on public.credit_transactions
for each statement execute function private.refuse_change();
alter table public.credit_transactions enable always trigger credit_transactions_refuse_change;
alter table public.credit_transactions enable always trigger credit_transactions_refuse_truncate;

create trigger credit_lots_refuse_delete
before delete on public.credit_lots
for each row execute function private.refuse_change();
create trigger credit_lots_refuse_truncate
before truncate on public.credit_lots
for each statement execute function private.refuse_change();
alter table public.credit_lots enable always trigger credit_lots_refuse_delete;
alter table public.credit_lots enable always trigger credit_lots_refuse_truncate;

create trigger credit_accounts_refuse_delete
before delete on public.credit_accounts
for each row execute function private.refuse_change();
alter table public.credit_accounts enable always trigger credit_accounts_refuse_delete;

create function private.mark_erased_account() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.erased_at := coalesce(new.erased_at, now());
  return new;
end
$$;

comment on function private.mark_erased_account() is 'Trigger: an account whose owner is gone stays, as nobody''s.';

create trigger credit_accounts_mark_erased
before update of user_id, organization_id on public.credit_accounts
for each row when (new.user_id is null and new.organization_id is null)
execute function private.mark_erased_account();

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel, inner part. The caller of each function here has locked the account row.
-- ---------------------------------------------------------------------------------------------------------------

create function private.require_amount(p_amount numeric, p_minimum numeric default 0) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  -- NaN compares greater than every number in Postgres, so it is named; so are more decimals than are kept, because
  -- rounding would move the rest silently.
  if p_amount is null or p_amount in ('NaN', 'Infinity', '-Infinity') or p_amount < p_minimum
     or p_amount >= 1e14 or p_amount <> round(p_amount, 6) then
    perform private.fail(400, 'invalid_amount', 'The amount must be a number of credits with at most six decimals, not below the minimum.',
      jsonb_build_object('minimum', p_minimum));
  end if;
end
$$;

comment on function private.require_amount(numeric, numeric) is 'Refuses negative, infinite, too large and too precise amounts of credits (400 invalid_amount).';

create function private.take_from_lots(
  p_account_id uuid,
  p_amount numeric,
  p_has_expired boolean,
  p_first_lot_id uuid default null,
  out lot_ids uuid[],
  out lot_amounts numeric[]
)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_left numeric := p_amount;
  v_take numeric;
  v_lot record;
begin
  lot_ids := '{}';
  lot_amounts := '{}';
  if p_amount <= 0 then
    return;
  end if;
  if p_first_lot_id is null and not p_has_expired then
    -- As a rule the first lot in order has enough, and one statement does it all.
    update public.credit_lots as l
    set remaining = l.remaining - p_amount,
      used_at = case when l.remaining = p_amount then now() end
    where l.remaining >= p_amount and l.id = (
      select f.id
      from public.credit_lots as f
      where f.account_id = p_account_id and f.used_at is null
      order by f.priority, f.expires_at, f.created_at, f.id
      limit 1
    )
    returning array[l.id], array[-p_amount] into lot_ids, lot_amounts;
    if found then
      return;
    end if;
    lot_ids := '{}';
    lot_amounts := '{}';
  end if;
  for v_lot in
    -- In parts, so that the last is read from its index in order and only as far as it is needed.
    (
      select l.id, l.remaining
      from public.credit_lots as l
      where p_first_lot_id is not null and l.account_id = p_account_id and l.used_at is null
        and (l.id = p_first_lot_id or l.stands_in_for = p_first_lot_id)
      order by l.id <> p_first_lot_id, l.priority, l.expires_at, l.created_at, l.id
    )
    union all
    (
      select l.id, l.remaining
      from public.credit_lots as l
      where p_has_expired and l.account_id = p_account_id and l.used_at is null and l.expires_at <= now()
        and (l.id = p_first_lot_id or l.stands_in_for = p_first_lot_id) is not true
      order by l.priority, l.expires_at, l.created_at, l.id
    )
    union all
    (
      select l.id, l.remaining
      from public.credit_lots as l
      where l.account_id = p_account_id and l.used_at is null
        and (p_has_expired and l.expires_at <= now()) is not true
        and (l.id = p_first_lot_id or l.stands_in_for = p_first_lot_id) is not true
      order by l.priority, l.expires_at, l.created_at, l.id
    )
  loop
    v_take := least(v_lot.remaining, v_left);
    update public.credit_lots as l
    set remaining = l.remaining - v_take,
      used_at = case when l.remaining = v_take then now() end
    where l.id = v_lot.id;
    lot_ids := lot_ids || v_lot.id;
    lot_amounts := lot_amounts || -v_take;
    v_left := v_left - v_take;
    exit when v_left = 0;
  end loop;
  if v_left > 0 then
    raise exception 'account % has % credits less in its lots than it must have', p_account_id, v_left
      using errcode = 'data_corrupted';
  end if;
end
$$;

comment on function private.take_from_lots(uuid, numeric, boolean, uuid) is
'Burns credits from an account''s lots in order and says which: first a lot that is named and what stands in for it, then lots past their date if p_has_expired, then the others. The caller has swept and has made sure there is enough, so what is left of lots past their date was on hold.';

create function private.write_transaction(
  p_account_id uuid,
  p_operation text,
  p_type text,
  p_amount numeric,
  p_debt_change numeric,
  p_lot_ids uuid[],
  p_lot_amounts numeric[],
  p_reference_id uuid,
  p_description text default null,
  p_idempotency_key text default null,
  p_fingerprint text default null,
  p_metadata jsonb default '{}'
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts;
  v_id uuid := private.uuid7();
begin
  update public.credit_accounts as a
  set balance = a.balance + p_amount,
    debt = a.debt + p_debt_change,
    version = a.version + 1,
    updated_at = now()
  where a.id = p_account_id
  returning a.* into strict v_account;

  insert into public.credit_transactions (
    id, account_id, version, operation, type, amount, debt_change, balance_after, lot_ids, lot_amounts,
    reference_id, description, idempotency_key, fingerprint, metadata
  ) values (
    v_id, p_account_id, v_account.version, p_operation, p_type, p_amount, p_debt_change, v_account.balance,
    p_lot_ids, p_lot_amounts, p_reference_id, p_description, p_idempotency_key, p_fingerprint,
    coalesce(p_metadata, '{}'::jsonb)
  );
  return v_id;
end
$$;

comment on function private.write_transaction(
  uuid, text, text, numeric, numeric, uuid[], numeric[], uuid, text, text, text, jsonb
) is 'Writes one ledger row and moves the account''s balance and debt with it.';

create function private.find_replay(
  p_account_id uuid, p_operation text, p_idempotency_key text, p_fingerprint text
) returns public.credit_transactions
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_transaction public.credit_transactions;
begin
  if p_idempotency_key is null or length(p_idempotency_key) not between 1 and 300 then
    perform private.fail(400, 'invalid_argument', 'An idempotency key of 1 to 300 characters is required.',
      '{"param": "idempotency_key"}');
  end if;
  select t.* into v_transaction
  from public.credit_transactions as t
  where t.account_id = p_account_id and t.operation = p_operation and t.idempotency_key = p_idempotency_key;
  if v_transaction.id is not null and v_transaction.fingerprint <> p_fingerprint then
    perform private.fail(409, 'idempotency_conflict', 'This idempotency key was already used with other arguments.');
  end if;
  return v_transaction;
end
$$;

comment on function private.find_replay(uuid, text, text, text) is
'The transaction that this key already wrote, if any; 409 idempotency_conflict when its arguments were others.';

create function private.net_debt(p_account_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts;
  v_amount numeric;
  v_taken record;
begin
  select a.* into strict v_account from public.credit_accounts as a where a.id = p_account_id;
  v_amount := least(v_account.debt, v_account.balance + v_account.debt - v_account.held);
  if v_amount > 0 then
    v_taken := private.take_from_lots(p_account_id, v_amount, coalesce(v_account.next_expiry_at <= now(), false));
    perform private.write_transaction(
      p_account_id, 'repay', 'debt_repayment', 0, -v_amount, v_taken.lot_ids, v_taken.lot_amounts, null,
      'Debt repaid out of credits that were on hold'
    );
  end if;
end
$$;

comment on function private.net_debt(uuid) is 'Repays debt out of lots whose credits have just come off hold.';

create function private.expire_lots(p_account_id uuid) returns numeric
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts;
  v_protected numeric;
  v_take numeric;
  v_total numeric := 0;
  v_lot record;
  v_lot_ids uuid[] := '{}';
  v_lot_amounts numeric[] := '{}';
begin
  select a.* into strict v_account from public.credit_accounts as a where a.id = p_account_id;
  -- Of lots past their date, as much is left alone as is on hold, whatever other lots there are: holds burn them first.
  v_protected := v_account.held;
  for v_lot in
    select l.id, l.remaining
    from public.credit_lots as l
    where l.account_id = p_account_id and l.used_at is null and l.expires_at <= now()
    order by l.priority, l.expires_at, l.created_at, l.id
  loop
    v_take := v_lot.remaining - least(v_lot.remaining, v_protected);
    v_protected := v_protected - least(v_lot.remaining, v_protected);
    if v_take > 0 then
      update public.credit_lots as l
      set remaining = l.remaining - v_take,
        expired = l.expired + v_take,
        used_at = case when l.remaining = v_take then now() end
      where l.id = v_lot.id;
      v_lot_ids := v_lot_ids || v_lot.id;
      v_lot_amounts := v_lot_amounts || -v_take;
      v_total := v_total + v_take;
    end if;
  end loop;
  update public.credit_accounts as a
  set next_expiry_at = (
    select min(l.expires_at) from public.credit_lots as l where l.account_id = p_account_id and l.used_at is null
  )
  where a.id = p_account_id;
  if v_total > 0 then
    perform private.write_transaction(
      p_account_id, 'expire', 'expiry', -v_total, 0, v_lot_ids, v_lot_amounts, null, 'Expired credits'
    );
  end if;
  return v_total;
end
$$;

comment on function private.expire_lots(uuid) is
'Expires what is left of lots past their date, except what is on hold; returns the credits expired.';

create function private.come_off_hold(p_account public.credit_accounts) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_account.debt > 0 then
    perform private.net_debt(p_account.id);
  end if;
  if p_account.next_expiry_at <= now() then
    perform private.expire_lots(p_account.id);
  end if;
end
$$;

comment on function private.come_off_hold(public.credit_accounts) is
'What a hold kept from happening, once it is over: debt is repaid, then lots past their date expire.';

create function private.add_lot(
  p_account_id uuid,
  p_source text,
  p_amount numeric,
  p_remaining numeric,
  p_priority integer,
  p_expires_at timestamptz,
  p_reason text,
  p_reference text,
  p_paid_minor bigint default null,
  p_currency text default null,
  p_metadata jsonb default '{}',
  p_stands_in_for uuid default null
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lot_id uuid := private.uuid7();
begin
  insert into public.credit_lots (
    id, account_id, source, amount, remaining, priority, expires_at, used_at, paid_minor, currency, reason,
    reference, stands_in_for, metadata
  ) values (
    v_lot_id, p_account_id, p_source, p_amount, p_remaining, p_priority, p_expires_at,
    case when p_remaining = 0 then now() end, p_paid_minor, p_currency, p_reason, p_reference, p_stands_in_for,
    coalesce(p_metadata, '{}'::jsonb)
  );
  if p_expires_at is not null and p_remaining > 0 then
    update public.credit_accounts as a
    set next_expiry_at = least(a.next_expiry_at, p_expires_at)
    where a.id = p_account_id;
  end if;
  return v_lot_id;
end
$$;

comment on function private.add_lot(
  uuid, text, numeric, numeric, integer, timestamptz, text, text, bigint, text, jsonb, uuid
) is 'Inserts a lot and keeps the account''s next expiry true.';

create function private.owed_to_lots(p_account_id uuid, p_reference_id uuid, p_operations text[])
returns table (lot_id uuid, place bigint, owed numeric)
language sql stable security definer set search_path = ''
as $$
  select g.lot_id, g.place, least(-g.change, -g.change_of_all) as owed
  from (
    select
      m.lot_id,
      m.place,
      m.change,
      -- What came back to a lot that stands in for another came back to that one.
      sum(m.change) over (partition by coalesce(l.stands_in_for, l.id)) as change_of_all
    from (
      select u.lot_id, sum(u.change) as change, min(u.place) filter (where u.change < 0) as place
      from public.credit_transactions as t
      cross join lateral unnest(t.lot_ids, t.lot_amounts) with ordinality as u (lot_id, change, place)
      where t.account_id = p_account_id and t.reference_id = p_reference_id and t.operation = any(p_operations)
      group by u.lot_id
    ) as m
    inner join public.credit_lots as l on l.id = m.lot_id
  ) as g
  where g.change < 0 and g.change_of_all < 0
$$;

comment on function private.owed_to_lots(uuid, uuid, text[]) is
'What the operations about a reference (a hold, a lot) took from each lot and have not put back; place is where the lot stood among those it was taken with.';

create function private.return_to_lots(
  p_account_id uuid,
  p_amount numeric,
  p_lot_ids uuid[],
  p_limits numeric[],
  p_reason text,
  out lot_ids uuid[],
  out lot_amounts numeric[]
)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_left numeric := p_amount;
  v_put numeric;
  v_lot public.credit_lots;
begin
  lot_ids := '{}';
  lot_amounts := '{}';
  for i in 1 .. cardinality(p_lot_ids) loop
    exit when v_left <= 0;
    select l.* into strict v_lot from public.credit_lots as l where l.id = p_lot_ids[i];
    continue when v_lot.expires_at <= now();
    v_put := least(v_left, p_limits[i], v_lot.amount - v_lot.remaining);
    continue when v_put <= 0;
    update public.credit_lots as l
    set remaining = l.remaining + v_put, used_at = null
    where l.id = v_lot.id;
    update public.credit_accounts as a
    set next_expiry_at = least(a.next_expiry_at, v_lot.expires_at)
    where a.id = p_account_id and v_lot.expires_at is not null;
    lot_ids := lot_ids || v_lot.id;
    lot_amounts := lot_amounts || v_put;
    v_left := v_left - v_put;
  end loop;
  for i in 1 .. cardinality(p_lot_ids) loop
    exit when v_left <= 0;
    select l.* into strict v_lot from public.credit_lots as l where l.id = p_lot_ids[i];
    continue when coalesce(v_lot.expires_at > now(), true);
    v_put := least(v_left, p_limits[i]);
    lot_ids := lot_ids || private.add_lot(
      p_account_id, 'refund', v_put, v_put, 100,
      now() + make_interval(days => private.setting('refund_grace_days')::integer), p_reason, null,
      p_stands_in_for => coalesce(v_lot.stands_in_for, v_lot.id)
    );
    lot_amounts := lot_amounts || v_put;
    v_left := v_left - v_put;
  end loop;
  if v_left > 0 then
    -- It came from no lot: it was owed, and a later grant repaid it. Nothing of that has expired.
    lot_ids := lot_ids || private.add_lot(p_account_id, 'refund', v_left, v_left, 100, null, p_reason, null);
    lot_amounts := lot_amounts || v_left;
  end if;
end
$$;

comment on function private.return_to_lots(uuid, numeric, uuid[], numeric[], text) is
'Puts credits back into the lots they came from, up to a limit each; for a lot that has expired comes a new one with a grace period, for what came from none a new one that does not expire.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel, outer part: each function is one operation of the ledger
-- ---------------------------------------------------------------------------------------------------------------

create function private.account_id(p_user_id uuid, p_organization_id uuid) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_id uuid;
begin
  if p_organization_id is not null then
    select a.id into v_id from public.credit_accounts as a where a.organization_id = p_organization_id;
  else
    select a.id into v_id from public.credit_accounts as a where a.user_id = p_user_id;
  end if;
  if v_id is null then
    perform private.fail(404, 'account_not_found', 'There is no credit account of that owner.');
  end if;
  return v_id;
end
$$;

comment on function private.account_id(uuid, uuid) is
'The account that pays: the organization''s when one is given, else the user''s; 404 account_not_found.';

create function private.lock_account(p_account_id uuid) returns public.credit_accounts
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts;
begin
  select a.* into v_account from public.credit_accounts as a where a.id = p_account_id for no key update;
  if v_account.id is null then
    perform private.fail(404, 'account_not_found', 'There is no such credit account.');
  end if;
  if v_account.next_expiry_at <= now() then
    perform private.expire_lots(p_account_id);
    select a.* into v_account from public.credit_accounts as a where a.id = p_account_id;
  end if;
  -- No month is shorter than 28 days: only after them it is worth asking when this one began.
  if v_account.period_start <= now() - interval '672 hours' and v_account.period_start < private.month_start(now()) then
    update public.credit_accounts as a
    set period_start = private.month_start(now()), period_requests = 0, period_tokens = 0, period_credits = 0,
      period_free_images = 0
    where a.id = p_account_id
    returning a.* into v_account;
  end if;
  return v_account;
end
$$;

comment on function private.lock_account(uuid) is
'Locks an account for the rest of the transaction, with expired lots swept and the month''s counters current.';

create function private.account_summary(p_account_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'account_id', a.id, 'balance', a.balance, 'held', a.held, 'available', a.balance - a.held, 'debt', a.debt
    )
    from public.credit_accounts as a
    where a.id = p_account_id
  );
end
$$;

comment on function private.account_summary(uuid) is 'Balance, held, available and debt of an account, as JSON.';

create function private.credit_grant(
  p_account_id uuid,
  p_amount numeric,
  p_source text,
  p_idempotency_key text,
  p_expires_at timestamptz default null,
  p_priority integer default 100,
  p_reason text default null,
  p_reference text default null,
  p_paid_minor bigint default null,
  p_currency text default null,
  p_metadata jsonb default '{}',
  p_is_expiry_fixed boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account public.credit_accounts;
  v_replay public.credit_transactions;
  v_fingerprint text;
  v_lot_id uuid;
  v_transaction_id uuid;
  v_repaid numeric;
  v_remaining numeric;
begin
  perform private.require_amount(p_amount, 0.000001);
  v_account := private.lock_account(p_account_id);
  -- An expiry that the caller computes from the clock is left out: a retry a second later is the same grant. One that
  -- a person named is an argument like the others.
  v_fingerprint := md5(jsonb_build_array(
    trim_scale(p_amount), p_source, p_priority, p_reference, p_paid_minor, p_currency,
    case when p_is_expiry_fixed then extract(epoch from p_expires_at) end
  )::text);
  v_replay := private.find_replay(p_account_id, 'grant', p_idempotency_key, v_fingerprint);
  if v_replay.id is not null then
    return private.account_summary(p_account_id) || jsonb_build_object(
      'lot_id', v_replay.reference_id, 'transaction_id', v_replay.id, 'amount', v_replay.amount, 'replayed', true
    );
  end if;
  if p_expires_at <= now() then
    perform private.fail(400, 'invalid_argument', 'A grant cannot expire in the past.', '{"param": "expires_at"}');
  end if;

  if v_account.lifetime_granted + p_amount >= 1e14 then
    perform private.fail(400, 'invalid_amount', 'No account can be granted that much in its life.',
      jsonb_build_object('granted', v_account.lifetime_granted));
  end if;

  v_repaid := least(v_account.debt, p_amount);
  v_remaining := p_amount - v_repaid;
  v_lot_id := private.add_lot(
    p_account_id, p_source, p_amount, v_remaining, p_priority, p_expires_at, p_reason, p_reference, p_paid_minor,
    p_currency, p_metadata
  );
  update public.credit_accounts as a
  set lifetime_granted = a.lifetime_granted + p_amount
  where a.id = p_account_id;
  v_transaction_id := private.write_transaction(
    p_account_id, 'grant', p_source, p_amount, -v_repaid,
    case when v_remaining > 0 then array[v_lot_id] else '{}'::uuid[] end,
    case when v_remaining > 0 then array[v_remaining] else '{}'::numeric[] end,
    v_lot_id, p_reason, p_idempotency_key, v_fingerprint, p_metadata
  );
  return private.account_summary(p_account_id) || jsonb_build_object(
    'lot_id', v_lot_id, 'transaction_id', v_transaction_id, 'amount', p_amount, 'replayed', false
  );
end
$$;

comment on function private.credit_grant(
  uuid, numeric, text, text, timestamptz, integer, text, text, bigint, text, jsonb, boolean
) is 'Adds a lot of credits, repaying debt first. Same key, same result; same key with another amount, source, priority or payment, or another expiry where it is fixed, is a 409.';

create type private.hold_limits as (
  available numeric,
  debt numeric,
  account_budget_left numeric,
  member_budget_left numeric,
  api_key_id uuid,
  api_key_budget_left numeric,
  plan text,
  requests_per_minute integer,
  concurrent_requests integer,
  requests_left bigint,
  tokens_left bigint
);

comment on type private.hold_limits is
'How much room a payer has left: credits, budgets, and what the plan allows. Null means unlimited.';

create function private.payer(
  p_user_id uuid,
  p_organization_id uuid,
  p_api_key_id uuid default null,
  out account public.credit_accounts,
  out limits private.hold_limits
)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_is_active boolean;
  v_account_id uuid;
  v_plan record;
  v_member record;
begin
  -- Locked before the account, as the erasure of a person or an organization does: the hold's foreign keys would lock
  -- them after it, and the two would wait for each other.
  -- An organization's own key asks for nobody in person.
  if p_user_id is not null or p_api_key_id is null or p_organization_id is null then
    select p.is_active, a.id into v_is_active, v_account_id
    from public.profiles as p
    left join public.credit_accounts as a on a.user_id = p.id
    where p.id = p_user_id
    for key share of p;
    if v_is_active is not true then
      perform private.fail(403, 'account_suspended', 'This account is suspended.');
    end if;
  end if;
  if p_organization_id is not null then
    select o.is_active, a.id into v_is_active, v_account_id
    from public.organizations as o
    left join public.credit_accounts as a on a.organization_id = o.id
    where o.id = p_organization_id
    for key share of o;
    if v_is_active is not true then
      perform private.fail(403, 'account_suspended', 'This organization is suspended.');
    end if;
  end if;

  account := private.lock_account(v_account_id);

  select pl.slug, pl.requests_per_minute, pl.concurrent_requests, pl.requests_per_month, pl.monthly_tokens
  into v_plan
  from private.plan_of(p_user_id, p_organization_id) as pl;

  limits.available := account.balance - account.held;
  limits.debt := account.debt;
  limits.account_budget_left := account.monthly_credit_budget - account.period_credits - account.held;
  limits.plan := v_plan.slug;
  -- A plan says -1 for unlimited.
  limits.requests_per_minute := nullif(v_plan.requests_per_minute, -1);
  limits.concurrent_requests := nullif(v_plan.concurrent_requests, -1);
  limits.requests_left := nullif(v_plan.requests_per_month, -1) - account.period_requests;
  limits.tokens_left := nullif(v_plan.monthly_tokens, -1) - account.period_tokens - account.tokens_held;

  if p_api_key_id is not null then
    limits.api_key_id := p_api_key_id;
    limits.api_key_budget_left := private.api_key_budget_left(p_api_key_id);
  end if;
  if p_organization_id is not null and p_user_id is not null then
    select m.monthly_credit_budget as budget,
      coalesce(s.held, 0) as held,
      case when s.period_start >= private.month_start(now()) then s.spent else 0 end as spent
    into v_member
    from public.organization_members as m
    left join private.member_spending as s on s.organization_id = m.organization_id and s.user_id = m.user_id
    where m.organization_id = p_organization_id and m.user_id = p_user_id;
    if not found then
      -- Removed since the caller asked: without a row there would be no budget either.
      perform private.fail(403, 'not_a_member', 'You are not a member of this organization.');
    end if;
    limits.member_budget_left := v_member.budget - v_member.spent - v_member.held;
  end if;
end
$$;

comment on function private.payer(uuid, uuid, uuid) is
'Locks the account that pays and says how much room it has, and the API key that asks; 403 account_suspended when the user or the organization is suspended, not_a_member for a stranger.';

create function private.require_room(p_limits private.hold_limits, p_amount numeric, p_tokens bigint) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_source text;
  v_available numeric;
begin
  if p_limits.requests_left < 1 then
    perform private.fail(402, 'plan_limit_reached', 'The plan''s monthly number of requests is used up.', jsonb_build_object(
      'limit_source', 'plan.requests_per_month', 'plan', p_limits.plan, 'required', 1,
      'available', greatest(p_limits.requests_left, 0), 'remedy', 'upgrade_plan'));
  end if;
  if p_limits.tokens_left < p_tokens then
    perform private.fail(402, 'plan_limit_reached', 'The plan''s monthly tokens do not suffice for this request.', jsonb_build_object(
      'limit_source', 'plan.monthly_tokens', 'plan', p_limits.plan, 'required', p_tokens,
      'available', greatest(p_limits.tokens_left, 0), 'remedy', 'upgrade_plan'));
  end if;
  if p_amount = 0 then
    return;
  end if;
  if p_limits.debt > 0 then
    perform private.fail(402, 'account_in_debt', 'A payment was taken back after its credits were spent; the next purchase repays that first.',
      jsonb_build_object('limit_source', 'debt', 'required', p_limits.debt + p_amount, 'available', 0, 'debt', p_limits.debt,
        'remedy', 'buy_credits'));
  end if;
  if p_limits.available < p_amount then
    perform private.fail(402, 'insufficient_credits', 'There are not enough credits for this request.', jsonb_build_object(
      'limit_source', 'balance', 'required', p_amount, 'available', greatest(p_limits.available, 0), 'remedy', 'buy_credits'));
  end if;
  v_source := case
    when p_limits.account_budget_left < p_amount then 'account_budget'
    when p_limits.member_budget_left < p_amount then 'member_budget'
    when p_limits.api_key_budget_left < p_amount then 'api_key_budget'
  end;
  if v_source is not null then
    v_available := case v_source
      when 'account_budget' then p_limits.account_budget_left
      when 'member_budget' then p_limits.member_budget_left
      else p_limits.api_key_budget_left
    end;
    perform private.fail(402, 'budget_exceeded', 'The monthly budget does not suffice for this request.', jsonb_build_object(
      'limit_source', v_source, 'required', p_amount, 'available', greatest(v_available, 0), 'remedy', 'raise_budget'));
  end if;
end
$$;

comment on function private.require_room(private.hold_limits, numeric, bigint) is
'Refuses (402) what the balance, a budget or the plan does not allow, naming the limit, what is required, what is available and the remedy.';

create function private.place_hold(
  p_account public.credit_accounts,
  p_limits private.hold_limits,
  p_user_id uuid,
  p_amount numeric,
  p_tokens bigint,
  p_idempotency_key text,
  p_action text,
  p_seconds integer,
  p_terms jsonb default '{}',
  p_usage jsonb default '{}',
  p_attempt integer default 1,
  out hold private.credit_holds,
  out rate_limit jsonb
)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_rate record;
  v_next timestamptz;
  v_id uuid := private.uuid7();
  v_now timestamptz := clock_timestamp();
begin
  if p_limits.requests_per_minute is not null then
    v_rate := private.gcra(p_account.next_request_at, v_now, p_limits.requests_per_minute, interval '60 seconds', 1);
    if v_rate.retry_after is not null then
      perform private.fail(429, 'rate_limited', 'Too many requests; try again later.', jsonb_build_object(
        'limit_source', 'plan.requests_per_minute', 'plan', p_limits.plan, 'limit', p_limits.requests_per_minute,
        'remaining', v_rate.remaining, 'reset', v_rate.reset, 'retry_after', v_rate.retry_after));
    end if;
    v_next := v_rate.next_at;
    rate_limit := jsonb_build_object(
      'limit', p_limits.requests_per_minute, 'remaining', v_rate.remaining, 'reset', v_rate.reset);
  end if;
  if p_account.active_holds >= p_limits.concurrent_requests then
    perform private.fail(429, 'too_many_concurrent_requests', 'Too many requests are in flight; try again when one has ended.',
      jsonb_build_object('limit_source', 'plan.concurrent_requests', 'plan', p_limits.plan, 'limit',
        p_limits.concurrent_requests, 'retry_after', 1));
  end if;
  perform private.require_room(p_limits, p_amount, p_tokens);
  if p_limits.api_key_id is not null then
    rate_limit := private.tighter_rate(
      rate_limit, private.api_key_take(p_limits.api_key_id, p_amount, p_tokens, v_now)
    );
  end if;

  update public.credit_accounts as a
  set held = a.held + p_amount,
    active_holds = a.active_holds + 1,
    tokens_held = a.tokens_held + p_tokens,
    period_requests = a.period_requests + 1,
    next_request_at = coalesce(v_next, a.next_request_at),
    updated_at = v_now
  where a.id = p_account.id;

  if p_account.organization_id is not null and p_user_id is not null then
    insert into private.member_spending as s (organization_id, user_id, held)
    values (p_account.organization_id, p_user_id, p_amount)
    on conflict (organization_id, user_id) do update set held = s.held + excluded.held;
  end if;

  insert into private.credit_holds (
    id, account_id, user_id, api_key_id, action, amount, tokens, terms, idempotency_key, attempt, created_at, deadline
  ) values (
    v_id, p_account.id, p_user_id, p_limits.api_key_id, p_action, p_amount, p_tokens, p_terms, p_idempotency_key, p_attempt, v_now,
    v_now + make_interval(secs => coalesce(p_seconds, private.setting('hold_seconds')::integer))
  )
  returning * into hold;

  -- In the hold's own transaction: whatever crashes later, a request that reached a model has its row.
  insert into public.usage_logs (
    id, created_at, account_id, user_id, organization_id, api_key_id, action, resource_type, resource_id, model_id,
    provider, credential, provider_key_id, credits_held, is_streamed, ip_address, user_agent
  ) values (
    v_id, v_now, p_account.id, p_user_id, p_account.organization_id, p_limits.api_key_id, p_action,
    p_usage ->> 'resource_type', (p_usage ->> 'resource_id')::uuid, p_usage ->> 'model_id', p_usage ->> 'provider',
    coalesce(p_usage ->> 'credential', 'platform'), (p_usage ->> 'provider_key_id')::uuid, p_amount,
    coalesce((p_usage ->> 'is_streamed')::boolean, false), (p_usage ->> 'ip_address')::inet, p_usage ->> 'user_agent'
  );
end
$$;

comment on function private.place_hold(
  public.credit_accounts, private.hold_limits, uuid, numeric, bigint, text, text, integer, jsonb, jsonb, integer
) is 'Checks every limit, moves the amount to held, and inserts the hold and its usage row, in one transaction; with it the tightest rate limit, as RateLimit headers tell it. The account is locked.';

create function private.credit_hold(
  p_user_id uuid,
  p_organization_id uuid,
  p_amount numeric,
  p_idempotency_key text,
  p_action text,
  p_seconds integer default null,
  p_tokens bigint default 0,
  p_terms jsonb default '{}',
  p_usage jsonb default '{}'
) returns private.credit_holds
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_payer record;
  v_hold private.credit_holds;
begin
  perform private.require_amount(p_amount);
  if p_idempotency_key is null or length(p_idempotency_key) not between 1 and 300 then
    perform private.fail(400, 'invalid_argument', 'An idempotency key of 1 to 300 characters is required.',
      '{"param": "idempotency_key"}');
  end if;
  if p_seconds <= 0 or p_seconds > private.setting('hold_max_seconds')::integer then
    perform private.fail(400, 'invalid_argument', 'The hold''s lifetime is out of range.', '{"param": "seconds"}');
  end if;
  if p_tokens not between 0 and 1000000000000 then
    perform private.fail(400, 'invalid_argument', 'The number of tokens is out of range.', '{"param": "tokens"}');
  end if;
  if p_action is null then
    perform private.fail(400, 'invalid_argument', 'A hold says what it is for.', '{"param": "action"}');
  end if;
  v_payer := private.payer(p_user_id, p_organization_id);
  select h.* into v_hold
  from private.credit_holds as h
  where h.account_id = (v_payer.account).id and h.idempotency_key = p_idempotency_key
  order by h.attempt desc
  limit 1;
  if v_hold.id is not null then
    if v_hold.amount <> p_amount or v_hold.action <> p_action or v_hold.tokens <> p_tokens
       or v_hold.user_id is distinct from p_user_id then
      perform private.fail(409, 'idempotency_conflict', 'This idempotency key was already used with other arguments.');
    end if;
    -- What was released can no longer be charged, so its key runs again. An expired hold still can be.
    if v_hold.status <> 'released' then
      return v_hold;
    end if;
  end if;
  return (private.place_hold(
    v_payer.account, v_payer.limits, p_user_id, p_amount, p_tokens, p_idempotency_key, p_action, p_seconds, p_terms,
    p_usage, coalesce(v_hold.attempt, 0) + 1
  )).hold;
end
$$;

comment on function private.credit_hold(uuid, uuid, numeric, text, text, integer, bigint, jsonb, jsonb) is
'Reserves credits before work starts. Same key and arguments: the same hold, or a fresh one where it was released.';

create function private.lock_hold(
  p_hold_id uuid, out hold private.credit_holds, out account public.credit_accounts
)
language plpgsql volatile security definer set search_path = ''
as $$
begin
  select h.account_id into hold.account_id from private.credit_holds as h where h.id = p_hold_id;
  if hold.account_id is null then
    perform private.fail(404, 'hold_not_found', 'There is no such hold.');
  end if;
  account := private.lock_account(hold.account_id);
  select h.* into strict hold from private.credit_holds as h where h.id = p_hold_id for update;
end
$$;

comment on function private.lock_hold(uuid) is 'Locks a hold''s account, then the hold; 404 hold_not_found.';

create function private.close_hold(
  p_hold private.credit_holds, p_organization_id uuid, p_spent numeric, p_tokens bigint
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_hold.api_key_id is not null then
    perform private.api_key_give_back(
      p_hold.api_key_id, p_hold.status = 'active', p_hold.amount, p_hold.tokens, p_spent, p_tokens, p_hold.created_at
    );
  end if;
  if p_organization_id is not null and p_hold.user_id is not null then
    update private.member_spending as s
    set held = s.held - case when p_hold.status = 'active' then p_hold.amount else 0 end,
      spent = p_spent + case when s.period_start >= private.month_start(now()) then s.spent else 0 end,
      -- Never back: a transaction that began before midnight may come after one that began later.
      period_start = greatest(s.period_start, private.month_start(now()))
    where s.organization_id = p_organization_id and s.user_id = p_hold.user_id;
  end if;
end
$$;

comment on function private.close_hold(private.credit_holds, uuid, numeric, bigint) is
'Moves a member''s and an API key''s share of a finished hold from held to spent.';

create function private.settle_hold(
  p_hold private.credit_holds,
  p_account public.credit_accounts,
  p_amount numeric,
  p_tokens bigint,
  p_usage jsonb
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold private.credit_holds := p_hold;
  v_account public.credit_accounts := p_account;
  v_taken record;
  v_owed numeric := 0;
  v_is_late boolean;
begin
  perform private.require_amount(p_amount);
  if v_hold.status = 'settled' and v_hold.settled_amount = p_amount then
    return private.account_summary(v_account.id)
      || jsonb_build_object('hold_id', v_hold.id, 'charged', v_hold.settled_amount, 'replayed', true);
  elsif v_hold.status = 'settled' then
    perform private.fail(409, 'hold_already_settled', 'This hold was already settled for another amount.');
  elsif v_hold.status = 'released' then
    perform private.fail(409, 'hold_released', 'This hold was already released.');
  end if;
  if p_amount > v_hold.amount then
    perform private.fail(400, 'settle_exceeds_hold', 'A settlement cannot exceed its hold.',
      jsonb_build_object('held', v_hold.amount));
  end if;

  v_is_late := v_hold.status = 'expired';
  if v_is_late then
    -- The reaper has given the credits back, so others may have them: charge what is free, owe the rest.
    v_owed := p_amount - least(p_amount, greatest(v_account.balance + v_account.debt - v_account.held, 0));
  end if;

  update public.credit_accounts as a
  set held = a.held - case when v_is_late then 0 else v_hold.amount end,
    active_holds = a.active_holds - case when v_is_late then 0 else 1 end,
    tokens_held = a.tokens_held - case when v_is_late then 0 else v_hold.tokens end,
    period_tokens = a.period_tokens + p_tokens,
    period_credits = a.period_credits + p_amount,
    lifetime_spent = a.lifetime_spent + p_amount,
    balance = a.balance - p_amount,
    debt = a.debt + v_owed,
    version = a.version + case when p_amount > 0 then 1 else 0 end,
    updated_at = now()
  where a.id = v_account.id
  returning a.* into v_account;

  if p_amount > 0 then
    v_taken := private.take_from_lots(
      v_account.id, p_amount - v_owed, coalesce(v_account.next_expiry_at <= now(), false)
    );
    insert into public.credit_transactions (
      account_id, version, operation, type, amount, debt_change, balance_after, lot_ids, lot_amounts, reference_id,
      description
    ) values (
      v_account.id, v_account.version, 'settle', 'usage', -p_amount, v_owed, v_account.balance, v_taken.lot_ids,
      v_taken.lot_amounts, v_hold.id, v_hold.action
    );
  end if;

  perform private.close_hold(v_hold, v_account.organization_id, p_amount, p_tokens);
  update private.credit_holds as h
  set status = 'settled', settled_amount = p_amount, finished_at = clock_timestamp()
  where h.id = v_hold.id;
  perform private.finish_usage(v_hold, p_amount, p_usage);

  if v_account.debt > 0 or v_account.next_expiry_at <= now() then
    perform private.come_off_hold(v_account);
    return private.account_summary(v_account.id)
      || jsonb_build_object('hold_id', v_hold.id, 'charged', p_amount, 'replayed', false);
  end if;
  return jsonb_build_object(
    'account_id', v_account.id, 'balance', v_account.balance, 'held', v_account.held,
    'available', v_account.balance - v_account.held, 'debt', v_account.debt,
    'hold_id', v_hold.id, 'charged', p_amount, 'replayed', false
  );
end
$$;

comment on function private.settle_hold(private.credit_holds, public.credit_accounts, numeric, bigint, jsonb) is
'Charges a hold that lock_hold has locked, as credit_settle does.';

create function private.credit_settle(
  p_hold_id uuid,
  p_amount numeric,
  p_tokens bigint default 0,
  p_usage jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_locked record;
begin
  perform private.require_amount(p_amount);
  v_locked := private.lock_hold(p_hold_id);
  return private.settle_hold(v_locked.hold, v_locked.account, p_amount, p_tokens, p_usage);
end
$$;

comment on function private.credit_settle(uuid, numeric, bigint, jsonb) is
'Charges what the work cost, at most what was held, and finalizes its usage row. After the reaper it still charges, once, into debt if need be.';

create function private.credit_release(
  p_hold_id uuid,
  p_reason text,
  p_status text default 'released',
  p_usage jsonb default '{}',
  p_is_counted boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_locked record;
  v_hold private.credit_holds;
  v_account public.credit_accounts;
begin
  v_locked := private.lock_hold(p_hold_id);
  v_hold := v_locked.hold;
  v_account := v_locked.account;
  if v_hold.status = 'settled' then
    perform private.fail(409, 'hold_already_settled', 'This hold was already settled.');
  end if;
  if v_hold.status = 'active' then
    update public.credit_accounts as a
    set held = a.held - v_hold.amount,
      active_holds = a.active_holds - 1,
      tokens_held = a.tokens_held - v_hold.tokens,
      -- A request that failed is none of the month's; one that vanished may have been answered, and stays.
      period_requests = a.period_requests - case
        when p_is_counted or p_status <> 'released' or v_hold.created_at < a.period_start then 0
        else least(a.period_requests, 1)
      end,
      updated_at = now()
    where a.id = v_account.id
    returning a.* into v_account;
    perform private.close_hold(v_hold, v_account.organization_id, 0, 0);
    update private.credit_holds as h
    set status = p_status, reason = p_reason, finished_at = clock_timestamp()
    where h.id = p_hold_id;
    perform private.finish_usage(v_hold, 0, coalesce(p_usage, '{}'::jsonb) || jsonb_build_object(
      'status', case when p_status = 'expired' then 'expired' else 'failed' end, 'error_code', p_reason));
    perform private.come_off_hold(v_account);
  elsif v_hold.status = 'expired' and p_status = 'released' then
    -- The work says it failed after the reaper had already returned the credits: now it can no longer be charged.
    update private.credit_holds as h set status = 'released', reason = p_reason where h.id = p_hold_id;
    perform private.finish_usage(v_hold, 0, coalesce(p_usage, '{}'::jsonb)
      || jsonb_build_object('status', 'failed', 'error_code', p_reason));
  end if;
  return private.account_summary(v_account.id) || jsonb_build_object('hold_id', p_hold_id, 'charged', 0);
end
$$;

comment on function private.credit_release(uuid, text, text, jsonb, boolean) is
'Returns a hold without a charge and finalizes its usage row; the request is none of the month''s unless it expired or p_is_counted. Again: no change. Settled: 409 hold_already_settled.';

create function private.credit_extend(p_hold_id uuid, p_seconds integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold private.credit_holds;
  v_limit timestamptz;
begin
  select h.* into v_hold from private.credit_holds as h where h.id = p_hold_id for update;
  if v_hold.id is null then
    perform private.fail(404, 'hold_not_found', 'There is no such hold.');
  end if;
  if p_seconds is null or p_seconds <= 0 then
    perform private.fail(400, 'invalid_argument', 'The extension must be positive.', '{"param": "seconds"}');
  end if;
  if v_hold.status <> 'active' then
    perform private.fail(409, 'hold_' || case v_hold.status when 'settled' then 'already_settled' else v_hold.status end,
      'Only an active hold can be extended.');
  end if;
  v_limit := v_hold.created_at + make_interval(secs => private.setting('hold_max_seconds')::integer);
  update private.credit_holds as h
  set deadline = greatest(h.deadline, least(clock_timestamp() + make_interval(secs => p_seconds), v_limit))
  where h.id = p_hold_id
  returning h.* into v_hold;
  return jsonb_build_object('hold_id', p_hold_id, 'deadline', v_hold.deadline);
end
$$;

comment on function private.credit_extend(uuid, integer) is
'Moves an active hold''s deadline to p_seconds from now, never earlier than it was and never past the longest life of a hold.';

create function private.credit_refund(p_hold_id uuid, p_amount numeric, p_idempotency_key text, p_reason text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_locked record;
  v_hold private.credit_holds;
  v_account public.credit_accounts;
  v_replay public.credit_transactions;
  v_fingerprint text;
  v_repaid numeric;
  v_lots record;
  v_returned record;
  v_transaction_id uuid;
begin
  perform private.require_amount(p_amount, 0.000001);
  v_locked := private.lock_hold(p_hold_id);
  v_hold := v_locked.hold;
  v_account := v_locked.account;
  v_fingerprint := md5(jsonb_build_array(p_hold_id, trim_scale(p_amount))::text);
  v_replay := private.find_replay(v_account.id, 'refund', p_idempotency_key, v_fingerprint);
  if v_replay.id is not null then
    return private.account_summary(v_account.id)
      || jsonb_build_object('transaction_id', v_replay.id, 'refunded', v_replay.amount, 'replayed', true);
  end if;
  if v_hold.status <> 'settled' or v_hold.refunded_amount + p_amount > v_hold.settled_amount then
    perform private.fail(400, 'refund_exceeds_settlement', 'A refund cannot exceed what was charged.', jsonb_build_object(
      'charged', coalesce(v_hold.settled_amount, 0), 'refunded', v_hold.refunded_amount));
  end if;

  -- What the settlement took from each lot and earlier refunds have not put back, last lot first.
  select array_agg(o.lot_id order by o.place desc) as lot_ids, array_agg(o.owed order by o.place desc) as limits
  into v_lots
  from private.owed_to_lots(v_account.id, p_hold_id, '{settle,refund}') as o;

  v_repaid := least(v_account.debt, p_amount);
  v_returned := private.return_to_lots(
    v_account.id, p_amount - v_repaid, coalesce(v_lots.lot_ids, '{}'), coalesce(v_lots.limits, '{}'), p_reason
  );
  v_transaction_id := private.write_transaction(
    v_account.id, 'refund', 'refund', p_amount, -v_repaid, v_returned.lot_ids, v_returned.lot_amounts, p_hold_id,
    p_reason, p_idempotency_key, v_fingerprint
  );
  update private.credit_holds as h set refunded_amount = h.refunded_amount + p_amount where h.id = p_hold_id;
  update public.credit_accounts as a
  set lifetime_spent = a.lifetime_spent - p_amount,
    period_credits = case
      when v_hold.finished_at >= a.period_start then greatest(a.period_credits - p_amount, 0) else a.period_credits
    end
  where a.id = v_account.id;
  update private.member_spending as s
  set spent = greatest(s.spent - p_amount, 0)
  where s.organization_id = v_account.organization_id and s.user_id = v_hold.user_id
    and v_hold.finished_at >= s.period_start;
  if v_hold.api_key_id is not null then
    update private.api_key_states as s
    set total_credits = greatest(s.total_credits - p_amount, 0),
      period_credits = case
        when v_hold.finished_at >= s.period_start then greatest(s.period_credits - p_amount, 0) else s.period_credits
      end
    where s.api_key_id = v_hold.api_key_id;
  end if;
  return private.account_summary(v_account.id)
    || jsonb_build_object('transaction_id', v_transaction_id, 'refunded', p_amount, 'replayed', false);
end
$$;

comment on function private.credit_refund(uuid, numeric, text, text) is
'Gives back part or all of a settlement: debt first, then the lots it came from, a new lot with a grace period for those that expired.';

create function private.credit_claw_back(p_lot_id uuid, p_target numeric, p_reason text, p_reference text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lot public.credit_lots;
  v_account public.credit_accounts;
  v_expired numeric;
  v_target numeric;
  v_change numeric;
  v_from_lots numeric;
  v_repaid numeric;
  v_taken record;
  v_moved record;
begin
  perform private.require_amount(p_target);
  select l.* into v_lot from public.credit_lots as l where l.id = p_lot_id;
  if v_lot.id is null then
    perform private.fail(404, 'lot_not_found', 'There is no such lot of credits.');
  end if;
  v_account := private.lock_account(v_lot.account_id);
  select l.* into strict v_lot from public.credit_lots as l where l.id = p_lot_id;
  if p_target > v_lot.amount then
    perform private.fail(400, 'invalid_amount', 'No more can be taken back than was granted.',
      jsonb_build_object('granted', v_lot.amount));
  end if;

  -- What expired unspent is gone already, here or in a lot that stood in for this one; taking it again would take other
  -- credits, or make debt, for nothing.
  select sum(l.expired) into v_expired from public.credit_lots as l where l.id = p_lot_id or l.stands_in_for = p_lot_id;
  v_target := least(p_target, greatest(v_lot.amount - v_expired, v_lot.clawed_back));
  v_change := v_target - v_lot.clawed_back;
  if v_change > 0 then
    -- From the lot itself and what stands in for it, then from what else is not on hold; what is missing was spent and becomes debt.
    v_from_lots := least(v_change, v_account.balance + v_account.debt - v_account.held);
    v_moved := private.take_from_lots(
      v_account.id, v_from_lots, coalesce(v_account.next_expiry_at <= now(), false), p_lot_id
    );
    perform private.write_transaction(
      v_account.id, 'claw_back', 'clawback', -v_change, v_change - v_from_lots, v_moved.lot_ids, v_moved.lot_amounts,
      p_lot_id, p_reason, null, null, jsonb_build_object('reference', p_reference)
    );
  elsif v_change < 0 then
    v_repaid := least(v_account.debt, -v_change);
    -- To the lots it was taken from, this one last.
    select coalesce(array_agg(o.lot_id order by o.lot_id = p_lot_id, o.lot_id), '{}') as lot_ids,
      coalesce(array_agg(o.owed order by o.lot_id = p_lot_id, o.lot_id), '{}') as limits
    into v_taken
    from private.owed_to_lots(v_account.id, p_lot_id, '{claw_back,give_back}') as o;
    v_moved := private.return_to_lots(
      v_account.id, -v_change - v_repaid, v_taken.lot_ids, v_taken.limits, p_reason
    );
    perform private.write_transaction(
      v_account.id, 'give_back', 'clawback_return', -v_change, -v_repaid, v_moved.lot_ids, v_moved.lot_amounts,
      p_lot_id, p_reason, null, null, jsonb_build_object('reference', p_reference)
    );
  end if;
  update public.credit_lots as l set clawed_back = v_target where l.id = p_lot_id and l.clawed_back <> v_target;
  return private.account_summary(v_account.id) || jsonb_build_object('delta', v_change, 'clawed_back', v_target);
end
$$;

comment on function private.credit_claw_back(uuid, numeric, text, text) is
'Brings the total taken back from a lot to p_target credits: more takes the difference, except what expired unspent, into debt where it was spent; less gives it back. A target, so repeating it changes nothing.';

create function private.credit_reap(p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold record;
  v_count integer := 0;
  v_now timestamptz := clock_timestamp();
begin
  for v_hold in
    select h.id, h.account_id
    from private.credit_holds as h
    where h.status = 'active' and h.deadline < v_now
    order by h.deadline
    limit p_limit
  loop
    -- An account somebody is working on is left for the next run, so the reaper never waits and never deadlocks.
    perform 1 from public.credit_accounts as a where a.id = v_hold.account_id for no key update skip locked;
    continue when not found;
    perform 1 from private.credit_holds as h
    where h.id = v_hold.id and h.status = 'active' and h.deadline < clock_timestamp()
    for update skip locked;
    continue when not found;
    begin
      perform private.credit_release(v_hold.id, 'deadline_passed', 'expired');
      v_count := v_count + 1;
    exception when others then
      -- One damaged account must not keep everybody else's credits on hold; sql/checks finds what stays.
      raise warning 'hold % was not returned: %', v_hold.id, sqlerrm;
    end;
  end loop;
  return v_count;
end
$$;

comment on function private.credit_reap(integer) is 'Returns up to p_limit holds past their deadline; how many it returned.';

create function private.credit_expire(p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account record;
  v_count integer := 0;
begin
  for v_account in
    select a.id
    from public.credit_accounts as a
    where a.next_expiry_at <= now()
    order by a.next_expiry_at
    limit p_limit
    for no key update skip locked
  loop
    begin
      if private.expire_lots(v_account.id) > 0 then
        v_count := v_count + 1;
      end if;
    exception when others then
      raise warning 'lots of account % were not expired: %', v_account.id, sqlerrm;
    end;
  end loop;
  return v_count;
end
$$;

comment on function private.credit_expire(integer) is 'Expires lots of up to p_limit accounts that are due; how many accounts lost credits.';

create function private.balance_of(p_account_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $$
  with due as (
    -- Lots past their date that the sweep has not reached yet count as gone, except what is on hold (as in
    -- private.expire_lots).
    select greatest(coalesce(sum(l.remaining), 0) - a.held, 0) as credits
    from public.credit_accounts as a
    left join public.credit_lots as l on l.account_id = a.id and l.used_at is null and l.expires_at <= now()
    where a.id = p_account_id
    group by a.held
  )
  select jsonb_build_object(
    'account_id', a.id,
    'user_id', a.user_id,
    'organization_id', a.organization_id,
    'balance', a.balance - due.credits,
    'held', a.held,
    'available', a.balance - due.credits - a.held,
    'debt', a.debt,
    'lifetime_granted', a.lifetime_granted,
    'lifetime_spent', a.lifetime_spent,
    'monthly_credit_budget', a.monthly_credit_budget,
    'period', jsonb_build_object(
      'start', private.month_start(now()),
      'requests', case when a.period_start >= private.month_start(now()) then a.period_requests else 0 end,
      'tokens', case when a.period_start >= private.month_start(now()) then a.period_tokens else 0 end,
      'credits', case when a.period_start >= private.month_start(now()) then a.period_credits else 0 end
    ),
    'lots', coalesce((
      select jsonb_agg(jsonb_build_object(
        'lot_id', l.id, 'source', l.source, 'amount', l.amount, 'remaining', l.remaining, 'expires_at', l.expires_at
      ) order by l.priority, l.expires_at, l.created_at, l.id)
      from (
        select lot.*
        from public.credit_lots as lot
        where lot.account_id = a.id and lot.used_at is null and coalesce(lot.expires_at > now(), true)
        order by lot.priority, lot.expires_at, lot.created_at, lot.id
        limit 100
      ) as l
    ), '[]'::jsonb)
  )
  from public.credit_accounts as a
  cross join due
  where a.id = p_account_id
$$;

comment on function private.balance_of(uuid) is 'Balance, this month''s use and the next 100 lots to be spent of an account, as JSON.';

create function private.statement_of(p_account_id uuid, p_limit integer, p_before bigint) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_entries jsonb;
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    perform private.fail(400, 'invalid_argument', 'The limit must be between 1 and 1000.', '{"param": "limit"}');
  end if;
  select coalesce(jsonb_agg(jsonb_build_object(
    'version', t.version, 'transaction_id', t.id, 'created_at', t.created_at, 'type', t.type, 'amount', t.amount,
    'debt_change', t.debt_change, 'balance_before', t.balance_before, 'balance_after', t.balance_after,
    'description', t.description, 'reference_id', t.reference_id,
    'lots', (
      select coalesce(jsonb_agg(jsonb_build_object('lot_id', u.lot_id, 'amount', u.change)), '[]'::jsonb)
      from unnest(t.lot_ids, t.lot_amounts) as u (lot_id, change)
    )
  ) order by t.version desc), '[]'::jsonb)
  into v_entries
  from (
    select e.*
    from public.credit_transactions as e
    where e.account_id = p_account_id and e.version < coalesce(p_before, 9223372036854775807)
    order by e.version desc
    limit p_limit
  ) as t;
  return jsonb_build_object(
    'account_id', p_account_id,
    'entries', v_entries,
    'next_before', case when jsonb_array_length(v_entries) = p_limit then v_entries -> -1 -> 'version' end
  );
end
$$;

comment on function private.statement_of(uuid, integer, bigint) is
'Ledger of an account, newest first, before a version (keyset pagination).';

-- ---------------------------------------------------------------------------------------------------------------
-- Accounts open themselves; the signup credits come once, when the email address is verified
-- ---------------------------------------------------------------------------------------------------------------

create function private.grant_signup_credits(p_user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, null);
  v_amount numeric := private.setting('signup_credits')::numeric;
begin
  perform private.lock_account(v_account_id);
  -- Asked for by name and not through the replay, so that changing the amount later never fails a sign-in.
  if v_amount > 0 and not exists (
    select 1 from public.credit_transactions as t
    where t.account_id = v_account_id and t.operation = 'grant' and t.idempotency_key = 'signup'
  ) then
    perform private.credit_grant(v_account_id, v_amount, 'bonus', 'signup', p_reason => 'Welcome credits');
  end if;
end
$$;

comment on function private.grant_signup_credits(uuid) is 'Grants the welcome credits, once in an account''s life.';

create function private.open_user_account() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    insert into public.credit_accounts (user_id) values (new.id);
  end if;
  if new.email_verified_at is not null then
    perform private.grant_signup_credits(new.id);
  end if;
  return null;
end
$$;

comment on function private.open_user_account() is 'Trigger: opens a new user''s account, and grants the welcome credits once the email address is verified.';

create trigger profiles_open_account
after insert or update of email_verified_at on public.profiles
for each row execute function private.open_user_account();

-- Who signed up before this chapter was applied.
insert into public.credit_accounts (user_id) select p.id from public.profiles as p;
do $$
begin
  perform private.grant_signup_credits(p.id) from public.profiles as p where p.email_verified_at is not null;
end
$$;

create function private.open_organization_account() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.credit_accounts (organization_id) values (new.id);
  return null;
end
$$;

comment on function private.open_organization_account() is 'Trigger: opens a new organization''s account.';

create trigger organizations_open_account
after insert on public.organizations
for each row execute function private.open_organization_account();

-- ---------------------------------------------------------------------------------------------------------------
-- For functions/: backend.*
-- ---------------------------------------------------------------------------------------------------------------

create function backend.credit_grant(
  p_user_id uuid default null,
  p_organization_id uuid default null,
  p_amount numeric default null,
  p_source text default null,
  p_idempotency_key text default null,
  p_reason text default null,
  p_expires_at timestamptz default null,
  p_priority integer default 100,
  p_actor text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.account_id(p_user_id, p_organization_id);
  v_before jsonb := private.account_summary(v_account_id);
  -- A name of their own: the welcome credits and payments have keys that an operator could type.
  v_key text := 'operator:' || nullif(p_idempotency_key, '');
  v_result jsonb;
begin
  if p_source is null or p_source not in ('promotional', 'compensation', 'adjustment', 'bonus') then
    perform private.fail(400, 'invalid_argument',
      'An operator grants promotional, compensation, adjustment or bonus credits; purchases come from payments.',
      '{"param": "source"}');
  end if;
  v_result := private.credit_grant(
    v_account_id, p_amount, p_source, v_key, p_expires_at, coalesce(p_priority, 100), p_reason,
    p_is_expiry_fixed => true
  );
  if not (v_result ->> 'replayed')::boolean then
    perform private.record_operator_action(
      p_actor, 'credit_grant', v_account_id::text, v_before, v_result, p_reason
    );
  end if;
  return v_result;
end
$$;

comment on function backend.credit_grant(uuid, uuid, numeric, text, text, text, timestamptz, integer, text) is
'An operator grants credits; leaves an audit row. The key is kept as operator:KEY.';

create function backend.credit_hold(
  p_user_id uuid,
  p_organization_id uuid,
  p_amount numeric,
  p_idempotency_key text,
  p_action text,
  p_seconds integer default null,
  p_tokens bigint default 0
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_hold private.credit_holds;
begin
  if p_organization_id is not null then
    perform private.require_member(p_user_id, p_organization_id::text);
  end if;
  v_hold := private.credit_hold(
    p_user_id, p_organization_id, p_amount, p_idempotency_key, p_action, p_seconds, coalesce(p_tokens, 0)
  );
  return private.account_summary(v_hold.account_id) || jsonb_build_object(
    'hold_id', v_hold.id, 'amount', v_hold.amount, 'status', v_hold.status, 'deadline', v_hold.deadline
  );
end
$$;

comment on function backend.credit_hold(uuid, uuid, numeric, text, text, integer, bigint) is
'Reserves credits before work starts.';

create function backend.credit_extend(p_hold_id uuid, p_seconds integer) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.credit_extend(p_hold_id, p_seconds) $$;

comment on function backend.credit_extend(uuid, integer) is 'Keeps a hold alive while its work goes on.';

create function backend.credit_settle(p_hold_id uuid, p_amount numeric) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.credit_settle(p_hold_id, p_amount) $$;

comment on function backend.credit_settle(uuid, numeric) is 'Charges what the work cost.';

create function backend.credit_release(p_hold_id uuid, p_reason text default null) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.credit_release(p_hold_id, coalesce(p_reason, 'released')) $$;

comment on function backend.credit_release(uuid, text) is 'Returns a hold without a charge.';

create function backend.credit_refund(
  p_hold_id uuid, p_amount numeric, p_idempotency_key text, p_reason text default null
) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.credit_refund(p_hold_id, p_amount, p_idempotency_key, p_reason) $$;

comment on function backend.credit_refund(uuid, numeric, text, text) is 'Gives back part or all of a settlement.';

create function backend.credit_balance(p_user_id uuid default null, p_organization_id uuid default null) returns jsonb
language sql stable security definer set search_path = ''
as $$ select private.balance_of(private.account_id(p_user_id, p_organization_id)) $$;

comment on function backend.credit_balance(uuid, uuid) is 'Balance of a user or an organization.';

create function backend.credit_statement(
  p_user_id uuid default null,
  p_organization_id uuid default null,
  p_limit integer default 50,
  p_before bigint default null
) returns jsonb
language sql stable security definer set search_path = ''
as $$ select private.statement_of(private.account_id(p_user_id, p_organization_id), p_limit, p_before) $$;

comment on function backend.credit_statement(uuid, uuid, integer, bigint) is 'Ledger of a user or an organization.';

create function backend.credit_reap(p_limit integer default 500) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.credit_reap(p_limit)) $$;

comment on function backend.credit_reap(integer) is 'Returns holds past their deadline.';

create function backend.credit_expire(p_limit integer default 500) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.credit_expire(p_limit)) $$;

comment on function backend.credit_expire(integer) is 'Expires lots past their date.';

grant execute on function
backend.credit_grant(uuid, uuid, numeric, text, text, text, timestamptz, integer, text),
backend.credit_hold(uuid, uuid, numeric, text, text, integer, bigint),
backend.credit_extend(uuid, integer),
backend.credit_settle(uuid, numeric),
backend.credit_release(uuid, text),
backend.credit_refund(uuid, numeric, text, text),
backend.credit_balance(uuid, uuid),
backend.credit_statement(uuid, uuid, integer, bigint),
backend.credit_reap(integer),
backend.credit_expire(integer)
to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- For clients: invoker wrappers over private definers that look at who is asking
-- ---------------------------------------------------------------------------------------------------------------

create function private.my_account_id(p_organization_id uuid, p_is_statement boolean) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.active_user_id();
begin
  if v_user_id is null then
    perform private.fail(403, 'account_suspended', 'Sign in with an active account.');
  end if;
  if p_organization_id is not null and p_is_statement then
    perform private.require_admin(v_user_id, p_organization_id::text);
  elsif p_organization_id is not null then
    perform private.require_member(v_user_id, p_organization_id::text);
  end if;
  return private.account_id(v_user_id, p_organization_id);
end
$$;

comment on function private.my_account_id(uuid, boolean) is
'The caller''s account, or that of an organization they belong to (for a statement: administer).';

create function private.my_credit_balance(p_organization_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.balance_of(private.my_account_id(p_organization_id, false));
end
$$;

comment on function private.my_credit_balance(uuid) is 'Balance for the calling client.';

create function private.my_credit_statement(p_organization_id uuid, p_limit integer, p_before bigint) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return private.statement_of(private.my_account_id(p_organization_id, true), p_limit, p_before);
end
$$;

comment on function private.my_credit_statement(uuid, integer, bigint) is 'Ledger for the calling client.';

create function private.set_my_monthly_budget(p_budget numeric, p_organization_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_account_id uuid := private.my_account_id(p_organization_id, true);
begin
  if p_budget is not null then
    perform private.require_amount(p_budget);
  end if;
  perform private.lock_account(v_account_id);
  update public.credit_accounts as a
  set monthly_credit_budget = p_budget, updated_at = now()
  where a.id = v_account_id;
  return private.balance_of(v_account_id);
end
$$;

comment on function private.set_my_monthly_budget(numeric, uuid) is 'Sets or lifts (null) the monthly budget of the caller''s account, or of an organization they administer.';

create function public.credit_balance(p_organization_id uuid default null) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_credit_balance(p_organization_id) $$;

comment on function public.credit_balance(uuid) is 'Your balance, or that of an organization you belong to.';

create function public.credit_statement(
  p_organization_id uuid default null, p_limit integer default 50, p_before bigint default null
) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_credit_statement(p_organization_id, p_limit, p_before) $$;

comment on function public.credit_statement(uuid, integer, bigint) is 'Your ledger, or that of an organization you administer, newest first.';

create function public.set_monthly_budget(p_budget numeric, p_organization_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.set_my_monthly_budget(p_budget, p_organization_id) $$;

comment on function public.set_monthly_budget(numeric, uuid) is 'Sets your monthly budget in credits, or that of an organization you administer; null lifts it.';

-- Computed fields of the profile: `profiles?select=*,credits_balance,lifetime_credits`.
create function public.credits_balance(p_profile public.profiles) returns numeric
language sql stable security invoker set search_path = ''
as $$ select a.balance from public.credit_accounts as a where a.user_id = p_profile.id $$;

comment on function public.credits_balance(public.profiles) is 'Computed field: the balance of the profile''s account.';

create function public.lifetime_credits(p_profile public.profiles) returns numeric
language sql stable security invoker set search_path = ''
as $$ select a.lifetime_granted from public.credit_accounts as a where a.user_id = p_profile.id $$;

comment on function public.lifetime_credits(public.profiles) is 'Computed field: credits ever granted to the profile''s account.';

grant execute on function
private.my_credit_balance(uuid),
private.my_credit_statement(uuid, integer, bigint),
private.set_my_monthly_budget(numeric, uuid),
public.credit_balance(uuid),
public.credit_statement(uuid, integer, bigint),
public.set_monthly_budget(numeric, uuid),
public.credits_balance(public.profiles),
public.lifetime_credits(public.profiles)
to authenticated;
