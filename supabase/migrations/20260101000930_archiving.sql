-- Archiving: what nobody has looked at for long is put aside. Nothing is lost by it, and its owner takes it back.
--
--   conversations_archive()   conversations without a message for conversation_archive_days
--   images_archive()          images that nobody fetched for image_archive_days, unless they are favourites or public
--
-- An archived conversation takes no messages until it is active again. An archived image is out of the index of those
-- that are alike, which has to fit into memory; its file stays where it is.

insert into private.settings (name, value, description) values
('conversation_archive_days', '365', 'Days without a message after which a conversation is archived; 0 for never.'),
('image_archive_days', '365', 'Days after which an image that nobody fetched is archived; 0 for never.');

create function backend.conversations_archive(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_days integer := (private.setting('conversation_archive_days'))::integer;
  v_count integer;
begin
  if v_days < 1 then
    return '{"count": 0}';
  end if;
  update public.conversations as c
  set status = 'archived', archived_at = now()
  where c.id in (
    select o.id
    from public.conversations as o
    where o.status = 'active' and coalesce(o.last_message_at, o.created_at) < now() - make_interval(days => v_days)
    order by coalesce(o.last_message_at, o.created_at)
    limit least(greatest(p_limit, 1), 5000)
    for no key update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.conversations_archive(integer) is
'Archives conversations without a message for conversation_archive_days. Whoever reads them makes them active again.';

create function backend.images_archive(p_limit integer default 500) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_days integer := (private.setting('image_archive_days'))::integer;
  v_count integer;
begin
  if v_days < 1 then
    return '{"count": 0}';
  end if;
  update public.generated_images as i
  set archived_at = now()
  where i.id in (
    select o.id
    from public.generated_images as o
    where o.archived_at is null and not o.is_favorite and not o.is_public
      -- Ids are in the order of time.
      and o.id < private.uuid7_floor(now() - make_interval(days => v_days))
      and coalesce(o.last_accessed_at, o.created_at) < now() - make_interval(days => v_days)
    order by o.id
    limit least(greatest(p_limit, 1), 5000)
    for no key update skip locked
  );
  get diagnostics v_count = row_count;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.images_archive(integer) is
'Archives images that nobody fetched for image_archive_days and that are neither favourites nor public.';

grant execute on function backend.conversations_archive(integer) to service_role;
grant execute on function backend.images_archive(integer) to service_role;
