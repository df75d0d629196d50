-- A table that is said to be nobody's has no foreign key that leads to a person, and no column that names one, unless
-- it says why; and none of its columns is personal.
-- Mend: say in private.personal_tables how the rows of a person are found in it, or for what reason there are none.
with recursive of_people (relation) as (
  select 'auth.users'::regclass::oid as relation
  union
  select f.conrelid as relation
  from pg_constraint as f
  inner join of_people as p on f.confrelid = p.relation
  where f.contype = 'f'
),

nobodys as (
  select
    p.table_schema,
    p.table_name,
    p.reason,
    to_regclass(format('%I.%I', p.table_schema, p.table_name)) as relation
  from private.personal_tables as p
  where p.rows_of is null
)

select
  n.relation::text as subject,
  jsonb_build_object('foreign_key', true) as detail
from nobodys as n
where n.reason is null and n.relation in (select p.relation from of_people as p)
union all
select
  n.relation::text as subject,
  jsonb_build_object('column', a.attname) as detail
from nobodys as n
inner join pg_attribute as a on n.relation = a.attrelid
where n.reason is null
  and a.attnum > 0
  and not a.attisdropped
  and a.attname in (
    'user_id', 'owner', 'owner_id', 'author', 'author_id', 'actor', 'actor_id', 'created_by', 'invited_by',
    'accepted_by', 'started_by', 'bought_by', 'email', 'phone', 'ip', 'ip_address', 'user_agent', 'pseudonym',
    'account_id', 'organization_id', 'api_key_id', 'provider_key_id', 'conversation_id', 'message_id', 'document_id',
    'image_id', 'generation_id', 'invitation_id', 'notification_id', 'endpoint_id', 'customer_id', 'stripe_customer_id'
  )
union all
select
  n.relation::text as subject,
  jsonb_build_object('column', d.column_name) as detail
from nobodys as n
inner join private.personal_data as d on n.table_schema = d.table_schema and n.table_name = d.table_name;
