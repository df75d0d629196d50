"""One row of every table, belonging to a person, to an organization, or to nobody, to probe with.

Everything is made inside the caller's transaction, through the product's own functions as far as
there are any, and goes when the caller rolls back. A table that has no entry in ROWS fails the
matrix: a new table says here which of its rows to look at, and `build` makes them.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from local.stripe_billing_world import BillingWorld

MODEL = "Qwen2.5-32B-Instruct-AWQ"

# Which rows of a table to look at, by what they belong to: a predicate over its columns. `owner` is
# the row of a person who is in no organization; `organization` is a row that an organization pays
# for or owns, made by its founder, who is neither the member nor the admin of the matrix; `shared`
# belongs to nobody.
ROWS: dict[str, dict[str, LiteralString]] = {
    "private.billing_rates": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.ad_rewards": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.community_trends": {"shared": "subject = 'lighthouse'"},
    "private.credit_holds": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.insight_refreshes": {"shared": "name = 'community_trends'"},
    "private.user_generation_stats": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.cron_jobs": {"shared": "name = %(job)s"},
    "private.cron_runs": {"shared": "job = %(job)s"},
    "private.invariants": {"shared": "name = %(invariant)s"},
    "private.invariant_findings": {"shared": "invariant = %(invariant)s"},
    "private.documentation_embeddings": {
        "organization": "library_version_id = %(organization_version)s",
        "shared": "library_version_id = %(version)s",
    },
    "private.documentation_words": {
        "organization": "library_version_id = %(organization_version)s",
        "shared": "library_version_id = %(version)s",
    },
    "private.email_deliveries": {
        "owner": "user_id = %(owner)s",
        "organization": "invitation_id = %(invitation)s",
    },
    "private.erasures": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.idempotent_requests": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.library_answers": {
        "organization": "library_id = %(organization_library)s",
        "shared": "library_id = %(library)s",
    },
    "private.member_spending": {"organization": "organization_id = %(organization)s"},
    "private.message_words": {
        "owner": "message_id in (select m.id from public.messages as m"
        " where m.conversation_id = %(owner_conversation)s)",
        "organization": "message_id in (select m.id from public.messages as m"
        " where m.conversation_id = %(organization_conversation)s)",
    },
    "private.notification_templates": {"shared": "name = 'receipt'"},
    "private.notifications": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s and template = 'receipt'",
    },
    "private.operator_actions": {"shared": "actor = %(operator)s"},
    "private.organization_invitation_tokens": {"organization": "invitation_id = %(invitation)s"},
    "private.plan_prices": {"shared": "stripe_price_id = %(price)s"},
    "private.person_pseudonyms": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.personal_data": {"shared": "table_name = 'profiles'"},
    "private.personal_tables": {"shared": "table_name = 'profiles'"},
    "private.provider_key_rates": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "private.provider_key_secrets": {
        "owner": "provider_key_id = %(owner_provider_key)s",
        "organization": "provider_key_id = %(organization_provider_key)s",
    },
    "private.settings": {"shared": "name = 'signup_credits'"},
    "private.stripe_customers": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "private.stripe_event_types": {"shared": "event_type = 'charge.refunded'"},
    "private.stripe_events": {"shared": "id = %(event)s"},
    "private.stripe_object_handlers": {"shared": "object_type = 'charge'"},
    "private.stripe_objects": {"shared": "id = %(charge)s"},
    "private.stripe_reconciliations": {"shared": "status = 'running'"},
    "private.subscription_checkouts": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "private.tasks": {"owner": "key = %(owner)s", "organization": "key = %(organization)s"},
    "private.usage_logs_YYYY_MM": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.agents": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.billing_alerts": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "private.api_key_hashes": {
        "owner": "api_key_id = %(owner_key)s",
        "organization": "api_key_id = %(organization_key)s",
    },
    "private.api_key_states": {
        "owner": "api_key_id = %(owner_key)s",
        "organization": "api_key_id = %(organization_key)s",
    },
    "public.api_keys": {
        "owner": "id = %(owner_key)s",
        "organization": "id = %(organization_key)s",
    },
    "public.api_usage": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.auto_top_ups": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    # That of the organization is shared.
    "public.conversations": {
        "owner": "id = %(owner_conversation)s",
        "organization": "id = %(organization_conversation)s",
    },
    "public.credit_accounts": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.credit_lots": {
        "owner": "account_id = %(owner_account)s",
        "organization": "account_id = %(organization_account)s",
    },
    "public.credit_packs": {"shared": "slug = 'starter'"},
    "public.credit_purchases": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.credit_transactions": {
        "owner": "account_id = %(owner_account)s",
        "organization": "account_id = %(organization_account)s",
    },
    "public.document_chunks": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.documentation_chunks": {
        "organization": "library_version_id = %(organization_version)s",
        "shared": "library_version_id = %(version)s",
    },
    # That of the organization is its founder's.
    "public.documents": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.generated_images": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.image_analysis": {
        "owner": "image_id in (select i.id from public.generated_images as i"
        " where i.user_id = %(owner)s)",
        "organization": "image_id in (select i.id from public.generated_images as i"
        " where i.organization_id = %(organization)s)",
    },
    "public.image_generations": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.invoices": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.libraries": {
        "organization": "id = %(organization_library)s",
        "shared": "id = %(library)s",
    },
    "public.library_versions": {
        "organization": "id = %(organization_version)s",
        "shared": "id = %(version)s",
    },
    "public.messages": {
        "owner": "conversation_id = %(owner_conversation)s",
        "organization": "conversation_id = %(organization_conversation)s",
    },
    "public.model_providers": {"shared": "slug = 'quernel'"},
    "public.models": {"shared": "id = %(model)s"},
    "public.organization_invitations": {"organization": "id = %(invitation)s"},
    "public.organization_members": {
        "organization": "organization_id = %(organization)s and user_id = %(founder)s"
    },
    "public.organizations": {"organization": "id = %(organization)s"},
    "public.payment_methods": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.payments": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.plans": {"shared": "slug = 'pro'"},
    "public.profiles": {"owner": "id = %(owner)s", "organization": "id = %(founder)s"},
    "public.prompt_suggestions": {
        "owner": "user_id = %(owner)s",
        "organization": "user_id = %(founder)s",
    },
    "public.provider_key_uses": {
        "owner": "provider_key_id = %(owner_provider_key)s",
        "organization": "provider_key_id = %(organization_provider_key)s",
    },
    "public.provider_keys": {
        "owner": "id = %(owner_provider_key)s",
        "organization": "id = %(organization_provider_key)s",
    },
    "public.subscriptions": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.usage_logs": {
        "owner": "user_id = %(owner)s",
        "organization": "organization_id = %(organization)s",
    },
    "public.user_favorites": {"owner": "user_id = %(owner)s"},
    "public.user_model_preferences": {"owner": "user_id = %(owner)s"},
    "public.user_preferences": {"owner": "user_id = %(owner)s"},
    "public.webhook_deliveries": {
        "owner": "endpoint_id = %(owner_endpoint)s",
        "organization": "endpoint_id = %(organization_endpoint)s",
    },
    "public.webhook_endpoints": {
        "owner": "id = %(owner_endpoint)s",
        "organization": "id = %(organization_endpoint)s",
    },
}

MISSING = (
    "{table}: say in tests/security/world.py which of its rows to look at, and make them there"
)


@dataclass(frozen=True)
class World:
    """Ids of everybody and everything; what the predicates of ROWS are filled in with."""

    ids: dict[str, Any]

    def claims(self, actor: str) -> dict[str, Any]:
        """Claims of the access token of `stranger`, `owner`, `member` or `admin`."""
        return {"role": "authenticated", "sub": self.ids[actor], "aud": "authenticated"}


def build(connection: psycopg.Connection) -> World:
    """Make everybody and everything, as the superuser, in the transaction that is open."""
    people = ("stranger", "owner", "founder", "member", "admin")
    ids: dict[str, Any] = {name: _person(connection) for name in people}
    mark = uuid.uuid4().hex
    ids |= {
        "model": MODEL,
        "job": f"job_{mark}",
        "invariant": f"999_{mark}",
        "operator": f"operator {mark}",
        "event": f"evt_{mark}",
        "charge": f"ch_{mark}",
        "price": f"price_{mark}",
    }
    connection.execute(
        "update public.plans set stripe_price_id_monthly = %(price)s, has_api_access = true"
        " where slug = 'pro'",
        ids,
    )
    ids |= _organization(connection, ids, mark)
    for name, user, organization in (
        ("owner", ids["owner"], None),
        ("organization", None, ids["organization"]),
    ):
        account = _call(connection, "private.account_id", user, organization)
        ids[f"{name}_account"] = account
        _call(
            connection,
            "backend.credit_grant",
            p_user_id=user,
            p_organization_id=organization,
            p_amount=1000,
            p_source="promotional",
            p_idempotency_key=mark,
            p_actor=ids["operator"],
        )
        _work(connection, user or ids["founder"], organization, str(ids[name]))
        subscribe(connection, user or ids["founder"], organization, ids["price"])
        _as(connection, user or ids["founder"])
        _call(connection, "public.set_auto_top_up", 1, "starter", p_organization_id=organization)
        ids[f"{name}_key"] = _call(
            connection, "public.create_api_key", "a program", p_organization_id=organization
        )["id"]
        _as(connection, None)
        ids[f"{name}_endpoint"] = _call(
            connection,
            "backend.webhook_endpoint_create",
            p_user_id=user or ids["founder"],
            p_url="https://hooks.quernel.test/",
            p_organization=organization,
        )["id"]
        ids[f"{name}_provider_key"] = _bring(connection, user or ids["founder"], organization)
        _draw(connection, user or ids["founder"], organization)
        connection.execute(
            "insert into private.erasures (user_id, requested_by, due_at, state, cancelled_at)"
            " values (%s, 'person', now(), 'cancelled', now())",
            [user or ids["founder"]],
        )
        _call(connection, "private.pseudonym", user or ids["founder"])
        put_in(connection, user or ids["founder"], organization)
        connection.execute(
            "insert into private.ad_rewards (transaction_id, user_id, ad_unit, credits)"
            " values (%s, %s, 'unit', 1)",
            [f"{mark} {name}", user or ids["founder"]],
        )
        ids[f"{name}_conversation"] = _talk(connection, user or ids["founder"], organization)
        _call(connection, "private.notify", user, organization, "receipt", Jsonb({}), mark)
        _call(connection, "private.raise_alert", user, organization, "low_balance", mark, 50, 49)
    ids["library"], ids["version"] = shelve(connection, f"/v{mark}/docs", ids["owner"])
    ids["organization_library"], ids["organization_version"] = shelve(
        connection, f"/{ids['slug']}/docs", ids["founder"], ids["slug"]
    )
    _reckon(connection, ids["founder"])
    _call(connection, "backend.cron_claim", Jsonb({ids["job"]: 3600}), "worker", 60)
    connection.execute(
        "insert into private.invariants (name, says, mend, query, proved_at)"
        " values (%s, 'A test.', 'Nothing.', 'select 1 as subject, null::jsonb as detail', now())",
        [ids["invariant"]],
    )
    _call(connection, "backend.invariants_prove", 1, ids["invariant"])
    event = {
        "object": "event",
        "id": ids["event"],
        "type": "quernel.unknown",
        "created": 1,
        "livemode": False,
        "data": {"object": {}},
    }
    _call(connection, "backend.stripe_event_receive", Jsonb(event), False)
    _call(connection, "backend.stripe_reconcile_start", "event")
    _call(connection, "private.stripe_lock_object", "charge", ids["charge"])
    connection.execute(
        "insert into public.user_preferences (user_id, preference_type, preference_value)"
        " values (%(owner)s, 'ui_preferences', '{}')",
        ids,
    )
    connection.execute(
        "insert into public.user_model_preferences (user_id, model_id)"
        " values (%(owner)s, %(model)s) on conflict do nothing",
        ids,
    )
    return World(ids)


def _person(connection: psycopg.Connection) -> str:
    identity = str(uuid.uuid4())
    connection.execute(
        "insert into auth.users (id, email, email_confirmed_at, raw_app_meta_data)"
        ' values (%s, %s, now(), \'{"provider": "email"}\')',
        [identity, f"{identity}@example.com"],
    )
    return identity


def _as(connection: psycopg.Connection, user: str | None) -> None:
    """Act as somebody for the rest of the transaction, or as nobody."""
    claims = json.dumps({"role": "authenticated", "sub": user}) if user else ""
    connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])


def _organization(connection: psycopg.Connection, ids: dict[str, Any], mark: str) -> dict[str, str]:
    _as(connection, ids["founder"])
    made = _call(connection, "public.create_organization", "A team", f"team-{mark[:16]}")
    organization = made["id"]
    connection.execute(
        "update public.organizations set plan_id = (select id from public.plans"
        " where slug = 'business') where id = %s",
        [organization],
    )
    for name in ("member", "admin"):
        connection.execute(
            "insert into public.organization_members (organization_id, user_id, role)"
            " values (%s, %s, %s)",
            [organization, ids[name], name],
        )
    invitation = _call(
        connection, "public.invite_member", organization, f"{mark}@example.com", "member"
    )
    _as(connection, None)
    return {"organization": organization, "invitation": invitation["id"], "slug": made["slug"]}


def _work(connection: psycopg.Connection, user: str, organization: str | None, key: str) -> None:
    """A completion that was paid, a hold in flight with its task, and a checkout that began."""
    started = _call(
        connection,
        "backend.chat_start",
        p_user_id=user,
        p_request_id=uuid.uuid4(),
        p_model=MODEL,
        p_prompt_tokens=100,
        p_organization=organization,
        p_idempotency_key=key,
        p_fingerprint=key,
    )
    _call(connection, "backend.chat_finish", started["hold_id"], 100, 50)
    held = _call(connection, "backend.credit_hold", user, organization, 1, key, "chat")
    _call(
        connection,
        "private.task_enqueue",
        p_kind="probe",
        p_payload=Jsonb({}),
        p_key=key,
        p_hold_id=held["hold_id"],
    )
    _call(connection, "backend.billing_request", user)
    _call(connection, "backend.checkout_start", user, "starter", organization)


def _bring(connection: psycopg.Connection, user: str, organization: str | None) -> str:
    """A provider key, after the provider was asked about it; its id."""
    _call(connection, "backend.provider_key_prepare", user, "openai", p_organization=organization)
    sealed = {
        "kid": "probe",
        "wrapped_key": base64.b64encode(bytes(60)).decode(),
        "nonce": base64.b64encode(bytes(12)).decode(),
        "ciphertext": base64.b64encode(bytes(60)).decode(),
    }
    key_id = str(uuid.uuid4())
    _call(
        connection,
        "backend.provider_key_add",
        p_user_id=user,
        p_id=key_id,
        p_provider="openai",
        p_name="a key",
        p_last_four="abcd",
        p_sealed=Jsonb(sealed),
        p_outcome="completed",
        p_organization=organization,
    )
    return key_id


def _talk(connection: psycopg.Connection, user: str, organization: str | None) -> str:
    """An agent, and a conversation with it, shared where it is an organization's; its id."""
    agent = _call(
        connection,
        "backend.agent_create",
        Jsonb({"name": "Agent", "system_prompt": "secret"}),
        p_user_id=user,
        p_organization=organization,
    )
    conversation = _call(
        connection,
        "backend.conversation_create",
        Jsonb({"agent_id": agent["id"], "is_shared": organization is not None}),
        p_user_id=user,
        p_organization=organization,
    )
    started = _call(
        connection,
        "backend.message_start",
        uuid.uuid4(),
        conversation["id"],
        p_user_id=user,
        p_content="hello",
    )
    _call(
        connection,
        "backend.message_finish",
        started["hold_id"],
        10,
        10,
        p_answer=Jsonb({"content": "hello yourself"}),
    )
    found: str = conversation["id"]
    return found


def _draw(connection: psycopg.Connection, user: str, organization: str | None) -> None:
    """A generation with an image, which its owner marks, and what is suggested from it."""
    started = _call(
        connection,
        "backend.image_start",
        Jsonb({"model_id": "flux-schnell", "prompt": "a lighthouse"}),
        p_user_id=user,
        p_organization=organization,
    )
    generation_id = started["generation"]["id"]
    job = _call(connection, "backend.image_begin", generation_id, "http://127.0.0.1")
    image = {"width": 8, "height": 8, "format": "png", "size_bytes": 100}
    _call(
        connection,
        "backend.image_finish",
        generation_id,
        Jsonb([image | {"path": f"{job['folder']}/0.png"}]),
        "platform",
    )
    connection.execute(
        "select backend.image_analysed(i.id,"
        ' \'[{"type": "color", "version": "1", "raw": {}}]\')'
        " from public.generated_images as i where i.generation_id = %s",
        [generation_id],
    )
    # As after its worker is done: a copy of the row may be asked for again.
    connection.execute("delete from private.tasks where key = %s", [generation_id])
    connection.execute(
        "insert into public.user_favorites (user_id, image_id)"
        " select i.user_id, i.id from public.generated_images as i where i.generation_id = %s",
        [generation_id],
    )
    _as(connection, user)
    assert len(_call(connection, "public.suggest_prompts")) == 1
    _as(connection, None)


def shelve(
    connection: psycopg.Connection, library_id: str, user: str, organization: str | None = None
) -> tuple[str, str]:
    """A library with a chunk that somebody asked for: ids of the library and its version."""
    who = {"p_user_id": user, "p_organization": organization} if organization else {}
    _call(
        connection,
        "backend.library_add",
        library_id,
        "Docs",
        "git",
        **(who or {"p_actor": "operator"}),
    )
    begun = _call(connection, "backend.library_version_begin", library_id, "1.0", "probe", 1)
    version = begun["version_id"]
    chunk = {
        "chunk_index": 0,
        "source_path": "a.md",
        "content": "a lighthouse",
        "type": "guide",
        "token_count": 3,
    }
    _call(connection, "backend.library_chunks_put", version, 1, Jsonb([chunk]))
    connection.execute(
        "select backend.library_embeddings_put(c.library_version_id, 'probe',"
        " jsonb_build_array(jsonb_build_object('id', c.id, 'embedding', '[1]'::jsonb)))"
        " from public.documentation_chunks as c where c.library_version_id = %s",
        [version],
    )
    _call(connection, "backend.library_version_finish", version, 1)
    _call(
        connection,
        "backend.library_query",
        "lighthouse",
        library_id,
        p_embedding=Jsonb([1]),
        p_embedding_model="probe",
        p_user_id=user,
    )
    return library_id, version


def put_in(connection: psycopg.Connection, user: str, organization: str | None) -> None:
    """A document with a chunk; its file was never uploaded."""
    values = {"original_filename": "a.txt", "mime_type": "text/plain", "file_size": 1}
    made = _call(
        connection,
        "backend.document_add",
        Jsonb(values),
        p_user_id=user,
        p_organization=organization,
    )
    connection.execute(
        "update public.documents set state = 'queued' where id = %s",
        [made["id"]],
    )
    _call(connection, "backend.document_begin", made["id"])
    chunk = {"chunk_index": 0, "content": "a lighthouse", "token_count": 3}
    _call(connection, "backend.document_chunks_put", made["id"], Jsonb([chunk]))
    _call(connection, "backend.document_finish", made["id"])


def _reckon(connection: psycopg.Connection, user: str) -> None:
    """A trend, and what people have drawn."""
    connection.execute("update private.settings set value = '1' where name = 'trends_min_users'")
    connection.execute(
        "insert into public.generated_images (user_id, storage_path, width, height, format,"
        " size_bytes, is_public, vision_labels)"
        " select %s, 'trend/' || n, 8, 8, 'png', 9, true, '{lighthouse}'"
        " from generate_series(1, 6) as n",
        [user],
    )
    connection.execute("delete from private.insight_refreshes")
    _call(connection, "backend.insights_refresh")


def subscribe(
    connection: psycopg.Connection, user: str, organization: str | None, price: str
) -> None:
    """A subscription with its invoice, payment and card, as Stripe tells of them."""
    stripe = BillingWorld()
    stripe.recurring_price(price, 2900, "eur", "month")
    customer = stripe.customer()["id"]
    claim = _call(connection, "backend.customer_claim", user, organization)
    _call(connection, "backend.customer_attach", claim["claim_id"], customer)
    checkout = _call(
        connection, "backend.subscription_checkout_start", user, "pro", "month", organization
    )
    session = stripe.session(
        "",
        {
            "mode": "subscription",
            "customer": customer,
            "line_items": [{"price": price}],
            "subscription_data": {"metadata": {"quernel_checkout_id": checkout["id"]}},
            "success_url": "",
        },
    )
    session = stripe.subscribe(session["id"])
    for event in stripe.story_of(session["subscription"]):
        answer = _call(connection, "backend.stripe_event_receive", Jsonb(event), False)
        assert answer["result"] == "applied", connection.execute(
            "select last_error from private.stripe_events where id = %s", [event["id"]]
        ).fetchone()


def _call(connection: psycopg.Connection, function: str, *values: Any, **named: Any) -> Any:
    marks = ["%s"] * len(values) + [f"{name} => %s" for name in named]
    row = connection.execute(
        f"select {function}({', '.join(marks)})".encode(),
        [*values, *named.values()],
    ).fetchone()
    assert row is not None
    return row[0]
