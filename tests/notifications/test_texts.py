"""Texts, templates and docs name the same facts; values are written as people write them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from functions.notifications.message import words_of
from functions.notifications.texts import TEXTS, Language, Text
from functions.notifications.values import values
from local.paths import ROOT
from tests.notifications.conftest import Desk

NBSP, NARROW = "\u00a0", "\u202f"
OF_THE_RECIPIENT = {"organization", "inviter", "role", "expires_at", "product"}
DOCUMENT = (ROOT / "docs" / "notifications.md").read_text()


def words_in(text: Text) -> set[str]:
    found: set[str] = set()
    for sentence in (text.subjects, *text.paragraphs):
        for alternative in (sentence,) if isinstance(sentence, str) else sentence:
            found |= words_of(alternative)
    return found


def test_there_is_a_text_for_every_template_that_is_emailed(desk: Desk) -> None:
    rows = desk.rows("select name from private.notification_templates where is_email")
    assert {row["name"] for row in rows} == TEXTS.keys()


@pytest.mark.parametrize("template", TEXTS)
def test_both_languages_say_the_same(template: str) -> None:
    french, english = TEXTS[template]["fr"], TEXTS[template]["en"]
    assert words_in(french) == words_in(english)
    assert len(french.paragraphs) == len(english.paragraphs)
    assert french.link == english.link


@pytest.mark.parametrize("template", TEXTS)
@pytest.mark.parametrize("language", ["fr", "en"])
def test_the_last_subject_needs_no_fact(template: str, language: Language) -> None:
    assert "{" not in TEXTS[template][language].subjects[-1]


@pytest.mark.parametrize("template", TEXTS)
def test_the_facts_of_a_template_are_in_the_docs(template: str) -> None:
    (row,) = re.findall(rf"^\| `{template}` \|.*$", DOCUMENT, re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", row)) - {template}
    used = words_in(TEXTS[template]["en"]) - OF_THE_RECIPIENT
    if "amount" in used:
        used = used - {"amount"} | {"amount_minor", "currency"}
    if "unit" in used:
        used = used - {"unit"} | {"limit_source"}
    if TEXTS[template]["en"].link == "invoice":
        used.add("invoice_url")
    assert used <= documented


def test_every_template_is_in_the_docs(desk: Desk) -> None:
    for row in desk.rows("select name from private.notification_templates"):
        assert f"| `{row['name']}` |" in DOCUMENT


@pytest.mark.parametrize(
    ("facts", "french", "english"),
    [
        ({"amount_minor": 2900, "currency": "eur"}, f"29,00{NBSP}€", "€29.00"),
        ({"amount_minor": -2900, "currency": "eur"}, f"-29,00{NBSP}€", "-€29.00"),
        ({"amount_minor": -5, "currency": "usd"}, f"-0,05{NBSP}$", "-$0.05"),
        (
            {"amount_minor": 123456789, "currency": "chf"},
            f"1{NARROW}234{NARROW}567,89{NBSP}CHF",
            f"1,234,567.89{NBSP}CHF",
        ),
        ({"amount_minor": 500, "currency": "jpy"}, f"500{NBSP}JPY", f"500{NBSP}JPY"),
        ({"amount_minor": 1500, "currency": "kwd"}, f"1,500{NBSP}KWD", f"1.500{NBSP}KWD"),
        ({"amount_minor": "2900", "currency": "eur"}, f"29,00{NBSP}€", "€29.00"),
    ],
)
def test_amounts(facts: dict[str, Any], french: str, english: str) -> None:
    assert values(facts, "fr")["amount"] == french
    assert values(facts, "en")["amount"] == english


@pytest.mark.parametrize(
    ("fact", "french", "english"),
    [
        (0, "0", "0"),
        (1000, f"1{NARROW}000", "1,000"),
        (12.5, "12,50", "12.50"),
        ("0.000001", "0", "0"),
        (-0.5, "-0,50", "-0.50"),
    ],
)
def test_numbers(fact: object, french: str, english: str) -> None:
    assert values({"balance": fact}, "fr")["balance"] == french
    assert values({"balance": fact}, "en")["balance"] == english


def test_percentages_and_dates() -> None:
    facts = {"percent": 80, "ends_at": "2030-03-01T00:30:00+02:00", "due_at": "2030-01-01"}
    french, english = values(facts, "fr"), values(facts, "en")
    assert (french["percent"], english["percent"]) == (f"80{NARROW}%", "80%")
    assert (french["ends_at"], english["ends_at"]) == ("28 février 2030", "28 February 2030")
    assert (french["due_at"], english["due_at"]) == ("1er janvier 2030", "1 January 2030")


@pytest.mark.parametrize(
    "fact", [None, True, "", "x", "NaN", "Infinity", 1e300, [], {}, "2030-13-01", "\x00"]
)
def test_a_fact_that_is_nonsense_has_no_value(fact: object) -> None:
    names = ("balance", "percent", "ends_at")
    assert values(dict.fromkeys(names, fact) | {"amount_minor": fact, "currency": fact}, "fr") == {}


def test_a_long_text_is_cut() -> None:
    text = values({"description": "word " * 1000}, "fr")["description"]
    assert len(text) <= 100
    assert text.endswith("…")


@pytest.mark.parametrize("text", ["a\r\nb", "a\u2028b", "a\x00b", "a\u202eb", "a\t\x7f b"])
def test_a_text_is_one_line_in_one_direction(text: str) -> None:
    assert values({"description": text}, "fr")["description"] == "a b"
