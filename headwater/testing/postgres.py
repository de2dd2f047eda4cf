"""Fresh, migrated databases for tests, cloned from a template in tens of milliseconds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar
from urllib.parse import urlsplit

import asyncpg

from headwater.postgres import apply_migrations, sql_file
from headwater.randomness import token_hex

_PACKAGE: Final = "headwater.testing"
_LIST_PREPARED = sql_file(_PACKAGE, "list_prepared_transactions")
NAME_PREFIX: Final = "headwater_test_"
"""What the databases made here are called; whatever is called so may be dropped."""

Answer = TypeVar("Answer")


class MigratedDatabases:
    """Makes databases on one server that have Headwater's schema and nothing in it; drops them all on `close`.

    Blocks rather than awaits, so that tests with and without an event loop can use it; from a running loop as well.
    """

    def __init__(self, server_dsn: str) -> None:
        """Remember the server; `server_dsn` names any database there, as a user who may create databases."""
        self._server_dsn = server_dsn
        self._template: str | None = None
        self._made: set[str] = set()

    def create(self, *, migrated: bool = True, copy_of: str | None = None) -> str:
        """The address of a fresh database; an empty one where the schema is not wanted, or a copy of one that nobody is connected to."""
        name = f"{NAME_PREFIX}{token_hex(6)}"
        fresh = self._ensure_template() if migrated and copy_of is None else "template0"
        template = fresh if copy_of is None else _name_in(copy_of)
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._made.add(name)
        return database_dsn(self._server_dsn, name)

    def drop(self, dsn: str) -> None:
        """Remove a database made here, with whatever still uses it; a second call does nothing."""
        name = _name_in(dsn)
        if name in self._made:
            self._drop(name)

    @contextmanager
    def fresh(self, *, migrated: bool = True) -> Generator[str]:
        """The address of a database that lives as long as the block."""
        dsn = self.create(migrated=migrated)
        try:
            yield dsn
        finally:
            self.drop(dsn)

    def close(self) -> None:
        """Drop the template and every database that is left."""
        for name in sorted(self._made):
            self._drop(name)

    def _ensure_template(self) -> str:
        if self._template is None:
            dsn = self.create(migrated=False)

            async def migrate() -> None:
                connection = await asyncpg.connect(dsn)
                try:
                    await apply_migrations(connection)
                finally:
                    await connection.close()

            _run(migrate)
            self._template = _name_in(dsn)
        return self._template

    def _drop(self, name: str) -> None:
        statement = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
        try:
            self._administer(statement)
        except asyncpg.ObjectInUseError:  # prepared transactions were left behind
            self._roll_back_prepared(name)
            self._administer(statement)
        self._made.discard(name)

    def _roll_back_prepared(self, name: str) -> None:
        async def roll_back() -> None:
            connection = await asyncpg.connect(database_dsn(self._server_dsn, name))
            try:
                for row in await connection.fetch(_LIST_PREPARED):
                    with suppress(asyncpg.UndefinedObjectError):
                        await connection.execute(f"ROLLBACK PREPARED {row['quoted_gid']}")
            finally:
                await connection.close()

        _run(roll_back)

    def _administer(self, statement: str) -> None:
        async def administer() -> None:
            connection = await asyncpg.connect(self._server_dsn)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        _run(administer)


def database_dsn(server_dsn: str, name: str) -> str:
    """The address of another database on the same server."""
    return urlsplit(server_dsn)._replace(path=f"/{name}").geturl()


def _name_in(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


def _run(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run it in a loop of its own, in a thread of its own, because this thread may have a running loop already."""
    answers: list[Answer] = []
    failures: list[BaseException] = []

    async def whole() -> None:
        answers.append(await work())

    def target() -> None:
        try:
            asyncio.run(whole())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=target, name="headwater-test-database")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
