-- Of the private functions, signed-in users execute those listed here: each asks who the caller is, and trusts no
-- argument to say so.
-- Mend: revoke execute from authenticated; or, when a policy or a wrapper in public needs it, add its name below.
select
  p.oid::regprocedure::text as subject,
  jsonb_build_object('is_definer', p.prosecdef) as detail
from pg_proc as p
where p.pronamespace = 'private'::regnamespace
  and has_function_privilege('authenticated', p.oid, 'execute')
  and p.proname not in (
    -- Policies ask these.
    'active_user_id', 'my_organization_ids', 'my_admin_organization_ids', 'my_statement_account_ids',
    -- The default of ids that clients leave out, and a constraint of what they write.
    'uuid7', 'json_size',
    -- Functions in public wrap these.
    'accept_invitation', 'answer_tokens', 'api_key_usage', 'cancel_my_generation', 'change_member_role',
    'chunks_answer', 'create_api_key', 'create_my_agent', 'create_my_conversation', 'create_organization',
    'delete_my_agent', 'delete_my_conversation', 'documentation_scope', 'documents_answer', 'find_my_chunks',
    'find_my_documents_chunks', 'generation_cost', 'grams_of', 'invite_member', 'leave_organization',
    'library_state', 'my_conversation_thread', 'my_conversations', 'my_credit_balance', 'my_credit_statement',
    'my_document_uploaded', 'my_generation_stats', 'my_organization_agents', 'my_organization_customer_id',
    'my_public_agents', 'my_usage_report', 'names_in', 'organization_people', 'ranked_libraries', 'remove_member',
    'resolved_libraries', 'restore_my_conversation', 'revoke_api_key', 'revoke_invitation', 'rotate_api_key',
    'select_my_branch', 'set_member_budget', 'set_my_auto_top_up', 'set_my_low_balance_threshold',
    'set_my_monthly_budget', 'suggest_prompts', 'trends', 'update_api_key', 'update_my_agent',
    'update_my_conversation', 'update_organization'
  );
