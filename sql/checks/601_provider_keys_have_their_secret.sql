-- Every provider key has its sealed secret.
-- Mend: Nobody can use such a key. Delete it, and ask its owner to bring it again.
select
  k.id::text as subject,
  jsonb_build_object('user_id', k.user_id, 'organization_id', k.organization_id, 'created_at', k.created_at) as detail
from public.provider_keys as k
where not exists (
    select from private.provider_key_secrets as s where s.provider_key_id = k.id
  );
