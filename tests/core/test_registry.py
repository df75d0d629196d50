"""Code, database and documentation name the same functions, parameters and error codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
import pytest

from functions.core import errors

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "functions"
MIGRATIONS = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))

STATUSES = {
    "InvalidRequestError": 400,
    "UnauthenticatedError": 401,
    "NotFoundError": 404,
    "UnavailableError": 503,
    "OperatorError": 500,
}


# RPC ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    where: str
    function: str
    parameters: frozenset[str]
    is_complete: bool
    """Whether every argument is named at the call: none comes from `**` or from a forwarder."""


@dataclass(frozen=True)
class Signature:
    parameters: frozenset[str]
    required: frozenset[str]


def called_name(node: ast.Call) -> str | None:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


@cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (str(path.relative_to(ROOT)), ast.parse(path.read_text()))
        for path in sorted(FUNCTIONS.rglob("*.py"))
    )


def is_forwarder(node: ast.AST) -> bool:
    """Whether it hands a function's name on: its first parameter, or a field, is `function`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        return names[:1] == ["function"]
    if isinstance(node, ast.ClassDef):
        return any(
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.target.id == "function"
            for field in node.body
        )
    return False


@cache
def forwarders() -> dict[str, set[str]]:
    """Names of forwarders outside of core, with the parameters they add to the call."""
    found: dict[str, set[str]] = {}
    for where, tree in trees():
        for node in ast.walk(tree):
            if not where.startswith("functions/core/") and is_forwarder(node):
                assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                found.setdefault(node.name, set()).update(
                    inner.arg
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.keyword) and inner.arg and inner.arg[:2] == "p_"
                )
    return found


def uses() -> Iterator[Use]:
    callables = {"rpc", "long_rpc", *forwarders()}
    for where, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or called_name(node) not in callables:
                continue
            if not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = called_name(node)
            named = {k.arg for k in node.keywords if k.arg and k.arg.startswith("p_")}
            yield Use(
                f"{where}:{node.lineno}",
                str(node.args[0].value),
                frozenset(named),
                is_complete=name in ("rpc", "long_rpc") and all(k.arg for k in node.keywords),
            )


@pytest.fixture
def signatures(db: Callable[[], psycopg.Connection]) -> dict[str, Signature]:
    rows = db().execute(
        "select proname, coalesce(proargnames, '{}'), pronargs, pronargdefaults"
        " from pg_proc where pronamespace = 'backend'::regnamespace"
    )
    found = {}
    for name, parameters, count, defaults in rows.fetchall():
        assert name not in found, f"backend.{name} is overloaded: callers name it by name alone"
        inputs = parameters[:count]
        found[name] = Signature(frozenset(inputs), frozenset(inputs[: count - defaults]))
    return found


def test_every_call_names_a_function_that_exists(signatures: dict[str, Signature]) -> None:
    found = list(uses())
    assert len(found) >= 15
    for use in found:
        assert use.function in signatures, f"{use.where}: backend.{use.function} does not exist"


def test_every_call_names_parameters_that_exist(signatures: dict[str, Signature]) -> None:
    for use in uses():
        signature = signatures[use.function]
        assert use.parameters <= signature.parameters, use
        if use.is_complete:
            assert use.parameters >= signature.required, f"{use.where}: an argument is missing"


def domain(where: str) -> str:
    """`functions/chat/api.py:12` belongs to `functions/chat`."""
    return where.rpartition("/")[0]


def test_parameter_names_anywhere_belong_to_a_function_called_there(
    signatures: dict[str, Signature],
) -> None:
    """Arguments that travel in a dict or through a forwarder are seen by their names alone."""
    called: dict[str, set[str]] = {}
    for use in uses():
        parameters = signatures[use.function].parameters
        called.setdefault(domain(use.where), set()).update(parameters)
    for where, tree in trees():
        if where.startswith("functions/core/"):
            continue
        names = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"p_[a-z0-9_]+", node.value)
        } | {
            node.arg
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg and node.arg.startswith("p_")
        }
        allowed = called.get(domain(where), set())
        assert names <= allowed, f"{where}: {sorted(names - allowed)}"


def test_names_of_functions_are_literal_except_in_forwarders() -> None:
    for where, tree in trees():
        forwarding = {
            inner for node in ast.walk(tree) if is_forwarder(node) for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called_name(node) == "rpc":
                literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
                assert literal or node in forwarding, f"{where}:{node.lineno}"


def test_every_backend_function_is_for_the_service_alone(
    db: Callable[[], psycopg.Connection],
) -> None:
    rows = db().execute(
        "select p.proname, p.prosecdef, p.proconfig,"
        " has_function_privilege('service_role', p.oid, 'execute'),"
        " has_function_privilege('anon', p.oid, 'execute')"
        " or has_function_privilege('authenticated', p.oid, 'execute'),"
        " p.prorettype = 'jsonb'::regtype"
        " from pg_proc as p where p.pronamespace = 'backend'::regnamespace"
    )
    for name, is_definer, config, service, others, is_jsonb in rows.fetchall():
        assert is_definer, name
        assert 'search_path=""' in (config or []), name
        assert service, name
        assert not others, name
        assert is_jsonb, name


# Error codes --------------------------------------------------------------------------------------


def codes_in_python() -> set[tuple[str, int]]:
    found = {(code, status) for status, (code, _) in errors._BY_STATUS.items()}
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Tuple):
                found |= codes_of_a_table(node)
            if isinstance(node, ast.ClassDef):
                found |= codes_of_a_kind(node)
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, first = called_name(node), node.args[0]
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                continue
            if name in STATUSES:
                found.add((first.value, STATUSES[name]))
            elif (
                name in ("QuernelError", "UpstreamError", "__init__") and len(node.args) > 1
            ):  # or a kind of it
                second = node.args[1]
                statuses = [n.value for n in ast.walk(second) if isinstance(n, ast.Constant)]
                found |= {(first.value, status) for status in statuses if isinstance(status, int)}
    return found


def codes_of_a_kind(kind: ast.ClassDef) -> set[tuple[str, int]]:
    """The code that a kind of error with a status of its own gives to its base."""
    base = kind.bases[0].id if kind.bases and isinstance(kind.bases[0], ast.Name) else ""
    if base not in STATUSES:
        return set()
    return {
        (node.args[0].value, STATUSES[base])
        for node in ast.walk(kind)
        if isinstance(node, ast.Call)
        and called_name(node) == "__init__"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def codes_of_a_table(row: ast.Tuple) -> set[tuple[str, int]]:
    """A code and its status at the beginning of a row."""
    values = [part.value for part in row.elts[:2] if isinstance(part, ast.Constant)]
    match values:
        case [str(code), int(status)] if 400 <= status < 600 and re.fullmatch(r"[a-z_]+", code):
            return {(code, status)}
    return set()


FAIL = re.compile(r"private\.fail\(\s*(\d{3}),\s*'([a-z_]+)'(\s*\|\|)?")


def codes_in_migrations() -> tuple[set[tuple[str, int]], set[str]]:
    """Literal codes with their status, and prefixes of those that are put together."""
    literal, prefixes = set(), set()
    for path in MIGRATIONS:
        for status, code, is_prefix in FAIL.findall(path.read_text()):
            if is_prefix:
                prefixes.add(code)
            else:
                literal.add((code, int(status)))
    return literal, prefixes


def documented() -> set[tuple[str, int]]:
    rows = re.findall(
        r"^\| `([a-z0-9_]+)` \| ([0-9, ]+) \| .+ \| .+ \|$",
        (ROOT / "docs" / "errors.md").read_text(),
        re.MULTILINE,
    )
    listed = [(code, int(status)) for code, statuses in rows for status in statuses.split(",")]
    assert len(listed) == len(set(listed)), "a code is documented twice"
    return set(listed)


def test_every_error_code_is_documented_with_its_status() -> None:
    literal, prefixes = codes_in_migrations()
    assert len(literal) > 30
    raised = literal | codes_in_python()
    missing = raised - documented()
    assert not missing, f"add to docs/errors.md: {sorted(missing)}"
    for prefix in prefixes:
        assert any(code.startswith(prefix) for code, _ in documented()), prefix


def test_every_documented_error_code_exists() -> None:
    literal, prefixes = codes_in_migrations()
    raised = literal | codes_in_python()
    stale = {
        (code, status)
        for code, status in documented() - raised
        if not any(code.startswith(prefix) for prefix in prefixes)
    }
    # What database_errors.py says when SQL raised a bare PT status.
    assert stale <= {("refused", 400)}, f"nothing raises: {sorted(stale)}"
