"""Starts the gateway with the settings of supabase/config.toml."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from local import node
from local.keys import Keys
from local.paths import CONFIG, GATEWAY
from local.processes import Child

POOL_SIZE = 20  # connections; hosted PostgREST on the smallest plan has 10 to 20


def launch_gateway(
    *, port: int, database_url: str, keys: Keys, folder: Path, log: Path, mended: bool = True
) -> Child:
    """Start the gateway and return at once. Everything it writes lies under `folder`.

    `mended=False` serves the package without local/gateway's corrections, for the tests that ask
    whether each is still needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = gateway_settings(tomllib.loads(CONFIG.read_text()), keys)
    return Child(
        "The gateway",
        [node.node(), GATEWAY / "server.mjs"],
        log=log,
        cwd=folder,
        env=node.environment(folder, {"EXPERIMENTAL_STORAGE": "1", "NODE_ENV": "production"}),
        stdin=json.dumps(
            settings
            | {
                "databaseUrl": database_url,
                "poolSize": POOL_SIZE,
                "port": port,
                "mended": mended,
            }
        ).encode(),
    )


def gateway_settings(config: dict[str, Any], keys: Keys) -> dict[str, Any]:
    """The part of Supabase's configuration that the gateway understands, plus the keys."""
    api, auth, storage = config["api"], config["auth"], config["storage"]
    return {
        "api": {"schemas": api["schemas"], "max_rows": api["max_rows"]},
        "auth": {
            "enabled": True,
            "jwt_secret": keys.jwt_secret,
            "publishable_key": keys.publishable_key,
            "secret_key": keys.secret_key,
            "site_url": auth["site_url"],
            "additional_redirect_urls": auth["additional_redirect_urls"],
            "jwt_expiry": auth["jwt_expiry"],
            "enable_signup": auth["enable_signup"],
            "minimum_password_length": auth["minimum_password_length"],
            # Nobody reads this stack's mail, so every address counts as verified.
            "email": {"enable_signup": auth["email"]["enabled"], "enable_confirmations": False},
        },
        "storage": {"enabled": storage["enabled"], "file_size_limit": storage["file_size_limit"]},
        "db": {"migrations": {"enabled": False}},
    }
