"""Text is data: what reads like SQL, a filter or a format changes nothing wherever it is sent."""

from __future__ import annotations

import json
import time
import uuid
from urllib.parse import quote

import httpx
import psycopg
import pytest

from tests.security.conftest import MODEL, Cast
from tests.support.service import Service, ServiceError

HOSTILE = [
    "'; drop table public.profiles; --",
    "' or '1'='1",
    "x'); update public.credit_accounts set balance = 1000000; --",
    "$$; select pg_sleep(20); $$",
    '"; delete from public.plans; --',
    "\\'; select pg_sleep(20); --",
    "%I %s %L %(p)s {0} {p_name} ${x}",
    "public.credit_grant",
    "\u02bc; drop table public.profiles; --",
    "../../rpc/credit_grant",
]
SECONDS = 10.0  # far below what a sleep would take, far above a slow machine


@pytest.fixture(params=range(len(HOSTILE)), ids=HOSTILE.__getitem__)
def text(request: pytest.FixtureRequest) -> str:
    chosen: str = HOSTILE[request.param]
    return chosen


@pytest.fixture(autouse=True)
def _quick() -> object:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS


@pytest.mark.usefixtures("nothing_changes")
def test_the_functions_of_clients_take_text_as_text(cast: Cast, text: str) -> None:
    organization = cast.organization_id
    for name, arguments in (
        ("create_organization", {"p_name": "Team", "p_slug": text}),
        ("accept_invitation", {"p_token": text}),
        ("invite_member", {"p_organization_id": organization, "p_email": text, "p_role": "member"}),
        (
            "invite_member",
            {"p_organization_id": organization, "p_email": "a@example.com", "p_role": text},
        ),
        (
            "change_member_role",
            {"p_organization_id": organization, "p_user_id": cast.member.id, "p_role": text},
        ),
        ("credit_balance", {"p_organization_id": text}),
        ("set_monthly_budget", {"p_budget": text}),
        ("update_organization", {"p_organization_id": organization, "p_settings": text}),
    ):
        answer = cast.rpc("founder", name, **arguments)
        assert 400 <= answer.status_code < 500, (name, answer.text)


def test_a_name_is_kept_as_it_was_written(
    cast: Cast, admin_connection: psycopg.Connection, text: str
) -> None:
    answer = cast.rpc(
        "founder", "update_organization", p_organization_id=cast.organization_id, p_name=text
    )
    assert answer.json()["name"] == text
    stored = admin_connection.execute(
        "select name from public.organizations where id = %s", [cast.organization_id]
    ).fetchone()
    assert stored == (text,)


@pytest.mark.usefixtures("nothing_changes")
def test_filters_take_text_as_text(cast: Cast, text: str) -> None:
    written = quote(text, safe="")
    for path in (
        f"profiles?email=eq.{written}",
        f"profiles?full_name=like.{written}",
        f"profiles?full_name=in.({written})",
        f"profiles?or=({written})",
        f"profiles?select={written}",
        f"profiles?order={written}",
        f"profiles?{written}=eq.1",
        f"profiles?limit={written}",
        f"{written}?select=*",
        f"rpc/{written}",
    ):
        answer = cast.rest("stranger", "GET", path)
        assert cast.owner.email not in answer.text
        if answer.status_code == 200:
            assert [row for row in answer.json() if row.get("id") != cast.stranger.id] == []


@pytest.mark.usefixtures("nothing_changes")
def test_functions_of_the_service_take_text_as_text(
    cast: Cast, service: Service, text: str
) -> None:
    owner = cast.owner.id
    for name, arguments in (
        ("chat_start", {"p_user_id": owner, "p_request_id": uuid.uuid4(), "p_model": text}),
        ("chat_quote", {"p_user_id": owner, "p_model": text}),
        ("chat_quote", {"p_user_id": owner, "p_model": MODEL, "p_organization": text}),
    ):
        with pytest.raises(ServiceError) as refusal:
            service.rpc(name, p_prompt_tokens=10, **arguments)
        assert refusal.value.status in {403, 404}
    with pytest.raises(ServiceError) as refusal:
        service.rpc("checkout_start", p_user_id=owner, p_pack=text)
    assert refusal.value.status == 404
    with pytest.raises(ServiceError) as refusal:
        service.rpc("model_upsert", p_model={"id": MODEL, text: 1}, p_actor="tests")
    assert refusal.value.status == 400
    assert service.rpc("task_list", p_status=text, p_kind=text) == []
    claimed = service.rpc(
        "task_claim", p_kinds=[text], p_worker=text[:200], p_limit=1, p_lease_seconds=1
    )
    assert claimed == []


def test_an_event_of_stripes_names_no_function(service: Service, text: str) -> None:
    event = {
        "object": "event",
        "id": f"evt_{uuid.uuid4().hex}",
        "type": "charge.refunded",
        "created": 1,
        "livemode": False,
        "data": {"object": {"object": text, "id": f"ch_{uuid.uuid4().hex}"}},
    }
    answer = service.rpc("stripe_event_receive", p_event=event, p_livemode=False)
    assert answer["result"] in {"failed", "ignored"}


@pytest.mark.usefixtures("nothing_changes")
def test_the_functions_app_takes_text_as_text(cast: Cast, functions_url: str, text: str) -> None:
    header = text.encode("ascii", "replace").decode()
    completion = {
        "model": text,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 1,
    }
    checkout = {
        "pack": text[:50],
        "success_url": "http://localhost:3000/",
        "cancel_url": "http://localhost:3000/",
        "organization": text,
    }
    for path, body in (("/v1/quote", completion), ("/billing/checkout", checkout)):
        for headers in ({}, {"OpenAI-Organization": header, "Idempotency-Key": header}):
            answer = cast.http.post(
                functions_url + path,
                content=json.dumps(body),
                headers=cast.owner.headers | headers | {"User-Agent": header},
            )
            assert 400 <= answer.status_code < 500, answer.text
    answer = _model(cast, functions_url, text)
    assert answer.status_code == 404


def _model(cast: Cast, functions_url: str, text: str) -> httpx.Response:
    url = f"{functions_url}/v1/models/{quote(text, safe='')}"
    return cast.http.get(url, headers=cast.owner.headers)
