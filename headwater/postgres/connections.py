"""The pool, transactions, and the caller's own connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, TypeVar, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from headwater.config import redact
from headwater.errors import StorageUnavailable, StoreNotOpen, UsageError
from headwater.postgres.addresses import check_address, unusable_address
from headwater.postgres.errors import translate_errors
from headwater.postgres.sessions import Connection, JoinedConnection, PooledConnection, connection_class
from headwater.postgres.statements import DEFAULT_SCHEMA, check_schema, log_schema, sql_file
from headwater.telemetry import logger

Pooling: TypeAlias = Literal["session", "transaction"]
"""For how long a pooler gives a server connection: `session` also where there is none."""

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
COMPARED_CONNECTIONS_MAX: Final = 1_000
"""Connections of others remembered as compared; beyond, they are compared again."""
# The log is read and written under READ COMMITTED (rule 3), whatever the database's own default is.
SESSION_SETTINGS: Final = {"default_transaction_isolation": "read committed", **DEAD_PEER_SETTINGS}


class SqlAlchemyConnection(Protocol):
    """What is used of SQLAlchemy's `AsyncConnection`, on asyncpg."""

    async def exec_driver_sql(self, statement: str) -> Any: ...
    async def get_raw_connection(self) -> Any: ...


class SqlAlchemySession(Protocol):
    """What is used of SQLAlchemy's `AsyncSession`, on asyncpg."""

    async def connection(self) -> Any: ...


CompanionT = TypeVar("CompanionT")
CallerConnection: TypeAlias = "Connection | SqlAlchemyConnection | SqlAlchemySession"

_PACKAGE: Final = "headwater.postgres"
_READ_IDLE_TIMEOUT = sql_file(_PACKAGE, "read_idle_timeout")
_log = logger("postgres")


async def driver_connection(connection: CallerConnection, schema: str | None = None) -> Connection:
    """The asyncpg connection, inside an open transaction, behind what the caller gave.

    Args:
        schema: of the log that Headwater's statements are to reach on it; None leaves that as it is. A database knows its own: `Database.joined`.
    Raises:
        UsageError: it is no asyncpg connection, or has no open transaction, so that an append on it would commit by itself.
    """
    given: Any = connection
    if isinstance(given, JoinedConnection):
        if schema in (None, given.log_schema):
            return _in_transaction(given)
        given = given.caller_connection
    if not isinstance(given, (asyncpg.Connection, PoolConnectionProxy)):
        given = await _from_sqlalchemy(given)
    found = _in_transaction(given)
    return found if schema in (None, log_schema(found)) else cast("Connection", JoinedConnection(found, str(schema)))


def _in_transaction(given: Any) -> Connection:
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


async def _open_log(connection: Connection) -> None:
    if await connection.fetchval(sql_file(_PACKAGE, "can_open_log")):
        await connection.execute(sql_file(_PACKAGE, "open_log"))


class Database:
    """A pool of connections to one database, with Headwater's settings, for the log in one of its schemas.

    Args:
        schema: where the log lives; several logs in one database know nothing of each other.
        pooling: `transaction` where a pooler such as PgBouncer stands between and gives a server connection for one transaction only.
    Raises:
        UsageError: no log may live in a schema of this name.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connections_max: int = CONNECTIONS_MAX,
        application_name: str = "headwater",
        schema: str = DEFAULT_SCHEMA,
        pooling: Pooling = "session",
    ) -> None:
        self._dsn, self._connections_max, self._application_name = dsn, connections_max, application_name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._compared: dict[int, object] = {}
        self.schema: Final = check_schema(schema)
        self.is_pooled_by_transaction: Final = pooling == "transaction"
        """Whether sessions are not ours to keep: no LISTEN, no locks and no settings that outlive a transaction."""
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._companions: dict[type, object] = {}

    @property
    def is_open(self) -> bool:
        return self._pool is not None

    def companion(self, kind: type[CompanionT], make: Callable[[], CompanionT]) -> CompanionT:
        """The one object of its kind that goes with this database, made when it is first asked for."""
        if (known := self._companions.get(kind)) is None:
            known = self._companions[kind] = make()
        return cast("CompanionT", known)

    def before_closing(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Call this each time before the connections are closed: for what holds connections of its own, and may be used again afterwards."""
        self._closers.append(closer)

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
            UsageError: the address cannot be parsed, the database does not exist, or a file for TLS is not there.
        """
        if self._pool is not None:
            return
        check_address(self._dsn)
        try:
            with translate_errors():
                self._pool = await asyncpg.create_pool(
                    self._dsn, min_size=1, max_size=self._connections_max, init=self._begin_session, **self._connect_options()
                )
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{error} (tried {self.address})") from error.__cause__
        except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
            raise unusable_address(self._dsn, error) from error
        if self.is_pooled_by_transaction:
            await self._look_at_pooler()

    def _connect_options(self) -> dict[str, Any]:
        pooled = self.is_pooled_by_transaction
        return {
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "connection_class": connection_class(self.schema, is_pooled_by_transaction=pooled),
            # A pooler refuses settings that it does not know, and a statement prepared now is not there in the next transaction.
            "server_settings": {"application_name": self._application_name, **({} if pooled else SESSION_SETTINGS)},
            **({"statement_cache_size": 0} if pooled else {}),
        }

    async def _look_at_pooler(self) -> None:
        """Tell of what rule 11 asks for and only whoever runs the server can set here."""
        async with self.connection() as connection:
            if await connection.fetchval(_READ_IDLE_TIMEOUT) == "0":
                _log.warning(
                    "idle_writers_hold_the_horizon",
                    hint="behind a pooler Headwater cannot set it: ALTER ROLE … SET idle_in_transaction_session_timeout = '60s'",
                )

    async def close(self) -> None:
        """Close every connection; a second call does nothing. A connection that does not close in time is cut off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for closer in self._closers:
            await closer()
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
            pooled = cast("PooledConnection", connection)
            pooled.leave_no_traces()
            try:
                yield connection
            except asyncio.CancelledError:
                # Between preparing and executing a statement the session is inside an implicit transaction, which only the reset would end.
                pooled.leave_no_traces(promised=False)
                raise

    @asynccontextmanager
    async def transaction(self, *, on_commit: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        """Borrow a connection inside a READ COMMITTED transaction: commits at the end, rolls back on any exception.

        Args:
            on_commit: called as soon as it is committed, before the connection is cleaned and given back.
        """
        async with self.connection() as connection:
            async with connection.transaction(isolation="read_committed"):
                yield connection
            if on_commit is not None:
                on_commit()

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of its own, outside the pool, for what holds one for long. The caller closes it.

        Raises:
            StoreNotOpen: the database is not open.
            StorageUnavailable: nobody answers at the address.
        """
        with translate_errors():
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._dsn, **self._connect_options())
            try:
                await self._begin_session(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[Connection]:
        """A connection of its own for those who only look: unlike any other it opens no epoch. Needs no open database, and closes at the end.

        Raises:
            StorageUnavailable: nobody answers at the address.
            UsageError: the address cannot be parsed, or the database does not exist.
        """
        try:
            with translate_errors():
                connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self._dsn, **self._connect_options())
        except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
            raise unusable_address(self._dsn, error) from error
        try:
            with translate_errors(is_connecting=False):
                yield cast("Connection", connection)
        finally:
            connection.terminate()

    async def joined(self, connection: CallerConnection) -> Connection:
        """A caller's connection, inside an open transaction, on which Headwater's statements reach this database's log.

        Raises:
            UsageError: it is no asyncpg connection, or has no open transaction.
        """
        return await driver_connection(connection, self.schema)

    async def compare_log(self, connection: Connection) -> None:
        """Before the first append on a connection: see whether the log's server is another than before, and open an epoch if it is (rule 5).

        Does so on a connection of its own, so that an epoch is committed at once and held up by nobody's transaction. Costs nothing for
        connections that come from here, or that were seen before.
        """
        if self._compared.get(connection.get_server_pid()) is connection.get_settings():
            return
        if self._pool is None:
            await (await self.connect()).close()
        else:
            async with self.statement_connection() as own:
                await _open_log(own)
        self._remember(connection)

    async def _begin_session(self, connection: Connection) -> None:
        """What every new connection does first: a failover or a restored backup ends connections, so the first one after it finds the cut."""
        await _open_log(connection)
        self._remember(connection)

    def _remember(self, connection: Connection) -> None:
        if len(self._compared) >= COMPARED_CONNECTIONS_MAX:
            self._compared.clear()
        # A process id may be given again, to a connection with settings of its own.
        self._compared[connection.get_server_pid()] = connection.get_settings()
