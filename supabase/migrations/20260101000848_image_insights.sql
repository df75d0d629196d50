-- Images: what is alike, what a person draws, and what everybody does.
--
--   search_similar_images()   by the vectors of images, as far as row level security lets the caller see
--   user_generation_stats()   of the caller, from private.user_generation_stats
--   community_trends()        of public images alone, from private.community_trends
--
-- Materialized views know no row level security, so they sit in private and are reached through functions. They are
-- refreshed by a cron job, when there is something new: never by an insert, which would cost as much as the table is
-- large.

insert into private.settings (name, value, description) values
('trends_days', '7', 'Days of public images that trends are made of.'),
('trends_min_users', '5', 'Fewest different people behind a trend, so that none of them shows in it.');

-- ---------------------------------------------------------------------------------------------------------------
-- Alike
-- ---------------------------------------------------------------------------------------------------------------

create index generated_images_by_likeness
on public.generated_images using hnsw (vision_embedding extensions.halfvec_cosine_ops)
where vision_embedding is not null and archived_at is null;

create function public.search_similar_images(p_image_id uuid, p_limit integer default 10) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_embedding extensions.halfvec;
  v_model text;
begin
  select i.vision_embedding, i.vision_embedding_model into v_embedding, v_model
  from public.generated_images as i
  where i.id = p_image_id;
  if v_embedding is null then
    return '[]';
  end if;
  -- Row level security takes rows away after the index has found them: it has to go on until there are enough.
  perform set_config('hnsw.iterative_scan', 'strict_order', true);
  return coalesce((
    select jsonb_agg(jsonb_build_object('image_id', f.id, 'distance', f.distance) order by f.distance)
    from (
      select i.id, i.vision_embedding operator(extensions.<=>) v_embedding as distance
      from public.generated_images as i
      where i.id <> p_image_id and i.vision_embedding is not null and i.archived_at is null
        and i.vision_embedding_model = v_model
      order by i.vision_embedding operator(extensions.<=>) v_embedding
      limit least(greatest(p_limit, 1), 100)
    ) as f
  ), '[]');
end
$$;

comment on function public.search_similar_images(uuid, integer) is
'Images of yours that are most like one of them, nearest first: image_id and cosine distance; none that is archived. Empty where it was not looked at yet.';

grant execute on function public.search_similar_images(uuid, integer) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- What a person draws
-- ---------------------------------------------------------------------------------------------------------------

create materialized view private.user_generation_stats as
with drawn as (
  select
    i.user_id,
    count(distinct i.generation_id) as total_prompts,
    count(*) as total_images,
    avg(i.nsfw_score) as avg_nsfw_score
  from public.generated_images as i
  where i.user_id is not null
  group by i.user_id
),

styles as (
  select
    i.user_id,
    t.tag,
    row_number() over (partition by i.user_id order by count(*) desc, t.tag) as place
  from public.generated_images as i
  cross join lateral unnest(i.style_tags) as t (tag)
  where i.user_id is not null
  group by i.user_id, t.tag
),

subjects as (
  select
    i.user_id,
    l.label,
    row_number() over (partition by i.user_id order by count(*) desc, l.label) as place
  from public.generated_images as i
  cross join lateral unnest(i.vision_labels) as l (label)
  where i.user_id is not null
  group by i.user_id, l.label
)

select
  d.user_id,
  d.total_prompts,
  d.total_images,
  d.avg_nsfw_score,
  coalesce(s.tags, '{}') as preferred_styles,
  coalesce(l.labels, '{}') as common_subjects
from drawn as d
left join (
  select styles.user_id, array_agg(styles.tag order by styles.place) as tags
  from styles
  where styles.place <= 10
  group by styles.user_id
) as s on d.user_id = s.user_id
left join (
  select subjects.user_id, array_agg(subjects.label order by subjects.place) as labels
  from subjects
  where subjects.place <= 10
  group by subjects.user_id
) as l on d.user_id = l.user_id
with no data;

comment on materialized view private.user_generation_stats is 'What each person has drawn: prompts, images, and what is most often on them.';

comment on column private.user_generation_stats.user_id is 'Who.';
comment on column private.user_generation_stats.total_prompts is 'Generations that ended well and are still there.';
comment on column private.user_generation_stats.total_images is 'Their images.';
comment on column private.user_generation_stats.avg_nsfw_score is 'Mean of the images that were looked at.';
comment on column private.user_generation_stats.preferred_styles is 'The ten styles that come most often.';
comment on column private.user_generation_stats.common_subjects is 'The ten labels that come most often.';

create unique index user_generation_stats_have_one_row_per_person on private.user_generation_stats (user_id);

create function private.my_generation_stats() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(
    (select to_jsonb(s) - 'user_id' from private.user_generation_stats as s where s.user_id = private.active_user_id()),
    jsonb_build_object(
      'total_prompts', 0, 'total_images', 0, 'avg_nsfw_score', null, 'preferred_styles', '[]'::jsonb,
      'common_subjects', '[]'::jsonb
    )
  )
$$;

comment on function private.my_generation_stats() is 'The caller''s row of private.user_generation_stats.';

create function public.user_generation_stats() returns jsonb
language sql stable set search_path = ''
as $$ select private.my_generation_stats() $$;

comment on function public.user_generation_stats() is
'What you have drawn, as of the last refresh: total_prompts, total_images, avg_nsfw_score, preferred_styles, common_subjects.';

grant execute on function private.my_generation_stats() to authenticated;
grant execute on function public.user_generation_stats() to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- What everybody does
-- ---------------------------------------------------------------------------------------------------------------

create function private.uuid7_floor(p_at timestamptz) returns uuid
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return (lpad(to_hex((extract(epoch from p_at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;
end
$$;

comment on function private.uuid7_floor(timestamptz) is 'A value that lies before every id made by private.uuid7() from then on.';

create materialized view private.community_trends as
with seen as materialized (
  select i.id, i.user_id, i.nsfw_score, i.style_tags, i.color_palette, l.subject
  from public.generated_images as i
  cross join lateral (select distinct u.subject from unnest(i.vision_labels) as u (subject)) as l
  where i.is_public
    -- Ids are in order of time, and those of public images have an index.
    and i.id >= private.uuid7_floor(now() - make_interval(days => (private.setting('trends_days'))::integer))
),

trends as (
  select s.subject, count(*) as usage_count, avg(s.nsfw_score) as avg_nsfw_score
  from seen as s
  group by s.subject
  having count(*) > 5 and count(distinct s.user_id) >= (private.setting('trends_min_users'))::integer
),

styles as (
  select s.subject, t.tag, row_number() over (partition by s.subject order by count(*) desc, t.tag) as place
  from seen as s
  inner join trends as d on s.subject = d.subject
  cross join lateral unnest(s.style_tags) as t (tag)
  group by s.subject, t.tag
  -- A style that one person alone draws would show that person.
  having count(distinct s.user_id) >= (private.setting('trends_min_users'))::integer
),

colors as (
  select s.subject, c.color, row_number() over (partition by s.subject order by count(*) desc, c.color) as place
  from seen as s
  inner join trends as d on s.subject = d.subject
  cross join lateral unnest(s.color_palette) as c (color)
  group by s.subject, c.color
  having count(distinct s.user_id) >= (private.setting('trends_min_users'))::integer
)

select
  t.subject,
  t.usage_count,
  t.avg_nsfw_score,
  coalesce(y.tags, '{}') as common_styles,
  coalesce(c.colors, '{}') as color_trends
from trends as t
left join (
  select styles.subject, array_agg(styles.tag order by styles.place) as tags
  from styles
  where styles.place <= 10
  group by styles.subject
) as y on t.subject = y.subject
left join (
  select colors.subject, array_agg(colors.color order by colors.place) as colors
  from colors
  where colors.place <= 10
  group by colors.subject
) as c on t.subject = c.subject
with no data;

comment on materialized view private.community_trends is 'What is on the public images of the last days, as far as enough different people drew it.';

comment on column private.community_trends.subject is 'A label.';
comment on column private.community_trends.usage_count is 'Public images with it.';
comment on column private.community_trends.avg_nsfw_score is 'Mean of those images.';
comment on column private.community_trends.common_styles is 'The ten styles that come most often with it, of enough people.';
comment on column private.community_trends.color_trends is 'The ten colours that come most often with it, of enough people.';

create unique index community_trends_have_one_row_per_subject on private.community_trends (subject);
create index community_trends_by_count on private.community_trends (usage_count desc);

create function private.trends(p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform private.require_active_user();
  return coalesce((
    select jsonb_agg(to_jsonb(t) order by t.usage_count desc, t.subject)
    from (
      select c.* from private.community_trends as c
      order by c.usage_count desc, c.subject
      limit least(greatest(p_limit, 1), 100)
    ) as t
  ), '[]');
end
$$;

comment on function private.trends(integer) is 'The first rows of private.community_trends, for people who are signed in.';

create function public.community_trends(p_limit integer default 20) returns jsonb
language sql stable set search_path = ''
as $$ select private.trends(p_limit) $$;

comment on function public.community_trends(integer) is
'What people draw in public these days, as of the last refresh: subject, usage_count, avg_nsfw_score, common_styles, color_trends.';

grant execute on function private.trends(integer) to authenticated;
grant execute on function public.community_trends(integer) to authenticated;

-- ---------------------------------------------------------------------------------------------------------------
-- Refresh
-- ---------------------------------------------------------------------------------------------------------------

create table private.insight_refreshes (
  name text primary key,
  newest_image_id uuid,
  newest_analysis_id uuid,
  refreshed_at timestamptz not null,
  constraint name_is_snake_case check (name ~ '^[a-z][a-z0-9_]{0,62}$')
);

comment on table private.insight_refreshes is 'What the materialized views of images have been refreshed with.';
comment on column private.insight_refreshes.name is 'Which of them.';
comment on column private.insight_refreshes.newest_image_id is 'The newest image at that time; null for none.';
comment on column private.insight_refreshes.newest_analysis_id is 'The newest analysis at that time; null for none.';
comment on column private.insight_refreshes.refreshed_at is 'When.';

alter table private.insight_refreshes enable row level security;

-- Empty ones can be read, which those that were never refreshed cannot.
refresh materialized view private.user_generation_stats;
refresh materialized view private.community_trends;

create function private.stale_insights() returns setof text
language plpgsql stable security definer rows 2 set search_path = ''
as $$
declare
  v_image_id uuid := (select i.id from public.generated_images as i order by i.id desc limit 1);
  v_analysis_id uuid := (select a.id from public.image_analysis as a order by a.id desc limit 1);
begin
  -- New ids tell that there is something new, at the cost of two looks at an index. What was deleted, or is private
  -- again, tells nothing: so once a day it is done in any case.
  return query
  select v.name
  from unnest(array['community_trends', 'user_generation_stats']) as v (name)
  where not exists (
    select
    from private.insight_refreshes as r
    where r.name = v.name and r.newest_image_id is not distinct from v_image_id
      and r.newest_analysis_id is not distinct from v_analysis_id and r.refreshed_at > now() - interval '1 day'
  );
end
$$;

comment on function private.stale_insights() is 'Which of the materialized views of images are to be refreshed.';

create function backend.insights_enqueue() returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer := (select count(*) from private.stale_insights());
begin
  if v_count > 0 then
    perform private.task_enqueue('insights_refresh', '{}', 'images', now(), 3, null, 300);
  end if;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.insights_enqueue() is
'Has a worker refresh what is reckoned from images, where there is something new: it may take minutes.';

create function backend.insights_refresh() returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10min'
as $$
declare
  v_image_id uuid := (select i.id from public.generated_images as i order by i.id desc limit 1);
  v_analysis_id uuid := (select a.id from public.image_analysis as a order by a.id desc limit 1);
  v_name text;
  v_count integer := 0;
begin
  for v_name in select s.name from private.stale_insights() as s (name) loop
    execute format('refresh materialized view concurrently private.%I', v_name);
    insert into private.insight_refreshes as r (name, newest_image_id, newest_analysis_id, refreshed_at)
    values (v_name, v_image_id, v_analysis_id, now())
    on conflict (name) do update
    set newest_image_id = excluded.newest_image_id, newest_analysis_id = excluded.newest_analysis_id,
      refreshed_at = excluded.refreshed_at;
    v_count := v_count + 1;
  end loop;
  return jsonb_build_object('count', v_count);
end
$$;

comment on function backend.insights_refresh() is
'Refreshes what is reckoned from images, where there is something new or a day has passed; readers are not held up.';

grant execute on function backend.insights_enqueue() to service_role;
grant execute on function backend.insights_refresh() to service_role;
