-- Usage reports: what was used per day, for as long as the account exists.
--
--   api_usage                 a row per day (UTC) and all that a request can be told apart by; counts, tokens, credits
--   private.usage_change      what one usage row adds to it, or takes back
--   public.usage_report()     sums for clients: their own use, and for admins that of their organization
--
-- Statement triggers on usage_logs keep it, in the transaction that ends the request. Nothing is read again: a row that
-- was counted before (a settlement after the reaper, a refund) takes back what it had added. What a dropped month had
-- added stays.
--
-- Locks: a request's end has locked its account, and no two accounts share a row here. Whatever changes several rows
-- does so in the order of their key.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.api_usage (
  id uuid primary key default private.uuid7(),
  account_id uuid not null,
  user_id uuid,
  organization_id uuid,
  api_key_id uuid,
  provider_key_id uuid,
  provider text,
  model_id text,
  action text not null,
  credential text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  request_count bigint not null default 0,
  cancelled_count bigint not null default 0,
  failed_count bigint not null default 0,
  prompt_tokens bigint not null default 0,
  completion_tokens bigint not null default 0,
  cached_tokens bigint not null default 0,
  tokens_used bigint generated always as (prompt_tokens + completion_tokens) stored,
  credits numeric(20, 6) not null default 0,
  credits_refunded numeric(20, 6) not null default 0,
  cost_estimate numeric(20, 6) not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint api_usage_has_one_row_per_day_and_kind unique nulls not distinct (
    account_id, period_start, user_id, organization_id, api_key_id, provider_key_id, provider, model_id, action,
    credential
  ),
  constraint credential_is_known check (credential in ('platform', 'own')),
  constraint period_is_a_day_of_utc check (period_end = period_start + interval '24 hours'),
  constraint counts_are_not_negative check (
    cancelled_count >= 0 and failed_count >= 0 and cancelled_count + failed_count <= request_count
    and completion_tokens >= 0 and cached_tokens between 0 and prompt_tokens
  ),
  constraint credits_are_not_negative check (credits_refunded between 0 and credits and cost_estimate >= 0)
) with (fillfactor = 70);

comment on table public.api_usage is 'What was used per day: the finished requests of usage_logs, summed; kept when their rows are dropped.';
comment on column public.api_usage.id is 'Identifies the row.';
comment on column public.api_usage.account_id is 'The account that paid; no foreign key, because the ledger outlives its owners.';
comment on column public.api_usage.user_id is 'Who asked; null once erased, and for an organization''s key. No foreign key: a request that ends after the lock of its account would then lock the profile, which an erasure locks first. A trigger forgets the person.';
comment on column public.api_usage.organization_id is 'The organization that paid, if one did; a trigger forgets it, as above.';
comment on column public.api_usage.api_key_id is 'The API key the requests came by; null for a person who is signed in.';
comment on column public.api_usage.provider_key_id is 'Which of the customer''s own keys the provider was called with; null for the platform''s.';
comment on column public.api_usage.provider is 'Slug of the provider that served them.';
comment on column public.api_usage.model_id is 'The model used.';
comment on column public.api_usage.action is 'What was done, as in usage_logs.action.';
comment on column public.api_usage.credential is 'Whose key the provider was called with: platform or own.';
comment on column public.api_usage.period_start is 'Start of the day (UTC) on which the requests were accepted.';
comment on column public.api_usage.period_end is 'Start of the next day.';
comment on column public.api_usage.request_count is 'Requests that have ended, however they did.';
comment on column public.api_usage.cancelled_count is 'Requests of those that the client left; what was produced was charged.';
comment on column public.api_usage.failed_count is 'Requests of those that failed or expired; nothing was charged.';
comment on column public.api_usage.prompt_tokens is 'Tokens of the prompts, cached ones included.';
comment on column public.api_usage.completion_tokens is 'Tokens of the answers.';
comment on column public.api_usage.cached_tokens is 'Tokens of the prompts that the model had cached.';
comment on column public.api_usage.tokens_used is 'Prompts and answers together.';
comment on column public.api_usage.credits is 'Credits charged.';
comment on column public.api_usage.credits_refunded is 'Credits of those that were given back while the usage rows were kept.';
comment on column public.api_usage.cost_estimate is 'What the requests cost at the catalog''s prices, in credits: with the platform''s key what was charged; with one''s own what the platform''s would have cost, since only the provider knows what it asks. Refunds are not deducted.';
comment on column public.api_usage.created_at is 'When the first request ended.';
comment on column public.api_usage.updated_at is 'When anything in the row last changed.';

create index api_usage_by_user on public.api_usage (user_id, period_start) where user_id is not null;
create index api_usage_by_organization
on public.api_usage (organization_id, period_start) where organization_id is not null;
create index api_usage_by_provider_key
on public.api_usage (provider_key_id, period_start) where provider_key_id is not null;

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: clients read, triggers write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.api_usage to authenticated, service_role;

alter table public.api_usage enable row level security;

create policy "Users read what they used, admins what their organizations did"
on public.api_usage for select to authenticated
using (
  user_id = (select private.active_user_id())
  or organization_id in (select private.my_admin_organization_ids())
);

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel
-- ---------------------------------------------------------------------------------------------------------------

create type private.usage_change as (
  account_id uuid,
  period_start timestamptz,
  user_id uuid,
  organization_id uuid,
  api_key_id uuid,
  provider_key_id uuid,
  provider text,
  model_id text,
  action text,
  credential text,
  request_count bigint,
  cancelled_count bigint,
  failed_count bigint,
  prompt_tokens bigint,
  completion_tokens bigint,
  cached_tokens bigint,
  credits numeric,
  credits_refunded numeric,
  cost_estimate numeric
);

comment on type private.usage_change is 'What is added to a row of api_usage, or taken from it: its key, and the differences.';

create function private.usage_change(p_row public.usage_logs, p_sign integer) returns private.usage_change
language plpgsql immutable set search_path = ''
as $$
begin
  return row(
    p_row.account_id,
    date_trunc('day', p_row.created_at at time zone 'utc') at time zone 'utc',
    p_row.user_id, p_row.organization_id, p_row.api_key_id, p_row.provider_key_id, p_row.provider, p_row.model_id,
    p_row.action, p_row.credential,
    p_sign, p_sign * (p_row.status = 'cancelled')::integer, p_sign * (p_row.status in ('failed', 'expired'))::integer,
    p_sign * p_row.prompt_tokens, p_sign * p_row.completion_tokens, p_sign * p_row.cached_tokens,
    p_sign * p_row.credits, p_sign * p_row.credits_refunded, p_sign * p_row.cost_estimate
  )::private.usage_change;
end
$$;

comment on function private.usage_change(public.usage_logs, integer) is 'What a finished usage row counts for (1), or what it had counted for (-1).';

create function private.sum_usage_changes(p_changes private.usage_change[]) returns private.usage_change[]
language plpgsql immutable set search_path = ''
as $$
begin
  if cardinality(p_changes) = 1 then
    return p_changes;
  end if;
  return array(
    select
      row(
        c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider,
        c.model_id, c.action, c.credential, sum(c.request_count), sum(c.cancelled_count), sum(c.failed_count),
        sum(c.prompt_tokens), sum(c.completion_tokens), sum(c.cached_tokens), sum(c.credits), sum(c.credits_refunded),
        sum(c.cost_estimate)
      )::private.usage_change
    from unnest(p_changes) as c
    group by
      c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider,
      c.model_id, c.action, c.credential
    having
      (
        sum(c.request_count), sum(c.cancelled_count), sum(c.failed_count), sum(c.prompt_tokens),
        sum(c.completion_tokens), sum(c.cached_tokens), sum(c.credits), sum(c.credits_refunded), sum(c.cost_estimate)
      ) <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
    order by
      c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider,
      c.model_id, c.action, c.credential
  );
end
$$;

comment on function private.sum_usage_changes(private.usage_change[]) is 'One change per row of api_usage, in the order of its key, without those that cancel out.';

create function private.add_usage(p_changes private.usage_change[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.api_usage as a (
    account_id, period_start, period_end, user_id, organization_id, api_key_id, provider_key_id, provider, model_id,
    action, credential, request_count, cancelled_count, failed_count, prompt_tokens, completion_tokens, cached_tokens,
    credits, credits_refunded, cost_estimate
  )
  select
    c.account_id, c.period_start, c.period_start + interval '24 hours', c.user_id, c.organization_id, c.api_key_id,
    c.provider_key_id, c.provider, c.model_id, c.action, c.credential, c.request_count, c.cancelled_count,
    c.failed_count, c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.credits, c.credits_refunded,
    c.cost_estimate
  from unnest(private.sum_usage_changes(p_changes)) as c
  on conflict (
    account_id, period_start, user_id, organization_id, api_key_id, provider_key_id, provider, model_id, action,
    credential
  ) do update set
    request_count = a.request_count + excluded.request_count,
    cancelled_count = a.cancelled_count + excluded.cancelled_count,
    failed_count = a.failed_count + excluded.failed_count,
    prompt_tokens = a.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = a.completion_tokens + excluded.completion_tokens,
    cached_tokens = a.cached_tokens + excluded.cached_tokens,
    credits = a.credits + excluded.credits,
    credits_refunded = a.credits_refunded + excluded.credits_refunded,
    cost_estimate = a.cost_estimate + excluded.cost_estimate,
    updated_at = now();
end
$$;

comment on function private.add_usage(private.usage_change[]) is 'Counts requests that were not counted before.';

create function private.move_usage(p_changes private.usage_change[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_changes private.usage_change[] := private.sum_usage_changes(p_changes);
begin
  if cardinality(v_changes) = 0 then
    return;
  end if;
  -- A difference may be negative, which no row may be, not even one that is only proposed: the rows come first, then
  -- their locks, then the differences. Each in the order of the key, so nobody waits in a circle.
  insert into public.api_usage (
    account_id, period_start, period_end, user_id, organization_id, api_key_id, provider_key_id, provider, model_id,
    action, credential
  )
  select
    c.account_id, c.period_start, c.period_start + interval '24 hours', c.user_id, c.organization_id, c.api_key_id,
    c.provider_key_id, c.provider, c.model_id, c.action, c.credential
  from unnest(v_changes) as c
  on conflict do nothing;

  perform a.id
  from unnest(v_changes) with ordinality as c
  inner join public.api_usage as a on a.account_id = c.account_id and a.period_start = c.period_start
  where (a.user_id, a.organization_id, a.api_key_id, a.provider_key_id, a.provider, a.model_id, a.action, a.credential)
    is not distinct from
    (c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider, c.model_id, c.action, c.credential)
  order by c.ordinality
  for no key update of a;

  update public.api_usage as a
  set request_count = a.request_count + c.request_count,
    cancelled_count = a.cancelled_count + c.cancelled_count,
    failed_count = a.failed_count + c.failed_count,
    prompt_tokens = a.prompt_tokens + c.prompt_tokens,
    completion_tokens = a.completion_tokens + c.completion_tokens,
    cached_tokens = a.cached_tokens + c.cached_tokens,
    credits = a.credits + c.credits,
    credits_refunded = a.credits_refunded + c.credits_refunded,
    cost_estimate = a.cost_estimate + c.cost_estimate,
    updated_at = now()
  from unnest(v_changes) as c
  where a.account_id = c.account_id and a.period_start = c.period_start
    and (a.user_id, a.organization_id, a.api_key_id, a.provider_key_id, a.provider, a.model_id, a.action, a.credential)
    is not distinct from
    (c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider, c.model_id, c.action, c.credential);

  -- A row that counts nothing any more goes, and with it the name of who asked.
  delete from public.api_usage as a
  using unnest(v_changes) as c
  where a.account_id = c.account_id and a.period_start = c.period_start and a.request_count = 0
    and (a.user_id, a.organization_id, a.api_key_id, a.provider_key_id, a.provider, a.model_id, a.action, a.credential)
    is not distinct from
    (c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider, c.model_id, c.action, c.credential);
end
$$;

comment on function private.move_usage(private.usage_change[]) is 'Counts what has changed of requests that were counted before, or takes them back.';

create function private.rebuild_api_usage(p_month timestamptz) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_start timestamptz := private.month_start(p_month);
  v_end timestamptz := private.month_start(v_start + interval '32 days');
  v_count integer;
begin
  if v_start not in (select m.month from private.usage_months() as m (month)) then
    perform private.fail(400, 'invalid_argument', 'The usage of that month is not kept any more.', '{"param": "month"}');
  end if;
  -- Requests that end meanwhile wait. One whose usage row is not visible below counts itself after this.
  lock table public.api_usage in share row exclusive mode;
  delete from public.api_usage as a where a.period_start >= v_start and a.period_start < v_end;
  insert into public.api_usage (
    account_id, period_start, period_end, user_id, organization_id, api_key_id, provider_key_id, provider, model_id,
    action, credential, request_count, cancelled_count, failed_count, prompt_tokens, completion_tokens, cached_tokens,
    credits, credits_refunded, cost_estimate
  )
  select
    c.account_id, c.period_start, c.period_start + interval '24 hours', c.user_id, c.organization_id, c.api_key_id,
    c.provider_key_id, c.provider, c.model_id, c.action, c.credential, sum(c.request_count), sum(c.cancelled_count),
    sum(c.failed_count), sum(c.prompt_tokens), sum(c.completion_tokens), sum(c.cached_tokens), sum(c.credits),
    sum(c.credits_refunded), sum(c.cost_estimate)
  from public.usage_logs as u
  cross join lateral private.usage_change(u, 1) as c
  where u.created_at >= v_start and u.created_at < v_end and u.status <> 'started'
  group by
    c.account_id, c.period_start, c.user_id, c.organization_id, c.api_key_id, c.provider_key_id, c.provider,
    c.model_id, c.action, c.credential;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function private.rebuild_api_usage(timestamptz) is 'An operator''s repair: sums a month whose usage rows are kept anew; how many rows. Requests wait for it.';

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers: usage_logs is counted
--
-- On the parent, for every statement that names it; foreign keys that set null do. A partition that is dropped tells
-- nobody, which is how a rollup survives it.
-- ---------------------------------------------------------------------------------------------------------------

create function private.count_inserted_usage() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_changes private.usage_change[];
begin
  -- A hold's row is started and counts nothing yet.
  select array_agg(private.usage_change(n::public.usage_logs, 1)) into v_changes
  from new_rows as n
  where n.status <> 'started';
  if v_changes is not null then
    perform private.add_usage(v_changes);
  end if;
  return null;
end
$$;

comment on function private.count_inserted_usage() is 'Trigger: counts usage rows that are written when all is over.';

create function private.count_finished_usage() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_before private.usage_change[];
  v_after private.usage_change[];
begin
  -- One statement, because it is on the way of every request.
  select
    (select array_agg(private.usage_change(o::public.usage_logs, -1)) from old_rows as o where o.status <> 'started'),
    (select array_agg(private.usage_change(n::public.usage_logs, 1)) from new_rows as n where n.status <> 'started')
  into v_before, v_after;
  if v_before is not null then
    perform private.move_usage(v_before || v_after);
  elsif v_after is not null then
    perform private.add_usage(v_after);
  end if;
  return null;
end
$$;

comment on function private.count_finished_usage() is 'Trigger: counts requests that end, and what changes of those that had ended.';

create function private.count_deleted_usage() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_before private.usage_change[];
begin
  select array_agg(private.usage_change(o::public.usage_logs, -1)) into v_before
  from old_rows as o
  where o.status <> 'started';
  if v_before is not null then
    perform private.move_usage(v_before);
  end if;
  return null;
end
$$;

comment on function private.count_deleted_usage() is 'Trigger: a usage row that is deleted by itself takes back what it counted for.';

create trigger usage_is_counted_when_it_is_inserted
after insert on public.usage_logs
referencing new table as new_rows
for each statement execute function private.count_inserted_usage();

create trigger usage_is_counted_when_it_ends
after update on public.usage_logs
referencing old table as old_rows new table as new_rows
for each statement execute function private.count_finished_usage();

create trigger usage_is_taken_back_when_it_is_deleted
after delete on public.usage_logs
referencing old table as old_rows
for each statement execute function private.count_deleted_usage();

create function private.note_refund_of_usage() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  update public.usage_logs as u
  set credits_refunded = new.refunded_amount
  where u.id = new.id and u.created_at = new.created_at;
  return null;
end
$$;

comment on function private.note_refund_of_usage() is 'Trigger: a refund shows in the usage row of its hold, if that is still kept.';

create trigger refunds_show_in_usage
after update of refunded_amount on private.credit_holds
for each row when (new.refunded_amount <> old.refunded_amount)
execute function private.note_refund_of_usage();

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers: who asked is forgotten, what was used stays
-- ---------------------------------------------------------------------------------------------------------------

create function private.forget_usage_of(p_user_id uuid, p_organization_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_changes private.usage_change[];
begin
  -- What is left belongs to months whose usage rows are gone; the triggers have moved the rest.
  select array_agg(change.c) into v_changes
  from public.api_usage as a
  cross join lateral (values (-1), (1)) as s (sign)
  cross join lateral (
    select
      row(
        a.account_id, a.period_start,
        case when s.sign = -1 or a.user_id is distinct from p_user_id then a.user_id end,
        case when s.sign = -1 or a.organization_id is distinct from p_organization_id then a.organization_id end,
        a.api_key_id, a.provider_key_id, a.provider, a.model_id, a.action, a.credential, s.sign * a.request_count,
        s.sign * a.cancelled_count, s.sign * a.failed_count, s.sign * a.prompt_tokens, s.sign * a.completion_tokens,
        s.sign * a.cached_tokens, s.sign * a.credits, s.sign * a.credits_refunded, s.sign * a.cost_estimate
      )::private.usage_change
  ) as change (c)
  where a.user_id = p_user_id or a.organization_id = p_organization_id;
  if v_changes is not null then
    perform private.move_usage(v_changes);
  end if;
end
$$;

comment on function private.forget_usage_of(uuid, uuid) is 'Moves what a person, or an organization, used to rows that name nobody. The requests of either can no longer end meanwhile.';

create function private.forget_usage_of_user() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- The account, the holds, the usage rows, and then the rollup: the order in which a request ends.
  perform a.id from public.credit_accounts as a where a.user_id = old.id for no key update;
  update private.credit_holds as h set user_id = null where h.user_id = old.id;
  update public.usage_logs as u set user_id = null, ip_address = null, user_agent = null, query = null
  where u.user_id = old.id;
  perform private.forget_usage_of(old.id, null);
  return old;
end
$$;

comment on function private.forget_usage_of_user() is
'Trigger: before a profile goes, takes it out of what it used. What an account or an organization used stays, without saying who.';

create trigger usage_is_forgotten_before_its_author_is_erased
before delete on public.profiles
for each row execute function private.forget_usage_of_user();

create function private.forget_usage_of_organization() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform a.id from public.credit_accounts as a where a.organization_id = old.id for no key update;
  update public.usage_logs as u set organization_id = null where u.organization_id = old.id;
  perform private.forget_usage_of(null, old.id);
  return old;
end
$$;

comment on function private.forget_usage_of_organization() is
'Trigger: before an organization goes, takes it out of what it used.';

create trigger usage_is_forgotten_before_its_payer_is_erased
before delete on public.organizations
for each row execute function private.forget_usage_of_organization();

-- What ended before this chapter was applied.
do $$
begin
  perform private.rebuild_api_usage(m.month) from private.usage_months() as m (month);
end
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Reports for clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.usage_report_of(
  p_user_id uuid,
  p_organization_id uuid,
  p_from date,
  p_to date,
  p_group_by text,
  p_limit integer,
  p_after text
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_today date := (now() at time zone 'utc')::date;
  v_to date := coalesce(p_to, v_today);
  v_from date := coalesce(p_from, date_trunc('month', v_to)::date);
  v_report jsonb;
begin
  if p_group_by is null or p_group_by not in (
    'day', 'month', 'user', 'organization', 'api_key', 'provider_key', 'model', 'provider', 'action', 'credential'
  ) then
    perform private.fail(400, 'invalid_argument',
      'Group by day, month, user, organization, api_key, provider_key, model, provider, action or credential.',
      '{"param": "group_by"}');
  end if;
  if not isfinite(v_from) or not isfinite(v_to) or v_to < v_from or v_to - v_from > 365 then
    perform private.fail(400, 'invalid_argument', 'A report covers 1 to 366 days.', '{"param": "to", "maximum": 366}');
  end if;
  if p_limit is null or p_limit not between 1 and 1000 then
    perform private.fail(400, 'invalid_argument', 'The limit must be between 1 and 1000.',
      '{"param": "limit", "maximum": 1000}');
  end if;

  with found as materialized (
    select
      a.*,
      coalesce(case p_group_by
        when 'day' then to_char(a.period_start at time zone 'utc', 'YYYY-MM-DD')
        when 'month' then to_char(a.period_start at time zone 'utc', 'YYYY-MM')
        when 'user' then a.user_id::text
        when 'organization' then a.organization_id::text
        when 'api_key' then a.api_key_id::text
        when 'provider_key' then a.provider_key_id::text
        when 'model' then a.model_id
        when 'provider' then a.provider
        when 'action' then a.action
        when 'credential' then a.credential
      end, '') collate "C" as key
    from public.api_usage as a
    where (a.organization_id = p_organization_id or (p_organization_id is null and a.user_id = p_user_id))
      and a.period_start >= v_from::timestamp at time zone 'utc'
      and a.period_start < (v_to + 1)::timestamp at time zone 'utc'
  ),

  -- The whole and the parts: (false) the key, (true) everything.
  sums as (
    select
      f.key,
      grouping(f.key) = 1 as is_total,
      jsonb_build_object(
        'requests', coalesce(sum(f.request_count), 0),
        'cancelled', coalesce(sum(f.cancelled_count), 0),
        'failed', coalesce(sum(f.failed_count), 0),
        'prompt_tokens', coalesce(sum(f.prompt_tokens), 0),
        'completion_tokens', coalesce(sum(f.completion_tokens), 0),
        'cached_tokens', coalesce(sum(f.cached_tokens), 0),
        'tokens', coalesce(sum(f.tokens_used), 0),
        'credits', coalesce(sum(f.credits), 0),
        'credits_refunded', coalesce(sum(f.credits_refunded), 0),
        'cost_estimate', coalesce(sum(f.cost_estimate), 0)
      ) as counts
    from found as f
    group by grouping sets ((f.key), ())
  ),

  page as (
    select s.key, s.counts
    from sums as s
    where not s.is_total and (p_after is null or s.key > p_after)
    order by s.key
    limit p_limit + 1
  )

  select jsonb_build_object(
    'from', v_from, 'to', v_to, 'group_by', p_group_by,
    'totals', (select s.counts from sums as s where s.is_total),
    'rows', coalesce(jsonb_agg(
      jsonb_build_object(p_group_by, nullif(p.key, '')) || p.counts order by p.key
    ) filter (where p.place <= p_limit), '[]'::jsonb),
    'next_after', case when count(*) > p_limit then max(p.key) filter (where p.place = p_limit) end
  )
  into v_report
  from (select g.*, row_number() over (order by g.key) as place from page as g) as p;
  return v_report;
end
$$;

comment on function private.usage_report_of(uuid, uuid, date, date, text, integer, text) is
'Sums of what an organization used, or else a person, from one day (UTC) to another, both included, a row per group after a key, and the totals of all groups.';

create function private.my_usage_report(
  p_from date, p_to date, p_group_by text, p_organization_id uuid, p_limit integer, p_after text
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_active_user();
begin
  if p_organization_id is not null then
    perform private.require_admin(v_user_id, p_organization_id::text);
  end if;
  return private.usage_report_of(v_user_id, p_organization_id, p_from, p_to, p_group_by, p_limit, p_after);
end
$$;

comment on function private.my_usage_report(date, date, text, uuid, integer, text) is 'Report for the calling client.';

create function public.usage_report(
  p_from date default null,
  p_to date default null,
  p_group_by text default 'day',
  p_organization_id uuid default null,
  p_limit integer default 100,
  p_after text default null
) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_usage_report(p_from, p_to, p_group_by, p_organization_id, p_limit, p_after) $$;

comment on function public.usage_report(date, date, text, uuid, integer, text) is
'What you used from one day (UTC) to another, whoever paid, or what an organization you administer did: by day, month, user, organization, api_key, provider_key, model, provider, action or credential. This month by default; at most 366 days and 1,000 rows, go on with next_after.';

grant execute on function
private.my_usage_report(date, date, text, uuid, integer, text),
public.usage_report(date, date, text, uuid, integer, text)
to authenticated;
