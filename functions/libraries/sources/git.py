"""Repositories: the documentation in them, without the rest, and without a working tree.

Asked for is one commit without its files, then the files that are documentation: of a repository of
gigabytes that is a few megabytes. A server that cannot do that sends all files of the commit, as
far as the bound goes. Nothing is checked out: no link, hook, filter or submodule of the repository
has any effect.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from functions.core.http import SafeClient
from functions.libraries.errors import SourceError
from functions.libraries.sources.archives import MAX_FILE_BYTES, MAX_FILES, MAX_KEPT_BYTES
from functions.libraries.sources.files import (
    Skipped,
    SourceFile,
    is_documentation,
    safe_path,
)
from functions.libraries.sources.git_program import Git

MAX_ENTRIES = 500_000
"""Files of a commit that are looked at."""

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PLACES = {
    "github.com": "{repository}/blob/{commit}/{path}",
    "gitlab.com": "{repository}/-/blob/{commit}/{path}",
    "codeberg.org": "{repository}/src/commit/{commit}/{path}",
    "bitbucket.org": "{repository}/src/{commit}/{path}",
}
"""Where forges show a file to people."""


@dataclass(frozen=True)
class Reference:
    """A branch or tag, and the commit that it is at."""

    name: str
    commit: str

    @property
    def version(self) -> str:
        """As a version is named."""
        return re.sub(r"[^A-Za-z0-9._+-]", "-", self.name).lstrip("._+-")[:50] or "HEAD"


class Repository:
    """A repository at an https address; `#name` after it is a branch or a tag."""

    def __init__(self, address: str, http: SafeClient, *, authority: Path | None = None) -> None:
        """`authority`: certificates to trust besides the system's.

        Raises SourceError, and QuernelError `url_refused`.
        """
        url, _, name = address.partition("#")
        http.vet(url)
        if name and (_REFERENCE.fullmatch(name) is None or ".." in name or name.endswith(".lock")):
            raise SourceError("unknown_reference", "This is no name of a branch or a tag.")
        self._url = url.rstrip("/")
        self._wanted = name
        self._git = Git(http, authority)

    async def reference(self) -> Reference:
        """The branch or tag that is wanted, or the default one. Raises SourceError."""
        names = [f"refs/tags/{self._wanted}", f"refs/heads/{self._wanted}"]
        asked = [f"{names[0]}^{{}}", *names] if self._wanted else ["HEAD"]
        with tempfile.TemporaryDirectory(prefix="quernel-git-") as home:
            told = await self._git.run(home, ["ls-remote", "--symref", "--", self._url, *asked])
        found: dict[str, str] = {}
        branch = ""
        for line in told.decode("utf-8", "replace").splitlines():
            commit, _, name = line.partition("\t")
            if commit.startswith("ref: refs/heads/"):
                branch = commit.removeprefix("ref: refs/heads/")
            elif _COMMIT.fullmatch(commit):
                found[name] = commit
        commits = [found[name] for name in asked if name in found]
        if not commits:
            raise SourceError("unknown_reference", "There is no such branch or tag.")
        return Reference(self._wanted or branch or "HEAD", commits[0])

    async def files(self, reference: Reference, skipped: Skipped) -> list[SourceFile]:
        """The documentation at a commit. Raises SourceError."""
        with tempfile.TemporaryDirectory(prefix="quernel-git-") as home:
            return await self._files(home, reference, skipped)

    async def _files(self, home: str, reference: Reference, skipped: Skipped) -> list[SourceFile]:
        await self._git.run(home, ["init", "--quiet", "--bare", "repository"])
        fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head"]
        fetch += ["--recurse-submodules=no", "--no-auto-maintenance"]
        # A commit is asked for by its name: what a branch is at may change meanwhile.
        await self._git.run(
            home, [*fetch, "--filter=blob:none", "--", self._url, reference.commit], "repository"
        )
        # It noted where the files are to be had that it left out, and would fetch them one by one.
        await self._git.run(home, ["init", "--quiet", "--bare", "plain"])
        await asyncio.to_thread(
            shutil.copyfile, f"{home}/plain/config", f"{home}/repository/config"
        )
        listed = await self._git.run(home, ["ls-tree", "-r", "-z", reference.commit], "repository")
        wanted = await asyncio.to_thread(lambda: dict(_entries(listed, skipped)))
        if len(wanted) > MAX_FILES:
            skipped.add("bound_reached", len(wanted) - MAX_FILES)
            wanted = dict(list(wanted.items())[:MAX_FILES])
        names = sorted(set(wanted.values()))
        sizes = await self._sizes(home, names)
        if missing := [name for name in names if name not in sizes]:
            lines = "".join(f"{name}\n" for name in missing)
            fetch.remove("--depth=1")
            await self._git.run(
                home, [*fetch, "--stdin", "--", self._url], "repository", lines.encode()
            )
            sizes = await self._sizes(home, names)
        kept, room = {}, MAX_KEPT_BYTES
        for path, name in wanted.items():
            if name not in sizes:
                skipped.add("unreadable")
            elif sizes[name] > MAX_FILE_BYTES:
                skipped.add("too_large")
            elif sizes[name] > room:
                skipped.add("bound_reached")
            else:
                room -= sizes[name]
                kept[path] = name
        contents = await self._contents(home, sorted(set(kept.values())))
        return [
            SourceFile(path, contents[name], self._place(reference.commit, path))
            for path, name in kept.items()
            if name in contents
        ]

    async def _sizes(self, home: str, names: Sequence[str]) -> dict[str, int]:
        """Of those files that are here."""
        told = await self._git.run(home, ["cat-file", "--batch-check"], "repository", _lines(names))
        rows = (line.split() for line in told.decode("ascii", "replace").splitlines())
        return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[1] == "blob"}

    async def _contents(self, home: str, names: Sequence[str]) -> dict[str, bytes]:
        told = await self._git.run(home, ["cat-file", "--batch"], "repository", _lines(names))
        found, place = {}, 0
        while place < len(told):
            end = told.index(b"\n", place)
            name, _, size = told[place:end].decode("ascii", "replace").partition(" ")
            if not size.startswith("blob "):
                place = end + 1
                continue
            start = end + 1
            place = start + int(size.removeprefix("blob "))
            found[name] = told[start:place]
            place += 1  # a line's end
        return found

    def _place(self, commit: str, path: str) -> str:
        """Where people read the file, if anywhere."""
        template = _PLACES.get(urlsplit(self._url).hostname or "")
        if template is None:
            return ""
        repository = self._url.removesuffix(".git")
        return template.format(repository=repository, commit=commit, path=quote(path))


def _entries(listed: bytes, skipped: Skipped) -> Iterator[tuple[str, str]]:
    """Paths of documentation with the names of their contents."""
    rows = listed.split(b"\0")
    if len(rows) > MAX_ENTRIES:
        skipped.add("too_many_members", len(rows) - MAX_ENTRIES)
    for row in rows[:MAX_ENTRIES]:
        about, _, raw = row.partition(b"\t")
        if not raw:
            continue
        mode, kind, name = about.decode("ascii", "replace").split()
        path = safe_path(raw.decode("utf-8", "replace"))
        if path is None:
            skipped.add("unsafe_name")
        elif kind == "commit":
            skipped.add("submodule")
        elif is_documentation(path):
            if mode == "120000":
                skipped.add("link")
            else:
                yield path, name


def _lines(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()
