"""Preferences: one small JSON object per person and topic."""

from __future__ import annotations

import json

import psycopg
import pytest

INSERT = (
    "insert into public.user_preferences (preference_type, preference_value) values (%s, %s::jsonb)"
)


@pytest.mark.parametrize(
    ("kind", "value", "constraint"),
    [
        ("secrets", "{}", "preference_type_is_known"),
        ("ui_preferences", "[]", "preference_value_is_an_object"),
        ("ui_preferences", '"text"', "preference_value_is_an_object"),
        ("ui_preferences", json.dumps({"a": "x" * 16384}), "preference_value_is_small"),
    ],
    ids=["unknown topic", "array", "string", "too big"],
)
def test_a_bad_preference_is_refused(new_person, kind, value, constraint):
    with pytest.raises(psycopg.errors.CheckViolation) as info:
        new_person().execute(INSERT, kind, value)
    assert info.value.diag.constraint_name == constraint


def test_there_is_one_document_per_topic(new_person):
    person = new_person()
    person.execute(INSERT, "ui_preferences", "{}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        person.execute(INSERT, "ui_preferences", "{}")


def test_nobody_saves_preferences_for_another(new_person):
    person, other = new_person(), new_person()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(
            "insert into public.user_preferences (user_id, preference_type, preference_value)"
            " values (%s, 'ui_preferences', '{}')",
            other.id,
        )
    assert other.rows("select * from public.user_preferences") == []


def test_nobody_gives_their_preferences_to_another(new_person):
    person, other = new_person(), new_person()
    person.execute(INSERT, "ui_preferences", "{}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute("update public.user_preferences set user_id = %s", other.id)


def test_nobody_touches_anothers_preferences(new_person):
    person, other = new_person(), new_person()
    other.execute(INSERT, "ui_preferences", '{"a": 1}')
    assert person.rows("select * from public.user_preferences") == []
    assert person.execute("update public.user_preferences set preference_value = '{}'") == 0
    assert person.execute("delete from public.user_preferences") == 0
    [row] = other.rows("select * from public.user_preferences")
    assert row["preference_value"] == {"a": 1}


def test_a_visitor_reads_no_preferences(as_role):
    with as_role("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select * from public.user_preferences")


def test_a_suspended_person_saves_nothing(new_person, db):
    person = new_person()
    db().execute("update public.profiles set is_active = false where id = %s", [person.id])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(INSERT, "ui_preferences", "{}")


def test_the_client_library_saves_the_same_topic_again(new_user):
    user = new_user()
    for density in ("compact", "roomy"):
        user.client.table("user_preferences").upsert(
            {
                "user_id": user.id,
                "preference_type": "ui_preferences",
                "preference_value": {"density": density},
            },
            on_conflict="user_id,preference_type",
        ).execute()
    [row] = user.client.table("user_preferences").select("*").execute().data
    assert row["preference_value"] == {"density": "roomy"}


def test_a_person_deletes_their_preferences(new_person):
    person = new_person()
    person.execute(INSERT, "ui_preferences", "{}")
    assert person.execute("delete from public.user_preferences") == 1
