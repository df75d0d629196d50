"""What a request asks for, against what a model can do: before anybody is asked.

An image model's capabilities (docs/models.md) list what it takes; what they do not list is refused
with what would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functions.core.errors import InvalidRequestError
from functions.images.request import ImageRequest

# The member of a request, and the list of a model's capabilities that it is in.
_LISTED = (
    ("size", "sizes"),
    ("aspect_ratio", "aspect_ratios"),
    ("resolution", "resolutions"),
    ("quality", "qualities"),
    ("format", "formats"),
    ("background", "backgrounds"),
    ("style", "styles"),
)
# The member, and whether the model has it at all.
_SWITCHED = (("negative_prompt", "negative_prompt"), ("seed", "seed"))
# The member, and the capability that is its range: [least, most].
_RANGED = (("guidance", "guidance"), ("steps", "steps"))


def require_able(request: ImageRequest, capabilities: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError for the first thing that the model cannot do.

    `unsupported_parameter` for what it does not have at all, `invalid_argument` for a value out of
    its range; the facts name the `param` and what is allowed.
    """
    _require_prompt(request, capabilities)
    most = int(capabilities.get("max_outputs", 1))
    if not 1 <= request.outputs <= most:
        raise _out_of_range("outputs", minimum=1, maximum=most)
    for member, capability in (*_LISTED, *_SWITCHED, *_RANGED):
        value = getattr(request, member)
        if value is not None:
            _require(member, value, capabilities.get(capability))
    known = capabilities.get("options", {})
    for name, value in request.options.items():
        shown = f"options.{name}"[:100]
        if name not in known:
            raise _unknown(shown)
        _require_option(shown, value, known[name])


def _require(member: str, value: Any, able: Any) -> None:  # noqa: ANN401 - JSON
    if not able:
        raise _unknown(member)
    if able is True and (member, member) in _SWITCHED:
        return
    if (member, member) in _RANGED:
        least, most = able
        if not least <= value <= most:
            raise _out_of_range(member, minimum=least, maximum=most)
    elif value not in able:
        raise _out_of_range(member, allowed=list(able))


def _require_option(shown: str, value: Any, able: Any) -> None:  # noqa: ANN401 - JSON
    if able == "boolean":
        if not isinstance(value, bool):
            raise _out_of_range(shown, allowed=[True, False])
        return
    least, most = able
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _out_of_range(shown, minimum=least, maximum=most)


def _require_prompt(request: ImageRequest, capabilities: Mapping[str, Any]) -> None:
    most = capabilities.get("max_prompt_characters")
    if not request.prompt.strip():
        raise InvalidRequestError("invalid_argument", "A prompt is required.", {"param": "prompt"})
    if most is not None and len(request.prompt) > most:
        raise _out_of_range("prompt", maximum=most)


def _unknown(member: str) -> InvalidRequestError:
    return InvalidRequestError(
        "unsupported_parameter", f"This model has no {member}.", {"param": member}
    )


def _out_of_range(member: str, **facts: Any) -> InvalidRequestError:
    return InvalidRequestError(
        "invalid_argument", f"This model does not take this {member}.", {"param": member} | facts
    )
