"""Lists and searches: in order of activity, page by page, and over nothing of anybody else's."""

from __future__ import annotations

import pytest

from tests.conversations.conftest import NewTalker, Talker


def ids(talker: Talker, **query: object) -> list[str]:
    answer = talker.http.get("/conversations", params=query)
    assert answer.status_code == 200, answer.text
    return [c["id"] for c in answer.json()["conversations"]]


def test_pages_follow_each_other_without_gap_or_repeat(talker: Talker) -> None:
    made = [talker.begin() for _ in range(7)]
    talker.say(made[2], "the newest activity")
    pages, after = [], None
    while True:
        query = {"limit": 3} | ({"after": after} if after else {})
        page = talker.http.get("/conversations", params=query).json()
        pages.append([c["id"] for c in page["conversations"]])
        after = page["next"]
        if after is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    rest = [c for c in reversed(made) if c != made[2]]
    assert [c for page in pages for c in page] == [made[2], *rest]


def test_lists_are_by_status(talker: Talker) -> None:
    active, archived = talker.begin(), talker.begin()
    talker.http.patch(f"/conversations/{archived}", json={"status": "archived"})
    assert ids(talker) == [active]
    assert ids(talker, status="archived") == [archived]
    assert sorted(ids(talker, status="all")) == sorted([active, archived])


def test_a_search_finds_words_of_titles_and_messages(talker: Talker, mark: str) -> None:
    by_title = talker.begin(title=f"A {mark} in the title")
    by_message = talker.begin()
    answer = talker.say(by_message, f"one two three {mark.upper()} four")
    talker.begin(title="something else")
    assert ids(talker, query=mark) == [by_message, by_title]
    assert ids(talker, query=f"three {mark}") == [by_message]
    assert ids(talker, query="simulated four") == []
    found = talker.http.get("/conversations", params={"query": mark}).json()["conversations"]
    assert found[0]["match"]["message_id"] == answer["user_message_id"]
    assert mark.upper() in found[0]["match"]["text"]
    assert found[1]["match"] is None


@pytest.mark.parametrize("query", ["", " ", "&", "!", "(", ":*", "'", "a & ! b", "<->", "\\", "%"])
def test_a_search_takes_text_as_text(talker: Talker, query: str) -> None:
    talker.say(talker.begin(), "hello")
    assert ids(talker, query=query) == []


def test_a_search_finds_nothing_of_others_nor_what_was_deleted(
    new_talker: NewTalker, mark: str
) -> None:
    owner, stranger = new_talker(), new_talker()
    conversation = owner.begin(title=mark)
    owner.say(conversation, mark)
    assert ids(stranger, query=mark) == []
    # Not even by the words with which the index says whose they are.
    assert ids(stranger, query=f"u:{owner.id}") == []
    stranger.say(stranger.begin(), f"'u:{owner.id}' {owner.id}")
    assert conversation not in ids(stranger, query=mark)
    assert ids(owner, query=mark) == [conversation]
    owner.http.delete(f"/conversations/{conversation}")
    assert ids(owner, query=mark) == []
    owner.http.post(f"/conversations/{conversation}/restore")
    assert ids(owner, query=mark) == [conversation]


def test_a_long_message_is_stored_and_searched(talker: Talker, mark: str) -> None:
    # Every word another one: as large as its tsvector can get.
    text = mark + " " + " ".join(f"{n:x}é{n:b}" for n in range(5_000))
    conversation = talker.begin()
    assert talker.post(conversation, content=text).status_code in {200, 400}
    if talker.messages(conversation):
        assert ids(talker, query=mark) == [conversation]
