-- Conversations: what people and models said to each other, kept, branched, searched and paid for.
--
--   conversations          of a person, or of an organization, whose members read and write it where it is shared
--   messages               a tree: an edit or a new answer is a sibling, nothing is overwritten
--   private.message_words  what a search looks through
--
--   backend.message_start   stores the user's message, rebuilds the context, holds the worst case, begins the answer
--   backend.message_finish  charges as a completion is charged, and keeps the answer, in one transaction
--   backend.message_fail    charges nothing; the user's message stays, the answer is marked as failed
--
-- A person's conversations go with them, and so do those in an organization that were never shared. Shared ones stay,
-- without their author: they are the organization's (docs/decisions/0020).
--
-- Locks: profile and organization, account, hold, then the conversation, then its messages.

insert into private.settings (name, value, description) values
(
  'empty_conversations_per_owner',
  '100',
  'Most conversations without a message that a person or an organization may have.'
),
(
  'conversation_retention_days',
  '30',
  'Days a deleted conversation can be restored before it is purged with its messages.'
),
('context_messages', '1000', 'Most messages of a branch that are looked at for a context.'),
('context_margin_percent', '15', 'Part of a window that is left free, since what a prompt has is an estimate.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.conversations (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete set null,
  organization_id uuid references public.organizations (id) on delete cascade,
  is_shared boolean not null default false,
  agent_id uuid references public.agents (id) on delete set null,
  title text,
  title_source text,
  system_prompt text,
  model text,
  status text not null default 'active',
  message_count integer not null default 0,
  total_tokens bigint not null default 0,
  head_message_id uuid,
  documents jsonb,
  last_message_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  archived_at timestamptz,
  deleted_at timestamptz,
  constraint status_is_known check (status in ('active', 'archived', 'deleted')),
  constraint a_conversation_belongs_to_somebody check (num_nonnulls(user_id, organization_id) >= 1),
  constraint only_an_organizations_conversation_is_shared check (not is_shared or organization_id is not null),
  constraint title_has_1_to_255_characters check (char_length(title) between 1 and 255 and title = btrim(title)),
  constraint title_source_is_known check (title_source in ('generated', 'user')),
  constraint a_title_has_a_source check ((title is null) = (title_source is null)),
  constraint system_prompt_has_at_most_64_kib check (octet_length(system_prompt) <= 65536),
  constraint model_is_named check (char_length(model) between 1 and 200),
  constraint only_an_archived_conversation_was_archived check ((status = 'archived') = (archived_at is not null)),
  constraint only_a_deleted_conversation_was_deleted check ((status = 'deleted') = (deleted_at is not null)),
  constraint documents_are_all_or_1_to_50_ids check (
    case jsonb_typeof(documents)
      when 'string' then documents = '"all"'
      when 'array' then jsonb_array_length(documents) between 1 and 50
      else documents is null
    end
  ),
  constraint counters_are_not_negative check (message_count >= 0 and total_tokens >= 0)
) with (fillfactor = 80);

comment on table public.conversations is 'Conversations. Read by their author, and by the members of an organization where they are shared; written through functions.';
comment on column public.conversations.id is 'Identifies the conversation.';
comment on column public.conversations.user_id is 'Its author; null for one that an organization''s API key began, and for a shared one whose author was erased.';
comment on column public.conversations.organization_id is 'The organization that pays for it; null where the author does.';
comment on column public.conversations.is_shared is 'Whether members of the organization read it and write in it.';
comment on column public.conversations.agent_id is 'The agent that answers; null for none, and once it is deleted.';
comment on column public.conversations.title is 'Its title; null until there is a first message.';
comment on column public.conversations.title_source is 'generated (from the first message) or user, which nothing overwrites.';
comment on column public.conversations.system_prompt is 'What the model is told first, where no agent says it.';
comment on column public.conversations.model is 'The model that answers; null for the agent''s, or the default one.';
comment on column public.conversations.status is 'active, archived (kept, takes no messages) or deleted (invisible, purged after a while).';
comment on column public.conversations.message_count is 'Its messages, of all branches.';
comment on column public.conversations.total_tokens is 'Tokens of all its answers, prompts included.';
comment on column public.conversations.head_message_id is 'The last message of the branch that is shown; null while there is none. No foreign key: a check compares.';
comment on column public.conversations.documents is 'Which documents its messages are answered from, unless they say otherwise: ids, "all", or null for none. Whose they are is asked with every message.';
comment on column public.conversations.last_message_at is 'When its newest message was written; null while there is none.';
comment on column public.conversations.created_at is 'When it was begun.';
comment on column public.conversations.updated_at is 'When anything in the row last changed.';
comment on column public.conversations.archived_at is 'When it was archived; null unless it is.';
comment on column public.conversations.deleted_at is 'When it was deleted; null unless it is.';

create index conversations_by_user
on public.conversations (user_id, coalesce(last_message_at, created_at) desc, id desc) where user_id is not null;
create index conversations_by_organization on public.conversations (organization_id) where organization_id is not null;
create index conversations_of_everybody_in_an_organization
on public.conversations (organization_id, coalesce(last_message_at, created_at) desc, id desc)
where is_shared or user_id is null;
create index conversations_by_agent on public.conversations (agent_id) where agent_id is not null;
create index conversations_without_a_message on public.conversations (user_id) where message_count = 0;
create index conversations_of_organizations_without_a_message
on public.conversations (organization_id) where message_count = 0;
create index conversations_to_archive
on public.conversations (coalesce(last_message_at, created_at)) where status = 'active';
create index conversations_to_purge on public.conversations (deleted_at) where deleted_at is not null;

create table public.messages (
  id uuid primary key default private.uuid7(),
  conversation_id uuid not null references public.conversations (id) on delete cascade,
  parent_id uuid,
  user_id uuid references public.profiles (id) on delete set null,
  role text not null,
  content text not null default '',
  parts jsonb,
  status text not null default 'completed',
  prompt_tokens integer not null default 0,
  completion_tokens integer not null default 0,
  tokens_used integer generated always as (prompt_tokens + completion_tokens) stored,
  model_used text,
  metadata jsonb not null default '{}',
  credits numeric(20, 6) not null default 0,
  hold_id uuid,
  finish_reason text,
  error_code text,
  citations jsonb not null default '[]',
  prompt_bound integer not null default 0,
  prompt_estimate integer not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint messages_are_of_one_conversation unique (conversation_id, id),
  constraint parent_is_in_the_same_conversation
  foreign key (conversation_id, parent_id) references public.messages (conversation_id, id),
  constraint role_is_known check (role in ('user', 'assistant', 'system')),
  constraint status_is_known check (status in ('pending', 'streaming', 'completed', 'cancelled', 'failed')),
  constraint only_an_answer_is_worked_on check (role = 'assistant' or status = 'completed'),
  constraint only_an_answer_has_a_hold check (role = 'assistant' or hold_id is null),
  constraint only_an_answer_costs check (
    role = 'assistant' or (credits = 0 and prompt_tokens = 0 and completion_tokens = 0)
  ),
  constraint only_an_answer_has_citations check (role = 'assistant' or citations = '[]'),
  constraint what_failed_is_free check (status in ('completed', 'cancelled') or credits = 0),
  constraint counts_are_not_negative check (
    least(prompt_tokens, completion_tokens, credits, prompt_bound, prompt_estimate) >= 0
  ),
  constraint parts_are_a_list check (jsonb_typeof(parts) = 'array'),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  ),
  constraint citations_are_a_small_list check (
    jsonb_typeof(citations) = 'array' and private.json_size(citations) <= 131072
  )
) with (fillfactor = 90);

comment on table public.messages is 'Messages, as a tree. Read by whoever reads the conversation; written through functions, never overwritten.';
comment on column public.messages.id is 'Identifies the message; the client may choose that of a user''s, so that it is stored once.';
comment on column public.messages.conversation_id is 'The conversation.';
comment on column public.messages.parent_id is 'The message before it; null for the first. Messages with one parent are branches.';
comment on column public.messages.user_id is 'Who wrote it, or asked for the answer; null for an organization''s API key, and once erased.';
comment on column public.messages.role is 'user, assistant or system.';
comment on column public.messages.content is 'Its text.';
comment on column public.messages.parts is 'Text and images as the client sent them, where there are images; else null.';
comment on column public.messages.status is 'Of an answer: pending or streaming, then completed, cancelled (broken off; what there is was charged) or failed (nothing charged). Else completed.';
comment on column public.messages.prompt_tokens is 'Tokens of the whole prompt that it answers.';
comment on column public.messages.completion_tokens is 'Tokens of the answer.';
comment on column public.messages.tokens_used is 'Prompt and answer together.';
comment on column public.messages.model_used is 'The model that answered.';
comment on column public.messages.metadata is 'Parameters of the answer: temperature, max_tokens and so on; of a question, the documents that it named. Never a system prompt.';
comment on column public.messages.credits is 'Credits charged for it.';
comment on column public.messages.hold_id is 'Its hold, which is also the id of its usage row. No foreign key, as in usage_logs.';
comment on column public.messages.finish_reason is 'Why the model stopped, in its words: stop, length ...';
comment on column public.messages.error_code is 'Why it failed or was broken off.';
comment on column public.messages.citations is 'Of an answer: the passages of documents that the model was given, {number, document_id, name, pages, chunk_ids, excerpt, is_cited}. No foreign key: they outlive the documents.';
comment on column public.messages.prompt_bound is 'Tokens it has at most in a prompt (docs/chat.md).';
comment on column public.messages.prompt_estimate is 'Tokens it has probably in a prompt.';
comment on column public.messages.created_at is 'When it was stored, or the answer begun.';
comment on column public.messages.updated_at is 'When anything in the row last changed.';

-- By the parent first: whoever asks for branches asks by it alone, and no estimate of how long the conversation is can
-- lead to another index.
create index messages_by_parent on public.messages (parent_id, conversation_id, created_at desc, id desc);
create index messages_that_begin on public.messages (conversation_id, created_at desc, id desc) where parent_id is null;
create index messages_by_time on public.messages (conversation_id, created_at);
create index messages_by_user on public.messages (user_id) where user_id is not null;
create unique index messages_have_one_answer_per_hold on public.messages (hold_id) where hold_id is not null;
create index messages_worked_on on public.messages (created_at) where status in ('pending', 'streaming');

create table private.message_words (
  message_id uuid primary key references public.messages (id) on delete cascade,
  words tsvector not null
);

comment on table private.message_words is 'Words of messages, and whose they are, so that a search looks at nobody else''s.';
comment on column private.message_words.message_id is 'The message.';
comment on column private.message_words.words is 'The words of its text without positions, and u:<author of the conversation> and o:<its organization>.';

create index message_words_by_word on private.message_words using gin (words);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security: readers read, functions write
-- ---------------------------------------------------------------------------------------------------------------

grant select on public.conversations, public.messages to authenticated, service_role;

alter table public.conversations enable row level security;
alter table public.messages enable row level security;
alter table private.message_words enable row level security;

create policy "Users read their own conversations, and members shared ones, until they are deleted"
on public.conversations for select to authenticated
using (
  status <> 'deleted'
  and (
    (organization_id is null and user_id = (select private.active_user_id()))
    or (
      -- As an array it can be looked up in an index on either side of the "or".
      organization_id = any(array(select private.my_organization_ids()))
      and (is_shared or user_id = (select private.active_user_id()))
    )
  )
);

-- The conversation's own policy decides; for a page of messages it is looked up, for many it is hashed once.
create policy "Whoever reads a conversation reads its messages"
on public.messages for select to authenticated
using (exists (select from public.conversations as c where c.id = messages.conversation_id));

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers
-- ---------------------------------------------------------------------------------------------------------------

create trigger conversations_touch_updated_at before update on public.conversations
for each row execute function private.touch_updated_at();
create trigger messages_touch_updated_at before update on public.messages
for each row execute function private.touch_updated_at();

-- Counters move by what a statement adds or takes away: they cost the same at the first message and at the 100,000th.
create function private.count_new_messages() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  update public.conversations as c
  set message_count = c.message_count + n.count,
    total_tokens = c.total_tokens + n.tokens,
    last_message_at = greatest(c.last_message_at, n.last_at)
  from (
    select m.conversation_id, count(*) as count, sum(m.tokens_used) as tokens, max(m.created_at) as last_at
    from added as m
    group by m.conversation_id
  ) as n
  where c.id = n.conversation_id;
  return null;
end
$$;

comment on function private.count_new_messages() is 'Trigger: counts messages that were added.';

create function private.count_changed_message() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  update public.conversations as c
  set total_tokens = c.total_tokens + new.tokens_used - old.tokens_used
  where c.id = new.conversation_id;
  return null;
end
$$;

comment on function private.count_changed_message() is 'Trigger: counts the tokens of an answer that has ended.';

create function private.count_gone_messages() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  -- Gone with their conversation, as they go, they find none.
  update public.conversations as c
  set message_count = c.message_count - n.count, total_tokens = c.total_tokens - n.tokens
  from (
    select m.conversation_id, count(*) as count, sum(m.tokens_used) as tokens
    from gone as m
    group by m.conversation_id
  ) as n
  where c.id = n.conversation_id;
  return null;
end
$$;

comment on function private.count_gone_messages() is 'Trigger: counts messages that were deleted.';

create trigger new_messages_are_counted
after insert on public.messages referencing new table as added
for each statement execute function private.count_new_messages();
create trigger changed_messages_are_counted
after update of prompt_tokens, completion_tokens on public.messages
for each row when (old.tokens_used <> new.tokens_used) execute function private.count_changed_message();
create trigger gone_messages_are_counted
after delete on public.messages referencing old table as gone
for each statement execute function private.count_gone_messages();

create function private.search_words(p_text text) returns tsvector
language sql immutable parallel safe set search_path = ''
as $$
  -- Of a text full of <!-- the parser looks for the end of each comment: time that grows with their square.
  select strip(to_tsvector('simple', translate(left(p_text, 100000), '<', ' ')))
$$;

comment on function private.search_words(text) is
'What of a text is searched for: the words of its first 100,000 characters, which always fit into a tsvector.';

create function private.keep_message_words() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into private.message_words as w (message_id, words)
  select new.id,
    private.search_words(new.content)
      || array_to_tsvector(array_remove(array['u:' || c.user_id::text, 'o:' || c.organization_id::text], null))
  from public.conversations as c
  where c.id = new.conversation_id
  on conflict (message_id) do update set words = excluded.words;
  return null;
end
$$;

comment on function private.keep_message_words() is 'Trigger: keeps the words of a message for the search.';

create trigger new_messages_are_searched
after insert on public.messages
for each row when (new.content <> '') execute function private.keep_message_words();
create trigger changed_messages_are_searched
after update of content on public.messages
for each row when (old.content <> new.content) execute function private.keep_message_words();

create function private.delete_personal_conversations() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  delete from public.conversations as c where c.user_id = old.id and not c.is_shared;
  update private.message_words as w
  set words = ts_delete(w.words, 'u:' || old.id::text)
  from public.messages as m
  inner join public.conversations as c on c.id = m.conversation_id
  where c.user_id = old.id and w.message_id = m.id;
  return old;
end
$$;

comment on function private.delete_personal_conversations() is
'Trigger: a person''s conversations go with them, messages and all; what they shared with an organization stays there without their name.';

-- It reaches the messages before the account, against the order above. Nobody is in the way: who holds the account of a
-- message that is this person's alone has locked this person first (private.payer, message_finish, message_fail).
create trigger personal_conversations_go_with_their_author
before delete on public.profiles
for each row execute function private.delete_personal_conversations();

-- ---------------------------------------------------------------------------------------------------------------
-- Who may read and write
-- ---------------------------------------------------------------------------------------------------------------

create function private.enter_conversation(
  p_user_id uuid,
  p_key_hash text,
  p_conversation_id uuid,
  p_is_deleted boolean default false,
  out caller private.caller,
  out conversation public.conversations
)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user_id uuid := p_user_id;
  v_organization_id uuid;
begin
  if p_key_hash is not null then
    select k.user_id, k.organization_id into v_user_id, v_organization_id
    from private.api_key_hashes as h
    inner join public.api_keys as k on k.id = h.api_key_id
    where h.key_hash = p_key_hash;
  end if;
  -- The same rule as the policy's; an organization's API key reads what is shared and what such keys began.
  select c.* into conversation
  from public.conversations as c
  where c.id = p_conversation_id
    and (c.status = 'deleted') = p_is_deleted
    and (
      (c.organization_id is null and c.user_id = v_user_id)
      or (
        c.organization_id in (select private.organization_ids_of(v_user_id, v_organization_id))
        and (c.is_shared or c.user_id is not distinct from v_user_id)
      )
    );
  -- Whoever is nobody is told that first; of the payer's plan it depends whether a key may be used.
  caller := private.actor(p_user_id, p_key_hash, 'chat', conversation.organization_id::text);
  if conversation.id is null then
    perform private.fail(404, 'conversation_not_found', 'There is no such conversation.');
  end if;
end
$$;

comment on function private.enter_conversation(uuid, text, uuid, boolean) is
'A conversation and who asks for it, on whose account; 404 conversation_not_found for a stranger''s as for none.';

create function private.require_author(p_caller private.caller, p_conversation public.conversations) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  -- What has no author any more, or never had one, is the organization's: its admins' and its keys'.
  if p_conversation.user_id is distinct from p_caller.user_id and (
    p_conversation.organization_id is null
    or p_conversation.organization_id not in (
      select private.organization_ids_of(p_caller.user_id, null, '{owner,admin}')
    )
  ) then
    perform private.fail(403, 'not_the_author', 'Only its author and admins of the organization may do this.');
  end if;
end
$$;

comment on function private.require_author(private.caller, public.conversations) is
'Refuses (403 not_the_author) members who only read and write in a shared conversation.';

create function private.conversation_json(p_conversation public.conversations) returns jsonb
language sql stable set search_path = ''
as $$ select to_jsonb(p_conversation) $$;

comment on function private.conversation_json(public.conversations) is 'A conversation as its readers are answered.';

create function private.message_json(p_message public.messages) returns jsonb
language sql stable set search_path = ''
as $$ select to_jsonb(p_message) - array['prompt_bound', 'prompt_estimate'] $$;

comment on function private.message_json(public.messages) is 'A message as its readers are answered.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel: conversations
-- ---------------------------------------------------------------------------------------------------------------

create function private.title_of(p_text text) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_text text := left(p_text, 4000);
  v_title text;
begin
  -- Code, images, links, tags and the signs of Markdown are no part of a title.
  v_text := regexp_replace(v_text, '```.*?(```|$)', ' ', 'g');
  v_text := regexp_replace(v_text, '!?\[([^\]]*)\]\([^)]*\)', '\1', 'g');
  v_text := regexp_replace(v_text, '<[^<>]*>', ' ', 'g');
  v_text := regexp_replace(v_text, '(^|\n)\s*(#{1,6}|>|[-*+]|\d+[.)])\s+', ' ', 'g');
  v_text := regexp_replace(v_text, '[*_`~|<>]+', '', 'g');
  v_text := btrim(regexp_replace(v_text, '[[:cntrl:][:space:]]+', ' ', 'g'));
  v_title := coalesce(substring(v_text from '^.+?[.!?](?=\s)|^.+?[。！？]'), v_text);
  v_title := regexp_replace(v_title, '[.。]$', '');
  if char_length(v_title) > 60 then
    v_title := coalesce(substring(left(v_title, 60) from '^(.{30,})\s'), left(v_title, 59)) || '…';
  end if;
  return nullif(btrim(v_title), '');
end
$$;

comment on function private.title_of(text) is
'A title made of a first message: its first sentence without markup, at most 60 characters; null where nothing is left.';

create function private.set_conversation_values(
  p_caller private.caller, p_conversation public.conversations, p_values jsonb
) returns public.conversations
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_fields constant text[] := array[
    'title', 'status', 'is_shared', 'agent_id', 'model', 'system_prompt', 'head_message_id', 'documents'
  ];
  v_unknown text;
  v_conversation public.conversations;
begin
  if jsonb_typeof(p_values) is distinct from 'object' then
    perform private.fail(400, 'invalid_argument', 'A JSON object with the conversation''s values is required.', '{"param": "values"}');
  end if;
  select f.name into v_unknown from jsonb_object_keys(p_values) as f (name) where f.name <> all (c_fields) limit 1;
  if v_unknown is not null then
    perform private.fail(400, 'invalid_argument', format('A conversation has no %s to set.', left(v_unknown, 60)),
      jsonb_build_object('param', left(v_unknown, 60)));
  end if;
  begin
    v_conversation := jsonb_populate_record(p_conversation, p_values);
  exception
    when data_exception then
      perform private.fail(400, 'invalid_argument', 'A value has the wrong type.', '{"param": "values"}');
  end;
  if p_values ? 'title' then
    v_conversation.title := btrim(regexp_replace(v_conversation.title, '[[:cntrl:]]+', ' ', 'g'));
    if coalesce(char_length(v_conversation.title) not between 1 and 255, true) then
      perform private.fail(400, 'invalid_argument', 'A title has 1 to 255 characters.', '{"param": "title"}');
    end if;
    v_conversation.title_source := 'user';
  end if;
  if coalesce(v_conversation.status not in ('active', 'archived'), true) then
    perform private.fail(400, 'invalid_argument', 'A conversation is active or archived; delete it to be rid of it.', '{"param": "status"}');
  end if;
  if v_conversation.is_shared is null or (v_conversation.is_shared and v_conversation.organization_id is null) then
    perform private.fail(400, 'invalid_argument', 'Only the conversation of an organization can be shared.', '{"param": "is_shared"}');
  end if;
  if octet_length(v_conversation.system_prompt) > 65536 then
    perform private.fail(400, 'invalid_argument', 'A system prompt has at most 65,536 bytes.', '{"param": "system_prompt"}');
  end if;
  if p_values ? 'agent_id' and v_conversation.agent_id is not null then
    perform private.usable_agent(p_caller, v_conversation.agent_id);
  end if;
  if p_values ? 'model' and v_conversation.model is not null then
    perform private.model_price(v_conversation.model, 'chat');
  end if;
  if p_values ? 'documents' then
    v_conversation.documents := private.document_choice(p_values -> 'documents');
    perform private.require_documents(p_caller, v_conversation.organization_id, v_conversation.documents);
  end if;
  return v_conversation;
end
$$;

comment on function private.set_conversation_values(private.caller, public.conversations, jsonb) is
'A conversation with values replaced, not yet stored; 400 invalid_argument, 404 agent_not_found, model_not_found, document_not_found.';

create function private.create_conversation(p_caller private.caller, p_values jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_conversation public.conversations;
begin
  v_conversation.user_id := p_caller.user_id;
  v_conversation.organization_id := p_caller.organization_id;
  v_conversation.status := 'active';
  v_conversation.is_shared := false;
  v_conversation := private.set_conversation_values(
    p_caller, v_conversation, p_values - array['status', 'head_message_id']
  );
  -- A conversation costs nothing until something is said in it, so there is an end to their number.
  perform private.lock_payer(p_caller.user_id, p_caller.organization_id);
  if (
    select count(*) >= private.setting('empty_conversations_per_owner')::integer
    from public.conversations as c
    where c.message_count = 0
      and (
        (p_caller.organization_id is null and c.user_id = p_caller.user_id and c.organization_id is null)
        or c.organization_id = p_caller.organization_id
      )
  ) then
    perform private.fail(409, 'too_many_empty_conversations',
      'There are many conversations in which nothing was said; write in one of them.',
      jsonb_build_object('limit', private.setting('empty_conversations_per_owner')::integer));
  end if;
  insert into public.conversations (
    user_id, organization_id, is_shared, agent_id, title, title_source, system_prompt, model, documents
  ) values (
    v_conversation.user_id, v_conversation.organization_id, v_conversation.is_shared, v_conversation.agent_id,
    v_conversation.title, v_conversation.title_source, v_conversation.system_prompt, v_conversation.model,
    v_conversation.documents
  )
  returning * into v_conversation;
  return private.conversation_json(v_conversation);
end
$$;

comment on function private.create_conversation(private.caller, jsonb) is
'Begins a conversation of the caller, paid by the organization they act for, or by themselves.';

create function private.update_conversation(
  p_caller private.caller, p_conversation public.conversations, p_changes jsonb
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_conversation public.conversations;
begin
  select c.* into v_conversation
  from public.conversations as c
  where c.id = p_conversation.id and c.status <> 'deleted'
  for no key update;
  if v_conversation.id is null then
    perform private.fail(404, 'conversation_not_found', 'There is no such conversation.');
  end if;
  v_conversation := private.set_conversation_values(p_caller, v_conversation, p_changes);
  -- Whoever writes in it may name it, and choose the branch.
  if p_changes - array['title', 'head_message_id'] <> '{}' then
    perform private.require_author(p_caller, p_conversation);
  end if;
  if p_changes ? 'head_message_id' then
    v_conversation.head_message_id := private.branch_end(v_conversation.id, v_conversation.head_message_id);
  end if;
  update public.conversations as c
  set title = v_conversation.title, title_source = v_conversation.title_source, status = v_conversation.status,
    archived_at = case when v_conversation.status = 'archived' then coalesce(c.archived_at, now()) end,
    is_shared = v_conversation.is_shared, agent_id = v_conversation.agent_id, model = v_conversation.model,
    system_prompt = v_conversation.system_prompt, head_message_id = v_conversation.head_message_id,
    documents = v_conversation.documents
  where c.id = v_conversation.id
  returning c.* into v_conversation;
  return private.conversation_json(v_conversation);
end
$$;

comment on function private.update_conversation(private.caller, public.conversations, jsonb) is
'Renames, archives, restores, shares a conversation, changes who answers in it, or shows another branch. 403 not_the_author for members who only write in it.';

create function private.delete_conversation(p_caller private.caller, p_conversation public.conversations)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.require_author(p_caller, p_conversation);
  update public.conversations as c
  set status = 'deleted', deleted_at = coalesce(c.deleted_at, now()), archived_at = null
  where c.id = p_conversation.id;
  return jsonb_build_object('id', p_conversation.id, 'deleted', true, 'purged_after',
    now() + make_interval(days => private.setting('conversation_retention_days')::integer));
end
$$;

comment on function private.delete_conversation(private.caller, public.conversations) is
'Makes a conversation invisible; a cron step purges it after the retention.';

create function private.restore_conversation(p_caller private.caller, p_conversation public.conversations)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_conversation public.conversations;
begin
  perform private.require_author(p_caller, p_conversation);
  update public.conversations as c
  set status = 'active', deleted_at = null, archived_at = null
  where c.id = p_conversation.id
  returning c.* into v_conversation;
  if v_conversation.id is null then
    perform private.fail(404, 'conversation_not_found', 'There is no such conversation.');
  end if;
  return private.conversation_json(v_conversation);
end
$$;

comment on function private.restore_conversation(private.caller, public.conversations) is
'Makes a deleted conversation active again, until it is purged.';

create function private.list_conversations(
  p_caller private.caller, p_is_of_organization boolean, p_status text, p_query text, p_limit integer, p_after text
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limit integer := private.page_limit(p_limit, 100);
  v_at timestamptz := 'infinity';
  v_id uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  v_organizations uuid[];
  v_query tsquery;
  v_scope tsquery;
  v_matches jsonb;
  v_ids uuid[];
  v_list jsonb;
begin
  if coalesce(p_status not in ('active', 'archived', 'all'), true) then
    perform private.fail(400, 'invalid_argument', 'Conversations are listed by status: active, archived or all.', '{"param": "status"}');
  end if;
  if p_after is not null then
    begin
      v_at := split_part(p_after, ',', 1)::timestamptz;
      v_id := split_part(p_after, ',', 2)::uuid;
    exception
      when data_exception then
        perform private.fail(400, 'invalid_argument', 'The place to go on after is the "next" of the page before.', '{"param": "after"}');
    end;
  end if;
  v_organizations := case
    when p_is_of_organization then array[p_caller.organization_id]
    else array(select private.organization_ids_of(p_caller.user_id, p_caller.organization_id))
  end;

  if p_query is not null then
    v_query := plainto_tsquery('simple', left(p_query, 400));
    if numnode(v_query) = 0 then
      return '{"conversations": [], "next": null}';
    end if;
    select quote_literal('u:' || p_caller.user_id::text)::tsquery into v_scope;
    select coalesce(v_scope || x.query, v_scope, x.query) into v_scope
    from (
      select string_agg(quote_literal('o:' || o.id::text), ' | ')::tsquery as query
      from unnest(v_organizations) as o (id)
    ) as x;
    -- First by words, of messages that can only be the caller's or their organizations'; the rule itself comes below.
    select jsonb_object_agg(f.conversation_id, f.message_id) into v_matches
    from (
      select distinct on (m.conversation_id) m.conversation_id, m.id as message_id
      from private.message_words as w
      inner join public.messages as m on m.id = w.message_id
      where w.words @@ (v_query && v_scope)
      order by m.conversation_id, m.created_at desc
    ) as f;
    v_ids := array(select k.id::uuid from jsonb_object_keys(v_matches) as k (id));
  end if;

  select coalesce(jsonb_agg(private.conversation_json(x.conversation) || jsonb_build_object('place', x.activity_at || ',' || (x.conversation).id)
    order by x.activity_at desc, (x.conversation).id desc), '[]') into v_list
  from (
    select f.conversation, coalesce((f.conversation).last_message_at, (f.conversation).created_at) as activity_at
    from (
      (
        select c as conversation
        from public.conversations as c
        where c.user_id = p_caller.user_id
          and case when p_is_of_organization then c.organization_id = p_caller.organization_id
            else c.organization_id is null or c.organization_id = any (v_organizations) end
          and c.status <> 'deleted' and p_status in (c.status, 'all')
          and (coalesce(c.last_message_at, c.created_at), c.id) < (v_at, v_id)
          and (v_query is null or c.id = any (v_ids)
            or to_tsvector('simple', c.title) @@ v_query)
        order by coalesce(c.last_message_at, c.created_at) desc, c.id desc
        limit v_limit + 1
      )
      union all
      (
        select s.conversation
        from unnest(v_organizations) as o (id)
        cross join lateral (
          select c as conversation
          from public.conversations as c
          where c.organization_id = o.id
            and (c.is_shared or c.user_id is null)
            and (c.is_shared or p_caller.user_id is null)
            and (c.user_id is distinct from p_caller.user_id or c.user_id is null)
            and c.status <> 'deleted' and p_status in (c.status, 'all')
            and (coalesce(c.last_message_at, c.created_at), c.id) < (v_at, v_id)
            and (v_query is null or c.id = any (v_ids)
              or to_tsvector('simple', c.title) @@ v_query)
          order by coalesce(c.last_message_at, c.created_at) desc, c.id desc
          limit v_limit + 1
        ) as s
      )
    ) as f
    order by activity_at desc, (f.conversation).id desc
    limit v_limit + 1
  ) as x;

  return jsonb_build_object(
    'conversations', (
      select coalesce(jsonb_agg(
        l.value - 'place' || case
          when v_query is null then '{}'
          else jsonb_build_object(
            'match', (
              select jsonb_build_object('message_id', m.id, 'text', ts_headline(
                'simple', translate(left(m.content, 10000), '<', ' '), v_query, 'StartSel="", StopSel="", MaxWords=20, MinWords=10'))
              from public.messages as m
              where m.id = (v_matches ->> (l.value ->> 'id'))::uuid
            )
          )
        end order by l.number), '[]')
      from jsonb_array_elements(v_list) with ordinality as l (value, number)
      where l.number <= v_limit
    ),
    'next', case when jsonb_array_length(v_list) > v_limit then v_list #> array[(v_limit - 1)::text, 'place'] end
  );
end
$$;

comment on function private.list_conversations(private.caller, boolean, text, text, integer, text) is
'Conversations the caller reads (of the organization they act for alone, where p_is_of_organization), newest activity first; with a query those whose title or messages have all its words.';

create function private.conversation_thread(p_conversation public.conversations, p_limit integer, p_before uuid)
returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_most_bytes constant bigint := 8388608; -- of a page, images included; a single message may have more
  v_limit integer := private.page_limit(p_limit, 200);
  v_from uuid := p_conversation.head_message_id;
  v_messages jsonb;
begin
  if p_before is not null then
    select m.parent_id into v_from
    from public.messages as m
    where m.id = p_before and m.conversation_id is not distinct from p_conversation.id;
    if not found then
      perform private.fail(404, 'message_not_found', 'There is no such message in this conversation.', '{"param": "before"}');
    end if;
  end if;
  -- By the primary key (is not distinct from is no condition of an index): where the statistics know nothing of a long
  -- conversation yet, an index of the conversation would look as good and read all of it, at every step.
  with recursive path as (
    select m.id, m.parent_id, 1 as depth, m.prompt_bound::bigint + octet_length(m.citations::text) as bytes
    from public.messages as m
    where m.id = v_from and m.conversation_id is not distinct from p_conversation.id
    union all
    select m.id, m.parent_id, p.depth + 1, p.bytes + m.prompt_bound + octet_length(m.citations::text)
    from path as p
    inner join public.messages as m on m.id = p.parent_id
    where p.depth <= v_limit and p.bytes <= c_most_bytes
  )

  select coalesce(jsonb_agg(private.message_json(m) || jsonb_build_object('siblings', (
    -- Branches at this place, oldest first; the message is one of them.
    select jsonb_agg(s.id order by s.created_at, s.id)
    from (
      (
        select b.id, b.created_at
        from public.messages as b
        where b.parent_id = m.parent_id
        order by b.conversation_id, b.created_at desc, b.id desc
        limit 100
      )
      union all
      (
        select b.id, b.created_at
        from public.messages as b
        where b.conversation_id = p_conversation.id and b.parent_id is null and m.parent_id is null
        order by b.created_at desc, b.id desc
        limit 100
      )
    ) as s
  )) order by p.depth desc), '[]') into v_messages
  from path as p
  inner join public.messages as m on m.id = p.id
  where p.depth <= v_limit and (p.depth = 1 or p.bytes <= c_most_bytes);
  return jsonb_build_object(
    'conversation_id', p_conversation.id,
    'head_message_id', p_conversation.head_message_id,
    'messages', v_messages,
    'next', case when v_messages #>> '{0,parent_id}' is not null then v_messages #> '{0,id}' end
  );
end
$$;

comment on function private.conversation_thread(public.conversations, integer, uuid) is
'The last messages of the branch that is shown, oldest first, with the branches at each place; next is what to ask for those before, null at the beginning.';

create function private.branch_end(p_conversation_id uuid, p_message_id uuid) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  if not exists (
    select from public.messages as m
    where m.id = p_message_id and m.conversation_id is not distinct from p_conversation_id
  ) then
    perform private.fail(404, 'message_not_found', 'There is no such message in this conversation.',
      '{"param": "head_message_id"}');
  end if;
  -- Bounded, so that a branch of more than 10,000 messages is shown that far.
  return (
    with recursive down as (
      select p_message_id as id, 1 as depth
      union all
      select n.id, d.depth + 1
      from down as d
      cross join lateral (
        select m.id
        from public.messages as m
        where m.parent_id = d.id
        order by m.conversation_id, m.created_at desc, m.id desc
        limit 1
      ) as n
      where d.depth < 10000
    )

    select d.id from down as d order by d.depth desc limit 1
  );
end
$$;

comment on function private.branch_end(uuid, uuid) is
'From a message to the newest end of the branch it is on; 404 message_not_found.';

-- ---------------------------------------------------------------------------------------------------------------
-- Kernel: what a prompt weighs
-- ---------------------------------------------------------------------------------------------------------------

create function private.text_bytes(p_text text) returns bigint
language plpgsql immutable parallel safe set search_path = ''
as $$
declare
  v_length integer := coalesce(char_length(p_text), 0);
begin
  -- In pieces: to put marks in order takes time that grows with the square of their number, and cannot be interrupted.
  -- What composes across a cut is at most 16 bytes.
  if v_length <= 512 then
    return greatest(octet_length(p_text), octet_length(normalize(p_text, nfc)));
  end if;
  return private.text_bytes(left(p_text, v_length / 2)) + private.text_bytes(substr(p_text, v_length / 2 + 1)) + 16;
end
$$;

comment on function private.text_bytes(text) is
'UTF-8 bytes of a text, as it is or in NFC, whichever is more; for a long one a few per cent too many.';

create function private.text_weight(p_text text, out bound bigint, out bytes bigint, out digits bigint)
language plpgsql immutable parallel safe strict set search_path = ''
as $$
begin
  bytes := octet_length(p_text);
  digits := bytes - octet_length(translate(p_text, '0123456789', ''));
  bound := bytes;
  if bytes > char_length(p_text) then
    bound := private.text_bytes(p_text);
  end if;
end
$$;

comment on function private.text_weight(text) is
'What a text weighs in a prompt, as functions/chat/counting.py weighs it: tokens at most, bytes, and how many of these are digits.';

create function private.message_weight(p_content text, p_parts jsonb, out bound integer, out estimate integer)
language plpgsql immutable parallel safe set search_path = ''
as $$
declare
  v_part record;
  v_text record;
  v_bytes bigint := 0;
  v_digits bigint := 0;
  v_images bigint := 0;
  v_bound bigint := 16;
begin
  -- 16 tokens for role and delimiters, four for each piece; a digit is a token, and so are four bytes of the rest. What
  -- a vision model makes of an image does not grow with its file: 2,000 tokens are more than most do.
  for v_part in
    select
      case when p.value ->> 'type' = 'image_url' then null else coalesce(p.value ->> 'text', p.value ->> 'refusal') end as text,
      coalesce(length(p.value #>> '{image_url,url}'), 0) as image
    from jsonb_array_elements(coalesce(p_parts, jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_content)))) as p (value)
  loop
    v_text := private.text_weight(coalesce(v_part.text, ''));
    v_bound := v_bound + 4 + v_text.bound + v_part.image;
    v_bytes := v_bytes + v_text.bytes;
    v_images := v_images + least(ceil(v_part.image / 4.0), 2000);
    v_digits := v_digits + v_text.digits;
  end loop;
  bound := least(v_bound, 2000000000);
  estimate := 5 + v_images + v_digits + ceil((v_bytes - v_digits) / 4.0);
end
$$;

comment on function private.message_weight(text, jsonb) is
'Tokens a message has in a prompt, at most and probably, its delimiters included.';

create function private.answer_limit(
  p_account public.credit_accounts,
  p_limits private.hold_limits,
  p_models text[],
  p_credential text,
  p_prompt_bound integer,
  p_prompt_estimate integer,
  p_wish integer
) returns integer
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_candidate private.candidate;
  v_terms private.chat_terms;
  v_wider private.chat_terms;
  v_limit integer := p_wish;
  v_room numeric := least(
    p_limits.available, p_limits.account_budget_left, p_limits.member_budget_left, p_limits.api_key_budget_left
  );
begin
  for v_candidate in
    select c.*
    from private.payable(p_account, array(select m from private.chat_candidates(p_models) as m), p_credential) as c
  loop
    v_terms := private.candidate_terms(v_candidate, p_limits, p_prompt_bound, p_prompt_estimate, null, 1);
    if (v_candidate.model).context_length - p_prompt_bound < (v_candidate.model).default_output_tokens then
      -- The bound of a long prompt, in bytes, leaves no window for an answer; what it probably has does.
      v_wider := private.candidate_terms(
        v_candidate, p_limits, least(p_prompt_bound::numeric, ceil(p_prompt_estimate * 1.15))::integer,
        p_prompt_estimate, null, 1
      );
      v_wider := private.candidate_terms(
        v_candidate, p_limits, p_prompt_bound, p_prompt_estimate, v_wider.max_tokens, 1
      );
      if v_wider.amount <= v_room and v_wider.tokens <= coalesce(p_limits.tokens_left, v_wider.tokens) then
        v_terms := v_wider;
      end if;
    end if;
    v_limit := least(v_limit, v_terms.max_tokens);
  end loop;
  return v_limit;
end
$$;

comment on function private.answer_limit(
  public.credit_accounts, private.hold_limits, text[], text, integer, integer, integer
) is
'Tokens of an answer for which none were asked: the wish (an agent''s), as far as every model, its window, the balance, the budgets and the plan allow.';

create function private.branch_context(
  p_conversation_id uuid,
  p_from uuid,
  p_budget integer,
  p_sees boolean,
  out messages jsonb,
  out bound bigint,
  out estimate bigint
)
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_most_bytes constant bigint := 8388608; -- of a context: images weigh few tokens and are large
  v_most integer := private.setting('context_messages');
begin
  -- From the newest back to the oldest, as far as the budget goes and never further: the length of the whole
  -- conversation makes no difference.
  with recursive path as (
    select m.id, m.parent_id, m.prompt_estimate as total, 1 as depth, m.prompt_bound::bigint as bytes
    from public.messages as m
    where m.id = p_from and m.conversation_id is not distinct from p_conversation_id
    union all
    select m.id, m.parent_id, p.total + m.prompt_estimate, p.depth + 1, p.bytes + m.prompt_bound
    from path as p
    inner join public.messages as m on m.id = p.parent_id
    where p.total <= p_budget and p.depth < v_most and p.bytes <= c_most_bytes
  ),

  fitting as (
    select m.*, p.depth
    from path as p
    inner join public.messages as m on m.id = p.id
    where p.total <= p_budget and (p.depth = 1 or p.bytes <= c_most_bytes)
      and (m.content <> '' or (m.parts is not null and p_sees))
  ),

  -- In pairs: what is left begins with a question, never with an answer to one that was dropped.
  kept as (
    select f.*
    from fitting as f
    where f.depth <= (select max(q.depth) from fitting as q where q.role = 'user')
  )

  select
    coalesce(jsonb_agg(jsonb_build_object(
      'role', k.role, 'content', case when p_sees then coalesce(k.parts, to_jsonb(k.content)) else to_jsonb(k.content) end
    ) order by k.depth desc), '[]'),
    coalesce(sum(k.prompt_bound), 0), coalesce(sum(k.prompt_estimate), 0)
  into messages, bound, estimate
  from kept as k;
end
$$;

comment on function private.branch_context(uuid, uuid, integer, boolean) is
'The newest messages of a branch, up to one, that fit into so many tokens by estimate, oldest first; and what they weigh. Images only for models that see.';

create type private.prompt as (
  models text [],
  wish integer,
  parameters jsonb,
  messages jsonb,
  bound integer,
  estimate integer,
  citations jsonb
);

comment on type private.prompt is 'What a model is asked: which models may answer, how many tokens an agent wishes for, parameters, the messages and what they weigh, and the passages that are among them.';

create function private.build_prompt(
  p_caller private.caller,
  p_conversation public.conversations,
  p_agent public.agents,
  p_message public.messages,
  p_models text[],
  p_max_tokens integer,
  p_parameters jsonb,
  p_passages jsonb default null,
  p_mark text default null
) returns private.prompt
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_prompt private.prompt;
  v_system text := nullif(coalesce(nullif(p_agent.system_prompt, ''), p_conversation.system_prompt), '');
  v_weight record;
  v_bound bigint;
  v_estimate integer;
  v_window integer;
  v_default integer;
  v_most integer;
  v_sees boolean;
  v_samples boolean;
  v_answer integer;
  v_room integer;
  v_content jsonb := coalesce(p_message.parts, to_jsonb(p_message.content));
  v_asked record;
  v_branch record;
begin
  v_prompt.models := case
    when cardinality(p_models) > 0 then p_models
    when p_conversation.model is not null then array[p_conversation.model]
    when p_agent.id is not null then p_agent.model || array(
      -- One that has been retired since stands in for nothing.
      select f.model
      from unnest(p_agent.fallback_models) with ordinality as f (model, place)
      inner join public.models as m on m.id = f.model and m.kind = 'chat' and m.is_active
      inner join public.model_providers as mp on mp.id = m.provider_id and mp.is_active
      order by f.place
    )
    else array(select m.id from public.models as m where m.kind = 'chat' and m.is_default)
  end;
  if cardinality(v_prompt.models) = 0 then
    perform private.fail(404, 'model_not_found', 'There is no default model; name one.', '{"param": "model"}');
  end if;
  select min(c.context_length), min(c.default_output_tokens), min(c.max_output_tokens),
    bool_and(c.capabilities -> 'vision' is not distinct from 'true'),
    bool_and(c.capabilities -> 'sampling' is distinct from 'false')
  into v_window, v_default, v_most, v_sees, v_samples
  from private.chat_candidates(v_prompt.models) as c;
  if p_agent.system_prompt <> '' and v_prompt.models && array(
    select m.name from unnest(v_prompt.models) as m (name) where m.name like 'openai-compatible/%'
  ) and not private.edits_agent(p_caller, p_agent) then
    -- The server would be told what is shown to nobody but the agent's author.
    perform private.fail(400, 'own_server_not_allowed', 'A server of your own is not asked in the place of somebody else''s agent.',
      '{"param": "model"}');
  end if;
  if p_message.parts is not null and not v_sees then
    perform private.fail(400, 'unsupported_content', 'This model does not read images.', '{"param": "content"}');
  end if;

  v_prompt.parameters := p_parameters;
  if p_agent.id is not null then
    if v_samples then
      v_prompt.parameters := jsonb_build_object('temperature', p_agent.temperature) || p_parameters;
    end if;
    v_prompt.wish := least(p_agent.max_tokens, v_most);
  end if;

  -- 128 tokens for what a template adds, as the bound of a completion has it, of which a prompt has few.
  v_bound := 128 + p_message.prompt_bound;
  v_estimate := p_message.prompt_estimate;
  if v_system is not null then
    v_weight := private.message_weight(v_system, null);
    v_bound := v_bound + v_weight.bound;
    v_estimate := v_estimate + v_weight.estimate;
  end if;
  -- A limit beyond the model's is told of as such, with its price.
  v_answer := case when p_max_tokens is null then 16 else least(p_max_tokens, v_most) end;
  if v_estimate::bigint + v_answer > v_window then
    perform private.fail(400, 'context_length_exceeded', 'The message and the answer''s limit do not fit the model''s context window.',
      jsonb_build_object('param', 'content', 'context_length', v_window));
  end if;
  v_answer := coalesce(p_max_tokens, least(coalesce(v_prompt.wish, v_default), v_window / 4));
  v_room := floor(
    (v_window - v_answer) * (100 - private.setting('context_margin_percent')::integer) / 100.0
  )::integer - v_estimate;
  v_prompt.citations := '[]';
  if jsonb_array_length(p_passages) > 0 then
    -- What was found comes before what was said earlier: that is cut first.
    v_asked := private.message_with_passages(p_message, p_passages, p_mark, v_room);
    v_prompt.citations := v_asked.citations;
    v_content := v_asked.content;
    v_bound := v_bound - p_message.prompt_bound + v_asked.bound;
    v_estimate := v_estimate - p_message.prompt_estimate + v_asked.estimate;
    v_room := v_room + p_message.prompt_estimate - v_asked.estimate;
  end if;
  v_branch := private.branch_context(p_conversation.id, p_message.parent_id, v_room, v_sees);
  v_prompt.messages := case
    when v_system is null then '[]'::jsonb
    else jsonb_build_array(jsonb_build_object('role', 'system', 'content', v_system))
  end || v_branch.messages || jsonb_build_object('role', 'user', 'content', v_content);
  v_prompt.bound := least(v_bound + v_branch.bound, 2000000000);
  v_prompt.estimate := v_estimate + v_branch.estimate;
  return v_prompt;
end
$$;

comment on function private.build_prompt(
  private.caller, public.conversations, public.agents, public.messages, text[], integer, jsonb, jsonb, text
) is 'What a message asks of which model: the system prompt (the agent''s, else the conversation''s), as much of the branch as fits, and the message, with passages of documents before it. 400 context_length_exceeded where the message alone does not fit.';

-- ---------------------------------------------------------------------------------------------------------------
-- For functions/: backend.*
-- ---------------------------------------------------------------------------------------------------------------

create function private.user_message(
  p_caller private.caller,
  p_conversation public.conversations,
  p_content text,
  p_parts jsonb,
  p_message_id uuid,
  p_parent_id uuid,
  p_is_branch boolean,
  p_regenerate uuid
) returns public.messages
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_message public.messages;
  v_parent public.messages;
  v_weight record;
begin
  if p_regenerate is not null then
    select m.* into v_message
    from public.messages as m
    where m.id = p_regenerate and m.conversation_id is not distinct from p_conversation.id;
    if v_message.role = 'assistant' then
      select m.* into v_message from public.messages as m where m.id = v_message.parent_id;
    end if;
    if v_message.id is null or v_message.role <> 'user' then
      perform private.fail(404, 'message_not_found', 'There is no such message in this conversation.', '{"param": "regenerate"}');
    end if;
    return v_message;
  end if;

  if p_content is null or (p_content = '' and p_parts is null) then
    perform private.fail(400, 'invalid_argument', 'A message has a text or an image.', '{"param": "content"}');
  end if;
  if octet_length(p_content) > 1048576 then
    perform private.fail(413, 'message_too_large', 'A message has at most 1 MiB of text.',
      '{"param": "content", "max_bytes": 1048576}');
  end if;
  v_message.parent_id := case when p_is_branch then p_parent_id else p_conversation.head_message_id end;
  if v_message.parent_id is not null then
    select m.* into v_parent
    from public.messages as m
    where m.id = v_message.parent_id and m.conversation_id is not distinct from p_conversation.id;
    if v_parent.id is null then
      perform private.fail(404, 'message_not_found', 'There is no such message in this conversation.', '{"param": "parent_id"}');
    elsif v_parent.role <> 'assistant' then
      perform private.fail(400, 'invalid_argument', 'A message follows an answer, or begins the conversation.', '{"param": "parent_id"}');
    elsif v_parent.status in ('pending', 'streaming') then
      perform private.fail(409, 'answer_in_progress', 'The answer before this message is still being made.', '{"retry_after": 1}');
    end if;
  end if;
  v_weight := private.message_weight(p_content, p_parts);
  v_message.id := coalesce(p_message_id, private.uuid7());
  v_message.conversation_id := p_conversation.id;
  v_message.user_id := p_caller.user_id;
  v_message.role := 'user';
  v_message.content := p_content;
  v_message.parts := p_parts;
  v_message.prompt_bound := v_weight.bound;
  v_message.prompt_estimate := v_weight.estimate;
  return v_message;
end
$$;

comment on function private.user_message(
  private.caller, public.conversations, text, jsonb, uuid, uuid, boolean, uuid
) is 'The message that is to be answered: a new one, not yet stored, or the one whose answer is made anew.';

create function private.find_message(
  p_conversation public.conversations, p_message_id uuid, p_content text, p_parts jsonb,
  out message public.messages, out answer public.messages
)
language plpgsql volatile security definer set search_path = ''
as $$
begin
  select m.* into message from public.messages as m where m.id = p_message_id;
  if message.id is null then
    return;
  end if;
  if message.conversation_id <> p_conversation.id or message.role <> 'user'
    or message.content is distinct from p_content or message.parts is distinct from p_parts then
    perform private.fail(409, 'idempotency_conflict', 'This message id was already used for another message.');
  end if;
  -- An answer that was lost may still be at work. One of the two is charged: the new one, so the other no longer can be.
  perform private.credit_release(h.id, 'superseded')
  from public.messages as m
  inner join private.credit_holds as h on h.id = m.hold_id
  where m.parent_id = message.id and m.status = 'failed' and h.status = 'expired';
  select m.* into answer
  from public.messages as m
  where m.parent_id = message.id and m.status <> 'failed'
  order by m.conversation_id, m.created_at desc, m.id desc
  limit 1;
end
$$;

comment on function private.find_message(public.conversations, uuid, text, jsonb) is
'A message of an id that the client chose, and its newest answer that did not fail; 409 idempotency_conflict for an id of another message.';

create function backend.message_start(
  p_request_id uuid,
  p_conversation_id uuid,
  p_user_id uuid default null,
  p_key_hash text default null,
  p_content text default null,
  p_parts jsonb default null,
  p_message_id uuid default null,
  p_parent_id uuid default null,
  p_is_branch boolean default false,
  p_regenerate uuid default null,
  p_models text[] default '{}',
  p_max_tokens integer default null,
  p_parameters jsonb default '{}',
  p_stream boolean default true,
  p_ip text default null,
  p_user_agent text default null,
  p_credential text default 'auto',
  p_documents jsonb default null,
  p_embedding jsonb default null,
  p_embedding_model text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entered record;
  v_caller private.caller;
  v_sources record;
  v_passages jsonb;
  v_conversation public.conversations;
  v_agent public.agents;
  v_payer record;
  v_found record;
  v_message public.messages;
  v_answer public.messages;
  v_answer_id uuid := private.uuid7();
  v_prompt private.prompt;
  v_max_tokens integer := p_max_tokens;
  v_started jsonb;
begin
  v_entered := private.enter_conversation(p_user_id, p_key_hash, p_conversation_id);
  v_caller := v_entered.caller;

  -- Before anything is locked: a search takes longer than the rest, and so does whoever makes the vector.
  v_sources := private.message_sources(
    v_caller, v_entered.conversation, p_documents -> 'documents', p_content, p_message_id, p_regenerate
  );
  if v_sources.is_searched then
    if v_sources.embedding_model is not null and p_embedding_model is null then
      return jsonb_build_object(
        'state', 'search', 'question', v_sources.question, 'embedding_model', v_sources.embedding_model
      );
    end if;
    v_passages := private.find_passages(
      v_caller, v_entered.conversation, v_sources.ids, v_sources.question, p_embedding, p_embedding_model
    );
  end if;

  v_payer := private.payer(v_caller.user_id, v_caller.organization_id, v_caller.api_key_id);

  -- The account is locked, so the same request comes here once at a time; then the conversation, whose head moves.
  select c.* into v_conversation
  from public.conversations as c
  where c.id = p_conversation_id and c.status <> 'deleted'
  for no key update;
  if v_conversation.id is null then
    perform private.fail(404, 'conversation_not_found', 'There is no such conversation.');
  elsif v_conversation.status = 'archived' then
    perform private.fail(409, 'conversation_archived', 'This conversation is archived; restore it first.');
  end if;
  if v_conversation.agent_id is not null then
    v_agent := private.usable_agent(v_caller, v_conversation.agent_id);
  end if;

  -- The same call again, because the answer to the first was lost on the way: the same rows.
  select m.* into v_answer
  from private.credit_holds as h
  inner join public.messages as m on m.hold_id = h.id
  where h.account_id = (v_payer.account).id and h.idempotency_key = 'chat:' || p_request_id::text
    and m.conversation_id = p_conversation_id;
  if v_answer.id is not null then
    v_answer_id := v_answer.id;
    v_passages := private.passages_again(v_answer.citations);
    select m.* into v_message from public.messages as m where m.id = v_answer.parent_id;
  elsif p_message_id is not null and p_regenerate is null then
    v_found := private.find_message(v_conversation, p_message_id, p_content, p_parts);
    if (v_found.answer).status in ('pending', 'streaming') then
      perform private.fail(409, 'idempotency_in_progress', 'This message is being answered.', jsonb_build_object(
        'retry_after', 1, 'message_id', (v_found.answer).id));
    elsif (v_found.answer).id is not null then
      return private.account_summary((v_payer.account).id) || jsonb_build_object(
        'state', 'replay', 'credits_charged', (v_found.answer).credits,
        'answer', jsonb_build_object('message', private.message_json(v_found.answer), 'title', v_conversation.title)
      );
    end if;
    v_message := v_found.message;
  end if;
  if v_message.id is null then
    v_message := private.user_message(
      v_caller, v_conversation, p_content, p_parts, p_message_id, p_parent_id, p_is_branch, p_regenerate
    );
  end if;
  if v_message.created_at is null then
    v_message.metadata := case
      when v_sources.documents is null then '{}'::jsonb
      else jsonb_build_object('documents', v_sources.documents)
    end;
  end if;

  v_prompt := private.build_prompt(
    v_caller, v_conversation, v_agent, v_message, p_models, p_max_tokens, p_parameters, v_passages,
    -- Nobody knows it who wrote a document before.
    left(encode(sha256(v_answer_id::text::bytea), 'hex'), 16)
  );
  if v_max_tokens is null and v_answer.id is null then
    v_max_tokens := private.answer_limit(
      v_payer.account, v_payer.limits, v_prompt.models, p_credential, v_prompt.bound, v_prompt.estimate, v_prompt.wish
    );
  end if;
  v_started := private.chat_hold(
    v_caller, v_payer.account, v_payer.limits, p_request_id, v_prompt.models, v_prompt.bound, v_prompt.estimate,
    v_max_tokens, 1, p_credential,
    jsonb_build_object(
      'resource_type', 'conversation', 'resource_id', p_conversation_id, 'is_streamed', p_stream, 'ip_address', p_ip,
      'user_agent', left(p_user_agent, 400)
    )
  );

  if v_answer.id is null then
    begin
      -- The question, unless it is there already, and the answer that begins.
      insert into public.messages (
        id, conversation_id, parent_id, user_id, role, content, parts, status, metadata, hold_id, citations,
        prompt_bound, prompt_estimate
      )
      select
        v_message.id, p_conversation_id, v_message.parent_id, v_message.user_id, 'user', v_message.content,
        v_message.parts, 'completed', v_message.metadata, null, '[]'::jsonb, v_message.prompt_bound,
        v_message.prompt_estimate
      where v_message.created_at is null
      union all
      select
        v_answer_id, p_conversation_id, v_message.id, v_caller.user_id, 'assistant', '', null,
        case when p_stream then 'streaming' else 'pending' end,
        v_prompt.parameters || jsonb_build_object('max_tokens', v_started #> '{candidates,0,max_tokens}'),
        (v_started ->> 'hold_id')::uuid, v_prompt.citations, 0, 0;
    exception
      when unique_violation then
        -- Somebody else's message got the same id in this very moment.
        perform private.fail(409, 'idempotency_conflict', 'This message id was already used for another message.');
    end;
    update public.conversations as c
    set head_message_id = v_answer_id,
      title = coalesce(c.title, private.title_of(v_message.content)),
      title_source = coalesce(
        c.title_source, case when private.title_of(v_message.content) is not null then 'generated' end
      )
    where c.id = p_conversation_id
    returning c.* into v_conversation;
  elsif v_answer.citations <> v_prompt.citations then
    -- A document went between the two calls.
    update public.messages as m set citations = v_prompt.citations where m.id = v_answer_id;
  end if;
  return v_started || jsonb_build_object(
    'conversation_id', p_conversation_id,
    'user_message_id', v_message.id,
    'message_id', v_answer_id,
    'title', v_conversation.title,
    'messages', v_prompt.messages,
    'parameters', v_prompt.parameters,
    'citations', v_prompt.citations,
    'prompt_bound', v_prompt.bound,
    'prompt_estimate', v_prompt.estimate
  );
end
$$;

comment on function backend.message_start(
  uuid, uuid, uuid, text, text, jsonb, uuid, uuid, boolean, uuid, text[], integer, jsonb, boolean, text, text, text,
  jsonb, jsonb, text
) is 'Before the model is called: checks who may write, stores the user''s message (or takes the one to be answered anew), rebuilds the context within the window, holds the worst case as chat_start does, begins the answer. The same request again: the same rows. A message id that was answered: the answer. Where documents are searched, first called without a vector: state search, with the question and the model to make it by. p_documents: {documents}, or {} where the message names none.';

create function backend.message_finish(
  p_hold_id uuid,
  p_prompt_tokens integer,
  p_completion_tokens integer,
  p_cached_tokens integer default 0,
  p_outcome text default 'completed',
  p_usage_source text default 'upstream',
  p_latency_ms integer default null,
  p_first_token_ms integer default null,
  p_answer jsonb default '{}',
  p_model text default null,
  p_credential text default null,
  p_provider_key_id uuid default null,
  p_key_uses jsonb default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_result jsonb;
  v_usage public.usage_logs;
  v_message public.messages;
  v_content text := coalesce(p_answer ->> 'content', '');
  v_weight record;
begin
  v_result := backend.chat_finish(
    p_hold_id, p_prompt_tokens, p_completion_tokens, p_cached_tokens, p_outcome, p_usage_source, p_latency_ms,
    p_first_token_ms, null, p_model, p_credential, p_provider_key_id, p_key_uses
  );
  select u.* into v_usage
  from private.credit_holds as h
  inner join public.usage_logs as u on u.id = h.id and u.created_at = h.created_at
  where h.id = p_hold_id;
  v_weight := private.message_weight(v_content, null);
  -- The conversation before its message, as whoever deletes it: counting the tokens would lock it after.
  perform c.id
  from public.messages as m
  inner join public.conversations as c on c.id = m.conversation_id
  where m.hold_id = p_hold_id
  for no key update of c;
  -- One that was swept as lost, and ends after all, is charged after all, and kept.
  update public.messages as m
  set content = v_content, status = v_usage.status, prompt_tokens = v_usage.prompt_tokens,
    completion_tokens = v_usage.completion_tokens, credits = v_usage.credits, model_used = v_usage.model_id,
    finish_reason = left(p_answer ->> 'finish_reason', 100), error_code = left(p_answer ->> 'error_code', 100),
    citations = private.cited(m.citations, v_content), prompt_bound = v_weight.bound,
    prompt_estimate = v_weight.estimate
  where m.hold_id = p_hold_id and m.status in ('pending', 'streaming', 'failed');
  select m.* into v_message from public.messages as m where m.hold_id = p_hold_id;
  return v_result || jsonb_build_object('message', private.message_json(v_message));
end
$$;

comment on function backend.message_finish(
  uuid, integer, integer, integer, text, text, integer, integer, jsonb, text, text, uuid, jsonb
) is 'After the model has answered: charges as chat_finish does and keeps the answer (p_answer: content, finish_reason, error_code) with its tokens and credits, in one transaction.';

create function backend.message_fail(
  p_hold_id uuid,
  p_error_code text,
  p_latency_ms integer default null,
  p_is_answered boolean default false,
  p_key_uses jsonb default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_result jsonb;
begin
  -- The person before the account, as in an erasure, which takes their messages along and then the rest.
  perform p.id
  from private.credit_holds as h
  inner join public.profiles as p on p.id = h.user_id
  where h.id = p_hold_id
  for key share of p;
  v_result := backend.chat_fail(p_hold_id, p_error_code, p_latency_ms, p_is_answered, p_key_uses);
  update public.messages as m
  set status = 'failed', error_code = left(coalesce(p_error_code, 'failed'), 100)
  where m.hold_id = p_hold_id and m.status in ('pending', 'streaming');
  return v_result;
end
$$;

comment on function backend.message_fail(uuid, text, integer, boolean, jsonb) is
'The model gave no answer: charges nothing, as chat_fail does, and marks the answer as failed. What the user wrote stays.';

create function backend.messages_sweep(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  update public.messages as m
  set status = 'failed', error_code = 'answer_lost'
  where m.id in (
    select w.id
    from public.messages as w
    left join private.credit_holds as h on h.id = w.hold_id
    where w.status in ('pending', 'streaming') and w.created_at < now() - interval '10 seconds'
      and coalesce(h.status, 'released') in ('released', 'expired')
    order by w.created_at
    limit p_limit
    for update of w skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.messages_sweep(integer) is
'Marks answers as failed whose hold the reaper has returned: whoever made them is gone.';

create function backend.conversation_purge(p_limit integer default 100) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  delete from public.conversations as c
  where c.id in (
    select d.id
    from public.conversations as d
    where d.deleted_at < now() - make_interval(days => private.setting('conversation_retention_days')::integer)
    order by d.deleted_at
    limit p_limit
    for update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.conversation_purge(integer) is 'Deletes conversations past their retention for good, with their messages.';

create function backend.conversation_create(
  p_values jsonb default '{}', p_user_id uuid default null, p_key_hash text default null,
  p_organization text default null
) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.create_conversation(private.actor(p_user_id, p_key_hash, 'chat', p_organization), p_values) $$;

comment on function backend.conversation_create(jsonb, uuid, text, text) is 'Begins a conversation for a person or an API key.';

create function backend.conversation_list(
  p_user_id uuid default null,
  p_key_hash text default null,
  p_organization text default null,
  p_status text default 'active',
  p_query text default null,
  p_limit integer default 50,
  p_after text default null
) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select private.list_conversations(
    private.actor(p_user_id, p_key_hash, 'chat', p_organization), p_organization is not null, p_status, p_query,
    p_limit, p_after
  )
$$;

comment on function backend.conversation_list(uuid, text, text, text, text, integer, text) is
'Conversations the caller reads, newest activity first, by status, organization and words.';

create function backend.conversation_read(
  p_conversation_id uuid, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select private.conversation_json(e.conversation)
  from private.enter_conversation(p_user_id, p_key_hash, p_conversation_id) as e
$$;

comment on function backend.conversation_read(uuid, uuid, text) is 'One conversation; 404 conversation_not_found.';

create function backend.conversation_update(
  p_conversation_id uuid, p_changes jsonb, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entered record := private.enter_conversation(p_user_id, p_key_hash, p_conversation_id);
begin
  return private.update_conversation(v_entered.caller, v_entered.conversation, p_changes);
end
$$;

comment on function backend.conversation_update(uuid, jsonb, uuid, text) is
'Renames, archives, restores, shares a conversation, changes who answers in it, or shows another branch.';

create function backend.conversation_delete(
  p_conversation_id uuid, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entered record := private.enter_conversation(p_user_id, p_key_hash, p_conversation_id);
begin
  return private.delete_conversation(v_entered.caller, v_entered.conversation);
end
$$;

comment on function backend.conversation_delete(uuid, uuid, text) is 'Deletes a conversation, to be purged after the retention.';

create function backend.conversation_restore(
  p_conversation_id uuid, p_user_id uuid default null, p_key_hash text default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entered record := private.enter_conversation(p_user_id, p_key_hash, p_conversation_id, true);
begin
  return private.restore_conversation(v_entered.caller, v_entered.conversation);
end
$$;

comment on function backend.conversation_restore(uuid, uuid, text) is 'Brings a deleted conversation back, until it is purged.';

create function backend.conversation_messages(
  p_conversation_id uuid, p_user_id uuid default null, p_key_hash text default null, p_limit integer default 50,
  p_before uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_entered record := private.enter_conversation(p_user_id, p_key_hash, p_conversation_id);
begin
  return private.conversation_thread(v_entered.conversation, p_limit, p_before);
end
$$;

comment on function backend.conversation_messages(uuid, uuid, text, integer, uuid) is
'The branch of a conversation that is shown, page by page from its end.';

grant execute on function
backend.message_start(
  uuid, uuid, uuid, text, text, jsonb, uuid, uuid, boolean, uuid, text[], integer, jsonb, boolean, text, text, text,
  jsonb, jsonb, text
),
backend.message_finish(
  uuid, integer, integer, integer, text, text, integer, integer, jsonb, text, text, uuid, jsonb
),
backend.message_fail(uuid, text, integer, boolean, jsonb),
backend.messages_sweep(integer),
backend.conversation_purge(integer),
backend.conversation_create(jsonb, uuid, text, text),
backend.conversation_list(uuid, text, text, text, text, integer, text),
backend.conversation_read(uuid, uuid, text),
backend.conversation_update(uuid, jsonb, uuid, text),
backend.conversation_delete(uuid, uuid, text),
backend.conversation_restore(uuid, uuid, text),
backend.conversation_messages(uuid, uuid, text, integer, uuid)
to service_role;

-- ---------------------------------------------------------------------------------------------------------------
-- For clients: rows are read through row level security; these are for what a query cannot say
-- ---------------------------------------------------------------------------------------------------------------

create function private.create_my_conversation(p_values jsonb, p_organization_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select private.create_conversation(private.me(p_organization_id), p_values) $$;

comment on function private.create_my_conversation(jsonb, uuid) is 'See public.create_conversation.';

create function private.my_conversations(
  p_status text, p_organization_id uuid, p_query text, p_limit integer, p_after text
) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select private.list_conversations(
    private.me(p_organization_id), p_organization_id is not null, p_status, p_query, p_limit, p_after
  )
$$;

comment on function private.my_conversations(text, uuid, text, integer, text) is 'See public.list_conversations.';

create function private.update_my_conversation(p_id uuid, p_changes jsonb) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select backend.conversation_update(p_id, p_changes, private.require_active_user()) $$;

comment on function private.update_my_conversation(uuid, jsonb) is 'See public.update_conversation.';

create function private.delete_my_conversation(p_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select backend.conversation_delete(p_id, private.require_active_user()) $$;

comment on function private.delete_my_conversation(uuid) is 'See public.delete_conversation.';

create function private.restore_my_conversation(p_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select backend.conversation_restore(p_id, private.require_active_user()) $$;

comment on function private.restore_my_conversation(uuid) is 'See public.restore_conversation.';

create function private.my_conversation_thread(p_id uuid, p_limit integer, p_before uuid) returns jsonb
language sql stable security definer set search_path = ''
as $$ select backend.conversation_messages(p_id, private.require_active_user(), null, p_limit, p_before) $$;

comment on function private.my_conversation_thread(uuid, integer, uuid) is 'See public.conversation_thread.';

create function private.select_my_branch(p_id uuid, p_message_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$
  select backend.conversation_update(
    p_id, jsonb_build_object('head_message_id', p_message_id), private.require_active_user()
  )
$$;

comment on function private.select_my_branch(uuid, uuid) is 'See public.select_branch.';

create function public.create_conversation(p_values jsonb default '{}', p_organization_id uuid default null)
returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.create_my_conversation(p_values, p_organization_id) $$;

comment on function public.create_conversation(jsonb, uuid) is
'Begins a conversation that you pay, or an organization you belong to. p_values, all optional: title, agent_id, model, system_prompt, is_shared, documents (ids, "all" or null).';

create function public.list_conversations(
  p_status text default 'active', p_organization_id uuid default null, p_query text default null,
  p_limit integer default 50, p_after text default null
) returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_conversations(p_status, p_organization_id, p_query, p_limit, p_after) $$;

comment on function public.list_conversations(text, uuid, text, integer, text) is
'Conversations you read, newest activity first: active, archived or all; of one organization alone; with a query, those whose title or messages have all its words. Answers {conversations, next}; p_after is the next of the page before.';

create function public.update_conversation(p_id uuid, p_changes jsonb) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.update_my_conversation(p_id, p_changes) $$;

comment on function public.update_conversation(uuid, jsonb) is
'Changes title, status (active, archived), is_shared, agent_id, model, system_prompt, documents, or the branch that is shown (head_message_id). Members who write in a shared conversation may change the first and the last; the rest is its author''s and the admins''.';

create function public.delete_conversation(p_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.delete_my_conversation(p_id) $$;

comment on function public.delete_conversation(uuid) is 'Deletes a conversation: at once invisible, purged with its messages after the retention.';

create function public.restore_conversation(p_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.restore_my_conversation(p_id) $$;

comment on function public.restore_conversation(uuid) is 'Brings a deleted conversation back, until it is purged.';

create function public.conversation_thread(p_id uuid, p_limit integer default 50, p_before uuid default null)
returns jsonb
language sql stable security invoker set search_path = ''
as $$ select private.my_conversation_thread(p_id, p_limit, p_before) $$;

comment on function public.conversation_thread(uuid, integer, uuid) is
'The branch of a conversation that is shown, oldest message first, from its end: {conversation_id, head_message_id, messages, next}. p_before is the next of the page before; siblings are the branches at each place.';

create function public.select_branch(p_id uuid, p_message_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.select_my_branch(p_id, p_message_id) $$;

comment on function public.select_branch(uuid, uuid) is 'Shows the branch of a conversation that a message is on, to its newest end.';

grant execute on function
private.create_my_conversation(jsonb, uuid),
private.my_conversations(text, uuid, text, integer, text),
private.update_my_conversation(uuid, jsonb),
private.delete_my_conversation(uuid),
private.restore_my_conversation(uuid),
private.my_conversation_thread(uuid, integer, uuid),
private.select_my_branch(uuid, uuid),
public.create_conversation(jsonb, uuid),
public.list_conversations(text, uuid, text, integer, text),
public.update_conversation(uuid, jsonb),
public.delete_conversation(uuid),
public.restore_conversation(uuid),
public.conversation_thread(uuid, integer, uuid),
public.select_branch(uuid, uuid)
to authenticated;
