-- A recorded invoice was paid exactly what the payments recorded for it say, and is paid with the last of them.
-- Mend: Look into private.operator_actions for what was recorded, and write the amounts of the invoice anew.
select
  i.id::text as subject,
  jsonb_build_object(
    'number', i.number, 'status', i.status, 'due_minor', i.amount_due_minor, 'paid_minor', i.amount_paid_minor,
    'remaining_minor', i.amount_remaining_minor, 'payments_minor', coalesce(p.amount_minor, 0)
  ) as detail
from public.invoices as i
left join (
  select
    r.invoice_id,
    sum(r.amount_minor) as amount_minor
  from public.payments as r
  where r.invoice_id is not null
  group by r.invoice_id
) as p on p.invoice_id = i.id
where i.provider <> 'stripe'
  and (
    i.amount_paid_minor <> coalesce(p.amount_minor, 0)
    or i.amount_paid_minor + i.amount_remaining_minor <> i.amount_due_minor
    or (i.status = 'paid') <> (i.amount_remaining_minor = 0)
  );
