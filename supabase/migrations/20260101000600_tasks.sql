-- Tasks: whatever must happen after a commit is a row written in the same transaction (a transactional outbox).
--
--   private.tasks      work to do: queued → running → done | dead | cancelled, and back to queued to try again
--   private.cron_jobs  work that comes round: when each job is due, and who runs it now
--   private.cron_runs  how each run of one ended
--
-- A worker claims a task and holds it by a lease: a random token and an end. It renews the lease while it works; a
-- worker that died lets it lapse, and the sweep puts the task back. Whoever lost a lease can neither renew it nor
-- report a result (409 lease_lost), so of two workers that believe they have a task only one is heard. Handlers may
-- therefore run twice and must be idempotent.
--
-- A task may work under a hold: a lease extends it, a dead or cancelled task releases it.
--
-- Locks: a task row first, then what its hold needs. Functions that visit many tasks skip the locked ones and take the
-- holds in one order.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table private.tasks (
  id uuid primary key default private.uuid7(),
  kind text not null,
  key text,
  payload jsonb not null default '{}',
  status text not null default 'queued',
  priority integer not null default 100,
  run_after timestamptz not null default now(),
  attempts integer not null default 0,
  max_attempts integer not null default 8,
  lease_token uuid,
  leased_until timestamptz,
  leased_by text,
  hold_id uuid references private.credit_holds (id),
  tenant uuid,
  result jsonb,
  last_error text,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  updated_at timestamptz not null default now(),
  request_id uuid default private.request_id(),
  constraint status_is_known check (status in ('queued', 'running', 'done', 'dead', 'cancelled')),
  constraint kind_is_snake_case check (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint key_is_not_empty check (length(key) between 1 and 300),
  constraint payload_is_an_object check (jsonb_typeof(payload) = 'object'),
  constraint a_running_task_has_a_lease_and_no_other_has
  check (num_nonnulls(lease_token, leased_until, leased_by) = case when status = 'running' then 3 else 0 end),
  constraint a_running_task_has_started check (status <> 'running' or (attempts > 0 and started_at is not null)),
  constraint a_finished_task_says_when check ((status in ('done', 'dead', 'cancelled')) = (finished_at is not null)),
  constraint a_dead_task_has_a_reason check (status <> 'dead' or last_error is not null),
  constraint only_a_done_task_has_a_result check (result is null or status = 'done'),
  constraint a_queued_task_has_attempts_left check (status <> 'queued' or attempts < max_attempts),
  constraint attempts_are_within_their_limit check (attempts between 0 and max_attempts),
  constraint max_attempts_is_between_1_and_100 check (max_attempts between 1 and 100),
  constraint worker_name_is_short check (length(leased_by) between 1 and 200),
  constraint last_error_is_short check (length(last_error) between 1 and 2000)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);

comment on table private.tasks is 'Work that must happen after a commit, written in the same transaction as its cause.';
comment on column private.tasks.id is 'Identifies the task.';
comment on column private.tasks.kind is 'Which handler does it; functions/tasks/registry.py lists them.';
comment on column private.tasks.key is 'At most one unfinished task of a kind has this key; null for no such limit.';
comment on column private.tasks.payload is 'What the handler needs to know, as a JSON object.';
comment on column private.tasks.status is 'queued, running, done, dead (given up, for an operator) or cancelled.';
comment on column private.tasks.priority is 'Lower goes first.';
comment on column private.tasks.run_after is 'Not started before this.';
comment on column private.tasks.attempts is 'Times it was started, the current one included.';
comment on column private.tasks.max_attempts is 'Attempts after which it is dead.';
comment on column private.tasks.lease_token is 'What the worker that has it must show.';
comment on column private.tasks.leased_until is 'When the sweep may give it to another worker.';
comment on column private.tasks.leased_by is 'Name of the worker that has it.';
comment on column private.tasks.hold_id is 'The hold it works under: a lease extends it, a dead task releases it.';
comment on column private.tasks.tenant is 'The person or organization that it is done for, where those take turns; null for no turns.';
comment on column private.tasks.result is 'What the handler returned.';
comment on column private.tasks.last_error is 'Why the last attempt failed, or why it was cancelled.';
comment on column private.tasks.created_at is 'When it was asked for.';
comment on column private.tasks.started_at is 'When the latest attempt began.';
comment on column private.tasks.finished_at is 'When it was done, died or was cancelled.';
comment on column private.tasks.updated_at is 'When anything in the row last changed.';
comment on column private.tasks.request_id is 'The request or cron run that asked for it, as logs have it; null for what clients caused in the database.';

create index tasks_to_claim on private.tasks (kind, priority, run_after, id) where status = 'queued';
create index tasks_to_sweep on private.tasks (leased_until) where status = 'running';
create index tasks_to_purge on private.tasks (finished_at) where status in ('done', 'cancelled');
create index tasks_to_count on private.tasks (kind) where status in ('queued', 'running', 'dead');
create index tasks_by_tenant on private.tasks (tenant, kind, created_at) where tenant is not null;
create index tasks_by_hold on private.tasks (hold_id) where hold_id is not null;
create unique index tasks_have_one_key_while_unfinished
on private.tasks (kind, key) where key is not null and status in ('queued', 'running');

create table private.cron_jobs (
  name text primary key,
  interval_seconds integer not null,
  due_at timestamptz not null default now(),
  lease_token uuid,
  leased_until timestamptz,
  leased_by text,
  last_started_at timestamptz,
  last_finished_at timestamptz,
  last_count bigint,
  last_error text,
  updated_at timestamptz not null default now(),
  constraint name_is_snake_case check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint interval_is_positive check (interval_seconds > 0),
  constraint a_lease_is_whole check (num_nonnulls(lease_token, leased_until, leased_by) in (0, 3)),
  constraint a_leased_job_has_started check (lease_token is null or last_started_at is not null),
  constraint worker_name_is_short check (length(leased_by) between 1 and 200),
  constraint last_count_is_not_negative check (last_count >= 0),
  constraint last_error_is_short check (length(last_error) between 1 and 2000)
);

comment on table private.cron_jobs is 'When each periodic job is due; its lease keeps two runs from overlapping.';
comment on column private.cron_jobs.name is 'Which job; functions/cron/jobs.py lists them.';
comment on column private.cron_jobs.interval_seconds is 'Seconds from one start to the next.';
comment on column private.cron_jobs.due_at is 'When it should run next.';
comment on column private.cron_jobs.lease_token is 'What the worker that runs it must show; null while nobody does.';
comment on column private.cron_jobs.leased_until is 'When another worker may take it over.';
comment on column private.cron_jobs.leased_by is 'Name of the worker that runs it.';
comment on column private.cron_jobs.last_started_at is 'When the latest run began.';
comment on column private.cron_jobs.last_finished_at is 'When the latest finished run ended.';
comment on column private.cron_jobs.last_count is 'Rows the latest successful run changed.';
comment on column private.cron_jobs.last_error is 'Why the latest finished run failed; null when it did not.';
comment on column private.cron_jobs.updated_at is 'When anything in the row last changed.';

create table private.cron_runs (
  id uuid primary key,
  job text not null,
  worker text not null,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  seconds numeric(12, 3) generated always as (extract(epoch from finished_at - started_at)) stored,
  count bigint,
  error text,
  constraint job_is_snake_case check (job ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint worker_name_is_short check (length(worker) between 1 and 200),
  constraint a_run_ends_after_it_began check (finished_at >= started_at),
  constraint only_a_finished_run_has_an_outcome check (finished_at is not null or num_nonnulls(count, error) = 0),
  constraint count_is_not_negative check (count >= 0),
  constraint error_is_short check (length(error) between 1 and 2000)
);

comment on table private.cron_runs is 'Every run of a periodic job: how long it took and what it changed.';
comment on column private.cron_runs.id is 'Identifies the run: the lease under which it went on.';
comment on column private.cron_runs.job is 'Which job.';
comment on column private.cron_runs.worker is 'Name of the worker that ran it.';
comment on column private.cron_runs.started_at is 'When it began.';
comment on column private.cron_runs.finished_at is 'When it ended; null while it goes on.';
comment on column private.cron_runs.seconds is 'How long it took.';
comment on column private.cron_runs.count is 'Rows it changed; null for one that failed.';
comment on column private.cron_runs.error is 'Why it failed; null for one that did not.';

create index cron_runs_by_job on private.cron_runs (job, started_at desc);
create index cron_runs_to_purge on private.cron_runs (started_at);
create index cron_runs_that_go_on on private.cron_runs (job) where finished_at is null;

-- ---------------------------------------------------------------------------------------------------------------
-- Row level security: no policy, so nobody but the functions below
-- ---------------------------------------------------------------------------------------------------------------

alter table private.tasks enable row level security;
alter table private.cron_jobs enable row level security;
alter table private.cron_runs enable row level security;

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger tasks_touch_updated_at
before update on private.tasks
for each row execute function private.touch_updated_at();

create trigger cron_jobs_touch_updated_at
before update on private.cron_jobs
for each row execute function private.touch_updated_at();

-- ---------------------------------------------------------------------------------------------------------------
-- Settings
-- ---------------------------------------------------------------------------------------------------------------

insert into private.settings (name, value, description) values
('runner_url', 'null', 'URL that pg_net calls when a task is queued, to wake the task runner; null for none.'),
('runner_headers', '{}', 'HTTP headers of that call, such as the keys that Modal''s proxy asks for.'),
('task_retention_days', '14', 'Days that done and cancelled tasks are kept.'),
('cron_run_retention_days', '14', 'Days that runs of periodic jobs are kept.');

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel: asking for work
-- ---------------------------------------------------------------------------------------------------------------

create function private.wake_runner() returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_url text := private.setting('runner_url') #>> '{}';
begin
  -- Once per transaction is enough: pg_net sends after the commit. The name is looked up at run time because the
  -- extension is not everywhere.
  if v_url is null
    or to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is null
    or current_setting('quernel.runner_is_woken', true) = 'yes' then
    return false;
  end if;
  execute 'select net.http_post(url := $1, body := ''{}''::jsonb, headers := $2)'
  using v_url,
    coalesce(private.setting('runner_headers'), '{}'::jsonb) || '{"Content-Type": "application/json"}'::jsonb;
  perform set_config('quernel.runner_is_woken', 'yes', true);
  return true;
exception when others then
  -- Waking is a courtesy; the sweep comes by anyway. A broken extension must not undo the caller's work.
  raise warning 'the task runner was not woken: %', sqlerrm;
  return false;
end
$$;

comment on function private.wake_runner() is
'Asks the task runner to come now, where pg_net is installed and runner_url is set; otherwise does nothing.';

create function private.announce_task(p_kind text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform pg_notify('quernel_tasks', p_kind);
  perform private.wake_runner();
end
$$;

comment on function private.announce_task(text) is
'Tells workers after the commit that there is something to do. Only a hint: they look by themselves too.';

create function private.task_enqueue(
  p_kind text,
  p_payload jsonb,
  p_key text default null,
  p_run_after timestamptz default now(),
  p_max_attempts integer default 8,
  p_hold_id uuid default null,
  p_priority integer default 100,
  p_tenant uuid default null
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  -- Tenants take turns: the second task of one waits for the first of another, and so on.
  v_turn integer := case
    when p_tenant is null then 0
    else (
      select least(count(*), 1000)
      from private.tasks as t
      where t.tenant = p_tenant and t.kind = p_kind and t.status in ('queued', 'running')
    )
  end;
begin
  loop
    insert into private.tasks as t (kind, payload, key, run_after, max_attempts, hold_id, priority, tenant)
    values (
      p_kind, coalesce(p_payload, '{}'::jsonb), p_key, coalesce(p_run_after, now()), p_max_attempts, p_hold_id,
      p_priority + v_turn, p_tenant
    )
    on conflict (kind, key) where key is not null and status in ('queued', 'running')
    do update set run_after = excluded.run_after
    -- Asked for earlier than before. One that waits to try again keeps its pause.
    where t.status = 'queued' and t.attempts = 0 and t.run_after > excluded.run_after
    returning t.* into v_task;
    if v_task.id is null then
      select t.* into v_task
      from private.tasks as t
      where t.kind = p_kind and t.key = p_key and t.status in ('queued', 'running');
    end if;
    -- Between the two statements the other task may have finished: then this one is free to be made.
    exit when v_task.id is not null;
  end loop;
  if v_task.hold_id is distinct from p_hold_id then
    perform private.fail(409, 'task_already_queued', 'A task with this key already works under another hold.');
  end if;
  perform private.extend_task_hold(p_hold_id, extract(epoch from v_task.run_after - now()));
  if v_task.status = 'queued' and v_task.run_after <= now() then
    perform private.announce_task(p_kind);
  end if;
  return v_task.id;
end
$$;

comment on function private.task_enqueue(text, jsonb, text, timestamptz, integer, uuid, integer, uuid) is
'Asks for work after this transaction. Of a tenant, after as many of other tenants as wait of its own. Same kind and key, not finished yet: that task''s id, no second one.';

create function private.require_task_room(p_kind text, p_tenant uuid, p_setting text) returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_most integer := (private.setting(p_setting))::integer;
  v_earliest timestamptz;
begin
  if v_most < 1 then
    return;
  end if;
  -- Of as many as are allowed the first: when it is a day old, there is room.
  select t.created_at into v_earliest
  from private.tasks as t
  where t.tenant = p_tenant and t.kind = p_kind and t.created_at > now() - interval '1 day'
  order by t.created_at desc
  offset v_most - 1
  limit 1;
  if v_earliest is not null then
    perform private.fail(429, 'rate_limited', 'That was asked for too often in a day.', jsonb_build_object(
      'limit_source', p_setting, 'maximum', v_most,
      'retry_after', ceil(extract(epoch from v_earliest + interval '1 day' - now()))
    ));
  end if;
end
$$;

comment on function private.require_task_room(text, uuid, text) is
'Refuses work of a kind for a tenant that had as much in a day as a setting allows; 0 for no limit. 429 rate_limited.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel: leases
-- ---------------------------------------------------------------------------------------------------------------

create function private.require_lease_seconds(p_lease_seconds integer) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_lease_seconds is null or p_lease_seconds not between 1 and 3600 then
    perform private.fail(400, 'invalid_argument', 'A lease lasts between 1 and 3600 seconds.',
      '{"param": "lease_seconds"}');
  end if;
end
$$;

comment on function private.require_lease_seconds(integer) is 'Refuses leases that are no use (400 invalid_argument).';

create function private.require_worker(p_worker text) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_worker is null or length(p_worker) not between 1 and 200 then
    perform private.fail(400, 'invalid_argument', 'A worker has a name of 1 to 200 characters.', '{"param": "worker"}');
  end if;
end
$$;

comment on function private.require_worker(text) is 'Refuses workers without a usable name (400 invalid_argument).';

create function private.lock_leased_task(p_id uuid, p_lease_token uuid) returns private.tasks
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
begin
  select t.* into v_task
  from private.tasks as t
  where t.id = p_id and t.status = 'running' and t.lease_token = p_lease_token
  for update;
  if v_task.id is null then
    perform private.fail(409, 'lease_lost', 'This worker no longer has the task.');
  end if;
  return v_task;
end
$$;

comment on function private.lock_leased_task(uuid, uuid) is
'Locks a task for the worker that has it; 409 lease_lost for any other.';

create function private.extend_task_hold(p_hold_id uuid, p_seconds numeric) returns timestamptz
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_status text;
begin
  -- A handler settles or releases its hold before it reports, so a hold that is closed by now is no mistake.
  select h.status into v_status from private.credit_holds as h where h.id = p_hold_id for update;
  if v_status is distinct from 'active' then
    return null;
  end if;
  -- The grace is for the next worker: the reaper must not come between a lapsed lease and the sweep.
  return (
    private.credit_extend(p_hold_id, ceil(greatest(p_seconds, 0) + private.setting('hold_seconds')::numeric)::integer)
    ->> 'deadline'
  )::timestamptz;
end
$$;

comment on function private.extend_task_hold(uuid, numeric) is
'Makes a task''s hold last p_seconds from now and a grace; says until when, null when there is none or it is closed.';

create function private.release_task_hold(p_hold_id uuid, p_reason text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_locked record;
  v_hold private.credit_holds;
begin
  if p_hold_id is null then
    return;
  end if;
  v_locked := private.lock_hold(p_hold_id);
  v_hold := v_locked.hold;
  -- One that the reaper returned is released as well: the work will not be charged any more.
  if v_hold.status in ('active', 'expired') then
    perform private.credit_release(p_hold_id, p_reason);
  end if;
end
$$;

comment on function private.release_task_hold(uuid, text) is
'Returns the hold of a task that will not be done, unless it was settled.';

create function private.task_backoff(p_attempts integer) returns interval
language sql volatile set search_path = ''
as $$
  -- 5 s, 10 s, 20 s ... at most an hour; then half of it at random, so that what failed together comes back apart.
  select make_interval(secs => least(3600, 5 * power(2, least(p_attempts, 20) - 1)) * (0.5 + random() / 2))
$$;

comment on function private.task_backoff(integer) is 'How long to wait after the given number of attempts.';

create function private.return_task(p_task private.tasks, p_error text, p_run_after timestamptz, p_is_final boolean)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  v_error text := left(coalesce(nullif(p_error, ''), 'no reason given'), 2000);
begin
  if p_is_final or p_task.attempts >= p_task.max_attempts then
    update private.tasks as t
    set status = 'dead', last_error = v_error, finished_at = now(),
      lease_token = null, leased_until = null, leased_by = null
    where t.id = p_task.id
    returning t.* into v_task;
    perform private.release_task_hold(v_task.hold_id, 'task_failed');
  else
    update private.tasks as t
    set status = 'queued', last_error = v_error, run_after = p_run_after,
      lease_token = null, leased_until = null, leased_by = null
    where t.id = p_task.id
    returning t.* into v_task;
    perform private.extend_task_hold(v_task.hold_id, extract(epoch from p_run_after - now()));
  end if;
  return jsonb_build_object('status', v_task.status, 'attempts', v_task.attempts, 'run_after', v_task.run_after);
end
$$;

comment on function private.return_task(private.tasks, text, timestamptz, boolean) is
'Ends a failed attempt of a locked task: queued again at p_run_after, or dead when it was final or the last.';

-- ---------------------------------------------------------------------------------------------------------------
-- For workers
-- ---------------------------------------------------------------------------------------------------------------

create function backend.task_claim(
  p_kinds text[], p_worker text, p_limit integer, p_lease_seconds integer, p_limits jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_claimed jsonb;
  v_hold_id uuid;
begin
  perform private.require_worker(p_worker);
  perform private.require_lease_seconds(p_lease_seconds);
  if p_limit is null or p_limit not between 1 and 100 then
    perform private.fail(400, 'invalid_argument', 'Between 1 and 100 tasks can be claimed at once.',
      '{"param": "limit"}');
  end if;

  with due as materialized (
    select n.id
    from unnest(p_kinds) as k (kind)
    -- Kind by kind, so that however many of one wait, they hide nothing of the others.
    cross join lateral (
      select t.id, t.priority, t.run_after
      from private.tasks as t
      where t.status = 'queued' and t.run_after <= now() and t.kind = k.kind
        -- Work nobody pays for any more is left to the sweep.
        and (
          t.hold_id is null
          or (select h.status from private.credit_holds as h where h.id = t.hold_id) not in ('released', 'expired')
        )
      order by t.priority, t.run_after, t.id
      limit least(p_limit, greatest(coalesce((p_limits ->> k.kind)::integer, p_limit), 0))
      for update of t skip locked
    ) as n
    order by n.priority, n.run_after, n.id
    limit p_limit
  ),

  claimed as (
    update private.tasks as t
    set status = 'running', attempts = t.attempts + 1, started_at = now(),
      lease_token = gen_random_uuid(), leased_until = now() + make_interval(secs => p_lease_seconds),
      leased_by = p_worker
    from due
    where t.id = due.id
    returning t.*
  )

  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'id', c.id, 'kind', c.kind, 'payload', c.payload, 'attempt', c.attempts, 'max_attempts', c.max_attempts,
        'lease_token', c.lease_token, 'leased_until', c.leased_until, 'hold_id', c.hold_id,
        'request_id', coalesce(c.request_id, c.id)
      )
      order by c.priority, c.run_after, c.id
    ),
    '[]'::jsonb
  )
  into v_claimed
  from claimed as c;

  for v_hold_id in
    select (c.task ->> 'hold_id')::uuid as hold_id
    from jsonb_array_elements(v_claimed) as c (task)
    where c.task ->> 'hold_id' is not null
    order by hold_id
  loop
    perform private.extend_task_hold(v_hold_id, p_lease_seconds);
  end loop;
  return v_claimed;
end
$$;

comment on function backend.task_claim(text[], text, integer, integer, jsonb) is
'Leases due tasks of these kinds to a worker, never one task to two; of a kind in p_limits no more than that. Extends the holds they work under.';

create function backend.task_renew(p_id uuid, p_lease_token uuid, p_lease_seconds integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  v_hold_deadline timestamptz;
begin
  perform private.require_lease_seconds(p_lease_seconds);
  v_task := private.lock_leased_task(p_id, p_lease_token);
  update private.tasks as t
  set leased_until = greatest(t.leased_until, clock_timestamp() + make_interval(secs => p_lease_seconds))
  where t.id = p_id
  returning t.* into v_task;
  v_hold_deadline := private.extend_task_hold(v_task.hold_id, p_lease_seconds);
  if v_hold_deadline <= clock_timestamp()
    or exists (select from private.credit_holds as h where h.id = v_task.hold_id and h.status = 'expired') then
    perform private.fail(409, 'hold_expired', 'The hold this task works under has come to its end.');
  end if;
  return jsonb_build_object('leased_until', v_task.leased_until, 'hold_deadline', v_hold_deadline);
end
$$;

comment on function backend.task_renew(uuid, uuid, integer) is
'Prolongs a lease, never shortens it, and extends the hold the task works under. 409 lease_lost, hold_expired.';

create function backend.task_complete(p_id uuid, p_lease_token uuid, p_result jsonb default null) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.lock_leased_task(p_id, p_lease_token);
  update private.tasks as t
  set status = 'done', result = p_result, finished_at = now(),
    lease_token = null, leased_until = null, leased_by = null
  where t.id = p_id;
  return jsonb_build_object('status', 'done');
end
$$;

comment on function backend.task_complete(uuid, uuid, jsonb) is
'Records that a task is done. 409 lease_lost when another may have it.';

create function backend.task_fail(
  p_id uuid, p_lease_token uuid, p_error text, p_retry_after integer default null, p_is_final boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
begin
  if p_retry_after not between 0 and 86400 then
    perform private.fail(400, 'invalid_argument', 'A retry is at most a day away.', '{"param": "retry_after"}');
  end if;
  v_task := private.lock_leased_task(p_id, p_lease_token);
  return private.return_task(
    v_task, p_error,
    now() + coalesce(make_interval(secs => p_retry_after), private.task_backoff(v_task.attempts)),
    coalesce(p_is_final, false)
  );
end
$$;

comment on function backend.task_fail(uuid, uuid, text, integer, boolean) is
'Records a failed attempt: again after a pause (p_retry_after seconds, or a growing one), dead when final or the last.';

create function backend.task_give_back(p_id uuid, p_lease_token uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
begin
  v_task := private.lock_leased_task(p_id, p_lease_token);
  update private.tasks as t
  set status = 'queued', run_after = now(), attempts = t.attempts - 1,
    lease_token = null, leased_until = null, leased_by = null
  where t.id = p_id;
  perform private.announce_task(v_task.kind);
  return jsonb_build_object('status', 'queued');
end
$$;

comment on function backend.task_give_back(uuid, uuid) is
'Puts a task back for another worker at once, not counted as an attempt: for a worker that is told to stop.';

create function backend.task_sweep(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  v_queued integer := 0;
  v_dead integer := 0;
begin
  -- Those that die come first and in the order of their accounts, because they lock them; the others lock only holds.
  for v_task in
    with lapsed as materialized (
      select t.*
      from private.tasks as t
      where t.status = 'running' and t.leased_until < now()
      order by t.leased_until
      limit least(greatest(p_limit, 1), 5000)
      for update skip locked
    )

    select l.*
    from lapsed as l
    left join private.credit_holds as h on h.id = l.hold_id
    order by l.attempts < l.max_attempts, h.account_id, l.hold_id, l.id
  loop
    if private.return_task(
      v_task,
      format('worker %s was not heard of in its lease', v_task.leased_by),
      now() + private.task_backoff(v_task.attempts),
      false
    ) ->> 'status' = 'queued' then
      v_queued := v_queued + 1;
    else
      v_dead := v_dead + 1;
    end if;
  end loop;
  return jsonb_build_object('count', v_queued + v_dead, 'queued', v_queued, 'dead', v_dead);
end
$$;

comment on function backend.task_sweep(integer) is
'Ends attempts whose lease has lapsed, as failures: their worker is gone. How many are queued again, how many died.';

create function backend.task_bury(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
  v_count integer := 0;
begin
  for v_task in
    with unpaid as materialized (
      select t.*, h.account_id
      from private.tasks as t
      inner join private.credit_holds as h on h.id = t.hold_id
      where t.status = 'queued' and h.status in ('released', 'expired')
      limit least(greatest(p_limit, 1), 5000)
      for update of t skip locked
    )

    select t.*
    from unpaid as u
    inner join private.tasks as t on t.id = u.id
    order by u.account_id, t.hold_id, t.id
  loop
    perform private.return_task(v_task, 'the credits held for it were returned before it could run', null, true);
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.task_bury(integer) is
'Ends queued tasks whose hold was returned to its owner meanwhile: nobody would pay for the work.';

create function backend.task_purge(p_days integer default null, p_limit integer default 5000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_days integer := coalesce(p_days, private.setting('task_retention_days')::integer);
  v_count integer;
begin
  if v_days < 0 then
    perform private.fail(400, 'invalid_argument', 'Tasks are kept for a number of days, not below 0.',
      '{"param": "days"}');
  end if;
  with old as materialized (
    select t.id
    from private.tasks as t
    where t.status in ('done', 'cancelled') and t.finished_at < now() - make_interval(days => v_days)
    order by t.finished_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  )

  delete from private.tasks as t
  using old
  where t.id = old.id;
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.task_purge(integer, integer) is
'Deletes at most p_limit done and cancelled tasks older than p_days (or task_retention_days). Dead ones stay.';

-- ---------------------------------------------------------------------------------------------------------------
-- For operators
-- ---------------------------------------------------------------------------------------------------------------

create function private.lock_task(p_id uuid) returns private.tasks
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks;
begin
  select t.* into v_task from private.tasks as t where t.id = p_id for update;
  if v_task.id is null then
    perform private.fail(404, 'task_not_found', 'There is no such task.');
  end if;
  return v_task;
end
$$;

comment on function private.lock_task(uuid) is 'Locks a task; 404 task_not_found.';

create function private.task_summary(p_task private.tasks) returns jsonb
language sql stable security definer set search_path = ''
as $$
  -- Without payload and result: they may be about a person, and an operator does not need them to decide.
  select jsonb_build_object(
    'id', p_task.id, 'kind', p_task.kind, 'key', p_task.key, 'status', p_task.status, 'priority', p_task.priority,
    'attempts', p_task.attempts, 'max_attempts', p_task.max_attempts, 'run_after', p_task.run_after,
    'leased_by', p_task.leased_by, 'leased_until', p_task.leased_until, 'hold_id', p_task.hold_id,
    'last_error', p_task.last_error, 'created_at', p_task.created_at, 'started_at', p_task.started_at,
    'finished_at', p_task.finished_at, 'request_id', coalesce(p_task.request_id, p_task.id)
  )
$$;

comment on function private.task_summary(private.tasks) is 'A task as operators see it, as JSON.';

create function backend.task_retry(p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks := private.lock_task(p_id);
begin
  if v_task.status <> 'dead' then
    perform private.fail(409, 'task_not_dead', 'Only a dead task can be tried again.',
      jsonb_build_object('status', v_task.status));
  end if;
  if exists (
    select from private.credit_holds as h where h.id = v_task.hold_id and h.status in ('released', 'expired')
  ) then
    perform private.fail(409, 'hold_released', 'The credits held for this task were returned; ask for it again.');
  end if;
  begin
    update private.tasks as t
    set status = 'queued', attempts = 0, run_after = now(), finished_at = null
    where t.id = p_id
    returning t.* into v_task;
  exception when unique_violation then
    perform private.fail(409, 'task_already_queued', 'Another task with the same key is queued or running.');
  end;
  perform private.announce_task(v_task.kind);
  return private.task_summary(v_task);
end
$$;

comment on function backend.task_retry(uuid) is
'Queues a dead task again, its attempts anew. 409 task_not_dead, hold_released, task_already_queued; 404.';

create function private.task_cancel(p_id uuid, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_task private.tasks := private.lock_task(p_id);
begin
  if v_task.status = 'done' then
    perform private.fail(409, 'task_already_done', 'This task is done.');
  end if;
  if v_task.status <> 'cancelled' then
    update private.tasks as t
    set status = 'cancelled', last_error = left(nullif(p_reason, ''), 2000), finished_at = now(),
      lease_token = null, leased_until = null, leased_by = null
    where t.id = p_id
    returning t.* into v_task;
    perform private.release_task_hold(v_task.hold_id, 'task_cancelled');
  end if;
  return private.task_summary(v_task);
end
$$;

comment on function private.task_cancel(uuid, text) is
'Calls a task off and returns its hold; its worker learns so at the next renewal. 409 task_already_done.';

create function backend.task_cancel(p_id uuid, p_reason text) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.task_cancel(p_id, p_reason) $$;

comment on function backend.task_cancel(uuid, text) is 'For operators: private.task_cancel.';

create function backend.task_list(
  p_status text default null,
  p_kind text default null,
  p_limit integer default 50,
  p_before uuid default null,
  p_request_id uuid default null
) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(private.task_summary(l.task) order by (l.task).id desc), '[]'::jsonb)
  from (
    select t as task
    from private.tasks as t
    where (p_status is null or t.status = p_status)
      and (p_kind is null or t.kind = p_kind)
      and (p_before is null or t.id < p_before)
      and (p_request_id is null or t.request_id = p_request_id or t.id = p_request_id)
    order by t.id desc
    limit least(greatest(p_limit, 1), 500)
  ) as l
$$;

comment on function backend.task_list(text, text, integer, uuid, uuid) is
'Tasks, newest first, without their payloads; p_before is the last id of the page before.';

create function backend.task_status(p_kinds text[] default null) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'queued', count(*) filter (where t.status = 'queued'),
    'due', count(*) filter (where t.status = 'queued' and t.run_after <= now()),
    'oldest_due_at', min(t.run_after) filter (where t.status = 'queued' and t.run_after <= now()),
    'running', count(*) filter (where t.status = 'running'),
    'lapsed', count(*) filter (where t.status = 'running' and t.leased_until < now()),
    'dead', count(*) filter (where t.status = 'dead')
  )
  from private.tasks as t
  where t.status in ('queued', 'running', 'dead') and (p_kinds is null or t.kind = any(p_kinds))
$$;

comment on function backend.task_status(text[]) is
'How many tasks (of these kinds, or of all) wait, are due, run, have lost their worker or died.';

-- ---------------------------------------------------------------------------------------------------------------
-- Cron
-- ---------------------------------------------------------------------------------------------------------------

create function private.lease_cron_job(p_name text, p_worker text, p_lease_seconds integer) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lease_token uuid;
begin
  update private.cron_jobs as j
  set lease_token = gen_random_uuid(), leased_until = now() + make_interval(secs => p_lease_seconds),
    leased_by = p_worker, last_started_at = now()
  where j.name = p_name
  returning j.lease_token into v_lease_token;
  update private.cron_runs as r
  set finished_at = clock_timestamp(), error = 'the worker was not heard of in its lease'
  where r.job = p_name and r.finished_at is null;
  insert into private.cron_runs (id, job, worker) values (v_lease_token, p_name, p_worker);
  return v_lease_token;
end
$$;

comment on function private.lease_cron_job(text, text, integer) is 'Gives a locked job to a worker.';

create function backend.cron_claim(p_intervals jsonb, p_worker text, p_lease_seconds integer default 600) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_name text;
  v_due jsonb := '[]';
  v_next timestamptz;
begin
  perform private.require_worker(p_worker);
  perform private.require_lease_seconds(p_lease_seconds);
  insert into private.cron_jobs as j (name, interval_seconds)
  select i.key, i.value::integer
  from jsonb_each_text(p_intervals) as i
  order by i.key
  on conflict (name) do update set
    interval_seconds = excluded.interval_seconds,
    due_at = least(j.due_at, now() + make_interval(secs => excluded.interval_seconds))
  where j.interval_seconds <> excluded.interval_seconds;

  for v_name in
    select j.name
    from private.cron_jobs as j
    where p_intervals ? j.name and j.due_at <= now() and (j.leased_until is null or j.leased_until < now())
    order by j.name
    for update skip locked
  loop
    v_due := v_due || jsonb_build_object(
      'name', v_name, 'lease_token', private.lease_cron_job(v_name, p_worker, p_lease_seconds)
    );
  end loop;

  select min(greatest(j.due_at, coalesce(j.leased_until, j.due_at))) into v_next
  from private.cron_jobs as j
  where p_intervals ? j.name;
  return jsonb_build_object('due', v_due, 'next_in_seconds', round(greatest(extract(epoch from v_next - now()), 0), 3));
end
$$;

comment on function backend.cron_claim(jsonb, text, integer) is
'Leases the jobs that are due, out of {name: seconds between runs}, to a worker: each once per interval.';

create function backend.cron_start(
  p_name text, p_interval_seconds integer, p_worker text, p_lease_seconds integer default 600
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_job private.cron_jobs;
begin
  perform private.require_worker(p_worker);
  perform private.require_lease_seconds(p_lease_seconds);
  insert into private.cron_jobs (name, interval_seconds) values (p_name, p_interval_seconds)
  on conflict (name) do nothing;
  select j.* into v_job from private.cron_jobs as j where j.name = p_name for update;
  if v_job.leased_until >= now() then
    perform private.fail(409, 'cron_job_running', 'This job is running.', jsonb_build_object(
      'worker', v_job.leased_by, 'retry_after', ceil(extract(epoch from v_job.leased_until - now()))));
  end if;
  return jsonb_build_object('name', p_name, 'lease_token', private.lease_cron_job(p_name, p_worker, p_lease_seconds));
end
$$;

comment on function backend.cron_start(text, integer, text, integer) is
'Starts a job for an operator, due or not. 409 cron_job_running while another run has it.';

create function backend.cron_renew(p_name text, p_lease_token uuid, p_lease_seconds integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_until timestamptz;
begin
  perform private.require_lease_seconds(p_lease_seconds);
  update private.cron_jobs as j
  set leased_until = greatest(j.leased_until, now() + make_interval(secs => p_lease_seconds))
  where j.name = p_name and j.lease_token = p_lease_token
  returning j.leased_until into v_until;
  if v_until is null then
    perform private.fail(409, 'lease_lost', 'This worker no longer has the job.');
  end if;
  return jsonb_build_object('leased_until', v_until);
end
$$;

comment on function backend.cron_renew(text, uuid, integer) is
'Prolongs the lease of a job that goes on, never shortens it. 409 lease_lost.';

create function backend.cron_finish(p_name text, p_lease_token uuid, p_count bigint, p_error text default null)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_due_at timestamptz;
begin
  update private.cron_jobs as j
  set lease_token = null, leased_until = null, leased_by = null, last_finished_at = clock_timestamp(),
    last_count = case when p_error is null then p_count else j.last_count end,
    last_error = left(nullif(p_error, ''), 2000),
    -- A job that failed does not wait for tomorrow.
    due_at = case
      when p_error is null then j.last_started_at + make_interval(secs => j.interval_seconds)
      else now() + make_interval(secs => least(j.interval_seconds, 300))
    end
  where j.name = p_name and j.lease_token = p_lease_token
  returning j.due_at into v_due_at;
  if v_due_at is null then
    perform private.fail(409, 'lease_lost', 'This worker no longer has the job.');
  end if;
  update private.cron_runs as r
  set finished_at = clock_timestamp(), count = case when nullif(p_error, '') is null then p_count end,
    error = left(nullif(p_error, ''), 2000)
  where r.id = p_lease_token and r.finished_at is null;
  return jsonb_build_object('due_at', v_due_at);
end
$$;

comment on function backend.cron_finish(text, uuid, bigint, text) is
'Records the end of a run: the rows it changed, or why it failed; a failed one is due again within five minutes.';

create function backend.cron_status() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'name', j.name, 'interval_seconds', j.interval_seconds, 'due_at', j.due_at, 'leased_by', j.leased_by,
        'leased_until', j.leased_until, 'last_started_at', j.last_started_at, 'last_finished_at', j.last_finished_at,
        'last_count', j.last_count, 'last_error', j.last_error
      )
      order by j.name
    ),
    '[]'::jsonb
  )
  from private.cron_jobs as j
$$;

comment on function backend.cron_status() is
'Every periodic job: when it last ran, with what result, and when it is due.';

create function backend.cron_run_list(p_job text default null, p_limit integer default 50) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(l) order by l.started_at desc), '[]'::jsonb)
  from (
    select r.job, r.worker, r.started_at, r.finished_at, r.seconds, r.count, r.error
    from private.cron_runs as r
    where p_job is null or r.job = p_job
    order by r.started_at desc
    limit least(greatest(p_limit, 1), 500)
  ) as l
$$;

comment on function backend.cron_run_list(text, integer) is 'Runs of periodic jobs, or of one, newest first.';

create function backend.cron_runs_purge(p_limit integer default 5000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from private.cron_runs as r
  where r.id in (
    select o.id
    from private.cron_runs as o
    where o.started_at < now() - make_interval(days => (private.setting('cron_run_retention_days'))::integer)
    order by o.started_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.cron_runs_purge(integer) is 'Deletes runs of periodic jobs past their retention.';

-- ---------------------------------------------------------------------------------------------------------------
-- Who may call what
-- ---------------------------------------------------------------------------------------------------------------

grant execute on function backend.task_claim(text[], text, integer, integer, jsonb) to service_role;
grant execute on function backend.task_renew(uuid, uuid, integer) to service_role;
grant execute on function backend.task_complete(uuid, uuid, jsonb) to service_role;
grant execute on function backend.task_fail(uuid, uuid, text, integer, boolean) to service_role;
grant execute on function backend.task_give_back(uuid, uuid) to service_role;
grant execute on function backend.task_sweep(integer) to service_role;
grant execute on function backend.task_bury(integer) to service_role;
grant execute on function backend.task_purge(integer, integer) to service_role;
grant execute on function backend.task_retry(uuid) to service_role;
grant execute on function backend.task_cancel(uuid, text) to service_role;
grant execute on function backend.task_list(text, text, integer, uuid, uuid) to service_role;
grant execute on function backend.task_status(text[]) to service_role;
grant execute on function backend.cron_claim(jsonb, text, integer) to service_role;
grant execute on function backend.cron_renew(text, uuid, integer) to service_role;
grant execute on function backend.cron_run_list(text, integer) to service_role;
grant execute on function backend.cron_runs_purge(integer) to service_role;
grant execute on function backend.cron_start(text, integer, text, integer) to service_role;
grant execute on function backend.cron_finish(text, uuid, bigint, text) to service_role;
grant execute on function backend.cron_status() to service_role;
