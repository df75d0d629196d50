"""Repositories: what is read of them, what has no effect, and what they cannot reach."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from functions.core.addresses import Address
from functions.core.errors import QuernelError
from functions.core.http import Policy, SafeClient
from functions.libraries.errors import SourceError
from functions.libraries.sources import git, git_program
from functions.libraries.sources.files import Skipped
from functions.libraries.sources.git import Repository
from tests.core.tls import Authority
from tests.libraries.git_server import NAME, commit, repository, serve_repositories
from tests.libraries.git_server import git as run_git
from tests.support.http_server import serve

pytestmark = pytest.mark.anyio

FILES = {
    "README.md": b"# Lamp\n",
    "docs/beam.md": b"# Beams\n",
    "docs/oil.rst": b"Oil\n===\n",
    "src/lamp.py": b"x = 1\n",
    "assets/photo.bin": os.urandom(100_000),
}


class Remote:
    """A server of repositories, and a client for which every name is this machine."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.authority = Authority(folder)
        self.trusted = folder / "authority.pem"
        self.trusted.write_bytes(self.authority.certificates)
        self.http = self.client()
        self.url = ""
        self.asked: list[str] = []

    def client(self) -> SafeClient:
        return SafeClient(
            policy=Policy(ports=None, is_allowed_address=lambda one: one.is_loopback),
            resolver=self._here,
        )

    async def _here(self, host: str, port: int) -> list[Address]:  # noqa: ARG002
        return [ip_address("10.0.0.1" if host.startswith("inside.") else "127.0.0.1")]

    def open(self, name: str) -> Repository:
        return Repository(f"{self.url}/{name}", self.http, authority=self.trusted)

    async def read(self, name: str) -> tuple[str, dict[str, bytes], dict[str, int]]:
        """The version, files by path, and what was passed over."""
        opened, skipped = self.open(name), Skipped()
        reference = await opened.reference()
        files = await opened.files(reference, skipped)
        return reference.version, {one.path: one.content for one in files}, skipped.counts


@pytest.fixture(params=[True, False], ids=["filters", "whole"])
async def remote(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Remote]:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "tls").mkdir()
    made = Remote(root, tmp_path / "tls")
    async with serve_repositories(root, made.authority, filters=request.param) as (url, asked):
        made.url, made.asked = url, asked
        yield made
    await made.http.aclose()


async def test_documentation_is_read_and_nothing_else(remote: Remote) -> None:
    repository(remote.root / "lamp", FILES)
    version, files, skipped = await remote.read("lamp")
    assert version == "main"
    assert files == {name: FILES[name] for name in ("README.md", "docs/beam.md", "docs/oil.rst")}
    assert skipped == {}


async def test_a_branch_or_a_tag_can_be_named(remote: Remote) -> None:
    folder = repository(remote.root / "lamp", FILES, branch="trunk")
    run_git(folder, "tag", "--annotate", "--message=one", "v1.0")
    run_git(folder, "checkout", "--quiet", "-b", "release/2.x")
    commit(folder, {"docs/beam.md": b"# New beams\n"})
    run_git(folder, "checkout", "--quiet", "trunk")

    assert (await remote.read("lamp"))[0] == "trunk"
    version, files, _ = await remote.read("lamp#v1.0")
    assert (version, files["docs/beam.md"]) == ("v1.0", b"# Beams\n")
    version, files, _ = await remote.read("lamp#release/2.x")
    assert (version, files["docs/beam.md"]) == ("release-2.x", b"# New beams\n")
    # Of an annotated tag it is the commit that is crawled.
    reference = await remote.open("lamp#v1.0").reference()
    assert reference.commit == run_git(folder, "rev-parse", "v1.0^{commit}")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("lamp#absent", "unknown_reference"),
        ("lamp#--upload-pack=touch /tmp/x", "unknown_reference"),
        ("lamp#a/../b", "unknown_reference"),
        ("nothing", "source_unavailable"),
    ],
    ids=["absent", "option", "dots", "nothing"],
)
async def test_what_is_not_there_is_said(remote: Remote, name: str, code: str) -> None:
    repository(remote.root / "lamp", FILES)
    with pytest.raises(SourceError) as refused:
        await remote.read(name)
    assert refused.value.code == code


async def test_links_modules_and_odd_names_have_no_effect(remote: Remote, tmp_path: Path) -> None:
    folder = repository(remote.root / "lamp", FILES)
    (folder / "docs/secret.md").symlink_to("/etc/passwd")
    (folder / "docs/loop.md").symlink_to("loop.md")
    (folder / "docs/a\nb.md").write_bytes(b"# Odd\n")
    (folder / ".gitattributes").write_bytes(b"*.md filter=evil export-ignore\n")
    (folder / ".gitmodules").write_bytes(
        b'[submodule "m"]\n\tpath = m\n\turl = ext::sh -c touch% ' + bytes(tmp_path) + b"/x\n"
    )
    run_git(folder, "add", "--all")
    inside = run_git(folder, "rev-parse", "HEAD")
    run_git(folder, "update-index", "--add", "--cacheinfo", f"160000,{inside},m")
    run_git(folder, "commit", "--quiet", "--message=odd")

    _, files, skipped = await remote.read("lamp")
    assert set(files) == {"README.md", "docs/beam.md", "docs/oil.rst"}
    assert skipped == {"link": 2, "unsafe_name": 1, "submodule": 1}
    assert not (tmp_path / "x").exists()


async def test_only_what_is_documentation_is_sent(remote: Remote, monkeypatch: Any) -> None:
    """Of a repository of gigabytes: its files are left with a server that can do so."""
    huge = {"assets/photo.bin": os.urandom(2_000_000)}
    repository(remote.root / "lamp", FILES | huge)
    monkeypatch.setattr(git_program, "MAX_BYTES", 200_000)
    is_filtering = "filters" in os.environ["PYTEST_CURRENT_TEST"]
    if is_filtering:
        _, files, _ = await remote.read("lamp")
        assert files["README.md"] == b"# Lamp\n"
    else:
        with pytest.raises(SourceError) as refused:
            await remote.read("lamp")
        assert refused.value.code == "too_large"


async def test_a_large_file_is_left_out_and_the_rest_is_read(
    remote: Remote, monkeypatch: Any
) -> None:
    monkeypatch.setattr(git, "MAX_FILE_BYTES", 10_000)
    repository(remote.root / "lamp", FILES | {"docs/huge.md": b"x" * 50_000_000})
    _, files, skipped = await remote.read("lamp")
    assert set(files) == {"README.md", "docs/beam.md", "docs/oil.rst"}
    assert skipped == {"too_large": 1}


async def test_bounds_of_files_are_kept(remote: Remote, monkeypatch: Any) -> None:
    repository(remote.root / "lamp", {f"docs/{n}.md": b"%d" % n * 100 for n in range(20)})
    monkeypatch.setattr(git, "MAX_FILES", 15)
    monkeypatch.setattr(git, "MAX_KEPT_BYTES", 1_000)
    _, files, skipped = await remote.read("lamp")
    assert 5 <= len(files) <= 10
    assert skipped["bound_reached"] == 20 - len(files)


async def test_what_takes_too_long_ends(remote: Remote, monkeypatch: Any) -> None:
    monkeypatch.setattr(git_program, "SECONDS", 0.0)
    repository(remote.root / "lamp", FILES)
    with pytest.raises(SourceError) as refused:
        await remote.read("lamp")
    assert refused.value.code == "too_slow_source"


@pytest.mark.parametrize(
    "address",
    [
        "http://git.quernel.app/x",
        "ssh://git.quernel.app/x",
        "git://git.quernel.app/x",
        "file:///etc",
        "/etc",
        "ext::sh -c id",
        "https://user:pass@git.quernel.app/x",
        "https://169.254.169.254/x",
        "https://localhost/x",
    ],
    ids=["http", "ssh", "git", "file", "path", "ext", "password", "metadata", "localhost"],
)
async def test_only_public_https_is_called(address: str) -> None:
    with pytest.raises(QuernelError) as refused:
        Repository(address, SafeClient())
    assert (refused.value.code, refused.value.status) == ("url_refused", 400)


async def test_a_name_or_a_redirect_to_a_private_address_is_refused(remote: Remote) -> None:
    repository(remote.root / "lamp", FILES)
    port = remote.url.rpartition(":")[2]
    inside = Repository(
        f"https://inside.quernel.app:{port}/lamp", remote.http, authority=remote.trusted
    )
    with pytest.raises(SourceError) as refused:
        await inside.reference()
    assert refused.value.code == "source_refused"

    async def redirect(request: web.BaseRequest) -> web.Response:
        where = f"https://inside.quernel.app:{port}{request.path_qs}"
        return web.Response(status=302, headers={"location": where})

    async with serve(redirect, tls=remote.authority.server_context(NAME)) as url:
        led = Repository(
            f"https://{NAME}:{url.rpartition(':')[2]}/lamp", remote.http, authority=remote.trusted
        )
        with pytest.raises(SourceError) as refused:
            await led.reference()
    assert refused.value.code == "source_refused"


async def test_a_server_that_never_ends_is_cut_off(remote: Remote, monkeypatch: Any) -> None:
    monkeypatch.setattr(git_program, "MAX_BYTES", 1_000_000)

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "application/x-git-upload-pack-advertisement"}
        )
        await response.prepare(request)
        await response.write(b"001e# service=git-upload-pack\n0000")
        line = b"0" * 40 + b" refs/heads/" + b"x" * 900 + b"\n"
        for _ in range(100_000):
            await response.write(f"{len(line) + 4:04x}".encode() + line)
        return response

    async with serve(flood, tls=remote.authority.server_context(NAME)) as url:
        flooding = Repository(
            f"https://{NAME}:{url.rpartition(':')[2]}/lamp", remote.http, authority=remote.trusted
        )
        with pytest.raises(SourceError) as refused:
            await flooding.reference()
    assert refused.value.code == "too_large"


def test_what_git_may_fetch_is_what_the_documentation_says() -> None:
    page = Path("docs/libraries.md").read_text(encoding="utf-8")
    assert git_program.MAX_BYTES == 256 * 1024**2
    assert "256 MiB" in page
