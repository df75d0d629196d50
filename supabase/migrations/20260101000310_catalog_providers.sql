-- Catalog: the outside providers that a customer may bring a key for. Their models: chapters 0312 and 0314.

insert into public.model_providers (slug, name, description, website_url, api_base_url) values
(
  'openai', 'OpenAI', 'GPT models for chat, embeddings and images.', 'https://openai.com', 'https://api.openai.com/v1'
),
(
  'google', 'Google Gemini', 'Gemini models for chat, embeddings and images, with a key of Google AI Studio.',
  'https://ai.google.dev', 'https://generativelanguage.googleapis.com/v1beta'
),
(
  'google-vertex', 'Google Vertex AI', 'Imagen and Gemini images, with a service account of Google Cloud.',
  'https://cloud.google.com/vertex-ai', 'https://aiplatform.googleapis.com/v1'
),
('xai', 'xAI', 'Grok models for chat and images.', 'https://x.ai', 'https://api.x.ai/v1'),
(
  'anthropic', 'Anthropic', 'Claude models for chat.', 'https://www.anthropic.com', 'https://api.anthropic.com/v1'
),
(
  'mistral', 'Mistral AI', 'Mistral models for chat and embeddings.', 'https://mistral.ai', 'https://api.mistral.ai/v1'
),
(
  'openrouter', 'OpenRouter', 'Models of many makers for chat, under one key.', 'https://openrouter.ai',
  'https://openrouter.ai/api/v1'
),
('replicate', 'Replicate', 'Open models for images.', 'https://replicate.com', 'https://api.replicate.com/v1'),
(
  'stability', 'Stability AI', 'Stable Diffusion models for images.', 'https://stability.ai', 'https://api.stability.ai'
),
(
  'openai-compatible', 'OpenAI-compatible server',
  'A server of your own that speaks OpenAI''s protocol, for chat.', null, null
);
