"""Invariants are proved in the database that is running, and what is wrong is kept until mended."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from functions.core.database import Database
from functions.cron.jobs import Step
from local.check_chapter import CHAPTER, chapter
from local.paths import CHECKS
from tests.cron.conftest import Connect
from tests.support.service import Service


@pytest.fixture
def invariant(db: Connect) -> Iterator[str]:
    """One of the test's own, which holds; its name. It is not due for anybody else."""
    name = f"999_{uuid.uuid4().hex}"
    connection = db()
    connection.execute(
        "insert into private.invariants (name, says, mend, query, proved_at)"
        " values (%s, 'It holds.', 'Mend it.', 'select 1 as subject, null as detail where false',"
        " now())",
        [name],
    )
    yield name
    connection.execute("delete from private.invariants where name = %s", [name])


def is_now(db: Connect, name: str, query: str) -> None:
    db().execute("update private.invariants set query = %s where name = %s", [query, name])


def prove(service: Service, name: str) -> Any:
    return service.rpc("invariants_prove", p_name=name)


def found(service: Service, name: str) -> Any:
    wrong = service.rpc("invariants_status")["wrong"]
    return next((one for one in wrong if one["name"] == name), None)


def test_the_chapter_is_what_the_files_say() -> None:
    assert CHAPTER.read_text() == chapter(), "run: make schema"
    assert chapter().count("\n$query$") == 2 * len(list(CHECKS.glob("*.sql")))


def test_what_is_wrong_is_kept_until_it_is_mended(
    service: Service, db: Connect, invariant: str
) -> None:
    assert prove(service, invariant) == {"count": 1, "wrong": []}
    assert found(service, invariant) is None
    is_now(db, invariant, "select n as subject, to_jsonb(n) as detail from generate_series(1, 3) n")
    for _ in range(2):
        [one] = prove(service, invariant)["wrong"]
        assert (one["name"], one["found"], one["error"]) == (invariant, 3, None)
    told = found(service, invariant)
    assert [row["subject"] for row in told["findings"]] == ["1", "2", "3"]
    assert (told["says"], told["mend"]) == ("It holds.", "Mend it.")
    since = told["findings"][1]["found_at"]
    is_now(db, invariant, "select 2 as subject, null as detail")
    prove(service, invariant)
    [row] = found(service, invariant)["findings"]
    assert (row["subject"], row["found_at"]) == ("2", since)
    is_now(db, invariant, "select 2 as subject, null as detail where false")
    assert prove(service, invariant)["wrong"] == []
    assert found(service, invariant) is None


def test_of_many_rows_some_are_kept_and_all_are_counted(
    service: Service, db: Connect, invariant: str
) -> None:
    is_now(db, invariant, "select n as subject, null as detail from generate_series(1, 250) as n")
    [one] = prove(service, invariant)["wrong"]
    assert one["found"] == 250
    [kept] = db().execute(
        "select count(*) from private.invariant_findings where invariant = %s", [invariant]
    )
    assert kept == (100,)


def test_one_that_cannot_be_asked_says_so(service: Service, db: Connect, invariant: str) -> None:
    is_now(db, invariant, "select nothing from nowhere")
    [one] = prove(service, invariant)["wrong"]
    assert one["found"] is None
    assert one["error"].startswith("42P01")


@pytest.mark.anyio
async def test_each_is_proved_once_in_its_time_and_told_in_the_log(
    database: Database, db: Connect, invariant: str, caplog: pytest.LogCaptureFixture
) -> None:
    is_now(db, invariant, "select 'x' as subject, null as detail")
    db().execute("update private.invariants set proved_at = null where name = %s", [invariant])

    class Mine(Step):
        """Of the test's own alone: whatever else is wrong is other tests' doing."""

        async def _call(self, database: Database, **arguments: Any) -> int:
            return await super()._call(database, **arguments, p_name=invariant)

    with caplog.at_level(logging.ERROR):
        assert await Mine("invariants_prove", seconds=600.0).run(database) == 1
    [record] = [one for one in caplog.records if one.message == "invariant does not hold"]
    assert record.fields["name"] == invariant  # type: ignore[attr-defined]
    assert record.fields["found"] == 1  # type: ignore[attr-defined]
