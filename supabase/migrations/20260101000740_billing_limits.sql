-- Plan limits: how many rows an owner may have, enforced where the row is written.
--
-- Requests, tokens and concurrency are limits of a hold and are checked there (private.require_room). What is counted
-- in rows is checked here, by a trigger on the table itself, so that no way around a function leads past it:
--
--   create trigger agents_stay_within_their_plan
--   before insert or update of user_id, organization_id on public.agents
--   for each row execute function private.refuse_rows_beyond_plan('max_agents');
--
-- The payer's plan rules: the organization's for what belongs to one, else the user's. A smaller plan takes nothing
-- away: rows that are there stay, and new ones wait until there is room again.
--
-- Locks: the payer's row, before anything is counted, so that the count stays true until the transaction ends.

create function private.plan_limit(p_user_id uuid, p_organization_id uuid, p_limit text) returns bigint
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit bigint;
begin
  if p_limit ~ '^max_' then
    v_limit := to_jsonb(private.plan_of(p_user_id, p_organization_id)) ->> p_limit;
  end if;
  if v_limit is null then
    raise exception 'plans have no limit %', p_limit using errcode = 'undefined_column';
  end if;
  return nullif(v_limit, -1);
end
$$;

comment on function private.plan_limit(uuid, uuid, text) is
'How many rows the payer''s plan allows, by the name of its column (max_agents, max_documents, max_libraries, max_team_members); null for no limit.';

create function private.require_plan_room(p_user_id uuid, p_organization_id uuid, p_limit text, p_used bigint)
returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit bigint := private.plan_limit(p_user_id, p_organization_id, p_limit);
begin
  if p_used >= v_limit then
    perform private.fail(
      402, 'plan_limit_reached',
      format('The plan allows no more %s.', replace(substring(p_limit from 5), '_', ' ')),
      jsonb_build_object(
        'limit_source', 'plan.' || p_limit, 'plan', (private.plan_of(p_user_id, p_organization_id)).slug,
        'limit', v_limit, 'required', 1, 'available', 0, 'remedy', 'upgrade_plan')
    );
  end if;
end
$$;

comment on function private.require_plan_room(uuid, uuid, text, bigint) is
'Refuses (402 plan_limit_reached) one more row where p_used are there already and the payer''s plan allows no more.';

create function private.lock_payer(p_user_id uuid, p_organization_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_organization_id is not null then
    -- The author first, as their erasure does: the row's foreign key would lock them after the organization.
    perform p.id from public.profiles as p where p.id = p_user_id for key share;
    perform o.id from public.organizations as o where o.id = p_organization_id for no key update;
  else
    perform p.id from public.profiles as p where p.id = p_user_id for no key update;
  end if;
end
$$;

comment on function private.lock_payer(uuid, uuid) is
'Locks the row of the organization, where there is one, else of the user: what makes a count of their rows true until the transaction ends.';

create function private.refuse_rows_beyond_plan() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_used bigint;
begin
  if tg_op = 'UPDATE' and (old.user_id, old.organization_id) is not distinct from (new.user_id, new.organization_id) then
    return new;
  end if;
  -- Triggers come before row level security. A stranger is refused by that, and learns nothing of the plan.
  if tg_nargs > 1 and auth.uid() is not null and new.organization_id is not null
    and not new.organization_id = any(array(select private.my_organization_ids())) then
    return new;
  end if;
  perform private.lock_payer(new.user_id, new.organization_id);
  if private.plan_limit(new.user_id, new.organization_id, tg_argv[0]) is null then
    return new;
  end if;
  execute format(
    'select count(*) from %I.%I as t where %s', tg_table_schema, tg_table_name,
    case
      when new.organization_id is not null then 't.organization_id = $2'
      else 't.user_id = $1 and t.organization_id is null'
    end
  ) into v_used using new.user_id, new.organization_id;
  perform private.require_plan_room(new.user_id, new.organization_id, tg_argv[0], v_used);
  return new;
end
$$;

comment on function private.refuse_rows_beyond_plan() is
'Trigger, with the name of the limit as its argument, and "by clients" where those insert the rows themselves, under row level security: refuses a row more of this table than the plan of its payer (columns user_id, organization_id) allows.';

-- ---------------------------------------------------------------------------------------------------------------
-- Members of an organization
-- ---------------------------------------------------------------------------------------------------------------

create trigger organization_has_no_more_members_than_its_plan_allows
before insert on public.organization_members
for each row execute function private.refuse_rows_beyond_plan('max_team_members');

create function private.refuse_invitations_beyond_plan() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform private.lock_payer(null, new.organization_id);
  perform private.require_plan_room(null, new.organization_id, 'max_team_members', (
    (select count(*) from public.organization_members as m where m.organization_id = new.organization_id)
    + (
      select count(*) from public.organization_invitations as i
      where i.organization_id = new.organization_id
        and i.accepted_at is null and i.revoked_at is null and i.expires_at > now()
    )
  ));
  return new;
end
$$;

comment on function private.refuse_invitations_beyond_plan() is
'Trigger: an invitation that waits for an answer takes a member''s place, so that nobody is invited for whom there is no room.';

create trigger organization_invites_no_more_than_its_plan_allows
before insert on public.organization_invitations
for each row execute function private.refuse_invitations_beyond_plan();
