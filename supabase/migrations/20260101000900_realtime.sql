-- Realtime: what clients read they may also listen to, under the same policies and column grants.
--
-- Hosted Supabase has the publication; where it is absent nothing happens, and nothing depends on it: who does not
-- listen polls. A table that clients begin to read is added here (sql/checks/022 finds one that is not). usage_logs is
-- left out: it is partitioned, and its partitions are private. So are the chunks of libraries and documents: there are
-- many, and nobody waits for one.

do $$
declare
  v_table text;
begin
  if not exists (select from pg_publication as p where p.pubname = 'supabase_realtime' and not p.puballtables) then
    return;
  end if;
  foreach v_table in array array[
    'agents', 'api_keys', 'api_usage', 'auto_top_ups', 'billing_alerts', 'conversations', 'credit_accounts',
    'credit_lots', 'credit_packs', 'credit_purchases', 'credit_transactions', 'documents', 'generated_images',
    'image_analysis', 'image_generations', 'invoices', 'libraries', 'library_versions', 'messages',
    'model_providers', 'models', 'organization_invitations', 'organization_members', 'organizations',
    'payment_methods', 'payments', 'plans', 'profiles', 'prompt_suggestions', 'provider_key_uses', 'provider_keys',
    'subscriptions', 'user_favorites', 'user_model_preferences', 'user_preferences', 'webhook_deliveries',
    'webhook_endpoints'
  ] loop
    -- Somebody may have switched it on in the dashboard.
    if not exists (
      select from pg_publication_tables as t
      where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = v_table
    ) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
end
$$;
