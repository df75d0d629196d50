-- Catalog: image models that run on our own GPUs (gpu/catalog.py).
--
-- Prices are for an image of a megapixel at the usual number of steps (docs/models.md says how they grow); they are
-- set beside what the same weights cost at hosts that sell them by the image (November 2026, times 300 as in chapter
-- 0312). FLUX.1 dev may be used commercially with a licence of Black Forest Labs' alone, so it is not sold until the
-- operator says so (platform_allowed).

insert into public.models (
  id, provider_id, name, description, kind, version, upstream_model, credits_cost, capabilities, platform_allowed,
  is_default, metadata
)
select
  m.model as id, mp.id as provider_id, m.name, m.description, 'image' as kind, m.version, m.model as upstream_model,
  m.credits_cost, m.capabilities, m.platform_allowed, m.is_default,
  jsonb_build_object('licence', m.licence) as metadata
from jsonb_to_recordset($list$[
      {"model": "flux-schnell", "name": "FLUX.1 schnell", "description": "An image in four steps.", "version": "1",
       "credits_cost": 1, "platform_allowed": true, "is_default": true, "licence": "Apache-2.0",
       "capabilities": {"sides": [256, 1536], "max_pixels": 2097152, "formats": ["webp", "png", "jpeg"],
       "output_quality": [1, 100], "seed": true, "steps": [1, 8], "default_steps": 4, "max_loras": 4,
       "input_image": true, "max_outputs": 4, "max_prompt_characters": 4000}},
      {"model": "qwen-image", "name": "Qwen-Image", "description": "Writes text into images, and follows closely.",
       "version": "2512", "credits_cost": 6, "platform_allowed": true, "is_default": false, "licence": "Apache-2.0",
       "capabilities": {"sides": [256, 1664], "max_pixels": 2801664, "formats": ["webp", "png", "jpeg"],
       "output_quality": [1, 100], "seed": true, "steps": [1, 50], "default_steps": 8, "guidance": [1, 10],
       "negative_prompt": true, "max_loras": 4, "input_image": true, "max_outputs": 4,
       "max_prompt_characters": 8000}},
      {"model": "sdxl", "name": "Stable Diffusion XL", "description": "Well known, with many LoRAs.", "version": "1.0",
       "credits_cost": 1.5, "platform_allowed": true, "is_default": false, "licence": "CreativeML Open RAIL++-M",
       "capabilities": {"sides": [512, 1536], "max_pixels": 2097152, "formats": ["webp", "png", "jpeg"],
       "output_quality": [1, 100], "seed": true, "steps": [1, 60], "default_steps": 28, "guidance": [1, 20],
       "default_guidance": 7.5, "negative_prompt": true, "max_loras": 8, "input_image": true, "max_outputs": 4,
       "max_prompt_characters": 2000}},
      {"model": "flux-dev", "name": "FLUX.1 dev", "description": "Finer than schnell, and slower.", "version": "1",
       "credits_cost": 7.5, "platform_allowed": false, "is_default": false,
       "licence": "FLUX.1 [dev] Non-Commercial License",
       "capabilities": {"sides": [256, 1536], "max_pixels": 2097152, "formats": ["webp", "png", "jpeg"],
       "output_quality": [1, 100], "seed": true, "steps": [1, 50], "default_steps": 28, "guidance": [0, 10],
       "default_guidance": 3.5, "max_loras": 4, "input_image": true, "max_outputs": 4,
       "max_prompt_characters": 4000}}
]$list$) as m (
    model text, name text, description text, version text, credits_cost numeric, platform_allowed boolean,
    is_default boolean, licence text, capabilities jsonb
  )
cross join public.model_providers as mp
where mp.slug = 'quernel';
