-- A lot that stands in for another stands in for one of the same account that had expired, and never for a stand-in.
-- Mend: A lot was changed past the ledger; a clawback of the other may take too much or too little.
select
  l.id::text as subject,
  jsonb_build_object('stands_in_for', l.stands_in_for, 'expired_at', o.expires_at) as detail
from public.credit_lots as l
inner join public.credit_lots as o on o.id = l.stands_in_for
where o.account_id <> l.account_id
  or o.expires_at is null
  or o.expires_at > l.created_at
  or o.stands_in_for is not null;
