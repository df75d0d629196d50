-- No account has reached a threshold of use that its owner was not told of.
-- Mend: Telling failed: the log says why ("the use of account … was not told"). The next request tries again.
select
  a.id::text as subject,
  jsonb_build_object(
    'period_tokens', a.period_tokens, 'next_tokens_threshold', a.next_tokens_threshold,
    'period_requests', a.period_requests, 'next_requests_threshold', a.next_requests_threshold,
    'period_credits', a.period_credits, 'next_credits_threshold', a.next_credits_threshold
  ) as detail
from public.credit_accounts as a
where num_nonnulls(a.user_id, a.organization_id) = 1
  and (
    a.period_tokens >= a.next_tokens_threshold
    or a.period_requests >= a.next_requests_threshold
    or a.period_credits >= a.next_credits_threshold
  );
