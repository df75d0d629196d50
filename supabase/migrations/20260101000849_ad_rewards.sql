-- Ad rewards: credits for rewarded ads, told by AdMob itself (functions/images/ad_rewards.py verifies who says so).
--
-- Google signs the callbacks of every publisher with the same keys, and a publisher chooses where they go. So a good
-- signature says only that somebody's ad was watched: what counts is that the ad unit is ours.

insert into private.settings (name, value, description) values
('ad_units', '[]', 'Ids of our rewarded ad units at AdMob; none: no rewards.'),
('ad_reward_credits', '1', 'Credits for one rewarded ad, whatever the ad unit is configured to say.');

create table private.ad_rewards (
  transaction_id text primary key,
  user_id uuid not null references public.profiles (id) on delete cascade,
  ad_unit text not null,
  credits numeric(20, 6) not null,
  created_at timestamptz not null default now(),
  constraint transaction_id_has_1_to_200_characters check (char_length(transaction_id) between 1 and 200),
  constraint ad_unit_has_1_to_100_characters check (char_length(ad_unit) between 1 and 100),
  constraint credits_are_positive check (credits > 0)
);

comment on table private.ad_rewards is 'Rewarded ads that were watched and paid for, each once.';
comment on column private.ad_rewards.transaction_id is 'AdMob''s id of the reward.';
comment on column private.ad_rewards.user_id is 'Who watched.';
comment on column private.ad_rewards.ad_unit is 'Which of our ad units.';
comment on column private.ad_rewards.credits is 'Credits granted.';
comment on column private.ad_rewards.created_at is 'When.';

create index ad_rewards_by_user on private.ad_rewards (user_id, created_at desc);
create index profiles_with_ads_watched on public.profiles (id) where ads_watched_today > 0;

alter table private.ad_rewards enable row level security;

create function backend.ad_reward(p_transaction_id text, p_ad_unit text, p_viewer_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_credits numeric := private.setting('ad_reward_credits')::numeric;
  v_viewer public.profiles;
  v_today integer;
begin
  if not coalesce(private.setting('ad_units') ? p_ad_unit, false) then
    return jsonb_build_object('state', 'foreign');
  end if;
  -- Rewards of one person come one after the other; the profile before the account, as everywhere.
  select p.* into v_viewer from public.profiles as p where p.id = p_viewer_id for no key update;
  if v_viewer.is_active is not true then
    return jsonb_build_object('state', 'refused');
  elsif exists (select from private.ad_rewards as r where r.transaction_id = p_transaction_id) then
    return jsonb_build_object('state', 'duplicate');
  end if;
  select count(*) into v_today
  from private.ad_rewards as r
  where r.user_id = p_viewer_id and r.created_at >= date_trunc('day', now() at time zone 'utc') at time zone 'utc';
  if v_today >= v_viewer.daily_ads_limit then
    return jsonb_build_object('state', 'limit');
  end if;
  insert into private.ad_rewards (transaction_id, user_id, ad_unit, credits)
  values (p_transaction_id, p_viewer_id, p_ad_unit, v_credits)
  on conflict (transaction_id) do nothing;
  if not found then
    -- The same transaction, for somebody else, at the same moment.
    return jsonb_build_object('state', 'duplicate');
  end if;
  update public.profiles as p
  set ads_watched_today = v_today + 1, ads_credits_earned = p.ads_credits_earned + v_credits
  where p.id = p_viewer_id;
  perform private.credit_grant(
    private.account_id(p_viewer_id, null), v_credits, 'ads_reward', 'ads:' || p_transaction_id
  );
  return jsonb_build_object('state', 'granted', 'credits', v_credits);
end
$$;

comment on function backend.ad_reward(text, text, uuid) is
'Credits for an ad that was watched, once per transaction and at most daily_ads_limit a day (UTC): granted, duplicate, limit, refused (nobody, or suspended), foreign (not our ad unit).';

create function backend.ads_reset(p_limit integer default 1000) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  with watched as materialized (
    select p.id
    from public.profiles as p
    where p.ads_watched_today > 0 and not exists (
      select
      from private.ad_rewards as r
      where r.user_id = p.id and r.created_at >= date_trunc('day', now() at time zone 'utc') at time zone 'utc'
    )
    order by p.id
    limit least(greatest(p_limit, 1), 10000)
    for no key update skip locked
  )

  update public.profiles as p
  set ads_watched_today = 0
  from watched as w
  where p.id = w.id;
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.ads_reset(integer) is 'Shows people who have watched no ad today (UTC) that they have not.';

grant execute on function backend.ad_reward(text, text, uuid) to service_role;
grant execute on function backend.ads_reset(integer) to service_role;
