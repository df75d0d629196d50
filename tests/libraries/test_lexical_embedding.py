"""The lexical embedding: alike are texts that share words, however they are joined or bent."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.libraries.embedding.lexical import DIMENSIONS, NAME, embed
from local.paths import ROOT


def similarity(one: str, other: str) -> float:
    first, second = embed([one, other])
    return sum(a * b for a, b in zip(first, second, strict=True))


@given(st.text(max_size=300))
def test_every_text_has_a_unit_vector(text: str) -> None:
    [vector] = embed([text])
    assert len(vector) == DIMENSIONS
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


def test_the_same_text_has_the_same_vector_in_every_process() -> None:
    """Python's own hashes differ from one process to the next."""
    code = (
        "from functions.libraries.embedding.lexical import embed;"
        "print(embed(['Retry-After, getUserName() 中文'])[0])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{embed(['Retry-After, getUserName() 中文'])[0]}\n"}


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("how do I set a timeout", "Timeouts are set per client: timeout=5.0", "Cookies persist."),
        ("user name", "getUserName()", "getUserAge()"),
        ("user_name", "userName", "user_age"),
        ("connect to a proxy", "Connecting through proxies", "Colours of the terminal"),
        ("AsyncClient.stream", "client.stream() of an AsyncClient", "Client.get"),
        ("größe ändern", "Die Größe wird geändert", "Die Farbe wird gewählt"),
        ("中文 支持", "支持 中文", "日本語 です"),
    ],
    ids=["words", "parts", "joints", "stems", "names", "umlauts", "chinese"],
)
def test_what_shares_words_is_nearer(query: str, near: str, far: str) -> None:
    assert similarity(query, near) > similarity(query, far) + 0.05


def test_words_that_are_in_every_text_make_none_alike() -> None:
    assert similarity("what is the timeout of it", "what is the proxy of it") < 0.3
    assert similarity("the timeout of the client", "timeout client") > 0.6


def test_how_often_a_word_comes_matters_less_and_less() -> None:
    once = similarity("timeout", "timeout and proxies of a client")
    often = similarity("timeout", "timeout " * 10 + "and proxies of a client")
    assert once < often < 1


def test_long_texts_are_bounded_and_large_words_are_cut() -> None:
    [vector] = embed(["word " * 100_000 + "x" * 1_000_000])
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


def test_its_name_says_what_it_is() -> None:
    assert "lexical" in NAME
