-- Agents: a system prompt with a model and its parameters, under a name.
--
--   agents   read as rows by those who may edit one: its author, and the admins of its organization
--
-- Everybody else gets an agent through a function that selects columns, without its system prompt: members those of
-- their organizations (organization_agents), anybody the public ones (public_agents). Who talks to an agent pays for it
-- themselves. Rows are written through functions: a model has to be on offer, and an organization's rules apply.
--
-- A person's agents go with them. An organization's stay when their author is erased: they are the organization's.

-- ---------------------------------------------------------------------------------------------------------------
-- Table
-- ---------------------------------------------------------------------------------------------------------------

create table public.agents (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete cascade,
  name text not null,
  description text not null default '',
  avatar_url text,
  system_prompt text not null default '',
  model text not null,
  fallback_models text[] not null default '{}',
  temperature numeric(3, 2) not null default 0.7,
  max_tokens integer default 2048,
  is_public boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint an_agent_belongs_to_somebody check (num_nonnulls(user_id, organization_id) >= 1),
  constraint name_has_1_to_100_characters check (char_length(name) between 1 and 100 and name = btrim(name)),
  constraint description_is_short check (char_length(description) <= 2000),
  constraint avatar_url_is_a_web_address check (avatar_url ~ '^https?://\S+$' and char_length(avatar_url) <= 500),
  constraint system_prompt_has_at_most_64_kib check (octet_length(system_prompt) <= 65536),
  constraint model_is_named check (char_length(model) between 1 and 200),
  constraint at_most_three_models_stand_in check (
    cardinality(fallback_models) <= 3 and array_position(fallback_models, null) is null
  ),
  constraint temperature_is_from_0_to_2 check (temperature between 0 and 2),
  constraint max_tokens_is_positive check (max_tokens between 1 and 1000000)
);

comment on table public.agents is 'System prompts with a model and parameters. Read here by those who may edit them; others use functions that leave the prompt out.';
comment on column public.agents.id is 'Identifies the agent.';
comment on column public.agents.user_id is 'Its author; null once erased, and for one that an organization''s API key made.';
comment on column public.agents.organization_id is 'The organization it belongs to, whose members use it; null for a person''s own.';
comment on column public.agents.name is 'Name shown to people.';
comment on column public.agents.description is 'What it is for; shown with its name.';
comment on column public.agents.avatar_url is 'Address of a picture, http or https.';
comment on column public.agents.system_prompt is 'What the model is told first. Shown to its author and to admins of its organization, and to nobody else.';
comment on column public.agents.model is 'The model it answers with; no foreign key, as with usage.';
comment on column public.agents.fallback_models is 'Models that stand in for it, in order; at most three.';
comment on column public.agents.temperature is 'Temperature of its answers, 0 to 2.';
comment on column public.agents.max_tokens is 'Most tokens of an answer, as far as model and balance allow; null for the model''s default.';
comment on column public.agents.is_public is 'Whether everybody may find and use it, without seeing its system prompt.';
comment on column public.agents.created_at is 'When it was made.';
comment on column public.agents.updated_at is 'When anything in the row last changed.';

create index agents_by_user on public.agents (user_id, id desc) where user_id is not null;
create index agents_by_organization on public.agents (organization_id, id desc) where organization_id is not null;
create index agents_in_public on public.agents (id desc) where is_public;
create index agents_in_public_by_text on public.agents
using gin (to_tsvector('simple', name || ' ' || description)) where is_public;

grant select on public.agents to authenticated, service_role;

alter table public.agents enable row level security;

create policy "Authors read their agents, admins those of their organizations"
on public.agents for select to authenticated
using (
  (
    user_id = (select private.active_user_id())
    and (organization_id is null or organization_id = any(array(select private.my_organization_ids())))
  )
  -- As an array it can be looked up in an index on either side of the "or".
  or organization_id = any(array(select private.my_admin_organization_ids()))
);

create trigger agents_touch_updated_at before update on public.agents
for each row execute function private.touch_updated_at();

-- Not on user_id: erasing an author must not be refused because their organization's plan is full.
create trigger agents_stay_within_their_plan
before insert or update of organization_id on public.agents
for each row execute function private.refuse_rows_beyond_plan('max_agents');

create function private.delete_personal_agents() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  delete from public.agents as a where a.user_id = old.id and a.organization_id is null;
  return old;
end
$$;

comment on function private.delete_personal_agents() is 'Trigger: a person''s own agents go with them; those of organizations stay, without an author.';

create trigger personal_agents_go_with_their_author
before delete on public.profiles
for each row execute function private.delete_personal_agents();

-- ---------------------------------------------------------------------------------------------------------------
-- Who is acting, for whom
-- ---------------------------------------------------------------------------------------------------------------

create function private.actor(p_user_id uuid, p_key_hash text, p_scope text, p_organization text)
returns private.caller
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.caller(p_user_id, p_key_hash, p_scope, p_organization);
begin
  -- A hold would find out; what costs nothing has to ask.
  if p_key_hash is null and not exists (select from public.profiles as p where p.id = p_user_id and p.is_active) then
    perform private.fail(403, 'account_suspended', 'This account is suspended or no longer exists.');
  end if;
  return v_caller;
end
$$;

comment on function private.actor(uuid, text, text, text) is
'Who asks for something that costs nothing: private.caller, and the person is active (403 account_suspended).';

create function private.organization_ids_of(
  p_user_id uuid, p_key_organization_id uuid, p_roles text[] default '{owner,admin,member}'
) returns setof uuid
language sql stable security definer rows 5 set search_path = ''
as $$
  select m.organization_id
  from public.organization_members as m
  inner join public.profiles as p on m.user_id = p.id
  inner join public.organizations as o on m.organization_id = o.id
  where m.user_id = p_user_id and m.role = any (p_roles) and p.is_active and o.is_active
  union all
  select o.id
  from public.organizations as o
  where o.id = p_key_organization_id and p_user_id is null and o.is_active
$$;

comment on function private.organization_ids_of(uuid, uuid, text[]) is
'Active organizations in which a person has one of the roles; for an organization''s API key (no person): that organization.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel
-- ---------------------------------------------------------------------------------------------------------------

create function private.edits_agent(p_caller private.caller, p_agent public.agents) returns boolean
language sql stable security definer set search_path = ''
as $$
  select case
    when p_agent.organization_id is null then coalesce(p_agent.user_id = p_caller.user_id, false)
    else (
      (
        p_agent.user_id = p_caller.user_id
        and p_agent.organization_id in (select private.organization_ids_of(p_caller.user_id, null))
      )
      or p_agent.organization_id in (
        select private.organization_ids_of(p_caller.user_id, p_caller.organization_id, '{owner,admin}')
      )
    ) is true
  end
$$;

comment on function private.edits_agent(private.caller, public.agents) is
'Whether the caller may change an agent, and so read its system prompt: its author, an admin of its organization, or that organization''s API key.';

create function private.agent_json(p_caller private.caller, p_agent public.agents) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select case
    when private.edits_agent(p_caller, p_agent) then to_jsonb(p_agent) || '{"is_editable": true}'
    when (p_agent.organization_id is null and p_agent.user_id = p_caller.user_id)
      or p_agent.organization_id in (
        select private.organization_ids_of(p_caller.user_id, p_caller.organization_id)
      ) then to_jsonb(p_agent) - 'system_prompt' || '{"is_editable": false}'
    -- What everybody may see of a public one; whose it is is no part of it.
    else jsonb_build_object(
      'id', p_agent.id, 'name', p_agent.name, 'description', p_agent.description, 'avatar_url', p_agent.avatar_url,
      'model', p_agent.model, 'fallback_models', p_agent.fallback_models, 'is_public', p_agent.is_public,
      'created_at', p_agent.created_at, 'is_editable', false
    )
  end
$$;

comment on function private.agent_json(private.caller, public.agents) is
'An agent as the caller may see it: with its system prompt only for those who may change it.';

create function private.usable_agent(p_caller private.caller, p_agent_id uuid) returns public.agents
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_agent public.agents;
begin
  select a.* into v_agent
  from public.agents as a
  where a.id = p_agent_id
    and (
      (a.organization_id is null and a.user_id = p_caller.user_id)
      or a.organization_id in (select private.organization_ids_of(p_caller.user_id, p_caller.organization_id))
      or (a.is_public and private.is_agent_in_force(a))
    );
  if v_agent.id is null then
    perform private.fail(404, 'agent_not_found', 'There is no such agent.', '{"param": "agent_id"}');
  end if;
  return v_agent;
end
$$;

comment on function private.usable_agent(private.caller, uuid) is
'An agent the caller may talk to: their own, one of their organizations, or a public one; 404 agent_not_found for all others alike.';

create function private.is_agent_in_force(p_agent public.agents) returns boolean
language sql stable security definer set search_path = ''
as $$
  select case
    when p_agent.organization_id is not null
      then exists (select from public.organizations as o where o.id = p_agent.organization_id and o.is_active)
    else exists (select from public.profiles as p where p.id = p_agent.user_id and p.is_active)
  end
$$;

comment on function private.is_agent_in_force(public.agents) is 'Whether the owner of a public agent is not suspended.';

create function private.editable_agent(p_caller private.caller, p_agent_id uuid) returns public.agents
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_agent public.agents;
begin
  select a.* into v_agent from public.agents as a where a.id = p_agent_id for no key update;
  if v_agent.id is null or not private.edits_agent(p_caller, v_agent) then
    if v_agent.organization_id in (
      select private.organization_ids_of(p_caller.user_id, p_caller.organization_id)
    ) then
      perform private.fail(403, 'not_the_author', 'Only its author and admins of the organization may do this.');
    end if;
    perform private.fail(404, 'agent_not_found', 'There is no such agent.');
  end if;
  return v_agent;
end
$$;

comment on function private.editable_agent(private.caller, uuid) is
'Locks an agent the caller may change; 403 not_the_author for other members of its organization, 404 agent_not_found for everybody else.';

create function private.refuse_agent_value(p_constraint text) returns void
language plpgsql set search_path = ''
as $$
begin
  case p_constraint
    when 'name_has_1_to_100_characters' then
      perform private.fail(400, 'invalid_argument', 'An agent''s name has 1 to 100 characters, and no spaces around it.', '{"param": "name"}');
    when 'description_is_short' then
      perform private.fail(400, 'invalid_argument', 'A description has at most 2,000 characters.', '{"param": "description"}');
    when 'avatar_url_is_a_web_address' then
      perform private.fail(400, 'invalid_argument', 'A picture is an http or https address of at most 500 characters.', '{"param": "avatar_url"}');
    when 'system_prompt_has_at_most_64_kib' then
      perform private.fail(400, 'invalid_argument', 'A system prompt has at most 65,536 bytes.', '{"param": "system_prompt"}');
    when 'at_most_three_models_stand_in' then
      perform private.fail(400, 'invalid_argument', 'At most three models can stand in for the first.', '{"param": "fallback_models"}');
    when 'temperature_is_from_0_to_2' then
      perform private.fail(400, 'invalid_argument', 'A temperature is a number from 0 to 2.', '{"param": "temperature"}');
    when 'max_tokens_is_positive' then
      perform private.fail(400, 'invalid_argument', 'max_tokens is from 1 to 1,000,000, or null for the model''s default.', '{"param": "max_tokens"}');
    else
      perform private.fail(400, 'invalid_argument', 'A value is not acceptable.');
  end case;
end
$$;

comment on function private.refuse_agent_value(text) is 'Says which value of an agent a constraint refused (400 invalid_argument).';

create function private.set_agent_values(p_agent public.agents, p_values jsonb) returns public.agents
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_fields constant text[] := array[
    'name', 'description', 'avatar_url', 'system_prompt', 'model', 'fallback_models', 'temperature', 'max_tokens',
    'is_public'
  ];
  v_unknown text;
  v_agent public.agents;
begin
  if jsonb_typeof(p_values) is distinct from 'object' then
    perform private.fail(400, 'invalid_argument', 'A JSON object with the agent''s values is required.', '{"param": "values"}');
  end if;
  select f.name into v_unknown from jsonb_object_keys(p_values) as f (name) where f.name <> all (c_fields) limit 1;
  if v_unknown is not null then
    perform private.fail(400, 'invalid_argument', format('An agent has no %s to set.', left(v_unknown, 60)),
      jsonb_build_object('param', left(v_unknown, 60)));
  end if;
  begin
    v_agent := jsonb_populate_record(p_agent, p_values);
  exception
    when data_exception then
      perform private.fail(400, 'invalid_argument', 'A value has the wrong type.', '{"param": "values"}');
  end;
  if num_nulls(
    v_agent.name, v_agent.description, v_agent.system_prompt, v_agent.model, v_agent.fallback_models,
    v_agent.temperature, v_agent.is_public
  ) > 0 then
    perform private.fail(400, 'invalid_argument', 'Only avatar_url and max_tokens may be null; a name is required.', '{"param": "values"}');
  end if;
  if p_values ? 'model' then
    perform private.model_price(v_agent.model, 'chat');
  end if;
  if p_values ? 'fallback_models' and cardinality(v_agent.fallback_models) <= 3 then
    perform private.model_price(f.model, 'chat') from unnest(v_agent.fallback_models) as f (model);
  end if;
  return v_agent;
end
$$;

comment on function private.set_agent_values(public.agents, jsonb) is
'An agent with values replaced, not yet stored; 400 invalid_argument for unknown members and wrong types, 404 model_not_found.';

create function private.create_agent(p_caller private.caller, p_values jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_agent public.agents;
  v_constraint text;
begin
  v_agent.description := '';
  v_agent.system_prompt := '';
  v_agent.fallback_models := '{}';
  v_agent.temperature := 0.7;
  v_agent.max_tokens := 2048;
  v_agent.is_public := false;
  select m.id into v_agent.model from public.models as m where m.kind = 'chat' and m.is_default;
  v_agent := private.set_agent_values(v_agent, p_values);
  begin
    insert into public.agents (
      user_id, organization_id, name, description, avatar_url, system_prompt, model, fallback_models, temperature,
      max_tokens, is_public
    ) values (
      p_caller.user_id, p_caller.organization_id, v_agent.name, v_agent.description, v_agent.avatar_url,
      v_agent.system_prompt, v_agent.model, v_agent.fallback_models, v_agent.temperature, v_agent.max_tokens,
      v_agent.is_public
    )
    returning * into v_agent;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_agent_value(v_constraint);
  end;
  return private.agent_json(p_caller, v_agent);
end
$$;

comment on function private.create_agent(private.caller, jsonb) is 'Makes an agent of the caller, or of the organization they act for; 402 plan_limit_reached.';

create function private.update_agent(p_caller private.caller, p_id uuid, p_changes jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_agent public.agents := private.editable_agent(p_caller, p_id);
  v_constraint text;
begin
  v_agent := private.set_agent_values(v_agent, p_changes);
  begin
    update public.agents as a
    set name = v_agent.name, description = v_agent.description, avatar_url = v_agent.avatar_url,
      system_prompt = v_agent.system_prompt, model = v_agent.model, fallback_models = v_agent.fallback_models,
      temperature = v_agent.temperature, max_tokens = v_agent.max_tokens, is_public = v_agent.is_public
    where a.id = p_id
    returning a.* into v_agent;
  exception
    when check_violation then
      get stacked diagnostics v_constraint = constraint_name;
      perform private.refuse_agent_value(v_constraint);
  end;
  return private.agent_json(p_caller, v_agent);
end
$$;

comment on function private.update_agent(private.caller, uuid, jsonb) is 'Changes what is named of an agent.';

create function private.delete_agent(p_caller private.caller, p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.editable_agent(p_caller, p_id);
  delete from public.agents as a where a.id = p_id;
  return jsonb_build_object('id', p_id, 'deleted', true);
end
$$;

comment on function private.delete_agent(private.caller, uuid) is 'Deletes an agent; its conversations go on without it.';

create function private.page_limit(p_limit integer, p_most integer) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_limit is null or p_limit not between 1 and p_most then
    perform private.fail(400, 'invalid_argument', format('A page has 1 to %s entries.', p_most),
      jsonb_build_object('param', 'limit', 'maximum', p_most));
  end if;
  return p_limit;
end
$$;

comment on function private.page_limit(integer, integer) is 'A number of entries to answer with, checked; 400 invalid_argument.';

create function private.list_agents(p_caller private.caller, p_limit integer, p_after uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit integer := private.page_limit(p_limit, 100);
begin
  return (
    select jsonb_build_object(
      'agents', coalesce(jsonb_agg(private.agent_json(p_caller, a.agent) order by (a.agent).id desc)
        filter (where a.place <= v_limit), '[]'),
      'next', (array_agg((a.agent).id) filter (where a.place = v_limit and a.count > v_limit))[1]
    )
    from (
      select f.agent, row_number() over (order by (f.agent).id desc) as place, count(*) over () as count
      from (
        select g as agent
        from public.agents as g
        where case
          when p_caller.organization_id is null then g.user_id = p_caller.user_id and g.organization_id is null
          else g.organization_id = p_caller.organization_id
        end
          and (p_after is null or g.id < p_after)
        order by g.id desc
        limit v_limit + 1
      ) as f
    ) as a
  );
end
$$;

comment on function private.list_agents(private.caller, integer, uuid) is
'Agents of the caller, or of the organization they act for, newest first; next is the id to go on after, null at the end.';

create function private.find_public_agents(p_query text, p_limit integer, p_after uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit integer := private.page_limit(p_limit, 100);
  v_query tsquery := plainto_tsquery('simple', left(coalesce(p_query, ''), 400));
  v_agents jsonb;
begin
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', a.id, 'name', a.name, 'description', a.description, 'avatar_url', a.avatar_url, 'model', a.model,
    'fallback_models', a.fallback_models, 'created_at', a.created_at
  ) order by a.id desc), '[]') into v_agents
  from (
    select g.*
    from public.agents as g
    where g.is_public and private.is_agent_in_force(g)
      and (p_after is null or g.id < p_after)
      and (
        numnode(v_query) = 0
        or to_tsvector('simple', g.name || ' ' || g.description) operator(pg_catalog.@@) v_query
      )
    order by g.id desc
    limit v_limit + 1
  ) as a;
  return jsonb_build_object(
    'agents', case when jsonb_array_length(v_agents) > v_limit then v_agents - v_limit else v_agents end,
    'next', case when jsonb_array_length(v_agents) > v_limit then v_agents #> array[(v_limit - 1)::text, 'id'] end
  );
end
$$;

comment on function private.find_public_agents(text, integer, uuid) is
'Public agents, newest first, by words of name and description: the columns that everybody may see, and no other.';

-- ---------------------------------------------------------------------------------------------------------------
-- For functions/: backend.*
-- ---------------------------------------------------------------------------------------------------------------

create function backend.agent_create(
  p_values jsonb, p_user_id uuid default null, p_key_hash text default null, p_organization text default null
) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.create_agent(private.actor(p_user_id, p_key_hash, 'agents', p_organization), p_values) $$;

comment on function backend.agent_create(jsonb, uuid, text, text) is 'Makes an agent for a person or an API key.';

create function backend.agent_list(
  p_user_id uuid default null, p_key_hash text default null, p_organization text default null,
  p_limit integer default 50, p_after uuid default null
) returns jsonb
language sql stable security definer set search_path = ''
as $$ select private.list_agents(private.actor(p_user_id, p_key_hash, 'agents', p_organization), p_limit, p_after) $$;

comment on function backend.agent_list(uuid, text, text, integer, uuid) is 'Agents of a person, or of an organization.';

create function backend.agent_find(
  p_query text default null, p_user_id uuid default null, p_key_hash text default null, p_limit integer default 50,
  p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform private.actor(p_user_id, p_key_hash, 'agents', null);
  return private.find_public_agents(p_query, p_limit, p_after);
end
$$;

comment on function backend.agent_find(text, uuid, text, integer, uuid) is 'Public agents, for anybody who is signed in.';

create function backend.agent_read(p_agent_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_caller private.caller := private.actor(p_user_id, p_key_hash, 'agents', null);
begin
  return private.agent_json(v_caller, private.usable_agent(v_caller, p_agent_id));
end
$$;

comment on function backend.agent_read(uuid, uuid, text) is
'One agent the caller may use; its system prompt only for those who may change it. 404 agent_not_found.';

create function backend.agent_update(
  p_agent_id uuid, p_changes jsonb, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.update_agent(private.actor(p_user_id, p_key_hash, 'agents', null), p_agent_id, p_changes) $$;

comment on function backend.agent_update(uuid, jsonb, uuid, text) is 'Changes an agent for its author, an admin of its organization, or that organization''s key.';

create function backend.agent_delete(p_agent_id uuid, p_user_id uuid default null, p_key_hash text default null)
returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.delete_agent(private.actor(p_user_id, p_key_hash, 'agents', null), p_agent_id) $$;

comment on function backend.agent_delete(uuid, uuid, text) is 'Deletes an agent for those who may change it.';

grant execute on function
backend.agent_create(jsonb, uuid, text, text),
backend.agent_list(uuid, text, text, integer, uuid),
backend.agent_find(text, uuid, text, integer, uuid),
backend.agent_read(uuid, uuid, text),
backend.agent_update(uuid, jsonb, uuid, text),
backend.agent_delete(uuid, uuid, text)
to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- For clients
-- ---------------------------------------------------------------------------------------------------------------

create function private.me(p_organization_id uuid default null) returns private.caller
language sql stable security definer set search_path = ''
as $$ select private.actor(private.require_active_user(), null, null, p_organization_id::text) $$;

comment on function private.me(uuid) is 'The calling client, for themselves or for an organization they belong to.';

create function private.create_my_agent(p_values jsonb, p_organization_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.create_agent(private.me(p_organization_id), p_values) $$;

comment on function private.create_my_agent(jsonb, uuid) is 'See public.create_agent.';

create function private.update_my_agent(p_id uuid, p_changes jsonb) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.update_agent(private.me(), p_id, p_changes) $$;

comment on function private.update_my_agent(uuid, jsonb) is 'See public.update_agent.';

create function private.delete_my_agent(p_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.delete_agent(private.me(), p_id) $$;

comment on function private.delete_my_agent(uuid) is 'See public.delete_agent.';

create function private.my_organization_agents(p_organization_id uuid, p_limit integer, p_after uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_organization_id is null then
    perform private.fail(400, 'invalid_argument', 'An organization is required.', '{"param": "organization_id"}');
  end if;
  return private.list_agents(private.me(p_organization_id), p_limit, p_after);
end
$$;

comment on function private.my_organization_agents(uuid, integer, uuid) is 'See public.organization_agents.';

create function private.my_public_agents(p_query text, p_limit integer, p_after uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform private.require_active_user();
  return private.find_public_agents(p_query, p_limit, p_after);
end
$$;

comment on function private.my_public_agents(text, integer, uuid) is 'See public.public_agents.';

create function public.create_agent(p_values jsonb, p_organization_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.create_my_agent(p_values, p_organization_id) $$;

comment on function public.create_agent(jsonb, uuid) is
'Makes an agent of yours, or of an organization you belong to. p_values: name (required), description, avatar_url, system_prompt, model (the default), fallback_models ([]), temperature (0.7), max_tokens (2048), is_public (false). Fails plan_limit_reached, model_not_found.';

create function public.update_agent(p_id uuid, p_changes jsonb) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.update_my_agent(p_id, p_changes) $$;

comment on function public.update_agent(uuid, jsonb) is 'Changes an agent of yours, or of an organization you administer; what is not named stays.';

create function public.delete_agent(p_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.delete_my_agent(p_id) $$;

comment on function public.delete_agent(uuid) is 'Deletes an agent of yours, or of an organization you administer. Conversations with it stay.';

create function public.organization_agents(
  p_organization_id uuid, p_limit integer default 50, p_after uuid default null
) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_organization_agents(p_organization_id, p_limit, p_after) $$;

comment on function public.organization_agents(uuid, integer, uuid) is
'Agents of an organization you belong to, newest first; the system prompt only of those you may change. Answers {agents, next}.';

create function public.public_agents(
  p_query text default null, p_limit integer default 50, p_after uuid default null
) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_public_agents(p_query, p_limit, p_after) $$;

comment on function public.public_agents(text, integer, uuid) is
'Agents that everybody may use, newest first, by words of their name and description; without their system prompts. Answers {agents, next}.';

grant execute on function
private.create_my_agent(jsonb, uuid),
private.update_my_agent(uuid, jsonb),
private.delete_my_agent(uuid),
private.my_organization_agents(uuid, integer, uuid),
private.my_public_agents(text, integer, uuid),
public.create_agent(jsonb, uuid),
public.update_agent(uuid, jsonb),
public.delete_agent(uuid),
public.organization_agents(uuid, integer, uuid),
public.public_agents(text, integer, uuid)
to authenticated;
