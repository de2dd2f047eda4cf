"""Schema ids from a table in the service's database."""

from __future__ import annotations

from typing import Final

from headwater.postgres import Connection, Database, sql_file
from headwater.schemas.store import RegisteredSchema, candidate_ids, fingerprint_of, no_id_left

_PACKAGE: Final = "headwater.schemas"
_LOCK_SCHEMAS = sql_file(_PACKAGE, "lock_schemas")
_INSERT_SCHEMA = sql_file(_PACKAGE, "insert_schema")
_FIND_SCHEMA_ID = sql_file(_PACKAGE, "find_schema_id")
_INSERT_VERSION = sql_file(_PACKAGE, "insert_version")
_READ_VERSION = sql_file(_PACKAGE, "read_version")
_READ_SCHEMA = sql_file(_PACKAGE, "read_schema")


class PostgresSchemas:
    """A `SchemaRegistry` over a `Database` that somebody else opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, subject: str, schema_text: str) -> RegisteredSchema:
        """The schema with its id; see `SchemaRegistry.register`."""
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK_SCHEMAS)
            schema_id = await _schema_id(connection, subject, schema_text)
            await connection.execute(_INSERT_VERSION, subject, schema_id)
            version = int(await connection.fetchval(_READ_VERSION, subject, schema_id))
        return RegisteredSchema(schema_id, subject, version, schema_text)

    async def find(self, schema_id: int) -> str | None:
        """The text of the schema with this id; see `SchemaRegistry.find`."""
        async with self._database.connection() as connection:
            found: str | None = await connection.fetchval(_READ_SCHEMA, schema_id)
            return found


async def _schema_id(connection: Connection, subject: str, schema_text: str) -> int:
    fingerprint = fingerprint_of(schema_text)
    for candidate in candidate_ids(fingerprint):
        await connection.execute(_INSERT_SCHEMA, candidate, fingerprint, schema_text)
        if (schema_id := await connection.fetchval(_FIND_SCHEMA_ID, fingerprint)) is not None:
            return int(schema_id)
    raise no_id_left(subject)
