"""The price list: public to read, the operator's to write, never negative."""

from __future__ import annotations

import uuid
from decimal import Decimal

import httpx
import psycopg
import pytest

from tests.support.people import call, refused
from tests.support.service import ServiceError

DEFAULT = "Qwen2.5-32B-Instruct-AWQ"


def model(kind="image", **changes):
    """A new model that nothing else in the run uses; not of kind chat unless asked."""
    fields = {
        "id": f"test-{uuid.uuid4().hex[:12]}",
        "provider": "quernel",
        "name": "Test",
        "kind": kind,
        "is_active": True,
    }
    if kind == "chat":
        fields |= {
            "context_length": 1000,
            "max_output_tokens": 500,
            "default_output_tokens": 100,
            "prompt_price": 10,
            "cached_prompt_price": 5,
            "completion_price": 20,
        }
    return fields | changes


def stored(db, model_id):
    row = db().execute("select to_jsonb(m) from public.models as m where id = %s", [model_id])
    found = row.fetchone()
    return found and found[0]


def upsert(service, fields):
    return service.rpc("model_upsert", p_model=fields, p_actor="ops")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize("table", ["models", "model_providers"])
@pytest.mark.parametrize("verb", ["insert", "update", "delete"])
def test_nobody_writes_the_tables(as_role, new_person, role, table, verb):
    person = new_person()
    statement = {
        "insert": f"insert into public.{table} default values",
        "update": f"update public.{table} set name = 'Mine'",  # noqa: S608
        "delete": f"delete from public.{table}",  # noqa: S608
    }[verb]
    with (
        as_role(role, {"sub": person.id}) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_clients_cannot_call_the_operators_function(as_role, new_person, role):
    person = new_person()
    with (
        as_role(role, {"sub": person.id}) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        call(connection, "backend.model_upsert", p_model=model(), p_actor="me")


PRICES = ["prompt_price", "cached_prompt_price", "completion_price", "credits_cost"]


@pytest.mark.parametrize("price", PRICES)
def test_a_negative_price_is_refused(service, db, price):
    fields = model("chat", **{price: Decimal("-0.000001")})
    fields[price] = -0.000001
    with pytest.raises(ServiceError) as info:
        upsert(service, fields)
    assert (info.value.status, info.value.code) == (400, "invalid_argument")
    assert info.value.facts == {"param": price}
    assert stored(db, fields["id"]) is None


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("amount", ["-1", "NaN"])
def test_not_even_the_owner_of_the_table_stores_a_price_that_is_none(db, price, amount):
    connection = db()
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            f"update public.models set {price} = %s where id = %s",  # noqa: S608
            [Decimal(amount), DEFAULT],
        )


@pytest.mark.parametrize("price", PRICES[:3])
def test_a_chat_model_without_a_price_is_refused(service, db, price):
    fields = model("chat", **{price: None})
    with pytest.raises(ServiceError) as info:
        upsert(service, fields)
    assert info.value.facts == {"constraint": "a_chat_model_has_prices_and_lengths"}
    assert stored(db, fields["id"]) is None


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"id": 7}, {"param": "id"}),
        ({"id": "two words"}, {"constraint": "id_is_a_plain_name"}),
        ({"owner": "me"}, {"param": "owner"}),
        ({"created_at": "2020-01-01"}, {"param": "created_at"}),
        ({"provider": "nobody"}, {"param": "provider"}),
        ({"provider": None}, {"param": "provider"}),
        ({"name": None}, {"param": "name"}),
        ({"kind": "mind-reading"}, {"constraint": "kind_is_known"}),
        ({"prompt_price": "NaN"}, {"param": "prompt_price"}),
        ({"prompt_price": 1e30}, {}),
        (
            {"prompt_price": 1, "cached_prompt_price": 2},
            {"constraint": "cached_prompt_price_is_no_surcharge"},
        ),
        ({"context_length": 0}, {"constraint": "lengths_are_positive"}),
        (
            {"context_length": 10, "max_output_tokens": 11},
            {"constraint": "default_output_fits_maximum_output_fits_context"},
        ),
        ({"is_active": "perhaps"}, {}),
        ({"is_default": True, "is_active": False}, {"constraint": "a_default_model_is_active"}),
        ({"metadata": []}, {"constraint": "metadata_is_a_small_object"}),
        ({"capabilities": {"a": "x" * 16384}}, {"constraint": "capabilities_are_a_small_object"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_malformed_model_is_refused(service, changes, facts):
    with pytest.raises(ServiceError) as info:
        upsert(service, model(**changes))
    assert (info.value.status, info.value.code) == (400, "invalid_argument")
    assert info.value.facts == facts


@pytest.mark.parametrize("value", [None, [], 7])
def test_what_is_no_object_is_refused(service, value):
    with pytest.raises(ServiceError) as info:
        upsert(service, value)
    assert (info.value.status, info.value.code) == (400, "invalid_argument")


def test_a_change_without_an_actor_is_refused(service, db):
    fields = model()
    with pytest.raises(ServiceError) as info:
        service.rpc("model_upsert", p_model=fields, p_actor=" ")
    assert info.value.facts == {"param": "p_actor"}
    assert stored(db, fields["id"]) is None


@pytest.mark.parametrize(
    "change", [{"is_default": False}, {"is_active": False}, {"kind": "image"}], ids=str
)
def test_the_default_chat_model_cannot_just_go(service, change):
    with pytest.raises(ServiceError) as info:
        upsert(service, {"id": DEFAULT} | change)
    assert (info.value.status, info.value.code) == (409, "default_model_required")


def test_a_second_default_of_a_kind_cannot_be_stored(db):
    with pytest.raises(psycopg.errors.UniqueViolation):
        db().execute("update public.models set is_default = true where kind = 'chat'")


@pytest.mark.parametrize(
    ("model_id", "kind"),
    [
        ("no-such-model", "chat"),
        (DEFAULT, "image"),
        (None, "chat"),
        (DEFAULT, None),
        ("x" * 500, "chat"),
    ],
)
def test_a_model_that_is_not_on_offer_has_no_price(db, model_id, kind):
    with refused("model_not_found", 404) as caught:
        call(db(), "private.model_price", p_model_id=model_id, p_kind=kind)
    assert caught[0].facts == {"param": "model"}


def test_an_inactive_model_has_no_price(service, db):
    fields = upsert(service, model("image", is_active=False))
    with refused("model_not_found", 404):
        call(db(), "private.model_price", p_model_id=fields["id"], p_kind="image")


def test_a_model_of_an_inactive_provider_has_no_price(service, db):
    fields, connection = upsert(service, model("image")), db()
    with connection.transaction(force_rollback=True):
        connection.execute("update public.model_providers set is_active = false")
        with refused("model_not_found", 404):
            call(connection, "private.model_price", p_model_id=fields["id"], p_kind="image")


def test_a_suspended_person_reads_no_catalog(new_person, db):
    person = new_person()
    db().execute("update public.profiles set is_active = false where id = %s", [person.id])
    assert person.rows("select id from public.models") == []


def test_a_visitor_does_not_see_what_is_inactive(service, as_role):
    fields = upsert(service, model(is_active=False))
    with as_role("anon") as connection:
        row = connection.execute("select 1 from public.models where id = %s", [fields["id"]])
        assert row.fetchone() is None


def test_a_visitor_reads_the_price_list_through_the_api(stack):
    answer = httpx.get(
        f"{stack.supabase_url}/rest/v1/models",
        params={
            "id": f"eq.{DEFAULT}",
            "select": "prompt_price,context_length,max_output_tokens",
        },
        headers={"apikey": stack.keys.publishable_key},
        trust_env=False,
    )
    assert answer.status_code == 200
    [row] = answer.json()
    assert Decimal(str(row["prompt_price"])) == 60
    assert (row["context_length"], row["max_output_tokens"]) == (32768, 8192)


def test_a_person_also_sees_retired_models(service, new_person):
    fields = upsert(service, model(is_active=False))
    rows = new_person().rows("select is_active from public.models where id = %s", fields["id"])
    assert [row["is_active"] for row in rows] == [False]


def test_one_chat_model_is_the_default(db):
    rows = db().execute("select id from public.models where kind = 'chat' and is_default")
    assert rows.fetchall() == [(DEFAULT,)]


def test_the_price_of_a_model_on_offer_is_its_row(db):
    row = db().execute(
        "select id, prompt_price, completion_price from private.model_price(%s, 'chat')", [DEFAULT]
    )
    assert row.fetchone() == (DEFAULT, 60, 180)


def test_a_new_model_gets_the_usual_values(service):
    answer = upsert(service, model())
    assert answer["upstream_model"] == answer["id"]
    assert (answer["credits_cost"], answer["is_default"], answer["capabilities"]) == (0, False, {})


def test_a_change_touches_only_what_it_names(service):
    before = upsert(service, model("chat", is_active=False))
    after = upsert(service, {"id": before["id"], "prompt_price": 12.5})
    assert after["prompt_price"] == Decimal("12.5")
    untouched = {"prompt_price", "updated_at"}
    assert {k: v for k, v in after.items() if k not in untouched} == {
        k: v for k, v in before.items() if k not in untouched
    }


def test_a_new_default_takes_over_from_the_old(service, db):
    old = upsert(service, model("vision", is_default=True))
    new = upsert(service, model("vision", is_default=True))
    assert stored(db, old["id"])["is_default"] is False
    assert stored(db, new["id"])["is_default"] is True


def test_every_change_is_written_down(service, db):
    created = upsert(service, model())
    upsert(service, {"id": created["id"], "credits_cost": 3})
    rows = db().execute(
        "select actor, action, before ->> 'credits_cost', after ->> 'credits_cost'"
        " from private.operator_actions where subject = %s order by id",
        [f"model:{created['id']}"],
    )
    assert rows.fetchall() == [
        ("ops", "model_upsert", None, "0.000000"),
        ("ops", "model_upsert", "0.000000", "3.000000"),
    ]
