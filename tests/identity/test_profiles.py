"""Profiles: clients change how they look and what they prefer, and nothing else."""

from __future__ import annotations

import psycopg
import pytest

PROTECTED = {
    "id": "gen_random_uuid()",
    "email": "'boss@example.com'",
    "is_active": "true",
    "is_admin": "true",
    "auth_provider": "'google'",
    "auth_provider_id": "'1'",
    "email_verified_at": "now()",
    "last_sign_in_at": "now()",
    "total_generations": "0",
    "ads_watched_today": "0",
    "daily_ads_limit": "1000",
    "ads_credits_earned": "1000",
    "plan_id": "(select id from public.plans where slug = 'enterprise')",
    "plan_expires_at": "'infinity'",
    "subscription_tier": "'enterprise'",
    "subscription_status": "'active'",
    "stripe_customer_id": "'cus_somebody_else'",
    "created_at": "'-infinity'",
}


@pytest.mark.parametrize("column", PROTECTED)
def test_a_client_cannot_write_a_protected_column(new_person, db, column):
    person = new_person()
    before = db().execute(f"select {column} from public.profiles where id = %s", [person.id])  # noqa: S608
    before = before.fetchall()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        person.execute(f"update public.profiles set {column} = {PROTECTED[column]}")  # noqa: S608
    after = db().execute(f"select {column} from public.profiles where id = %s", [person.id])  # noqa: S608
    assert after.fetchall() == before


def test_every_column_is_either_protected_or_meant_for_clients(db):
    rows = db().execute(
        "select attname from pg_attribute where attrelid = 'public.profiles'::regclass"
        " and attnum > 0 and not attisdropped"
        " and has_column_privilege('authenticated', attrelid, attnum, 'update')"
    )
    assert {name for (name,) in rows} == {
        "first_name",
        "last_name",
        "full_name",
        "avatar_url",
        "language",
        "theme",
        "notifications_enabled",
        "marketing_emails_enabled",
        "ads_enabled",
        "prompt_suggestions_enabled",
        "ai_safety_level",
    }


def test_a_client_cannot_insert_a_profile(new_person):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        new_person().execute("insert into public.profiles (id) values (gen_random_uuid())")


def test_a_client_cannot_delete_their_profile(new_person):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        new_person().execute("delete from public.profiles")


def test_the_service_role_cannot_write_profiles(as_role, new_person):
    person = new_person()
    with (
        as_role("service_role") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("update public.profiles set is_admin = true where id = %s", [person.id])


def test_a_visitor_cannot_read_profiles(as_role):
    with as_role("anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select * from public.profiles")


def test_a_person_sees_no_profile_but_their_own(new_person):
    person, _stranger = new_person(), new_person()
    assert [str(row["id"]) for row in person.rows("select * from public.profiles")] == [person.id]


def test_a_person_cannot_change_anothers_profile(new_person, db):
    person, stranger = new_person(), new_person()
    changed = person.execute(
        "update public.profiles set full_name = 'Me' where id = %s", stranger.id
    )
    assert changed == 0
    row = db().execute("select full_name from public.profiles where id = %s", [stranger.id])
    assert row.fetchone() == (None,)


def test_a_suspended_person_sees_and_changes_nothing(new_person, db):
    person = new_person()
    db().execute("update public.profiles set is_active = false where id = %s", [person.id])
    assert person.rows("select * from public.profiles") == []
    assert person.execute("update public.profiles set theme = 'light'") == 0


@pytest.mark.parametrize(
    ("assignment", "constraint"),
    [
        ("language = 'xx'", "language_is_known"),
        ("theme = 'neon'", "theme_is_known"),
        ("ai_safety_level = 'off'", "ai_safety_level_is_known"),
        ("avatar_url = 'javascript:alert(1)'", "avatar_url_is_a_web_address"),
        ("avatar_url = 'https://a.example/' || repeat('a', 2048)", "avatar_url_is_a_web_address"),
        ("first_name = repeat('a', 101)", "first_name_is_short"),
        ("full_name = repeat('a', 201)", "full_name_is_short"),
    ],
)
def test_a_bad_preference_is_refused(new_person, assignment, constraint):
    with pytest.raises(psycopg.errors.CheckViolation) as info:
        new_person().execute(f"update public.profiles set {assignment}")  # noqa: S608
    assert info.value.diag.constraint_name == constraint


def test_a_person_changes_how_they_look_through_the_api(new_user):
    user = new_user()
    answer = (
        user.client.table("profiles")
        .update({"full_name": "Ada Lovelace", "theme": "light", "marketing_emails_enabled": True})
        .eq("id", user.id)
        .execute()
    )
    [row] = answer.data
    assert (row["full_name"], row["theme"]) == ("Ada Lovelace", "light")
    assert row["marketing_emails_enabled"] is True


def test_updated_at_follows_a_change(new_person):
    person = new_person()
    person.execute("update public.profiles set theme = 'light'")
    [row] = person.rows("select * from public.profiles")
    assert row["updated_at"] > row["created_at"]


def test_marketing_email_is_off_until_asked_for(new_person):
    [row] = new_person().rows("select * from public.profiles")
    assert row["marketing_emails_enabled"] is False
