"""Teams that own libraries, through the doors that their programs have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from tests.api_keys.conftest import Keys
from tests.conftest import User


@dataclass
class Door:
    """A client of the functions app; without a token it shows none."""

    url: str
    token: str | None = None

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.request(
            method, self.url + path, headers=headers, trust_env=False, timeout=60, **request
        )

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.ask("GET", path, params=params)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return self.ask("POST", path, **({} if body is None else {"json": body}))

    def delete(self, path: str) -> httpx.Response:
        return self.ask("DELETE", path)


@dataclass
class Team:
    """An organization with an owner and a member, and its key."""

    keys: Keys
    url: str
    owner: User
    member: User
    organization_id: str
    slug: str

    @classmethod
    def found(cls, keys: Keys, url: str) -> Team:
        owner, member = keys.person(), keys.person()
        organization_id = keys.organization(owner, member)
        [row] = keys.rows("select slug from public.organizations where id = %s", organization_id)
        return cls(keys, url, owner, member, organization_id, row["slug"])

    @property
    def door(self) -> Door:
        return Door(self.url, self.owner.token)

    @property
    def members_door(self) -> Door:
        return Door(self.url, self.member.token)

    def key(self, **values: Any) -> Door:
        """Its own API key."""
        made = self.keys.make(self.owner, self.organization_id, **values)
        return Door(self.url, made["key"])

    def on_plan(self, plan: str) -> None:
        self.keys.rows(
            "update public.organizations set plan_id = (select id from public.plans where slug ="
            " %s) where id = %s",
            plan,
            self.organization_id,
        )

    def body(self, project: str = "docs", **values: Any) -> dict[str, Any]:
        """Of a library that nobody fetches: no registry is named here."""
        return {
            "library_id": f"/{self.slug}/{project}",
            "title": "Docs",
            "source_kind": "pypi",
            "source_url": "lamp",
            "organization": self.slug,
        } | values

    def archive(self, project: str = "docs") -> dict[str, Any]:
        body = self.body(project, source_kind="archive")
        del body["source_url"]
        return body

    def added(self, project: str = "docs", **values: Any) -> dict[str, Any]:
        answer = self.door.post("/libraries", self.body(project, **values))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())
