"""OpenAPI: a section for every operation and schema; references inside, and in no circle."""

from __future__ import annotations

import json

import pytest
import yaml

from functions.libraries.document import Heading, Table
from functions.libraries.parsing import parse
from tests.libraries.pages import code_of, codes, only, shown

PETS = {
    "openapi": "3.1.0",
    "info": {"title": "Pets", "version": "1.2", "description": "# Intro\n\nAll *about* pets."},
    "servers": [{"url": "https://pets.test/v1"}],
    "paths": {
        "/pets/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {
                "operationId": "getPet",
                "summary": "One pet",
                "description": "Reads a pet.\n\n```sh\ncurl x\n```",
                "responses": {
                    200: {
                        "description": "It",
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Pet"},
                                "example": {"id": 1},
                            }
                        },
                    },
                    "404": {"$ref": "#/components/responses/Missing"},
                },
            },
            "put": {
                "deprecated": True,
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string", "description": "its name"},
                                    "tags": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {"key": {"type": "string"}},
                                        },
                                    },
                                },
                            }
                        }
                    }
                },
                "responses": {"204": {"description": "Done"}},
            },
        }
    },
    "components": {
        "parameters": {
            "Id": {
                "name": "id",
                "in": "path",
                "required": True,
                "schema": {"type": "integer", "format": "int64"},
            }
        },
        "responses": {"Missing": {"description": "No such pet"}},
        "schemas": {
            "Pet": {
                "type": "object",
                "description": "A pet.",
                "required": ["id"],
                "properties": {
                    "id": {"type": "integer"},
                    "kind": {"type": "string", "enum": ["cat", "dog"], "default": "cat"},
                    "mother": {"$ref": "#/components/schemas/Pet"},
                },
            },
            "Cat": {
                "allOf": [
                    {"$ref": "#/components/schemas/Pet"},
                    {"type": "object", "properties": {"lives": {"type": "integer"}}},
                ]
            },
        },
    },
}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_operations_and_schemas_are_sections(suffix: str) -> None:
    text = json.dumps(PETS) if suffix == "json" else yaml.safe_dump(PETS, sort_keys=False)
    document = parse(text.encode(), name=f"pets.{suffix}")
    assert document.title == "Pets"
    assert document.metadata["version"] == "1.2"
    assert [
        (b.title, b.anchor, b.position.pointer) for b in only(document, Heading) if b.is_api
    ] == [
        ("GET /pets/{id}", "getPet", "/paths/~1pets~1{id}/get"),
        ("PUT /pets/{id}", "put-pets-id", "/paths/~1pets~1{id}/put"),
        ("Schema Pet", "schema-Pet", "/components/schemas/Pet"),
        ("Schema Cat", "schema-Cat", "/components/schemas/Cat"),
    ]
    assert codes(document) == [("bash", "curl x"), ("json", '{\n  "id": 1\n}')]
    assert "Servers: `https://pets.test/v1`" in shown(document)
    assert "Deprecated." in shown(document)


def test_parameters_bodies_and_answers_are_tables() -> None:
    document = parse(json.dumps(PETS).encode(), name="pets.json")
    parameters, answers, _, body, *_ = [t.rows for t in only(document, Table)]
    assert parameters[1] == ("`id`", "path", "integer (int64)", "yes", "")
    assert answers[1:] == (("`200`", "`Pet`", "It"), ("`404`", "any", "No such pet"))
    assert body[1:] == (
        ("`name`", "string", "yes", "its name"),
        ("`tags`", "array of object", "", ""),
        ("`tags[].key`", "string", "", ""),
    )


def test_schemas_are_put_together_of_their_parts() -> None:
    document = parse(json.dumps(PETS).encode(), name="pets.json")
    pet, cat = [t.rows for t in only(document, Table)][-2:]
    assert pet[2] == ("`kind`", "string: `cat`, `dog`, default `cat`", "", "")
    assert [row[0] for row in cat[1:]] == ["`id`", "`kind`", "`mother`", "`lives`"]


def test_swagger_2_is_read() -> None:
    old = {
        "swagger": "2.0",
        "info": {"title": "Old", "version": "1"},
        "host": "old.test",
        "basePath": "/v1",
        "paths": {
            "/a": {
                "post": {
                    "parameters": [
                        {"in": "body", "name": "b", "schema": {"$ref": "#/definitions/A"}},
                        {"in": "query", "name": "q", "type": "string"},
                    ],
                    "responses": {
                        "200": {"description": "ok", "schema": {"$ref": "#/definitions/A"}}
                    },
                }
            }
        },
        "definitions": {"A": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    said = shown(parse(json.dumps(old).encode(), name="a.json"))
    assert "Servers: `old.test/v1`" in said
    assert "Request body (`application/json`): `A`" in said
    assert "| `q` | query | string |  |  |" in said
    assert "| `200` | `A` | ok |" in said
    assert "## Schema A" in said


def described(**parts: object) -> bytes:
    return json.dumps({"openapi": "3.0.0", "info": {"title": "T"}, "paths": {}} | parts).encode()


def test_references_in_a_circle_end() -> None:
    schemas = {
        "A": {"$ref": "#/components/schemas/B"},
        "B": {"$ref": "#/components/schemas/A"},
        "C": {
            "allOf": [{"$ref": "#/components/schemas/C"}],
            "properties": {"c": {"type": "string"}},
        },
        "D": {
            "properties": {
                "d": {"properties": {"e": {"allOf": [{"$ref": "#/components/schemas/D"}]}}}
            }
        },
    }
    paths = {"/x": {"$ref": "#/paths/~1x"}, "/y": {"$ref": "#/components/schemas/A"}}
    document = parse(described(components={"schemas": schemas}, paths=paths), name="a.json")
    assert [h.title for h in only(document, Heading)] == ["T", *[f"Schema {n}" for n in "ABCD"]]
    assert "`c`" in shown(document)


def test_references_to_elsewhere_are_names() -> None:
    schemas = {
        "A": {
            "properties": {
                "x": {"$ref": "file:///etc/passwd#/root"},
                "y": {"$ref": "https://evil.test/a.json#/Evil"},
            }
        }
    }
    said = shown(parse(described(components={"schemas": schemas}), name="a.json"))
    assert "root:" not in said
    assert "`Evil`" in said


def test_schemas_that_multiply_are_bounded() -> None:
    schemas = {
        f"S{n}": {"allOf": [{"$ref": f"#/components/schemas/S{n + 1}"}] * 20} for n in range(20)
    }
    schemas["S20"] = {"properties": {f"p{n}": {"type": "string"} for n in range(50)}}
    document = parse(described(components={"schemas": schemas}), name="a.json")
    assert all(len(table.rows) <= 201 for table in only(document, Table))


def test_yaml_that_unfolds_is_refused() -> None:
    lines = ["openapi: 3.0.0", "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert code_of("\n".join(lines).encode(), name="a.yaml") == "yaml_bomb"


def test_yaml_that_holds_itself_is_refused() -> None:
    assert code_of(b"openapi: 3.0.0\npaths: &a\n  /x: *a\n", name="a.yaml") == "yaml_bomb"


def test_yaml_makes_no_objects() -> None:
    text = b"openapi: 3.0.0\ninfo: !!python/object/apply:os.system ['true']\n"
    assert code_of(text, name="a.yaml") == "broken_file"


def test_aliases_as_people_use_them_are_read() -> None:
    text = b"""\
openapi: 3.0.0
info: {title: T, version: 2026-01-01}
x: &error {description: Wrong}
paths: {/a: {get: {responses: {400: *error, 404: *error}}}}
"""
    document = parse(text, name="a.yaml")
    assert document.metadata["version"] == "2026-01-01"
    assert shown(document).count("| any | Wrong |") == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "a.json", b'{"openapi": "3.0.0", "x": ' + b"[" * 200 + b"]" * 200 + b"}", id="json"
        ),
        pytest.param(
            "a.json",
            b'{"openapi": "3.0.0", "x": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
            id="json-deep",
        ),
        pytest.param("a.yaml", b"openapi: 3.0.0\nx: " + b"[" * 200 + b"]" * 200, id="yaml"),
    ],
)
def test_what_is_nested_too_deeply_is_refused(name: str, content: bytes) -> None:
    assert code_of(content, name=name) == "too_deep"


def test_a_description_of_odd_shapes_is_read_as_far_as_it_goes() -> None:
    odd = described(
        info=[],
        servers="x",
        paths={"/a": {"get": {"parameters": "x", "responses": [], "tags": 1}, "post": 5}},
        components={"schemas": {"A": None, "B": {"properties": [], "required": 3, "allOf": {}}}},
    )
    titles = [h.title for h in only(parse(odd, name="a.json"), Heading)]
    assert titles == ["API", "GET /a", "Schema A", "Schema B"]
