"""Nobody calls a function that is not theirs to call, nor one of theirs with another's ids."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import psycopg
import pytest

from tests.security import matrix
from tests.security.conftest import EMBEDDING_MODEL, MODEL, REFUSED, Cast
from tests.support.service import Service, ServiceError

pytestmark = pytest.mark.usefixtures("nothing_changes")

CLIENTS = ["visitor", "stranger", "owner", "member", "admin", "suspended"]
FUNCTIONS = sorted(matrix.expected()["functions"])
BACKEND = sorted({name.split("(")[0][8:] for name in FUNCTIONS if name.startswith("backend.")})
PRIVATE = sorted({name.split("(")[0][8:] for name in FUNCTIONS if name.startswith("private.")})
PUBLIC = sorted({name.split("(")[0][7:] for name in FUNCTIONS if name.startswith("public.")})


def coups(cast: Cast) -> dict[str, dict[str, Any]]:
    """Calls of backend functions, complete, that would be worth having."""
    paid = {
        "object": "checkout.session",
        "id": "cs_forged",
        "mode": "payment",
        "payment_status": "paid",
        "amount_total": 500,
        "currency": "eur",
        "payment_intent": "pi_forged",
        "client_reference_id": cast.purchase_id,
        "metadata": {"quernel_purchase_id": cast.purchase_id},
    }
    event = {
        "object": "event",
        "id": f"evt_{uuid.uuid4().hex}",
        "type": "checkout.session.completed",
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": paid},
    }
    return {
        "credit_grant": {
            "p_user_id": cast.owner.id,
            "p_amount": 1_000_000,
            "p_source": "bonus",
            "p_idempotency_key": "mine",
            "p_actor": "me",
        },
        "credit_settle": {"p_hold_id": cast.hold_id, "p_amount": 0},
        "credit_release": {"p_hold_id": cast.hold_id},
        "credit_refund": {"p_hold_id": cast.hold_id, "p_amount": 1, "p_idempotency_key": "mine"},
        "credit_balance": {"p_user_id": cast.founder.id},
        "credit_statement": {"p_user_id": cast.founder.id},
        "chat_fail": {"p_hold_id": cast.hold_id, "p_error_code": "free"},
        "provider_key_check": {"p_user_id": cast.owner.id, "p_id": cast.provider_key_id},
        "provider_key_idle": {"p_id": cast.provider_key_id},
        "provider_keys_sealed": {},
        "provider_key_delete": {"p_user_id": cast.owner.id, "p_id": cast.provider_key_id},
        "provider_key_checked": {
            "p_id": cast.provider_key_id,
            "p_secret_version": 1,
            "p_outcome": "rejected",
        },
        "chat_start": {
            "p_user_id": cast.founder.id,
            "p_request_id": str(uuid.uuid4()),
            "p_model": MODEL,
            "p_prompt_tokens": 1,
        },
        "model_upsert": {"p_model": {"id": MODEL, "prompt_price": 0}, "p_actor": "me"},
        "user_set_active": {
            "p_user_id": cast.suspended.id,
            "p_is_active": True,
            "p_actor": "me",
            "p_reason": "please",
        },
        "checkout_attach": {
            "p_purchase_id": cast.purchase_id,
            "p_session_id": "cs_forged",
            "p_url": "https://evil.example",
            "p_expires_at": "2099-01-01",
            "p_amount_total": 500,
            "p_currency": "eur",
        },
        "stripe_event_receive": {"p_event": event, "p_livemode": False},
        "email_prepare": {"p_delivery_id": str(uuid.uuid4())},
        "webhook_endpoint_create": {
            "p_user_id": cast.founder.id,
            "p_url": "https://evil.example/",
            "p_organization": cast.organization_id,
        },
        "webhook_endpoint_read": {
            "p_user_id": cast.owner.id,
            "p_endpoint_id": cast.endpoint_id,
        },
        "agent_read": {"p_user_id": cast.owner.id, "p_agent_id": cast.agent_id},
        "conversation_messages": {
            "p_user_id": cast.owner.id,
            "p_conversation_id": cast.conversation_id,
        },
        "message_start": {
            "p_user_id": cast.owner.id,
            "p_conversation_id": cast.conversation_id,
            "p_request_id": str(uuid.uuid4()),
            "p_content": "x",
        },
        "task_claim": {"p_kinds": ["probe"], "p_worker": "me", "p_limit": 1, "p_lease_seconds": 60},
    }


@pytest.mark.parametrize("actor", CLIENTS)
def test_a_client_calls_no_backend_function(cast: Cast, actor: str) -> None:
    for name, arguments in coups(cast).items():
        answer = cast.rpc(actor, name, schema="backend", **arguments)
        assert answer.status_code in REFUSED, (name, answer.text)
        # Nor without saying where it is.
        assert cast.rpc(actor, name, **arguments).status_code in REFUSED | {400} or name in PUBLIC


@pytest.mark.parametrize("name", BACKEND)
def test_a_client_reaches_no_backend_function_by_any_arguments(cast: Cast, name: str) -> None:
    for actor in ("visitor", "owner"):
        for answer in (
            cast.rpc(actor, name, schema="backend"),
            cast.rest(actor, "GET", f"rpc/{name}", schema="backend"),
            cast.rpc(actor, f"backend.{name}"),
        ):
            assert answer.status_code in REFUSED, answer.text


@pytest.mark.parametrize("name", PRIVATE)
def test_no_private_function_is_exposed(cast: Cast, name: str) -> None:
    for actor in ("visitor", "owner", "service"):
        assert cast.rpc(actor, name, schema="private").status_code in {404, 406}
        if name not in PUBLIC:
            assert cast.rpc(actor, name).status_code == 404


@pytest.mark.parametrize("name", PUBLIC)
def test_neither_a_visitor_nor_the_service_calls_a_clients_function(cast: Cast, name: str) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "accept_invitation": {"p_token": cast.invitation_token},
        "create_organization": {"p_name": "Mine", "p_slug": f"mine-{uuid.uuid4().hex[:8]}"},
        "credit_balance": {"p_organization_id": cast.organization_id},
        "credit_statement": {"p_organization_id": cast.organization_id},
        "usage_report": {"p_organization_id": cast.organization_id},
        "set_monthly_budget": {"p_budget": 0, "p_organization_id": cast.organization_id},
        "set_low_balance_threshold": {"p_threshold": 0, "p_organization_id": cast.organization_id},
        "set_auto_top_up": {
            "p_threshold": 1,
            "p_pack": "starter",
            "p_organization_id": cast.organization_id,
        },
        "revoke_invitation": {"p_invitation_id": cast.invitation_id},
        "create_api_key": {"p_name": "mine", "p_organization_id": cast.organization_id},
        "update_api_key": {"p_id": NOBODYS, "p_changes": {}},
        "rotate_api_key": {"p_id": NOBODYS},
        "revoke_api_key": {"p_id": NOBODYS},
        "last_used_at": {"p_key": None},
        "total_requests": {"p_key": None},
        "total_tokens": {"p_key": None},
        "total_credits": {"p_key": None},
        "credits_balance": {"p_profile": None},
        "lifetime_credits": {"p_profile": None},
        "stripe_customer_id": {"p_organization": None},
        "calculate_generation_cost": {"p_model_id": "flux-schnell"},
        "cancel_generation": {"p_id": NOBODYS},
        "community_trends": {},
        "document_uploaded": {"p_id": NOBODYS},
        "resolve_library": {"p_library_name": "docs"},
        "search_documentation": {"p_query": "x"},
        "search_documents": {"p_query": "x"},
        "search_similar_images": {"p_image_id": NOBODYS},
        "suggest_prompts": {},
        "user_generation_stats": {},
    }
    organization = {"p_organization_id": cast.organization_id}
    person = organization | {"p_user_id": cast.member.id}
    arguments |= {
        "update_organization": organization | {"p_name": "Mine"},
        "organization_people": organization,
        "invite_member": organization | {"p_email": "me@example.com"},
        "leave_organization": organization,
        "remove_member": person,
        "change_member_role": person | {"p_role": "owner"},
        "set_member_budget": person | {"p_budget": 0},
        "organization_agents": organization,
        "public_agents": {},
        "create_agent": organization | {"p_values": {"name": "Mine"}},
        "create_conversation": organization,
        "list_conversations": organization,
    } | {name: of_one(cast, name) for name in OF_ONE}
    for actor in ("visitor", "service"):
        answer = cast.rpc(actor, name, **arguments[name])
        assert answer.status_code in REFUSED, (actor, answer.text)


# name → arguments beside the id of what it is about, and the code that answers a stranger
OF_ONE: dict[str, tuple[dict[str, Any], str]] = {
    "update_agent": ({"p_changes": {"is_public": True}}, "agent_not_found"),
    "delete_agent": ({}, "agent_not_found"),
    "update_conversation": ({"p_changes": {"title": "Mine"}}, "conversation_not_found"),
    "delete_conversation": ({}, "conversation_not_found"),
    "restore_conversation": ({}, "conversation_not_found"),
    "conversation_thread": ({}, "conversation_not_found"),
    "select_branch": ({"p_message_id": "message"}, "conversation_not_found"),
}


def of_one(cast: Cast, name: str, identity: str = "") -> dict[str, Any]:
    """Arguments about something of the owner's, or about something else."""
    arguments = dict(OF_ONE[name][0])
    if "p_message_id" in arguments:
        arguments["p_message_id"] = cast.message_id
    theirs = cast.agent_id if name.endswith("agent") else cast.conversation_id
    return arguments | {"p_id": identity or theirs}


@pytest.mark.parametrize("name", OF_ONE)
def test_what_is_anothers_answers_as_what_does_not_exist(cast: Cast, name: str) -> None:
    for actor in ("stranger", "member", "admin"):
        real = cast.rpc(actor, name, **of_one(cast, name))
        unreal = cast.rpc(actor, name, **of_one(cast, name, str(uuid.uuid4())))
        assert (real.status_code, real.json()) == (unreal.status_code, unreal.json())
        assert json.loads(real.json()["details"])["code"] == OF_ONE[name][1]
    answer = cast.rpc("suspended", name, **of_one(cast, name))
    assert json.loads(answer.json()["details"])["code"] == "account_suspended"


# Functions of one's own, with another's ids ------------------------------------------------------

# name → arguments beside the organization, and the roles of the organization that may call it
OF_ORGANIZATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "credit_balance": ({}, {"member", "admin"}),
    "credit_statement": ({}, {"admin"}),
    "usage_report": ({}, {"admin"}),
    "organization_people": ({}, {"member", "admin"}),
    "organization_agents": ({}, {"member", "admin"}),
    "list_conversations": ({}, {"member", "admin"}),
    "create_conversation": ({}, {"member", "admin"}),
    "create_agent": ({"p_values": {"name": "Mine"}}, {"member", "admin"}),
    "set_monthly_budget": ({"p_budget": 1}, {"admin"}),
    "set_low_balance_threshold": ({"p_threshold": 1}, {"admin"}),
    "set_auto_top_up": ({"p_threshold": 1, "p_pack": "starter"}, {"admin"}),
    "update_organization": ({"p_name": "Taken over"}, {"admin"}),
    "create_api_key": ({"p_name": "mine"}, {"admin"}),
    "invite_member": ({"p_email": "me@example.com", "p_role": "admin"}, {"admin"}),
    "leave_organization": ({}, {"member", "admin"}),
    "remove_member": ({"p_user_id": "founder"}, set()),
    "change_member_role": ({"p_user_id": "self", "p_role": "owner"}, set()),
    "set_member_budget": ({"p_user_id": "founder", "p_budget": 0}, set()),
}


def call(cast: Cast, actor: str, name: str, organization: str) -> tuple[int, dict[str, Any]]:
    arguments = dict(OF_ORGANIZATIONS[name][0])
    if "p_user_id" in arguments:
        person = actor if arguments["p_user_id"] == "self" else arguments["p_user_id"]
        arguments["p_user_id"] = getattr(cast, person).id
    answer = cast.rpc(actor, name, p_organization_id=organization, **arguments)
    body: dict[str, Any] = answer.json()
    return answer.status_code, body


@pytest.mark.parametrize("name", OF_ORGANIZATIONS)
@pytest.mark.parametrize("actor", ["stranger", "owner"])
def test_an_organization_answers_a_stranger_as_one_that_does_not_exist(
    cast: Cast, actor: str, name: str
) -> None:
    real = call(cast, actor, name, cast.organization_id)
    unreal = call(cast, actor, name, str(uuid.uuid4()))
    assert real == unreal
    assert real[0] == 403
    assert json.loads(real[1]["details"])["code"] == "not_a_member"


@pytest.mark.parametrize(
    ("actor", "name"),
    [
        (actor, name)
        for name, (_, allowed) in OF_ORGANIZATIONS.items()
        for actor in ("member", "admin")
        if actor not in allowed
    ],
)
def test_a_role_in_an_organization_goes_no_further_than_it_goes(
    cast: Cast, actor: str, name: str
) -> None:
    status, body = call(cast, actor, name, cast.organization_id)
    assert status == 403
    assert json.loads(body["details"])["code"] in {"not_an_admin", "not_an_owner"}


@pytest.mark.parametrize("name", [*OF_ORGANIZATIONS, "create_organization", "accept_invitation"])
def test_a_suspended_user_calls_nothing(cast: Cast, name: str) -> None:
    if name == "create_organization":
        answer = cast.rpc("suspended", name, p_name="Mine", p_slug=f"mine-{uuid.uuid4().hex[:8]}")
        status, body = answer.status_code, answer.json()
    elif name == "accept_invitation":
        answer = cast.rpc("suspended", name, p_token=cast.invitation_token)
        status, body = answer.status_code, answer.json()
    else:
        status, body = call(cast, "suspended", name, cast.organization_id)
    assert status == 403
    assert json.loads(body["details"])["code"] == "account_suspended"


NOBODYS = str(uuid.uuid4())

# Functions of the service that act for the user whose id they take, and those that do not: the
# operator's, and what is called only after one of the first has agreed.
ACTING_FOR_A_USER: dict[str, dict[str, Any]] = {
    "agent_create": {"p_values": {"name": "Mine"}},
    "agent_delete": {"p_agent_id": NOBODYS},
    "agent_find": {},
    "agent_list": {},
    "agent_read": {"p_agent_id": NOBODYS},
    "agent_update": {"p_agent_id": NOBODYS, "p_changes": {}},
    "conversation_create": {},
    "conversation_delete": {"p_conversation_id": NOBODYS},
    "conversation_list": {},
    "conversation_messages": {"p_conversation_id": NOBODYS},
    "conversation_read": {"p_conversation_id": NOBODYS},
    "conversation_restore": {"p_conversation_id": NOBODYS},
    "conversation_update": {"p_conversation_id": NOBODYS, "p_changes": {}},
    "message_start": {
        "p_request_id": NOBODYS,
        "p_conversation_id": NOBODYS,
        "p_content": "x",
    },
    "billing_request": {},
    "chat_models": {},
    "chat_quote": {"p_model": MODEL, "p_prompt_tokens": 1},
    "chat_start": {"p_model": MODEL, "p_prompt_tokens": 1, "p_request_id": str(uuid.uuid4())},
    "checkout_start": {"p_pack": "starter"},
    "embedding_start": {
        "p_model": EMBEDDING_MODEL,
        "p_prompt_tokens": 1,
        "p_request_id": str(uuid.uuid4()),
    },
    "document_add": {"p_values": {}},
    "document_delete": {"p_id": NOBODYS},
    "document_list": {},
    "document_read": {"p_id": NOBODYS},
    "document_search": {"p_query": "x"},
    "document_search_begin": {},
    "document_uploaded": {"p_id": NOBODYS},
    "image_cancel": {"p_id": NOBODYS},
    "image_delete": {"p_image_id": NOBODYS},
    "image_list": {},
    "image_read": {"p_id": NOBODYS},
    "image_start": {"p_values": {"model_id": "flux-schnell", "prompt": "x"}},
    "library_list": {},
    "library_query": {"p_query": "x"},
    "library_query_begin": {"p_query": "x"},
    "library_read": {"p_id": "/a/b"},
    "library_refresh": {"p_id": "/a/b"},
    "library_resolve": {"p_query": "x", "p_library_name": "x"},
    "library_upload": {"p_id": "/a/b"},
    "library_uploaded": {"p_id": "/a/b"},
    "portal_start": {},
    "provider_key_add": {
        "p_id": NOBODYS,
        "p_provider": "openai",
        "p_name": "x",
        "p_last_four": "",
        "p_sealed": {},
        "p_outcome": "completed",
    },
    "provider_key_check": {"p_id": NOBODYS},
    "provider_key_delete": {"p_id": NOBODYS},
    "provider_key_list": {},
    "provider_key_prepare": {"p_provider": "openai"},
    "provider_key_read": {"p_id": NOBODYS},
    "provider_key_replace": {
        "p_id": NOBODYS,
        "p_secret_version": 1,
        "p_last_four": "",
        "p_sealed": {},
        "p_outcome": "completed",
    },
    "provider_key_update": {"p_id": NOBODYS, "p_changes": {}},
    "provider_key_uses": {},
    "subscription_action_start": {"p_subscription_id": NOBODYS, "p_action": "resume"},
    "subscription_change_start": {
        "p_subscription_id": NOBODYS,
        "p_plan": "pro",
        "p_interval": "month",
    },
    "subscription_checkout_start": {"p_plan": "pro", "p_interval": "month"},
    "suggestions_begin": {"p_prompt": "x"},
    "suggestions_keep": {"p_prompt": "x", "p_model": "x", "p_prompts": [{"prompt": "y"}]},
    "webhook_endpoint_create": {"p_url": "https://hooks.quernel.test/"},
    "webhook_endpoint_delete": {"p_endpoint_id": NOBODYS},
    "webhook_endpoint_list": {},
    "webhook_endpoint_ping": {"p_endpoint_id": NOBODYS},
    "webhook_endpoint_read": {"p_endpoint_id": NOBODYS},
    "webhook_endpoint_rotate": {"p_endpoint_id": NOBODYS},
    "webhook_endpoint_update": {"p_endpoint_id": NOBODYS, "p_changes": {}},
    "credit_hold": {
        "p_organization_id": None,
        "p_amount": 1,
        "p_idempotency_key": "mine",
        "p_action": "chat",
    },
}
OF_OPERATORS = {
    "credit_balance",
    "credit_grant",
    "credit_statement",
    "invoice_record",
    "payment_record",
    "plan_assign",
    "user_set_active",
}
# For a person where one is named, else for the operator who has to be.
OF_OPERATORS_TOO: dict[str, dict[str, Any]] = {
    "library_add": {"p_id": "/a/b", "p_title": "x", "p_source_kind": "git"},
    "library_delete": {"p_id": "/a/b"},
}
# Nobody loses the right to be forgotten by being suspended (tests/privacy).
FOR_THE_SUSPENDED_TOO = {"erasure_cancel", "erasure_request", "erasure_status"}
FOR_NOBODY_TOO = {"image_open"}  # what is public is shown to everybody
ONCE_AGREED = {"customer_claim", "provider_key_checked"}


def test_every_function_that_takes_a_user_says_whether_it_acts_for_them(
    admin_connection: psycopg.Connection,
) -> None:
    rows = admin_connection.execute(
        "select p.proname from pg_proc as p"
        " where p.pronamespace = 'backend'::regnamespace and 'p_user_id' = any(p.proargnames)"
    )
    assert {name for (name,) in rows} == {
        *ACTING_FOR_A_USER,
        *OF_OPERATORS,
        *OF_OPERATORS_TOO,
        *ONCE_AGREED,
        *FOR_NOBODY_TOO,
        *FOR_THE_SUSPENDED_TOO,
    }


@pytest.mark.parametrize("name", ACTING_FOR_A_USER)
def test_nothing_is_done_for_a_suspended_or_unknown_user(
    cast: Cast, service: Service, name: str
) -> None:
    for user in (cast.suspended.id, str(uuid.uuid4()), None):
        with pytest.raises(ServiceError) as refusal:
            service.rpc(name, p_user_id=user, **ACTING_FOR_A_USER[name])
        assert (refusal.value.status, refusal.value.code) == (403, "account_suspended")


@pytest.mark.parametrize("name", OF_OPERATORS_TOO)
def test_what_operators_do_is_done_for_nobody_who_is_suspended_or_unknown(
    cast: Cast, service: Service, name: str
) -> None:
    for user in (cast.suspended.id, str(uuid.uuid4())):
        with pytest.raises(ServiceError) as refusal:
            service.rpc(name, p_user_id=user, **OF_OPERATORS_TOO[name])
        assert (refusal.value.status, refusal.value.code) == (403, "account_suspended")
    with pytest.raises(ServiceError) as refusal:
        service.rpc(name, **OF_OPERATORS_TOO[name])
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_argument")


def test_no_role_is_invited_that_is_above_admin(cast: Cast) -> None:
    for role in ("owner", "superadmin", "", None):
        answer = cast.rpc(
            "admin",
            "invite_member",
            p_organization_id=cast.organization_id,
            p_email="me@example.com",
            p_role=role,
        )
        assert answer.status_code == 400


@pytest.mark.parametrize("budget", [-1, "NaN", "Infinity", "-Infinity", 1e14])
def test_no_budget_is_below_nothing_or_beyond_counting(cast: Cast, budget: object) -> None:
    own = cast.rpc("owner", "set_monthly_budget", p_budget=budget)
    members = cast.rpc(
        "admin",
        "set_member_budget",
        p_organization_id=cast.organization_id,
        p_user_id=cast.member.id,
        p_budget=budget,
    )
    for answer in (own, members):
        assert answer.status_code == 400
        assert json.loads(answer.json()["details"])["code"] == "invalid_amount"


# Invitations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.swapcase(),
        lambda token: f" {token}",
        lambda _: "qi_" + "A" * 43,
        lambda _: "",
        lambda _: "%",
        lambda _: None,
    ],
    ids=["shorter", "longer", "other case", "padded", "guessed", "empty", "wildcard", "null"],
)
def test_a_token_that_is_not_the_token_finds_nothing(cast: Cast, spoil: Any) -> None:
    answer = cast.rpc("stranger", "accept_invitation", p_token=spoil(cast.invitation_token))
    assert answer.status_code == 404
    assert json.loads(answer.json()["details"])["code"] == "invitation_not_found"


def test_the_token_of_another_address_admits_nobody(cast: Cast) -> None:
    for actor in ("stranger", "owner", "member"):
        answer = cast.rpc(actor, "accept_invitation", p_token=cast.invitation_token)
        assert answer.status_code == 403
        assert cast.invited not in answer.text
        assert cast.organization_id not in answer.text


def test_an_invitation_that_exists_answers_a_stranger_like_one_that_does_not(cast: Cast) -> None:
    real = cast.rpc("stranger", "revoke_invitation", p_invitation_id=cast.invitation_id)
    unreal = cast.rpc("stranger", "revoke_invitation", p_invitation_id=str(uuid.uuid4()))
    assert (real.status_code, real.json()) == (unreal.status_code, unreal.json())
    assert real.status_code == 404
