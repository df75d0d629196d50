"""What a process opens when it starts and closes when it ends, shared by all requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import httpx
import stripe
from fastapi import FastAPI
from pydantic import SecretStr

from functions.core import telemetry
from functions.core.api_keys import ApiKeyVerifier
from functions.core.auth import AccessTokenVerifier, Authenticator
from functions.core.database import Database
from functions.core.health import Readiness
from functions.core.http import SafeClient
from functions.core.http_session import USER_AGENT
from functions.core.jwks import KeySet
from functions.core.settings import STRIPE_API_VERSION, Settings
from functions.provider_keys.checker import open_key_checker
from functions.provider_keys.sources import open_vault

STRIPE_RETRIES = 2
"""Stripe's library repeats only what is safe to repeat: it sends an idempotency key with each."""

# Else it times our requests for Stripe, and writes an id for that into HOME.
stripe.enable_telemetry = False

Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan(settings: Settings) -> Lifespan:
    """Fill `app.state` with database, vault, key_checker, stripe,
    authenticator and safe_client.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            telemetry.start(settings, "functions")
            # In a thread, because it waits for the collector.
            stack.push_async_callback(asyncio.to_thread, telemetry.stop)
            database = await Database.open(settings)
            stack.push_async_callback(database.aclose)
            safe_client = SafeClient()
            stack.push_async_callback(safe_client.aclose)
            keys = None
            if settings.jwks_url is not None:
                client = httpx.AsyncClient(trust_env=False, headers={"User-Agent": USER_AGENT})
                keys = KeySet(settings.jwks_url, await stack.enter_async_context(client))
            app.state.database = database
            app.state.vault = open_vault(settings)
            app.state.readiness = Readiness(database)
            app.state.safe_client = safe_client
            app.state.key_checker = await stack.enter_async_context(
                open_key_checker(settings, safe_client)
            )
            app.state.stripe, http_client = open_stripe(settings)
            if http_client is not None:
                stack.push_async_callback(http_client.close_async)
            app.state.authenticator = Authenticator(
                [ApiKeyVerifier(), AccessTokenVerifier(settings, keys)]
            )
            yield

    return run


def open_stripe(
    settings: Settings,
) -> tuple[stripe.StripeClient | None, stripe.HTTPXClient | None]:
    """Stripe's client on the pinned API version, and its connections; None without a key."""
    if settings.stripe_secret_key is None:
        return None, None
    http_client = stripe.HTTPXClient(timeout=settings.stripe_timeout_seconds)
    client = stripe.StripeClient(
        _value(settings.stripe_secret_key),
        stripe_version=STRIPE_API_VERSION,
        base_addresses={"api": settings.stripe_api_base} if settings.stripe_api_base else {},
        max_network_retries=STRIPE_RETRIES,
        http_client=http_client,
    )
    return client, http_client


def _value(secret: SecretStr) -> str:
    return secret.get_secret_value()
