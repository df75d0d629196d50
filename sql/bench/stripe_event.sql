-- One event as the webhook hands it over: stored, applied, and its payment written. One commit.
\set account random(1, :accounts)
select backend.stripe_event_receive(bench.stripe_event(:account), false);
