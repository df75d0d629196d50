-- Customers at Stripe for the accounts of setup.sql, what Stripe tells of their payments, and how to fill the inbox.

insert into private.stripe_customers (user_id, account_id, customer_id, attached_at)
select
  a.user_id,
  a.id,
  'cus_bench_' || right(a.user_id::text, 12),
  now()
from public.credit_accounts as a
where a.user_id::text like '00000000-0000-4000-8000-%';

create function bench.stripe_event(p_account integer) returns jsonb
language sql volatile set search_path = ''
as $$
  select jsonb_build_object(
    'id', 'evt_' || i.id, 'object', 'event', 'type', 'payment_intent.succeeded', 'livemode', false,
    'created', floor(extract(epoch from now()))::bigint,
    'data', jsonb_build_object('object', jsonb_build_object(
      'id', 'pi_' || i.id, 'object', 'payment_intent', 'status', 'succeeded', 'amount', 500, 'currency', 'eur',
      'customer', 'cus_bench_' || lpad(p_account::text, 12, '0'),
      'created', floor(extract(epoch from now()))::bigint, 'metadata', '{}'::jsonb, 'last_payment_error', null
    ))
  )
  from (select replace(gen_random_uuid()::text, '-', '') as id) as i
$$;

-- As many finished events, objects and payments as there are numbers in between, as if they had been applied.
create procedure bench.fill_inbox(p_from bigint, p_until bigint, p_accounts integer)
language sql set search_path = ''
as $$
  with filled as materialized (
    select md5(n::text) as id, bench.stripe_event((n % p_accounts + 1)::integer) as payload
    from generate_series(p_from, p_until) as n
  ),

  events as (
    insert into private.stripe_events (
      id, type, object_type, object_id, livemode, created, payload, status, outcome, attempts, finished_at
    )
    select
      'evt_' || f.id, 'payment_intent.succeeded', 'payment_intent', 'pi_' || f.id, false, now(), f.payload, 'applied',
      '{}', 1, now()
    from filled as f
  ),

  objects as (
    insert into private.stripe_objects (id, type, event_id, newest_from, newest_until, revision, state)
    select 'pi_' || f.id, 'payment_intent', 'evt_' || f.id, now(), now(), 1, f.payload #> '{data,object}'
    from filled as f
  )

  insert into public.payments (
    user_id, account_id, status, amount_minor, currency, provider_transaction_id, stripe_customer_id, processed_at
  )
  select c.user_id, c.account_id, 'succeeded', 500, 'eur', 'pi_' || f.id, c.customer_id, now()
  from filled as f
  inner join private.stripe_customers as c on c.customer_id = f.payload #>> '{data,object,customer}'
$$;
