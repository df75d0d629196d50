"""reStructuredText as Sphinx's projects write it, and what it may not do here."""

from __future__ import annotations

from functions.libraries.document import Heading, ListBlock, Paragraph, Table
from functions.libraries.parsing import parse
from tests.libraries.pages import code_of, codes, hidden, only, shown

PAGE = """\
:orphan:
:author: Ada

.. _guide:

=====
Guide
=====

.. highlight:: python

See :py:meth:`~pkg.Client.run`, :ref:`the other page <other>`, :term:`Client`,
``literal`` and `name`_.

.. _name: https://x.test

.. code-block:: bash
   :linenos:
   :caption: Install

   pip install pkg

Implicitly::

    import pkg

>>> pkg.run()
'ok'

.. note:: Mind this.

.. versionadded:: 2.1
   The flag.

.. tab-set::

   .. tab-item:: Linux

      Words for Linux.

Options
-------

1. one
2. two

   - nested

:timeout: seconds
:retries: how often

term
    What it means.

===== =====
Name  Value
===== =====
a     1
b     2
===== =====

.. csv-table::
   :header: "H", "I"

   "x", "y"

.. a remark
"""


def test_a_page_is_read_with_roles_and_directives_nobody_registered() -> None:
    document = parse(PAGE.encode(), name="a.rst")
    assert document.title == "Guide"
    assert document.metadata["author"] == "Ada"
    headings = [(b.level, b.title, b.anchor) for b in only(document, Heading)]
    assert headings == [(1, "Guide", "guide"), (2, "Options", "options")]
    said = [b.text for b in only(document, Paragraph)]
    assert said == [
        "See `run`, the other page, Client, `literal` and name.",
        "Implicitly:",
        "Note:",
        "Mind this.",
        "Added in version 2.1: The flag.",
        "Linux",
        "Words for Linux.",
    ]


def test_code_has_the_language_of_its_directive_or_of_the_page() -> None:
    assert codes(parse(PAGE.encode(), name="a.rst")) == [
        ("bash", "pip install pkg"),
        ("python", "import pkg"),
        ("pycon", ">>> pkg.run()\n'ok'"),
    ]


def test_lists_fields_terms_and_tables_are_kept() -> None:
    document = parse(PAGE.encode(), name="a.rst")
    assert "\n".join(b.text for b in only(document, ListBlock)) == (
        "1. one\n2. two\n  - nested\n"
        "- timeout: seconds\n- retries: how often\n- term: What it means."
    )
    assert [table.rows for table in only(document, Table)] == [
        (("Name", "Value"), ("a", "1"), ("b", "2")),
        (("H", "I"), ("x", "y")),
    ]
    assert hidden(document) == [("comment", "a remark")]


def test_objects_are_sections_with_their_signature() -> None:
    text = """\
API
===

.. py:class:: Client(url, *, timeout=5)

   Talks.

   .. py:method:: get(path)
      :async:

      Gets ``path``.

      :param path: where

.. option:: --verbose

   Says more.

.. http:get:: /users/(int:id)

   One user.
"""
    document = parse(text.encode(), name="a.rst")
    assert [(b.level, b.title, b.anchor, b.is_api) for b in only(document, Heading)] == [
        (1, "API", "api", False),
        (2, "class Client(url, *, timeout=5)", "Client", True),
        (3, "get(path)", "get", True),
        (2, "--verbose", "--verbose", True),
        (2, "GET /users/(int:id)", "/users/", True),
    ]
    assert "Gets `path`." in shown(document)
    assert "- param path: where" in shown(document)


def test_no_directive_reads_a_file_or_leaves_html_in(tmp_path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    text = f"""\
Title
=====

.. include:: {secret}
.. literalinclude:: {secret}
.. raw:: html

   <script>alert(1)</script>

.. raw:: html
   :file: {secret}

.. csv-table:: t
   :file: {secret}

.. csv-table:: u
   :url: file://{secret}

.. code-block:: text
   :file: {secret}

.. include:: {secret}
   :literal:

.. image:: file://{secret}
.. |x| image:: {secret}
.. role:: raw-html(raw)
   :format: html

:raw-html:`<b>`
The end.
"""
    said = shown(parse(text.encode(), name="a.rst"))
    assert "top secret" not in said
    assert "alert" not in said
    assert "The end." in said


def test_one_page_teaches_the_next_nothing() -> None:
    parse(b".. role:: mine(code)\n.. default-role:: code\n\n:mine:`x` `y`\n", name="a.rst")
    assert shown(parse(b":mine:`x` and `y`\n", name="b.rst")) == "x and y"


def test_autodoc_imports_nothing() -> None:
    text = b".. automodule:: os\n   :members:\n\n.. autofunction:: os.system\n\nAfter.\n"
    assert shown(parse(text, name="a.rst")) == "After."


def test_broken_markup_is_read_as_far_as_it_goes() -> None:
    text = (
        b"Title\n====\n\n.. code-block::\n\n   x\n\n*open and ``more\n\n=== ==\nbad table\n\nEnd.\n"
    )
    said = shown(parse(text, name="a.rst"))
    assert "# Title" in said
    assert "End." in said


def test_a_line_without_end_is_refused() -> None:
    assert code_of(b"Title\n=====\n\n" + b"x" * 60_000, name="a.rst") == "line_too_long"


def test_deep_nesting_is_refused_or_flattened() -> None:
    text = "".join("  " * depth + "* x\n\n" for depth in range(600))
    assert code_of(text.encode(), name="a.rst") == "too_deep"
