"""Everybody the attacks are made as and on, and the watch over what must not change or leak."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest

from local.keys import Keys
from local.stack import Stack
from tests.billing.subscribers import price_id
from tests.conftest import PASSWORD, NewUser, User
from tests.security.world import put_in, shelve, subscribe
from tests.support.service import Service

MODEL = "Qwen2.5-32B-Instruct-AWQ"
EMBEDDING_MODEL = "Qwen3-Embedding-4B"
HERE = Path(__file__).parent
REFUSED = {401, 403, 404}
SEALED = "what would be a sealed secret of somebody's, or its wrapped key"
SECRET = "what an agent of somebody's is told first"

# Rows of the cast, by table. Everything else in the database belongs to other tests.
THEIRS: dict[str, LiteralString] = {
    "auth.users": "id = any(%(people)s)",
    "public.profiles": "id = any(%(people)s)",
    "public.user_preferences": "user_id = any(%(people)s)",
    "public.user_model_preferences": "user_id = any(%(people)s)",
    "public.organizations": "id = %(organization)s or created_by = any(%(people)s)",
    "public.organization_members": (
        "organization_id = %(organization)s or user_id = any(%(people)s)"
    ),
    "public.organization_invitations": "organization_id = %(organization)s",
    "public.api_keys": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.auto_top_ups": "account_id = any(%(accounts)s)",
    "public.credit_accounts": "id = any(%(accounts)s)",
    "public.credit_lots": "account_id = any(%(accounts)s)",
    "public.credit_transactions": "account_id = any(%(accounts)s)",
    "private.credit_holds": "account_id = any(%(accounts)s)",
    "public.credit_purchases": "account_id = any(%(accounts)s)",
    "public.invoices": "account_id = any(%(accounts)s)",
    "public.payment_methods": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.payments": "account_id = any(%(accounts)s)",
    "public.provider_keys": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "private.provider_key_secrets": (
        "provider_key_id in (select k.id from public.provider_keys as k"
        " where k.user_id = any(%(people)s) or k.organization_id = %(organization)s)"
    ),
    "public.provider_key_uses": (
        "owner_id = any(%(people)s) or organization_id = %(organization)s"
    ),
    "public.image_generations": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.generated_images": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.image_analysis": (
        "image_id in (select i.id from public.generated_images as i"
        " where i.user_id = any(%(people)s) or i.organization_id = %(organization)s)"
    ),
    "public.user_favorites": "user_id = any(%(people)s)",
    "public.prompt_suggestions": "user_id = any(%(people)s)",
    "public.subscriptions": "account_id = any(%(accounts)s)",
    "public.usage_logs": "account_id = any(%(accounts)s)",
    "public.api_usage": "account_id = any(%(accounts)s)",
    "public.agents": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.conversations": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.messages": "conversation_id = any(%(conversations)s)",
    "private.notifications": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "public.webhook_endpoints": "user_id = any(%(people)s) or organization_id = %(organization)s",
    "private.stripe_customers": "user_id = any(%(people)s) or organization_id = %(organization)s",
}


@dataclass(repr=False)
class Cast:
    """People with accounts: four with an organization, three without.

    `stranger` and `owner` belong to none; `suspended` is a member and had everything the owner has.
    """

    stranger: User
    owner: User
    founder: User
    admin: User
    member: User
    suspended: User
    url: str
    publishable_key: str
    secret_key: str
    organization_id: str = ""
    slug: str = ""
    invitation_id: str = ""
    invitation_token: str = ""
    invited: str = ""
    hold_id: str = ""
    purchase_id: str = ""
    endpoint_id: str = ""
    provider_key_id: str = ""
    endpoints: list[str] = field(default_factory=list)
    agent_id: str = ""
    conversation_id: str = ""
    message_id: str = ""
    conversations: list[str] = field(default_factory=list)
    accounts: dict[str, str] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=30))

    @property
    def people(self) -> list[User]:
        return [getattr(self, f.name) for f in fields(self) if f.type == "User"]

    @property
    def ids(self) -> dict[str, Any]:
        """What the predicates of THEIRS are filled in with."""
        return {
            "people": [person.id for person in self.people],
            "organization": self.organization_id,
            "accounts": list(self.accounts.values()),
            "conversations": self.conversations,
        }

    @property
    def marks(self) -> set[str]:
        """Texts that only a leak would put into a stranger's answer."""
        known = {self.organization_id, self.slug, self.invited, self.hold_id, self.purchase_id}
        known |= {*self.endpoints, *self.conversations, self.agent_id, self.message_id, SECRET}
        known |= {self.provider_key_id, SEALED, _base64(SEALED.encode())}
        others = [person for person in self.people if person is not self.stranger]
        known |= {p.id for p in others} | {p.email for p in others}
        return known | {a for owner, a in self.accounts.items() if owner != self.stranger.id}

    def headers(self, actor: str) -> dict[str, str]:
        """Credentials of `visitor`, `service`, or somebody of the cast."""
        if actor == "visitor":
            return {"apikey": self.publishable_key}
        if actor == "service":
            return {"apikey": self.secret_key, "Authorization": f"Bearer {self.secret_key}"}
        person: User = getattr(self, actor)
        return {"apikey": self.publishable_key} | person.headers

    def rest(self, actor: str, method: str, path: str, **options: Any) -> httpx.Response:
        """A request to /rest/v1 as somebody; `schema` other than public goes into the profile."""
        headers = self.headers(actor) | options.pop("headers", {})
        if schema := options.pop("schema", None):
            headers |= {"Accept-Profile": schema, "Content-Profile": schema}
        return self.http.request(method, f"{self.url}/rest/v1/{path}", headers=headers, **options)

    def rpc(self, actor: str, name: str, *, schema: str | None = None, **arguments: Any) -> Any:
        """A call of a function as somebody, answered with the whole response."""
        return self.rest(actor, "POST", f"rpc/{name}", json=arguments, schema=schema)


@pytest.fixture(scope="session")
def admin_connection(stack: Stack) -> Iterator[psycopg.Connection]:
    """The superuser, autocommit."""
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def cast(
    stack: Stack, new_user: NewUser, service: Service, admin_connection: psycopg.Connection
) -> Iterator[Cast]:
    """Made once per process: the attacks must leave them as they were."""
    names = [f.name for f in fields(Cast) if f.type == "User"]
    mark = uuid.uuid4().hex[:16]
    made = Cast(
        **{name: new_user(f"{name}-{mark}@example.com") for name in names},
        url=stack.supabase_url,
        publishable_key=stack.keys.publishable_key,
        secret_key=stack.keys.secret_key,
    )
    with made.http:
        _found_organization(made, admin_connection, f"team-{mark}")
        for person in made.people:
            made.accounts[person.id] = service.rpc("credit_balance", p_user_id=person.id)[
                "account_id"
            ]
        made.accounts[made.organization_id] = service.rpc(
            "credit_balance", p_organization_id=made.organization_id
        )["account_id"]
        _do_business(made, service, mark)
        admin_connection.execute(
            "update public.plans set stripe_price_id_monthly = %s"
            " where slug = 'pro' and stripe_price_id_monthly is null",
            [price_id("pro")],
        )
        for user, organization in (
            (made.owner.id, None),
            (made.founder.id, made.organization_id),
        ):
            subscribe(admin_connection, user, organization, price_id("pro"))
            owner = [None if organization else user, organization]
            put_in(admin_connection, user, organization)
            admin_connection.execute(
                "select private.raise_alert(%s, %s, 'low_balance', %s, 50, 49)", [*owner, mark]
            )
            admin_connection.execute(
                "insert into public.api_keys (user_id, organization_id, name, key_prefix, scopes)"
                " values (%s, %s, 'a program', 'qk_live_abcd', '{chat}')",
                owner,
            )
        shelve(admin_connection, f"/v{mark}/docs", made.owner.id)
        for actor, organization in (("owner", None), ("founder", made.organization_id)):
            made.rpc(
                actor,
                "set_auto_top_up",
                p_threshold=1,
                p_pack="starter",
                p_organization_id=organization,
            ).raise_for_status()
        service.rpc(
            "user_set_active",
            p_user_id=made.suspended.id,
            p_is_active=False,
            p_actor="tests",
            p_reason="to be refused",
        )
        yield made


def _found_organization(cast: Cast, admin: psycopg.Connection, slug: str) -> None:
    answer = cast.rpc("founder", "create_organization", p_name="The team", p_slug=slug)
    cast.organization_id, cast.slug = answer.json()["id"], slug
    admin.execute(
        "update public.organizations set plan_id ="
        " (select id from public.plans where slug = 'business') where id = %s",
        [cast.organization_id],
    )
    for person, role in (
        (cast.admin, "admin"),
        (cast.member, "member"),
        (cast.suspended, "admin"),
    ):
        admin.execute(
            "insert into public.organization_members (organization_id, user_id, role)"
            " values (%s, %s, %s)",
            [cast.organization_id, person.id, role],
        )
    cast.invited = f"invited-{slug}@example.com"
    invitation = cast.rpc(
        "founder",
        "invite_member",
        p_organization_id=cast.organization_id,
        p_email=cast.invited,
        p_role="admin",
    ).json()
    cast.invitation_id, cast.invitation_token = invitation["id"], invitation["token"]


def _do_business(cast: Cast, service: Service, key: str) -> None:
    """Credits, a completion, a hold in flight, an open checkout and a webhook of every payer."""
    for user, organization in (
        (cast.owner.id, None),
        (cast.suspended.id, None),
        (cast.founder.id, cast.organization_id),
    ):
        payer = {"p_organization_id": organization} if organization else {"p_user_id": user}
        service.rpc(
            "credit_grant",
            **payer,
            p_amount=1000,
            p_source="promotional",
            p_idempotency_key=key,
            p_actor="tests",
        )
        started = service.rpc(
            "chat_start",
            p_user_id=user,
            p_request_id=uuid.uuid4(),
            p_model=MODEL,
            p_prompt_tokens=100,
            p_organization=organization,
        )
        service.rpc(
            "chat_finish",
            p_hold_id=started["hold_id"],
            p_prompt_tokens=100,
            p_completion_tokens=50,
        )
        held = service.rpc(
            "credit_hold",
            p_user_id=user,
            p_organization_id=organization,
            p_amount=5,
            p_idempotency_key=key,
            p_action="chat",
            p_seconds=3600,
        )
        bought = service.rpc(
            "checkout_start", p_user_id=user, p_pack="starter", p_organization=organization
        )
        service.rpc("customer_claim", p_user_id=user, p_organization_id=organization)
        endpoint = service.rpc(
            "webhook_endpoint_create",
            p_user_id=user,
            p_url="https://hooks.quernel.test/",
            p_organization=organization,
        )
        _talk(cast, service, user, organization)
        image_id = _draw(service, user, organization)
        if user == cast.owner.id:
            cast.rest(
                "owner", "POST", "user_favorites", json={"image_id": image_id}
            ).raise_for_status()
            assert cast.rpc("owner", "suggest_prompts").json()
        key_id = _bring(service, user, organization)
        cast.endpoints.append(endpoint["id"])
        service.rpc("webhook_endpoint_ping", p_user_id=user, p_endpoint_id=endpoint["id"])
        if user == cast.owner.id:
            cast.hold_id, cast.purchase_id = held["hold_id"], bought["id"]
            cast.endpoint_id = endpoint["id"]
            cast.provider_key_id = key_id
    cast.rest(
        "owner",
        "POST",
        "user_preferences",
        json={"preference_type": "ui_preferences", "preference_value": {"density": "high"}},
    ).raise_for_status()


def _bring(service: Service, user: str, organization: str | None) -> str:
    """A provider key; its id. Nobody can open what is sealed in it, and nobody sees that."""
    sealed = {"kid": "probe", "nonce": _base64(bytes(12))}
    sealed |= {name: _base64(SEALED.encode()) for name in ("wrapped_key", "ciphertext")}
    key_id = str(uuid.uuid4())
    service.rpc(
        "provider_key_add",
        p_user_id=user,
        p_id=key_id,
        p_provider="openai",
        p_name="a key",
        p_last_four="abcd",
        p_sealed=sealed,
        p_outcome="completed",
        p_organization=organization,
    )
    return key_id


def _draw(service: Service, user: str, organization: str | None) -> str:
    """An image, which the run's worker makes; its id."""
    started = service.rpc(
        "image_start",
        p_values={"model_id": "flux-schnell", "prompt": "a lighthouse"},
        p_user_id=user,
        p_organization=organization,
    )
    named = {"p_id": started["generation"]["id"], "p_user_id": user}
    for _ in range(200):
        generation = service.rpc("image_read", **named)
        if generation["status"] == "completed":
            [image] = generation["images"]
            if image["color_palette"] is not None:  # and looked at
                return str(image["id"])
        time.sleep(0.1)
    raise AssertionError("no worker made the image")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _talk(cast: Cast, service: Service, user: str, organization: str | None) -> None:
    """An agent and a conversation with it; the organization's is shared."""
    named = {"p_user_id": user, "p_organization": organization}
    agent = service.rpc(
        "agent_create", p_values={"name": "Agent", "system_prompt": SECRET}, **named
    )
    values = {"agent_id": agent["id"], "is_shared": organization is not None}
    conversation = service.rpc("conversation_create", p_values=values, **named)
    started = service.rpc(
        "message_start",
        p_request_id=uuid.uuid4(),
        p_conversation_id=conversation["id"],
        p_user_id=user,
        p_content="hello",
    )
    service.rpc(
        "message_finish",
        p_hold_id=started["hold_id"],
        p_prompt_tokens=100,
        p_completion_tokens=50,
        p_answer={"content": "hello yourself"},
    )
    cast.conversations.append(conversation["id"])
    if user == cast.owner.id:
        cast.agent_id, cast.conversation_id = agent["id"], conversation["id"]
        cast.message_id = started["message_id"]


Snapshot = Callable[[], dict[str, list[Any]]]


@pytest.fixture(scope="session")
def snapshot(cast: Cast, admin_connection: psycopg.Connection) -> Snapshot:
    """Call it for every row of the cast, as it is now."""
    query = " union all ".join(
        f"select '{table}', to_jsonb(t) from {table} as t where {predicate}"  # noqa: S608
        for table, predicate in THEIRS.items()
    ).encode()

    def take() -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {table: [] for table in THEIRS}
        for table, row in admin_connection.execute(query, cast.ids):
            rows[table].append(row)
        for found in rows.values():
            found.sort(key=lambda row: json.dumps(row, sort_keys=True))
        return rows

    return take


@pytest.fixture
def nothing_changes(snapshot: Snapshot) -> Iterator[None]:
    """Fails the test if a row of the cast is not afterwards what it was before."""
    before = snapshot()
    assert all(before.values()), "the cast has rows of every kind"
    yield
    assert snapshot() == before


# What must not leak ------------------------------------------------------------------------------


def secret_values(keys: Keys) -> dict[str, str]:
    """Every value that only the stack itself may know, by name. The publishable key is public."""
    known = {name: value for name, value in asdict(keys).items() if name != "publishable_key"}
    return known | {"a user's password": PASSWORD}


@pytest.fixture(scope="session", autouse=True)
def answers_are_watched(stack: Stack) -> Iterator[None]:
    """No answer to any request made by this process, from here on, contains a secret."""
    secrets = {name: value.encode() for name, value in secret_values(stack.keys).items()}
    send = httpx.Client.send

    def watched(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        response = send(client, request, **options)
        if not options.get("stream"):
            for name, value in secrets.items():
                told = value in response.content or value in repr(response.headers.raw).encode()
                assert not told, f"{request.method} {request.url.path} told {name}"
        return response

    httpx.Client.send = watched  # type: ignore[method-assign]
    yield
    httpx.Client.send = send  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The look at the logs comes last, when there is something in them."""
    items.sort(key=lambda item: item.path.name == "test_secrets.py" and item.path.parent == HERE)


# Tokens ------------------------------------------------------------------------------------------


def claims(user_id: str, **changes: Any) -> dict[str, Any]:
    """Claims of an access token that is valid for an hour."""
    now = int(time.time())
    return {
        "sub": user_id,
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + 3600,
    } | changes
