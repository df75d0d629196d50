"""The providers' own libraries, and the one HTTP client that is under all of them.

Left to themselves they would open connections of their own: through whatever proxy the environment
names, and reading answers of any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from functions.core.errors import OperatorError

if TYPE_CHECKING:
    import httpx2

_INSTALL = "pip install 'quernel[images]'."


class Libraries:
    """Those of the extra `images`, each loaded when it is first needed. One per process."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        """`max_bytes` of an answer; `seconds` between two pieces of one."""
        self._bounds = max_bytes, seconds
        self._http: httpx2.AsyncClient | None = None

    @property
    def http(self) -> httpx2.AsyncClient:
        """Their client: no proxies, no redirects, answers within bounds."""
        if self._http is None:
            from functions.images.adapters.bounded import BoundedClient  # noqa: PLC0415 - an extra

            self._http = BoundedClient(*self._bounds)
        return self._http

    def openai(self) -> Any:  # noqa: ANN401 - a module
        """OpenAI's. Raises OperatorError where it is not installed."""
        try:
            import openai  # noqa: PLC0415 - only where images are made with it
        except ImportError:
            raise OperatorError(
                "openai_missing", f"OpenAI's images need its library: {_INSTALL}"
            ) from None
        return openai

    def genai(self) -> Any:  # noqa: ANN401 - a module
        """Google's. Raises OperatorError where it is not installed."""
        try:
            from google import genai  # noqa: PLC0415 - only where images are made with it
        except ImportError:
            raise OperatorError(
                "google_genai_missing", f"Gemini's images need its library: {_INSTALL}"
            ) from None
        return genai

    async def aclose(self) -> None:
        """Close the client."""
        if self._http is not None:
            await self._http.aclose()
