"""Markdown, its dialects, MDX and the HTML inside."""

from __future__ import annotations

from functions.libraries.document import (
    Code,
    Heading,
    ListBlock,
    Paragraph,
    Position,
    Table,
)
from functions.libraries.parsing import parse
from tests.libraries.pages import codes, hidden, only, shown

PAGE = """\
---
title: Quick start
description: Begin here.
sidebar_position: 2
---

# Install {#setup}

Read [the guide](https://x.test/guide) and use `client.get()`.

```python title="app.py" {1,3}
import httpx

httpx.get("https://x.test")
```

    $ indented code

* one
* two

  ```sh
  make
  ```

  after the code
* three
  1. nested

| Name | Meaning |
|------|---------|
| `a`  | first \\| one |

Setext
------
"""


def test_a_page_is_read_in_order_with_its_positions() -> None:
    document = parse(PAGE.encode(), name="docs/quick.md")
    assert document.title == "Quick start"
    assert document.metadata["sidebar_position"] == "2"
    assert document.encoding == "utf-8"
    kinds = [type(block).__name__ for block in document.blocks]
    assert kinds == [
        "Paragraph",  # the description
        "Heading",
        "Paragraph",
        "Code",
        "Code",
        "ListBlock",
        "Code",
        "Paragraph",
        "ListBlock",
        "Table",
        "Heading",
    ]
    heading = document.blocks[1]
    assert heading == Heading(level=1, title="Install", anchor="setup", position=Position(line=7))
    assert document.blocks[2].text == "Read the guide and use `client.get()`."


def test_code_is_kept_to_the_letter_with_its_language() -> None:
    assert codes(parse(PAGE.encode(), name="a.md")) == [
        ("python", 'import httpx\n\nhttpx.get("https://x.test")'),
        ("console", "$ indented code"),
        ("bash", "make"),
    ]


def test_a_list_goes_on_after_code() -> None:
    first, second = only(parse(PAGE.encode(), name="a.md"), ListBlock)
    assert first.text == "- one\n- two"
    assert second.text == "- three\n  1. nested"


def test_a_table_keeps_its_cells() -> None:
    (table,) = only(parse(PAGE.encode(), name="a.md"), Table)
    assert table.rows == (("Name", "Meaning"), ("`a`", "first | one"))
    assert "first \\| one" in table.text


def test_headings_with_one_name_have_anchors_of_their_own() -> None:
    document = parse(b"# A\n\n## Usage!\n\n## Usage!\n", name="a.md")
    assert [block.anchor for block in document.blocks] == ["a", "usage", "usage-1"]


def test_toml_front_matter_is_metadata() -> None:
    document = parse(b'+++\ntitle = "T"\n+++\n\ntext\n', name="a.md")
    assert document.title == "T"
    assert shown(document) == "text"


def test_a_rule_is_no_front_matter() -> None:
    assert shown(parse(b"---\n\njust text\n", name="a.md")) == "just text"


def test_admonitions_of_mkdocs_are_their_text() -> None:
    text = """\
!!! warning "Mind the gap"
    First line.

    ```python
    x = 1
    ```

    !!! note
        Deeper.

Outside.

=== "Linux"

    ```sh
    apt
    ```

=== "macOS"

    brew
"""
    document = parse(text.encode(), name="a.md")
    assert codes(document) == [("python", "x = 1"), ("bash", "apt")]
    assert [b.text for b in only(document, Paragraph)] == [
        "Mind the gap\nFirst line.",
        "Note:\nDeeper.",
        "Outside.",
        "Linux",
        "macOS",
        "brew",
    ]


def test_admonitions_of_docusaurus_github_and_myst_are_their_text() -> None:
    text = """\
:::tip Nice
Colons.
:::

> [!WARNING]
> Quoted.

```{note} Careful
:class: wide

Fenced.

```

{func}`~a.b.run` and {ref}`the text <target>`

```{code-block} python
:linenos:

y = 2
```

```{toctree}
a
b
```
(label)=
"""
    document = parse(text.encode(), name="a.md")
    assert [b.text for b in only(document, Paragraph)] == [
        "Nice\nColons.",
        "Warning:\nQuoted.",
        "Careful",
        "Fenced.",
        "`run` and the text",
    ]
    assert codes(document) == [("python", "y = 2")]


def test_restructuredtext_inside_myst_is_read_as_such() -> None:
    text = "# A\n\n```{eval-rst}\n.. py:function:: run(a)\n\n   Runs ``a``.\n```\n"
    document = parse(text.encode(), name="a.md")
    assert [(b.title, b.level, b.is_api) for b in only(document, Heading)] == [
        ("A", 1, False),
        ("run(a)", 2, True),
    ]
    assert "Runs `a`." in shown(document)


def test_mdx_leaves_its_code_and_keeps_its_text() -> None:
    text = """\
import { Tabs } from '@theme/Tabs';
import Foo from "./foo"

export const meta = {
  secret: 1,
}

{/* a remark */}

# Title

<Tabs groupId="x">
<TabItem value="js" label="JavaScript">

```js
import { a } from 'b'
```

</TabItem>
</Tabs>

<Callout
  type="info"
  title="Look"
>
  The callout's text.
</Callout>

Use <Button size="sm" /> here, and `<Tag />` in code.
"""
    document = parse(text.encode(), name="a.mdx")
    assert codes(document) == [("javascript", "import { a } from 'b'")]
    said = shown(document)
    assert "secret" not in said
    assert "groupId" not in said
    assert [
        word for word in ("JavaScript", "Look", "The callout's text.") if word not in said
    ] == []
    assert "Use here, and `<Tag />` in code." in said
    assert hidden(document) == [("comment", "a remark")]


def test_html_inside_is_read_as_html() -> None:
    text = """\
<h2 id="why">Why</h2>

<details><summary>More</summary>

inside **it**

</details>

<table><tr><th>A</th></tr><tr><td>1</td></tr></table>

line<br>break <b>bold</b> <!-- aside -->
"""
    document = parse(text.encode(), name="a.md")
    assert document.blocks[0] == Heading(
        level=2, title="Why", anchor="why", position=Position(line=1)
    )
    assert only(document, Table)[0].rows == (("A",), ("1",))
    assert "line\nbreak bold" in shown(document)
    assert "inside it" in shown(document)
    assert hidden(document) == [("comment", "aside")]


def test_what_html_hides_is_no_text() -> None:
    text = """\
Seen.

<div style="display: none">

Not *seen* at all.

```
nor this
```

</div>

Seen <span style="font-size:0">tiny words</span> again.
"""
    document = parse(text.encode(), name="a.md")
    assert shown(document) == "Seen.\nSeen again."
    assert hidden(document) == [
        ("display_none", "Not seen at all."),
        ("display_none", "nor this"),
        ("tiny_font", "tiny words"),
    ]


def test_a_script_in_markdown_is_dropped() -> None:
    document = parse(b"a\n\n<script>alert(1)</script>\n\nb\n", name="a.md")
    assert shown(document) == "a\nb"


def test_code_that_shows_markdown_is_left_alone() -> None:
    text = "````md\n```python\nx\n```\n!!! note\n    y\n:::tip\n````\n"
    assert codes(parse(text.encode(), name="a.md")) == [
        ("markdown", "```python\nx\n```\n!!! note\n    y\n:::tip")
    ]


def test_a_block_of_code_holds_its_fence() -> None:
    (block,) = only(parse(b"````md\n```\nx\n```\n````\n", name="a.md"), Code)
    assert block.text == "````markdown\n```\nx\n```\n````"


def test_aliases_in_front_matter_do_not_unfold() -> None:
    levels = "\n".join(
        f"{c}: &{c} [{', '.join(f'*{p}' for _ in range(9))}]"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    document = parse(f"---\na: &a x\n{levels}\n---\n\ntext\n".encode(), name="a.md")
    assert shown(document) == "text"
    assert document.metadata == {}
