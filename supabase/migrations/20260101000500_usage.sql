-- Usage: one row for every request that reached a model or a tool, written with its hold and finalized with it.
--
-- Partitioned by month. The partitions live in private, so that only the parent with its policies can be reached. What
-- outlives a month is its rollup, public.api_usage (chapter 0830).

insert into private.settings (name, value, description) values
('usage_address_days', '30', 'Days after which a usage row forgets IP address, user agent and question.'),
('usage_months', '13', 'Calendar months (UTC) of usage rows that are kept besides the current one; rollups stay.');

create table public.usage_logs (
  id uuid not null,
  account_id uuid not null,
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete set null,
  api_key_id uuid,
  action text not null,
  resource_type text,
  resource_id uuid,
  model_id text,
  provider text,
  credential text not null default 'platform',
  provider_key_id uuid,
  status text not null default 'started',
  error_code text,
  prompt_tokens integer not null default 0,
  completion_tokens integer not null default 0,
  cached_tokens integer not null default 0,
  tokens_used integer generated always as (prompt_tokens + completion_tokens) stored,
  usage_source text,
  credits_held numeric(20, 6) not null default 0,
  credits numeric(20, 6) not null default 0,
  credits_refunded numeric(20, 6) not null default 0,
  cost_estimate numeric(20, 6) not null default 0,
  is_streamed boolean not null default false,
  latency_ms integer,
  first_token_ms integer,
  library_id text,
  query text,
  tokens_returned integer,
  ip_address inet,
  user_agent text,
  created_at timestamptz not null,
  finished_at timestamptz,
  request_id uuid default private.request_id(),
  constraint usage_logs_have_one_row_per_request primary key (id, created_at),
  constraint status_is_known check (status in ('started', 'completed', 'cancelled', 'failed', 'expired')),
  constraint a_started_row_is_unfinished check ((status = 'started') = (finished_at is null)),
  constraint credential_is_known check (credential in ('platform', 'own')),
  constraint a_provider_key_is_ones_own check (provider_key_id is null or credential = 'own'),
  constraint usage_source_is_known check (usage_source in ('upstream', 'counted')),
  constraint counts_are_not_negative check (
    prompt_tokens >= 0 and completion_tokens >= 0 and cached_tokens between 0 and prompt_tokens
    and latency_ms >= 0 and first_token_ms >= 0 and tokens_returned >= 0
  ),
  constraint query_has_at_most_2000_characters check (char_length(query) <= 2000),
  constraint credits_are_part_of_what_was_held check (credits between 0 and credits_held),
  constraint credits_refunded_are_part_of_what_was_charged check (credits_refunded between 0 and credits),
  constraint cost_estimate_is_not_negative check (cost_estimate >= 0)
) partition by range (created_at);

comment on table public.usage_logs is 'One row per request, by month.';
comment on column public.usage_logs.id is 'Identifies the request; the id of its hold.';
comment on column public.usage_logs.account_id is 'The account that paid; no foreign key, because the ledger outlives the month.';
comment on column public.usage_logs.user_id is 'Who asked; null once erased, and for an organization''s key.';
comment on column public.usage_logs.organization_id is 'The organization that paid, if one did.';
comment on column public.usage_logs.api_key_id is 'The API key it came by; null for a person who is signed in. No foreign key, since every request would then lock the key''s row.';
comment on column public.usage_logs.action is 'What was done: chat, ...';
comment on column public.usage_logs.resource_type is 'What it was done to: conversation, agent, document ...';
comment on column public.usage_logs.resource_id is 'Which of them.';
comment on column public.usage_logs.model_id is 'The model used; no foreign key, since every request would then lock the model''s row.';
comment on column public.usage_logs.provider is 'Slug of the provider that served it.';
comment on column public.usage_logs.credential is 'Whose key the provider was called with: the platform''s, or the customer''s own.';
comment on column public.usage_logs.provider_key_id is 'Which of the customer''s own keys; null for the platform''s. No foreign key: the row outlives it.';
comment on column public.usage_logs.status is 'started, then completed, cancelled (client left), failed (nothing charged) or expired (reaped).';
comment on column public.usage_logs.error_code is 'Why it failed.';
comment on column public.usage_logs.prompt_tokens is 'Tokens of the prompt, cached ones included.';
comment on column public.usage_logs.completion_tokens is 'Tokens of the answer.';
comment on column public.usage_logs.cached_tokens is 'Tokens of the prompt that the model had cached.';
comment on column public.usage_logs.tokens_used is 'Prompt and answer together.';
comment on column public.usage_logs.usage_source is 'Who counted the tokens: the upstream, or Quernel when it did not say.';
comment on column public.usage_logs.credits_held is 'Credits held for it.';
comment on column public.usage_logs.credits is 'Credits charged for it.';
comment on column public.usage_logs.credits_refunded is 'Credits of those that were given back.';
comment on column public.usage_logs.cost_estimate is 'What it costs at the catalog''s prices, in credits, whoever''s key was used: with the platform''s what was charged, with one''s own what would have been.';
comment on column public.usage_logs.is_streamed is 'Whether the answer was streamed.';
comment on column public.usage_logs.latency_ms is 'Milliseconds until the answer was complete.';
comment on column public.usage_logs.first_token_ms is 'Milliseconds until its first token.';
comment on column public.usage_logs.library_id is 'The library that a tool was asked about, or found; no foreign key, since the row outlives it.';
comment on column public.usage_logs.query is 'What a tool was asked; null once usage_address_days have passed.';
comment on column public.usage_logs.tokens_returned is 'Tokens of documentation that a tool answered with.';
comment on column public.usage_logs.ip_address is 'Where the request came from; null once usage_address_days have passed.';
comment on column public.usage_logs.user_agent is 'Which client sent it; null once usage_address_days have passed.';
comment on column public.usage_logs.created_at is 'When it was accepted.';
comment on column public.usage_logs.finished_at is 'When it was finalized.';
comment on column public.usage_logs.request_id is 'The id by which logs and traces know it: x-request-id of the answer; null for rows that clients caused in the database.';

create index usage_logs_by_user on public.usage_logs (user_id, created_at desc);
create index usage_logs_by_organization
on public.usage_logs (organization_id, created_at desc) where organization_id is not null;
create index usage_logs_by_api_key on public.usage_logs (api_key_id, created_at desc) where api_key_id is not null;
-- What is left to forget, oldest first: the retention resumes here and reads nothing else.
create index usage_logs_with_an_address
on public.usage_logs (created_at) where ip_address is not null or user_agent is not null or query is not null;

grant select on public.usage_logs to authenticated, service_role;

alter table public.usage_logs enable row level security;

create policy "Users read their own usage, admins that of their organizations"
on public.usage_logs for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Partitions
-- ---------------------------------------------------------------------------------------------------------------

create function private.usage_partition_name(p_month timestamptz) returns text
language sql immutable set search_path = ''
as $$ select 'usage_logs_' || to_char(p_month at time zone 'utc', 'YYYY_MM') $$;

comment on function private.usage_partition_name(timestamptz) is 'Name in private of the partition of a month (UTC).';

create function private.create_usage_partition(p_month timestamptz) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_start timestamptz := private.month_start(p_month);
  v_end timestamptz := private.month_start(v_start + interval '32 days');
  v_name text := private.usage_partition_name(v_start);
begin
  if to_regclass('private.' || v_name) is not null then
    return false;
  end if;
  -- Its foreign keys lock these, and in an order of their own. An erasure writes to them in this one.
  lock table public.profiles, public.organizations in share row exclusive mode;
  -- Attached and not made in place: PARTITION OF would lock the parent against everybody, ATTACH lets readers and
  -- writers of usage go on.
  execute format(
    'create table private.%I (like public.usage_logs including defaults including generated including constraints)'
    ' with (fillfactor = 80)', v_name
  );
  execute format('alter table private.%I enable row level security', v_name);
  execute format('comment on table private.%I is %L', v_name, 'Usage of ' || to_char(v_start at time zone 'utc', 'FMMonth YYYY'));
  execute format(
    'alter table public.usage_logs attach partition private.%I for values from (%L) to (%L)', v_name, v_start, v_end
  );
  return true;
end
$$;

comment on function private.create_usage_partition(timestamptz) is 'Creates the partition of a month (UTC) unless it is there; whether it did.';

create function private.usage_months() returns setof timestamptz
language sql stable security definer set search_path = ''
as $$
  select (replace(right(c.relname, 7), '_', '-') || '-01')::timestamp at time zone 'utc'
  from pg_catalog.pg_inherits as i
  inner join pg_catalog.pg_class as c on c.oid = i.inhrelid
  where i.inhparent = 'public.usage_logs'::regclass and c.relname ~ '^usage_logs_\d{4}_\d{2}$'
  order by 1
$$;

comment on function private.usage_months() is 'Months (UTC) that have a partition, oldest first.';

create function private.refuse_busy_partition() returns void
language sql volatile set search_path = ''
as $$
  select private.fail(503, 'partition_in_use', 'Somebody reads or writes usage; try again later.', '{"retry_after": 2}')
$$;

comment on function private.refuse_busy_partition() is '503 partition_in_use: the lock was not to be had in time.';

create function private.ensure_usage_partitions(p_months_ahead integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_created integer := 0;
begin
  if p_months_ahead is null or p_months_ahead not between 0 and 120 then
    perform private.fail(400, 'invalid_argument', 'The number of months must be between 0 and 120.', '{"param": "months_ahead"}');
  end if;
  -- Behind a long writer of profiles or organizations it gives up, because whoever comes later waits behind it; the cron
  -- step tries again after a pause. Less than the second after which Postgres looks for a deadlock and picks a victim, so
  -- that it never is an erasure that came the other way.
  perform set_config('lock_timeout', '500ms', true);
  for i in 0 .. p_months_ahead loop
    if private.create_usage_partition(
      (date_trunc('month', now() at time zone 'utc') + make_interval(months => i)) at time zone 'utc'
    ) then
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
exception
  when lock_not_available then
    perform private.refuse_busy_partition();
    return 0;
end
$$;

comment on function private.ensure_usage_partitions(integer) is 'Creates the partitions of this month and the next p_months_ahead ones; how many were new. 503 partition_in_use.';

select private.ensure_usage_partitions(12);

create function private.drop_usage_partitions(p_limit integer, p_lock_ms integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_before timestamptz := (
    date_trunc('month', now() at time zone 'utc')
    - make_interval(months => greatest(private.setting('usage_months')::integer, 1))
  ) at time zone 'utc';
  v_month timestamptz;
  v_name text;
  v_is_open boolean;
  v_count integer := 0;
begin
  perform set_config('lock_timeout', least(greatest(p_lock_ms, 1), 60000) || 'ms', true);
  for v_month in
    select m.month from private.usage_months() as m (month) where m.month < v_before order by m.month
  loop
    exit when v_count >= p_limit;
    v_name := private.usage_partition_name(v_month);
    -- Two of these come one after the other, and nobody else is in the way of the other yet.
    begin
      execute format('lock table private.%I in share update exclusive mode', v_name);
    exception
      when undefined_table then
        continue;  -- the other one has dropped it meanwhile
    end;
    -- Read before the lock that keeps everybody out. No request of an old month starts any more.
    execute format('select exists (select from private.%I where status = %L)', v_name, 'started') into v_is_open;
    if v_is_open or exists (
      select from private.credit_holds as h
      where h.status = 'active' and h.created_at >= v_month
        and h.created_at < private.month_start(v_month + interval '32 days')
    ) then
      raise warning 'usage of % is kept: it has requests that never ended', to_char(v_month at time zone 'utc', 'YYYY-MM');
      continue;
    end if;
    execute format('drop table private.%I', v_name);
    v_count := v_count + 1;
  end loop;
  return v_count;
exception
  when lock_not_available then
    perform private.refuse_busy_partition();
    return 0;
end
$$;

comment on function private.drop_usage_partitions(integer, integer) is
'Drops at most p_limit months past usage_months, oldest first, except those with a request in flight; how many. Waits p_lock_ms for its lock, and whoever comes later waits behind it no longer than that; then 503 partition_in_use.';

create function private.forget_usage_addresses(p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  with old as materialized (
    select u.id, u.created_at
    from public.usage_logs as u
    where (u.ip_address is not null or u.user_agent is not null or u.query is not null)
      and u.created_at < now() - make_interval(days => private.setting('usage_address_days')::integer)
    order by u.created_at
    limit least(greatest(p_limit, 1), 50000)
    for update skip locked
  )

  update public.usage_logs as u
  set ip_address = null, user_agent = null, query = null
  from old
  where u.id = old.id and u.created_at = old.created_at
    -- Partitions that have none of these rows are not opened.
    and u.created_at between (select min(o.created_at) from old as o) and (select max(o.created_at) from old as o);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function private.forget_usage_addresses(integer) is
'Forgets IP address and user agent, and what a tool was asked, of at most p_limit requests past usage_address_days, oldest first; how many. What is left says where the next run goes on.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel
-- ---------------------------------------------------------------------------------------------------------------

create function private.finish_usage(p_hold private.credit_holds, p_credits numeric, p_usage jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_prompt_tokens integer := coalesce((p_usage ->> 'prompt_tokens')::integer, 0);
  v_credential text := p_usage ->> 'credential';
begin
  update public.usage_logs as u
  set status = coalesce(p_usage ->> 'status', 'completed'),
    error_code = p_usage ->> 'error_code',
    prompt_tokens = v_prompt_tokens,
    completion_tokens = coalesce((p_usage ->> 'completion_tokens')::integer, 0),
    cached_tokens = least(coalesce((p_usage ->> 'cached_tokens')::integer, 0), v_prompt_tokens),
    usage_source = p_usage ->> 'usage_source',
    model_id = coalesce(p_usage ->> 'model_id', u.model_id),
    provider = coalesce(p_usage ->> 'provider', u.provider),
    credential = coalesce(v_credential, u.credential),
    provider_key_id = case
      when coalesce(v_credential, u.credential) = 'own'
        then coalesce((p_usage ->> 'provider_key_id')::uuid, u.provider_key_id)
    end,
    credits = p_credits,
    cost_estimate = coalesce((p_usage ->> 'cost_estimate')::numeric, p_credits),
    latency_ms = (p_usage ->> 'latency_ms')::integer,
    first_token_ms = (p_usage ->> 'first_token_ms')::integer,
    finished_at = clock_timestamp()
  where u.id = p_hold.id and u.created_at = p_hold.created_at;
  if p_hold.terms ? 'own_key_id' then
    perform private.note_provider_key_uses(p_hold, p_usage);
  end if;
end
$$;

comment on function private.finish_usage(private.credit_holds, numeric, jsonb) is 'Finalizes the usage row of a hold.';

create function backend.usage_partitions_ensure(p_months_ahead integer default 12) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.ensure_usage_partitions(p_months_ahead)) $$;

comment on function backend.usage_partitions_ensure(integer) is 'Keeps the months ahead partitioned.';

create function backend.usage_partitions_drop(p_limit integer default 1, p_lock_ms integer default 2000) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.drop_usage_partitions(p_limit, p_lock_ms)) $$;

comment on function backend.usage_partitions_drop(integer, integer) is 'Drops months of usage past their retention.';

create function backend.usage_addresses_forget(p_limit integer default 1000) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.forget_usage_addresses(p_limit)) $$;

comment on function backend.usage_addresses_forget(integer) is 'Forgets where requests came from, past the retention of that.';

grant execute on function
backend.usage_partitions_ensure(integer),
backend.usage_partitions_drop(integer, integer),
backend.usage_addresses_forget(integer)
to service_role;
