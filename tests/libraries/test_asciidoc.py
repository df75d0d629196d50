"""AsciiDoc: the part of it that documentation is written in."""

from __future__ import annotations

from functions.libraries.document import Heading, ListBlock, Paragraph, Table
from functions.libraries.parsing import parse
from tests.libraries.pages import codes, hidden, only, shown

PAGE = """\
= Getting started
Ada Lovelace <ada@x.test>
:source-language: java
:version: 3.1
:url: https://x.test
// a remark

This is version {version} of link:{url}[the thing^], see <<install,below>> and `run()`.
It is *bold* and _it_.

[[install]]
== Install

.Maven
[source,xml]
----
<dependency/>
----

[source]
----
int x = 1; // <1>
include::secret.adoc[]
----
<1> a callout

....
literal *text*
....

```python
x = 1
```

NOTE: Mind this.

[WARNING]
====
Inside the block.

* item one
** nested
* item two
+
[source,sh]
----
ls
----
* item three
. first
====

CPU:: the brain
Disk::
  the memory

[cols="1,2",options="header"]
|===
|Name |Meaning

|a
|first

|b |second
|===

////
block comment
////

include::/etc/passwd[]

ifdef::foo[]
Conditional text.
endif::[]

=== Deeper [[not]]
"""


def test_a_page_is_read_with_its_sections_and_attributes() -> None:
    document = parse(PAGE.encode(), name="a.adoc")
    assert document.title == "Getting started"
    assert [(b.level, b.title, b.anchor) for b in only(document, Heading)] == [
        (1, "Getting started", "getting-started"),
        (2, "Install", "install"),
        (3, "Deeper [[not]]", "deeper-not"),
    ]
    said = [b.text for b in only(document, Paragraph)]
    assert "This is version 3.1 of the thing, see below and `run()`. It is bold and it." in said
    assert "Note: Mind this." in said
    assert "Warning:" in said
    assert "Inside the block." in said
    assert "Conditional text." in said


def test_blocks_of_code_are_kept_to_the_letter() -> None:
    assert codes(parse(PAGE.encode(), name="a.adoc")) == [
        ("xml", "<dependency/>"),
        ("java", "int x = 1; // <1>"),
        (None, "literal *text*"),
        ("python", "x = 1"),
        ("bash", "ls"),
    ]


def test_lists_terms_and_tables_are_kept() -> None:
    document = parse(PAGE.encode(), name="a.adoc")
    lists = "\n".join(b.text for b in only(document, ListBlock))
    assert "- item two" in lists
    for line in ("- item one", "  - nested", "- item two", "- item three", "  1. first"):
        assert line in lists.split("\n"), line
    assert "- CPU: the brain\n- Disk: the memory" in lists
    (table,) = only(document, Table)
    assert table.rows == (("Name", "Meaning"), ("a", "first"), ("b", "second"))


def test_no_other_file_is_read_and_comments_are_no_text() -> None:
    document = parse(PAGE.encode(), name="a.adoc")
    assert "include" not in shown(document)
    assert "root:" not in shown(document)
    assert [text for reason, text in hidden(document) if reason == "comment"] == [
        "a remark",
        "block comment",
    ]


def test_attributes_do_not_unfold_without_end() -> None:
    lines = [":a0: xxxxxxxxxx"]
    lines += [f":a{n}: {f'{{a{n - 1}}}' * 10}" for n in range(1, 12)]
    document = parse("\n".join([*lines, "", "{a11}{a11}{a11}"]).encode(), name="a.adoc")
    assert len(shown(document)) <= 3_000


def test_a_block_that_never_ends_is_read_to_the_end() -> None:
    assert codes(parse(b"----\nx\ny\n", name="a.adoc")) == [(None, "x\ny")]
