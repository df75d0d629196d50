"""Documentation that comes with a package: its archive, found by the registry's own description.

Which registry is asked is the operator's to say (QUERNEL_PYTHON_REGISTRY_URL,
QUERNEL_NPM_REGISTRY_URL). What it answers is a user's package: its addresses are vetted as any.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from functions.core.http import FetchedResponse, SafeClient
from functions.libraries.errors import SourceError

MAX_DESCRIPTION_BYTES = 32 * 1024 * 1024  # npm lists every version that there ever was
MAX_ARCHIVE_BYTES = 128 * 1024 * 1024
SECONDS = 120.0

_PYTHON_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_NPM_NAME = re.compile(r"(?:@[a-z0-9][a-z0-9._-]{0,98}/)?[a-z0-9][a-z0-9._-]{0,98}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,49}")


@dataclass(frozen=True)
class Package:
    """The archive of a version, and what it must be."""

    version: str
    archive_url: str
    sha256: str | None
    docs_url: str | None
    """Where people read its documentation, if it says so."""


async def python_package(http: SafeClient, registry_url: str, name: str) -> Package:
    """The latest source distribution of a Python package. Raises SourceError, QuernelError."""
    if _PYTHON_NAME.fullmatch(name) is None:
        raise SourceError("unknown_package", "This is no name of a package.")
    told = await _described(http, f"{registry_url.rstrip('/')}/pypi/{name}/json")
    try:
        version, links = str(told["info"]["version"]), told["info"].get("project_urls") or {}
        found = next(one for one in told["urls"] if one["packagetype"] == "sdist")
        url, digest = str(found["url"]), str(found["digests"]["sha256"])
    except (KeyError, TypeError, AttributeError):
        raise _unreadable() from None
    except StopIteration:
        raise SourceError("no_documentation", "The package has no source distribution.") from None
    docs = next(
        (str(url) for label, url in links.items() if "doc" in label.lower()),
        None,
    )
    return _sound(version, url, digest, docs)


async def npm_package(http: SafeClient, registry_url: str, name: str) -> Package:
    """The latest version of an npm package. Raises SourceError, QuernelError."""
    if _NPM_NAME.fullmatch(name) is None:
        raise SourceError("unknown_package", "This is no name of a package.")
    told = await _described(http, f"{registry_url.rstrip('/')}/{quote(name, safe='@')}")
    try:
        version = str(told["dist-tags"]["latest"])
        url = str(told["versions"][version]["dist"]["tarball"])
        homepage = told["versions"][version].get("homepage")
    except (KeyError, TypeError, AttributeError):
        raise _unreadable() from None
    return _sound(version, url, None, homepage if isinstance(homepage, str) else None)


async def archive_of(http: SafeClient, package: Package) -> bytes:
    """The bytes of a package's archive. Raises SourceError, QuernelError."""
    answer = await http.fetch(
        package.archive_url, max_bytes=MAX_ARCHIVE_BYTES, timeout_seconds=SECONDS
    )
    _require_ok(answer)
    digest = hashlib.sha256(answer.body).hexdigest()
    if package.sha256 is not None and not hmac.compare_digest(digest, package.sha256):
        raise SourceError("unreadable", "The archive is not what the registry says it is.")
    return answer.body


async def _described(http: SafeClient, url: str) -> dict[str, Any]:
    answer = await http.fetch(
        url,
        headers={"accept": "application/json"},
        max_bytes=MAX_DESCRIPTION_BYTES,
        timeout_seconds=SECONDS,
    )
    _require_ok(answer)
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise _unreadable() from None
    if not isinstance(told, dict):
        raise _unreadable()
    return told


def _require_ok(answer: FetchedResponse) -> None:
    if answer.status in (404, 410):
        raise SourceError("unknown_package", "The registry has no such package.")
    if answer.status != 200:
        raise SourceError("source_unavailable", f"The registry answered with {answer.status}.")


def _sound(version: str, url: str, digest: str | None, docs: str | None) -> Package:
    if _VERSION.fullmatch(version) is None or not url.startswith(("https://", "http://")):
        raise _unreadable()
    is_link = docs is not None and docs.startswith("https://") and len(docs) <= 500
    return Package(version, url, digest, docs if is_link else None)


def _unreadable() -> SourceError:
    return SourceError("source_unavailable", "The registry's description cannot be read.")
