"""The passwords and API keys of the embedded stack: generated once, kept in a file of mode 0600."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from local.errors import StackError


@dataclass(frozen=True, repr=False)
class Keys:
    """Everything secret in the embedded stack. Has no repr, so that no log shows it."""

    superuser_password: str
    postgres_password: str
    authenticator_password: str
    functions_password: str
    jwt_secret: str
    publishable_key: str
    secret_key: str
    stripe_webhook_secret: str
    stripe_secret_key: str
    webhook_signing_key: str
    master_key: str

    def fingerprint(self) -> str:
        """A digest that changes when a password does; tells nothing about them."""
        return hashlib.sha256("|".join(asdict(self).values()).encode()).hexdigest()[:16]


def load_keys(path: Path) -> Keys:
    """Read the file, or make it; what a later version added to Keys is added to the file.

    Raises StackError if it cannot be read.
    """
    if not path.exists():
        _write(path, _generate())
    try:
        stored = json.loads(path.read_text())
        names = [field.name for field in fields(Keys)]
        known = {name: str(stored[name]) for name in names if name in stored}
    except (ValueError, TypeError) as error:
        raise StackError(
            f"{path} is damaged ({error}). Restore it, or start afresh with `make clean`."
        ) from None
    if len(known) == len(names):
        return Keys(**known)
    keys = replace(_generate(), **known)
    _write(path, keys, over=True)
    return keys


def _generate() -> Keys:
    return Keys(
        superuser_password=secrets.token_urlsafe(24),
        postgres_password=secrets.token_urlsafe(24),
        authenticator_password=secrets.token_urlsafe(24),
        functions_password=secrets.token_urlsafe(24),
        jwt_secret=secrets.token_urlsafe(48),
        publishable_key=_api_key("publishable"),
        secret_key=_api_key("secret"),
        stripe_webhook_secret=f"whsec_{secrets.token_hex(16)}",
        stripe_secret_key=f"sk_test_{secrets.token_hex(16)}",
        webhook_signing_key=base64.b64encode(secrets.token_bytes(32)).decode(),
        master_key=base64.b64encode(secrets.token_bytes(32)).decode(),
    )


def _api_key(kind: str) -> str:
    """A key in the shape of Supabase's: sb_KIND_ + 22 random characters + 8 of a checksum."""
    body = f"sb_{kind}_{secrets.token_urlsafe(17)[:22]}"
    digest = hashlib.sha256(f"supabase-self-hosted|{body}".encode()).digest()
    return f"{body}_{base64.urlsafe_b64encode(digest).decode()[:8]}"


def _write(path: Path, keys: Keys, *, over: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(keys), file, indent=2)
    if over:
        partial.replace(path)
        return
    try:
        os.link(partial, path)  # another run may have been first: its keys stay
    except FileExistsError:
        pass
    finally:
        partial.unlink()
