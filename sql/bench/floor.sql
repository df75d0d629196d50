-- The least that could be called a ledger: a conditional UPDATE and an INSERT in one function. One commit.
\set account random(1, :accounts)
select bench.spend(:account, 0.5);
