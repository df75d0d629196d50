-- Erasure: a person goes, with everything that says something about them, and a row remains that says it was done.
--
--   private.erasures   requested → executing → done, or cancelled within the grace period
--
-- The work is the task person_erase (functions/privacy/tasks.py), made from the catalogue of the chapter before. Each
-- of its calls is one transaction that does a bounded part, and every part can be done again: a task that died begins
-- at the first step and finds little left to do. The order:
--
--   1. erasure_begin     suspends the person, so that nothing new is made, and notes what is theirs
--   2. erasure_step      deletes or empties rows, table after table, some hundred at a time
--   3. at Stripe         their customers are deleted, which ends subscriptions and cards; invoices stay there, as the
--                        law has it, and events that come later find an account that is nobody's
--   4. in Storage        what lies in their folders is deleted
--   5. at Supabase Auth  the user is deleted, and with it the profile and what hangs on it
--   6. erasure_finish    deletes what named them until now (tasks, entries of Auth's audit log), counts again, and
--                        leaves the row without their id
--
-- Locks: the profile, then its organizations in the order of their ids, then the erasure.

insert into private.settings (name, value, description) values
('erasure_grace_days', '30', 'Days from the request of an erasure to its execution, in which it can be cancelled.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table private.erasures (
  id uuid primary key default private.uuid7(),
  user_id uuid,
  pseudonym uuid,
  state text not null default 'requested',
  requested_by text not null,
  requested_at timestamptz not null default now(),
  due_at timestamptz not null,
  cancelled_at timestamptz,
  started_at timestamptz,
  done_at timestamptz,
  organization_ids uuid[] not null default '{}',
  account_ids uuid[] not null default '{}',
  emails text[] not null default '{}',
  erased jsonb not null default '{}',
  constraint state_is_known check (state in ('requested', 'executing', 'done', 'cancelled')),
  constraint requested_by_is_known check (requested_by in ('person', 'operator')),
  constraint a_cancelled_erasure_says_when check ((state = 'cancelled') = (cancelled_at is not null)),
  constraint an_erasure_that_began_says_when check ((state in ('executing', 'done')) = (started_at is not null)),
  constraint a_finished_erasure_says_when check ((state = 'done') = (done_at is not null)),
  constraint whoever_is_to_be_erased_is_known check (user_id is not null or state in ('done', 'cancelled')),
  constraint nobody_is_known_afterwards check (
    state <> 'done' or (user_id is null and emails = '{}' and organization_ids = '{}' and account_ids = '{}')
  )
);

comment on table private.erasures is 'Requests to be erased; of one that was executed what remains: a pseudonym, when, and how many rows of which table.';
comment on column private.erasures.id is 'Identifies the erasure.';
comment on column private.erasures.user_id is 'Who is to be erased; null once they are. No foreign key: it is needed after they are gone.';
comment on column private.erasures.pseudonym is 'The name by which append-only rows know them; null until it begins.';
comment on column private.erasures.state is 'requested, executing, done or cancelled.';
comment on column private.erasures.requested_by is 'person or operator.';
comment on column private.erasures.requested_at is 'When it was asked for.';
comment on column private.erasures.due_at is 'When it is executed.';
comment on column private.erasures.cancelled_at is 'When it was cancelled.';
comment on column private.erasures.started_at is 'When its execution began.';
comment on column private.erasures.done_at is 'When nothing was left.';
comment on column private.erasures.organization_ids is 'While it is executed: the organizations without another member, which go too.';
comment on column private.erasures.account_ids is 'While it is executed: the credit accounts of both.';
comment on column private.erasures.emails is 'While it is executed: their addresses, by which later rows are found.';
comment on column private.erasures.erased is 'How many rows of which table were deleted or emptied, step by step.';

create unique index erasures_of_a_person_are_one_at_a_time
on private.erasures (user_id) where state in ('requested', 'executing');
create index erasures_by_user on private.erasures (user_id, requested_at desc) where user_id is not null;
create index erasures_to_execute on private.erasures (due_at) where state in ('requested', 'executing');

alter table private.erasures enable row level security;

insert into private.personal_tables
(table_schema, table_name, rows_of, erasure, erased_by, retention, reason)
values (
  'private', 'erasures', 't.user_id = $1', 'forget', 'end', 'for ever',
  'Proves that a request was met; names a pseudonym that leads to nobody.'
);

insert into private.personal_data (table_schema, table_name, column_name, kind, erasure, is_exported) values
('private', 'erasures', 'user_id', 'identifier', 'null', true),
('private', 'erasures', 'pseudonym', 'identifier', 'keep', true),
('private', 'erasures', 'emails', 'contact', 'null', true),
('private', 'erasures', 'state', 'none', 'keep', true),
('private', 'erasures', 'requested_by', 'none', 'keep', true),
('private', 'erasures', 'erased', 'none', 'keep', true);

-- ---------------------------------------------------------------------------------------------------------------
-- Asking for it
-- ---------------------------------------------------------------------------------------------------------------

create function private.erasure_json(p_erasure private.erasures) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_erasure.id, 'state', p_erasure.state, 'requested_at', p_erasure.requested_at, 'due_at', p_erasure.due_at,
    'cancelled_at', p_erasure.cancelled_at
  );
end
$$;

comment on function private.erasure_json(private.erasures) is 'An erasure as its person sees it.';

create function private.enqueue_erasure(p_id uuid) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- The task knows the id of the erasure and nothing about the person.
  return private.task_enqueue('person_erase', jsonb_build_object('erasure_id', p_id), p_id::text, now(), 20);
end
$$;

comment on function private.enqueue_erasure(uuid) is 'Has a worker execute an erasure.';

create function private.organizations_without_another_owner(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((
    select jsonb_agg(jsonb_build_object('id', o.id, 'name', o.name, 'slug', o.slug) order by o.slug)
    from public.organizations as o
    inner join public.organization_members as mine on o.id = mine.organization_id
    where mine.user_id = p_user_id and mine.role = 'owner' and o.is_active
      and exists (
        select from public.organization_members as m where m.organization_id = o.id and m.user_id <> p_user_id
      )
      and not exists (
        select from public.organization_members as m
        where m.organization_id = o.id and m.user_id <> p_user_id and m.role = 'owner'
      )
  ), '[]');
end
$$;

comment on function private.organizations_without_another_owner(uuid) is
'Organizations with other members that would have no owner without this person.';

create function backend.erasure_request(
  p_user_id uuid, p_actor text default null, p_reason text default null, p_grace_days integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_erasure private.erasures;
  v_owned jsonb;
  v_days integer := greatest(coalesce(p_grace_days, private.setting('erasure_grace_days')::integer), 0);
begin
  -- A suspended person may ask too: the right to be forgotten is not lost by a suspension.
  perform p.id from public.profiles as p where p.id = p_user_id for no key update;
  if not found then
    perform private.fail(404, 'user_not_found', 'There is no such user.');
  end if;
  select * into v_erasure
  from private.erasures as e
  where e.user_id = p_user_id and e.state in ('requested', 'executing');
  if found then
    return private.erasure_json(v_erasure);
  end if;
  v_owned := private.organizations_without_another_owner(p_user_id);
  if v_owned <> '[]' then
    perform private.fail(
      409, 'organization_needs_an_owner',
      'Make somebody else an owner of your organizations first: their other members would be left without one.',
      jsonb_build_object('organizations', v_owned)
    );
  end if;
  insert into private.erasures as e (user_id, requested_by, due_at)
  values (
    p_user_id, case when p_actor is null then 'person' else 'operator' end, now() + make_interval(days => v_days)
  )
  returning e.* into v_erasure;
  if p_actor is not null then
    perform private.record_operator_action(
      p_actor, 'erasure_request', 'user:' || private.pseudonym(p_user_id), null,
      jsonb_build_object('erasure_id', v_erasure.id, 'due_at', v_erasure.due_at), p_reason
    );
  end if;
  if v_erasure.due_at <= now() then
    perform private.enqueue_erasure(v_erasure.id);
  end if;
  return private.erasure_json(v_erasure);
end
$$;

comment on function backend.erasure_request(uuid, text, text, integer) is
'Asks for the erasure of a person, for themselves or (p_actor) by an operator, after erasure_grace_days or p_grace_days; asked again, the same. 409 organization_needs_an_owner while they are the only owner of an organization with other members; 404 user_not_found.';

create function backend.erasure_status(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_erasure private.erasures;
begin
  select * into v_erasure
  from private.erasures as e
  where e.user_id = p_user_id
  order by e.requested_at desc, e.id desc
  limit 1;
  if not found then
    perform private.fail(404, 'erasure_not_found', 'No erasure was asked for.');
  end if;
  return private.erasure_json(v_erasure);
end
$$;

comment on function backend.erasure_status(uuid) is 'The latest request of a person to be erased; 404 erasure_not_found.';

create function backend.erasure_cancel(p_user_id uuid, p_actor text default null, p_reason text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_erasure private.erasures;
begin
  select * into v_erasure
  from private.erasures as e
  where e.user_id = p_user_id and e.state in ('requested', 'executing')
  for update;
  if not found then
    perform private.fail(404, 'erasure_not_found', 'No erasure was asked for.');
  elsif v_erasure.state = 'executing' then
    perform private.fail(409, 'erasure_started', 'The erasure has begun and cannot be cancelled any more.');
  end if;
  update private.erasures as e
  set state = 'cancelled', cancelled_at = now()
  where e.id = v_erasure.id
  returning e.* into v_erasure;
  if p_actor is not null then
    perform private.record_operator_action(
      p_actor, 'erasure_cancel', 'user:' || private.pseudonym(p_user_id), null,
      jsonb_build_object('erasure_id', v_erasure.id), p_reason
    );
  end if;
  return private.erasure_json(v_erasure);
end
$$;

comment on function backend.erasure_cancel(uuid, text, text) is
'Cancels an erasure within its grace period; everything is as it was. 404 erasure_not_found, 409 erasure_started.';

create function backend.erasures_due(p_limit integer default 100) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select e.id
    from private.erasures as e
    where e.state in ('requested', 'executing') and e.due_at <= now()
      -- One that was given up is an operator's to look at (quernel tasks retry).
      and not exists (
        select from private.tasks as t
        where t.kind = 'person_erase' and t.key = e.id::text and t.status in ('queued', 'running', 'dead')
      )
    order by e.due_at
    limit p_limit
  );
  perform private.enqueue_erasure(i.id) from unnest(v_ids) as i (id);
  return jsonb_build_object('count', cardinality(v_ids));
end
$$;

comment on function backend.erasures_due(integer) is
'Has workers execute the erasures whose grace period is over, and go on with those that waited for something; {"count": tasks}.';

-- ---------------------------------------------------------------------------------------------------------------
-- Doing it
-- ---------------------------------------------------------------------------------------------------------------

create function private.erasure_scope(p_erasure private.erasures) returns private.person_scope
language plpgsql immutable set search_path = ''
as $$
begin
  return row(p_erasure.user_id, p_erasure.organization_ids, p_erasure.account_ids, p_erasure.emails)
    ::private.person_scope;
end
$$;

comment on function private.erasure_scope(private.erasures) is 'What the person had when the execution began, for the predicates of the catalogue.';

create function backend.erasure_begin(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_erasure private.erasures;
  v_scope private.person_scope;
begin
  select * into v_erasure from private.erasures as e where e.id = p_id;
  -- Before the row, as whoever asks for an erasure does.
  perform p.id from public.profiles as p where p.id = v_erasure.user_id for no key update;
  if found then
    perform o.id
    from public.organizations as o
    inner join public.organization_members as m on o.id = m.organization_id
    where m.user_id = v_erasure.user_id
    order by o.id
    for no key update of o;
  end if;
  select * into v_erasure from private.erasures as e where e.id = p_id for update;
  if not found or v_erasure.state in ('done', 'cancelled') or v_erasure.due_at > now() then
    return null;
  end if;
  if exists (select from public.profiles as p where p.id = v_erasure.user_id) then
    v_scope := private.person_scope(v_erasure.user_id);
    update public.profiles as p set is_active = false where p.id = v_erasure.user_id and p.is_active;
    -- Nobody joins an organization that is about to go; whoever does so now waits for its row.
    delete from public.organization_invitations as i where i.organization_id = any(v_scope.organization_ids);
    update private.erasures as e
    set pseudonym = private.pseudonym(e.user_id),
      -- What was theirs at an earlier attempt and is gone since has left rows that are found by its id alone.
      organization_ids = array(select unnest(v_scope.organization_ids) union select unnest(e.organization_ids)),
      account_ids = array(select unnest(v_scope.account_ids) union select unnest(e.account_ids)),
      emails = array(select unnest(v_scope.emails) union select unnest(e.emails))
    where e.id = p_id;
  end if;
  update private.erasures as e
  set state = 'executing', started_at = coalesce(e.started_at, now())
  where e.id = p_id
  returning e.* into v_erasure;
  return jsonb_build_object(
    'user_id', v_erasure.user_id,
    'customers', array(
      select c.customer_id
      from private.stripe_customers as c
      where c.account_id = any(v_erasure.account_ids) and c.customer_id is not null and c.deleted_at is null
      order by c.customer_id
    )
  );
end
$$;

comment on function backend.erasure_begin(uuid) is
'Begins the execution of an erasure that is due, or goes on with it: the person is suspended, what is theirs is noted. {user_id, customers: ids at Stripe}; null when there is nothing to do.';

create function private.erase_rows(
  p_table private.personal_tables, p_scope private.person_scope, p_limit integer
) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_relation regclass := to_regclass(format('%I.%I', p_table.table_schema, p_table.table_name));
  v_leaf regclass;
  v_columns text[];
  v_query text;
  v_count bigint;
  v_total bigint := 0;
begin
  if p_table.erasure = 'forget' then
    -- What names the person is taken away by a foreign key or a trigger, when they go.
    v_columns := array(
      select format('%I', d.column_name)
      from private.personal_data as d
      where d.table_schema = p_table.table_schema and d.table_name = p_table.table_name
        and d.erasure = 'null' and d.kind <> 'identifier'
    );
  end if;
  -- Rows are named by where they lie, which is so within a partition only.
  for v_leaf in
    select r.relid from pg_catalog.pg_partition_tree(v_relation) as r where r.isleaf
    union all
    select v_relation where not exists (select from pg_catalog.pg_partition_tree(v_relation))
  loop
    v_query := format('select t.ctid from %s as t where (%s)', v_leaf, p_table.rows_of);
    if p_table.erasure = 'forget' then
      v_query := format(
        'update %s as d set %s where d.ctid = any(array(%s and num_nonnulls(%s) > 0 limit $5))',
        v_leaf,
        (select string_agg(c || ' = null', ', ') from unnest(v_columns) as c),
        v_query,
        (select string_agg('t.' || c, ', ') from unnest(v_columns) as c)
      );
    else
      v_query := format('delete from %s as d where d.ctid = any(array(%s limit $5))', v_leaf, v_query);
    end if;
    execute v_query
    using p_scope.user_id, p_scope.organization_ids, p_scope.account_ids, p_scope.emails, p_limit - v_total;
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;
    exit when v_total >= p_limit;
  end loop;
  return v_total;
end
$$;

comment on function private.erase_rows(private.personal_tables, private.person_scope, integer) is
'Deletes up to so many rows of a person in one table of the catalogue, or empties them; the number.';

create function private.note_erased(p_id uuid, p_table private.personal_tables, p_count bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_name text := p_table.table_schema || '.' || p_table.table_name;
begin
  update private.erasures as e
  set erased = e.erased || jsonb_build_object(v_name, coalesce((e.erased ->> v_name)::bigint, 0) + p_count)
  where e.id = p_id;
end
$$;

comment on function private.note_erased(uuid, private.personal_tables, bigint) is 'Writes down how many rows of a table went.';

create function backend.erasure_step(p_id uuid, p_position integer default 0, p_limit integer default 200)
returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '60s'
as $$
declare
  v_erasure private.erasures;
  v_table private.personal_tables;
  v_count bigint;
begin
  select * into v_erasure from private.erasures as e where e.id = p_id and e.state = 'executing' for update;
  if not found then
    return jsonb_build_object('position', null, 'count', 0);
  end if;
  for v_table in
    select * from private.personal_tables as p
    where p.erased_by = 'step' and p.position >= p_position
    order by p.position, p.table_name
  loop
    v_count := private.erase_rows(v_table, private.erasure_scope(v_erasure), p_limit);
    if v_count > 0 then
      perform private.note_erased(p_id, v_table, v_count);
      return jsonb_build_object('position', v_table.position, 'count', v_count);
    end if;
  end loop;
  return jsonb_build_object('position', null, 'count', 0);
end
$$;

comment on function backend.erasure_step(uuid, integer, integer) is
'Erases up to p_limit rows of the first table from p_position on that has any: {position, count}, to be called again with that position; position null when no step has anything left to do.';

create function backend.erasure_objects(p_id uuid, p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_erasure private.erasures;
  v_scope private.person_scope;
  v_rows_of text;
  v_objects jsonb;
begin
  select * into v_erasure from private.erasures as e where e.id = p_id and e.state = 'executing';
  if not found then
    return '{"objects": []}';
  end if;
  v_scope := private.erasure_scope(v_erasure);
  select p.rows_of into v_rows_of
  from private.personal_tables as p where p.table_schema = 'storage' and p.table_name = 'objects';
  execute format(
    'select coalesce(jsonb_agg(jsonb_build_object(''bucket'', o.bucket_id, ''paths'', o.paths)), ''[]'')'
    ' from (select f.bucket_id, jsonb_agg(f.name) as paths'
    '  from (select t.bucket_id, t.name from storage.objects as t where %s order by t.name limit $5) as f'
    '  group by f.bucket_id) as o', v_rows_of
  )
  into v_objects
  using v_scope.user_id, v_scope.organization_ids, v_scope.account_ids, v_scope.emails, p_limit;
  if v_objects = '[]' then
    -- What they put into the folder of an organization is the organization's; it no longer says who did.
    update storage.objects as o set owner = null, owner_id = null where o.owner_id = v_scope.user_id::text;
  end if;
  return jsonb_build_object('objects', v_objects);
end
$$;

comment on function backend.erasure_objects(uuid, integer) is
'Up to p_limit objects of Storage that go with the person: {objects: [{bucket, paths}]}. They are deleted through the Storage API.';

create function backend.erasure_finish(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '600s'
as $$
declare
  v_erasure private.erasures;
  v_scope private.person_scope;
  v_table private.personal_tables;
  v_is_waiting boolean;
  v_count bigint;
  v_left jsonb;
begin
  select * into v_erasure from private.erasures as e where e.id = p_id and e.state = 'executing' for update;
  if not found then
    return jsonb_build_object('state', 'done');
  end if;
  v_scope := private.erasure_scope(v_erasure);
  if exists (select from auth.users as u where u.id = v_scope.user_id) then
    return jsonb_build_object('state', 'executing', 'waits_for', 'auth.users');
  end if;
  -- What is still to be done has names in it: files to be deleted, now and when an address to upload to is good no more.
  execute format(
    'select exists (select from private.tasks as t where t.status in (''queued'', ''running'') and (%s))',
    (select p.rows_of from private.personal_tables as p where p.table_schema = 'private' and p.table_name = 'tasks')
  )
  into v_is_waiting
  using v_scope.user_id, v_scope.organization_ids, v_scope.account_ids, v_scope.emails;
  if v_is_waiting then
    return jsonb_build_object('state', 'executing', 'waits_for', 'private.tasks');
  end if;
  if exists (select from private.user_generation_stats as s where s.user_id = v_scope.user_id) then
    refresh materialized view concurrently private.user_generation_stats;
  end if;
  for v_table in
    select * from private.personal_tables as p where p.erased_by = 'afterwards' order by p.position
  loop
    v_count := private.erase_rows(v_table, v_scope, 1000000);
    if v_count > 0 then
      perform private.note_erased(p_id, v_table, v_count);
    end if;
  end loop;
  select jsonb_object_agg(c.table_schema || '.' || c.table_name, c.row_count) into v_left
  from private.count_person_rows(v_scope) as c
  where c.erasure = 'delete' and c.row_count > 0;
  if v_left is not null then
    return jsonb_build_object('state', 'executing', 'waits_for', (select min(l.key) from jsonb_each(v_left) as l));
  end if;
  update private.erasures as e
  set state = case e.id when p_id then 'done' else e.state end,
    done_at = case e.id when p_id then now() end,
    user_id = null, organization_ids = '{}', account_ids = '{}', emails = '{}'
  where e.user_id = v_scope.user_id;
  return jsonb_build_object('state', 'done');
end
$$;

comment on function backend.erasure_finish(uuid) is
'Deletes what named the person until now and counts what is left. {state: done}, or {state: executing, waits_for: table}, which has something left.';

grant execute on function
backend.erasure_request(uuid, text, text, integer),
backend.erasure_status(uuid),
backend.erasure_cancel(uuid, text, text),
backend.erasures_due(integer),
backend.erasure_begin(uuid),
backend.erasure_step(uuid, integer, integer),
backend.erasure_objects(uuid, integer),
backend.erasure_finish(uuid)
to service_role;
