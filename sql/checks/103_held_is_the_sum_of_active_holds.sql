-- What an account has on hold is the sum of its active holds, in credits, tokens and number.
-- Mend: Run `quernel cron reap_holds`; if it stays, release the holds named by hand.
select
  a.id::text as subject,
  jsonb_build_object(
    'held', a.held, 'holds', coalesce(h.amount, 0), 'active_holds', a.active_holds, 'count', coalesce(h.count, 0),
    'tokens_held', a.tokens_held, 'tokens', coalesce(h.tokens, 0)
  ) as detail
from public.credit_accounts as a
left join (
  select hold.account_id, sum(hold.amount) as amount, sum(hold.tokens) as tokens, count(*) as count
  from private.credit_holds as hold
  where hold.status = 'active'
  group by hold.account_id
) as h on h.account_id = a.id
where a.held <> coalesce(h.amount, 0)
  or a.active_holds <> coalesce(h.count, 0)
  or a.tokens_held <> coalesce(h.tokens, 0);
