"""The database that a command looks into."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from headwater.errors import ConfigurationError

if TYPE_CHECKING:
    from headwater.postgres import Database

CONNECTIONS_MAX: Final = 2
"""A command works one thing off after the other."""


@asynccontextmanager
async def open_database() -> AsyncGenerator[Database]:
    """The database of the setting `postgres`, open and with the schema of this version.

    Raises:
        ConfigurationError: it is not set.
        MigrationNeeded: the schema is another; the message says what to run.
        StorageUnavailable: nobody answers there.
    """
    from headwater.config import load_settings
    from headwater.postgres import Database, require_current_schema

    settings = load_settings()
    dsn = settings.postgres
    if dsn is None:
        raise ConfigurationError(
            "which database? set HEADWATER_POSTGRES=postgresql://user:password@host:port/database, or `postgres` in headwater.yaml "
            "(an embedded one would be empty)"
        )
    async with Database(
        dsn,
        connections_max=CONNECTIONS_MAX,
        application_name="headwater command",
        schema=settings.log_schema,
        pooling=settings.postgres_pooling,
    ) as database:
        async with database.connection() as connection:
            await require_current_schema(connection)
        yield database
