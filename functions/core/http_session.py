"""HTTP connections to the servers that every request needs: PostgREST and a model server.

aiohttp, because httpx took half of the process's CPU (docs/decisions/0009). Everything else stays
on httpx (`open_client`), and what users name goes through SafeClient (http.py).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache

import aiohttp
import httpx

USER_AGENT = "quernel-functions"
"""Supabase refuses secret keys from user agents that look like a browser."""

KEEPALIVE_SECONDS = 4.0
"""Idle connections are dropped before the far end does it:

Node and uvicorn close after 5 s, Supabase's gateway after 60 s.

A request that meets a closing connection cannot be repeated safely, because it may have run.
"""


def open_session(
    *,
    headers: Mapping[str, str],
    max_connections: int,
    connect_seconds: float,
    silence_seconds: float | None = None,
    decompress: bool = False,
) -> aiohttp.ClientSession:
    """A client without cookies, proxies or credentials of the environment.

    `connect_seconds` bounds connecting, `silence_seconds` the wait for the next bytes of an answer;
    waiting for a free connection and the whole exchange are the caller's to bound. Needs a running
    event loop.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=shared_tls()
        ),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=connect_seconds, sock_read=silence_seconds
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=decompress,
        trust_env=False,
    )


def open_client(seconds: float) -> httpx.AsyncClient:
    """A client of httpx for addresses that nobody outside chooses: no proxies, no redirects.

    `seconds`: of silence, at the most.
    """
    return httpx.AsyncClient(
        verify=shared_tls(),
        trust_env=False,
        follow_redirects=False,
        timeout=seconds,
        headers={"User-Agent": USER_AGENT},
    )


@lru_cache(maxsize=1)
def shared_tls() -> ssl.SSLContext:
    """The certificates that httpx trusts, so that both clients believe the same servers.

    One for all sessions: reading them takes longer than everything else that opens one.
    """
    tls = httpx.create_ssl_context(trust_env=False)
    tls.set_alpn_protocols(["http/1.1"])
    return tls
