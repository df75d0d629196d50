-- Images: what is asked for, what it costs, and what comes of it.
--
--   image_generations  a request: pending → processing → completed | failed | cancelled
--   generated_images   one row per image; its bytes are an object of the bucket "images"
--   user_favorites     images that a person marked
--
-- prompt_suggestions are in a chapter of their own (0847); a generation may name the one that it was taken from.
--
-- Three doors lead here, and the trigger private.admit_generation() stands behind all of them: clients insert into
-- image_generations through PostgREST; functions/ inserts for /images/generations and for /v1/images/generations
-- (backend.image_start). It checks what the model can do, fixes the price, holds it and asks for the work, in the
-- transaction of the insert.
--
-- The work is a task, image_generate: backend.image_begin, image_progress, image_finish, image_fail. However a task
-- ends, its generation ends with it (private.end_generation_of_task), and nothing stays held.
--
-- Locks: profile and organization, task, account, hold, then the suggestion, the generation, its images.

insert into private.settings (name, value, description) values
('image_deadline_seconds', '1800', 'Seconds after which a generation that has not ended is given up.'),
('image_insert_limit', '20', 'Most generations that one statement of a client may insert.'),
('functions_url', 'null', 'Where functions/ is reached, as its worker last said; public images are shown there.');

insert into private.notification_templates (name, is_transactional, is_email, is_event, description) values
('image_completed', true, false, true, 'Images were made.'),
('image_failed', true, false, true, 'Images could not be made; nothing was charged.'),
('image_cancelled', true, false, true, 'A generation of images was called off; nothing was charged.');

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

create table public.image_generations (
  id uuid primary key default private.uuid7(),
  user_id uuid default auth.uid() references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  api_key_id uuid,
  provider_key_id uuid,
  model_id text not null references public.models (id),
  model_version text,
  prompt text not null,
  negative_prompt text,
  aspect_ratio text,
  width integer,
  height integer,
  steps integer,
  guidance_scale numeric(6, 2),
  prompt_strength numeric(4, 3),
  seed bigint,
  num_outputs integer not null default 1,
  output_format text,
  output_quality integer,
  safety_checker boolean not null default true,
  hf_loras text[] not null default '{}',
  lora_scales numeric[] not null default '{}',
  input_path text,
  suggestion_id uuid,
  parameters jsonb not null default '{}',
  credential text not null default 'auto',
  idempotency_key text,
  fingerprint text,
  is_public boolean not null default false,
  metadata jsonb not null default '{}',
  status text not null default 'pending',
  progress smallint not null default 0,
  attempts integer not null default 0,
  error_code text,
  error_message text,
  credits_cost numeric(20, 6) not null default 0,
  credits_charged numeric(20, 6) not null default 0,
  free_images integer not null default 0,
  hold_id uuid,
  task_id uuid,
  deadline timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  completed_at timestamptz,
  updated_at timestamptz not null default clock_timestamp(),
  constraint a_generation_belongs_to_somebody check (num_nonnulls(user_id, organization_id) >= 1),
  constraint prompt_has_1_to_32000_characters check (char_length(prompt) between 1 and 32000 and btrim(prompt) <> ''),
  constraint negative_prompt_has_at_most_32000_characters check (char_length(negative_prompt) <= 32000),
  constraint aspect_ratio_is_one check (aspect_ratio ~ '^[1-9][0-9]?:[1-9][0-9]?$'),
  constraint dimensions_are_both_or_neither check (num_nonnulls(width, height) in (0, 2)),
  constraint dimensions_are_pixels check (width between 16 and 16384 and height between 16 and 16384),
  constraint steps_are_between_1_and_100 check (steps between 1 and 100),
  constraint guidance_scale_is_between_0_and_20 check (guidance_scale between 0 and 20),
  constraint prompt_strength_is_between_a_tenth_and_1 check (prompt_strength between 0.1 and 1),
  constraint seed_is_32_bits check (seed between 0 and 4294967295),
  constraint num_outputs_is_between_1_and_4 check (num_outputs between 1 and 4),
  constraint output_format_is_known check (output_format in ('webp', 'png', 'jpg')),
  constraint output_quality_is_between_1_and_100 check (output_quality between 1 and 100),
  constraint every_lora_has_a_scale check (cardinality(hf_loras) = cardinality(lora_scales)),
  constraint loras_are_named_by_owner_and_name check (
    cardinality(hf_loras) <= 16
    and array_to_string(hf_loras, ' ', '?')
    ~ '^([A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*( |$))*$'
    and char_length(array_to_string(hf_loras, '')) <= 16 * 200
  ),
  constraint lora_scales_are_between_minus_2_and_2 check (
    array_position(lora_scales, null) is null and -2 <= all(lora_scales) and 2 >= all(lora_scales)
  ),
  constraint input_path_is_a_path check (
    char_length(input_path) <= 500 and input_path !~ '(^|/)\.{0,2}(/|$)' and input_path !~ '[[:cntrl:]\\]'
  ),
  constraint parameters_are_a_small_object check (
    jsonb_typeof(parameters) = 'object' and private.json_size(parameters) <= 16384
  ),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  ),
  constraint credential_is_known check (credential in ('auto', 'own', 'platform', 'own_first')),
  constraint idempotency_key_has_1_to_255_characters check (char_length(idempotency_key) between 1 and 255),
  constraint status_is_known check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint progress_is_a_percentage check (progress between 0 and 100),
  constraint only_a_failed_generation_has_an_error check ((status = 'failed') = (error_code is not null)),
  constraint an_ended_generation_says_when
  check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null)),
  constraint credits_charged_are_part_of_what_was_held check (credits_charged between 0 and credits_cost),
  constraint free_images_are_among_the_outputs check (free_images between 0 and num_outputs)
) with (fillfactor = 70);

comment on table public.image_generations is 'What was asked to be drawn, and what became of it. Clients insert; functions change.';
comment on column public.image_generations.id is 'Identifies the generation.';
comment on column public.image_generations.user_id is 'Who asked; null for an organization''s API key.';
comment on column public.image_generations.organization_id is 'The organization that pays; null where the person does.';
comment on column public.image_generations.api_key_id is 'The API key it came by; null for a person who is signed in.';
comment on column public.image_generations.provider_key_id is 'The own key that paid, once it has; null where credits did.';
comment on column public.image_generations.model_id is 'The model that draws.';
comment on column public.image_generations.model_version is 'Its version at that time.';
comment on column public.image_generations.prompt is 'What to draw.';
comment on column public.image_generations.negative_prompt is 'What not to draw; null for nothing.';
comment on column public.image_generations.aspect_ratio is 'Shape, as 16:9; null where width and height say it, or the model decides.';
comment on column public.image_generations.width is 'Pixels; filled in where the aspect ratio leads to them.';
comment on column public.image_generations.height is 'Pixels; filled in where the aspect ratio leads to them.';
comment on column public.image_generations.steps is 'Steps of denoising; the model''s own number where none is asked for.';
comment on column public.image_generations.guidance_scale is 'How closely the prompt is followed; null for the model''s own.';
comment on column public.image_generations.prompt_strength is 'How much of the input image is drawn anew, 0.1 to 1; only with one.';
comment on column public.image_generations.seed is 'Where chance begins; the same again gives the same image. Null for a new one.';
comment on column public.image_generations.num_outputs is 'Images asked for, 1 to 4.';
comment on column public.image_generations.output_format is 'webp, png or jpg; null for the model''s own.';
comment on column public.image_generations.output_quality is 'Quality of webp and jpg, 1 to 100; null for 90.';
comment on column public.image_generations.safety_checker is 'Asked for by the client; never loosens the person''s ai_safety_level.';
comment on column public.image_generations.hf_loras is 'LoRAs by their id, owner/name.';
comment on column public.image_generations.lora_scales is 'How strongly each of them acts, -2 to 2.';
comment on column public.image_generations.input_path is 'Object of the bucket "images", of the same owner, that the image begins from.';
comment on column public.image_generations.suggestion_id is 'The suggestion that the prompt was taken from, of the same person; null for none, and once that was deleted.';
comment on column public.image_generations.parameters is 'quality, background, style, resolution, and options that one provider knows.';
comment on column public.image_generations.credential is 'Who may pay: auto, own, platform or own_first (docs/byok.md).';
comment on column public.image_generations.idempotency_key is 'The client''s key: a second generation with it is refused, and over HTTP the first is the answer.';
comment on column public.image_generations.fingerprint is 'Digest of what was asked for.';
comment on column public.image_generations.is_public is 'Whether its images are public from the start.';
comment on column public.image_generations.metadata is 'The client''s own notes, a JSON object of at most 16 KiB.';
comment on column public.image_generations.status is 'pending, processing, completed, failed or cancelled.';
comment on column public.image_generations.progress is 'Per cent of the work done.';
comment on column public.image_generations.attempts is 'Times the work was begun.';
comment on column public.image_generations.error_code is 'Why it failed, as docs/errors.md has it.';
comment on column public.image_generations.error_message is 'The same for people.';
comment on column public.image_generations.credits_cost is 'Credits held for it.';
comment on column public.image_generations.credits_charged is 'Credits charged for it.';
comment on column public.image_generations.free_images is 'Images of it that the plan gives: held while it runs, used once it has ended.';
comment on column public.image_generations.hold_id is 'The hold it is made under.';
comment on column public.image_generations.task_id is 'The task that makes it; no foreign key, since tasks are purged.';
comment on column public.image_generations.deadline is 'When it is given up.';
comment on column public.image_generations.created_at is 'When it was asked for.';
comment on column public.image_generations.started_at is 'When the latest attempt began.';
comment on column public.image_generations.completed_at is 'When it ended, well or not.';
comment on column public.image_generations.updated_at is 'When anything in the row last changed.';

create index image_generations_by_user on public.image_generations (user_id, id desc) where user_id is not null;
create index image_generations_by_organization
on public.image_generations (organization_id, id desc) where organization_id is not null;
create index image_generations_by_model on public.image_generations (model_id);
create index image_generations_by_suggestion
on public.image_generations (suggestion_id) where suggestion_id is not null;
create index image_generations_to_end on public.image_generations (deadline) where status in ('pending', 'processing');
create unique index image_generations_have_one_key_per_owner
on public.image_generations (user_id, organization_id, idempotency_key) nulls not distinct
where idempotency_key is not null;

create table public.generated_images (
  id uuid primary key default private.uuid7(),
  user_id uuid references public.profiles (id) on delete cascade,
  organization_id uuid references public.organizations (id) on delete cascade,
  generation_id uuid references public.image_generations (id) on delete set null,
  storage_path text not null unique,
  thumbnail_path text,
  public_url text,
  thumbnail_url text,
  width integer not null,
  height integer not null,
  format text not null,
  size_bytes bigint not null,
  seed bigint,
  revised_prompt text,
  access_count bigint not null default 0,
  last_accessed_at timestamptz,
  archived_at timestamptz,
  is_favorite boolean not null default false,
  is_public boolean not null default false,
  metadata jsonb not null default '{}',
  vision_labels text[],
  vision_description text,
  vision_embedding extensions.halfvec(1536),
  vision_embedding_model text,
  nsfw_score real,
  style_tags text[],
  color_palette text[],
  dominant_colors text[],
  technical_metadata jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint an_image_belongs_to_somebody check (num_nonnulls(user_id, organization_id) >= 1),
  constraint format_is_known check (format in ('webp', 'png', 'jpg')),
  constraint dimensions_are_positive check (width > 0 and height > 0),
  constraint size_is_positive check (size_bytes > 0),
  constraint a_vector_says_whose_it_is check (num_nonnulls(vision_embedding, vision_embedding_model) in (0, 2)),
  constraint vision_embedding_model_has_1_to_100_characters
  check (char_length(vision_embedding_model) between 1 and 100),
  constraint nsfw_score_is_a_share check (nsfw_score between 0 and 1),
  constraint access_count_is_not_negative check (access_count >= 0),
  constraint only_a_public_image_has_a_url check (is_public or num_nonnulls(public_url, thumbnail_url) = 0),
  constraint metadata_is_a_small_object check (
    jsonb_typeof(metadata) = 'object' and private.json_size(metadata) <= 16384
  )
) with (fillfactor = 80);

comment on table public.generated_images is 'Images that were made. Their bytes are objects of the private bucket "images".';
comment on column public.generated_images.id is 'Identifies the image.';
comment on column public.generated_images.user_id is 'Whose it is; null for one made by an organization''s API key.';
comment on column public.generated_images.organization_id is 'The organization that paid; null where the person did.';
comment on column public.generated_images.generation_id is 'What it came of; null once that was deleted.';
comment on column public.generated_images.storage_path is 'Its object in the bucket "images": owner, generation, number.';
comment on column public.generated_images.thumbnail_path is 'The object of its thumbnail; null where it has none.';
comment on column public.generated_images.public_url is 'Where everybody sees it; null while it is private.';
comment on column public.generated_images.thumbnail_url is 'Where everybody sees its thumbnail; null while it is private.';
comment on column public.generated_images.width is 'Pixels.';
comment on column public.generated_images.height is 'Pixels.';
comment on column public.generated_images.format is 'webp, png or jpg.';
comment on column public.generated_images.size_bytes is 'Bytes of its object.';
comment on column public.generated_images.seed is 'Where chance began; null where the provider does not say.';
comment on column public.generated_images.revised_prompt is 'What the provider made of the prompt, where it says so.';
comment on column public.generated_images.access_count is 'Times it was fetched through us.';
comment on column public.generated_images.last_accessed_at is 'When it was last fetched through us.';
comment on column public.generated_images.archived_at is 'When it was archived: kept, and not looked for any more. Its owner may clear it.';
comment on column public.generated_images.is_favorite is 'Whether its owner marked it; kept by user_favorites.';
comment on column public.generated_images.is_public is 'Whether everybody may see it.';
comment on column public.generated_images.metadata is 'The client''s own notes, a JSON object of at most 16 KiB.';
comment on column public.generated_images.vision_labels is 'What is on it; null until it was looked at.';
comment on column public.generated_images.vision_description is 'What is on it, in a sentence; null until it was looked at.';
comment on column public.generated_images.vision_embedding is 'What it is like, as a unit vector; null until it was looked at.';
comment on column public.generated_images.vision_embedding_model is 'The model that made the vector: those of another lie elsewhere.';
comment on column public.generated_images.nsfw_score is 'How likely it is not safe for work, 0 to 1; null until it was looked at.';
comment on column public.generated_images.style_tags is 'Its style; null until it was looked at.';
comment on column public.generated_images.color_palette is 'Its colours, most of it first, as #rrggbb; null until it was looked at.';
comment on column public.generated_images.dominant_colors is 'The few of them that cover most of it; null until it was looked at.';
comment on column public.generated_images.technical_metadata is 'How it was made: model, steps, seconds.';
comment on column public.generated_images.created_at is 'When it was made.';
comment on column public.generated_images.updated_at is 'When anything in the row last changed.';

create index generated_images_by_user on public.generated_images (user_id, id desc) where user_id is not null;
create index generated_images_by_organization
on public.generated_images (organization_id, id desc) where organization_id is not null;
create unique index generated_images_by_thumbnail
on public.generated_images (thumbnail_path) where thumbnail_path is not null;
create index generated_images_by_generation on public.generated_images (generation_id) where generation_id is not null;
create index generated_images_to_archive
on public.generated_images (id) where archived_at is null and not is_favorite and not is_public;
create index generated_images_of_everybody on public.generated_images (id desc) where is_public;
create index generated_images_that_are_favorites on public.generated_images (user_id, id desc) where is_favorite;

create table public.user_favorites (
  user_id uuid not null default auth.uid() references public.profiles (id) on delete cascade,
  image_id uuid not null references public.generated_images (id) on delete cascade,
  created_at timestamptz not null default now(),
  constraint an_image_is_a_persons_favorite_once primary key (user_id, image_id)
);

comment on table public.user_favorites is 'Images that a person marked: their own, and public ones.';
comment on column public.user_favorites.user_id is 'Who marked it.';
comment on column public.user_favorites.image_id is 'The image.';
comment on column public.user_favorites.created_at is 'When.';

create index user_favorites_by_image on public.user_favorites (image_id);

-- ---------------------------------------------------------------------------------------------------------------
-- Grants and row level security
-- ---------------------------------------------------------------------------------------------------------------

grant select, delete on public.image_generations to authenticated;
grant insert (
  id, organization_id, model_id, prompt, negative_prompt, aspect_ratio, width, height, steps, guidance_scale,
  prompt_strength, seed, num_outputs, output_format, output_quality, safety_checker, hf_loras, lora_scales, input_path,
  suggestion_id, parameters, credential, idempotency_key, is_public, metadata
) on public.image_generations to authenticated;
grant update (metadata) on public.image_generations to authenticated;
grant select on public.image_generations to service_role;

grant select, delete on public.generated_images to authenticated;
grant update (is_public, archived_at, metadata) on public.generated_images to authenticated;
grant select on public.generated_images to service_role;

grant select, delete on public.user_favorites to authenticated;
grant insert (user_id, image_id) on public.user_favorites to authenticated;
grant select on public.user_favorites to service_role;

alter table public.image_generations enable row level security;
alter table public.generated_images enable row level security;
alter table public.user_favorites enable row level security;

create policy "Users read their own generations, members those of their organization's keys"
on public.image_generations for select to authenticated
using (
  user_id = (select private.active_user_id())
  or (user_id is null and organization_id in (select private.my_organization_ids()))
);

create policy "Users ask for images"
on public.image_generations for insert to authenticated
with check (user_id = (select private.active_user_id()));

create policy "Users annotate their own generations"
on public.image_generations for update to authenticated
using (user_id = (select private.active_user_id()))
with check (user_id = (select private.active_user_id()));

create policy "Users delete their own generations"
on public.image_generations for delete to authenticated
using (user_id = (select private.active_user_id()));

create policy "Users read their own images, members those of their organization's keys"
on public.generated_images for select to authenticated
using (
  user_id = (select private.active_user_id())
  or (user_id is null and organization_id in (select private.my_organization_ids()))
);

create policy "Users change their own images"
on public.generated_images for update to authenticated
using (user_id = (select private.active_user_id()))
with check (user_id = (select private.active_user_id()));

create policy "Users delete their own images"
on public.generated_images for delete to authenticated
using (user_id = (select private.active_user_id()));

create policy "Users read their own favorites"
on public.user_favorites for select to authenticated
using (user_id = (select private.active_user_id()));

-- The trigger private.require_seen_image() refuses images that the person does not see.
create policy "Users mark images"
on public.user_favorites for insert to authenticated
with check (user_id = (select private.active_user_id()));

create policy "Users take their marks back"
on public.user_favorites for delete to authenticated
using (user_id = (select private.active_user_id()));
