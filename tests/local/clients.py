"""A signed-in supabase-py client on a private stack."""

from __future__ import annotations

import uuid

import supabase
from local.stack import Stack


def signed_in(stack: Stack) -> supabase.Client:
    """Sign a new person up with the client library itself."""
    client = supabase.create_client(stack.supabase_url, stack.keys.publishable_key)
    client.auth.sign_up(
        {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse battery"}
    )
    return client


def operator(stack: Stack) -> supabase.Client:
    """A client with the secret key."""
    return supabase.create_client(stack.supabase_url, stack.keys.secret_key)
