"""What routes ask for: parameter types that hand over the process's shared objects."""

from __future__ import annotations

from typing import Annotated

import stripe
from fastapi import Depends, Request

from functions.core.database import Database
from functions.core.errors import UnavailableError
from functions.core.http import SafeClient
from functions.core.settings import Settings


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _stripe(request: Request) -> stripe.StripeClient:
    client: stripe.StripeClient | None = request.app.state.stripe
    if client is None:
        raise UnavailableError("payments_not_configured", "Payments are switched off here.", 60)
    return client


async def _safe_client(request: Request) -> SafeClient:
    client: SafeClient = request.app.state.safe_client
    return client


SettingsDep = Annotated[Settings, Depends(_settings)]
DatabaseDep = Annotated[Database, Depends(_database)]
SafeClientDep = Annotated[SafeClient, Depends(_safe_client)]
StripeDep = Annotated[stripe.StripeClient, Depends(_stripe)]
