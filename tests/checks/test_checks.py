"""Every check of data is empty over healthy data and names the row that somebody damaged.

Checks of structure (0xx) are tested in tests/security/test_structure_checks.py, alike.

The damage is done by a superuser inside a transaction that is rolled back. It goes past the
ledger's functions, but through the tables' constraints: what those refuse needs no check.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.checks.queries import check_files, data_checks, findings
from tests.credits.ledger import Ledger, Payer, one

Damage = Callable[["Scene"], str]


@dataclass(frozen=True)
class Scene:
    """An organization that was granted 100 credits, spent 30, was refunded 5, and holds 20."""

    db: psycopg.Connection
    payer: Payer
    lot_id: str
    settled_id: str
    active_id: str

    def execute(self, query: str, *parameters: Any) -> None:
        """Changes exactly one row."""
        assert self.db.execute(query.encode(), parameters).rowcount == 1

    def add_transaction(self, **columns: Any) -> str:
        """Inserts a ledger row as no function would; its id."""
        values = {
            "id": str(uuid.uuid4()),
            "account_id": self.payer.account_id,
            "version": 1_000_000,
            "operation": "grant",
            "type": "bonus",
            "amount": 1,
            "balance_after": 1,
        } | columns
        names, places = ", ".join(values), ", ".join(["%s"] * len(values))
        query = f"insert into public.credit_transactions ({names}) values ({places})"  # noqa: S608
        self.execute(query, *values.values())
        return str(values["id"])

    def add_conversation(self) -> str:
        """An organization's conversation without messages; its id."""
        query = "insert into public.conversations (organization_id) values (%s) returning id::text"
        return str(one(self.db, query, self.payer.organization_id))

    def add_task(self, **columns: Any) -> str:
        """Inserts a task; expressions of SQL for times."""
        values = {"kind": "'test_check'", "status": "'queued'", "run_after": "now()"} | columns
        names, expressions = ", ".join(values), ", ".join(values.values())
        query = f"insert into private.tasks ({names}) values ({expressions}) returning id::text"  # noqa: S608
        return str(one(self.db, query))

    def add_running_task(self, leased_until: str, **columns: Any) -> str:
        return self.add_task(
            status="'running'",
            attempts="1",
            started_at="now()",
            lease_token="gen_random_uuid()",
            leased_until=leased_until,
            leased_by="'somebody'",
            **columns,
        )


DAMAGE: dict[str, Damage] = {}


def found_by(check: str) -> Callable[[Damage], Damage]:
    """Registers what a check must find; the function returns the subject it names."""

    def register(damage: Damage) -> Damage:
        DAMAGE[check] = damage
        return damage

    return register


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    payer = ledger.new_organization()
    lot_id = ledger.grant(payer, 100)["lot_id"]
    settled_id = ledger.spend(payer, 30)
    ledger.refund(settled_id, 5)
    active_id = ledger.hold(payer, 20, p_seconds=3600)["hold_id"]
    return Scene(ledger.admin, payer, lot_id, settled_id, active_id)


@pytest.mark.parametrize("name", data_checks())
def test_check_finds_the_damage_and_nothing_before(scene: Scene, name: str) -> None:
    assert name in DAMAGE, f"tell this file what {name} must find"
    with scene.db.transaction(force_rollback=True):
        assert findings(scene.db, [scene.payer.account_id]) == []
        subject = DAMAGE[name](scene)
        cursor = scene.db.execute(check_files()[name].encode())
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == ["subject", "detail"]
        assert [column.type_display for column in cursor.description] == ["text", "jsonb"]
        details = [detail for found, detail in cursor.fetchall() if found == subject]
    assert details, f"{name} does not see the damage"
    assert all(isinstance(detail, dict) and detail for detail in details)


def test_every_damage_has_its_check() -> None:
    assert DAMAGE.keys() == data_checks().keys()


@pytest.mark.parametrize("name", data_checks())
def test_check_says_what_it_means_and_how_to_mend_it(name: str) -> None:
    first, second, *_ = check_files()[name].splitlines()
    assert first.startswith("-- ")
    assert first.endswith(".")
    assert second.startswith("-- Mend: ")


# The ledger --------------------------------------------------------------------------------------


@found_by("101_balance_is_lots_less_debt")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_lots set remaining = remaining + 1 where id = %s", scene.lot_id
    )
    return scene.payer.account_id


@found_by("102_balance_is_the_sum_of_transactions")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_accounts set balance = balance + 1 where id = %s",
        scene.payer.account_id,
    )
    return scene.payer.account_id


@found_by("103_held_is_the_sum_of_active_holds")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_accounts set held = 0, active_holds = 0 where id = %s",
        scene.payer.account_id,
    )
    return scene.payer.account_id


@found_by("104_lots_are_the_sum_of_their_movements")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_lots set remaining = remaining - 1 where id = %s", scene.lot_id
    )
    return scene.lot_id


@found_by("105_a_transaction_is_its_lots_less_debt")
def _(scene: Scene) -> str:
    return scene.add_transaction(lot_ids=[scene.lot_id], lot_amounts=[2])


@found_by("106_transactions_form_an_unbroken_chain")
def _(scene: Scene) -> str:
    # The right number but not the balance the one before it ended at.
    version = one(
        scene.db, "select version from public.credit_accounts where id = %s", scene.payer.account_id
    )
    scene.execute(
        "update public.credit_accounts set version = version + 1 where id = %s",
        scene.payer.account_id,
    )
    scene.add_transaction(version=version + 1, balance_after=1_000)
    return scene.payer.account_id


@found_by("107_every_settlement_has_its_transaction")
def _(scene: Scene) -> str:
    # The hold was charged a second time.
    scene.add_transaction(
        operation="settle", type="usage", amount=-30, reference_id=scene.settled_id
    )
    return scene.settled_id


@found_by("108_debt_exists_only_when_nothing_is_unheld")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_accounts set debt = 5, balance = balance - 5 where id = %s",
        scene.payer.account_id,
    )
    return scene.payer.account_id


@found_by("109_debt_comes_from_clawbacks_and_late_settlements")
def _(scene: Scene) -> str:
    return scene.add_transaction(operation="expire", type="expiry", amount=-1, debt_change=1)


@found_by("110_held_credits_are_backed_by_lots")
def _(scene: Scene) -> str:
    scene.execute("update public.credit_lots set remaining = 1 where id = %s", scene.lot_id)
    return scene.payer.account_id


@found_by("111_members_hold_what_their_holds_say")
def _(scene: Scene) -> str:
    scene.execute(
        "update private.member_spending set held = 0 where organization_id = %s",
        scene.payer.organization_id,
    )
    return f"{scene.payer.organization_id}/{scene.payer.user}"


@found_by("112_clawbacks_match_their_lots")
def _(scene: Scene) -> str:
    scene.execute("update public.credit_lots set clawed_back = 7 where id = %s", scene.lot_id)
    return scene.lot_id


@found_by("113_expired_lots_are_swept")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_lots set expires_at = now() - interval '2 hours' where id = %s",
        scene.lot_id,
    )
    return scene.payer.account_id


@found_by("114_holds_past_their_deadline_are_reaped")
def _(scene: Scene) -> str:
    scene.execute(
        "update private.credit_holds set created_at = now() - interval '3 hours',"
        " deadline = now() - interval '2 hours' where id = %s",
        scene.active_id,
    )
    return scene.active_id


@found_by("115_refunds_match_their_holds")
def _(scene: Scene) -> str:
    scene.execute(
        "update private.credit_holds set refunded_amount = 0 where id = %s", scene.settled_id
    )
    return scene.settled_id


@found_by("116_lifetime_counters_match_the_ledger")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_accounts set lifetime_spent = lifetime_spent + 1 where id = %s",
        scene.payer.account_id,
    )
    return scene.payer.account_id


@found_by("117_expired_credits_match_their_lots")
def _(scene: Scene) -> str:
    scene.execute("update public.credit_lots set expired = 1 where id = %s", scene.lot_id)
    return scene.lot_id


@found_by("118_a_key_has_one_hold_that_counts")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into private.credit_holds"
        " (account_id, action, amount, idempotency_key, attempt, deadline)"
        " select account_id, action, 0, idempotency_key, 2, deadline"
        " from private.credit_holds where id = %s",
        scene.settled_id,
    )
    return scene.settled_id


@found_by("118_a_key_has_one_hold_that_counts")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into private.credit_holds"
        " (account_id, action, amount, status, idempotency_key, attempt, deadline, finished_at)"
        " select account_id, action, 0, 'expired', idempotency_key, 2, now() + interval '1 minute',"
        " now() from private.credit_holds where id = %s",
        scene.settled_id,
    )
    return scene.settled_id


@found_by("119_stand_ins_stand_in_for_expired_lots")
def _(scene: Scene) -> str:
    scene.execute("update public.credit_lots set stands_in_for = id where id = %s", scene.lot_id)
    return scene.lot_id


# Usage -------------------------------------------------------------------------------------------


@found_by("120_api_keys_hold_what_their_holds_say")
def _(scene: Scene) -> str:
    key = str(
        one(
            scene.db,
            "insert into public.api_keys (organization_id, name, key_prefix, scopes)"
            " values (%s, 'a program', 'qk_live_', '{chat}') returning id",
            scene.payer.organization_id,
        )
    )
    scene.execute("insert into private.api_key_states (api_key_id, held) values (%s, 1)", key)
    scene.execute(
        "update private.credit_holds set api_key_id = %s where id = %s", key, scene.active_id
    )
    return key


@found_by("205_conversations_count_their_messages")
def _(scene: Scene) -> str:
    conversation = scene.add_conversation()
    scene.execute(
        "update public.conversations set message_count = message_count + 1 where id = %s",
        conversation,
    )
    return conversation


@found_by("206_answers_cost_what_was_charged")
def _(scene: Scene) -> str:
    # The hold was settled for 30.
    scene.execute(
        "insert into public.messages (conversation_id, role, hold_id, credits)"
        " values (%s, 'assistant', %s, 29)",
        scene.add_conversation(),
        scene.settled_id,
    )
    return str(one(scene.db, "select id from public.messages where hold_id = %s", scene.settled_id))


@found_by("207_citations_are_of_the_conversations_tenant")
def _(scene: Scene) -> str:
    query = (
        "insert into public.messages (conversation_id, role, status, citations)"
        " values (%s, 'assistant', 'failed', jsonb_build_array(jsonb_build_object("
        "'document_id', %s::text))) returning id::text"
    )
    return str(one(scene.db, query, scene.add_conversation(), document_of(scene)))


@found_by("201_every_hold_has_its_usage_row")
def _(scene: Scene) -> str:
    scene.execute("delete from public.usage_logs where id = %s", scene.active_id)
    return scene.active_id


@found_by("202_rollups_are_the_sum_of_usage")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.api_usage set request_count = request_count + 1 where account_id = %s",
        scene.payer.account_id,
    )
    return scene.payer.account_id


@found_by("202_rollups_are_the_sum_of_usage")
def _(scene: Scene) -> str:
    # Past the triggers of the parent.
    partition = one(
        scene.db,
        "select tableoid::regclass::text from public.usage_logs where id = %s",
        scene.settled_id,
    )
    query = f"update {partition} set completion_tokens = 7 where id = %s"  # noqa: S608
    scene.execute(query, scene.settled_id)
    return scene.payer.account_id


@found_by("203_started_usage_has_an_active_hold")
def _(scene: Scene) -> str:
    scene.db.execute("select private.create_usage_partition(now() - interval '2 hours')")
    scene.execute(
        "update public.usage_logs set status = 'started', finished_at = null,"
        " created_at = created_at - interval '2 hours' where id = %s",
        scene.settled_id,
    )
    return scene.settled_id


@found_by("204_usage_partitions_lie_ahead")
def _(scene: Scene) -> str:
    month, partition = scene.db.execute(
        "select to_char(m, 'YYYY-MM'), 'usage_logs_' || to_char(m, 'YYYY_MM')"
        " from (select (now() at time zone 'utc') + interval '3 months' as m) as ahead"
    ).fetchone() or ("", "")
    scene.db.execute(f"alter table private.{partition} rename to usage_logs_elsewhere".encode())
    return str(month)


# Tasks -------------------------------------------------------------------------------------------


@found_by("301_running_tasks_have_a_live_worker")
def _(scene: Scene) -> str:
    return scene.add_running_task("now() - interval '2 hours'")


@found_by("302_due_tasks_are_taken")
def _(scene: Scene) -> str:
    return scene.add_task(run_after="now() - interval '25 hours'")


@found_by("303_work_in_progress_keeps_its_hold")
def _(scene: Scene) -> str:
    scene.execute(
        "update private.credit_holds set deadline = now() + interval '1 minute' where id = %s",
        scene.active_id,
    )
    return scene.add_running_task("now() + interval '10 minutes'", hold_id=f"'{scene.active_id}'")


@found_by("304_given_up_tasks_hold_no_credits")
def _(scene: Scene) -> str:
    return scene.add_task(status="'cancelled'", finished_at="now()", hold_id=f"'{scene.active_id}'")


@found_by("305_cron_jobs_run")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into private.cron_jobs (name, interval_seconds, due_at)"
        " values ('test_check', 60, now() - interval '1 day')"
    )
    return "test_check"


# Billing -----------------------------------------------------------------------------------------


@found_by("401_reversals_are_clawed_back")
def _(scene: Scene) -> str:
    query = (
        "insert into public.credit_purchases (account_id, pack_id, pack_name, credits,"
        " price_minor, currency, status, lot_id, paid_at, amount_refunded_minor)"
        " select %s, p.id, p.name, 100, 500, 'eur', 'refunded', %s, now(), 500"
        " from public.credit_packs as p order by p.slug limit 1 returning id::text"
    )
    return str(one(scene.db, query, scene.payer.account_id, scene.lot_id))


@found_by("402_stripe_events_are_finished")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into private.stripe_events (id, type, object_type, object_id, api_version,"
        " livemode, created, payload, status, last_error, received_at)"
        " values ('evt_check', 'charge.refunded', 'charge', 'ch_check', '2026', false,"
        " now(), '{}', 'failed', 'somebody', now() - interval '2 hours')"
    )
    return "evt_check"


@found_by("405_recorded_payments_match_their_lots")
def _(scene: Scene) -> str:
    query = (
        "insert into public.payments (account_id, status, amount_minor, currency, provider,"
        " provider_transaction_id, lot_id)"
        " values (%s, 'succeeded', 500, 'eur', 'manual', 'check', %s) returning id::text"
    )
    return str(one(scene.db, query, scene.payer.account_id, scene.lot_id))


@found_by("408_recorded_invoices_match_their_payments")
def _(scene: Scene) -> str:
    query = (
        "insert into public.invoices (account_id, status, number, subtotal_minor, total_minor,"
        " amount_due_minor, amount_paid_minor, amount_remaining_minor, currency, period_start,"
        " period_end, issued_at, provider)"
        " values (%s, 'paid', 'check', 2900, 2900, 2900, 2900, 0, 'eur', now(), now(), now(),"
        " 'manual') returning id::text"
    )
    return str(one(scene.db, query, scene.payer.account_id))


@found_by("403_paid_invoices_granted_their_credits")
def _(scene: Scene) -> str:
    query = (
        "insert into public.invoices (account_id, status, subtotal_minor, total_minor,"
        " amount_due_minor, amount_paid_minor, amount_remaining_minor, currency, period_start,"
        " period_end, issued_at, stripe_invoice_id, credits)"
        " values (%s, 'paid', 2900, 2900, 2900, 2900, 0, 'eur', now(), now(), now(), 'in_check', 6)"
        " returning id::text"
    )
    return str(one(scene.db, query, scene.payer.account_id))


@found_by("404_plans_are_paid_for")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.profiles set plan_id = (select id from public.plans where slug = 'pro'),"
        " plan_started_at = now(), plan_expires_at = now() + interval '1 day' where id = %s",
        scene.payer.user,
    )
    return str(scene.payer.user)


# Provider keys -----------------------------------------------------------------------------------


@found_by("601_provider_keys_have_their_secret")
def _(scene: Scene) -> str:
    query = (
        "insert into public.provider_keys (id, organization_id, provider_id, name, last_four)"
        " select gen_random_uuid(), %s, p.id, 'x', '' from public.model_providers as p"
        " where p.slug = 'openai' returning id::text"
    )
    return str(one(scene.db, query, scene.payer.organization_id))


@found_by("602_own_keys_cost_their_fee")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.usage_logs set credential = 'own', cost_estimate = 1 where id = %s",
        scene.settled_id,
    )
    return scene.settled_id


# Images ------------------------------------------------------------------------------------------


def generation_of(scene: Scene) -> str:
    """One of the payer's, whose task waits."""
    query = (
        'select backend.image_start(\'{"model_id": "flux-schnell", "prompt": "x"}\','
        " p_user_id => %s) #>> '{generation,id}'"
    )
    return str(one(scene.db, query, scene.payer.user))


@found_by("701_images_have_their_files")
def _(scene: Scene) -> str:
    query = (
        "insert into public.generated_images"
        " (user_id, storage_path, width, height, format, size_bytes)"
        " values (%s, 'nobody/nothing/0.png', 8, 8, 'png', 9) returning id::text"
    )
    return str(one(scene.db, query, scene.payer.user))


@found_by("702_files_have_their_image")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into storage.objects (bucket_id, name, created_at)"
        " values ('images', 'nobody/nothing/1.png', now() - interval '2 hours')"
    )
    return "nobody/nothing/1.png"


@found_by("703_generations_in_progress_have_their_task")
def _(scene: Scene) -> str:
    generation_id = generation_of(scene)
    scene.execute("delete from private.tasks where key = %s", generation_id)
    return generation_id


@found_by("704_generations_cost_what_was_charged")
def _(scene: Scene) -> str:
    generation_id = generation_of(scene)
    scene.execute("delete from private.tasks where key = %s", generation_id)
    scene.execute(
        "select backend.credit_release(g.hold_id) from public.image_generations as g"
        " where g.id = %s",
        generation_id,
    )
    scene.execute(
        "update public.image_generations set status = 'completed', completed_at = now(),"
        " credits_cost = 1, credits_charged = 1 where id = %s",
        generation_id,
    )
    return generation_id


# Notifications -----------------------------------------------------------------------------------


@found_by("501_queued_messages_have_a_task")
def _(scene: Scene) -> str:
    query = (
        "with told as (insert into private.notifications (user_id, template, key)"
        " values (%s, 'receipt', 'check') returning id, user_id)"
        " insert into private.email_deliveries (notification_id, user_id, created_at)"
        " select id, user_id, now() - interval '25 hours' from told returning id::text"
    )
    return str(one(scene.db, query, scene.payer.user))


@found_by("407_thresholds_lie_ahead")
def _(scene: Scene) -> str:
    # Past the trigger, which would tell the owner and aim at the next.
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "update public.credit_accounts set next_credits_threshold = 0 where id = %s",
        scene.payer.account_id,
    )
    scene.db.execute("set local session_replication_role = origin")
    return scene.payer.account_id


@found_by("406_automatic_top_ups_keep_their_threshold")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.credit_accounts set top_up_below = 5 where id = %s", scene.payer.account_id
    )
    return scene.payer.account_id


# Libraries and documents -------------------------------------------------------------------------


def version_of(scene: Scene, vendor: str = "a-shelf") -> str:
    """A public library that can be searched, with one chunk; the id of its version."""
    library_id = f"/{vendor}/docs"
    scene.execute(
        "select backend.library_add(%s, 'Docs', 'git', p_actor => 'operator')", library_id
    )
    scene.execute("select backend.library_version_begin(%s, '1.0', 'probe', 1)", library_id)
    version_id = str(
        one(
            scene.db,
            "select id::text from public.library_versions where library_id = %s",
            library_id,
        )
    )
    scene.execute(
        "select backend.library_chunks_put(%s, 1, jsonb_build_array(jsonb_build_object("
        "'chunk_index', 0, 'source_path', 'a', 'content', 'x', 'type', 'guide',"
        " 'token_count', 1)))",
        version_id,
    )
    scene.execute("select backend.library_version_finish(%s, 1)", version_id)
    return version_id


def document_of(scene: Scene, state: str = "ready") -> str:
    """A document of a person, without a file; its id."""
    scene.db.execute(
        "update public.profiles set plan_id = (select id from public.plans"
        " where slug = 'business') where id = %s",
        [scene.payer.user],
    )
    query = (
        "insert into public.documents (user_id, name, original_filename, mime_type, file_size,"
        " state, indexed_at) values (%s, 'n', 'n.txt', 'text/plain', 1, %s, now())"
        " returning id::text"
    )
    return str(one(scene.db, query, scene.payer.user, state))


@found_by("801_versions_count_their_chunks")
def _(scene: Scene) -> str:
    version_id = version_of(scene)
    scene.execute(
        "delete from public.documentation_chunks where library_version_id = %s", version_id
    )
    return version_id


@found_by("802_libraries_count_their_versions")
def _(scene: Scene) -> str:
    version_of(scene)
    scene.execute("update public.libraries set total_tokens = 7 where id = '/a-shelf/docs'")
    return "/a-shelf/docs"


@found_by("803_libraries_have_one_latest_version")
def _(scene: Scene) -> str:
    scene.execute(
        "update public.library_versions set is_latest = false where id = %s", version_of(scene)
    )
    return "/a-shelf/docs"


@found_by("804_library_ids_keep_to_their_owner")
def _(scene: Scene) -> str:
    version_of(scene)
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "update public.libraries set organization_id = %s where id = '/a-shelf/docs'",
        scene.payer.organization_id,
    )
    scene.db.execute("set local session_replication_role = origin")
    return "/a-shelf/docs"


@found_by("805_documentation_is_its_librarys")
def _(scene: Scene) -> str:
    version_id = version_of(scene)
    scene.execute(
        "update public.library_versions set organization_id = %s where id = %s",
        scene.payer.organization_id,
        version_id,
    )
    return version_id


@found_by("806_vectors_are_of_a_model_in_use")
def _(scene: Scene) -> str:
    query = (
        "insert into private.documentation_embeddings"
        " (chunk_id, model, library_version_id, embedding)"
        " select id, 'gone', library_version_id, private.padded_vector('[1]')"
        " from public.documentation_chunks where library_version_id = %s returning chunk_id::text"
    )
    return str(one(scene.db, query, version_of(scene)))


@found_by("807_crawls_come_to_an_end")
def _(scene: Scene) -> str:
    version_id = version_of(scene)
    scene.execute("select backend.library_version_begin('/a-shelf/docs', '1.0')")
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "update public.library_versions set updated_at = now() - interval '25 hours' where id = %s",
        version_id,
    )
    scene.db.execute("set local session_replication_role = origin")
    return version_id


@found_by("808_snapshots_have_their_version")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into storage.objects (bucket_id, name, created_at)"
        " values ('libraries', 'nobody/nothing.tar', now() - interval '25 hours')"
    )
    return "nobody/nothing.tar"


@found_by("809_libraries_were_within_their_plan")
def _(scene: Scene) -> str:
    organization_id = scene.payer.organization_id
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "insert into public.libraries (id, organization_id, title, source_kind)"
        " select '/' || slug || '/docs', id, 'Docs', 'git' from public.organizations where id = %s",
        organization_id,
    )
    scene.execute(
        "update public.organizations set plan_id = (select id from public.plans where slug ="
        " 'free'), plan_started_at = null where id = %s",
        organization_id,
    )
    scene.db.execute("set local session_replication_role = origin")
    return str(organization_id)


@found_by("811_documents_count_their_chunks")
def _(scene: Scene) -> str:
    document_id = document_of(scene)
    scene.execute("update public.documents set chunk_count = 3 where id = %s", document_id)
    return document_id


@found_by("812_documents_have_their_file")
def _(scene: Scene) -> str:
    return document_of(scene)


@found_by("813_files_have_their_document")
def _(scene: Scene) -> str:
    scene.execute(
        "insert into storage.objects (bucket_id, name) values ('documents', 'nobody/nothing/x')"
    )
    return "nobody/nothing/x"


@found_by("814_documents_in_progress_have_their_task")
def _(scene: Scene) -> str:
    document_id = document_of(scene, "queued")
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "update public.documents set updated_at = now() - interval '11 minutes' where id = %s",
        document_id,
    )
    scene.db.execute("set local session_replication_role = origin")
    return document_id


@found_by("815_documents_were_within_their_plan")
def _(scene: Scene) -> str:
    document_of(scene)
    scene.db.execute("set local session_replication_role = replica")
    scene.execute(
        "update public.profiles set plan_id = null where id = %s",
        scene.payer.user,
    )
    scene.db.execute("set local session_replication_role = origin")
    return str(scene.payer.user)


# Privacy -----------------------------------------------------------------------------------------


@found_by("901_erasures_come_to_an_end")
def _(scene: Scene) -> str:
    person = scene.payer.user
    return str(
        one(
            scene.db,
            "insert into private.erasures (user_id, requested_by, due_at)"
            " values (%s, 'person', now() - interval '25 hours') returning id::text",
            person,
        )
    )
