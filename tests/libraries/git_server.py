"""A server of repositories on loopback, over TLS, by git's own program for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.core.tls import Authority
from tests.support.http_server import serve

NAME = "git.quernel.app"
_GIT = shutil.which("git") or "git"
_WHO = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@quernel.test",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@quernel.test",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """What git says, asked in a folder."""
    done = subprocess.run(
        [_GIT, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **_WHO, **environment},
        check=True,
        capture_output=True,
        timeout=60,
        text=True,
    )
    return done.stdout.strip()


def repository(folder: Path, files: Mapping[str, bytes], branch: str = "main") -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", f"--initial-branch={branch}")
    commit(folder, files)
    return folder


def commit(folder: Path, files: Mapping[str, bytes]) -> str:
    """Put files in; the commit."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=one")
    return git(folder, "rev-parse", "HEAD")


@asynccontextmanager
async def serve_repositories(
    root: Path, authority: Authority, *, filters: bool = True
) -> AsyncIterator[tuple[str, list[str]]]:
    """Its address, and the queries that were made. `filters`: whether it leaves files out."""
    asked: list[str] = []
    settings = {
        "uploadpack.allowFilter": "true" if filters else "false",
        "uploadpack.allowAnySHA1InWant": "true",
        "safe.directory": "*",
    }
    config = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        config |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        body = await request.read()
        process = await asyncio.create_subprocess_exec(
            _GIT,
            "http-backend",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(root),
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
                "PATH_INFO": request.path,
                "QUERY_STRING": request.query_string,
                "REQUEST_METHOD": request.method,
                "CONTENT_TYPE": request.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
                "REMOTE_ADDR": "127.0.0.1",
                **_WHO,
                **config,
            },
        )
        told, _ = await process.communicate(body)
        head, _, content = told.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(fields.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=fields, body=content)

    async with serve(answer, tls=authority.server_context(NAME)) as url:
        port = url.rpartition(":")[2]
        yield f"https://{NAME}:{port}", asked
