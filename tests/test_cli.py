"""The `quernel` command: wrong usage is refused, failures are clear, and it does what it says."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from functions import cli
from functions.core.settings import get_settings
from functions.cron import commands as cron_commands
from functions.cron.jobs import CRON_JOBS
from functions.cron.scheduler import JobRun
from local import stripe_double
from local.paths import ROOT
from local.stack import Stack
from tests.conftest import NewUser
from tests.support.reconciliation import alone
from tests.support.service import Service

USER = "01234567-89ab-7def-8123-456789abcdef"
GRANT = ["credits", "grant", "--user", USER, "--reason", "sorry", "--actor", "ada"]
PAYMENT = ["payments", "record", "--user", USER, "--provider", "wise", "--transaction", "T1"]
PAYMENT += ["--reason", "by bank", "--actor", "ada"]

Quernel = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quernel(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Quernel]:
    """Runs the command; returns exit status, standard output and standard error."""
    for name, value in stack.functions_environment().items():
        if name.startswith("QUERNEL_"):
            monkeypatch.setenv(name, value)
    get_settings.cache_clear()

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = int(str(ended.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield run
    get_settings.cache_clear()


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["cron"], "required"),
        (["cron", "make_coffee"], "make_coffee"),
        (["cron", "reap_holds", "--list"], "not allowed"),
        (["tasks"], "COMMAND"),
        (["tasks", "retry", "7"], "is not a UUID"),
        (["tasks", "retry"], "required"),
        (["tasks", "retry", USER, "--dead"], "not allowed with"),
        (["tasks", "cancel", USER], "--reason"),
        (["tasks", "cancel", USER, "--reason", " "], "must not be empty"),
        (["tasks", "list", "--status", "lost"], "lost"),
        (["tasks", "list", "--limit", "0"], "positive whole number"),
        ([*GRANT, "0"], "positive number of credits"),
        ([*GRANT, "-5"], "positive number of credits"),
        ([*GRANT, "NaN"], "positive number of credits"),
        ([*GRANT, "Infinity"], "positive number of credits"),
        ([*GRANT, "lots"], "is not a number"),
        ([*GRANT, "5", "--source", "purchase"], "purchase"),
        ([*GRANT, "5", "--expires-at", "2030-01-01"], "time zone"),
        ([*GRANT, "5", "--expires-at", "soon"], "ISO 8601"),
        ([*GRANT, "5", "--organization", USER], "not allowed with"),
        (["credits", "grant", "5", "--user", USER, "--actor", "ada"], "--reason"),
        (["credits", "grant", "5", "--user", USER, "--reason", "sorry"], "--actor"),
        (["credits", "balance"], "required"),
        ([*PAYMENT, "0"], "positive whole number"),
        ([*PAYMENT, "-5"], "positive whole number"),
        ([*PAYMENT, "5", "--provider", "stripe"], "stripe"),
        ([*PAYMENT, "5", "--credits", "0"], "positive number of credits"),
        (["stripe", "reconcile", "--days", "0"], "positive whole number"),
        ([*PAYMENT[:-2], "5"], "--actor"),
        (["payments", "refund", USER, "all", "--reason", "r", "--actor", "ada"], "minor units"),
        (["plans", "assign", "pro", "--user", USER, "--reason", "r", "--actor", "a"], "--until"),
        (["invoices", "record", "1", "--user", USER, "--reason", "r", "--actor", "a"], "--number"),
        ([*PAYMENT, "1", "--plan", "pro", "--invoice", USER], "not allowed with"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_says_what_is_wrong(
    arguments: list[str], complaint: str, quernel: Quernel
) -> None:
    status, out, err = quernel(*arguments)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.startswith("usage: quernel")


def test_what_does_not_exist_ends_with_status_1(quernel: Quernel) -> None:
    status, out, err = quernel("tasks", "retry", USER)
    assert (status, out) == (1, "")
    assert err == "quernel: There is no such task. (task_not_found)\n"


def test_errors_are_json_when_json_is_asked_for(quernel: Quernel) -> None:
    status, out, err = quernel("credits", "balance", "--user", USER, "--json")
    assert (status, out) == (1, "")
    assert json.loads(err)["error"]["code"] == "account_not_found"


def test_a_wrong_configuration_ends_with_status_1(
    quernel: Quernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERNEL_ENVIRONMENT", "nowhere")
    status, _, err = quernel("status")
    assert status == 1
    assert "QUERNEL_ENVIRONMENT" in err


def test_a_database_that_is_away_ends_with_status_1(
    quernel: Quernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERNEL_SUPABASE_URL", "http://127.0.0.1:1")
    status, _, err = quernel("status")
    assert status == 1
    assert "database_unavailable" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("key", ["sb_secret_of_another_project", "publishable"])
def test_a_secret_key_that_supabase_refuses_is_named(
    quernel: Quernel, stack: Stack, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    value = stack.keys.publishable_key if key == "publishable" else key
    monkeypatch.setenv("QUERNEL_SUPABASE_SECRET_KEY", value)
    monkeypatch.delenv("QUERNEL_DATABASE_URL", raising=False)
    status, out, err = quernel("status")
    assert (status, out) == (1, "")
    assert err == (
        "quernel: Supabase refused the secret key (QUERNEL_SUPABASE_SECRET_KEY). "
        "(secret_key_refused)\n"
    )


def test_a_job_that_fails_ends_with_status_1(
    quernel: Quernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> JobRun:
        return JobRun("reap_holds", None, "database_timeout: no answer", 1.0)

    monkeypatch.setattr(cron_commands, "run_now", fail)
    status, _, err = quernel("cron", "reap_holds")
    assert (status, err) == (
        1,
        "quernel: reap_holds failed: database_timeout: no answer (command_failed)\n",
    )


# Help -------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Every command and group of commands, by its words."""
    left: list[tuple[list[str], argparse.ArgumentParser]] = [([], cli.build_parser())]
    while left:
        words, parser = left.pop()
        yield words, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                left += [([*words, name], one) for name, one in action.choices.items()]


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_command_has_help(words: list[str], quernel: Quernel) -> None:
    status, out, _ = quernel(*words, "--help")
    assert status == 0
    assert out.startswith(" ".join(["usage: quernel", *words]))


def test_every_command_says_what_it_does_and_takes_json() -> None:
    for words, parser in commands():
        assert parser.description, words
        is_group = any(isinstance(one, argparse._SubParsersAction) for one in parser._actions)
        assert is_group or "--json" in parser.format_help(), words
        for action in parser._actions:
            assert action.help or not action.option_strings, (words, action.dest)


def test_the_installed_command_starts_without_settings() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "functions.cli", "cron", "--list"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "QUERNEL_SUPABASE_SECRET_KEY": "sb_secret_unused"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in CRON_JOBS)


# Work -------------------------------------------------------------------------------------------


def test_status_shows_tasks_and_jobs(quernel: Quernel) -> None:
    quernel("cron", "purge_idempotency")
    status, out, _ = quernel("status", "--json")
    shown = json.loads(out)
    assert status == 0
    assert set(shown["tasks"]) == {"queued", "due", "oldest_due_at", "running", "lapsed", "dead"}
    assert "purge_idempotency" in {job["name"] for job in shown["cron"]}
    status, out, _ = quernel("status")
    assert status == 0
    assert "purge_idempotency" in out


def test_cron_runs_a_job(quernel: Quernel) -> None:
    status, out, _ = quernel("cron", "usage_partitions", "--json")
    assert status == 0
    assert json.loads(out)["name"] == "usage_partitions"


def test_cron_lists_the_jobs(quernel: Quernel) -> None:
    status, out, _ = quernel("cron", "--list", "--json")
    assert status == 0
    assert [job["name"] for job in json.loads(out)] == list(CRON_JOBS)


def test_tasks_are_listed_retried_and_cancelled(
    quernel: Quernel, db: Callable[[], psycopg.Connection], service: Service
) -> None:
    kind = f"test_{uuid.uuid4().hex[:12]}"
    row = db().execute("select private.task_enqueue(%s, '{}')", [kind]).fetchone()
    assert row
    id_ = str(row[0])
    (task,) = service.rpc("task_claim", p_kinds=[kind], p_worker="w", p_limit=1, p_lease_seconds=60)
    service.rpc(
        "task_fail", p_id=id_, p_lease_token=task["lease_token"], p_error="broken", p_is_final=True
    )

    status, out, _ = quernel("tasks", "list", "--kind", kind, "--status", "dead")
    assert status == 0
    assert id_ in out
    assert "broken" in out

    status, out, _ = quernel("tasks", "retry", id_, "--json")
    assert (status, json.loads(out)["status"]) == (0, "queued")

    status, out, _ = quernel("tasks", "cancel", id_, "--reason", "enough", "--json")
    assert (status, json.loads(out)["status"]) == (0, "cancelled")


def test_all_that_was_given_up_of_a_kind_is_retried(
    quernel: Quernel, db: Callable[[], psycopg.Connection]
) -> None:
    kind = f"test_{uuid.uuid4().hex[:12]}"
    other = f"test_{uuid.uuid4().hex[:12]}"
    made = "insert into private.tasks (kind, key, status, last_error, finished_at)"
    made += " select %s, %s || n, 'dead', 'it broke', now() from generate_series(1, %s) as n"
    connection = db()
    connection.execute(made + " returning id", [kind, "a", 3])
    connection.execute(made, [other, "b", 1])

    status, out, _ = quernel("tasks", "dead", "--kind", kind, "--json")
    ids = [row["id"] for row in json.loads(out)]
    assert (status, len(ids)) == (0, 3)
    status, out, _ = quernel("tasks", "dead", "--kind", kind)
    assert out.count("it broke") == 3

    # The first cannot be: another with its key waits.
    connection.execute("select private.task_enqueue(%s, '{}', 'a1')", [kind])
    status, out, err = quernel("tasks", "retry", "--dead", "--kind", kind, "--json")
    said = json.loads(err[err.index("{") :])["error"]
    assert (status, out, said["retried"]) == (1, "", 2)
    assert [one["code"] for one in said["failures"]] == ["task_already_queued"]
    assert said["failures"][0]["id"] == ids[-1]

    rows = connection.execute(
        "select t.kind = %s, t.status, count(*) from private.tasks as t where t.kind in (%s, %s)"
        " group by 1, 2 order by 1, 2",
        [kind, kind, other],
    ).fetchall()
    assert rows == [(False, "dead", 1), (True, "dead", 1), (True, "queued", 3)]
    connection.execute("delete from private.tasks where kind in (%s, %s)", [kind, other])


def test_several_tasks_are_retried_at_once(
    quernel: Quernel, db: Callable[[], psycopg.Connection]
) -> None:
    kind = f"test_{uuid.uuid4().hex[:12]}"
    connection = db()
    ids = [
        str(row[0])
        for row in connection.execute(
            "insert into private.tasks (kind, status, last_error, finished_at)"
            " select %s, 'dead', 'it broke', now() from generate_series(1, 2) returning id",
            [kind],
        ).fetchall()
    ]
    status, out, err = quernel("tasks", "retry", *ids)
    assert (status, out.split()) == (0, ["retried", "2"])
    assert err.splitlines()[-1] == "retrying: 2 of 2"
    connection.execute("delete from private.tasks where kind = %s", [kind])


def test_credits_are_granted_once_per_key_and_shown(quernel: Quernel, new_user: NewUser) -> None:
    user_id = new_user().id
    account = ["--user", user_id]

    def balance() -> Decimal:
        status, out, _ = quernel("credits", "balance", *account, "--json")
        assert status == 0
        return Decimal(str(json.loads(out)["balance"]))

    before = balance()
    key = f"test:{uuid.uuid4()}"
    grant = ["credits", "grant", *account, "12.345678", "--reason", "an outage", "--actor", "ada"]
    for _ in range(2):
        status, out, err = quernel(*grant, "--key", key, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out)["idempotency_key"] == key
    assert balance() == before + Decimal("12.345678")

    status, out, _ = quernel("credits", "statement", *account, "--limit", "1")
    assert status == 0
    assert "12.345678" in out
    assert "compensation" in out


def test_a_balance_is_a_few_lines_and_a_table_of_lots(quernel: Quernel, new_user: NewUser) -> None:
    account = ["--user", new_user().id]
    quernel("credits", "grant", *account, "12.5", "--reason", "an outage", "--actor", "ada")
    status, out, err = quernel("credits", "balance", *account)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:5]] == [
        ["balance", "112.5"],
        ["held", "0"],
        ["available", "112.5"],
        ["debt", "0"],
        [],
    ]
    head, *lots = out.split("\n\n")[1].splitlines()
    assert head.split() == ["lot_id", "source", "amount", "remaining", "expires_at"]
    assert [lot.split()[1:] for lot in lots] == [
        ["bonus", "100", "100", "-"],
        ["compensation", "12.5", "12.5", "-"],
    ]
    assert "{" not in out
    assert "Decimal" not in out


def test_a_grant_without_a_key_names_the_one_it_made(quernel: Quernel, new_user: NewUser) -> None:
    status, out, err = quernel(
        "credits", "grant", "--user", new_user().id, "1", "--reason", "r", "--actor", "ada"
    )
    assert (status, err) == (0, "")
    assert "idempotency_key" in out
    assert "operator:" in out


def test_a_payment_is_recorded_and_refunded(quernel: Quernel, new_user: NewUser) -> None:
    account = ["--user", new_user().id]
    by = ["--reason", "invoice 7", "--actor", "ada", "--json"]
    transaction = uuid.uuid4().hex
    record = ["payments", "record", *account, "500", "--provider", "wise", *by]
    record += ["--transaction", transaction, "--credits", "1000"]
    status, out, err = quernel(*record)
    assert (status, err) == (0, "")
    payment = json.loads(out)
    assert (payment["status"], payment["credits"]) == ("succeeded", 1000)
    status, out, err = quernel("payments", "refund", payment["payment_id"], "250", *by)
    assert (status, err) == (0, "")
    refunded = json.loads(out)
    assert refunded["status"] == "partially_refunded"
    assert refunded["account"]["balance"] == payment["account"]["balance"] - 500


def test_an_invoice_is_recorded_and_paid(quernel: Quernel, new_user: NewUser) -> None:
    account = ["--user", new_user().id]
    by = ["--reason", "a contract", "--actor", "ada", "--json"]
    period = ["--period-start", "2026-01-01T00:00:00Z", "--period-end", "2026-02-01T00:00:00Z"]
    status, out, err = quernel(
        "invoices", "record", "2900", *account, "--number", uuid.uuid4().hex, "--plan", "pro",
        "--tax", "400", "--due-at", "2999-01-31T00:00:00Z", *period, *by,
    )  # fmt: skip
    assert (status, err) == (0, "")
    invoice = json.loads(out)
    assert (invoice["status"], invoice["plan"], invoice["tax_minor"]) == ("open", "pro", 400)
    status, out, err = quernel(
        "payments", "record", "2900", *account, "--provider", "wise", "--transaction",
        uuid.uuid4().hex, "--invoice", invoice["invoice_id"], *by,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert json.loads(out)["invoice"] == invoice["number"]


def test_a_payment_names_the_plan_it_was_for(quernel: Quernel, new_user: NewUser) -> None:
    status, out, err = quernel(
        "payments", "record", "2900", "--user", new_user().id, "--provider", "wise",
        "--transaction", uuid.uuid4().hex, "--plan", "pro", "--reason", "r", "--actor", "ada",
        "--json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert json.loads(out)["plan"] == "pro"


def test_a_plan_is_given(quernel: Quernel, new_user: NewUser) -> None:
    status, out, err = quernel(
        "plans", "assign", "pro", "--user", new_user().id, "--until", "2099-01-01T00:00:00Z",
        "--reason", "a prize", "--actor", "ada", "--json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert json.loads(out)["plan"] == "pro"


def test_an_erasure_is_asked_for_and_taken_back(quernel: Quernel, new_user: NewUser) -> None:
    user, by = new_user().id, ("--reason", "a letter", "--actor", "ada", "--json")
    assert quernel("user", "erasure", user)[0] == 1
    status, out, err = quernel("user", "erase", user, "--days", "7", *by)
    assert (status, err) == (0, "")
    assert json.loads(out)["state"] == "requested"
    assert json.loads(quernel("user", "erasure", user, "--json")[1])["state"] == "requested"
    status, out, err = quernel("user", "keep", user, *by)
    assert (status, err) == (0, "")
    assert json.loads(out)["state"] == "cancelled"


def test_stripe_is_compared_and_what_was_missed_is_repaired(
    quernel: Quernel,
    db: Callable[[], psycopg.Connection],
    service: Service,
    new_user: NewUser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stripe_double.serve() as double, alone(db()):
        monkeypatch.setenv("QUERNEL_STRIPE_API_BASE", double.url)
        user = new_user()
        claim = service.rpc("customer_claim", p_user_id=user.id, p_organization_id=None)
        customer = double.world.customer()["id"]
        service.rpc("customer_attach", p_claim_id=claim["claim_id"], p_customer_id=customer)
        # A payment that nobody told us of: no event, no webhook.
        card = double.world.attach(customer)["id"]
        double.world.charge_off_session({
            "customer": customer, "payment_method": card, "amount": "700", "currency": "eur",
            "confirm": "true", "off_session": "true",
        })  # fmt: skip
        double.world.events.clear()

        status, out, err = quernel("stripe", "reconcile", "--days", "2", "--json")
        assert status == 0
        assert err.splitlines()[-1] == "comparing kinds of objects: 8 of 8"
        report = json.loads(out)
        assert report["repaired"] >= 1
        assert {f["outcome"] for f in report["findings"]} <= {"repaired", "skipped"}
        (payment,) = db().execute(
            "select amount_minor from public.payments where user_id = %s", [user.id]
        )
        assert payment == (700,)

        status, out, _ = quernel("stripe", "reconcile", "--days", "2")
        assert status == 0
        shown = dict(line.split()[:2] for line in out.split("\n\n")[0].splitlines())
        assert (shown["missing"], shown["repaired"]) == ("0", "0")


def test_stripe_is_not_compared_where_payments_are_off(
    quernel: Quernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUERNEL_STRIPE_SECRET_KEY", raising=False)
    status, out, err = quernel("stripe", "reconcile")
    assert (status, out) == (1, "")
    assert err == "quernel: payments are not configured (command_failed)\n"


def test_a_command_leaves_the_log_as_it_was(quernel: Quernel) -> None:
    before = logging.getLogger("functions").level
    quernel("cron", "--list")
    assert logging.getLogger("functions").level == before
