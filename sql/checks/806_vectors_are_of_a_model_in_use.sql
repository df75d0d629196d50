-- Every vector of documentation is of the model that its version is searched with, or of the one that comes next.
-- Mend: delete it from private.documentation_embeddings: nothing asks for it, and every search goes around it.
select
  e.chunk_id::text as subject,
  jsonb_build_object('model', e.model, 'version', v.id, 'embedding_model', v.embedding_model) as detail
from private.documentation_embeddings as e
left join public.library_versions as v on v.id = e.library_version_id
where coalesce(e.model <> v.embedding_model, true) and coalesce(e.model <> v.next_embedding_model, true);
