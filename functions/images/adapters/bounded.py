"""An HTTP client that reads no more than there can be. It needs the extra `images`."""

from __future__ import annotations

from typing import Any

import httpx2

from functions.core.http_answers import AnswerTooLargeError, without_encoding
from functions.core.http_session import USER_AGENT, shared_tls


class BoundedClient(httpx2.AsyncClient):
    """Counts the bytes of an answer as they are decoded, and leaves off."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        """`max_bytes` of an answer; `seconds` between two pieces of one."""
        super().__init__(
            verify=shared_tls(),
            trust_env=False,
            follow_redirects=False,
            timeout=seconds,
            headers={"User-Agent": USER_AGENT},
        )
        self._max_bytes = max_bytes

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        **options: Any,
    ) -> httpx2.Response:
        """As httpx2's. Raises AnswerTooLargeError."""
        response = await super().send(request, stream=True, **options)
        if stream:
            return response
        try:
            raw = bytearray()
            async for data in response.aiter_bytes():
                raw += data
                if len(raw) > self._max_bytes:
                    raise AnswerTooLargeError
        finally:
            await response.aclose()
        return httpx2.Response(
            response.status_code,
            headers=without_encoding(response.headers.items()),
            content=bytes(raw),
            request=request,
        )
