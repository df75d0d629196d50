"""What /docs says about the routes of conversations."""

from __future__ import annotations

from typing import Any

from functions.conversations.schemas import ANSWER_EXAMPLE

SEND = """\
Stores the message, and streams the answer of the model as server-sent events, or gives it in one
piece where `stream` is false. The context is rebuilt from the branch, as far as it fits the model's
window. `parent_id` puts the message beside another one (an edit); `regenerate` makes a new answer
to the same message: both are branches, and nothing is overwritten. The same `id` again stores no
second message. If you leave, the answer goes on for a while, and is kept and charged.

`documents` says what it is answered from: ids of documents that the conversation's owner has,
`"all"`, or none (`[]`); left out, what the conversation says. The answer's `citations` are the
passages that the model was given.

Events: `started` (ids, citations), chunks of OpenAI's protocol, the last of them with `usage`,
`finished` (the stored message), `error` (a problem document) in place of the last two where it
failed, `[DONE]`.
"""

_STREAM = (
    'event: started\ndata: {"conversation_id":"…","message_id":"…","citations":[…],…}\n\n'
    'data: {"object":"chat.completion.chunk","choices":[…]}\n\n'
    'event: finished\ndata: {"message":{…},"usage":{…},…}\n\ndata: [DONE]\n\n'
)
SEND_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The events, or the answer where `stream` is false.",
        "content": {
            "text/event-stream": {"example": _STREAM},
            "application/json": {"example": ANSWER_EXAMPLE},
        },
    }
}
LIST = """\
Conversations you read, your own and those shared with you, newest activity first. `query` finds
those whose title or messages have all its words.
"""
CHANGE = """\
Renames, archives (`status`), shares, chooses who answers and from which `documents`, or shows the
branch that `head_message_id` is on. Whoever writes in a shared conversation may rename it and
choose the branch; the rest is for its author and for admins.
"""
