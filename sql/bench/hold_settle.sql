-- One request as the ledger sees it: hold the worst case, then settle half of it. Two commits.
\set account random(1, :accounts)
select
  backend.credit_hold(
    ('00000000-0000-4000-8000-' || lpad((:account)::text, 12, '0'))::uuid, null, 1, gen_random_uuid()::text, 'bench'
  ) ->> 'hold_id' as hold
\gset
select backend.credit_settle((:hold)::uuid, 0.5);
