"""Asking PostgreSQL for the facts. Every question has a read-only transaction of its own, and one that is refused leaves the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.doctor.facts import (
    OPEN_SECONDS_MAX,
    OVERDUE_SECONDS_MAX,
    Login,
    LogRights,
    OpenTransaction,
    Overdue,
    PostgresFacts,
    RoleSetting,
    Setting,
    Standby,
)
from headwater.errors import HeadwaterError, StorageError
from headwater.postgres import Connection, Database, migration_status, recorded_roles, sql_file, translate_errors

CLOCK_SAMPLES: Final = 5
"""How often the clock is asked; the quickest answer counts."""
SESSION_SAMPLES: Final = 3
"""How often two connections are compared; a busy pooler need not show at once that it shares sessions."""
LISTED_MAX: Final = 20
"""Transactions named of each kind."""

_PACKAGE: Final = "headwater.doctor"
_READ_SERVER = sql_file(_PACKAGE, "read_server")
_READ_CLOCK = sql_file(_PACKAGE, "read_clock")
_READ_SESSION_PID = sql_file(_PACKAGE, "read_session_pid")
_LIST_SETTINGS = sql_file(_PACKAGE, "list_settings")
_LIST_COMMIT_SETTINGS = sql_file(_PACKAGE, "list_commit_settings")
_LIST_STANDBYS = sql_file(_PACKAGE, "list_standbys")
_LIST_PREPARED = sql_file(_PACKAGE, "list_prepared")
_LIST_IDLE = sql_file(_PACKAGE, "list_idle")
_LIST_HORIZON_HOLDERS = sql_file(_PACKAGE, "list_horizon_holders")
_LIST_MISSING_RIGHTS = sql_file(_PACKAGE, "list_missing_rights")
_LIST_EXCESS_RIGHTS = sql_file(_PACKAGE, "list_excess_rights")
_READ_LOG_OWNER = sql_file(_PACKAGE, "read_log_owner")
_LIST_OVERDUE = sql_file(_PACKAGE, "list_overdue")
_LIST_TOPICS = sql_file(_PACKAGE, "list_topics")
_COUNT_FOREIGN_KEYS = sql_file(_PACKAGE, "count_foreign_keys")

_SETTINGS: Final = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "max_connections",
    "superuser_reserved_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "idle_in_transaction_session_timeout",
)

Answer = TypeVar("Answer")


async def read_postgres(database: Database, *, master_key_name: str | None = None, clock: Clock = SYSTEM_CLOCK) -> PostgresFacts:
    """What the server and the log's database say of themselves. The database need not be open; nothing is changed.

    Args:
        master_key_name: of the configured master key, to find keys that it does not open.
    Raises:
        StorageUnavailable: nobody answers at the address.
        StorageError: the login is refused.
        UsageError: the address cannot be used, or a pooler stands between that needs another setting.
    """
    try:
        async with database.looking() as connection, database.looking() as other:
            return await _Reading(database, connection, other, clock).facts(master_key_name)
    except asyncpg.PostgresError as error:
        raise StorageError(f"PostgreSQL refused a question: {error}") from error


@dataclass(slots=True)
class _Reading:
    """One examination, on two connections: a pooler shows only when they are compared."""

    database: Database
    connection: Connection
    other: Connection
    clock: Clock
    unread: dict[str, str] = field(default_factory=dict[str, str])

    async def facts(self, master_key_name: str | None) -> PostgresFacts:
        async with self.connection.transaction(readonly=True):
            server = await self.connection.fetchrow(_READ_SERVER)
            rows = await self.connection.fetch(_LIST_SETTINGS, list(_SETTINGS))
        assert server is not None, "the statement gives one row"
        ahead, uncertain = await self._compare_clocks()
        migrations = await self._ask("migrations", migration_status)
        return PostgresFacts(
            address=self.database.address,
            database=server["database"],
            schema=self.database.schema,
            version=str(server["version"]),
            major=int(server["version_number"]) // 10_000,
            is_standby=bool(server["is_standby"]),
            login=Login(server["login"], bool(server["is_superuser"]), bool(server["sees_all_sessions"])),
            settings={row["name"]: Setting(row["setting"], row["source"]) for row in rows},
            clock_ahead_seconds=ahead,
            clock_uncertain_seconds=uncertain,
            is_encrypted=bool(server["is_encrypted"]),
            is_local=bool(server["is_local"]),
            pooling="transaction" if self.database.is_pooled_by_transaction else "session",
            has_pooler=self.connection.get_server_pid() != server["session_pid"],
            shares_sessions=await self._shares_sessions(),
            migrations=migrations,
            role_settings=tuple(await self._ask("role settings", _list_commit_settings) or ()),
            standbys=await self._ask("standbys", _list_standbys),
            prepared=await self._ask("prepared transactions", _list_prepared),
            idle=await self._ask("idle transactions", _list_idle),
            **(await self._of_the_log(master_key_name) if migrations is not None and migrations.is_current else {}),
            unread=self.unread,
        )

    async def _of_the_log(self, master_key_name: str | None) -> dict[str, Any]:
        async def count_foreign_keys(connection: Connection) -> int:
            return int(await connection.fetchval(_COUNT_FOREIGN_KEYS, master_key_name) or 0)

        return {
            "rights": await self._ask("rights", _read_rights),
            "horizon_holders": await self._ask("appends in flight", _list_horizon_holders),
            "overdue": await self._ask("what is overdue", _list_overdue),
            "foreign_key_count": await self._ask("keys of personal data", count_foreign_keys),
            "topics": await self._ask("topics", _list_topics) or (),
        }

    async def _ask(self, what: str, question: Callable[[Connection], Awaitable[Answer]]) -> Answer | None:
        try:
            with translate_errors(is_connecting=False):
                async with self.connection.transaction(readonly=True):
                    return await question(self.connection)
        except (HeadwaterError, asyncpg.PostgresError) as error:
            self.unread[what] = str(error)
            return None

    async def _compare_clocks(self) -> tuple[float, float]:
        """By how many seconds the server's clock is ahead of this process's, and how far off that may be."""
        samples: list[tuple[float, float]] = []
        async with self.connection.transaction(readonly=True):
            for _ in range(CLOCK_SAMPLES):
                asked_at, before = self.clock.now(), self.clock.monotonic()
                theirs = await self.connection.fetchval(_READ_CLOCK)
                half = (self.clock.monotonic() - before) / 2
                samples.append((half, (theirs - asked_at).total_seconds() - half))
        uncertain, ahead = min(samples)
        return ahead, uncertain

    async def _shares_sessions(self) -> bool:
        """Whether both connections are answered by one server session: only a pooler that hands them out by transaction does that."""
        for _ in range(SESSION_SAMPLES):
            seen: list[object] = []
            for connection in (self.connection, self.other):
                async with connection.transaction(readonly=True):
                    seen.append(await connection.fetchval(_READ_SESSION_PID))
            if seen[0] == seen[1]:
                return True
        return False


async def _list_commit_settings(connection: Connection) -> tuple[RoleSetting, ...]:
    rows = await connection.fetch(_LIST_COMMIT_SETTINGS)
    return tuple(RoleSetting(row["role_name"], row["database_name"], row["value"]) for row in rows)


async def _list_standbys(connection: Connection) -> tuple[Standby, ...]:
    return tuple(Standby(row["name"], row["sync_state"]) for row in await connection.fetch(_LIST_STANDBYS))


async def _list_prepared(connection: Connection) -> tuple[OpenTransaction, ...]:
    rows = await connection.fetch(_LIST_PREPARED, LISTED_MAX)
    return tuple(_prepared(row) for row in rows)


async def _list_idle(connection: Connection) -> tuple[OpenTransaction, ...]:
    rows = await connection.fetch(_LIST_IDLE, OPEN_SECONDS_MAX, LISTED_MAX)
    return tuple(_session(row) for row in rows)


async def _list_horizon_holders(connection: Connection) -> tuple[OpenTransaction, ...]:
    rows = await connection.fetch(_LIST_HORIZON_HOLDERS, LISTED_MAX)
    return tuple(_session(row) if row["prepared_name"] is None else _prepared(row) for row in rows)


async def _list_overdue(connection: Connection) -> tuple[Overdue, ...]:
    return tuple(Overdue(*row) for row in await connection.fetch(_LIST_OVERDUE, OVERDUE_SECONDS_MAX))


async def _list_topics(connection: Connection) -> tuple[str, ...]:
    return tuple(row["topic"] for row in await connection.fetch(_LIST_TOPICS))


async def _read_rights(connection: Connection) -> LogRights:
    roles = await recorded_roles(connection)
    writer = None if roles is None else roles.writer
    owner = await connection.fetchrow(_READ_LOG_OWNER)
    assert owner is not None, "the schema is there: its migrations were read"
    return LogRights(
        missing=tuple(row["missing"] for row in await connection.fetch(_LIST_MISSING_RIGHTS, writer)),
        excess=tuple(row["excess"] for row in await connection.fetch(_LIST_EXCESS_RIGHTS)),
        owner=owner["owner"],
        is_owner_superuser=bool(owner["is_superuser"]),
        writer=writer,
    )


def _session(row: Any) -> OpenTransaction:
    who = f"session {row['pid']} of {row['login'] or 'another login'}" + (
        f" ({row['application_name']})" if row["application_name"] else ""
    )
    return OpenTransaction(who, row["seconds"], f"SELECT pg_terminate_backend({row['pid']})")


def _prepared(row: Any) -> OpenTransaction:
    return OpenTransaction(
        f"prepared transaction {row['prepared_name']!r}",
        row["seconds"],
        f"COMMIT PREPARED {row['quoted_name']} or ROLLBACK PREPARED {row['quoted_name']}, as its coordinator decided",
    )
