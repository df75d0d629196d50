-- The counters of a conversation are those of its messages, and its head is one of them.
-- Mend: set message_count, total_tokens and last_message_at to what is counted, and the head to the newest message.
select
  c.id::text as subject,
  jsonb_build_object(
    'message_count', c.message_count, 'messages', coalesce(m.count, 0), 'total_tokens', c.total_tokens,
    'tokens', coalesce(m.tokens, 0), 'last_message_at', c.last_message_at, 'newest', m.newest,
    'head_message_id', c.head_message_id
  ) as detail
from public.conversations as c
left join (
  select g.conversation_id, count(*) as count, sum(g.tokens_used) as tokens, max(g.created_at) as newest
  from public.messages as g
  group by g.conversation_id
) as m on c.id = m.conversation_id
left join public.messages as h on c.head_message_id = h.id
where c.message_count <> coalesce(m.count, 0)
  or c.total_tokens <> coalesce(m.tokens, 0)
  or c.last_message_at is distinct from m.newest
  or h.conversation_id is distinct from case when m.count > 0 then c.id end;
