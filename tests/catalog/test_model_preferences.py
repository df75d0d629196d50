"""What people prefer among models: their own rows, with counters they cannot write."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.support.people import call

MODEL = "Qwen2.5-32B-Instruct-AWQ"
INSERT = "insert into public.user_model_preferences (model_id, is_favorite) values (%s, true)"


@pytest.mark.parametrize(
    "assignment",
    ["use_count = 0", "last_used_at = now()", "created_at = now()", "updated_at = now()"],
)
def test_a_client_cannot_write_the_counters(new_person, assignment):
    person = new_person()
    person.execute(INSERT, MODEL)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(f"update public.user_model_preferences set {assignment}")  # noqa: S608


def test_nobody_saves_a_preference_for_another(new_person):
    person, other = new_person(), new_person()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(
            "insert into public.user_model_preferences (user_id, model_id) values (%s, %s)",
            other.id,
            MODEL,
        )


def test_nobody_touches_anothers_preferences(new_person):
    person, other = new_person(), new_person()
    other.execute(INSERT, MODEL)
    assert person.rows("select * from public.user_model_preferences") == []
    assert person.execute("update public.user_model_preferences set is_favorite = false") == 0
    assert person.execute("delete from public.user_model_preferences") == 0
    [row] = other.rows("select * from public.user_model_preferences")
    assert row["is_favorite"] is True


def test_a_visitor_reads_no_preferences(as_role):
    with as_role("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select * from public.user_model_preferences")


def test_an_unknown_model_is_refused(new_person):
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        new_person().execute(INSERT, "no-such-model")


@pytest.mark.parametrize("settings", [[], {"a": "x" * 16384}], ids=["array", "too big"])
def test_bad_settings_are_refused(new_person, settings):
    person = new_person()
    person.execute(INSERT, MODEL)
    with pytest.raises(psycopg.errors.CheckViolation) as info:
        person.execute(
            "update public.user_model_preferences set default_settings = %s::jsonb",
            json.dumps(settings),
        )
    assert info.value.diag.constraint_name == "default_settings_are_a_small_object"


def test_clients_cannot_count_uses(new_person):
    person = new_person()
    with person.transaction() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        call(connection, "private.note_model_use", p_user_id=person.id, p_model_id=MODEL)


def test_the_client_library_saves_a_preference_again(new_user):
    user = new_user()
    for temperature in (0.2, 0.9):
        user.client.table("user_model_preferences").upsert(
            {
                "user_id": user.id,
                "model_id": MODEL,
                "is_favorite": True,
                "default_settings": {"temperature": temperature},
            },
            on_conflict="user_id,model_id",
        ).execute()
    [row] = user.client.table("user_model_preferences").select("*").execute().data
    assert (row["is_favorite"], row["default_settings"]) == (True, {"temperature": 0.9})


def test_uses_are_counted_beside_what_the_person_saved(new_person, db):
    person = new_person()
    person.execute(INSERT, MODEL)
    for _ in range(2):
        call(db(), "private.note_model_use", p_user_id=person.id, p_model_id=MODEL)
    [row] = person.rows("select * from public.user_model_preferences")
    assert (row["use_count"], row["is_favorite"]) == (2, True)
    assert row["last_used_at"] is not None
