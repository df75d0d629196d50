-- What a member has on hold is the sum of the active holds they placed on the organization.
-- Mend: The member's budget counts wrongly; set private.member_spending.held to the sum.
select
  coalesce(s.organization_id, h.organization_id)::text || '/' || coalesce(s.user_id, h.user_id)::text as subject,
  jsonb_build_object('held', coalesce(s.held, 0), 'holds', coalesce(h.amount, 0)) as detail
from private.member_spending as s
full join (
  select a.organization_id, hold.user_id, sum(hold.amount) as amount
  from private.credit_holds as hold
  inner join public.credit_accounts as a on a.id = hold.account_id
  where hold.status = 'active' and a.organization_id is not null and hold.user_id is not null
  group by a.organization_id, hold.user_id
) as h on h.organization_id = s.organization_id and h.user_id = s.user_id
where coalesce(s.held, 0) <> coalesce(h.amount, 0);
