"""The people of conversations, who also make agents."""

from __future__ import annotations

from tests.conversations.conftest import mark, new_payer, new_talker, talker, team, upstream

__all__ = ["mark", "new_payer", "new_talker", "talker", "team", "upstream"]
