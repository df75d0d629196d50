"""Rewarded ads: only what AdMob has signed, of our own ad units, once, and so many a day."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import httpx
import psycopg
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from functions.app import create_app
from functions.core.errors import InvalidRequestError, UnavailableError
from functions.images import ad_rewards
from functions.images.ad_rewards import VerifierKeys, require_google
from local.stack import Stack
from tests.chat.conftest import settings_of
from tests.images.conftest import NewPainter, Painter
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

UNIT = "5224354917"


class Google:
    """Keys as Google publishes them, and callbacks signed with one."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.key_id = 3335741209
        self.fetches = 0

    async def answer(self, _: web.BaseRequest) -> web.Response:
        self.fetches += 1
        public = self.key.public_key()
        pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        return web.json_response({"keys": [{"keyId": self.key_id, "pem": pem, "base64": "x"}]})

    def sign(self, content: str, key_id: int | None = None) -> str:
        raw = self.key.sign(content.encode(), ec.ECDSA(hashes.SHA256()))
        signature = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return f"{content}&signature={signature}&key_id={key_id or self.key_id}"

    def callback(self, user: str, **members: str) -> str:
        """As Google sends them, in alphabetical order."""
        told = {
            "ad_network": "5450213213286189855",
            "ad_unit": UNIT,
            "reward_amount": "1000000",
            "reward_item": "credits",
            "timestamp": str(int(time.time() * 1000)),
            "transaction_id": uuid.uuid4().hex,
            "user_id": user,
        }
        return self.sign(urlencode(told | members))


@dataclass
class Ads:
    google: Google
    http: httpx.AsyncClient

    async def tell(self, query: str) -> httpx.Response:
        return await self.http.get(f"/ads/rewards/admob?{query}")

    async def state(self, query: str) -> str:
        answer = await self.tell(query)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["state"])


@asynccontextmanager
async def ads(stack: Stack) -> AsyncIterator[Ads]:
    google = Google()
    app = create_app(settings_of(stack))
    async with serve(google.answer) as url, app.router.lifespan_context(app):
        app.state.ad_keys = VerifierKeys(url)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ads") as http:
            yield Ads(google, http)


@pytest.fixture(autouse=True)
def units(stack: Stack) -> None:
    """Our ad units, meanwhile. Other tests have none, and look at no ads."""
    query = "update private.settings set value = %s::jsonb where name = 'ad_units'"
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute(query, [json.dumps([UNIT])])


def viewer(painter: Painter) -> dict[str, Any]:
    row = painter.payer.connection.execute(
        "select ads_watched_today, ads_credits_earned from public.profiles where id = %s",
        [painter.id],
    ).fetchone()
    assert row is not None
    return row


async def test_a_reward_is_paid_once(stack: Stack, painter: Painter) -> None:
    async with ads(stack) as shop:
        callback = shop.google.callback(painter.id)
        answer = await shop.tell(callback)
        # What the ad unit is configured to say is not what is paid.
        assert answer.json() == {"state": "granted", "credits": 1}
        for _ in range(3):
            assert await shop.state(callback) == "duplicate"
        assert shop.google.fetches == 1
    assert painter.payer.balance == 101
    assert viewer(painter) == {"ads_watched_today": 1, "ads_credits_earned": Decimal(1)}
    row = painter.payer.connection.execute(
        "select t.type from public.credit_transactions as t"
        " join public.credit_accounts as a on a.id = t.account_id"
        " where a.user_id = %s order by t.version desc limit 1",
        [painter.id],
    ).fetchone()
    assert row == {"type": "ads_reward"}


async def test_so_many_a_day(stack: Stack, painter: Painter) -> None:
    async with ads(stack) as shop:
        states = [await shop.state(shop.google.callback(painter.id)) for _ in range(7)]
        assert states == ["granted"] * 5 + ["limit"] * 2
        assert painter.payer.balance == 105
        # Yesterday's do not count.
        painter.payer.connection.execute(
            "update private.ad_rewards set created_at = created_at - interval '1 day'"
            " where user_id = %s",
            [painter.id],
        )
        painter.payer.connection.execute("select backend.ads_reset()")
        assert viewer(painter)["ads_watched_today"] == 0
        assert await shop.state(shop.google.callback(painter.id)) == "granted"
    assert viewer(painter) == {"ads_watched_today": 1, "ads_credits_earned": Decimal(6)}


async def test_another_publishers_ads_pay_nothing(stack: Stack, painter: Painter) -> None:
    """Google signs theirs with the same keys, and they choose whom it calls, and for whom."""
    async with ads(stack) as shop:
        assert await shop.state(shop.google.callback(painter.id, ad_unit="666")) == "foreign"
    assert painter.payer.balance == 100


@pytest.mark.parametrize("change", ["user", "amount", "order", "key", "signature", "none", "twice"])
async def test_what_google_has_not_signed(change: str, stack: Stack, painter: Painter) -> None:
    async with ads(stack) as shop:
        good = shop.google.callback(str(uuid.uuid4()))
        content, _, tail = good.partition("&signature=")
        signature, _, key_id = tail.partition("&key_id=")
        stranger = Google()
        query = {
            "user": content.rpartition("=")[0] + f"={painter.id}&signature={tail}",
            "amount": content.replace("1000000", "2") + f"&signature={tail}",
            "order": f"signature={signature}&{content}&key_id={key_id}",
            "key": f"{content}&signature={signature}&key_id=1",
            "signature": stranger.sign(content, shop.google.key_id),
            "none": content,
            "twice": f"{content}&signature={signature}&key_id={key_id}&user_id={painter.id}"
            f"&signature={signature}&key_id={key_id}",
        }[change]
        answer = await shop.tell(query)
    assert answer.status_code == 400
    assert painter.payer.balance == 100


async def test_whoever_is_nobody_gets_nothing(stack: Stack, new_painter: NewPainter) -> None:
    suspended = new_painter()
    suspended.payer.connection.execute(
        "update public.profiles set is_active = false where id = %s", [suspended.id]
    )
    async with ads(stack) as shop:
        for user in (str(uuid.uuid4()), suspended.id, "nobody"):
            assert await shop.state(shop.google.callback(user)) == "refused"
        # AdMob's own test of the address.
        assert await shop.state(shop.google.sign("ad_network=1&ad_unit=2")) == "refused"


async def test_a_key_id_that_nobody_knows_fetches_no_more_than_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    google = Google()
    async with serve(google.answer) as url:
        keys = VerifierKeys(url)
        for _ in range(5):
            with pytest.raises(InvalidRequestError):
                await require_google(keys, google.sign("a=1", 7))
        assert google.fetches == 1
        monkeypatch.setattr(ad_rewards, "MIN_REFRESH_SECONDS", 0.0)
        google.key, google.key_id = ec.generate_private_key(ec.SECP256R1()), 7
        assert await require_google(keys, google.sign("a=1", 7)) == {"a": "1"}
        assert google.fetches == 2


async def test_without_googles_keys_nothing_is_believed() -> None:
    google = Google()
    with pytest.raises(UnavailableError):
        await require_google(VerifierKeys("http://127.0.0.1:1"), google.sign("a=1"))

    async def garbage(_: web.BaseRequest) -> web.Response:
        return web.json_response({"keys": [{"keyId": google.key_id, "pem": "x"}]})

    async with serve(garbage) as url:
        with pytest.raises(UnavailableError):
            await require_google(VerifierKeys(url), google.sign("a=1"))
