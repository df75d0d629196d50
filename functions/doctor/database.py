"""The database as it says it is set up (backend.deployment_report), compared with the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from functions.core.json import Json
from functions.core.settings import Settings
from functions.doctor.findings import Area, Finding, count_of, listed

DATABASE = Area("database")
STORAGE = Area("storage")
CLOCK = Area("clock")

CHECKOUT = Path(__file__).resolve().parents[2]
MIGRATIONS = CHECKOUT / "supabase" / "migrations"

MAX_TIMEOUT_SECONDS = 60.0
"""Of a role that strangers' requests run as. Longer ones are set by the function that needs it."""

BUCKETS = {"images": 33_554_432, "documents": 52_428_800, "libraries": 1_073_741_824}
"""What each object may have at most, in bytes, as the migrations make them; all are private."""

SKEW_WARNING = timedelta(seconds=5)
SKEW_WRONG = timedelta(seconds=60)
"""Tokens are refused a minute early or late then, and Stripe's events at five."""

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def examine_database(
    report: dict[str, Json], settings: Settings, asked_at: datetime
) -> list[Finding]:
    """Judge the report. `asked_at`: this machine's clock when it was asked for."""
    return [
        DATABASE.ok("reached", f"Postgres {report['server_version']} answers"),
        *_migrations(report["migrations"]),
        *_openings(report),
        *_timeouts(report["timeouts"]),
        *_waking(report, settings),
        *_buckets(report["buckets"]),
        clock_finding("database_clock", "the database", report["now"], asked_at),
    ]


def _migrations(applied: list[str] | None) -> Iterator[Finding]:
    wanted = sorted(path.name.partition("_")[0] for path in MIGRATIONS.glob("*.sql"))
    if applied is None:
        yield DATABASE.unseen(
            "migrations",
            "nobody keeps a list of what was applied",
            "apply migrations with `supabase db push`, which does",
        )
        return
    if not wanted:
        yield DATABASE.unseen(
            "migrations", "no migrations lie beside this program", "run it from a checkout"
        )
        return
    missing = [version for version in wanted if version not in applied]
    unknown = [version for version in applied if version not in wanted]
    if missing:
        yield DATABASE.wrong(
            "migrations",
            f"{count_of(len(missing), 'migration')} of this checkout not applied: "
            f"{listed(missing)}",
            "back up, then `supabase db push`",
        )
    elif unknown:
        yield DATABASE.warning(
            "migrations",
            f"the database is ahead of this checkout: {listed(unknown)}",
            "deploy the code that belongs to it",
        )
    else:
        yield DATABASE.ok("migrations", f"all {len(wanted)} of this checkout applied")


def _openings(report: dict[str, Json]) -> Iterator[Finding]:
    for name, found, right, mend in (
        (
            "grants",
            report["openings"],
            "backend is the service role's, and private nobody's",
            "revoke them; `supabase db diff` shows what was changed by hand",
        ),
        (
            "row_level_security",
            report["tables_without_rls"],
            "on for every table",
            "alter table … enable row level security, and write the policies it needs",
        ),
    ):
        if found:
            yield DATABASE.wrong(name, listed(found), mend)
        else:
            yield DATABASE.ok(name, right)


def _timeouts(timeouts: dict[str, str | None]) -> Iterator[Finding]:
    inherited = timeouts.get("authenticator")
    for role in ("anon", "authenticated", "service_role"):
        if role not in timeouts:
            yield DATABASE.wrong(
                "statement_timeout",
                f"there is no role {role}",
                "see docs/deploy.md, without Supabase",
            )
            continue
        said = timeouts[role] or inherited
        seconds = seconds_of(said)
        if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
            yield DATABASE.wrong(
                "statement_timeout",
                f"statements of {role} end after {said or 'no time at all'}",
                f"alter role {role} set statement_timeout = '8s'",
            )
        else:
            yield DATABASE.ok("statement_timeout", f"{role}: {said}")


def seconds_of(setting: str | None) -> float:
    """A statement_timeout in seconds; 0 for none, as Postgres has it."""
    if setting is None:
        return 0.0
    digits = setting.strip().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = setting.strip()[len(digits) :].strip() or "ms"
    return float(digits) * _UNITS.get(unit, 0.0)


def _waking(report: dict[str, Json], settings: Settings) -> Iterator[Finding]:
    url, has_pg_net = report["runner_url"], report["has_pg_net"]
    if url == "none":
        if settings.is_deployed:
            yield DATABASE.warning(
                "runner_url",
                "rows of clients wake nobody: they wait for the next dispatch, up to a minute",
                "set runner_url (docs/deploy.md), unless a worker runs all the time",
            )
        else:
            yield DATABASE.ok("runner_url", "none: a worker looks for itself")
    elif not has_pg_net:
        yield DATABASE.wrong(
            "runner_url", "it is set, and pg_net is not installed", "create extension pg_net"
        )
    elif url != "https" and settings.is_deployed:
        yield DATABASE.wrong(
            "runner_url", "it is not https, and the runner's keys go along", "set an https address"
        )
    else:
        yield DATABASE.ok("runner_url", "pg_net wakes the task runner")


def _buckets(buckets: dict[str, dict[str, Json]] | None) -> Iterator[Finding]:
    if buckets is None:
        yield STORAGE.wrong(
            "buckets",
            "there is no Supabase Storage",
            "images and documents cannot be kept; see docs/deploy.md, without Supabase",
        )
        return
    for name, size in BUCKETS.items():
        bucket = buckets.get(name)
        if bucket is None:
            yield STORAGE.wrong(
                f"bucket_{name}", "it does not exist", "make it, private, as its migration does"
            )
        elif bucket["public"]:
            yield STORAGE.wrong(
                f"bucket_{name}",
                "it is public: everybody reads everybody's files",
                "make it private under Storage: private buckets are read by signed addresses",
            )
        elif bucket["file_size_limit"] != size:
            yield STORAGE.warning(
                f"bucket_{name}",
                f"its limit is {bucket['file_size_limit'] or 'none'}, not {size} bytes",
                f"set its limit to {size} bytes under Storage",
            )
        else:
            yield STORAGE.ok(f"bucket_{name}", "private, and limited")


def clock_finding(name: str, whose: str, said: str | datetime, asked_at: datetime) -> Finding:
    """How far a clock is from this machine's."""
    theirs = datetime.fromisoformat(said) if isinstance(said, str) else said
    skew = abs(theirs - asked_at)
    message = f"{whose} and this machine are {skew.total_seconds():.1f} s apart"
    mend = "have both keep time by NTP; this machine's may be the one that is wrong"
    if skew > SKEW_WRONG:
        return CLOCK.wrong(name, message, mend)
    if skew > SKEW_WARNING:
        return CLOCK.warning(name, message, mend)
    return CLOCK.ok(name, message)
