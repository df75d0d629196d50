"""`make dev`: start the stack, print URLs and keys, stay up until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from local.errors import StackError
from local.stack import Ports, Stack, own_settings

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; 0 after an orderly stop, 1 when the stack does not come up."""
    options = _parse(arguments)
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def progress(line: str) -> None:
        print(f"  {line}", flush=True)
        # Python swallows what is raised while a process is being forked, so the flag says it again.
        if interrupted:
            raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, interrupt)
    began = time.monotonic()
    stack: Stack | None = None
    try:
        stack = Stack(
            ports=Ports.free() if options.free_ports else Ports.from_environment(),
            services=not options.database_only,
            rebuild=options.rebuild,
            transport=options.transport,
            environment=own_settings(),
            say=progress,
        )
        print("Starting the stack ...", flush=True)
        stack.start()
        print(summary(stack, time.monotonic() - began), flush=True)
        while not interrupted:
            time.sleep(1.0)
            stack.require_running()
    except KeyboardInterrupt:
        pass
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        # A second Ctrl-C would leave half of the processes; stopping has its own time limits.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if interrupted:
            print("\nStopping ...", flush=True)
        if stack is not None:
            stack.stop()
    return 0


def summary(stack: Stack, seconds: float) -> str:
    """URLs and keys, as `supabase start` prints them."""
    keys = stack.keys
    rows = [
        ("API URL", stack.supabase_url),
        ("Database URL", stack.postgres_dsn),
        ("Publishable key", keys.publishable_key),
        ("Secret key", keys.secret_key),
        ("JWT secret", keys.jwt_secret),
    ]
    if stack.services:
        settings = stack.functions_environment()
        rows += [
            ("Functions URL", stack.functions_url),
            ("API reference", f"{stack.functions_url}/docs"),
            ("Chat upstream", settings["QUERNEL_LLM_URL"]),
            ("Image server", settings["QUERNEL_IMAGES_URL"]),
            ("Stripe API", settings.get("QUERNEL_STRIPE_API_BASE", "Stripe's own")),
            ("Stripe webhook", f"{stack.functions_url}/billing/webhooks/stripe"),
            ("Webhook secret", keys.stripe_webhook_secret),
            ("Emails", mail(stack)),
        ]
    rows.append(("Logs", str(stack.logs)))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:>{width}}: {value}" for name, value in rows]
    return (
        f"\nQuernel runs; it took {seconds:.1f} s. Ctrl-C stops it.\n\n" + "\n".join(lines) + "\n"
    )


def mail(stack: Stack) -> str:
    """Where emails go: into a folder, or to the developer's own server."""
    own = "QUERNEL_SMTP_URL" in stack.environment
    return "sent by QUERNEL_SMTP_URL" if own else f"{stack.mail}/*.eml"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.dev", description=__doc__)
    parser.add_argument("--database-only", action="store_true", help="Postgres and gateway only")
    parser.add_argument("--free-ports", action="store_true", help="any free ports")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="make the database again when applied migrations were edited (its data is lost)",
    )
    parser.add_argument(
        "--transport",
        choices=("rest", "direct"),
        default="rest",
        help="how the functions app reaches the database",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
