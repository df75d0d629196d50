"""Jupyter notebooks: prose, code, and what the code printed. Images and HTML of outputs are not."""

from __future__ import annotations

import json

from functions.core.json import Json
from functions.libraries.document import Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.markdown import read_fragment_of

_OUTPUT_CHARACTERS = 2_000
"""Of one output: enough to see what came, not a whole log."""


def read(text: str, builder: Builder) -> None:
    """Add a notebook. Raises ParseError."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        raise ParseError("broken_file", "The notebook is no JSON.") from None
    if not isinstance(notebook, dict):
        raise ParseError("broken_file", "The notebook holds no cells.")
    cells = notebook.get("cells")
    if not isinstance(cells, list):  # before version 4 cells were in worksheets
        sheets = notebook.get("worksheets")
        cells = [
            cell
            for sheet in (sheets if isinstance(sheets, list) else [])
            if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list)
            for cell in sheet["cells"]
        ]
    language = _language(notebook.get("metadata"))
    for number, cell in enumerate(cells, 1):
        if isinstance(cell, dict):
            _add(cell, Position(cell=number), language, builder)


def _add(cell: dict[str, Json], position: Position, language: str, builder: Builder) -> None:
    source = _text(cell.get("source", cell.get("input")))
    match cell.get("cell_type"):
        case "markdown":
            read_fragment_of(source, builder, position=position)
        case "heading":
            level = cell.get("level")
            builder.heading(level if isinstance(level, int) else 1, source, position)
        case "code":
            builder.code(source, position, str(cell.get("language") or language))
            outputs = cell.get("outputs")
            for output in outputs if isinstance(outputs, list) else []:
                if isinstance(output, dict):
                    builder.code(_printed(output)[:_OUTPUT_CHARACTERS], position, "text")
        case _:
            pass  # raw cells are for converters


def _printed(output: dict[str, Json]) -> str:
    if output.get("output_type") == "stream":
        return _text(output.get("text"))
    data = output.get("data")
    if isinstance(data, dict):
        return _text(data.get("text/plain"))
    return _text(output.get("text")) if output.get("output_type") == "pyout" else ""


def _language(metadata: Json) -> str:
    for part, name in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(part) if isinstance(metadata, dict) else None
        if isinstance(found, dict) and isinstance(found.get(name), str):
            return str(found[name])
    return "python"


def _text(value: Json) -> str:
    """A string, or one cut into lines."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
