"""Every kind of alert, from what causes it to the email in the mailbox, in both languages."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from local.stack import Stack
from tests.billing.shop import Shop
from tests.billing.subscribers import Subscribers, days_ago
from tests.conftest import User
from tests.notifications.test_emails import text_of
from tests.notifications.test_worker import wait_for_email

Cause = Callable[[Subscribers, User], dict[str, str]]
"""Makes it come to pass; returns what an email's texts need to know of it."""

NARROW, NO_BREAK = "\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"


def low_balance(subscribers: Subscribers, user: User) -> dict[str, str]:
    subscribers.shop.spend(user, Decimal(60))
    return {}


def usage_threshold(subscribers: Subscribers, user: User) -> dict[str, str]:
    user.client.rpc("set_monthly_budget", {"p_budget": 10}).execute()
    subscribers.shop.spend(user, Decimal("8.5"))
    return {}


def payment_failed(subscribers: Subscribers, user: User) -> dict[str, str]:
    subscriber = subscribers.new(user, at=days_ago(31))
    subscriber.world.declining.add(subscriber.state["customer"])
    events = subscriber.invoiced(subscriber.world.renew(subscriber.id))
    subscriber.world.declining.clear()
    # The invoice first, and which payment is its: so the alert knows where it can be paid.
    subscriber.deliver(list(reversed(events)))
    return {"url": subscriber.invoice["hosted_invoice_url"]}


def invoice_overdue(subscribers: Subscribers, user: User) -> dict[str, str]:
    number = f"2026-{uuid.uuid4().hex[:8]}"
    due = datetime.now(UTC) - timedelta(days=2)
    subscribers.shop.service.rpc(
        "invoice_record",
        p_user_id=user.id,
        p_number=number,
        p_amount_minor=29000,
        p_currency="eur",
        p_issued_at=(due - timedelta(days=14)).isoformat(),
        p_due_at=due.isoformat(),
        p_reason="a contract",
        p_actor="ada",
    )
    return {"number": number} | scan(subscribers.shop, due)


def provider_key_invalid(subscribers: Subscribers, user: User) -> dict[str, str]:
    key_id = str(uuid.uuid4())
    sealed = {"kid": "probe", "nonce": "AAAAAAAAAAAAAAAA", "wrapped_key": "A" * 80}
    subscribers.shop.service.rpc(
        "provider_key_add",
        p_user_id=user.id,
        p_id=key_id,
        p_provider="mistral",
        p_name="a key",
        p_last_four="x7Qf",
        p_sealed=sealed | {"ciphertext": "A" * 80},
        p_outcome="completed",
    )
    subscribers.shop.service.rpc(
        "provider_key_checked", p_id=key_id, p_secret_version=1, p_outcome="rejected"
    )
    return {}


def subscription_expiring(subscribers: Subscribers, user: User) -> dict[str, str]:
    until = datetime.now(UTC) + timedelta(days=3)
    subscribers.shop.service.rpc(
        "plan_assign",
        p_user_id=user.id,
        p_plan="pro",
        p_until=until.isoformat(),
        p_reason="a trial",
        p_actor="ada",
    )
    return scan(subscribers.shop, until)


def scan(shop: Shop, day: datetime) -> dict[str, str]:
    """As the cron job does hourly; the year of a day, which every language writes alike."""
    shop.service.rpc("alerts_scan", p_limit=5000)
    return {"year": str(day.year)}


ALERTS: dict[str, tuple[Cause, dict[str, tuple[str, list[str]]]]] = {
    "low_balance": (
        low_balance,
        {
            "en": ("You have 40 credits left", ["fallen below 50 credits", "Balance: 40 credits"]),
            "fr": (
                "Il vous reste 40 crédits",
                ["passé sous 50 crédits", "Solde : 40 crédits"],
            ),
        },
    ),
    "usage_threshold": (
        usage_threshold,
        {
            "en": ("You have used 80% of your limit", ["Used: 8.50 of 10 credits"]),
            "fr": (
                f"Vous avez utilisé 80{NARROW}% de votre limite",
                ["Utilisé : 8,50 crédits sur 10"],
            ),
        },
    ),
    "payment_failed": (
        payment_failed,
        {
            "en": ("Your payment of €29.00 was declined", ["Amount: €29.00", "{url}"]),
            "fr": (
                f"Votre paiement de 29,00{NO_BREAK}€ a été refusé",
                [f"Montant : 29,00{NO_BREAK}€", "{url}"],
            ),
        },
    ),
    "invoice_overdue": (
        invoice_overdue,
        {
            "en": ("Invoice {number} is overdue", ["Amount: €290.00", "It was due on", "{year}"]),
            "fr": (
                "La facture {number} est en retard",
                [f"Montant : 290,00{NO_BREAK}€", "à régler avant le", "{year}"],
            ),
        },
    ),
    "provider_key_invalid": (
        provider_key_invalid,
        {
            "en": ("Mistral AI does not accept your key", ["The key ends in x7Qf.", "Replace it"]),
            "fr": ("Mistral AI refuse votre clé", ["La clé se termine par x7Qf.", "Remplacez-la"]),
        },
    ),
    "subscription_expiring": (
        subscription_expiring,
        {
            "en": ("Your Pro subscription ends on", ["Plan: Pro", "{year}"]),
            "fr": ("Votre abonnement Pro prend fin le", ["Formule : Pro", "{year}"]),
        },
    ),
}
"""Type → what causes it; by language its subject, and what the text says."""


def test_every_type_of_alert_is_here(shop: Shop) -> None:
    row = shop.row(
        "select pg_get_constraintdef(oid) as it from pg_constraint where conname = 'type_is_known'"
        " and conrelid = 'public.billing_alerts'::regclass"
    )
    assert sorted(ALERTS) == sorted(row["it"].split("'")[1::2])


@pytest.mark.usefixtures("functions_url")
@pytest.mark.parametrize("language", ["fr", "en"])
@pytest.mark.parametrize("kind", ALERTS)
def test_an_alert_arrives_in_the_mailbox(
    stack: Stack, subscribers: Subscribers, user: User, kind: str, language: str
) -> None:
    subscribers.shop.rows(
        "update public.profiles set language = %s where id = %s", language, user.id
    )
    cause, emails = ALERTS[kind]
    known = cause(subscribers, user)
    subject, sentences = emails[language]
    text = text_of(wait_for_email(stack, user.email, subject.format(**known)))
    for sentence in sentences:
        assert sentence.format(**known) in text
    (alert,) = subscribers.shop.rows(
        "select type, message from public.billing_alerts where user_id = %s", user.id
    )
    assert alert["type"] == kind
