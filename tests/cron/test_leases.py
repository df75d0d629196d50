"""Who may run a job now: one at a time, once per interval, and again soon when it failed."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import psycopg
import pytest

from tests.cron.conftest import Connect, Jobs
from tests.support.service import Service, ServiceError


def claim(service: Service, jobs: Jobs, *, seconds: int = 3600, lease: int = 60) -> dict[str, Any]:
    return service.rpc(
        "cron_claim",
        p_intervals={jobs.name(): seconds},
        p_worker="w1",
        p_lease_seconds=lease,
    )


def start(service: Service, jobs: Jobs, *, lease: int = 60) -> dict[str, Any]:
    return service.rpc(
        "cron_start",
        p_name=jobs.name(),
        p_interval_seconds=3600,
        p_worker="w2",
        p_lease_seconds=lease,
    )


def finish(service: Service, jobs: Jobs, token: str, error: str | None = None) -> None:
    service.rpc("cron_finish", p_name=jobs.name(), p_lease_token=token, p_count=3, p_error=error)


@pytest.mark.parametrize("argument", [{"p_worker": ""}, {"p_lease_seconds": 0}])
def test_a_claim_that_makes_no_sense_is_refused(
    argument: dict[str, Any], service: Service, jobs: Jobs
) -> None:
    arguments = {"p_intervals": {jobs.name(): 60}, "p_worker": "w1", "p_lease_seconds": 60}
    with pytest.raises(ServiceError) as refused:
        service.rpc("cron_claim", **(arguments | argument))
    assert refused.value.code == "invalid_argument"


def test_a_wrong_token_finishes_nothing(service: Service, jobs: Jobs) -> None:
    claim(service, jobs)
    before = jobs.row()
    with pytest.raises(ServiceError) as refused:
        finish(service, jobs, str(uuid.uuid4()))
    assert (refused.value.status, refused.value.code) == (409, "lease_lost")
    assert jobs.row() == before


def test_a_job_that_runs_is_not_started_by_an_operator(service: Service, jobs: Jobs) -> None:
    claim(service, jobs)
    with pytest.raises(ServiceError) as refused:
        start(service, jobs)
    assert (refused.value.status, refused.value.code) == (409, "cron_job_running")
    assert refused.value.facts["worker"] == "w1"
    assert 0 < refused.value.facts["retry_after"] <= 60


def test_a_job_that_an_operator_runs_is_not_claimed(service: Service, jobs: Jobs) -> None:
    start(service, jobs)
    assert claim(service, jobs)["due"] == []


def test_a_job_is_due_once_per_interval(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs)["due"]
    finish(service, jobs, due["lease_token"])
    again = claim(service, jobs)
    assert again["due"] == []
    assert 3500 < again["next_in_seconds"] <= 3600
    row = jobs.row()
    assert (row["last_count"], row["last_error"], row["leased_by"]) == (3, None, None)
    jobs.change("due_at = now()")
    assert len(claim(service, jobs)["due"]) == 1


def test_missed_intervals_are_made_up_for_by_one_run(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs)["due"]
    finish(service, jobs, due["lease_token"])
    jobs.change("due_at = now() - interval '3 days'")
    (due,) = claim(service, jobs)["due"]
    finish(service, jobs, due["lease_token"])
    assert claim(service, jobs)["due"] == []


def test_a_failed_job_is_due_again_within_five_minutes(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs, seconds=86_400)["due"]
    finish(service, jobs, due["lease_token"], error="no luck")
    row = jobs.row()
    assert (row["last_error"], row["last_count"]) == ("no luck", None)
    assert 290 < (row["due_at"] - row["last_finished_at"]).total_seconds() <= 300


def test_the_job_of_a_dead_worker_is_taken_over(service: Service, jobs: Jobs) -> None:
    (first,) = claim(service, jobs)["due"]
    jobs.change("leased_until = now() - interval '1 second'")
    (second,) = claim(service, jobs)["due"]
    assert second["lease_token"] != first["lease_token"]
    with pytest.raises(ServiceError) as refused:
        finish(service, jobs, first["lease_token"])
    assert refused.value.code == "lease_lost"
    finish(service, jobs, second["lease_token"])


def test_a_shorter_interval_takes_effect_at_once(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs, seconds=86_400)["due"]
    finish(service, jobs, due["lease_token"])
    assert claim(service, jobs, seconds=30)["next_in_seconds"] <= 30


def test_eight_schedulers_start_a_job_once(db: Connect, jobs: Jobs) -> None:
    connections = [db() for _ in range(8)]
    barrier = threading.Barrier(8)
    leases: list[Any] = []

    def ask(connection: psycopg.Connection) -> None:
        barrier.wait()
        row = connection.execute(
            "select backend.cron_claim(jsonb_build_object(%s::text, 3600), 'w', 60)", [jobs.name()]
        ).fetchone()
        assert row
        leases.extend(row[0]["due"])

    threads = [threading.Thread(target=ask, args=(one,)) for one in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 1


def test_the_table_refuses_half_a_lease(jobs: Jobs, service: Service) -> None:
    claim(service, jobs)
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        jobs.change("lease_token = null")
    assert caught.value.diag.constraint_name == "a_lease_is_whole"


def test_every_run_is_recorded(service: Service, jobs: Jobs) -> None:
    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = service.rpc("cron_run_list", p_job=jobs.name())
        return found

    (due,) = claim(service, jobs)["due"]
    [run] = runs()
    assert (run["worker"], run["finished_at"], run["count"]) == ("w1", None, None)
    finish(service, jobs, due["lease_token"])
    [run] = runs()
    assert (run["count"], run["error"]) == (3, None)
    assert 0 <= run["seconds"] < 60
    jobs.change("due_at = now()")
    (due,) = claim(service, jobs)["due"]
    finish(service, jobs, due["lease_token"], error="no luck")
    jobs.change("due_at = now()")
    claim(service, jobs)
    jobs.change("leased_until = now() - interval '1 second'")
    claim(service, jobs)
    [goes_on, lost, failed, first] = runs()
    assert goes_on["finished_at"] is None
    assert "not heard of" in lost["error"]
    assert (failed["error"], failed["count"]) == ("no luck", None)
    assert first == run


def test_runs_are_deleted_past_their_retention(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs)["due"]
    finish(service, jobs, due["lease_token"])
    jobs.connection.execute(
        "update private.cron_runs set started_at = now() - interval '15 days' where job = %s",
        [jobs.name()],
    )
    assert service.rpc("cron_runs_purge")["count"] >= 1
    assert service.rpc("cron_run_list", p_job=jobs.name()) == []


def test_a_lease_is_prolonged_by_whoever_has_it(service: Service, jobs: Jobs) -> None:
    (due,) = claim(service, jobs)["due"]
    jobs.change("leased_until = now() + interval '1 second'")
    renewed = {"p_name": jobs.name(), "p_lease_seconds": 600}
    service.rpc("cron_renew", **renewed, p_lease_token=due["lease_token"])
    assert (jobs.row()["leased_until"] - jobs.row()["last_started_at"]).total_seconds() > 500
    with pytest.raises(ServiceError) as refused:
        service.rpc("cron_renew", **renewed, p_lease_token=str(uuid.uuid4()))
    assert refused.value.code == "lease_lost"
