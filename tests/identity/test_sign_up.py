"""Sign-up makes a profile whatever the metadata holds, and the profile follows auth."""

from __future__ import annotations

import pytest


def profile(db, person):
    columns = (
        "email, first_name, last_name, full_name, avatar_url, auth_provider, auth_provider_id,"
        " email_verified_at is not null as verified, is_active, is_admin, language, theme"
    )
    cursor = db().execute(f"select {columns} from public.profiles where id = %s", [person.id])  # noqa: S608
    names = [column.name for column in cursor.description]
    return dict(zip(names, cursor.fetchone(), strict=True))


@pytest.mark.parametrize(
    "metadata",
    [
        ["a", "list"],
        "a string",
        17,
        {"full_name": {"first": "Ada"}, "avatar_url": ["https://a.example"], "first_name": 3},
        {"full_name": None, "avatar_url": None, "name": False},
        {"avatar_url": "javascript:alert(1)"},
        {"avatar_url": "https://a.example/" + "a" * 3000},
        {"avatar_url": "https://a.example/with a space"},
        {"full_name": "   ", "name": "\t\n"},
        {"is_admin": True, "is_active": False, "plan_id": "enterprise", "email": "x@example.com"},
    ],
    ids=str,
)
def test_odd_metadata_never_stops_a_sign_up_and_gives_nothing(new_person, db, metadata):
    person = new_person(user_metadata=metadata, app_metadata=metadata)
    row = profile(db, person)
    assert row == {
        "email": person.email,
        "first_name": None,
        "last_name": None,
        "full_name": None,
        "avatar_url": None,
        "auth_provider": "email",
        "auth_provider_id": None,
        "verified": True,
        "is_active": True,
        "is_admin": False,
        "language": "fr",
        "theme": "dark",
    }


def test_a_megabyte_of_name_is_cut(new_person, db):
    person = new_person(user_metadata={"full_name": "é" * 1_000_000, "first_name": "b" * 1_000_000})
    row = profile(db, person)
    assert (row["full_name"], row["first_name"]) == ("é" * 200, "b" * 100)


def test_control_characters_do_not_enter_a_name(new_person, db):
    person = new_person(user_metadata={"full_name": "Ada\r\nBcc: all\u0007\u001b[31m"})
    assert profile(db, person)["full_name"] == "Ada Bcc: all [31m"


def test_the_client_cannot_claim_an_id_at_a_provider(new_person, db):
    person = new_person(user_metadata={"provider_id": "4711", "sub": "4711"})
    assert profile(db, person)["auth_provider_id"] is None


def test_an_account_without_address_gets_a_profile(new_person, db):
    row = profile(db, new_person(email=None, app_metadata={}))
    assert (row["email"], row["verified"], row["auth_provider"]) == (None, False, "anonymous")


def test_two_accounts_may_share_an_address(new_person, db):
    first = new_person()
    db().execute(
        "insert into auth.users (id, email, is_sso_user) values (gen_random_uuid(), %s, true)",
        [first.email],
    )
    count = db().execute("select count(*) from public.profiles where email = %s", [first.email])
    assert count.fetchone() == (2,)


def test_sign_up_through_the_gateway_takes_the_name(new_user, db):
    user = new_user(full_name="Grace Hopper", avatar_url="https://a.example/grace.png")
    row = profile(db, user)
    assert (row["full_name"], row["avatar_url"]) == ("Grace Hopper", "https://a.example/grace.png")
    assert row["verified"] is True


def test_an_outside_provider_gives_names_picture_and_id(new_person, db):
    person = new_person(
        user_metadata={
            "given_name": "Grace",
            "family_name": "Hopper",
            "picture": "https://a.example/g.png",
            "provider_id": "4711",
        },
        app_metadata={"provider": "google"},
    )
    row = profile(db, person)
    assert (row["first_name"], row["last_name"], row["full_name"]) == (
        "Grace",
        "Hopper",
        "Grace Hopper",
    )
    assert row["avatar_url"] == "https://a.example/g.png"
    assert (row["auth_provider"], row["auth_provider_id"]) == ("google", "4711")


def test_the_profile_follows_verification(new_person, db):
    person = new_person(verified=False)
    assert profile(db, person)["verified"] is False
    db().execute("update auth.users set email_confirmed_at = now() where id = %s", [person.id])
    assert profile(db, person)["verified"] is True


def test_the_profile_follows_a_new_address(new_person, db):
    person = new_person()
    db().execute("update auth.users set email = %s where id = %s", ["n" + person.email, person.id])
    assert profile(db, person)["email"] == "n" + person.email


def test_the_profile_follows_sign_ins(new_person, db):
    person = new_person()
    db().execute("update auth.users set last_sign_in_at = now() where id = %s", [person.id])
    row = db().execute(
        "select p.last_sign_in_at = u.last_sign_in_at from public.profiles as p"
        " join auth.users as u on p.id = u.id where u.id = %s",
        [person.id],
    )
    assert row.fetchone() == (True,)


def test_a_sign_in_does_not_undo_what_the_person_changed(new_person, db):
    person = new_person(user_metadata={"full_name": "From sign-up"})
    person.execute("update public.profiles set full_name = 'My own', theme = 'light'")
    db().execute("update auth.users set last_sign_in_at = now() where id = %s", [person.id])
    row = profile(db, person)
    assert (row["full_name"], row["theme"]) == ("My own", "light")


def test_people_from_before_get_their_profile(new_person, db):
    person = new_person(user_metadata={"full_name": "Old hand"})
    connection = db()
    with connection.transaction(force_rollback=True):
        connection.execute("delete from public.profiles where id = %s", [person.id])
        connection.execute(
            "select private.follow_auth_user(u) from auth.users as u where u.id = %s", [person.id]
        )
        row = connection.execute("select full_name from public.profiles where id = %s", [person.id])
        assert row.fetchone() == ("Old hand",)
