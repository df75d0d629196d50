"""The outside providers that are known: addresses, and how each is shown a key.

An operator's settings (QUERNEL_PROVIDERS) may move one to another address, a proxy of theirs say;
no client ever names one. The exception is `openai-compatible`, whose address comes with the
customer's own key and is called through SafeClient alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from functions.core.settings import Settings

OWN_SERVER = "openai-compatible"
"""Slug of the provider that stands for servers of customers' own."""

ANTHROPIC_VERSION = "2026-10-21"
"""That of its library 2.14; https://platform.claude.com/docs/en/api/versioning"""


@dataclass(frozen=True)
class Definition:
    """A provider; `slug` is that of model_providers."""

    slug: str
    base_url: str
    key_header: Literal["Authorization", "x-goog-api-key"] = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""

    def auth(self, secret: SecretStr) -> dict[str, str]:
        """The headers that show a key, and those that every request needs."""
        text = secret.get_secret_value()
        shown = f"Bearer {text}" if self.key_header == "Authorization" else text
        return dict(self.headers) | {self.key_header: shown}


DEFINITIONS: Mapping[str, Definition] = {
    one.slug: one
    for one in (
        Definition("openai", "https://api.openai.com/v1"),
        Definition(
            "google",
            "https://generativelanguage.googleapis.com/v1beta",
            key_header="x-goog-api-key",
        ),
        Definition("google-vertex", "https://aiplatform.googleapis.com/v1"),
        Definition("xai", "https://api.x.ai/v1"),
        Definition(
            "anthropic",
            "https://api.anthropic.com/v1",
            headers={"anthropic-version": ANTHROPIC_VERSION},
        ),
        Definition("mistral", "https://api.mistral.ai/v1"),
        Definition("openrouter", "https://openrouter.ai/api/v1"),
        Definition("replicate", "https://api.replicate.com/v1"),
        Definition("stability", "https://api.stability.ai"),
    )
}


def base_url_of(slug: str, settings: Settings) -> str | None:
    """Where a provider is here: as the settings say, else where it is known to be."""
    place = settings.providers.get(slug)
    if place is not None:
        return place.url
    known = DEFINITIONS.get(slug)
    return None if known is None else known.base_url
