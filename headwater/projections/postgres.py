"""Read models in PostgreSQL: their registry, their schemas, their rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from headwater.errors import NotFoundError, UsageError
from headwater.eventstore import Checkpoint
from headwater.postgres import Connection, Database, log_schema, sql_file, translate_errors
from headwater.projections.definition import LIVE, NEXT, ProjectionDefinition
from headwater.projections.values import ProjectionVersion

_PACKAGE: Final = "headwater.projections"
_INSERT_VERSION = sql_file(_PACKAGE, "insert_version")
_DELETE_VERSION = sql_file(_PACKAGE, "delete_version")
_READ_VERSION = sql_file(_PACKAGE, "read_version")
_TRY_LOCK_VERSION = sql_file(_PACKAGE, "try_lock_version")
_LOCK_VERSION = sql_file(_PACKAGE, "lock_version")
_LIST_VERSIONS = sql_file(_PACKAGE, "list_versions")
_MOVE_CHECKPOINT = sql_file(_PACKAGE, "move_checkpoint")
_STOP_PROJECTION = sql_file(_PACKAGE, "stop_projection")
_RESUME_PROJECTION = sql_file(_PACKAGE, "resume_projection")
_SWITCH_VERSION = sql_file(_PACKAGE, "switch_version")
_FIND_SCHEMA = sql_file(_PACKAGE, "find_schema")
_CREATE_SCHEMA = sql_file(_PACKAGE, "create_schema")
_DROP_SCHEMA = sql_file(_PACKAGE, "drop_schema")
_RENAME_SCHEMA = sql_file(_PACKAGE, "rename_schema")
_CREATE_STATES = sql_file(_PACKAGE, "create_states")
_SET_SEARCH_PATH = sql_file(_PACKAGE, "set_search_path")
_SET_LOCK_TIMEOUT = sql_file(_PACKAGE, "set_lock_timeout")
_LOAD_STATES = sql_file(_PACKAGE, "load_states")
_SAVE_STATES = sql_file(_PACKAGE, "save_states")
_READ_STATE = sql_file(_PACKAGE, "read_state")
_LIST_STATES = sql_file(_PACKAGE, "list_states")
_PIN_VERSION = sql_file(_PACKAGE, "pin_version")
_UNPIN_VERSION = sql_file(_PACKAGE, "unpin_version")
_CLAIM_REBUILD = sql_file(_PACKAGE, "claim_rebuild")
_CLAIM_REBUILD_IN_TRANSACTION = sql_file(_PACKAGE, "claim_rebuild_in_transaction")
_ALLOW_IDLING = sql_file(_PACKAGE, "allow_idling")
_READ_HEAD = sql_file(_PACKAGE, "read_head")
_HAS_APPENDED = sql_file(_PACKAGE, "has_appended")
_LIST_TABLES = sql_file(_PACKAGE, "list_tables")
_COMPARE_TABLES = sql_file(_PACKAGE, "compare_tables")
_COUNT_ROWS = sql_file(_PACKAGE, "count_rows")
_LOCK_REGISTRATION = sql_file(_PACKAGE, "lock_registration")
_BEGIN_READING = sql_file(_PACKAGE, "begin_reading")

OLD: Final = "old"
"""The schema of a version that was replaced carries this until it is dropped."""
VERIFY: Final = "verify"
"""The schema in which a verification builds its own version; no other transaction ever sees it."""


class LockNotGiven(Exception):
    """A lock was not to be had within the transaction's lock timeout."""


# -- the registry -----------------------------------------------------------------------------------------------------


async def register(connection: Connection, definition: ProjectionDefinition, role: str = LIVE) -> ProjectionVersion:
    """The version's row; with its schema and tables when there are none yet, or when somebody dropped them. Call it inside a transaction.

    Raises:
        UsageError: the tables' SQL is refused, or the schema's name is taken.
    """
    schema = version_schema(connection, definition, role)
    for is_locked in (False, True):
        # The look without the lock is for every start but the first; the second look is for who waited for another's first start.
        if is_locked:
            await connection.execute(_LOCK_REGISTRATION, definition.name)
        version = await read_version(connection, definition.name, role)
        if version is not None and await schema_identity(connection, schema) is not None:
            return version
    if version is not None:
        await connection.execute(_DELETE_VERSION, definition.name, role)
    await connection.execute(_INSERT_VERSION, definition.name, role, schema, definition.shape, definition.fingerprint)
    await create_tables(connection, definition, role)
    version = await read_version(connection, definition.name, role)
    assert version is not None, "it was inserted above, or by another under the same lock"
    return version


async def create_tables(connection: Connection, definition: ProjectionDefinition, role: str) -> None:
    """Make a version's schema with empty tables; leaves the search path on it."""
    schema = version_schema(connection, definition, role)
    try:
        await connection.execute(_CREATE_SCHEMA.format(schema=schema))
    except asyncpg.DuplicateSchemaError:
        raise UsageError(
            f"the schema {schema} exists, but not as a part of the projection {definition.name}; rename or drop it, it is where the projection lives"
        ) from None
    await set_search_path(connection, schema)
    try:
        await connection.execute(getattr(definition.projection_class, "tables", "") if definition.is_sql else _CREATE_STATES)
    except asyncpg.PostgresError as error:
        if definition.is_sql and str(error.sqlstate).startswith("42"):
            raise UsageError(f"the tables of {definition.projection_class.__name__} cannot be created: {error}") from error
        raise


async def remove_version(connection: Connection, definition: ProjectionDefinition, role: str) -> None:
    """Forget a version, its rows included."""
    await connection.execute(_DELETE_VERSION, definition.name, role)
    await connection.execute(_DROP_SCHEMA.format(schema=version_schema(connection, definition, role)))


async def read_version(connection: Connection, name: str, role: str = LIVE) -> ProjectionVersion | None:
    """A version's row as it was committed last."""
    return _version(await connection.fetchrow(_READ_VERSION, name, role))


async def try_lock_version(connection: Connection, name: str, role: str = LIVE) -> ProjectionVersion | None:
    """A version's row, locked until the transaction ends; None when another process works on it now."""
    return _version(await connection.fetchrow(_TRY_LOCK_VERSION, name, role))


async def lock_version(connection: Connection, name: str, role: str = LIVE) -> ProjectionVersion | None:
    """A version's row, locked until the transaction ends; waits for others."""
    return _version(await connection.fetchrow(_LOCK_VERSION, name, role))


async def move_checkpoint(connection: Connection, name: str, role: str, checkpoint: Checkpoint, event_count: int) -> None:
    """Note how far the version has read, in the transaction of what it made of it."""
    await connection.execute(_MOVE_CHECKPOINT, name, role, checkpoint.epoch, checkpoint.global_position, checkpoint.event_id, event_count)


async def stop_projection(connection: Connection, version: ProjectionVersion, status: str, error: str) -> None:
    """Note that the live version stands still; nothing when it has moved since."""
    text = error.replace("\x00", "�")
    await connection.execute(_STOP_PROJECTION, version.name, status, text, version.generation, version.checkpoint.global_position)


async def resume_live(connection: Connection, name: str) -> bool:
    """Let the live version try again; whether it was stopped."""
    return await connection.fetchval(_RESUME_PROJECTION, name) is not None


async def list_projections(database: Database) -> tuple[ProjectionVersion, ...]:
    """Every projection that ran on this database, by name: its live version, and the next one where a rebuild is under way or was cut off."""
    async with database.connection() as connection:
        rows = await connection.fetch(_LIST_VERSIONS)
    return tuple(version for row in rows if (version := _version(row)) is not None)


async def resume_projection(database: Database, name: str) -> bool:
    """Let a stopped projection try again where it stopped, in whichever process runs it; whether it was stopped.

    Raises:
        NotFoundError: no projection of this name ran on this database; names those that did.
    """
    async with database.connection() as connection:
        if await read_version(connection, name) is None:
            raise await unknown_projection(connection, name)
        return await resume_live(connection, name)


async def unknown_projection(connection: Connection, name: str) -> NotFoundError:
    """The error for a projection that this database does not know, with those it does."""
    rows = await connection.fetch(_LIST_VERSIONS)
    known = ", ".join(sorted({row["name"] for row in rows})) or "none"
    return NotFoundError(f"no projection named {name!r} ever ran on this database; it knows: {known}")


def _version(row: asyncpg.Record | None) -> ProjectionVersion | None:
    if row is None:
        return None
    return ProjectionVersion(
        name=row["name"],
        role=row["role"],
        schema_name=row["schema_name"],
        shape=row["shape"],
        fingerprint=row["fingerprint"],
        generation=row["generation"],
        checkpoint=Checkpoint(row["epoch"], row["global_position"], row["event_id"]),
        event_count=row["event_count"],
        status=row["status"],
        error=row["error"],
        updated_at=row["updated_at"],
    )


# -- versions and their switch ----------------------------------------------------------------------------------------


def version_schema(connection: Connection, definition: ProjectionDefinition, role: str = LIVE) -> str:
    """The schema of one version of a projection over the log that this connection reaches."""
    return definition.schema_name(role, log_schema=log_schema(connection))


async def set_search_path(connection: Connection, schema: str) -> None:
    """Resolve unqualified names in this schema alone until the transaction ends."""
    await connection.execute(_SET_SEARCH_PATH, schema)


async def schema_identity(connection: Connection, schema: str) -> int | None:
    """What tells a schema from another that has or had its name; None when there is none."""
    found: int | None = await connection.fetchval(_FIND_SCHEMA, schema)
    return found


async def begin_reading(connection: Connection) -> None:
    """Let the open transaction write nothing."""
    await connection.execute(_BEGIN_READING)


async def pin_version(connection: Connection, name: str) -> None:
    """Keep the live version in its place until the transaction ends."""
    await connection.execute(_PIN_VERSION, name)


async def hold_version(connection: Connection, name: str, timeout_milliseconds: int) -> ProjectionVersion | None:
    """The live version's row, with runners kept out until the transaction ends, which waits for no lock longer than this from here on.

    Raises:
        LockNotGiven: a runner did not finish in time.
    """
    await connection.execute(_SET_LOCK_TIMEOUT, f"{timeout_milliseconds}ms")
    try:
        return await lock_version(connection, name)
    except asyncpg.LockNotAvailableError as error:
        raise LockNotGiven from error


async def switch_version(connection: Connection, definition: ProjectionDefinition) -> None:
    """Put the next version in the live one's place; the latter keeps its rows in the `old` schema until `drop_old`.

    Raises:
        LockNotGiven: a reader did not finish in time.
    """
    try:
        await connection.execute(_UNPIN_VERSION, definition.name)
    except asyncpg.LockNotAvailableError as error:
        raise LockNotGiven from error
    live, following, old = (version_schema(connection, definition, role) for role in (LIVE, NEXT, OLD))
    await connection.execute(_RENAME_SCHEMA.format(schema=live, new_schema=old))
    await connection.execute(_RENAME_SCHEMA.format(schema=following, new_schema=live))
    await connection.execute(_SWITCH_VERSION, definition.name)


async def drop_old(connection: Connection, definition: ProjectionDefinition, timeout_milliseconds: int) -> None:
    """Drop what a switch left behind. Call it inside a transaction.

    Raises:
        LockNotGiven: somebody still reads it.
    """
    await connection.execute(_SET_LOCK_TIMEOUT, f"{timeout_milliseconds}ms")
    try:
        await connection.execute(_DROP_SCHEMA.format(schema=version_schema(connection, definition, OLD)))
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        raise LockNotGiven from error


def is_outdated_plan(error: BaseException) -> bool:
    """Whether a statement was planned for tables that have changed since; the transaction may be repeated at once with a new plan."""
    return isinstance(error, (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError))


# -- the rows of folds ------------------------------------------------------------------------------------------------


async def load_states(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    """The stored rows among these keys; needs the search path."""
    return {row["key"]: row["state"] for row in await connection.fetch(_LOAD_STATES, keys)}


async def save_states(connection: Connection, states: Mapping[str, str]) -> None:
    """Store these rows; needs the search path."""
    if states:
        await connection.execute(_SAVE_STATES, list(states), list(states.values()))


async def read_state(connection: Connection, definition: ProjectionDefinition, key: str) -> str | None:
    """One row of the live version.

    Raises:
        NotFoundError: the projection never ran here.
    """
    try:
        state: str | None = await connection.fetchval(_READ_STATE.format(schema=version_schema(connection, definition)), key)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise await _never_ran(connection, definition.name) from error
    return state


async def list_states(
    connection: Connection, definition: ProjectionDefinition, after: str | None, limit: int | None
) -> list[tuple[str, str]]:
    """Rows of the live version, in order of key.

    Raises:
        NotFoundError: the projection never ran here.
    """
    try:
        rows = await connection.fetch(_LIST_STATES.format(schema=version_schema(connection, definition)), after, limit)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise await _never_ran(connection, definition.name) from error
    return [(row["key"], row["state"]) for row in rows]


async def _never_ran(connection: Connection, name: str) -> NotFoundError:
    if connection.is_in_transaction():
        return NotFoundError(f"no projection named {name!r} ever ran on this database")
    return await unknown_projection(connection, name)


# -- the log's end, the caller's transaction, whole tables ------------------------------------------------------------


async def read_head(connection: Connection, limit: int | None = None) -> int:
    """The position of the last event committed, at or below the limit."""
    return int(await connection.fetchval(_READ_HEAD, limit))


async def has_appended(connection: Connection) -> bool:
    """Whether the connection's open transaction appended to the log."""
    return bool(await connection.fetchval(_HAS_APPENDED))


async def list_tables(connection: Connection, schema: str) -> list[str]:
    """The tables of a schema."""
    return [row["table_name"] for row in await connection.fetch(_LIST_TABLES, schema)]


async def compare_tables(connection: Connection, table: str, stored_schema: str, expected_schema: str, limit: int) -> list[tuple[str, str]]:
    """Rows that only one of two tables has: (`stored` or `expected`, the row as text)."""
    statement = _COMPARE_TABLES.format(stored=_qualified(stored_schema, table), expected=_qualified(expected_schema, table))
    return [(row["side"], row["row_text"]) for row in await connection.fetch(statement, limit)]


async def count_rows(connection: Connection, schema: str, table: str) -> int:
    """How many rows a table has."""
    return int(await connection.fetchval(_COUNT_ROWS.format(table=_qualified(schema, table))))


def _qualified(schema: str, table: str) -> str:
    quoted = table.replace('"', '""')
    return f'{schema}."{quoted}"'


class OwnSession:
    """One connection kept for one SQL projection: statements are prepared by their text, and another projection may give it another meaning."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._claim: asyncpg.Connection[asyncpg.Record] | None = None

    async def connection(self) -> Connection:
        """The connection, opened anew after it was lost."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """A READ COMMITTED transaction on it."""
        connection = await self.connection()
        with translate_errors():
            async with connection.transaction(isolation="read_committed"):
                yield connection

    async def claim_rebuild(self, name: str) -> bool:
        """Become the one who rebuilds this projection, until `close`; False when somebody else is."""
        if not self._database.is_pooled_by_transaction:
            return bool(await (await self.connection()).fetchval(_CLAIM_REBUILD, name))
        if self._claim is None:
            # Only an open transaction keeps a server connection, and with it a lock, behind a pooler. It holds no snapshot.
            self._claim = await self._database.connect()
            await self._claim.transaction(isolation="read_committed").start()
            await self._claim.execute(_ALLOW_IDLING)
        return bool(await self._claim.fetchval(_CLAIM_REBUILD_IN_TRANSACTION, name))

    async def close(self) -> None:
        """Close it; a second call does nothing."""
        connections, self._connection, self._claim = (self._connection, self._claim), None, None
        for connection in connections:
            if connection is not None:
                # Nothing is open on it that could be lost.
                connection.terminate()


class QueryConnection:
    """Queries on one version of a projection: unqualified names are its tables. Read only; good inside its `async with` alone."""

    def __init__(self, connection: Connection, version_mark: str) -> None:
        # Statements are prepared once for each text, with the types of the tables they then meant: another version, another text.
        self._connection, self._mark = connection, f"/* {version_mark} */ "

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        return await self._connection.fetch(self._mark + query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        return await self._connection.fetchrow(self._mark + query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._connection.fetchval(self._mark + query, *arguments)
