"""Where the benchmarks run: servers of their own, or those that HEADWATER_POSTGRES and HEADWATER_KAFKA name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from headwater.config import load_settings
from headwater.embedded import EmbeddedPostgres, EmbeddedServers
from headwater.errors import UsageError
from headwater.postgres import Database, apply_migrations
from headwater.randomness import token_hex

NAME_PREFIX = "headwaterbench"
"""What databases and topics made here are called; whatever is called so may be dropped."""
NEIGHBOUR: Final = "headwater-bench-neighbour"
CONNECTIONS_MAX: Final = 600
"""What the embedded PostgreSQL allows here: six systems with 64 connections each, and some more."""


class Servers:
    """PostgreSQL and, where asked for, Kafka, with databases and topics that go when they are no longer needed."""

    def __init__(self, *, kafka: bool) -> None:
        self._settings = load_settings()
        self._wants_kafka = kafka
        self._stack = AsyncExitStack()
        self._embedded: EmbeddedServers | None = None
        self._template: str | None = None

    async def __aenter__(self) -> Self:
        postgres, kafka = self._settings.postgres is None, self._wants_kafka and self._settings.kafka is None
        if postgres or kafka:
            self._embedded = EmbeddedServers(postgres=postgres, kafka=kafka)
            if postgres:
                self._embedded.postgres = EmbeddedPostgres(settings={"max_connections": str(CONNECTIONS_MAX)})
            await self._stack.enter_async_context(self._embedded)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._template is not None:
                await self._administer(f'DROP DATABASE "{self._template}" WITH (FORCE)')
        finally:
            await self._stack.aclose()

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        if self._settings.kafka is not None:
            return self._settings.kafka
        assert self._embedded is not None
        assert self._embedded.kafka is not None, "the benchmark said that it needs Kafka"
        return self._embedded.kafka.bootstrap

    async def require_connections(self, connection_count: int) -> None:
        """Refuse a server that would run out of connections in the middle of a measurement."""
        allowed = int(await self._administer("SELECT current_setting('max_connections')"))
        if allowed < connection_count:
            raise UsageError(
                f"this PostgreSQL allows {allowed} connections and the benchmark opens {connection_count}: "
                f"set max_connections={connection_count} there, or unset HEADWATER_POSTGRES"
            )

    @asynccontextmanager
    async def database(self, *, connections_max: int = 4) -> AsyncGenerator[Database]:
        """A fresh, migrated database, open; dropped at the end."""
        name = _new_name()
        await self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{await self._migrated_template()}"')
        try:
            async with Database(self._dsn(name), connections_max=connections_max) as database:
                yield database
        finally:
            await self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def _migrated_template(self) -> str:
        """Migrated once and then copied, which takes a fraction of the time."""
        if self._template is None:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                _require_durable(setting, str(await self._administer(f"SELECT current_setting('{setting}')")))
            template = _new_name()
            await self._administer(f'CREATE DATABASE "{template}" TEMPLATE template0')
            self._template = template
            async with Database(self._dsn(template)) as database, database.connection() as connection:
                await apply_migrations(connection)
        return self._template

    async def _administer(self, statement: str) -> Any:
        connection = await asyncpg.connect(self._postgres)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def _dsn(self, name: str) -> str:
        return urlsplit(self._postgres)._replace(path=f"/{name}").geturl()

    @asynccontextmanager
    async def topics(self, names: Sequence[str]) -> AsyncGenerator[None]:
        """Drop these topics at the end, whoever created them."""
        try:
            yield
        finally:
            administrator = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await administrator.start()
            try:
                await administrator.delete_topics(list(names))
            finally:
                await administrator.close()

    @property
    def _postgres(self) -> str:
        if self._settings.postgres is not None:
            return self._settings.postgres
        assert self._embedded is not None
        assert self._embedded.postgres is not None
        return self._embedded.postgres.dsn


async def neighbour_connection(database: Database, stack: AsyncExitStack) -> asyncpg.Connection[asyncpg.Record]:
    """A connection for what Headwater is compared with, or for a look at what it did; no count takes it for one of Headwater's."""
    connection = await database.connect()
    stack.push_async_callback(connection.close)
    await connection.execute(f"SET application_name TO '{NEIGHBOUR}'")
    return connection


def new_category() -> str:
    """A category, and so a topic, that nobody else uses."""
    return f"{NAME_PREFIX}{token_hex(4)}"


def _new_name() -> str:
    return f"{NAME_PREFIX}_{token_hex(6)}"


def _require_durable(setting: str, value: str) -> None:
    """Refuse a server whose commits may be lost: its rates would not compare with anything."""
    if value in ("off", "local"):
        raise UsageError(f"{setting}={value} on this PostgreSQL; benchmarks commit durably: set {setting}=on, or unset HEADWATER_POSTGRES")
