"""Texts and examples of the routes of images, for the API reference."""

from __future__ import annotations

from typing import Any

from functions.core.json import Json

IDEMPOTENCY_KEY = "The same key again gives the same generation, and charges nothing more."

START = """\
Answers at once, with the generation as `pending`; it is made by a worker. Follow it with
`/images/generations/{id}/events`, or read it. The same can be done with the Supabase SDK: insert
into `image_generations`.

What a model can do is in its `capabilities`; what it cannot is refused here, before anything is
held. The price is held, and only images that were made are charged.
"""

SUGGEST = """\
The default chat model writes better versions of a prompt. They are kept as suggestions with the
source `ai`; `similar` are the person's suggestions that mean nearly the same. Use an `id` as
`suggestion_id` of a generation.

It is paid as one completion and one embedding, by the caller or the organization that
`OpenAI-Organization` names. An API key needs the scopes `images` and `chat`. What a person draws
and marks is suggested by the function `suggest_prompts`, through the Supabase SDK, for nothing.
"""

EVENTS = """\
Server-sent events: `progress` whenever something has changed, then one of `completed`, `failed` and
`cancelled`. The data of each is the generation. Who leaves changes nothing.
"""

CONTENT = """\
Redirects to an address that shows the bytes for ten minutes. For the owner, with a credential; for
everybody while the image is public.
"""

OPENAI = """\
Waits for the images and answers as OpenAI's API does. Who leaves calls them off. `credential` may
stand beside OpenAI's members; `response_format` `url` gives signed addresses.
"""

OPENAI_REQUEST: dict[str, Json] = {
    "model": "flux-schnell",
    "prompt": "A lighthouse in the fog, oil on canvas",
    "size": "1024x1024",
}
OPENAI_ANSWER: dict[str, Json] = {
    "created": 1767225600,
    "data": [{"b64_json": "iVBORw0KGgo…"}],
}
EVENTS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Its events.",
        "content": {
            "text/event-stream": {
                "example": 'event: progress\ndata: {"status":"processing","progress":50,…}\n\n'
            }
        },
    }
}
