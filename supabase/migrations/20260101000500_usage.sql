-- Usage: one row for every request that reached a model or a tool, written with its hold and finalized with it.
--
-- Partitioned by month. The partitions live in private, so that only the parent with its policies can be reached.

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
  status text not null default 'started',
  error_code text,
  prompt_tokens integer not null default 0,
  completion_tokens integer not null default 0,
  cached_tokens integer not null default 0,
  tokens_used integer generated always as (prompt_tokens + completion_tokens) stored,
  usage_source text,
  credits_held numeric(20, 6) not null default 0,
  credits numeric(20, 6) not null default 0,
  is_streamed boolean not null default false,
  latency_ms integer,
  first_token_ms integer,
  ip_address inet,
  user_agent text,
  created_at timestamptz not null,
  finished_at timestamptz,
  constraint usage_logs_have_one_row_per_request primary key (id, created_at),
  constraint status_is_known check (status in ('started', 'completed', 'cancelled', 'failed', 'expired')),
  constraint a_started_row_is_unfinished check ((status = 'started') = (finished_at is null)),
  constraint usage_source_is_known check (usage_source in ('upstream', 'counted')),
  constraint counts_are_not_negative check (
    prompt_tokens >= 0 and completion_tokens >= 0 and cached_tokens between 0 and prompt_tokens
    and latency_ms >= 0 and first_token_ms >= 0
  ),
  constraint credits_are_part_of_what_was_held check (credits between 0 and credits_held)
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
comment on column public.usage_logs.status is 'started, then completed, cancelled (client left), failed (nothing charged) or expired (reaped).';
comment on column public.usage_logs.error_code is 'Why it failed.';
comment on column public.usage_logs.prompt_tokens is 'Tokens of the prompt, cached ones included.';
comment on column public.usage_logs.completion_tokens is 'Tokens of the answer.';
comment on column public.usage_logs.cached_tokens is 'Tokens of the prompt that the model had cached.';
comment on column public.usage_logs.tokens_used is 'Prompt and answer together.';
comment on column public.usage_logs.usage_source is 'Who counted the tokens: the upstream, or Quernel when it did not say.';
comment on column public.usage_logs.credits_held is 'Credits held for it.';
comment on column public.usage_logs.credits is 'Credits charged for it.';
comment on column public.usage_logs.is_streamed is 'Whether the answer was streamed.';
comment on column public.usage_logs.latency_ms is 'Milliseconds until the answer was complete.';
comment on column public.usage_logs.first_token_ms is 'Milliseconds until its first token.';
comment on column public.usage_logs.ip_address is 'Where the request came from.';
comment on column public.usage_logs.user_agent is 'Which client sent it.';
comment on column public.usage_logs.created_at is 'When it was accepted.';
comment on column public.usage_logs.finished_at is 'When it was finalized.';

create index usage_logs_by_user on public.usage_logs (user_id, created_at desc);
create index usage_logs_by_organization
on public.usage_logs (organization_id, created_at desc) where organization_id is not null;
create index usage_logs_by_api_key on public.usage_logs (api_key_id, created_at desc) where api_key_id is not null;

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

create function private.create_usage_partition(p_month timestamptz) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_start timestamptz := private.month_start(p_month);
  v_end timestamptz := private.month_start(v_start + interval '32 days');
  v_name text := 'usage_logs_' || to_char(v_start at time zone 'utc', 'YYYY_MM');
begin
  if to_regclass('private.' || v_name) is not null then
    return false;
  end if;
  execute format(
    'create table private.%I partition of public.usage_logs for values from (%L) to (%L) with (fillfactor = 80)',
    v_name, v_start, v_end
  );
  execute format('alter table private.%I enable row level security', v_name);
  execute format('comment on table private.%I is %L', v_name, 'Usage of ' || to_char(v_start at time zone 'utc', 'FMMonth YYYY'));
  return true;
end
$$;

comment on function private.create_usage_partition(timestamptz) is 'Creates the partition of a month (UTC) unless it is there; whether it did.';

create function private.ensure_usage_partitions(p_months_ahead integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_created integer := 0;
begin
  if p_months_ahead is null or p_months_ahead not between 0 and 120 then
    perform private.fail(400, 'invalid_argument', 'The number of months must be between 0 and 120.', '{"param": "months_ahead"}');
  end if;
  -- Attaching a partition locks the parent for an instant; behind a long reader it gives up and the next run tries again.
  perform set_config('lock_timeout', '2s', true);
  for i in 0 .. p_months_ahead loop
    if private.create_usage_partition(
      (date_trunc('month', now() at time zone 'utc') + make_interval(months => i)) at time zone 'utc'
    ) then
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end
$$;

comment on function private.ensure_usage_partitions(integer) is 'Creates the partitions of this month and the next p_months_ahead ones; how many were new.';

select private.ensure_usage_partitions(12);

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel
-- ---------------------------------------------------------------------------------------------------------------

create function private.finish_usage(p_hold private.credit_holds, p_credits numeric, p_usage jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_prompt_tokens integer := coalesce((p_usage ->> 'prompt_tokens')::integer, 0);
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
    credits = p_credits,
    latency_ms = (p_usage ->> 'latency_ms')::integer,
    first_token_ms = (p_usage ->> 'first_token_ms')::integer,
    finished_at = clock_timestamp()
  where u.id = p_hold.id and u.created_at = p_hold.created_at;
end
$$;

comment on function private.finish_usage(private.credit_holds, numeric, jsonb) is 'Finalizes the usage row of a hold.';

create function backend.usage_partitions_ensure(p_months_ahead integer default 12) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select jsonb_build_object('count', private.ensure_usage_partitions(p_months_ahead)) $$;

comment on function backend.usage_partitions_ensure(integer) is 'Keeps the months ahead partitioned.';

grant execute on function backend.usage_partitions_ensure(integer) to service_role;
