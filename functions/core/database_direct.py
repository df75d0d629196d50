"""The direct transport: a pool of connections to Postgres or to a transaction pooler.

Nothing is kept in a session: no prepared statements, no SET, no advisory locks, autocommit. The
JSON arguments are expanded in SQL by the types the function declares, which is also what PostgREST
does.
"""

from __future__ import annotations

import select
from typing import Self

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from functions.core import json
from functions.core.database_errors import UNREACHABLE, DatabaseError
from functions.core.database_transport import Call
from functions.core.json import Json
from functions.core.logging import request_id_var
from functions.core.settings import Settings, SettingsError

CONNECT_TIMEOUT_SECONDS = 3
POOL_TIMEOUT_SECONDS = 5.0
"""How long a call waits for a free connection."""

MAX_LIFETIME_SECONDS = 1800.0
"""A connection is replaced after this time: a failover or a rotated password is picked up."""

UNDEFINED_FUNCTION = "42883"

_SIGNATURE = """
select p.proargnames[n.position], pg_catalog.format_type(p.proargtypes[n.position - 1], null)
from pg_catalog.pg_proc as p
cross join lateral pg_catalog.generate_series(1, p.pronargs) as n (position)
where p.pronamespace = pg_catalog.to_regnamespace('backend') and p.proname = %s
"""

_SAID = sql.SQL("pg_catalog.set_config('quernel.request_id', %s, true) as said")
"""What private.request_id() reads, for this one statement; a function in FROM runs first."""

Connection = psycopg.AsyncConnection[TupleRow]


class DirectTransport:
    """Calls `select backend.<function>(...)` on a pooled connection."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool
        self._statements: dict[tuple[str, tuple[str, ...]], bytes] = {}

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Start the pool in the background. Raises SettingsError without a database URL."""
        if settings.database_url is None:
            raise SettingsError("QUERNEL_DATABASE_URL is not set")
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            connection_class=psycopg.AsyncConnection[TupleRow],
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "row_factory": tuple_row,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "application_name": "quernel-functions",
            },
            min_size=min(2, settings.database_max_connections),
            max_size=settings.database_max_connections,
            timeout=POOL_TIMEOUT_SECONDS,
            max_lifetime=MAX_LIFETIME_SECONDS,
            configure=_configure,
            open=False,
        )
        await pool.open(wait=False)
        return cls(pool)

    async def aclose(self) -> None:
        await self._pool.close()

    async def call(self, call: Call) -> Json:
        try:
            connection = await self._connection()
            try:
                return await self._run(connection, call)
            finally:
                await self._pool.putconn(connection)
        except PoolTimeout:
            raise DatabaseError(UNREACHABLE, "no connection became free") from None
        except psycopg.Error as error:
            raise _failure(error) from None

    async def _connection(self) -> Connection:
        """Take a connection from the pool, discarding those that the server has closed meanwhile.

        The pool's own check would wait for seconds between two of them.
        """
        while True:
            connection = await self._pool.getconn()
            if not _is_closed_by_server(connection):
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def _run(self, connection: Connection, call: Call) -> Json:
        key = (call.function, call.parameters)
        known = self._statements.get(key)
        if known is not None:
            try:
                return await _execute(connection, known, call)
            except psycopg.errors.UndefinedFunction:
                # A migration changed the signature. Nothing ran: read it again.
                del self._statements[key]
        statement = await _compose(connection, call.function, call.parameters)
        result = await _execute(connection, statement, call)
        self._statements[key] = statement
        return result


async def _configure(connection: Connection) -> None:
    set_json_loads(json.loads, connection)


def _is_closed_by_server(connection: Connection) -> bool:
    """Whether an idle connection is of no use any more; asks no server.

    Nothing is expected on an idle connection, so a readable socket means a FATAL message or the end
    of the stream.
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


async def _execute(connection: Connection, statement: bytes, call: Call) -> Json:
    said = request_id_var.get() or ""
    values = (said, call.arguments.decode()) if call.parameters else (said,)
    row = await (await connection.execute(statement, values)).fetchone()
    return None if row is None else row[0]


async def _compose(connection: Connection, function: str, parameters: tuple[str, ...]) -> bytes:
    """The statement that calls `function` with `parameters` taken from one JSON document.

    As text, because psycopg would quote its names again on every call.

    Raises DatabaseError when the function does not exist or does not declare one of them.
    """
    rows = await (await connection.execute(_SIGNATURE, (function,))).fetchall()
    types = {str(name): str(type_) for name, type_ in rows}
    missing = [name for name in parameters if name not in types]
    if missing:
        raise DatabaseError(
            UNDEFINED_FUNCTION, f"backend.{function} has no parameter {', '.join(missing)}"
        )
    target = sql.Identifier("backend", function)
    if not parameters:
        return sql.SQL("select {}() from {}").format(target, _SAID).as_bytes(connection)
    statement = sql.SQL(
        "select {}({}) from {} cross join pg_catalog.json_to_record(%s) as a ({})"
    ).format(
        target,
        sql.SQL(", ").join(
            sql.SQL("{0} => a.{0}").format(sql.Identifier(name)) for name in parameters
        ),
        _SAID,
        # format_type() gives a type name that is quoted and qualified as SQL needs it.
        sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(types[name]))
            for name in parameters
        ),
    )
    return statement.as_bytes(connection)


def _failure(error: psycopg.Error) -> DatabaseError:
    sqlstate = error.sqlstate
    if sqlstate is None:
        # No SQLSTATE: the connection failed before or while the server could answer.
        kind = UNREACHABLE if isinstance(error, psycopg.OperationalError) else "client"
        return DatabaseError(kind, type(error).__name__)
    return DatabaseError(sqlstate, error.diag.message_primary or "", error.diag.message_detail)
