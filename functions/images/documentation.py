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
