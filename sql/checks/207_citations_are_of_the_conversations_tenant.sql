-- An answer in an organization's conversation cites the organization's documents, one in a person's that person's own.
-- Mend: Somebody was told of a document that is not theirs. Set citations to '[]', and look where private.find_passages
-- is asked for whom. What was deleted since cannot be told from what never was.
select
  m.id::text as subject,
  jsonb_build_object(
    'document_id', d.id, 'document', coalesce(d.organization_id, d.user_id),
    'conversation', coalesce(c.organization_id, c.user_id)
  ) as detail
from public.messages as m
inner join public.conversations as c on m.conversation_id = c.id
cross join lateral jsonb_array_elements(m.citations) as e (value)
inner join public.documents as d on d.id = (e.value ->> 'document_id')::uuid
where d.organization_id is distinct from c.organization_id
  or (c.organization_id is null and d.user_id is distinct from c.user_id);
