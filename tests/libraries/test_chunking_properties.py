"""Whatever a document holds: no code is split, nothing is lost, and twice is the same as once."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from functions.libraries.chunking import SIZES, Chunk, Sizes, chunk
from functions.libraries.document import (
    Block,
    Code,
    Document,
    Heading,
    Hidden,
    Item,
    ListBlock,
    Paragraph,
    Table,
)
from functions.libraries.parsing import parse
from functions.libraries.splitting import tokens

SMALL = Sizes(most=60, merge_below=20, tail=8, introduction=20, code_most=150)

words = st.text(alphabet="abcdefghij.,é東 ", min_size=1, max_size=400).map(lambda text: f"w{text}")
short = st.text(alphabet="abcdefg ", min_size=1, max_size=30).map(lambda text: f"h{text.strip()}")
code = st.text(alphabet="abc()=\n `#|", min_size=1, max_size=900).filter(str.strip)
tiny_code = st.text(alphabet="abc()=\n #", min_size=1, max_size=200).filter(str.strip)


def heading(number: int, title: str) -> Heading:
    return Heading(level=number, title=title, anchor=title)


blocks = st.one_of(
    st.builds(heading, st.integers(1, 4), short),
    st.builds(lambda text: Paragraph(content=text.strip()), words),
    st.builds(
        lambda text: Code(code=text.strip("\n")), code.filter(lambda t: t.strip("\n").strip())
    ),
    st.builds(
        lambda texts: ListBlock(
            items=tuple(Item(text.strip(), at % 3) for at, text in enumerate(texts))
        ),
        st.lists(words, min_size=1, max_size=6),
    ),
    st.builds(
        lambda rows: Table(rows=tuple(rows)),
        st.lists(st.tuples(short, words), min_size=1, max_size=6),
    ),
    st.builds(lambda text: Hidden(content=text, reason="display_none"), words),
)
documents = st.lists(blocks, max_size=25).map(
    lambda found: Document(title="T", blocks=tuple(found), kind="markdown")
)


def numbered(document: Document) -> Document:
    """The same, where every word of prose is its own, so that a lost one is missed."""
    count = 0

    def fresh(text: str) -> str:
        nonlocal count
        parts = []
        for part in text.split():
            count += 1
            parts.append(f"{part.replace('.', '')}q{count}q" + ("." if part.endswith(".") else ""))
        return " ".join(parts)

    def renewed(block: Block) -> Block:
        match block:
            case Heading():
                return Heading(level=block.level, title=fresh(block.title), anchor="")
            case Paragraph():
                return Paragraph(content=fresh(block.content))
            case ListBlock():
                return ListBlock(items=tuple(Item(fresh(i.content), i.depth) for i in block.items))
            case Table():
                return Table(rows=tuple(tuple(map(fresh, row)) for row in block.rows))
            case _:
                return block

    return Document(title="T", blocks=tuple(map(renewed, document.blocks)), kind=document.kind)


def marks(text: str) -> list[str]:
    return re.findall(r"q\d+q", text)


def everything(chunks: tuple[Chunk, ...]) -> str:
    return "\n".join(each.embedded_text for each in chunks)


@given(documents)
@settings(deadline=None, max_examples=150)
def test_code_is_never_split_below_its_bound(document: Document) -> None:
    chunks = chunk(document, sizes=SMALL)
    for block in document.blocks:
        if isinstance(block, Code) and tokens(block.text) <= SMALL.code_most:
            assert any(block.text in each.content for each in chunks)


@given(st.integers(1, 60), st.text(alphabet="ab \t", max_size=60))
@settings(deadline=None)
def test_the_parts_of_code_over_its_bound_are_the_code(lines: int, line: str) -> None:
    whole = "\n".join(f"x{line}{number}" for number in range(lines))
    document = Document(title="", blocks=(Code(code=whole, language="python"),), kind="markdown")
    chunks = chunk(document, sizes=SMALL)
    parts = [each.content.removeprefix("```python\n").removesuffix("\n```") for each in chunks]
    assert "\n".join(parts) == whole
    assert (chunks[0].part is None) == (len(chunks) == 1)


@given(documents)
@settings(deadline=None, max_examples=150)
def test_no_word_is_lost(document: Document) -> None:
    document = numbered(document)
    found = set(marks(everything(chunk(document, sizes=SMALL))))
    for block in document.blocks:
        if not isinstance(block, Code | Hidden):
            assert set(marks(block.text)) <= found


@given(documents)
@settings(deadline=None, max_examples=150)
def test_prose_comes_once_and_in_order(document: Document) -> None:
    document = numbered(document)
    chunks = chunk(document, sizes=SMALL)
    prose = [b for b in document.blocks if isinstance(b, Paragraph | ListBlock)]
    expected = [mark for block in prose for mark in marks(block.text)]
    kept = set(expected)
    assert [m for c in chunks for m in marks(c.content) if m in kept] == expected


@given(documents)
@settings(deadline=None)
def test_the_same_document_gives_the_same_chunks(document: Document) -> None:
    assert chunk(document, sizes=SMALL) == chunk(document, sizes=SMALL)


@given(documents)
@settings(deadline=None, max_examples=150)
def test_chunks_are_counted_and_bounded(document: Document) -> None:
    chunks = chunk(document, sizes=SMALL)
    assert [each.index for each in chunks] == list(range(len(chunks)))
    for each in chunks:
        assert each.content.strip()
        assert each.token_count == tokens(each.content)
        bound = (
            SMALL.code_most + SMALL.introduction
            if "```" in each.content
            else SMALL.most + SMALL.tail
        )
        # Markdown between the blocks, and headings that were counted one by one, round up.
        assert each.token_count <= bound + 20


@given(documents)
@settings(deadline=None)
def test_what_is_hidden_is_in_no_chunk(document: Document) -> None:
    secret = Hidden(content="zzz secret zzz", reason="display_none")
    hiding = Document(title="T", blocks=(*document.blocks, secret), kind="markdown")
    plain, with_it = chunk(document, sizes=SMALL), chunk(hiding, sizes=SMALL)
    assert [each.content for each in plain] == [each.content for each in with_it]
    assert "zzz" not in everything(with_it)


plain_words = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta"]), min_size=1, max_size=40
).map(" ".join)
sources = st.lists(
    st.one_of(
        st.builds(
            lambda n, t: "#" * n + " " + t,
            st.integers(1, 3),
            plain_words.map(lambda t: t[:20].strip()),
        ),
        plain_words,
        tiny_code.map(lambda t: f"```python\n{t.strip(chr(10))}\n```"),
        st.lists(plain_words, min_size=1, max_size=4).map(
            lambda ts: "\n".join(f"- {t}" for t in ts)
        ),
    ),
    min_size=1,
    max_size=15,
).map("\n\n".join)


def body(text: str) -> list[str]:
    """What is no heading; those become the path of the chunk that is read again."""
    return [line for line in text.split("\n") if line.strip() and not line.startswith("#")]


@given(sources)
@settings(deadline=None)
def test_a_chunk_read_again_is_that_chunk(source: str) -> None:
    for each in chunk(parse(source.encode(), name="a.md")):
        again = chunk(parse(each.content.encode(), name="a.md"))
        assert [line for one in again for line in body(one.content)] == body(each.content)
        assert len(again) <= 1 or each.token_count > SIZES.most
