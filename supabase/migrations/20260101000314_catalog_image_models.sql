-- Catalog: models of outside providers for images.
--
-- credits_cost is per output: the provider's list price in US dollars for an image of the usual size and quality
-- (November 2026), times 300 as in chapter 0312; price_factors say what other qualities and resolutions cost of that.
-- What a model takes is in its capabilities (docs/models.md), and a request is checked against them before the
-- provider is asked. What loosens a provider's own checks of content is nobody's option: how strict they are is the
-- operator's say.
--
-- DALL-E 2 and 3 and Imagen are gone at their providers; their rows stay, inactive, because history names them.

insert into public.models (
  id, provider_id, name, description, kind, version, upstream_model, credits_cost, capabilities, byok_allowed,
  platform_allowed, is_active
)
select
  mp.slug || '/' || m.model, mp.id, m.name, m.description, 'image', m.version, m.model, m.usd * 300, m.capabilities,
  true, false, coalesce(m.is_active, true)
from jsonb_to_recordset($list$[
      {"provider": "openai", "model": "gpt-image-2", "name": "GPT Image 2",
       "description": "Follows instructions closely and writes text.", "version": "2", "usd": 0.053,
       "capabilities": {"sizes": ["1024x1024", "1536x1024", "1024x1536", "auto"],
       "qualities": ["low", "medium", "high", "auto"], "formats": ["png", "jpeg", "webp"],
       "backgrounds": ["opaque", "auto"], "max_outputs": 4, "max_prompt_characters": 32000,
       "price_factors": {"quality": {"low": 0.12, "medium": 1, "high": 4, "auto": 4}},
       "options": {"output_compression": [0, 100]}}},
      {"provider": "openai", "model": "gpt-image-1-mini", "name": "GPT Image 1 Mini", "description": "Cheap and quick.",
       "version": "1", "usd": 0.011,
       "capabilities": {"sizes": ["1024x1024", "1536x1024", "1024x1536", "auto"],
       "qualities": ["low", "medium", "high", "auto"], "formats": ["png", "jpeg", "webp"],
       "backgrounds": ["transparent", "opaque", "auto"], "max_outputs": 4, "max_prompt_characters": 32000,
       "price_factors": {"quality": {"low": 0.5, "medium": 1, "high": 3.3, "auto": 3.3}},
       "options": {"output_compression": [0, 100]}}},
      {"provider": "openai", "model": "dall-e-3", "name": "DALL-E 3", "description": "Gone at OpenAI since 2026.",
       "version": "3", "usd": 0.04, "is_active": false,
       "capabilities": {"sizes": ["1024x1024", "1792x1024", "1024x1792"], "qualities": ["standard", "hd"],
       "styles": ["vivid", "natural"], "max_outputs": 1, "max_prompt_characters": 4000}},
      {"provider": "openai", "model": "dall-e-2", "name": "DALL-E 2", "description": "Gone at OpenAI since 2026.",
       "version": "2", "usd": 0.02, "is_active": false,
       "capabilities": {"sizes": ["256x256", "512x512", "1024x1024"], "max_outputs": 4,
       "max_prompt_characters": 1000}},
      {"provider": "google", "model": "gemini-3.1-flash-image", "name": "Gemini 3.1 Flash Image",
       "description": "Quick images from Gemini.", "version": "3.1", "usd": 0.067,
       "capabilities": {"aspect_ratios": ["1:1", "3:2", "2:3", "4:3", "3:4", "4:5", "5:4", "16:9", "9:16", "21:9"],
       "resolutions": ["1K", "2K", "4K"],
       "price_factors": {"resolution": {"1K": 1, "2K": 1.51, "4K": 2.26}},
       "seed": true, "max_outputs": 4, "max_prompt_characters": 32000}},
      {"provider": "google", "model": "gemini-3-pro-image", "name": "Gemini 3 Pro Image",
       "description": "Thinks before it draws, and writes text.", "version": "3", "usd": 0.134,
       "capabilities": {"aspect_ratios": ["1:1", "3:2", "2:3", "4:3", "3:4", "4:5", "5:4", "16:9", "9:16", "21:9"],
       "resolutions": ["1K", "2K", "4K"],
       "price_factors": {"resolution": {"1K": 1, "2K": 1, "4K": 1.8}},
       "seed": true, "max_outputs": 4, "max_prompt_characters": 32000}},
      {"provider": "google-vertex", "model": "gemini-3.1-flash-image", "name": "Gemini 3.1 Flash Image (Vertex)",
       "description": "The same on Google Cloud, with a service account.", "version": "3.1", "usd": 0.067,
       "capabilities": {"aspect_ratios": ["1:1", "3:2", "2:3", "4:3", "3:4", "4:5", "5:4", "16:9", "9:16", "21:9"],
       "resolutions": ["1K", "2K", "4K"],
       "price_factors": {"resolution": {"1K": 1, "2K": 1.51, "4K": 2.26}},
       "seed": true, "max_outputs": 4, "max_prompt_characters": 32000}},
      {"provider": "google-vertex", "model": "imagen-4.0-generate-001", "name": "Imagen 4",
       "description": "Shut down by Google in August 2026.", "version": "4", "usd": 0.04, "is_active": false,
       "capabilities": {"aspect_ratios": ["1:1", "3:4", "4:3", "9:16", "16:9"], "resolutions": ["1K", "2K"],
       "formats": ["png", "jpeg"], "negative_prompt": true, "seed": true, "max_outputs": 4,
       "max_prompt_characters": 2000, "options": {"enhancePrompt": "boolean"}}},
      {"provider": "xai", "model": "grok-imagine-image", "name": "Grok Imagine", "description": "xAI's images.",
       "version": "1", "usd": 0.02,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "2:1", "1:2", "auto"],
       "resolutions": ["1K", "2K"], "max_outputs": 4, "max_prompt_characters": 8000}},
      {"provider": "replicate", "model": "black-forest-labs/flux-schnell", "name": "FLUX.1 schnell",
       "description": "Open, in four steps.", "version": "1", "usd": 0.003,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16"],
       "formats": ["png", "jpeg", "webp"], "seed": true, "steps": [1, 4], "max_outputs": 4,
       "max_prompt_characters": 8000, "options": {"go_fast": "boolean", "output_quality": [0, 100]}}},
      {"provider": "replicate", "model": "black-forest-labs/flux-dev", "name": "FLUX.1 dev",
       "description": "Open weights, finer than schnell.", "version": "1", "usd": 0.025,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16"],
       "formats": ["png", "jpeg", "webp"], "seed": true, "steps": [1, 50], "guidance": [0, 10], "max_outputs": 4,
       "max_prompt_characters": 8000, "options": {"go_fast": "boolean", "output_quality": [0, 100]}}},
      {"provider": "stability", "model": "core", "name": "Stable Image Core", "description": "Quick and affordable.",
       "version": "1", "usd": 0.03,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21"],
       "formats": ["png", "jpeg", "webp"], "negative_prompt": true, "seed": true, "max_outputs": 4,
       "max_prompt_characters": 10000, "styles": ["3d-model", "analog-film", "anime", "cinematic", "comic-book",
       "digital-art", "enhance", "fantasy-art", "isometric", "line-art", "low-poly", "modeling-compound",
       "neon-punk", "origami", "photographic", "pixel-art", "tile-texture"]}},
      {"provider": "stability", "model": "ultra", "name": "Stable Image Ultra", "description": "Stability's finest.",
       "version": "1", "usd": 0.08,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21"],
       "formats": ["png", "jpeg", "webp"], "negative_prompt": true, "seed": true, "max_outputs": 4,
       "max_prompt_characters": 10000}},
      {"provider": "stability", "model": "sd3/sd3.5-large", "name": "Stable Diffusion 3.5 Large",
       "description": "The open model, run by its makers.", "version": "3.5", "usd": 0.065,
       "capabilities": {"aspect_ratios": ["1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21"],
       "formats": ["png", "jpeg"], "negative_prompt": true, "seed": true, "guidance": [1, 10], "max_outputs": 4,
       "max_prompt_characters": 10000}}
    ]$list$) as m (
    provider text, model text, name text, description text, version text, usd numeric, is_active boolean,
    capabilities jsonb
  )
inner join public.model_providers as mp on m.provider = mp.slug;
