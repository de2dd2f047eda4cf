"""The pool, transactions, and the caller's own connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from importlib import resources
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from headwater.config import redact
from headwater.errors import StorageUnavailable, StoreNotOpen, UsageError
from headwater.postgres.errors import translate_errors

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

CONNECTIONS_MAX: Final = 16
CONNECT_TIMEOUT_SECONDS: Final = 10.0
# A writer whose host vanished holds the horizon until the server notices (rule 11): at most these, not the two hours of TCP's defaults.
DEAD_PEER_SETTINGS: Final = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
    "idle_in_transaction_session_timeout": "60000",
}
# The log is read and written under READ COMMITTED (rule 3), whatever the database's own default is.
SESSION_SETTINGS: Final = {"default_transaction_isolation": "read committed", **DEAD_PEER_SETTINGS}


class SqlAlchemyConnection(Protocol):
    """What is used of SQLAlchemy's `AsyncConnection`, on asyncpg."""

    async def exec_driver_sql(self, statement: str) -> Any: ...
    async def get_raw_connection(self) -> Any: ...


class SqlAlchemySession(Protocol):
    """What is used of SQLAlchemy's `AsyncSession`, on asyncpg."""

    async def connection(self) -> Any: ...


CallerConnection: TypeAlias = "Connection | SqlAlchemyConnection | SqlAlchemySession"


@cache
def sql_file(package: str, name: str) -> str:
    """The statement in `<package>/sql/<name>.sql`, read once."""
    return resources.files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


async def driver_connection(connection: CallerConnection) -> Connection:
    """The asyncpg connection, inside an open transaction, behind what the caller gave.

    Raises:
        UsageError: it is no asyncpg connection, or has no open transaction, so that an append on it would commit by itself.
    """
    given: Any = connection
    if not isinstance(given, (asyncpg.Connection, PoolConnectionProxy)):
        given = await _from_sqlalchemy(given)
    found = cast("Connection", given)
    if not found.is_in_transaction():
        raise UsageError("the connection has no open transaction; open one (`async with connection.transaction():`) and append inside it")
    return found


async def _from_sqlalchemy(given: Any) -> Any:
    if not hasattr(given, "get_raw_connection") and callable(checkout := getattr(given, "connection", None)):
        checked_out: Any = checkout()
        given = await checked_out if isawaitable(checked_out) else checked_out
    if not hasattr(given, "get_raw_connection"):
        raise UsageError(
            f"connection={type(given).__name__} cannot be used; give an asyncpg connection, or SQLAlchemy's AsyncSession or AsyncConnection on asyncpg"
        )
    # SQLAlchemy sends BEGIN with the first statement, not before.
    await given.exec_driver_sql("SELECT 1")
    driver = (await given.get_raw_connection()).driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise UsageError(f"SQLAlchemy runs on {type(driver).__module__} here; use the postgresql+asyncpg:// dialect")
    return driver  # pyright: ignore[reportUnknownVariableType] - asyncpg's record type parameter is not known here


if TYPE_CHECKING:
    _DriverConnection = asyncpg.Connection[asyncpg.Record]
else:
    _DriverConnection = asyncpg.Connection


class _PooledConnection(_DriverConnection):
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


class Database:
    """A pool of connections to one database, with Headwater's settings."""

    def __init__(self, dsn: str, *, connections_max: int = CONNECTIONS_MAX, application_name: str = "headwater") -> None:
        self._dsn, self._connections_max, self._application_name = dsn, connections_max, application_name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return redact(self._dsn)

    @property
    def dsn(self) -> str:
        """Where it is, with the password: never log it."""
        return self._dsn

    async def open(self) -> None:
        """Connect; a second call does nothing.

        Raises:
            StorageUnavailable: nobody answers at the address.
            UsageError: the address cannot be parsed, or the database does not exist.
        """
        if self._pool is not None:
            return
        try:
            with translate_errors():
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=self._connections_max,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                    connection_class=_PooledConnection,
                    server_settings={"application_name": self._application_name, **SESSION_SETTINGS},
                )
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{error} (tried {self.address})") from error.__cause__
        except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
            raise UsageError(
                f"the address {self.address!r} cannot be used: {error}; write postgresql://user:password@host:port/database"
            ) from error

    async def close(self) -> None:
        """Close every connection; a second call does nothing. A connection that does not close in time is cut off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Borrow a connection; driver errors inside come out translated."""
        if self._pool is None:
            raise StoreNotOpen("the database is not open; use it inside `async with`")
        async with AsyncExitStack() as stack:
            stack.enter_context(translate_errors(is_connecting=False))
            with translate_errors():
                connection = await stack.enter_async_context(self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS))
            yield connection

    @asynccontextmanager
    async def statement_connection(self) -> AsyncGenerator[Connection]:
        """Borrow a connection for single statements that leave nothing behind in the session; a round trip cheaper than `connection`."""
        async with self.connection() as connection:
            pooled = cast("_PooledConnection", connection)
            pooled.leave_no_traces()
            try:
                yield connection
            except asyncio.CancelledError:
                # Between preparing and executing a statement the session is inside an implicit transaction, which only the reset would end.
                pooled.leave_no_traces(promised=False)
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Borrow a connection inside a READ COMMITTED transaction: commits at the end, rolls back on any exception."""
        async with self.connection() as connection, connection.transaction(isolation="read_committed"):
            yield connection

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of its own, outside the pool, for what holds one for long. The caller closes it."""
        with translate_errors():
            return await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT_SECONDS,
                server_settings={"application_name": self._application_name, **SESSION_SETTINGS},
            )
