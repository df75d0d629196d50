"""OpenAPI 3.x and Swagger 2.0, in JSON or YAML: a section for every operation and every schema.

References are followed inside the description only, each once on its way down; those to other files
and addresses are left as their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from functions.core.json import Json
from functions.libraries.characters import cleaned
from functions.libraries.document import Position
from functions.libraries.errors import ParseError
from functions.libraries.parsing import safe_yaml
from functions.libraries.parsing.builder import Builder
from functions.libraries.parsing.limits import Limits
from functions.libraries.parsing.markdown import read_fragment_of

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_FOLLOWED = 20  # references from one place, one after another
_PROPERTY_DEPTH = 3  # of objects inside a schema
_VISITS = 2_000  # schemas that one is put together of, counted every time
_PROPERTIES = 200  # rows of one schema
_EXAMPLE_CHARACTERS = 4_000
_CELL_CHARACTERS = 500
_NOT_ID = re.compile(r"[^\w.-]+")


def read(text: str, builder: Builder) -> None:
    """Add a description. Raises ParseError."""
    root = _loaded(text, builder.limits)
    if not isinstance(root, dict) or not ("openapi" in root or "swagger" in root):
        raise ParseError("broken_file", "The file describes no API.")
    _Reader(root, builder).read()


def _loaded(text: str, limits: Limits) -> Json:
    if not text.lstrip().startswith("{"):
        return safe_yaml.load(text, limits)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ParseError("too_deep", "The description is nested too deeply.") from None
    except ValueError:
        return safe_yaml.load(text, limits)  # a mapping in braces may be YAML
    pending, nodes = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        nodes += 1
        if depth > limits.depth:
            raise ParseError("too_deep", "The description is nested too deeply.")
        if nodes > limits.nodes:
            raise ParseError("too_large", "The description has too many values.")
        parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        pending += [(part, depth + 1) for part in parts]
    return value


class _Reader:
    def __init__(self, root: dict[str, Json], builder: Builder) -> None:
        self._root = root
        self._builder = builder
        self._visits = 0
        """How many schemas may still be looked at for the table that is being made."""

    def read(self) -> None:
        info = _mapping(self._root.get("info"))
        title = _string(info.get("title")) or "API"
        self._builder.meta({"title": title, "version": info.get("version", "")})
        at = Position(pointer="/info")
        self._builder.heading(1, title, at)
        self._markdown(info.get("description"), at)
        self._servers()
        for path, methods in _mapping(self._root.get("paths")).items():
            item = self._resolved(methods)
            for method in _METHODS:
                operation = item.get(method)
                if isinstance(operation, dict):
                    self._operation(str(path), method, operation, item)
        schemas = _mapping(_mapping(self._root.get("components")).get("schemas"))
        place = "/components/schemas" if schemas else "/definitions"
        for name, schema in (schemas or _mapping(self._root.get("definitions"))).items():
            self._schema(str(name), schema, Position(pointer=f"{place}/{_escaped(str(name))}"))

    def _servers(self) -> None:
        servers = self._root.get("servers")
        urls = [
            _string(_mapping(server).get("url"))
            for server in (servers if isinstance(servers, list) else [])[:20]
        ]
        host = _string(self._root.get("host"))
        if host:
            urls = [f"{host}{_string(self._root.get('basePath'))}"]
        if any(urls):
            text = "Servers: " + ", ".join(f"`{url}`" for url in urls if url)
            self._builder.paragraph(text, Position(pointer="/servers"))

    def _operation(
        self, path: str, method: str, operation: dict[str, Json], item: dict[str, Json]
    ) -> None:
        at = Position(pointer=f"/paths/{_escaped(path)}/{method}")
        name = _string(operation.get("operationId")) or f"{method}{path}"
        anchor = _NOT_ID.sub("-", name).strip("-")
        self._builder.heading(2, f"{method.upper()} {path}", at, anchor, is_api=True)
        if operation.get("deprecated") is True:
            self._builder.paragraph("**Deprecated.**", at)
        self._builder.paragraph(_string(operation.get("summary")), at)
        self._markdown(operation.get("description"), at)
        parameters = [
            self._resolved(parameter)
            for source in (item, operation)
            for parameter in _list(source.get("parameters"))
        ]
        body = self._resolved(operation.get("requestBody"))
        for parameter in parameters:
            if parameter.get("in") == "body":  # of Swagger 2
                body = {"content": {"application/json": parameter}}
        self._parameters([p for p in parameters if p.get("in") != "body"], at)
        self._content("Request body", body, at)
        self._responses(_mapping(operation.get("responses")), at)

    def _parameters(self, parameters: list[dict[str, Json]], at: Position) -> None:
        rows = [["parameter", "in", "type", "required", "description"]]
        for parameter in parameters:
            schema = parameter.get("schema", parameter)
            rows.append(
                [
                    f"`{_string(parameter.get('name'))}`",
                    _string(parameter.get("in")),
                    self._type(schema),
                    "yes" if parameter.get("required") is True else "",
                    _cell(parameter.get("description")),
                ]
            )
        if len(rows) > 1:
            self._builder.table(rows, at)

    def _content(self, label: str, holder: dict[str, Json], at: Position) -> None:
        """What is sent or answered, by media type; only the first is shown in full."""
        self._markdown(holder.get("description"), at)
        for media, content in list(_mapping(holder.get("content")).items())[:1]:
            shown = _mapping(content)
            schema = shown.get("schema")
            self._builder.paragraph(f"{label} (`{media}`): {self._type(schema)}", at)
            if not _mapping(schema).get("$ref"):
                self._properties(schema, at)
            self._example(shown, at)

    def _example(self, content: dict[str, Json], at: Position) -> None:
        example = content.get("example", _mapping(content.get("schema")).get("example"))
        for named in list(_mapping(content.get("examples")).values())[:1]:
            example = self._resolved(named).get("value", example)
        if example is not None:
            text = (
                example if isinstance(example, str) else json.dumps(example, indent=2, default=str)
            )
            if len(text) <= _EXAMPLE_CHARACTERS:
                self._builder.code(text, at, None if isinstance(example, str) else "json")

    def _responses(self, responses: dict[str, Json], at: Position) -> None:
        rows = [["response", "type", "description"]]
        first: dict[str, Json] | None = None
        for status, response in responses.items():
            found = self._resolved(response)
            contents = list(_mapping(found.get("content")).values())
            schema = _mapping(contents[0]).get("schema") if contents else found.get("schema")
            rows.append([f"`{status}`", self._type(schema), _cell(found.get("description"))])
            if first is None and str(status).startswith("2") and contents:
                first = _mapping(contents[0])
        if len(rows) > 1:
            self._builder.table(rows, at)
        if first is not None:
            self._example(first, at)

    def _schema(self, name: str, schema: Json, at: Position) -> None:
        self._builder.heading(
            2, f"Schema {name}", at, f"schema-{_NOT_ID.sub('-', name)}", is_api=True
        )
        found = _mapping(schema)
        self._markdown(found.get("description"), at)
        kind = self._type({key: value for key, value in found.items() if key != "title"})
        self._builder.paragraph(f"Type: {kind}", at)
        self._properties(schema, at)
        self._example({"example": found.get("example")}, at)

    def _properties(self, schema: Json, at: Position) -> None:
        self._visits = _VISITS
        found = self._property_rows(schema, "", 0, frozenset())
        rows = list(islice(found, _PROPERTIES + 1))
        if len(rows) > _PROPERTIES:
            self._builder.warn("table_cut")
        if rows:
            head = ["property", "type", "required", "description"]
            self._builder.table([head, *rows[:_PROPERTIES]], at)

    def _property_rows(
        self, schema: Json, lead: str, depth: int, seen: frozenset[str]
    ) -> Iterator[list[str]]:
        """Properties, those of objects inside them, and those of schemas it is put together of."""
        self._visits -= 1
        reference = _mapping(schema).get("$ref")
        if reference in seen or self._visits < 0:
            return
        if isinstance(reference, str):
            seen |= {reference}
        found = self._resolved(schema)
        for part in _list(found.get("allOf"))[:20]:
            if depth <= _PROPERTY_DEPTH:
                yield from self._property_rows(part, lead, depth + 1, seen)
        required = [name for name in _list(found.get("required")) if isinstance(name, str)]
        for name, inner in list(_mapping(found.get("properties")).items())[:_PROPERTIES]:
            path = f"{lead}{name}"
            shown = self._resolved(inner)
            yield [
                f"`{path}`",
                self._type(inner),
                "yes" if name in required else "",
                _cell(_mapping(inner).get("description") or shown.get("description")),
            ]
            # A schema with a name has a section of its own.
            if depth < _PROPERTY_DEPTH and not _mapping(inner).get("$ref"):
                below = _mapping(inner).get("items", inner)
                if not _mapping(below).get("$ref"):
                    mark = "[]." if "items" in _mapping(inner) else "."
                    yield from self._property_rows(below, path + mark, depth + 1, seen)

    def _type(self, schema: Json, depth: int = 0) -> str:
        found = _mapping(schema)
        reference = found.get("$ref")
        if isinstance(reference, str):
            return f"`{reference.rsplit('/', 1)[-1][:100]}`"
        if depth > 4:
            return "…"
        for key, word in (("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")):
            parts = _list(found.get(key))
            if parts:
                return word.join(self._type(part, depth + 1) for part in parts[:10])
        kind = found.get("type")
        text = " or ".join(map(str, kind)) if isinstance(kind, list) else _string(kind)
        if "items" in found:
            text = f"array of {self._type(found['items'], depth + 1)}"
        if found.get("format"):
            text += f" ({_string(found['format'])})"
        choices = _list(found.get("enum"))
        if choices:
            text += ": " + ", ".join(f"`{choice}`" for choice in choices[:30])
        if "default" in found:
            text += f", default `{str(found['default'])[:100]}`"
        return text.strip() or "any"

    def _resolved(self, value: Json) -> dict[str, Json]:
        """What a reference leads to; an empty mapping where it leads in a circle, or out."""
        seen: set[str] = set()
        while isinstance(value, dict) and isinstance(value.get("$ref"), str):
            reference = value["$ref"]
            if reference in seen or len(seen) > _FOLLOWED or not reference.startswith("#/"):
                return {}
            seen.add(reference)
            value = self._root
            for part in reference[2:].split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                value = value.get(key) if isinstance(value, dict) else None
        return _mapping(value)

    def _markdown(self, text: Json, at: Position) -> None:
        if isinstance(text, str) and text.strip():
            read_fragment_of(text, self._builder, base=2, position=at)


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _string(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _cell(value: Json) -> str:
    return " ".join(_string(value).split())[:_CELL_CHARACTERS]


def _escaped(key: str) -> str:
    return cleaned(key).text.replace("~", "~0").replace("/", "~1")
