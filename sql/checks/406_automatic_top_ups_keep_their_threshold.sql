-- An account asks for a top-up under the threshold of its automatic top-up, where that is on, and never otherwise.
-- Mend: Write the threshold again (`update public.auto_top_ups set threshold = threshold`): a trigger copies it.
select
  a.id::text as subject,
  jsonb_build_object('top_up_below', a.top_up_below, 'threshold', t.threshold, 'is_enabled', t.is_enabled) as detail
from public.credit_accounts as a
left join public.auto_top_ups as t on t.account_id = a.id
where a.top_up_below is distinct from case when t.is_enabled then t.threshold end;
