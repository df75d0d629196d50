-- The ledger and the operators' log refuse UPDATE, DELETE and TRUNCATE for every role, replication included.
-- Mend: create the missing trigger on private.refuse_change(), and alter table … enable always trigger … for each.
with guarded as (
  select
    t.tgrelid,
    -- Bits of tgtype, from pg_trigger.h: 8 delete, 16 update, 32 truncate.
    bit_or(t.tgtype::integer) filter (where t.tgenabled = 'A') as events
  from pg_trigger as t
  where t.tgfoid = 'private.refuse_change()'::regprocedure
  group by t.tgrelid
)

select
  r.relation::text as subject,
  jsonb_build_object('refuses', array_remove(array[
    case when g.events & 8 > 0 then 'delete' end,
    case when g.events & 16 > 0 then 'update' end,
    case when g.events & 32 > 0 then 'truncate' end
  ], null)) as detail
from unnest('{public.credit_transactions,private.operator_actions}'::regclass[]) as r (relation)
left join guarded as g on r.relation = g.tgrelid
where coalesce(g.events, 0) & 56 <> 56
union all
select
  format('%s: %s', t.tgrelid::regclass, t.tgname) as subject,
  jsonb_build_object('enabled', t.tgenabled) as detail
from pg_trigger as t
where t.tgfoid = 'private.refuse_change()'::regprocedure
  and t.tgenabled <> 'A';
