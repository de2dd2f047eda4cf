"""The connections of logs outside the default schema, and of those behind a pooler that gives a server connection for one transaction only.

A database with neither uses the plain class of this module, which adds nothing to a statement's way.
"""

# asyncpg's stubs overload these methods on the class of the records they return; here they are passed on as they are.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from headwater.errors import UsageError
from headwater.postgres.statements import DEFAULT_SCHEMA, for_schema, is_own

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

if TYPE_CHECKING:
    _DriverConnection = asyncpg.Connection[asyncpg.Record]
else:
    _DriverConnection = asyncpg.Connection


class PooledConnection(_DriverConnection):
    """Goes back to the pool without the round trip that resets the session, where its borrower left no traces in it."""

    __slots__ = ("_has_no_traces",)

    def leave_no_traces(self, promised: bool = True) -> None:
        """Promise that this borrower changes nothing of the session, or take the promise back."""
        self._has_no_traces = promised

    def get_reset_query(self) -> str:
        if getattr(self, "_has_no_traces", False):
            self._has_no_traces = False
            return ""
        return str(super().get_reset_query())


class LogConnection(PooledConnection):
    """Sends Headwater's statements to one log's schema, and keeps to the rules of a pooler; whatever else is sent, it sends as it is."""

    __slots__ = ()
    log_schema: ClassVar[str] = DEFAULT_SCHEMA
    is_pooled_by_transaction: ClassVar[bool] = False

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if not args:
            # One message to the server and one back: nothing to hold a server connection for.
            return await super().execute(self._sent(query), timeout=timeout)
        async with self._one_server():
            return await super().execute(self._sent(query), *args, timeout=timeout)

    async def executemany(self, command: str, args: Iterable[Sequence[object]], *, timeout: float | None = None) -> None:
        async with self._one_server():
            await super().executemany(self._sent(command), args, timeout=timeout)

    async def fetch(self, query: str, *args: object, **options: Any) -> Any:
        async with self._one_server():
            return await super().fetch(self._sent(query), *args, **options)

    async def fetchrow(self, query: str, *args: object, **options: Any) -> Any:
        async with self._one_server():
            return await super().fetchrow(self._sent(query), *args, **options)

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:
        async with self._one_server():
            return await super().fetchval(self._sent(query), *args, column=column, timeout=timeout)

    async def fetchmany(self, query: str, args: Iterable[Any], **options: Any) -> Any:
        async with self._one_server():
            return await super().fetchmany(self._sent(query), args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        self._needs_session("a prepared statement")
        return await super().prepare(self._sent(query), **options)

    def cursor(self, query: str, *args: object, **options: Any) -> Any:
        self._needs_session("a cursor")
        return super().cursor(self._sent(query), *args, **options)

    async def add_listener(self, channel: str, callback: Any) -> None:
        self._needs_session("LISTEN")
        await super().add_listener(channel, callback)

    def get_reset_query(self) -> str:
        # Behind a pooler the session is nobody's: what a borrower set for his transaction ended with it.
        return "" if self.is_pooled_by_transaction else super().get_reset_query()

    def _sent(self, query: str) -> str:
        return for_schema(query, self.log_schema) if is_own(query) else query

    @asynccontextmanager
    async def _one_server(self) -> AsyncGenerator[None]:
        """Parsing a statement and running it are two messages; only inside a transaction do both reach the same server connection."""
        if not self.is_pooled_by_transaction or self.is_in_transaction():
            yield
            return
        async with self.transaction(isolation="read_committed"):
            yield

    def _needs_session(self, what: str) -> None:
        if self.is_pooled_by_transaction:
            _refuse_session(what)


def _refuse_session(what: str) -> NoReturn:
    raise UsageError(
        f"{what} outlives a transaction, and the pooler gives another server connection to each (HEADWATER_POSTGRES_POOLING=transaction); "
        "use a statement inside a transaction, or connect to PostgreSQL directly"
    )


@cache
def connection_class(schema: str, *, is_pooled_by_transaction: bool) -> type[PooledConnection]:
    """The class of a database's connections."""
    if schema == DEFAULT_SCHEMA and not is_pooled_by_transaction:
        return PooledConnection
    facts = {"__slots__": (), "log_schema": schema, "is_pooled_by_transaction": is_pooled_by_transaction}
    return type("LogConnection", (LogConnection,), facts)


class JoinedConnection:
    """A caller's connection whose statements go elsewhere by themselves, used for one log: its transaction and session are the caller's."""

    def __init__(self, connection: Connection, log_schema: str) -> None:
        self.caller_connection, self.log_schema = connection, log_schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self.caller_connection, name)

    async def execute(self, query: str, *args: object, **options: Any) -> str:
        return await self.caller_connection.execute(self._sent(query), *args, **options)

    async def executemany(self, command: str, args: Iterable[Sequence[object]], **options: Any) -> None:
        await self.caller_connection.executemany(self._sent(command), args, **options)

    async def fetch(self, query: str, *args: object, **options: Any) -> Any:
        return await self.caller_connection.fetch(self._sent(query), *args, **options)

    async def fetchrow(self, query: str, *args: object, **options: Any) -> Any:
        return await self.caller_connection.fetchrow(self._sent(query), *args, **options)

    async def fetchval(self, query: str, *args: object, **options: Any) -> Any:
        return await self.caller_connection.fetchval(self._sent(query), *args, **options)

    async def fetchmany(self, query: str, args: Iterable[Any], **options: Any) -> Any:
        return await self.caller_connection.fetchmany(self._sent(query), args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        return await self.caller_connection.prepare(self._sent(query), **options)

    def cursor(self, query: str, *args: object, **options: Any) -> Any:
        return self.caller_connection.cursor(self._sent(query), *args, **options)

    def _sent(self, query: str) -> str:
        # The comment makes it a text that the caller's connection, if it is another log's, does not take for one of its own.
        return f"/* {self.log_schema} */ {for_schema(query, self.log_schema)}" if is_own(query) else query
