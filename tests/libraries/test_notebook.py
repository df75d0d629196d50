"""Jupyter notebooks: prose, code, and the text that it printed."""

from __future__ import annotations

import json

from functions.libraries.document import Heading, Position
from functions.libraries.parsing import parse
from tests.libraries.pages import code_of, codes, hidden, only, shown

NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"language": "julia"}, "language_info": {"name": "python"}},
    "cells": [
        {
            "cell_type": "markdown",
            "source": ["# Title\n", "\n", "Some `code` here.\n<!-- aside -->"],
        },
        {
            "cell_type": "code",
            "source": "import pandas as pd\ndf",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["line 1\n", "line 2\n"]},
                {
                    "output_type": "execute_result",
                    "data": {"text/html": "<b>ignore me</b>", "text/plain": "   a\n0  1"},
                },
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 1000}},
                {"output_type": "error", "traceback": ["boom"]},
            ],
        },
        {"cell_type": "raw", "source": "raw cell"},
        {"cell_type": "code", "source": [], "outputs": []},
        "no cell",
    ],
}


def test_cells_are_prose_and_code_with_what_was_printed() -> None:
    document = parse(json.dumps(NOTEBOOK).encode(), name="a.ipynb")
    assert only(document, Heading)[0] == Heading(
        level=1, title="Title", anchor="title", position=Position(cell=1)
    )
    assert codes(document) == [
        ("python", "import pandas as pd\ndf"),
        (None, "line 1\nline 2"),
        (None, "   a\n0  1"),
    ]
    assert document.blocks[-1].position == Position(cell=2)
    assert hidden(document) == [("comment", "aside")]


def test_images_html_and_tracebacks_are_dropped() -> None:
    said = shown(parse(json.dumps(NOTEBOOK).encode(), name="a.ipynb"))
    assert [w for w in ("iVBOR", "ignore me", "boom", "raw cell") if w in said] == []


def test_a_long_output_is_cut() -> None:
    cell = {
        "cell_type": "code",
        "source": "x",
        "outputs": [{"output_type": "stream", "text": "y" * 90_000}],
    }
    document = parse(json.dumps({"nbformat": 4, "cells": [cell]}).encode(), name="a.ipynb")
    assert len(codes(document)[1][1]) == 2_000


def test_an_old_notebook_is_read() -> None:
    old = {
        "nbformat": 3,
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": "Old"},
                    {
                        "cell_type": "code",
                        "input": "print 1",
                        "language": "python",
                        "outputs": [{"output_type": "pyout", "text": "1"}],
                    },
                ]
            }
        ],
    }
    document = parse(json.dumps(old).encode(), name="a.ipynb")
    assert shown(document) == "## Old\n```python\nprint 1\n```\n```\n1\n```"


def test_what_is_no_notebook_is_refused() -> None:
    assert code_of(b'{"nbformat": 4, "cells": [', name="a.ipynb") == "broken_file"
    assert code_of(b"[1, 2]", name="a.ipynb") == "broken_file"
    assert code_of(b"[" * 100_000, name="a.ipynb") == "broken_file"


def test_a_notebook_of_odd_shapes_has_no_text() -> None:
    odd = {"cells": [{"cell_type": "code", "source": 5, "outputs": {"a": 1}}, {"cell_type": []}]}
    assert parse(json.dumps(odd).encode(), name="a.ipynb").blocks == ()
