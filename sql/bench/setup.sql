-- Accounts for the ledger benchmark: :accounts users with a million credits each on the plan without limits, and the
-- table of the floor it is compared with.

insert into auth.users (id, email)
select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'bench-' || n || '@example.com'
from generate_series(1, :accounts) as n;

update public.profiles
set plan_id = (select p.id from public.plans as p where p.slug = 'enterprise')
where email like 'bench-%@example.com';

select
  count(
    backend.credit_grant(
      p_user_id => p.id, p_amount => 1000000, p_source => 'adjustment', p_idempotency_key => 'bench',
      p_actor => 'bench', p_reason => 'Benchmark'
    )
  ) as accounts
from public.profiles as p
where p.email like 'bench-%@example.com';

create schema bench;
create table bench.accounts (id integer primary key, balance numeric(20, 6) not null);
create table bench.entries (
  id bigint generated always as identity primary key,
  account_id integer not null,
  amount numeric(20, 6) not null,
  created_at timestamptz not null default now()
);
insert into bench.accounts (id, balance) select n, 1000000 from generate_series(1, :accounts) as n;

create function bench.spend(p_account integer, p_amount numeric) returns numeric
language plpgsql set search_path = ''
as $$
declare
  v_balance numeric;
begin
  update bench.accounts as a
  set balance = a.balance - p_amount
  where a.id = p_account and a.balance >= p_amount
  returning a.balance into v_balance;
  insert into bench.entries (account_id, amount) values (p_account, -p_amount);
  return v_balance;
end
$$;
