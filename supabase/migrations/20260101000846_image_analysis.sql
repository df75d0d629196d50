-- Images: what is found in them, after they were made.
--
-- An analysis is a task that the insert of an image queues, never work of the insert itself. What it found is kept as
-- it came (image_analysis), and its summary in columns of generated_images.

create table public.image_analysis (
  id uuid primary key default private.uuid7(),
  image_id uuid not null references public.generated_images (id) on delete cascade,
  analysis_type text not null,
  analysis_version text not null,
  raw_response jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint analysis_type_is_known check (analysis_type in ('vision', 'safety', 'style', 'color')),
  constraint analysis_version_has_1_to_100_characters check (char_length(analysis_version) between 1 and 100),
  constraint raw_response_has_at_most_64_kib check (private.json_size(raw_response) <= 65536),
  constraint an_image_is_analysed_once_per_type_and_version unique (image_id, analysis_type, analysis_version)
);

comment on table public.image_analysis is 'What was found in an image, as whoever looked said it.';
comment on column public.image_analysis.id is 'Identifies the analysis.';
comment on column public.image_analysis.image_id is 'The image.';
comment on column public.image_analysis.analysis_type is 'vision, safety, style or color.';
comment on column public.image_analysis.analysis_version is 'What looked, and in which version.';
comment on column public.image_analysis.raw_response is 'What it said.';
comment on column public.image_analysis.created_at is 'When.';

grant select on public.image_analysis to authenticated, service_role;

alter table public.image_analysis enable row level security;

create policy "Whoever reads an image reads what was found in it"
on public.image_analysis for select to authenticated
using (image_id in (select i.id from public.generated_images as i));

create function private.queue_analysis() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform private.task_enqueue(
    'image_analyze', jsonb_build_object('image_id', new.id), new.id::text, now(), 5, null, 200
  );
  return null;
end
$$;

comment on function private.queue_analysis() is 'Trigger: a new image is looked at, later.';

create trigger generated_images_are_analysed
after insert on public.generated_images
for each row execute function private.queue_analysis();

create function backend.image_analysis_begin(p_image_id uuid) returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'path', i.storage_path, 'model', i.technical_metadata ->> 'model', 'nsfw_score', i.nsfw_score,
    'safety_level', coalesce(p.ai_safety_level, 'standard'),
    'done', coalesce((
      select jsonb_agg(jsonb_build_array(a.analysis_type, a.analysis_version))
      from public.image_analysis as a
      where a.image_id = i.id
    ), '[]'),
    'labels', to_jsonb(i.vision_labels), 'description', i.vision_description, 'style_tags', to_jsonb(i.style_tags),
    'embedding_model', i.vision_embedding_model
  )
  from public.generated_images as i
  left join public.profiles as p on i.user_id = p.id
  where i.id = p_image_id
$$;

comment on function backend.image_analysis_begin(uuid) is
'What a worker needs to look at an image: where its bytes lie, and what was found in it already; null where it is gone.';

create function backend.image_analysed(p_image_id uuid, p_analyses jsonb, p_summary jsonb default '{}') returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform i.id from public.generated_images as i where i.id = p_image_id for no key update;
  if not found then
    return jsonb_build_object('state', 'gone');
  end if;
  insert into public.image_analysis (image_id, analysis_type, analysis_version, raw_response)
  select p_image_id, a.type, a.version, a.raw
  from jsonb_to_recordset(p_analyses) as a (type text, version text, raw jsonb)
  on conflict (image_id, analysis_type, analysis_version) do update
  set raw_response = excluded.raw_response, created_at = clock_timestamp();
  update public.generated_images as i
  set color_palette = coalesce(private.texts(p_summary -> 'color_palette'), i.color_palette),
    dominant_colors = coalesce(private.texts(p_summary -> 'dominant_colors'), i.dominant_colors),
    vision_labels = coalesce(private.texts(p_summary -> 'vision_labels'), i.vision_labels),
    style_tags = coalesce(private.texts(p_summary -> 'style_tags'), i.style_tags),
    vision_description = coalesce(p_summary ->> 'vision_description', i.vision_description),
    vision_embedding = coalesce((p_summary ->> 'vision_embedding')::extensions.halfvec(1536), i.vision_embedding),
    vision_embedding_model = case
      when p_summary ->> 'vision_embedding' is null then i.vision_embedding_model
      else p_summary ->> 'vision_embedding_model'
    end,
    -- Whoever drew it knows better than whoever looks at it.
    nsfw_score = coalesce(i.nsfw_score, (p_summary ->> 'nsfw_score')::real)
  where i.id = p_image_id and p_summary <> '{}';
  return jsonb_build_object('state', 'kept');
end
$$;

comment on function backend.image_analysed(uuid, jsonb, jsonb) is
'Keeps all that one look at an image found: each analysis (type, version, raw) as it came, and their summary with the image, of which a score that is there stays.';

create function private.texts(p_list jsonb) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
  if jsonb_typeof(p_list) is distinct from 'array' then
    return null;
  end if;
  return array(select t.value from jsonb_array_elements_text(p_list) with ordinality as t (value, place) order by t.place);
end
$$;

comment on function private.texts(jsonb) is 'A JSON list of texts as an array; null for anything else.';

grant execute on function backend.image_analysis_begin(uuid) to service_role;
grant execute on function backend.image_analysed(uuid, jsonb, jsonb) to service_role;
