"""People who have signed up through Supabase Auth, and what they need to act."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import httpx
import jwt
import psycopg

import supabase
from local.stack import Stack

PASSWORD = "correct horse battery staple"
TOKEN_SECONDS = 3600

# Of these tables a sign-up leaves rows: which column names the person.
_TABLES = {"users": "id", "identities": "user_id", "sessions": "user_id"}


@dataclass
class User:
    """Somebody who has signed up."""

    id: str
    email: str
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    url: str
    publishable_key: str

    @property
    def headers(self) -> dict[str, str]:
        """For the functions app."""
        return {"Authorization": f"Bearer {self.token}"}

    @cached_property
    def client(self) -> supabase.Client:
        """A signed-in supabase-py client."""
        client = supabase.create_client(self.url, self.publishable_key)
        client.auth.set_session(self.token, self.refresh_token)
        return client

    def rest(self) -> httpx.Client:
        """The REST API as this user; the caller closes it."""
        return httpx.Client(
            base_url=f"{self.url}/rest/v1",
            headers={"apikey": self.publishable_key} | self.headers,
            trust_env=False,
        )


NewUser = Callable[..., User]


class SignUps:
    """Signs people up."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._client = httpx.Client(
            base_url=stack.supabase_url,
            headers={"apikey": stack.keys.publishable_key},
            trust_env=False,
            timeout=30,
        )
        self._database = psycopg.connect(stack.admin_dsn, autocommit=True)
        self._model: User | None = None
        self._copies: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._database.close()

    def new_user(self, email: str | None = None, **data: Any) -> User:
        """Somebody with a verified address, signed in.

        Whoever brings an address or data signs up through the gateway. The others are copies of one
        who did: hashing a password takes longer than most tests.
        """
        if email or data:
            return self._sign_up(email or _address(), data)
        if self._model is None:
            self._model = self._sign_up(_address(), {})  # nobody's, so that it stays as it is
            self._copies = [self._copy_statement(table) for table in _TABLES]
        return self._copy(self._model, _address())

    def _sign_up(self, email: str, data: dict[str, Any]) -> User:
        answer = self._client.post(
            "/auth/v1/signup", json={"email": email, "password": PASSWORD, "data": data}
        )
        assert answer.status_code == 200, answer.text
        session = answer.json()
        return self._user(
            session["user"]["id"], email, session["access_token"], session["refresh_token"]
        )

    def _copy(self, model: User, email: str) -> User:
        claims = jwt.decode(model.token, options={"verify_signature": False})
        now = int(time.time())
        new = {"sub": str(uuid.uuid4()), "session_id": str(uuid.uuid4()), "email": email}
        parameters = {f"old_{name}": claims[name] for name in new} | new
        for statement in self._copies:
            self._database.execute(statement, parameters)
        token = jwt.encode(
            claims | new | {"iat": now, "exp": now + TOKEN_SECONDS},
            self._stack.keys.jwt_secret,
            algorithm="HS256",
        )
        return self._user(new["sub"], email, token, "none")

    def _copy_statement(self, table: str) -> bytes:
        """The model's row of a table, with other ids and another address."""
        rows = self._database.execute(
            "select column_name from information_schema.columns where table_schema = 'auth'"
            " and table_name = %s and is_generated = 'NEVER' order by ordinal_position",
            [table],
        ).fetchall()
        names = ", ".join(f'"{name}"' for (name,) in rows)
        own = "|| jsonb_build_object('id', gen_random_uuid())" if table == "identities" else ""
        # Text for text: an id or an address is nowhere part of another word of these rows.
        return (
            f"insert into auth.{table} ({names}) select {names} from jsonb_populate_record("  # noqa: S608
            f"null::auth.{table}, (select replace(replace(replace(to_jsonb(t)::text,"
            " %(old_sub)s, %(sub)s), %(old_session_id)s, %(session_id)s), %(old_email)s, %(email)s)"
            f"::jsonb {own} from auth.{table} as t where t.{_TABLES[table]}::text = %(old_sub)s))"
        ).encode()

    def _user(self, id_: str, email: str, token: str, refresh_token: str) -> User:
        url, key = self._stack.supabase_url, self._stack.keys.publishable_key
        return User(id_, email, token, refresh_token, url, key)


def _address() -> str:
    return f"user-{uuid.uuid4().hex[:12]}@example.com"
