-- Usage has partitions for this month and the next three; without one, every request of the month would be refused.
-- Mend: quernel cron usage_partitions, and see what keeps the job from running.
select
  to_char(m.month, 'YYYY-MM') as subject,
  jsonb_build_object('partition', 'private.usage_logs_' || to_char(m.month, 'YYYY_MM')) as detail
from
  generate_series(
    date_trunc('month', now() at time zone 'utc'),
    date_trunc('month', now() at time zone 'utc') + interval '3 months',
    interval '1 month'
  ) as m (month)
where m.month at time zone 'utc' not in (select private.usage_months());
