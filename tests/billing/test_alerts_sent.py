"""What an owner is told in the app they are told by email and webhook too."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from tests.billing.test_alerts import alerts, raise_alert, set_budget
from tests.credits.ledger import Ledger, Payer, call
from tests.credits.parallel import at_once


def sent(ledger: Ledger, payer: Payer) -> list[dict[str, Any]]:
    """Template, key, facts and number of emails of what a payer was sent, oldest first."""
    with ledger.admin.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select n.template, n.key, n.facts, (select count(*) from private.email_deliveries as d"
            " where d.notification_id = n.id) as emails from private.notifications as n"
            " where n.user_id = %(user)s and %(organization)s::uuid is null"
            " or n.organization_id = %(organization)s order by n.id",
            {"user": payer.user, "organization": payer.organization_id},
        ).fetchall()


def verify_addresses(ledger: Ledger, payer: Payer) -> None:
    ledger.admin.execute(
        "update public.profiles set email_verified_at = now() where id = any(%s::uuid[])",
        [list(payer.users)],
    )


def test_a_crossing_that_was_told_is_not_sent_again(ledger: Ledger) -> None:
    payer = ledger.new_payer()
    for _ in range(2):
        raise_alert(ledger.admin, payer, "payment_failed", "in_1")
    assert len(sent(ledger, payer)) == 1


def test_an_alert_is_sent_with_its_facts(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    verify_addresses(ledger, payer)
    ledger.spend(payer, 170)
    [alert] = alerts(ledger, payer)
    assert sent(ledger, payer) == [
        {
            "template": "low_balance",
            "key": alert["key"],
            "facts": alert["metadata"],
            "emails": 1,
        }
    ]


def test_the_admins_of_an_organization_get_its_alerts(ledger: Ledger) -> None:
    payer = ledger.new_organization(100, members=3)
    verify_addresses(ledger, payer)
    set_budget(ledger, payer, 10)
    ledger.spend(payer, 9)
    [message] = sent(ledger, payer)
    # Its owner; the two members administer nothing.
    assert (message["template"], message["emails"]) == ("usage_threshold", 1)
    assert message["facts"].items() >= {"percent": 80, "used": 9, "limit": 10}.items()


def test_twenty_settlements_at_once_send_one_message(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    holds = [ledger.hold(payer, 5)["hold_id"] for _ in range(20)]
    doors = [ledger.another_door() for _ in range(20)]
    at_once(
        doors,
        lambda door, index: call(door, "backend.credit_settle", p_hold_id=holds[index], p_amount=5),
    )
    assert [message["template"] for message in sent(ledger, payer)] == ["low_balance"]
    ledger.verify(payer)


def test_a_message_that_cannot_be_queued_does_not_stop_a_settlement(ledger: Ledger) -> None:
    payer = ledger.new_payer(100)
    hold_id = ledger.hold(payer, 60)["hold_id"]
    with ledger.admin.transaction(force_rollback=True):
        ledger.admin.execute("alter function private.notify rename to notify_nobody")
        call(ledger.admin, "private.credit_settle", p_hold_id=hold_id, p_amount=60)
        assert ledger.balance(payer) == 40
        assert alerts(ledger, payer) == []
        ledger.verify(payer)
