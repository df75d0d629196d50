-- Nobody but the owner, which is who the functions run as, writes money, prices, usage, membership or webhooks.
-- Mend: revoke the grant. A leaked service key must not edit a lot, and a client must not raise a plan.
with granted as (
  select c.oid as relation, r.grantee, r.privilege_type, null::name as attname
  from pg_class as c
  cross join lateral aclexplode(c.relacl) as r
  union all
  select f.attrelid as relation, r.grantee, r.privilege_type, f.attname
  from pg_attribute as f
  cross join lateral aclexplode(f.attacl) as r
)

select
  c.oid::regclass::text as subject,
  jsonb_build_object(
    'grantee', case when a.grantee = 0 then 'public' else a.grantee::regrole::text end,
    'privilege', a.privilege_type, 'column', a.attname
  ) as detail
from pg_class as c
inner join granted as a on c.oid = a.relation
where c.oid in (
    'public.credit_accounts'::regclass, 'public.credit_lots'::regclass, 'public.credit_transactions'::regclass,
    'public.credit_packs'::regclass, 'public.credit_purchases'::regclass, 'public.plans'::regclass,
    'public.model_providers'::regclass, 'public.models'::regclass, 'public.usage_logs'::regclass,
    'public.organizations'::regclass, 'public.organization_members'::regclass,
    'public.organization_invitations'::regclass, 'public.webhook_endpoints'::regclass,
    'public.webhook_deliveries'::regclass, 'public.api_usage'::regclass
  )
  and a.grantee <> c.relowner
  and a.privilege_type <> 'SELECT';
